"""`lec-guard scan`: judges what was logged."""

from __future__ import annotations

from typing import Annotated

import rich.console
import rich.progress
import typer

from lec_guard.act.effects import Effects
from lec_guard.cli.terminal import FAILED, INTERRUPTED, fail, need, stage_of
from lec_guard.errors import LecGuardError, PolicyError, UnsupportedValueError
from lec_guard.guard import Guard
from lec_guard.scan import COLUMNS, PART_ROWS, scan
from lec_guard.step import STAGES


def scan_table(
    source: Annotated[str, typer.Argument(help="A Parquet file: a path, or s3://…")],
    *,
    out: Annotated[str, typer.Option(help="Where the verdicts go, as Parquet.")],
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=COLUMN", help=f"What a column is called; NAME is of {', '.join(COLUMNS)}."),
    ] = None,
    stage: Annotated[str, typer.Option(help=f"Of rows that name none: {', '.join(STAGES)}.")] = "input",
    tenant: Annotated[str | None, typer.Option(help="Of rows that name none.")] = None,
    policies: Annotated[str | None, typer.Option(help="Folder or file with policies; else the packaged one.")] = None,
    detector: Annotated[
        str | None, typer.Option(help="Folder of a bundle, or URL of a server; else the embedded one.")
    ] = None,
    scores: Annotated[bool, typer.Option("--scores", help="Keep scores, as JSON.")] = False,
    part: Annotated[int, typer.Option(min=1, help="Rows of a part.")] = PART_ROWS,
) -> None:
    """Judge each row of a table of texts; the verdicts have no text.

    What was interrupted goes on with the same command. Exit code 2: wrong usage, table, policy or bundle; 1: a text
    could not be judged; 130: interrupted.
    """
    need("train", "pyarrow")
    stage_of(stage)
    named = dict(one.partition("=")[::2] for one in column or [])
    terminal = rich.console.Console(stderr=True)
    bar = rich.progress.Progress(
        rich.progress.TextColumn("scanning"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeRemainingColumn(),
        console=terminal,
        disable=not terminal.is_terminal,
    )
    try:
        guard = Guard.from_policies(policies, detector=detector, effects=Effects(ask=False))
        with bar:
            task = bar.add_task("scanning")
            found = scan(
                source,
                out,
                guard,
                columns=named,
                stage=stage,
                tenant=tenant,
                scores=scores,
                part_rows=part,
                progress=lambda done, rows: bar.update(task, completed=done, total=rows),
            )
    except KeyboardInterrupt:
        typer.echo("lec-guard: interrupted; the same command goes on", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except (PolicyError, UnsupportedValueError) as error:
        fail(str(error))
    except LecGuardError as error:
        fail(str(error), FAILED)
    told = ", ".join(f"{action} {count:,}" for action, count in sorted(found.actions.items()))
    again = f" ({found.resumed:,} of them before)" if found.resumed else ""
    typer.echo(f"{found.rows:,} rows{again}: {told}", err=True)
