"""Regression on window features, and the splits and weights around it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lec_guard.detect.heads import HeadSpec, HeadStack
from lec_guard.train.fit import (
    Columns,
    balanced_weights,
    family_folds,
    fit_binary,
    fit_categories,
    fit_windows,
    highest,
    text_logits,
)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def blobs(rng: np.random.Generator, classes: int, rows: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features on very different scales, one of them constant, with labels and weights."""
    labels = rng.integers(0, classes, rows)
    centres = rng.normal(size=(classes, 6))
    features = (centres[labels] + rng.normal(size=(rows, 6))) * [1, 100, 0.01, 1, 1, 0] + [0, 5, 0, -3, 0, 7]
    weights = rng.uniform(0.2, 2, rows)
    return features.astype(np.float32), labels, weights.astype(np.float32)


def reference(features, labels, weights, c):
    model = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=300, tol=1e-3))
    own = {"standardscaler__sample_weight": weights, "logisticregression__sample_weight": weights}
    return model.fit(features, labels, **own)


def softmax(logits):
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("c", [0.01, 1.0])
def test_one_column_over_raw_features_predicts_what_scaler_and_regression_do(rng, c):
    features, labels, weights = blobs(rng, 2)
    columns = fit_binary(features, labels, weights, c=c)
    assert columns.weight.shape == (6, 1)
    assert columns.weight.dtype == columns.bias.dtype == np.float32
    unseen = blobs(rng, 2)[0]
    expected = reference(features, labels, weights, c).decision_function(unseen)
    np.testing.assert_allclose(columns.logits(unseen)[:, 0], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_a_column_a_category_predicts_what_scaler_and_regression_do(rng, classes):
    features, labels, weights = blobs(rng, classes)
    columns = fit_categories(features, labels, weights, c=0.5)
    assert columns.weight.shape == (6, classes)
    assert columns.bias.shape == (classes,)
    assert columns.weight.dtype == columns.bias.dtype == np.float32
    unseen = blobs(rng, classes)[0]
    expected = reference(features, labels, weights, 0.5).predict_proba(unseen)
    np.testing.assert_allclose(softmax(columns.logits(unseen)), expected, atol=1e-3)


def test_weights_count(rng):
    features, labels, weights = blobs(rng, 2)
    heavy = np.where(labels == 1, 10, 1).astype(np.float32)
    assert fit_binary(features, labels, heavy, c=1).bias != fit_binary(features, labels, weights, c=1).bias
    doubled = np.concatenate([features, features[labels == 1]]), np.concatenate([labels, labels[labels == 1]])
    by_weight = fit_binary(features, labels, np.where(labels == 1, 2, 1).astype(np.float32), c=1)
    by_rows = fit_binary(*doubled, np.ones(len(doubled[1]), np.float32), c=1)
    np.testing.assert_allclose(by_weight.logits(features), by_rows.logits(features), atol=2e-2)


def test_scaled_columns_give_scaled_logits(rng):
    columns = Columns(rng.normal(size=(4, 2)).astype(np.float32), rng.normal(size=2).astype(np.float32))
    features = rng.normal(size=(5, 4)).astype(np.float32)
    scaled = columns.scaled(1.5, -0.25)
    np.testing.assert_allclose(scaled.logits(features), 1.5 * columns.logits(features) - 0.25, atol=1e-5)
    assert scaled.weight.dtype == scaled.bias.dtype == np.float32


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 6).flatmap(
        lambda texts: st.tuples(
            st.just(texts), st.lists(st.tuples(st.integers(0, texts - 1), st.integers(-50, 50)), max_size=25)
        )
    ),
    st.sampled_from([0.05, 0.5, 1.0, 4.0]),
    st.sampled_from(["log_mean_exp", "attention"]),
)
def test_a_texts_logit_is_what_a_head_aggregates_its_windows_to(windows, temperature, aggregation):
    texts, pairs = windows
    owner = np.array([text for text, _ in pairs], np.int64)
    logits = np.array([value / 8 for _, value in pairs], np.float32)
    found = text_logits(logits, owner, texts, temperature, aggregation)
    assert found.dtype == np.float32
    head = HeadSpec(name="head", kind="binary", labels=("label",), aggregation=aggregation, temperature=temperature)
    stack = HeadStack([head], np.ones((1, 1)), np.zeros(1))
    tops = highest(logits, owner, texts)
    for text in range(texts):
        own = logits[owner == text]
        if not len(own):
            assert found[text] == tops[text] == -np.inf
            continue
        (expected,) = stack.text_scores(own[:, None])["head"]
        assert 1 / (1 + np.exp(-np.float64(found[text]))) == pytest.approx(expected, abs=1e-5)
        assert tops[text] == own.max()
        assert own.mean() - 1e-3 <= found[text] <= own.max() + 1e-3


def test_texts_without_windows_have_the_lowest_logit_there_is():
    logits, owner = np.array([1, 3, 2], np.float32), np.array([3, 1, 3])
    assert highest(logits, owner, 5).tolist() == [-np.inf, 3.0, -np.inf, 2.0, -np.inf]
    found = text_logits(logits, owner, 5, 1.0)
    assert found[[0, 2, 4]].tolist() == [-np.inf] * 3
    assert found[[1, 3]] == pytest.approx([3.0, np.log((np.e + np.e**2) / 2)])
    attended = text_logits(logits, owner, 5, 1.0, "attention")
    assert attended[[0, 2, 4]].tolist() == [-np.inf] * 3
    assert attended[[1, 3]] == pytest.approx([3.0, (np.e + 2 * np.e**2) / (np.e + np.e**2)])


