"""Text and context, read as two inputs, whose features meet in a head."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from itertools import islice
from typing import Generic, Literal, Protocol, TypeVar

import numpy as np

from lec_guard.detect.extractor import Extractor, Features
from lec_guard.detect.heads import HeadStack
from lec_guard.detect.windows import Window, Windower

Part = Literal["text", "context", "product", "difference"]
"""What a pair's features are made of: those of the text, those of the context, and their interaction: the product
and the absolute difference, number by number (Conneau et al. 2017, "Supervised Learning of Universal Sentence
Representations", section 3)."""

CONTEXT_BYTES = 64 * 2**20
"""Bytes of contexts that a detector keeps by default."""

KEY_SHARE = 8
"""One key, that is one tenant, keeps this fraction of them at most."""

_AT_ONCE = 1024
"""Windows of a context that are read together: it bounds memory."""


class Context(Protocol):
    """A context that was read, in whatever form its pairs need."""

    @property
    def nbytes(self) -> int:
        """Bytes that keeping it takes."""
        ...


Kept = TypeVar("Kept", bound=Context)


class PairReader(Protocol[Kept]):
    """Reads texts with their contexts. Safe to share between threads."""

    needs_features: bool
    """Whether it starts from the features of the text alone."""
    width: int
    """Length of a feature vector of a pair."""
    form: Hashable
    """What fixes the features beside the extractor: readers of one extractor with equal forms give the same."""

    def read(self, context: str) -> Kept:
        """Read a context by itself, whatever texts come with it.

        Args:
            context: The context, with at least one character that is no white space.

        Returns:
            What `features` takes.

        Raises:
            UnreadContextError: If the context can't be read whole.
        """
        ...

    def features(self, windows: Sequence[Window], features: Features, context: Kept) -> Features:
        """Features of windows with their context.

        Args:
            windows: The windows.
            features: Those of the windows alone, `[windows, width]`; they mean nothing where they are not needed.
            context: What `read` gave.

        Returns:
            `[windows, width of a pair]`.
        """
        ...


class UnreadContextError(Exception):
    """A context that can't be read whole; the message says why.

    Args:
        why: The message.
        over_budget: Whether it is over the budget of its reader.
    """

    def __init__(self, why: str, *, over_budget: bool = False) -> None:
        super().__init__(why)
        self.over_budget = over_budget


def check_budget(windower: Windower, context: str, budget: int | None) -> None:
    """Refuse a context that is over the budget.

    Args:
        windower: Counts its tokens.
        context: The context.
        budget: How many it may have; None: any number.

    Raises:
        UnreadContextError: If it has more.
    """
    if budget is not None and windower.too_long(context, budget):
        why = f"the context has more than {budget} tokens, the budget of a step"
        raise UnreadContextError(why, over_budget=True)


class Meeting:
    """Pairs of an encoder: the features of text and context, side by side, with their interaction.

    Args:
        extractor: Reads both.
        parts: What a pair's features are made of, in order.
        budget: Tokens of a context beyond which it is not read; None reads any length.
    """

    needs_features = True

    def __init__(self, extractor: Extractor, parts: Sequence[Part], *, budget: int | None) -> None:
        self._extractor = extractor
        self._parts = tuple(parts)
        self._budget = budget
        self.width = extractor.backend.width * len(self._parts)
        self.form: Hashable = ("meeting", self._parts)

    def read(self, context: str) -> Features:
        """The mean over the context's windows: `[width]`; see `PairReader.read`."""
        windower = self._extractor.windower
        check_budget(windower, context, self._budget)
        total = np.zeros(self._extractor.backend.width)
        count = 0
        windows = windower.windows(context, as_meant=False)
        while some := list(islice(windows, _AT_ONCE)):
            total += self._extractor.features(some).sum(axis=0)
            count += len(some)
        if not count:
            raise UnreadContextError("the context has characters but no token that the model can read")
        return np.asarray(total / count, np.float32)

    def features(self, windows: Sequence[Window], features: Features, context: Features) -> Features:  # noqa: ARG002
        """See `PairReader.features`."""
        return meet(features, context, self._parts)


class PairHeads(Generic[Kept]):
    """Heads that read texts with their context, and the contexts that were read. Safe to share between threads.

    Args:
        reader: Reads the pairs.
        heads: Turn their features into scores.
        cache: What keeps the contexts; None makes one of the default size.
    """

    def __init__(self, reader: PairReader[Kept], heads: HeadStack, cache: ContextCache[Kept] | None = None) -> None:
        self.reader = reader
        self.heads = heads
        self._cache = ContextCache[Kept]() if cache is None else cache

    def with_heads(self, heads: HeadStack) -> PairHeads[Kept]:
        """Other heads with the same reader.

        Args:
            heads: The heads.

        Returns:
            Them, with contexts of their own, as many bytes as here.
        """
        return PairHeads(self.reader, heads, ContextCache[Kept](self._cache.most))

    def context(self, context: str, key: Hashable) -> Kept:
        """Read a context, or find it where the same key had it before.

        Args:
            context: The context.
            key: Whose it is.

        Returns:
            What the reader takes.

        Raises:
            UnreadContextError: If it can't be read whole.
        """
        digest = hashlib.sha256(context.encode("utf-8", "surrogatepass")).digest()
        kept = self._cache.get(key, digest)
        if kept is None:
            kept = self.reader.read(context)
            self._cache.put(key, digest, kept)
        return kept


def meet(text: Features, context: Features, parts: Sequence[Part]) -> Features:
    """Features of pairs.

    Args:
        text: Features of texts, `[n, width]`.
        context: Features of their context, `[width]`, or one each, `[n, width]`.
        parts: What to make of them, in order.

    Returns:
        `[n, width * len(parts)]`.
    """
    made = []
    for part in parts:
        match part:
            case "text":
                made.append(text)
            case "context":
                made.append(np.broadcast_to(context, text.shape))
            case "product":
                made.append(text * context)
            case "difference":
                made.append(np.abs(text - context))
    return np.concatenate(made, axis=1)


class ContextCache(Generic[Kept]):
    """Contexts that were read, least recently used first to go. Safe to share between threads.

    Each key has its own: what one tenant sends tells another nothing, by content or by timing, and drives none of
    its contexts out while the keys together stay within bounds.

    Args:
        most: Bytes of all contexts.

    Attributes:
        most: The same.

    Raises:
        ValueError: If it is below 1.
    """

    def __init__(self, most: int = CONTEXT_BYTES) -> None:
        if most < 1:
            raise ValueError(f"contexts can't be kept in {most} bytes: give 1 or more")
        self.most = most
        self._lock = threading.Lock()
        # In both, the one used last is at the end.
        self._kept: OrderedDict[Hashable, OrderedDict[bytes, Kept]] = OrderedDict()
        self._bytes: dict[Hashable, int] = {}
        self._total = 0

    @property
    def nbytes(self) -> int:
        """Bytes that are kept."""
        return self._total

    def get(self, key: Hashable, digest: bytes) -> Kept | None:
        """Find a context.

        Args:
            key: Whose it is.
            digest: Its hash.

        Returns:
            What was kept, or None.
        """
        with self._lock:
            own = self._kept.get(key)
            if own is None or digest not in own:
                return None
            self._kept.move_to_end(key)
            own.move_to_end(digest)
            return own[digest]

    def put(self, key: Hashable, digest: bytes, context: Kept) -> None:
        """Keep a context, unless it alone is larger than a key's share.

        Args:
            key: Whose it is.
            digest: Its hash.
            context: What was read.
        """
        share = self.most // KEY_SHARE
        size = context.nbytes
        if size > share:
            return
        with self._lock:
            own = self._kept.setdefault(key, OrderedDict())
            self._kept.move_to_end(key)
            if digest in own:  # Another thread read it meanwhile.
                return
            own[digest] = context
            self._bytes[key] = self._bytes.get(key, 0) + size
            self._total += size
            while self._bytes[key] > share:
                self._drop_oldest(key)
            while self._total > self.most:
                self._drop_oldest(next(iter(self._kept)))

    def _drop_oldest(self, key: Hashable) -> None:
        own = self._kept[key]
        _, dropped = own.popitem(last=False)
        self._bytes[key] -= dropped.nbytes
        self._total -= dropped.nbytes
        if not own:
            del self._kept[key], self._bytes[key]
