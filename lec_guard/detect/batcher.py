"""Many callers, one forward pass: a detector whose calls concurrent callers share."""

from __future__ import annotations

import math
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import suppress
from functools import partial
from typing import Self

from lec_guard.detect.detector import Detector, Heated, Measured, found_in
from lec_guard.detect.heads import HeadSpec
from lec_guard.detect.submitting import checked, failed, in_order, submitted
from lec_guard.errors import DetectorError, LecGuardError, OverloadError
from lec_guard.step import Scores, Span, Step

MAX_STEPS = 64
"""Steps that go to the detector at once by default."""

MAX_WAITING = 4096
"""Steps that may wait by default."""

_BATCH_CHARS = 16_384
"""Characters of the steps that go to the detector at once: about the tokens of one forward pass. Beyond it
sharing wins nothing, and short texts would wait for long ones."""


class Batcher:
    """A detector around another one, whose calls concurrent callers share. Safe to share between threads.

    One worker thread calls the detector with whatever waits when it becomes free. So calls are shared as far
    as the load asks for it, nobody waits for a batch to fill, and a lone caller pays a hand-over between two
    threads and no more. The worker starts with the first call.

    Keys are served in turn, a step at a time, and the calls of a key in the order they came. A call that does
    not fit is spread over several batches, and a step with more characters than a forward pass holds is read
    without company; so neither many calls nor a large one keep other keys waiting. Steps are not sorted here:
    `LayerDetector` reads equal texts of one call once and puts windows of similar length side by side, whoever
    sent them, so that there is little padding.

    What one caller sent hits no other: where a shared call fails, each caller's steps are scored alone.

    A batcher that is dropped without `close` keeps neither its thread nor the interpreter alive. A fork leaves
    its thread behind, so make it in the process that uses it.

    Args:
        detector: What scores the steps; only the worker has it do so.
        max_steps: Steps that go to it at once.
        max_waiting: Steps that may wait; a call with which there would be more is refused.
        timeout_s: Seconds within which a call must begin; None for no such limit.

    Raises:
        DetectorError: If a limit is not a number above 0.
    """

    def __init__(
        self,
        detector: Detector,
        *,
        max_steps: int = MAX_STEPS,
        max_waiting: int = MAX_WAITING,
        timeout_s: float | None = None,
    ) -> None:
        _check_positive(max_steps=max_steps, max_waiting=max_waiting, timeout_s=timeout_s)
        self._detector = detector
        self._max_steps = max_steps
        self._max_waiting = max_waiting
        self._timeout_s = timeout_s
        self._pid = os.getpid()
        # Its thread starts with the first task and is no daemon, but ends when the executor is garbage or the
        # interpreter ends. Between two tasks it holds no reference to the batcher.
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="lec-guard-batcher")
        self._worker: int | None = None
        # What follows is guarded by the lock. No future is resolved under it, for callbacks may call back.
        self._lock = threading.Lock()
        self._lines = _Lines()
        self._working = False
        self._closed = False

    @property
    def labels(self) -> Mapping[str, tuple[str, ...]]:
        """Head name -> the labels that the wrapped detector can raise."""
        return self._detector.labels

    @property
    def heads(self) -> tuple[HeadSpec, ...]:
        """What the heads of the wrapped detector are; none where it does not say."""
        return self._detector.heads if isinstance(self._detector, Measured) else ()

    @property
    def detector_id(self) -> str | None:
        """Name and content hash of the wrapped detector; None where it has none."""
        found = getattr(self._detector, "detector_id", None)
        return None if found is None else str(found)

    @property
    def window_tokens(self) -> int | None:
        """Tokens that the wrapped detector reads at once, at most; None where it does not say."""
        found = getattr(self._detector, "window_tokens", None)
        return None if found is None else int(found)

    @property
    def detector(self) -> Detector:
        """The wrapped detector."""
        return self._detector

    def around(self, detector: Detector) -> Batcher:
        """Another batcher with the limits of this one.

        Args:
            detector: What it wraps.

        Returns:
            The batcher, with a thread and lines of its own.
        """
        return Batcher(detector, max_steps=self._max_steps, max_waiting=self._max_waiting, timeout_s=self._timeout_s)

    def score(self, steps: Sequence[Step], *, keys: Sequence[Hashable] | None = None) -> list[Scores]:
        """Score steps, in calls of the detector that others share.

        Args:
            steps: The steps; may be empty.
            keys: Whose each step is; see `submit`. None: all belong to one.

        Returns:
            One `Scores` a step, in order.

        Raises:
            OverloadError: If too many steps wait already, or these had no turn in their time.
            DetectorError: If the steps are refused (see `submit`) or the detector failed; what has not begun of
                the other keys' steps is not scored then.
            ValueError: If there is not one key a step.
        """
        self._check_not_worker()
        with submitted(self, steps, [None] * len(steps) if keys is None else keys) as futures:
            try:
                for future in as_completed(futures, self._timeout_s):
                    future.result()
            except TimeoutError:
                if any(future.cancel() for future in futures):
                    raise _late() from None
                for future in as_completed(futures):  # Begun just now, or found to be late by the worker.
                    future.result()
            return in_order(futures)

    def heat(self, step: Step) -> list[Span]:
        """How high each part of a text scores; of a detector that does not tell, what it finds.

        A person waits for it, and nobody else: it is done at once, in the thread that asks.

        Args:
            step: The step.

        Returns:
            The parts in the order of the text; they may overlap.

        Raises:
            DetectorError: If part of the step can't be read, or the detector failed; an OverloadError as in `score`.
        """
        if isinstance(self._detector, Heated):
            return self._detector.heat(step)
        (scores,) = self.score([step])
        return found_in(scores)

    def submit(
        self, steps: Sequence[Step], *, key: Hashable = None, timeout_s: float | None = None
    ) -> Future[list[Scores]]:
        """Have steps scored, without waiting for it.

        A coroutine awaits `asyncio.wrap_future(batcher.submit(steps))`, as a guard's async methods do. A future
        that is cancelled before its steps are begun costs nothing.

        Args:
            steps: The steps; may be empty.
            key: Whose they are, for example the tenant: keys are served in turn, and the detector is told each
                step's. Calls without one share one.
            timeout_s: Seconds within which they must be begun; None for the batcher's. Steps that are late are
                not scored; the future says so when the batch ends that they waited for.

        Returns:
            A future of one `Scores` a step, in order. Its errors are `LecGuardError`s.

        Raises:
            OverloadError: If too many steps wait already.
            DetectorError: If the batcher is closed, or the process was forked from the batcher's.
        """
        if os.getpid() != self._pid:
            raise DetectorError(
                f"the batcher of process {self._pid} can't be used in its fork {os.getpid()}; make one in each process"
            )
        _check_positive(timeout_s=timeout_s)
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        call = _Call(steps, key, math.inf if timeout_s is None else time.monotonic() + timeout_s)
        call.future.add_done_callback(partial(self._strike, key))
        with self._lock:
            if self._closed:
                raise DetectorError("the batcher is closed")
            if self._lines.waiting + call.left > self._max_waiting:
                raise OverloadError(
                    f"overload: {self._lines.waiting} steps wait for the detector, and with {call.left} more there "
                    f"would be more than {self._max_waiting}"
                )
            if call.left:
                self._lines.add(call)
                self._wake()
        if not call.steps:
            call.future.set_result([])
        return call.future

    def close(self) -> None:
        """Score what was submitted, refuse what comes, end the thread, and close the detector if it has a `close`.

        May be called again. In a fork of the batcher's process there is nothing to close.

        Raises:
            DetectorError: If called in a callback of a future, on the thread that it would wait for.
        """
        if os.getpid() != self._pid:
            return
        self._check_not_worker()
        with self._lock:
            first, self._closed = not self._closed, True
        self._executor.shutdown()
        close = getattr(self._detector, "close", None)
        if first and close is not None:
            close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _check_not_worker(self) -> None:
        if threading.get_ident() == self._worker:
            raise DetectorError("the batcher's own thread can't wait for the batcher; a callback may only submit")

    def _wake(self) -> None:
        if self._working:
            return
        try:
            self._executor.submit(self._work)
        except RuntimeError as error:
            self._lines.clear()  # Only the call that was just added: the worker rests when there are no others.
            raise DetectorError(f"the batcher can't work: {error}") from error
        self._working = True

    def _strike(self, key: Hashable, future: Future[list[Scores]]) -> None:
        """Forget a call that was cancelled while it waited, so that it takes no room."""
        if not future.cancelled() or os.getpid() != self._pid:
            return
        with self._lock:
            struck = self._lines.strike(future, key)
        if struck:
            future.set_running_or_notify_cancel()

    def _work(self) -> None:
        """Serve until nothing waits."""
        self._worker = threading.get_ident()
        # Made here and filled by others, so that no call is lost, whatever is raised in between.
        batch: _Batch = {}
        late: list[_Call] = []
        try:
            while self._take(batch, late):
                self._answer(batch)
                batch.clear()
        except BaseException as error:  # noqa: BLE001 - callers of a thread that died would wait for ever
            with self._lock:
                calls = [*batch, *late, *self._lines.clear()]
                self._working = False
            for call in calls:
                call.fail(failed(error, "batcher"))
        finally:
            self._worker = None

    def _take(self, batch: _Batch, late: list[_Call]) -> bool:
        """Fill the next batch; if there is none, the worker rests from now on."""
        with self._lock:
            self._lines.take(self._max_steps, batch, late)
            self._working = bool(batch)
        while late:
            late[-1].fail(_late())
            late.pop()
        return bool(batch)

    def _answer(self, batch: _Batch) -> None:
        scores: Sequence[Scores] = ()
        failure: LecGuardError | None = None
        try:
            scores = self._scores(batch)
        except BaseException as error:  # noqa: BLE001 - told to who waits, not to this thread
            failure = failed(error)
        at = 0
        for call, steps in batch.items():
            if failure is None:
                call.give(scores[at : at + len(steps)])
                at += len(steps)
            elif len(batch) == 1:
                call.fail(failure)
            elif time.monotonic() > call.deadline:
                call.fail(_late())
            else:
                # Not where the error is caught: it may speak of a neighbour's text, and would be this one's context.
                self._answer({call: steps})

    def _scores(self, batch: _Batch) -> list[Scores]:
        steps = [step for own in batch.values() for step in own]
        keys = [call.key for call, own in batch.items() for _ in own]
        return checked(self._detector.score(steps, keys=keys), len(steps))


