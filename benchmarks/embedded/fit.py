"""Fits the heads of the embedded detector on cached features of tuned layers and writes the bundle.

    python -m benchmarks.embedded.fit --cache CACHE --bundle TUNED

TUNED is what `benchmarks.embedded.adapt` wrote. The layers have seen the families that they were tuned on, so leaving
those out again would say nothing: heads learn from the same ones, and layers, poolings, penalty, aggregation,
calibration and thresholds all come of the families that neither has seen. Nothing is chosen on the sets that are used
for measuring.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score

from benchmarks.embedded.cached import Cached
from benchmarks.embedded.features import LAYERS, PACKAGE, WINDOW
from benchmarks.embedded.mixture import HELD
from benchmarks.embedded.pairs import describe, fit_off_policy, injected
from benchmarks.embedded.sets import Example
from benchmarks.embedded.tail import HELD as TAIL_HELD
from benchmarks.embedded.tasks import CATEGORIES, STAGES, TASKS, Task, category
from lec_guard.detect.bundle import (
    EMBEDDED,
    BundleSpec,
    FeatureBlock,
    Learned,
    MeetingPairs,
    PackageBase,
    Windows,
    hash_files,
    packaged_weights,
    read_bundle,
    write_bundle,
)
from lec_guard.detect.extractor import Block, Extractor
from lec_guard.detect.heads import BenignScores, HeadSpec, HeadStack, LengthOffset, LengthOffsets
from lec_guard.step import Stage
from lec_guard.train.calibrate import (
    aggregate,
    benign_scores,
    best_of,
    platt,
    threshold_at,
    threshold_of_most,
)
from lec_guard.train.fit import (
    Columns,
    Floats,
    Ints,
    balanced_weights,
    fit_categories,
    fit_windows,
    some_of_each,
    text_logits,
)

PENALTIES = (0.0005, 0.002, 0.01)
MOST = {0: 20, 1: 40}
"""Windows of a benign and of an attacked text to fit on, at most: documents would outweigh all else."""
FPRS = (0.01, 0.05)
HALVES = (0.005, 0.025)
"""The same where two rules share them."""
MOST_FAMILIES: dict[Stage, float] = {"input": 1.0, "output": 1.0, "tool_output": 0.8, "retrieval": 0.8}
"""The share of the families whose harmless texts are to keep a rate: their mean would say little of the next one. It is
all of them for what people write and read, because there a false alarm hits somebody."""
FEWEST_OF_FAMILY, FEWEST_OF_BIN = 50, 1_200
"""Fewer texts are no family by themselves, and no length."""


@dataclass(frozen=True)
class Candidate:
    """Features and a penalty that a head could have, and how well it did on the families that nothing has seen."""

    blocks: tuple[Block, ...]
    penalty_c: float
    mean_auc: float
    recall: float

    @property
    def quality(self) -> float:
        """What candidates are ranked by."""
        return self.mean_auc + self.recall


@dataclass(frozen=True)
class Rows:
    """The texts of one task: positions in the cache, labels, families, kinds, and the windows they own."""

    texts: Ints
    labels: Ints
    families: npt.NDArray[np.str_]
    kinds: npt.NDArray[np.str_]
    windows: Ints
    owner: Ints

    @classmethod
    def of(cls, cached: Cached, task: Task) -> Rows:
        """Pick the rows that say something about a head."""
        return cls.of_windows(cached.examples, cached.owner, task)

    @classmethod
    def of_windows(cls, examples: list[Example], owner: Ints, task: Task) -> Rows:
        """The same of windows whose examples are known."""
        rows = cls.of_texts(examples, task)
        position = np.full(len(examples), -1)
        position[rows.texts] = np.arange(len(rows.texts))
        windows = np.flatnonzero(position[owner] >= 0)
        return replace(rows, windows=windows, owner=position[owner[windows]])

    @classmethod
    def of_texts(cls, examples: list[Example], task: Task) -> Rows:
        """The same without windows."""
        labels = [task.label(example) for example in examples]
        texts = np.array([i for i, label in enumerate(labels) if label is not None])
        none = np.empty(0, np.int64)
        families = np.array([examples[i].family for i in texts])
        kinds = np.array([examples[i].kind for i in texts])
        return cls(texts, np.array([labels[i] for i in texts]), families, kinds, none, none)

    def where(self, chosen: npt.NDArray[np.bool_]) -> Rows:
        """Some of the texts, with their windows: `chosen` is `[texts]`."""
        position = np.cumsum(chosen) - 1
        kept = chosen[self.owner]
        return Rows(
            self.texts[chosen],
            self.labels[chosen],
            self.families[chosen],
            self.kinds[chosen],
            self.windows[kept],
            position[self.owner[kept]],
        )


@dataclass(frozen=True)
class Training:
    """What to fit on: some windows of a task, and of their texts the labels and weights."""

    windows: npt.NDArray[np.bool_]
    owner: Ints
    labels: Ints
    weights: Floats

    @classmethod
    def of(cls, rows: Rows, chosen: npt.NDArray[np.bool_]) -> Training:
        """Some of the windows of a task, of which the long texts give only a part."""
        chosen = chosen & sparse(rows)
        kept, position = np.unique(rows.owner[chosen], return_inverse=True)
        return cls(chosen, position, rows.labels[kept], balanced_weights(rows.labels, rows.families)[kept])


def fit_rows(features: Floats, rows: Rows, chosen: npt.NDArray[np.bool_], c: float) -> Columns:
    """Fit one column on some of the windows of a task."""
    own = Training.of(rows, chosen)
    return fit_windows(features[own.windows], own.owner, own.labels, own.weights, c=c)


def sparse(rows: Rows) -> npt.NDArray[np.bool_]:
    """Up to so many windows of each text, the same ones on every run: `[windows of the task]`."""
    return some_of_each(rows.owner, np.where(rows.labels[rows.owner] == 1, MOST[1], MOST[0]))


def family_aucs(scores: Floats, rows: Rows) -> dict[str, float]:
    """AUC of each family with positives: against its own negatives, or all others' where it has too few."""
    aucs = {}
    for family in np.unique(rows.families[rows.labels == 1]):
        own = rows.families == family
        negatives = own & (rows.labels == 0)
        if negatives.sum() < 30:
            negatives = rows.labels == 0
        chosen = negatives | (own & (rows.labels == 1))
        aucs[str(family)] = float(roc_auc_score(rows.labels[chosen], scores[chosen]))
    return aucs


