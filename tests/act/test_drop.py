"""The sentences that scored are taken out."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lec_guard.act.drop import DropSpans
from lec_guard.act.edits import apply_edits
from lec_guard.errors import UnsupportedValueError
from lec_guard.step import Edit
from tests.act.made import TEXTS, lines_apart, spans_of, subject, where


def dropped(text, *parts, mark="[-]"):
    rewriting = DropSpans(mark=mark).rewrite(subject(text, *where(text, *parts)))
    assert lines_apart(text, rewriting.edits)
    return apply_edits(text, rewriting.edits)


@pytest.mark.parametrize(
    ("text", "part", "expected"),
    [
        ("One two. Three four. Five.", "ree", "One two. [-] Five."),
        ("One two. Three four. Five.", "Three four.", "One two. [-] Five."),
        ("One two. Three four. Five.", "ur. Fi", "One two. [-]"),
        ("One two. Three four. Five.", "two. ", "[-] Three four. Five."),
        ("One two. Three four. Five.", " Three", "One two. [-] Five."),
        ("One! Two? Three… Four", "Two", "One! [-] Three… Four"),
        ("One! Two? Three… Four", "Four", "One! Two? Three… [-]"),
        ("One!? Two?! Three... Four", "Two?", "One!? [-] Three... Four"),
        ('He said "stop." Then (he left.) End.', "stop", "[-] Then (he left.) End."),
        ('He said "stop." Then (he left.) End.', "left", 'He said "stop." [-] End.'),
        ("你好。忽略规则！再见？好", "忽略", "你好。[-]再见？好"),  # noqa: RUF001
        ("他说「走。」然后走了。", "然后", "他说「走。」[-]"),
        ("क्या है। यह है। ठीक।", "यह", "क्या है। [-] ठीक।"),
        ("Use v1.2 now. Write to a.b@c.de or https://x.y/?q=1.5!a today. End.", "b@c", "Use v1.2 now. [-] End."),
        ("Use v1.2 now. Write.", "v1", "[-] Write."),
        ("It is 3.5 or .5 of it. Yes.", "3", "[-] Yes."),
        ("Ask Dr. Who, e.g. today, z. B. now. Yes.", "today", "[-] Yes."),
        ("Is it I? Yes.", "Yes", "Is it I? [-]"),
        ("no end at all", "end", "[-]"),
        ("  * indented line. Two.  ", "Two", "  * indented line. [-]  "),
        ("  indented  ", "dent", "  [-]  "),
        ("One. Two.\r\nThree.", "Two", "One. [-]\r\nThree."),
    ],
)
def test_a_part_is_widened_to_its_sentence(text, part, expected):
    assert dropped(text, part) == expected


def test_a_line_is_the_end_of_a_sentence():
    assert dropped("one\ntwo\nthree", "tw") == "one\n[-]\nthree"


def test_over_several_lines_each_has_an_edit_and_the_first_the_mark():
    text = "One. Two\nthree\n\n  four. Five."
    edits = DropSpans(mark="[-]").rewrite(subject(text, (5, 20))).edits
    assert edits == (
        Edit(start=5, end=8, replacement="[-]"),
        Edit(start=9, end=14, replacement=""),
        Edit(start=18, end=23, replacement=""),
    )
    assert apply_edits(text, edits) == "One. [-]\n\n\n   Five."


def test_gaps_that_touch_have_one_mark():
    assert dropped("One. Two. Three. Four.", "Two", "Three") == "One. [-] Four."
    assert dropped("One. Two. Three. Four.", "Three", "One") == "[-] Two. [-] Four."
    assert dropped("One. Two.\nThree. Four.", "Two", "Three") == "One. [-]\n Four."
    assert dropped("One. Two.\nThree. Four.", "One", "Three") == "[-] Two.\n[-] Four."
    assert len(DropSpans(mark="[-]").rewrite(subject("One. Two. Three.", (5, 6), (6, 8), (10, 12), (5, 8))).edits) == 1


def test_of_a_text_that_is_all_gone_the_mark_is_left():
    assert dropped("Ignore this. And that.", "Ignore this. And that.") == "[-]"
    assert dropped("x", "x", mark="") == ""


def test_no_mark_leaves_no_double_space():
    assert dropped("One. Two. Three.", "Two", mark="") == "One. Three."
    assert dropped("One. Two. \nThree.", "Two", mark="") == "One. \nThree."


@pytest.mark.parametrize(("text", "spans"), [("", ()), ("hello", ()), ("hello", ((2, 2),)), ("a \n\t b", ((1, 5),))])
def test_where_nothing_scored_there_is_nothing_to_do(text, spans):
    assert DropSpans(mark="[-]").rewrite(subject(text, *spans)).edits == ()


@given(data=st.data())
def test_nothing_that_scored_stays(data):
    text = data.draw(TEXTS)
    spans = data.draw(spans_of(text))
    mark = data.draw(st.sampled_from(["", "[-]"]))
    edits = DropSpans(mark=mark).rewrite(subject(text, *spans)).edits
    assert lines_apart(text, edits)
    apply_edits(text, edits)
    gone = {at for edit in edits for at in range(edit.start, edit.end)}
    assert {at for one in spans for at in range(one[0], one[1]) if not text[at].isspace()} <= gone
    # Where a mark is missing, one stands before, with nothing but white space between.
    assert not edits or edits[0].replacement == mark
    for one, two in pairwise(edits):
        between = text[one.end : two.start]
        assert (two.replacement == mark) == bool(between.strip()) or mark == ""
        assert between.strip() or "\n" in between


@pytest.mark.parametrize("span", [(0, 6), (-1, 2), (4, 9)])
def test_a_span_outside_the_text_is_refused(span):
    with pytest.raises(UnsupportedValueError, match="outside the text") as caught:
        DropSpans(mark="").rewrite(subject("xyzzy", span))
    assert "xyzzy" not in str(caught.value)


@pytest.mark.parametrize("unit", [".", ".)", "。", "a. ", "a.\n", " ", ". . "])
def test_a_long_text_of_nothing_but_ends_is_no_trouble(unit):
    text = unit * 30_000
    scored = range(0, len(text), 7)
    edits = DropSpans(mark="").rewrite(subject(text, *((at, at + 1) for at in scored))).edits
    gone = {at for edit in edits for at in range(edit.start, edit.end)}
    assert {at for at in scored if not text[at].isspace()} <= gone


async def test_it_is_the_same_in_async():
    one = subject("One. Two.", (5, 7))
    assert await DropSpans(mark="x").arewrite(one) == DropSpans(mark="x").rewrite(one)
