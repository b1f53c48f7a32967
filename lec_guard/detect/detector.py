"""Steps in, scores out: the Detector protocol and the detector that reads with a cut transformer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from lec_guard.detect.bundle import EMBEDDED, read_bundle
from lec_guard.detect.heads import HeadStack, Matrix
from lec_guard.errors import BundleError
from lec_guard.step import Scores, Span, Step

if TYPE_CHECKING:
    from lec_guard.detect.extractor import Extractor
    from lec_guard.detect.windows import Reading, Window

TOKEN_BUDGET = 262_144
"""Tokens of one text that a detector reads by default: about a megabyte of English."""

_GROUP_TEXTS, _GROUP_CHARACTERS = 256, 1 << 20
"""What is tokenised and scored together, at most (but always one text): it bounds memory, not what is read."""


class Detector(Protocol):
    """Anything that scores steps. One object is shared by all threads and tenants."""

    @property
    def labels(self) -> Mapping[str, tuple[str, ...]]:
        """Head name -> the labels that it can raise; policies are checked against it at load."""
        ...

    def score(self, steps: Sequence[Step]) -> list[Scores]:
        """Score steps.

        Args:
            steps: The steps; may be empty.

        Returns:
            One `Scores` a step, in order.
        """
        ...


class LayerDetector:
    """A cut transformer with its heads: one forward pass, all scores. Safe to share between threads.

    Args:
        extractor: Turns texts into features.
        heads: Turn features into scores.
        detector_id: Name and content hash, as verdicts show it.
        budget: Tokens of one text beyond which it is not read; the scores then say so, and a guard
            lets no such text pass.
    """

    def __init__(self, extractor: Extractor, heads: HeadStack, detector_id: str, *, budget: int = TOKEN_BUDGET) -> None:
        if heads.weight.shape[0] != extractor.width:
            raise BundleError(
                f"the heads of {detector_id} read {heads.weight.shape[0]} features, "
                f"but the extractor gives {extractor.width}"
            )
        self._extractor = extractor
        self._heads = heads
        self.detector_id = detector_id
        self._budget = budget

    @classmethod
    def load(cls, source: str | Path | None = None, *, budget: int = TOKEN_BUDGET) -> LayerDetector:
        """Load a bundle and the base weights it names; nothing is ever downloaded.

        Args:
            source: The bundle's folder; None takes the embedded one.
            budget: Tokens of one text beyond which it is not read.

        Returns:
            A detector that is ready to score.

        Raises:
            BundleError: If bundle or weights are missing, altered, or not made for each other.
            DetectorError: If the base model can't be cut.
        """
        # Imported here, because torch and transformers take seconds and a help page needs neither.
        from lec_guard.detect.extractor import Extractor
        from lec_guard.detect.windows import WindowSpec

        bundle = read_bundle(EMBEDDED if source is None else Path(source))
        spec = bundle.spec
        extractor = Extractor.load(
            bundle.base_folder(),
            layers=spec.layers,
            pooling=spec.pooling,
            window=WindowSpec(size=spec.window.size, stride=spec.window.stride),
        )
        if extractor.extractor_id != spec.extractor_id:
            raise BundleError(
                f"{bundle.folder}: the heads were fitted on extractor {spec.extractor_id[:16]}…, but these weights, "
                f"layers, pooling and windows make {extractor.extractor_id[:16]}…; fit the heads again"
            )
        return cls(extractor, bundle.heads, bundle.detector_id, budget=budget)

    @property
    def labels(self) -> Mapping[str, tuple[str, ...]]:
        """Head name -> the labels that it can raise."""
        return self._heads.labels

    def score(self, steps: Sequence[Step]) -> list[Scores]:
        """Score steps; the same text is read once, however many steps have it.

        The heads of this detector read the text alone, so `context_read` is False.

        Args:
            steps: The steps; may be empty.

        Returns:
            One `Scores` a step, in order.
        """
        texts = list(dict.fromkeys(step.text for step in steps))
        scores: dict[str, Scores] = {}
        for group in _groups(texts):
            scores.update(zip(group, self._score(group), strict=True))
        return [scores[step.text] for step in steps]

    def _score(self, texts: list[str]) -> Iterator[Scores]:
        readings = self._extractor.read(texts, self._budget)
        windows = [window for reading in readings for window in reading.windows]
        columns = self._heads.weight.shape[1]
        logits = (
            self._heads.logits(self._extractor.features(windows))
            if windows
            else np.empty((0, columns), dtype=np.float32)
        )
        at = 0
        for reading in readings:
            own = logits[at : at + len(reading.windows)]
            at += len(reading.windows)
            yield self._scores(reading, own)

    def _scores(self, reading: Reading, logits: Matrix) -> Scores:
        by_head: dict[str, dict[str, float]] = {}
        if reading.windows:
            for name, values in self._heads.text_scores(logits).items():
                by_head[name] = dict(zip(self.labels[name], values.tolist(), strict=True))
        elif reading.unread is None:
            by_head = {name: dict.fromkeys(labels, 0.0) for name, labels in self.labels.items()}
        return Scores(
            by_head=by_head,
            spans=tuple(self._spans(reading.windows, logits)),
            windows=len(reading.windows),
            unread=reading.unread,
            detector_id=self.detector_id,
            backend=self._extractor.backend,
        )

    def _spans(self, windows: list[Window], logits: Matrix) -> Iterator[Span]:
        """Each head's highest window."""
        if not windows:
            return
        for name, values in self._heads.window_scores(logits).items():
            window, label = np.unravel_index(int(values.argmax()), values.shape)
            yield Span(
                start=windows[window].start,
                end=windows[window].end,
                head=name,
                label=self.labels[name][label],
                score=float(values[window, label]),
            )


def _groups(texts: list[str]) -> Iterator[list[str]]:
    group: list[str] = []
    characters = 0
    for text in texts:
        if group and (len(group) == _GROUP_TEXTS or characters + len(text) > _GROUP_CHARACTERS):
            yield group
            group, characters = [], 0
        group.append(text)
        characters += len(text)
    if group:
        yield group
