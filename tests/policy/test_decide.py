"""Scores -> decision."""

from __future__ import annotations

import copy
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lec_guard import PolicyError, Step
from lec_guard.policy.compile import Compiled, compile_policy
from lec_guard.policy.decide import FLOOR_PREFIX, UNREAD_RULE, Decision, compose, decide
from lec_guard.policy.messages import Messages
from lec_guard.step import ACTIONS, STAGES, Cause, Scores, Stage, ToolRef
from tests.policy.made import compiled, heads, resolved, rule, rules, scores

SECTIONS = """
message: The policy's.
rewrite: {cut: {kind: drop_spans}, mark: {kind: quarantine}}
escalations: {desk: {kind: queue}, person: {kind: interrupt}}
"""

_REST = {"rewrite": ", rewrite: cut", "escalate": ", escalation: desk"}


def line(name: str, action: str = "block", head: str = "safety", **changes: object) -> str:
    section = {"rewrite": {"rewrite": "cut"}, "escalate": {"escalation": "desk"}}.get(action, {})
    return rule(name, **{"head": head, "action": action, **section, **changes})


def policy(*lines: str, more: str = "") -> Compiled:
    # A policy needs a rule; this one reads at no stage that tests use.
    given = lines or (line("none", stages="[tool_definition]"),)
    return compiled(SECTIONS + more + rules(*given))


def on(compiled: Compiled, read: Scores | Cause, stage: Stage = "input", tool: str | None = None) -> Decision:
    return decide(compiled, Step(stage=stage, text="x", tool=ToolRef(name=tool) if tool else None), read)


LOUD = scores(safety={"unsafe": 0.9, "rude": 0.7}, injection=0.8)


def test_no_rule_that_matches_allows():
    assert on(policy(line("a", threshold=0.95)), LOUD) == Decision(action="allow")


def test_a_rule_reads_only_at_its_stages():
    both = policy(line("a", stages="[output, tool_output]"))
    assert {stage for stage in STAGES if on(both, LOUD, stage).action == "block"} == {"output", "tool_output"}


def test_the_severest_rule_wins_wherever_it_stands():
    lines = {action: line(action, action) for action in ACTIONS if action != "allow"}
    for order in (list(lines), list(lines)[::-1], ["block", "flag", "escalate", "rewrite"]):
        decision = on(policy(*(lines[action] for action in order)), LOUD)
        assert (decision.action, decision.rule, decision.matched) == ("block", "block", tuple(order))
    milder = on(policy(lines["flag"], lines["escalate"], lines["rewrite"]), LOUD)
    assert (milder.action, milder.rule) == ("escalate", "escalate")


def test_of_equally_severe_rules_the_first_is_named():
    decision = on(policy(line("x", "flag"), line("first"), line("second")), LOUD)
    assert (decision.rule, decision.matched) == ("first", ("x", "first", "second"))


def test_all_rules_that_matched_are_listed_with_their_heads_and_no_other():
    decision = on(
        policy(
            line("a", "flag"),
            line("quiet", head="topic"),
            line("b", "flag", head="injection"),
            line("elsewhere", head="topic", threshold=0.1, stages="[output]"),
            line("out", "allow", head="topic", threshold=0.1),
        ),
        scores(**LOUD.by_head, topic=0.4),
    )
    assert (decision.matched, decision.heads) == (("a", "b"), {"safety", "injection"})


def test_every_rewrite_and_escalation_of_the_rules_that_matched_counts_once():
    decision = on(
        policy(
            line("a", "rewrite"),
            line("b", "escalate", escalation="person"),
            line("c", "rewrite", rewrite="mark"),
            line("d", "rewrite"),
            line("quiet", "escalate", threshold=0.99),
        ),
        LOUD,
    )
    assert (decision.action, decision.rewrites, decision.escalations) == ("escalate", ("cut", "mark"), ("person",))


def test_a_rule_without_labels_reads_all_of_its_head():
    assert on(policy(line("any")), scores(safety={"unsafe": 0.1, "rude": 0.7})).action == "block"
    assert on(policy(line("any")), scores(safety={"unsafe": 0.1, "rude": 0.4})).action == "allow"


def test_a_rule_with_labels_reads_only_those():
    only_rude = scores(safety={"unsafe": 0.1, "rude": 0.7})
    assert on(policy(line("a", labels="[unsafe]")), only_rude).action == "allow"
    assert on(policy(line("a", labels="[unsafe, rude]")), only_rude).action == "block"


@pytest.mark.parametrize(("score", "action"), [(0.7, "block"), (0.69999, "allow"), (0.70001, "block")])
def test_a_rule_matches_from_exactly_its_threshold_on(score, action):
    assert on(policy(line("a", threshold=0.7)), scores(safety=score)).action == action


def test_a_threshold_of_1_can_be_reached():
    assert on(policy(line("a", threshold=1)), scores(safety=1.0)).action == "block"


