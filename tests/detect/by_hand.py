"""What the detector computes in batches and streams, computed one thing at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lec_guard.detect.extractor import Block, Features
from lec_guard.detect.pooling import Pooling
from lec_guard.detect.windows import Window
from tests.detect.conftest import Saved


def softmax(x: np.ndarray) -> np.ndarray:
    """Over the last axis, in float64."""
    x = np.exp(x.astype(np.float64) - x.max(axis=-1, keepdims=True))
    return x / x.sum(axis=-1, keepdims=True)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """In float64."""
    return softmax(np.stack([np.zeros_like(x), x], axis=-1))[..., 1]


def pooled(states: np.ndarray, kind: Pooling, gate: np.ndarray | None = None) -> np.ndarray:
    """States of a window, `[tokens, width]`, where nothing is padding."""
    match kind:
        case "mean":
            return states.mean(axis=0)
        case "max":
            return states.max(axis=0)
        case "first":
            return states[0]
        case "last":
            return states[-1]
        case "gated":
            assert gate is not None
            return softmax(states @ gate) @ states


def side_by_side(states: list[np.ndarray], blocks: Sequence[Block], gates: np.ndarray | None = None) -> np.ndarray:
    """Each block's pooling of its layer's states."""
    gate_of = {block: None if gates is None or block.gate is None else gates[block.gate] for block in blocks}
    return np.concatenate([pooled(states[block.layer], block.pooling, gate_of[block]) for block in blocks])


def features(
    model: Saved, windows: list[Window], blocks: tuple[Block, ...], gates: np.ndarray | None = None
) -> Features:
    """Pooled hidden states of the whole model, one window at a time and without padding."""
    return np.stack([side_by_side(model.states_of(window.ids), blocks, gates) for window in windows])
