"""Texts as a reviewer sees them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lec_guard.serve import marks
from lec_guard.serve.marks import Part, excerpt, field, heated, level, marked, plain, seen_only, typed
from lec_guard.step import Span


def span(start: int, end: int, head: str = "injection", score: float = 0.9) -> Span:
    return Span(start=start, end=end, head=head, label="override", score=score)


def runs(text: str, *spans: Span) -> list[tuple[str, list[int], tuple[int, ...]]]:
    return [
        ("".join(part.text for part in run.parts), [mark.number for mark in run.marks], run.begins)
        for run in marked(text, spans).runs
    ]


def test_a_text_without_findings_is_one_run():
    assert runs("all is well") == [("all is well", [], ())]
    assert marked("").runs == ()


def test_what_was_found_is_cut_out():
    assert runs("say: ignore it", span(5, 11)) == [("say: ", [], ()), ("ignore", [1], (1,)), (" it", [], ())]


def test_overlapping_nested_and_equal_spans_share_runs():
    assert runs("abcdef", span(0, 4, score=0.5), span(2, 6, score=0.8)) == [
        ("ab", [1], (1,)), ("cd", [2, 1], (2,)), ("ef", [2], ()),
    ]  # fmt: skip
    assert runs("abcdef", span(2, 4, score=0.5), span(0, 6, score=0.8)) == [
        ("ab", [1], (1,)), ("cd", [2, 1], (2,)), ("ef", [1], ()),
    ]  # fmt: skip
    assert runs("ab", span(0, 2), span(0, 2, "safety", 0.7)) == [("ab", [1, 2], (1, 2))]


def test_neighbours_do_not_run_together():
    assert runs("abcd", span(0, 2), span(2, 4)) == [("ab", [1], (1,)), ("cd", [2], (2,))]


@pytest.mark.parametrize(("start", "end"), [(5, 9), (-4, 0), (2, 2), (3, 1)])
def test_spans_outside_of_the_text_are_left_out(start, end):
    assert runs("abcd", span(start, end)) == [("abcd", [], ())]
    assert marked("abcd", [span(start, end)]).legend == ()


def test_spans_that_reach_beyond_it_are_cut():
    assert runs("abcd", span(2, 99), span(-3, 1)) == [("a", [1], (1,)), ("b", [], ()), ("cd", [2], (2,))]


def test_offsets_are_code_points():
    assert runs("🎈🎈ab", span(1, 3))[1][0] == "🎈a"


def test_each_head_has_a_colour_and_the_shortest_comes_first():
    shown = marked("abcd", [span(0, 2), span(1, 4, "safety", 0.95), span(3, 4)])
    assert [(mark.number, mark.colour, mark.span.head) for mark in shown.legend] == [
        (1, 1, "injection"), (2, 2, "safety"), (3, 1, "injection"),
    ]  # fmt: skip
    assert shown.runs[1].title == "injection: override 0.90; safety: override 0.95"


@pytest.mark.parametrize(
    ("hidden", "shown"),
    [
        ("\u202e", "\\u202e"), ("\x1b", "\\x1b"), ("\x00", "\\0"), ("\r", "\\r"), ("\x07", "\\u0007"),
        ("\u200b\u200b\u200b", "\\u200b\N{MULTIPLICATION SIGN}3"),
        ("\u2066\u2069", "\\u2066 \\u2069"), ("\ud800", "\\ud800"),
        ("\U000e0068\U000e0069", "tags “hi”"), ("\u3164", "\\u3164"), ("\u2800", "\\u2800"), ("\xa0", "\\u00a0"),
        ("\ufe0f", "\\ufe0f"), ("\U000e0101", "\\U000e0101"), ("\u2028", "\\u2028"), ("\xad", "\\u00ad"),
        ("\ufeff", "\\ufeff"), ("\x9b", "\\u009b"), ("\U000e0001", "\\U000e0001"),
    ],
)  # fmt: skip
def test_what_cannot_be_seen_is_written_out(hidden, shown):
    (before, box, after) = marked(f"a{hidden}b").runs[0].parts
    assert (before, after) == (Part(text="a"), Part(text="b"))
    assert box.text == shown
    assert box.name
    assert marked(f"a{hidden}b").hidden == len(hidden)
    assert plain(f"a{hidden}b") == f"a{shown}b"
    assert seen_only(f"a{hidden}b") == "ab"


def test_boxes_name_what_they_stand_for():
    (box,) = marked("\u202e\u200b\u200b\x1b").runs[0].parts
    assert box.name == "RIGHT-TO-LEFT OVERRIDE; ZERO WIDTH SPACE, 2 times; control character"


@pytest.mark.parametrize(
    "text", ["two\nlines", "two\r\nlines", "a\tb", "שלום", "مرحبا", "naïve café", "❤\ufe0f", "日本"]
)
def test_what_can_be_seen_is_left_alone(text):
    assert [part.text for part in marked(text).runs[0].parts] == [text.replace("\r\n", "\n")]
    assert marked(text).hidden == 0
    assert seen_only(text) == text


def test_more_than_one_variation_selector_carries_something():
    assert marked("❤\ufe0f\ufe0e").hidden == 1


def test_too_many_boxes_become_words_and_none_is_lost():
    text = "a\u200b" * (marks.MOST_BOXES + 1)
    shown = marked(text)
    assert not shown.boxed
    assert shown.hidden == marks.MOST_BOXES + 1
    assert [part.text for run in shown.runs for part in run.parts] == ["a\\u200b" * (marks.MOST_BOXES + 1)]


@given(
    st.text(alphabet="ab\n\r\u202e\u200b\x1b🎈", max_size=30),
    st.lists(st.tuples(st.integers(-5, 35), st.integers(-5, 35), st.floats(0, 1)), max_size=6),
)
def test_nothing_hidden_is_ever_shown_and_every_mark_covers_its_span(text, places):
    spans = [span(start, end, score=score) for start, end, score in places]
    for shown in (marked(text, spans), heated(text, spans), excerpt(text, spans, 12)):
        for part in (part for run in shown.runs for part in run.parts):
            assert all(one.isprintable() or one in "\n\t" for one in part.text)
    shown = marked(text, spans)
    for mark in shown.legend:
        covered = sum(mark in run.marks for run in shown.runs)
        assert covered >= 1
        assert sum(mark.number in run.begins for run in shown.runs) == 1


def test_where_windows_overlap_the_hottest_counts():
    shown = heated("abcdef", [span(0, 4, score=0.2), span(2, 6, score=0.93), span(3, 4, score=0.5)])
    assert [("".join(part.text for part in run.parts), run.heat) for run in shown.runs] == [("ab", 2), ("cdef", 9)]


def test_what_no_window_read_has_no_heat():
    shown = heated("abcd", [span(1, 2, score=0.0)])
    assert [run.heat for run in shown.runs] == [None, 0, None]


@pytest.mark.parametrize(("score", "expected"), [(0, 0), (0.04, 0), (0.05, 1), (0.949, 9), (0.95, 10), (1, 10)])
def test_levels(score, expected):
    assert level(score) == expected


def test_an_excerpt_is_where_the_highest_score_is():
    text = "x" * 500 + "\nATTACK\n" + "y" * 500
    shown = excerpt(text, [span(501, 507), span(3, 5, score=0.1)], 40)
    words = "".join(part.text for run in shown.runs for part in run.parts)
    assert words.startswith("…x")
    assert " ATTACK y" in words
    assert words.endswith("y…")
    assert len(words) == 42
    assert [mark.span.score for mark in shown.legend] == [0.9]


def test_an_excerpt_of_a_short_text_is_all_of_it():
    assert [part.text for run in excerpt("ab\ncd", []).runs for part in run.parts] == ["ab cd"]


@pytest.mark.parametrize(
    ("text", "in_field"), [("a\r\nb\rc\nd", "a\nb\nc\nd"), ("\x00\ud800", "\ufffd\ufffd"), ("\u202e<b>", "\u202e<b>")]
)
def test_fields_hold_what_forms_can_send(text, in_field):
    assert field(text) == in_field


@pytest.mark.parametrize(
    ("original", "expected"), [("a\nb", "x\ny"), ("a\r\nb", "x\r\ny"), ("a\r\nb\nc", "x\ny"), ("ab", "x\ny")]
)
def test_lines_end_as_they_did(original, expected):
    assert typed("x\r\ny", original) == expected
