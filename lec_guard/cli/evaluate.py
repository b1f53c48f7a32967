"""`lec-guard eval`: bundles side by side on labelled texts, with trivial baselines in the same run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lec_guard.cli import data as options
from lec_guard.cli.terminal import FAILED, console, fail, need, parts
from lec_guard.errors import BundleError, LecGuardError, PolicyError, UnsupportedValueError
from lec_guard.step import STAGES, Stage

if TYPE_CHECKING:
    from lec_guard.policy.schema import Rule
    from lec_guard.train.config import TrainConfig
    from lec_guard.train.data import Dataset


def evaluate(
    data: Annotated[list[Path], typer.Argument(help="JSON lines, CSV, Parquet, or folders of them.")],
    *,
    head: Annotated[str, typer.Option(help="The head to measure.")],
    detector: Annotated[
        list[str] | None, typer.Option(metavar="[NAME=]FOLDER", help="A bundle; may be given again; else the embedded.")
    ] = None,
    policies: Annotated[Path | None, typer.Option(help="Policy whose thresholds are measured.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Whose policy, where a folder has several.")] = None,
    fit_data: Annotated[
        list[Path] | None, typer.Option(help="What the head was fitted on: baselines are fitted on it; again for more.")
    ] = None,
    max_fpr: Annotated[float, typer.Option(help="The budget whose realised rate is measured.")] = 0.01,
    own_classifier: Annotated[
        list[Path] | None, typer.Option(help="Folder of a model with a classification head, to compare with.")
    ] = None,
    resamples: Annotated[int, typer.Option(help="Resamples of each interval.")] = 500,
    out: Annotated[Path | None, typer.Option(help="Folder for evaluation.json and evaluation.html.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all figures as JSON instead of tables.")] = False,
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
    """Measure bundles on data that they were not fitted on.

    Beside each: the majority, length alone, the context alone, TF-IDF with logistic regression, similarity to known
    texts, the last layer, and whole texts instead of windows. Exit code 0: measured; 2: wrong usage, data or bundle;
    1: a model failed.
    """
    if out is not None:
        need("train", "jinja2", "matplotlib")
    # Imported here, because no other command needs it.
    from lec_guard.detect.bundle import EMBEDDED, read_bundle
    from lec_guard.detect.detector import LayerDetector
    from lec_guard.policy.store import PolicyStore
    from lec_guard.train.baselines import OwnClassifier, model_baselines, text_baselines
    from lec_guard.train.config import TrainConfig
    from lec_guard.train.evaluate import budget_of
    from lec_guard.train.evaluate import evaluate as measure
    from lec_guard.train.report import evaluation_report
    from lec_guard.train.summary import evaluation_summary

    given = {
        "data": data,
        "head": head,
        "columns": options.columns(text, label, context, family, stage_column, language),
        "benign": benign,
        "positive": positive,
        "allow_labels": allow_label or None,
        "on_conflict": on_conflict,
        "sample": sample,
        "stage": stage,
        "max_fpr": max_fpr,
    }
    folders: dict[str, Path] = {}
    for word in detector or []:
        name, is_named, folder = word.rpartition("=")
        if (name or folder) in folders:
            fail(f"two detectors are called {name or folder!r}; give them names: --detector NAME=FOLDER")
        folders[name if is_named else Path(folder).name] = Path(folder)
    try:
        run = TrainConfig.read(None, given)

        named = folders or {"embedded": EMBEDDED}
        loaded = {name: LayerDetector.load(folder) for name, folder in named.items()}
        first = read_bundle(next(iter(named.values())))
        rules = PolicyStore.load(policies).get(tenant).rules
        thresholds: dict[Stage, float] = {
            stage: min(rule.threshold for rule in rules if _blocks(rule, head, stage))
            for stage in STAGES
            if any(_blocks(rule, head, stage) for rule in rules)
        }
        baselines = [
            *text_baselines(),
            *model_baselines(
                first.base_folder(), layer=max(block.layer for block in first.blocks), window=first.window
            ),
            *(OwnClassifier(folder, benign=benign) for folder in own_classifier or ()),
        ]
        with parts() as progress:
            result = measure(
                loaded,
                _read(data, run),
                head=head,
                thresholds=thresholds or None,
                budgets={
                    name: budget_of(spec, max_fpr)
                    for name, one in loaded.items()
                    for spec in one.heads
                    if spec.name == head
                },
                fit_data=_read(fit_data, run) if fit_data else None,
                baselines=baselines,
                resamples=resamples,
                progress=lambda what, done, total: progress(what, done / max(total, 1)),
            )
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            (out / "evaluation.json").write_text(result.model_dump_json(indent=2) + "\n", encoding="utf-8")
            (out / "evaluation.html").write_text(evaluation_report(result), encoding="utf-8")
    except (UnsupportedValueError, BundleError, PolicyError) as error:
        fail(str(error))
    except LecGuardError as error:
        fail(str(error), FAILED)
    if as_json:
        typer.echo(result.model_dump_json(indent=2))
    else:
        console().print(evaluation_summary(result))


def _blocks(rule: Rule, head: str, stage: Stage) -> bool:
    return rule.head == head and rule.action == "block" and stage in rule.stages


def _read(paths: list[Path], run: TrainConfig) -> Dataset:
    """The texts; a set is what a row calls its family, or else its file."""
    from lec_guard.train.data import read_dataset

    reading = read_dataset(
        paths, run.columns, run.labels, stage=run.stage, on_conflict=run.on_conflict, sample=run.sample
    )
    for what in reading.told():
        typer.echo(f"lec-guard: {what}", err=True)
    examples = [
        replace(example, family=example.family or Path(example.source.rpartition(":")[0]).stem)
        for example in reading.dataset.examples
    ]
    return replace(reading.dataset, examples=tuple(examples))
