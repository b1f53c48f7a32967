"""The floor holds: with it, no text passes that would not pass under the floor alone, and none passes fewer checks.

Policies are real files and verdicts those of a real guard; only the detectors are scripted. What acting on a verdict
gives is a small model here: a text passes if the verdict is no block and all who are asked allow it, or do not answer
and the section says that this is as good; after the rewrites that the verdict names.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from lec_guard import Effects, Guard, Scores, Step, ToolRef, Verdict, judging
from lec_guard import guard as guarding
from lec_guard.detect.asking import Answer
from lec_guard.detect.pool import DetectorPool
from lec_guard.errors import BundleError, DetectorError
from lec_guard.policy.decide import FLOOR_PREFIX, Decision, compose
from lec_guard.step import ACTIONS

LABELS = {"a": ("x", "y"), "b": ("z",)}
STAGES = ("input", "tool_output")
TEXTS = ("hello", "hello world", "x" * 40)
STEPS = [
    Step(stage=stage, text=text, tool=tool)
    for stage in STAGES
    for text in TEXTS
    for tool in ((None,) if stage == "input" else (None, ToolRef(name="t1")))
]


# --- what may happen


@dataclass(frozen=True)
class Answered:
    """What a detector does with a text: scores it in so many milliseconds, or fails."""

    how: str
    values: tuple[float, ...]
    ms: float

    def answer(self, limit_s: float | None) -> Answer:
        if limit_s is not None and self.ms > limit_s * 1000:
            return Answer(scores=None, late=True, ms=limit_s * 1000)
        if self.how == "error":
            return Answer(scores=None, error=DetectorError("broken"), ms=self.ms)
        pairs = [(head, label) for head, labels in LABELS.items() for label in labels]
        by_head: dict[str, dict[str, float]] = {}
        for (head, label), value in zip(pairs, self.values, strict=True):
            by_head.setdefault(head, {})[label] = value
        if self.how == "lacks":
            del by_head["a"]
        unread = {"unread": "nothing to read", "budget": "too long"}.get(self.how)
        return Answer(
            scores=Scores(
                by_head={} if unread else by_head,
                unread=unread,
                over_budget=self.how == "budget",
                detector_id="scripted",
                backend="none",
            ),
            ms=self.ms,
        )


class Scripted:
    """A detector that is asked by `Script` alone."""

    labels = LABELS

    def __init__(self, said: Mapping[str, Answered]) -> None:
        self.said = said

    def score(self, steps: Sequence[Step], **_: object) -> list[Scores]:
        raise AssertionError("asked past the script")


class Script:
    """Asks scripted detectors, so that nobody has to wait for what is late."""

    def ask(self, detector: Scripted, steps: Sequence[Step], _: object, limit_s: float | None) -> list[Answer]:
        return [detector.said[step.text].answer(limit_s) for step in steps]


@dataclass(frozen=True)
class Case:
    """Policies, and what the detectors do."""

    floor: dict[str, Any]
    tenant: dict[str, Any]
    shared: Mapping[str, Answered]
    own: Mapping[str, Answered]
    own_is_lost: bool
    who: str | None

    def __repr__(self) -> str:
        return (
            f"floor:\n{json.dumps(self.floor, indent=1)}\ntenant {self.who}:\n{json.dumps(self.tenant, indent=1)}\n"
            + "\n".join(
                f"{name}: {said}"
                for name, said in (("shared", self.shared), ("own", self.own), ("lost", self.own_is_lost))
            )
        )


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


def given_keys(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A mapping without the keys that came out as None."""
    return st.fixed_dictionaries(keys).map(
        lambda made: {key: value for key, value in made.items() if value is not None}
    )


answered = st.builds(
    Answered,
    how=st.sampled_from(["ok", "ok", "ok", "ok", "error", "budget", "unread", "lacks"]),
    values=st.tuples(*[st.sampled_from([0.0, 0.3, 0.6, 0.9])] * 3),
    ms=st.sampled_from([1.0, 1.0, 100.0, 1000.0]),
)
said = st.fixed_dictionaries(dict.fromkeys(TEXTS, answered))

