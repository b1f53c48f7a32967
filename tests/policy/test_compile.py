"""A policy and a detector: thresholds from budgets, for every tool."""

from __future__ import annotations

import json
from collections import defaultdict
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lec_guard import PolicyError, Step
from lec_guard.policy.budget import MAX_SHIFT
from lec_guard.policy.compile import STOPPING, Compiled, Threshold, compile_policy
from lec_guard.policy.decide import decide
from lec_guard.policy.resolve import resolve
from lec_guard.step import STAGES, ToolRef
from lec_guard.train.calibrate import benign_scores
from tests.policy.made import FILE, bell, compiled, heads, kept, resolved, rule, rules, scores, source

N = 20_000


def known(*stages: str, n: int = N, seed: int = 0):
    """Heads of which harmless texts of these stages are known."""
    stages = stages or ("input",)
    return heads(
        {
            head: [
                entry
                for stage in stages
                for entry in kept(bell(n, seed + at), stages=[stage] * n)
            ]
            for at, head in enumerate(("injection", "safety", "topic"))
        }
    )  # fmt: skip


def refused(text: str, given=None) -> str:
    with pytest.raises(PolicyError) as caught:
        compiled(text, given or known())
    return str(caught.value)


def of(policy: Compiled, name: str, tool: str | None = None, stage: str = "input") -> Threshold:
    (found,) = [one for one in policy.thresholds if (one.rule, one.tool, one.stage) == (name, tool, stage)]
    return found


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (rule(head="injektion"), "the detector has no head 'injektion'; did you mean 'injection'?"),
        (rule(head="zzz"), "the detector has no head 'zzz'; known: injection, safety, topic"),
        (rule(labels="[injektion]"), "head 'injection' has no label 'injektion'; did you mean 'injection'?"),
        (rule(head="safety", labels="[unsafe, zzz]"), "head 'safety' has no label 'zzz'; known: unsafe, rude"),
        (rule(stages="[tool_output]", tools="{x: {labels: [zzz]}}"), "head 'injection' has no label 'zzz'"),
        (rule(action="allow", head="zzz"), "the detector has no head 'zzz'"),
    ],
)
def test_a_rule_reads_only_what_the_detector_gives(text, told):
    assert refused(rules(text)).startswith(f"{FILE}:2:5: rule 'r': {told}")


def test_every_rule_that_reads_what_is_not_there_is_told():
    text = rules(rule("a", head="zzz"), rule("b"), rule("c", labels="[zzz]"))
    assert [line.split(":")[1] for line in refused(text).split("\n")] == ["2", "4"]


def test_a_threshold_is_taken_as_it_stands():
    policy = compiled(rules(rule(threshold=0.3)))
    (reading,) = policy.readings["input"].usual
    assert (reading.lowest, reading.bars, reading.threshold(1), reading.threshold(99)) == (0.3, (), 0.3, 0.3)
    found = of(policy, "r")
    assert (found.budget, found.share, found.own, found.rate) == (None, None, False, 1.0)


def test_a_rule_is_in_force_at_its_stages_and_out_of_it_where_it_allows():
    policy = compiled(rules(rule("a", stages="[input, output]"), rule("b", action="allow", threshold=None)))
    found = {stage: [one.name for one in policy.readings[stage].usual] for stage in STAGES}
    assert {stage for stage, own in found.items() if own} == {"input", "output"}
    assert found["input"] == ["a"]


def test_one_rule_gets_the_whole_budget():
    policy = compiled(rules(rule(threshold=None, max_fpr=0.01)), known())
    found = of(policy, "r")
    assert (found.budget, found.share, found.rate) == (0.01, 0.01, pytest.approx(0.01))
    (bar,) = found.bars
    assert 0 < (bell(N) >= bar.threshold).mean() <= 0.01


