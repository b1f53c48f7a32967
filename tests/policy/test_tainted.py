"""Rules on where a text came from."""

from __future__ import annotations

import pytest

from lec_guard import Guard, Outcome, PolicyError, Step, ToolRef
from lec_guard.policy.decide import decide
from lec_guard.policy.tainted import LABELS
from lec_guard.policy.tainted import scores as tainted
from lec_guard.step import Action, Scores, Taint
from lec_guard.testing import KeywordDetector
from tests.conftest import write_policies
from tests.policy.made import bell, compiled, heads, kept, parsed, resolved, rule, rules, scores

TO = Taint(start=4, end=20, kind="email", source="web_search", ids=("m1",))
STEP = Step(stage="tool_input", text="to: evil@example.com", tool=ToolRef(name="send_email"), taint=(TO,))
TAINT = {"stages": "[tool_input]", "head": "taint"}


CLEAN = scores(injection=0.0, safety=0.0)


def after(policy: str, step: Step = STEP, read: Scores | str = CLEAN) -> tuple[Action, tuple[str, ...]]:
    decision = decide(compiled(policy), step, read)  # type: ignore[arg-type]
    return decision.action, decision.matched


# --- scores


def test_a_name_scores_one_and_words_the_share_of_the_text():
    text = "x" * 100
    words = (Taint(start=0, end=30, kind="words"), Taint(start=20, end=40, kind="words"))
    step = Step(stage="output", text=text, taint=(*words, Taint(start=50, end=60, kind="host")))
    found = tainted(step)
    assert tuple(found) == LABELS
    assert (found["words"], found["host"], found["email"], found["third_party"]) == (0.4, 1.0, 0.0, 1.0)
    assert set(tainted(Step(stage="output", text=text)).values()) == {0.0}
    assert tainted(Step(stage="output", text="", taint=()))["third_party"] == 0.0


# --- rules


def test_a_rule_reads_what_came_from_third_parties():
    policy = rules(rule("exfil", **TAINT))
    assert after(policy) == ("block", ("exfil",))
    for taint in ((), None):
        assert after(policy, Step(stage="tool_input", text=STEP.text, tool=STEP.tool, taint=taint)) == ("allow", ())
    assert after(rules(rule("exfil", labels="[host, words]", **TAINT))) == ("allow", ())
    assert after(rules(rule("exfil", labels="[email]", **TAINT))) == ("block", ("exfil",))
    for_mail = rule("exfil", **{**TAINT, "action": "allow", "tools": "{send_*: {action: block}}"})
    assert after(rules(for_mail)) == ("block", ("exfil",))
    assert (
        after(rules(for_mail), Step(stage="tool_input", text="", tool=ToolRef(name="look"), taint=(TO,)))[0] == "allow"
    )


@pytest.mark.parametrize(
    ("sources", "action"),
    [("[web_*]", "block"), ("[contacts, retrieval]", "allow"), ("[contacts, 'web?search']", "block")],
)
def test_a_rule_may_say_whose_text_counts(sources: str, action: Action):
    policy = rules(rule("exfil", **TAINT, when=f"{{tainted: true, sources: {sources}}}"))
    assert after(policy)[0] == action
    nobody = Taint(start=4, end=20, kind="email")
    unknown = Step(stage="tool_input", text=STEP.text, tool=STEP.tool, taint=(nobody,))
    assert after(policy, unknown)[0] == "block"


def test_a_rule_on_another_head_may_be_stricter_where_a_text_is_tainted():
    policy = rules(
        rule("strict", stages="[tool_input]", threshold=0.2, when="{tainted: true}"),
        rule("usual", stages="[tool_input]", threshold=0.9, action="flag"),
    )
    read = scores(injection=0.5)
    clean = Step(stage="tool_input", text="a", tool=STEP.tool, taint=())
    assert after(policy, STEP, read) == ("block", ("strict",))
    assert after(policy, clean, read) == ("allow", ())
    assert after(policy, STEP, scores(injection=0.1)) == ("allow", ())
    for_tool = rule(stages="[tool_input]", threshold=0.2, tools="{send_*: {when: {tainted: true}}}")
    assert after(rules(for_tool), clean, read)[0] == "allow"
    assert after(rules(for_tool), STEP, read)[0] == "block"
    assert after(rules(for_tool), Step(stage="tool_input", text="a"), read)[0] == "block"


@pytest.mark.parametrize("cause", ["timeout", "error", "budget"])
def test_where_a_text_came_from_counts_though_nobody_judged_it(cause: str):
    policy = "fail: {tool_input: flag}\n" + rules(rule("exfil", **TAINT), rule("usual", stages="[tool_input]"))
    assert after(policy, STEP, cause) == ("block", ("exfil", f"fail:{cause}"))
    decision = decide(compiled(policy), STEP, cause)  # type: ignore[arg-type]
    assert (decision.rule, decision.cause) == ("exfil", cause)
    clean = Step(stage="tool_input", text="a", tool=STEP.tool, taint=())
    assert after(policy, clean, cause) == ("flag", (f"fail:{cause}",))
    milder = "fail: {tool_input: block}\n" + rules(rule("exfil", **{**TAINT, "action": "flag"}))
    assert after(milder, STEP, cause) == ("block", ("exfil", f"fail:{cause}"))


