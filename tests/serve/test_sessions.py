"""Sessions, and how often somebody may try keys."""

from __future__ import annotations

import pytest

from lec_guard.serve.reviewers import Reviewer
from lec_guard.serve.sessions import Sessions
from lec_guard.serve.throttle import Throttle
from tests.serve.made import Clock

ADA = Reviewer(name="ada", tenants=None, may_try=True)


def test_a_session_is_found_by_its_id_alone():
    sessions = Sessions(clock=Clock(0))
    one, other = sessions.begin(ADA), sessions.begin(ADA)
    assert len({one.id, other.id, one.csrf, other.csrf}) == 4
    assert sessions.find(one.id) == one
    assert sessions.find(one.csrf) is None
    assert sessions.find("") is None
    assert sessions.find("ü\udcff") is None
    assert one.id not in repr(one)
    assert one.csrf not in repr(one)


def test_it_ends_when_it_is_idle():
    clock = Clock(0)
    sessions = Sessions(idle_s=10, longest_s=100, clock=clock)
    session = sessions.begin(ADA)
    for clock.now in (9, 18, 27):
        assert sessions.find(session.id) is session
    clock.now = 37.5
    assert sessions.find(session.id) is None
    clock.now = 28
    assert sessions.find(session.id) is None


def test_it_ends_in_any_case():
    clock = Clock(0)
    sessions = Sessions(idle_s=10, longest_s=25, clock=clock)
    session = sessions.begin(ADA)
    for clock.now in (9, 18, 25):
        assert sessions.find(session.id) is session
    clock.now = 26
    assert sessions.find(session.id) is None


def test_it_ends_when_it_is_ended():
    sessions = Sessions(clock=Clock(0))
    session = sessions.begin(ADA)
    sessions.end("other")
    assert sessions.find(session.id) is session
    sessions.end(session.id)
    assert sessions.find(session.id) is None


def test_one_too_many_ends_the_one_that_was_idle_longest():
    sessions = Sessions(most=2, clock=Clock(0))
    first, second = sessions.begin(ADA), sessions.begin(ADA)
    sessions.find(first.id)
    third = sessions.begin(ADA)
    assert [sessions.find(one.id) for one in (first, second, third)] == [first, None, third]


def test_an_address_waits_after_some_failures():
    clock = Clock(0)
    throttle = Throttle(each=2, each_s=10, clock=clock)
    for _ in range(2):
        assert throttle.wait_s("192.0.2.1") == 0
        throttle.failed("192.0.2.1")
    assert throttle.wait_s("192.0.2.1") == 10
    assert throttle.wait_s("192.0.2.2") == 0
    clock.now = 9.5
    assert throttle.wait_s("192.0.2.1") == 1
    clock.now = 10
    assert throttle.wait_s("192.0.2.1") == 0
    throttle.failed("192.0.2.1")
    assert throttle.wait_s("192.0.2.1") == 10
    clock.now = 1000
    for _ in range(2):
        assert throttle.wait_s("192.0.2.1") == 0
        throttle.failed("192.0.2.1")
    assert throttle.wait_s("192.0.2.1") == 10


def test_all_wait_after_many():
    clock = Clock(0)
    throttle = Throttle(all_=3, all_s=4, clock=clock)
    for at in range(3):
        throttle.failed(f"192.0.2.{at}")
    assert throttle.wait_s("198.51.100.1") == 4
    clock.now = 4
    assert throttle.wait_s("198.51.100.1") == 0


@pytest.mark.parametrize(
    ("one", "other"), [("2001:db8::1", "2001:db8::ffff:2"), ("not one", "nor this"), ("192.0.2.1", "192.0.2.1")]
)
def test_addresses_that_are_one_for_this(one, other):
    throttle = Throttle(each=1, clock=Clock(0))
    throttle.failed(one)
    assert throttle.wait_s(other) > 0
    assert throttle.wait_s("2001:db8:0:1::1") == 0


def test_few_addresses_are_remembered():
    throttle = Throttle(each=1, most=2, clock=Clock(0))
    for at in range(3):
        throttle.failed(f"192.0.2.{at}")
    assert [throttle.wait_s(f"192.0.2.{at}") > 0 for at in range(3)] == [False, True, True]
