"""Windows in, one feature vector each out: a tokenizer, a cut model on some backend, and poolings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from lec_guard.detect import normalise
from lec_guard.detect import windows as window_rules
from lec_guard.detect.windows import Window, Windower, WindowSpec
from lec_guard.errors import BundleError

if TYPE_CHECKING:
    from lec_guard.detect.adapters import Adapters
    from lec_guard.detect.backends.torch import Dtype
    from lec_guard.detect.bundle import OnnxBase
    from lec_guard.detect.pooling import Pooling
    from lec_guard.detect.prune import PrunedModel
    from lec_guard.detect.turns import Turn

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
        gate: Which learned query a gated pooling takes; None for the others.
    """

    layer: int
    pooling: Pooling
    gate: int | None = None


class Backend(Protocol):
    """What runs the cut model. Backends of one extractor give the same features within a tested tolerance."""

    name: str
    """What verdicts show."""
    width: int
    """Length of a feature vector."""
    pad_id: int
    """Token id to pad with."""

    def features(self, ids: Tokens, mask: Tokens) -> Features:
        """Features of one batch, padded on the right.

        Args:
            ids: Token ids, `[batch, tokens]`.
            mask: 1 for a token, 0 for padding, `[batch, tokens]`.

        Returns:
            `[batch, width]`.
        """
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
    def load(
        cls,
        path: Path,
        *,
        blocks: Sequence[Block],
        window: WindowSpec,
        gates: Features | None = None,
        adapters: Adapters | None = None,
        turn: Turn | None = None,
        dtype: Dtype = "fp32",
    ) -> Extractor:
        """Load from a folder with a Hugging Face model and its `tokenizer.json`, for torch.

        Args:
            path: The folder.
            blocks: The layers and poolings that make up a feature vector; what lies above the highest of
                these layers is not loaded.
            window: How texts are cut.
            gates: The learned queries of gated poolings, `[gates, width of a state]`; None where there are none.
            adapters: What is added to the weights; None where nothing is.
            turn: What each window is read in; None: it is read by itself.
            dtype: What the model computes in.

        Returns:
            An extractor, on a GPU where torch sees one.

        Raises:
            BundleError: If the folder lacks a file, its weights don't fit, windows are longer than the model's
                inputs, a gated pooling has no gate of the right size, or adapters were trained on something else.
            DetectorError: If the architecture can't be cut, or windows leave gaps.
        """
        # Imported here: an extractor on another backend needs no torch.
        from lec_guard.detect.backends.torch import TorchBackend
        from lec_guard.detect.prune import load_pruned

        model = load_pruned(path, max(block.layer for block in blocks))
        if model.max_positions is not None and window.size > model.max_positions:
            raise BundleError(f"windows of {window.size} tokens, but the model reads {model.max_positions} at most")
        _check_gates(blocks, gates, model.width)
        tokenizer = _read(path / "tokenizer.json")
        config = _read(path / "config.json")
        found = extractor_id(model, config, tokenizer, blocks, window, gates, adapters, turn)
        if adapters is not None:
            from lec_guard.detect.merge import merge

            merge(model, adapters)
        windower, backend = Windower.from_json(tokenizer, window), TorchBackend(model, blocks, gates, dtype)
        extractor = extractor_of(windower, backend, found, turn)
        if model.takes_all:
            return extractor
        try:
            # Some architectures read fewer positions than their config says.
            extractor.features([window_of(window.size, model.pad_id + 1)])
        except (RuntimeError, IndexError) as error:
            raise BundleError(f"{path}: the model can't read windows of {window.size} tokens: {error}") from error
        return extractor

    @classmethod
    def load_onnx(cls, folder: Path, base: OnnxBase, *, window: WindowSpec, extractor_id: str) -> Extractor:
        """Load an exported model, without torch.

        Args:
            folder: The folder with `model.onnx` and `tokenizer.json`, whose hashes were checked.
            base: What the bundle says of the model.
            window: How texts are cut.
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
            `[windows, width]`.
        """
        return self.batched([window.ids for window in windows], self.backend.features)

    def batched(
        self, tokens: Sequence[Sequence[int]], read: Callable[[Tokens, Tokens], Features], *, before: int = 0
    ) -> Features:
        """Read rows of tokens in batches of similar length.

        Args:
            tokens: Token ids of each row.
            read: Ids and mask, `[batch, tokens]` -> `[batch, width]`, as `Backend.features`.
            before: Tokens that stand before each row, and take memory too.

        Returns:
            `[rows, width]`.
        """
        out = np.empty((len(tokens), self.backend.width), dtype=np.float32)
        for rows, ids, mask in batches(tokens, self.backend.pad_id, before=before):
            out[rows] = read(ids, mask)
        return out