def test_the_budget_of_a_stage_is_shared_by_the_heads_that_its_rules_read():
    text = rules(
        rule("a", threshold=None, max_fpr=0.02),
        rule("again", threshold=None, max_fpr=0.02, labels="[injection]", action="escalate", escalation="d"),
        rule("b", head="safety", threshold=None, max_fpr=0.04),
        rule("flagged", head="topic", threshold=None, max_fpr=0.05, action="flag"),
        rule("elsewhere", head="topic", stages="[output]", threshold=None, max_fpr=0.01),
    )
    policy = compiled("escalations: {d: {kind: queue}}\n" + text, known("input", "output"))
    found = {one.rule: (one.budget, one.share) for one in policy.thresholds}
    # The least of both budgets counts for what stops; what flags has its own; so has every stage.
    assert found == {
        "a": (0.02, 0.01),
        "again": (0.02, 0.01),
        "b": (0.02, 0.01),
        "flagged": (0.05, 0.05),
        "elsewhere": (0.01, 0.01),
    }


def test_what_a_threshold_stops_is_taken_off_the_budget():
    score = float(np.quantile(bell(N, 1), 0.995)) + 1e-4
    text = rules(
        rule("a", threshold=None, max_fpr=0.02),
        rule("b", head="safety", threshold=score),
        rule("c", head="safety", threshold=0.999999),
        rule("d", head="topic", threshold=0.0001, action="flag"),
    )
    policy = compiled(text, known())
    assert of(policy, "b").rate == pytest.approx(0.005)
    assert of(policy, "a").share == pytest.approx(0.015)


def test_a_threshold_that_leaves_nothing_of_the_budget_is_refused():
    text = rules(rule("a", threshold=None, max_fpr=0.01), rule("b", head="safety", threshold=0.1))
    told = refused(text)
    assert told.startswith(
        f"{FILE}:2:5: the other rules of input alone stop 0.5 of harmless steps; nothing is left of max_fpr 0.01"
    )


def test_what_finds_entities_stands_outside_of_budgets():
    text = rules(rule("a", threshold=None, max_fpr=0.01), rule("b", head="pii", threshold=0.5))
    alone = compiled(rules(rule("a", threshold=None, max_fpr=0.01)), known())
    finding = replace(known(), labels={**known().labels, "pii": ("EMAIL_ADDRESS", "CREDIT_CARD")})
    assert of(compiled(text, finding), "a").bars == of(alone, "a").bars
    scoring = replace(known(), labels={**known().labels, "pii": ("EMAIL_ADDRESS", "other")})
    assert "nobody knows" in refused(text, scoring)


def test_a_budget_beside_a_threshold_of_which_nobody_knows_what_it_stops_is_refused():
    text = rules(rule("a", threshold=None, max_fpr=0.01), rule("b", head="safety", threshold=0.9))
    nothing = heads({"injection": kept(bell(N))})
    assert f"{FILE}:2:5: rule 'b' has a threshold at input too, and nobody knows" in refused(text, nothing)
    compiled(
        text.replace("head: safety", "stages: [output], head: safety", 1).replace("stages: [input], stages", "stages"),
        nothing,
    )


ASKS = rule(threshold=None, max_fpr=0.01)
NEEDS = "harmless texts (3 / rate), and there are"


@pytest.mark.parametrize(
    ("lines", "n", "told"),
    [
        ([ASKS], 299, f"a rate of 0.01 needs 300 {NEEDS} 299"),
        (
            [ASKS, rule("s", head="safety", threshold=None, max_fpr=0.01)],
            500,
            f"a rate of 0.005 (0.01 shared by 2 heads) needs 600 {NEEDS} 500",
        ),
        (
            [rule(threshold=None, max_fpr=0.0001)],
            100_000,
            f"a rate of 0.0001 needs 30,000 {NEEDS} 100,000, and no rate below 0.001 is kept",
        ),
    ],
)
def test_too_few_texts_are_told_with_the_number_that_is_needed(lines, n, told):
    message = refused(rules(*lines), known(n=n))
    assert message.startswith(f"{FILE}:2:5: max_fpr: head 'injection' at input: {told}")
    assert message.endswith("; give a larger max_fpr or a threshold")


