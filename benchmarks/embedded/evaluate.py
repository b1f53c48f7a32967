"""Measures the embedded heads on sets they were not fitted on, beside trivial baselines.

    python -m benchmarks.embedded.evaluate --data DATA --cache CACHE

DATA holds `eval/` with one JSON-lines file a set. Texts are scored by the detector as it is shipped, windows and
normalisation on. The baselines are fitted on the same rows as the heads: the length of a text alone, and TF-IDF with
logistic regression. Writes `metrics.json` beside the bundle.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from benchmarks.embedded.cached import Cached
from benchmarks.embedded.features import sample
from benchmarks.embedded.fit import Rows
from benchmarks.embedded.sets import Example
from benchmarks.embedded.tasks import CATEGORIES, TASKS, Task, category
from lec_guard.detect.bundle import EMBEDDED
from lec_guard.detect.detector import LayerDetector
from lec_guard.guard import heads_of
from lec_guard.policy.store import PolicyStore
from lec_guard.step import Scores, Stage, Step
from lec_guard.train.evaluate import Thresholds, bar_at, thresholds_of
from lec_guard.train.fit import Floats, balanced_weights

RESAMPLES = 500
FEWEST = 4  # An interval over fewer families would be made up.
STAGE: dict[str, Stage] = {"injection": "input", "indirect_injection": "tool_output", "safety": "input"}


@dataclass(frozen=True)
class Scored:
    """The measured rows of a task with every method's scores."""

    rows: Rows
    sources: npt.NDArray[np.str_]
    scores: dict[str, Floats]


def score(train: Cached, examples: list[Example], found: list[Scores], task: Task) -> Scored:
    """Score the measured rows of a task by head, length and TF-IDF."""
    fitted, rows = Rows.of(train, task), Rows.of_texts(examples, task)
    texts = [train.examples[i].text for i in fitted.texts]
    asked = [examples[i].text for i in rows.texts]
    weights = balanced_weights(fitted.labels, fitted.families)
    length = LogisticRegression().fit(_lengths(texts), fitted.labels, sample_weight=weights)
    vectors = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2, max_features=200_000)
    tfidf = LogisticRegression(C=10.0, max_iter=300)
    tfidf.fit(vectors.fit_transform(texts), fitted.labels, sample_weight=weights)
    return Scored(
        rows,
        np.array([examples[i].source for i in rows.texts]),
        {
            "head": np.array([found[i].by_head[task.head][task.positive] for i in rows.texts], np.float32),
            "length": length.predict_proba(_lengths(asked))[:, 1],
            "tfidf": tfidf.predict_proba(vectors.transform(asked))[:, 1],
        },
    )


def _lengths(texts: list[str]) -> Floats:
    logs = np.log1p([len(text) for text in texts]).astype(np.float32)
    return np.stack([logs, logs**2], axis=1)


def auc(labels: npt.NDArray[np.int64], scores: Floats) -> dict[str, float]:
    """AUC with a 95% bootstrap interval over texts."""
    random = np.random.default_rng(0)
    draws: list[float] = []
    while len(draws) < RESAMPLES:
        picked = random.integers(0, len(labels), len(labels))
        if 0 < labels[picked].sum() < len(picked):
            draws.append(roc_auc_score(labels[picked], scores[picked]))
    low, high = np.percentile(draws, [2.5, 97.5])
    return {"auc": float(roc_auc_score(labels, scores)), "low": float(low), "high": float(high)}


def by_set(scored: Scored, reached: dict[str, npt.NDArray[np.bool_]]) -> dict[str, Any]:
    """For each set: AUC of every method where it has both labels, and how often the packaged policy's rules match."""
    report: dict[str, Any] = {}
    for source in np.unique(scored.sources):
        own = scored.sources == source
        labels = scored.rows.labels[own]
        positives = int(labels.sum())
        entry: dict[str, Any] = {"positives": positives, "negatives": len(labels) - positives}
        if 10 <= positives <= len(labels) - 10:
            entry["auc"] = {method: auc(labels, values[own]) for method, values in scored.scores.items()}
        for action, matches in reached.items():
            entry[action] = {
                name: float(matches[own][labels == label].mean())
                for name, label in (("positives", 1), ("negatives", 0))
                if (labels == label).any()
            }
        report[str(source)] = entry
    return report


