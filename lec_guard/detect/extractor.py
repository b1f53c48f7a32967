"""Texts in, one feature vector per window out: a cut transformer, its tokenizer and a pooling."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer

from lec_guard.detect import normalise
from lec_guard.detect.pooling import Pooling, pool
from lec_guard.detect.prune import PrunedModel, load_pruned
from lec_guard.detect.windows import Reading, Window, Windower, WindowSpec
from lec_guard.errors import BundleError

Features = npt.NDArray[np.float32]

_BATCH_TOKENS = 4096
"""Tokens, with padding, in one forward pass."""


class Extractor:
    """A transformer cut off after layer k, with everything that fixes its features.

    Safe to share between threads: a call keeps nothing on the object.

    Args:
        model: The cut model.
        tokenizer_file: The model's `tokenizer.json`.
        pooling: How a window's hidden states become one vector.
        window: Size and stride of the windows.

    Raises:
        BundleError: If the tokenizer can't be read, or windows are longer than the model's inputs.
        DetectorError: If windows leave gaps.
    """

    backend = "torch-fp32"

    def __init__(
        self, model: PrunedModel, tokenizer_file: Path, pooling: tuple[Pooling, ...], window: WindowSpec
    ) -> None:
        if model.max_positions is not None and window.size > model.max_positions:
            raise BundleError(f"windows of {window.size} tokens, but the model reads {model.max_positions} at most")
        tokenizer_bytes = _read(tokenizer_file)
        self.windower = Windower(_tokenizer(tokenizer_file, tokenizer_bytes), window)
        self.pooling = pooling
        self.extractor_id = _extractor_id(model, tokenizer_bytes, pooling, window)
        model.module.float()
        self.model = model

    @classmethod
    def load(
        cls, path: Path, *, layers: int | None = None, pooling: tuple[Pooling, ...], window: WindowSpec
    ) -> Extractor:
        """Load from a folder with a Hugging Face model and its `tokenizer.json`.

        Args:
            path: The folder.
            layers: How many layers to keep; None keeps all.
            pooling: How a window's hidden states become one vector.
            window: Size and stride of the windows.

        Returns:
            An extractor on the CPU in float32.

        Raises:
            BundleError: If the folder lacks a file or its weights don't fit.
            DetectorError: If the architecture can't be cut.
        """
        return cls(load_pruned(path, layers), path / "tokenizer.json", pooling, window)

    @property
    def width(self) -> int:
        """Length of a feature vector."""
        return self.model.width * len(self.pooling)

    def read(self, texts: Sequence[str], budget: int) -> list[Reading]:
        """Cut texts into windows.

        Args:
            texts: The texts.
            budget: Tokens of a text beyond which it is not read.

        Returns:
            One reading a text, in order.
        """
        return self.windower.read(texts, budget)

    def features(self, windows: Sequence[Window]) -> Features:
        """The feature vectors of windows, whatever texts they belong to.

        Args:
            windows: At least one window.

        Returns:
            `[len(windows), width]`.
        """
        out = np.empty((len(windows), self.width), dtype=np.float32)
        for rows, ids, mask in self._batches(windows):
            with torch.inference_mode():
                out[rows] = pool(self.model.hidden(ids, mask), mask, self.pooling).numpy()
        return out

    def layer_features(self, windows: Sequence[Window]) -> Features:
        """The feature vectors after every layer, from one pass, for a sweep over layers.

        Args:
            windows: At least one window.

        Returns:
            `[layers + 1, len(windows), width]`; row 0 holds the embeddings.
        """
        out = np.empty((self.model.layers + 1, len(windows), self.width), dtype=np.float32)
        for rows, ids, mask in self._batches(windows):
            with torch.inference_mode():
                for layer, state in enumerate(self.model.all_hidden(ids, mask)):
                    out[layer, rows] = pool(state, mask, self.pooling).numpy()
        return out

    def _batches(self, windows: Sequence[Window]) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
        """Rows, ids and mask of batches of similar length, padded on the right.

        On the right because then every architecture counts positions by itself.
        """
        order = sorted(range(len(windows)), key=lambda i: len(windows[i].ids))
        while order:
            longest = len(windows[order[-1]].ids)
            # From the long end, so that the widest batch comes first and its memory is reused.
            size = max(1, _BATCH_TOKENS // longest)
            rows, order = order[-size:], order[:-size]
            ids = torch.full((len(rows), longest), self.model.pad_id, dtype=torch.long)
            mask = torch.zeros((len(rows), longest), dtype=torch.long)
            for at, row in enumerate(rows):
                tokens = windows[row].ids
                ids[at, : len(tokens)] = torch.tensor(tokens)
                mask[at, : len(tokens)] = 1
            yield rows, ids, mask


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleError(
            f"{path}: can't be read: {error.strerror}; save the model's fast tokenizer beside its weights"
        ) from None


def _tokenizer(path: Path, content: bytes) -> Tokenizer:
    try:
        return Tokenizer.from_str(content.decode())
    except Exception as error:
        raise BundleError(f"{path}: not a tokenizer that can be read: {error}") from error


def _extractor_id(model: PrunedModel, tokenizer: bytes, pooling: tuple[Pooling, ...], window: WindowSpec) -> str:
    """A hash over everything that fixes the features, so that heads can be bound to it."""
    parts = {
        "tensors": model.digest(),
        "tokenizer": hashlib.sha256(tokenizer).hexdigest(),
        "layers": model.layers,
        "pooling": pooling,
        "window": asdict(window),
        "normaliser": normalise.VERSION,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