def test_a_stage_of_which_no_harmless_text_is_known_has_no_budget():
    told = refused(rules(rule(stages="[input, output]", threshold=None, max_fpr=0.01)))
    assert "head 'injection' at output: a rate of 0.01 needs 300 harmless texts (3 / rate), and there are 0" in told


def test_long_texts_have_bars_of_their_own():
    n = 4000
    random = np.random.default_rng(0)
    windows = random.choice([1, 2, 4], n)
    sample = np.clip(bell(n) + 0.05 * windows, 0, 1)
    policy = compiled(rules(rule(threshold=None, max_fpr=0.01)), heads({"injection": kept(sample, windows)}))
    (reading,) = policy.readings["input"].usual
    assert [bar.windows for bar in reading.bars] == [1, 2, 4]
    assert reading.lowest == reading.threshold(1) < reading.threshold(2) < reading.threshold(8)
    between = (reading.threshold(1) + reading.threshold(8)) / 2
    step = Step(stage="input", text="x")
    assert decide(policy, step, scores(injection=between, windows=1)).action == "block"
    assert decide(policy, step, scores(injection=between, windows=8)).action == "allow"
    assert decide(policy, step, scores(injection=between, windows=0)).action == "block"


def test_no_more_harmless_steps_are_stopped_than_the_budget_says_however_heads_agree():
    # Two heads whose scores go together, as those of one model do, and one that is alone.
    n = 30_000
    random = np.random.default_rng(7)
    shared = random.normal(size=2 * n)
    logits = {
        "injection": 1.3 * shared + random.normal(size=2 * n),
        "safety": shared + random.normal(size=2 * n),
        "topic": random.normal(size=2 * n) * 2,
    }
    samples = {head: (1 / (1 + np.exp(3 - own))).astype(np.float32) for head, own in logits.items()}
    windows = random.choice([1, 2, 4], 2 * n)
    given_heads = heads(
        {
            head: benign_scores(own[:n], windows[:n], np.full(n, "family"), np.full(n, "input"))
            for head, own in samples.items()
        }
    )
    for budget, names in ((0.025, ["injection"]), (0.02, ["injection", "safety"]), (0.03, list(samples))):
        lines = [rule(head, head=head, threshold=None, max_fpr=budget) for head in names]
        policy = compiled(rules(*lines), given_heads)
        step = Step(stage="input", text="x")
        # Of texts that no quantile has seen.
        stopped = sum(
            decide(
                policy, step, scores(windows=int(windows[at]), **{head: own[at] for head, own in samples.items()})
            ).action
            == "block"
            for at in range(n, 2 * n)
        )
        assert 0.3 * budget < stopped / n <= budget + 3 * (budget / n) ** 0.5


def in_force(policy: Compiled, stage: str, tool: str | None) -> dict[str, float]:
    """Rule -> threshold for short texts of a tool."""
    ref = None if tool is None else ToolRef(name=tool)
    return {one.name: one.threshold(1) for one in policy.readings[stage].of(ref)}


TOOL = {"stages": "[tool_output]"}


def test_a_rule_differs_for_the_tools_that_a_pattern_fits():
    text = rules(
        rule("a", **TOOL, tools="{read_me: {threshold: 0.1}, 'read_*': {threshold: 0.2}, '*_all': {action: allow}}"),
        rule(
            "b",
            **TOOL,
            head="safety",
            action="allow",
            threshold=None,
            tools="{'read_?': {threshold: 0.9, action: flag}}",
        ),
    )
    policy = compiled(text)
    assert in_force(policy, "tool_output", None) == {"a": 0.5}
    assert in_force(policy, "tool_output", "write") == {"a": 0.5}
    assert in_force(policy, "tool_output", "read_me") == {"a": 0.1}
    assert in_force(policy, "tool_output", "read_x") == {"a": 0.2, "b": 0.9}
    assert in_force(policy, "tool_output", "read_all") == {"a": 0.2}  # The first pattern that fits counts.
    assert in_force(policy, "tool_output", "drop_all") == {}
    assert in_force(policy, "tool_output", "READ_x") == {"a": 0.5}