SECTIONS = {"rewrite": ("drop", "swap"), "escalate": ("ask", "call")}
SECTION = {"rewrite": "rewrite", "escalate": "escalation"}


def acting(action: str) -> st.SearchStrategy[dict[str, Any]]:
    if action not in SECTIONS:
        return st.just({"action": action})
    return st.sampled_from(SECTIONS[action]).map(lambda name: {"action": action, SECTION[action]: name})


actions = st.sampled_from(ACTIONS).flatmap(acting)
stages = st.sampled_from([["input"], ["tool_output"], list(STAGES)])
thresholds = st.sampled_from([0.25, 0.5, 0.75])


@st.composite
def rules(draw: st.DrawFn, name: str) -> dict[str, Any]:
    head = draw(st.sampled_from(sorted(LABELS)))
    rule = {"name": name, "stages": draw(stages), "head": head, "threshold": draw(thresholds), **draw(actions)}
    labels = draw(maybe(st.sampled_from(LABELS[head])))
    if labels is not None:
        rule["labels"] = [labels]
    if "tool_output" in rule["stages"] and draw(st.booleans()):
        rule["tools"] = {draw(st.sampled_from(["t*", "t1", "u*"])): draw(actions)}
    return rule


fails = st.sampled_from(["allow", "flag", "block"]) | given_keys(
    timeout=maybe(st.sampled_from(["allow", "flag", "block"])),
    error=maybe(st.sampled_from(["allow", "flag", "block"])),
    budget=maybe(st.sampled_from(["allow", "flag", "block"])),
    timeout_ms=st.sampled_from([None, 0, 50, 500]),
    max_chars=st.sampled_from([None, 3, 20, 1000]),
)
allows = given_keys(
    name=st.sampled_from(["ours", "theirs"]),
    stages=stages,
    exact=maybe(st.sampled_from(TEXTS).map(lambda text: [text])),
    regex=st.sampled_from([[".*"], ["hel.*"], ["x{40}"]]),
    rules=maybe(st.sampled_from(["r0", "r1"]).map(lambda name: [name])),
)
rewrites = st.fixed_dictionaries(
    {
        "drop": st.sampled_from(
            [{"kind": "drop_spans"}, {"kind": "drop_spans", "then": "escalate", "escalation": "ask"}]
        ),
        "swap": st.sampled_from([{"kind": "replace", "text": "…"}, {"kind": "quarantine"}]),
    }
)
asked = given_keys(
    kind=st.sampled_from(["interrupt", "queue"]),
    on_timeout=st.sampled_from(["allow", "block"]),
    on_error=st.sampled_from(["allow", "block"]),
)


@st.composite
def policies(draw: st.DrawFn) -> dict[str, Any]:
    names = ["r0", "r1", "r2"][: draw(st.integers(1, 3))]
    policy = {
        "message": "No.",
        "mode": draw(st.sampled_from(["enforce", "enforce", "enforce", "shadow"])),
        "rules": [draw(rules(name)) for name in names],
        "rewrite": draw(rewrites),
        "escalations": {"ask": draw(asked), "call": draw(asked)},
        "fail": draw(st.dictionaries(st.sampled_from(STAGES), fails, max_size=2)),
    }
    entry = draw(maybe(allows))
    if entry is not None and set(entry.get("rules", [])) <= set(names):
        policy["allow"] = [entry]
    return policy


@st.composite
def cases(draw: st.DrawFn) -> Case:
    floor, tenant = draw(policies()), draw(policies())
    if draw(st.booleans()):
        # It inherits all of the floor, and replaces what it likes.
        tenant["extends"] = "floor"
    if draw(st.booleans()):
        tenant["detector"] = {"bundle": "own", "id": "own@0123456789abcdef"}
    if draw(st.booleans()):
        tenant["candidate"] = "other"
    who = draw(st.sampled_from([None, "t", "stranger"]))
    return Case(floor, tenant, draw(said), draw(said), draw(st.sampled_from([False, False, True])), who)


