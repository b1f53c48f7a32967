"""`lec-guard bench`: from its options to a report that can be read again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lec_guard import DetectorError
from lec_guard.bench import machine, plan
from lec_guard.bench.detectors import Detectors
from lec_guard.bench.other_models import DEBERTA_BASE
from lec_guard.bench.plan import QUICK, Mixture, Plan
from lec_guard.bench.report import Report, ReportError, read_report
from lec_guard.bench.run import run as measure
from lec_guard.bench.tables import COLD_START, SHARE, tables
from tests.bench.test_parts import SMALL, shrunk
from tests.test_cli import Result, run

Bench = Callable[..., Result]


@pytest.fixture
def bench(tiny: Path, no_onnx: None, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """`lec-guard bench --quick --rounds 1` on a tiny bundle, with less of everything."""
    small = replace(QUICK, side=16, lengths=(12,), mixture=Mixture(texts=2, per_call=2, shortest=10, longest=20))
    monkeypatch.setattr(plan, "QUICK", replace(small, cost_tokens=12, context_tokens=20, overhead_lengths=(12,)))
    return lambda *words: run("bench", "--detector", tiny, "--quick", "--rounds", "1", *words)


@pytest.mark.parametrize("part", ["machine", "latency", "throughput", "costs", "overhead"])
def test_each_part_alone_gives_its_section_and_no_other(bench: Bench, part: str) -> None:
    result = bench("--only", part, "--json")
    assert result.exit_code == 0
    report = Report.model_validate_json(result.out)
    sections = {"peak", "latency", "throughput", "costs", "overhead", "cold_start", "memory", "others"}
    assert {name for name in sections if getattr(report, name) is not None} == {"peak" if part == "machine" else part}
    assert report.command == f"lec-guard bench --detector BUNDLE --quick --only {part} --rounds 1"
    assert result.err == f"lec-guard: measuring {part}\n"


def test_tables_are_printed_and_the_same_figures_written(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    result = bench("--only", "overhead", "--only", "machine", "--out", file)
    assert result.exit_code == 0
    report = read_report(file)
    assert [table.title for table in tables(report)][:2] == ["Machine", "Matrix products"]
    for table in tables(report):
        assert table.title in result.out
    assert report.machine.processor in result.out
    assert report.overhead is not None
    assert f"{report.overhead[0].own.p50_ms * 1000:.0f}" in result.out
    assert "pip install 'lec-guard[onnx]'" in result.out


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--only", "latencies"], "unknown part 'latencies'; use one of machine, latency, throughput"),
        (["--rounds", "0"], "--rounds must be at least 1, not 0"),
        (["--rounds", "many"], "'--rounds'"),
        (["--out", "{tmp}/nowhere/report.json"], "report.json: can't be written"),
        (["--out", "{tmp}"], "can't be written"),
        (["--detector", "{tmp}"], "detector.json: can't be read"),
        (["--slow"], "No such option"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_measured(tmp_path: Path, words: list[str], part: str) -> None:
    result = run("bench", "--quick", *(word.replace("{tmp}", str(tmp_path)) for word in words))
    assert (result.exit_code, result.out) == (2, "")
    assert part in " ".join(result.err.replace("│", " ").split())
    assert list(tmp_path.iterdir()) == []


def test_a_part_that_fails_costs_no_other_one(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise DetectorError("no such luck")

    monkeypatch.setattr("lec_guard.bench.latency.measure_latency", fail)
    result = bench("--only", "latency", "--only", "overhead", "--json")
    assert result.exit_code == 1
    report = Report.model_validate_json(result.out)
    assert report.overhead is not None
    assert [(one.part, one.why, one.failed) for one in report.skipped] == [("latency", "no such luck", True)]


@pytest.fixture(scope="module")
def whole() -> Report:
    """A report with everything in it."""
    return _invented()


def test_a_report_is_the_same_after_it_was_written(whole: Report, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    file.write_text(whole.to_json(), encoding="utf-8")
    assert read_report(file) == whole


@pytest.mark.parametrize(
    ("content", "part"),
    [("{", "the file: Invalid JSON"), ('{"version": 2}', "version: "), ("[]", "the file: ")],
)
def test_another_file_is_no_report(tmp_path: Path, content: str, part: str) -> None:
    file = tmp_path / "report.json"
    with pytest.raises(ReportError, match="can't be read"):
        read_report(file)
    file.write_text(content, encoding="utf-8")
    with pytest.raises(ReportError, match=part):
        read_report(file)


def test_every_row_has_a_cell_for_every_column(whole: Report) -> None:
    found = tables(whole)
    assert len(found) == 13
    for table in found:
        assert table.rows
        assert all(len(row) == len(table.columns) for row in table.rows), table.title


def test_targets_stand_beside_the_figures_of_whole_models(whole: Report) -> None:
    (table,) = [one for one in tables(whole) if one.title.startswith("Other models")]
    cells = {row[:5]: row[-2:] for row in table.rows}
    assert cells["DeBERTa-v3-base", "12 layers", "fp32", "torch-fp32", "as shipped"] == ("≥ 50x", "no")
    assert cells["DeBERTa-v3-base", "6 of 12 layers", "fp32", "torch-fp32", "as shipped"] == ("", "")


@pytest.mark.parametrize(("load", "busy"), [(0.1, False), (1.0, True), (None, False)])
def test_a_busy_machine_is_told(whole: Report, load: float | None, busy: bool) -> None:
    machine = whole.machine.model_copy(update={"load": load})
    table = tables(whole.model_copy(update={"machine": machine}))[0]
    assert ("not to be quoted" in table.note) == busy


def test_a_target_is_met_on_its_own_side() -> None:
    assert SHARE.cells(0.6) == ("≥ 60%", "yes")
    assert SHARE.cells(0.59) == ("≥ 60%", "no")
    assert COLD_START.cells(1.5) == ("≤ 1.5x", "yes")
    assert COLD_START.cells(1.51) == ("≤ 1.5x", "no")


def test_an_unknown_processor_has_at_least_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(machine.platform, "processor", lambda: "")

    def nothing(*_: object, **__: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(machine.subprocess, "run", nothing)
    assert machine.processor() == machine.platform.machine()


def _invented() -> Report:
    time = {"p50_ms": 2.0, "p95_ms": 3.0, "rounds": 4}
    ratio = {"p50": 1.2, "p5": 1.1, "p95": 1.3, "rounds": 4}
    form = {"model": "DeBERTa-v3-base", "of_layers": 12, "dtype": "fp32", "tokens": 128}
    forms = [{**form, "layers": layers} for layers in (12, 6)]
    return Report.model_validate(
        {
            "command": "lec-guard bench",
            "date": "2000-01-01",
            "detector": {"detector_id": "tiny@0", "shipped": "torch-fp32", "auto": "torch-bf16"},
            "machine": {
                "processor": "an abacus",
                "cores": 1,
                "torch_threads": 1,
                "system": "none",
                "versions": {"python": "3"},
                "load": 0.5,
            },
            "peak": [{"dtype": "fp32", "by": "hand", "side": 2, "gflops": 1.0, "best_gflops": 2.0, "rounds": 4}],
            "latency": [{"backend": "torch-fp32", "tokens": 16, "windows": 1, "time": time}],
            "throughput": [
                {
                    "backend": "torch-fp32", "texts": 2, "per_call": 2, "tokens": 30, "read_tokens": 30, "padding": 0.1,
                    "passes": 1, "score": time, "windowing": time, "products": time, "products_gflops": 1.0,
                    "tokens_per_s": 10.0, "share": ratio, "share_without_windowing": ratio,
                }
            ],
            "costs": {
                "head": {
                    "tokens": 16, "heads": 3, "bundle": time, "one_more": time, "ratio": ratio, "extra_ms": 0.1,
                },
                "normalisation": {
                    "tokens": 16, "plain": time, "plain_windows": 1, "disguised": time, "disguised_windows": 2,
                    "ratio": ratio, "as_it_is": time, "as_meant_too": time,
                },
                "context": {
                    "tokens": 16, "context_tokens": 20, "context_read": False, "without": time, "new": time,
                    "again": time, "new_ratio": ratio, "again_ratio": ratio,
                },
            },
            "overhead": [
                {
                    "tokens": 16, "check": time, "forward": time, "tokenizer": time, "own": time, "windowing": time,
                    "runnable_ms": 0.1, "idle_runnable": time,
                }
            ],
            "cold_start": {
                "imports": time, "verdict": time, "ratio": ratio, "import_ms": 1.0, "load_ms": 1.0, "check_ms": 1.0,
            },
            "memory": [
                {
                    "form": "exported int8", "without_torch": True, "imported_mb": 1.0, "loaded_mb": 2.0,
                    "texts": [{"text_bytes": 10, "peak_mb": 3.0, "seconds": 1.0, "windows": 1}], "disk_mb": 4.0,
                }
            ],
            "others": {
                "passes": [{**one, "time": time} for one in forms],
                "ours": [{"beside": form["model"], "backend": "torch-fp32", "tokens": 128, "time": time}],
                "comparisons": [{**one, "ours": "torch-fp32", "kind": "as shipped", "ratio": ratio} for one in forms],
            },
            "skipped": [{"part": "memory", "what": "a form", "why": "no reason"}],
        }
    )  # fmt: skip


def test_all_of_it_in_one_run(tiny: Path, no_onnx: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Apart from what needs new processes, which are tested by themselves."""
    parts = tuple(part for part in plan.PARTS if part not in ("cold-start", "memory"))
    small: Plan = replace(SMALL, parts=parts, others=(shrunk(DEBERTA_BASE),))
    told: list[str] = []
    report = measure(Detectors(tiny), small, tell=told.append)
    assert tuple(told) == parts
    assert None not in (report.peak, report.latency, report.throughput, report.costs, report.overhead, report.others)
    assert [(one.cold_start, one.memory) for one in (report,)] == [(None, None)]
    for table in tables(report):
        assert all(len(row) == len(table.columns) for row in table.rows), table.title
