"""Callers that share a detector get what they would get alone, in their turn, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from lec_guard import Batcher, DetectorError, Guard, Scores, Step
from lec_guard.detect.layer import LayerDetector
from lec_guard.errors import OverloadError
from lec_guard.testing import KeywordDetector
from tests.conftest import ROOT

PATIENCE = 30.0
"""Seconds after which a test is given up; nothing here is expected to take so long."""


def step(text: str = "hello") -> Step:
    return Step(stage="input", text=text)


def mark(text: str) -> Scores:
    """A score that tells the text."""
    return Scores(by_head={"h": {"x": 0.5}}, detector_id=text, backend="fake")


def texts(scores: Sequence[Scores]) -> list[str]:
    return [one.detector_id for one in scores]


class Fake:
    """A detector that notes its calls and waits in them while its gate is shut."""

    def __init__(self, answer: Callable[[Sequence[Step]], list[Scores]] | None = None) -> None:
        self.labels: dict[str, tuple[str, ...]] = {"h": ("x",)}
        self.batches: list[list[str]] = []
        self.keys: list[list[Hashable]] = []
        self.threads: list[threading.Thread] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.closed = 0
        self._answer = answer

    def score(self, steps: Sequence[Step], *, keys: Sequence[Hashable] | None = None) -> list[Scores]:
        assert keys is not None
        self.batches.append([one.text for one in steps])
        self.keys.append(list(keys))
        self.threads.append(threading.current_thread())
        self.entered.set()
        assert self.gate.wait(PATIENCE)
        return self._answer(steps) if self._answer else [mark(one.text) for one in steps]

    def close(self) -> None:
        self.closed += 1


@contextmanager
def blocked(batcher: Batcher, detector: Fake) -> Iterator[Future[list[Scores]]]:
    """The worker stands in the detector with a call of its own, so that whatever is submitted waits."""
    detector.gate.clear()
    first = batcher.submit([step("first")])
    assert detector.entered.wait(PATIENCE)
    try:
        yield first
    finally:
        detector.gate.set()


def wait_until(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.001)


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("lec-guard-batcher")]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    if workers():
        gc.collect()
    assert not workers()


class TestScores:
    def test_they_are_those_of_a_direct_call(self, detector: LayerDetector):
        steps = [step(text) for text in ("ab", "b c d", "", "ab", "a b c d e f g h i j k l m n o p q r s t")]
        with Batcher(detector) as batcher:
            assert batcher.labels == detector.labels
            assert batcher.score(steps) == detector.score(steps)
            assert batcher.score([]) == []

    def test_each_of_many_threads_gets_its_own(self):
        fake = Fake()
        with Batcher(fake, max_steps=8) as batcher, ThreadPoolExecutor(32) as pool:
            calls = [[f"{at}-{part}" for part in range(at % 4)] for at in range(400)]
            got = list(pool.map(lambda call: texts(batcher.score([step(text) for text in call])), calls))
        assert got == calls
        assert max(map(len, fake.batches)) <= 8
        assert len(set(fake.threads)) == 1
        assert not fake.threads[0].daemon

    async def test_each_of_many_tasks_gets_its_own(self):
        fake = Fake()

        async def call(at: int) -> list[Scores]:
            return await asyncio.wrap_future(batcher.submit([step(str(at))], key=at % 5))

        with Batcher(fake) as batcher:
            got = await asyncio.wait_for(asyncio.gather(*map(call, range(300))), PATIENCE)
        assert [texts(one) for one in got] == [[str(at)] for at in range(300)]

    def test_callers_share_calls(self):
        fake = Fake()
        with Batcher(fake, max_steps=8) as batcher:
            with blocked(batcher, fake):
                waiting = [batcher.submit([step(str(at))]) for at in range(20)]
            assert [texts(one.result(PATIENCE)) for one in waiting] == [[str(at)] for at in range(20)]
        assert [len(batch) for batch in fake.batches] == [1, 8, 8, 4]

    def test_steps_may_change_after_they_were_submitted(self):
        fake = Fake()
        with Batcher(fake) as batcher:
            with blocked(batcher, fake):
                steps = [step("a"), step("b")]
                future = batcher.submit(steps)
                steps.clear()
            assert texts(future.result(PATIENCE)) == ["a", "b"]

    def test_a_call_larger_than_a_batch_is_spread(self):
        fake = Fake()
        with Batcher(fake, max_steps=3) as batcher:
            assert texts(batcher.score([step(str(at)) for at in range(8)])) == [str(at) for at in range(8)]
        assert fake.batches == [["0", "1", "2"], ["3", "4", "5"], ["6", "7"]]

    def test_a_long_text_does_not_hold_up_short_ones(self):
        fake = Fake()
        long = "x" * 100_000
        with Batcher(fake) as batcher:
            with blocked(batcher, fake):
                futures = [batcher.submit([step(text)]) for text in ("a", long, "b", "c")]
            assert [texts(one.result(PATIENCE)) for one in futures] == [["a"], [long], ["b"], ["c"]]
        assert fake.batches[1:] == [["a"], [long], ["b", "c"]]


class TestWrapping:
    def test_it_tells_what_the_wrapped_detector_tells(self, detector: LayerDetector):
        with Batcher(detector) as batcher:
            assert batcher.detector is detector
            assert batcher.heads == detector.heads != ()
            assert batcher.detector_id == detector.detector_id
            assert batcher.window_tokens == detector.window_tokens

    def test_of_a_detector_that_tells_less_it_tells_nothing(self):
        with Batcher(Fake()) as batcher:
            assert (batcher.heads, batcher.detector_id, batcher.window_tokens) == ((), None, None)

    def test_another_one_has_the_same_limits_and_a_worker_of_its_own(self):
        fake, other = Fake(), Fake()
        with Batcher(fake, max_steps=2, max_waiting=3, timeout_s=PATIENCE) as batcher, batcher.around(other) as beside:
            assert beside._timeout_s == PATIENCE
            with blocked(batcher, fake):
                beside.score([step("a"), step("b"), step("c")])
            with pytest.raises(OverloadError, match="more than 3"):
                beside.score([step("a")] * 4)
        assert other.batches == [["a", "b"], ["c"]]
        assert not set(fake.threads) & set(other.threads)
        assert (fake.closed, other.closed) == (1, 1)


class TestKeys:
    def test_the_detector_is_told_each_steps_key_in_one_call(self):
        fake = Fake()
        with Batcher(fake) as batcher:
            with blocked(batcher, fake):
                futures = [
                    batcher.submit([step("a0"), step("a1")], key="a"),
                    batcher.submit([step("b0")], key=("b", 1)),
                    batcher.submit([step("c0")]),
                ]
            concurrent.futures.wait(futures, PATIENCE)
        assert [dict(zip(*call, strict=True)) for call in zip(fake.batches, fake.keys, strict=True)] == [
            {"first": None},
            {"a0": "a", "a1": "a", "b0": ("b", 1), "c0": None},
        ]

    def test_steps_of_several_keys_come_back_in_order_from_a_shared_call(self):
        fake = Fake()
        names = ["a0", "b0", "a1", "c0", "b1", "a2"]
        with Batcher(fake) as batcher, ThreadPoolExecutor(1) as pool:
            with blocked(batcher, fake):
                call = pool.submit(batcher.score, [step(name) for name in names], keys=[name[0] for name in names])
                wait_until(lambda: batcher._lines.waiting == len(names))
            assert texts(call.result(PATIENCE)) == names
        assert sorted(fake.batches[1]) == sorted(names)
        assert fake.keys[1] == [text[0] for text in fake.batches[1]]

    def test_keys_of_one_call_have_turns_of_their_own(self):
        fake = Fake()
        with Batcher(fake, max_steps=4) as batcher, ThreadPoolExecutor(1) as pool:
            with blocked(batcher, fake):
                keys = ["a"] * 50 + ["b"]
                call = pool.submit(batcher.score, [step(f"{key}{at}") for at, key in enumerate(keys)], keys=keys)
                wait_until(lambda: batcher._lines.waiting == len(keys))
            assert texts(call.result(PATIENCE))[-1] == "b50"
        assert "b50" in fake.batches[1]

    @pytest.mark.parametrize("count", [0, 1, 3])
    def test_there_must_be_a_key_a_step(self, count):
        with Batcher(Fake()) as batcher, pytest.raises(ValueError, match=f"{count} keys for 2 steps"):
            batcher.score([step(), step()], keys=["a"] * count)

    def test_if_one_key_is_refused_the_others_are_cancelled(self):
        fake = Fake()
        with Batcher(fake, max_waiting=3) as batcher:
            with blocked(batcher, fake):
                with pytest.raises(OverloadError, match="overload: 2 steps wait"):
                    batcher.score([step("a"), step("a"), step("b"), step("b")], keys=["a", "a", "b", "b"])
                kept = batcher.submit([step("c")] * 3)
            assert texts(kept.result(PATIENCE)) == ["c"] * 3
        assert fake.batches == [["first"], ["c"] * 3]

    def test_if_one_key_fails_what_waits_of_the_others_is_cancelled(self):
        told = threading.Event()

        def fail(steps: Sequence[Step]) -> list[Scores]:
            if steps[0].text == "bad":
                raise ValueError("no")
            assert told.wait(PATIENCE)
            return [mark(one.text) for one in steps]

        fake = Fake(fail)
        with Batcher(fake, max_steps=1) as batcher:
            with pytest.raises(DetectorError, match=r"the detector failed: ValueError\('no'\)"):
                batcher.score([step("bad"), step("begun"), step("waits"), step("waits")], keys="abcd")
            told.set()
            assert texts(batcher.score([step("next")])) == ["next"]
        # One of them may be begun before all are cancelled; the worker is held there until they are.
        assert fake.batches[0] == ["bad"]
        assert fake.batches[-1] == ["next"]
        assert len(fake.batches) <= 3

    def test_if_one_key_is_late_nothing_of_the_call_is_scored(self):
        fake = Fake()
        with Batcher(fake, timeout_s=0.02) as batcher:
            with blocked(batcher, fake) as first:
                with pytest.raises(OverloadError, match=r"overload: .* within their time"):
                    batcher.score([step("a"), step("b")], keys=["a", "b"])
                assert not first.done()
            assert texts(batcher.score([step("c")])) == ["c"]
        assert fake.batches == [["first"], ["c"]]


class TestTurns:
    def test_a_flood_of_calls_does_not_starve_another_key(self):
        fake = Fake()
        with Batcher(fake, max_steps=4) as batcher:
            with blocked(batcher, fake):
                flood = [batcher.submit([step(f"a{at}")], key="a") for at in range(500)]
                single = batcher.submit([step("b")], key="b")
            assert texts(single.result(PATIENCE)) == ["b"]
            concurrent.futures.wait(flood, PATIENCE)
        assert "b" in fake.batches[1]
        assert [text for batch in fake.batches[1:] for text in batch if text != "b"] == [f"a{at}" for at in range(500)]

    def test_nor_does_one_large_call(self):
        fake = Fake()
        with Batcher(fake, max_steps=4) as batcher:
            with blocked(batcher, fake):
                large = batcher.submit([step(f"a{at}") for at in range(500)], key="a")
                single = batcher.submit([step("b")], key="b")
            assert texts(large.result(PATIENCE)) == [f"a{at}" for at in range(500)]
            assert single.done()
        assert "b" in fake.batches[1]

    def test_nor_do_long_texts(self):
        fake = Fake()
        with Batcher(fake) as batcher:
            with blocked(batcher, fake):
                flood = [batcher.submit([step("a" * 50_000)], key="a") for _ in range(20)]
                batcher.submit([step("b")], key="b")
            concurrent.futures.wait(flood, PATIENCE)
        assert any("b" in batch for batch in fake.batches[1:4])

    def test_keys_have_a_step_each_in_turn(self):
        fake = Fake()
        with Batcher(fake, max_steps=3) as batcher:
            with blocked(batcher, fake):
                futures = [
                    batcher.submit([step(f"{key}{at}") for at in range(count)], key=key)
                    for key, count in (("a", 3), ("b", 1), ("c", 2))
                ]
            assert [texts(one.result(PATIENCE)) for one in futures] == [["a0", "a1", "a2"], ["b0"], ["c0", "c1"]]
        assert [sorted(batch) for batch in fake.batches[1:]] == [["a0", "b0", "c0"], ["a1", "a2", "c1"]]

    def test_a_key_must_be_hashable(self):
        with Batcher(Fake()) as batcher:
            with pytest.raises(TypeError):
                batcher.submit([step()], key=[])
            assert texts(batcher.score([step("a")])) == ["a"]


class TestLimits:
    def test_a_full_queue_refuses_at_once_and_keeps_what_waits(self):
        fake = Fake()
        with Batcher(fake, max_waiting=3) as batcher:
            with blocked(batcher, fake):
                kept = batcher.submit([step("a"), step("b")])
                with pytest.raises(DetectorError, match=r"overload: 2 steps wait.* with 2 more .* more than 3"):
                    batcher.score([step(), step()])
                last = batcher.submit([step("c")])
                with pytest.raises(DetectorError, match="overload"):
                    batcher.submit([step()])
            assert [*texts(kept.result(PATIENCE)), *texts(last.result(PATIENCE))] == ["a", "b", "c"]
            assert texts(batcher.score([step("d")])) == ["d"]

    def test_what_was_cancelled_takes_no_room(self):
        fake = Fake()
        with Batcher(fake, max_waiting=2) as batcher:
            with blocked(batcher, fake):
                for _ in range(10):
                    assert batcher.submit([step("no"), step("no")]).cancel()
                kept = batcher.submit([step("a"), step("b")])
            assert texts(kept.result(PATIENCE)) == ["a", "b"]
        assert fake.batches == [["first"], ["a", "b"]]

    def test_a_call_that_is_not_begun_in_time_is_refused_and_not_scored(self):
        fake = Fake()
        with Batcher(fake, timeout_s=0.02) as batcher:
            with blocked(batcher, fake) as first:
                future = batcher.submit([step("late")])
                patient = batcher.submit([step("patient")], timeout_s=PATIENCE)
                # While the worker still stands in the detector.
                with pytest.raises(DetectorError, match=r"overload: .* within their time"):
                    batcher.score([step("late")])
                assert not first.done()
            with pytest.raises(DetectorError, match=r"overload: .* within their time"):
                future.result(PATIENCE)
            assert texts(patient.result(PATIENCE)) == ["patient"]
        assert fake.batches == [["first"], ["patient"]]

    def test_a_call_that_has_begun_is_waited_for(self):
        fake = Fake()
        with Batcher(fake, timeout_s=0.02) as batcher, ThreadPoolExecutor(1) as pool:
            fake.gate.clear()
            call = pool.submit(batcher.score, [step("a")])
            assert fake.entered.wait(PATIENCE)
            with pytest.raises(TimeoutError):
                call.result(0.1)
            fake.gate.set()
            assert texts(call.result(PATIENCE)) == ["a"]

    async def test_a_cancelled_task_is_not_scored(self):
        fake = Fake()
        with Batcher(fake) as batcher:
            with blocked(batcher, fake) as first:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(asyncio.wrap_future(batcher.submit([step("no")])), 0.01)
                cancelled = batcher.submit([step("no")])
                assert cancelled.cancel()
                assert concurrent.futures.wait([cancelled], PATIENCE).done
                assert not first.cancel()
            assert texts(first.result(PATIENCE)) == ["first"]
        assert fake.batches == [["first"]]

    @pytest.mark.parametrize(
        "limit", [{"max_steps": 0}, {"max_waiting": -1}, {"timeout_s": 0.0}, {"timeout_s": float("nan")}]
    )
    def test_limits_must_make_sense(self, limit):
        with pytest.raises(DetectorError, match=f"{next(iter(limit))} must be a number above 0"):
            Batcher(Fake(), **limit)


class TestFailures:
    @staticmethod
    def fragile(steps: Sequence[Step]) -> list[Scores]:
        for one in steps:
            if one.text.startswith("bad"):
                raise ValueError(f"cannot read {one.text}")
        return [mark(one.text) for one in steps]

    def test_one_callers_step_does_not_hit_the_others(self):
        fake = Fake(self.fragile)
        with Batcher(fake) as batcher:
            with blocked(batcher, fake):
                names = ["a", "bad1", "b", "bad2"]
                futures = {name: batcher.submit([step(name), step("x")]) for name in names}
            for name, future in futures.items():
                error = future.exception(PATIENCE)
                if not name.startswith("bad"):
                    assert texts(future.result()) == [name, "x"]
                    continue
                assert isinstance(error, DetectorError)
                assert str(error) == f"the detector failed: ValueError('cannot read {name}')"
                # No word of a neighbour's text on the way to the log.
                assert isinstance(error.__cause__, ValueError)
                assert error.__cause__.__context__ is None

    def test_a_call_that_failed_is_not_read_on(self):
        fake = Fake(self.fragile)
        with Batcher(fake, max_steps=2, max_waiting=7) as batcher:
            with blocked(batcher, fake):
                future = batcher.submit([step("bad"), *(step(str(at)) for at in range(6))])
            with pytest.raises(DetectorError, match="cannot read bad"):
                future.result(PATIENCE)
            assert texts(batcher.score([step("a")])) == ["a"]
            assert fake.batches == [["first"], ["bad", "0"], ["a"]]

    @pytest.mark.parametrize("answer", [None, [{}, {}], "no"])
    def test_what_are_no_scores_is_an_error(self, answer):
        with Batcher(Fake(lambda steps: answer)) as batcher, pytest.raises(DetectorError, match="not a list of Scores"):
            batcher.score([step("a"), step("b")])

    @pytest.mark.parametrize("count", [0, 1, 3])
    def test_a_wrong_number_of_scores_is_an_error(self, count):
        fake = Fake(lambda steps: [mark("?")] * count)
        with Batcher(fake) as batcher, pytest.raises(DetectorError, match=f"gave {count} scores for 2 steps"):
            batcher.score([step("a"), step("b")])

    def test_an_error_of_this_package_is_handed_on(self):
        error = DetectorError("no")

        def fail(steps: Sequence[Step]) -> list[Scores]:
            raise error

        with Batcher(Fake(fail)) as batcher:
            with pytest.raises(DetectorError) as caught:
                batcher.score([step()])
            assert caught.value is error

    @pytest.mark.parametrize(
        "kind", [SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError, StopIteration, TimeoutError]
    )
    async def test_whatever_is_raised_the_caller_hears_of_it_and_the_worker_lives(self, kind):
        def fail(steps: Sequence[Step]) -> list[Scores]:
            if steps[0].text == "bad":
                raise kind
            return [mark(one.text) for one in steps]

        with Batcher(Fake(fail)) as batcher:
            with pytest.raises(DetectorError, match=f"the detector failed: {kind.__name__}"):
                await asyncio.wait_for(asyncio.wrap_future(batcher.submit([step("bad")])), PATIENCE)
            with pytest.raises(DetectorError, match=kind.__name__):
                batcher.score([step("bad")])
            assert texts(batcher.score([step("good")])) == ["good"]

    def test_if_the_batcher_itself_fails_everybody_hears_of_it(self):
        class Key:
            """Must not change while it serves as a key, but does."""

            number = 1

            def __hash__(self) -> int:
                return self.number

        key = Key()
        fake = Fake()
        with Batcher(fake) as batcher:
            with blocked(batcher, fake) as first:
                futures = [
                    batcher.submit([step("a")]),
                    batcher.submit([step("b")], key=key),
                    batcher.submit([step("c")]),
                ]
                key.number = 2
            assert texts(first.result(PATIENCE)) == ["first"]
            for future in futures:
                with pytest.raises(DetectorError, match="the batcher failed: KeyError"):
                    future.result(PATIENCE)
            assert texts(batcher.score([step("a")])) == ["a"]

    def test_a_callback_may_submit_but_not_wait(self):
        fake = Fake()
        got: list[object] = []

        def call_back(_: Future[list[Scores]]) -> None:
            got.append(batcher.submit([step("more")]))
            for wait in (batcher.close, lambda: batcher.score([step()])):
                try:
                    wait()
                except DetectorError as error:
                    got.append(str(error))
            raise SystemExit

        with Batcher(fake) as batcher:
            with blocked(batcher, fake) as first:
                first.add_done_callback(call_back)
                after = batcher.submit([step("after")])
            assert texts(after.result(PATIENCE)) == ["after"]
        more, *refusals = got
        assert isinstance(more, Future)
        assert texts(more.result(PATIENCE)) == ["more"]
        assert len(refusals) == 2
        assert all("can't wait for the batcher" in str(refusal) for refusal in refusals)

    def test_what_is_no_step_is_refused_before_it_waits(self):
        with Batcher(Fake()) as batcher:
            with pytest.raises(AttributeError):
                batcher.submit(["text"])  # type: ignore[list-item]
            assert texts(batcher.score([step("a")])) == ["a"]


class TestLife:
    def test_there_is_no_thread_before_the_first_call_and_none_after_the_last(self):
        batcher = Batcher(Fake())
        assert batcher.score([]) == []
        assert not workers()
        batcher.score([step()])
        batcher.score([step()])
        assert len(workers()) == 1
        batcher.close()
        assert not workers()

    def test_closing_serves_what_waits_and_refuses_what_comes(self):
        fake = Fake()
        batcher = Batcher(fake, max_steps=2)
        with blocked(batcher, fake):
            waiting = [batcher.submit([step(str(at))]) for at in range(9)]
            closing = threading.Thread(target=batcher.close)
            closing.start()
            while True:  # Until the other thread has come so far.
                try:
                    batcher.submit([])
                except DetectorError:
                    break
            assert not fake.closed
        closing.join(PATIENCE)
        assert [texts(one.result(0)) for one in waiting] == [[str(at)] for at in range(9)]
        with pytest.raises(DetectorError, match="closed"):
            batcher.score([step()])
        batcher.close()
        assert fake.closed == 1

    def test_it_goes_with_its_last_reference(self):
        batcher = Batcher(Fake())
        future = batcher.submit([step("a")])
        reference, (thread,) = weakref.ref(batcher), workers()
        del batcher
        assert texts(future.result(PATIENCE)) == ["a"]
        del future
        thread.join(PATIENCE)
        gc.collect()
        assert reference() is None
        assert not thread.is_alive()

    def test_a_program_ends_that_never_closes_and_a_fork_refuses(self):
        script = """
