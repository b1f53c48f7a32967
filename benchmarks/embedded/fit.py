"""Fits the heads of the embedded detector on cached features and writes the bundle.

    python -m benchmarks.embedded.fit --cache CACHE

Layers, poolings, penalty and aggregation are chosen by cross-validation that leaves whole families of data out;
nothing is chosen on the sets that are used for measuring.
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
from benchmarks.embedded.pairs import describe, fit_off_policy, injected
from benchmarks.embedded.sets import Example
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
    write_bundle,
)
from lec_guard.detect.extractor import Block, Extractor
from lec_guard.detect.heads import BenignScores, HeadSpec, HeadStack, LengthOffset, LengthOffsets
from lec_guard.train.calibrate import aggregate, benign_scores, best_of, platt, threshold_at
from lec_guard.train.fit import (
    Columns,
    Floats,
    Ints,
    balanced_weights,
    family_folds,
    fit_categories,
    fit_windows,
    some_of_each,
    text_logits,
)

FOLDS = 5
PENALTIES = (0.005, 0.02)
NEAR = 0.005  # Mean AUC that a cheaper extractor may cost.
SWEEP_PENALTY = 0.01
MOST = {0: 20, 1: 40}
SWEEP_MOST = {0: 4, 1: 20}
"""Windows of a benign and of an attacked text to fit on, at most: documents would outweigh all else. Fewer will
do to rank layers."""
FPRS = (0.01, 0.05)
HALVES = (0.005, 0.025)
"""The same where two rules share them."""


@dataclass(frozen=True)
class Candidate:
    """Features that all heads could share, and how well left-out families did on them."""

    blocks: tuple[Block, ...]
    mean_auc: float
    heads: dict[str, float]


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


@dataclass(frozen=True)
class Training:
    """What to fit on: some windows of a task, and of their texts the labels and weights."""

    windows: npt.NDArray[np.bool_]
    owner: Ints
    labels: Ints
    weights: Floats

    @classmethod
    def of(cls, rows: Rows, chosen: npt.NDArray[np.bool_], most: dict[int, int] = MOST) -> Training:
        """Some of the windows of a task, of which the long texts give only a part."""
        chosen = chosen & sparse(rows, most)
        kept, position = np.unique(rows.owner[chosen], return_inverse=True)
        return cls(chosen, position, rows.labels[kept], balanced_weights(rows.labels, rows.families)[kept])


def fit_rows(
    features: Floats, rows: Rows, chosen: npt.NDArray[np.bool_], c: float, most: dict[int, int] = MOST
) -> Columns:
    """Fit one column on some of the windows of a task."""
    own = Training.of(rows, chosen, most)
    return fit_windows(features[own.windows], own.owner, own.labels, own.weights, c=c)


def sparse(rows: Rows, most: dict[int, int]) -> npt.NDArray[np.bool_]:
    """Up to so many windows of each text, the same ones on every run: `[windows of the task]`."""
    return some_of_each(rows.owner, np.where(rows.labels[rows.owner] == 1, most[1], most[0]))


def out_of_family(features: Floats, rows: Rows, c: float, most: dict[int, int] = MOST) -> Floats:
    """Logits of every window from a model that has not seen its family: `[windows of the task]`."""
    logits = np.zeros(len(rows.windows), np.float32)
    for held in family_folds(rows.labels, rows.families, FOLDS):
        out = np.isin(rows.owner, held)
        logits[out] = fit_rows(features, rows, ~out, c, most).logits(features[out])[:, 0]
    return logits


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


def sweep(cached: Cached) -> list[Candidate]:
    """Every candidate with the mean AUC over heads and left-out families; the cheapest good one first.

    Good is what comes near the best; cheap is the lowest layer, then the fewest features. What was found so far is
    kept beside the features, so that an interrupted sweep goes on where it was.
    """
    memory = cached.folder / "sweep.jsonl"
    known = [json.loads(line) for line in memory.read_text().splitlines()] if memory.is_file() else []
    found = [Candidate(tuple(Block(**b) for b in one.pop("blocks")), **one) for one in known]
    for blocks in candidates():
        if blocks in [candidate.blocks for candidate in found]:
            continue
        features = cached.features(blocks)
        heads = {}
        for task in TASKS:
            rows = Rows.of(cached, task)
            logits = out_of_family(features[rows.windows], rows, SWEEP_PENALTY, SWEEP_MOST)
            texts = text_logits(logits, rows.owner, len(rows.texts), 1.0)
            heads[task.head] = float(np.mean(list(family_aucs(texts, rows).values())))
        found.append(Candidate(blocks, float(np.mean(list(heads.values()))), heads))
        print(found[-1], flush=True)
        with memory.open("a") as out:
            out.write(json.dumps(asdict(found[-1])) + "\n")
    best = max(candidate.mean_auc for candidate in found)

    def cost(candidate: Candidate) -> tuple[bool, int, int]:
        return (
            candidate.mean_auc < best - NEAR,
            max(block.layer for block in candidate.blocks),
            len(candidate.blocks),
        )

    return sorted(found, key=cost)


def choose(found: Sequence[Candidate]) -> dict[str, tuple[Block, ...]]:
    """The features of each head: of the candidates that need no higher layer than the first, its own best one."""
    top = max(block.layer for block in found[0].blocks)
    within = [one for one in found if max(block.layer for block in one.blocks) <= top]
    return {task.head: max(within, key=lambda one: one.heads[task.head]).blocks for task in TASKS}


def fit_head(cached: Cached, blocks: Sequence[Block], task: Task) -> tuple[HeadSpec, Columns, dict[str, object]]:
    """Choose penalty and aggregation of one head, calibrate it out of family, and fit it on everything."""
    rows = Rows.of(cached, task)
    features = cached.features(blocks)
    own = features[rows.windows]
    by_penalty = {c: out_of_family(own, rows, c) for c in PENALTIES}

    def quality(c: float) -> float:
        texts = text_logits(by_penalty[c], rows.owner, len(rows.texts), 1.0)
        return float(np.mean(list(family_aucs(texts, rows).values()))) + macro_recall(texts, rows, 0.05)

    c = max(PENALTIES, key=quality)
    # Where a head reads documents, lengths are measured on those: nobody writes prompts of thousands of sentences.
    harmless = rows.labels == 0
    if (rows.kinds == "document").any():
        harmless &= rows.kinds == "document"
    tried = aggregate(by_penalty[c], rows.owner, rows.labels, rows.families, harmless)
    best = best_of(tried)
    offsets = LengthOffsets([LengthOffset(windows=n, logit=taken) for n, taken in best.taken_off.items()])
    lengths = np.bincount(rows.owner, minlength=len(rows.texts))
    if best.method == "top_mean":
        raise AssertionError("no detector aggregates by it")
    texts = text_logits(by_penalty[c], rows.owner, len(rows.texts), best.parameter, best.method)
    texts = np.asarray(texts - [offsets.of(max(int(n), 1)) for n in lengths], np.float32)
    aucs = family_aucs(texts, rows)
    weights = balanced_weights(rows.labels, rows.families)
    slope, offset = platt(texts, rows.labels, weights)
    column = fit_rows(own, rows, np.ones(len(own), np.bool_), c).scaled(slope, offset)
    scores = np.asarray(1 / (1 + np.exp(-(slope * texts + offset))), np.float32)
    report = {
        "texts": len(rows.texts),
        "positives": int(rows.labels.sum()),
        "blocks": [asdict(block) for block in blocks],
        "penalty_c": c,
        "aggregations": [asdict(one) for one in tried],
        "aggregation": best.method,
        "temperature": best.parameter,
        "left_out_family_auc": aucs,
        "mean_left_out_family_auc": float(np.mean(list(aucs.values()))),
        "platt": [slope, offset],
        "thresholds_out_of_family": {
            str(rate): threshold_at(scores[rows.labels == 0], rows.families[rows.labels == 0], rate) for rate in FPRS
        },
        "thresholds_on_documents": thresholds_on_documents(scores, rows),
        "macro_recall_out_of_family": {str(rate): macro_recall(scores, rows, rate) for rate in FPRS},
    }
    print(task.head, json.dumps(report), flush=True)
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
    return spec, _with_categories(cached, features, column, c) if two_level else column, report


def thresholds_on_documents(scores: Floats, rows: Rows) -> dict[str, float]:
    """Where benign documents of left-out families exceed a rate: the bars for third-party text; none without any."""
    chosen = (rows.kinds == "document") & (rows.labels == 0)
    if not chosen.any():
        return {}
    return {str(rate): threshold_at(scores[chosen], rows.families[chosen], rate) for rate in (*HALVES, *FPRS)}


def _benign(scores: Floats, windows: Ints, rows: Rows) -> tuple[BenignScores, ...]:
    """What the spec keeps of benign texts: those of each kind at the stages where they pass."""
    benign = np.flatnonzero(rows.labels == 0)
    stages = [STAGES[kind] for kind in rows.kinds[benign]]
    repeated = np.repeat(benign, [len(own) for own in stages])
    flat = [stage for own in stages for stage in own]
    return benign_scores(scores[repeated], windows[repeated], rows.families[repeated], flat)


def _with_categories(cached: Cached, features: Floats, first: Columns, c: float) -> Columns:
    """Add the second level: the category of a window, given that its text is unsafe."""
    known = [category(example) for example in cached.examples]
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
    arguments.add_argument("--out", type=Path, default=EMBEDDED)
    options = arguments.parse_args()
    cached = Cached.read(options.cache)
    found = sweep(cached)
    by_head = choose(found)
    blocks = tuple(dict.fromkeys(block for own in by_head.values() for block in own))
    report: dict[str, object] = {"sweep": [asdict(candidate) for candidate in found]}
    specs, columns = [], []
    for task in TASKS:
        spec, column, report[task.head] = fit_head(cached, by_head[task.head], task)
        specs.append(spec)
        columns.append(_among(column, by_head[task.head], blocks))
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
    extractor = Extractor.load(base, blocks=blocks, window=WINDOW)
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
        Learned(_stack(specs, columns), pair_heads),
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
