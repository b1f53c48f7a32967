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

from benchmarks.embedded.features import LAYERS, PACKAGE, WINDOW, name
from benchmarks.embedded.tasks import CATEGORIES, TASKS, Task, category
from lec_guard.detect.bundle import (
    EMBEDDED,
    BundleSpec,
    FeatureBlock,
    PackageBase,
    Windows,
    hash_files,
    packaged_weights,
    write_bundle,
)
from lec_guard.detect.extractor import Block, Extractor
from lec_guard.detect.heads import HeadSpec, HeadStack
from lec_guard.train.data import Example
from lec_guard.train.fit import (
    Columns,
    Floats,
    Ints,
    balanced_weights,
    family_folds,
    fit_categories,
    fit_windows,
    highest,
    platt,
    text_logits,
)

FOLDS = 5
PENALTIES = (0.005, 0.01, 0.03)
NEAR = 0.005  # Mean AUC that a cheaper extractor may cost.
SWEEP_PENALTY = 0.01
TEMPERATURES = (0.1, 0.3, 0.5, 1.0, 2.0)  # No higher: whoever pads a text with harmless pages would choose its score.
LENGTHS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
DOCUMENTS = 4000
FPRS = (0.01, 0.05)


@dataclass(frozen=True)
class Cached:
    """Examples with the features of their windows after each layer."""

    examples: list[Example]
    owner: Ints
    folder: Path

    @classmethod
    def read(cls, folder: Path) -> Cached:
        """Read what `features.collect` wrote."""
        with (folder / "examples.jsonl").open(encoding="utf-8") as lines:
            examples = [Example(**json.loads(line)) for line in lines]
        return cls(examples, np.load(folder / "owner.npy"), folder)

    def features(self, blocks: Sequence[Block]) -> Floats:
        """`[windows, width of the blocks]`."""
        return np.concatenate([np.load(self.folder / name(block)) for block in blocks], axis=1)


@dataclass(frozen=True)
class Candidate:
    """Features that all heads could share, and how well left-out families did on them."""

    blocks: tuple[Block, ...]
    mean_auc: float
    heads: dict[str, float]


@dataclass(frozen=True)
class Rows:
    """The texts of one task: positions in the cache, labels, families, and the windows they own."""

    texts: Ints
    labels: Ints
    families: npt.NDArray[np.str_]
    windows: Ints
    owner: Ints

    @classmethod
    def of(cls, cached: Cached, task: Task) -> Rows:
        """Pick the rows that say something about a head."""
        rows = cls.of_texts(cached.examples, task)
        position = np.full(len(cached.examples), -1)
        position[rows.texts] = np.arange(len(rows.texts))
        windows = np.flatnonzero(position[cached.owner] >= 0)
        return replace(rows, windows=windows, owner=position[cached.owner[windows]])

    @classmethod
    def of_texts(cls, examples: list[Example], task: Task) -> Rows:
        """The same without windows."""
        labels = [task.label(example) for example in examples]
        texts = np.array([i for i, label in enumerate(labels) if label is not None])
        none = np.empty(0, np.int64)
        families = np.array([examples[i].family for i in texts])
        return cls(texts, np.array([labels[i] for i in texts]), families, none, none)


def out_of_family(features: Floats, rows: Rows, c: float) -> Floats:
    """Logits of every window from a model that has not seen its family: `[windows of the task]`."""
    logits = np.zeros(len(rows.windows), np.float32)
    weights = balanced_weights(rows.labels, rows.families)
    for held in family_folds(rows.labels, rows.families, FOLDS):
        out = np.isin(rows.owner, held)
        kept, position = np.unique(rows.owner[~out], return_inverse=True)
        fitted = fit_windows(features[~out], position, rows.labels[kept], weights[kept], c=c)
        logits[out] = fitted.logits(features[out])[:, 0]
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


def threshold_at(scores: Floats, rows: Rows, rate: float) -> float:
    """The score that benign texts exceed at a rate, where every family counts alike."""
    benign = rows.labels == 0
    order = np.argsort(-scores[benign])
    share = np.zeros(benign.sum())
    for family in np.unique(rows.families[benign]):
        own = rows.families[benign] == family
        share[own] = 1 / own.sum()
    running = np.cumsum(share[order] / share.sum())
    return float(scores[benign][order][np.searchsorted(running, rate)])


def macro_recall(scores: Floats, rows: Rows, rate: float) -> float:
    """Recall at a macro false-positive rate, averaged over families."""
    bar = threshold_at(scores, rows, rate)
    families = np.unique(rows.families[rows.labels == 1])
    return float(np.mean([(scores[(rows.families == f) & (rows.labels == 1)] > bar).mean() for f in families]))


