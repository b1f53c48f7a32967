"""Scores of layers without a fit, against slow direct computation, and how a sweep agrees."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import kendalltau, multivariate_normal, spearmanr
from sklearn.covariance import LedoitWolf

from lec_guard.detect.extractor import Block
from lec_guard.errors import UnsupportedValueError
from lec_guard.train.screen import Screen, agreement, h_score, log_me, screen
from lec_guard.train.sweep import split
from tests.train.test_sweep import BLOCKS, CLASSES, FAMILIES, LABELS, made, run


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def blobs(rng, texts: int, width: int, classes: int = 3, apart: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    labels = np.r_[np.arange(classes), rng.integers(0, classes, texts - classes)]
    centres = np.random.default_rng(5).normal(size=(classes, width)) * apart
    mixed = rng.normal(size=(texts, width)) @ np.random.default_rng(6).normal(size=(width, width)) * 0.5
    return (centres[labels] + mixed + 2).astype(np.float32), labels


def direct_h_score(features, labels) -> float:
    fitted = LedoitWolf().fit(features.astype(np.float64))
    centred = features - features.mean(axis=0, dtype=np.float64)
    means = np.stack([centred[labels == k].mean(axis=0) for k in range(labels.max() + 1)])[labels]
    between = (1 - fitted.shrinkage_) * means.T @ means / len(features)
    return float(np.trace(np.linalg.inv(fitted.covariance_) @ between))


def direct_log_me(features, labels) -> float:
    found = []
    for k in range(labels.max() + 1):
        y = (labels == k).astype(float)

        def loss(logs, y=y):
            prior, noise = np.exp(logs)
            own = np.eye(len(y)) / noise + features.astype(np.float64) @ features.T / prior
            return -multivariate_normal.logpdf(y, cov=own, allow_singular=True) / len(y)

        tries = [minimize(loss, start, method="Nelder-Mead", options={"xatol": 1e-5}) for start in ([0, 0], [3, 3])]
        found.append(-min(one.fun for one in tries))
    return float(np.mean(found))


@pytest.mark.parametrize(("texts", "width"), [(200, 5), (30, 12), (20, 60)])
def test_h_score_is_what_the_shrunk_matrices_give(rng, texts, width):
    features, labels = blobs(rng, texts, width)
    assert h_score(features, labels) == pytest.approx(direct_h_score(features, labels), rel=1e-6)


@pytest.mark.parametrize(("texts", "width"), [(60, 4), (40, 12), (15, 30)])
def test_log_me_is_the_highest_evidence(rng, texts, width):
    features, labels = blobs(rng, texts, width)
    assert log_me(features, labels) == pytest.approx(direct_log_me(features, labels), abs=1e-3)


def test_h_score_of_two_dimensions_by_hand():
    # Variance 1 + 4 across, 1 up and down, and class means that differ across alone: 4 / 5 lies between classes.
    square, across = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]]), np.array([2, 0])
    features = np.concatenate([square + across, square - across] * 5000).astype(np.float32)
    labels = np.tile(np.repeat([0, 1], 4), 5000)
    assert h_score(features, labels) == pytest.approx(4 / 5, abs=1e-3)


@pytest.mark.parametrize("measure", [h_score, log_me])
class TestBoth:
    def test_names_of_classes_and_order_of_texts_do_not_matter(self, rng, measure):
        features, labels = blobs(rng, 80, 7)
        expected = measure(features, labels)
        assert measure(features, np.array([5, 0, 2])[labels]) == pytest.approx(expected, rel=1e-9)
        order = rng.permutation(80)
        assert measure(features[order], labels[order]) == pytest.approx(expected, rel=1e-6)

    @pytest.mark.parametrize("width", [4, 300])
    def test_classes_farther_apart_score_higher(self, rng, measure, width):
        scores = []
        for apart in (0.0, 0.5, 1.0, 3.0):
            features, labels = blobs(np.random.default_rng(1), 120, width, apart=apart)
            scores.append(measure(features, labels))
        assert scores == sorted(scores)
        assert scores[-1] > scores[0] + 0.1

    def test_turning_the_features_changes_nothing(self, rng, measure):
        features, labels = blobs(rng, 80, 7)
        turn = np.linalg.qr(rng.normal(size=(7, 7)))[0].astype(np.float32)
        assert measure(features @ turn, labels) == pytest.approx(measure(features, labels), rel=1e-4)

    def test_odd_features_give_a_number(self, rng, measure):
        labels = np.arange(10) % 2
        for features in (
            np.zeros((10, 3)),
            np.ones((10, 3)),
            labels[:, None] * np.ones((1, 3)),
            rng.normal(size=(10, 1)),
        ):
            assert np.isfinite(measure(features.astype(np.float32), labels))

    def test_what_tells_nothing_is_refused(self, rng, measure):
        features, labels = blobs(rng, 10, 3)
        with pytest.raises(UnsupportedValueError, match="two at least"):
            measure(features, labels * 0)
        with pytest.raises(UnsupportedValueError, match="don't fit"):
            measure(features, labels[:-1])
        features[0, 0] = np.nan
        with pytest.raises(UnsupportedValueError, match="no finite number"):
            measure(features, labels)


def test_a_screen_ranks_layers_and_sees_only_the_texts_it_is_given(tmp_path):
    features = made(tmp_path, CLASSES)
    draw = split(CLASSES, FAMILIES, LABELS).draw
    found = screen(features, CLASSES, candidates=[BLOCKS[:1], BLOCKS[2:3]], texts=draw)
    assert [row.name for row in found.ranking("h_score")] == ["2 mean", "1 mean"]
    assert [row.name for row in found.ranking("log_me")] == ["2 mean", "1 mean"]
    assert found.texts == len(draw)
    assert found.rows[0].h_score == pytest.approx(h_score(features.means(BLOCKS[:1])[draw], CLASSES[draw]))
    other = np.where(np.isin(np.arange(300), draw), CLASSES, 1 - CLASSES)
    assert screen(features, other, candidates=[BLOCKS[:1], BLOCKS[2:3]], texts=draw) == found
    assert Screen.model_validate_json(found.model_dump_json()) == found
    with pytest.raises(UnsupportedValueError, match="for 300 texts"):
        screen(features, CLASSES[:-1])
    with pytest.raises(UnsupportedValueError, match="layer 9 mean was not collected"):
        screen(features, CLASSES, candidates=[[Block(9, "mean")]])


def test_agreement_is_that_of_ranks_at_each_size(tmp_path):
    features = made(tmp_path, CLASSES)
    swept, screened = run(tmp_path, features, sizes=(20, 100)), screen(features, CLASSES)
    found = agreement(screened, swept)
    assert [(one.measure, one.size) for one in found] == [
        (measure, size) for measure in ("h_score", "log_me") for size in (20, 100)
    ]
    aucs = [row.auc.mean for row in swept.summary() if row.size == 100]
    scores = [row.h_score for row in screened.rows]
    one = found[1]
    assert one.candidates == 6
    assert one.kendall == pytest.approx(kendalltau(scores, aucs).statistic)
    assert one.spearman == pytest.approx(spearmanr(scores, aucs).statistic)
    assert one.lost == pytest.approx(max(aucs) - aucs[int(np.argmax(scores))])
    assert one.spearman > 0.5


def test_too_few_candidates_have_no_rank_correlation(tmp_path):
    features = made(tmp_path, CLASSES)
    swept = run(tmp_path, features, candidates=[BLOCKS[:1], BLOCKS[2:3]], sizes=(20,))
    found = agreement(screen(features, CLASSES), swept)
    assert [(one.candidates, one.kendall, one.spearman) for one in found] == [(2, None, None)] * 2
    with pytest.raises(UnsupportedValueError, match="no features in common"):
        agreement(screen(features, CLASSES, candidates=[BLOCKS[1:2]]), swept)
