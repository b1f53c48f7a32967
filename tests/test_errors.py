"""Errors cross process borders whole and say no text."""

from __future__ import annotations

import pickle

import pytest

import lec_guard.errors as errors
from lec_guard import EscalationPending, Guard, GuardBlocked, LecGuardError, Step
from lec_guard.testing import KeywordDetector
from tests.test_step import verdict


def tree(root: type[LecGuardError]) -> list[type[LecGuardError]]:
    return [root, *(error for child in root.__subclasses__() for error in tree(child))]


WITH_VERDICT = (GuardBlocked, EscalationPending)
PLAIN = [error for error in tree(LecGuardError) if error.__module__ == errors.__name__ and error not in WITH_VERDICT]


def test_the_docstring_draws_the_tree_of_the_module():
    classes = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert {error.__name__ for error in (*PLAIN, *WITH_VERDICT)} == classes
    for name in classes:
        assert name in (errors.__doc__ or "")


@pytest.mark.parametrize("error", PLAIN)
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_an_error_survives_a_pickle(error, protocol):
    original = error("default.yaml:3: rules.0: wrong")
    copy = pickle.loads(pickle.dumps(original, protocol))
    assert type(copy) is error
    assert copy.args == original.args
    assert str(copy) == str(original)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_block_survives_a_pickle_with_its_verdict(protocol):
    original = GuardBlocked(verdict())
    copy = pickle.loads(pickle.dumps(original, protocol))
    assert type(copy) is GuardBlocked
    assert copy.verdict == original.verdict
    assert copy.args == original.args
    assert str(copy) == str(original)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_pending_decision_survives_a_pickle_with_its_ticket(protocol):
    copy = pickle.loads(pickle.dumps(EscalationPending(verdict(rule="odd"), "t-1"), protocol))
    assert (type(copy), copy.verdict, copy.ticket) == (EscalationPending, verdict(rule="odd"), "t-1")
    assert "odd" in str(copy)
    assert "t-1" in str(copy)


def test_a_kind_of_block_stays_of_its_kind():
    copy = pickle.loads(pickle.dumps(_Escalated(verdict())))
    assert type(copy) is _Escalated
    assert copy.verdict == verdict()


class _Escalated(GuardBlocked):
    pass


def test_a_block_says_rule_policy_version_and_stage():
    message = str(GuardBlocked(verdict(stage="tool_output", rule="r-1", policy="acme", policy_version="cafe")))
    assert message == "blocked at stage 'tool_output' by rule 'r-1' of policy 'acme' (version cafe)"


def test_a_block_never_says_the_text(policies, keywords: KeywordDetector):
    text = "ATTACK with the secret word xyzzy"
    guard = Guard.from_policies(policies, detector=keywords)
    error = GuardBlocked(guard.check(Step(stage="input", text=text, context="plugh")))
    for shown in (str(error), repr(error), repr(error.verdict), repr(error.__reduce__())):
        assert "xyzzy" not in shown
        assert "plugh" not in shown
