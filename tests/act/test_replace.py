"""The whole text gives way."""

from __future__ import annotations

import pytest

from lec_guard.act.edits import apply_edits
from lec_guard.act.replace import Replace
from lec_guard.step import Edit
from tests.act.made import subject


@pytest.mark.parametrize("text", ["", "one", "one\ntwo\n", "\n", "a\ud800b"])
def test_one_edit_replaces_all_of_it(text):
    rewriting = Replace("Not for you.").rewrite(subject(text, *[(0, 1)] * bool(text)))
    assert rewriting.edits == (Edit(start=0, end=len(text), replacement="Not for you."),)
    assert apply_edits(text, rewriting.edits) == "Not for you."
    assert (dict(rewriting.tokens), rewriting.note) == ({}, None)


async def test_it_is_the_same_in_async():
    one = subject("text")
    assert await Replace("x").arewrite(one) == Replace("x").rewrite(one)
