from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Encoding, Tokenizer, models, pre_tokenizers

from lec_guard.detect.detector import TOKEN_BUDGET
from lec_guard.detect.normalise import normalise
from lec_guard.detect.windows import Reading, Window, Windower, WindowSpec
from lec_guard.errors import DetectorError
from tests.detect.models import decoder_tokenizer

SIZE, STRIDE = 10, 5
CLS, SEP = 101, 102
BLOCK = 65_536


@pytest.fixture(scope="module")
def tokenizer(minilm: Path) -> Tokenizer:
    """As the windower uses it, to compare with."""
    tokenizer = Tokenizer.from_file(str(minilm / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


@pytest.fixture(scope="module")
def windower(minilm: Path) -> Windower:
    return Windower(Tokenizer.from_file(str(minilm / "tokenizer.json")), WindowSpec(size=SIZE, stride=STRIDE))


def encoded(tokenizer: Tokenizer, text: str) -> Encoding:
    """All tokens of a text at once."""
    return tokenizer.encode(normalise(text), add_special_tokens=False)


def assert_covers(windows: list[Window], ids: list[int], offsets: list[tuple[int, int]]) -> None:
    """From the first token to the last one, each window starting no later than the one before it ends."""
    reached = {(0, 0)}  # spans of tokens that the windows so far can be; the same tokens may stand in many places
    for window in windows:
        assert window.ids[0] == CLS
        assert window.ids[-1] == SEP
        own = window.ids[1:-1]
        assert 0 < len(own) <= SIZE - 2
        reached = {
            (at, at + len(own))
            for start, stop in reached
            for at in range(start, stop + 1)
            if ids[at : at + len(own)] == own
            and (window.start, window.end) == (offsets[at][0], offsets[at + len(own) - 1][1])
        }
        assert reached, f"{window} does not continue the windows before it"
    assert len(ids) in {stop for _, stop in reached}


ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=80)
WORDS = st.lists(
    st.sampled_from(["the", "ignore", "\u4f60\u597d", "\U0001f600", "\u05d0\u05d1", "e\u0301", "[SEP]", "\n", "\x00"])
)


@given(text=ANY_TEXT | WORDS.map(" ".join))
@example(text="\ud83d lone")
@example(text="x" * 101 + " y")
@settings(max_examples=300, deadline=None)
def test_windows_cover_every_token_without_a_gap(windower: Windower, tokenizer: Tokenizer, text: str) -> None:
    (reading,) = windower.read([text], 1000)
    whole = encoded(tokenizer, text)
    if not whole.ids:
        assert reading.windows == []
        assert (reading.unread is None) == (not text.strip())
        return
    assert reading.unread is None
    assert_covers(reading.windows, whole.ids, whole.offsets)
    for window in reading.windows:
        assert 0 <= window.start < window.end <= len(text)


@given(texts=st.lists(ANY_TEXT, max_size=6))
@settings(max_examples=50, deadline=None)
def test_texts_read_together_read_as_alone(windower: Windower, texts: list[str]) -> None:
    assert windower.read(texts, 30) == [windower.read([text], 30)[0] for text in texts]


@pytest.mark.parametrize("count", [1, 7, 8, 9, 13, 14, 18, 100])
def test_every_window_of_a_long_text_is_full(windower: Windower, count: int) -> None:
    (reading,) = windower.read(["the " * count], 1000)
    assert {len(window.ids) for window in reading.windows} == {min(count, SIZE - 2) + 2}
    assert reading.windows[0].start == 0
    assert reading.windows[-1].end == 4 * count - 1


def test_windows_point_at_their_characters(windower: Windower) -> None:
    text = "one two three four five six seven eight nine ten eleven twelve thirteen"
    (reading,) = windower.read([text], 1000)
    assert [text[window.start : window.end] for window in reading.windows] == [
        "one two three four five six seven eight",
        "six seven eight nine ten eleven twelve thirteen",
    ]


def test_no_texts_give_no_readings(windower: Windower) -> None:
    assert windower.read([], 1000) == []


def test_surrogates_read_as_replacement_characters(windower: Windower) -> None:
    lone, replaced = windower.read(["stop \udc80 now", "stop \ufffd now"], 1000)
    assert lone == replaced
    assert lone.windows[-1].end == len("stop \udc80 now")


@pytest.mark.parametrize("text", ["", " ", "\n\t \r\n", "\u3000\u2003", " " * 200_000])
def test_blank_text_has_no_window_and_is_read(windower: Windower, text: str) -> None:
    assert windower.read([text], 1000) == [Reading([], None)]


@pytest.mark.parametrize("text", ["\x00", "\x00" * 100_000, "\u200b\u200d\ufeff", "\U000e0041\U000e0042", " \u200b "])
def test_text_that_the_tokenizer_cannot_see_is_unread(windower: Windower, text: str) -> None:
    (reading,) = windower.read([text], 1000)
    assert reading.windows == []
    assert "no token" in reading.unread


def words(count: int) -> str:
    chosen = random.Random(0)
    return "".join(
        chosen.choice(["the", "Ignore", "weather,", "\u4f60\u597d", "na\u00efve", "cafe\u0301", "unbelievable"])
        + chosen.choice([" ", "\n", "  ", "\t", ". "])
        for _ in range(count)
    )


def test_block_by_block_is_the_same_as_at_once(windower: Windower, tokenizer: Tokenizer) -> None:
    text = words(30_000)
    assert len(text) > 2 * BLOCK
    whole = encoded(tokenizer, text)
    (reading,) = windower.read([text], TOKEN_BUDGET)
    assert_covers(reading.windows, whole.ids, whole.offsets)


@pytest.mark.parametrize(
    "text",
    ["\u4f60" * (BLOCK + 5000), "a," * BLOCK, "\U0001f600\u4f60" * BLOCK],
    ids=["one character", "no space", "beyond the first plane"],
)
def test_long_text_without_spaces_is_covered(windower: Windower, tokenizer: Tokenizer, text: str) -> None:
    whole = encoded(tokenizer, text)
    (reading,) = windower.read([text], TOKEN_BUDGET)
    assert_covers(reading.windows, whole.ids, whole.offsets)
    assert (reading.windows[0].start, reading.windows[-1].end) == (0, len(text))


def test_short_and_long_texts_keep_their_order(windower: Windower) -> None:
    texts = ["one", "two " * BLOCK, "three", "four " * BLOCK, ""]
    readings = windower.read(texts, TOKEN_BUDGET)
    assert readings == [windower.read([text], TOKEN_BUDGET)[0] for text in texts]
    assert [reading.windows[-1].end if reading.windows else 0 for reading in readings] == [
        len(text.rstrip()) for text in texts
    ]


@pytest.mark.parametrize("count", [20, BLOCK])
def test_budget_is_the_last_length_that_is_read(windower: Windower, count: int) -> None:
    text = "the " * count
    (reading,) = windower.read([text], count)
    assert reading.unread is None
    assert reading.windows[-1].end == len(text) - 1
    (over,) = windower.read([text], count - 1)
    assert over.windows == []
    assert f"more than {count - 1} tokens" in over.unread


class Counting:
    """A tokenizer that counts the characters it is given."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.characters = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._tokenizer, name)

    def encode(self, text: str, **options: object) -> Encoding:
        self.characters += len(text)
        return self._tokenizer.encode(text, **options)

    def encode_batch(self, texts: list[str], **options: object) -> list[Encoding]:
        self.characters += sum(map(len, texts))
        return self._tokenizer.encode_batch(texts, **options)


def test_reading_of_five_megabytes_ends_at_the_budget(tokenizer: Tokenizer) -> None:
    counting = Counting(tokenizer)
    windower = Windower(counting, WindowSpec(size=128, stride=64))
    counting.characters = 0
    (reading,) = windower.read(["word " * 1_000_000], TOKEN_BUDGET)
    assert reading.windows == []
    assert f"more than {TOKEN_BUDGET} tokens" in reading.unread
    assert counting.characters <= TOKEN_BUDGET * len("word ") + 2 * BLOCK


@pytest.mark.parametrize(("size", "stride"), [(10, 9), (10, 0), (10, -1), (2, 1), (0, 1), (10, 1000)])
def test_windows_that_leave_a_gap_are_refused(tokenizer: Tokenizer, size: int, stride: int) -> None:
    with pytest.raises(DetectorError, match="the stride must lie in"):
        Windower(tokenizer, WindowSpec(size=size, stride=stride))


def test_stride_may_be_as_long_as_the_room(tokenizer: Tokenizer) -> None:
    (reading,) = Windower(tokenizer, WindowSpec(size=10, stride=8)).read(["the " * 20], 1000)
    assert [window.start // 4 for window in reading.windows] == [0, 8, 12]


def test_tokenizer_without_special_tokens_fills_the_window() -> None:
    (reading,) = Windower(decoder_tokenizer(), WindowSpec(size=4, stride=2)).read(["abcdefg"], 1000)
    assert [(window.start, window.end) for window in reading.windows] == [(0, 4), (2, 6), (3, 7)]
    assert {len(window.ids) for window in reading.windows} == {4}


def test_tokenizer_that_reads_no_letters_is_refused() -> None:
    tokenizer = Tokenizer(models.WordLevel({"1": 0}, unk_token="1"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("a", "removed")
    with pytest.raises(DetectorError, match="letter"):
        Windower(tokenizer, WindowSpec(size=4, stride=2))