def test_a_step_of_another_stage_has_no_special_tools():
    policy = compiled(rules(rule("a", stages="[input, tool_output]", tools="{'*': {threshold: 0.1}}")))
    assert in_force(policy, "input", "x") == {"a": 0.5}
    assert in_force(policy, "tool_output", "x") == {"a": 0.1}


def test_a_budget_that_is_said_for_some_tools_is_that_of_all_rules_that_read_their_steps():
    text = rules(
        rule("a", **TOOL, threshold=None, max_fpr=0.01),
        rule("b", **TOOL, head="safety", threshold=None, max_fpr=0.01, tools="{'web_*': {max_fpr: 0.05}}"),
    )
    policy = compiled(text, known("tool_output"))
    usual, web = (
        {
            name: (of(policy, name, tool, "tool_output").budget, of(policy, name, tool, "tool_output").share)
            for name in "ab"
        }
        for tool in (None, "web_*")
    )
    assert usual == {"a": (0.01, 0.005), "b": (0.01, 0.005)}
    assert web == {"a": (0.05, 0.025), "b": (0.05, 0.025)}
    assert in_force(policy, "tool_output", "web_search")["a"] < in_force(policy, "tool_output", "read")["a"]


def test_where_a_rule_is_out_of_force_for_a_tool_the_others_get_its_part():
    text = rules(
        rule("a", **TOOL, threshold=None, max_fpr=0.01),
        rule("b", **TOOL, head="safety", threshold=None, max_fpr=0.01, tools="{bank: {action: allow}}"),
    )
    policy = compiled(text, known("tool_output"))
    assert of(policy, "a", "bank", "tool_output").share == 0.01
    assert [one.rule for one in policy.thresholds if one.tool == "bank"] == ["a"]


def test_a_rule_that_stops_where_it_usually_flags_counts_there_among_those_that_stop():
    text = rules(
        rule("a", **TOOL, threshold=None, max_fpr=0.01),
        rule("b", **TOOL, head="safety", threshold=None, max_fpr=0.05, action="flag", tools="{x: {action: block}}"),
    )
    policy = compiled(text, known("tool_output"))
    assert of(policy, "b", None, "tool_output").share == 0.05
    assert of(policy, "b", "x", "tool_output").share == of(policy, "a", "x", "tool_output").share == 0.005


def test_a_threshold_that_leaves_nothing_for_some_tools_is_refused_with_their_pattern():
    text = rules(
        rule("a", **TOOL, threshold=None, max_fpr=0.01),
        rule("b", **TOOL, head="safety", threshold=None, max_fpr=0.01, tools="{'web_*': {threshold: 0.1}}"),
    )
    told = refused(text, known("tool_output"))
    assert told.startswith(f"{FILE}:2:5: for tools 'web_*': the other rules of tool_output alone stop 0.5 of")


def test_patterns_that_can_fit_one_tool_together_share_one_budget_there():
    text = rules(
        rule("a", **TOOL, threshold=None, max_fpr=0.01, tools="{'db_*': {max_fpr: 0.04}}"),
        rule("b", **TOOL, head="safety", threshold=None, max_fpr=0.01, tools="{'*_write': {max_fpr: 0.02}}"),
    )
    policy = compiled(text, known("tool_output"))
    both = of(policy, "a", "db_* and *_write", "tool_output")
    assert (both.budget, both.share) == (0.02, 0.01)
    assert in_force(policy, "tool_output", "db_write") == {
        name: of(policy, name, "db_* and *_write", "tool_output").bars[0].threshold for name in "ab"
    }


