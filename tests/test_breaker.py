"""The circuit breaker."""

from __future__ import annotations

import threading
import time

import pytest

from lec_guard.breaker import Breaker, CircuitOpen


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock) -> Breaker:
    return Breaker(failures=3, open_s=30, clock=clock)


def fail(breaker: Breaker) -> None:
    with pytest.raises(OSError), breaker.call():
        raise OSError


def succeed(breaker: Breaker) -> None:
    with breaker.call():
        pass


def is_open(breaker: Breaker) -> bool:
    try:
        succeed(breaker)
    except CircuitOpen:
        return True
    return False


def test_it_opens_after_failures_in_a_row(breaker):
    for _ in range(2):
        fail(breaker)
    succeed(breaker)
    for _ in range(2):
        fail(breaker)
    assert not is_open(breaker)
    for _ in range(3):
        fail(breaker)
    assert is_open(breaker)


def test_it_stays_open_as_long_as_it_says_and_then_lets_one_through(breaker, clock):
    for _ in range(3):
        fail(breaker)
    clock.now += 29.9
    assert is_open(breaker)
    clock.now += 0.1
    with breaker.call():
        assert is_open(breaker)
    assert not is_open(breaker)
    # It takes as many failures as before.
    fail(breaker)
    assert not is_open(breaker)


def test_a_trial_that_fails_opens_it_anew(breaker, clock):
    for _ in range(3):
        fail(breaker)
    clock.now += 30
    fail(breaker)
    clock.now += 29.9
    assert is_open(breaker)
    clock.now += 0.1
    assert not is_open(breaker)


def test_a_trial_that_is_cancelled_leaves_the_next_one(breaker, clock):
    for _ in range(3):
        fail(breaker)
    clock.now += 30
    with pytest.raises(KeyboardInterrupt), breaker.call():
        raise KeyboardInterrupt
    assert not is_open(breaker)


def test_what_is_cancelled_is_no_failure(breaker):
    for _ in range(9):
        with pytest.raises(KeyboardInterrupt), breaker.call():
            raise KeyboardInterrupt
    assert not is_open(breaker)


def test_what_began_before_it_opened_does_not_close_it(breaker, clock):
    with breaker.call():
        for _ in range(3):
            fail(breaker)
    assert is_open(breaker)
    # Nor does it make it stay open for longer.
    clock.now += 30
    assert not is_open(breaker)


def test_many_threads_get_one_trial(breaker, clock):
    for _ in range(3):
        fail(breaker)
    clock.now += 30
    through, ready, go = [], threading.Barrier(8), threading.Event()

    def attempt() -> None:
        ready.wait()
        try:
            with breaker.call():
                through.append(1)
                go.wait()
        except CircuitOpen:
            through.append(0)

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    while len(through) < 8:
        time.sleep(0.001)
    go.set()
    for thread in threads:
        thread.join()
    assert sum(through) == 1
