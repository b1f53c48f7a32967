"""`lec-guard augment`: labelled texts in, more of them out, made by a chat model and labelled by a teacher."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import rich.table
import typer

from lec_guard.cli import data as options
from lec_guard.cli.terminal import ask_to_go_on, cell, console, fail, lines, mistakes_told, parts

if TYPE_CHECKING:
    from lec_guard.train.harmaug import Estimate, Report

_ROLES = ("generator", "responder", "teacher")


def augment(
    data: Annotated[list[Path] | None, typer.Argument(help="JSON lines, CSV, Parquet, or folders of them.")] = None,
    *,
    out: Annotated[Path, typer.Option(help="Folder for what is made; the same one goes on where it was.")],
    config: Annotated[Path | None, typer.Option(help="YAML file with all this and more; options override it.")] = None,
    generator: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Writes: provider:name, hf:FOLDER or python:MODULE:NAME.")
    ] = None,
    responder: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Writes responses; else the generator does.")
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Labels: as a generator, a classifier's hf:FOLDER, or bundle:DIR."),
    ] = None,
    teacher_head: Annotated[str | None, typer.Option(metavar="HEAD", help="Which head of a bundle labels.")] = None,
    teacher_benign: Annotated[
        str | None, typer.Option(metavar="LABEL", help="Which label of a classifier is the benign one.")
    ] = None,
    count: Annotated[int | None, typer.Option(help="Harmful instructions to make.")] = None,
    exemplars: Annotated[int | None, typer.Option(help="Labelled texts that a prompt shows.")] = None,
    asks: Annotated[int | None, typer.Option(help="How often a chat model is asked for a label.")] = None,
    max_spread: Annotated[float | None, typer.Option(help="How far its answers may lie apart.")] = None,
    twins: Annotated[bool | None, typer.Option(help="Make a harmless twin of each instruction.")] = None,
    responses: Annotated[bool | None, typer.Option(help="Make two answers to each instruction.")] = None,
    price: Annotated[
        list[str] | None,
        typer.Option(metavar="ROLE=IN/OUT", help="Price of a million tokens read and written; may be given again."),
    ] = None,
    concurrency: Annotated[int | None, typer.Option(help="Calls of a model at once.")] = None,
    rpm: Annotated[float | None, typer.Option(help="Calls of a model that start within a minute.")] = None,
    seed: Annotated[int | None, typer.Option(help="What draws exemplars, and a local model's words.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask whether the estimated cost is all right.")] = False,
    category: Annotated[str | None, typer.Option(metavar="COLUMN", help="Column with a row's topic.")] = None,
    text: options.Text = None,
    label: options.Label = None,
    context: options.Context = None,
    family: options.Family = None,
    stage_column: options.StageColumn = None,
    language: options.Language = None,
    benign: options.Benign = None,
    positive: options.Positive = None,
    allow_label: options.AllowLabel = None,
    on_conflict: options.OnConflict = None,
    sample: options.Sample = None,
    stage: options.DefaultStage = None,
) -> None:
    """Make training examples with a chat model, each with a soft label of a teacher (HarmAug).

    Writes examples.jsonl, which train reads, what was set aside (set_aside.jsonl) and all counts (augment.json). What
    is made is harmful by intent: keep it where your other attack texts are. The same command goes on where an
    interrupted one stopped. Exit code 0: written; 2: wrong usage, data or settings; 1: a model failed, or made nothing
    of use.
    """
    # Imported here, because no other command needs it.
    from lec_guard.train.harmaug import AugmentConfig, Exemplars, estimate
    from lec_guard.train.harmaug import augment as make

    prices = _prices(price or [])
    models: dict[str, dict[str, Any]] = {
        "generator": {"model": generator},
        "responder": {"model": responder},
        "teacher": {
            "model": teacher, "head": teacher_head, "benign": teacher_benign, "asks": asks, "max_spread": max_spread,
        },
    }  # fmt: skip
    given = {
        "data": data or None,
        **{role: {**models[role], **prices.get(role, {})} for role in _ROLES},
        "count": count,
        "exemplars": exemplars,
        "twins": twins,
        "responses": responses,
        "concurrency": concurrency,
        "requests_per_minute": rpm,
        "seed": seed,
        "category": category,
        "columns": options.columns(text, label, context, family, stage_column, language),
        "benign": benign,
        "positive": positive,
        "allow_labels": allow_label or None,
        "on_conflict": on_conflict,
        "sample": sample,
        "stage": stage,
    }
    with mistakes_told():
        run = AugmentConfig.read(config, given)
        start = Exemplars.read(run)
        _print_estimate(estimate(run, start))
        if not yes:
            ask_to_go_on()
        with parts() as progress:
            report = make(run, out, exemplars=start, progress=progress)
    _print_report(report)
    typer.echo(f"lec-guard train {out / 'examples.jsonl'} --label score --head HEAD --out BUNDLE")


def _prices(given: list[str]) -> dict[str, dict[str, str]]:
    """Role -> its prices, as words that the config reads."""
    found = {}
    for one in given:
        role, equals, both = one.partition("=")
        price_in, slash, price_out = both.partition("/")
        if role not in _ROLES or not (equals and slash):
            fail(f"--price {one}: write ROLE=IN/OUT, with a role of {', '.join(_ROLES)}")
        found[role] = {"price_in": price_in, "price_out": price_out}
    return found


def _print_estimate(found: Estimate) -> None:
    table = rich.table.Table("for", "model", "calls", "tokens read", "tokens written", "cost")
    for part in found.parts:
        cost = "" if part.cost is None else f"{part.cost:,.2f}"
        numbers = [f"{number:,}" for number in (part.calls, part.tokens_in, part.tokens_out)]
        table.add_row(*map(cell, (part.role, part.model, *numbers, cost)))
    console().print(table)
    total = "" if found.cost is None else f"about {found.cost:,.2f} in all, "
    typer.echo(
        f"{total}{found.most} times as much at most, where answers are of no use; what is there is not asked again"
    )


def _print_report(report: Report) -> None:
    table = rich.table.Table("made", "wanted", "harmful", "harmless", "set aside", "missing", "of no use")
    for kind, own in report.made.items():
        aside, no_use = (
            "\n".join(f"{count:,} {why}" for why, count in what.items()) for what in (own.set_aside, own.no_use)
        )
        numbers = [f"{number:,}" for number in (own.wanted, own.harmful, own.harmless)]
        table.add_row(*map(cell, (kind, *numbers, aside, f"{own.missing:,}", no_use)))
    console().print(table)
    for role, asked in report.asked.items():
        cost = "" if asked.cost is None else f", cost {asked.cost:,.2f}"
        typer.echo(
            lines(
                f"{role} {asked.model}: {asked.calls:,} calls, {asked.tokens_in:,} tokens read, "
                f"{asked.tokens_out:,} written{cost}"
            )
        )
    for note in report.notes:
        typer.echo(lines(note))
    typer.echo(f"{report.rows:,} rows of {len(report.families):,} families")
