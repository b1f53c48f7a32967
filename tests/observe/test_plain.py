"""Words that are harmless where they are shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lec_guard.observe.plain import encodable, field, plain
from tests.observe.made import HOSTILE


@given(st.text())
def test_any_word_becomes_one_line_that_can_be_seen(word):
    assert plain(word).isprintable()
    assert field(word).isprintable()


def test_what_can_be_seen_stays():
    assert plain("Grüße, 世界! [bold]") == "Grüße, 世界! [bold]"


def test_what_can_not_be_seen_is_written_out():
    assert plain("a\x1b[31m\u202e\U000e0041\n") == "a\\u001b[31m\\u202e\\U000e0041\\u000a"


@pytest.mark.parametrize("word", ["acme", "floor:x-1", "a.b@c/d+e", "default_2"])
def test_a_name_is_a_field_as_it_is(word):
    assert field(word) == word


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("a b", '"a b"'),
        ("", '""'),
        ('x" action=allow', '"x\\" action=allow"'),
        ("x\\", '"x\\\\"'),
        ("a=b", '"a=b"'),
        ("аcme", '"аcme"'),  # noqa: RUF001 - a Cyrillic letter is quoted
    ],
)
def test_other_words_are_quoted(word, shown):
    assert field(word) == shown


def test_a_long_word_is_cut():
    assert field("x" * 100, longest=10) == '"' + "x" * 9 + '…"'


@given(st.text())
def test_any_word_can_be_encoded(word):
    assert encodable(word + "\ud800").encode("utf-8")


def test_a_hostile_word_is_one_field():
    assert field(HOSTILE, longest=300).count("\x1b") == 0
    assert field(HOSTILE, longest=300).endswith('[bold]x[/bold]"')
