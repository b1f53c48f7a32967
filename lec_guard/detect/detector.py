"""Steps in, scores out: the Detector protocol and the detector that reads with a cut transformer."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from lec_guard.detect.bundle import EMBEDDED, Bundle, MeetingPairs, OnnxBase, PrefixPairs, read_bundle
from lec_guard.detect.extractor import Extractor
from lec_guard.detect.heads import Aggregate, HeadSpec, HeadStack, Highest, Matrix
from lec_guard.detect.pairs import (
    CONTEXT_BYTES,
    Context,
    ContextCache,
    Meeting,
    PairHeads,
    PairReader,
    UnreadContextError,
)
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

_POOL = 1024
"""Windows, of however many texts, that wait for the model together: it bounds memory."""

_CONTEXTS = 16
"""Contexts that are held at once while texts are read with them, likewise."""


class Detector(Protocol):
    """Anything that scores steps. One object is shared by all threads and tenants."""

    @property
    def labels(self) -> Mapping[str, tuple[str, ...]]:
        """Head name -> the labels that it can raise; policies are checked against it at load."""
        ...

    def score(self, steps: Sequence[Step], *, keys: Sequence[Hashable] | None = None) -> list[Scores]:
        """Score steps.

        Args:
            steps: The steps; may be empty.
            keys: Whose each step is, for example its tenant; what a detector keeps between calls it keeps apart by
                key. None: all belong to one.

        Returns:
            One `Scores` a step, in order.
        """
        ...


@runtime_checkable
class Measured(Protocol):
    """What a detector can do that knows how high benign texts score."""

    @property
    def heads(self) -> tuple[HeadSpec, ...]:
        """What its fitted heads are; none where it does not know."""
        ...


class LayerDetector:
    """A cut transformer with its heads: one forward pass, all scores. Safe to share between threads.

    Args:
        extractor: Turns texts into features.
        heads: Turn features into scores.
        detector_id: Name and content hash, as verdicts show it.
        budget: Tokens of one text beyond which it is not read; the scores then say so, and a guard
            lets no such text pass. None reads any length.
        pairs: How texts are read with their context; None: contexts are not read.

    Raises:
        BundleError: If extractor and heads don't fit, or a head has the name `reading`.
    """

    def __init__(
        self,
        extractor: Extractor,
        heads: HeadStack,
        detector_id: str,
        *,
        budget: int | None = TOKEN_BUDGET,
        pairs: PairHeads[Any] | None = None,
    ) -> None:
        for stack, width in [(heads, extractor.backend.width)] + ([(pairs.heads, pairs.reader.width)] if pairs else []):
            if stack.weight.shape[0] != width:
                raise BundleError(
                    f"the heads of {detector_id} read {stack.weight.shape[0]} features, but the extractor gives {width}"
                )
        if READING in heads.labels:
            raise BundleError(f"{detector_id}: the name {READING!r} is taken; give the head another")
        self._extractor = extractor
        self._heads = heads
        self.detector_id = detector_id
        self._budget = budget
        self._pairs = pairs
        # Whether a text that has a context must be read alone too.
        self._both = pairs is None or pairs.reader.needs_features or set(heads.labels) != set(pairs.heads.labels)

    @classmethod
    def load(
        cls,
        source: str | Path | None = None,
        *,
        backend: BackendName | None = None,
        budget: int | None = TOKEN_BUDGET,
        context_bytes: int = CONTEXT_BYTES,
        detector_id: str | None = None,
    ) -> LayerDetector:
        """Load a bundle and the base weights it names; nothing is ever downloaded.

        Args:
            source: The bundle's folder; None takes the embedded one.
            backend: What to run on. `onnx-…` exports the model to a private cache on first use. `auto`
                measures the installed ones once and takes the fastest whose scores hold their tolerance.
                None: `torch-fp32`, or for an exported bundle what it was exported for.
            budget: Tokens of one text beyond which it is not read; None reads any length.
            context_bytes: How much of the contexts that were read to keep, for all keys together.
            detector_id: Name and content hash that the bundle must have; None takes any.

        Returns:
            A detector that is ready to score.

        Raises:
            BundleError: If bundle or weights are missing, altered, not made for each other, or not those that are
                asked for.
            DetectorError: If the base model can't be cut.
            ValueError: If `context_bytes` is below 1.
        """
        cache = ContextCache[Any](context_bytes)
        bundle = read_bundle(EMBEDDED if source is None else Path(source))
        if detector_id is not None:
            bundle.check_id(detector_id)
        spec = bundle.spec
        if isinstance(spec.base, OnnxBase):
            if backend not in (None, f"onnx-{spec.base.dtype}"):
                raise BundleError(f"{bundle.folder}: was exported for onnx-{spec.base.dtype}, not for {backend}")
            exported = Extractor.load_onnx(
                bundle.base_folder(), spec.base, window=bundle.window, extractor_id=spec.extractor_id
            )
            return cls._of(exported, bundle, budget, cache)
        if backend == "auto":
            # Imported here, because it needs what only some backends need.
            from lec_guard.detect.auto import fastest

            backend = fastest(bundle)
        if backend == "onnx-fp32" or backend == "onnx-int8":
            from lec_guard.detect.export import cached_export

            exported_to = cached_export(bundle, "int8" if backend == "onnx-int8" else "fp32")
            return cls.load(exported_to, budget=budget, context_bytes=context_bytes)
        extractor = Extractor.load(
            bundle.base_folder(),
            blocks=bundle.blocks,
            window=bundle.window,
            gates=bundle.learned.gates,
            dtype="bf16" if backend == "torch-bf16" else "fp32",
        )
        if extractor.extractor_id != spec.extractor_id:
            raise BundleError(
                f"{bundle.folder}: the heads were fitted on extractor {spec.extractor_id[:16]}…, but these weights, "
                f"layers, pooling and windows make {extractor.extractor_id[:16]}…; fit the heads again"
            )
        return cls._of(extractor, bundle, budget, cache)

    @classmethod
    def _of(cls, extractor: Extractor, bundle: Bundle, budget: int | None, cache: ContextCache[Any]) -> LayerDetector:
        spec, heads = bundle.spec.pairs, bundle.learned.pair_heads
        pairs = None
        if spec is not None and heads is not None:
            pairs = PairHeads(_pair_reader(extractor, spec, budget), heads, cache)
        return cls(extractor, bundle.learned.heads, bundle.detector_id, budget=budget, pairs=pairs)

    def with_heads(self, bundle_folder: str | Path, *, detector_id: str | None = None) -> LayerDetector:
        """The heads of another bundle beside these: both read the same features, in one forward pass.

        The model is shared, not loaded again. The heads of this detector score as they do here. Where some of the
        other bundle's read contexts and none here do, a context that can't be read whole leaves the step unread.

        Args:
            bundle_folder: A bundle that was fitted on this detector's extractor. Heads that are the same in both
                are not added again.
            detector_id: Name and content hash that it must have; None takes any.

        Returns:
            A detector with all heads, named by both, which keeps contexts of its own.

        Raises:
            BundleError: If the bundle is missing, altered or not the one that is asked for, was fitted on another
                extractor, has another head of a name that is here, or reads contexts in another way.
        """
        bundle = read_bundle(Path(bundle_folder))
        if detector_id is not None:
            bundle.check_id(detector_id)
        own, theirs = self._extractor.extractor_id, bundle.spec.extractor_id
        if own != theirs:
            raise BundleError(
                f"{bundle.folder}: the heads of {bundle.detector_id} were fitted on extractor {theirs[:16]}…, but "
                f"{self.detector_id} reads with {own[:16]}…; fit them on that, or load the bundle by itself"
            )
        try:
            heads, pairs = self._heads.beside(bundle.learned.heads), self._pairs_with(bundle)
        except BundleError as error:
            raise BundleError(f"{bundle.folder}: can't be added to {self.detector_id}: {error}") from error
        name = f"{self.detector_id}+{bundle.detector_id}"
        return LayerDetector(self._extractor, heads, name, budget=self._budget, pairs=pairs)

    def _pairs_with(self, bundle: Bundle) -> PairHeads[Any] | None:
        """The heads that read contexts, with those of another bundle whose others fit."""
        spec, heads = bundle.spec.pairs, bundle.learned.pair_heads
        mine = self._pairs
        if spec is None or heads is None:
            return None if mine is None else mine.with_heads(mine.heads)
        of_mine: Iterable[str] = mine.heads.labels if mine else ()
        for name in heads.labels:
            if name in self._heads.labels and name not in of_mine:
                raise BundleError(f"the head {name!r} is there already, and reads no contexts there")
        reader = _pair_reader(self._extractor, spec, self._budget)
        if mine is None:
            return PairHeads(reader, heads)
        if mine.reader.form != reader.form:
            raise BundleError(f"contexts are read otherwise there: {reader.form}, not {mine.reader.form}")
        return mine.with_heads(mine.heads.beside(heads))

    @property
    def labels(self) -> Mapping[str, tuple[str, ...]]:
        """Head name -> the labels that it can raise."""
        return {**self._heads.labels, READING: (UNKNOWN_TOKENS,)}

    @property
    def heads(self) -> tuple[HeadSpec, ...]:
        """What the fitted heads are, in the order of their columns."""
        return self._heads.specs

    @property
    def budget(self) -> int | None:
        """Tokens of one text beyond which it is not read; None where any length is read."""
        return self._budget

    @property
    def window_tokens(self) -> int:
        """Tokens that the model reads at once, at most, special ones included."""
        return self._extractor.windower.spec.size

    def score(self, steps: Sequence[Step], *, keys: Sequence[Hashable] | None = None) -> list[Scores]:
        """Score steps; the same text is read once, however many steps have it.

        A step's context is read where a head of this detector has a form for it, and kept for the next step with
        the same context and key.

        Args:
            steps: The steps; may be empty.
            keys: Whose each step is; None: all belong to one.

        Returns:
            One `Scores` a step, in order.

        Raises:
            ValueError: If there are not as many keys as steps.
        """
        pairs = [
            _Pair(step.text, step.context, key)
            if self._pairs and step.context and not step.context.isspace()
            else _Pair(step.text, None, None)
            for step, key in zip(steps, [None] * len(steps) if keys is None else keys, strict=True)
        ]
        scores: dict[_Pair, Scores] = {}
        for group in _groups(dict.fromkeys(pairs)):
            scores |= self._score(group)
        return [scores[pair] for pair in pairs]

    def _score(self, pairs: Sequence[_Pair]) -> dict[_Pair, Scores]:
        contexts = self._contexts(pairs)
        texts: dict[str, _Text] = {}
        for pair in pairs:
            text = texts.setdefault(pair.text, _Text())
            context = contexts.get(pair.about)
            if isinstance(context, _Unread):
                continue
            if self._pairs is not None and context is not None:
                text.paired[pair.about] = _Reading(self._pairs.heads)
            if text.alone is None and (pair.context is None or self._both):
                text.alone = _Reading(self._heads)
        pool: list[tuple[_Text, Window]] = []
        for content, text in texts.items():
            if text.alone is None and not text.paired:  # None of its contexts can be read.
                continue
            if self._budget is not None and self._extractor.windower.too_long(content, self._budget):
                why = f"the text has more than {self._budget} tokens, the budget of a step"
                text.unread = _Unread(why, over_budget=True)
                continue
            for window in self._extractor.windower.windows(content):
                pool.append((text, window))
                if len(pool) == _POOL:
                    self._read(pool, contexts)
                    pool = []
        self._read(pool, contexts)
        return {pair: self._scores(pair, texts[pair.text], contexts.get(pair.about)) for pair in pairs}

    def _contexts(self, pairs: Sequence[_Pair]) -> dict[_About, Context | _Unread]:
        """What is known of each context, or why it could not be read."""
        found: dict[_About, Context | _Unread] = {}
        for pair in pairs:
            if self._pairs is not None and pair.context is not None and pair.about not in found:
                try:
                    found[pair.about] = self._pairs.context(pair.context, pair.key)
                except UnreadContextError as error:
                    found[pair.about] = _Unread(str(error), over_budget=error.over_budget)
        return found

    def _read(self, pool: list[tuple[_Text, Window]], contexts: Mapping[_About, Context | _Unread]) -> None:
        if not pool:
            return
        # Windows of a text together, because collecting them costs as much for many as for one.
        rows: dict[_Text, list[int]] = {}
        for at, (text, _) in enumerate(pool):
            rows.setdefault(text, []).append(at)
        windows = [window for _, window in pool]
        alone = [at for text, own in rows.items() if text.alone is not None for at in own]
        if len(alone) == len(pool):
            features = self._extractor.features(windows)
        else:
            features = np.zeros((len(pool), self._extractor.backend.width), np.float32)
            if alone:
                features[alone] = self._extractor.features([windows[at] for at in alone])
        logits = self._heads.logits(features)
        for text, own in rows.items():
            text.count([windows[at] for at in own])
            if text.alone is not None:
                text.alone.add([windows[at] for at in own], logits[own])
        for about in dict.fromkeys(about for text in rows for about in text.paired):
            context = contexts[about]
            if self._pairs is None or isinstance(context, _Unread):
                continue
            texts = [text for text in rows if about in text.paired]
            some = [at for text in texts for at in rows[text]]
            together = self._pairs.reader.features([windows[at] for at in some], features[some], context)
            logits = self._pairs.heads.logits(together)
            for text in texts:
                own = rows[text]
                text.paired[about].add([windows[at] for at in own], logits[: len(own)])
                logits = logits[len(own) :]

    def _scores(self, pair: _Pair, text: _Text, context: Context | _Unread | None) -> Scores:
        by_head: dict[str, dict[str, float]] = {}
        spans: dict[str, Span] = {}
        unread = context if isinstance(context, _Unread) else text.unread
        context_read = False
        if unread is None and text.windows:
            paired = text.paired.get(pair.about)
            context_read = paired is not None
            # What a head says of a text with its context comes last, and overwrites what it says without.
            for reading in (text.alone, paired):
                if reading is not None:
                    by_head |= reading.scores()
                    spans |= {span.head: span for span in reading.spans()}
            by_head[READING] = {UNKNOWN_TOKENS: text.unknown_share(self._extractor.windower.special)}
        elif unread is None and pair.text and not pair.text.isspace():
            unread = _Unread("the text has characters but no token that the model can read")
        elif unread is None:
            by_head = {name: dict.fromkeys(labels, 0.0) for name, labels in self.labels.items()}
        return Scores(
            by_head=by_head,
            spans=tuple(spans.values()),
            windows=text.windows if unread is None else 0,
            context_read=context_read,
            unread=None if unread is None else unread.why,
            over_budget=unread is not None and unread.over_budget,
            detector_id=self.detector_id,
            backend=self._extractor.backend.name,
        )


def _pair_reader(extractor: Extractor, spec: MeetingPairs | PrefixPairs, budget: int | None) -> PairReader[Any]:
    if isinstance(spec, MeetingPairs):
        return Meeting(extractor, spec.parts, budget=budget)
    from lec_guard.detect import prefix

    template = prefix.Template(spec.before, spec.between, spec.after)
    return prefix.PrefixPairs(extractor, template, budget=budget)


@dataclass(frozen=True, slots=True)
class _Unread:
    """Why a text or a context was not read."""

    why: str
    over_budget: bool = False


@dataclass(frozen=True, slots=True)
class _About:
    """A context and whose it is."""

    context: str | None
    key: Hashable


@dataclass(frozen=True, slots=True)
class _Pair:
    """A text with what it is read against."""

    text: str
    context: str | None
    key: Hashable

    @property
    def about(self) -> _About:
        return _About(self.context, self.key)


def _groups(pairs: Iterable[_Pair]) -> Iterator[list[_Pair]]:
    """Parts of a call with few contexts each."""
    group: list[_Pair] = []
    contexts: set[_About] = set()
    for pair in pairs:
        if pair.context is not None:
            contexts.add(pair.about)
        if len(contexts) > _CONTEXTS:
            yield group
            group, contexts = [], {pair.about}
        group.append(pair)
    if group:
        yield group


class _Text:
    """What is known of a text so far; its size does not grow with the text."""

    def __init__(self) -> None:
        self.unread: _Unread | None = None
        self.windows = self._unknown = self._tokens = self._as_it_is = 0
        self.alone: _Reading | None = None
        self.paired: dict[_About, _Reading] = {}

    def count(self, windows: Sequence[Window]) -> None:
        self.windows += len(windows)
        as_it_is = [window for window in windows if not window.as_meant]
        self._as_it_is += len(as_it_is)
        self._unknown += sum(window.unknown for window in as_it_is)
        self._tokens += sum(len(window.ids) for window in as_it_is)

    def unknown_share(self, special: int) -> float:
        tokens = self._tokens - special * self._as_it_is
        return self._unknown / tokens if tokens else 0.0


class _Reading:
    """What some heads say of a text so far: as it is, and as it is meant."""

    def __init__(self, heads: HeadStack) -> None:
        self._heads = heads
        self._views: dict[bool, Aggregate] = {}

    def add(self, windows: Sequence[Window], logits: Matrix) -> None:
        """Add windows and their logits, `[windows, columns]`."""
        for as_meant in dict.fromkeys(window.as_meant for window in windows):
            own = [at for at, window in enumerate(windows) if window.as_meant == as_meant]
            view = self._views.setdefault(as_meant, self._heads.aggregate())
            view.add(logits[own], [windows[at].span for at in own])

    def scores(self) -> dict[str, dict[str, float]]:
        """Of both views, the one that the head finds worse."""
        views = [view.scores() for view in self._views.values()]
        return {
            name: dict(zip(labels, max((view[name].tolist() for view in views), key=max), strict=True))
            for name, labels in self._heads.labels.items()
        }

    def spans(self) -> Iterator[Span]:
        """Each head's highest window."""
        best: dict[str, Highest] = {}
        for view in self._views.values():
            for top in view.highest():
                if top.head not in best or top.score > best[top.head].score:
                    best[top.head] = top
        for top in best.values():
            start, end = top.mark
            yield Span(start=start, end=end, head=top.head, label=top.label, score=top.score)