# --- what is wrong


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (rule(head="taint", stages="[input]"), "known at tool_input and output only"),
        (rule(stages="[tool_output]", when="{tainted: true}"), "known at tool_input and output only"),
        (rule(stages="[tool_output]", tools="{a: {when: {tainted: true}}}"), "known at"),
        (rule(stages="[output]", when="{tainted: false}"), "tainted"),
        (rule(stages="[output]", when="{taint: true}"), "did you mean 'tainted'"),
        (rule(stages="[output]", when="{sources: [a]}"), "tainted"),
        (rule(stages="[output]", when="{tainted: true, sources: []}"), "sources"),
    ],
)  # fmt: skip
def test_mistakes_are_told(text: str, message: str):
    with pytest.raises(PolicyError, match=message):
        parsed(rules(text))


def test_a_budget_knows_nothing_of_it():
    with pytest.raises(PolicyError, match="give a threshold"):
        compiled(rules(rule(head="taint", stages="[output]", threshold=None, max_fpr=0.01)))
    with pytest.raises(PolicyError, match="no label 'mail'; did you mean 'email'"):
        compiled(rules(rule(head="taint", stages="[output]", labels="[mail]")))
    with pytest.raises(PolicyError, match="the guard's own"):
        compiled(rules(rule()), heads(labels={"injection": ("injection",), "taint": ("x",)}))


def test_it_takes_nothing_of_a_budget():
    one = kept(bell(2000))
    known = heads({"injection": [entry.model_copy(update={"stage": "output"}) for entry in one]})
    alone = compiled(rules(rule(stages="[output]", threshold=None, max_fpr=0.05)), known)
    both = compiled(
        rules(rule(stages="[output]", threshold=None, max_fpr=0.05), rule("t", head="taint", stages="[output]")), known
    )
    assert both.thresholds[0].bars == alone.thresholds[0].bars
    assert (alone.traces, both.traces) == (False, True)


# --- the guard


def guard(folder, text: str, floor: str | None = None) -> Guard:
    files = {"default.yaml": text, **({"floor.yaml": floor} if floor else {})}
    return Guard.from_policies(
        write_policies(folder / "policies", files), detector=KeywordDetector({"injection": {"injection": ["attack"]}})
    )


BLOCK = "rules:\n  - {name: exfil, stages: [tool_input, output], head: taint, threshold: 0.5, action: block}\n"


HARMLESS = rules(rule(stages="[tool_input]"))


def test_a_verdict_shows_what_came_from_where(tmp_path):
    made = guard(tmp_path, BLOCK)
    verdict = made.check(STEP)
    assert (verdict.action, verdict.rule) == ("block", "exfil")
    assert (verdict.scores["taint"]["third_party"], verdict.scores["taint"]["email"]) == (1.0, 1.0)
    [span] = verdict.spans
    assert (span.start, span.end, span.head, span.label, span.score) == (4, 20, "taint", "email", 1.0)
    assert "taint" not in made.check(Step(stage="tool_input", text="a")).scores
    assert made.traces()


def test_the_floor_asks_too(tmp_path):
    made = guard(tmp_path, HARMLESS, BLOCK)
    assert made.traces()
    assert made.check(STEP).rule == "floor:exfil"
    assert not guard(tmp_path / "other", HARMLESS).traces()


def test_the_version_is_another_one():
    one, two = (resolved(rules(rule(stages="[output]", when=when))) for when in (None, "{tainted: true}"))
    assert one.version != two.version


REWRITE = """
rewrite:
  nobody: {kind: replace, text: "to: nobody"}
  drop: {kind: drop_spans}
  same: {kind: replace, text: "Send it to EVIL@example.com."}
rules:
  - {name: exfil, stages: [tool_input], head: taint, threshold: 0.5, action: rewrite, rewrite: NAME}
"""


@pytest.mark.parametrize(
    ("name", "action", "text"),
    [("nobody", "rewrite", "to: nobody"), ("drop", "rewrite", "[removed]\nbye"), ("same", "block", None)],
)
def test_a_rewrite_takes_out_what_came_from_elsewhere_or_is_blocked(
    tmp_path, name: str, action: Action, text: str | None
):
    step = Step(stage="tool_input", text=f"{STEP.text}\nbye", tool=STEP.tool, taint=STEP.taint)
    outcome: Outcome = guard(tmp_path, REWRITE.replace("NAME", name)).apply(step)
    assert (outcome.verdict.action, outcome.text) == (action, text)
