"""The flow of a step: what fails, what is too late or too long, what is only tried out, and what holds for all."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from lec_guard import (
    BypassEvent,
    Effects,
    ErrorEvent,
    Event,
    Guard,
    Outcome,
    PolicyReloaded,
    ReloadRefused,
    Scores,
    Step,
    ToolRef,
    Verdict,
    VerdictEvent,
)
from lec_guard.detect.asking import Answer
from lec_guard.observe.sinks import Sinks
from tests.conftest import write_policies
from tests.test_guard import METHODS, Recorder, call, timeless

HELLO = Step(stage="input", text="Hello.")
ATTACK = Step(stage="input", text="An ATTACK.")
PATIENCE = 30.0


class Detector:
    """Scores by words, and fails by words: `boom` raises, `stuck` never ends, `huge` is over its budget."""

    detector_id = "words"
    labels = {"injection": ("injection",), "safety": ("unsafe", "rude")}  # noqa: RUF012

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.keys: list[Hashable] = []
        self.released = threading.Event()
        self.meanwhile: Callable[[], object] = lambda: None

    def score(self, steps: Sequence[Step], *, keys: Sequence[Hashable] | None = None) -> list[Scores]:
        self.calls.append([step.text for step in steps])
        self.keys += keys or []
        self.meanwhile()
        return [self._one(step.text.lower()) for step in steps]

    def _one(self, text: str) -> Scores:
        if "boom" in text:
            raise RuntimeError("out of memory")
        if "stuck" in text:
            assert self.released.wait(PATIENCE)
        by_head = {
            "injection": {"injection": 0.9 if "attack" in text else 0.4 if "hint" in text else 0.0},
            "safety": {"unsafe": float("poison" in text), "rude": float("darn" in text)},
        }
        if "lacks" in text:
            del by_head["injection"]
        unread = "over the budget" if "huge" in text else "nothing to read" if "void" in text else None
        return Scores(
            by_head={} if unread else by_head,
            unread=unread,
            over_budget="huge" in text,
            detector_id=self.detector_id,
            backend="python",
        )


@pytest.fixture
def detector() -> Iterator[Detector]:
    made = Detector()
    yield made
    made.released.set()


@pytest.fixture
def make(tmp_path: Path, detector: Detector) -> Iterator[Callable[..., Guard]]:
    """Makes guards over policy files, with a recorder as `guard.told`."""
    made: list[Guard] = []

    def build(files: dict[str, str], **options: Any) -> Guard:
        folder = write_policies(tmp_path / f"policies{len(made)}", {"default.yaml": DEFAULT, **files})
        guard = Guard.from_policies(folder, detector=detector, sinks=[recorder := Recorder()], **options)
        guard.told = recorder.events  # type: ignore[attr-defined]
        made.append(guard)
        return guard

    yield build
    detector.released.set()
    for guard in made:
        guard.close()


DEFAULT = """
message: No.
rules:
  - {name: injection, stages: [input, output], head: injection, threshold: 0.5, action: block}
  - {name: curse, stages: [input, output], head: safety, labels: [rude], threshold: 0.5, action: flag}
"""
FLOOR = """
message: By order of the operator.
rules:
  - {name: poison, stages: [input], head: safety, labels: [unsafe], threshold: 0.5, action: block}
  - {name: injection, stages: [input], head: injection, threshold: 0.3, action: flag}
