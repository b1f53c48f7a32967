"""From a verdict to its outcome: rewrites, the second judgement, whoever is asked, and what the floor keeps."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lec_guard import (
    Case,
    EffectEvent,
    Effects,
    EscalationPending,
    EscalationResolved,
    Escalator,
    Guard,
    Origin,
    Outcome,
    PolicyError,
    Reply,
    Rewriter,
    Rewriting,
    Step,
    Subject,
    UnsupportedValueError,
    VerdictEvent,
)
from lec_guard.step import Edit
from lec_guard.testing import KeywordDetector
from tests.conftest import write_policies
from tests.test_guard import Recorder

DETECTOR = {
    "injection": {"injection": ["attack"]},
    "safety": {"unsafe": ["poison"], "rude": ["darn"]},
    "secret": {"secret": ["hush"]},
    "web": {"third": ["click"]},
}
POLICY = """
    message: No.
    rewrite:
      soften: {kind: registered, name: soften}
      hide: {kind: registered, name: hide}
      ask_then: {kind: registered, name: soften, then: escalate, escalation: boss}
    escalations:
      boss: {kind: registered, name: boss}
      second: {kind: registered, name: second, on_timeout: allow, on_error: allow}
    rules:
      - {name: block, stages: [input, output], head: injection, threshold: 0.5, action: block}
      - {name: rude, stages: [input], head: safety, labels: [rude], threshold: 0.5, action: rewrite, rewrite: soften}
      - {name: secret, stages: [input], head: secret, threshold: 0.5, action: rewrite, rewrite: hide}
      - {name: ask, stages: [input], head: safety, labels: [unsafe], threshold: 0.5, action: escalate, escalation: boss}
