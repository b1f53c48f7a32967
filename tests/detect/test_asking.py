"""Steps are answered within their limit, alike for sync and async, and what one of them does hits no other."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from lec_guard import Batcher, DetectorError, PolicyError, Scores, Step
from lec_guard.detect.asking import WORKERS, Answer, Asker
from lec_guard.errors import OverloadError
from tests.conftest import ROOT

PATIENCE = 30.0
"""A limit, and a time to wait, that nothing here is expected to take."""

SHORT = 0.05
"""A limit that is to run out."""


def step(text: str) -> Step:
    return Step(stage="input", text=text)


def steps(texts: str) -> list[Step]:
    return [step(text) for text in texts.split()]


def mark(text: str) -> Scores:
    return Scores(by_head={}, detector_id=text, backend="fake")


class Fake:
    """Notes its calls, fails for certain texts, and waits in `wait` while its gate is shut."""

    def __init__(self) -> None:
        self.labels: dict[str, tuple[str, ...]] = {}
        self.calls: list[list[str]] = []
        self.keys: list[list[Hashable]] = []
        self.threads: list[threading.Thread] = []
        self.gate = threading.Event()
        self.entered = threading.Semaphore(0)

    def score(self, steps: Sequence[Step], *, keys: Sequence[Hashable] | None = None) -> list[Scores]:
        assert keys is not None
        texts = [one.text for one in steps]
        self.calls.append(texts)
        self.keys.append(list(keys))
        self.threads.append(threading.current_thread())
        if "wait" in texts:
            self.entered.release()
            assert self.gate.wait(PATIENCE)
        for text in texts:
            if text in RAISES:
                raise RAISES[text]
        if "short" in texts:
            return [mark(text) for text in texts[1:]]
        return None if "none" in texts else [mark(text) for text in texts]


class Futures(Fake):
    """Has a future for its answer at once, with whatever `score` raises."""

    def submit(self, steps: Sequence[Step], *, key: Hashable = None) -> Future[list[Scores]]:
        future: Future[list[Scores]] = Future()
        try:
            future.set_result(self.score(steps, keys=[key] * len(steps)))
        except BaseException as error:  # noqa: BLE001 - told to who waits
            future.set_exception(error)
        return future


RAISES: dict[str, BaseException] = {
    "bad": ValueError("no"),
    "stop": StopIteration("over"),
    "loop": StopAsyncIteration(),
    "gone": CancelledError(),
    "away": asyncio.CancelledError(),
    "time": TimeoutError("mine"),
    "own": PolicyError("mine"),
    "full": OverloadError("overload: mine"),
}

CASES = {
    "all good": ("a b c", ["a", "b", "c"]),
    "one": ("a", ["a"]),
    "none": ("", []),
    "one raises": ("a bad c", ["a", "the detector failed: ValueError('no')", "c"]),
    "two raise": ("bad a bad", ["the detector failed: ValueError('no')", "a", "the detector failed: ValueError('no')"]),
    "only it raises": ("bad", ["the detector failed: ValueError('no')"]),
    "all raise": ("bad own", ["the detector failed: ValueError('no')", "mine"]),
    "StopIteration": ("a stop", ["a", "the detector failed: StopIteration('over')"]),
    "StopAsyncIteration": ("a loop", ["a", "the detector failed: StopAsyncIteration()"]),
    "cancelled within": ("a gone away", ["a", *["the detector failed: CancelledError()"] * 2]),
    "a timeout of its own": ("a time", ["a", "the detector failed: TimeoutError('mine')"]),
    "an error of ours": ("own a", ["mine", "a"]),
    "too few": ("a short", ["a", "the detector gave 0 scores for 1 steps"]),
    "no list": ("none a", ["the detector gave a NoneType, not a list of Scores", "a"]),
}

Wrap = Callable[[Fake], object]
WRAPS: dict[str, tuple[type[Fake], Wrap]] = {
    "plain": (Fake, lambda fake: fake),
    "futures": (Futures, lambda fake: fake),
    "batcher": (Fake, Batcher),
}


def asked(form: str, *given: object, **more: object) -> list[Answer]:
    asker = Asker()
    try:
        if form == "ask":
            return asker.ask(*given, **more)
        return asyncio.run(asker.aask(*given, **more))
    finally:
        asker.close()


def told(answers: Sequence[Answer]) -> list[str]:
    for one in answers:
        assert (one.scores is not None) + (one.error is not None) + one.late == 1
        assert one.ms >= 0
    return ["late" if one.late else str(one.error) if one.error else one.scores.detector_id for one in answers]


@pytest.fixture(params=["ask", "aask"])
def form(request: pytest.FixtureRequest) -> str:
    return request.param


def own_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("lec-guard-")]


def wait_until(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.001)


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    if own_threads():
        gc.collect()
    wait_until(lambda: not own_threads())


@contextmanager
def hanging(fake: Fake) -> Iterator[Fake]:
    """Whatever still runs in the detector is let go in the end."""
    try:
        yield fake
    finally:
        fake.gate.set()


@pytest.mark.parametrize("limit_s", [None, PATIENCE])
@pytest.mark.parametrize("kind", WRAPS)
@pytest.mark.parametrize("case", CASES)
def test_both_forms_give_every_step_its_own_answer(form, case, kind, limit_s):
    texts, expected = CASES[case]
    make, wrap = WRAPS[kind]
    detector = wrap(make())
    # Keys that go through each other, so that their order is not that of the steps.
    keys = [("even", "odd")[at % 2] for at in range(len(texts.split()))]
    answers = asked(form, detector, steps(texts), keys, limit_s)
    assert told(answers) == expected
    assert len({one.ms for one in answers}) <= 1
    if kind == "batcher":
        detector.close()


@pytest.mark.parametrize("limit_s", [None, PATIENCE])
@pytest.mark.parametrize("kind", ["plain", "futures"])
def test_only_what_failed_in_company_is_asked_for_again(form, kind, limit_s):
    fake = WRAPS[kind][0]()
    asked(form, fake, steps("a bad b c"), ["x", "x", "y", "y"], limit_s)
    alone = [["a"], ["bad"]]
    direct = kind == "plain" or (form == "ask" and limit_s is None)
    expected = [["a", "bad", "b", "c"], *alone, ["b"], ["c"]] if direct else [["a", "bad"], ["b", "c"], *alone]
    assert fake.calls[0] == expected[0]
    assert sorted(fake.calls) == sorted(expected)  # Within a limit those alone may run at the same time.
    key_of = {"a": "x", "bad": "x", "b": "y", "c": "y"}
    assert [[key_of[text] for text in call] for call in fake.calls] == fake.keys


@pytest.mark.parametrize("limit_s", [None, PATIENCE])
@pytest.mark.parametrize("kind", ["plain", "futures"])
def test_an_overloaded_detector_is_not_asked_again(form, kind, limit_s):
    fake = WRAPS[kind][0]()
    answers = asked(form, fake, steps("full a b"), ["x"] * 3, limit_s)
    assert told(answers) == ["overload: mine"] * 3
    assert fake.calls == [["full", "a", "b"]]


@pytest.mark.parametrize("limit_s", [None, PATIENCE])
def test_where_one_key_is_refused_for_want_of_room_nothing_of_the_call_is_scored(form, limit_s):
    fake = Fake()
    with hanging(fake), Batcher(fake, max_waiting=2) as batcher:
        batcher.submit([step("wait")])
        assert fake.entered.acquire(timeout=PATIENCE)
        kept = batcher.submit([step("kept")])
        for _ in range(3):  # What was refused takes no room.
            answers = asked(form, batcher, steps("a b"), ["x", "y"], limit_s)
            assert [type(one.error) for one in answers] == [OverloadError] * 2
        fake.gate.set()
        assert len(kept.result(PATIENCE)) == 1
    assert fake.calls == [["wait"], ["kept"]]


@pytest.mark.parametrize("limit_s", [None, PATIENCE])
def test_a_detector_that_refuses_one_of_several_keys_is_asked_for_the_others(form, limit_s):
    class Picky(Futures):
        def submit(self, steps, *, key=None):
            if key == "y":
                raise RuntimeError("not you")
            return super().submit(steps, key=key)

        def score(self, steps, *, keys=None):
            if "y" in keys:
                raise RuntimeError("not you")
            return super().score(steps, keys=keys)

    answers = asked(form, Picky(), steps("a b c"), ["x", "y", "x"], limit_s)
    assert told(answers) == ["a", "the detector failed: RuntimeError('not you')", "c"]


@pytest.mark.parametrize("limit_s", [None, PATIENCE])
def test_an_error_keeps_its_cause_and_knows_no_neighbour(form, limit_s):
    error = asked(form, Fake(), steps("xyzzy bad"), [None, None], limit_s)[1].error
    assert isinstance(error, DetectorError)
    assert error.__cause__ is RAISES["bad"]
    assert error.__context__ is None
    assert "xyzzy" not in str(error)


@pytest.mark.parametrize("limit_s", [None, PATIENCE])
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_program_is_no_answer(error, limit_s):
    class Interrupted(Fake):
        def score(self, steps, *, keys=None):
            raise error

    with pytest.raises(error):
        asked("ask", Interrupted(), steps("a b"), [None, None], limit_s)


@pytest.mark.parametrize("limit_s", [None, PATIENCE, 0])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_there_must_be_a_key_a_step(form, count, limit_s):
    fake = Fake()
    with pytest.raises(ValueError, match=f"{count} keys for 2 steps"):
        asked(form, fake, steps("a b"), ["x"] * count, limit_s)
    assert fake.calls == []


@pytest.mark.parametrize("limit_s", [0, 0.0, -1])
@pytest.mark.parametrize("kind", ["plain", "futures"])
def test_without_any_time_the_detector_is_not_asked(form, kind, limit_s):
    fake = WRAPS[kind][0]()
    assert told(asked(form, fake, steps("a b"), ["x", "y"], limit_s)) == ["late"] * 2
    assert fake.calls == []


@pytest.mark.parametrize("kind", ["plain", "batcher"])
def test_what_takes_longer_than_the_limit_is_late_and_what_it_gives_is_thrown_away(form, kind):
    fake = Fake()
    detector = WRAPS[kind][1](fake)
    with hanging(fake):
        began = time.perf_counter()
        answers = asked(form, detector, steps("wait a"), [None, None], SHORT)
        took = time.perf_counter() - began
        assert told(answers) == ["late", "late"]
        assert SHORT * 1000 <= sum(one.ms for one in answers) <= took * 1000
        assert took < PATIENCE / 2
        # Another one needs no worker of the first.
        assert told(asked(form, Fake(), steps("a"), [None], PATIENCE)) == ["a"]
        fake.gate.set()
        assert told(asked(form, detector, steps("b"), [None], PATIENCE)) == ["b"]
    if kind == "batcher":
        detector.close()


def test_of_several_keys_only_those_are_late_that_are_not_done(form):
    class Half(Futures):
        def submit(self, steps, *, key=None):
            return Future() if key == "slow" else super().submit(steps, key=key)

    answers = asked(form, Half(), steps("a b c bad"), ["fast", "slow", "fast", "bad"], SHORT)
    assert told(answers) == ["a", "late", "c", "the detector failed: ValueError('no')"]


def test_a_slow_step_is_late_alone_where_all_are_asked_for_alone(form):
    class Broken(Fake):
        def score(self, steps, *, keys=None):
            if len(steps) > 1:
                raise ValueError("only one")
            return super().score(steps, keys=keys)

    fake = Broken()
    with hanging(fake):
        assert told(asked(form, fake, steps("a wait b"), [None] * 3, 0.5)) == ["a", "late", "b"]


@pytest.mark.parametrize("kind", ["plain", "futures"])
def test_where_no_time_is_left_to_ask_again_steps_are_late(form, kind, monkeypatch):
    # The clock goes on by more than the limit while the detector fails, and by nothing else.
    now = 0.0
    monkeypatch.setattr("lec_guard.detect.asking.time", SimpleNamespace(perf_counter=lambda: now))

    class Late(WRAPS[kind][0]):
        def score(self, steps, *, keys=None):
            nonlocal now
            now += 2 * PATIENCE
            return super().score(steps, keys=keys)

    fake = Late()
    answers = asked(form, fake, steps("a bad"), [None] * 2, PATIENCE)
    assert told(answers) == ["late", "late"]
    assert [one.ms for one in answers] == [PATIENCE * 1000] * 2
    assert fake.calls == [["a", "bad"]]


def test_what_waits_in_a_batcher_is_cancelled_with_the_limit(form):
    fake = Fake()
    with hanging(fake), Batcher(fake) as batcher:
        batcher.submit([step("wait")])
        assert fake.entered.acquire(timeout=PATIENCE)
        assert told(asked(form, batcher, steps("a b"), ["x", "y"], SHORT)) == ["late", "late"]
        assert batcher._lines.waiting == 0
        fake.gate.set()
    assert fake.calls == [["wait"]]


def hang(asker: Asker, fake: Fake, count: int) -> None:
    """Leave as many calls in the detector, given up by who made them."""
    callers = [
        threading.Thread(target=asker.ask, args=(fake, [step("wait")], [None], SHORT * 20)) for _ in range(count)
    ]
    for caller in callers:
        caller.start()
    for _ in callers:
        assert fake.entered.acquire(timeout=PATIENCE)
    for caller in callers:
        caller.join()


def test_calls_that_hang_hold_a_bounded_number_of_threads_and_those_that_wait_leave_nothing_behind(form):
    fake, asker = Fake(), Asker()

    def ask(*given: object) -> list[str]:
        return told(asker.ask(*given) if form == "ask" else asyncio.run(asker.aask(*given)))

    with hanging(fake):
        hang(asker, fake, WORKERS)
        assert len(own_threads()) == WORKERS
        for _ in range(3):
            assert ask(fake, steps("a b"), [None] * 2, 0.01) == ["late"] * 2
        assert len(own_threads()) == WORKERS
        (workers,) = asker._workers.values()
        assert not workers._waiting
        assert workers._executor._work_queue.empty()
        # Without a limit, and of a detector that takes no thread, steps are scored as ever.
        assert ask(fake, steps("b"), [None]) == ["b"]
        with Batcher(Fake()) as batcher:
            assert ask(batcher, steps("c"), [None], PATIENCE) == ["c"]
        # One that waits gets its turn when a worker is free.
        threading.Timer(SHORT, fake.gate.set).start()
        assert ask(fake, steps("d"), [None], PATIENCE) == ["d"]
    assert [call for call in fake.calls if call != ["wait"]] == [["b"], ["d"]]
    asker.close()


def test_without_a_limit_a_call_is_made_on_the_callers_thread_and_starts_none():
    fake, asker = Fake(), Asker()
    asker.ask(fake, steps("a bad"), [None] * 2)
    assert set(fake.threads) == {threading.current_thread()}
    assert not asker._workers


async def test_the_loop_runs_on_whatever_the_detector_does():
    for limit_s in (None, PATIENCE):
        fake, asker = Fake(), Asker()
        with hanging(fake):
            asking = asyncio.create_task(asker.aask(fake, steps("wait"), [None], limit_s))
            await asyncio.sleep(0.01)
            assert not asking.done()
            # Only a loop that runs gets to release the detector.
            fake.gate.set()
            assert told(await asking) == ["wait"]
        asker.close()


async def test_a_submitting_detector_is_awaited_without_a_thread():
    fake, asker = Fake(), Asker()
    with hanging(fake), Batcher(fake) as batcher:
        before = threading.active_count()
        for limit_s in (None, PATIENCE):
            fake.gate.clear()
            asking = [asyncio.create_task(asker.aask(batcher, steps("wait"), [at], limit_s)) for at in range(50)]
            await asyncio.sleep(0.01)
            assert threading.active_count() == before + 1
            fake.gate.set()
            assert [told(one) for one in await asyncio.gather(*asking)] == [["wait"]] * 50
    asker.close()


@pytest.mark.parametrize("limit_s", [None, PATIENCE])
@pytest.mark.parametrize("kind", ["plain", "batcher"])
async def test_a_caller_that_is_cancelled_leaves_nothing_that_has_not_begun(kind, limit_s):
    fake, asker = Fake(), Asker()
    detector = WRAPS[kind][1](fake)
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    with hanging(fake):
        # They take whatever thread there is.
        full = [asyncio.create_task(asker.aask(detector, steps("wait"), [None], limit_s)) for _ in range(WORKERS)]
        await asyncio.sleep(SHORT)
        gone = asyncio.create_task(asker.aask(detector, steps("no no"), ["x", "y"], limit_s))
        await asyncio.sleep(SHORT)
        assert not gone.done()
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        fake.gate.set()
        assert [told(one) for one in await asyncio.gather(*full)] == [["wait"]] * WORKERS
    asker.close()
    if kind == "batcher":
        detector.close()
    assert not any("no" in call for call in fake.calls)


def test_a_late_failure_is_nobodys(form, caplog):
    late: list[Future[list[Scores]]] = []

    class Slow(Fake):
        def submit(self, steps, *, key=None):
            late.append(Future())
            late[-1].set_running_or_notify_cancel()
            return late[-1]

    assert told(asked(form, Slow(), steps("a b c"), "xyx", SHORT)) == ["late"] * 3
    # The loop of the caller is closed by now.
    for future in late:
        future.set_exception(StopIteration())
    gc.collect()
    assert not caplog.records


def test_the_detector_sees_the_callers_context(form):
    tracer: contextvars.ContextVar[str] = contextvars.ContextVar("tracer")
    seen = []

    class Traced(Fake):
        def score(self, steps, *, keys=None):
            seen.append(tracer.get("nobody"))
            return super().score(steps, keys=keys)

    def ask() -> None:
        tracer.set("me")
        for limit_s in (None, PATIENCE):
            asked(form, Traced(), steps("a bad"), [None] * 2, limit_s)

    contextvars.copy_context().run(ask)
    assert seen == ["me"] * 6


def test_many_threads_share_an_asker():
    asker, fake = Asker(), Fake()
    with ThreadPoolExecutor(32) as pool:
        found = pool.map(lambda at: told(asker.ask(fake, steps(f"{at} bad"), [at, at], PATIENCE)), range(200))
        assert list(found) == [[str(at), "the detector failed: ValueError('no')"] for at in range(200)]
    assert set(fake.threads) <= set(own_threads())
    assert len(own_threads()) <= WORKERS
    asker.close()


def test_closing_waits_for_no_call_and_refuses_those_with_a_limit(form):
    fake, asker = Fake(), Asker()
    with hanging(fake):
        hang(asker, fake, WORKERS)
        waiting = ThreadPoolExecutor(1)
        call = waiting.submit(asker.ask, fake, steps("a b"), [None] * 2, PATIENCE)
        (workers,) = asker._workers.values()
        wait_until(lambda: len(workers._waiting) == 1)
        asker.close()
        asker.close()
        assert told(call.result(PATIENCE)) == ["the guard is closed, and asks no detector within a limit any more"] * 2
        waiting.shutdown()
        assert told(asker.ask(fake, steps("c"), [None])) == ["c"]
    assert [call for call in fake.calls if call != ["wait"]] == [["c"]]


def test_a_fork_has_threads_of_its_own_and_an_ended_program_waits_for_none_that_has_not_begun():
    script = """
import os, sys, threading, time
from lec_guard.detect.asking import WORKERS, Asker
from lec_guard.step import Scores, Step

class Fake:
    labels = {}
    def score(self, steps, *, keys=None):
        if steps[0].text == "wait":
            gate.wait(60)
            os.write(1, b"through;")
        return [Scores(by_head={}, detector_id="d", backend="b") for _ in steps]

gate = threading.Event()
asker, wait = Asker(), [Step(stage="input", text="wait")]
callers = [threading.Thread(target=asker.ask, args=(Fake(), wait, [None], 0.1)) for _ in range(WORKERS + 1)]
for caller in callers: caller.start()
for caller in callers: caller.join()
child = os.fork()
if not child:
    found = asker.ask(Fake(), [Step(stage="input", text="a")], [None], 30)
    asker.close()
    sys.exit(7 if found[0].scores else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
os.write(1, b"end;")
threading.Timer(0.2, gate.set).start()
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "end;" + "through;" * WORKERS
