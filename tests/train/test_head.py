"""A head from features to columns."""

from __future__ import annotations

import numpy as np
import pytest

from lec_guard.detect.heads import HeadStack
from lec_guard.train.head import fit_apart, fit_head, fit_head_apart
from lec_guard.train.select import Bags
from tests.train.test_select import make


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("classes", [2, 4])
def test_a_head_scores_texts_as_it_will_in_service(rng, classes):
    features, bags, folds = make(rng, classes=classes, texts=600, windows=3)
    names = ["none", "one", "two", "three"][:classes]
    fitted = fit_head(features, bags, folds, ["input"] * 600, name="mine", labels=names, c=0.1)
    assert fitted.spec.labels == tuple(names[1:])
    heads = HeadStack([fitted.spec], fitted.columns.weight, fitted.columns.bias)
    logits = heads.logits(features)
    scores = np.array([heads.text_scores(logits[bags.owner == text])["mine"].max() for text in range(600)])
    harmful = bags.harmful == 1
    assert (scores[harmful] > 0.5).mean() > 0.7
    assert (scores[~harmful] > 0.5).mean() < 0.2
    # Left-out families do a little worse, and by the same scale.
    assert np.corrcoef(scores, fitted.scores.max(axis=1))[0, 1] > 0.95
    # Half of the texts were harmful to the calibration, however many there are.
    assert fitted.scores[harmful].max(axis=1).mean() > 0.5 > fitted.scores[~harmful].max(axis=1).mean()


def test_a_head_knows_how_high_benign_texts_score(rng):
    features, bags, folds = make(rng, texts=1200, windows=2)
    stages = ["input", "output", "output"] * 400
    fitted = fit_head(features, bags, folds, stages, name="mine", labels=["none", "one"], c=0.1)
    benign = bags.harmful == 0
    for entry in fitted.spec.benign:
        own = fitted.scores[benign & (np.array(stages) == entry.stage)].max(axis=1)
        assert entry.texts == len(own)
        assert (own > entry.scores[entry.rates.index(0.1)]).mean() == pytest.approx(0.1, abs=0.02)
    assert [entry.stage for entry in fitted.spec.benign] == ["input", "output"]


def test_the_probabilities_are_calibrated_out_of_family(rng):
    features, bags, folds = make(rng, texts=3000, windows=1, signal=0.7)
    fitted = fit_head(features, bags, folds, ["input"] * 3000, name="mine", labels=["none", "one"], c=0.1)
    scores, harmful = fitted.scores[:, 0], bags.harmful
    for low in (0.1, 0.3, 0.5, 0.7):
        near = (scores >= low) & (scores < low + 0.2)
        assert harmful[near].mean() == pytest.approx(scores[near].mean(), abs=0.1)


def test_a_head_that_unseen_families_turn_upside_down_knows_nothing(rng):
    features, bags, _ = make(rng, signal=0.0)
    upside_down = np.array([1 if family in ("f0", "f1", "f2") else -1 for family in bags.families])
    features[:, 5] += 6 * (upside_down * (2 * bags.classes - 1))[bags.owner]
    folds = [np.flatnonzero(np.isin(bags.families, own)) for own in (["f0", "f1", "f2"], ["f3", "f4", "f5"])]
    fitted = fit_head(features, bags, folds, ["input"] * 240, name="mine", labels=["none", "one"], c=1.0)
    assert fitted.platt[0] > 0
    assert np.ptp(fitted.scores) < 0.1


def test_uncertain_texts_are_calibrated_to_what_is_known_of_them(rng):
    features, bags, folds = make(rng, texts=600)
    soft = Bags(targets=0.7 * bags.targets + 0.3 * bags.targets[:, ::-1], families=bags.families, owner=bags.owner)
    fitted = fit_head(features, soft, folds, ["input"] * 600, name="mine", labels=["none", "one"], c=0.1)
    harmful = bags.harmful == 1
    assert fitted.scores[harmful].mean() == pytest.approx(0.7, abs=0.08)
    assert fitted.scores[~harmful].mean() == pytest.approx(0.3, abs=0.08)


def test_a_head_can_be_judged_by_texts_alone_that_its_features_have_not_seen(rng):
    features, bags, folds = make(rng, texts=600, windows=3, signal=0.0)
    held = np.isin(np.arange(600), folds[0])
    # Features that know the other texts: their first column is the label.
    knows = features.copy()
    knows[:, 0] = np.where(held[bags.owner], 0, 20 * bags.harmful[bags.owner] - 10)
    fitted = fit_head_apart(knows, bags, held, ["input"] * 600, name="mine", labels=["none", "one"], c=0.1)
    assert len(fitted.scores) == held.sum()
    harmful = bags.harmful[held] == 1
    # It knows that it knows nothing of texts that are new.
    assert np.median(np.abs(fitted.scores - 0.5)) < 0.1
    (entry,) = fitted.spec.benign
    assert entry.texts == (~harmful).sum()
    everyone = fit_head(knows, bags, folds, ["input"] * 600, name="mine", labels=["none", "one"], c=0.1)
    assert np.median(np.abs(everyone.scores[~held] - 0.5)) > 0.4


def test_what_is_held_out_does_not_move_the_columns(rng):
    features, bags, folds = make(rng, texts=300, windows=2)
    held = np.isin(np.arange(300), folds[1])
    columns, logits = fit_apart(features, bags, held, c=0.1)
    other = features.copy()
    other[held[bags.owner]] += 5
    again, moved = fit_apart(other, bags, held, c=0.1)
    np.testing.assert_array_equal(again.weight, columns.weight)
    assert logits.shape == moved.shape == (held[bags.owner].sum(), 1)
    assert not np.array_equal(logits, moved)
    np.testing.assert_allclose(logits, columns.logits(features[held[bags.owner]]))
