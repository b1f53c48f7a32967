"""What `benchmarks.embedded.features` collected."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.embedded.features import name
from lec_guard.detect.extractor import Block
from lec_guard.train.data import Example
from lec_guard.train.fit import Floats, Ints

_ARRAYS = ("owner", "contexts", "context_owner")


@dataclass(frozen=True)
class Cached:
    """Examples with the features of their windows after each layer, and those of their contexts."""

    examples: list[Example]
    owner: Ints
    contexts: Ints
    context_owner: Ints
    folder: Path

    @classmethod
    def read(cls, folder: Path) -> Cached:
        """Read what `features.collect` wrote."""
        with (folder / "examples.jsonl").open(encoding="utf-8") as lines:
            examples = [Example(**json.loads(line)) for line in lines]
        owner, contexts, context_owner = (np.load(folder / f"{what}.npy") for what in _ARRAYS)
        return cls(examples, owner, contexts, context_owner, folder)

    def features(self, blocks: Sequence[Block]) -> Floats:
        """Those of texts: `[windows, width of the blocks]`."""
        return self._features(blocks, slice(0, len(self.owner)))

    def context_features(self, blocks: Sequence[Block]) -> Floats:
        """Those of contexts, as `Meeting.read` has them: `[contexts, width of the blocks]`."""
        rows = self._features(blocks, slice(len(self.owner), None))
        total = np.zeros((self.context_owner.max() + 1, rows.shape[1]))
        np.add.at(total, self.context_owner, rows)
        return np.asarray(total / np.bincount(self.context_owner)[:, None], np.float32)

    def _features(self, blocks: Sequence[Block], rows: slice) -> Floats:
        files = [np.load(self.folder / name(block), mmap_mode="r") for block in blocks]
        return np.concatenate([file[rows] for file in files], axis=1, dtype=np.float32)