def test_every_class_weighs_alike():
    labels = np.array([0] * 50 + [1] * 7 + [2] * 3)
    weights = balanced_weights(labels, np.array(["a"] * 60))
    assert [weights[labels == label].sum() for label in range(3)] == pytest.approx([20, 20, 20])


def test_both_labels_weigh_alike_and_a_family_by_the_root_of_its_size():
    labels = np.array([1] * 9 + [1] + [0] * 4 + [0] * 16)
    families = np.array(["big"] * 9 + ["small"] + ["a"] * 4 + ["big"] * 16)
    weights = balanced_weights(labels, families)
    assert weights.sum() == pytest.approx(30)
    assert weights[labels == 1].sum() == pytest.approx(weights[labels == 0].sum())
    positive = weights[(labels == 1) & (families == "big")].sum() / weights[(labels == 1) & (families == "small")].sum()
    negative = weights[(labels == 0) & (families == "big")].sum() / weights[(labels == 0) & (families == "a")].sum()
    assert positive == pytest.approx(3)
    assert negative == pytest.approx(2)
    # Rows of one family and label weigh alike.
    assert len(np.unique(weights[:9])) == 1


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcdefghij"), st.booleans()), min_size=1, max_size=80), st.integers(2, 4))
def test_folds_hold_every_row_out_once_and_never_split_a_family(rows, count):
    families = np.array([family for family, _ in rows])
    labels = np.array([int(positive) for _, positive in rows])
    attacked = {family for family, positive in rows if positive}
    if len(attacked) < count:
        with pytest.raises(ValueError, match=f"{len(attacked)} families with positives can't make {count} folds"):
            family_folds(labels, families, count)
        return
    folds = family_folds(labels, families, count)
    assert len(folds) == count
    assert sorted(np.concatenate(folds).tolist()) == list(range(len(rows)))
    for fold in folds:
        kept = np.setdiff1d(np.arange(len(rows)), fold)
        assert not set(families[fold]) & set(families[kept])
        assert labels[fold].any()


def test_every_fold_has_both_labels_where_there_are_families_enough():
    families = np.repeat([f"p{at}" for at in range(4)] + [f"n{at}" for at in range(4)], 5)
    labels = np.repeat([1] * 4 + [0] * 4, 5)
    for fold in family_folds(labels, families, 4):
        assert set(labels[fold]) == {0, 1}


def test_folds_are_of_like_size():
    sizes = {"a": 90, "b": 50, "c": 40, "d": 30, "e": 30, "f": 60}
    families = np.repeat(list(sizes), list(sizes.values()))
    folds = [len(fold) for fold in family_folds(np.ones(len(families), np.int64), families, 3)]
    # Dealing out the largest family first leaves no more between the folds than the smallest one.
    assert max(folds) - min(folds) <= 30


def documents(rng: np.random.Generator, texts: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Texts of 12 windows; in every other text one window, at a place of its own, holds an injection."""
    labels = np.arange(texts) % 2
    owner = np.repeat(np.arange(texts), 12)
    features = rng.normal(size=(len(owner), 8)).astype(np.float32)
    attacked = np.flatnonzero(labels)
    hit = attacked * 12 + rng.integers(0, 12, len(attacked))
    features[hit, 0] += 5
    injected = np.zeros(len(owner), bool)
    injected[hit] = True
    return features, owner, labels, injected


def test_an_injected_window_is_told_from_the_others_better_than_by_labelling_all_windows(rng):
    features, owner, labels, _ = documents(rng, 300)
    relabelled = fit_windows(features, owner, labels, np.ones(300, np.float32), c=0.1)
    naive = fit_binary(features, labels[owner], np.full(len(owner), 1 / 12, np.float32), c=0.1)
    unseen, _, _, injected = documents(rng, 300)
    found, alarms = {}, {}
    for name, columns in {"relabelled": relabelled, "naive": naive}.items():
        raised = columns.logits(unseen)[:, 0] > 0
        found[name], alarms[name] = raised[injected].mean(), raised[~injected].mean()
    assert found["relabelled"] > 0.97
    # A fit that believes the text's label of every window raises almost every second one.
    assert alarms["naive"] > 0.38
    assert alarms["relabelled"] < alarms["naive"] - 0.08


def test_a_text_counts_alike_however_many_windows_it_has(rng):
    labels = np.array([0, 1] * 30)
    lengths = np.where(np.arange(60) % 4 < 2, 1, 20)
    owner = np.repeat(np.arange(60), lengths)
    features = rng.normal(size=(len(owner), 3)).astype(np.float32)
    features[labels[owner] == 1, 0] += 1
    # Weights far apart must not be undone by the number of windows: scaling all of them changes little but C.
    once = fit_windows(features, owner, labels, np.ones(60, np.float32), c=1.0)
    tenfold = fit_windows(features, owner, labels, np.full(60, 10, np.float32), c=0.1)
    np.testing.assert_allclose(once.weight, tenfold.weight, atol=1e-2)


def test_texts_without_windows_do_not_disturb_a_fit(rng):
    features, owner, labels, _ = documents(rng, 60)
    expected = fit_windows(features, owner, labels, np.ones(60, np.float32), c=0.1)
    found = fit_windows(features, owner, np.append(labels, [0, 1]), np.ones(62, np.float32), c=0.1)
    np.testing.assert_allclose(found.weight, expected.weight, atol=1e-6)
