"""The detector that reads with a cut transformer: one forward pass, the scores of all heads."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lec_guard.detect.bundle import EMBEDDED, Bundle, MeetingPairs, OnnxBase, PrefixPairs, read_bundle
from lec_guard.detect.detector import GrowingText, in_text_order
from lec_guard.detect.extractor import Extractor
from lec_guard.detect.heads import Aggregate, HeadSpec, HeadStack, Matrix, Scored
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
from lec_guard.errors import BundleError, DetectorError
from lec_guard.step import Scores, Span, Step

BackendName = Literal["torch-fp32", "torch-bf16", "onnx-fp32", "onnx-int8", "auto"]

TOKEN_BUDGET = 262_144
"""Tokens of one text that a detector reads by default: about a megabyte of English."""

READING = "reading"
"""The head of what the tokenizer could not see; it comes with every detector and is not fitted."""

UNKNOWN_TOKENS = "unknown_tokens"
"""Its label: the share of a text's tokens that stand for something unknown."""

SPAN_SHARE = 0.5
"""What a window has to score to be a span beside its head's highest, as a share of that one's score: two attacks in
one text need not score alike, but of what is half as likely the highest is no hint any more."""

MOST_SPANS = 16
"""Spans of a head at most: verdicts, events and log lines hold them."""

_COVERED = 0.5
"""A window is no span where a better one holds more than this share of its characters. Neighbouring windows of a long
sentence share half of their tokens."""

_UNREADABLE = "the text has characters but no token that the model can read"

_POOL = 1024
"""Windows, of however many texts, that wait for the model together: it bounds memory."""

