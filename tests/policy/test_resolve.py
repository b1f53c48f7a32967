"""What a policy inherits, and what its version stands for."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest

from lec_guard import PolicyError
from lec_guard.policy.resolve import MESSAGE, DetectorRef, follow, resolve
from lec_guard.policy.schema import Fail
from tests.policy.made import FILE, resolved, rule, rules, source

QUANTILES = {
    "stage": "input", "windows": 1, "texts": 300, "families": 1, "rates": [0.01], "scores": [0.5], "worst": [0.01],
}  # fmt: skip
OWN = {"detector_id": "made@0", "texts": 300, "heads": {"injection": [QUANTILES]}}


def names(policy):
    return [one.name for one in policy.rules]


PARENT = rules(rule("one"), rule("two"), rule("three"))


def test_a_rule_of_the_same_name_replaces_the_inherited_one_in_its_place():
    policy = resolved(rules(rule("new"), rule("two", threshold=0.9, action="flag")), PARENT)
    assert names(policy) == ["one", "two", "three", "new"]
    assert (policy.rules[1].threshold, policy.rules[1].action) == (0.9, "flag")


@pytest.mark.parametrize(
    ("key", "parent", "child", "both"),
    [
        (
            "allow",
            "allow: [{name: a, stages: [input], exact: [x]}]",
            "allow: [{name: b, stages: [input], exact: [y]}]",
            ["a", "b"],
        ),
        ("rewrite", "rewrite: {a: {kind: drop_spans}}", "rewrite: {b: {kind: quarantine}}", ["a", "b"]),
        ("escalations", "escalations: {a: {kind: queue}}", "escalations: {b: {kind: interrupt}}", ["a", "b"]),
        ("fail", "fail: {input: allow}", "fail: {output: flag}", ["input", "output"]),
    ],
)  # fmt: skip
def test_sections_are_laid_over_each_other_by_name(key, parent, child, both):
    policy = resolved(child, f"{parent}\n{PARENT}")
    found = getattr(policy, key)
    assert [one.name for one in found] == both if key == "allow" else list(found) == both


def test_a_section_of_the_same_name_replaces_the_inherited_one_as_a_whole():
    policy = resolved(
        "fail: {input: {error: flag}}\nescalations: {a: {kind: interrupt}}",
        "fail: {input: {timeout: allow, timeout_ms: 5}}\nescalations: {a: {kind: queue, on_timeout: allow}}\n" + PARENT,
    )
    assert policy.fail["input"] == Fail(error="flag")
    assert policy.escalations["a"].on_timeout == "block"


@pytest.mark.parametrize(
    ("text", "attribute", "expected"),
    [
        ("mode: shadow", "mode", "shadow"),
        ("locale: de", "locale", "de"),
        ("hold_back: 256", "hold_back", 256),
    ],
)  # fmt: skip
def test_a_setting_is_inherited_from_the_nearest_that_has_it(text, attribute, expected):
    assert getattr(resolved("", "", f"{text}\n{PARENT}"), attribute) == expected
    assert getattr(resolved(f"{text}\n{PARENT}"), attribute) == expected


@pytest.mark.parametrize(("key", "beside"), [("bundle", False), ("heads", True)])
def test_a_detector_is_inherited_with_its_folder(key, beside):
    text = f"detector: {{{key}: own, id: own@0123456789abcdef}}\n{PARENT}"
    expected = DetectorRef(FILE.parent / "own", "own@0123456789abcdef", beside)
    assert resolved("", "", text).detector == resolved(text).detector == expected


def test_what_nobody_says_is_the_strict_choice():
    policy = resolved(PARENT)
    assert (policy.mode, policy.hold_back, policy.fail, policy.detector) == ("enforce", "all", {}, None)
    assert policy.message.texts == {"default": MESSAGE}


def test_neither_a_candidate_nor_a_description_is_inherited():
    policy = resolved("", f"candidate: next\ndescription: The parent.\n{PARENT}")
    assert (policy.candidate, policy.description) == (None, "")


def test_a_path_is_relative_to_the_file_that_says_it(tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "shared").mkdir()
    child = source("detector: {bundle: b, id: own@0123456789abcdef}", tmp_path / "own" / "policy.yaml")
    parent = source(f"calibration: c.json\n{PARENT}", tmp_path / "shared" / "parent.yaml")
    read = {tmp_path / "shared" / "c.json": json.dumps(OWN).encode()}.__getitem__
    policy = resolve("own", [child, parent], read=read)
    assert policy.detector is not None
    assert policy.detector.folder == tmp_path / "own" / "b"
    assert policy.calibration is not None


@pytest.mark.parametrize("key", ["calibration: {}", "detector: {{bundle: {}, id: own@0123456789abcdef}}"])
@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "tenants/other/x"])
def test_a_path_that_leads_out_is_refused_with_its_place(key, path):
    with pytest.raises(PolicyError, match=rf"^{FILE}:1:1: '{path}' (must be a path below|belongs to a tenant)"):
        resolved(f"{key.format(path)}\n{PARENT}")


@pytest.mark.parametrize("content", ["", "# nothing\n", "message: Gone.\n", "rules: []\n", "extends: parent\n"])
def test_a_policy_that_would_let_everything_pass_is_refused(content):
    with pytest.raises(PolicyError, match=f"^{FILE}: a policy without any rule lets everything pass"):
        resolved(content)


def test_every_part_knows_where_it_was_said():
    child = "message: Mine.\n" + rules(rule("two")) + "fail:\n  input: block\n"
    policy = resolved(child, f"mode: shadow\n{PARENT}")
    parent = FILE.parent / "parent0.yaml"
    assert policy.where("message") == f"{FILE}:1:1"
    assert policy.where("rules.two") == f"{FILE}:3:5"
    assert policy.where("fail.input") == f"{FILE}:5:3"
    assert policy.where("rules.one") == f"{parent}:3:5"
    assert policy.where("mode") == f"{parent}:1:1"
    assert policy.where("locale") == str(FILE)


ASKS = rules(rule(action="escalate", escalation="desk"))
OUTPUT = rules(rule(stages="[output]", action="rewrite", rewrite="a"))
DESK = "escalations: {desk: {kind: queue}}\n"
ANEW = "rewrite: {a: {kind: regenerate, instruction: x}}\n"
THEN = "rewrite: {a: {kind: drop_spans, then: escalate, escalation: desk}}\n"
WHOLE = "at output this needs hold_back: all"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (ASKS.replace("desk", "dsk") + DESK, "2:5: no 'dsk' in escalations; did you mean 'desk'?"),
        (ASKS, "2:5: no 'desk' in escalations; write a section 'escalations' with it"),
        (rules(rule(action="rewrite", rewrite="pii")), "2:5: no 'pii' in rewrite; write a section"),
        (rules(rule(stages="[tool_output]", tools="{x: {action: rewrite, rewrite: pii}}")), "2:5: no 'pii' in rewrite"),
        (THEN + PARENT, "1:11: no 'desk' in escalations"),
        (
            rules(rule(stages="[tool_input]", action="rewrite", rewrite="a")) + ANEW,
            "2:5: regenerate can't write a tool's arguments anew",
        ),
        ("hold_back: 300\n" + DESK + ASKS.replace("input", "output"), f"4:5: {WHOLE}"),
        ("hold_back: 300\n" + ANEW + OUTPUT, f"4:5: {WHOLE}"),
        ("hold_back: 300\n" + DESK + THEN + OUTPUT, f"5:5: {WHOLE}"),
    ],
)
def test_parts_that_do_not_fit_each_other_are_refused_with_their_place(text, told):
    with pytest.raises(PolicyError) as caught:
        resolved(text)
    assert str(caught.value).startswith(f"{FILE}:{told}")
    assert "\n" not in str(caught.value)


def test_with_the_whole_answer_held_back_an_output_may_wait_for_somebody():
    resolved("escalations: {d: {kind: queue}}\n" + rules(rule(stages="[output]", action="escalate", escalation="d")))


def test_a_chain_is_followed_to_its_root():
    files = {"a": source("extends: b"), "b": source("extends: c"), "c": source(PARENT)}
    assert follow("a", files.get, lambda: files) == list(files.values())


@pytest.mark.parametrize("chain", ["aa", "aba", "abca", "abcb"])
def test_policies_that_inherit_in_a_circle_are_refused(chain):
    files = {name: source(f"extends: {parent}", Path(f"{name}.yaml")) for name, parent in pairwise(chain)}
    with pytest.raises(PolicyError, match=f"inherit in a circle: {' -> '.join(chain)}$") as caught:
        follow("a", files.get, lambda: files)
    assert str(caught.value).startswith(f"{chain[-2]}.yaml:1:1: ")


def test_a_missing_parent_is_told_with_a_suggestion():
    with pytest.raises(PolicyError, match=rf"^{FILE}:1:1: no policy 'strikt' .*; did you mean 'strict'\?"):
        follow("a", {"a": source("extends: strikt")}.get, lambda: ["strict", "a"])


BASE = """
    description: One.
    locale: de
    message: {de: Weg., en: Gone.}
    mode: enforce
    hold_back: all
    fail: {input: {timeout: block, timeout_ms: 5}, output: flag}
    allow: [{name: a, stages: [input], exact: [x], regex: [y], rules: [one]}, {name: b, stages: [input], exact: [z]}]
    rewrite: {a: {kind: drop_spans, mark: gone}, b: {kind: quarantine}}
    escalations: {a: {kind: queue, expires_s: 60}, b: {kind: interrupt}}
    detector: {bundle: own, id: own@0123456789abcdef}
    rules:
      - {name: one, stages: [input, tool_output], head: injection, labels: [injection], threshold: 0.5, action: block,
         message: {de: Halt., en: Stop.}, tools: {x: {threshold: 0.6}, "*": {action: flag}}}
      - {name: two, stages: [output], head: safety, max_fpr: 0.01, action: flag}
