"""What the detector computes in batches and streams, computed one thing at a time."""

from __future__ import annotations

import numpy as np

from lec_guard.detect.extractor import Block, Features
from lec_guard.detect.pooling import Pooling
from lec_guard.detect.windows import Window, WindowSpec
from tests.detect.conftest import Saved


def softmax(x: np.ndarray) -> np.ndarray:
    """Over the last axis, in float64."""
    x = np.exp(x.astype(np.float64) - x.max(axis=-1, keepdims=True))
    return x / x.sum(axis=-1, keepdims=True)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """In float64."""
    return softmax(np.stack([np.zeros_like(x), x], axis=-1))[..., 1]


def pooled(states: np.ndarray, segment: tuple[int, int], kind: Pooling, gate: np.ndarray | None = None) -> np.ndarray:
    """A segment of a window's states, `[tokens, width]`, where nothing is padding."""
    own = states[slice(*segment)]
    match kind:
        case "mean":
            return own.mean(axis=0)
        case "max":
            return own.max(axis=0)
        case "first":
            return states[0]
        case "last":
            return own[-1]
        case "gated":
            assert gate is not None
            return softmax(own @ gate) @ own


def features(
    model: Saved, windows: list[Window], blocks: tuple[Block, ...], spec: WindowSpec, gates: np.ndarray | None = None
) -> Features:
    """Pooled hidden states of the whole model, one window at a time and without padding."""
    rows = []
    for window in windows:
        states = model.states_of(window.ids)
        for segment in spec.segments(len(window.ids)):
            rows.append(
                np.concatenate(
                    [
                        pooled(
                            states[block.layer],
                            segment,
                            block.pooling,
                            None if gates is None or block.gate is None else gates[block.gate],
                        )
                        for block in blocks
                    ]
                )
            )
    return np.stack(rows)
