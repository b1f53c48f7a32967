"""benchmarks/README.md is what its generator makes of the committed measurements."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from benchmarks import tables as generator
from benchmarks.tables import BatcherReport, PoliciesReport, markdown, page, read
from lec_guard.bench.report import Report
from lec_guard.bench.tables import Table

FILES = generator.committed()


def test_the_page_is_made_of_the_committed_reports() -> None:
    assert FILES
    assert generator.PAGE.read_text(encoding="utf-8") == page(FILES)


def test_all_kinds_of_reports_are_on_it() -> None:
    assert {type(read(file)) for file in FILES} == {Report, BatcherReport, PoliciesReport}
    for file in FILES:
        assert f"## {file.name}\n" in page(FILES)


def test_a_figure_that_misses_its_target_says_so(tmp_path: Path) -> None:
    file = tmp_path / "policies.json"
    figures = [{"what": "deciding", "figure": figure, "unit": "µs", "target": 20.0} for figure in (20.0, 20.4)] + [
        {"what": "loading", "figure": 0.1234, "unit": "s", "target": None}
    ]
    machine = {"processor": "one", "load_before": 0.5}
    file.write_text(json.dumps({"machine": machine, "tenants": 7, "figures": figures}), encoding="utf-8")
    assert "    python -m benchmarks.policies --tenants 7\n" in page([file])
    assert "| deciding | 20 µs | ≤ 20 µs | yes |\n| deciding | 20.4 µs | ≤ 20 µs | no |\n" in page([file])
    assert "| loading | 0.123 s |  |  |\n" in page([file])
    assert "Nobody else was at work." in page([file])


def test_reports_name_no_folder_of_the_machine_that_made_them() -> None:
    for file in FILES:
        assert not re.search(r"/(home|root|tmp|work|Users)\b", file.read_text(encoding="utf-8"))


def test_a_table_in_markdown() -> None:
    table = Table("Title", ("a", "b"), (("1", "x|y"),), "Note.")
    assert markdown(table) == "### Title\n\n| a | b |\n| --- | --- |\n| 1 | x\\|y |\n\nNote.\n"


def test_it_is_printed_or_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "README.md"
    monkeypatch.setattr(generator, "PAGE", file)
    monkeypatch.setattr(sys, "argv", ["tables", str(FILES[0])])
    generator.main()
    assert capsys.readouterr().out == page(FILES[:1])
    monkeypatch.setattr(sys, "argv", ["tables", "--write"])
    generator.main()
    assert file.read_text(encoding="utf-8") == page(FILES)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("content", "part"),
    [("{", "can't be read"), ('{"ways": 1}', "ways"), ("{}", "not a report"), ('{"figures": 1}', "figures")],
)
def test_another_file_is_told(tmp_path: Path, content: str, part: str) -> None:
    file = tmp_path / "other.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(SystemExit, match=part):
        read(file)
