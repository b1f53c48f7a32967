"""Plans: which steps are whose, and what becomes of values by what came of their steps."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from lec_guard import PolicyError, UnsupportedValueError, Verdict
from lec_guard.chain.lens import read
from lec_guard.chain.plan import Passed, Plan, acted, unread
from lec_guard.chain.segments import UneditableError
from lec_guard.chain.streaming import Stream, read_stream
from lec_guard.errors import EscalationPending
from lec_guard.step import Edit, Outcome, Step


def verdict(step: Step, action: Any = "allow") -> Verdict:
    return Verdict(
        action=action,
        rule=None,
        scores={},
        windows=1,
        context_read=False,
        stage=step.stage,
        tenant=None,
        policy="default",
        policy_version="1",
        detector_id="none",
        backend="none",
        ms=0.0,
    )


def came(step: Step, text: str | None = None, *, edits: tuple[Edit, ...] = (), **more: Any) -> Outcome:
    return Outcome(verdict=verdict(step), text=step.text if text is None else text, edits=edits, **more)


def stopped(step: Step, **more: Any) -> Outcome:
    return Outcome(verdict=verdict(step), text=None, **more)


@pytest.fixture
def plan() -> Plan:
    made = Plan()
    one, two = read([HumanMessage("a"), AIMessage("b")]), read("c", "input")
    made.add(one, one.steps, "acme")
    made.refuse(PolicyError("unknown"))
    made.add(two, two.steps, None)
    return made


def test_steps_are_sorted_by_value(plan: Plan):
    assert [step.text for step in plan.steps] == ["a", "b", "c"]
    assert plan.tenants == ["acme", "acme", None]
    assert plan.of_values([1, 2, 3]) == [[1, 2], [], [3]]
    assert list(plan.errors) == [1]
    assert plan.readings[1] is None


def test_an_edit_has_to_fit_its_own_value(plan: Plan):
    seen: list[Any] = []
    plan.fits(2, [Edit(start=0, end=1, replacement="long")], also=seen.append)
    assert seen == ["long"]
    with pytest.raises(UneditableError):
        plan.fits(2, [Edit(start=0, end=9, replacement="")])

    def refuse(_: Any) -> None:
        raise UneditableError("no")

    with pytest.raises(UneditableError):
        plan.fits(0, [], also=refuse)


def test_what_two_edits_make_together_is_nobodys():
    reading = read([HumanMessage([{"type": "text", "text": "ig"}, {"type": "text", "text": "nore"}])])
    assert [step.text for step in reading.steps] == ["ig\nnore", "ignore"]
    outcomes = [came(reading.steps[0], "i\nnore"), came(reading.steps[1], "igno")]
    new = reading.again([HumanMessage([{"type": "text", "text": "i"}, {"type": "text", "text": "no"}])])
    assert [step.text for step in unread(reading, outcomes, new.steps)] == ["i\nno", "ino"]
    # One that may not pass stays as it was.
    assert unread(reading, [stopped(one) for one in reading.steps], reading.steps) == []


def test_a_value_is_held_back_for_what_nobody_judged():
    edits = (Edit(start=0, end=1, replacement="x"),), (Edit(start=1, end=2, replacement="y"),)
    reading = read([HumanMessage([{"type": "text", "text": "ab"}, {"type": "text", "text": "cd"}])])
    plan = Plan()
    plan.add(reading, reading.steps, "acme")
    outcomes = [came(reading.steps[0], "xb\ncd", edits=edits[0]), came(reading.steps[1], "aycd", edits=edits[1])]
    passed: list[Any] = [acted(reading.value, reading, outcomes)]
    found = plan.unread(passed, outcomes)
    assert [step.text for step in found.steps] == ["xy\ncd", "xycd"]
    assert (found.tenants, found.owners) == (["acme", "acme"], [0, 0])
    found.hold_back(passed, [verdict(step, "flag") for step in found.steps])
    assert not passed[0].verdict.blocked
    found.hold_back(passed, [verdict(step, "rewrite") for step in found.steps])
    assert passed[0].verdict.blocked


def test_of_values_that_may_not_pass_nothing_is_left_to_judge(plan: Plan):
    outcomes = [came(step) for step in plan.steps]
    passed = [Passed(verdict(plan.steps[0], "block"), None, {}), PolicyError("unknown"), PolicyError("unknown")]
    assert plan.unread(passed, outcomes).steps == []
    assert plan.joins(passed, outcomes).joined == []


def test_what_is_held_waits_or_is_a_block():
    reading = read("a", "input")
    found = acted("a", reading, [stopped(reading.steps[0])])
    assert isinstance(found, Passed)
    assert found.verdict.blocked
    assert isinstance(acted("a", reading, [stopped(reading.steps[0], ticket="t1")]), EscalationPending)


def test_a_stream_passes_as_its_chunks():
    reading = read_stream(["a", "b"], "output")
    chunks = ["a", "b"]
    same = acted(Stream(chunks), reading, [came(reading.steps[0])])
    assert isinstance(same, Passed)
    assert same.value is chunks
    other = acted(
        Stream(chunks), reading, [came(reading.steps[0], "xb", edits=(Edit(start=0, end=1, replacement="x"),))]
    )
    assert isinstance(other, Passed)
    assert other.value == ["xb"]
    assert [step.text for step in reading.again(other.value).steps] == ["xb"]


def test_a_value_is_read_again_as_it_was():
    reading = read("a", "output", "why")
    assert reading.again("b").steps == [Step(stage="output", text="b", context="why")]
    with pytest.raises(UnsupportedValueError):
        reading.again(object())
