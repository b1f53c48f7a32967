"""Acting on a verdict."""

from __future__ import annotations

import pytest

from lec_guard import Outcome
from lec_guard.act.block import act
from tests.test_step import verdict


@pytest.mark.parametrize("action", ["allow", "flag"])
@pytest.mark.parametrize("text", ["hello", ""])
def test_what_is_allowed_or_flagged_passes_unchanged(action, text):
    one = verdict(action=action)
    assert act(one, text) == Outcome(verdict=one, text=text)


@pytest.mark.parametrize("text", ["hello", ""])
def test_what_is_blocked_does_not_pass(text):
    one = verdict(action="block")
    assert act(one, text) == Outcome(verdict=one, text=None)


@pytest.mark.parametrize("action", ["rewrite", "escalate"])
def test_what_nobody_can_do_yet_does_not_pass(action):
    outcome = act(verdict(action=action), "hello")
    assert outcome == Outcome(verdict=verdict(action="block"), text=None)


def test_an_empty_text_that_passes_differs_from_none_that_does():
    assert act(verdict(action="allow"), "").text == ""
    assert act(verdict(action="block"), "").text is None
