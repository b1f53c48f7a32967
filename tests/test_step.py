"""The nouns: what they refuse, and that nobody can change them afterwards."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle

import pytest

from lec_guard import (
    DetectorError,
    Judgement,
    Origin,
    Outcome,
    Scores,
    Span,
    Step,
    ToolRef,
    UnsupportedValueError,
    Verdict,
)
from lec_guard.step import ACTIONS, STAGES, severest

SPAN = Span(start=0, end=4, head="injection", label="injection", score=0.9)
JUDGEMENT = Judgement(
    role="floor",
    policy="floor",
    version="fedcba9876543210",
    mode="enforce",
    action="escalate",
    rule="rude",
    matched=("rude",),
)


def verdict(**changes: object) -> Verdict:
    content = {
        "action": "block",
        "rule": "injection",
        "matched": ("injection-flag", "injection"),
        "escalations": ("floor:reviewer",),
        "message": "No.",
        "messages": {"en": "No.", "de": "Nein."},
        "judgements": (JUDGEMENT,),
        "scores": {"injection": {"injection": 0.9}},
        "spans": (SPAN,),
        "windows": 2,
        "context_read": False,
        "stage": "input",
        "tenant": "acme",
        "policy": "acme",
        "policy_version": "0123456789abcdef",
        "detector_id": "d",
        "backend": "b",
        "ms": 1.5,
    }
    return Verdict(**{**content, **changes})


def scores(value: object) -> Scores:
    return Scores(by_head={"safe": {"x": 0.1}, "injection": {"injection": value}}, detector_id="d", backend="b")


INSTANCES = [
    ToolRef(name="search", description="Finds."),
    Origin(trust="third_party", ids=("a", "b")),
    Step(stage="input", text="hi"),
    SPAN,
    JUDGEMENT,
    scores(0.5),
    verdict(),
    Outcome(verdict=verdict(), text=None),
]


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_takes_any_text_even_an_empty_one_or_lone_surrogates(stage):
    for text in ("", "hello", "\ud800\x00\u202e"):
        assert Step(stage=stage, text=text).text == text


@pytest.mark.parametrize("stage", ["inputs", "", "INPUT", None, 5, ["input"]])
def test_an_unknown_stage_is_refused(stage):
    with pytest.raises(UnsupportedValueError, match=r"unknown stage .*; use one of input, output, tool_input"):
        Step(stage=stage, text="hi")


@pytest.mark.parametrize("value", [b"hi", 5, ["hi"], None, {"text": "hi"}])
def test_a_text_that_is_no_string_is_refused_without_being_shown(value):
    with pytest.raises(UnsupportedValueError) as caught:
        Step(stage="input", text=value)
    assert str(caught.value) == f"the text of a step must be a str, not {type(value).__name__}"


@pytest.mark.parametrize("value", [b"hi", 5, ["hi"]])
def test_a_context_that_is_no_string_is_refused(value):
    with pytest.raises(UnsupportedValueError, match=f"context of a step must be a str, not {type(value).__name__}"):
        Step(stage="input", text="hi", context=value)


@pytest.mark.parametrize("instance", INSTANCES, ids=lambda instance: type(instance).__name__)
def test_nouns_are_frozen_slotted_and_keyword_only(instance):
    for field in dataclasses.fields(instance):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(instance, field.name, getattr(instance, field.name))
        assert field.kw_only
    assert not hasattr(instance, "__dict__")


@pytest.mark.parametrize("instance", INSTANCES, ids=lambda instance: type(instance).__name__)
def test_nouns_survive_a_pickle(instance):
    assert pickle.loads(pickle.dumps(instance)) == instance


def test_equal_steps_and_verdicts_are_one_key():
    tool = {"tool": ToolRef(name="t"), "origin": Origin(trust="user", ids=("m",))}
    assert len({Step(stage="input", text="a", **tool), Step(stage="input", text="a", **tool)}) == 1
    assert len({Step(stage="input", text="a"), Step(stage="output", text="a")}) == 2
    assert len({verdict(), verdict()}) == 1
    assert len({verdict(), verdict(tenant=None)}) == 2
    assert len({Outcome(verdict=verdict(), text="a"), Outcome(verdict=verdict(), text="a")}) == 1


def test_verdicts_with_other_scores_are_not_equal():
    assert verdict() != verdict(scores={"injection": {"injection": 0.91}})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1.2, -0.1, 1.0000001, -1e-9])
def test_a_score_that_means_nothing_is_refused_with_its_place(value):
    with pytest.raises(DetectorError, match=r"detector d gave injection\.injection = "):
        scores(value)


@pytest.mark.parametrize("value", [0, 0.0, 1, 1.0, 0.5, 5e-324])
def test_a_score_from_0_to_1_is_taken(value):
    assert scores(value).by_head["injection"]["injection"] == value


def test_only_what_is_unread_can_be_over_the_budget():
    given = {"by_head": {}, "detector_id": "d", "backend": "b"}
    assert Scores(**given, unread="too long", over_budget=True).over_budget
    assert not Scores(**given, unread="too long").over_budget
    with pytest.raises(DetectorError, match="detector d read a text that it says is over its budget"):
        Scores(**given, over_budget=True)


def test_a_verdict_as_a_dict_is_json_of_every_attribute():
    content = verdict().to_dict()
    assert list(content) == [field.name for field in dataclasses.fields(Verdict)]
    assert json.loads(json.dumps(content)) == {
        "action": "block",
        "rule": "injection",
        "matched": ["injection-flag", "injection"],
        "rewrites": [],
        "escalations": ["floor:reviewer"],
        "cause": None,
        "message": "No.",
        "messages": {"en": "No.", "de": "Nein."},
        "judgements": [
            {
                "role": "floor",
                "policy": "floor",
                "version": "fedcba9876543210",
                "mode": "enforce",
                "action": "escalate",
                "rule": "rude",
                "matched": ["rude"],
            }
        ],
        "scores": {"injection": {"injection": 0.9}},
        "spans": [{"start": 0, "end": 4, "head": "injection", "label": "injection", "score": 0.9}],
        "windows": 2,
        "context_read": False,
        "stage": "input",
        "tenant": "acme",
        "policy": "acme",
        "policy_version": "0123456789abcdef",
        "detector_id": "d",
        "backend": "b",
        "ms": 1.5,
    }


def test_changing_that_dict_does_not_change_the_verdict():
    one = verdict()
    one.to_dict()["scores"]["injection"]["injection"] = 0.0
    assert one.scores == {"injection": {"injection": 0.9}}


def test_only_a_block_is_blocked():
    assert {action: verdict(action=action).blocked for action in ACTIONS} == {
        "allow": False,
        "flag": False,
        "rewrite": False,
        "escalate": False,
        "block": True,
    }


@pytest.mark.parametrize(
    ("role", "mode", "counts"),
    [
        ("live", "enforce", True),
        ("live", "shadow", False),
        ("floor", "enforce", True),
        ("floor", "shadow", False),
        ("candidate", "enforce", False),
        ("candidate", "shadow", False),
    ],
)
def test_a_judgement_counts_where_its_policy_acts(role, mode, counts):
    assert dataclasses.replace(JUDGEMENT, role=role, mode=mode).counts is counts


@pytest.mark.parametrize(
    ("locale", "told"),
    [
        (None, "Nein."),
        ("de", "Nein."),
        ("de-AT", "Nein."),
        ("DE_at", "Nein."),
        ("pt-BR", "Não."),
        ("pt-br", "Não."),
        ("pt", "Não."),
        ("pt-PT", "Não."),
        ("en-GB-oxendict", "No."),
        ("fr", "Nein."),
        ("", "Nein."),
    ],
)
def test_a_message_is_told_in_the_nearest_language_that_there_is(locale, told):
    messages = {"de": "Nein.", "en": "No.", "pt-BR": "Não."}
    assert verdict(message="Nein.", messages=messages).message_in(locale) == told


def test_where_a_text_may_pass_there_is_no_message_in_any_language():
    assert verdict(action="flag", message=None, messages={}).message_in("de") is None


def test_severest_is_the_first_of_the_severest():
    allow, flag, block, other = (
        verdict(action=action, rule=str(at)) for at, action in enumerate(["allow", "flag", "block", "block"])
    )
    rewrite, escalate = verdict(action="rewrite"), verdict(action="escalate")
    assert severest([flag, rewrite]) is rewrite
    assert severest([escalate, rewrite]) is escalate
    assert severest([escalate, block]) is block
    assert severest([allow, flag, block, other]) is block
    assert severest([other, block, flag]) is other
    assert severest([allow, flag]) is flag
    assert severest([allow]) is allow
    with pytest.raises(ValueError):
        severest([])
