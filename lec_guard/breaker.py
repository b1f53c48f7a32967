"""A circuit breaker: who failed time and again is left alone for a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lec_guard.errors import LecGuardError


class CircuitOpen(LecGuardError):
    """Another service failed so often that it is not asked for a while."""


class Breaker:
    """Lets calls through until several in a row fail; then none for a while; then one, to try. Thread-safe.

    Args:
        failures: How many calls in a row have to fail.
        open_s: Seconds for which none is let through then.
        clock: Seconds that only grow.
    """

    def __init__(self, *, failures: int = 5, open_s: float = 30.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = failures
        self._open_s = open_s
        self._clock = clock
        self._lock = threading.Lock()
        # All guarded by the lock.
        self._failures = 0
        self._opened: float | None = None
        self._trying = False

    @contextmanager
    def call(self) -> Iterator[None]:
        """Surround a call; an `Exception` that leaves it is its failure. One that is cancelled says nothing.

        Raises:
            CircuitOpen: If it is not let through.
        """
        trial = self._enter()
        try:
            yield
        except Exception:
            self._failed(trial)
            raise
        except BaseException:
            self._left(trial)
            raise
        self._passed(trial)

    def _enter(self) -> bool:
        """Whether this call is the one that tries."""
        with self._lock:
            if self._opened is None:
                return False
            if self._trying or self._clock() < self._opened + self._open_s:
                raise CircuitOpen("it failed too often, and is left alone for a while")
            self._trying = True
            return True

    def _failed(self, trial: bool) -> None:
        with self._lock:
            if trial:
                self._trying = False
                self._opened = self._clock()
            elif self._opened is None:
                self._failures += 1
                if self._failures >= self._most:
                    self._opened = self._clock()

    def _passed(self, trial: bool) -> None:
        with self._lock:
            if trial:
                self._trying = False
                self._opened = None
            # What began before the circuit opened does not close it.
            if self._opened is None:
                self._failures = 0

    def _left(self, trial: bool) -> None:
        with self._lock:
            if trial:
                self._trying = False
