"""Detectors whose scores are stated, that fail, that are slow, or that tell what they were shown."""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lec_guard.detect.composite import CompositeDetector
from lec_guard.detect.detector import Detector
from lec_guard.errors import DetectorError
from lec_guard.step import Scores, Span, Step

MOST_FOUND = 1000
"""Spans that a `KeywordDetector` gives of one text at most."""


class KeywordDetector:
    """A detector that scores by substrings: 1.0 where a text holds one, else 0.0. Each of them is a span.

    Args:
        heads: Head -> label -> the words (in lower case) that raise it.

    Attributes:
        detector_id: What verdicts name as the detector.
        seen: Every step that was scored, in order.
    """

    detector_id = "keywords"

    def __init__(self, heads: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
        self._heads = heads
        self.seen: list[Step] = []

    @property
    def labels(self) -> Mapping[str, tuple[str, ...]]:
        """Head name -> the labels that it can raise."""
        return {head: tuple(labels) for head, labels in self._heads.items()}

    def score(
        self,
        steps: Sequence[Step],
        *,
        keys: Sequence[Hashable] | None = None,  # noqa: ARG002 - it keeps nothing between calls
    ) -> list[Scores]:
        """Score steps.

        Args:
            steps: The steps.
            keys: Whose each step is.

        Returns:
            One `Scores` a step, in order. Their spans are the words that are found, head by head, label by label and
            word by word, each in the order of the text; `MOST_FOUND` of them at most.
        """
        self.seen.extend(steps)
        return [self.scored(step.text) for step in steps]

    def begin(self, step: Step, *, key: Hashable = None, hold_back: int) -> KeywordText:  # noqa: ARG002 - see `score`
        """Begin a text that is read while it comes; see `lec_guard.detect.detector.Growing`.

        A window is as long as the longest word, and a token of what is held back is a character.

        Args:
            step: Not used.
            key: Not used.
            hold_back: Characters that are to follow one before it passes.

        Returns:
            The text, with nothing in it.
        """
        longest = max(
            (len(word) for labels in self._heads.values() for ws in labels.values() for word in ws), default=1
        )
        return KeywordText(self, longest, hold_back)

    def scored(self, text: str, before: Scores | None = None, at: int = 0) -> Scores:
        """Score a text, or a part that follows others.

        Args:
            text: The text.
            before: What was said of the parts before it.
            at: Where in the whole text the part begins.

        Returns:
            The scores of both.
        """
        lower = text.lower()
        spans = () if before is None else before.spans
        found = (replace(span, start=span.start + at, end=span.end + at) for span in self._found(text))
        new = (span for span in found if span not in spans)
        return Scores(
            by_head={
                head: {
                    label: max(
                        float(any(word in lower for word in words)),
                        0.0 if before is None else before.by_head[head][label],
                    )
                    for label, words in labels.items()
                }
                for head, labels in self._heads.items()
            },
            spans=(*spans, *itertools.islice(new, MOST_FOUND - len(spans))),
            detector_id=self.detector_id,
            backend="python",
        )

    def _found(self, text: str) -> Iterator[Span]:
        lower = text.lower()
        # Where each character of the lower case comes from: it may have more of them.
        origin = range(len(text)) if len(lower) == len(text) else [at for at, c in enumerate(text) for _ in c.lower()]
        for head, labels in self._heads.items():
            for label, words in labels.items():
                for word in filter(None, words):
                    for found in re.finditer(re.escape(word), lower):
                        start, end = origin[found.start()], origin[found.end() - 1] + 1
                        yield Span(start=start, end=end, head=head, label=label, score=1.0)


class KeywordText:
    """A text that a `KeywordDetector` reads while it comes; see `lec_guard.detect.detector.GrowingText`.

    Args:
        detector: What scores it.
        longest: Characters of its longest word.
        hold_back: Characters that are to follow one before it passes.

    Attributes:
        passed: How many characters from the start may pass.
    """

    def __init__(self, detector: KeywordDetector, longest: int, hold_back: int) -> None:
        self._detector = detector
        self._longest = longest
        self._hold_back = max(hold_back, longest)
        self._text, self._from = "", 0
        self._so_far = detector.scored("")
        self.passed = 0

    def add(self, text: str) -> bool:
        """Take what follows.

        Args:
            text: What follows.

        Returns:
            Whether there is any.
        """
        self._text += text
        return bool(text)

    def scores(self) -> Scores:
        """Score the text so far.

        Returns:
            What `KeywordDetector.score` says of it.
        """
        self._so_far = self._detector.scored(self._text, self._so_far, self._from)
        end = self._from + len(self._text)
        self.passed = max(self.passed, end - self._hold_back)
        kept = min(len(self._text), 2 * self._longest)
        self._text, self._from = self._text[len(self._text) - kept :], end - kept
        return self._so_far

    def finish(self, step: Step) -> Scores:
        """Score the whole text.

        Args:
            step: The step.

        Returns:
            What `KeywordDetector.score` says of it.
        """
        return self._detector.score([step])[0]


class StatedDetector:
    """A detector whose scores are stated, text by text; where a rule has to be shown a score between 0 and 1.

    Args:
        scores: Part of a text -> head -> label -> score. Of several parts that are found in a text, the highest score
            of each label counts; the others are 0.0. There are no spans.

    Attributes:
        detector_id: What verdicts name as the detector.
        seen: Every step that was scored, in order.

    Raises:
        DetectorError: If a score is not from 0 to 1.
    """

    detector_id = "stated"

    def __init__(self, scores: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
        for heads in scores.values():
            for head, labels in heads.items():
                for label, score in labels.items():
                    if not 0.0 <= score <= 1.0:
                        raise DetectorError(f"{head}.{label} is stated as {score}; a score is from 0 to 1")
        self._scores = scores
        self.seen: list[Step] = []

    @property
    def labels(self) -> Mapping[str, tuple[str, ...]]:
        """Head name -> the labels that it can raise: all that are stated of any text."""
        found: dict[str, dict[str, None]] = {}
        for heads in self._scores.values():
            for head, labels in heads.items():
                found.setdefault(head, {}).update(dict.fromkeys(labels))
        return {head: tuple(labels) for head, labels in found.items()}

    def score(
        self,
        steps: Sequence[Step],
        *,
        keys: Sequence[Hashable] | None = None,  # noqa: ARG002 - it keeps nothing between calls
    ) -> list[Scores]:
        """Score steps.

        Args:
            steps: The steps.
            keys: Whose each step is.

        Returns:
            One `Scores` a step, in order.
        """
        self.seen.extend(steps)
        return [Scores(by_head=self._of(step.text), detector_id=self.detector_id, backend="python") for step in steps]

    def _of(self, text: str) -> dict[str, dict[str, float]]:
        by_head = {head: dict.fromkeys(labels, 0.0) for head, labels in self.labels.items()}
        for part, heads in self._scores.items():
            if part in text:
                for head, labels in heads.items():
                    for label, score in labels.items():
                        by_head[head][label] = max(by_head[head][label], score)
        return by_head


class WatchedDetector(CompositeDetector):
    """Another detector, and every step that it was asked for, for `probe` and for assertions.

    Args:
        detector: The detector; its scores, heads and id are handed on.

    Attributes:
        seen: Every step that was to be scored, in order; told before it is.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__(detector)
        self.seen: list[Step] = []

    def score(self, steps: Sequence[Step], *, keys: Sequence[Hashable] | None = None) -> list[Scores]:
        """Score steps with the other detector; see `Detector.score`.

        Args:
            steps: The steps.
            keys: Whose each step is.

        Returns:
            One `Scores` a step, in order.

        Raises:
            DetectorError: If the detector fails.
        """
        self.seen.extend(steps)
        return super().score(steps, keys=keys)

    def with_heads(self, bundle_folder: str | Path, *, detector_id: str | None = None) -> WatchedDetector:
        """The heads of a bundle beside those of the detector; what the new one is asked for is seen here, too.

        Args:
            bundle_folder: See `LayerDetector.with_heads`.
            detector_id: Name and content hash that the bundle must have; None takes any.

        Returns:
            Another detector.

        Raises:
            BundleError: If the detector takes no heads, or these don't fit.
        """
        more = WatchedDetector(super().with_heads(bundle_folder, detector_id=detector_id))
        more.seen = self.seen
        return more


class FailingDetector:
    """A detector that fails whenever it is asked, for what a policy's `fail` says of errors.

    Args:
        labels: Head name -> the labels that it would raise; policies are checked against it at load.
        error: What it raises; None for a `DetectorError`.

    Attributes:
        asked: How many steps it was asked for.
    """

    detector_id = "failing"

    def __init__(self, labels: Mapping[str, Sequence[str]], error: Exception | None = None) -> None:
        self.labels = {head: tuple(own) for head, own in labels.items()}
        self._error = error or DetectorError("this detector always fails")
        self.asked = 0

    def score(
        self,
        steps: Sequence[Step],
        *,
        keys: Sequence[Hashable] | None = None,  # noqa: ARG002 - it answers nobody
    ) -> list[Scores]:
        """Fail.

        Args:
            steps: The steps.
            keys: Whose each step is.

        Returns:
            Nothing, ever, but for no steps.

        Raises:
            Exception: What was given.
        """
        if not steps:
            return []
        self.asked += len(steps)
        raise self._error


class SlowDetector:
    """Another detector that answers late, for what a policy's `fail` says of time.

    Args:
        detector: What scores in the end.
        seconds: How long each call waits before that, unless it is released.
    """

    def __init__(self, detector: Detector, seconds: float) -> None:
        self._detector = detector
        self._seconds = seconds
        self._released = threading.Event()

    @property
    def labels(self) -> Mapping[str, tuple[str, ...]]:
        """Those of the detector."""
        return self._detector.labels

    @property
    def detector_id(self) -> str:
        """That of the detector."""
        return str(getattr(self._detector, "detector_id", type(self._detector).__name__))

    def score(self, steps: Sequence[Step], *, keys: Sequence[Hashable] | None = None) -> list[Scores]:
        """Wait, and then score steps.

        Args:
            steps: The steps.
            keys: Whose each step is.

        Returns:
            One `Scores` a step, in order.

        Raises:
            DetectorError: If the detector fails.
        """
        if steps:
            self._released.wait(self._seconds)
        return self._detector.score(steps, keys=keys)

    def release(self) -> None:
        """Let all calls go on at once, those to come as well, so that no test has to wait for the last of them."""
        self._released.set()
