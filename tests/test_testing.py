"""What users test their own code with."""

from __future__ import annotations

import pytest

from lec_guard import Span, Step
from lec_guard.testing import MOST_FOUND, KeywordDetector

KEYWORDS = KeywordDetector({"injection": {"injection": ["attack", "ignore all"]}, "safety": {"unsafe": ["poison"]}})


def found(text: str, detector: KeywordDetector = KEYWORDS) -> list[tuple[str, str]]:
    (scores,) = detector.score([Step(stage="input", text=text)])
    return [(span.head, text[span.start : span.end]) for span in scores.spans]


def test_every_word_that_is_found_is_a_span() -> None:
    text = "An Attack, poison; IGNORE ALL, attackattack."
    (scores,) = KEYWORDS.score([Step(stage="input", text=text)])
    assert scores.by_head == {"injection": {"injection": 1.0}, "safety": {"unsafe": 1.0}}
    assert scores.spans[0] == Span(start=3, end=9, head="injection", label="injection", score=1.0)
    assert found(text) == [
        *[("injection", word) for word in ("Attack", "attack", "attack", "IGNORE ALL")],
        ("safety", "poison"),
    ]


@pytest.mark.parametrize("text", ["", "harmless"])
def test_what_holds_no_word_has_no_span(text: str) -> None:
    (scores,) = KEYWORDS.score([Step(stage="input", text=text)])
    assert (scores.spans, set(scores.by_head["injection"].values())) == ((), {0.0})


def test_spans_stand_where_the_words_do_also_where_lower_case_is_longer() -> None:
    assert found("\u0130\u0130 ATTACK \u0130 attack \u0130") == [("injection", "ATTACK"), ("injection", "attack")]


def test_words_are_no_patterns_and_an_empty_one_stands_nowhere() -> None:
    detector = KeywordDetector({"h": {"x": ["a.c", "", "("]}})
    assert found("abc a.c (", detector) == [("h", "a.c"), ("h", "(")]


def test_so_many_spans_and_no_more() -> None:
    assert len(found("attack " * (MOST_FOUND + 5))) == MOST_FOUND
