"""Threads, processes, forks, and processes that are killed: nothing is lost, nothing is done twice."""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lec_guard.act.queue import QueueError, ReviewQueue
from tests.act.queue.made import allow, case, key

KEYS = 6
ROUNDS = 2
THREADS = 8

CODE = """
import threading
from tests.act.queue.test_together import work
queue = ReviewQueue(url)
for line in work(queue, name):
    print(line)
queue.close()
"""


def work(queue: ReviewQueue, name: str) -> list[str]:
    """Ask, review and look in eight threads; what each of them did and saw."""
    done: list[str] = []

    def one(me: str) -> None:
        try:
            for number in [number for _ in range(ROUNDS) for number in range(KEYS)]:
                item = queue.put(case(number), expires_s=600)
                done.append(f"put {item.ticket}")
                try:
                    queue.claim(item.ticket, me)
                    queue.decide(item.ticket, allow(me))
                    done.append(f"decided {item.ticket}")
                except QueueError as error:
                    if "another reviewer" not in str(error) and "decided already" not in str(error):
                        raise
                if (reply := queue.answer(key(number))) is not None:
                    done.append(f"saw {number} {reply.by}")
        except Exception:  # noqa: BLE001 - the test tells
            done.append(f"failed {traceback.format_exc()!r}")

    threads = [threading.Thread(target=one, args=(f"{name}{at}",)) for at in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return done


def test_threads_and_processes_share_keys_and_nothing_is_lost_or_done_twice(url, other):
    # This is not about time: a machine may be slow.
    url += "?timeout=30" if url.startswith("sqlite") else "&connect_timeout=30"
    other.begin(CODE, url=url, name="b")
    queue = ReviewQueue(url)
    said = work(queue, "a") + other.end()
    assert [line for line in said if line.startswith("failed")] == []
    # Each key was asked about once, by whoever came first, and decided once.
    puts = Counter(line.split()[1] for line in said if line.startswith("put"))
    assert sorted(puts.values()) == [2 * THREADS * ROUNDS] * KEYS
    decided = [line.split()[1] for line in said if line.startswith("decided")]
    assert sorted(decided) == sorted(puts)
    items = {item.key: item for item in map(queue.get, puts)}
    assert sorted(items) == [key(number) for number in range(KEYS)]
    # All who looked saw that decision, and so does whoever looks later.
    seen = [line.split()[1:] for line in said if line.startswith("saw")]
    assert len(seen) >= KEYS
    assert all(items[key(int(number))].by == by for number, by in seen)
    for one, item in items.items():
        assert item.status == "decided"
        assert queue.answer(one) == allow(item.by)
    queue.close()


def test_of_many_that_come_too_late_one_is_told(queue, clock):
    queue.put(case(), expires_s=60)
    clock.now += 60
    start = threading.Barrier(THREADS)
    told: list[str] = []

    def look() -> None:
        start.wait()
        try:
            told.append(repr(queue.answer(key())))
        except TimeoutError:
            told.append("late")

    threads = [threading.Thread(target=look) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(told) == {"late": 1, "None": THREADS - 1}


def test_a_fork_uses_its_parents_queue_and_leaves_its_connections_alone(url):
    queue = ReviewQueue(url)
    first = queue.put(case(0), expires_s=60)

    def use() -> None:
        ticket = queue.put(case(1), expires_s=60).ticket
        queue.decide(ticket, allow())
        queue.decide(first.ticket, allow())
        queue.close()

    with fork(use) as child:
        while (ended := os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is None:
            assert queue.get(first.ticket) is not None
        assert ended.si_status == 0
    assert queue.answer(key(0)) == allow()
    assert queue.answer(key(1)) == allow()
    queue.close()


@contextmanager
def fork(what: Callable[[], object]) -> Iterator[int]:
    """Another process that does something; killed in the end if it is still there."""
    child = os.fork()
    if child == 0:
        try:
            what()
            os._exit(0)
        except BaseException:  # noqa: BLE001 - a fork must not go on with the tests
            traceback.print_exc()
            os._exit(1)
    try:
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_process_that_is_killed_while_it_puts_loses_nothing_that_it_was_told_is_put(url):
    queue = ReviewQueue(url)
    queue.pending()
    reads, writes = os.pipe()

    def put() -> None:
        for number in range(10_000):
            ticket = queue.put(case(number), expires_s=600).ticket
            os.write(writes, f"{ticket}\n".encode())

    with fork(put) as child, os.fdopen(reads) as said:
        os.close(writes)
        told = [said.readline().strip() for _ in range(10)]
        os.kill(child, signal.SIGKILL)
        told += said.read().split()
    assert 10 <= len(told) < 10_000
    pending = [item.ticket for item in queue.pending(limit=1000)]
    assert pending[: len(told)] == told
    # The one whose put had not returned may be there or not.
    assert len(pending) <= len(told) + 1
    queue.decide(pending[0], allow())
    assert queue.answer(key(0)) == allow()
    assert queue.put(case(20_000), expires_s=600).status == "pending"
    queue.close()


def test_a_process_that_is_killed_right_after_one_put_loses_nothing(url):
    queue = ReviewQueue(url)
    queue.pending()

    def put() -> None:
        queue.put(case(5), expires_s=600)
        os.kill(os.getpid(), signal.SIGKILL)

    with fork(put) as child:
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    (item,) = queue.pending()
    assert item.key == key(5)
    queue.decide(item.ticket, allow())
    assert queue.answer(key(5)) == allow()
    queue.close()
