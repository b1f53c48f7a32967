"""What a queue holds, and its error."""

from __future__ import annotations

import dataclasses
import pickle

import pytest

from lec_guard import LecGuardError
from lec_guard.act.queue import Item, QueueError
from tests.act.queue.made import SECRET, allow, case


def test_an_item_says_what_is_asked_and_what_was_decided(queue, clock):
    put = queue.put(case(), expires_s=60)
    asked = case().verdict
    assert dataclasses.asdict(put) == {
        "ticket": put.ticket,
        "key": case().key,
        "section": "reviewer",
        "tenant": "acme",
        "stage": "input",
        "tool": "search",
        "policy": "acme",
        "policy_version": "0123456789abcdef",
        "rule": asked.rule,
        "text": SECRET,
        "context": "a context",
        "verdict": put.verdict,
        "status": "pending",
        "created": clock.now,
        "expires": clock.now + 60,
        **dict.fromkeys(["claimed_by", "claimed_until", "answer", "edited", "by", "reason", "decided"]),
    }
    assert put.verdict["scores"] == {"injection": {"injection": 0.9}}
    assert put.verdict["escalations"] == ["floor:reviewer"]
    assert put.verdict.keys() == asked.to_dict().keys()
    assert queue.get(put.ticket) == put
    decided = queue.decide(put.ticket, allow())
    assert (decided.answer, decided.by, decided.reason, decided.decided) == ("allow", "ann", "fine", clock.now)


def test_an_item_can_be_hashed_can_not_be_changed_and_does_not_show_its_texts(queue):
    item = queue.put(case(), expires_s=60)
    assert isinstance(item, Item)
    assert hash(item)
    assert SECRET not in repr(item)
    assert "a context" not in repr(item)
    with pytest.raises(dataclasses.FrozenInstanceError):
        item.status = "decided"


def test_a_ticket_can_not_be_guessed(queue):
    tickets = {queue.put(case(number), expires_s=60).ticket for number in range(20)}
    assert len(tickets) == 20
    assert all(len(ticket) >= 22 for ticket in tickets)


@pytest.mark.parametrize("text", ["", "a\x00b", "\ud800 half", "\U0001f600 e\u0301 \u202e", "x" * 300_000])
def test_a_text_is_shown_as_it_came_whatever_is_in_it(queue, text):
    asked = case(text=text, context=text, message=text, messages={"en": text})
    item = queue.put(asked, expires_s=60)
    assert (item.text, item.context, item.verdict["message"]) == (text, text, text)
    queue.decide(item.ticket, dataclasses.replace(allow(), answer="edit", text=text, reason=text[:100]))
    assert queue.answer(asked.key).text == text


def test_a_missing_context_stays_missing(queue):
    assert queue.put(case(context=None), expires_s=60).context is None


def test_the_error_is_one_of_this_package_and_survives_a_pickle():
    copy = pickle.loads(pickle.dumps(QueueError("full")))
    assert isinstance(copy, LecGuardError)
    assert str(copy) == "full"