"""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("name: one", "name: oen"),
        ("stages: [input, tool_output], head", "stages: [input, tool_output, retrieval], head"),
        ("head: injection, labels", "head: other, labels"),
        ("labels: [injection], ", ""),
        ("threshold: 0.5", "threshold: 0.51"),
        ("threshold: 0.5", "max_fpr: 0.5"),
        ("max_fpr: 0.01", "max_fpr: 0.02"),
        ("action: block,", "action: flag,"),
        ("Halt.", "Stopp."),
        ("Stop.", "Halt!"),
        ("{de: Halt., en: Stop.}", "{en: Stop., de: Halt.}"),
        ("x: {threshold: 0.6}", "y: {threshold: 0.6}"),
        ("x: {threshold: 0.6}", "x: {threshold: 0.7}"),
        ('{x: {threshold: 0.6}, "*": {action: flag}}', '{"*": {action: flag}, x: {threshold: 0.6}}'),
        ("locale: de", "locale: en"),
        ("message: {de: Weg., en: Gone.}", "message: {de: Fort., en: Gone.}"),
        ("message: {de: Weg., en: Gone.}", "message: {de: Weg.}"),
        ("mode: enforce", "mode: shadow"),
        ("hold_back: all", "hold_back: 300"),
        ("timeout: block", "timeout: allow"),
        ("timeout_ms: 5", "timeout_ms: 6"),
        ("timeout_ms: 5", "timeout_ms: 5, max_chars: 9"),
        ("output: flag", "retrieval: flag"),
        ("exact: [x]", "exact: [xx]"),
        ("regex: [y]", "regex: [yy]"),
        ("rules: [one]}", "rules: [two]}"),
        (", rules: [one]}", "}"),
        ("{name: b, stages: [input], exact", "{name: b, stages: [output], exact"),
        ("mark: gone", "mark: Gone"),
        ("{kind: quarantine}", "{kind: quarantine, method: encode}"),
        ("expires_s: 60", "expires_s: 61"),
        ("{kind: interrupt}", "{kind: interrupt, on_timeout: allow}"),
        ("@0123456789abcdef", "@1123456789abcdef"),
        ("bundle: own", "heads: own"),
    ],
)
def test_the_version_changes_with_whatever_decides(before, after):
    assert before in BASE
    changed = BASE.replace(before, after, 1)
    if before == "name: one":
        changed = changed.replace("rules: [one]", "rules: [oen]")
    assert resolved(changed).version != resolved(BASE).version


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("description: One.", "description: Two."),
        ("description: One.", "# a comment"),
        ("threshold: 0.5,", "threshold: 0.50,"),
        ("locale: de", "\n\n    locale: 'de'"),
        ("mode: enforce\n", "\n"),
        ("timeout: block, timeout_ms: 5", "timeout_ms: 5"),
        ("bundle: own", "bundle: elsewhere"),  # The id says what lies there.
        (
            "{a: {kind: drop_spans, mark: gone}, b: {kind: quarantine}}",
            "{b: {kind: quarantine}, a: {kind: drop_spans, mark: gone}}",
        ),
        (
            "input: {timeout: block, timeout_ms: 5}, output: flag",
            "output: flag, input: {timeout: block, timeout_ms: 5}",
        ),
        ("output: flag", "output: {timeout: flag, error: flag, budget: flag}"),
    ],
)  # fmt: skip
def test_the_version_stays_with_whatever_does_not_decide(before, after):
    assert before in BASE
    assert resolved(BASE.replace(before, after, 1)).version == resolved(BASE).version
    assert re.fullmatch("[0-9a-f]{16}", resolved(BASE).version)


def test_the_version_changes_with_the_order_of_rules():
    turned = rules(rule("two"), rule("one"), rule("three"))
    assert resolved(turned).version != resolved(PARENT).version


def test_the_version_does_not_tell_how_a_policy_is_spread_over_files():
    assert resolved("", PARENT).version == resolved(PARENT).version == resolved(rules(rule("two")), PARENT).version


def test_the_version_changes_with_what_is_inherited():
    child = rules(rule("own"))
    assert resolved(child, PARENT).version != resolved(child, PARENT.replace("0.5", "0.6", 1)).version


def test_the_version_changes_with_the_calibration(tmp_path):
    def version(**changes: object) -> str:
        content = json.dumps({**OWN, **changes}).encode()
        return resolve("x", [source(f"calibration: c.json\n{PARENT}")], read=lambda _: content).version

    assert len({version(), version(texts=301), version(detector_id="other"), resolved(PARENT).version}) == 4
