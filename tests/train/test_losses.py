from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from lec_guard.detect.heads import HeadSpec, HeadStack
from lec_guard.train.losses import Recent, WorstFamilies, harm, losses, low_fpr, text_columns
from tests.train.lessons import BINARY, SAFETY, TOPIC

LN2 = float(np.log(2))


@pytest.mark.parametrize("aggregation", ["log_mean_exp", "attention"])
@pytest.mark.parametrize("temperature", [0.3, 2.0])
@pytest.mark.parametrize("head", [BINARY, TOPIC, SAFETY], ids=lambda head: head.kind)
def test_windows_make_a_text_as_they_do_in_service(head: HeadSpec, aggregation: str, temperature: float) -> None:
    spec = head.model_copy(update={"aggregation": aggregation, "temperature": temperature})
    numbers = np.random.default_rng(0)
    counts = [1, 3, 7, 2]
    logits = numbers.normal(scale=3, size=(sum(counts), spec.columns)).astype(np.float32)
    stack = HeadStack([spec], np.eye(spec.columns, dtype=np.float32), np.zeros(spec.columns, np.float32))
    borders = np.cumsum([0, *counts])
    at, mask = np.zeros((4, 7), np.int64), np.zeros((4, 7), np.bool_)
    for text, (start, end) in enumerate(itertools.pairwise(borders)):
        at[text, : end - start], mask[text, : end - start] = np.arange(start, end), True
    own = text_columns(torch.from_numpy(logits), torch.from_numpy(at), torch.from_numpy(mask), spec)
    for text, (start, end) in enumerate(itertools.pairwise(borders)):
        expected = stack.text_scores(logits[start:end])[spec.name]
        found = stack.window_scores(own[text : text + 1].numpy())[spec.name][0]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def cost(columns: list[list[float]], label: list[int], soft: list[float], head: HeadSpec) -> list[float]:
    return losses(torch.tensor(columns), torch.tensor(label), torch.tensor(soft), head).tolist()


NONE = float("nan")


def test_a_label_costs_its_cross_entropy_and_a_teacher_its_divergence() -> None:
    # log odds of 0: both are even
    assert cost([[0.0]] * 2, [1, 0], [NONE, NONE], BINARY) == pytest.approx([LN2, LN2])
    # A teacher who is as unsure costs nothing; one who is sure costs as much as a label.
    assert cost([[0.0]] * 3, [-1, -1, -1], [0.5, 1.0, 0.0], BINARY) == pytest.approx([0, LN2, LN2], abs=1e-6)
    # Both count by half.
    assert cost([[0.0]] * 2, [1, 1], [0.5, 1.0], BINARY) == pytest.approx([LN2 / 2, LN2])
    odds = float(np.log(0.8 / 0.2))
    divergence = 0.6 * np.log(0.6 / 0.8) + 0.4 * np.log(0.4 / 0.2)
    assert cost([[odds]], [1], [0.6], BINARY) == pytest.approx([(-np.log(0.8) + divergence) / 2])


def test_several_classes_cost_theirs_and_the_teacher_knows_harm() -> None:
    columns = [[1.0, 2.0, 0.5]]
    shares = np.exp(columns[0]) / np.exp(columns[0]).sum()
    assert cost(columns, [2], [NONE], TOPIC) == pytest.approx([-np.log(shares[2])])
    harmful = 1 - shares[0]
    assert torch.sigmoid(harm(torch.tensor(columns), TOPIC)).item() == pytest.approx(harmful)
    divergence = 0.3 * np.log(0.3 / harmful) + 0.7 * np.log(0.7 / (1 - harmful))
    assert cost(columns, [-1], [0.3], TOPIC) == pytest.approx([divergence])


def test_a_category_of_a_two_level_head_comes_on_top() -> None:
    columns = [[0.0, 1.0, -1.0]] * 3
    category = -np.log(np.exp(-1) / (np.exp(1) + np.exp(-1)))
    assert cost(columns, [0, 1, 3], [NONE] * 3, SAFETY) == pytest.approx([LN2, LN2, LN2 + category])


