"""How much may be asked: steps in flight, and steps a second of each tenant."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the API takes.

    Attributes:
        body_bytes: Of a request.
        steps: Of a request.
        waiting: Steps that are judged or wait for it, of all requests together.
        waiting_chars: Their characters.
        rate_per_s: Steps a second of a tenant, for as many keys as ask for it; None for no such limit.
        burst_s: How many seconds' worth of them may come at once.
        read_s: Seconds that a client has to send its request's body.
    """

    body_bytes: int = 8 * 1024 * 1024
    steps: int = 256
    waiting: int = 2048
    waiting_chars: int = 16 * 1024 * 1024
    rate_per_s: float | None = None
    burst_s: float = 2.0
    read_s: float = 20.0


class TooMuch(Exception):
    """There is no room for a request now.

    Args:
        words: Why, for whoever asks.
        retry_after_s: When it may be tried again, in seconds.
    """

    def __init__(self, words: str, retry_after_s: int) -> None:
        super().__init__(words)
        self.words = words
        self.retry_after_s = retry_after_s


class Room:
    """Counts what is in flight. What finds no room is refused at once, so that what was let in has its answer in time.

    Args:
        limits: How much there may be.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._steps = 0
        self._chars = 0
        self._lock = threading.Lock()

    @property
    def steps(self) -> int:
        """Steps that are in flight."""
        return self._steps

    @contextmanager
    def taken(self, steps: int, chars: int) -> Iterator[None]:
        """Take room for steps while they are judged.

        A request that alone is larger than all there is room for is let in when nothing else is in flight.

        Args:
            steps: How many.
            chars: Their characters.

        Raises:
            TooMuch: If there is no room.
        """
        with self._lock:
            full = self._steps + steps > self._limits.waiting or self._chars + chars > self._limits.waiting_chars
            if full and self._steps:
                raise TooMuch(f"{self._steps:,} steps are in flight; ask again in a second", 1)
            self._steps += steps
            self._chars += chars
        try:
            yield
        finally:
            with self._lock:
                self._steps -= steps
                self._chars -= chars


class Rates:
    """Steps a second of each tenant (a token bucket each).

    Args:
        limits: The rate of those who have none of their own.
        most: How many tenants are remembered; of more, whoever asked longest ago has a full bucket again.
        clock: Seconds that never go back.
    """

    def __init__(self, limits: Limits, *, most: int = 65_536, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._most = most
        self._clock = clock
        self._left: OrderedDict[str | None, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, tenant: str | None, steps: int, rate_per_s: float | None) -> None:
        """Take steps of a tenant's.

        Args:
            tenant: The tenant; None for no tenant.
            steps: How many.
            rate_per_s: Steps a second that it has; None for what all have.

        Raises:
            TooMuch: If it has asked too much of late.
        """
        rate = self._limits.rate_per_s if rate_per_s is None else rate_per_s
        if rate is None:
            return
        with self._lock:
            now = self._clock()
            # A single request of the largest size has to fit, however small the rate.
            most = max(rate * self._limits.burst_s, self._limits.steps)
            left, at = self._left.pop(tenant, (most, now))
            left = min(most, left + (now - at) * rate)
            enough = left >= steps
            self._left[tenant] = (left - steps if enough else left, now)
            while len(self._left) > self._most:
                self._left.popitem(last=False)
        if not enough:
            wait = max(1, math.ceil((steps - left) / rate))
            raise TooMuch(f"more than {rate:g} steps a second for this tenant; ask again in {wait} s", wait)
