"""From labelled texts to a bundle whose layers were tuned: `lec-guard distil`."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sklearn.metrics import roc_auc_score

from lec_guard.detect.adapters import Adapters, scaled
from lec_guard.detect.bundle import (
    BundleSpec,
    FeatureBlock,
    Learned,
    PackageBase,
    PathBase,
    Windows,
    hash_files,
    packaged_weights,
    read_bundle,
    write_bundle,
)
from lec_guard.detect.extractor import Extractor
from lec_guard.detect.heads import HeadSpec
from lec_guard.detect.prune import load_pruned
from lec_guard.errors import BundleError, UnsupportedValueError
from lec_guard.train.bars import Bar, stage_bars, write_policy
from lec_guard.train.baselines import Baseline, BaselineError, LengthOnly, words
from lec_guard.train.calibrate import PRIOR, Aggregation, best_of
from lec_guard.train.config import DataConfig, TrainPooling
from lec_guard.train.data import Dataset, TaughtColumns, read_dataset
from lec_guard.train.distil import DistilBlock, DistilConfig, Distilled, Progress, Tuning, distil
from lec_guard.train.families import family_names
from lec_guard.train.features import collect
from lec_guard.train.fit import Floats, Ints, text_logits
from lec_guard.train.head import FittedHead, fit_apart, fit_head_apart
from lec_guard.train.lessons import Lesson, LessonExample, hold_out
from lec_guard.train.select import Bags, alarms, quality
from lec_guard.train.trainer import PACKAGE, POLICY, WORK, poolings_of, stack_of, stored
from lec_guard.train.tuned import write_base

REPORT = "distil.json"
"""The run in figures, within the bundle's folder."""


class DistilRun(DataConfig):
    """A run that tunes a model and fits a head to it.

    Attributes:
        columns: Which column holds what, a teacher's score among them.
        base: A folder with a Hugging Face model, or an installed package with one; None takes the embedded detector's.
        layers: How many layers are kept and tuned; None takes two thirds of them.
        poolings: How the highest of these is pooled; None takes mean and max, and of decoders the last token too.
        held: Families that neither tuning nor fitting sees; None chooses about a quarter of each class.
        scale: How much of what adapters learnt is kept, in (0, 1]: part of the way does better on other data at times.
        tuning: How weights are moved.
    """

    columns: TaughtColumns = TaughtColumns()
    base: str | None = None
    layers: Annotated[int, Field(gt=0)] | None = None
    poolings: Annotated[tuple[TrainPooling, ...], Field(min_length=1)] | None = None
    held: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    scale: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    tuning: Tuning = Tuning()


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Told(_Part):
    """How well held-out families are told apart.

    Attributes:
        auc: Area under the ROC curve of harmful against benign.
        loss: Log loss in nats a text, after calibration on the same texts.
        penalty: The C that did best on them.
    """

    auc: float
    loss: float
    penalty: float