class _Call:
    """Steps that somebody waits for."""

    __slots__ = ("deadline", "future", "key", "scores", "sizes", "steps", "taken")

    def __init__(self, steps: Sequence[Step], key: Hashable, deadline: float) -> None:
        self.steps = list(steps)
        self.key = key
        self.sizes = [len(step.text) for step in self.steps]
        self.deadline = deadline
        self.taken = 0
        self.scores: list[Scores] = []
        self.future: Future[list[Scores]] = Future()

    @property
    def left(self) -> int:
        """Steps that still wait."""
        return len(self.steps) - self.taken

    def begin(self) -> bool:
        """Whether somebody still waits for the next step; a first step can't be cancelled from then on."""
        return not self.future.done() if self.taken else self.future.set_running_or_notify_cancel()

    def give(self, scores: Sequence[Scores]) -> None:
        self.scores += scores
        if len(self.scores) == len(self.steps):
            with suppress(BaseException):  # What a callback raises.
                self.future.set_result(self.scores)

    def fail(self, error: LecGuardError) -> None:
        with suppress(BaseException):  # Likewise; or the call was done with.
            self.future.set_exception(error)


_Batch = dict[_Call, list[Step]]
"""What goes to the detector at once: some or all steps of each call."""


class _Lines:
    """What waits: a line of calls for each key, and the keys in the order of their next turn."""

    def __init__(self) -> None:
        # A line is no deque, for a call must be found in its middle. The lines are in a plain dict, because one can
        # go through that, and so tell everybody, even where a key's hash has changed.
        self._lines: dict[Hashable, OrderedDict[Future[list[Scores]], _Call]] = {}
        self.waiting = 0

    def add(self, call: _Call) -> None:
        self._lines.setdefault(call.key, OrderedDict())[call.future] = call
        self.waiting += call.left

    def strike(self, future: Future[list[Scores]], key: Hashable) -> bool:
        """Remove a call; False if it does not wait."""
        line = self._lines.get(key, OrderedDict())
        call = line.pop(future, None)
        if call is None:
            return False
        self.waiting -= call.left
        if not line:
            del self._lines[key]
        return True

    def clear(self) -> list[_Call]:
        """Remove and return all calls."""
        calls = [call for line in self._lines.values() for call in line.values()]
        self._lines.clear()
        self.waiting = 0
        return calls

    def take(self, max_steps: int, batch: _Batch, late: list[_Call]) -> None:
        """Take the steps whose turn it is, at least one if any waits, and the calls that are found to be late."""
        now = time.monotonic()
        steps = chars = 0
        while self._lines and steps < max_steps:
            key, line = next(iter(self._lines.items()))
            call = next(iter(line.values()))
            if batch and chars + call.sizes[call.taken] > _BATCH_CHARS:
                return
            alive = call.begin()
            if alive and not call.taken and now > call.deadline:
                late.append(call)
                alive = False
            if alive:
                batch.setdefault(call, []).append(call.steps[call.taken])
                chars += call.sizes[call.taken]
                steps += 1
                call.taken += 1
                self.waiting -= 1
                self._lines[key] = self._lines.pop(key)
            else:
                self.waiting -= call.left
            if not alive or not call.left:
                del line[call.future]
            if not line:
                del self._lines[key]


def _check_positive(**limits: float | None) -> None:
    for name, limit in limits.items():
        if limit is not None and not 0 < limit < math.inf:
            raise DetectorError(f"{name} must be a number above 0, not {limit}")


def _late() -> OverloadError:
    return OverloadError("overload: the detector did not come to these steps within their time")