import os, sys, threading
from lec_guard.detect.batcher import Batcher
from lec_guard.errors import DetectorError
from lec_guard.step import Scores, Step

class Fake:
    labels = {}
    def score(self, steps, *, keys=None):
        return [Scores(by_head={}, detector_id="d", backend="b") for _ in steps]

steps = [Step(stage="input", text="a")]
used, unused = Batcher(Fake()), Batcher(Fake())
used.score(steps)
child = os.fork()
if not child:
    refused = 0
    for batcher in (used, unused):
        for call in (batcher.score, batcher.submit):
            try:
                call(steps)
            except DetectorError as error:
                refused += "fork" in str(error)
        batcher.close()
    with Batcher(Fake()) as own:
        served = len(own.score(steps))
    sys.exit(10 * refused + served)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 41
used.score(steps)
# Still waiting when the program ends: it is served.
pending = used.submit(steps)
# In one piece each: two threads write.
pending.add_done_callback(lambda future: os.write(1, b"served %d;" % len(future.result())))
os.write(1, b"end %d;" % threading.active_count())
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
        assert sorted(done.stdout.split(";")) == ["", "end 2", "served 1"]


def harmless() -> Fake:
    """A detector that suits the policies of the tests and finds nothing."""
    by_head = {"injection": {"injection": 0.0}, "safety": {"unsafe": 0.0, "rude": 0.0}}
    fake = Fake(lambda steps: [Scores(by_head=by_head, detector_id=one.text, backend="fake") for one in steps])
    fake.labels = {head: tuple(labels) for head, labels in by_head.items()}
    return fake