def batches(
    tokens: Sequence[Sequence[int]], pad_id: int, *, before: int = 0
) -> Iterator[tuple[list[int], Tokens, Tokens]]:
    """Batches of rows of similar length, padded on the right: there every architecture counts positions by itself.

    Args:
        tokens: Token ids of each row.
        pad_id: Token id to pad with.
        before: Tokens that stand before each row, and take memory too.

    Yields:
        Which rows, their ids, and their mask, `[batch, tokens]`.
    """
    order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
    while order:
        # From the long end, so that the widest batch comes first and its memory is reused.
        longest = len(tokens[order[-1]])
        # Another pass costs less than padding that is a fifth of the longest.
        shortest = longest - max(8, longest // 5)
        most = min(len(order), _BATCH_TOKENS // (before + longest))
        size = 1
        while size < most and len(tokens[order[-size - 1]]) >= shortest:
            size += 1
        rows, order = order[-size:], order[:-size]
        padding = [pad_id] * longest
        ids = np.array([[*tokens[row], *padding[len(tokens[row]) :]] for row in rows], dtype=np.int64)
        lengths = np.array([[len(tokens[row])] for row in rows])
        yield rows, ids, (np.arange(longest) < lengths).astype(np.int64)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleError(
            f"{path}: can't be read: {error.strerror}; save the model's fast tokenizer beside its weights"
        ) from None


def window_of(tokens: int, token: int = 5) -> Window:
    """A window that says nothing, to try a model on.

    Args:
        tokens: How many tokens.
        token: The token that it repeats.

    Returns:
        The window.
    """
    return Window([token] * tokens, (0, 1), 0, as_meant=False)


def _check_gates(blocks: Sequence[Block], gates: Features | None, width: int) -> None:
    count = 0 if gates is None else len(gates)
    for block in blocks:
        if (block.pooling == "gated") != (block.gate is not None):
            raise BundleError(f"the pooling {block.pooling!r} of layer {block.layer} has gate {block.gate}")
        if block.gate is not None and not 0 <= block.gate < count:
            raise BundleError(f"layer {block.layer} is pooled by gate {block.gate}, but there are {count} gates")
    if gates is not None and gates.shape[1:] != (width,):
        raise BundleError(f"the gates have shape {gates.shape}, but the model's states are {width} wide")


def extractor_of(windower: Windower, backend: Backend, extractor_id: str, turn: Turn | None) -> Extractor:
    """An extractor that reads windows by themselves, or in a turn.

    Args:
        windower: Cuts texts.
        backend: Runs the model.
        extractor_id: Hash over everything that fixes the features.
        turn: What each window is read in; None: it is read by itself.

    Returns:
        The extractor.

    Raises:
        BundleError: If the backend can't read in a turn.
    """
    if turn is None:
        return Extractor(windower, backend, extractor_id)
    from lec_guard.detect.prefix import TurnExtractor

    return TurnExtractor(windower, backend, extractor_id, turn)


def extractor_id(
    model: PrunedModel,
    config: bytes,
    tokenizer: bytes,
    blocks: Sequence[Block],
    window: WindowSpec,
    gates: Features | None,
    adapters: Adapters | None,
    turn: Turn | None,
) -> str:
    """A hash over everything that fixes the features, so that heads can be bound to it.

    Of adapters it takes what they are kept as, and the weights before they are merged: sums of floats are not the same
    to the last bit on all machines.

    Args:
        model: The cut model.
        config: Its `config.json`.
        tokenizer: Its `tokenizer.json`.
        blocks: The layers and poolings.
        window: How texts are cut.
        gates: The learned queries of gated poolings.
        adapters: What is added to the weights.
        turn: What each window is read in.

    Returns:
        A sha256 in hex.
    """
    parts = {
        "tensors": model.digest(),
        "config": hashlib.sha256(config).hexdigest(),
        "tokenizer": hashlib.sha256(tokenizer).hexdigest(),
        "layers": model.layers,
        "blocks": [asdict(block) for block in blocks],
        "window": asdict(window),
        "gates": None if gates is None else hashlib.sha256(np.ascontiguousarray(gates, "<f4").tobytes()).hexdigest(),
        "normaliser": normalise.VERSION,
        "windows": window_rules.VERSION,
    }
    if adapters is not None:  # where there are none, the hash is what it was before there could be any
        parts["adapters"] = adapters.digest()
    if turn is not None:
        parts["turn"] = asdict(turn)
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
