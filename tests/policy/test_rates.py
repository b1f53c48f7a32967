"""How many harmless steps are stopped."""

from __future__ import annotations

import math

import pytest

from lec_guard.detect.heads import BenignScores
from lec_guard.policy.compile import Heads
from lec_guard.policy.rates import Stopped, rate_of, stopped
from lec_guard.policy.store import PolicyStore
from tests.conftest import write_policies


def known(stage, windows=1, texts=1000, spread=2.0):
    rates = (0.5, 0.1, 0.05, 0.01)
    return BenignScores(
        stage=stage,
        windows=windows,
        texts=texts,
        families=5 + windows,
        rates=rates,
        scores=(0.2, 0.5, 0.7, 0.9),
        worst=tuple(min(rate * spread, 1.0) for rate in rates),
    )


HEADS = Heads(
    detector_id="d",
    labels={"one": ("one",), "two": ("two",), "dark": ("dark",)},
    benign={
        "one": [known("input"), known("input", 4, 3000), known("tool_output")],
        "two": [known("input", spread=4.0), known("tool_output")],
    },
)


def rule(name, head, bar, action="block", stages="input", more=""):
    return f"  - {{name: {name}, stages: [{stages}], head: {head}, {bar}, action: {action}{more}}}\n"


def policies(folder, files):
    return PolicyStore(write_policies(folder, files), lambda ref: HEADS).named("default")


def rates(folder, *rules, **others):
    files = {"default.yaml": "rules:\n" + "".join(rules), **others}
    return stopped(policies(folder, files))


def test_a_rate_is_over_all_lengths_and_the_worst_family_of_any(tmp_path):
    (threshold,) = policies(tmp_path, {"default.yaml": "rules:\n" + rule("a", "one", "threshold: 0.6")}).live.thresholds
    rate = rate_of(threshold)
    assert rate is not None
    assert (rate.mean, rate.worst, rate.texts, rate.families) == (pytest.approx(0.1), pytest.approx(0.2), 4000, 9)


def test_a_threshold_below_all_that_was_kept_has_no_rate(tmp_path):
    (threshold,) = policies(tmp_path, {"default.yaml": "rules:\n" + rule("a", "one", "threshold: 0.1")}).live.thresholds
    assert rate_of(threshold) is None


def test_rules_of_one_head_are_no_sum_and_those_of_two_are(tmp_path):
    (row,) = rates(
        tmp_path,
        rule("a", "one", "threshold: 0.6"),
        rule("b", "one", "threshold: 0.8"),
        rule("c", "two", "threshold: 0.95"),
        rule("d", "two", "threshold: 0.3", action="flag"),
    )
    assert (row.stage, row.tool, row.unknown) == ("input", None, ())
    assert row.mean == pytest.approx(0.1 + 0.01)
    assert row.worst == pytest.approx(0.2 + 0.04)


def test_what_the_floor_stops_counts(tmp_path):
    floor = {"floor.yaml": "rules:\n" + rule("f", "two", "threshold: 0.95")}
    (row,) = rates(tmp_path, rule("a", "one", "threshold: 0.6"), rule("b", "one", "threshold: 0.8"), **floor)
    assert row.mean == pytest.approx(0.1 + 0.01)


def test_rules_of_unknown_rate_are_named(tmp_path):
    (row,) = rates(tmp_path, rule("a", "dark", "threshold: 0.6"), rule("b", "one", "threshold: 0.95"))
    assert row.mean == pytest.approx(0.01)
    assert row.unknown == ("a",)


def test_tools_that_have_rules_of_their_own_have_a_row(tmp_path):
    more = ", tools: {'web_*': {threshold: 0.3}, own: {action: allow}}"
    rows = rates(
        tmp_path,
        rule("a", "one", "threshold: 0.95", stages="tool_output", more=more),
        rule("b", "two", "threshold: 0.8", stages="tool_output"),
    )
    assert [(row.tool, pytest.approx(row.mean)) for row in rows] == [
        (None, 0.01 + 0.05),
        ("web_*", 0.5 + 0.05),
        ("own", 0.05),
    ]


def test_a_budget_bounds_what_is_stopped(tmp_path):
    (row,) = rates(tmp_path, rule("a", "one", "max_fpr: 0.12"), rule("b", "two", "max_fpr: 0.3"))
    assert 0.05 < row.mean <= 0.12


def test_a_conversation_is_hit_by_any_of_its_steps():
    row = Stopped(stage="input", tool=None, mean=0.01, worst=0.1, unknown=())
    assert row.of(1) == pytest.approx(0.01)
    assert row.of(200) == pytest.approx(1 - math.pow(0.99, 200))
    assert Stopped(stage="input", tool=None, mean=1.3, worst=2.0, unknown=()).of(3) == 1.0
