"""The `lec-guard` command."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from lec_guard.detect.bundle import EMBEDDED, read_bundle
from lec_guard.detect.pull import pull
from lec_guard.errors import BundleError, LecGuardError, PolicyError
from lec_guard.guard import Guard
from lec_guard.step import STAGES, Outcome, Stage, Step, ToolRef

if TYPE_CHECKING:
    from lec_guard.bench.tables import Table

try:
    import rich.console
    import rich.progress
    import rich.table
    import rich.text
    import typer
except ModuleNotFoundError as missing:  # pragma: no cover - the test runs this in an interpreter of its own
    sys.exit(f"the lec-guard command needs {missing.name}; run: pip install 'lec-guard[cli]'")

ALLOWED, FAILED, USAGE, BLOCKED = 0, 1, 2, 3
"""Exit codes."""

_CHUNK = 512
"""Rows that are judged together: output appears, and memory is bounded, by the chunk."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A guardrail that runs inside your process.",
)
bundle_app = typer.Typer(no_args_is_help=True, help="Detectors on disk.")
app.add_typer(bundle_app, name="bundle")


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


@app.command()
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
                _fail("give either a text (with --system) or --jsonl, not both")
            rows = _read_rows(jsonl, {"stage": stage, "tool": tool, "tenant": tenant})
        else:
            rows = [_Row(text=_given(text), context=system, stage=_stage(stage), tool=tool, tenant=tenant)]
        guard = Guard.from_policies(policies, detector=detector)
        for row in rows:
            guard.policy(row.tenant)  # An unknown tenant in the last row costs no half-written result either.
        blocked = False
        for chunk, outcomes in _judge(guard, rows):
            blocked |= _print(chunk, outcomes, as_json=as_json)
        if blocked:
            raise typer.Exit(BLOCKED)
    except (PolicyError, BundleError) as error:
        _fail(str(error))
    except LecGuardError as error:
        _fail(str(error), FAILED)


@bundle_app.command("pull")
def bundle_pull(reference: Annotated[str, typer.Argument(help="org/name@revision, the full commit hash.")]) -> None:
    """Fetch base weights or a bundle from the model hub, once, at a pinned commit.

    Nothing else in lec-guard ever downloads. LEC_GUARD_HOME names the store.
    """
    try:
        typer.echo(pull(reference))
    except BundleError as error:
        _fail(str(error))


@bundle_app.command("export")
def bundle_export(
    to: Annotated[Path, typer.Argument(help="Folder to write to; must not exist yet.")],
    *,
    bundle: Annotated[Path | None, typer.Option(help="Folder of a bundle; else the embedded one.")] = None,
    dtype: Annotated[str, typer.Option(help="fp32, or int8 for the matrix products.")] = "fp32",
) -> None:
    """Write a bundle for ONNX Runtime that needs no torch and no base weights where it runs."""
    try:
        # Imported here, because it needs torch and the packages of an extra.
        from lec_guard.detect.export import export

        if to.exists():
            _fail(f"{to}: exists already; give a new folder")
        if dtype not in ("fp32", "int8"):
            _fail(f"unknown dtype {dtype!r}; use fp32 or int8")
        export(read_bundle(bundle or EMBEDDED), to, "int8" if dtype == "int8" else "fp32")
    except BundleError as error:
        _fail(str(error))
    typer.echo(to)


@app.command()
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
        _fail(f"unknown part {unknown[0]!r}; use one of {', '.join(PARTS)}")
    if rounds is not None and rounds < 1:
        _fail(f"--rounds must be at least 1, not {rounds}")
    if out is not None and (out.is_dir() or not os.access(out if out.exists() else out.parent, os.W_OK)):
        _fail(f"{out}: can't be written")
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
        _fail(str(error))
    except LecGuardError as error:
        _fail(str(error), FAILED)
    if out is not None:
        out.write_text(report.to_json(), encoding="utf-8")
    if as_json:
        typer.echo(report.to_json(), nl=False)
    else:
        console = rich.console.Console(width=None if sys.stdout.isatty() else 160)
        for table in tables(report):
            console.print(_shown(table))
    if any(one.failed for one in report.skipped):
        raise typer.Exit(FAILED)


def _shown(table: Table) -> rich.table.Table:
    shown = rich.table.Table(*table.columns, title=table.title, caption=table.note, title_justify="left")
    for row in table.rows:
        shown.add_row(*(rich.text.Text(_plain(cell)) for cell in row))
    return shown


def _fail(message: str, code: int = USAGE) -> None:
    typer.echo(f"lec-guard: {message}", err=True)
    raise typer.Exit(code)


def _stage(word: str) -> Stage:
    for stage in STAGES:
        if word == stage:
            return stage
    _fail(f"unknown stage {word!r}; use one of {', '.join(STAGES)}")
    raise AssertionError


def _given(text: str | None) -> str:
    """The argument, or standard input; bytes that are no UTF-8 are kept as lone surrogates and judged."""
    if text is not None and text != "-":
        return text
    if text is None and sys.stdin.isatty():
        _fail("give a text, or pipe one in, or use --jsonl FILE")
    return sys.stdin.buffer.read().decode("utf-8", "surrogateescape")


def _read_rows(file: Path, defaults: dict[str, Any]) -> list[_Row]:
    """Read all lines before one is judged, so that a bad line costs no half-written result."""
    _stage(defaults["stage"])
    try:
        lines = (sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()).split(b"\n")
    except OSError as error:
        _fail(f"{file}: can't be read: {error.strerror}")
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
        _fail("\n".join([*mistakes[:20], f"{len(mistakes)} bad lines; nothing was judged"]))
    for key, number in ignored.items():
        typer.echo(f"lec-guard: {file}:{number}: the field {key!r} is not read", err=True)
    return rows


def _judge(guard: Guard, rows: list[_Row]) -> Iterator[tuple[list[_Row], list[Outcome]]]:
    console = rich.console.Console(stderr=True)
    starts = range(0, len(rows), _CHUNK)
    for at in rich.progress.track(
        starts,
        description="judging",
        console=console,
        transient=True,
        disable=len(starts) < 2 or not console.is_terminal,
    ):
        chunk = rows[at : at + _CHUNK]
        yield chunk, guard.apply_many([row.step() for row in chunk], [row.tenant for row in chunk])


def _print(rows: list[_Row], outcomes: list[Outcome], *, as_json: bool) -> bool:
    """Print verdicts; returns whether one of them blocks."""
    if as_json:
        for row, outcome in zip(rows, outcomes, strict=True):
            typer.echo(json.dumps(_record(row, outcome)))
    else:
        console = rich.console.Console(width=None if sys.stdout.isatty() else 160)
        console.print(_table(rows, outcomes))
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
            rich.text.Text(_plain("" if row.id is None else str(row.id))),
            rich.text.Text(verdict.action, style=colours[verdict.action]),
            rich.text.Text(verdict.rule or ""),
            rich.text.Text(verdict.stage),
            rich.text.Text(scores),
            rich.text.Text(f"{verdict.policy} {verdict.policy_version}"),
            rich.text.Text(f"{verdict.ms:.1f}"),
        )
    return table


def _plain(word: str) -> str:
    """A word from a file, harmless to a terminal: no control, bidi or other invisible characters."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in word)


if __name__ == "__main__":
    app()
