"""Several detectors as one."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

from lec_guard.detect.batcher import Batcher
from lec_guard.detect.detector import Detector, Growing, GrowingText, Measured, heat_of, in_text_order
from lec_guard.detect.heads import HeadSpec
from lec_guard.detect.layer import LayerDetector
from lec_guard.detect.submitting import checked
from lec_guard.errors import BundleError, DetectorError
from lec_guard.step import Scores, Span, Step


class CompositeDetector:
    """Detectors side by side: each reads every step, and a step's scores are those of all of them.

    What one of them could not read is unread, and where one of them fails, so does the call: nothing passes that was
    not looked at by all. It is as safe to share between threads as they are. A `Batcher` can stand around it, or
    around one of them.

    Args:
        *detectors: The detectors. Of a text's windows the first's are told that has any, so a detector with heads that
            were fitted comes first.

    Raises:
        DetectorError: If there is none, or two of them have a head of one name.
    """

    def __init__(self, *detectors: Detector) -> None:
        if not detectors:
            raise DetectorError("CompositeDetector has no detectors; give it one or more")
        labels: dict[str, tuple[str, ...]] = {}
        for one in detectors:
            for head, own in one.labels.items():
                if head in labels:
                    raise DetectorError(
                        f"two detectors have a head {head!r}, the second of them {_name(one)}; rules could not tell "
                        "which they read"
                    )
                labels[head] = tuple(own)
        self._detectors = detectors
        self._labels = labels

    @property
    def detectors(self) -> tuple[Detector, ...]:
        """The detectors, in their order."""
        return self._detectors

    @property
    def labels(self) -> Mapping[str, tuple[str, ...]]:
        """Head name -> the labels that it can raise, of all detectors."""
        return self._labels

    @property
    def heads(self) -> tuple[HeadSpec, ...]:
        """What the fitted heads of those detectors are that know."""
        return tuple(spec for one in self._detectors if isinstance(one, Measured) for spec in one.heads)

    @property
    def detector_id(self) -> str:
        """Names and content hashes of all detectors; of one that has none, the name of its class."""
        return "+".join(map(_name, self._detectors))

    @property
    def window_tokens(self) -> int | None:
        """Tokens that any of them reads at once, at most; None where none says so."""
        found = (getattr(one, "window_tokens", None) for one in self._detectors)
        return max((int(tokens) for tokens in found if tokens is not None), default=None)

    def score(self, steps: Sequence[Step], *, keys: Sequence[Hashable] | None = None) -> list[Scores]:
        """Score steps; each detector is asked once for all of them.

        Args:
            steps: The steps; may be empty.
            keys: Whose each step is; every detector is told.

        Returns:
            One `Scores` a step, in order.

        Raises:
            DetectorError: If a detector fails, or gives something else than one `Scores` a step.
            ValueError: If there are not as many keys as steps, and a detector minds.
        """
        given = [checked(one.score(steps, keys=keys), len(steps)) for one in self._detectors]
        return [together(parts) for parts in zip(*given, strict=True)]

    def heat(self, step: Step) -> list[Span]:
        """How high each part of a text scores, as far as the detectors tell; of the others, what they find.

        Args:
            step: The step.

        Returns:
            The parts of all detectors in the order of the text; they may overlap.

        Raises:
            DetectorError: If one of them can't read part of the step, or fails.
        """
        return in_text_order(span for one in self._detectors for span in heat_of(one, step))

    def begin(self, step: Step, *, key: Hashable = None, hold_back: int) -> GrowingText | None:
        """Begin a text that all detectors read while it comes; see `Growing.begin`.

        Args:
            step: As there.
            key: As there.
            hold_back: As there.

        Returns:
            The text; None where one of the detectors can't read it so.
        """
        texts: list[GrowingText] = []
        for one in self._detectors:
            text = one.begin(step, key=key, hold_back=hold_back) if isinstance(one, Growing) else None
            if text is None:
                return None
            texts.append(text)
        return _Texts(texts)

    def with_heads(self, bundle_folder: str | Path, *, detector_id: str | None = None) -> CompositeDetector:
        """The heads of a bundle beside those of the first detector that takes any; the others are shared.

        Args:
            bundle_folder: See `LayerDetector.with_heads`.
            detector_id: Name and content hash that the bundle must have; None takes any.

        Returns:
            Another composite.

        Raises:
            BundleError: If no detector takes heads, the bundle's don't fit, or another detector has one of that name.
        """
        at = next((at for at, one in enumerate(self._detectors) if layer_of(one) is not None), None)
        if at is None:
            raise BundleError(
                f"{bundle_folder}: its heads can't stand beside {self.detector_id}: only a LayerDetector takes heads; "
                "load the bundle by itself"
            )
        one = self._detectors[at]
        try:
            return CompositeDetector(
                *self._detectors[:at], _more(one, bundle_folder, detector_id), *self._detectors[at + 1 :]
            )
        except DetectorError as error:
            raise BundleError(f"{bundle_folder}: can't be added to {self.detector_id}: {error}") from error

    def close(self) -> None:
        """Close all detectors that have a `close`, also where one of them fails to; its error is raised in the end."""
        failure: BaseException | None = None
        for one in self._detectors:
            close = getattr(one, "close", None)
            try:
                if close is not None:
                    close()
            except BaseException as error:  # noqa: BLE001 - raised below; with several, the first
                failure = failure or error
        if failure is not None:
            raise failure


def layer_of(detector: Detector) -> LayerDetector | None:
    """The detector that takes heads, within batchers and composites.

    Args:
        detector: Any detector.

    Returns:
        The first one, or None where there is none.
    """
    if isinstance(detector, LayerDetector):
        return detector
    inside = (
        detector.detectors
        if isinstance(detector, CompositeDetector)
        else (detector.detector,)
        if isinstance(detector, Batcher)
        else ()
    )
    return next((found for one in inside if (found := layer_of(one)) is not None), None)


def _more(detector: Detector, bundle_folder: str | Path, detector_id: str | None) -> Detector:
    if isinstance(detector, Batcher):
        return detector.around(_more(detector.detector, bundle_folder, detector_id))
    if isinstance(detector, LayerDetector | CompositeDetector):
        return detector.with_heads(bundle_folder, detector_id=detector_id)
    raise BundleError(f"{bundle_folder}: its heads can't stand beside {_name(detector)}")


def _name(detector: Detector) -> str:
    return str(getattr(detector, "detector_id", None) or type(detector).__name__)


class _Texts:
    """One text, as each of several detectors reads it."""

    def __init__(self, texts: Sequence[GrowingText]) -> None:
        self._texts = texts
        # What each said when it was last asked; None where it is to be asked again.
        self._said: list[Scores | None] = [None] * len(texts)
        self.passed = 0

    def add(self, text: str) -> bool:
        """See `GrowingText.add`."""
        ready = [one.add(text) for one in self._texts]
        # One that looks often must not make the others do so.
        self._said = [None if is_ready else said for is_ready, said in zip(ready, self._said, strict=True)]
        return any(ready)

    def scores(self) -> Scores:
        """See `GrowingText.scores`."""
        self._said = [one.scores() if said is None else said for one, said in zip(self._texts, self._said, strict=True)]
        self.passed = min(one.passed for one in self._texts)
        return together([said for said in self._said if said is not None])

    def finish(self, step: Step) -> Scores:
        """See `GrowingText.finish`."""
        return together([one.finish(step) for one in self._texts])


def together(parts: Sequence[Scores]) -> Scores:
    """What several detectors say of one step.

    Args:
        parts: What each says, at least one.

    Returns:
        The scores of all; unread where one of them could not read it.
    """
    by_head: dict[str, Mapping[str, float]] = {}
    spans: list[Span] = []
    for one in parts:
        by_head |= one.by_head
        spans += one.spans
    unread = [one for one in parts if one.unread is not None]
    # A text over a budget may be let pass by a policy, one that can't be read may not; so the latter is told first.
    reason = next((one for one in unread if not one.over_budget), unread[0] if unread else None)
    return Scores(
        by_head=by_head,
        spans=tuple(spans),
        windows=next((one.windows for one in parts if one.windows), 0),
        context_read=any(one.context_read for one in parts),
        unread=None if reason is None else reason.unread,
        over_budget=reason is not None and reason.over_budget,
        detector_id="+".join(one.detector_id for one in parts),
        backend="+".join(one.backend for one in parts),
    )