def candidates() -> Iterator[tuple[Block, ...]]:
    """Every layer with mean and with mean and max, some with the first token or two layers below too."""
    for k in LAYERS:
        mean, most = Block(k, "mean"), Block(k, "max")
        yield (mean,)
        yield (mean, most)
        if 3 <= k <= 5:
            yield (mean, most, Block(k, "first"))
            yield (mean, most, Block(k - 1, "mean"), Block(k - 2, "mean"))


def choose(cached: Cached) -> list[Candidate]:
    """Every candidate with the mean AUC over heads and left-out families; the chosen one first.

    Chosen is the cheapest of those that come near the best: the lowest layer, then the fewest features. What was
    found so far is kept beside the features, so that an interrupted sweep goes on where it was.
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
            logits = out_of_family(features[rows.windows], rows, SWEEP_PENALTY)
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


@dataclass(frozen=True)
class Aggregation:
    """How windows make a text's logit, and what came of it on documents of many lengths."""

    temperature: float
    length_terms: tuple[float, float]
    recall_by_windows: dict[int, float]
    false_alarms_by_windows: dict[int, float]


def aggregate(logits: Floats, rows: Rows, temperature: float) -> Aggregation:
    """Fit the length terms of a temperature on made-up documents, and measure it on others.

    A document is n harmless windows of one family that the model had not seen; an attacked one has one of them
    replaced by the highest window of an attacked text. Every family counts alike.
    """
    labels, families = rows.labels[rows.owner], rows.families[rows.owner]
    pools = [logits[(labels == 0) & (families == f)] for f in np.unique(families[labels == 0])]
    pools = [pool for pool in pools if len(pool) >= 100]
    witness = highest(logits, rows.owner, len(rows.texts))
    attacks = [witness[(rows.labels == 1) & (rows.families == f)] for f in np.unique(rows.families[rows.labels == 1])]
    quantiles = {n: _quantile(_documents(pools, n, temperature, None, seed=0)) for n in LENGTHS}
    logs = np.log([n for n in LENGTHS if n > 1])
    design = np.stack([logs, logs**2], axis=1)
    rise = np.array([quantiles[n] - quantiles[1] for n in LENGTHS if n > 1])
    terms = np.linalg.lstsq(design, rise, rcond=None)[0]
    taken = {n: float(terms @ [np.log(n), np.log(n) ** 2]) for n in LENGTHS}
    recall, alarms = {}, {}
    for n in LENGTHS:
        bar = quantiles[1] + taken[n]
        alarms[n] = float((_documents(pools, n, temperature, None, seed=1) > bar).mean())
        recall[n] = float(np.mean([(_documents(pools, n, temperature, a, seed=1) > bar).mean() for a in attacks]))
    return Aggregation(temperature, (float(terms[0]), float(terms[1])), recall, alarms)


