"""`lec-guard check`: judges a text, or every line of a file."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import rich.console
import rich.progress
import rich.table
import rich.text
import typer
from pydantic import BaseModel, ConfigDict, ValidationError

from lec_guard.cli.terminal import BLOCKED, FAILED, console, fail, plain, stage_of
from lec_guard.errors import BundleError, LecGuardError, PolicyError
from lec_guard.guard import Guard
from lec_guard.step import STAGES, Outcome, Stage, Step, ToolRef

_CHUNK = 512
"""Rows that are judged together: output appears, and memory is bounded, by the chunk."""


class _Row(BaseModel):
    """A line of `--jsonl`."""

    model_config = ConfigDict(extra="allow")

    id: str | int | None = None
    text: str
    context: str | None = None
    stage: Stage = "input"
    tool: str | ToolRef | None = None
    tenant: str | None = None

    def step(self) -> Step:
        tool = ToolRef(name=self.tool) if isinstance(self.tool, str) else self.tool
        return Step(stage=self.stage, text=self.text, context=self.context, tool=tool)


def check(
    text: Annotated[str | None, typer.Argument(help="The text to judge; '-' or nothing reads standard input.")] = None,
    *,
    system: Annotated[str | None, typer.Option("--system", help="The context: the system prompt of a message.")] = None,
    stage: Annotated[str, typer.Option(help=f"Where the text passes: {', '.join(STAGES)}.")] = "input",
    tool: Annotated[str | None, typer.Option(help="The tool that the text belongs to.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Whose policy applies.")] = None,
    policies: Annotated[Path | None, typer.Option(help="Folder or file with policies; else the packaged one.")] = None,
    detector: Annotated[Path | None, typer.Option(help="Folder of a bundle; else the embedded one.")] = None,
    jsonl: Annotated[Path | None, typer.Option(help="File with one JSON object a line; '-' is standard input.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object a line instead of a table.")] = False,
) -> None:
    """Judge a text, or every line of a file.

    Exit code 0: all allowed or flagged; 3: at least one blocked; 2: wrong usage, policy or bundle; 1: the
    detector failed.

    A line of --jsonl has "text" and perhaps "id", "context", "stage", "tool" (a name, or an object with
    "name" and "description") and "tenant"; where it lacks stage, tool or tenant, the options count.
    """
    try:
        if jsonl is not None:
            if text is not None or system is not None:
                fail("give either a text (with --system) or --jsonl, not both")
            rows = _read_rows(jsonl, {"stage": stage, "tool": tool, "tenant": tenant})
        else:
            rows = [_Row(text=_given(text), context=system, stage=stage_of(stage), tool=tool, tenant=tenant)]
        guard = Guard.from_policies(policies, detector=detector)
        for row in rows:
            guard.policy(row.tenant)  # An unknown tenant in the last row costs no half-written result either.
        blocked = False
        for chunk, outcomes in _judge(guard, rows):
            blocked |= _print(chunk, outcomes, as_json=as_json)
        if blocked:
            raise typer.Exit(BLOCKED)
    except (PolicyError, BundleError) as error:
        fail(str(error))
    except LecGuardError as error:
        fail(str(error), FAILED)


def _given(text: str | None) -> str:
    """The argument, or standard input; bytes that are no UTF-8 are kept as lone surrogates and judged."""
    if text is not None and text != "-":
        return text
    if text is None and sys.stdin.isatty():
        fail("give a text, or pipe one in, or use --jsonl FILE")
    return sys.stdin.buffer.read().decode("utf-8", "surrogateescape")


def _read_rows(file: Path, defaults: dict[str, Any]) -> list[_Row]:
    """Read all lines before one is judged, so that a bad line costs no half-written result."""
    stage_of(defaults["stage"])
    try:
        lines = (sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()).split(b"\n")
    except OSError as error:
        fail(f"{file}: can't be read: {error.strerror}")
    rows, mistakes = [], []
    ignored: dict[str, int] = {}
    given = {key: value for key, value in defaults.items() if value is not None}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
            if isinstance(content, dict):
                content = given | {key: value for key, value in content.items() if value is not None}
            row = _Row.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            mistakes.append(f"{file}:{number}: {'.'.join(map(str, first['loc'])) or 'the line'}: {first['msg']}")
        except (ValueError, RecursionError) as error:
            mistakes.append(f"{file}:{number}: not a JSON object: {error}")
        else:
            rows.append(row)
            for key in row.model_extra or {}:
                ignored.setdefault(key, number)
    if mistakes:
        fail("\n".join([*mistakes[:20], f"{len(mistakes)} bad lines; nothing was judged"]))
    for key, number in ignored.items():
        typer.echo(f"lec-guard: {file}:{number}: the field {key!r} is not read", err=True)
    return rows


def _judge(guard: Guard, rows: list[_Row]) -> Iterator[tuple[list[_Row], list[Outcome]]]:
    terminal = rich.console.Console(stderr=True)
    starts = range(0, len(rows), _CHUNK)
    for at in rich.progress.track(
        starts,
        description="judging",
        console=terminal,
        transient=True,
        disable=len(starts) < 2 or not terminal.is_terminal,
    ):
        chunk = rows[at : at + _CHUNK]
        yield chunk, guard.apply_many([row.step() for row in chunk], [row.tenant for row in chunk])


def _print(rows: list[_Row], outcomes: list[Outcome], *, as_json: bool) -> bool:
    """Print verdicts; returns whether one of them blocks."""
    if as_json:
        for row, outcome in zip(rows, outcomes, strict=True):
            typer.echo(json.dumps(_record(row, outcome)))
    else:
        console().print(_table(rows, outcomes))
    return any(outcome.verdict.blocked for outcome in outcomes)


def _record(row: _Row, outcome: Outcome) -> dict[str, Any]:
    verdict = outcome.verdict.to_dict()
    keys = ("action", "rule", "scores", "spans", "stage", "tenant", "policy", "policy_version", "detector_id", "ms")
    return {"id": row.id, **{key: verdict[key] for key in keys}}


def _table(rows: list[_Row], outcomes: list[Outcome]) -> rich.table.Table:
    table = rich.table.Table("id", "action", "rule", "stage", "scores", "policy", "ms")
    colours = {"allow": "green", "flag": "yellow", "block": "red"}
    for row, outcome in zip(rows, outcomes, strict=True):
        verdict = outcome.verdict
        tops = (max(labels.items(), key=lambda item: item[1]) for labels in verdict.scores.values())
        scores = "  ".join(f"{head} {p:.2f}" for head, (_, p) in zip(verdict.scores, tops, strict=True))
        table.add_row(
            rich.text.Text(plain("" if row.id is None else str(row.id))),
            rich.text.Text(verdict.action, style=colours[verdict.action]),
            rich.text.Text(verdict.rule or ""),
            rich.text.Text(verdict.stage),
            rich.text.Text(scores),
            rich.text.Text(f"{verdict.policy} {verdict.policy_version}"),
            rich.text.Text(f"{verdict.ms:.1f}"),
        )
    return table
