"""Fits the heads of the embedded detector on cached features and writes the bundle.

    python -m benchmarks.embedded.fit --cache CACHE

Layer, pooling, penalty and the number of windows in a text's score are chosen by cross-validation that
leaves whole families of data out; nothing is chosen on the sets that are used for measuring.
"""

from __future__ import annotations

import argparse
import itertools
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score

from benchmarks.embedded.features import PACKAGE, POOLING, WINDOW
from benchmarks.embedded.tasks import CATEGORIES, TASKS, Task, category
from lec_guard.detect.bundle import (
    EMBEDDED,
    BundleSpec,
    PackageBase,
    Windows,
    hash_files,
    packaged_weights,
    write_bundle,
)
from lec_guard.detect.extractor import Extractor
from lec_guard.detect.heads import HeadSpec, HeadStack
from lec_guard.detect.pooling import Pooling
from lec_guard.train.data import Example
from lec_guard.train.fit import (
    Columns,
    Floats,
    Ints,
    balanced_weights,
    family_folds,
    fit_categories,
    fit_windows,
    platt,
    text_logits,
)

FOLDS = 5
CANDIDATE_POOLINGS: tuple[tuple[Pooling, ...], ...] = (("mean",), ("mean", "max"))
PENALTIES = (0.003, 0.01, 0.03, 0.1)
SWEEP_PENALTY = 0.01
TOPS = (1, 2, 3)  # Not the mean of all: whoever pads a text with harmless pages would choose its score.
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

    def layer(self, layer: int, pooling: tuple[Pooling, ...]) -> Floats:
        """`[windows, width of the pooling]`."""
        features = np.load(self.folder / f"layer_{layer}.npy", mmap_mode="r")
        width = features.shape[1] // len(POOLING)
        parts = [features[:, POOLING.index(kind) * width :][:, :width] for kind in pooling]
        return np.concatenate(parts, axis=1)


@dataclass(frozen=True)
class Candidate:
    """A layer and pooling that all heads could share, and how well left-out families did on it."""

    layer: int
    pooling: tuple[Pooling, ...]
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
        labels = [task.label(example) for example in cached.examples]
        texts = np.array([i for i, label in enumerate(labels) if label is not None])
        position = np.full(len(labels), -1)
        position[texts] = np.arange(len(texts))
        windows = np.flatnonzero(position[cached.owner] >= 0)
        return cls(
            texts,
            np.array([labels[i] for i in texts]),
            np.array([cached.examples[i].family for i in texts]),
            windows,
            position[cached.owner[windows]],
        )


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


def choose(cached: Cached) -> list[Candidate]:
    """Every layer and pooling with the mean AUC over heads and left-out families, best first."""
    layers = len(list(cached.folder.glob("layer_*.npy")))
    candidates = []
    for pooling, layer in itertools.product(CANDIDATE_POOLINGS, range(1, layers)):
        features = cached.layer(layer, pooling)
        heads = {}
        for task in TASKS:
            rows = Rows.of(cached, task)
            logits = out_of_family(features[rows.windows], rows, SWEEP_PENALTY)
            texts = text_logits(logits, rows.owner, len(rows.texts), 1)
            heads[task.head] = float(np.mean(list(family_aucs(texts, rows).values())))
        candidates.append(Candidate(layer, pooling, float(np.mean(list(heads.values()))), heads))
        print(candidates[-1], flush=True)
    return sorted(candidates, key=lambda candidate: -candidate.mean_auc)


def fit_head(cached: Cached, features: Floats, task: Task) -> tuple[HeadSpec, Columns, dict[str, object]]:
    """Choose penalty and aggregation of one head, calibrate it out of family, and fit it on everything."""
    rows = Rows.of(cached, task)
    own = features[rows.windows]
    tried = []
    for c in PENALTIES:
        logits = out_of_family(own, rows, c)
        for top in TOPS:
            texts = text_logits(logits, rows.owner, len(rows.texts), top)
            aucs = family_aucs(texts, rows)
            recall = macro_recall(texts, rows, 0.05)
            tried.append((float(np.mean(list(aucs.values()))) + recall, c, top, aucs, texts))
    _, c, top, aucs, texts = max(tried, key=lambda one: one[0])
    weights = balanced_weights(rows.labels, rows.families)
    slope, offset = platt(texts, rows.labels, weights)
    column = fit_windows(own, rows.owner, rows.labels, weights, c=c).scaled(slope, offset)
    scores = 1 / (1 + np.exp(-(slope * texts + offset)))
    report = {
        "texts": len(rows.texts),
        "positives": int(rows.labels.sum()),
        "penalty_c": c,
        "top_windows": top,
        "left_out_family_auc": aucs,
        "mean_left_out_family_auc": float(np.mean(list(aucs.values()))),
        "platt": [slope, offset],
        "thresholds_out_of_family": {str(rate): threshold_at(scores, rows, rate) for rate in FPRS},
        "macro_recall_out_of_family": {str(rate): macro_recall(scores, rows, rate) for rate in FPRS},
        "tried": [[score, c_, top_] for score, c_, top_, _, _ in tried],
    }
    print(task.head, json.dumps({k: v for k, v in report.items() if k != "tried"}), flush=True)
    if task.head != "safety":
        return HeadSpec(name=task.head, kind="binary", labels=(task.positive,), top_windows=top), column, report
    return (
        HeadSpec(name=task.head, kind="two_level", labels=(task.positive, *CATEGORIES), top_windows=top),
        _with_categories(cached, features, column, c),
        report,
    )


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
    cached = Cached.read(options.cache / "train")
    candidates = choose(cached)
    layer, pooling = candidates[0].layer, candidates[0].pooling
    report: dict[str, object] = {"sweep": [asdict(candidate) for candidate in candidates]}
    features = cached.layer(layer, pooling)
    specs, columns = [], []
    for task in TASKS:
        spec, column, report[task.head] = fit_head(cached, features, task)
        specs.append(spec)
        columns.append(column)
    heads = HeadStack(specs, np.hstack([c.weight for c in columns]), np.hstack([c.bias for c in columns]))
    overrides = head_scores(cached, heads, features, "injection")
    report["injection_on_documents"] = {"thresholds": thresholds_on_documents(cached, overrides)}
    base = packaged_weights(PACKAGE)
    extractor = Extractor.load(base, layers=layer, pooling=pooling, window=WINDOW)
    write_bundle(
        options.out,
        BundleSpec(
            name="embedded",
            base=PackageBase(kind="package", package=PACKAGE),
            files=hash_files(base),
            layers=layer,
            pooling=pooling,
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