# --- what comes of it


@dataclass(frozen=True)
class Passing:
    """What happens to a text if those who are asked answer in some way."""

    passes: bool
    rewrites: frozenset[str]
    asked: frozenset[str]


Escalations = Mapping[str, Mapping[str, str]]


def act(verdict: Verdict, replies: Mapping[str, str], sections: Escalations) -> Passing:
    """Act on a verdict as its action says, and on nothing that does not belong to that action."""
    asked = frozenset(verdict.escalations) if verdict.action == "escalate" else frozenset()
    rewrites = frozenset(verdict.rewrites) if verdict.action in ("rewrite", "escalate") else frozenset()
    allowed = [
        (sections[name]["on_timeout"] if replies[name] == "timeout" else replies[name]) == "allow" for name in asked
    ]
    return Passing(verdict.action != "block" and all(allowed), rewrites, asked)


def prefixed(verdict: Verdict) -> Verdict:
    """A verdict of the floor alone, with its parts named as they are beside a tenant's."""
    named = {
        part: tuple(FLOOR_PREFIX + name for name in getattr(verdict, part))
        for part in ("matched", "rewrites", "escalations")
    }
    return replace(verdict, **named)


def assert_no_weaker(both: Verdict, alone: Verdict, sections: Escalations) -> None:
    alone = prefixed(alone)
    names = sorted({*both.escalations, *alone.escalations})
    for replies in itertools.product(["allow", "block", "timeout"], repeat=len(names)):
        given_ = dict(zip(names, replies, strict=True))
        with_floor, floor = act(both, given_, sections), act(alone, given_, sections)
        if with_floor.passes:
            assert floor.passes, f"passes, which the floor alone would not let, if the answers are {given_}"
            assert with_floor.rewrites >= floor.rewrites
            assert with_floor.asked >= floor.asked
    assert ACTIONS.index(both.action) >= ACTIONS.index(alone.action)
    assert set(both.matched) >= set(alone.matched)


def assert_floor_holds(case: Case) -> None:
    """Judge all steps with the tenant and with the floor alone."""
    shared, own = Scripted(case.shared), Scripted(case.own)
    lost = False

    def get(*_: object, **__: object) -> Scripted:
        if lost:
            raise BundleError("own: can't be read")
        return own

    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(DetectorPool, "get", get)
        folder = Path(name)
        other = {"rules": [{"name": "o", "stages": ["input"], "head": "a", "threshold": 0.5, "action": "block"}]}
        default = {**(other if case.who == "t" else case.tenant), "unknown_tenant": "default"}
        files = {"floor": case.floor, "other": other, "default": default, "tenants/t": case.tenant}
        (folder / "tenants").mkdir()
        for stem, content in files.items():
            # YAML holds JSON.
            (folder / f"{stem}.yaml").write_text(json.dumps(content), encoding="utf-8")
        nobody = Effects(ask=False)
        both, alone = Guard(folder, shared, effects=nobody), Guard(folder / "floor.yaml", shared, effects=nobody)
        both._asker = alone._asker = Script()  # type: ignore[assignment]
        lost = case.own_is_lost
        sections = {FLOOR_PREFIX + key: value for key, value in case.floor["escalations"].items()}
        sections |= case.tenant["escalations"]
        judged = zip(both.check_many(STEPS, case.who), alone.check_many(STEPS), strict=True)
        for with_floor, floor in judged:
            assert_no_weaker(with_floor, floor, sections)


QUICK = settings(deadline=None, database=None, derandomize=True, phases=[Phase.generate])


@settings(deadline=None, max_examples=200)
@given(cases())
def test_no_policy_of_a_tenant_is_weaker_than_the_floor_alone(case):
    assert_floor_holds(case)


