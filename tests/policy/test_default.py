"""The packaged policy's thresholds are those that the fit of the packaged detector found."""

from __future__ import annotations

import json
import math

import pytest
import yaml

from benchmarks.embedded.thresholds import thresholds, written
from lec_guard.detect.bundle import EMBEDDED
from lec_guard.policy.folder import BUILTIN

RATES = {"block": 0.01, "flag": 0.05}
"""Of harmless texts, what the rules of a stage may stop together."""

RULES = [
    rule
    for rule in yaml.safe_load(BUILTIN.read_text(encoding="utf-8"))["rules"]
    if rule["head"] in ("injection", "indirect_injection", "safety")
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["name"])
def test_a_threshold_is_what_the_fit_found_for_its_share_of_the_rate(rule):
    fit = json.loads((EMBEDDED / "fit.json").read_text(encoding="utf-8"))
    stage = next(stage for stage in rule["stages"] if stage in ("input", "output", "tool_output"))
    beside = {other["head"] for other in RULES if stage in other["stages"] and other["action"] == rule["action"]}
    found = fit[rule["head"]]["thresholds"][stage][str(RATES[rule["action"]] / len(beside))]
    assert rule["threshold"] == math.ceil(found * 1000) / 1000


def test_each_stage_that_reads_has_a_rule_that_blocks():
    blocked = {stage for rule in RULES if rule["action"] == "block" for stage in rule["stages"]}
    assert blocked == {"input", "output", "tool_output", "retrieval"}


def test_the_command_writes_these_thresholds_and_nothing_else():
    policy = BUILTIN.read_text(encoding="utf-8")
    found = thresholds(policy, json.loads((EMBEDDED / "fit.json").read_text(encoding="utf-8")))
    assert found == {rule["name"]: rule["threshold"] for rule in RULES}
    assert written(policy, found) == policy
    lines = zip(policy.splitlines(), written(policy, {"unsafe": 0.5}).splitlines(), strict=True)
    assert [after for before, after in lines if after != before] == ["    threshold: 0.500"]
    changed = yaml.safe_load(written(policy, {"unsafe": 0.5}))["rules"]
    assert next(rule for rule in changed if rule["name"] == "unsafe")["threshold"] == 0.5
