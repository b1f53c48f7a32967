"""Means with intervals that know which answers belong together."""

from __future__ import annotations

import numpy as np
import pytest

from lec_guard.train.pii.figures import mean_figure


def test_the_interval_is_over_groups():
    draws = np.random.default_rng(1)
    values = draws.poisson(2.0, 400).astype(float).tolist()
    alone = mean_figure(values, [str(at) for at in range(400)])
    assert alone.value == pytest.approx(np.mean(values))
    # The normal approximation.
    spread = 1.96 * np.std(values) / 20
    assert alone.low == pytest.approx(alone.value - spread, abs=0.06)
    assert alone.high == pytest.approx(alone.value + spread, abs=0.06)
    # Twenty groups that are alike within: as sure as twenty values.
    alike = mean_figure(np.repeat(values[:20], 20).tolist(), [str(at // 20) for at in range(400)])
    assert alike.high - alike.low > 2.5 * (alone.high - alone.low)


def test_none_found_is_not_sure_of_none():
    found = mean_figure([0.0] * 50, [str(at) for at in range(50)])
    assert (found.value, found.low) == (0.0, 0.0)
    # One that holds with 97.5%: exp(-50 * high) = 0.025.
    assert np.exp(-50 * found.high) == pytest.approx(0.025)


def test_too_few_say_so():
    assert mean_figure([1.0] * 4, list("abcd")).reason == "needs 5 answers, there are 4"
    few = mean_figure([1.0] * 9, list("abcdefghi"))
    assert (few.value, few.low) == (1.0, None)
    assert few.reason == "no interval: it needs 10 conversations, there are 9"
