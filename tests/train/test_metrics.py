"""Every figure against scikit-learn, the cut by hand, and what is said of samples that are too small."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from lec_guard.errors import UnsupportedValueError
from lec_guard.train import metrics
from lec_guard.train.metrics import Sample


def drawn(n: int = 600, *, seed: int = 0, ties: bool = True, sets: int = 6) -> Sample:
    random = np.random.default_rng(seed)
    harmful = random.random(n) < 0.4
    scores = np.clip(random.normal(0.4 + 0.2 * harmful, 0.2), 0, 1)
    scores = np.round(scores, 1) if ties else scores
    return Sample(scores, harmful, np.array([f"set{i}" for i in random.integers(0, sets, n)]))


def sample(scores, harmful, sets=None) -> Sample:
    names = ["one"] * len(scores) if sets is None else sets
    return Sample(np.array(scores, np.float64), np.array(harmful, bool), np.array(names))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("ties", [True, False])
def test_areas_are_those_of_scikit_learn(seed, ties):
    own = drawn(seed=seed, ties=ties)
    weights = np.random.default_rng(seed).uniform(0, 3, own.n)
    for given in (None, weights):
        expected = sk.roc_auc_score(own.harmful, own.scores, sample_weight=given)
        assert metrics.auc(own.scores, own.harmful, given) == pytest.approx(expected)
        expected = sk.average_precision_score(own.harmful, own.scores, sample_weight=given)
        assert metrics.average_precision(own.scores, own.harmful, given) == pytest.approx(expected)


def test_ranks_are_those_of_scikit_learn_with_texts_and_with_sets_alike():
    own = drawn()
    weights = own.alike()
    for name in np.unique(own.sets):
        assert weights[own.harmful & (own.sets == name)].sum() == pytest.approx(1)
        assert weights[~own.harmful & (own.sets == name)].sum() == pytest.approx(1)
    found = metrics.ranks(own, resamples=50)
    assert found.auc.value == pytest.approx(sk.roc_auc_score(own.harmful, own.scores))
    assert found.auprc.value == pytest.approx(sk.average_precision_score(own.harmful, own.scores))
    assert found.auc_by_sets.value == pytest.approx(sk.roc_auc_score(own.harmful, own.scores, sample_weight=weights))
    assert found.auc.n == own.n


def test_scores_of_all_orders_of_magnitude_are_ranked_apart():
    own = sample([1e-300, 1e-299, 0.5, np.nextafter(0.5, 1), 1 - 1e-16, np.inf], [0, 1, 0, 1, 0, 1])
    finite = np.where(np.isinf(own.scores), 2, own.scores)
    assert metrics.auc(own.scores, own.harmful) == pytest.approx(sk.roc_auc_score(own.harmful, finite))


def test_a_resample_is_as_if_the_texts_were_copied():
    own = drawn(80)
    ranking = metrics.Ranking(own.scores, own.harmful)
    weights = np.stack([np.random.default_rng(i).integers(0, 4, own.n) for i in range(6)]).astype(float)
    sums = ranking.sums(weights)
    for row, area, precision in zip(weights.astype(int), sums.auc(), sums.average_precision(), strict=True):
        copied = np.repeat(np.arange(own.n), row)
        assert area == pytest.approx(sk.roc_auc_score(own.harmful[copied], own.scores[copied]))
        assert precision == pytest.approx(sk.average_precision_score(own.harmful[copied], own.scores[copied]))


def test_the_interval_over_texts_is_about_what_theory_says():
    own = drawn(2000, ties=False)
    found = metrics.ranks(own).auc
    area, p, n = found.value, own.positives, own.negatives
    first, second = area / (2 - area), 2 * area**2 / (1 + area)  # Hanley and McNeil 1982
    error = np.sqrt((area * (1 - area) + (p - 1) * (first - area**2) + (n - 1) * (second - area**2)) / (p * n))
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.2)
    assert found.low < area < found.high


def test_the_interval_over_sets_is_wide_where_sets_differ():
    random = np.random.default_rng(0)
    n, sets = 2000, np.repeat(np.arange(8), 250)
    harmful = random.random(n) < 0.5
    good = random.normal(np.where(harmful, np.array([3, 0, 3, 0, 3, 0, 3, 0])[sets], 0), 1)
    found = metrics.ranks(Sample(good, harmful, sets.astype(str))).auc
    assert found.over_sets is not None
    assert found.over_sets.sets == 8
    assert found.over_sets.high - found.over_sets.low > 3 * (found.high - found.low)


def test_intervals_are_the_same_on_every_run():
    assert metrics.ranks(drawn()) == metrics.ranks(drawn())


def test_few_texts_and_few_sets_say_so():
    found = metrics.ranks(sample([0.1] * 20 + [0.9] * 4, [0] * 20 + [1] * 4)).auc
    assert (found.value, found.low) == (None, None)
    assert found.reason == "needs 5 texts of each class, there are 4 harmful and 20 benign ones"
    found = metrics.ranks(sample([0.1] * 20 + [0.9] * 9, [0] * 20 + [1] * 9)).auc
    assert (found.value, found.low, found.high) == (1.0, None, None)
    assert found.reason == "no interval: it needs 10 texts of each class, there are 9 harmful and 20 benign ones"
    found = metrics.ranks(drawn(sets=3)).auc
    assert found.low is not None
    assert found.over_sets == metrics.Interval(sets=3, reason="needs 4 sets with texts of each class, there are 3")


def test_sets_of_one_class_make_no_interval_for_both():
    own = drawn()
    names = np.where(own.harmful, "attacks", own.sets)
    found = metrics.ranks(Sample(own.scores, own.harmful, names)).auc
    assert found.over_sets is not None
    assert (found.over_sets.low, found.over_sets.sets) == (None, 1)


@pytest.mark.parametrize("seed", range(4))
def test_figures_of_flags_are_those_of_scikit_learn(seed):
    own = drawn(seed=seed)
    flagged = own.scores >= 0.5
    found = metrics.at_thresholds(own, flagged, resamples=100)
    assert found.precision.value == pytest.approx(sk.precision_score(own.harmful, flagged))
    assert found.recall.value == pytest.approx(sk.recall_score(own.harmful, flagged))
    assert found.f1.value == pytest.approx(sk.f1_score(own.harmful, flagged))
    assert found.weighted_f1.value == pytest.approx(sk.f1_score(own.harmful, flagged, average="weighted"))
    for figure in (found.precision, found.recall, found.f1, found.weighted_f1):
        assert figure.low < figure.value < figure.high
    counted = metrics.confusion(own.harmful.astype(int), flagged.astype(int), ["benign", "harmful"])
    assert np.array(counted.counts).tolist() == sk.confusion_matrix(own.harmful, flagged).tolist()
    assert counted.labels == ("benign", "harmful")


def test_nothing_flagged_is_no_precision_and_no_f1():
    own = drawn()
    found = metrics.at_thresholds(own, np.zeros(own.n, bool), resamples=20)
    assert (found.precision.value, found.recall.value, found.f1.value) == (0, 0, 0)
    assert found.weighted_f1.value == pytest.approx(
        sk.f1_score(own.harmful, np.zeros(own.n), average="weighted", zero_division=0)
    )


def test_a_confusion_of_many_classes_is_that_of_scikit_learn():
    random = np.random.default_rng(0)
    truth, taken = random.integers(0, 4, (2, 300))
    counted = metrics.confusion(truth, taken, "abcd")
    assert np.array(counted.counts).tolist() == sk.confusion_matrix(truth, taken).tolist()


BY_HAND = sample(
    #  easy: five benign texts; hard: two; and two sets of attacks
    [0.1, 0.2, 0.3, 0.4, 0.9, 0.5, 0.7, 0.6, 0.8, 0.95, 0.3, 0.65],
    [0] * 7 + [1] * 5,
    ["easy"] * 5 + ["hard"] * 2 + ["first"] * 3 + ["second"] * 2,
)


def test_the_cut_by_hand():
    # From the top: 0.9 is a fifth of easy, half of that to the mean: 10%; then 0.7, half of hard: 35%; 0.5: 60%.
    assert metrics.cut_at(BY_HAND, 0.09).score == 0.9
    assert metrics.cut_at(BY_HAND, 0.1).score == 0.7
    assert metrics.cut_at(BY_HAND, 0.1).rate == pytest.approx(0.1)
    assert metrics.cut_at(BY_HAND, 0.34).score == 0.7
    found = metrics.cut_at(BY_HAND, 0.35)
    assert found.score == 0.5
    assert found.rate == pytest.approx(0.35)
    # Counted by texts, two of seven would be flagged there: another cut.
    assert (BY_HAND.scores[:7] > found.score).mean() == pytest.approx(2 / 7)


def test_recall_at_the_cut_by_hand(monkeypatch):
    monkeypatch.setattr(metrics, "needed_for", lambda rate: 2)
    stages = np.array(["input"] * BY_HAND.n)
    # Above 0.7 lie two of the three of first and none of second.
    assert metrics.recall_at(BY_HAND, stages, 0.2).value == pytest.approx((2 / 3 + 0) / 2)
    # Above 0.5, all of first and one of second.
    assert metrics.recall_at(BY_HAND, stages, 0.35).value == pytest.approx((1 + 1 / 2) / 2)
    # Each stage is cut by its own benign texts: input at 0.4, output (hard and second) at 0.7.
    stages = np.where(np.isin(BY_HAND.sets, ["hard", "second"]), "output", "input")
    assert metrics.recall_at(BY_HAND, stages, 0.2).value == pytest.approx((1 + 0) / 2)


def test_the_worst_set_is_named_unless_it_is_tiny():
    scores = [0.1] * 20 + [0.9] + [0.1] * 19 + [0.9] * 4 + [0.1] * 8 + [0.9] * 9
    sets = ["mild"] * 20 + ["some"] * 20 + ["harsh"] * 12 + ["tiny"] * 9
    found = metrics.worst(metrics.set_rates(np.array(scores) > 0.5, np.array(sets)))
    assert found is not None
    assert (found.name, found.rate.value, found.rate.n) == ("harsh", pytest.approx(4 / 12), 12)
    rates = metrics.set_rates(np.array(scores) > 0.5, np.array(sets))
    assert [own.name for own in rates] == ["tiny", "harsh", "some", "mild"]
    assert rates[0].rate.reason == "no interval: it needs 10 texts, there are 9"
    assert metrics.worst(rates[:1]) is None


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("ties", [True, False])
def test_with_one_set_recall_at_a_rate_is_what_the_roc_curve_says(rate, ties):
    own = drawn(2000, ties=ties, sets=1)
    rates, recalls, _ = sk.roc_curve(own.harmful, own.scores, drop_intermediate=False)
    found = metrics.recall_at(own, np.full(own.n, "input"), rate, resamples=100)
    assert found.value == pytest.approx(recalls[rates <= rate].max())
    cut = metrics.cut_at(own, rate)
    assert cut.rate == pytest.approx(rates[rates <= rate].max())
    if found.value:
        assert found.low < found.value < found.high


def test_the_interval_of_recall_holds_what_is_not_known_of_the_cut():
    own = drawn(2000, ties=False, sets=1)
    moving = metrics.recall_at(own, np.full(own.n, "input"), 0.02)
    cut = metrics.cut_at(own, 0.02).score
    fixed = metrics.rate_figure(own.scores[own.harmful] > cut, own.sets[own.harmful])
    assert moving.value == pytest.approx(fixed.value)
    assert moving.high - moving.low > 1.2 * (fixed.high - fixed.low)


def test_a_rate_needs_three_benign_texts_for_each_that_it_allows():
    own = drawn(400)
    found = metrics.recall_at(own, np.full(own.n, "output"), 0.01)
    assert found.value is None
    assert found.reason == f"a rate of 0.01 needs 300 benign texts, stage 'output' has {own.negatives}"
    assert metrics.needed_for(0.001) == 3000
    assert metrics.needed_for(0.0035) == 858  # Of 857 none might be flagged while the rate is higher.


def test_a_stage_without_benign_texts_is_an_error():
    own = drawn()
    stages = np.where(own.harmful, "tool_output", "input")
    with pytest.raises(UnsupportedValueError, match=r"stage 'tool_output' has no benign text.*add benign texts"):
        metrics.recall_at(own, stages, 0.1)
    with pytest.raises(UnsupportedValueError, match="no benign text"):
        metrics.cut_at(own.of(own.harmful), 0.1)
    with pytest.raises(UnsupportedValueError, match="between 0 and 1"):
        metrics.cut_at(own, 1.0)


def test_texts_that_were_not_read_are_flagged_whatever_the_cut(monkeypatch):
    monkeypatch.setattr(metrics, "needed_for", lambda rate: 1)
    own = drawn(200, sets=1)
    scores = own.scores.copy()
    unread = np.flatnonzero(~own.harmful)[:10]
    scores[unread] = np.inf
    stages = np.full(own.n, "input")
    found = metrics.cut_at(Sample(scores, own.harmful, own.sets), 0.01)
    assert found.rate == pytest.approx(10 / own.negatives)  # more than was asked for, and it says so
    assert found.score < np.inf
    scores[own.harmful] = np.inf
    assert metrics.recall_at(Sample(scores, own.harmful, own.sets), stages, 0.01, resamples=20).value == 1.0
    everything = Sample(np.full(own.n, np.inf), own.harmful, own.sets)
    assert metrics.cut_at(everything, 0.01).rate == 1.0
    assert metrics.recall_at(everything, stages, 0.01, resamples=20).value == 1.0


def test_a_share_of_one_set_has_the_interval_of_wilson():
    flagged = np.arange(200) < 3
    found = metrics.rate_figure(flagged, np.full(200, "one"))
    expected = binomtest(3, 200).proportion_ci(method="wilson")
    assert (found.value, found.low, found.high) == pytest.approx((3 / 200, expected.low, expected.high))
    none = metrics.rate_figure(np.zeros(200, bool), np.full(200, "one"))
    assert none.high == pytest.approx(binomtest(0, 200).proportion_ci(method="wilson").high)
    assert metrics.rate_figure(flagged[:4], np.full(4, "one"), what="benign texts").reason == (
        "needs 5 benign texts, there are 4"
    )


def test_a_share_of_many_sets_is_their_mean_and_no_surer_than_its_small_ones():
    flagged = np.concatenate([np.arange(1000) < 10, np.arange(10) < 5])
    sets = np.repeat(["large", "small"], [1000, 10])
    found = metrics.rate_figure(flagged, sets)
    assert found.value == pytest.approx((0.01 + 0.5) / 2)
    alone = metrics.rate_figure(flagged[sets == "large"], sets[sets == "large"])
    assert found.high - found.low > 5 * (alone.high - alone.low)
    many = metrics.rate_figure(flagged, np.array([f"set{i % 5}" for i in range(1010)]))
    assert many.over_sets is not None
    assert many.over_sets.low <= many.value <= many.over_sets.high


def test_brier_is_that_of_scikit_learn():
    own = drawn()
    found = metrics.brier(own, resamples=100)
    assert found.value == pytest.approx(sk.brier_score_loss(own.harmful, own.scores))
    assert found.low < found.value < found.high


def test_bins_and_calibration_error_are_those_of_scikit_learn():
    own = drawn(1500, ties=False)
    inner = (own.scores > 0) & (own.scores < 1)  # clipping makes ties
    own = own.of(inner).of(np.arange(int(inner.sum())) < inner.sum() // 15 * 15)
    harmful, scores = calibration_curve(own.harmful, own.scores, n_bins=15, strategy="quantile")
    bins = metrics.reliability(own)
    assert [b.score for b in bins] == pytest.approx(scores)
    assert [b.harmful for b in bins] == pytest.approx(harmful)
    assert {b.n for b in bins} == {own.n // 15}
    assert metrics.calibration_error(own).value == pytest.approx(np.abs(harmful - scores).mean())


def test_the_order_of_equal_scores_is_no_miscalibration():
    harmful = np.repeat([True, False], 300)
    for order in (np.arange(600), np.random.default_rng(0).permutation(600)):
        found = metrics.calibration_error(sample([0.5] * 600, harmful[order]))
        assert found.value == pytest.approx(0.0)
    off = metrics.calibration_error(sample([0.9] * 600, harmful))
    assert off.value == pytest.approx(0.4)
    assert off.reason is not None


def test_calibration_of_few_texts_is_not_told():
    assert metrics.calibration_error(drawn(149)).reason == "needs 150 texts for 15 bins, there are 149"


def test_curves_are_those_of_scikit_learn_and_short():
    own = drawn(3000, ties=False)
    roc = metrics.roc_curve(own, resamples=50)
    assert roc is not None
    assert 100 < len(roc.x) <= metrics.POINTS
    rates, recalls, _ = sk.roc_curve(own.harmful, own.scores, drop_intermediate=False)
    points = set(zip(np.round(rates, 9), np.round(recalls, 9), strict=True))
    assert set(zip(np.round(roc.x, 9), np.round(roc.y, 9), strict=True)) <= points
    assert (roc.x[0], roc.y[0], roc.x[-1], roc.y[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(roc.y, roc.x) == pytest.approx(sk.roc_auc_score(own.harmful, own.scores), abs=0.01)
    assert sum(x < 0.01 for x in roc.x) > 8  # where guards work
    curve = metrics.precision_recall_curve(own, resamples=50)
    assert curve is not None
    assert len(curve.x) <= metrics.POINTS
    precisions, recalls, _ = sk.precision_recall_curve(own.harmful, own.scores)
    points = set(zip(np.round(recalls, 9), np.round(precisions, 9), strict=True))
    assert set(zip(np.round(curve.x, 9), np.round(curve.y, 9), strict=True)) <= points
    for found in (roc, curve):
        assert list(found.x) == sorted(found.x)
        for band in (found.over_texts, found.over_sets):
            assert band is not None
            inside = [low <= y <= high for low, y, high in zip(band.low, found.y, band.high, strict=True)]
            assert np.mean(inside) > 0.9


def test_curves_of_few_texts_or_sets_lack_what_they_can_t_have():
    assert metrics.roc_curve(drawn(6)) is None
    assert metrics.precision_recall_curve(drawn(6)) is None
    found = metrics.roc_curve(drawn(300, sets=2), resamples=20)
    assert found is not None
    assert found.over_texts is not None
    assert found.over_sets is None


def test_what_is_no_sample_is_refused():
    with pytest.raises(UnsupportedValueError, match="3 scores, 2 labels and 3 sets"):
        sample([0.1, 0.2, 0.3], [0, 1], ["a"] * 3)
    with pytest.raises(UnsupportedValueError, match="score of text 1 is not a number"):
        sample([0.1, np.nan], [0, 1])


def test_five_hundred_resamples_of_five_thousand_texts_take_less_than_a_second():
    own = drawn(5000, ties=False)
    ranking = metrics.Ranking(own.scores, own.harmful)
    began = time.process_time()
    low, high = metrics._percentiles(ranking.sums(w).auc()[:, None] for w in metrics._over_texts(own, 500))
    assert time.process_time() - began < 1.0
    assert low[0] < metrics.auc(own.scores, own.harmful) < high[0]
