"""Measures the embedded heads on sets they were not fitted on, beside trivial baselines.

    python -m benchmarks.embedded.evaluate --data DATA --cache CACHE

DATA holds `eval/` with one JSON-lines file a set. Texts are scored by the detector as it is shipped, windows and
normalisation on. The baselines are fitted on the same rows as the heads: the length of a text alone, and TF-IDF with
logistic regression. What the packaged policy does is told of each set, all of its rules together, and what a policy
would do that asks for 1%. Writes `metrics.json` beside the bundle, or what `--out` names.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from benchmarks.embedded.cached import read_cached_examples
from benchmarks.embedded.fit import Rows
from benchmarks.embedded.sets import Example, sample
from benchmarks.embedded.tasks import CATEGORIES, STAGES, TASKS, Task, category
from lec_guard.detect.bundle import EMBEDDED
from lec_guard.detect.layer import LayerDetector
from lec_guard.guard import heads_of
from lec_guard.policy.compile import Threshold
from lec_guard.policy.store import PolicyStore
from lec_guard.step import Scores, Stage, Step
from lec_guard.train.evaluate import Thresholds, bar_at, budget_of, thresholds_of
from lec_guard.train.fit import Floats, balanced_weights

RESAMPLES = 500
FEWEST = 4  # An interval over fewer families would be made up.
MAX_FPR = 0.01
"""The budget whose realised rate is measured."""
STOPS, WARNS = "block", "flag"


@dataclass(frozen=True)
class Scored:
    """The measured rows of a task with every method's scores."""

    rows: Rows
    sources: npt.NDArray[np.str_]
    scores: dict[str, Floats]


def baseline_scores(train: list[Example], examples: list[Example], task: Task) -> dict[str, Floats]:
    """What a text's length alone, and TF-IDF with logistic regression, say of the measured rows of a task."""
    fitted, rows = Rows.of_texts(train, task), Rows.of_texts(examples, task)
    texts = [train[i].text for i in fitted.texts]
    asked = [examples[i].text for i in rows.texts]
    weights = balanced_weights(fitted.labels, fitted.families)
    length = LogisticRegression().fit(_lengths(texts), fitted.labels, sample_weight=weights)
    vectors = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2, max_features=200_000)
    tfidf = LogisticRegression(C=10.0, max_iter=300)
    tfidf.fit(vectors.fit_transform(texts), fitted.labels, sample_weight=weights)
    return {
        "length": length.predict_proba(_lengths(asked))[:, 1],
        "tfidf": tfidf.predict_proba(vectors.transform(asked))[:, 1],
    }


def score(train: list[Example], examples: list[Example], found: list[Scores], task: Task) -> Scored:
    """Score the measured rows of a task by head, length and TF-IDF."""
    rows = Rows.of_texts(examples, task)
    head = np.array([found[i].by_head[task.head][task.positive] for i in rows.texts], np.float32)
    sources = np.array([examples[i].source for i in rows.texts])
    return Scored(rows, sources, {"head": head, **baseline_scores(train, examples, task)})


def _lengths(texts: list[str]) -> Floats:
    logs = np.log1p([len(text) for text in texts]).astype(np.float32)
    return np.stack([logs, logs**2], axis=1)


def stage_of(example: Example) -> Stage:
    """Where a text is judged."""
    return STAGES[example.kind][0]


def auc(labels: npt.NDArray[np.int64], scores: Floats) -> dict[str, float]:
    """AUC with a 95% bootstrap interval over texts, and average precision."""
    random = np.random.default_rng(0)
    draws: list[float] = []
    while len(draws) < RESAMPLES:
        picked = random.integers(0, len(labels), len(labels))
        if 0 < labels[picked].sum() < len(picked):
            draws.append(roc_auc_score(labels[picked], scores[picked]))
    low, high = np.percentile(draws, [2.5, 97.5])
    return {
        "auc": float(roc_auc_score(labels, scores)),
        "low": float(low),
        "high": float(high),
        "auprc": float(average_precision_score(labels, scores)),
    }


