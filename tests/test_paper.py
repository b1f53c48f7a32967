"""The page with the paper's claims says what was measured."""

from __future__ import annotations

import json

from benchmarks.paper.page import PAGE, page
from benchmarks.paper.run import RESULTS


def test_the_page_is_made_of_the_results():
    report = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert PAGE.read_text(encoding="utf-8") == page(report)
    assert len(report["tasks"]) == 8
    assert {task["claim"] for task in report["tasks"]} == {"injection", "content"}
