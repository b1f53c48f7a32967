"""The packaged policy's thresholds are those that the fit of the packaged detector found."""

from __future__ import annotations

import json

import yaml

from benchmarks.embedded.thresholds import thresholds, written
from lec_guard.detect.bundle import EMBEDDED
from lec_guard.policy.folder import BUILTIN

POLICY = BUILTIN.read_text(encoding="utf-8")
RULES = yaml.safe_load(POLICY)["rules"]


def fit():
    return json.loads((EMBEDDED / "fit.json").read_text(encoding="utf-8"))


def test_thresholds_are_what_the_fit_found_for_their_share_of_the_rate():
    found = thresholds(POLICY, fit())
    assert {rule["name"]: rule["threshold"] for rule in RULES if rule["name"] in found} == found
    assert {rule["head"] for rule in RULES if rule["name"] not in found} == {"reading"}
    # Two heads read prompts, and share 1%; one reads answers.
    for name, head, stage, rate in (
        ("injection", "injection", "input", 0.005),
        ("unsafe-answer", "safety", "output", 0.01),
    ):
        exact = fit()[head]["thresholds"][stage][str(rate)]
        assert exact <= found[name] < exact + 0.001


def test_other_thresholds_are_written_and_nothing_else():
    found = thresholds(POLICY, fit())
    assert written(POLICY, found) == POLICY
    changed = written(POLICY, {"unsafe": 0.5})
    before, after = POLICY.splitlines(), changed.splitlines()
    assert [new for old, new in zip(before, after, strict=True) if old != new] == ["    threshold: 0.500"]
    assert next(rule for rule in yaml.safe_load(changed)["rules"] if rule["name"] == "unsafe")["threshold"] == 0.5


def test_each_stage_that_reads_has_a_rule_that_blocks():
    blocked = {stage for rule in RULES if rule["action"] == "block" for stage in rule["stages"]}
    assert blocked == {"input", "output", "tool_output", "retrieval"}
