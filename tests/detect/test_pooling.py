from __future__ import annotations

import numpy as np
import pytest
import torch

from lec_guard.detect.pooling import POOLINGS, Pooling, pool

BY_HAND = {
    "mean": lambda row: row.mean(axis=0),
    "max": lambda row: row.max(axis=0),
    "first": lambda row: row[0],
    "last": lambda row: row[-1],
}


def batch(side: str, *, padding: float = 0.0) -> tuple[list[np.ndarray], torch.Tensor, torch.Tensor]:
    """Rows of different lengths, and the same rows padded on one side with some number."""
    numbers = np.random.default_rng(0)
    rows = [numbers.normal(size=(length, 5)).astype(np.float32) for length in (3, 1, 6)]
    hidden = torch.full((3, 6, 5), padding)
    mask = torch.zeros((3, 6), dtype=torch.long)
    for at, row in enumerate(rows):
        where = slice(6 - len(row), 6) if side == "left" else slice(0, len(row))
        hidden[at, where] = torch.from_numpy(row)
        mask[at, where] = 1
    return rows, hidden, mask


def test_every_pooling_is_tested() -> None:
    assert set(POOLINGS) == set(BY_HAND)


@pytest.mark.parametrize("padding", [0.0, 1e9, -1e9, float("nan"), float("inf")])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", POOLINGS)
def test_padding_takes_no_part(kind: Pooling, side: str, padding: float) -> None:
    rows, hidden, mask = batch(side, padding=padding)
    expected = np.stack([BY_HAND[kind](row) for row in rows])
    np.testing.assert_allclose(pool(hidden, mask, kind).numpy(), expected, rtol=1e-5, atol=1e-6)


def test_negative_numbers_keep_their_maximum() -> None:
    # A maximum over zeroed padding would be 0.
    hidden = torch.tensor([[[-3.0], [-2.0], [0.0]]])
    assert pool(hidden, torch.tensor([[1, 1, 0]]), "max").item() == -2.0


@pytest.mark.parametrize("kind", POOLINGS)
def test_low_precision_is_pooled_in_float32(kind: Pooling) -> None:
    hidden = torch.full((1, 1000, 1), 1.0, dtype=torch.bfloat16)
    pooled = pool(hidden, torch.ones((1, 1000), dtype=torch.long), kind)
    assert pooled.dtype == torch.float32
    assert pooled.tolist() == [[1.0]]