def test_scores_may_be_of_numpy():
    read = Scores(by_head={"safety": {"unsafe": np.float32(0.75), "rude": np.float32(0)}}, detector_id="d", backend="b")
    assert on(policy(line("a", threshold=0.75)), read).action == "block"
    assert on(policy(line("a", threshold=0.76)), read).action == "allow"


def test_a_tool_has_the_rule_that_is_written_for_it():
    special = policy(
        line(
            "a",
            stages="[tool_output]",
            tools="{bank: {action: allow}, 'web_*': {threshold: 0.2, action: flag, message: x}}",
        )
    )
    quiet = scores(safety=0.3)
    assert [on(special, LOUD, "tool_output", tool).action for tool in (None, "bank", "web_x", "other")] == [
        "block",
        "allow",
        "flag",
        "block",
    ]
    assert [on(special, quiet, "tool_output", tool).action for tool in (None, "web_x")] == ["allow", "flag"]
    assert on(special, LOUD, "tool_output", "bank") == Decision(action="allow")


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("fail", ["allow", "flag", "block"])
def test_what_was_not_read_is_blocked_whatever_the_policy_says(stage, fail):
    stages = f"[{', '.join(STAGES)}]"
    more = "fail: {" + ", ".join(f"{one}: {fail}" for one in STAGES) + "}\n"
    for lines in (
        (),
        (line("a", "allow", stages=stages),),
        (line("b", stages=stages),),
        (line("c", "flag", stages=stages),),
    ):
        for by_head in ({}, {"safety": 0.0}, {"safety": 1.0}):
            decision = on(policy(*lines, more=more), scores(unread="no token", **by_head), stage)
            assert (decision.action, decision.rule, decision.matched) == ("block", UNREAD_RULE, (UNREAD_RULE,))
            assert decision.cause is None
            assert decision.message == Messages.of("The policy's.")
    assert UNREAD_RULE == "fail:unread"


@pytest.mark.parametrize("cause", get_args(Cause))
@pytest.mark.parametrize("action", ["allow", "flag", "block"])
def test_what_was_not_judged_gets_what_the_stage_says_of_the_cause(cause, action):
    given = policy(line("a"), more=f"fail: {{input: {{{cause}: {action}}}}}\n")
    decision = on(given, cause)
    assert (decision.action, decision.rule, decision.matched) == (action, f"fail:{cause}", (f"fail:{cause}",))
    assert (decision.cause, decision.heads) == (cause, frozenset())
    assert (decision.message is not None) == (action == "block")
    for other in set(get_args(Cause)) - {cause}:
        assert on(given, other).action == "block"
    assert on(given, cause, "output").action == "block"


def test_a_text_over_the_detectors_budget_is_one_over_the_budget():
    over = scores(unread="too long", over_budget=True)
    assert on(policy(more="fail: {input: {budget: flag}}\n"), over) == on(
        policy(more="fail: {input: {budget: flag}}\n"), "budget"
    )
    assert on(policy(), over).rule == "fail:budget"


@pytest.mark.parametrize(
    "by_head",
    [{}, {"injection": 0.9}, {"safety": {"other": 0.9}}, {"safety": {}}],
    ids=["nothing", "another head", "another label", "a head without labels"],
)
@pytest.mark.parametrize("labels", [None, "[unsafe]", "[unsafe, rude]"])
def test_scores_that_lack_what_a_rule_reads_are_an_error(by_head, labels):
    if by_head == {"safety": {"other": 0.9}} and labels is None:
        return  # A rule without labels reads those that there are.
    with pytest.raises(PolicyError, match=r"^rule 'a' reads head 'safety', which detector made@0 did not score$"):
        on(policy(line("a", labels=labels)), scores(**by_head))


def test_who_may_pass_is_told_nothing():
    decision = on(policy(line("a", "flag", message="The rule's.")), LOUD)
    assert (decision.action, decision.message) == ("flag", None)


@pytest.mark.parametrize("action", ["rewrite", "escalate", "block"])
def test_the_message_of_the_rule_that_won_goes_before_that_of_the_policy(action):
    assert on(policy(line("a", action)), LOUD).message == Messages.of("The policy's.")
    assert on(policy(line("a", action, message="The rule's.")), LOUD).message == Messages.of("The rule's.")
    two = policy(line("mild", "flag", message="Wrong."), line("won"), line("late", message="Wrong."))
    assert on(two, LOUD).message == Messages.of("The policy's.")


_SCORE = st.integers(1, 10_000).map(lambda at: at / 10_000)
_LINES = st.lists(
    st.tuples(
        st.sampled_from(ACTIONS),
        _SCORE,
        st.sampled_from(["safety", "injection"]),
        st.sets(st.sampled_from(STAGES), min_size=1),
    ),
    min_size=1,  # a policy without rules is written with one that matches nowhere else
    max_size=6,
)


