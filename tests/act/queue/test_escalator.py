"""Asking by way of a queue; sync and async alike."""

from __future__ import annotations

import asyncio
import os
import threading
import time

import pytest

from lec_guard.act.base import Reply
from lec_guard.act.queue import QueueError, QueueEscalator, ReviewQueue
from lec_guard.errors import EscalationPending
from tests.act.queue.made import allow, case, key


@pytest.fixture(params=["ask", "aask"])
def ask(request):
    """One call of an escalator, in its sync or its async form."""

    def asked(escalator, one):
        if request.param == "ask":
            return escalator.ask(one)
        return asyncio.run(escalator.aask(one))

    return asked


def test_without_a_decision_the_caller_gets_a_ticket_and_later_the_decision(queue, ask):
    escalator = QueueEscalator(queue=queue, wait_s=0, expires_s=60)
    for _ in range(2):
        with pytest.raises(EscalationPending) as pending:
            ask(escalator, case())
        assert pending.value.verdict == case().verdict
    (item,) = queue.pending()
    assert item.ticket == pending.value.ticket
    assert item.expires == item.created + 60
    reply = Reply(answer="edit", text="another text", by="ann", reason="so")
    queue.decide(item.ticket, reply)
    for _ in range(3):
        assert ask(escalator, case()) == reply
    assert queue.pending() == []


def test_a_call_that_asks_twice_on_its_way_gets_through(queue, ask):
    escalator = QueueEscalator(queue=queue, wait_s=0, expires_s=60)

    def call() -> list[Reply]:
        return [ask(escalator, case(number)) for number in range(2)]

    for _ in range(2):
        with pytest.raises(EscalationPending) as pending:
            call()
        queue.decide(pending.value.ticket, allow())
    assert call() == call() == [allow()] * 2


def test_after_a_decision_expired_the_same_step_is_asked_about_anew(queue, clock, ask):
    escalator = QueueEscalator(queue=queue, wait_s=0, expires_s=60)
    with pytest.raises(EscalationPending) as first:
        ask(escalator, case())
    clock.now += 59
    queue.decide(first.value.ticket, allow())
    clock.now += 59
    assert ask(escalator, case()) == allow()
    clock.now += 1
    with pytest.raises(EscalationPending) as second:
        ask(escalator, case())
    assert first.value.ticket != second.value.ticket


def test_that_the_time_ran_out_is_told_once_and_then_asked_anew(queue, clock, ask):
    escalator = QueueEscalator(queue=queue, wait_s=0, expires_s=60)
    with pytest.raises(EscalationPending) as first:
        ask(escalator, case())
    clock.now += 60
    with pytest.raises(TimeoutError):
        ask(escalator, case())
    with pytest.raises(EscalationPending) as second:
        ask(escalator, case())
    assert first.value.ticket != second.value.ticket


def test_a_decision_in_time_is_waited_for(url, ask):
    queue = ReviewQueue(url)

    def review() -> None:
        while not (items := queue.pending()):
            time.sleep(0.02)
        queue.decide(items[0].ticket, allow())

    reviewer = threading.Thread(target=review)
    reviewer.start()
    began = time.monotonic()
    assert ask(QueueEscalator(queue=queue, wait_s=30, expires_s=60), case()) == allow()
    assert time.monotonic() - began < 5
    reviewer.join()
    queue.close()


def test_a_caller_waits_no_longer_than_it_said(url, ask):
    queue = ReviewQueue(url)
    began = time.monotonic()
    with pytest.raises(EscalationPending):
        ask(QueueEscalator(queue=queue, wait_s=0.2, expires_s=60), case())
    assert 0.2 <= time.monotonic() - began < 2
    assert len(queue.pending()) == 1
    queue.close()


def test_an_item_that_expires_while_the_caller_waits_is_a_timeout(url, ask):
    queue = ReviewQueue(url)
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        ask(QueueEscalator(queue=queue, wait_s=30, expires_s=0.2), case())
    assert time.monotonic() - began < 5
    queue.close()


def test_a_queue_that_fails_is_neither_a_timeout_nor_a_ticket(tmp_path, ask):
    (tmp_path / "queue.db").write_text("no database " * 100)
    queue = ReviewQueue(f"sqlite:///{tmp_path}/queue.db")
    with pytest.raises(QueueError):
        ask(QueueEscalator(queue=queue, wait_s=0, expires_s=60), case())


def _when_there_are(count, queue):
    while len(items := queue.pending()) < count:
        time.sleep(0.02)
    return items


async def test_the_event_loop_goes_on_while_somebody_waits(url):
    queue = ReviewQueue(url)
    escalator = QueueEscalator(queue=queue, wait_s=30, expires_s=60)
    gaps: list[float] = []

    async def beat() -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.01)
            gaps.append(time.monotonic() - began)

    beating = asyncio.create_task(beat())
    asking = [asyncio.create_task(escalator.aask(case(number))) for number in range(10)]
    await asyncio.sleep(0.5)
    items = await asyncio.to_thread(_when_there_are, 10, queue)
    for item in items:
        await asyncio.to_thread(queue.decide, item.ticket, allow())
    assert await asyncio.gather(*asking) == [allow()] * 10
    beating.cancel()
    assert len(gaps) > 10
    assert max(gaps) < 5
    queue.close()


@pytest.mark.parametrize("limits", [{"wait_s": -1, "expires_s": 60}, {"wait_s": 0, "expires_s": 0}])
def test_limits_that_mean_nothing_are_refused(queue, limits):
    with pytest.raises(ValueError, match=r"wait_s|expires_s"):
        QueueEscalator(queue=queue, **limits)


def test_a_closed_escalator_leaves_no_connection(postgres_url):
    queue = ReviewQueue(postgres_url)
    escalator = QueueEscalator(queue=queue, wait_s=0, expires_s=60)
    with pytest.raises(EscalationPending):
        escalator.ask(case())
    assert queue._db._engines[os.getpid()].pool.checkedin() == 1
    escalator.close()
    assert queue._db._engines == {}
    assert queue.answer(key()) is None
    queue.close()