_CONTEXTS = 16
"""Contexts that are held at once while texts are read with them, likewise."""


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
            return cls.of_bundle(exported, bundle, budget=budget, cache=cache)
        if backend == "auto":
            # Imported here, because it needs what only some backends need.
            from lec_guard.detect.auto import fastest

            backend = fastest(bundle)
        if backend == "onnx-fp32" or backend == "onnx-int8":
            from lec_guard.detect.export import cached_export

            exported_to = cached_export(bundle, "int8" if backend == "onnx-int8" else "fp32")
            return cls.load(exported_to, budget=budget, context_bytes=context_bytes)
        extractor = bundle.extractor("bf16" if backend == "torch-bf16" else "fp32")
        if extractor.extractor_id != spec.extractor_id:
            raise BundleError(
                f"{bundle.folder}: the heads were fitted on extractor {spec.extractor_id[:16]}…, but these weights, "
                f"adapters, layers, pooling and windows make {extractor.extractor_id[:16]}…; fit the heads again"
            )
        return cls.of_bundle(extractor, bundle, budget=budget, cache=cache)

    @classmethod
    def of_bundle(
        cls,
        extractor: Extractor,
        bundle: Bundle,
        *,
        budget: int | None = TOKEN_BUDGET,
        cache: ContextCache[Any] | None = None,
    ) -> LayerDetector:
        """The heads of a bundle on an extractor that is there already.

        Args:
            extractor: The one that they were fitted on; nothing here checks that.
            bundle: The bundle.
            budget: Tokens of one text beyond which it is not read; None reads any length.
            cache: Holds the contexts that were read; None makes one.

        Returns:
            The detector.

        Raises:
            BundleError: If extractor and heads don't fit.
        """
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
    def stack(self) -> HeadStack:
        """The fitted heads, as they read texts alone."""
        return self._heads

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
            _Pair(step.text, step.context, key) if self._reads_context(step) else _Pair(step.text, None, None)
            for step, key in zip(steps, [None] * len(steps) if keys is None else keys, strict=True)
        ]
        scores: dict[_Pair, Scores] = {}
        for group in _groups(dict.fromkeys(pairs)):
            scores |= self._score(group)
        return [scores[pair] for pair in pairs]

    def heat(self, step: Step) -> list[Span]:
        """How high each window of a text scores, for a person who looks at it.

        Nothing is left out, so the answer grows with the text. The context, where one is read, is not kept.

        Args:
            step: The step.

        Returns:
            A span for every window and fitted head, with the label that is highest there, in the order of the text.
            Of windows at the same place, of the text as it is and as it is meant, the worse counts.

        Raises:
            DetectorError: If text or context can't be read whole.
        """
        pairs = self._pairs if self._reads_context(step) else None
        context: Context | None = None
        if pairs is not None:
            try:
                context = pairs.reader.read(step.context or "")
            except UnreadContextError as error:
                raise DetectorError(str(error)) from None
        if self._over_budget(step.text):
            raise DetectorError(self._too_long)
        found: dict[tuple[int, int, str], Span] = {}
        windows = self._extractor.windower.windows(step.text)
        while some := list(itertools.islice(windows, _POOL)):
            by_head: dict[str, Matrix] = {}
            features = np.zeros((len(some), self._extractor.backend.width), np.float32)
            if pairs is None or self._both:
                features = self._extractor.features(some)
                by_head |= self._heads.window_scores(self._heads.logits(features))
            if pairs is not None:
                together = pairs.reader.features(some, features, context)
                by_head |= pairs.heads.window_scores(pairs.heads.logits(together))
            for head, scores in by_head.items():
                names = self.labels[head]
                for window, at, score in zip(some, scores.argmax(axis=1), scores.max(axis=1).tolist(), strict=True):
                    start, end = window.span
                    known = found.get((start, end, head))
                    if known is None or score > known.score:
                        found[start, end, head] = Span(start=start, end=end, head=head, label=names[at], score=score)
        if not found and step.text and not step.text.isspace():
            raise DetectorError(_UNREADABLE)
        return in_text_order(found.values())

    def score_read(
        self, step: Step, windows: Sequence[Window], logits: Matrix, *, key: Hashable = None, complete: bool = True
    ) -> Scores:
        """Score a text whose windows were read elsewhere: in the pass of a model that goes on to write.

        Only what differs from the text as it is, as it is meant, is read here.

        Args:
            step: The step.
            windows: The windows of its text as it is.
            logits: What the heads said of them, `[windows, columns]`.
            key: Whose it is, as in `score`.
            complete: Whether the text is over; else it is not read as it is meant.

        Returns:
            Its scores.
        """
        pair = _Pair(step.text, step.context if self._reads_context(step) else None, key)
        text, reading = _Text(), _Reading(self._heads)
        if pair.context is None:
            text.alone = reading
        else:
            text.paired[pair.about] = reading
        if windows:
            text.count(windows)
            reading.add(windows, logits)
        otherwise = list(self._extractor.windower.meant_windows(step.text)) if complete else []
        contexts = self._contexts([pair]) if otherwise else {}
        read = text
        if isinstance(contexts.get(pair.about), _Unread):  # by itself, rather than not at all
            read = _Text()
            read.alone = reading
        for at in range(0, len(otherwise), _POOL):
            self._read([(read, window) for window in otherwise[at : at + _POOL]], contexts)
        return self._scores(pair, text, None)

    def begin(self, step: Step, *, key: Hashable = None, hold_back: int) -> GrowingText:
        """Begin a text that is read while it comes; see `Growing.begin`."""
        # Imported here: only streams need it.
        from lec_guard.detect.growing import LayerText

        windower = self._extractor.windower
        pair = _Pair("", step.context, key) if self._reads_context(step) else _Pair("", None, None)
        return LayerText(_PairReading(self, pair), windower, max(hold_back, windower.room))

    def _reads_context(self, step: Step) -> bool:
        return self._pairs is not None and bool(step.context) and not str(step.context).isspace()

    def _over_budget(self, text: str) -> bool:
        return self._budget is not None and self._extractor.windower.too_long(text, self._budget)

    @property
    def _too_long(self) -> str:
        return f"the text has more than {self._budget} tokens, the budget of a step"

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
            if self._over_budget(content):
                text.unread = _Unread(self._too_long, over_budget=True)
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
        spans: dict[str, list[Span]] = {}
        unread = context if isinstance(context, _Unread) else text.unread
        context_read = False
        if unread is None and text.windows:
            paired = text.paired.get(pair.about)
            context_read = paired is not None
            # What a head says of a text with its context comes last, and overwrites what it says without.
            for reading in (text.alone, paired):
                if reading is not None:
                    by_head |= reading.scores()
                    spans |= reading.spans()
            by_head[READING] = {UNKNOWN_TOKENS: text.unknown_share(self._extractor.windower.special)}
        elif unread is None and pair.text and not pair.text.isspace():
            unread = _Unread(_UNREADABLE)
        elif unread is None:
            by_head = {name: dict.fromkeys(labels, 0.0) for name, labels in self.labels.items()}
        return Scores(
            by_head=by_head,
            spans=tuple(itertools.chain.from_iterable(spans.values())),
            windows=text.windows if unread is None else 0,
            context_read=context_read,
            unread=None if unread is None else unread.why,
            over_budget=unread is not None and unread.over_budget,
            detector_id=self.detector_id,
            backend=self._extractor.backend.name,
        )


