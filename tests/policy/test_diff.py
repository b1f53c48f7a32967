"""What would change if one policy took the place of another."""

from __future__ import annotations

import pytest

from lec_guard import Guard, PolicyError, Step
from lec_guard.policy.diff import GuidanceChange, Judged, Move, RuleChange, compare, pair
from lec_guard.testing import KeywordDetector
from tests.conftest import write_policies

DETECTOR = KeywordDetector({"a": {"a": ["alpha"]}, "b": {"b": ["beta"]}, "c": {"c": ["gamma"]}})


def rules(**actions: str) -> str:
    lines = (
        f"  - {{name: {name}, stages: [input, output], head: {name}, threshold: 0.5, action: {action}}}"
        for name, action in actions.items()
    )
    return "\n".join(["rules:", *lines, ""])


def found(folder, files, texts, examples=0, stage="input"):
    guard = Guard.from_policies(write_policies(folder, files), detector=DETECTOR)
    both = pair(guard.policies.named("default"), guard.policies.named("next"))
    steps = [Step(stage=stage, text=text) for text in texts]
    verdicts = guard.try_out(steps, [both] * len(steps))
    return compare(
        (Judged(str(at), text, one) for at, (text, one) in enumerate(zip(texts, verdicts, strict=True))), examples, both
    )


TEXTS = ["alpha", "beta", "alpha beta", "none", "gamma"]


def test_moves_and_rules_are_counted(tmp_path):
    diff = found(tmp_path, {"default.yaml": rules(a="block"), "next.yaml": rules(a="flag", b="block")}, TEXTS)
    assert (diff.texts, diff.changed) == (5, 2)
    assert diff.moves == (
        Move(stage="input", live="allow", candidate="allow", texts=2),
        Move(stage="input", live="allow", candidate="block", texts=1),
        Move(stage="input", live="block", candidate="flag", texts=1),
        Move(stage="input", live="block", candidate="block", texts=1),
    )
    assert diff.rules == (
        RuleChange(rule="a", live=2, candidate=2, gained=0, lost=0),
        RuleChange(rule="b", live=0, candidate=2, gained=2, lost=0),
    )
    assert diff.examples == ()


def test_what_each_policy_says_counts_whether_or_not_it_acts(tmp_path):
    shadow = "mode: shadow\n"
    diff = found(tmp_path, {"default.yaml": shadow + rules(a="block"), "next.yaml": shadow + rules(b="block")}, TEXTS)
    assert [(one.live, one.candidate, one.texts) for one in diff.moves] == [
        ("allow", "allow", 2), ("allow", "block", 1), ("block", "allow", 1), ("block", "block", 1),
    ]  # fmt: skip


def test_what_the_floor_stops_is_stopped_either_way(tmp_path):
    files = {"default.yaml": rules(a="block"), "next.yaml": rules(c="flag"), "floor.yaml": rules(a="block")}
    diff = found(tmp_path, files, TEXTS, examples=9)
    assert [(one.live, one.candidate, one.texts) for one in diff.moves] == [
        ("allow", "allow", 2), ("allow", "flag", 1), ("block", "block", 2),
    ]  # fmt: skip
    assert [one.id for one in diff.examples] == ["4"]


def test_a_floor_that_only_watches_stops_nothing(tmp_path):
    floor = "mode: shadow\n" + rules(a="block")
    diff = found(tmp_path, {"default.yaml": rules(a="block"), "next.yaml": rules(c="flag"), "floor.yaml": floor}, TEXTS)
    assert diff.changed == 3


def test_examples_are_of_every_change_and_no_more_than_asked_for(tmp_path):
    texts = ["alpha"] * 5 + ["beta"] * 5 + ["none"] * 5
    diff = found(tmp_path, {"default.yaml": rules(a="block"), "next.yaml": rules(b="flag")}, texts, examples=2)
    assert [(one.id, one.live, one.live_rule, one.candidate, one.candidate_rule) for one in diff.examples] == [
        ("0", "block", "a", "allow", None),
        ("1", "block", "a", "allow", None),
        ("5", "allow", None, "flag", "b"),
        ("6", "allow", None, "flag", "b"),
    ]


def test_allow_entries_are_told_as_rules(tmp_path):
    allow = "allow: [{name: greek, stages: [input], exact: [alpha]}]\n"
    diff = found(tmp_path, {"default.yaml": rules(a="block"), "next.yaml": allow + rules(a="block")}, ["alpha"])
    assert [(one.rule, one.gained, one.lost) for one in diff.rules] == [("a", 0, 0), ("allow:greek", 1, 0)]


def test_origins_for_which_answers_are_guided_otherwise_are_told(tmp_path):
    files = {
        "default.yaml": "guidance: {coefficient: 2, origins: {user: 3}}\n" + rules(a="block"),
        "next.yaml": "guidance: {origins: {user: 3, third_party: 4}}\n" + rules(a="block"),
    }
    live = {"live": 2.0, "live_space": "log", "candidate_space": "log"}
    assert found(tmp_path / "a", files, TEXTS).guidance == (
        GuidanceChange(origin="third_party", candidate=4.0, **live),
        GuidanceChange(origin="model", candidate=1.0, **live),
        GuidanceChange(origin="operator", candidate=1.0, **live),
    )
    floor = {"floor.yaml": "guidance: 2\n" + rules(c="block")}
    assert [one.origin for one in found(tmp_path / "b", files | floor, TEXTS).guidance] == ["third_party"]
    shadow = {"floor.yaml": "mode: shadow\n" + floor["floor.yaml"], "next.yaml": rules(a="block")}
    changes = found(tmp_path / "c", files | shadow, TEXTS).guidance
    assert {(one.candidate, one.candidate_space) for one in changes} == {(None, None)}
    assert len(changes) == 4
    assert found(tmp_path / "d", {**files, "next.yaml": files["default.yaml"]}, TEXTS).guidance == ()


def test_texts_are_read_one_by_one_and_not_kept(tmp_path):
    guard = Guard.from_policies(write_policies(tmp_path, {"default.yaml": rules(a="block")}), detector=DETECTOR)
    both = pair(guard.policies.named("default"), guard.policies.named("default"))
    (verdict,) = guard.try_out([Step(stage="input", text="alpha")], [both])
    assert compare((Judged("x", "y", verdict) for _ in range(10_000)), 3).texts == 10_000


def test_policies_of_different_detectors_are_not_compared(tmp_path):
    from dataclasses import replace

    from lec_guard.policy.resolve import DetectorRef

    files = {"default.yaml": rules(a="block"), "next.yaml": rules(a="flag")}
    guard = Guard.from_policies(write_policies(tmp_path, files), detector=DETECTOR)
    live, other = guard.policies.named("default"), guard.policies.named("next")
    own = replace(other.live.policy, detector=DetectorRef(tmp_path, "own@0123456789abcdef", False))
    with pytest.raises(PolicyError, match=r"next.yaml.*policies are compared on the same scores"):
        pair(live, replace(other, live=replace(other.live, policy=own)))
