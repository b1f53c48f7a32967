"""Steps in, scores out: the Detector protocol and the detector that reads with a cut transformer."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from lec_guard.detect.bundle import EMBEDDED, OnnxBase, read_bundle
from lec_guard.detect.extractor import Extractor
from lec_guard.detect.heads import HeadStack, Matrix
from lec_guard.detect.windows import Window
from lec_guard.errors import BundleError
from lec_guard.step import Scores, Span, Step

BackendName = Literal["torch-fp32", "torch-bf16", "onnx-fp32", "onnx-int8", "auto"]

TOKEN_BUDGET = 262_144
"""Tokens of one text that a detector reads by default: about a megabyte of English."""

READING = "reading"
"""The head of what the tokenizer could not see; it comes with every detector and is not fitted."""

UNKNOWN_TOKENS = "unknown_tokens"
"""Its label: the share of a text's tokens that stand for something unknown."""

_POOL = 256
"""Windows, of however many texts, that wait for the model together: it bounds memory."""


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
            lets no such text pass. None reads any length.

    Raises:
        BundleError: If extractor and heads don't fit, or a head has the name `reading`.
    """

    def __init__(
        self, extractor: Extractor, heads: HeadStack, detector_id: str, *, budget: int | None = TOKEN_BUDGET
    ) -> None:
        width = extractor.backend.width
        if heads.weight.shape[0] != width:
            raise BundleError(
                f"the heads of {detector_id} read {heads.weight.shape[0]} features, but the extractor gives {width}"
            )
        if READING in heads.labels:
            raise BundleError(f"{detector_id}: the name {READING!r} is taken; give the head another")
        self._extractor = extractor
        self._heads = heads
        self.detector_id = detector_id
        self._budget = budget

    @classmethod
    def load(
        cls,
        source: str | Path | None = None,
        *,
        backend: BackendName | None = None,
        budget: int | None = TOKEN_BUDGET,
    ) -> LayerDetector:
        """Load a bundle and the base weights it names; nothing is ever downloaded.

        Args:
            source: The bundle's folder; None takes the embedded one.
            backend: What to run on. `onnx-…` exports the model to a private cache on first use. `auto`
                measures the installed ones once and takes the fastest whose scores hold their tolerance.
                None: `torch-fp32`, or for an exported bundle what it was exported for.
            budget: Tokens of one text beyond which it is not read; None reads any length.

        Returns:
            A detector that is ready to score.

        Raises:
            BundleError: If bundle or weights are missing, altered, or not made for each other.
            DetectorError: If the base model can't be cut.
        """
        bundle = read_bundle(EMBEDDED if source is None else Path(source))
        spec = bundle.spec
        if isinstance(spec.base, OnnxBase):
            if backend not in (None, f"onnx-{spec.base.dtype}"):
                raise BundleError(f"{bundle.folder}: was exported for onnx-{spec.base.dtype}, not for {backend}")
            exported = Extractor.load_onnx(
                bundle.base_folder(), spec.base, window=bundle.window, extractor_id=spec.extractor_id
            )
            return cls(exported, bundle.heads, bundle.detector_id, budget=budget)
        if backend == "auto":
            # Imported here, because it needs what only some backends need.
            from lec_guard.detect.auto import fastest

            backend = fastest(bundle)
        if backend == "onnx-fp32" or backend == "onnx-int8":
            from lec_guard.detect.export import cached_export

            return cls.load(cached_export(bundle, "int8" if backend == "onnx-int8" else "fp32"), budget=budget)
        extractor = Extractor.load(
            bundle.base_folder(),
            blocks=bundle.blocks,
            window=bundle.window,
            dtype="bf16" if backend == "torch-bf16" else "fp32",
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
        return {**self._heads.labels, READING: (UNKNOWN_TOKENS,)}

    def score(self, steps: Sequence[Step]) -> list[Scores]:
        """Score steps; the same text is read once, however many steps have it.

        The heads of this detector read the text alone, so `context_read` is False.

        Args:
            steps: The steps; may be empty.

        Returns:
            One `Scores` a step, in order.
        """
        texts = {step.text: _Reading() for step in steps}
        pool: list[tuple[_Reading, Window]] = []
        for text, reading in texts.items():
            if self._budget is not None and self._extractor.windower.too_long(text, self._budget):
                reading.unread = f"the text has more than {self._budget} tokens, the budget of a step"
                continue
            for window in self._extractor.windower.windows(text):
                pool.append((reading, window))
                if len(pool) == _POOL:
                    self._read(pool)
                    pool = []
        self._read(pool)
        scores = {text: self._scores(text, reading) for text, reading in texts.items()}
        return [scores[step.text] for step in steps]

    def _read(self, pool: list[tuple[_Reading, Window]]) -> None:
        if not pool:
            return
        logits = self._heads.logits(self._extractor.features([window for _, window in pool]))
        for (reading, window), row in zip(pool, logits, strict=True):
            reading.add(window, row)

    def _scores(self, text: str, reading: _Reading) -> Scores:
        by_head: dict[str, dict[str, float]] = {}
        spans: tuple[Span, ...] = ()
        unread = reading.unread
        if reading.windows:
            logits = reading.logits(self._heads.weight.shape[1])
            as_meant = np.frombuffer(reading.as_meant, dtype=np.int8) == 1
            views = [self._heads.text_scores(logits[view]) for view in (~as_meant, as_meant) if view.any()]
            for name, labels in self._heads.labels.items():
                # Of the text as it is and as it is meant, the one that the head finds worse.
                worst = max((view[name] for view in views), key=max)
                by_head[name] = dict(zip(labels, worst.tolist(), strict=True))
            tokens = reading.tokens - self._extractor.windower.special * int((~as_meant).sum())
            by_head[READING] = {UNKNOWN_TOKENS: reading.unknown / tokens if tokens else 0.0}
            spans = tuple(self._spans(reading, logits))
        elif unread is None and text and not text.isspace():
            unread = "the text has characters but no token that the model can read"
        elif unread is None:
            by_head = {name: dict.fromkeys(labels, 0.0) for name, labels in self.labels.items()}
        return Scores(
            by_head=by_head,
            spans=spans,
            windows=reading.windows,
            unread=unread,
            detector_id=self.detector_id,
            backend=self._extractor.backend.name,
        )

    def _spans(self, reading: _Reading, logits: Matrix) -> Iterator[Span]:
        """Each head's highest window."""
        for name, values in self._heads.window_scores(logits).items():
            window, label = np.unravel_index(int(values.argmax()), values.shape)
            yield Span(
                start=reading.starts[window],
                end=reading.ends[window],
                head=name,
                label=self._heads.labels[name][label],
                score=float(values[window, label]),
            )


class _Reading:
    """What is known of a text from its windows so far; a few dozen bytes a window."""

    def __init__(self) -> None:
        self.unread: str | None = None
        self.windows = self.unknown = self.tokens = 0
        self.starts, self.ends = array("q"), array("q")
        self.as_meant = array("b")
        self._logits = array("f")

    def add(self, window: Window, logits: Matrix) -> None:
        self.windows += 1
        self.starts.append(window.start)
        self.ends.append(window.end)
        self.as_meant.append(window.as_meant)
        self._logits.frombytes(logits.tobytes())
        if not window.as_meant:
            self.unknown += window.unknown
            self.tokens += len(window.ids)

    def logits(self, columns: int) -> Matrix:
        return np.frombuffer(self._logits, dtype=np.float32).reshape(-1, columns)
