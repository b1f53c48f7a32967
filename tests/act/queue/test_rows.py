"""What two transactions do to the same row: one does it."""

from __future__ import annotations

import threading

from lec_guard.act.queue.store import _new
from tests.act.queue.made import allow, case


def test_a_key_stands_once_whoever_came_first(queue, clock):
    first = queue.put(case(), expires_s=60)
    with queue._db.writing() as rows:
        assert not rows.insert(_new(case(), clock.now, 60))
        # The transaction goes on.
        assert rows.open(case().key) == first
    assert len(queue.pending()) == 1


def test_of_two_that_do_the_same_one_does_it(queue, clock):
    ticket = queue.put(case(), expires_s=60).ticket
    with queue._db.writing() as rows:
        assert rows.decide(ticket, allow(), "ann", clock.now)
        assert not rows.decide(ticket, allow(), "ann", clock.now)


def test_one_is_told_that_nobody_decided_and_nobody_is_before_or_after_that(queue, clock):
    ticket, decided = (queue.put(case(number), expires_s=60).ticket for number in range(2))
    queue.decide(decided, allow())
    with queue._db.writing() as rows:
        assert not rows.tell(ticket, clock.now + 59)
        assert rows.tell(ticket, clock.now + 60)
        assert not rows.tell(ticket, clock.now + 60)
        # Whose time ran out after somebody decided was told the decision.
        assert not rows.tell(decided, clock.now + 600)


def test_who_comes_second_waits_for_the_first_and_then_sees_what_it_did(queue, clock):
    ticket = queue.put(case(), expires_s=60).ticket
    said: list[bool] = []

    def second() -> None:
        with queue._db.writing() as rows:
            said.append(rows.claim(ticket, "bob", clock.now, clock.now + 9))

    thread = threading.Thread(target=second)
    with queue._db.writing() as rows:
        assert rows.claim(ticket, "ann", clock.now, clock.now + 9)
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
    thread.join(10)
    assert said == [False]


def test_what_fails_is_taken_back(queue, clock):
    ticket = queue.put(case(), expires_s=60).ticket
    try:
        with queue._db.writing() as rows:
            assert rows.decide(ticket, allow(), "ann", clock.now)
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert queue.get(ticket).status == "pending"
