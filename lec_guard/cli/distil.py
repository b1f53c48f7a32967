"""`lec-guard distil`: labelled texts in, a bundle out whose layers were tuned to them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lec_guard.cli import data as options
from lec_guard.cli.terminal import FROM_CHECKPOINT, INTERRUPTED, console, fail, mistakes_told, need, parts


def distil(
    data: Annotated[list[Path] | None, typer.Argument(help="JSON lines, CSV, Parquet, or folders of them.")] = None,
    *,
    out: Annotated[Path, typer.Option(help="Folder for the new bundle.")],
    head: Annotated[str | None, typer.Option(help="What policies are to call the head.")] = None,
    base: Annotated[
        str | None, typer.Option(metavar="PATH|PACKAGE", help="Folder or package of a model; else the embedded one's.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with all this and more; options override it.")] = None,
    layers: Annotated[int | None, typer.Option(help="Layers to keep and tune; else two thirds.")] = None,
    pooling: Annotated[list[str] | None, typer.Option(help="A pooling to read; may be given again.")] = None,
    full: Annotated[bool | None, typer.Option("--full", help="Tune all weights; the bundle has a base then.")] = None,
    rank: Annotated[int | None, typer.Option(help="Rank of the adapters; else 16.")] = None,
    epochs: Annotated[int | None, typer.Option(help="How often as many texts are read as there are; else 3.")] = None,
    rate: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    scale: Annotated[float | None, typer.Option(help="How much of what adapters learnt to keep, up to 1.")] = None,
    low_fpr: Annotated[float | None, typer.Option(help="Weight of standing out from the worst false alarms.")] = None,
    worst_families: Annotated[float | None, typer.Option(help="How much more the worst families count.")] = None,
    held: Annotated[list[str] | None, typer.Option(metavar="FAMILY", help="A family that nothing is to see.")] = None,
    seed: Annotated[int | None, typer.Option(help="Decides all that is drawn.")] = None,
    max_fpr: Annotated[float | None, typer.Option(help="Share of benign texts that the policy may block.")] = None,
    minutes: Annotated[float | None, typer.Option(min=0.0, help="Stop tuning after so many; see --resume.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run that lies in --out.")] = False,
    text: options.Text = None,
    label: options.Label = None,
    score: Annotated[str | None, typer.Option(metavar="COLUMN", help="Column with a teacher's probability.")] = None,
    group: Annotated[str | None, typer.Option(metavar="COLUMN", help="Column with what is read together.")] = None,
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
    """Tune the kept layers of a model to your texts, and fit a head to them.

    Writes the bundle, a policy that blocks by the new head, and all figures (distil.json): how families that nothing
    has seen are told apart, before and after. Exit code 0: written; 130: stopped before the end, and --resume goes on;
    2: wrong usage, data or bundle; 1: the model failed.
    """
    need("train", "peft")
    # Imported here, because no other command needs it.
    from lec_guard.train.distil_run import DistilRun, Unfinished, distil_bundle
    from lec_guard.train.summary import distil_summary

    columns = options.columns(text, label, context, family, stage_column, language)
    columns |= {key: own for key, own in (("score", score), ("group", group)) if own is not None}
    given = {
        "data": data or None,
        "head": head,
        "columns": columns,
        "benign": benign,
        "positive": positive,
        "allow_labels": allow_label or None,
        "on_conflict": on_conflict,
        "sample": sample,
        "stage": stage,
        "base": base,
        "layers": layers,
        "poolings": pooling or None,
        "held": held or None,
        "scale": scale,
        "max_fpr": max_fpr,
        "tuning": {
            "full": full,
            "rank": rank,
            "epochs": epochs,
            "rate": rate,
            "low_fpr": low_fpr,
            "worst_families": worst_families,
            "seed": seed,
        },
    }
    with mistakes_told(FROM_CHECKPOINT), parts() as progress:
        result = distil_bundle(DistilRun.read(config, given), out, resume=resume, minutes=minutes, progress=progress)
    if isinstance(result, Unfinished):
        fail(f"the time is over after step {result.steps} of {result.total}; --resume goes on from here", INTERRUPTED)
    console().print(distil_summary(result))
    typer.echo(f"lec-guard check --detector {out} --policies {out / 'policy.yaml'} 'a text'")
