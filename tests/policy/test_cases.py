"""Test cases that lie beside policies."""

from __future__ import annotations

import pytest

from lec_guard import Guard, PolicyError, ToolRef
from lec_guard.policy.cases import read_suites, result
from tests.conftest import write_policies

CASE = "  - {name: a case, text: attack, stage: input, expect: block}\n"
CASES = "cases:\n" + CASE
RULES = "rules:\n  - {name: one, stages: [input], head: injection, threshold: 0.5, action: block}\n"


@pytest.fixture
def folder(policies):
    return write_policies(
        policies,
        {
            "strict.yaml": RULES,
            "tenants/big/policy.yaml": "extends: default\n",
            "cases/acme.yaml": CASES,
            "cases/default.yml": CASES + CASE,
            "cases/strict.yaml": CASES,
            "tenants/big/cases.yaml": CASES,
        },
    )


def refused(path):
    with pytest.raises(PolicyError) as caught:
        read_suites(path)
    return str(caught.value)


def test_cases_are_of_the_policy_that_their_file_names(folder):
    suites = read_suites(folder)
    assert [(suite.policy, len(suite.cases)) for suite in suites] == [
        ("default", 2), ("strict", 1), ("acme", 1), ("big", 1),
    ]  # fmt: skip
    assert suites[0].places == (f"{folder}/cases/default.yml:2:5", f"{folder}/cases/default.yml:3:5")
    assert suites[3].file == folder / "tenants" / "big" / "cases.yaml"


def test_of_a_single_policy_only_its_own_cases_are_read(folder):
    assert [suite.policy for suite in read_suites(folder / "strict.yaml")] == ["strict"]
    (folder / "cases" / "strict.yaml").unlink()
    assert read_suites(folder / "strict.yaml") == []


def test_every_mistake_is_told_with_file_line_and_column(folder):
    write_policies(
        folder,
        {
            "cases/acme.yaml": "cases:\n  - {name: a, text: b, stage: inptu, expect: blok, wen: now}\n",
            "cases/strict.yaml": "cases: []\n",
            "cases/acne.yaml": CASES,
            "cases/acme.yaml.bak": "",
            "cases/default.yml": "cases:\n  - {name: a, text: b, stage: input}\n",
            "cases/globex.yaml": "",
        },
    )
    (folder / "cases" / "more").mkdir()
    cases = folder / "cases"
    lines = refused(folder).splitlines()
    for wanted in (
        f"{cases}/acme.yaml:2:24: cases.0.stage: Input should be 'input'",
        f"{cases}/acme.yaml:2:38: cases.0.expect: Input should be 'allow'",
        f"{cases}/acme.yaml:2:52: cases.0.wen: Extra inputs are not permitted",
        f"{cases}/acme.yaml.bak: not a file of cases",
        f"{cases}/acne.yaml: cases for a policy that does not exist; did you mean 'acme'?",
        f"{cases}/default.yml:2:5: cases.0.expect: Field required",
        f"{cases}/globex.yaml:1:1: cases: Field required",
        f"{cases}/more: not a file of cases",
        f"{cases}/strict.yaml:1:1: cases: Tuple should have at least 1 item",
    ):
        assert any(line.startswith(wanted) for line in lines), wanted
    assert len(lines) == 9
    assert "did you mean 'block'?" in refused(folder)
    assert "did you mean 'input'?" in refused(folder)


def test_hidden_files_are_nobodys(folder):
    write_policies(folder, {"cases/.acme.yaml.swp": "\x00"})
    assert len(read_suites(folder)) == 4


@pytest.mark.parametrize(
    ("said", "tool"),
    [
        ("", None),
        (", tool: search", ToolRef(name="search")),
        (", tool: {name: search, description: Finds.}", ToolRef(name="search", description="Finds.")),
    ],
)
def test_a_case_is_a_step(policies, said, tool):
    write_policies(
        policies,
        {"cases/acme.yaml": f"cases: [{{name: a, text: b, stage: tool_output, context: c, expect: allow{said}}}]\n"},
    )
    step = read_suites(policies)[0].cases[0].step()
    assert (step.text, step.stage, step.context, step.tool) == ("b", "tool_output", "c", tool)


@pytest.mark.parametrize(
    ("said", "passed", "got"),
    [
        ("expect: block", True, ("block", "floor:one")),
        ("expect: block, rule: floor:one", True, ("block", "floor:one")),
        ("expect: block, rule: one", False, ("block", "floor:one")),
        ("expect: allow", False, ("block", "floor:one")),
        ("expect: flag, rule: injection, judge: live", True, ("flag", "injection")),
        ("expect: block, rule: one, judge: floor", True, ("block", "one")),
        ("expect: block, rule: one, judge: live", False, ("flag", "injection")),
    ],
)
def test_a_case_is_about_the_verdict_or_about_one_policy(policies, keywords, said, passed, got):
    write_policies(
        policies,
        {
            "floor.yaml": RULES,
            "tenants/globex.yaml": "mode: shadow\n" + RULES.replace("one", "injection").replace("block", "flag"),
            "cases/globex.yaml": f"cases: [{{name: a, text: attack, stage: input, {said}}}]\n",
        },
    )
    guard = Guard.from_policies(policies, detector=keywords)
    (suite,) = read_suites(policies)
    (verdict,) = guard.try_out([suite.cases[0].step()], [guard.policies.named("globex")])
    found = result(suite, 0, verdict)
    assert (found.action, found.rule) == got
    assert found.passed is passed


def test_a_case_about_a_policy_that_is_not_there_is_a_mistake(policies, keywords):
    write_policies(policies, {"cases/acme.yaml": CASES.replace("block", "block, judge: candidate")})
    guard = Guard.from_policies(policies, detector=keywords)
    (suite,) = read_suites(policies)
    (verdict,) = guard.try_out([suite.cases[0].step()], [guard.policies.named("acme")])
    with pytest.raises(PolicyError, match=r"acme.yaml:2:5: judge: the policy 'acme' has no candidate"):
        result(suite, 0, verdict)
