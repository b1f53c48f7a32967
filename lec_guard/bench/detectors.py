"""The detectors that are measured, and the only places where the measurement reaches into one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
from tokenizers import Encoding, Tokenizer

from lec_guard.bench.report import DetectorInfo, Skipped
from lec_guard.detect.bundle import EMBEDDED, Bundle, read_bundle
from lec_guard.detect.extractor import Backend, Features, Tokens
from lec_guard.detect.heads import HeadSpec, HeadStack
from lec_guard.detect.layer import BackendName, LayerDetector
from lec_guard.detect.windows import Window
from lec_guard.errors import BundleError
from lec_guard.step import Step

AUTO = "auto"

_ONE_BY_ONE = "onnx-int8"
"""The backend that runs each window of a batch in a pass of its own, without padding."""

_EXTRA_HEAD = "one-more"


@dataclass(frozen=True, slots=True)
class Pass:
    """A forward pass.

    Attributes:
        batch: Windows in it.
        tokens: Tokens of each, with padding.
    """

    batch: int
    tokens: int


@dataclass(slots=True)
class Watch:
    """What a detector's model and tokenizer were seen to do.

    Attributes:
        seconds: Time in forward passes.
        tokenizing: Seconds in the tokenizer.
        passes: Their shapes.
        read: Tokens that are not padding.
    """

    seconds: float = 0.0
    tokenizing: float = 0.0
    passes: list[Pass] = field(default_factory=list)
    read: int = 0


@dataclass(frozen=True, slots=True)
class Split:
    """A call of the detector, taken apart.

    Attributes:
        total: Seconds of the call.
        forward: Seconds of it in forward passes.
        tokenizer: Seconds of it in the tokenizer.
    """

    total: float
    forward: float
    tokenizer: float

    @property
    def own(self) -> float:
        """Seconds in our own code."""
        return self.total - self.forward - self.tokenizer


class Detectors:
    """A bundle's detectors on all backends that run here; each is loaded when it is first asked for.

    Args:
        source: The bundle's folder; None takes the embedded one.

    Attributes:
        source: The same.
        bundle: What lies there.
        skipped: What turned out not to be measurable here, so far.

    Raises:
        BundleError: If the bundle can't be read.
    """

    def __init__(self, source: Path | None = None) -> None:
        self.source = source
        self.bundle: Bundle = read_bundle(EMBEDDED if source is None else source)
        self.skipped: list[Skipped] = []
        self._loaded: dict[str, LayerDetector | None] = {}

    @cached_property
    def shipped(self) -> LayerDetector:
        """The detector as it is loaded unless told otherwise."""
        return LayerDetector.load(self.source)

    @property
    def auto(self) -> LayerDetector | None:
        """The detector on the backend that `auto` chooses; None where there is nothing to choose from."""
        if AUTO not in self._loaded:
            self._loaded[AUTO] = self._load("auto")
        return self._loaded[AUTO]

    def on(self, backend: BackendName) -> LayerDetector | None:
        """The detector on a backend.

        Args:
            backend: A backend's name, not `auto`.

        Returns:
            The detector, the same one each time; None where it can't run here, and then `skipped` says why.
        """
        if backend not in self._loaded:
            shipped = backend == backend_of(self.shipped)
            self._loaded[backend] = self.shipped if shipped else self._load(backend)
        return self._loaded[backend]

    def all(self) -> dict[str, LayerDetector]:
        """Backend -> the detector on it, for those that run here."""
        found = {name: self.on(name) for name in get_args(BackendName) if name != AUTO}
        return {name: detector for name, detector in found.items() if detector is not None}

    def skip(self, part: str, what: str, why: str, *, failed: bool = False) -> None:
        """Note that something is not measured.

        Args:
            part: The part of the measurement.
            what: What is left out.
            why: Why.
            failed: Whether it should have worked here.
        """
        self.skipped.append(Skipped(part=part, what=what, why=why, failed=failed))

    def info(self) -> DetectorInfo:
        """What is measured; auto's choice is named if it was asked for."""
        auto = self._loaded.get(AUTO)
        return DetectorInfo(
            detector_id=self.bundle.detector_id,
            shipped=backend_of(self.shipped),
            auto=None if auto is None else backend_of(auto),
        )

    def _load(self, name: BackendName) -> LayerDetector | None:
        try:
            return LayerDetector.load(self.source, backend=name)
        except BundleError as error:
            self.skip("detector", f"the backend {name}", str(error))
            return None