def by_set(scored: Scored, reached: dict[str, npt.NDArray[np.bool_]]) -> dict[str, Any]:
    """For each set: AUC of every method where it has both labels, and how often the head's packaged rules match."""
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
    """How often the likeliest category of an unsafe text is its own, and macro F1 over what two sets or more name."""
    named: list[str] = []
    truth: list[str] = []
    sets: dict[str, set[str]] = {}
    for example, scores in zip(examples, found, strict=True):
        expected = category(example)
        if expected is not None:
            labels = scores.by_head["safety"]
            named.append(max(CATEGORIES, key=lambda name: labels[name]))
            truth.append(CATEGORIES[expected])
            sets.setdefault(CATEGORIES[expected], set()).add(example.source)
    right = np.array(named) == np.array(truth)
    shared = sorted(name for name, own in sets.items() if len(own) > 1)
    counts = [truth.count(name) for name in CATEGORIES]
    return {
        "texts": len(truth),
        "accuracy": float(right.mean()),
        "majority": max(counts) / len(truth),
        "shared": shared,
        "macro_f1_of_shared": float(f1_score(truth, named, labels=shared, average="macro")) if shared else None,
        "macro_f1": float(f1_score(truth, named, labels=sorted(sets), average="macro")),
        "recall_by_category": {name: float(right[np.array(truth) == name].mean()) for name in sorted(sets)},
    }


@dataclass(frozen=True)
class Policed:
    """What the rules of a policy do with texts, all of them together: `[texts]`, by action."""

    by_action: dict[str, npt.NDArray[np.bool_]]

    @classmethod
    def of(cls, rules: Sequence[Threshold], examples: list[Example], found: list[Scores]) -> Policed:
        """Which texts reach rules where they pass.

        Args:
            rules: The thresholds that are in force.
            examples: The texts.
            found: Their scores.

        Returns:
            Whether a text is stopped, and whether anything is said of it.
        """
        bars: dict[tuple[str, str], Thresholds] = {
            (action, head): thresholds_of([one for one in rules if (str(one.action), one.head) == (action, head)])
            for action, head in {(str(one.action), one.head) for one in rules}
        }
        by_action = {action: np.zeros(len(examples), np.bool_) for action in (STOPS, WARNS)}
        for number, (example, scores) in enumerate(zip(examples, found, strict=True)):
            for (action, head), own in bars.items():
                # Its first label is what a head's rule reads.
                at = next(iter(scores.by_head[head].values()))
                if at >= bar_at(own, stage_of(example), scores.windows):
                    by_action[action][number] = True
        by_action[WARNS] |= by_action[STOPS]
        return cls(by_action)


def policed(own: Policed, examples: list[Example], families: set[str]) -> dict[str, Any]:
    """What a policy does by set, and by stage, sets counting alike.

    Args:
        own: What its rules do.
        examples: The texts.
        families: Those that heads were fitted on: their attacks are not counted in what a stage finds.

    Returns:
        By set the shares of harmless and harmful texts that are stopped and flagged; by stage their means.
    """
    sets: dict[str, Any] = {}
    for source in dict.fromkeys(example.source for example in examples):
        rows = [i for i, example in enumerate(examples) if example.source == source]
        first = examples[rows[0]]
        entry: dict[str, Any] = {"stage": stage_of(first), "family_was_fitted": first.family in families}
        for side, labels in (("harmless", ("benign", "safe")), ("injection", ("injection",)), ("unsafe", ("unsafe",))):
            chosen = [i for i in rows if examples[i].label in labels]
            if chosen:
                entry[side] = {
                    "texts": len(chosen),
                    **{action: float(found[chosen].mean()) for action, found in own.by_action.items()},
                }
        sets[source] = entry
    return {"sets": sets, "stages": {stage: _stage_means(sets, stage) for stage in ("input", "output", "tool_output")}}


def _stage_means(sets: dict[str, Any], stage: str) -> dict[str, Any]:
    here = [entry for entry in sets.values() if entry["stage"] == stage]
    report: dict[str, Any] = {}
    for side in ("harmless", "injection", "unsafe"):
        own = [
            entry[side] for entry in here if side in entry and (side == "harmless" or not entry["family_was_fitted"])
        ]
        if not own:
            continue
        found: dict[str, Any] = {"sets": len(own)}
        for action in (STOPS, WARNS):
            shares = [one[action] for one in own]
            found[action] = {"mean": float(np.mean(shares)), **_over_sets(shares)}
        report[side] = found
    return report


