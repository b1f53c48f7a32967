"""What a policy file may say, and how mistakes are told."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from lec_guard import PolicyError
from lec_guard.policy.document import read_document
from lec_guard.policy.schema import PolicyFile, nearest, parse_policy


def parse(folder: Path, text: str) -> PolicyFile:
    file = folder / "policy.yaml"
    file.write_text(textwrap.dedent(text), encoding="utf-8")
    return parse_policy(read_document(file))


def mistakes(folder: Path, text: str) -> list[str]:
    """The lines of the error, each without the path of the file that it names."""
    with pytest.raises(PolicyError) as caught:
        parse(folder, text)
    lines = str(caught.value).split("\n")
    start = f"{folder / 'policy.yaml'}:"
    assert all(line.startswith(start) for line in lines)
    return [line.removeprefix(start) for line in lines]


def rule(**changes: object) -> str:
    keys = {"name": "r", "stages": "[input]", "head": "injection", "threshold": 0.5, "action": "block", **changes}
    return "rules:\n" + textwrap.indent(
        "\n".join(f"{key}: {value}" for key, value in keys.items() if value is not None), "    "
    ).replace("    name", "  - name", 1)


def test_everything_that_may_be_said(tmp_path):
    policy = parse(
        tmp_path,
        """
        description: A bank.
        extends: builtin
        message: No.
        unknown_tenant: default
        rules:
          - name: injection
            stages: [input, tool_output]
            head: safety
            labels: [unsafe, cyber]
            threshold: 1
            action: flag
            message: Not here.
        """,
    )
    assert (policy.description, policy.extends, policy.message, policy.unknown_tenant) == (
        "A bank.",
        "builtin",
        "No.",
        "default",
    )
    (only,) = policy.rules
    assert only.stages == ("input", "tool_output")
    assert only.labels == ("unsafe", "cyber")
    assert (only.threshold, only.action, only.message) == (1.0, "flag", "Not here.")


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
    assert len(lines) == 2
    (typo,) = [line for line in lines if "treshold" in line]
    assert typo.startswith("6: rules.0.treshold: ")
    assert "did you mean 'threshold'?" in typo
    (missing,) = [line for line in lines if "treshold" not in line]
    assert missing.startswith("3: rules.0.threshold: Field required")


def test_a_typo_at_the_top_suggests_a_word_of_the_top(tmp_path):
    (line,) = mistakes(tmp_path, "message: No.\nextend: builtin\n")
    assert line.startswith("2: extend: ")
    assert "did you mean 'extends'?" in line


def test_a_key_that_resembles_nothing_gets_the_list_of_what_is_known(tmp_path):
    (line,) = mistakes(tmp_path, "xyzzy: 1\n")
    assert "known: description, extends, message, unknown_tenant, rules" in line


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
        ("action", "allowed", "'allow', 'flag' or 'block'"),
        ("action", "escalate", "'allow', 'flag' or 'block'"),
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
    assert f": rules.0.{key}" in line
    assert part in line


@pytest.mark.parametrize(
    "threshold",
    ["0", "0.0", "-0.1", "1.5", "1.0000001", ".nan", ".inf", "-.inf", "high", "'0.5'", "yes", "true", "[0.5]"],
)
def test_a_threshold_outside_0_to_1_or_that_is_no_number_is_refused(tmp_path, threshold):
    (line,) = mistakes(tmp_path, rule(threshold=threshold))
    assert line.startswith("5: rules.0.threshold: ")


@pytest.mark.parametrize("threshold", ["1", "1.0", "0.5", "1.0e-9"])
def test_a_threshold_from_just_above_0_to_1_is_read(tmp_path, threshold):
    assert parse(tmp_path, rule(threshold=threshold)).rules[0].threshold == float(threshold)


@pytest.mark.parametrize("key", ["name", "stages", "head", "threshold", "action"])
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


@pytest.mark.parametrize("key", ["extends", "unknown_tenant"])
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
