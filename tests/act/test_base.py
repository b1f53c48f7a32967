"""What rewriters and escalators share."""

from __future__ import annotations

import threading

import pytest

from lec_guard import Step
from lec_guard.act.base import Case, Escalator, Reply, Rewriter, Rewriting
from lec_guard.step import Edit
from tests.act.made import subject
from tests.test_step import verdict


@pytest.mark.parametrize("answer", ["allow", "block"])
def test_an_answer_needs_no_text(answer):
    assert (Reply(answer=answer).text, Reply(answer=answer).answer) == (None, answer)


def test_an_edit_has_a_text_and_it_may_be_empty():
    assert Reply(answer="edit", text="").text == ""


@pytest.mark.parametrize("answer", ["yes", "", "ALLOW", None, True])
def test_an_answer_that_nobody_knows_is_refused(answer):
    with pytest.raises(ValueError, match="unknown answer"):
        Reply(answer=answer)


@pytest.mark.parametrize(("answer", "text"), [("edit", None), ("allow", "x"), ("block", "x"), ("allow", "")])
def test_an_edit_has_a_text_and_nothing_else_has(answer, text):
    with pytest.raises(ValueError, match="an edit has a text"):
        Reply(answer=answer, text=text)


def test_what_a_token_stands_for_is_not_shown():
    assert "ann@" not in repr(Rewriting(edits=(), tokens={"<A>": "ann@example.com"}))


class _Slow(Rewriter):
    def rewrite(self, subject):
        return Rewriting(edits=(Edit(start=0, end=0, replacement=str(threading.get_ident())),))


class _Asks(Escalator):
    def ask(self, case):
        return Reply(answer="allow", by=str(threading.get_ident()))


async def test_what_knows_no_async_runs_on_another_thread():
    rewriting = await _Slow().arewrite(subject("x"))
    case = Case(key="0" * 32, step=Step(stage="input", text="x"), verdict=verdict(), section="s")
    reply = await _Asks().aask(case)
    assert str(threading.get_ident()) not in (rewriting.edits[0].replacement, reply.by)
    assert _Asks().ask(case).by == str(threading.get_ident())


def test_an_escalator_fails_closed_and_may_have_nothing_to_close():
    assert (Escalator.passes, Escalator.reruns) == ((), False)
    assert _Asks().close() is None
