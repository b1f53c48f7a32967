"""Scores -> decision."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lec_guard import PolicyError, Scores
from lec_guard.policy.decide import UNREAD_RULE, Decision, decide
from lec_guard.policy.schema import Rule
from lec_guard.policy.store import Policy
from lec_guard.step import ACTIONS, STAGES


def rule(name: str, action: str = "block", **changes: object) -> Rule:
    content = {"name": name, "stages": ("input",), "head": "safety", "threshold": 0.5, "action": action, **changes}
    return Rule.model_validate(content)


def policy(*rules: Rule) -> Policy:
    return Policy(name="p", version="v", rules=rules, message="The policy's.", file=Path("p.yaml"))


def scores(unread: str | None = None, **by_head: dict[str, float]) -> Scores:
    return Scores(by_head=by_head, unread=unread, detector_id="d", backend="b")


LOUD = scores(safety={"unsafe": 0.9, "rude": 0.7}, injection={"injection": 0.8})


def test_no_rule_that_matches_allows():
    decision = decide(policy(rule("a", threshold=0.95)), "input", LOUD)
    assert decision == Decision(action="allow", rule=None, matched=(), heads=frozenset(), message=None)


def test_a_rule_reads_only_at_its_stages():
    both = policy(rule("a", stages=("output", "tool_output")))
    assert {stage for stage in STAGES if decide(both, stage, LOUD).action == "block"} == {"output", "tool_output"}


def test_the_severest_rule_wins_wherever_it_stands():
    rules = [rule("mild", "allow"), rule("severe", "block"), rule("middle", "flag")]
    for order in ([0, 1, 2], [1, 0, 2], [2, 0, 1], [0, 2, 1]):
        decision = decide(policy(*(rules[at] for at in order)), "input", LOUD)
        assert (decision.action, decision.rule) == ("block", "severe")
        assert decision.matched == tuple(rules[at].name for at in order)


def test_of_equally_severe_rules_the_first_is_named():
    decision = decide(policy(rule("x", "flag"), rule("first"), rule("second")), "input", LOUD)
    assert decision.rule == "first"
    assert decision.matched == ("x", "first", "second")


def test_all_rules_that_matched_are_listed_with_their_heads_and_no_other():
    decision = decide(
        policy(
            rule("a", "flag"),
            rule("quiet", head="quiet"),
            rule("b", "flag", head="injection"),
            rule("elsewhere", head="elsewhere", stages=("output",)),
        ),
        "input",
        scores(**LOUD.by_head, quiet={"x": 0.4}, elsewhere={"x": 0.9}),
    )
    assert decision.matched == ("a", "b")
    assert decision.heads == {"safety", "injection"}


def test_a_rule_without_labels_reads_all_of_its_head():
    only_rude = scores(safety={"unsafe": 0.1, "rude": 0.7})
    assert decide(policy(rule("any")), "input", only_rude).action == "block"
    assert decide(policy(rule("any")), "input", scores(safety={"unsafe": 0.1, "rude": 0.4})).action == "allow"


def test_a_rule_with_labels_reads_only_those():
    only_rude = scores(safety={"unsafe": 0.1, "rude": 0.7})
    assert decide(policy(rule("a", labels=("unsafe",))), "input", only_rude).action == "allow"
    assert decide(policy(rule("a", labels=("unsafe", "rude"))), "input", only_rude).action == "block"


@pytest.mark.parametrize(("score", "action"), [(0.7, "block"), (0.69999, "allow"), (0.70001, "block")])
def test_a_rule_matches_from_exactly_its_threshold_on(score, action):
    assert decide(policy(rule("a", threshold=0.7)), "input", scores(safety={"unsafe": score})).action == action


def test_a_threshold_of_1_can_be_reached():
    assert decide(policy(rule("a", threshold=1)), "input", scores(safety={"unsafe": 1.0})).action == "block"


@pytest.mark.parametrize("rules", [(), (rule("a", "allow"),), (rule("b"),), (rule("missing", head="nothing"),)])
@pytest.mark.parametrize("stage", STAGES)
def test_what_was_not_read_is_blocked_whatever_the_rules_say(rules, stage):
    for heads in ({}, {"safety": {"unsafe": 0.0}}):
        decision = decide(policy(*rules), stage, scores(unread="too long", **heads))
        assert (decision.action, decision.rule, decision.matched) == ("block", "fail:unread", ("fail:unread",))
        assert decision.message == "The policy's."
    assert UNREAD_RULE == "fail:unread"


@pytest.mark.parametrize(
    "given_rule",
    [
        rule("a", head="missing"),
        rule("a", labels=("missing",)),
        rule("a", labels=("unsafe", "missing")),
        rule("a", head="empty"),
    ],
    ids=["head", "label", "one of two labels", "head without labels"],
)
def test_a_rule_that_reads_what_was_not_scored_is_an_error(given_rule):
    with pytest.raises(PolicyError, match=r"rule 'a' reads head '\w+', which detector d did not score"):
        decide(policy(given_rule), "input", scores(safety={"unsafe": 0.9}, empty={}))


@pytest.mark.parametrize("action", ["allow", "flag"])
def test_who_may_pass_is_told_nothing(action):
    decision = decide(policy(rule("a", action, message="The rule's.")), "input", LOUD)
    assert (decision.action, decision.message) == (action, None)


def test_the_message_of_the_rule_that_won_goes_before_that_of_the_policy():
    assert decide(policy(rule("a")), "input", LOUD).message == "The policy's."
    assert decide(policy(rule("a", message="The rule's.")), "input", LOUD).message == "The rule's."
    two = policy(rule("mild", "flag", message="Wrong."), rule("won"), rule("late", message="Wrong."))
    assert decide(two, "input", LOUD).message == "The policy's."


_SCORE = st.floats(0, 1, exclude_min=True)
_RULES = st.lists(
    st.builds(
        rule,
        name=st.sampled_from("abc"),
        action=st.sampled_from(ACTIONS),
        threshold=_SCORE,
        head=st.sampled_from(["safety", "injection"]),
        stages=st.sets(st.sampled_from(STAGES), min_size=1).map(tuple),
    ),
    max_size=6,
)


@given(_RULES, st.sampled_from(STAGES), _SCORE, _SCORE)
def test_deciding_is_pure_and_agrees_with_the_words_of_the_design(rules, stage, safety, injection):
    given_scores = scores(safety={"unsafe": safety}, injection={"injection": injection})
    given_policy = policy(*rules)
    before = copy.deepcopy((given_policy, given_scores))
    decision = decide(given_policy, stage, given_scores)
    assert decide(given_policy, stage, given_scores) == decision
    assert (given_policy, given_scores) == before

    value = {"safety": safety, "injection": injection}
    matched = [r for r in rules if stage in r.stages and value[r.head] >= r.threshold]
    assert decision.matched == tuple(r.name for r in matched)
    actions = {r.action for r in matched}
    expected = "block" if "block" in actions else "flag" if "flag" in actions else "allow"
    assert decision.action == expected
    assert decision.rule == next((r.name for r in matched if r.action == expected), None)
    assert (decision.message is not None) == (expected == "block")


@given(_RULES, st.sampled_from(STAGES), _SCORE, _SCORE)
def test_a_higher_score_never_leads_to_a_milder_action(rules, stage, one, other):
    low, high = sorted([one, other])
    mild = decide(policy(*rules), stage, scores(safety={"unsafe": low}, injection={"injection": 0.5}))
    severe = decide(policy(*rules), stage, scores(safety={"unsafe": high}, injection={"injection": 0.5}))
    assert ACTIONS.index(severe.action) >= ACTIONS.index(mild.action)
