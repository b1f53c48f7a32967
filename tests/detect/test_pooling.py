from __future__ import annotations

import numpy as np
import pytest
import torch

from lec_guard.detect.pooling import POOLINGS, Pooling, pool
from tests.detect import by_hand

TOKENS, WIDTH = 6, 5
LENGTHS = (3, 1, 6)
GATE = np.random.default_rng(1).normal(size=WIDTH).astype(np.float32)


def batch(side: str, *, padding: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """States of rows of different lengths, padded on one side, or on both, with some number, and their mask."""
    numbers = np.random.default_rng(0)
    hidden = torch.full((len(LENGTHS), TOKENS, WIDTH), padding)
    mask = torch.zeros((len(LENGTHS), TOKENS), dtype=torch.long)
    for at, length in enumerate(LENGTHS):
        start = {"left": TOKENS - length, "right": 0, "both": (TOKENS - length) // 2}[side]
        where = slice(start, start + length)
        hidden[at, where] = torch.from_numpy(numbers.normal(size=(length, WIDTH)).astype(np.float32))
        mask[at, where] = 1
    return hidden, mask


def pool_all(hidden: torch.Tensor, mask: torch.Tensor, kind: Pooling) -> torch.Tensor:
    return pool(hidden, mask, kind, torch.from_numpy(GATE) if kind == "gated" else None)


@pytest.mark.parametrize("padding", [0.0, 1e9, -1e9, float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("side", ["left", "right", "both"])
@pytest.mark.parametrize("kind", POOLINGS)
def test_each_row_is_pooled_over_its_own_tokens(kind: Pooling, side: str, padding: float) -> None:
    hidden, mask = batch(side, padding=padding)
    found = pool_all(hidden, mask, kind).numpy()
    assert found.shape == (len(LENGTHS), WIDTH)
    for row, length in enumerate(LENGTHS):
        states = hidden[row].numpy()[mask[row].numpy() == 1]
        assert len(states) == length
        np.testing.assert_allclose(found[row], by_hand.pooled(states, kind, GATE), rtol=1e-5, atol=1e-6)


def test_negative_numbers_keep_their_maximum() -> None:
    # A maximum over zeroed padding would be 0.
    hidden = torch.tensor([[[-3.0], [-2.0], [0.0]]])
    assert pool(hidden, torch.tensor([[1, 1, 0]]), "max").item() == -2.0


@pytest.mark.parametrize("kind", POOLINGS)
def test_low_precision_is_pooled_in_float32(kind: Pooling) -> None:
    exact, mask = batch("right")
    rounded = exact.to(torch.bfloat16)
    found = pool_all(rounded, mask, kind)
    assert found.dtype == torch.float32
    assert torch.equal(found, pool_all(rounded.float(), mask, kind))
    assert not torch.equal(found, pool_all(exact, mask, kind))


def test_a_gate_of_zeros_is_the_mean() -> None:
    hidden, mask = batch("right")
    torch.testing.assert_close(pool(hidden, mask, "gated", torch.zeros(WIDTH)), pool(hidden, mask, "mean"))


@pytest.mark.parametrize("size", [1e3, 1e10, 1e30])
def test_a_strong_gate_takes_the_token_that_it_likes_best(size: float) -> None:
    hidden, mask = batch("right", padding=1e9)
    found = pool(hidden, mask, "gated", torch.tensor(GATE * size))
    for row, length in enumerate(LENGTHS):
        own = hidden[row, :length]
        torch.testing.assert_close(found[row], own[(own @ torch.from_numpy(GATE)).argmax()])


def test_a_gated_pooling_needs_its_gate() -> None:
    hidden, mask = batch("right")
    with pytest.raises(ValueError, match="needs the gate"):
        pool(hidden, mask, "gated")
