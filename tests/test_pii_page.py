"""The page about personal data says what was measured."""

from __future__ import annotations

import json
import re

from benchmarks.pii.__main__ import BY_PATTERN, Simple, near, same
from benchmarks.pii.page import PAGE, RESULTS, page
from lec_guard import Span, Step


def span(start: int, end: int, label: str = "A") -> Span:
    return Span(start=start, end=end, head="pii", label=label, score=1.0)


def test_the_page_is_made_of_the_results():
    text = RESULTS.read_text(encoding="utf-8")
    report = json.loads(text)
    assert PAGE.read_text(encoding="utf-8") == page(report)
    assert set(report["methods"]["patterns"]) == set(BY_PATTERN.values())
    assert not re.search(r"/(home|root|tmp|work|Users)\b", text)


def test_a_finding_is_right_if_it_shares_half_with_a_span_of_its_type():
    assert same(span(0, 10), span(0, 10))
    assert same(span(0, 10), span(5, 10))
    assert not same(span(0, 10), span(6, 10))
    assert not same(span(0, 10), span(5, 16))
    assert not same(span(0, 10), span(0, 10, "B"))
    assert near(span(0, 10), span(9, 20, "B"))
    assert not near(span(0, 10), span(10, 20, "B"))
    assert not near(span(0, 10), span(0, 10))


def test_the_simple_expressions_find_the_simple_cases():
    (scores,) = Simple().score([Step(stage="input", text="ada@example.com, 192.0.2.17, https://example.com")])
    assert {label for label, score in scores.by_head["pii"].items() if score} >= {"EMAIL_ADDRESS", "IP_ADDRESS", "URL"}
    assert set(Simple().labels["pii"]) == set(BY_PATTERN.values())
