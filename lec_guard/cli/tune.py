"""`lec-guard tune`: preference pairs in, adapters of a local model out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import rich.table
import typer

from lec_guard.cli.terminal import FROM_CHECKPOINT, INTERRUPTED, cell, console, fail, lines, mistakes_told, need, parts

if TYPE_CHECKING:
    from lec_guard.train.pii import TuneReport


def tune(
    pairs: Annotated[list[Path] | None, typer.Argument(help="What pii-data wrote: JSON lines, or folders.")] = None,
    *,
    out: Annotated[Path, typer.Option(help="Folder for the adapters.")],
    model: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="A local causal language model with a chat template.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with all this and more; options override it.")] = None,
    beta: Annotated[float | None, typer.Option(help="Weight of the odds ratio; else 0.1.")] = None,
    rank: Annotated[int | None, typer.Option(help="Rank of the adapters; else 16.")] = None,
    alpha: Annotated[float | None, typer.Option(help="They count alpha / rank times; else 32.")] = None,
    rate: Annotated[float | None, typer.Option(help="Learning rate at first; else 1e-4.")] = None,
    epochs: Annotated[int | None, typer.Option(help="How often all pairs are read; else 3.")] = None,
    batch: Annotated[int | None, typer.Option(help="Pairs that are read together; else 2.")] = None,
    accumulate: Annotated[int | None, typer.Option(help="Batches of one step; else 1.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Tokens of a prompt and its answer; else 2048.")] = None,
    max_prompt: Annotated[int | None, typer.Option(help="Tokens of a prompt; else 1900.")] = None,
    seed: Annotated[int | None, typer.Option(help="Decides all that is drawn.")] = None,
    minutes: Annotated[float | None, typer.Option(min=0.0, help="Stop tuning after so many; see --resume.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run that lies in --out.")] = False,
) -> None:
    """Tune a local model by ORPO with LoRA, so that its answers give no personal data away.

    Writes the adapters as safetensors, what they belong to (adapters.json), and all figures (tune.json). Nothing is
    pickled. Exit code 0: written; 130: stopped before the end, and --resume goes on; 2: wrong usage, data or model;
    1: the model failed.
    """
    need("tune", "trl", "peft")
    # Imported here, because no other command needs it.
    from lec_guard.train.distil_run import Unfinished
    from lec_guard.train.pii import TuneConfig
    from lec_guard.train.pii import tune as run_of

    given = {
        "pairs": pairs or None,
        "model": model,
        "beta": beta,
        "rank": rank,
        "alpha": alpha,
        "rate": rate,
        "epochs": epochs,
        "batch": batch,
        "accumulate": accumulate,
        "max_length": max_length,
        "max_prompt": max_prompt,
        "seed": seed,
    }
    with mistakes_told(FROM_CHECKPOINT), parts() as progress:
        result = run_of(TuneConfig.read(config, given), out, resume=resume, minutes=minutes, progress=progress)
    if isinstance(result, Unfinished):
        fail(f"the time is over after step {result.steps} of {result.total}; --resume goes on from here", INTERRUPTED)
    _print(result)
    typer.echo(f"lec-guard pii-eval held.jsonl --model {result.settings['model']} --adapters {out} --out MEASURED")


def _print(report: TuneReport) -> None:
    first, last = (report.course[0], report.course[-1]) if report.course else (None, None)
    rows = [
        ("pairs", f"{report.pairs:,} of {report.dialogues:,} dialogues"),
        ("adapters", f"{report.parameters:,} numbers, {report.bytes / 1e6:,.1f} MB"),
        ("on", ", ".join(report.targets)),
        ("base", f"{report.base[:16]}…, {report.dtype}, on {report.device}"),
        ("took", f"{report.steps:,} steps, {report.seconds:,.0f} s"),
    ]
    if first is not None and last is not None:
        rows += [
            ("loss", f"{first.loss:.3f} at step {first.step:,}, {last.loss:.3f} at step {last.step:,}"),
            ("chosen answer preferred", f"{first.preferred:.0%}, then {last.preferred:.0%} of pairs learnt from"),
        ]
    table = rich.table.Table("what", "value")
    for row in rows:
        table.add_row(*map(cell, row))
    console().print(table)
    for note in report.notes:
        typer.echo(lines(note))
