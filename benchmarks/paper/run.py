"""Rebuilds the claims of the LEC paper (Masterman et al. 2024, arXiv 2412.13435) with the embedded detector's model.

    python -m benchmarks.paper.run --data DATA --work FOLDER

Every layer is read by mean pooling; heads are fitted to samples of each size, several times, and tested on texts that
are no near-duplicates of what they were fitted on, but of the same sets: as in the paper, and other than in
`lec-guard eval`. Length alone is fitted to samples of the same sizes. Writes `results.json` and the page beside it.
FOLDER keeps features and fits, so that an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import f1_score

from benchmarks.paper import special
from benchmarks.paper.page import write_page
from benchmarks.paper.tasks import Task, tasks
from lec_guard.detect.bundle import packaged_weights
from lec_guard.detect.extractor import Block, Extractor
from lec_guard.detect.windows import WindowSpec
from lec_guard.train.baselines import OwnClassifier, last_layer
from lec_guard.train.families import family_names
from lec_guard.train.features import collect
from lec_guard.train.sweep import SEEDS, SIZES, Spread, split, sweep
from lec_guard.train.trainer import PACKAGE
from lec_guard.train.trivial import by_length, by_majority

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
PENALTIES = (0.01, 0.1, 1.0)
WINDOW = WindowSpec(size=64, stride=31, least=10)


def measure(task: Task, folder: Path, work: Path) -> dict[str, Any]:
    """Learning curves of every layer of a model on one task, beside length alone and the majority."""
    began = time.monotonic()
    blocks = [Block(layer, "mean") for layer in range(last_layer(folder) + 1)]
    extractor = Extractor.load(folder, blocks=blocks, window=WINDOW)
    data = task.data
    features = collect(extractor, [one.text for one in data.examples], work / "features", blocks=blocks)
    if len(features.unread):
        raise ValueError(f"{task.name}: {len(features.unread)} texts without a token")
    families = family_names(data).tolist()
    found = sweep(
        features,
        data.targets,
        families,
        labels=data.labels,
        folder=work / "sweep",
        sizes=SIZES,
        seeds=SEEDS,
        penalties=PENALTIES,
        jobs=2,
    )
    parts = split(data.hard, families, data.labels)
    curves: dict[int, dict[int, dict[str, float]]] = {}
    for row in found.summary():
        curves.setdefault(row.layer, {})[row.size] = _spread(row.f1)
    sizes = sorted({size for own in curves.values() for size in own})
    length = by_length([one.text for one in data.examples], data.hard, parts, sizes, seeds=SEEDS)
    counts = np.bincount(data.hard, minlength=len(data.labels))
    report = {
        "name": task.name,
        "claim": task.claim,
        "note": task.note,
        "texts": len(data.examples),
        "classes": len(data.labels),
        "largest_class": float(counts.max() / counts.sum()),
        "tested_on": len(parts.test),
        "curves": curves,
        "length": {size: _spread(own) for size, own in length.items()},
        "majority": by_majority(data.hard, parts),
        "left_out": list(found.left_out),
        "seconds": round(time.monotonic() - began),
    }
    print(task.name, f"{report['seconds']} s", flush=True)
    return report


def _spread(own: Spread) -> dict[str, float]:
    return {"mean": own.mean, "low": own.low, "high": own.high}


def own_classifier(folder: Path, task: Task) -> dict[str, Any]:
    """The classifier that a model comes with, on the texts that the heads are tested on."""
    data = task.data
    parts = split(data.hard, family_names(data).tolist(), data.labels)
    texts = [data.examples[row].text for row in parts.test.tolist()]
    scores = OwnClassifier(folder, benign=special.LABELS[0]).scores(texts, [None] * len(texts))
    found = (scores >= 0.5).astype(np.int64)
    return {"task": task.name, "f1": float(f1_score(data.hard[parts.test], found, average="weighted"))}


def main() -> None:
    """Measure and write."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--data", type=Path, required=True)
    arguments.add_argument("--work", type=Path, required=True)
    options = arguments.parse_args()
    base = packaged_weights(PACKAGE)
    known = tasks(options.data)
    found = [measure(task, base, options.work / f"task{number}") for number, task in enumerate(known)]
    model = options.work / "special"
    if not (model / "fitted.json").is_file():
        special.fit(options.data, model)
    chosen = known[:2]
    report = {
        "tasks": found,
        "special": {
            "set": special.SET,
            "tasks": [measure(task, model, options.work / f"special{n}") for n, task in enumerate(chosen)],
            "own_classifier": [own_classifier(model, task) for task in chosen],
        },
    }
    RESULTS.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    write_page(json.loads(RESULTS.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