def backend_of(detector: LayerDetector) -> str:
    """What a detector runs on.

    Args:
        detector: The detector.

    Returns:
        A backend's name, as verdicts show it.
    """
    return detector.score([step("a")])[0].backend


def step(text: str, context: str | None = None) -> Step:
    """A text as a user's message.

    Args:
        text: The text.
        context: What it is judged against, if anything.

    Returns:
        The step.
    """
    return Step(stage="input", text=text, context=context)


@contextmanager
def watched(detector: LayerDetector) -> Iterator[Watch]:
    """Watch a detector's model and tokenizer; also where others share its extractor.

    Args:
        detector: The detector; nobody else may use it meanwhile.

    Yields:
        What is seen. Its owner may reset it.
    """
    watch = Watch()
    extractor = detector._extractor
    backend, tokenizer = extractor.backend, extractor.windower._tokenizer
    extractor.backend = cast("Backend", _WatchedBackend(backend, watch))
    extractor.windower._tokenizer = cast("Tokenizer", _WatchedTokenizer(tokenizer, watch))
    try:
        yield watch
    finally:
        extractor.backend, extractor.windower._tokenizer = backend, tokenizer


class _WatchedTokenizer:
    """A tokenizer that tells a watch what it does, and is otherwise the one that it wraps."""

    def __init__(self, tokenizer: Tokenizer, watch: Watch) -> None:
        self._tokenizer = tokenizer
        self._watch = watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def encode(self, text: str, *more: Any, **named: Any) -> Encoding:
        began = time.perf_counter()
        try:
            return self._tokenizer.encode(text, *more, **named)
        finally:
            self._watch.tokenizing += time.perf_counter() - began


class _WatchedBackend:
    """A backend that does likewise."""

    def __init__(self, backend: Backend, watch: Watch) -> None:
        self._backend = backend
        self._watch = watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def features(self, ids: Tokens, mask: Tokens, *more: Any, **named: Any) -> Features:
        began = time.perf_counter()
        try:
            return self._backend.features(ids, mask, *more, **named)
        finally:
            self._watch.seconds += time.perf_counter() - began
            self._watch.read += int(mask.sum())
            one_by_one = self._backend.name == _ONE_BY_ONE
            self._watch.passes += (
                [Pass(1, int(tokens)) for tokens in mask.sum(axis=1)] if one_by_one else [Pass(*map(int, ids.shape))]
            )


def split(watch: Watch, call: Callable[[], object]) -> Split:
    """Time a call and what of it is the model's and the tokenizer's.

    Args:
        watch: Watches the detector that is called.
        call: The call.

    Returns:
        Its seconds.
    """
    forward, tokenizer = watch.seconds, watch.tokenizing
    began = time.perf_counter()
    call()
    return Split(time.perf_counter() - began, watch.seconds - forward, watch.tokenizing - tokenizer)


def windows(detector: LayerDetector, text: str) -> Iterator[Window]:
    """The windows that a detector would read, without reading them.

    Args:
        detector: The detector.
        text: The text.

    Returns:
        First the windows of the text as it is, then those of the text as it is meant.
    """
    return detector._extractor.windower.windows(text)


def with_one_more_head(detector: LayerDetector) -> LayerDetector:
    """A detector that shares a detector's model and has another binary head, of random numbers.

    Args:
        detector: The detector; it is not changed.

    Returns:
        The other one.
    """
    heads = detector._heads
    column = np.random.default_rng(0).normal(scale=0.1, size=(len(heads.weight), 1)).astype(np.float32)
    more = HeadStack(
        [*heads.specs, HeadSpec(name=_EXTRA_HEAD, kind="binary", labels=(_EXTRA_HEAD,))],
        np.hstack([heads.weight, column]),
        np.append(heads.bias, np.float32(0)),
    )
    return LayerDetector(detector._extractor, more, detector.detector_id)
