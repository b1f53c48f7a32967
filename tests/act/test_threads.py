"""Work that may never end."""

from __future__ import annotations

import asyncio
import contextvars
import os
import subprocess
import sys
import threading
import time

import pytest

from lec_guard.act.threads import Threads


@pytest.fixture
def stop():
    event = threading.Event()
    yield event
    event.set()


def test_it_gives_what_the_work_gives():
    threads: Threads[int] = Threads("some", 1)
    for _ in range(2):
        assert threads.run(lambda: 7, 1) == 7
        assert asyncio.run(threads.arun(lambda: 8)) == 8
        with pytest.raises(KeyError):
            threads.run(lambda: {}["x"], 1)
        with pytest.raises(KeyError):
            asyncio.run(threads.arun(lambda: {}["x"]))


def test_what_takes_too_long_is_left_behind(stop):
    threads: Threads[bool] = Threads("some", 2)
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        threads.run(stop.wait, 0.1)
    assert 0.09 < time.monotonic() - began < 3
    assert threads.run(lambda: True, 1)


def test_there_are_never_more_than_so_many(stop):
    threads: Threads[bool] = Threads("counted", 2)
    for _ in range(4):
        with pytest.raises(TimeoutError):
            threads.run(stop.wait, 0.05)
    assert sum(thread.name == "counted" for thread in threading.enumerate()) == 2
    stop.set()
    assert threads.run(lambda: True, 1)


async def test_who_waits_for_a_thread_gets_it_when_one_is_done(stop):
    threads: Threads[bool] = Threads("some", 1)
    one = asyncio.create_task(threads.arun(stop.wait))
    await asyncio.sleep(0.02)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await threads.arun(lambda: True)
    stop.set()
    assert await one
    assert await threads.arun(lambda: True)


async def test_who_stops_waiting_is_told_nothing_more(stop):
    threads: Threads[None] = Threads("some", 1)

    def work() -> None:
        stop.wait()
        raise ValueError

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await threads.arun(work)
    stop.set()
    await asyncio.sleep(0.05)


def test_the_work_sees_nothing_of_the_callers_context():
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")
    variable.set("own")
    assert Threads("some", 1).run(variable.get, 1) == "none"


def test_what_was_left_behind_does_not_keep_the_interpreter():
    code = (
        "import threading\nfrom lec_guard.act.threads import Threads\n"
        "try:\n    Threads('some', 1).run(threading.Event().wait, 0.05)\nexcept TimeoutError:\n    print('late')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "late\n"


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_has_threads_of_its_own(stop):
    threads: Threads[bool] = Threads("some", 1)
    with pytest.raises(TimeoutError):
        threads.run(stop.wait, 0.02)
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if threads.run(lambda: True, 5) else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