def test_patterns_that_overlap_in_too_many_ways_are_refused():
    tools = ", ".join(f"'*{at}*': {{threshold: 0.{at}}}" for at in range(10, 40))
    told = refused(rules(rule("a", **TOOL, tools=f"{{{tools}}}")))
    assert told.startswith(f"{FILE}:2:5: at tool_output the patterns '*10*', ")
    assert told.endswith("overlap in more than 256 ways; write fewer of them, or narrower ones")


_GLOBS = ("db_*", "*_write", "db_write", "web_?", "*")
_NAMES = ("db_write", "db_x", "x_write", "web_1", "web_10", "other", "")
_OVERRIDE = st.sampled_from(
    [
        "{max_fpr: 0.05}", "{max_fpr: 0.02}", "{threshold: 0.97}", "{message: x}",
        "{action: allow}", "{action: flag}", "{action: block}",
    ]
)  # fmt: skip
_LINES = st.lists(
    st.tuples(
        st.sampled_from(["injection", "safety", "topic"]),
        st.sampled_from(["max_fpr: 0.02", "max_fpr: 0.05", "threshold: 0.98", "threshold: 0.995"]),
        st.sampled_from(["block", "flag"]),
        st.dictionaries(st.sampled_from(_GLOBS), _OVERRIDE, max_size=3),
    ),
    min_size=1,
    max_size=4,
)
_KNOWN = known("tool_output")


@settings(max_examples=200, deadline=None)
@given(_LINES)
def test_for_every_tool_the_heads_together_stop_no_more_than_the_budget(lines):
    text = rules(
        *(
            f"  - {{name: r{at}, stages: [tool_output], head: {head}, {bar}, action: {action}, "
            f"tools: {{{', '.join(f'{glob!r}: {override}' for glob, override in tools.items())}}}}}\n"
            for at, (head, bar, action, tools) in enumerate(lines)
        )
    )
    with suppress(PolicyError):  # Where thresholds take a whole budget, for example; that is tested above.
        check_unions(compiled(text, _KNOWN))


def check_unions(policy: Compiled) -> None:
    readings = policy.readings["tool_output"]
    for name in (None, *_NAMES):
        fitting = [glob for glob, pattern in readings.patterns.items() if name is not None and pattern.match(name)]
        listed = [one for one in policy.thresholds if one.tool == (" and ".join(fitting) or None)]
        in_force = readings.of(None if name is None else ToolRef(name=name))
        assert [(one.rule, one.action) for one in listed] == [(one.name, one.action) for one in in_force]
        assert [min(bar.threshold for bar in one.bars) for one in listed] == [one.lowest for one in in_force]
        for actions in (STOPPING, ("flag",)):
            together = [one for one in listed if one.action in actions]
            rates: dict[str, float] = defaultdict(float)
            for one in together:
                rates[one.head] = max(rates[one.head], one.rate)
            budgets = {one.budget for one in together} - {None}
            assert len(budgets) <= 1
            assert all(sum(rates.values()) <= budget + 1e-9 for budget in budgets)


def calibrated(sample: np.ndarray, text: str, stock_seed: int = 0, detector_id: str = "made@0") -> Compiled:
    """A policy of a tenant whose own traffic scored like this."""
    entries = [entry.model_dump(mode="json") for entry in kept(sample)]
    content = {"detector_id": detector_id, "texts": len(sample), "heads": {"injection": entries}}
    policy = resolve("x", [source(f"calibration: own.json\n{text}")], read=lambda _: json.dumps(content).encode())
    return compile_policy(policy, known(seed=stock_seed))


ONE = rules(rule(threshold=None, max_fpr=0.01))


