"""What a policy file may say, and how mistakes are told."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from typing import get_args

import pytest

from lec_guard import PolicyError
from lec_guard.policy.document import read_document
from lec_guard.policy.guidance import Guidance, GuidanceRule
from lec_guard.policy.schema import Fail, OwnDetector, PolicyFile, nearest, parse_policy
from lec_guard.step import Cause


def parse(folder: Path, text: str) -> PolicyFile:
    file = folder / "policy.yaml"
    file.write_text(textwrap.dedent(text), encoding="utf-8")
    return parse_policy(read_document(file))


def mistakes(folder: Path, text: str) -> list[str]:
    """The lines of the error, each without the path of the file that it names."""
    with pytest.raises(PolicyError) as caught:
        parse(folder, text)
    found = [
        re.match(rf"{re.escape(str(folder / 'policy.yaml'))}:(\d+):\d+: (.*)", line)
        for line in str(caught.value).split("\n")
    ]
    return [f"{line[1]}: {line[2]}" for line in found if line] if all(found) else pytest.fail(str(caught.value))


def rule(**changes: object) -> str:
    keys = {"name": "r", "stages": "[input]", "head": "injection", "threshold": 0.5, "action": "block", **changes}
    return "rules:\n" + textwrap.indent(
        "\n".join(f"{key}: {value}" for key, value in keys.items() if value is not None), "    "
    ).replace("    name", "  - name", 1)


EVERYTHING = """
    description: A bank.
    extends: builtin
    mode: shadow
    candidate: next
    detector: {heads: bundle, id: own@0123456789abcdef}
    calibration: calibration.json
    locale: de
    message: {de: Nein., en: "No, {tenant}."}
    hold_back: all
    guidance: {coefficient: 1.5, space: probability, origins: {third_party: 3, user: 2.0}}
    unknown_tenant: default
    allowed_hosts: [hooks.example.com, "*.example.org:8443", "[::1]:9000"]
    fail:
      input: flag
      output: {timeout: allow, error: flag, budget: block, timeout_ms: 0, max_chars: 5000}
    allow:
      - {name: greeting, stages: [input], exact: [Hello, Good day]}
      - {name: order, stages: [input, output], regex: ['order \\\\d+'], rules: [injection]}
    rewrite:
      pii: {kind: redact_pii, entities: [EMAIL_ADDRESS], operator: hash}
      spans: {kind: drop_spans, mark: "[gone]", then: escalate, escalation: desk}
      marked: {kind: quarantine, method: encode}
      said: {kind: replace, text: {de: Weg., en: Gone.}}
      anew: {kind: regenerate, instruction: Say it without numbers., guidance: 2.5}
    escalations:
      desk: {kind: queue, url: postgresql://db.example.com/queue, wait_ms: 5, expires_s: 60, on_timeout: allow}
      hook: {kind: webhook, url: https://hooks.example.com/x, secret: HOOK_KEY, timeout_ms: 9, on_error: allow}
      person: {kind: interrupt}
      model: {kind: second_opinion, question: "Is it safe?", timeout_ms: 10}
    rules:
      - name: injection
        stages: [input, tool_output]
        head: safety
        labels: [unsafe, cyber]
        threshold: 1
        action: flag
        message: Not here.
        tools:
          web_*: {max_fpr: 0.05, action: escalate, escalation: desk, message: {en: Wait.}, labels: [cyber]}
          'read_?': {action: allow}
      - {name: mend, stages: [output], head: safety, max_fpr: 0.01, action: rewrite, rewrite: pii}
"""


def test_everything_that_may_be_said(tmp_path):
    policy = parse(tmp_path, EVERYTHING)
    # Nothing was left out above, but for what excludes something else that stands there.
    assert policy.model_fields_set == set(PolicyFile.model_fields)
    assert policy.description == "A bank."
    assert (policy.extends, policy.candidate, policy.calibration) == ("builtin", "next", "calibration.json")
    assert (policy.mode, policy.locale, policy.hold_back, policy.unknown_tenant) == ("shadow", "de", "all", "default")
    assert policy.message == {"de": "Nein.", "en": "No, {tenant}."}
    assert policy.detector == OwnDetector(heads="bundle", id="own@0123456789abcdef")
    assert policy.fail["input"] == "flag"
    assert policy.fail["output"] == Fail(timeout="allow", error="flag", budget="block", timeout_ms=0, max_chars=5000)
    assert [type(way).__name__ for way in policy.rewrite.values()] == [
        "RedactPii", "DropSpans", "Quarantine", "Replace", "Regenerate",
    ]  # fmt: skip
    assert [whom.kind for whom in policy.escalations.values()] == ["queue", "webhook", "interrupt", "second_opinion"]
    assert policy.guidance == Guidance(coefficient=1.5, space="probability", origins={"third_party": 3.0, "user": 2.0})
    assert policy.rewrite["anew"].guidance == GuidanceRule(coefficient=2.5)
    assert policy.allow[1].rules == ("injection",)
    first, second = policy.rules
    assert first.stages == ("input", "tool_output")
    assert first.labels == ("unsafe", "cyber")
    assert (first.threshold, first.action, first.message) == (1.0, "flag", "Not here.")
    assert list(first.tools) == ["web_*", "read_?"]
    assert (second.max_fpr, second.rewrite) == (0.01, "pii")


def test_what_may_be_said_is_a_json_schema():
    schema = PolicyFile.model_json_schema()
    assert set(schema["properties"]) == set(PolicyFile.model_fields)
    assert schema["additionalProperties"] is False
    json.dumps(schema)


def test_what_one_may_leave_out_is_the_strict_choice(tmp_path):
    policy = parse(
        tmp_path,
        """
        escalations: {a: {kind: queue}, b: {kind: webhook, url: https://x, secret: X}}
        rewrite: {c: {kind: drop_spans}}
        fail: {input: {timeout_ms: 5}}
        """,
    )
    assert all((whom.on_timeout, whom.on_error) == ("block", "block") for whom in policy.escalations.values())
    assert policy.rewrite["c"].then == "block"
    assert Fail.of(policy.fail["input"]) == Fail(timeout="block", error="block", budget="block", timeout_ms=5)


@pytest.mark.parametrize("action", ["allow", "flag", "block"])
def test_one_fail_action_stands_for_every_cause(action):
    assert {Fail.of(action).action(cause) for cause in get_args(Cause)} == {action}
    mixed = Fail(timeout="allow", error="flag", budget="block")
    assert [mixed.action(cause) for cause in ("timeout", "error", "budget")] == ["allow", "flag", "block"]


def test_an_empty_file_says_nothing(tmp_path):
    assert parse(tmp_path, "") == PolicyFile()


def test_a_typo_in_a_rule_names_file_line_and_key_and_suggests_the_word(tmp_path):
    lines = mistakes(
        tmp_path,
        """\
        message: No.
        rules:
          - name: injection
            stages: [input]
            head: injection
            treshold: 0.5
            action: block
        """,
    )
    assert lines == ["6: rules.0.treshold: Extra inputs are not permitted; did you mean 'threshold'?"]


def test_a_typo_at_the_top_suggests_a_word_of_the_top(tmp_path):
    (line,) = mistakes(tmp_path, "message: No.\nextend: builtin\n")
    assert line.startswith("2: extend: ")
    assert "did you mean 'extends'?" in line


def test_a_key_that_resembles_nothing_gets_the_list_of_what_is_known(tmp_path):
    (line,) = mistakes(tmp_path, "xyzzy: 1\n")
    assert f"known: {', '.join(PolicyFile.model_fields)}" in line


def test_all_mistakes_are_told_at_once(tmp_path):
    lines = mistakes(
        tmp_path,
        """\
        mesage: No.
        rules:
          - name: a
            stages: [input, inputs]
            head: injection
            threshold: 2
            action: stop
          - name: b c
            stages: []
            head: ""
            threshold: 0.5
            action: block
        """,
    )
    assert sorted(line.split(": ")[:2] for line in lines) == sorted(
        [
            ["1", "mesage"],
            ["4", "rules.0.stages.1"],
            ["6", "rules.0.threshold"],
            ["7", "rules.0.action"],
            ["8", "rules.1.name"],
            ["9", "rules.1.stages"],
            ["10", "rules.1.head"],
        ]
    )


@pytest.mark.parametrize(
    ("key", "value", "part"),
    [
        ("stages", "[input, outptu]", "'tool_definition'"),
        ("stages", "input", "tuple"),
        ("stages", "[]", "at least 1"),
        ("action", "allowed", "did you mean 'allow'?"),
        ("action", "stop", "'escalate' or 'block'"),
        ("action", "escalate", "action: escalate and escalation: NAME belong together"),
        ("action", "rewrite", "action: rewrite and rewrite: NAME belong together"),
        ("escalation", "desk", "action: escalate and escalation: NAME belong together"),
        ("rewrite", "pii", "action: rewrite and rewrite: NAME belong together"),
        ("max_fpr", "0.01", "give a threshold or a max_fpr, not both"),
        ("threshold", None, "give a threshold, or a max_fpr for it to be taken from"),
        ("tools", "{x: {action: allow}}", "the rule reads at none of them"),
        ("labels", "[]", "at least 1"),
        ("labels", "unsafe", "tuple"),
        ("message", "''", "at least 1"),
        ("name", "''", "pattern"),
        ("name", "../x", "pattern"),
        ("name", '"a\\n"', "pattern"),
        ("name", "a" * 129, "pattern"),
        ("head", "[a]", "string"),
    ],
)
def test_a_value_that_means_nothing_is_refused(tmp_path, key, value, part):
    (line,) = mistakes(tmp_path, rule(**{key: value}))
    assert line.partition(": ")[2].startswith("rules.0")
    assert part in line


@pytest.mark.parametrize(
    "threshold",
    ["0", "0.0", "-0.1", "1.5", "1.0000001", ".nan", ".inf", "-.inf", "high", "'0.5'", "yes", "true", "[0.5]"],
)
def test_a_threshold_outside_0_to_1_or_that_is_no_number_is_refused(tmp_path, threshold):
    (line,) = mistakes(tmp_path, rule(threshold=threshold))
    assert line.startswith("5: rules.0.threshold: ")


def test_a_number_that_yaml_takes_for_a_word_is_told(tmp_path):
    (line,) = mistakes(tmp_path, rule(threshold=None, max_fpr="1e-3"))
    assert line.endswith("rules.0.max_fpr: Input should be a valid number; write it with a point, as 0.001")


@pytest.mark.parametrize("threshold", ["1", "1.0", "0.5", "1.0e-9"])
def test_a_threshold_from_just_above_0_to_1_is_read(tmp_path, threshold):
    assert parse(tmp_path, rule(threshold=threshold)).rules[0].threshold == float(threshold)


@pytest.mark.parametrize("key", ["name", "stages", "head", "action"])
def test_a_rule_needs_all_of_its_keys(tmp_path, key):
    # The name goes last, because it carries the dash of the list.
    text = rule(**{key: None}) if key != "name" else "rules:\n  - " + rule().split("\n", 2)[2].strip()
    (line,) = mistakes(tmp_path, text)
    assert f"rules.0.{key}: Field required" in line


def test_two_rules_with_one_name_are_refused(tmp_path):
    (line,) = mistakes(tmp_path, rule(name="twin") + "\n" + rule(name="twin").removeprefix("rules:\n"))
    assert "two rules are called 'twin'" in line


@pytest.mark.parametrize("content", ["- a\n", "word\n", "5\n"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, content):
    (line,) = mistakes(tmp_path, content)
    assert line.startswith("1: the file: ")


@pytest.mark.parametrize("key", ["extends", "unknown_tenant", "candidate"])
@pytest.mark.parametrize("name", ["../default", "a b", "''", "'acme\\n'", "5"])
def test_a_reference_must_be_a_name(tmp_path, key, name):
    (line,) = mistakes(tmp_path, f"{key}: {name}\n")
    assert line.startswith(f"1: {key}: ")


def test_a_policy_file_cannot_be_changed_after_it_was_read(tmp_path):
    policy = parse(tmp_path, rule())
    with pytest.raises(ValueError, match="frozen"):
        policy.rules[0].threshold = 1.0


def test_nearest_suggests_or_lists():
    assert nearest("injektion", ["injection", "safety"]) == "; did you mean 'injection'?"
    assert nearest("zzz", ["injection", "safety"]) == "; known: injection, safety"
    assert nearest("zzz", [f"tenant{at}" for at in range(1000)]).endswith("tenant19 and 980 more")


@pytest.mark.parametrize("rate", ["0", "1", "1.0", "-0.1", ".nan", ".inf", "'0.1'", "true"])
def test_a_rate_is_a_number_between_0_and_1(tmp_path, rate):
    (line,) = mistakes(tmp_path, rule(threshold=None, max_fpr=rate))
    assert line.startswith("6: rules.0.max_fpr: ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Unions: one mistake, told of the member that was meant.
        ("fail: {input: alow}", ["1: fail.input: Input should be 'allow', 'flag' or 'block'; did you mean 'allow'?"]),
        ("fail: {input: {timout: block}}", ["did you mean 'timeout'?"]),
        ("fail: {input: {timeout: blok}}", ["1: fail.input.timeout: ", "did you mean 'block'?"]),
        ("fail: {input: {timeout: rewrite}}", ["'allow', 'flag' or 'block'"]),
        ("fail: {input: {timeout_ms: 1.5}}", ["fail.input.timeout_ms: "]),
        ("fail: {input: {timeout_ms: -1}}", ["fail.input.timeout_ms: "]),
        ("fail: {input: {max_chars: 0}}", ["fail.input.max_chars: "]),
        ("fail: {inptu: block}", ["1: fail.inptu", "did you mean 'input'?"]),
        ("hold_back: 0", ["1: hold_back: "]),
        ("hold_back: some", ["1: hold_back: "]),
        ("hold_back: {}", ["1: hold_back: "]),
        ("message: 5", ["1: message: "]),
        ("message: No", ["1: message: Input should be a valid string; put it in quotes"]),
            ("message: [a]", ["1: message: "]),
            ("message: {}", ["1: message: "]),
        ("message: {de: 5}", ["1: message.de: "]),
        ("message: {default: x}", ["1: message.default: "]),
        ("message: 'Hi {user}'", ["1: message: {user} can't be filled in; known: {rule}"]),
        ("message: {de: 'Hi {user}'}", ["1: message.de: {user} can't be filled in"]),
        ("mode: enforced", ["1: mode: ", "did you mean 'enforce'?"]),
        ("locale: German", ["1: locale: "]),
        # Sections of several kinds.
        ("rewrite: {a: {kind: redact_pi}}", ["1: rewrite.a: ", "did you mean 'redact_pii'?"]),
        ("rewrite: {a: {}}", ["1: rewrite.a: "]),
        ("rewrite: {a: 5}", ["1: rewrite.a: "]),
        ("rewrite: {a: {kind: redact_pii, entites: [X]}}", ["1: rewrite.a.entites: ", "did you mean 'entities'?"]),
        ("rewrite: {a: {kind: redact_pii, entities: [email]}}", ["1: rewrite.a.entities.0: "]),
        ("rewrite: {a: {kind: replace}}", ["1: rewrite.a.text: Field required"]),
        ("rewrite: {a: {kind: drop_spans, then: escalate}}", ["then: escalate and escalation: NAME belong together"]),
        ("rewrite: {a: {kind: drop_spans, then: allow}}", ["1: rewrite.a.then: "]),
        ("rewrite: {'../a': {kind: drop_spans}}", ["1: rewrite.../a: "]),
        ("escalations: {a: {kind: webhook, url: x}}", ["1: escalations.a.secret: Field required"]),
        ("escalations: {a: {kind: webhook, url: x, secret: s3cret!}}", ["1: escalations.a.secret: "]),
        ("escalations: {a: {kind: interrupt, timeout_ms: 5}}", ["1: escalations.a.timeout_ms: ", "'on_timeout'?"]),
        ("escalations: {a: {kind: queue, on_timeout: flag}}", ["1: escalations.a.on_timeout: "]),
        # What a tenant brings.
        ("detector: {id: own@0123456789abcdef}", ["give a bundle"]),
        ("detector: {bundle: a, heads: b, id: own@0123456789abcdef}", ["give a bundle"]),
        ("detector: {bundle: a}", ["1: detector.id: Field required"]),
        ("detector: {bundle: a, id: own@latest}", ["1: detector.id: "]),
        ("allowed_hosts: [https://x.example.com]", ["1: allowed_hosts.0: "]),
        ("allowed_hosts: ['*']", ["1: allowed_hosts.0: "]),
        ("allowed_hosts: [EXAMPLE.com]", ["1: allowed_hosts.0: "]),
        # Allow lists.
        ("allow: [{name: a, stages: [input]}]", ["1: allow.0: give texts (exact) or patterns (regex)"]),
        ("allow: [{name: a, stages: [input], exact: ['']}]", ["1: allow.0.exact.0: "]),
        ("allow: [{name: a, stages: [input], exact: [x], rules: []}]", ["1: allow.0.rules: "]),
        ("allow: [{name: a, stages: [], exact: [x]}]", ["1: allow.0.stages: "]),
        (
            "allow: [{name: a, stages: [input], exact: [x]}, {name: a, stages: [input], exact: [y]}]",
            ["two allow entries are called 'a'"],
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_told_once_with_its_place_and_what_was_meant(tmp_path, text, expected):
    (line,) = mistakes(tmp_path, f"{text}\n")
    assert all(part in line for part in expected), line


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("{acton: allow}", "rules.0.tools.x.acton: Extra inputs are not permitted; did you mean 'action'?"),
        ("{action: allwo}", "rules.0.tools.x.action: "),
        ("{threshold: 0.5, max_fpr: 0.1}", "rules.0.tools.x: give a threshold or a max_fpr, not both"),
        ("{action: escalate}", "action: escalate and escalation: NAME belong together"),
        ("{action: flag, rewrite: pii}", "action: rewrite and rewrite: NAME belong together"),
        ("5", "rules.0.tools.x: "),
    ],
)
def test_a_mistake_in_what_is_said_of_tools_is_told_with_its_place(tmp_path, override, expected):
    (line,) = mistakes(tmp_path, rule(stages="[tool_output]", tools=f"{{x: {override}}}"))
    assert expected in line


def test_an_override_changes_what_it_gives_and_nothing_else(tmp_path):
    (only,) = parse(
        tmp_path,
        rule(
            stages="[tool_output]",
            message="Mine.",
            labels="[injection]",
            tools="{a: {max_fpr: 0.1}, b: {action: escalate, escalation: x}, c: {action: allow}, d: {message: Its.}}",
        ),
    ).rules
    assert (only.for_tool("a").threshold, only.for_tool("a").max_fpr) == (None, 0.1)
    assert (only.for_tool("a").action, only.for_tool("a").message, only.for_tool("a").tools) == ("block", "Mine.", {})
    assert (only.for_tool("b").threshold, only.for_tool("b").escalation) == (0.5, "x")
    assert only.for_tool("c").action == "allow"
    assert (only.for_tool("d").message, only.for_tool("d").labels) == ("Its.", ("injection",))
    assert len(only.variants()) == 5


def test_a_rule_that_is_out_of_force_needs_no_threshold_but_its_overrides_do(tmp_path):
    allowed = rule(action="allow", threshold=None, stages="[tool_output]", tools="{x: {action: block, threshold: 0.5}}")
    assert parse(tmp_path, allowed).rules[0].threshold is None
    (line,) = mistakes(tmp_path, allowed.replace(", threshold: 0.5", ""))
    assert "needs a threshold or a max_fpr" in line


def test_an_escalation_that_a_tool_does_not_need_is_dropped(tmp_path):
    text = rule(action="escalate", escalation="x", stages="[tool_output]", tools="{a: {action: block}}")
    assert parse(tmp_path, text).rules[0].for_tool("a").escalation is None


@pytest.mark.parametrize("word", ['"a\\nb"', '"\\e[31mred"', '"\\u202egnirts"', '"' + "x" * 900 + '"'])
def test_words_of_a_file_can_move_no_cursor_and_begin_no_line(tmp_path, word):
    for text in (f"{word}: 1", f"mode: {word}", f"rewrite: {{a: {{kind: {word}}}}}", rule(action=word)):
        (line,) = mistakes(tmp_path, f"{text}\n")
        assert line.isprintable()
        assert len(line) < 1000


def test_a_lone_surrogate_is_no_text(tmp_path):
    (line,) = mistakes(tmp_path, 'message: "a\\ud800"\n')
    assert line.startswith("1: message: ")
    for line in mistakes(tmp_path, '"\\ud800": 1\n'):
        line.encode()


def test_of_a_great_many_mistakes_the_first_are_told(tmp_path):
    with pytest.raises(PolicyError) as caught:
        parse(tmp_path, "rules:\n" + "  - 5\n" * 5000)
    lines = str(caught.value).split("\n")
    assert len(lines) == 101
    assert lines[-1] == f"{tmp_path / 'policy.yaml'}: and 4900 more"