class _PairReading:
    """One text of a detector's, and perhaps a context, for `lec_guard.detect.growing`."""

    def __init__(self, detector: LayerDetector, pair: _Pair) -> None:
        self.budget = detector._budget
        self._detector = detector
        self._pair = pair
        self._found: dict[_About, Context | _Unread] | None = None

    @property
    def _context(self) -> Context | _Unread | None:
        # Not read before it is needed: where a text begins nothing may take long.
        if self._found is None:
            self._found = self._detector._contexts([self._pair])
        return self._found.get(self._pair.about)

    def collect(self) -> _Text:
        """See `TextReader.collect`."""
        text, detector = _Text(), self._detector
        if self._pair.context is None or detector._both:
            text.alone = _Reading(detector._heads)
        if self._pair.context is not None and detector._pairs is not None:
            text.paired[self._pair.about] = _Reading(detector._pairs.heads)
        return text

    def logits(self, windows: Sequence[Window]) -> Matrix:
        """See `TextReader.logits`: columns of the text alone, then those with its context."""
        detector, context = self._detector, self._context
        if isinstance(context, _Unread):
            return np.empty((len(windows), 0), np.float32)
        found: list[Matrix] = []
        features = np.zeros((len(windows), detector._extractor.backend.width), np.float32)
        if context is None or detector._both:
            features = detector._extractor.features(windows)
            found.append(detector._heads.logits(features))
        if context is not None and detector._pairs is not None:
            pairs = detector._pairs
            found.append(pairs.heads.logits(pairs.reader.features(windows, features, context)))
        return np.hstack(found)

    def add(self, collected: _Text, windows: Sequence[Window], logits: Matrix) -> None:
        """See `TextReader.add`."""
        collected.count(windows)
        for reading, own in self._apart(collected, logits):
            reading.add(windows, own)

    def instead(self, collected: _Text, windows: Sequence[Window], logits: Matrix) -> None:
        """See `TextReader.instead`."""
        for reading, own in self._apart(collected, logits):
            reading.as_meant(windows, own)

    def scores(self, collected: _Text, text: str | None) -> Scores:
        """See `TextReader.scores`."""
        pair = replace(self._pair, text=text or "")
        return self._detector._scores(pair, collected, self._context)

    def too_long(self) -> Scores:
        """See `TextReader.too_long`."""
        text = self.collect()
        text.unread = _Unread(self._detector._too_long, over_budget=True)
        return self._detector._scores(self._pair, text, self._context)

    def _apart(self, collected: _Text, logits: Matrix) -> Iterator[tuple[_Reading, Matrix]]:
        if isinstance(self._context, _Unread):
            return
        for reading in (collected.alone, collected.paired.get(self._pair.about)):
            if reading is not None:
                yield reading, logits[:, : reading.columns]
                logits = logits[:, reading.columns :]


def _pair_reader(extractor: Extractor, spec: MeetingPairs | PrefixPairs, budget: int | None) -> PairReader[Any]:
    if isinstance(spec, MeetingPairs):
        return Meeting(extractor, spec.parts, budget=budget)
    from lec_guard.detect import prefix
    from lec_guard.detect.turns import Template

    template = Template(spec.before, spec.between, spec.after)
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

    @property
    def columns(self) -> int:
        """How many numbers the heads make of a window."""
        return int(self._heads.weight.shape[1])

    def as_meant(self, windows: Sequence[Window], logits: Matrix) -> None:
        """Take windows as all that is read as it is meant."""
        self._views.pop(True, None)
        if windows:
            self.add(windows, logits)

    def scores(self) -> dict[str, dict[str, float]]:
        """Of both views, the one that the head finds worse."""
        views = [view.scores() for view in self._views.values()]
        return {
            name: dict(zip(labels, max((view[name].tolist() for view in views), key=max), strict=True))
            for name, labels in self._heads.labels.items()
        }

    def spans(self) -> dict[str, list[Span]]:
        """Of each head its highest window, then the others that score, of both views."""
        best: dict[str, Scored] = {}
        for view in self._views.values():
            for top in view.highest():
                if top.head not in best or top.score > best[top.head].score:
                    best[top.head] = top
        others: dict[str, list[Scored]] = {head: [] for head in best}
        if sum(view.windows for view in self._views.values()) > 1:
            for view in self._views.values():
                for head, high in view.high().items():
                    others[head] += high
        return {head: _apart(top, others[head]) for head, top in best.items()}


def _apart(top: Scored, others: Iterable[Scored]) -> list[Span]:
    """A head's highest window and, best first, those that score beside it, at other places."""
    least = SPAN_SHARE * top.score
    told = [top]
    # In plain Python, because this is done for a handful of windows, and NumPy would take longer to begin.
    for one in sorted((one for one in others if one.score >= least), key=lambda one: -one.score):
        start, end = one.mark
        most = _COVERED * (end - start)
        for better in told:
            first, last = better.mark
            if (last if last < end else end) - (first if first > start else start) > most:
                break
        else:
            told.append(one)
            if len(told) == MOST_SPANS:
                break
    return [Span(start=one.mark[0], end=one.mark[1], head=one.head, label=one.label, score=one.score) for one in told]