class DistilReport(_Part):
    """What came of a run.

    Attributes:
        detector_id: Name and content hash of the bundle.
        head: The head that was fitted.
        labels: The classes, the benign one first.
        counts: Texts of each class that were learnt from.
        held_counts: Texts of each class that were held out.
        taught: Texts that a teacher had scored.
        families: How many families were learnt from.
        held: Those that neither tuning nor fitting has seen. Penalty, aggregation, calibration and thresholds were
            chosen on these, and nothing else was.
        blocks: What the head reads.
        layers: How many layers the model had.
        how: `adapters`, or `all weights`.
        bytes: Of the adapters, or of the base that the bundle has of its own.
        tuning: How weights were moved.
        scale: How much of that was kept.
        steps: Steps that were done.
        losses: How the loss fell.
        before: Held-out families by the same layers as they were.
        after: By the tuned ones.
        baselines: What has no model: their AUC on the same texts; None where there was nothing to go by.
        prior: Share of harmful texts that the probabilities take for granted.
        platt: Slope and offset of the calibration.
        aggregation: How windows make a text's score.
        bars: The thresholds of the policy that was written.
        seconds: What each part took.
        notes: What else is to be known.
    """

    detector_id: str
    head: str
    labels: tuple[str, ...]
    counts: tuple[int, ...]
    held_counts: tuple[int, ...]
    taught: int
    families: int
    held: tuple[str, ...]
    blocks: tuple[FeatureBlock, ...]
    layers: int
    how: str
    bytes: int
    tuning: Tuning
    scale: float
    steps: int
    losses: tuple[float, ...]
    before: Told
    after: Told
    baselines: dict[str, float | None]
    prior: float = PRIOR
    platt: tuple[float, float]
    aggregation: Aggregation
    bars: tuple[Bar, ...]
    seconds: dict[str, float]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A run whose time was over; the same one with `resume` goes on.

    Attributes:
        steps: Steps that were done.
        total: Steps that there are.
    """

    steps: int
    total: int


def distil_bundle(
    run: DistilRun,
    out: Path,
    *,
    resume: bool = False,
    minutes: float | None = None,
    progress: Progress = lambda _what, _share: None,
) -> DistilReport | Unfinished:
    """Tune the kept layers of a model, fit a head to them, and write a bundle with both.

    Args:
        run: What to do.
        out: The bundle's folder; must hold none yet. What a run goes on from lies there too until it is done.
        resume: Whether to go on with a run that lies there.
        minutes: Of tuning, after which it stops; None: never.
        progress: Is told how far each part is.

    Returns:
        What came of it, which the folder has too, as `distil.json`, with a policy that blocks by the new head; or how
        far it came.

    Raises:
        UnsupportedValueError: If the data can't be learnt from, or the folder holds another run.
        BundleError: If the model can't be read, or the folder holds a bundle.
        DetectorError: If the model can't be cut.
    """
    if (out / "detector.json").exists():
        raise BundleError(f"{out}: holds a bundle already; give a new folder, or delete this one")
    work, began = out / WORK, time.monotonic()
    texts = _Texts.read(run)
    base = _Base.of(run.base)
    deepest = load_pruned(base.folder, 0).full_layers
    layers = -(-2 * deepest // 3) if run.layers is None else run.layers
    if layers > deepest:
        raise UnsupportedValueError(f"layers: the model has {deepest}, and {layers} can't be kept: give 1..{deepest}")
    config = DistilConfig(
        blocks=tuple(DistilBlock(layer=layers, pooling=own) for own in run.poolings or poolings_of(base.folder)),
        window=run.window,
        **run.tuning.model_dump(),
    )
    reading = time.monotonic() - began
    found = distil(
        [texts.lesson],
        base.folder,
        config,
        held=texts.held,
        work=work,
        resume=resume,
        minutes=minutes,
        progress=progress,
    )
    if not found.finished:
        return Unfinished(found.steps, found.total)
    began = time.monotonic()
    tuned = _Tuned.of(found, run, base, config, out)
    before, _ = _told(texts, run, config, base.extractor(config, None), work / "before", progress)
    after, features = _told(texts, run, config, tuned.extractor, work / "after", progress)
    progress("fitting", 0.0)
    fitted = fit_head_apart(
        features.rows,
        features.bags,
        texts.is_held,
        [example.stage for example in texts.dataset.examples],
        name=run.head,
        labels=texts.dataset.labels,
        c=after.penalty,
    )
    _write(out, run, tuned, config, fitted)
    baselines = _baselines(texts)
    seconds = {"reading": reading, "tuning": found.seconds, "fitting": time.monotonic() - began}
    held_stages = [texts.dataset.examples[row].stage for row in np.flatnonzero(texts.is_held).tolist()]
    report = DistilReport(
        detector_id=read_bundle(out).detector_id,
        head=run.head,
        labels=texts.dataset.labels,
        counts=texts.counts(~texts.is_held),
        held_counts=texts.counts(texts.is_held),
        taught=texts.taught,
        families=len(np.unique(texts.families[~texts.is_held])),
        held=found.held,
        blocks=stored(config.read),
        layers=deepest,
        how="all weights" if tuned.adapters is None else "adapters",
        bytes=tuned.bytes,
        tuning=run.tuning,
        scale=run.scale,
        steps=found.steps,
        losses=found.losses,
        before=before,
        after=after,
        baselines=baselines,
        platt=fitted.platt,
        aggregation=best_of(fitted.aggregations),
        bars=stage_bars(fitted, features.bags.only(texts.is_held).harmful, held_stages, run.max_fpr),
        seconds={what: round(own, 2) for what, own in seconds.items()},
        notes=_notes(texts, before, after, baselines),
    )
    progress("fitting", 1.0)
    write_policy(out / POLICY, run.head, report.bars)
    (out / REPORT).write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(work)  # Features say much of the texts that they are of.
    return report


@dataclass(frozen=True, slots=True)
class _Texts:
    """The data of a run."""

    dataset: Dataset
    families: npt.NDArray[np.str_]
    lesson: Lesson
    held: frozenset[str]
    notes: tuple[str, ...]

    @classmethod
    def read(cls, run: DistilRun) -> _Texts:
        reading = read_dataset(
            run.data, run.columns, run.labels, stage=run.stage, on_conflict=run.on_conflict, sample=run.sample
        )
        dataset = reading.dataset
        families = family_names(dataset)
        lesson = _lesson(dataset, families.tolist(), run.head)
        held = hold_out([lesson]) if run.held is None else frozenset(run.held)
        own = cls(dataset, families, lesson, held, reading.told())
        sides = {int(label > 0) for label in dataset.hard[own.is_held].tolist()}
        if sides != {0, 1}:
            raise UnsupportedValueError(
                "the families that are held out have no text of both sides, so nothing could be measured on them: "
                "hold out others, with --held (`held:` in the config), or leave them to be chosen"
            )
        return own

    @property
    def is_held(self) -> npt.NDArray[np.bool_]:
        return np.isin(self.families, sorted(self.held))

    def counts(self, rows: npt.NDArray[np.bool_]) -> tuple[int, ...]:
        return tuple(np.bincount(self.dataset.hard[rows], minlength=len(self.dataset.labels)).tolist())

    @property
    def taught(self) -> int:
        return sum(example.soft is not None for example in self.lesson.examples)


def _lesson(dataset: Dataset, families: Sequence[str], head: str) -> Lesson:
    """Labels as they are; a row that gives probabilities is its own teacher, where no other spoke."""
    labels = dataset.labels
    spec = HeadSpec(name=head, kind="binary" if len(labels) == 2 else "multiclass", labels=labels[1:])
    sure = dataset.targets.max(axis=1) == 1
    soft = [
        example.score if example.score is not None else None if is_sure else min(float(share), 1.0)
        for example, is_sure, share in zip(dataset.examples, sure.tolist(), dataset.harmful.tolist(), strict=True)
    ]
    return Lesson(
        head=spec,
        examples=[
            LessonExample(text=example.text, label=label, soft=own, family=family, group=example.group)
            for example, label, own, family in zip(dataset.examples, dataset.hard.tolist(), soft, families, strict=True)
        ],
    )


@dataclass(frozen=True, slots=True)
class _Base:
    """Where the weights are, and how a bundle names them."""

    folder: Path
    named: PackageBase | PathBase

    @classmethod
    def of(cls, base: str | None) -> _Base:
        if base is None or not Path(base).is_dir():
            package = base or PACKAGE
            try:
                named = PackageBase(kind="package", package=package)
            except ValidationError:
                raise BundleError(f"{package}: no such folder, and no name of a package either") from None
            return cls(packaged_weights(package), named)
        return cls(Path(base), PathBase(kind="path", path=str(Path(base).resolve())))

    def extractor(self, config: DistilConfig, adapters: Adapters | None) -> Extractor:
        return Extractor.load(self.folder, blocks=config.read, window=config.window.spec, adapters=adapters)


@dataclass(frozen=True, slots=True)
class _Tuned:
    """The base after tuning, as the bundle has it."""

    base: _Base
    extractor: Extractor
    adapters: Adapters | None
    bytes: int

    @classmethod
    def of(cls, found: Distilled, run: DistilRun, base: _Base, config: DistilConfig, out: Path) -> _Tuned:
        if found.adapters is not None:
            # As it is kept: heads are fitted to what the bundle will merge.
            adapters = scaled(found.adapters, run.scale).half()
            return cls(base, base.extractor(config, adapters), adapters, adapters.size)
        size = write_base(base.folder, config.layers, found.tuned or {}, out)
        own = _Base(out, PathBase(kind="path", path="."))
        return cls(own, own.extractor(config, None), None, size)


@dataclass(frozen=True, slots=True)
class _Read:
    """Features of all windows."""

    rows: Floats
    bags: Bags


def _told(
    texts: _Texts, run: DistilRun, config: DistilConfig, extractor: Extractor, folder: Path, progress: Progress
) -> tuple[Told, _Read]:
    """How well held-out families are told apart by features, under the C that does best."""
    examples, dataset = texts.dataset.examples, texts.dataset
    features = collect(
        extractor,
        [example.text for example in examples],
        # Another run may have been here, with another scale of the adapters.
        folder / extractor.extractor_id[:16],
        blocks=config.read,
        sources=[example.source for example in examples],
        progress=lambda done, total: progress(f"features {folder.name}", done / max(total, 1)),
    )
    rows = features.of(config.read)
    bags = Bags(targets=dataset.targets, families=texts.families, owner=features.owner)
    unseen = bags.only(texts.is_held)
    tried: list[Told] = []
    for penalty in run.penalties:
        logits = fit_apart(rows, bags, texts.is_held, c=penalty)[1]
        score = text_logits(alarms(logits), unseen.owner, len(unseen.targets), 1.0)
        own = Told(auc=_auc(unseen.harmful, score), loss=quality(logits, unseen).loss, penalty=penalty)
        tried.append(own)
    return min(tried, key=lambda told: told.loss), _Read(rows, bags)


def _auc(harmful: Ints, scores: Floats) -> float:
    return float(roc_auc_score(harmful, scores))


def _baselines(texts: _Texts) -> dict[str, float | None]:
    """AUC on held-out families of what reads no model."""
    dataset, held = texts.dataset, texts.is_held
    contents = [example.text for example in dataset.examples]
    nothing = [None] * len(contents)
    seen, unseen = np.flatnonzero(~held).tolist(), np.flatnonzero(held).tolist()
    found: dict[str, float | None] = {}
    ways: tuple[Baseline, ...] = (LengthOnly(), words())
    for way in ways:
        try:
            way.fit([contents[row] for row in seen], nothing[: len(seen)], dataset.targets[seen])
            scores = way.scores([contents[row] for row in unseen], nothing[: len(unseen)])
            found[way.name] = _auc((dataset.hard[unseen] > 0).astype(np.int64), scores)
        except BaselineError:
            found[way.name] = None
    return found


def _write(out: Path, run: DistilRun, tuned: _Tuned, config: DistilConfig, fitted: FittedHead) -> None:
    spec = BundleSpec(
        name=run.head,
        base=tuned.base.named,
        files=hash_files(tuned.base.folder),
        blocks=stored(config.read),
        window=Windows(**asdict(config.window.spec)),
        extractor_id=tuned.extractor.extractor_id,
        heads=(fitted.spec,),
        heads_sha256="0" * 64,
    )
    write_bundle(out, spec, Learned(stack_of([fitted]), adapters=tuned.adapters))


def _notes(texts: _Texts, before: Told, after: Told, baselines: dict[str, float | None]) -> tuple[str, ...]:
    notes = list(texts.notes)
    if any(example.context for example in texts.dataset.examples):
        notes.append("contexts were not read: what is tuned here reads texts alone")
    if after.auc <= before.auc:
        notes.append(
            "held-out families are told apart no better than by the layers as they were: a bundle of `lec-guard train` "
            "is as good, or less of what was learnt (--scale)"
        )
    for name, auc in baselines.items():
        if auc is not None and auc >= after.auc:
            notes.append(
                f"{name} alone tells held-out families apart as well: the data can be told by less than meaning"
            )
    return tuple(notes)
