"""How a guard knows steps again, which of them may stop a run, and how it tells of what nobody reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lec_guard import Case, Effects, Escalator, Guard, Reply, Step, ToolRef, VerdictEvent
from lec_guard.testing import KeywordDetector, ScriptedChatModel
from tests.conftest import write_policies
from tests.test_guard import Recorder

STEP = Step(stage="tool_output", text="hello", context="hi", tool=ToolRef(name="look", description="Look."))
POLICY = """
    locale: en
    message: {en: "No: {rule}.", de: Nein.}
    escalations:
      boss: %s
    rules:
      - {name: ask, stages: [output], head: injection, threshold: 0.5, action: escalate, escalation: boss}
      - {name: pay, stages: [tool_input], head: injection, threshold: 0.5, action: flag,
         tools: {pay: {action: escalate, escalation: boss}}}
"""


class Boss(Escalator):
    def ask(self, case: Case) -> Reply:
        return Reply(answer="allow")


def guard(folder: Path, *, boss: str = "{kind: registered, name: boss}", **changes: Any) -> Guard:
    files = {"default.yaml": POLICY % boss, "tenants/acme.yaml": "extends: default", **changes.pop("files", {})}
    effects = {"key": b"k" * 32, "escalators": {"boss": Boss()}, "models": {"default": ScriptedChatModel()}}
    detector = KeywordDetector({"injection": {"injection": ["attack"]}})
    detector.detector_id = changes.pop("detector_id", "keywords")
    return Guard.from_policies(
        write_policies(folder / "policies", files),
        detector=detector,
        effects=Effects(**effects | changes.pop("effects", {})),
        **changes,
    )


def test_a_fingerprint_is_of_all_that_verdicts_follow_from(tmp_path: Path):
    first = guard(tmp_path / "1")
    mark = first.fingerprints()([STEP])
    assert (mark, len(mark)) == (guard(tmp_path / "2").fingerprints()([STEP]), 32)
    others = [
        replace(STEP, text="hello."),
        replace(STEP, context=None),
        replace(STEP, stage="output"),
        replace(STEP, tool=None),
        replace(STEP, tool=ToolRef(name="look")),
        replace(STEP, tool=ToolRef(name="other", description="Look.")),
    ]
    found = {mark, *(first.fingerprints()([one]) for one in others)}
    found |= {first.fingerprints()([STEP, STEP]), first.fingerprints()([]), first.fingerprints("acme")([STEP])}
    found.add(guard(tmp_path / "3", effects={"key": b"j" * 32}).fingerprints()([STEP]))
    found.add(guard(tmp_path / "4", detector_id="others").fingerprints()([STEP]))
    found.add(guard(tmp_path / "5", boss="{kind: registered, name: boss, on_error: allow}").fingerprints()([STEP]))
    floor = {"floor.yaml": "rules: [{name: f, stages: [input], head: injection, threshold: 0.5, action: block}]"}
    found.add(guard(tmp_path / "6", files=floor).fingerprints()([STEP]))
    assert len(found) == 1 + len(others) + 3 + 4


def test_two_guards_without_a_key_do_not_know_each_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("LEC_GUARD_KEY", raising=False)
    one, other = (guard(tmp_path / name, effects={"key": None}) for name in "12")
    assert one.fingerprints()([STEP]) != other.fingerprints()([STEP])


def test_a_policy_that_changes_while_steps_are_judged_means_that_they_are_judged_again(tmp_path: Path):
    one = guard(tmp_path)
    before = one.fingerprints()
    file = tmp_path / "policies" / "default.yaml"
    file.write_text(file.read_text().replace("0.5", "0.6"))
    one.reload()
    assert before([STEP]) != one.fingerprints()([STEP])


@pytest.mark.parametrize(
    ("boss", "stops"),
    [
        ("{kind: registered, name: boss}", True),
        ("{kind: second_opinion, question: Is it fine}", False),
    ],
)
def test_a_step_may_stop_a_run_where_somebody_is_asked_who_may_take_long(tmp_path: Path, boss: str, stops: bool):
    one = guard(tmp_path, boss=boss)
    assert one.may_stop(Step(stage="output", text="")) is stops
    assert one.may_stop(Step(stage="tool_input", text="", tool=ToolRef(name="pay"))) is stops
    assert not one.may_stop(Step(stage="tool_input", text="", tool=ToolRef(name="look")))
    assert not one.may_stop(Step(stage="input", text=""))


def test_where_nobody_is_asked_nothing_stops(tmp_path: Path):
    assert not guard(tmp_path / "1", effects={"ask": False}).may_stop(Step(stage="output", text=""))
    shadow = {"default.yaml": "mode: shadow" + POLICY.replace("\n    ", "\n") % "{kind: registered, name: boss}"}
    assert not guard(tmp_path / "2", files=shadow).may_stop(Step(stage="output", text=""))


def test_what_nobody_reads_is_told(tmp_path: Path):
    recorder, heard = Recorder(), list[Any]()
    one = guard(tmp_path, sinks=[recorder])
    flag = one.unread(STEP, "acme", rule="unread:media", tell=lambda place, event: heard.append((place, event)))
    assert (flag.action, flag.message, flag.stage, flag.tenant) == ("flag", None, "tool_output", "acme")
    block = one.unread(STEP, rule="unread", blocks=True)
    assert (block.action, block.message_in("de"), block.message) == ("block", "Nein.", "No: unread.")
    assert recorder.events == [VerdictEvent(verdict=flag), VerdictEvent(verdict=block)]
    assert heard == [(0, VerdictEvent(verdict=flag))]
