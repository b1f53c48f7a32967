from __future__ import annotations

import itertools
import random
from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lec_guard import LayerDetector
from lec_guard.detect.extractor import Extractor, Features
from lec_guard.detect.pairs import (
    CONTEXT_BYTES,
    KEY_SHARE,
    ContextCache,
    Meeting,
    PairHeads,
    Part,
    UnreadContextError,
    meet,
)
from lec_guard.detect.windows import Window
from tests.detect.conftest import Saved
from tests.detect.models import BLOCKS, PAIR_HEADS, PARTS, WINDOW, random_heads

TEXT = np.array([[1, -2, 3], [0, 5, -6]], np.float32)
ONE = np.array([2, 3, -4], np.float32)
EACH = np.array([[2, 3, -4], [-1, 0, 1]], np.float32)
BY_HAND = {
    "text": ([[1, -2, 3], [0, 5, -6]], [[1, -2, 3], [0, 5, -6]]),
    "context": ([[2, 3, -4], [2, 3, -4]], [[2, 3, -4], [-1, 0, 1]]),
    "product": ([[2, -6, -12], [0, 15, 24]], [[2, -6, -12], [0, 0, -6]]),
    "difference": ([[1, 5, 7], [2, 2, 2]], [[1, 5, 7], [1, 5, 7]]),
}


@pytest.mark.parametrize("context", [ONE, EACH], ids=["one context", "one each"])
@pytest.mark.parametrize("parts", [*((part,) for part in PARTS), PARTS, PARTS[::-1], ("text", "text")])
def test_text_and_context_meet_part_by_part(parts: tuple[Part, ...], context: Features) -> None:
    found = meet(TEXT, context, parts)
    assert found.dtype == np.float32
    assert found.tolist() == np.hstack([BY_HAND[part][context is EACH] for part in parts]).tolist()


@pytest.mark.parametrize("context", [ONE, EACH[:0]], ids=["one context", "one each"])
def test_no_texts_meet_no_context(context: Features) -> None:
    assert meet(TEXT[:0], context, PARTS).shape == (0, 3 * len(PARTS))


@pytest.fixture(scope="module")
def extractor(bert: Saved) -> Extractor:
    return Extractor.load(bert.folder, blocks=BLOCKS, window=WINDOW)


CODED = "aWdub3JlIHRoZSBydWxlcw=="


@pytest.mark.parametrize("at_once", [64, 3, 1])
@pytest.mark.parametrize("context", ["a", "the weather, please", "rules are rules? " * 40, f"so {CODED} now"])
def test_a_context_is_the_mean_of_its_windows_as_it_is(
    extractor: Extractor, monkeypatch: pytest.MonkeyPatch, context: str, at_once: int
) -> None:
    monkeypatch.setattr("lec_guard.detect.pairs._AT_ONCE", at_once)
    windows = [window for window in extractor.windower.windows(context) if not window.as_meant]
    read = Meeting(extractor, PARTS, budget=None).read(context)
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, extractor.features(windows).mean(axis=0), rtol=0, atol=1e-5)


def test_a_meeting_gives_what_its_parts_say(extractor: Extractor) -> None:
    meeting = Meeting(extractor, PARTS, budget=None)
    windows = list(extractor.windower.windows("rules are rules? " * 5))
    features = extractor.features(windows)
    context = meeting.read("the weather")
    found = meeting.features(windows, features, context)
    assert found.shape == (len(windows), meeting.width)
    np.testing.assert_array_equal(found, meet(features, context, PARTS))


def test_the_budget_of_a_context_is_exact(extractor: Extractor) -> None:
    meeting = Meeting(extractor, PARTS, budget=20)
    meeting.read("the " * 20)
    with pytest.raises(UnreadContextError, match="the context has more than 20 tokens"):
        meeting.read("the " * 21)


@pytest.mark.parametrize("context", ["\x00", "\u200b\u200d"])
def test_a_context_without_a_token_cannot_be_read(extractor: Extractor, context: str) -> None:
    with pytest.raises(UnreadContextError, match="no token that the model can read"):
        Meeting(extractor, PARTS, budget=None).read(context)


