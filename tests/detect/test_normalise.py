from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from lec_guard.detect.normalise import normalise

ANY_TEXT = st.text(st.characters(exclude_categories=()))


@given(ANY_TEXT)
def test_every_string_becomes_encodable_and_keeps_its_length(text: str) -> None:
    readable = normalise(text)
    readable.encode("utf-8")
    assert len(readable) == len(text)
    assert normalise(readable) == readable


@given(ANY_TEXT)
def test_only_surrogates_change(text: str) -> None:
    for before, after in zip(text, normalise(text), strict=True):
        assert after == ("\ufffd" if "\ud800" <= before <= "\udfff" else before)


@given(st.text())
def test_encodable_text_is_left_alone(text: str) -> None:
    assert normalise(text) == text


def test_lone_surrogates_become_replacement_characters() -> None:
    for lone in ("\ud800", "\udbff", "\udc00", "\udfff"):
        assert normalise(f"a{lone}b{lone}") == "a\ufffdb\ufffd"


def test_two_surrogates_are_two_characters() -> None:
    pair = "\ud83d\ude00"
    assert len(pair) == 2
    assert normalise(pair) == "\ufffd\ufffd"
    assert not re.search("[\ud800-\udfff]", normalise(pair))
