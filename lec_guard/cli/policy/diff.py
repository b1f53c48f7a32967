"""`lec-guard policy diff`: what would change if one policy took the place of another."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import rich.table
import typer

from lec_guard.act.effects import Effects
from lec_guard.cli.policy.options import HERE, AsJson, Bundle, told
from lec_guard.cli.rows import CHUNK, read_rows
from lec_guard.cli.terminal import action_cell, cell, console, fail, plain
from lec_guard.guard import Guard
from lec_guard.policy.diff import Diff, Judged, compare, pair
from lec_guard.policy.store import InForce
from lec_guard.policy.trial import unhurried

_SHOWN = 300
"""Characters of an example."""


def compare_policies(
    live: Annotated[str, typer.Argument(help="The policy that is in force: its name, or a file.")],
    candidate: Annotated[str, typer.Argument(help="The one that would take its place: TENANT/NAME too, or a file.")],
    data: Annotated[Path, typer.Argument(help="Texts, as `check --jsonl` reads them; '-' is standard input.")],
    *,
    policies: Annotated[
        Path | None, typer.Option(help="Folder with the policies; else `policies`, if it is there.")
    ] = None,
    detector: Bundle = None,
    examples: Annotated[int, typer.Option(min=0, help="Show so many texts of each change.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Show what would change if one policy took the place of another, on texts of your own.

    Each text is scored once and judged by both, under the floor of the folder. What they say counts even where they
    only watch (mode: shadow); time limits don't count. Exit code 0: compared; 2: wrong usage, policy, bundle or
    data.
    """
    folder = policies if policies is not None or not HERE.is_dir() else HERE
    with told():
        guard = Guard.from_policies(folder, detector=detector, effects=Effects(ask=False))
        both = unhurried(pair(_named(guard, live), _named(guard, candidate)))
        found = compare(_judged(guard, both, data), examples, both)
    if not found.texts:
        fail(f"{data}: no texts to compare on")
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=2))
    else:
        _print(found, live, candidate)


def _named(guard: Guard, name: str) -> InForce:
    file = Path(name)
    return guard.policies.read(file) if file.is_file() else guard.policies.named(name)


def _judged(guard: Guard, both: InForce, data: Path) -> Iterator[Judged]:
    rows = enumerate(read_rows(data, {}), start=1)
    while chunk := list(itertools.islice(rows, CHUNK)):
        verdicts = guard.try_out([row.step() for _, row in chunk], [both] * len(chunk))
        for (number, row), verdict in zip(chunk, verdicts, strict=True):
            yield Judged(str(number if row.id is None else row.id), row.text, verdict)


def _print(found: Diff, live: str, candidate: str) -> None:
    terminal = console()
    moves = rich.table.Table(
        "stage", "now", "then", "texts", "of all", title=f"{plain(live)} -> {plain(candidate)}", title_justify="left"
    )
    for move in found.moves:
        share = f"{move.texts / found.texts:.2%}"
        moves.add_row(
            cell(move.stage), action_cell(move.live), action_cell(move.candidate), cell(move.texts), cell(share),
            style="" if move.live == move.candidate else "bold",
        )  # fmt: skip
    terminal.print(moves)
    rules = rich.table.Table(
        "rule", "matches now", "would match", "newly", "no more", title="by rule", title_justify="left"
    )
    for rule in found.rules:
        words = (rule.rule, rule.live, rule.candidate, rule.gained, rule.lost)
        rules.add_row(*(cell(word) for word in words))
    if found.rules:
        terminal.print(rules)
    if found.guidance:
        guided = rich.table.Table(
            "least trusted text of", "now", "then", title="guidance of local models", title_justify="left"
        )
        for change in found.guidance:
            pairs = ((change.live, change.live_space), (change.candidate, change.candidate_space))
            guided.add_row(cell(change.origin), *(cell(_guidance(*one)) for one in pairs))
        terminal.print(guided)
    if found.examples:
        shown = rich.table.Table("id", "stage", "now", "then", "text", title="examples", title_justify="left")
        for one in found.examples:
            text = one.text if len(one.text) <= _SHOWN else f"{one.text[:_SHOWN]} …"
            now, then = (
                f"{action} ({rule})" if rule else action
                for action, rule in ((one.live, one.live_rule), (one.candidate, one.candidate_rule))
            )
            shown.add_row(cell(plain(one.id)), cell(one.stage), cell(now), cell(then), cell(plain(text)))
        terminal.print(shown)
    typer.echo(f"{found.changed} of {found.texts} texts would be treated otherwise")


def _guidance(coefficient: float | None, space: str | None) -> str:
    return "not said" if coefficient is None else f"{coefficient:g}, {space}"
