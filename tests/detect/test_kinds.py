from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lec_guard.detect import kinds

TABLE = kinds.table({"a": "xyz?", "1": "0123", "\u00e9": "\u00e0"})


def test_characters_are_seen_by_kind() -> None:
    assert kinds.seen("x-1, \u00e0zA", TABLE) == b"a 1  \xe9a "


def test_some_can_be_left_out() -> None:
    assert kinds.seen("x 1,2-3", TABLE, without=b" ,") == b"a11 1"


def test_other_scripts_are_seen_as_question_marks() -> None:
    assert kinds.seen("\u4f60x\U0001f600\ud800", TABLE) == b"aaaa"


@given(st.text(st.characters(exclude_categories=())))
def test_every_character_is_one_byte(text: str) -> None:
    seen = kinds.seen(text, TABLE)
    assert len(seen) == len(text)
    for char, byte in zip(text, seen, strict=True):
        assert kinds.seen(char, TABLE) == bytes([byte])
