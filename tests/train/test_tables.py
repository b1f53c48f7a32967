"""Numbers never look surer than they are, and what is missing says why."""

from __future__ import annotations

import pytest

from lec_guard.train.metrics import Figure, Interval
from lec_guard.train.tables import Footnotes, Table, counted, figure, listed, number, percent, plain


@pytest.mark.parametrize(
    ("value", "written"),
    [(0.826, "0.83"), (1.0, "1.00"), (0.0, "0.00"), (0.996, "0.996"), (0.99999, ">0.999"), (0.004, "0.004"),
     (0.00001, "<0.001"), (-0.5, "-0.50")],
)  # fmt: skip
def test_a_number_is_not_rounded_to_none_or_all(value, written):
    assert number(value) == written


@pytest.mark.parametrize(
    ("value", "written"),
    [(0.0123, "1.2%"), (0.0, "0%"), (1.0, "100%"), (0.00001, "<0.1%"), (0.99999, ">99.9%"), (0.5, "50.0%")],
)
def test_a_rate_likewise(value, written):
    assert percent(value) == written


def test_a_figure_has_its_interval():
    own = Figure(value=0.83, low=0.79, high=0.86, n=100, over_sets=Interval(low=0.7, high=0.9, sets=5))
    notes = Footnotes()
    assert figure(own, notes) == "0.83 [0.79, 0.86]"
    assert figure(own, notes, percent) == "83.0% [79.0%, 86.0%]"
    assert figure(own, notes, over_sets=True) == "0.83 [0.79, 0.86]\nsets [0.70, 0.90]"
    assert notes.reasons == ()


def test_what_is_missing_says_why_once():
    notes = Footnotes()
    few = Figure(n=3, reason="too few")
    unsure = Figure(value=0.5, n=8, reason="no interval", over_sets=Interval(sets=2, reason="too few"))
    assert figure(few, notes) == "\u2013¹"
    assert figure(unsure, notes, over_sets=True) == "0.50²\nsets \u2013¹"
    assert notes.reasons == ("too few", "no interval")
    assert Table("t", ("a",), (), note="Read this.", footnotes=notes.reasons).below == (
        "Read this.",
        "¹ too few",
        "² no interval",
    )


def test_the_tenth_mark_has_two_digits():
    notes = Footnotes()
    assert [notes.mark(str(i)) for i in range(10)][-1] == "¹⁰"


def test_words_of_others_hold_nothing_invisible():
    assert plain("a\x1b[31m\u202eb\nc é 防") == "a\\u001b[31m\\u202eb\nc é 防"


def test_lists_and_counts():
    assert listed(["a", "b"]) == "a, b"
    assert listed(list("abcde"), most=3) == "a, b, c and 2 more"
    assert (counted(1, "text"), counted(1200, "text")) == ("1 text", "1,200 texts")
    assert counted(2, "family", "families") == "2 families"
