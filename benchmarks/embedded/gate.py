"""Whether a pooling by a learned gate tells more than mean and max, on left-out families of the sets to fit on.

    python -m benchmarks.embedded.gate --data DATA

DATA holds `train/` with one JSON-lines file a set. In each fold the gate is learned on the training families alone.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.embedded.features import PACKAGE, WINDOW
from benchmarks.embedded.fit import Rows, Training, family_aucs, fit_rows
from benchmarks.embedded.sets import Example, sample
from benchmarks.embedded.tasks import TASKS, Task
from benchmarks.markdown import bare_table
from lec_guard.detect.bundle import EMBEDDED, packaged_weights
from lec_guard.train.fit import Floats, family_folds, text_logits
from lec_guard.train.gates import TokenStates, collect_states, fit_gate

POOLINGS = {
    "mean": ("mean",),
    "mean+max": ("mean", "max"),
    "gated": ("gated",),
    "mean+gated": ("mean", "gated"),
    "mean+max+gated": ("mean", "max", "gated"),
}
FOLDS, SWEEP_PENALTY = 5, 0.01
BASELINE = "mean+max"
"""What the shipped heads read."""


def learned(tokens: TokenStates, own: Training, c: float) -> Floats:
    """The gate that some of a task's windows give: `[width]`."""
    return fit_gate(tokens.of(own.windows, own.owner), own.labels, own.weights, c=c)


def compare(tokens: TokenStates, examples: list[Example], task: Task, gate_c: float) -> dict[str, Any]:
    """AUC of each left-out family under each pooling, and what the gates looked at."""
    rows = Rows.of_windows(examples, tokens.owner, task)
    chosen = np.zeros(len(tokens.owner), np.bool_)
    chosen[rows.windows] = True
    tokens = tokens.of(chosen, rows.owner)
    pooled = {"mean": tokens.pooled("mean"), "max": tokens.pooled("max")}
    logits = {name: np.zeros(len(rows.owner), np.float32) for name in POOLINGS}
    folds = family_folds(rows.labels, rows.families, FOLDS)
    began = time.monotonic()
    for held in folds:
        out = np.isin(rows.owner, held)
        pooled["gated"] = tokens.pooled("gated", learned(tokens, Training.of(rows, ~out), gate_c))
        for name, parts in POOLINGS.items():
            features = np.hstack([pooled[part] for part in parts])
            logits[name][out] = fit_rows(features, rows, ~out, SWEEP_PENALTY).logits(features[out])[:, 0]
        print(f"{task.head}: a fold done after {time.monotonic() - began:.0f} s", flush=True)
    aucs = {name: family_aucs(text_logits(own, rows.owner, len(rows.texts), 1.0), rows) for name, own in logits.items()}
    held_families = [sorted(set(rows.families[held]) & set(aucs[BASELINE])) for held in folds]
    return {
        "texts": len(rows.texts),
        "positives": int(rows.labels.sum()),
        "windows": len(rows.owner),
        "folds": held_families,
        "poolings": {name: summary(own, aucs[BASELINE], held_families) for name, own in aucs.items()},
    }


def summary(aucs: dict[str, float], baseline: dict[str, float], folds: list[list[str]]) -> dict[str, Any]:
    """Mean and spread over left-out families, and the same of what they gain over the baseline."""
    own = np.array(list(aucs.values()))
    gain = own - np.array([baseline[family] for family in aucs])
    return {
        "mean_auc": float(own.mean()),
        "deviation_over_families": float(own.std(ddof=1)),
        "fold_means": [float(np.mean([aucs[family] for family in fold])) for fold in folds],
        "gain": float(gain.mean()),
        "gain_standard_error": float(gain.std(ddof=1) / np.sqrt(len(gain))),
        "families": aucs,
    }


def comparison(report: dict[str, dict[str, Any]]) -> str:
    """Mean AUC ± deviation over families (range of the folds' means; gain ± standard error), in Markdown."""
    rows = []
    for name in POOLINGS:
        heads = [head["poolings"][name] for head in report.values()]
        cells = [
            f"{one['mean_auc']:.3f} ± {one['deviation_over_families']:.3f} "
            f"({min(one['fold_means']):.3f}-{max(one['fold_means']):.3f}; "
            f"{one['gain']:+.3f} ± {one['gain_standard_error']:.3f})"
            for one in heads
        ]
        rows.append([name, *cells, f"{np.mean([one['mean_auc'] for one in heads]):.3f}"])
    return bare_table(["pooling", *report, "mean"], rows)


def main() -> None:
    """Collect, compare, write."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--data", type=Path, required=True)
    arguments.add_argument("--most", type=int, default=60, help="examples of a set and label")
    arguments.add_argument("--layer", type=int, default=4)
    arguments.add_argument("--gate-c", type=float, default=SWEEP_PENALTY, help="inverse penalty of the gate's own fit")
    arguments.add_argument("--out", type=Path, default=EMBEDDED / "gate.json")
    options = arguments.parse_args()
    examples = [
        example
        for example in sample(options.data / "train", options.most)
        if any(task.label(example) is not None for task in TASKS)
    ]
    texts = [example.text for example in examples]
    tokens = collect_states(packaged_weights(PACKAGE), texts, layer=options.layer, window=WINDOW)
    print(f"{len(texts)} texts, {len(tokens.states):,} tokens, {len(tokens.owner):,} windows", flush=True)
    heads = {task.head: compare(tokens, examples, task, options.gate_c) for task in TASKS}
    print(comparison(heads))
    settings = {"most": options.most, "layer": options.layer, "penalty_c": SWEEP_PENALTY, "gate_c": options.gate_c}
    options.out.write_text(json.dumps({"settings": settings, "heads": heads}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