def _documents(pools: list[Floats], n: int, temperature: float, attack: Floats | None, *, seed: int) -> Floats:
    """Logits of made-up documents of n windows, the same harmless windows for the same seed."""
    random = np.random.default_rng([seed, n])
    drawn = np.concatenate([random.choice(pool, (DOCUMENTS // len(pools), n)) for pool in pools])
    if attack is not None:
        drawn[:, 0] = random.choice(attack, len(drawn))
    top = drawn.max(axis=1)
    shares = np.exp((drawn - top[:, None]) / temperature).mean(axis=1)
    return np.asarray(top + temperature * np.log(shares), np.float32)


def _quantile(values: Floats) -> float:
    return float(np.quantile(values, 1 - FPRS[0]))


def fit_head(cached: Cached, features: Floats, task: Task) -> tuple[HeadSpec, Columns, dict[str, object]]:
    """Choose penalty and aggregation of one head, calibrate it out of family, and fit it on everything."""
    rows = Rows.of(cached, task)
    own = features[rows.windows]
    by_penalty = {c: out_of_family(own, rows, c) for c in PENALTIES}

    def quality(c: float) -> float:
        texts = text_logits(by_penalty[c], rows.owner, len(rows.texts), 1.0)
        return float(np.mean(list(family_aucs(texts, rows).values()))) + macro_recall(texts, rows, 0.05)

    c = max(PENALTIES, key=quality)
    tried = [aggregate(by_penalty[c], rows, temperature) for temperature in TEMPERATURES]
    best = max(tried, key=lambda one: np.mean(list(one.recall_by_windows.values())))
    lengths = np.log(np.maximum(np.bincount(rows.owner, minlength=len(rows.texts)), 1))
    texts = text_logits(by_penalty[c], rows.owner, len(rows.texts), best.temperature)
    texts = np.asarray(texts - best.length_terms[0] * lengths - best.length_terms[1] * lengths**2, np.float32)
    aucs = family_aucs(texts, rows)
    weights = balanced_weights(rows.labels, rows.families)
    slope, offset = platt(texts, rows.labels, weights)
    column = fit_windows(own, rows.owner, rows.labels, weights, c=c).scaled(slope, offset)
    scores = np.asarray(1 / (1 + np.exp(-(slope * texts + offset))), np.float32)
    report = {
        "texts": len(rows.texts),
        "positives": int(rows.labels.sum()),
        "penalty_c": c,
        "aggregations": [asdict(one) for one in tried],
        "temperature": best.temperature,
        "left_out_family_auc": aucs,
        "mean_left_out_family_auc": float(np.mean(list(aucs.values()))),
        "platt": [slope, offset],
        "thresholds_out_of_family": {str(rate): threshold_at(scores, rows, rate) for rate in FPRS},
        "macro_recall_out_of_family": {str(rate): macro_recall(scores, rows, rate) for rate in FPRS},
    }
    print(task.head, json.dumps(report), flush=True)
    two_level = task.head == "safety"
    spec = HeadSpec(
        name=task.head,
        kind="two_level" if two_level else "binary",
        labels=(task.positive, *CATEGORIES) if two_level else (task.positive,),
        temperature=best.temperature * slope,
        length_terms=(best.length_terms[0] * slope, best.length_terms[1] * slope),
    )
    return spec, _with_categories(cached, features, column, c) if two_level else column, report


def _with_categories(cached: Cached, features: Floats, first: Columns, c: float) -> Columns:
    """Add the second level: the category of a window, given that its text is unsafe."""
    known = [category(example) for example in cached.examples]
    windows = np.flatnonzero([known[i] is not None for i in cached.owner])
    labels = np.array([known[i] for i in cached.owner[windows]])
    counts = np.bincount(labels, minlength=len(CATEGORIES))
    weights = np.asarray((len(labels) / len(CATEGORIES) / counts)[labels], np.float32)
    second = fit_categories(features[windows], labels, weights, c=c)
    return Columns(np.hstack([first.weight, second.weight]), np.hstack([first.bias, second.bias]))


def head_scores(cached: Cached, heads: HeadStack, features: Floats, head: str) -> Floats:
    """The score of a head's first label for every text of a cache, as the detector gives it: `[texts]`."""
    logits = heads.logits(features)
    order = np.argsort(cached.owner, kind="stable")
    borders = np.searchsorted(cached.owner[order], np.arange(len(cached.examples) + 1))
    out = np.zeros(len(cached.examples), np.float32)
    for i in range(len(out)):
        own = logits[order[borders[i] : borders[i + 1]]]
        if len(own):
            out[i] = heads.text_scores(own)[head][0]
    return out


def thresholds_on_documents(cached: Cached, scores: Floats) -> dict[str, float]:
    """Where a head that never saw documents exceeds a rate on benign ones: its bars for third-party text."""
    benign = [i for i, e in enumerate(cached.examples) if e.kind == "document" and e.label == "benign"]
    families = np.array([cached.examples[i].family for i in benign])
    none = np.empty(0, np.int64)
    rows = Rows(np.array(benign), np.zeros(len(benign), np.int64), families, none, none)
    return {str(rate): threshold_at(scores[benign], rows, rate) for rate in (0.005, *FPRS)}


def main() -> None:
    """Choose, fit, write."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--cache", type=Path, required=True)
    arguments.add_argument("--out", type=Path, default=EMBEDDED)
    options = arguments.parse_args()
    cached = Cached.read(options.cache)
    sweep = choose(cached)
    blocks = sweep[0].blocks
    report: dict[str, object] = {"sweep": [asdict(candidate) for candidate in sweep]}
    features = cached.features(blocks)
    specs, columns = [], []
    for task in TASKS:
        spec, column, report[task.head] = fit_head(cached, features, task)
        specs.append(spec)
        columns.append(column)
    heads = HeadStack(specs, np.hstack([c.weight for c in columns]), np.hstack([c.bias for c in columns]))
    overrides = head_scores(cached, heads, features, "injection")
    report["injection_on_documents"] = {"thresholds": thresholds_on_documents(cached, overrides)}
    base = packaged_weights(PACKAGE)
    extractor = Extractor.load(base, blocks=blocks, window=WINDOW)
    write_bundle(
        options.out,
        BundleSpec(
            name="embedded",
            base=PackageBase(kind="package", package=PACKAGE),
            files=hash_files(base),
            blocks=tuple(FeatureBlock(layer=block.layer, pooling=block.pooling) for block in blocks),
            window=Windows(size=WINDOW.size, stride=WINDOW.stride),
            extractor_id=extractor.extractor_id,
            heads=tuple(specs),
            heads_sha256="0" * 64,
        ),
        heads,
    )
    (options.out / "fit.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
