"""From logits of windows to scores: aggregation, calibration, and the scores of benign texts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lec_guard.train.calibrate import (
    AGGREGATIONS,
    BUDGET,
    LENGTHS,
    RATES,
    aggregate,
    benign_scores,
    platt,
    threshold_at,
    threshold_of_most,
)
from lec_guard.train.fit import text_logits


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize(("slope", "offset"), [(2.0, -1.0), (0.5, 0.75)])
def test_calibration_finds_the_slope_and_offset_that_made_the_labels(rng, slope, offset):
    logits = rng.normal(scale=2, size=60_000).astype(np.float32)
    labels = (rng.uniform(size=len(logits)) < 1 / (1 + np.exp(-(slope * logits + offset)))).astype(np.int64)
    found = platt(logits, labels, np.ones(len(logits), np.float32))
    assert found == pytest.approx((slope, offset), rel=0.06, abs=0.03)


def test_the_weights_of_a_calibration_state_the_prior(rng):
    logits = rng.normal(scale=2, size=60_000).astype(np.float32)
    labels = (rng.uniform(size=len(logits)) < 1 / (1 + np.exp(-logits))).astype(np.int64)
    slope, offset = platt(logits, labels, np.where(labels == 1, 4, 1).astype(np.float32))
    assert slope == pytest.approx(1, rel=0.06)
    assert offset == pytest.approx(np.log(4), abs=0.05)


def test_a_threshold_lets_every_family_count_alike():
    scores = np.concatenate([np.linspace(0, 0.5, 100), np.linspace(0.6, 0.7, 10)]).astype(np.float32)
    families = np.array(["large"] * 100 + ["small"] * 10)
    # A quarter of both families together: half of the small one, though that is 5 of 110 texts.
    bar = threshold_at(scores, families, 0.25)
    assert (scores[families == "small"] > bar).mean() == pytest.approx(0.5)
    assert (scores[families == "large"] > bar).sum() == 0


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), st.integers(1, 6), st.sampled_from([0.5, 0.1, 0.01]), st.integers(0, 1000))
def test_a_threshold_is_exceeded_by_its_rate_at_most(texts, families, rate, seed):
    rng = np.random.default_rng(seed)
    scores, names = rng.random(texts).round(2).astype(np.float32), rng.integers(0, families, texts).astype(str)
    bar = threshold_at(scores, names, rate)
    assert np.mean([(scores[names == n] > bar).mean() for n in np.unique(names)]) <= rate + 1e-9


@settings(max_examples=60, deadline=None)
@given(st.integers(100, 300), st.integers(1, 8), st.sampled_from([0.5, 0.1, 0.01]), st.integers(0, 1000))
def test_most_families_keep_the_rate_of_a_threshold(texts, families, rate, seed):
    rng = np.random.default_rng(seed)
    scores = rng.random(texts * families).round(2).astype(np.float32)
    names = np.repeat(np.arange(families), texts).astype(str)
    bar = threshold_of_most(scores, names, rate, 0.75)
    kept = [(scores[names == n] > bar).mean() <= rate + 1e-9 for n in np.unique(names)]
    assert np.mean(kept) >= 0.75
    assert threshold_of_most(scores, names, rate, 1.0) >= bar


def test_a_few_texts_are_no_family_of_their_own_at_a_low_rate():
    scores = np.concatenate([np.linspace(0, 0.5, 1000), np.linspace(0, 0.4, 69), [0.99]]).astype(np.float32)
    names = np.array(["large"] * 1000 + ["few"] * 30 + ["some"] * 40)
    assert threshold_of_most(scores, names, 0.1, 1.0) > 0.44
    assert threshold_of_most(scores, names, 0.01, 1.0) < 0.6
    assert threshold_of_most(scores[-40:], names[-40:], 0.01, 1.0) == pytest.approx(0.99)  # nothing else is known


def test_one_loud_family_in_ten_does_not_decide_a_threshold_and_two_do():
    names = np.repeat([f"f{n}" for n in range(10)], 100)
    scores = np.tile(np.linspace(0, 0.5, 100), 10).astype(np.float32)
    for loud, expected in ((1, 0.5), (3, 1.0)):
        shifted = scores + 0.5 * np.isin(names, [f"f{n}" for n in range(loud)])
        assert threshold_of_most(shifted, names, 0.01, 0.8) == pytest.approx(expected, abs=0.02)


def test_benign_scores_can_be_those_that_most_families_keep(rng):
    names = np.repeat(list("abcde"), 400)
    scores = rng.random(2000).astype(np.float32)
    scores[names == "a"] = 1 - scores[names == "a"] / 100
    scores[names == "b"] = 0.9
    (mean,) = benign_scores(scores, np.ones(2000), names, ["input"] * 2000)
    (most,) = benign_scores(scores, np.ones(2000), names, ["input"] * 2000, of_families=1.0)
    assert all(high >= low for high, low in zip(most.scores, mean.scores, strict=True))
    assert most.scores[0] == threshold_of_most(scores, names, most.rates[0], 1.0) > mean.scores[0]


def test_benign_scores_are_counted_by_stage_and_length(rng):
    scores = rng.random(4000).astype(np.float32)
    windows = np.repeat([1, 3, 40, 0], 1000)
    scores[windows == 40] = scores[windows == 40] ** 0.1
    stages = np.tile(["input", "output"], 2000)
    found = benign_scores(scores, windows, rng.choice(list("abcde"), 4000), stages)
    assert [(entry.stage, entry.windows, entry.texts) for entry in found] == [
        ("input", 1, 1000), ("input", 2, 500), ("input", 4, 500),
        ("output", 1, 1000), ("output", 2, 500), ("output", 4, 500),
    ]  # fmt: skip
    for entry in found:
        assert entry.families == 5
        assert entry.rates == tuple(rate for rate in RATES if rate * entry.texts >= 3)
        own = (stages == entry.stage) & np.isin(windows, {1: [0, 1], 2: [3], 4: [40]}[entry.windows])
        for rate, score, worst in zip(entry.rates, entry.scores, entry.worst, strict=True):
            assert (scores[own] > score).mean() == pytest.approx(rate, abs=0.02)
            assert rate - 0.02 <= worst <= rate + 0.2
    long, short = found[2], found[0]
    assert long.scores[3] > short.scores[3]


def test_of_few_texts_only_what_they_can_tell_is_kept(rng):
    few = benign_scores(rng.random(40).astype(np.float32), np.ones(40, np.int64), np.array(["a"] * 40), ["input"] * 40)
    assert few[0].rates == (0.5, 0.2, 0.1)
    assert benign_scores(np.ones(5, np.float32), np.ones(5, np.int64), np.array(["a"] * 5), ["input"] * 5) == ()
    assert benign_scores(np.empty(0, np.float32), np.empty(0, np.int64), np.empty(0, str), []) == ()


def bags(rng, *, families, windows):
    """Logits of harmless windows, and of attacked texts that have one high window."""
    texts = 2 * families * 5
    owner = np.repeat(np.arange(texts), windows)
    labels = np.arange(texts) % 2
    logits = rng.normal(-3, 1, len(owner)).astype(np.float32)
    logits[np.searchsorted(owner, np.flatnonzero(labels))] = 4
    return logits, owner, labels, np.array([f"f{i // 10}" for i in range(texts)])


@pytest.mark.parametrize("windows", [40, 2], ids=["documents of its own windows", "too few windows"])
def test_false_alarms_do_not_grow_with_length(rng, windows):
    logits, owner, labels, families = bags(rng, families=4, windows=windows)
    tried = aggregate(logits, owner, labels, families, labels == 0)
    assert [(way.method, way.parameter) for way in tried] == [(way.method, way.parameter) for way in AGGREGATIONS]
    for way in tried:
        assert set(way.taken_off) == set(LENGTHS)
        assert way.taken_off[1] == 0
        assert max(way.false_alarms_by_windows.values()) < 5 * BUDGET
        assert way.recall_by_windows[1] > 0.9
        assert way.gain == pytest.approx(
            np.mean(list(way.recall_by_windows.values())) - np.mean(list(way.false_alarms_by_windows.values()))
        )


@pytest.mark.parametrize("way", AGGREGATIONS, ids=lambda way: f"{way.method}-{way.parameter}")
@pytest.mark.parametrize("n", [1, 2, 3, 9])
def test_documents_are_put_together_as_texts_are(rng, way, n):
    windows = rng.normal(size=(7, n)).astype(np.float32)
    if way.method == "top_mean":
        expected = -np.sort(-windows, axis=1)[:, : int(way.parameter)].mean(axis=1)
    else:
        expected = text_logits(windows.ravel(), np.repeat(np.arange(7), n), 7, way.parameter, way.method)
    np.testing.assert_allclose(way.logits(windows), expected, rtol=1e-5, atol=1e-5)
    others = rng.normal(size=(4, 7)).astype(np.float32)
    found = way.logits_with(others, way.rest(windows[:, 1:]))
    for first, own in zip(others, found, strict=True):
        np.testing.assert_allclose(own, way.logits(np.hstack([first[:, None], windows[:, 1:]])), rtol=1e-5, atol=1e-5)


def test_documents_are_made_of_the_texts_that_are_given(rng):
    logits, owner, labels, families = bags(rng, families=4, windows=40)
    some = (labels == 0) & (families == "f0")
    logits[~some[owner] & (labels[owner] == 0)] = 50  # What is not given must not count.
    assert all(abs(way.taken_off[64]) < 10 for way in aggregate(logits, owner, labels, families, some))


def test_small_families_are_counted_together_so_that_a_few_texts_decide_nothing(rng):
    calm = rng.random(3000).astype(np.float32) * 0.7
    scores = np.concatenate([calm, np.full(40, 0.9), np.full(40, 0.95), np.full(40, 0.99)]).astype(np.float32)
    families = np.array(["large"] * 3000 + ["a"] * 40 + ["b"] * 40 + ["c"] * 40)
    one = np.ones(len(scores), np.int64)

    def at(of_family: int) -> tuple[float, float]:
        (found,) = benign_scores(scores, one, families, ["input"] * len(scores), of_family=of_family)
        assert (found.texts, found.families) == (3120, 4)
        return found.scores[found.rates.index(0.05)], found.worst[found.rates.index(0.05)]

    # Each counts a quarter, and so does each of its forty texts together with the others.
    assert at(1) == (np.float32(0.99), 0.0)
    # Together they are a hundred and count a half …
    assert at(100)[0] == np.float32(0.99)
    # … or they are too few for that, and count with the large one: what they are, one text in twenty-six.
    assert at(121)[0] < 0.7
    assert at(5000)[0] == at(121)[0]


def test_lengths_are_counted_apart_from_so_many_texts_on(rng):
    windows = np.array([1] * 400 + [2] * 400)
    scores, families = rng.random(800).astype(np.float32), np.full(800, "one")

    def bins(**few: int) -> list[int]:
        return [one.windows for one in benign_scores(scores, windows, families, ["input"] * 800, **few)]

    assert bins() == bins(of_bin=400) == [1, 2]
    assert bins(of_bin=401) == [1]