def written(lines: list[tuple[str, float, str, set[str]]]) -> Compiled:
    return policy(
        *(
            line(f"r{at}", action, head, threshold=repr(threshold), stages=f"[{', '.join(sorted(stages))}]")
            for at, (action, threshold, head, stages) in enumerate(lines)
        )
    )


@settings(deadline=None)
@given(_LINES, st.sampled_from(STAGES), _SCORE, _SCORE)
def test_deciding_is_pure_and_agrees_with_the_words_of_the_design(lines, stage, safety, injection):
    read, given_policy = scores(safety=safety, injection=injection), written(lines)
    before = copy.deepcopy((given_policy.policy, read))
    decision = on(given_policy, read, stage)
    assert on(given_policy, read, stage) == decision
    assert (given_policy.policy, read) == before

    value = {"safety": safety, "injection": injection}
    matched = [
        (f"r{at}", action)
        for at, (action, threshold, head, stages) in enumerate(lines)
        if stage in stages and action != "allow" and value[head] >= threshold
    ]
    assert decision.matched == tuple(name for name, _ in matched)
    actions = [action for _, action in matched]
    expected = max(actions, key=ACTIONS.index, default="allow")
    assert decision.action == expected
    assert decision.rule == next((name for name, action in matched if action == expected), None)
    assert (decision.message is not None) == (expected not in ("allow", "flag"))
    assert (decision.rewrites, decision.escalations) == (
        ("cut",) * ("rewrite" in actions),
        ("desk",) * ("escalate" in actions),
    )


@settings(deadline=None)
@given(_LINES, st.sampled_from(STAGES), _SCORE, _SCORE)
def test_a_higher_score_never_leads_to_a_milder_action(lines, stage, one, other):
    low, high = sorted([one, other])
    mild = on(written(lines), scores(safety=low, injection=0.5), stage)
    severe = on(written(lines), scores(safety=high, injection=0.5), stage)
    assert ACTIONS.index(severe.action) >= ACTIONS.index(mild.action)


_DECISIONS = st.builds(
    lambda action, rewrites, escalations, message: Decision(
        action=action,
        rule=action,
        matched=(action,),
        heads=frozenset({action}),
        rewrites=rewrites,
        escalations=escalations,
        cause=None,
        message=Messages.of(message) if ACTIONS.index(action) >= 2 else None,
    ),
    st.sampled_from(ACTIONS),
    st.sampled_from([(), ("cut",), ("cut", "mark")]),
    st.sampled_from([(), ("desk",)]),
    st.sampled_from(["one", "two"]),
)
_MAYBE = st.none() | _DECISIONS


@given(_MAYBE, _MAYBE)
def test_what_two_policies_decide_together_is_no_less_than_either(live, floor):
    both = compose(live, floor)
    for own, prefix in ((live, ""), (floor, FLOOR_PREFIX)):
        if own is None:
            continue
        assert ACTIONS.index(both.action) >= ACTIONS.index(own.action)
        assert {prefix + name for name in own.rewrites} <= set(both.rewrites)
        assert {prefix + name for name in own.escalations} <= set(both.escalations)
        assert {prefix + name for name in own.matched} <= set(both.matched)
        assert own.heads <= both.heads
    given_actions = [own.action for own in (live, floor) if own is not None]
    assert both.action == max(given_actions, key=ACTIONS.index, default="allow")
    assert (both.message is None) == (both.action in ("allow", "flag"))


def test_together_the_tenants_rule_is_named_unless_the_floors_is_severer():
    flag, block = Decision(action="flag", rule="r"), Decision(action="block", rule="r", message=Messages.of("x"))
    assert compose(block, block).rule == "r"
    assert compose(flag, block).rule == "floor:r"
    assert compose(block, flag).rule == "r"
    assert compose(None, block).rule == "floor:r"
    assert compose(Decision(action="allow", rule="allow:known"), Decision(action="allow")).rule == "allow:known"
    assert compose(None, None) == compose(None, Decision(action="allow")) == Decision(action="allow")


def test_neither_an_allow_entry_nor_a_fail_mode_of_the_tenant_reaches_the_floor():
    tenant = policy(line("a"), more="allow: [{name: known, stages: [input], exact: [x]}]\nfail: {input: allow}\n")
    floor = policy(line("a"))
    for read in (LOUD, scores(unread="no token"), *get_args(Cause)):
        assert on(tenant, read).action == "allow"
        assert compose(on(tenant, read), on(floor, read)).action == "block"


def test_what_a_floor_does_not_say_leaves_the_tenants_decision_as_it_is():
    live = on(policy(line("a", "escalate")), LOUD)
    assert compose(live, on(policy(line("a", threshold=0.99)), LOUD)) == live
    assert compose(live, None) == live


def test_a_policy_of_other_heads_decides_by_them():
    own = compile_policy(resolved(rules(rule(head="own"))), heads(labels={"own": ("bad",)}))
    read = Scores(by_head={"own": {"bad": 0.9}}, detector_id="own@1", backend="b")
    assert on(own, read).rule == "r"
