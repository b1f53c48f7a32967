"""What docs/scale.md says is what was measured, computed."""

from __future__ import annotations

import json

import pytest

from benchmarks.capacity import LOADS, MEASURED, PAGE, needs, page, per_core

REPORT = json.loads(MEASURED.read_text(encoding="utf-8"))


def test_the_page_is_computed_from_the_report():
    text = PAGE.read_text(encoding="utf-8")
    assert page(text, REPORT) == text
    with pytest.raises(ValueError, match="0 places for figures"):
        page("", REPORT)


def test_a_hundred_times_the_load_needs_a_hundred_times_the_replicas():
    rows = [line.split("|") for line in needs(REPORT).splitlines()[2:]]
    replicas = [int(row[2].replace(",", "")) for row in rows]
    assert len(replicas) == len(LOADS)
    assert replicas[1] == pytest.approx(100 * replicas[0], rel=0.1)
    assert replicas[0] * per_core(REPORT) > LOADS[0]