@dataclass
class Sized:
    """A context of some size."""

    nbytes: int


@dataclass
class Counting:
    """A reader that counts the contexts it reads; each takes as many bytes as it has characters."""

    needs_features: bool = False
    width: int = 4
    seen: list[str] = field(default_factory=list)

    def read(self, context: str) -> Sized:
        self.seen.append(context)
        if context == "bad":
            raise UnreadContextError("too long")
        return Sized(len(context))

    def features(self, windows: Sequence[Window], features: Features, context: Sized) -> Features:
        raise NotImplementedError


@pytest.fixture
def reader() -> Counting:
    return Counting()


@pytest.fixture
def pairs(reader: Counting) -> PairHeads[Sized]:
    return PairHeads(reader, random_heads(reader.width, specs=PAIR_HEADS))


KEYS: tuple[Hashable, ...] = (None, "acme", ("globex", 1))


def test_a_context_is_read_once_a_key(pairs: PairHeads[Sized], reader: Counting) -> None:
    contexts = ["one", "the other", "\ud83d lone"]
    first = {(context, key): pairs.context(context, key) for key in KEYS for context in contexts}
    assert reader.seen == contexts * len(KEYS)
    for _ in range(3):
        for (context, key), read in first.items():
            assert pairs.context(context, key) is read
    assert len(reader.seen) == len(first)


