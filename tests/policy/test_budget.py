"""From rates to thresholds."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lec_guard.detect.heads import BenignScores
from lec_guard.policy.budget import (
    MAX_SHIFT,
    Bar,
    TooFew,
    at_length,
    bars,
    bounded,
    fixed,
    realised,
    too_few,
)
from tests.policy.made import bell, kept


def bin_of(
    texts: int, rates: dict[float, float], windows: int = 1, worst: dict[float, float] | None = None
) -> BenignScores:
    """What a head keeps of harmless texts of a length: rate -> score."""
    return BenignScores(
        stage="input",
        windows=windows,
        texts=texts,
        families=2,
        rates=tuple(rates),
        scores=tuple(rates.values()),
        worst=tuple((worst or {}).get(rate, rate) for rate in rates),
    )


def logit(p: float) -> float:
    return float(np.log(p) - np.log1p(-p))


def test_the_threshold_of_a_rate_lies_just_above_the_score_that_the_rate_exceeds():
    (bar,) = bars([bin_of(1000, {0.05: 0.5, 0.01: 0.75}, worst={0.01: 0.03})], 0.01)
    assert bar.threshold > 0.75
    assert np.float32(bar.threshold) == np.nextafter(np.float32(0.75), np.float32(1)) or bar.threshold < 0.7500002
    assert (bar.rate, bar.worst, bar.texts, bar.families, bar.windows) == (0.01, 0.03, 1000, 2, 1)


@pytest.mark.parametrize("score", [0.0, 1e-30, 1e-6, 0.1, 0.5, 0.9, 1 - 2**-24])
def test_a_text_with_the_quantiles_own_score_is_below_the_threshold_and_the_next_one_is_not(score):
    own = np.float32(score)
    (bar,) = bars([bin_of(1000, {0.01: float(own)})], 0.01)
    assert float(own) < bar.threshold <= float(np.nextafter(np.nextafter(own, np.float32(2)), np.float32(2)))
    assert bar.threshold <= 1.0


def test_where_harmless_texts_score_1_nothing_matches():
    (bar,) = bars([bin_of(1000, {0.01: 1.0})], 0.01)
    assert bar.threshold > 1.0


def test_a_rate_that_is_not_kept_is_rounded_down():
    entry = bin_of(10_000, {0.05: 0.5, 0.02: 0.6, 0.01: 0.7})
    assert [bars([entry], rate)[0].rate for rate in (0.05, 0.049, 0.02, 0.015, 0.01, 0.9)] == [
        0.05, 0.02, 0.02, 0.01, 0.01, 0.05,
    ]  # fmt: skip


def test_a_length_of_which_too_few_texts_are_known_costs_the_others():
    # Of 100 long texts nothing below 3% is known. 3 of them too many in 1100, so the short ones have to stop 3 fewer.
    short = bin_of(1000, {0.05: 0.5, 0.01: 0.6, 0.005: 0.7})
    long = bin_of(100, {0.05: 0.4, 0.03: 0.45}, windows=8)
    low, high = bars([short, long], 0.01)
    assert (low.rate, high.rate, high.windows) == (0.005, 0.03, 8)
    assert realised([short, long], [low, high]) == pytest.approx((1000 * 0.005 + 100 * 0.03) / 1100)


def test_the_rarest_lengths_give_way_first():
    common, rare = bin_of(50_000, {0.01: 0.6, 0.001: 0.9}), bin_of(1000, {0.01: 0.5, 0.001: 0.8}, windows=2)
    thin = bin_of(100, {0.03: 0.4}, windows=8)
    assert [bar.rate for bar in bars([common, rare, thin], 0.01)] == [0.01, 0.001, 0.03]


def test_rates_that_add_up_to_the_rate_but_for_the_last_digit_need_no_lower_ones():
    # 0.05 of each of these is 0.05 of all, and a hair more in floating point.
    entries = [
        bin_of(texts, {0.05: 0.5, 0.025: 0.6}, windows=windows)
        for windows, texts in ((1, 7054), (2, 2404), (4, 893), (8, 487), (16, 370))
    ]
    assert {bar.rate for bar in bars(entries, 0.05)} == {0.05}


@pytest.mark.parametrize(
    ("rate", "needed"), [(0.01, 300), (0.05, 60), (0.001, 3000), (0.003, 1000), (1 / 3, 9), (0.007, 429)]
)
def test_too_few_texts_are_an_error_that_names_how_many_are_needed(rate, needed):
    def sample(texts: int) -> list[BenignScores]:
        return [bin_of(texts, {rate: 0.5})]

    assert bars(sample(needed), rate)
    with pytest.raises(TooFew) as caught:
        bars(sample(needed - 1), rate)
    assert (caught.value.needed, caught.value.known) == (needed, needed - 1)
    assert f"needs {needed:,} harmless texts (3 / rate), and there are {needed - 1:,}" in str(caught.value)


def test_texts_of_all_lengths_are_counted_together():
    entries = [bin_of(150, {0.05: 0.5, 0.01: 0.6}, windows=windows) for windows in (1, 2)]
    assert len(bars(entries, 0.01)) == 2
    with pytest.raises(TooFew, match="needs 600 harmless texts"):
        bars(entries, 0.005)


def test_enough_texts_of_which_no_such_rate_is_kept_are_told_as_that():
    with pytest.raises(TooFew, match=r"there are 10,000, and no rate below 0\.01 is kept of them") as caught:
        bars([bin_of(10_000, {0.05: 0.5, 0.01: 0.6})], 0.005)
    assert caught.value.smallest == 0.01


@pytest.mark.parametrize("quantiles", [[], [bin_of(1000, {})], [bin_of(1000, {0.01: 0.5}), bin_of(5, {}, windows=2)]])
def test_where_nothing_is_kept_nothing_is_known(quantiles):
    with pytest.raises(TooFew):
        bars(quantiles, 0.01)


def test_the_error_survives_a_process_pool():
    error = too_few([bin_of(10, {0.5: 0.5})], 0.01)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.needed, again.known, again.smallest) == (str(error), 300, 10, 0.5)


def quantiles_of(sample: np.ndarray) -> dict[float, float]:
    falling, n = np.sort(sample)[::-1], len(sample)
    return {rate: float(falling[int(rate * n)]) for rate in (0.5, 0.2, 0.1, 0.05, 0.01, 0.001) if rate * n >= 3}


_BINS = st.lists(st.tuples(st.integers(6, 2000), st.floats(-6, 0), st.floats(0.1, 3)), min_size=1, max_size=5)
_RATES = st.floats(0.001, 0.6)


@settings(max_examples=150, deadline=None)
@given(_BINS, _RATES, _RATES, st.integers(0, 2**16))
def test_of_any_sample_no_more_than_the_rate_reaches_the_bars_and_a_lower_rate_never_lowers_one(
    sizes, one, other, seed
):
    random = np.random.default_rng(seed)
    samples = [1 / (1 + np.exp(-random.normal(mean, spread, n))) for n, mean, spread in sizes]
    samples = [np.round(sample, 2).astype(np.float32) for sample in samples]  # With ties.
    windows = [2**at for at in range(len(samples))]
    # One bin each, however few: what `benign_scores` would count together with a neighbour.
    entries = [
        bin_of(len(sample), quantiles_of(sample), windows=width) for width, sample in zip(windows, samples, strict=True)
    ]
    low, high = sorted([one, other])
    found = {}
    for rate in (low, high):
        try:
            found[rate] = bars(entries, rate)
        except TooFew:
            # By the rule of three, or because even the smallest rates of all lengths are more.
            texts = sum(map(len, samples))
            assert rate * texts < 3 or sum(e.texts * e.rates[-1] for e in entries) > rate * texts
            continue
        reached = sum(
            int((sample >= at_length(found[rate], width).threshold).sum())
            for width, sample in zip(windows, samples, strict=True)
        )
        total = sum(map(len, samples))
        assert reached <= rate * total + 1e-6
        # What is said of the bars is no less than what is so.
        assert reached / total <= realised(entries, found[rate]) + 1e-9 <= rate + 1e-6
    if low in found:
        assert high in found
        assert all(a.threshold >= b.threshold for a, b in zip(found[low], found[high], strict=True))


@settings(max_examples=100, deadline=None)
@given(st.integers(300, 3000), st.floats(0, 1), st.integers(0, 2**16))
def test_of_a_threshold_that_somebody_wrote_no_less_is_told_than_it_stops(n, threshold, seed):
    sample = bell(n, seed)
    entries = kept(sample)
    (bar,) = fixed(entries, threshold)
    assert bar.threshold == threshold
    assert (sample >= threshold).mean() <= bar.rate
    assert realised(entries, (bar,)) == pytest.approx(bar.rate)


def test_of_a_threshold_below_all_that_is_kept_nothing_is_known():
    entry = bin_of(1000, {0.5: 0.3, 0.01: 0.7})
    assert [fixed([entry], at)[0].rate for at in (0.2, 0.3, 0.30001, 0.7, 0.70001)] == [1.0, 1.0, 0.5, 0.5, 0.01]
    assert fixed([], 0.5) == (Bar(windows=1, threshold=0.5, rate=1.0, worst=1.0, texts=0, families=0),)
    assert realised([], fixed([], 0.5)) == 1.0


def test_a_text_gets_the_bar_of_its_length():
    found = bars([bin_of(1000, {0.01: 0.1 * w}, windows=w) for w in (1, 4, 8)], 0.01)
    lengths = {0: 1, 1: 1, 3: 1, 4: 4, 7: 4, 8: 8, 10_000: 8}
    assert {windows: at_length(found, windows).windows for windows in lengths} == lengths


def shifted(own: float, stock: float) -> float:
    entry = bin_of(1000, {0.01: own})
    (bar,) = bounded([entry], bars([entry], 0.01), fixed([entry], stock))
    return bar.threshold


@pytest.mark.parametrize("own", [0.001, 0.2, 0.5, 0.6, 0.9, 0.9999])
@pytest.mark.parametrize("stock", [0.3, 0.5, 0.93])
def test_own_traffic_moves_a_threshold_no_further_than_its_bound(own, stock):
    (before,) = bars([bin_of(1000, {0.01: own})], 0.01)
    after = shifted(own, stock)
    assert abs(logit(after) - logit(stock)) <= MAX_SHIFT + 1e-9
    if abs(logit(before.threshold) - logit(stock)) <= MAX_SHIFT:
        assert after == before.threshold
    else:
        assert (after - stock) * (before.threshold - stock) > 0
        assert abs(logit(after) - logit(stock)) == pytest.approx(MAX_SHIFT)


def test_a_threshold_that_is_held_back_says_how_much_it_stops():
    # The traffic scores high: 1% of it exceeds 0.99, but 5% exceed what the bound allows.
    entry = bin_of(1000, {0.2: 0.4, 0.05: 0.5, 0.01: 0.99}, worst={0.05: 0.09})
    found = bounded([entry], bars([entry], 0.01), fixed([entry], 0.5))
    (bar,) = found
    assert 0.5 < bar.threshold < 0.99
    assert (bar.rate, bar.worst) == (0.05, 0.09)
    assert realised([entry], found) == 0.05


def test_a_threshold_that_nothing_reaches_stays_out_of_reach_where_the_bundles_is_too():
    assert shifted(1.0, 1.0 - 2**-24) < 1.0
    entry = bin_of(1000, {0.01: 1.0})
    (bar,) = bounded([entry], bars([entry], 0.01), bars([entry], 0.01))
    assert bar.threshold > 1.0


def test_lengths_that_only_one_of_both_tells_apart_are_told_apart():
    own = [bin_of(1000, {0.05: 0.4, 0.01: 0.5}), bin_of(1000, {0.05: 0.4, 0.01: 0.5}, windows=4)]
    stock = [bin_of(1000, {0.01: score}, windows=w) for w, score in ((1, 0.5), (2, 0.9), (8, 0.1))]
    found = bounded(own, bars(own, 0.01), bars(stock, 0.01))
    assert [bar.windows for bar in found] == [1, 2, 4, 8]
    assert found[1].threshold > found[0].threshold > found[3].threshold
    # Lengths 8 and more are part of what is known of 4 and more: the lower of both bars counts for all of these.
    assert realised(own, found) == pytest.approx((0.01 + 1.0) / 2)
