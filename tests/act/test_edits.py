"""Edits: apply them, join them, find them."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lec_guard.act.edits import apply_edits, compose_edits, edits_between, merge_edits
from lec_guard.errors import UnsupportedValueError
from lec_guard.step import Edit

SHORT = st.text(st.sampled_from("ab\n"), max_size=3)


def edit(start, end, replacement=""):
    return Edit(start=start, end=end, replacement=replacement)


@st.composite
def apart(draw, text):
    """Edits of a text that do not overlap, in any order; some put something in where another ends."""
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    made = [edit(start, end, draw(SHORT)) for start, end in zip(cuts[::2], cuts[1::2], strict=False)]
    return draw(st.permutations(made))


@st.composite
def any_edits(draw, text):
    """Edits of a text that may overlap."""
    pairs = draw(st.lists(st.tuples(st.integers(0, len(text)), st.integers(0, len(text))), max_size=6))
    return [edit(min(pair), max(pair), draw(SHORT)) for pair in pairs]


TEXT = st.text(st.sampled_from("abc\n"), max_size=12)
TEXT_AND_EDITS = TEXT.flatmap(lambda text: st.tuples(st.just(text), apart(text)))


def test_edits_are_made_in_any_order():
    edits = [edit(6, 11, "Ben"), edit(0, 5, "Bye"), edit(11, 11, "!")]
    assert apply_edits("hello world", edits) == "Bye Ben!"
    assert apply_edits("hello world", edits[::-1]) == "Bye Ben!"
    assert apply_edits("hello", []) == "hello"


def test_what_is_put_in_at_one_place_stands_in_the_order_given():
    assert apply_edits("ab", [edit(1, 1, "1"), edit(1, 1, "2"), edit(1, 2, "3")]) == "a123"


@pytest.mark.parametrize(
    "edits",
    [[edit(0, 2), edit(1, 3)], [edit(0, 6)], [edit(-1, 1)], [edit(3, 2)], [edit(6, 6)], [edit(0, 3), edit(1, 1)]],
)
def test_what_overlaps_or_lies_outside_is_refused(edits):
    with pytest.raises(UnsupportedValueError, match="overlaps another one, or lies outside"):
        apply_edits("hello", edits)


def test_of_edits_that_overlap_the_widest_speaks():
    assert merge_edits([edit(2, 4, "n"), edit(0, 3, "w")]) == (edit(0, 4, "w"),)
    assert merge_edits([edit(0, 2, "n"), edit(1, 9, "w"), edit(8, 11, "o")]) == (edit(0, 11, "w"),)
    assert merge_edits([edit(3, 5, "a"), edit(3, 5, "a")]) == (edit(3, 5, "a"),)
    assert merge_edits([edit(0, 2, "a"), edit(2, 4, "b")]) == (edit(0, 2, "a"), edit(2, 4, "b"))


@given(TEXT.flatmap(lambda text: st.tuples(st.just(text), any_edits(text))))
def test_merged_edits_take_out_all_that_any_takes_out_and_nothing_else(case):
    text, edits = case
    merged = merge_edits(edits)

    def gone(some):
        return {at for one in some for at in range(one.start, one.end)}

    assert gone(merged) == gone(edits)
    apply_edits(text, merged)
    assert list(merged) == sorted(merged, key=lambda one: (one.start, one.end))
    assert all(one.end <= two.start for one, two in pairwise(merged))
    assert {one.replacement for one in merged} <= {one.replacement for one in edits}


def test_edits_that_change_what_others_put_in_become_one():
    assert compose_edits("a b c", [edit(2, 3, "xyz")], [edit(3, 4, "-")]) == (edit(2, 3, "x-z"),)
    assert compose_edits("abcdef", [edit(1, 1, "XX")], [edit(6, 7, "-")]) == (edit(1, 1, "XX"), edit(4, 5, "-"))


@given(
    TEXT_AND_EDITS.flatmap(
        lambda case: st.tuples(st.just(case[0]), st.just(case[1]), apart(apply_edits(case[0], case[1])))
    )
)
def test_composed_edits_do_what_both_do_one_after_the_other(case):
    text, first, then = case
    composed = compose_edits(text, first, then)
    assert apply_edits(text, composed) == apply_edits(apply_edits(text, first), then)
    assert all(one.end <= two.start for one, two in pairwise(composed))


@given(TEXT_AND_EDITS)
def test_composing_with_nothing_changes_nothing(case):
    text, edits = case
    assert apply_edits(text, compose_edits(text, edits, [])) == apply_edits(text, edits)
    assert apply_edits(text, compose_edits(text, [], edits)) == apply_edits(text, edits)
    assert compose_edits(text, [], []) == ()


@pytest.mark.parametrize(("first", "then"), [([edit(0, 9)], []), ([edit(0, 3, "")], [edit(0, 1)])])
def test_edits_that_fit_no_text_are_not_composed(first, then):
    with pytest.raises(UnsupportedValueError):
        compose_edits("abc", first, then)


@given(st.text(st.sampled_from("ab\n\r\u2028"), max_size=14), st.text(st.sampled_from("ab\n\r\u2028"), max_size=14))
def test_edits_lead_from_one_text_to_another(old, new):
    edits = edits_between(old, new)
    assert apply_edits(old, edits) == new
    assert all(one.end <= two.start for one, two in pairwise(edits))
    assert (edits == ()) == (old == new)


def test_a_changed_line_leaves_the_others_alone():
    assert edits_between("one\ntwo\nthree", "one\ntoo\nthree") == (edit(5, 6, "o"),)
    assert edits_between("one\ntwo", "uno\nduo") == (edit(0, 3, "uno"), edit(4, 6, "du"))
    assert edits_between("one\ntwo\nthree", "one\nthree") == (edit(4, 8, ""),)
