"""`lec-guard train`: labelled texts in, a bundle out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lec_guard.cli import data as options
from lec_guard.cli.terminal import console, fail, mistakes_told, need, parts


def train(
    data: Annotated[list[Path] | None, typer.Argument(help="JSON lines, CSV, Parquet, or folders of them.")] = None,
    *,
    out: Annotated[Path | None, typer.Option(help="Folder for the new bundle.")] = None,
    head: Annotated[str | None, typer.Option(help="What policies are to call the head.")] = None,
    add: Annotated[
        str | None, typer.Option("--add-head", metavar="HEAD", help="Add this head to a bundle that is there.")
    ] = None,
    to: Annotated[Path | None, typer.Option(help="The bundle for --add-head; where it is new, see --from.")] = None,
    base: Annotated[
        Path | None, typer.Option("--from", help="What a new --to starts from; else the embedded bundle.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with all this and more; options override it.")] = None,
    model: Annotated[Path | None, typer.Option(help="Folder of a Hugging Face model; else the embedded one.")] = None,
    turn: Annotated[
        str | None,
        typer.Option(help="Read texts in the model's chat template, as this one's turn: user or assistant."),
    ] = None,
    layer: Annotated[list[int] | None, typer.Option(help="A layer to try; may be given again; else all.")] = None,
    pooling: Annotated[list[str] | None, typer.Option(help="A pooling to try; may be given again.")] = None,
    folds: Annotated[int | None, typer.Option(help="Parts that families are held out in.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Draws of each sample size of the learning curves.")] = None,
    max_fpr: Annotated[float | None, typer.Option(help="Share of benign texts that the policy may block.")] = None,
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
    """Fit a head of your own, on the layer that serves it best.

    Writes the bundle, a policy that blocks by the new head, a report (report.html), a model card (README.md) and all
    figures (train.json). The same command goes on where an interrupted one stopped. Exit code 0: written; 2: wrong
    usage, data or bundle; 1: the model failed.
    """
    need("train", "jinja2", "matplotlib")
    # Imported here, because no other command needs it.
    from lec_guard.train.config import TrainConfig
    from lec_guard.train.report import model_card, train_report
    from lec_guard.train.summary import train_summary
    from lec_guard.train.trainer import add_head
    from lec_guard.train.trainer import train as fit

    given = {
        "data": data or None,
        "head": add or head,
        "columns": options.columns(text, label, context, family, stage_column, language),
        "benign": benign,
        "positive": positive,
        "allow_labels": allow_label or None,
        "on_conflict": on_conflict,
        "sample": sample,
        "stage": stage,
        "model": model,
        "turn": turn,
        "layers": layer or None,
        "poolings": pooling or None,
        "folds": folds,
        "seeds": seeds,
        "max_fpr": max_fpr,
    }
    if add is not None:
        if to is None or out is not None or head is not None:
            fail("--add-head needs --to BUNDLE, and neither --out nor --head")
        if model is not None or turn is not None or layer or pooling:
            fail("--add-head reads what the bundle reads: leave out --model, --turn, --layer and --pooling")
    elif out is None or to is not None or base is not None:
        fail("give --out FOLDER for a new bundle, or --add-head HEAD --to BUNDLE for one that is there")
    with mistakes_told():
        run = TrainConfig.read(config, given)
        with parts() as progress:
            if to is not None:
                result, folder, name = add_head(run, to, base=base, progress=progress), to, f"{run.head}."
            else:
                assert out is not None  # noqa: S101 - the options were checked
                result, folder, name = fit(run, out, progress=progress), out, ""
        (folder / f"{name}report.html").write_text(train_report(result), encoding="utf-8")
        (folder / f"{name}README.md").write_text(model_card(result), encoding="utf-8")
    console().print(train_summary(result))
    typer.echo(f"lec-guard check --detector {folder} --policies {folder / f'{name}policy.yaml'} 'a text'")
