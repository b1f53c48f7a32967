"""`lec-guard audit`: whether an audit log is as it was written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lec_guard.cli.terminal import BLOCKED, fail, plain
from lec_guard.errors import SinkError
from lec_guard.observe.audit import Report
from lec_guard.observe.audit import verify as verified


def verify(
    path: Annotated[Path, typer.Argument(help="The log's newest file; the older ones and the head stand beside it.")],
    *,
    key_env: Annotated[
        list[str], typer.Option(help="Environment variable with the key; again for each older key.", show_default=False)
    ],
    first_file: Annotated[int, typer.Option(min=1, help="Number of the oldest file that was kept.")] = 1,
    head: Annotated[Path | None, typer.Option(help="A copy of the head that was kept elsewhere.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object instead of words.")] = False,
) -> None:
    """Find out whether an audit log was changed, cut or written by somebody else.

    Exit code 0: it is as it was written; 3: it is not; 2: wrong usage, no key, or a file that can't be read.
    """
    try:
        report = verified(path, key_env[0], older_keys=key_env[1:], first_file=first_file, head=head)
    except SinkError as error:
        fail(str(error))
    typer.echo(json.dumps(report.to_dict()) if as_json else _words(report))
    if not report.ok:
        raise typer.Exit(BLOCKED)


def _words(report: Report) -> str:
    read = f"{report.records} records ({report.events} events) of {report.files} files"
    if report.finding is None:
        aside = f"; {report.set_aside} had no end and were set aside" if report.set_aside else ""
        return plain(f"ok: log {report.log}: {read} are as they were written{aside}")
    return plain(f"{report.finding.kind}: {report.finding.message}; {read} were read that are as they were written")