def _over_sets(shares: list[float]) -> dict[str, float]:
    if len(shares) < FEWEST:
        return {}
    random = np.random.default_rng(0)
    draws = [np.mean(random.choice(shares, len(shares))) for _ in range(RESAMPLES)]
    low, high = np.percentile(draws, [2.5, 97.5])
    return {"low": float(low), "high": float(high)}


def realised(
    detector: LayerDetector, examples: list[Example], found: list[Scores], families: set[str]
) -> dict[str, Any]:
    """What comes of a budget: harmless texts of families that were not fitted, where each head alone has `MAX_FPR`."""
    report: dict[str, Any] = {}
    for task in TASKS:
        spec = next(head for head in detector.heads if head.name == task.head)
        bars = budget_of(spec, MAX_FPR).thresholds
        shares: dict[str, dict[str, float]] = {}
        for source in dict.fromkeys(example.source for example in examples):
            rows = [
                i
                for i, example in enumerate(examples)
                if example.source == source and task.label(example) == 0 and example.family not in families
            ]
            if rows and stage_of(examples[rows[0]]) in bars:
                stage = stage_of(examples[rows[0]])
                over = [
                    found[i].by_head[task.head][task.positive] >= bar_at(bars, stage, found[i].windows) for i in rows
                ]
                shares.setdefault(stage, {})[source] = float(np.mean(over))
        report[task.head] = {
            stage: {"mean": float(np.mean(list(own.values()))), "sets": own} for stage, own in shares.items()
        }
    return report


def main() -> None:
    """Measure and write."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--data", type=Path, required=True)
    arguments.add_argument("--cache", type=Path, required=True)
    arguments.add_argument("--bundle", type=Path, default=EMBEDDED)
    arguments.add_argument("--out", type=Path, help="where to write, if not beside the bundle")
    options = arguments.parse_args()
    detector = LayerDetector.load(options.bundle, budget=None)
    held = set(json.loads((options.bundle / "fit.json").read_text(encoding="utf-8")).get("held", ()))
    train = [one for one in read_cached_examples(options.cache) if one.family not in held]
    families = {one.family for one in train}
    examples = sample(options.data / "eval", 10**9)
    found: list[Scores] = []
    began = time.monotonic()
    for at in range(0, len(examples), 1000):
        found += detector.score([Step(stage="input", text=e.text) for e in examples[at : at + 1000]])
        print(f"{len(found):,} of {len(examples):,} texts, {time.monotonic() - began:.0f} s", flush=True)
    windows = np.array([scores.windows for scores in found])
    rules = PolicyStore(None, lambda _: heads_of(detector)).get(None).live.thresholds
    report: dict[str, Any] = {"detector_id": detector.detector_id}
    for task in TASKS:
        bars: dict[str, Thresholds] = {
            action: thresholds_of([one for one in rules if (one.head, str(one.action)) == (task.head, action)])
            for action in (WARNS, STOPS)
        }
        scored = score(train, examples, found, task)
        stages = [stage_of(examples[i]) for i in scored.rows.texts]
        lengths = windows[scored.rows.texts]
        reached = {
            action: scored.scores["head"] >= [bar_at(own, stage, n) for stage, n in zip(stages, lengths, strict=True)]
            for action, own in bars.items()
        }
        fitted = Rows.of_texts(train, task).families
        sets = by_set(scored, reached)
        for source, family in set(zip(scored.sources, scored.rows.families, strict=True)):
            sets[source]["family_was_fitted"] = bool(np.isin(family, fitted))
        unseen = [own["auc"]["head"]["auc"] for own in sets.values() if "auc" in own and not own["family_was_fitted"]]
        report[task.head] = {
            "thresholds": bars,
            "overall": overall(scored, fitted),
            "mean_auc_of_unseen_sets": {"auc": float(np.mean(unseen)), "sets": len(unseen), **_over_sets(unseen)}
            if unseen
            else None,
            "benign_by_length": {action: by_length(scored, windows, own) for action, own in reached.items()},
            "sets": sets,
        }
        print(task.head, json.dumps(report[task.head]["overall"], indent=1), flush=True)
    report["categories"] = categories(examples, found)
    report["policy"] = policed(Policed.of(rules, examples, found), examples, families)
    report["budget"] = {"max_fpr": MAX_FPR, **realised(detector, examples, found, families)}
    print(json.dumps({name: report[name] for name in ("categories", "policy", "budget")}, indent=1))
    out = options.out or options.bundle / "metrics.json"
    out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