@pytest.mark.parametrize("head", [BINARY, TOPIC, SAFETY], ids=lambda head: head.kind)
def test_no_gradient_is_not_a_number(head: HeadSpec) -> None:
    columns = (torch.randn(6, head.columns) * 50).requires_grad_()
    label, soft = torch.tensor([-1, 0, 1, 1, 0, -1]), torch.tensor([0.0, NONE, 1.0, NONE, 0.3, 1.0])
    losses(columns, label, soft, head).sum().backward()
    assert torch.isfinite(columns.grad).all()


ODDS = torch.tensor([2.0, -1.0, 0.5, 3.0])
SIDE = torch.tensor([1, 0, 0, 0])


def apart(temperature: float, weights: list[float] | None = None, recent: Recent | None = None) -> float:
    own = torch.ones(4) if weights is None else torch.tensor(weights)
    recent = recent or Recent.none(torch.device("cpu"))
    return low_fpr(ODDS, SIDE, own, recent, temperature=temperature).item()


def softplus(x: float) -> float:
    return float(np.log1p(np.exp(x)))


def test_the_soft_maximum_lies_between_the_highest_and_the_mean() -> None:
    each = [softplus(odds - 2.0) for odds in (-1.0, 0.5, 3.0)]
    assert apart(0.01) == pytest.approx(max(each), abs=0.02)
    assert apart(1000.0) == pytest.approx(np.mean(each), abs=1e-3)
    assert np.mean(each) < apart(0.5) < max(each)
    # What counts little is as if it were rare.
    assert apart(1000.0, [1, 1, 1, 1e-6]) == pytest.approx(np.mean(each[:2]), abs=1e-3)


def test_harmless_texts_of_former_batches_count_too_but_are_not_moved() -> None:
    recent = Recent(torch.tensor([9.0]), torch.tensor([1.0]))
    assert apart(0.01, recent=recent) == pytest.approx(softplus(7.0), abs=0.03)
    assert recent.odds.tolist() == [9.0, -1.0, 0.5, 3.0]
    for _ in range(500):
        apart(1.0, recent=recent)
    assert len(recent.odds) == len(recent.weights) == 1024
    # The gradient pushes the highest harmless text down and the harmful one up.
    odds = ODDS.clone().requires_grad_()
    low_fpr(odds, SIDE, torch.ones(4), Recent.none(odds.device), temperature=0.1).backward()
    assert odds.grad[0] < 0 < odds.grad[3]
    assert odds.grad[3] > 100 * odds.grad[1]


def test_a_batch_of_one_side_costs_nothing() -> None:
    for side in (torch.zeros(4), torch.ones(4)):
        odds = ODDS.clone().requires_grad_()
        found = low_fpr(odds, side, torch.ones(4), Recent.none(odds.device), temperature=1.0)
        assert found.item() == 0
        found.backward()
        assert not odds.grad.any()


def families(strength: float) -> WorstFamilies:
    family, side = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 0, 0, 0, 1, 1])
    return WorstFamilies(family, side, np.full(6, 1 / 6), strength)


def test_families_that_do_worst_count_more_and_classes_stay_in_balance() -> None:
    own = families(1.0)
    every = np.arange(6)
    np.testing.assert_allclose(own.weights(every), np.ones(6))
    for _ in range(50):
        own.learn(every, np.array([0.1, 0.1, 1.6, 1.6, 5.0, 5.0]))
    weights = own.weights(every)
    assert weights[2] / weights[0] == pytest.approx(np.exp(1.5), rel=0.05)
    assert weights[:4].mean() == pytest.approx(1.0)
    assert weights[4] == pytest.approx(1.0)
    still = families(0.0)
    still.learn(every, np.array([0.1, 0.1, 1.6, 1.6, 5.0, 5.0]))
    np.testing.assert_allclose(still.weights(every), np.ones(6))


def test_no_family_counts_more_than_four_times() -> None:
    family, side = np.arange(50), np.zeros(50, np.int64)
    own = WorstFamilies(family, side, np.full(50, 1 / 50), 10.0)
    own.learn(np.array([7]), np.array([100.0]))
    assert own.weights(np.arange(50)).max() == pytest.approx(4.0)
