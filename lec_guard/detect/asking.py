"""Asking a detector: within a time limit, and so that what one step does hits no other.

What the sync and the async form do is written once, in `_Call`; they only differ in how they wait. A time limit ends
the waiting, not the work: no thread can be stopped from outside.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from lec_guard.detect.detector import Detector
from lec_guard.detect.submitting import Submitting, checked, failed
from lec_guard.errors import DetectorError, LecGuardError, OverloadError
from lec_guard.step import Scores, Step

WORKERS = 8
"""Calls with a limit that run at once. Enough to keep a machine busy, for one call computes on several cores; and few
enough that a detector which never comes back takes no more than so many threads with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of asking a detector for a step.

    Attributes:
        scores: What it said; None where it said nothing.
        error: Why it said nothing, if it failed.
        late: Whether it said nothing within the limit.
        ms: This step's share of the time that its call took, or that was waited for it, in milliseconds.
    """

    scores: Scores | None
    error: LecGuardError | None = None
    late: bool = False
    ms: float


class Asker:
    """How a guard asks its detectors. Safe to share between threads, and usable in a fork of its process.

    Without a limit a call is made where the caller stands: on its thread, or, of a coroutine, on one of asyncio's.
    With a limit it is made on a thread of the asker's own, of which there are `WORKERS`; they start when they are
    needed. A `Submitting` detector is submitted to and waited for; it takes no thread for this.

    When the limit is over, what has not begun is cancelled. What runs goes on until the detector returns, and what it
    gives is thrown away. It keeps its thread until then, so while `WORKERS` such calls run, others wait for one of
    them to end, within their own limits, and are then late. When the interpreter ends it waits for such calls, and
    for nothing that has not begun; one that never returns keeps the process, as it would without a limit.

    Where a call of several steps fails, each of them is asked for again alone, within what is left of the limit: so a
    step that breaks the detector costs no other its answer. Not where there was no time or room for them
    (`OverloadError`): that would ask for more of both.
    """

    def __init__(self) -> None:
        # Of each process, because a fork leaves threads behind and may copy a lock that is held. A dict whose
        # `setdefault` is atomic needs no lock of its own; an executor that loses has not begun any thread.
        self._workers: dict[int, _Workers] = {}
        self._closed = False

    def ask(
        self, detector: Detector, steps: Sequence[Step], keys: Sequence[Hashable], limit_s: float | None = None
    ) -> list[Answer]:
        """Have steps scored.

        Args:
            detector: What scores them.
            steps: The steps; may be empty.
            keys: Whose each step is, as in `Detector.score`.
            limit_s: Seconds to wait at most; None for no limit. Where it is 0 or less the detector is not asked, and
                all steps are late.

        Returns:
            One answer a step, in order. Whatever the detector raises as an `Exception` is in there.

        Raises:
            ValueError: If there is not one key a step.
        """
        call = _Call(detector, steps, keys, limit_s)
        for groups in call.rounds():
            if limit_s is None:
                for group in groups:
                    call.note(group, call.outcome(group))
                continue
            with self._begun(call, groups) as begun:
                _wait(_all_done(begun), call.left)
                call.take(begun)
        return call.answers()

    async def aask(
        self, detector: Detector, steps: Sequence[Step], keys: Sequence[Hashable], limit_s: float | None = None
    ) -> list[Answer]:
        """`ask`, without blocking the event loop; a caller that is cancelled cancels what has not begun."""
        call = _Call(detector, steps, keys, limit_s)
        for groups in call.rounds():
            if limit_s is None and not isinstance(detector, Submitting):
                for group in groups:
                    call.note(group, await asyncio.to_thread(call.outcome, group))
                continue
            with self._begun(call, groups) as begun:
                await _await(_all_done(begun), call.left)
                call.take(begun)
        return call.answers()

    def close(self) -> None:
        """Cancel what has not begun and end the threads, without waiting for them; may be called again.

        Calls without a limit are made as before.
        """
        self._closed = True
        workers = self._workers.pop(os.getpid(), None)
        if workers is not None:
            workers.close()

    @contextmanager
    def _begun(self, call: _Call, groups: Sequence[_Group]) -> Iterator[list[_Begun]]:
        """Have groups of steps scored elsewhere; what has not begun in the end is cancelled."""
        begun: list[_Begun] = []
        try:
            for group in groups:
                if isinstance(call.detector, Submitting):
                    _submit(call.detector, call, group, begun)
                else:
                    # Whoever traces the caller finds it on the other thread, as with `asyncio.to_thread`.
                    run = partial(contextvars.copy_context().run, call.score, group)
                    begun.append(_Begun(group, self._submit(run)))
            yield begun
        finally:
            for one in begun:
                one.future.cancel()

    def _submit(self, run: Callable[[], list[Scores]]) -> Future[list[Scores]]:
        try:
            if self._closed:
                raise DetectorError("the guard is closed, and asks no detector within a limit any more")
            pid = os.getpid()
            workers = self._workers.get(pid) or self._workers.setdefault(pid, _Workers())
            return workers.submit(run)
        except (DetectorError, RuntimeError) as error:  # The latter where the interpreter ends.
            return _refused(error)


_Group = tuple[int, ...]
"""Places of steps that are scored together."""


@dataclass(frozen=True, slots=True)
class _Begun:
    """Steps that are being scored elsewhere."""

    group: _Group
    future: Future[list[Scores]]


class _Call:
    """One call of an asker: what is to be asked for, and what came of it so far."""

    def __init__(
        self, detector: Detector, steps: Sequence[Step], keys: Sequence[Hashable], limit_s: float | None
    ) -> None:
        if len(keys) != len(steps):
            raise ValueError(f"{len(keys)} keys for {len(steps)} steps")
        self.detector = detector
        self.steps = steps
        self.keys = keys
        self._began = time.perf_counter()
        self._limit_s = limit_s
        self._scores: dict[int, Scores] = {}
        self._errors: dict[int, LecGuardError] = {}
        self._again: list[int] = []

    @property
    def left(self) -> float | None:
        """Seconds that are left; None where there is no limit."""
        return None if self._limit_s is None else max(self._began + self._limit_s - time.perf_counter(), 0.0)

    def rounds(self) -> Iterator[list[_Group]]:
        """What is to be asked for: all steps together, then those of them alone that failed in company."""
        if self.steps and self.left != 0:
            yield [tuple(range(len(self.steps)))]
        if self._again and self.left != 0:
            yield [(at,) for at in sorted(self._again)]

    def score(self, group: _Group) -> list[Scores]:
        """Call the detector here and now."""
        return self.detector.score([self.steps[at] for at in group], keys=[self.keys[at] for at in group])

    def outcome(self, group: _Group) -> list[Scores] | LecGuardError:
        """The same, with what it raises as a result: neither a thread nor a future can lose it then."""
        return _outcome(partial(self.score, group), len(group))

    def take(self, begun: Sequence[_Begun]) -> None:
        """Note what is done; what is not is late."""
        for one in begun:
            if one.future.done():
                self.note(one.group, _outcome(one.future.result, len(one.group)))

    def note(self, group: _Group, outcome: list[Scores] | LecGuardError) -> None:
        """Note what came of steps that were scored together."""
        if not isinstance(outcome, LecGuardError):
            self._scores.update(zip(group, outcome, strict=True))
        elif len(group) > 1 and not isinstance(outcome, OverloadError):
            self._again += group
        else:
            self._errors.update(dict.fromkeys(group, outcome))

    def answers(self) -> list[Answer]:
        """What came of all steps, in order."""
        ms = (time.perf_counter() - self._began) * 1000 / max(len(self.steps), 1)
        return [
            Answer(
                scores=self._scores.get(at),
                error=self._errors.get(at),
                late=at not in self._scores and at not in self._errors,
                ms=ms,
            )
            for at in range(len(self.steps))
        ]


def _outcome(score: Callable[[], object], count: int) -> list[Scores] | LecGuardError:
    try:
        return checked(score(), count)
    # A detector that was cancelled within itself is none that its caller cancelled.
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - no caller takes it for a pass
        return failed(error)


def _submit(detector: Submitting, call: _Call, group: _Group, begun: list[_Begun]) -> None:
    """Submit steps, in one call of the detector for each key; if one is refused, so are all."""
    places: dict[Hashable, list[int]] = {}
    for at in group:
        places.setdefault(call.keys[at], []).append(at)
    own: list[_Begun] = []
    try:
        for key, some in places.items():
            future = detector.submit([call.steps[at] for at in some], key=key)
            own.append(_Begun(tuple(some), future))
            begun.append(own[-1])
    except Exception as error:  # noqa: BLE001 - told to who waits
        for one in own:
            one.future.cancel()
            begun.remove(one)
        begun.append(_Begun(group, _refused(error)))


def _refused(error: Exception) -> Future[list[Scores]]:
    future: Future[list[Scores]] = Future()
    future.set_exception(failed(error))
    return future


def _all_done(begun: Sequence[_Begun]) -> Future[None]:
    """A future that is done when these are, and cancelled without them.

    It carries none of their errors, of which asyncio does not take all. `concurrent.futures.wait` would not do: it
    does not see that somebody else has cancelled a future.
    """
    everything: Future[None] = Future()
    lock = threading.Lock()
    left = len(begun)

    def tell(_: Future[list[Scores]]) -> None:
        nonlocal left
        with lock:
            left -= 1
            last = left == 0
        if last and everything.set_running_or_notify_cancel():
            everything.set_result(None)

    for one in begun:
        one.future.add_done_callback(tell)
    return everything


def _wait(future: Future[None], timeout_s: float | None) -> None:
    try:
        future.result(timeout_s)
    except TimeoutError:
        future.cancel()


async def _await(future: Future[None], timeout_s: float | None) -> None:
    waiting = asyncio.wrap_future(future)
    try:
        await asyncio.wait([waiting], timeout=timeout_s)
    finally:
        # Else it would tell a loop that may be closed by then.
        waiting.cancel()


class _Workers:
    """Threads of one process that run calls, `WORKERS` at most. Safe to share between threads.

    What waits is kept here and not in the executor, where a call that is cancelled would stay until a thread comes to
    it: behind calls that never return that would be for ever, and its steps with it.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(WORKERS, thread_name_prefix="lec-guard-asker")
        self._lock = threading.Lock()
        # Both are guarded by the lock; the oldest is first.
        self._waiting: dict[Future[list[Scores]], Callable[[], list[Scores]]] = {}
        self._working = 0

    def submit(self, run: Callable[[], list[Scores]]) -> Future[list[Scores]]:
        """Have something run; a future that is cancelled before it begins takes no room."""
        future: Future[list[Scores]] = Future()
        future.add_done_callback(self._strike)
        with self._lock:
            if self._working < WORKERS:
                self._executor.submit(self._work)
                self._working += 1
            self._waiting[future] = run
        return future

    def close(self) -> None:
        """Cancel what waits, and end the threads when they have done what they do."""
        with self._lock:
            waiting = list(self._waiting)
        for future in waiting:
            future.cancel()
        self._executor.shutdown(wait=False)

    def _strike(self, future: Future[list[Scores]]) -> None:
        with self._lock:
            self._waiting.pop(future, None)

    def _work(self) -> None:
        """Run what waits, until nothing does."""
        while True:
            with self._lock:
                if not self._waiting:
                    self._working -= 1
                    return
                future = next(iter(self._waiting))
                run = self._waiting.pop(future)
            if future.set_running_or_notify_cancel():
                try:
                    scores = run()
                except BaseException as error:  # noqa: BLE001 - told to who waits, not to this thread
                    future.set_exception(error)
                else:
                    future.set_result(scores)
