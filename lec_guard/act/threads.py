"""Work that may never end, on threads that keep neither the caller nor the interpreter."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")

_LOOK_AGAIN_S = 0.01


class Threads(Generic[T]):
    """Runs work on daemon threads, and waits for it within a limit. Safe to share between threads, and after a fork.

    A limit ends the waiting, not the work: no thread can be stopped from outside. What is left behind keeps its thread
    until it ends, and does not keep the interpreter from ending. There are never more threads than `most`: who comes
    while all are taken waits for one, within the limit.

    Args:
        name: What the threads are called.
        most: How many may run at once.
    """

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._most = most
        # Of each process: a fork leaves threads behind, and they would never give back what they took.
        self._free: dict[int, threading.BoundedSemaphore] = {}

    def run(self, work: Callable[[], T], limit_s: float) -> T:
        """Run something elsewhere, in an empty context, and wait for it.

        Args:
            work: What to run.
            limit_s: Seconds to wait at most.

        Returns:
            What it returned; what it raises is raised here.

        Raises:
            TimeoutError: If it was not done in time, or no thread was free.
        """
        until = time.monotonic() + limit_s
        free = self._permits()
        if not free.acquire(timeout=max(limit_s, 0.0)):
            raise TimeoutError(f"all {self._most} threads of {self._name} are busy")
        return self._start(work, free).result(max(until - time.monotonic(), 0.0))

    async def arun(self, work: Callable[[], T]) -> T:
        """`run`, without blocking the event loop and without a limit: the caller sets one by `asyncio.timeout`."""
        free = self._permits()
        while not free.acquire(blocking=False):  # noqa: ASYNC110 - threads free it, of which no event loop knows
            await asyncio.sleep(_LOOK_AGAIN_S)
        return await asyncio.wrap_future(self._start(work, free))

    def _permits(self) -> threading.BoundedSemaphore:
        pid = os.getpid()
        # `setdefault` is atomic: two threads that come first get the same one.
        return self._free.get(pid) or self._free.setdefault(pid, threading.BoundedSemaphore(self._most))

    def _start(self, work: Callable[[], T], free: threading.BoundedSemaphore) -> Future[T]:
        future: Future[T] = Future()
        # So that nobody who stops waiting can cancel it: it runs already.
        future.set_running_or_notify_cancel()

        def run() -> None:
            try:
                result = work()
            except BaseException as error:  # noqa: BLE001 - told to who waits, not to this thread
                free.release()
                future.set_exception(error)
            else:
                free.release()
                future.set_result(result)

        try:
            context = contextvars.Context()
            threading.Thread(target=context.run, args=(run,), name=self._name, daemon=True).start()
        except BaseException:
            free.release()
            raise
        return future