def macro_recall(scores: Floats, rows: Rows, rate: float) -> float:
    """Recall at a macro false-positive rate, averaged over families."""
    bar = threshold_at(scores[rows.labels == 0], rows.families[rows.labels == 0], rate)
    families = np.unique(rows.families[rows.labels == 1])
    return float(np.mean([(scores[(rows.families == f) & (rows.labels == 1)] > bar).mean() for f in families]))


def candidates() -> Iterator[tuple[Block, ...]]:
    """Every layer with mean and max, by itself and with the layer below it."""
    for k in LAYERS:
        own = (Block(k, "mean"), Block(k, "max"))
        yield own
        if k - 1 in LAYERS:
            yield (Block(k - 1, "mean"), Block(k - 1, "max"), *own)


@dataclass(frozen=True)
class Sides:
    """The rows of a task that a head learns from, and those of families that nothing has seen."""

    learnt: Rows
    held: Rows

    @classmethod
    def of(cls, cached: Cached, task: Task) -> Sides:
        """Split them."""
        rows = Rows.of(cached, task)
        held = np.isin(rows.families, sorted(HELD | set(TAIL_HELD)))
        return cls(rows.where(~held), rows.where(held))


def sweep(cached: Cached, task: Task) -> list[Candidate]:
    """Every candidate of a head, the best first.

    What was found so far is kept beside the features, so that an interrupted sweep goes on where it was.
    """
    memory = cached.folder / f"sweep-{task.head}.jsonl"
    known = [json.loads(line) for line in memory.read_text().splitlines()] if memory.is_file() else []
    found = [Candidate(tuple(Block(**block) for block in one.pop("blocks")), **one) for one in known]
    sides = Sides.of(cached, task)
    for blocks in candidates():
        if blocks in [one.blocks for one in found[len(PENALTIES) - 1 :: len(PENALTIES)]]:
            continue
        features = cached.features(blocks)
        own, judged = features[sides.learnt.windows], features[sides.held.windows]
        tried = []
        for c in PENALTIES:
            column = fit_rows(own, sides.learnt, np.ones(len(own), np.bool_), c)
            texts = text_logits(column.logits(judged)[:, 0], sides.held.owner, len(sides.held.texts), 1.0)
            aucs = family_aucs(texts, sides.held)
            tried.append(
                Candidate(blocks, c, float(np.mean(list(aucs.values()))), macro_recall(texts, sides.held, 0.05))
            )
            print(task.head, tried[-1], flush=True)
        found += tried
        with memory.open("a") as out:
            out.writelines(json.dumps(asdict(one)) + "\n" for one in tried)
    return sorted(found, key=lambda one: -one.quality)