"""
ALLOW_ALL = "{name: injection, stages: [input, output], head: injection, threshold: 1.0, action: flag}"


def verdicts_of(results: list[Verdict | Outcome]) -> list[Verdict]:
    return [result.verdict if isinstance(result, Outcome) else result for result in results]


def kinds(events: Sequence[Event]) -> list[type]:
    return [type(event) for event in events]


# --- fail


TEXTS = {"timeout": "stuck", "error": "boom", "budget": "huge"}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("cause", TEXTS)
@pytest.mark.parametrize("action", ["allow", "flag", "block"])
def test_fail_says_what_follows_for_each_cause_and_stage(make, method, cause, action):
    other = {"allow": "block", "flag": "allow", "block": "flag"}[action]
    others = ", ".join(f"{name}: {other}" for name in TEXTS if name != cause)
    limit = ", timeout_ms: 20" if cause == "timeout" else ""
    guard = make(
        {
            "tenants/t.yaml": f"""
                extends: default
                fail:
                  input: {{{cause}: {action}, {others}{limit}}}
                  output: {{{cause}: {other}{limit}}}
            """
        }
    )
    steps = [Step(stage=stage, text=TEXTS[cause]) for stage in ("input", "output")]
    results = call(guard, method, steps, ["t", "t"])
    verdicts = verdicts_of(results)
    assert [(v.action, v.rule, v.matched, v.cause) for v in verdicts] == [
        (action, f"fail:{cause}", (f"fail:{cause}",), cause),
        (other, f"fail:{cause}", (f"fail:{cause}",), cause),
    ]
    assert [v.message for v in verdicts] == ["No." if v.blocked else None for v in verdicts]
    if "apply" in method:
        assert [result.text for result in results] == [None if v.blocked else TEXTS[cause] for v in verdicts]
    for verdict in verdicts:
        own = [event for event in guard.told if event.verdict is verdict]
        assert kinds(own) == [VerdictEvent, ErrorEvent] + [BypassEvent] * (not verdict.blocked)
        assert {event.cause for event in own[1:]} == {cause}


def test_where_nobody_says_what_follows_it_is_a_block(make):
    guard = make({})
    for cause in ("error", "budget"):
        assert guard.check(Step(stage="tool_output", text=TEXTS[cause])).rule == f"fail:{cause}"
        assert guard.check(Step(stage="tool_output", text=TEXTS[cause])).action == "block"


def test_one_action_may_be_given_for_all_causes(make):
    guard = make({"tenants/t.yaml": "extends: default\nfail: {input: flag}"})
    for cause in ("error", "budget"):
        assert guard.check(Step(stage="input", text=TEXTS[cause]), "t").action == "flag"


def test_an_error_is_told_without_the_text(make):
    guard = make({"tenants/t.yaml": "extends: default\nfail: {input: allow}"})
    guard.check(Step(stage="input", text="boom xyzzy"), "t")
    error, bypass = guard.told[1:]
    assert error.reason == "the detector failed: RuntimeError('out of memory')"
    assert (error.cause, bypass.cause) == ("error", "error")
    assert "xyzzy" not in repr(guard.told)


def test_what_is_over_the_budget_says_why(make):
    guard = make({})
    guard.check(Step(stage="input", text="huge"))
    assert guard.told[1].reason == "over the budget"


def test_a_text_without_anything_to_read_is_blocked_whatever_fail_says(make):
    guard = make({"tenants/t.yaml": "extends: default\nfail: {input: allow}"})
    verdict = guard.check(Step(stage="input", text="void"), "t")
    assert (verdict.action, verdict.rule, verdict.cause) == ("block", "fail:unread", None)
    assert kinds(guard.told) == [VerdictEvent]


@pytest.mark.parametrize("method", METHODS)
def test_a_head_that_was_not_scored_is_an_error_of_its_step_alone(make, method):
    guard = make({})
    verdicts = verdicts_of(call(guard, method, [Step(stage="input", text="lacks"), HELLO], [None, None]))
    assert [(v.action, v.rule) for v in verdicts] == [("block", "fail:error"), ("allow", None)]
    [reason] = [event.reason for event in guard.told if isinstance(event, ErrorEvent)]
    assert reason == "rule 'injection' reads head 'injection', which detector words did not score"


@pytest.mark.parametrize("method", ["check_many", "acheck_many"])
def test_a_step_that_breaks_the_detector_costs_no_other_its_verdict(make, method):
    guard = make({})
    steps = [HELLO, Step(stage="input", text="boom"), ATTACK]
    assert [v.rule for v in call(guard, method, steps, [None] * 3)] == [None, "fail:error", "injection"]


def test_what_is_allowed_by_name_passes_a_detector_that_fails_and_the_error_is_told(make):
    guard = make({"tenants/t.yaml": "extends: default\nallow: [{name: ours, stages: [input], exact: [boom]}]"})
    verdict = guard.check(Step(stage="input", text="boom"), "t")
    assert (verdict.action, verdict.rule, verdict.cause) == ("allow", "allow:ours", None)
    assert kinds(guard.told) == [VerdictEvent, ErrorEvent]


# --- limits


LIMITED = "extends: default\nfail: {input: {timeout: flag, timeout_ms: %d}}"


class Asked:
    """Answers in place of a detector, and notes how long it might have taken."""

    def __init__(self, ms: float) -> None:
        self.limits: list[float | None] = []
        self._ms = ms

    def ask(self, detector: Detector, steps: Sequence[Step], keys: Sequence[Hashable], limit_s: float | None) -> Any:
        self.limits.append(limit_s)
        return [Answer(scores=scores, ms=self._ms) for scores in detector.score(steps, keys=keys)]

    async def aask(self, *given: Any) -> Any:
        return self.ask(*given)

    def close(self) -> None:
        pass


@pytest.mark.parametrize("method", ["check_many", "acheck_many"])
@pytest.mark.parametrize(
    ("tenants", "limit_s"),
    [(["a"], 0.05), (["a"] * 10, 0.5), (["a", "b"], 0.35), (["a", None], None), ([None, "b"], None)],
)
def test_a_call_of_many_steps_has_the_time_of_all_of_them(make, method, tenants, limit_s):
    guard = make({"tenants/a.yaml": LIMITED % 50, "tenants/b.yaml": LIMITED % 300})
    guard._asker = asked = Asked(ms=0.1)
    call(guard, method, [HELLO] * len(tenants), tenants)
    assert asked.limits == [pytest.approx(limit_s)]


@pytest.mark.parametrize(("ms", "rules"), [(49.0, [None] * 3), (51.0, ["fail:timeout", None, None])])
def test_each_step_is_held_to_its_own_limit(make, ms, rules):
    guard = make({"tenants/a.yaml": LIMITED % 50, "tenants/b.yaml": LIMITED % 300})
    guard._asker = Asked(ms=ms)
    assert [v.rule for v in guard.check_many([HELLO] * 3, ["a", "b", None])] == rules


def test_the_floor_and_a_tenant_wait_as_long_as_the_more_patient_of_them(make):
    floor = FLOOR + "fail: {input: {timeout: block, timeout_ms: 200}}"
    guard = make({"floor.yaml": floor, "tenants/a.yaml": LIMITED % 50, "tenants/b.yaml": LIMITED % 300})
    guard._asker = asked = Asked(ms=100.0)
    late, punctual = guard.check(HELLO, "a"), guard.check(HELLO, "b")
    assert asked.limits == [pytest.approx(0.2), pytest.approx(0.3)]
    assert (late.action, late.rule, late.matched) == ("flag", "fail:timeout", ("fail:timeout",))
    assert (punctual.action, punctual.rule) == ("allow", None)
    guard._asker = Asked(ms=250.0)
    assert guard.check(HELLO, "b").rule == "floor:fail:timeout"


@pytest.mark.parametrize("method", METHODS)
def test_a_limit_of_0_asks_nobody(make, detector, method):
    guard = make({"tenants/t.yaml": LIMITED % 0})
    [verdict] = verdicts_of(call(guard, method, [ATTACK], ["t"]))
    assert (verdict.action, verdict.rule, verdict.scores) == ("flag", "fail:timeout", {})
    assert (verdict.detector_id, verdict.backend, verdict.windows) == ("words", "none", 0)
    assert detector.calls == []


def test_a_limit_of_0_stays_one_where_the_floor_has_scores(make, detector):
    guard = make({"floor.yaml": FLOOR, "tenants/t.yaml": LIMITED % 0})
    verdict = guard.check(Step(stage="input", text="attack, poison"), "t")
    assert [(one.role, one.rule) for one in verdict.judgements] == [("live", "fail:timeout"), ("floor", "poison")]
    assert len(detector.calls) == 1


@pytest.mark.parametrize("method", METHODS)
def test_a_detector_that_is_too_late_keeps_nobody(make, method):
    guard = make({"tenants/t.yaml": LIMITED % 30})
    began = time.perf_counter()
    [verdict] = verdicts_of(call(guard, method, [Step(stage="input", text="stuck")], ["t"]))
    assert verdict.rule == "fail:timeout"
    assert 0.03 <= time.perf_counter() - began < PATIENCE / 2


@pytest.mark.parametrize("method", METHODS)
def test_a_text_that_is_too_long_is_not_read(make, detector, method):
    guard = make({"tenants/t.yaml": "extends: default\nfail: {input: {budget: flag, max_chars: 20}}"})
    steps = [
        Step(stage="input", text="attack".ljust(20)),
        Step(stage="input", text="attack".ljust(21)),
        Step(stage="input", text="attack".ljust(10), context="x" * 10),
        Step(stage="input", text="attack".ljust(10), context="x" * 11),
        Step(stage="output", text="attack".ljust(21)),
    ]
    verdicts = verdicts_of(call(guard, method, steps, ["t"] * 5))
    assert [v.rule for v in verdicts] == ["injection", "fail:budget", "injection", "fail:budget", "injection"]
    assert [text for one in detector.calls for text in one] == [steps[at].text for at in (0, 2, 4)]


def test_a_text_that_is_too_long_for_the_tenant_is_read_for_the_floor(make):
    short = "extends: default\nfail: {input: {budget: allow, max_chars: 3}}"
    guard = make({"floor.yaml": FLOOR, "tenants/t.yaml": short})
    verdict = guard.check(Step(stage="input", text="poison"), "t")
    assert (verdict.action, verdict.rule) == ("block", "floor:poison")
    assert kinds(guard.told) == [VerdictEvent, ErrorEvent]


# --- shadow and candidate


SHADOW = "extends: default\nmode: shadow"
STRICT = """
extends: default
rules: [{name: curse, stages: [input], head: safety, labels: [rude], threshold: 0.5, action: block}]
"""


@pytest.mark.parametrize("method", METHODS)
def test_a_policy_in_shadow_mode_is_told_and_does_not_act(make, method):
    guard = make({"tenants/t.yaml": SHADOW})
    results = call(guard, method, [ATTACK, HELLO], ["t", "t"])
    verdicts = verdicts_of(results)
    assert [(v.action, v.rule, v.matched, v.message) for v in verdicts] == [("allow", None, (), None)] * 2
    assert [(one.action, one.rule, one.mode) for v in verdicts for one in v.judgements] == [
        ("block", "injection", "shadow"),
        ("allow", None, "shadow"),
    ]
    assert verdicts[0].scores["injection"]["injection"] == 0.9
    assert [event.verdict for event in guard.told] == verdicts
    if "apply" in method:
        assert [result.text for result in results] == [ATTACK.text, HELLO.text]


def test_a_failure_in_shadow_mode_stops_nothing_and_is_no_bypass(make):
    guard = make({"tenants/t.yaml": SHADOW})
    verdict = guard.check(Step(stage="input", text="boom"), "t")
    assert (verdict.action, verdict.cause) == ("allow", None)
    assert verdict.judgements[0].rule == "fail:error"
    assert kinds(guard.told) == [VerdictEvent, ErrorEvent]


def test_the_floor_acts_beside_a_policy_in_shadow_mode(make):
    guard = make({"tenants/t.yaml": SHADOW, "floor.yaml": FLOOR})
    poison = guard.check(Step(stage="input", text="attack poison"), "t")
    assert (poison.action, poison.rule) == ("block", "floor:poison")
    assert poison.matched == ("floor:poison", "floor:injection")
    assert (guard.check(ATTACK, "t").action, guard.check(ATTACK, "t").message) == ("flag", None)


@pytest.mark.parametrize("method", METHODS)
def test_a_candidate_is_judged_on_the_same_scores_and_only_told(make, detector, method):
    guard = make({"strict.yaml": STRICT, "tenants/t.yaml": "extends: default\ncandidate: strict"})
    steps = [Step(stage="input", text="darn"), HELLO]
    verdicts = verdicts_of(call(guard, method, steps, ["t", "t"]))
    assert [(v.action, v.rule, v.message) for v in verdicts] == [("flag", "curse", None), ("allow", None, None)]
    assert [(one.role, one.policy, one.action, one.rule) for one in verdicts[0].judgements] == [
        ("live", "t", "flag", "curse"),
        ("candidate", "strict", "block", "curse"),
    ]
    live, candidate = verdicts[0].judgements
    assert live.version == verdicts[0].policy_version != candidate.version
    assert sum(map(len, detector.calls)) == 2


def test_a_candidate_alone_has_nobody_asked(make, detector):
    candidate = "extends: default\nfail: {input: {timeout: allow}}"
    guard = make({"next.yaml": candidate, "tenants/t.yaml": f"{LIMITED % 0}\ncandidate: next"})
    verdict = guard.check(ATTACK, "t")
    assert [(one.role, one.action, one.rule) for one in verdict.judgements] == [
        ("live", "flag", "fail:timeout"),
        ("candidate", "allow", "fail:timeout"),
    ]
    assert detector.calls == []


def test_a_candidates_failure_is_neither_an_error_nor_a_bypass(make):
    candidate = "extends: default\nfail: {input: {timeout: allow, timeout_ms: 0}}"
    guard = make({"next.yaml": candidate, "tenants/t.yaml": "extends: default\ncandidate: next"})
    assert guard.check(HELLO, "t").judgements[1].rule == "fail:timeout"
    assert kinds(guard.told) == [VerdictEvent]


def test_no_tenant_has_a_candidate_too(make):
    guard = make({"default.yaml": DEFAULT + "candidate: strict", "strict.yaml": STRICT})
    assert [one.role for one in guard.check(HELLO).judgements] == ["live", "candidate"]


# --- the floor


def test_the_floor_holds_for_every_tenant_and_names_its_rules(make):
    guard = make({"floor.yaml": FLOOR, "tenants/t.yaml": f"rules: [{ALLOW_ALL}]"})
    for tenant in (None, "t"):
        verdict = guard.check(Step(stage="input", text="poison, a hint"), tenant)
        assert (verdict.action, verdict.rule) == ("block", "floor:poison")
        assert verdict.matched == ("floor:poison", "floor:injection")
        assert verdict.message == "By order of the operator."
        assert verdict.policy == (tenant or "default")


def test_the_severer_of_tenant_and_floor_decides(make):
    guard = make({"floor.yaml": FLOOR})
    both = guard.check(ATTACK)
    assert (both.action, both.rule, both.matched) == ("block", "injection", ("injection", "floor:injection"))
    assert [(one.role, one.policy, one.action) for one in both.judgements] == [
        ("live", "default", "block"),
        ("floor", "floor", "flag"),
    ]
    assert both.judgements[1].version == guard.policies.named("floor").live.policy.version


def test_no_allow_list_of_a_tenant_reaches_into_the_floor(make):
    allow = "extends: default\nallow: [{name: ours, stages: [input], exact: ['poison, attack']}]"
    guard = make({"floor.yaml": FLOOR, "tenants/t.yaml": allow})
    verdict = guard.check(Step(stage="input", text="poison, attack"), "t")
    assert (verdict.action, verdict.rule) == ("block", "floor:poison")
    assert verdict.judgements[0].rule == "allow:ours"


def test_the_floor_has_a_fail_mode_of_its_own(make):
    lax = "extends: default\nfail: {input: allow}"
    guard = make({"floor.yaml": FLOOR, "tenants/t.yaml": lax})
    verdict = guard.check(Step(stage="input", text="boom"), "t")
    assert (verdict.action, verdict.rule, verdict.cause) == ("block", "floor:fail:error", "error")
    assert verdict.message == "By order of the operator."
    assert kinds(guard.told) == [VerdictEvent, ErrorEvent]
    lenient = make({"floor.yaml": FLOOR + "fail: {input: flag}", "tenants/t.yaml": lax})
    verdict = lenient.check(Step(stage="input", text="boom"), "t")
    assert (verdict.action, verdict.rule) == ("flag", "floor:fail:error")
    assert kinds(lenient.told) == [VerdictEvent, ErrorEvent, BypassEvent]


def test_rewrites_and_escalations_of_both_are_told(make):
    more = """
        message: No.
        rewrite: {clean: {kind: drop_spans}}
        escalations: {ask: {kind: queue}}
        rules:
          - {name: r, stages: [input], head: injection, threshold: 0.5, action: rewrite, rewrite: clean}
          - {name: e, stages: [input], head: safety, threshold: 0.5, action: escalate, escalation: ask}
    """
    guard = make({"floor.yaml": more, "tenants/t.yaml": more}, effects=Effects(ask=False))
    verdict = guard.check(Step(stage="input", text="attack, darn"), "t")
    assert (verdict.action, verdict.rule) == ("escalate", "e")
    assert verdict.rewrites == ("clean", "floor:clean")
    assert verdict.escalations == ("ask", "floor:ask")
    # This detector has no spans, so there is nothing to drop, and the next action is a block.
    assert guard.apply(Step(stage="input", text="attack"), "t").text is None


# --- one call, many tenants


@pytest.mark.parametrize("method", ["check_many", "acheck_many", "apply_many", "aapply_many"])
def test_steps_of_many_tenants_with_floor_and_candidate_are_one_call(make, detector, method):
    files = {f"tenants/t{at}.yaml": "extends: default\ncandidate: strict" for at in range(20)}
    guard = make({"floor.yaml": FLOOR, "strict.yaml": STRICT, **files})
    tenants = [f"t{at}" for at in range(20)]
    call(guard, method, [HELLO] * 20, tenants)
    assert detector.calls == [[HELLO.text] * 20]
    assert detector.keys == tenants


def test_every_verdict_carries_the_version_of_its_policy(make):
    guard = make({"floor.yaml": FLOOR, "tenants/a.yaml": STRICT, "tenants/b.yaml": SHADOW})
    steps = [HELLO, ATTACK, Step(stage="input", text="boom"), Step(stage="input", text="huge")]
    for tenant in (None, "a", "b"):
        version = guard.policy(tenant).version
        for verdict in guard.check_many(steps, tenant):
            assert verdict.policy_version == verdict.judgements[0].version == version
    assert len({guard.policy(tenant).version for tenant in (None, "a", "b")}) == 3


# --- tools


def test_a_rule_may_differ_for_some_tools(make):
    guard = make(
        {
            "tenants/t.yaml": """
                rules:
                  - name: injection
                    stages: [tool_output, input]
                    head: injection
                    threshold: 0.5
                    action: block
                    tools:
                      mail_*: {threshold: 0.3, message: Not from the mail.}
                      own_search: {action: allow}
                      "*_search": {action: flag}
            """
        }
    )

    def judged(tool: str | None, text: str) -> tuple[str, str | None]:
        ref = None if tool is None else ToolRef(name=tool)
        verdict = guard.check(Step(stage="tool_output", text=text, tool=ref), "t")
        return verdict.action, verdict.message

    no = "This request was stopped by a policy."
    assert judged(None, "attack") == ("block", no)
    assert judged("wiki", "attack") == ("block", no)
    assert judged("wiki", "hint") == ("allow", None)
    assert judged("mail_read", "hint") == ("block", "Not from the mail.")
    assert judged("own_search", "attack") == ("allow", None)
    assert judged("web_search", "attack") == ("flag", None)
    # At other stages a tool's name changes nothing.
    assert guard.check(Step(stage="input", text="attack", tool=ToolRef(name="own_search")), "t").blocked


# --- messages


def test_messages_hold_names_of_the_operator_and_nothing_of_the_user(make):
    guard = make(
        {
            "tenants/t.yaml": """
                extends: default
                locale: de
                message:
                  en: "{rule} at {stage} for {tenant} by {policy} {version} {{ok}}"
                  de: "Nein: {rule}"
            """
        }
    )
    text = "an attack {rule} {tenant.__class__} xyzzy"
    verdict = guard.check(Step(stage="input", text=text, context="plugh"), "t")
    assert verdict.message == "Nein: injection"
    assert verdict.messages == {
        "de": "Nein: injection",
        "en": f"injection at input for t by t {guard.policy('t').version} {{ok}}",
    }
    for word in ("xyzzy", "plugh", "__class__"):
        assert word not in repr(guard.told)


# --- reload


OTHER = DEFAULT.replace("No.", "Nope.").replace("block", "flag")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("default.yaml", OTHER),
        ("floor.yaml", FLOOR.replace("block", "flag")),
        ("tenants/t.yaml", "extends: default\nmode: shadow"),
    ],
)
def test_a_check_ends_under_the_policies_that_it_began_with(make, detector, method, file, content):
    files = {"default.yaml": DEFAULT, "floor.yaml": FLOOR, "tenants/t.yaml": "extends: default"}
    guard = make(files)
    text = Step(stage="input", text="poison attack")
    before = timeless(guard.check(text, "t"))
    swapped: list[Verdict] = []

    def swap() -> None:
        detector.meanwhile = lambda: None
        (guard.policies.path / file).write_text(content, encoding="utf-8")
        guard.reload()
        swapped.append(timeless(guard.check(text, "t")))

    detector.meanwhile = swap
    [during] = map(timeless, verdicts_of(call(guard, method, [text], ["t"])))
    [after] = swapped
    assert during == before
    assert after.judgements != before.judgements
    assert timeless(guard.check(text, "t")) == after


def test_sinks_are_told_of_what_is_taken_and_of_what_is_not(make):
    guard = make({"tenants/t.yaml": "extends: default"})
    before = guard.policy("t").version
    file = guard.policies.path / "tenants" / "t.yaml"
    file.write_text("extends: default\nmesage: Mine.", encoding="utf-8")
    guard.reload()
    guard.reload()
    [refused] = guard.told
    assert isinstance(refused, ReloadRefused)
    assert (refused.policy, refused.version) == ("t", before)
    assert refused.reason.startswith(f"{file}:2:1: mesage: ")
    assert guard.policy("t").version == before
    file.write_text("extends: default\nmessage: Mine.", encoding="utf-8")
    guard.reload()
    now = guard.policy("t").version
    assert guard.told[1:] == [PolicyReloaded(policy="t", version=now, before=before)]
    assert now != before


def test_a_tenant_that_was_refused_does_not_miss_what_its_parent_changed(make):
    guard = make({"tenants/t.yaml": "extends: default"})
    default, tenant = guard.policies.path / "default.yaml", guard.policies.path / "tenants" / "t.yaml"
    default.write_text(OTHER, encoding="utf-8")
    tenant.write_text("extends: nobody", encoding="utf-8")
    guard.reload()
    assert (guard.check(ATTACK).action, guard.check(ATTACK, "t").action) == ("flag", "block")
    # The tenant's file is again what it was, the default policy is not.
    tenant.write_text("extends: default", encoding="utf-8")
    guard.reload()
    assert guard.check(ATTACK, "t").action == "flag"
    assert guard.policy("t").version == guard.policy(None).version


def test_a_sink_that_fails_to_take_a_reload_keeps_no_other_from_it(make, caplog):
    guard = make({"tenants/t.yaml": "extends: default"})
    guard.policy("t")

    class Full:
        def emit(self, event: Event) -> None:
            raise OSError("disk full")

    guard._sinks = Sinks([Full(), guard._sinks])
    (guard.policies.path / "tenants" / "t.yaml").write_text(STRICT, encoding="utf-8")
    guard.reload()
    assert kinds(guard.told) == [PolicyReloaded]
    assert "the sink Full could not take PolicyReloaded" in caplog.text


# --- what takes long


async def test_a_tenants_first_step_does_not_block_the_event_loop(make, monkeypatch):
    guard = make({f"tenants/t{at}.yaml": "extends: default" for at in range(101)})
    loop, loading, released = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
    load = guard.policies._get

    def slow(tenant: str) -> Any:
        loop.call_soon_threadsafe(loading.set)
        assert released.wait(PATIENCE), "the event loop was blocked"
        return load(tenant)

    monkeypatch.setattr(guard.policies, "_get", slow)
    judging = asyncio.create_task(guard.acheck(ATTACK, "t7"))
    await asyncio.wait_for(loading.wait(), PATIENCE)
    asked = asyncio.create_task(guard.apolicy("t8"))
    await asyncio.sleep(0.01)
    released.set()
    assert (await judging).tenant == "t7"
    assert (await asked).name == "t8"
    # What was read is found without a thread.
    monkeypatch.setattr(asyncio, "to_thread", None)
    assert (await guard.apolicy("t7")).name == "t7"


def test_a_closed_guard_asks_no_detector_within_a_limit(make):
    guard = make({"tenants/t.yaml": LIMITED.replace("timeout: flag", "error: block") % 60_000})
    assert guard.check(HELLO, "t").action == "allow"
    guard.close()
    assert guard.check(HELLO, "t").rule == "fail:error"


@pytest.mark.parametrize("stage", ["input", "output"])
def test_judgements_and_causes_make_a_verdict_that_can_be_sent(make, stage):
    guard = make({"floor.yaml": FLOOR, "tenants/t.yaml": "extends: default\nfail: {input: flag, output: flag}"})
    verdict = guard.check(Step(stage=stage, text="boom"), "t")
    told = verdict.to_dict()
    assert told["cause"] == "error"
    assert [one["role"] for one in told["judgements"]] == ["live", "floor"]
    assert dataclasses.replace(verdict) == verdict