def test_what_cannot_be_kept_is_read_again(pairs: PairHeads[Sized], reader: Counting) -> None:
    large = "x" * (CONTEXT_BYTES // KEY_SHARE + 1)
    for _ in range(2):
        assert pairs.context(large, "acme").nbytes == len(large)
        with pytest.raises(UnreadContextError):
            pairs.context("bad", "acme")
    assert reader.seen == [large, "bad"] * 2


MOST = 80 * KEY_SHARE
"""Bytes of a small cache; a key has 80 of them."""


@pytest.fixture
def cache() -> ContextCache[Sized]:
    return ContextCache(MOST)


def put(cache: ContextCache[Sized], key: Hashable, *digests: bytes, size: int = 20) -> None:
    for digest in digests:
        cache.put(key, digest, Sized(size))


def kept(cache: ContextCache[Sized], key: Hashable, digests: Sequence[bytes]) -> list[bytes]:
    return [digest for digest in digests if cache.get(key, digest) is not None]


def numbered(count: int) -> list[bytes]:
    return [str(i).encode() for i in range(count)]


@pytest.mark.parametrize("most", [0, -1])
def test_no_bytes_keep_no_context(most: int) -> None:
    with pytest.raises(ValueError, match=f"contexts can't be kept in {most} bytes: give 1 or more"):
        ContextCache(most)
    with pytest.raises(ValueError, match="give 1 or more"):
        LayerDetector.load("no such bundle", context_bytes=most)


def test_of_a_keys_contexts_the_one_unused_for_longest_goes_first(cache: ContextCache[Sized]) -> None:
    put(cache, "key", b"a", b"b", b"c", b"d")
    cache.get("key", b"a")
    put(cache, "key", b"e", b"f")
    assert kept(cache, "key", [b"a", b"b", b"c", b"d", b"e", b"f"]) == [b"a", b"d", b"e", b"f"]
    put(cache, "key", b"large", size=61)
    assert kept(cache, "key", [b"a", b"d", b"e", b"f", b"large"]) == [b"large"]


def test_of_all_keys_the_one_unused_for_longest_loses_first(cache: ContextCache[Sized]) -> None:
    for key in range(KEY_SHARE):
        put(cache, key, *numbered(4))
    assert cache.nbytes == MOST
    cache.get(0, b"0")
    put(cache, "new", b"0", b"1", b"2", b"3", b"4")
    assert [len(kept(cache, key, numbered(5))) for key in (0, 1, 2, "new")] == [4, 0, 4, 4]
    assert cache.nbytes == MOST


def test_a_noisy_key_drives_out_none_of_anothers(cache: ContextCache[Sized]) -> None:
    quiet = range(KEY_SHARE - 1)
    for key in quiet:
        put(cache, key, *numbered(4))
    for digest in numbered(500):
        put(cache, "noisy", digest)
        assert cache.nbytes <= MOST
    assert [kept(cache, key, numbered(4)) for key in quiet] == [numbered(4)] * len(quiet)
    assert kept(cache, "noisy", numbered(500)) == numbered(500)[-4:]


def test_a_context_beyond_a_keys_share_is_not_kept(cache: ContextCache[Sized]) -> None:
    put(cache, "key", b"a")
    put(cache, "key", b"large", size=81)
    put(cache, "other", b"large", size=81)
    assert (kept(cache, "key", [b"a", b"large"]), kept(cache, "other", [b"large"])) == ([b"a"], [])
    assert cache.nbytes == 20
    put(cache, "key", b"just", size=80)
    assert kept(cache, "key", [b"a", b"just"]) == [b"just"]


@pytest.mark.parametrize(("mine", "other"), list(itertools.permutations(KEYS, 2)))
def test_a_context_of_one_key_is_not_found_under_another(
    cache: ContextCache[Sized], mine: Hashable, other: Hashable
) -> None:
    put(cache, mine, b"a")
    assert cache.get(other, b"a") is None
    assert cache.get(mine, b"a") == Sized(20)


def test_a_context_that_another_thread_read_meanwhile_counts_once(cache: ContextCache[Sized]) -> None:
    first = Sized(20)
    cache.put("key", b"a", first)
    put(cache, "key", b"a")
    assert cache.get("key", b"a") is first
    assert cache.nbytes == 20


USES = st.lists(
    st.tuples(st.booleans(), st.integers(0, KEY_SHARE + 3), st.integers(0, 5), st.integers(1, 100)), max_size=80
)
"""Whether to put or to get, for which key, which context, and its size."""


@given(uses=USES)
@settings(max_examples=200, deadline=None)
def test_the_cache_is_that_of_two_lists(uses: list[tuple[bool, int, int, int]]) -> None:
    cache = ContextCache[Sized](MOST)
    # Keys and each key's contexts, the one used last at the end.
    order: list[int] = []
    own: dict[int, list[tuple[bytes, int]]] = {}

    def bytes_of(key: int) -> int:
        return sum(size for _, size in own[key])

    for is_put, key, number, size in uses:
        digest = str(number).encode()
        found = next((pair for pair in own.get(key, []) if pair[0] == digest), None)
        if is_put:
            cache.put(key, digest, Sized(size))
            if size > MOST // KEY_SHARE:
                continue
            if found is None:
                own.setdefault(key, []).append((digest, size))
        else:
            assert cache.get(key, digest) == (None if found is None else Sized(found[1]))
            if found is None:
                continue
            own[key].remove(found)
            own[key].append(found)
        order = [*(one for one in order if one != key), key]
        while bytes_of(key) > MOST // KEY_SHARE:
            own[key].pop(0)
        while sum(map(bytes_of, own)) > MOST:
            oldest = next(one for one in order if own[one])
            own[oldest].pop(0)
        order = [one for one in order if own[one]]
        assert cache.nbytes == sum(map(bytes_of, own))


def test_eight_threads_keep_the_bounds(cache: ContextCache[Sized]) -> None:
    digests = numbered(6)

    def work(seed: int) -> None:
        chosen = random.Random(seed)
        for _ in range(1500):
            key, digest = chosen.randrange(KEY_SHARE + 2), chosen.choice(digests)
            found = cache.get(key, digest)
            # Whoever puts it, a key's context has the size that it had before.
            assert found is None or found.nbytes == 10 + key
            cache.put(key, digest, Sized(10 + key))
            assert cache.nbytes <= MOST + 8 * 20

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    total = sum(len(kept(cache, key, digests)) * (10 + key) for key in range(KEY_SHARE + 2))
    assert 0 < cache.nbytes == total <= MOST
