"""Layer, pooling and penalty, chosen by leaving families out."""

from __future__ import annotations

import numpy as np
import pytest

from lec_guard.detect.extractor import Block
from lec_guard.train.fit import fit_windows
from lec_guard.train.select import Bags, alarms, candidates, choose, fit_bags, out_of_family, quality


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def make(rng, *, classes=2, texts=240, windows=2, signal=1.5):
    """Texts of six families; only one window of a harmful text says so. Feature 5 tells families, not classes."""
    labels = np.arange(texts) % classes
    families = np.array([f"f{i % 6}" for i in rng.permutation(texts)])
    owner = np.repeat(np.arange(texts), windows)
    features = rng.normal(size=(len(owner), 6)).astype(np.float32)
    first = np.searchsorted(owner, np.arange(texts))
    for label in range(1, classes):
        features[first[labels == label], label] += signal * 2
    bags = Bags(targets=np.eye(classes, dtype=np.float32)[labels], families=families, owner=owner)
    folds = [np.flatnonzero(np.isin(families, [f"f{i}", f"f{i + 3}"])) for i in range(3)]
    return features, bags, folds


def test_two_classes_are_fitted_as_windows_are(rng):
    features, bags, _ = make(rng)
    every = np.ones(len(features), np.bool_)
    found = fit_bags(features, bags, every, c=0.1)
    expected = fit_windows(features, bags.owner, bags.classes, bags.weights(), c=0.1)
    np.testing.assert_allclose(found.weight, expected.weight, rtol=1e-4, atol=1e-5)


def test_several_classes_have_a_column_each(rng):
    features, bags, folds = make(rng, classes=4)
    found = fit_bags(features, bags, np.ones(len(features), np.bool_), c=0.1)
    assert found.weight.shape == (6, 4)
    assert [int(found.weight[1:4, label].argmax()) + 1 for label in (1, 2, 3)] == [1, 2, 3]
    logits = out_of_family(features, bags, folds, c=0.1)
    assert logits.shape == (len(features), 4)
    np.testing.assert_allclose(alarms(logits), logits[:, 1:].max(axis=1) - logits[:, 0])
    assert quality(logits, bags).auc > 0.8


def test_a_text_of_which_nobody_is_sure_pulls_both_ways(rng):
    features, bags, _ = make(rng)
    every = np.ones(len(features), np.bool_)
    half = Bags(targets=np.full_like(bags.targets, 0.5), families=bags.families, owner=bags.owner)
    sure = fit_bags(features, bags, every, c=0.1)
    soft = Bags(targets=0.8 * bags.targets + 0.2 * bags.targets[:, ::-1], families=bags.families, owner=bags.owner)
    assert abs(fit_bags(features, half, every, c=0.1).weight[1, 0]) < 0.35 * sure.weight[1, 0]
    assert 0.2 * sure.weight[1, 0] < fit_bags(features, soft, every, c=0.1).weight[1, 0] < sure.weight[1, 0]


def test_no_text_is_judged_by_a_model_that_saw_its_family(rng):
    features, bags, _ = make(rng, signal=0.0)
    # Each family has labels of its own sign in one feature: whoever saw it would know.
    sign = np.array([1 if family in ("f0", "f1", "f2") else -1 for family in bags.families])
    features[:, 5] += 6 * (sign * (2 * bags.classes - 1))[bags.owner]
    paired = [np.flatnonzero(np.isin(bags.families, own)) for own in (["f0", "f1", "f2"], ["f3", "f4", "f5"])]
    assert quality(out_of_family(features, bags, paired, c=1.0), bags).auc > 0.9  # Only because it is upside down,
    logits = out_of_family(features, bags, paired, c=1.0)
    assert np.corrcoef(alarms(logits), bags.classes[bags.owner])[0, 1] < -0.5


def test_long_texts_give_a_part_of_their_windows(rng):
    features, bags, _ = make(rng, texts=40, windows=300)
    one = fit_bags(features, bags, np.ones(len(features), np.bool_), c=0.1)
    again = fit_bags(features, bags, np.ones(len(features), np.bool_), c=0.1)
    np.testing.assert_array_equal(one.weight, again.weight)


def test_the_layer_that_tells_most_is_chosen_and_of_equals_the_lower_one(rng):
    features, bags, folds = make(rng)
    noise = rng.normal(size=features.shape).astype(np.float32)
    read = {Block(0, "mean"): noise, Block(1, "mean"): features, Block(2, "mean"): features}
    shares = []
    found = choose(
        lambda blocks: np.hstack([read[block] for block in blocks]), bags, folds,
        layers=[0, 1, 2], poolings=["mean"], penalties=[0.01, 0.1, 1.0], progress=shares.append,
    )  # fmt: skip
    assert found[0].blocks == (Block(1, "mean"),)
    assert {one.penalty for one in found if one.blocks == found[0].blocks} == {0.01, 0.1, 1.0}
    assert [one.quality.loss for one in found] == sorted(one.quality.loss for one in found)
    assert found[-1].blocks == (Block(0, "mean"),)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_every_pooling_is_tried_alone_and_with_the_others():
    assert list(candidates([1], ["mean", "max"])) == [
        (Block(1, "mean"),), (Block(1, "max"),), (Block(1, "mean"), Block(1, "max")),
    ]  # fmt: skip
    assert list(candidates([0, 3], ["last"])) == [(Block(0, "last"),), (Block(3, "last"),)]
