"""Renders benchmarks/README.md from what the measurements found.

    python -m benchmarks.tables [REPORT.json ...]   # prints the page of these reports
    python -m benchmarks.tables --write             # writes the page of those in benchmarks/results

A report is what `lec-guard bench`, `python -m benchmarks.batcher` or `python -m benchmarks.policies` writes with --out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from lec_guard.bench.report import Report, read_report
from lec_guard.bench.tables import Table, tables
from lec_guard.errors import LecGuardError

FOLDER = Path(__file__).parent
PAGE = FOLDER / "README.md"
RESULTS = FOLDER / "results"

_ELSEWHERE = {"guarded.json", "guidance.json", "pii.json", "serving.json"}

_INTRODUCTION = """# How fast it is

Everything on this page is written by a command from the JSON in [results/](results/); nothing is typed by hand. To
measure another machine, and to see your own page:

    lec-guard bench --out report.json
    python -m benchmarks.batcher --out callers.json
    python -m benchmarks.policies --out policies.json
    python -m benchmarks.tables report.json callers.json policies.json

What is compared takes turns in one process, so that whatever else the machine does hits all of it alike. The first
round warms up and does not count. Figures are medians, and ratios are medians of the ratios of single rounds. Texts are
English words in sentences of 6 to 24 words, since a detector reads sentence by sentence, and no two are the same; a
length in tokens counts the special ones. `met` says whether the figure beside it reaches the target.
"""


class _Figures(BaseModel):
    model_config = ConfigDict(frozen=True)


class _Machine(_Figures):
    processor: str
    threads: int


class _Way(_Figures):
    per_second: float
    p50_ms: float
    slowest_ms: float


class _Range(_Figures):
    median: float
    lowest: float
    highest: float


class _Lone(_Figures):
    direct: float
    batcher: float


class _Mixed(_Figures):
    padding: float
    passes: int
    prompts: int


class BatcherReport(_Figures):
    """What `benchmarks.batcher` writes."""

    detector_id: str
    backend: str
    machine: _Machine
    callers: int
    tokens: int
    prompts_per_caller: int
    rounds: int
    ways: dict[str, _Way]
    batcher_to_one_after_another: _Range
    per_second_by_batch: dict[str, float]
    lone_caller_ms: _Lone
    hand_over_us: float
    mixed_lengths: _Mixed


class _LoadedMachine(_Figures):
    processor: str
    load_before: float


class _Figure(_Figures):
    what: str
    figure: float
    unit: str
    target: float | None


class PoliciesReport(_Figures):
    """What `benchmarks.policies` writes."""

    machine: _LoadedMachine
    tenants: int
    figures: tuple[_Figure, ...]


def committed() -> list[Path]:
    """The reports of this page; others in the same folder have pages of their own."""
    return sorted(file for file in RESULTS.glob("*.json") if file.name not in _ELSEWHERE)


def read(file: Path) -> Report | BatcherReport | PoliciesReport:
    """A report of any kind; exits with a message where it is none."""
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise SystemExit(f"{file}: can't be read: {error}") from error
    keys = content if isinstance(content, dict) else {}
    try:
        if "ways" in keys:
            return BatcherReport.model_validate(content)
        return PoliciesReport.model_validate(content) if "figures" in keys else read_report(file)
    except (ValidationError, LecGuardError) as error:
        raise SystemExit(f"{file}: {error}") from error


def page(files: Sequence[Path]) -> str:
    """The page of some reports, in their order."""
    parts = [_INTRODUCTION]
    for file in files:
        report = read(file)
        if isinstance(report, Report):
            parts += _bench(file, report)
        else:
            parts += _batcher(file, report) if isinstance(report, BatcherReport) else _policies(file, report)
    return "\n".join(parts)


def markdown(table: Table) -> str:
    """A table with its title and its note."""
    rows = [table.columns, ["---"] * len(table.columns), *table.rows]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([f"### {table.title}", "", *lines, *(["", table.note] if table.note else []), ""])


def _bench(file: Path, report: Report) -> Iterator[str]:
    yield f"## {file.name}\n\n{report.date}, detector `{report.detector.detector_id}`:\n\n    {report.command}\n"
    yield from map(markdown, tables(report))


def _batcher(file: Path, report: BatcherReport) -> Iterator[str]:
    command = (
        f"python -m benchmarks.batcher --callers {report.callers} --tokens {report.tokens} "
        f"--each {report.prompts_per_caller} --rounds {report.rounds} --backend {report.backend}"
    )
    yield (
        f"## {file.name}\n\n{report.machine.processor}, {report.machine.threads} threads, "
        f"detector `{report.detector_id}`:\n\n    {command}\n"
    )
    share, mixed = report.batcher_to_one_after_another, report.mixed_lengths
    yield markdown(
        Table(
            f"{report.callers} callers at once, prompts of {report.tokens} tokens",
            ("served", "prompts/s", "p50 (ms)", "slowest (ms)"),
            tuple(
                (name, f"{way.per_second:.0f}", f"{way.p50_ms:.1f}", f"{way.slowest_ms:.1f}")
                for name, way in report.ways.items()
            ),
            f"The batcher to one after another: {share.median:.2f}x the throughput, {share.lowest:.2f}x to "
            f"{share.highest:.2f}x over the rounds.",
        )
    )
    yield markdown(
        Table(
            "What sharing passes can give at best, without threads",
            ("prompts in a call", *report.per_second_by_batch),
            (("prompts/s", *(f"{rate:.0f}" for rate in report.per_second_by_batch.values())),),
        )
    )
    yield markdown(
        Table(
            "What the batcher costs",
            ("what", "figure"),
            (
                ("a lone caller's prompt, straight to the detector", f"{report.lone_caller_ms.direct:.2f} ms"),
                ("the same through the batcher", f"{report.lone_caller_ms.batcher:.2f} ms"),
                ("the hand-over alone", f"{report.hand_over_us:.0f} µs"),
                (f"padding with mixed lengths ({mixed.prompts} prompts, {mixed.passes} passes)",
                 f"{mixed.padding:.1%}"),
            ),
        )
    )  # fmt: skip


def _policies(file: Path, report: PoliciesReport) -> Iterator[str]:
    command = f"python -m benchmarks.policies --tenants {report.tenants}"
    yield f"## {file.name}\n\n{report.machine.processor}:\n\n    {command}\n"
    load = report.machine.load_before
    yield markdown(
        Table(
            "What policies cost",
            ("what", "figure", "target", "met"),
            tuple(_row(one) for one in report.figures),
            "Detectors do nothing here: it is our own code alone. Medians, apart from what happens once. "
            + (f"Others were at work on this machine (load {load:.1f})." if load > 1 else "Nobody else was at work."),
        )
    )


def _row(one: _Figure) -> tuple[str, ...]:
    figure = f"{one.figure:.3g} {one.unit}"
    if one.target is None:
        return one.what, figure, "", ""
    return one.what, figure, f"≤ {one.target:g} {one.unit}", "yes" if one.figure <= one.target else "no"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reports", nargs="*", type=Path, help="JSON files; those in benchmarks/results if left out")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name} beside this file instead of printing")
    args = parser.parse_args()
    text = page(args.reports or committed())
    if args.write:
        PAGE.write_text(text, encoding="utf-8")
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
