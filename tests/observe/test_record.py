"""Events as plain data."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from lec_guard import ErrorEvent, Span, Verdict, VerdictEvent
from lec_guard.observe.record import keyed_hash, record
from tests.observe.made import EVENTS, HOSTILE, effect, failed, judged, resolved

KEY = b"k" * 32


@pytest.mark.parametrize("event", EVENTS)
def test_every_event_is_plain_data(event):
    found = record(event, key=KEY)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_every_kind_of_event_has_a_name_of_its_own():
    names = [record(event, key=KEY)["event"] for event in EVENTS]
    assert names == [
        "verdict",
        "error",
        "bypass",
        "effect",
        "escalation_resolved",
        "policy_reloaded",
        "reload_refused",
    ]


def test_a_verdict_keeps_every_attribute_but_the_words_for_users():
    found = record(VerdictEvent(verdict=judged()), key=KEY)["verdict"]
    assert set(found) == {one.name for one in dataclasses.fields(Verdict)} - {"message", "messages"}
    assert found["scores"] == {"injection": {"injection": 0.9}}
    assert found["spans"] == [{"start": 0, "end": 4, "head": "injection", "label": "injection", "score": 0.9}]
    assert [one["role"] for one in found["judgements"]] == ["live", "floor", "candidate"]


def test_what_a_detector_said_is_only_a_keyed_hash():
    found = record(failed(), key=KEY)
    assert "xyzzy" not in json.dumps(found)
    assert (found["reason"], found["cause"], found["kind"]) == (None, "error", "OSError")
    assert found["reason_hmac"] == record(failed(), key=KEY)["reason_hmac"]
    assert found["reason_hmac"] != record(failed(), key=b"x" * 32)["reason_hmac"]
    assert found["reason_hmac"] != record(failed("another"), key=KEY)["reason_hmac"]


def test_what_a_detector_said_is_kept_where_asked():
    assert record(failed(), key=KEY, include_text=True)["reason"] == "could not read 'xyzzy'"


@pytest.mark.parametrize("event", [effect(), resolved()])
def test_what_came_of_a_step_is_kept_whole_but_for_the_words_for_users(event):
    found = record(event, key=KEY)
    assert set(found) == {"event", *(one.name for one in dataclasses.fields(event))}
    for name in ("verdict", "again"):
        if name in found:
            own = record(VerdictEvent(verdict=getattr(event, name)), key=KEY)
            assert found[name] == own["verdict"]
    plain = {name: value for name, value in found.items() if name not in ("event", "verdict", "again")}
    own = {name: getattr(event, name) for name in plain}
    assert plain == {name: list(value) if isinstance(value, tuple) else value for name, value in own.items()}


def test_a_text_that_was_not_judged_again_has_no_judgement():
    assert record(effect(again=None), key=KEY)["again"] is None


def test_no_reason_has_no_hash():
    found = record(ErrorEvent(verdict=judged(), cause="timeout", reason=None), key=KEY)
    assert (found["reason"], found["reason_hmac"]) == (None, None)


def test_numbers_of_numpy_and_numbers_that_are_none_become_plain():
    span = Span(start=np.int64(3), end=np.int64(5), head="h", label="l", score=float("nan"))
    found = record(VerdictEvent(verdict=judged(spans=(span,), ms=np.float32(1.5))), key=KEY)["verdict"]
    assert found["spans"][0] == {"start": 3, "end": 5, "head": "h", "label": "l", "score": None}
    assert json.loads(json.dumps(found, allow_nan=False))["ms"] == 1.5


def test_any_text_has_a_hash():
    assert len({keyed_hash(KEY, text) for text in ("", HOSTILE, "\ud800", "\udfff")}) == 4
