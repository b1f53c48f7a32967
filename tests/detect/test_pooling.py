from __future__ import annotations

import numpy as np
import pytest
import torch

from lec_guard.detect.pooling import POOLINGS, Pooling, pool
from tests.detect import by_hand

TOKENS, WIDTH = 6, 5
LENGTHS = (3, 1, 6)
SEGMENTS = {
    "one": [[0, 1, 2, 3, 4, 5]],
    "side by side": [[0, 1, 2], [3, 4, 5]],
    "overlapping": [[0, 1, 2, 3], [2, 3, 4, 5]],
    "beyond the row": [[0, 1, 2, 3], [3, 4, 5, 6], [5, 6, 7, 8]],
    "of one token": [[0], [2], [5]],
}
GATE = np.random.default_rng(1).normal(size=WIDTH).astype(np.float32)


def batch(side: str, *, padding: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """States of rows of different lengths, padded on one side with some number, and their mask."""
    numbers = np.random.default_rng(0)
    hidden = torch.full((len(LENGTHS), TOKENS, WIDTH), padding)
    mask = torch.zeros((len(LENGTHS), TOKENS), dtype=torch.long)
    for at, length in enumerate(LENGTHS):
        where = slice(TOKENS - length, TOKENS) if side == "left" else slice(0, length)
        hidden[at, where] = torch.from_numpy(numbers.normal(size=(length, WIDTH)).astype(np.float32))
        mask[at, where] = 1
    return hidden, mask


def pool_all(hidden: torch.Tensor, mask: torch.Tensor, segments: list[list[int]], kind: Pooling) -> torch.Tensor:
    return pool(hidden, mask, torch.tensor(segments), kind, torch.from_numpy(GATE) if kind == "gated" else None)


@pytest.mark.parametrize("padding", [0.0, 1e9, -1e9, float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("segments", SEGMENTS.values(), ids=SEGMENTS)
@pytest.mark.parametrize("kind", POOLINGS)
def test_each_segment_is_pooled_over_its_own_tokens(
    kind: Pooling, segments: list[list[int]], side: str, padding: float
) -> None:
    hidden, mask = batch(side, padding=padding)
    found = pool_all(hidden, mask, segments, kind).numpy()
    assert found.shape == (len(LENGTHS), len(segments), WIDTH)
    seen = 0
    for row, segment in np.ndindex(found.shape[:2]):
        kept = np.flatnonzero(mask[row].numpy())
        inside = [at for at, token in enumerate(kept) if token in segments[segment]]
        if inside:
            states = hidden[row].numpy()[kept]
            expected = by_hand.pooled(states, (inside[0], inside[-1] + 1), kind, GATE)
            np.testing.assert_allclose(found[row, segment], expected, rtol=1e-5, atol=1e-6)
            seen += 1
    assert seen >= len(LENGTHS)


def test_negative_numbers_keep_their_maximum() -> None:
    # A maximum over zeroed padding would be 0.
    hidden = torch.tensor([[[-3.0], [-2.0], [0.0]]])
    assert pool(hidden, torch.tensor([[1, 1, 0]]), torch.tensor([[0, 1, 2, 3]]), "max").item() == -2.0


@pytest.mark.parametrize("kind", POOLINGS)
def test_low_precision_is_pooled_in_float32(kind: Pooling) -> None:
    exact, mask = batch("right")
    rounded = exact.to(torch.bfloat16)
    found = pool_all(rounded, mask, SEGMENTS["overlapping"], kind)
    assert found.dtype == torch.float32
    assert torch.equal(found, pool_all(rounded.float(), mask, SEGMENTS["overlapping"], kind))
    assert not torch.equal(found, pool_all(exact, mask, SEGMENTS["overlapping"], kind))


def test_a_gate_of_zeros_is_the_mean() -> None:
    hidden, mask = batch("right")
    segments = torch.tensor([[0, 1, 2]])
    found = pool(hidden, mask, segments, "gated", torch.zeros(WIDTH))
    torch.testing.assert_close(found, pool(hidden, mask, segments, "mean"))


@pytest.mark.parametrize("size", [1e3, 1e10, 1e30])
def test_a_strong_gate_takes_the_token_that_it_likes_best(size: float) -> None:
    hidden, mask = batch("right", padding=1e9)
    found = pool(hidden, mask, torch.tensor([list(range(TOKENS))]), "gated", torch.tensor(GATE * size))
    for row, length in enumerate(LENGTHS):
        own = hidden[row, :length]
        torch.testing.assert_close(found[row, 0], own[(own @ torch.from_numpy(GATE)).argmax()])


def test_a_gated_pooling_needs_its_gate() -> None:
    hidden, mask = batch("right")
    with pytest.raises(ValueError, match="needs the gate"):
        pool(hidden, mask, torch.tensor([[0, 1]]), "gated")
