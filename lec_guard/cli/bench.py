"""`lec-guard bench`: measures the detector on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import rich.table
import rich.text
import typer

from lec_guard.cli.terminal import FAILED, console, fail, plain
from lec_guard.errors import BundleError, LecGuardError

if TYPE_CHECKING:
    from lec_guard.bench.tables import Table


def bench(
    *,
    detector: Annotated[Path | None, typer.Option(help="Folder of a bundle; else the embedded one.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Measure this part; may be given again.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds of whatever takes turns, at least 1.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Few rounds and lengths, and no decoder to compare.")] = False,
    long: Annotated[bool, typer.Option("--long", help="Score a text of 50 MB too; takes minutes.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the report to this file, as JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON instead of tables.")] = False,
) -> None:
    """Measure the detector on this machine.

    Parts: machine, latency, throughput, costs, overhead, cold-start, memory, others; without --only all of them.
    What is compared takes turns in one process, so that a busy machine hits all of it alike; figures are medians.
    Exit code 0: measured; 1: a part failed; 2: wrong usage or bundle.
    """
    # Imported here, because no other command needs it.
    from lec_guard.bench.detectors import Detectors
    from lec_guard.bench.plan import PARTS, make_plan
    from lec_guard.bench.run import run
    from lec_guard.bench.tables import tables

    chosen = tuple(part for part in PARTS if part in (only or ()))
    unknown = [word for word in only or () if word not in PARTS]
    if unknown:
        fail(f"unknown part {unknown[0]!r}; use one of {', '.join(PARTS)}")
    if rounds is not None and rounds < 1:
        fail(f"--rounds must be at least 1, not {rounds}")
    if out is not None and (out.is_dir() or not os.access(out if out.exists() else out.parent, os.W_OK)):
        fail(f"{out}: can't be written")
    words = ["lec-guard bench"]
    words += ["--detector BUNDLE"] * (detector is not None) + ["--quick"] * quick + ["--long"] * long
    words += [f"--only {part}" for part in chosen] + ([] if rounds is None else [f"--rounds {rounds}"])
    try:
        report = run(
            Detectors(detector),
            make_plan(quick=quick, long=long, rounds=rounds, parts=chosen),
            command=" ".join(words),
            tell=lambda part: typer.echo(f"lec-guard: measuring {part}", err=True),
        )
    except BundleError as error:
        fail(str(error))
    except LecGuardError as error:
        fail(str(error), FAILED)
    if out is not None:
        out.write_text(report.to_json(), encoding="utf-8")
    if as_json:
        typer.echo(report.to_json(), nl=False)
    else:
        terminal = console()
        for table in tables(report):
            terminal.print(_shown(table))
    if any(one.failed for one in report.skipped):
        raise typer.Exit(FAILED)


def _shown(table: Table) -> rich.table.Table:
    shown = rich.table.Table(*table.columns, title=table.title, caption=table.note, title_justify="left")
    for row in table.rows:
        shown.add_row(*(rich.text.Text(plain(cell)) for cell in row))
    return shown