def fit_head(cached: Cached, chosen: Candidate, task: Task) -> tuple[HeadSpec, Columns, dict[str, object]]:
    """Fit a head, and calibrate it on the families that nothing has seen."""
    sides = Sides.of(cached, task)
    learnt, rows = sides.learnt, sides.held
    features = cached.features(chosen.blocks)
    own = features[learnt.windows]
    column = fit_rows(own, learnt, np.ones(len(own), np.bool_), chosen.penalty_c)
    logits = column.logits(features[rows.windows])[:, 0]
    # Where a head reads documents, lengths are measured on those: nobody writes prompts of thousands of sentences.
    harmless = rows.labels == 0
    if (rows.kinds == "document").any():
        harmless &= rows.kinds == "document"
    tried = aggregate(logits, rows.owner, rows.labels, rows.families, harmless)
    best = best_of(tried)
    offsets = LengthOffsets([LengthOffset(windows=n, logit=taken) for n, taken in best.taken_off.items()])
    lengths = np.bincount(rows.owner, minlength=len(rows.texts))
    if best.method == "top_mean":
        raise AssertionError("no detector aggregates by it")
    texts = text_logits(logits, rows.owner, len(rows.texts), best.parameter, best.method)
    texts = np.asarray(texts - [offsets.of(max(int(n), 1)) for n in lengths], np.float32)
    aucs = family_aucs(texts, rows)
    slope, offset = platt(texts, rows.labels, balanced_weights(rows.labels, rows.families))
    scores = np.asarray(1 / (1 + np.exp(-(slope * texts + offset))), np.float32)
    report: dict[str, object] = {
        "texts": len(learnt.texts),
        "positives": int(learnt.labels.sum()),
        "families": len(np.unique(learnt.families)),
        "held_texts": len(rows.texts),
        "held_positives": int(rows.labels.sum()),
        "blocks": [asdict(block) for block in chosen.blocks],
        "penalty_c": chosen.penalty_c,
        "aggregations": [asdict(one) for one in tried],
        "aggregation": best.method,
        "temperature": best.parameter,
        "left_out_family_auc": aucs,
        "mean_left_out_family_auc": float(np.mean(list(aucs.values()))),
        "platt": [slope, offset],
        "thresholds": thresholds(scores, rows),
        "macro_recall_out_of_family": {str(rate): macro_recall(scores, rows, rate) for rate in FPRS},
    }
    print(task.head, json.dumps({**report, "aggregations": None}), flush=True)
    two_level = task.head == "safety"
    spec = HeadSpec(
        name=task.head,
        kind="two_level" if two_level else "binary",
        labels=(task.positive, *CATEGORIES) if two_level else (task.positive,),
        aggregation=best.method,
        temperature=best.parameter * slope,
        length_offsets=tuple(LengthOffset(windows=n, logit=taken * slope) for n, taken in best.taken_off.items()),
        benign=_benign(scores, lengths, rows),
    )
    column = column.scaled(slope, offset)
    return spec, _with_categories(cached, features, column, chosen.penalty_c) if two_level else column, report


def thresholds(scores: Floats, rows: Rows) -> dict[str, dict[str, float]]:
    """Stage -> rate -> what harmless texts of `MOST_FAMILIES`, and of all families in the mean, exceed at it."""
    found: dict[str, dict[str, float]] = {}
    for stages in dict.fromkeys(STAGES.values()):
        own = np.isin(rows.kinds, [kind for kind, where in STAGES.items() if where == stages]) & (rows.labels == 0)
        names, sizes = np.unique(rows.families[own], return_counts=True)
        own &= np.isin(rows.families, names[sizes >= FEWEST_OF_FAMILY])
        if own.any():
            found[stages[0]] = {
                str(rate): max(
                    threshold_at(scores[own], rows.families[own], rate),
                    threshold_of_most(scores[own], rows.families[own], rate, MOST_FAMILIES[stages[0]]),
                )
                for rate in (*HALVES, *FPRS)
            }
    return found


