"""`lec-guard eval`: bundles side by side on labelled texts, with trivial baselines in the same run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lec_guard.cli import data as options
from lec_guard.cli.policy.options import heads_beside
from lec_guard.cli.terminal import FAILED, console, fail, need, parts
from lec_guard.errors import BundleError, LecGuardError, PolicyError, UnsupportedValueError
from lec_guard.policy.compile import STOPPING

if TYPE_CHECKING:
    from lec_guard.detect.layer import LayerDetector
    from lec_guard.train.config import TrainConfig
    from lec_guard.train.data import Dataset
    from lec_guard.train.evaluate import Thresholds


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
    from lec_guard.detect.layer import LayerDetector
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
        thresholds = {name: _thresholds(policies, tenant, name, one, head) for name, one in loaded.items()}
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
                thresholds={name: own for name, own in thresholds.items() if own},
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


def _thresholds(policies: Path | None, tenant: str | None, name: str, detector: LayerDetector, head: str) -> Thresholds:
    """From which scores of a head on the policy stops a text, where it reads this detector."""
    from lec_guard.policy.store import PolicyStore
    from lec_guard.train.evaluate import thresholds_of

    try:
        live = PolicyStore(policies, heads_beside(detector)).get(tenant).live
    except PolicyError as error:
        if policies is None:  # The packaged one reads heads that a detector need not have.
            return {}
        raise PolicyError(f"with the detector {name}:\n{error}") from None
    if live.detector_id != detector.detector_id:
        raise PolicyError(
            f"{live.policy.where('detector')}: the policy reads {live.detector_id}, and {name} is "
            f"{detector.detector_id}; its thresholds say nothing of that: measure the detector that it reads"
        )
    return thresholds_of(
        one for one in live.thresholds if one.head == head and one.action in STOPPING and one.tool is None
    )


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
