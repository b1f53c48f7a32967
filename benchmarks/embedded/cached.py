"""What `benchmarks.embedded.features` collected."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.embedded.sets import Example
from lec_guard.detect.extractor import Block
from lec_guard.train.features import ContextFeatures, Features
from lec_guard.train.fit import Floats, Ints


@dataclass(frozen=True)
class Cached:
    """Examples with the features of their windows after each layer, and those of their contexts."""

    examples: list[Example]
    contexts: Ints
    folder: Path
    _texts: Features
    _contexts: ContextFeatures

    @classmethod
    def read(cls, folder: Path) -> Cached:
        """Read what `features.collect` wrote."""
        examples = read_cached_examples(folder)
        contexts = np.load(folder / "contexts.npy")
        own = ContextFeatures(features=Features.read(folder / "contexts"), rows=contexts)
        return cls(examples, contexts, folder, Features.read(folder / "texts"), own)

    @property
    def owner(self) -> Ints:
        """The example of each window."""
        return self._texts.owner

    def features(self, blocks: Sequence[Block]) -> Floats:
        """Those of texts: `[windows, width of the blocks]`."""
        return self._texts.of(blocks)

    def context_features(self, blocks: Sequence[Block]) -> Floats:
        """Those of contexts, as `Meeting.read` has them: `[contexts, width of the blocks]`."""
        return self._contexts.of(blocks)


def read_cached_examples(folder: Path) -> list[Example]:
    """The examples alone."""
    with (folder / "examples.jsonl").open(encoding="utf-8") as lines:
        return [Example(**json.loads(line)) for line in lines]
