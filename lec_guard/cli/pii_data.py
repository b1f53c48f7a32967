"""`lec-guard pii-data`: dialogues in, preference pairs out, of an answer with personal data and one without."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import rich.table
import typer

from lec_guard.cli.terminal import ask_to_go_on, cell, console, fail, lines, mistakes_told, parts

if TYPE_CHECKING:
    from lec_guard.train.harmaug import Estimate
    from lec_guard.train.pii import PiiDataReport


def pii_data(
    data: Annotated[list[Path] | None, typer.Argument(help="JSON lines with dialogues, or folders of them.")] = None,
    *,
    out: Annotated[Path, typer.Option(help="Folder for what is made; the same one goes on where it was.")],
    config: Annotated[Path | None, typer.Option(help="YAML file with all this and more; options override it.")] = None,
    generator: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL", help="Writes answers: provider:name, hf:FOLDER or python:MODULE:NAME; give two."),
    ] = None,
    ner: Annotated[
        str | None, typer.Option(metavar="MODEL", help="spaCy model that looks for names; else one that is installed.")
    ] = None,
    no_ner: Annotated[bool, typer.Option("--no-ner", help="Look for no names and places: patterns alone.")] = False,
    allow: Annotated[
        list[str] | None, typer.Option(metavar="ENTITY", help="What an answer may have; may be given again.")
    ] = None,
    guided: Annotated[bool | None, typer.Option(help="Write each pair under both system prompts.")] = None,
    prefixes: Annotated[bool | None, typer.Option(help="Make samples that begin within an answer, too.")] = None,
    held: Annotated[float | None, typer.Option(help="Share of dialogues that are kept for measuring.")] = None,
    retries: Annotated[int | None, typer.Option(help="How often a generator is asked anew.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Calls of a model at once.")] = None,
    rpm: Annotated[float | None, typer.Option(help="Calls of a model that start within a minute.")] = None,
    seed: Annotated[int | None, typer.Option(help="What is held out, and a local model's words.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask whether the estimated cost is all right.")] = False,
) -> None:
    """Make pairs to learn from: answers that give personal data away, and such that don't (arXiv 2412.06846).

    Writes pairs.jsonl, which tune reads, held.jsonl, which pii-eval reads, and all counts (pii_data.json). The files
    hold the personal data of your dialogues. The same command goes on where an interrupted one stopped. Exit code 0:
    written; 2: wrong usage, data or settings; 1: a model failed, or wrote nothing of use.
    """
    if ner is not None and no_ner:
        fail("give --ner or --no-ner, not both")
    # Imported here, because no other command needs it.
    from lec_guard.train.pii import PiiDataConfig, PiiSamples, estimate_pairs, make_pairs

    given = {
        "data": data or None,
        "generators": [{"model": one} for one in generator] if generator else None,
        "pii": {"ner": False if no_ner else ner, "allowed": allow or None},
        "guided": guided,
        "prefixes": prefixes,
        "held": held,
        "retries": retries,
        "concurrency": concurrency,
        "requests_per_minute": rpm,
        "seed": seed,
    }
    with mistakes_told():
        run = PiiDataConfig.read(config, given)
        samples = PiiSamples.read(run)
        _print_estimate(estimate_pairs(run, samples.learnt))
        if not yes:
            ask_to_go_on()
        with parts() as progress:
            report = make_pairs(run, out, samples=samples, progress=progress)
    _print_report(report)
    typer.echo(f"lec-guard tune {out / 'pairs.jsonl'} --model FOLDER --out ADAPTERS")


def _print_estimate(found: Estimate) -> None:
    table = rich.table.Table("model", "calls", "tokens read", "tokens written", "cost")
    for part in found.parts:
        numbers = [f"{number:,}" for number in (part.calls, part.tokens_in, part.tokens_out)]
        table.add_row(*map(cell, (part.model, *numbers, "" if part.cost is None else f"{part.cost:,.2f}")))
    console().print(table)
    total = "" if found.cost is None else f"about {found.cost:,.2f} in all, "
    typer.echo(f"{total}{found.most} times as much at most; what is there is not asked again")


def _print_report(report: PiiDataReport) -> None:
    table = rich.table.Table("generator", "kept", "missing", "of no use", "personal data in those", "cost")
    for name, own in report.answered.items():
        no_use, kinds = (
            "\n".join(f"{count:,} {what}" for what, count in found.items()) for found in (own.no_use, own.kinds)
        )
        cost = report.asked[name].cost
        shown = (name, f"{own.kept:,}", f"{own.missing:,}", no_use, kinds, "" if cost is None else f"{cost:,.2f}")
        table.add_row(*map(cell, shown))
    console().print(table)
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in report.kinds.items())
    typer.echo(
        f"{report.dialogues:,} dialogues ({report.repeated:,} lines more that repeat one), {report.answers:,} answers, "
        f"{report.without:,} of them without personal data, {sum(report.unread.values()):,} unread"
    )
    typer.echo(f"{report.samples:,} samples: {kinds}")
    typer.echo(f"{report.rows:,} pairs, {report.swapped:,} of them swapped; {report.prompts:,} prompts are held out")
    for note in report.notes:
        typer.echo(lines(note))
