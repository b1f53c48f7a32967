"""The measurement of policies runs, and its report is one of those that the page is made of."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import policies
from benchmarks.tables import PoliciesReport, page, read


def test_it_measures_and_writes_a_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "policies.json"
    monkeypatch.setattr(sys, "argv", ["policies", "--tenants", "6", "--out", str(file)])
    policies.main()
    report = read(file)
    assert isinstance(report, PoliciesReport)
    assert report.tenants == 6
    printed = capsys.readouterr().out
    for one in report.figures:
        assert one.what in printed
        assert f"| {one.what} | " in page([file])
    assert {one.target for one in report.figures} == {None, 10.0, 20.0}
    assert all(one.figure > 0 for one in report.figures if "memory" not in one.what)