# --- and would be seen if it did not hold


def tenant_wins(live: Decision | None, floor: Decision | None) -> Decision:
    return live or compose(None, floor)


def shadow_hides_the_floor(live: Decision | None, floor: Decision | None) -> Decision:
    return compose(live, floor if live is not None else None)


def mildest_wins(live: Decision | None, floor: Decision | None) -> Decision:
    found = compose(live, floor)
    return found if live is None or floor is None else replace(found, action=min(live, floor, key=_severity).action)


def allowed_is_allowed(live: Decision | None, floor: Decision | None) -> Decision:
    if live is not None and (live.rule or "").startswith("allow:"):
        return live
    return compose(live, floor)


def tenants_fail_decides(live: Decision | None, floor: Decision | None) -> Decision:
    if live is not None and live.cause is not None:
        return live
    return compose(live, floor)


def _severity(decision: Decision) -> int:
    return ACTIONS.index(decision.action)


def _without(part: str) -> Callable[[Decision | None, Decision | None], Decision]:
    def broken(live: Decision | None, floor: Decision | None) -> Decision:
        found = compose(live, floor)
        return found if live is None else replace(found, **{part: getattr(live, part)})

    return broken


def one_name_for_two_sections(live: Decision | None, floor: Decision | None) -> Decision:
    found = compose(live, floor)
    return replace(found, escalations=tuple(name.removeprefix(FLOOR_PREFIX) for name in found.escalations))


MUTANTS: dict[str, Callable[[Decision | None, Decision | None], Decision]] = {
    "the tenant's decision counts": tenant_wins,
    "shadow mode hides the floor": shadow_hides_the_floor,
    "the milder action counts": mildest_wins,
    "an allow list reaches into the floor": allowed_is_allowed,
    "the tenant's fail mode counts for the floor": tenants_fail_decides,
    "the floor's escalations are lost": _without("escalations"),
    "the floor's rewrites are lost": _without("rewrites"),
    "what the floor matched is not told": _without("matched"),
    "the tenant's section of the same name is asked": one_name_for_two_sections,
}


def assert_is_seen() -> None:
    @settings(QUICK, max_examples=1000)
    @given(cases())
    def holds(case: Case) -> None:
        assert_floor_holds(case)

    with pytest.raises(AssertionError):
        holds()


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_wrong_composition_is_seen(monkeypatch, mutant):
    monkeypatch.setattr(judging, "compose", MUTANTS[mutant])
    assert_is_seen()


def test_a_floor_that_waits_for_no_longer_than_the_tenant_is_seen(monkeypatch):
    wanted = judging.wanted
    monkeypatch.setattr(guarding, "wanted", lambda policies, step: wanted(replace(policies, floor=None), step))
    assert_is_seen()


def test_a_floor_that_reads_with_the_tenants_detector_is_seen(monkeypatch):
    of = judging.Judged.of

    def read_by_one(step: Step, policies: Any, answers: Mapping[Any, Any], *, sealed: bool) -> Any:
        own = answers.get(policies.live.policy.detector)
        return of(step, policies, dict.fromkeys(answers, own), sealed=sealed)

    monkeypatch.setattr(judging.Judged, "of", read_by_one)
    assert_is_seen()


def test_a_floor_that_is_held_to_the_tenants_limits_is_seen(monkeypatch):
    read = judging._read

    def limited(policy: Any, step: Step, answer: Any, other: Any) -> Any:
        return "timeout" if answer is not None and answer.ms > 50 else read(policy, step, answer, other)

    def judge(step: Step, policies: Any, answers: Mapping[Any, Any], *, sealed: bool) -> Any:
        has_limit = policies.live.fail[step.stage].timeout_ms == 50
        monkeypatch.setattr(judging, "_read", limited if has_limit else read)
        return of(step, policies, answers, sealed=sealed)

    of = judging.Judged.of
    monkeypatch.setattr(judging.Judged, "of", judge)
    assert_is_seen()