def test_the_tenants_own_traffic_decides_where_it_is_known():
    stock, own = compiled(ONE, known()), calibrated(bell(5000, 9) * 0.9, ONE)
    assert of(own, "r").own
    assert not of(stock, "r").own
    assert of(own, "r").bars[0].threshold < of(stock, "r").bars[0].threshold
    assert of(own, "r").bars[0].texts == 5000


def test_traffic_that_somebody_poisoned_moves_a_threshold_no_further_than_the_bound():
    def logit(p: float) -> float:
        return float(np.log(p) - np.log1p(-p))

    poisoned = np.where(np.arange(5000) % 6 == 0, np.float32(0.9999), bell(5000))
    before, after = of(compiled(ONE, known()), "r"), of(calibrated(poisoned, ONE), "r")
    assert logit(after.bars[0].threshold) == pytest.approx(logit(before.bars[0].threshold) + MAX_SHIFT)
    # It says that a sixth of that traffic (of which the fifth is kept) is stopped then, and not 1%.
    assert after.rate == pytest.approx(0.2)


def test_what_a_threshold_stops_of_the_tenants_own_traffic_is_what_counts():
    text = rules(rule(threshold=0.5))
    low = calibrated(bell(5000, 9) * 0.5, text)
    assert of(low, "r").rate < of(compiled(text, known()), "r").rate
    assert not of(low, "r").own  # The threshold is the author's.


def test_a_calibration_of_another_detector_is_refused():
    with pytest.raises(PolicyError, match=rf"^{FILE}:1:1: was made with other@1, but the detector is made@0; run lec-"):
        calibrated(bell(5000), ONE, detector_id="other@1")


def test_a_head_that_the_bundle_knows_nothing_of_is_not_bounded_and_so_has_no_budget():
    entries = [entry.model_dump(mode="json") for entry in kept(bell(5000))]
    content = {"detector_id": "made@0", "texts": 5000, "heads": {"injection": entries}}
    policy = resolve("x", [source(f"calibration: own.json\n{ONE}")], read=lambda _: json.dumps(content).encode())
    with pytest.raises(PolicyError, match=r"needs 300 harmless texts .*, and there are 0"):
        compile_policy(policy, heads())


def test_own_traffic_may_know_of_rates_that_the_bundle_does_not():
    # The bundle knows of no rate below 1%; its threshold for that is the middle of the bounds.
    text = rules(rule(threshold=None, max_fpr=0.002))
    entries = [entry.model_dump(mode="json") for entry in kept(bell(5000))]
    content = {"detector_id": "made@0", "texts": 5000, "heads": {"injection": entries}}
    policy = resolve("x", [source(f"calibration: own.json\n{text}")], read=lambda _: json.dumps(content).encode())
    assert of(compile_policy(policy, known(n=400)), "r").own
    with pytest.raises(PolicyError, match="needs 1,500 harmless texts"):
        compiled(text, known(n=400))


@pytest.mark.parametrize(
    ("hold_back", "window", "is_taken"), [(256, 256, True), (255, 256, False), (1, None, True), ("all", 256, True)]
)
def test_no_less_is_held_back_than_the_detector_reads_at_once(hold_back, window, is_taken):
    text = f"hold_back: {hold_back}\n{rules(rule())}"
    if is_taken:
        assert compiled(text, heads(window=window)).policy.hold_back == hold_back
    else:
        with pytest.raises(
            PolicyError, match=rf"^{FILE}:1:1: the detector reads 256 tokens at once; hold back as many"
        ):
            compiled(text, heads(window=window))


def test_a_stage_of_which_nothing_is_said_fails_closed():
    policy = compiled("fail: {input: allow}\n" + rules(rule()))
    assert policy.fail["input"].action("error") == "allow"
    assert all(
        policy.fail[stage].action(cause) == "block"
        for stage in STAGES
        if stage != "input"
        for cause in ("timeout", "error", "budget")
    )


def test_what_is_resolved_stays_as_it_was():
    policy = resolved(ONE)
    assert compile_policy(policy, known()).policy is policy