class TestGuard:
    async def test_a_guard_takes_it_for_its_detector(self, policies, keywords: KeywordDetector):
        guard = Guard(policies, Batcher(keywords))
        steps = [step("hello"), step("an ATTACK")]
        assert [verdict.action for verdict in guard.check_many(steps)] == ["allow", "block"]
        outcomes = await asyncio.gather(*(guard.aapply(steps[at % 2], "acme") for at in range(50)))
        assert [outcome.text for outcome in outcomes] == ["hello", None] * 25
        await guard.aclose()
        assert guard.check(steps[0]).rule == "fail:error"

    async def test_overload_lets_nothing_pass(self, policies):
        fake = harmless()
        with Batcher(fake, max_waiting=2) as batcher:
            guard = Guard(policies, batcher)
            with blocked(batcher, fake):
                waiting = batcher.submit([step("a")])
                for _ in range(3):  # What was refused takes no room.
                    refused = guard.apply_many([step(), step()], ["acme", "globex"])
                    refused += await guard.aapply_many([step(), step()], ["acme", "globex"])
                    assert [(one.text, one.verdict.rule) for one in refused] == [(None, "fail:timeout")] * 4
            assert len(waiting.result(PATIENCE)) == 1
        assert fake.batches == [["first"], ["a"]]

    async def test_a_late_step_does_not_pass(self, policies):
        fake = harmless()
        with Batcher(fake, timeout_s=0.02) as batcher:
            guard = Guard(policies, batcher)
            with blocked(batcher, fake):
                late = asyncio.create_task(guard.aapply(step()))
                await asyncio.sleep(0.1)
            outcome = await asyncio.wait_for(late, PATIENCE)
            assert (outcome.text, outcome.verdict.rule) == (None, "fail:timeout")
        assert fake.batches == [["first"]]

    def test_many_tasks_share_calls_and_no_thread_waits_for_one(self, policies):
        fake = harmless()
        before = set(threading.enumerate())
        tenants = [None, "acme", "globex"]

        async def serve() -> None:
            guard = Guard(policies, batcher)
            with blocked(batcher, fake):
                tasks = [asyncio.create_task(guard.acheck(step(str(at)), tenants[at % 3])) for at in range(200)]
                await asyncio.sleep(0.01)
            verdicts = await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE)
            assert [verdict.tenant for verdict in verdicts] == [tenants[at % 3] for at in range(200)]
            assert set(threading.enumerate()) - before == set(workers())
            await guard.aclose()
            assert not workers()

        batcher = Batcher(fake)
        asyncio.run(serve())
        assert set(threading.enumerate()) == before
        assert sorted(text for batch in fake.batches for text in batch) == sorted(["first", *map(str, range(200))])
        assert len(fake.batches) == 5
        assert fake.closed == 1
        told = [pair for call in zip(fake.batches, fake.keys, strict=True) for pair in zip(*call, strict=True)]
        assert all(key == tenants[int(text) % 3] for text, key in told if text != "first")

    async def test_a_cancelled_task_cancels_what_has_not_begun(self, policies):
        fake = harmless()
        with Batcher(fake) as batcher:
            guard = Guard(policies, batcher)
            with blocked(batcher, fake):
                gone = asyncio.create_task(guard.acheck_many([step("no"), step("no")], ["acme", "globex"]))
                stays = asyncio.create_task(guard.acheck(step("yes"), "acme"))
                await asyncio.sleep(0.01)
                gone.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await gone
                assert batcher._lines.waiting == 1
            assert (await asyncio.wait_for(stays, PATIENCE)).action == "allow"
        assert fake.batches == [["first"], ["yes"]]

    async def test_a_task_that_is_cancelled_when_its_steps_have_begun_harms_no_other(self, policies):
        fake = harmless()
        with Batcher(fake) as batcher:
            guard = Guard(policies, batcher)
            fake.gate.clear()
            gone = asyncio.create_task(guard.acheck(step("begun")))
            assert await asyncio.to_thread(fake.entered.wait, PATIENCE)
            stays = asyncio.create_task(guard.acheck(step("yes")))
            gone.cancel()
            with pytest.raises(asyncio.CancelledError):
                await gone
            fake.gate.set()
            assert (await asyncio.wait_for(stays, PATIENCE)).action == "allow"
        assert fake.batches == [["begun"], ["yes"]]
