"""Windows in, one feature vector each out: a tokenizer, a cut model on some backend, and poolings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from lec_guard.detect import normalise
from lec_guard.detect.windows import Window, Windower, WindowSpec
from lec_guard.errors import BundleError

if TYPE_CHECKING:
    from lec_guard.detect.backends.torch import Dtype
    from lec_guard.detect.bundle import OnnxBase
    from lec_guard.detect.pooling import Pooling
    from lec_guard.detect.prune import PrunedModel

Features = npt.NDArray[np.float32]
Tokens = npt.NDArray[np.int64]

_BATCH_TOKENS = 4096
"""Tokens, with padding, in one forward pass."""


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a feature vector.

    Attributes:
        layer: The layer whose states are pooled, 0 for the embeddings.
        pooling: How.
    """

    layer: int
    pooling: Pooling


class Backend(Protocol):
    """What runs the cut model. Backends of one extractor give the same features within a tested tolerance."""

    name: str
    """What verdicts show."""
    width: int
    """Length of a feature vector."""
    pad_id: int
    """Token id to pad with."""

    def features(self, ids: Tokens, mask: Tokens) -> Features:
        """`[batch, tokens]` twice -> `[batch, width]`."""
        ...


class Extractor:
    """Everything between a text and its features. Safe to share between threads: a call keeps nothing on it.

    Args:
        windower: Cuts texts.
        backend: Runs the model.
        extractor_id: Hash over everything that fixes the features, whatever the backend.
    """

    def __init__(self, windower: Windower, backend: Backend, extractor_id: str) -> None:
        self.windower = windower
        self.backend = backend
        self.extractor_id = extractor_id

    @classmethod
    def load(cls, path: Path, *, blocks: Sequence[Block], window: WindowSpec, dtype: Dtype = "fp32") -> Extractor:
        """Load from a folder with a Hugging Face model and its `tokenizer.json`, for torch.

        Args:
            path: The folder.
            blocks: The layers and poolings that make up a feature vector; what lies above the highest of
                these layers is not loaded.
            window: Size and stride of the windows.
            dtype: What the model computes in.

        Returns:
            An extractor on the CPU.

        Raises:
            BundleError: If the folder lacks a file, its weights don't fit, or windows are longer than the
                model's inputs.
            DetectorError: If the architecture can't be cut, or windows leave gaps.
        """
        # Imported here: an extractor on another backend needs no torch.
        from lec_guard.detect.backends.torch import TorchBackend
        from lec_guard.detect.prune import load_pruned

        model = load_pruned(path, max(block.layer for block in blocks))
        if model.max_positions is not None and window.size > model.max_positions:
            raise BundleError(f"windows of {window.size} tokens, but the model reads {model.max_positions} at most")
        tokenizer = _read(path / "tokenizer.json")
        extractor_id = _extractor_id(model, _read(path / "config.json"), tokenizer, blocks, window)
        extractor = cls(Windower.from_json(tokenizer, window), TorchBackend(model, blocks, dtype), extractor_id)
        try:
            # Some architectures read fewer positions than their config says.
            extractor.features([Window([model.pad_id + 1] * window.size, 0, 0, 0, as_meant=False)])
        except (RuntimeError, IndexError) as error:
            raise BundleError(f"{path}: the model can't read windows of {window.size} tokens: {error}") from error
        return extractor

    @classmethod
    def load_onnx(cls, folder: Path, base: OnnxBase, *, window: WindowSpec, extractor_id: str) -> Extractor:
        """Load an exported model, without torch.

        Args:
            folder: The folder with `model.onnx` and `tokenizer.json`, whose hashes were checked.
            base: What the bundle says of the model.
            window: Size and stride of the windows.
            extractor_id: That of the extractor that was exported.

        Returns:
            An extractor on ONNX Runtime.

        Raises:
            BundleError: If ONNX Runtime is missing, or can't read the model.
        """
        from lec_guard.detect.backends.onnx import OnnxBackend

        backend = OnnxBackend(folder / "model.onnx", dtype=base.dtype, width=base.width, pad_id=base.pad_id)
        return cls(Windower.from_json(_read(folder / "tokenizer.json"), window), backend, extractor_id)

    def features(self, windows: Sequence[Window]) -> Features:
        """The feature vectors of windows, whatever texts they belong to.

        Args:
            windows: The windows.

        Returns:
            `[len(windows), width]`.
        """
        out = np.empty((len(windows), self.backend.width), dtype=np.float32)
        for rows, ids, mask in self._batches(windows):
            out[rows] = self.backend.features(ids, mask)
        return out

    def _batches(self, windows: Sequence[Window]) -> Iterator[tuple[list[int], Tokens, Tokens]]:
        """Rows, ids and mask of batches of similar length, padded on the right.

        On the right because then every architecture counts positions by itself.
        """
        order = sorted(range(len(windows)), key=lambda i: len(windows[i].ids))
        while order:
            # From the long end, so that the widest batch comes first and its memory is reused.
            longest = len(windows[order[-1]].ids)
            # Another pass costs less than padding that is a fifth of the longest.
            shortest = longest - max(8, longest // 5)
            size = 1
            while size < min(len(order), _BATCH_TOKENS // longest) and len(windows[order[-size - 1]].ids) >= shortest:
                size += 1
            rows, order = order[-size:], order[:-size]
            ids = np.full((len(rows), longest), self.backend.pad_id, dtype=np.int64)
            mask = np.zeros((len(rows), longest), dtype=np.int64)
            for at, row in enumerate(rows):
                tokens = windows[row].ids
                ids[at, : len(tokens)] = tokens
                mask[at, : len(tokens)] = 1
            yield rows, ids, mask


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleError(
            f"{path}: can't be read: {error.strerror}; save the model's fast tokenizer beside its weights"
        ) from None


def _extractor_id(
    model: PrunedModel, config: bytes, tokenizer: bytes, blocks: Sequence[Block], window: WindowSpec
) -> str:
    """A hash over everything that fixes the features, so that heads can be bound to it."""
    parts = {
        "tensors": model.digest(),
        "config": hashlib.sha256(config).hexdigest(),
        "tokenizer": hashlib.sha256(tokenizer).hexdigest(),
        "layers": model.layers,
        "blocks": [asdict(block) for block in blocks],
        "window": asdict(window),
        "normaliser": normalise.VERSION,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