"""


class Words(Rewriter):
    """Puts one word in the place of another, wherever it stands."""

    def __init__(self, word: str, instead: str) -> None:
        self.word, self.instead = word, instead
        self.subjects: list[Subject] = []

    def rewrite(self, subject: Subject) -> Rewriting:
        self.subjects.append(subject)
        text, edits, at = subject.step.text.lower(), [], 0
        while (at := text.find(self.word, at)) >= 0:
            edits.append(Edit(start=at, end=at + len(self.word), replacement=self.instead))
            at += len(self.word)
        return Rewriting(edits=tuple(edits))


class Boss(Escalator):
    """Answers as told."""

    def __init__(self, answer: Reply | Exception | Callable[[Case], Reply] = Reply(answer="allow")) -> None:  # noqa: B008
        self.answer = answer
        self.cases: list[Case] = []
        self.closed = False

    def ask(self, case: Case) -> Reply:
        self.cases.append(case)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer(case) if callable(self.answer) else self.answer

    def close(self) -> None:
        self.closed = True


class World:
    """A guard with everything that can be told apart about it."""

    def __init__(self, folder: Path, files: dict[str, str] | None = None, **changes: Any) -> None:
        self.soften, self.hide = Words("darn", "dear"), Words("hush", "[hidden]")
        self.boss, self.second = Boss(), Boss()
        self.recorder = Recorder()
        self.detector = KeywordDetector(DETECTOR)
        given = {
            "rewriters": {"soften": self.soften, "hide": self.hide},
            "escalators": {"boss": self.boss, "second": self.second},
            "key": b"k" * 32,
        }
        self.guard = Guard.from_policies(
            write_policies(folder / "policies", {"default.yaml": POLICY} | (files or {})),
            detector=self.detector,
            sinks=[self.recorder],
            effects=Effects(**given | changes),
        )

    def apply(self, text: str, tenant: str | None = None, stage: str = "input", *, is_async: bool = False) -> Outcome:
        step = Step(stage=stage, text=text)  # type: ignore[arg-type]
        return asyncio.run(self.guard.aapply(step, tenant)) if is_async else self.guard.apply(step, tenant)

    def told(self, kind: type) -> list[Any]:
        return [event for event in self.recorder.events if isinstance(event, kind)]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


BOTH = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


# --- rewrites


@BOTH
def test_a_text_is_rewritten_judged_once_more_and_passes(world: World, is_async: bool):
    outcome = world.apply("Oh darn, darn it.", is_async=is_async)
    assert outcome.text == "Oh dear, dear it."
    assert outcome.verdict.action == "rewrite"
    assert outcome.verdict.rule == "rude"
    assert outcome.edits == (Edit(start=3, end=7, replacement="dear"), Edit(start=9, end=13, replacement="dear"))
    assert [step.text for step in world.detector.seen] == ["Oh darn, darn it.", "Oh dear, dear it."]
    # One verdict event a step; the second judgement is part of what came of it.
    assert len(world.told(VerdictEvent)) == 1
    [effect] = world.told(EffectEvent)
    assert (effect.result, effect.rewrites, effect.failed) == ("rewritten", ("soften",), ())
    assert effect.again.action == "allow"
    assert effect.ms > 0


@BOTH
def test_all_rewrites_that_match_apply_at_once(world: World, is_async: bool):
    outcome = world.apply("darn, hush!", is_async=is_async)
    assert outcome.text == "dear, [hidden]!"
    assert len(world.detector.seen) == 2


@BOTH
def test_a_rewrite_that_leaves_what_was_found_becomes_a_block(world: World, is_async: bool):
    world.soften.instead = "darnest"
    outcome = world.apply("darn", is_async=is_async)
    assert (outcome.text, outcome.verdict.action, outcome.verdict.rule) == (None, "block", "rude")
    assert outcome.verdict.message == "No."
    [effect] = world.told(EffectEvent)
    assert (effect.result, effect.again.action) == ("blocked", "rewrite")
    assert len(world.detector.seen) == 2


@BOTH
def test_a_rewrite_that_makes_an_attack_is_blocked_by_the_rule_that_finds_it(world: World, is_async: bool):
    world.soften.instead = "attack"
    outcome = world.apply("darn", is_async=is_async)
    assert (outcome.text, outcome.verdict.action, outcome.verdict.rule) == (None, "block", "block")


class Broken(Rewriter):
    def __init__(self, result: Any) -> None:
        self.result = result

    def rewrite(self, subject: Subject) -> Rewriting:
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


BAD = {
    "nothing to change": Rewriting(edits=()),
    "RuntimeError": RuntimeError("darn is in here"),
    "not a Rewriting": "dear",
    "UnsupportedValueError": Rewriting(edits=(Edit(start=2, end=99, replacement=""),)),
    "UnsupportedValueError: overlap": Rewriting(
        edits=(Edit(start=0, end=3, replacement=""), Edit(start=1, end=4, replacement=""))
    ),
}


@BOTH
@pytest.mark.parametrize("why", BAD)
def test_a_rewriter_that_fails_lets_nothing_pass(tmp_path: Path, why: str, is_async: bool):
    world = World(tmp_path, rewriters={"soften": Broken(BAD[why]), "hide": Words("hush", "")})
    outcome = world.apply("darn, hush", is_async=is_async)
    assert (outcome.text, outcome.verdict.action) == (None, "block")
    [effect] = world.told(EffectEvent)
    assert effect.failed == (f"soften: {why.partition(':')[0]}",)
    assert effect.result == "blocked"
    # What the other one did is not judged: it would not pass anyway.
    assert len(world.detector.seen) == 1


def test_what_a_failing_rewrite_becomes_can_be_asked_about(tmp_path: Path):
    asking = POLICY.replace("rewrite: soften}", "rewrite: ask_then}")
    world = World(tmp_path, {"default.yaml": asking})
    world.soften.instead = "darnest"
    assert world.apply("darn").text == "darnest"
    [case] = world.boss.cases
    assert (case.section, case.step.text) == ("boss", "darnest")
    world.boss.answer = Reply(answer="block")
    assert world.apply("darn").text is None
    # One that helped asks nobody.
    world.soften.instead = "dear"
    assert world.apply("darn").text == "dear"
    assert len(world.boss.cases) == 2


def test_spans_of_the_rule_alone_are_given_to_its_rewriter(world: World):
    world.apply("hush and darn")
    [subject] = world.hide.subjects
    assert {span.head for span in subject.spans} <= {"secret"}
    assert subject.tenant is None


def test_many_steps_are_rewritten_apart_and_in_order(world: World):
    texts = ["darn", "hello", "attack", "hush", "darn attack", ""]
    outcomes = world.guard.apply_many([Step(stage="input", text=text) for text in texts])
    assert [outcome.text for outcome in outcomes] == ["dear", "hello", None, "[hidden]", None, ""]


# --- escalations


@BOTH
def test_who_is_asked_decides(world: World, is_async: bool):
    outcome = world.apply("poison", is_async=is_async)
    assert (outcome.text, outcome.verdict.action, outcome.edits) == ("poison", "escalate", ())
    [case] = world.boss.cases
    assert (case.step.text, case.section, case.verdict.rule) == ("poison", "boss", "ask")
    world.boss.answer = Reply(answer="block", by="ana")
    outcome = world.apply("poison", is_async=is_async)
    assert (outcome.text, outcome.verdict.action, outcome.verdict.rule) == (None, "block", "ask")
    allowed, blocked = world.told(EscalationResolved)
    assert (allowed.resolution, allowed.follows, allowed.by) == ("allow", "allow", None)
    assert (blocked.resolution, blocked.follows, blocked.by) == ("block", "block", "ana")
    assert allowed.key == blocked.key == case.key
    assert [effect.result for effect in world.told(EffectEvent)] == ["passed", "blocked"]


@BOTH
def test_an_edit_passes_if_it_is_harmless(world: World, is_async: bool):
    world.boss.answer = Reply(answer="edit", text="porridge", by="ana")
    outcome = world.apply("poison", is_async=is_async)
    assert outcome.text == "porridge"
    assert world.detector.seen[-1].text == "porridge"
    assert world.told(EffectEvent)[0].result == "rewritten"


@BOTH
@pytest.mark.parametrize("text", ["an attack", "more poison", "darn", "hush"])
def test_an_edit_that_any_rule_would_act_on_does_not_pass(world: World, text: str, is_async: bool):
    world.boss.answer = Reply(answer="edit", text=text)
    outcome = world.apply("poison", is_async=is_async)
    assert (outcome.text, outcome.verdict.action) == (None, "block")
    assert world.told(EffectEvent)[0].again is not None


def test_an_edit_that_changes_nothing_is_an_approval(world: World):
    world.boss.answer = Reply(answer="edit", text="poison")
    assert world.apply("poison").text == "poison"
    assert len(world.detector.seen) == 1


@BOTH
def test_what_matched_besides_still_applies_when_somebody_allows(world: World, is_async: bool):
    outcome = world.apply("darn poison", is_async=is_async)
    assert outcome.text == "dear poison"
    # Who decides sees what would pass.
    assert [case.step.text for case in world.boss.cases] == ["dear poison"]
    assert world.apply("attack poison", is_async=is_async).text is None
    assert len(world.boss.cases) == 1


FAILURES = {
    "timeout": (TimeoutError(), "timeout"),
    "error": (RuntimeError("poison"), "error"),
}


@BOTH
@pytest.mark.parametrize("kind", FAILURES)
@pytest.mark.parametrize("section", ["boss", "second"])
def test_a_timeout_and_a_failure_are_what_the_policy_says(tmp_path: Path, section: str, kind: str, is_async: bool):
    world = World(tmp_path, {"default.yaml": POLICY.replace("escalation: boss}\n", f"escalation: {section}}}\n")})
    error, resolution = FAILURES[kind]
    world.boss.answer = world.second.answer = error
    outcome = world.apply("poison", is_async=is_async)
    assert outcome.text == ("poison" if section == "second" else None)
    [resolved] = world.told(EscalationResolved)
    assert (resolved.resolution, resolved.failure) == (resolution, type(error).__name__)
    assert resolved.follows == ("allow" if section == "second" else "block")
    assert "poison" not in repr(resolved)


@BOTH
@pytest.mark.parametrize("answer", [None, "allow", {"answer": "allow"}, True], ids=str)
def test_an_answer_that_is_none_is_a_failure(world: World, answer: Any, is_async: bool):
    world.boss.answer = lambda case: answer
    assert world.apply("poison", is_async=is_async).text is None


@pytest.mark.parametrize("answer", [("allow", "x"), ("edit", None), ("yes", None)], ids=str)
def test_an_answer_must_make_sense(answer: tuple[Any, Any]):
    with pytest.raises(ValueError, match=r"edit|unknown"):
        Reply(answer=answer[0], text=answer[1])


@BOTH
def test_where_somebody_has_yet_to_decide_there_is_a_ticket_and_no_text(world: World, is_async: bool):
    def later(case: Case) -> Reply:
        raise EscalationPending(case.verdict, "t-1")

    world.boss.answer = later
    outcome = world.apply("poison", is_async=is_async)
    assert (outcome.text, outcome.ticket, outcome.verdict.action) == (None, "t-1", "escalate")
    assert [effect.result for effect in world.told(EffectEvent)] == ["pending"]
    assert world.told(EscalationResolved) == []
    world.boss.answer = Reply(answer="allow")
    assert world.apply("poison", is_async=is_async).text == "poison"
    first, second = world.boss.cases
    assert first.key == second.key


def test_the_key_of_a_case_tells_apart_what_differs_and_nothing_else(tmp_path: Path):
    files = {"tenants/acme.yaml": "extends: default", "tenants/b.yaml": "extends: default\nmessage: Never."}
    world = World(tmp_path, files)
    same = Step(stage="input", text="poison")
    others = [
        Step(stage="input", text="poison!"),
        Step(stage="input", text="poison", context="Be kind."),
    ]
    steps = [(same, None), (same, None), *((step, None) for step in others), (same, "acme"), (same, "b")]
    for step, tenant in steps:
        world.guard.apply(step, tenant)
    keys = [case.key for case in world.boss.cases]
    assert keys[0] == keys[1]
    assert len(set(keys)) == len(keys) - 1
    assert all(len(key) == 32 for key in keys)
    other = World(tmp_path / "other", files, key=b"o" * 32)
    other.guard.apply(same)
    assert other.boss.cases[0].key not in keys


def test_nobody_is_asked_twice_and_all_have_to_allow(tmp_path: Path):
    rules = (
        "\n      - {name: b, stages: [input], head: web, threshold: 0.5, action: escalate, escalation: second}"
        "\n      - {name: c, stages: [input], head: web, threshold: 0.1, action: escalate, escalation: boss}"
    )
    world = World(tmp_path, {"default.yaml": POLICY.rstrip() + rules})
    assert world.apply("poison, click").text == "poison, click"
    assert (len(world.boss.cases), len(world.second.cases)) == (1, 1)
    world.boss.answer = Reply(answer="block")
    assert world.apply("poison, click").text is None
    # After one no, nobody else is troubled.
    assert (len(world.boss.cases), len(world.second.cases)) == (2, 1)


@BOTH
def test_effects_of_a_batch_are_waited_for_at_once(tmp_path: Path, is_async: bool):
    world = World(tmp_path)
    meeting = threading.Barrier(4, timeout=20)

    def together(case: Case) -> Reply:
        meeting.wait()
        return Reply(answer="allow")

    world.boss.answer = together
    steps = [Step(stage="input", text=f"poison {at}") for at in range(4)]
    outcomes = asyncio.run(world.guard.aapply_many(steps)) if is_async else world.guard.apply_many(steps)
    assert [outcome.text for outcome in outcomes] == [step.text for step in steps]


class Stops(Exception):
    """How a graph is stopped."""


class Interrupting(Boss):
    passes = (Stops,)
    reruns = True

    async def aask(self, case: Case) -> Reply:
        return self.ask(case)


INTERRUPTING = POLICY.replace("{kind: registered, name: boss}", "{kind: interrupt}")


@BOTH
def test_what_stops_a_graph_goes_to_the_caller_and_is_asked_where_it_stands(tmp_path: Path, is_async: bool):
    threads: list[threading.Thread] = []

    def where(case: Case) -> Reply:
        threads.append(threading.current_thread())
        return Reply(answer="allow")

    interrupt = Interrupting(Stops())
    world = World(tmp_path, {"default.yaml": INTERRUPTING}, interrupt=interrupt)
    steps = [Step(stage="input", text=f"poison {at}") for at in range(3)]

    def run() -> list[Outcome]:
        return asyncio.run(world.guard.aapply_many(steps)) if is_async else world.guard.apply_many(steps)

    with pytest.raises(Stops):
        run()
    # In order: the first one stops the graph before the others are asked.
    assert [case.step.text for case in interrupt.cases] == ["poison 0"]
    assert world.told(EscalationResolved) == []
    interrupt.answer = where
    assert [outcome.text for outcome in run()] == [step.text for step in steps]
    assert threads == [threading.current_thread()] * 3
    assert world.guard.reruns(steps[0]) == "boss"
    assert world.guard.reruns(Step(stage="output", text="")) is None


def test_nobody_is_asked_where_that_is_said(tmp_path: Path):
    world = World(tmp_path, {"default.yaml": INTERRUPTING}, ask=False)
    outcome = world.apply("poison")
    assert (outcome.text, outcome.verdict.action, outcome.ticket) == (None, "escalate", None)
    assert world.apply("darn").text == "dear"


# --- the floor


FLOORS = {
    "floor.yaml": """
        rewrite: {clean: {kind: registered, name: hide}}
        escalations: {soften: {kind: registered, name: boss}}
        rules:
          - {name: f1, stages: [input], head: secret, threshold: 0.5, action: rewrite, rewrite: clean}
          - {name: f2, stages: [input], head: web, threshold: 0.5, action: escalate, escalation: soften}
    """,
    "tenants/t.yaml": """
        rewrite: {clean: {kind: registered, name: soften}}
        escalations: {soften: {kind: registered, name: second}}
        rules:
          - {name: r, stages: [input], head: safety, labels: [rude], threshold: 0.5, action: rewrite, rewrite: clean}
          - {name: e, stages: [input], head: safety, labels: [unsafe], threshold: 0.5, action: escalate,
             escalation: soften}
    """,
}


@BOTH
def test_outcomes_obey_the_floor(tmp_path: Path, is_async: bool):
    world = World(tmp_path, FLOORS)
    assert world.apply("darn hush", "t", is_async=is_async).text == "dear [hidden]"
    assert [event.rewrites for event in world.told(EffectEvent)] == [("clean", "floor:clean")]
    assert world.apply("poison click", "t", is_async=is_async).text == "poison click"
    assert ([case.section for case in world.boss.cases], [case.section for case in world.second.cases]) == (
        ["floor:soften"],
        ["soften"],
    )
    # What the tenant's section says of timeouts does not count for the floor's, whatever they are called.
    for answer in (Reply(answer="block"), TimeoutError(), RuntimeError()):
        world.boss.answer = answer
        assert world.apply("poison click", "t", is_async=is_async).text is None
        assert world.apply("poison", "t", is_async=is_async).text == "poison"
    # And what the tenant's people write is held against the floor.
    world.boss.answer, world.second.answer = Reply(answer="allow"), Reply(answer="edit", text="hush")
    assert world.apply("poison", "t", is_async=is_async).text is None


def test_every_mix_of_answers_lets_pass_only_what_all_allow(tmp_path: Path):
    world = World(tmp_path, FLOORS)
    answers = [Reply(answer="allow"), Reply(answer="block"), TimeoutError(), RuntimeError()]
    for floor, own in itertools.product(answers, answers):
        world.boss.answer, world.second.answer = floor, own
        passes = floor == answers[0] and own == answers[0]
        assert (world.apply("poison click", "t").text is not None) is passes


# --- what a policy asks for has to be there


MISSING = {
    "rewriters": ("rewrite.soften: nothing is registered as 'soften'", {"rewriters": {"softer": Words("a", "b")}}),
    "escalators": ("escalations.boss: nothing is registered as 'boss'", {"escalators": {}}),
}


@pytest.mark.parametrize("what", MISSING)
def test_what_is_not_registered_is_told_at_load(tmp_path: Path, what: str):
    said, changes = MISSING[what]
    with pytest.raises(PolicyError, match=r"default\.yaml:") as caught:
        World(tmp_path, **changes)
    _, _, words = said.partition(": ")
    assert words in str(caught.value)
    assert "Effects(" in str(caught.value)


def test_sections_that_no_rule_uses_need_nothing(tmp_path: Path):
    lines = POLICY.splitlines()
    unused = "\n".join(line for line in lines if "action: rewrite" not in line and "action: escalate" not in line)
    World(tmp_path, {"default.yaml": unused}, rewriters={}, escalators={})


def test_an_interrupt_needs_an_integration(tmp_path: Path):
    with pytest.raises(PolicyError, match="LangGraph"):
        World(tmp_path, {"default.yaml": INTERRUPTING})


def test_a_change_that_asks_for_what_is_not_there_is_refused(tmp_path: Path):
    world = World(tmp_path)
    file = tmp_path / "policies" / "default.yaml"
    file.write_text(file.read_text().replace("name: soften}", "name: harden}"))
    world.guard.reload()
    assert world.apply("darn").text == "dear"


def test_a_guard_closes_whom_it_made(world: World):
    world.apply("poison")
    world.guard.close()
    # What the application gave is the application's.
    assert not world.boss.closed


def test_a_key_that_is_too_short_is_refused(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UnsupportedValueError, match="32 or more"):
        Effects(key=b"short")
    monkeypatch.setenv("LEC_GUARD_KEY", "x" * 40)
    assert Effects().key == b"x" * 40
    assert "x" * 40 not in repr(Effects())


def test_what_stands_instead_of_a_text_is_in_the_policys_language_and_may_name_the_rule(tmp_path: Path):
    swap = """
        locale: de
        message: {de: Nein., en: "No."}
        rewrite: {swap: {kind: replace, text: {en: "Gone ({rule})", de: "Weg ({rule}, {tenant})"}}}
        rules: [{name: rude, stages: [input], head: safety, threshold: 0.5, action: rewrite, rewrite: swap}]
    """
    world = World(tmp_path, {"tenants/t.yaml": swap})
    assert world.apply("darn", "t").text == "Weg (rude, t)"


@BOTH
def test_a_quarantine_that_is_handed_on_is_explained_again(tmp_path: Path, is_async: bool):
    wrap = "soften: {kind: quarantine}"
    world = World(tmp_path, {"default.yaml": POLICY.replace("soften: {kind: registered, name: soften}", wrap)})
    first = world.apply("oh darn", is_async=is_async)
    assert first.text is not None
    assert len(first.notes) == 1
    again = world.apply(first.text, is_async=is_async)
    assert (again.text, again.notes) == (first.text, first.notes)
    assert world.apply("hello", is_async=is_async).notes == ()


# --- a chat model that is guided


class Guided:
    """Says how it is guided."""

    def __init__(self, said: str = "plain", most: float = 100.0) -> None:
        self.said, self.most = said, most

    def guided(self, coefficient: float, space: str) -> Guided:
        if coefficient > self.most:
            raise ValueError("too much")
        return Guided(f"{coefficient:g} {space}")

    def invoke(self, messages: Any) -> str:
        return self.said

    async def ainvoke(self, messages: Any) -> str:
        return self.said


def anew(said: str) -> str:
    section = f"soften: {{kind: regenerate, instruction: x, model: local{said}}}"
    return POLICY.replace("soften: {kind: registered, name: soften}", section)


FLOOR_RULE = "rules: [{name: f, stages: [input], head: web, threshold: 0.5, action: block}]\n"


@BOTH
@pytest.mark.parametrize(
    ("own", "floor", "text"),
    [
        ("", "", "plain"),
        (", guidance: 2", "", "2 log"),
        (", guidance: {coefficient: 2.5, space: probability}", "", "2.5 probability"),
        (", guidance: 1", "", "1 log"),
        (", guidance: 2", "guidance: 3\n", "3 log"),
        (", guidance: 4", "guidance: {coefficient: 3, space: probability}\n", "4 probability"),
        # Who wrote a step that does not say so is not known.
        (", guidance: 2", "guidance: {origins: {third_party: 5}}\n", "5 log"),
        (", guidance: 2", "guidance: 3\nmode: shadow\n", "2 log"),
        ("", "guidance: 3\n", "plain"),
    ],
)
def test_a_text_is_written_anew_with_guidance_and_never_with_less_than_the_floors(
    tmp_path: Path, own: str, floor: str, text: str, is_async: bool
):
    files = {"default.yaml": anew(own)} | ({"floor.yaml": floor + FLOOR_RULE} if floor else {})
    world = World(tmp_path, files, models={"local": Guided()})
    assert world.apply("oh darn", is_async=is_async).text == text


def test_who_wrote_the_text_decides_how_much_the_floor_asks_for(tmp_path: Path):
    files = {
        "default.yaml": anew(", guidance: 2"),
        "floor.yaml": "guidance: {origins: {third_party: 5}}\n" + FLOOR_RULE,
    }
    guard = World(tmp_path, files, models={"local": Guided()}).guard
    for trust, text in (("user", "2 log"), ("third_party", "5 log")):
        assert guard.apply(Step(stage="input", text="darn", origin=Origin(trust=trust))).text == text  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (object(), "guidance: object can't be guided, for it has no"),
        (Guided(most=1.5), "guidance: Guided can't be guided so: too much"),
    ],
)
def test_guidance_of_a_model_that_can_not_is_refused_at_load_with_its_place(tmp_path: Path, model: Any, told: str):
    with pytest.raises(PolicyError, match=rf"default\.yaml:4:3: {told}"):
        World(tmp_path, {"default.yaml": anew(", guidance: 2")}, models={"local": model})
    World(tmp_path, {"default.yaml": anew("")}, models={"local": model})
    World(tmp_path, {"default.yaml": anew(", guidance: 2")}, models={}, ask=False)


@BOTH
def test_what_the_floor_asks_for_and_the_model_can_not_is_a_rewrite_that_failed(tmp_path: Path, is_async: bool):
    files = {"default.yaml": anew(", guidance: 2"), "floor.yaml": "guidance: 3\n" + FLOOR_RULE}
    world = World(tmp_path, files, models={"local": Guided(most=2.0)})
    outcome = world.apply("darn", is_async=is_async)
    assert (outcome.text, outcome.verdict.action) == (None, "block")
    assert world.told(EffectEvent)[0].failed == ("soften: UnsupportedValueError",)
