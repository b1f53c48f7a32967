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
import typer

from lec_guard.act.effects import Effects
from lec_guard.cli.rows import CHUNK, Row, read_rows
from lec_guard.cli.terminal import BLOCKED, FAILED, action_cell, cell, console, fail, plain, stage_of
from lec_guard.errors import BundleError, LecGuardError, PolicyError
from lec_guard.guard import Guard
from lec_guard.observe.events import ErrorEvent, Event
from lec_guard.step import STAGES, Outcome


class _Failures:
    """A sink that keeps why the detector failed."""

    def __init__(self) -> None:
        self.reasons: dict[str, None] = {}

    def emit(self, event: Event) -> None:
        if isinstance(event, ErrorEvent) and event.cause == "error":
            self.reasons[plain(str(event.reason))] = None


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

    Texts are rewritten as the policy says, and nobody is asked: where somebody would have to allow a text, or a chat
    model to write it anew, it is held back.

    Exit code 0: all may pass; 3: at least one may not; 2: wrong usage, policy or bundle; 1: the
    detector failed for at least one, whose verdict is what the policy's `fail` says.

    A line of --jsonl has "text" and perhaps "id", "context", "stage", "tool" (a name, or an object with
    "name" and "description") and "tenant"; where it lacks stage, tool or tenant, the options count.
    """
    try:
        if jsonl is not None:
            if text is not None or system is not None:
                fail("give either a text (with --system) or --jsonl, not both")
            # All of them before one is judged, so that a bad line costs no half-written result.
            rows = list(read_rows(jsonl, {"stage": stage_of(stage), "tool": tool, "tenant": tenant}))
        else:
            rows = [Row(text=_given(text), context=system, stage=stage_of(stage), tool=tool, tenant=tenant)]
        failures = _Failures()
        guard = Guard.from_policies(policies, detector=detector, sinks=[failures], effects=Effects(ask=False))
        for row in rows:
            guard.policy(row.tenant)  # An unknown tenant in the last row costs no half-written result either.
        held = False
        for chunk, outcomes in _judge(guard, rows):
            held |= _print(chunk, outcomes, as_json=as_json)
        if failures.reasons:
            fail("\n".join(failures.reasons), FAILED)
        if held:
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


def _judge(guard: Guard, rows: list[Row]) -> Iterator[tuple[list[Row], list[Outcome]]]:
    terminal = rich.console.Console(stderr=True)
    starts = range(0, len(rows), CHUNK)
    for at in rich.progress.track(
        starts,
        description="judging",
        console=terminal,
        transient=True,
        disable=len(starts) < 2 or not terminal.is_terminal,
    ):
        chunk = rows[at : at + CHUNK]
        yield chunk, guard.apply_many([row.step() for row in chunk], [row.tenant for row in chunk])


def _print(rows: list[Row], outcomes: list[Outcome], *, as_json: bool) -> bool:
    """Print verdicts; returns whether one of the texts may not pass."""
    if as_json:
        for row, outcome in zip(rows, outcomes, strict=True):
            typer.echo(json.dumps(_record(row, outcome)))
    else:
        console().print(_table(rows, outcomes))
    return any(outcome.text is None for outcome in outcomes)


def _record(row: Row, outcome: Outcome) -> dict[str, Any]:
    verdict = outcome.verdict.to_dict()
    keys = ("action", "rule", "scores", "spans", "stage", "tenant", "policy", "policy_version", "detector_id", "ms")
    rewritten = {"text": outcome.text} if outcome.edits else {}
    return {"id": row.id, **{key: verdict[key] for key in keys}, **rewritten}


def _table(rows: list[Row], outcomes: list[Outcome]) -> rich.table.Table:
    table = rich.table.Table("id", "action", "rule", "stage", "scores", "policy", "ms")
    for row, outcome in zip(rows, outcomes, strict=True):
        verdict = outcome.verdict
        tops = (max(labels.items(), key=lambda item: item[1]) for labels in verdict.scores.values())
        scores = "  ".join(f"{head} {p:.2f}" for head, (_, p) in zip(verdict.scores, tops, strict=True))
        table.add_row(
            cell(None if row.id is None else plain(str(row.id))),
            action_cell(verdict.action),
            cell(verdict.rule),
            cell(verdict.stage),
            cell(scores),
            cell(f"{verdict.policy} {verdict.policy_version}"),
            cell(f"{verdict.ms:.1f}"),
        )
    return table