def overall(scored: Scored, fitted: npt.NDArray[np.str_]) -> dict[str, Any]:
    """Attacks against benign texts of families that were not fitted on, each family counting alike."""
    new = ~np.isin(scored.rows.families, fitted)
    labels, families = scored.rows.labels[new], scored.rows.families[new]
    attacked, harmless = np.unique(families[labels == 1]), np.unique(families[labels == 0])
    report: dict[str, Any] = {"families": [str(f) for f in attacked], "benign_families": [str(f) for f in harmless]}
    for method, all_scores in scored.scores.items():
        scores = all_scores[new]
        benign = labels == 0
        weights = np.zeros(len(labels))
        for label in (0, 1):
            for family in np.unique(families[labels == label]):
                rows = (labels == label) & (families == family)
                weights[rows] = 1 / rows.sum()
        entry: dict[str, Any] = {"macro_auc": float(roc_auc_score(labels, scores, sample_weight=weights))}
        order = np.argsort(-scores[benign])
        running = np.cumsum(weights[benign][order]) / weights[benign].sum()
        for rate in (0.01, 0.05):
            bar = scores[benign][order][np.searchsorted(running, rate)]
            recalls = [float((scores[(families == f) & (labels == 1)] > bar).mean()) for f in attacked]
            found: dict[str, float] = {"macro": float(np.mean(recalls))}
            if len(recalls) >= FEWEST:
                random = np.random.default_rng(0)
                draws = [np.mean(random.choice(recalls, len(recalls))) for _ in range(RESAMPLES)]
                found["low"], found["high"] = (float(p) for p in np.percentile(draws, [2.5, 97.5]))
            entry[f"recall_at_{rate}"] = found
        report[method] = entry
    return report


def by_length(scored: Scored, windows: npt.NDArray[np.int64], reached: npt.NDArray[np.bool_]) -> list[dict[str, float]]:
    """Share of benign texts that a rule matches, by the number of windows they were read in."""
    benign = scored.rows.labels == 0
    own, matches = windows[scored.rows.texts][benign], reached[benign]
    report = []
    for low, high in ((1, 1), (2, 3), (4, 7), (8, 15), (16, 63), (64, 10**9)):
        inside = (own >= low) & (own <= high)
        if inside.sum() >= 50:
            share = float(matches[inside].mean())
            report.append({"from_windows": low, "texts": int(inside.sum()), "share": share})
    return report


def categories(examples: list[Example], found: list[Scores]) -> dict[str, Any]:
    """How often the likeliest category of an unsafe text is its own, and the commonest one's share."""
    right, truth = [], []
    for example, scores in zip(examples, found, strict=True):
        expected = category(example)
        if expected is not None:
            labels = scores.by_head["safety"]
            right.append(max(CATEGORIES, key=lambda name: labels[name]) == CATEGORIES[expected])
            truth.append(expected)
    counts = np.bincount(truth, minlength=len(CATEGORIES))
    return {
        "texts": len(truth),
        "accuracy": float(np.mean(right)),
        "majority": float(counts.max() / counts.sum()),
        "recall_by_category": {
            CATEGORIES[c]: float(np.mean([r for r, t in zip(right, truth, strict=True) if t == c]))
            for c in sorted(set(truth))
        },
    }


def main() -> None:
    """Measure and write."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--data", type=Path, required=True)
    arguments.add_argument("--cache", type=Path, required=True)
    arguments.add_argument("--bundle", type=Path, default=EMBEDDED)
    options = arguments.parse_args()
    detector = LayerDetector.load(options.bundle, budget=None)
    train, examples = Cached.read(options.cache), sample(options.data / "eval", 10**9)
    found: list[Scores] = []
    began = time.monotonic()
    for at in range(0, len(examples), 1000):
        found += detector.score([Step(stage="input", text=e.text) for e in examples[at : at + 1000]])
        print(f"{len(found):,} of {len(examples):,} texts, {time.monotonic() - began:.0f} s", flush=True)
    windows = np.array([scores.windows for scores in found])
    rules = PolicyStore(None, lambda _: heads_of(detector)).get(None).live.thresholds
    report: dict[str, Any] = {"detector_id": detector.detector_id}
    for task in TASKS:
        stage = STAGE[task.head]
        bars: dict[str, Thresholds] = {
            str(one.action): thresholds_of([one]) for one in rules if (one.head, one.stage) == (task.head, stage)
        }
        scored = score(train, examples, found, task)
        reached = {
            action: scored.scores["head"] >= [bar_at(own, stage, n) for n in windows[scored.rows.texts]]
            for action, own in bars.items()
        }
        fitted = Rows.of(train, task).families
        sets = by_set(scored, reached)
        for source, family in set(zip(scored.sources, scored.rows.families, strict=True)):
            sets[source]["family_was_fitted"] = bool(np.isin(family, fitted))
        report[task.head] = {
            "thresholds": {action: own[stage] for action, own in bars.items()},
            "overall": overall(scored, fitted),
            "benign_by_length": {action: by_length(scored, windows, own) for action, own in reached.items()},
            "sets": sets,
        }
        print(task.head, json.dumps(report[task.head]["overall"], indent=1), flush=True)
    report["categories"] = categories(examples, found)
    print(json.dumps(report["categories"], indent=1))
    (options.bundle / "metrics.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