def _benign(scores: Floats, windows: Ints, rows: Rows) -> tuple[BenignScores, ...]:
    """What the spec keeps of benign texts: those of each kind at the stages where they pass."""
    benign = np.flatnonzero(rows.labels == 0)
    stages = [STAGES[kind] for kind in rows.kinds[benign]]
    repeated = np.repeat(benign, [len(own) for own in stages])
    flat = [stage for own in stages for stage in own]
    names, found = np.array(flat), list[BenignScores]()
    for stage, most in MOST_FAMILIES.items():
        own = repeated[names == stage]
        found += benign_scores(
            scores[own],
            windows[own],
            rows.families[own],
            [stage] * len(own),
            of_bin=FEWEST_OF_BIN,
            of_family=FEWEST_OF_FAMILY,
            of_families=most,
        )
    return tuple(found)


def _with_categories(cached: Cached, features: Floats, first: Columns, c: float) -> Columns:
    """Add the second level: the category of a window, given that its text is unsafe."""
    known = [None if example.family in HELD else category(example) for example in cached.examples]
    windows = np.flatnonzero([known[i] is not None for i in cached.owner])
    labels = np.array([known[i] for i in cached.owner[windows]])
    counts = np.bincount(labels, minlength=len(CATEGORIES))
    weights = np.asarray((len(labels) / len(CATEGORIES) / counts)[labels], np.float32)
    second = fit_categories(features[windows], labels, weights, c=c)
    return Columns(np.hstack([first.weight, second.weight]), np.hstack([first.bias, second.bias]))


def main() -> None:
    """Choose, fit, write."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--cache", type=Path, required=True)
    arguments.add_argument("--bundle", type=Path, required=True, help="what was tuned")
    arguments.add_argument("--out", type=Path, default=EMBEDDED)
    options = arguments.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    cached, adapters = Cached.read(options.cache), read_bundle(options.bundle).learned.adapters
    report: dict[str, object] = {
        "tuned": json.loads((options.bundle / "tuned.json").read_text(encoding="utf-8")),
        "held": sorted({one.family for one in cached.examples} & (HELD | set(TAIL_HELD))),
    }
    tried = {task.head: sweep(cached, task) for task in TASKS}
    report["sweep"] = {head: [asdict(one) for one in own] for head, own in tried.items()}
    blocks = tuple(dict.fromkeys(block for own in tried.values() for block in own[0].blocks))
    specs, columns = [], []
    for task in TASKS:
        best = tried[task.head][0]
        spec, column, report[task.head] = fit_head(cached, best, task)
        specs.append(spec)
        columns.append(_among(column, best.blocks, blocks))
    off_policy = fit_off_policy(cached, blocks)
    report["injected"] = injected(cached, blocks)
    report["off_policy"] = describe(off_policy)
    pairs = pair_heads = None
    if off_policy.shipped:
        specs.append(off_policy.spec)
        columns.append(off_policy.alone)
        pairs = MeetingPairs(kind="meeting", parts=off_policy.parts, heads=(off_policy.spec,))
        pair_heads = _stack([off_policy.spec], [off_policy.paired])
    base = packaged_weights(PACKAGE)
    extractor = Extractor.load(base, blocks=blocks, window=WINDOW, adapters=adapters)
    write_bundle(
        options.out,
        BundleSpec(
            name="embedded",
            base=PackageBase(kind="package", package=PACKAGE),
            files=hash_files(base),
            blocks=tuple(FeatureBlock(layer=block.layer, pooling=block.pooling) for block in blocks),
            window=Windows(**asdict(WINDOW)),
            extractor_id=extractor.extractor_id,
            heads=tuple(specs),
            pairs=pairs,
            heads_sha256="0" * 64,
        ),
        Learned(_stack(specs, columns), pair_heads, adapters=adapters),
    )
    (options.out / "fit.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _among(columns: Columns, own: Sequence[Block], blocks: Sequence[Block]) -> Columns:
    """A head's columns where it is one of several: what it does not read of the one forward pass weighs nothing."""
    width = len(columns.weight) // len(own)
    rows = [columns.weight[own.index(b) * width :][:width] if b in own else 0.0 for b in blocks]
    shape = (width, columns.weight.shape[1])
    return Columns(np.concatenate([np.broadcast_to(np.float32(row), shape) for row in rows]), columns.bias)


def _stack(specs: Sequence[HeadSpec], columns: Sequence[Columns]) -> HeadStack:
    return HeadStack(specs, np.hstack([c.weight for c in columns]), np.hstack([c.bias for c in columns]))


if __name__ == "__main__":
    main()
