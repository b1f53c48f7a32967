"""Calls that keep to a rate, and are made again when a provider is busy."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from lec_guard.train.harmaug.chat import status
from lec_guard.train.harmaug.models import AugmentError

T = TypeVar("T")

TRIES = 8
"""Of one call, before the run ends."""

_FIRST_S, _LONGEST_S = 1.0, 60.0
"""How long to wait at most before a call is made again: at first, and however often it failed."""

_PATIENCE_S = 600.0
"""What a provider may ask to wait."""

_BUSY = {408, 409, 425, 429, 500, 502, 503, 504, 529}
_NAMES = ("RateLimit", "TooManyRequests", "ResourceExhausted", "Throttl", "Overloaded", "Connection", "Timeout")
"""What providers without a status call such errors."""


class Pace:
    """Makes calls: so many at once, so many a minute. For one event loop.

    Args:
        concurrency: Calls at once.
        per_minute: Calls that start within a minute; None sets no limit.
        timeout_s: Seconds for a call.
        sleep: Waits.
        now: Tells the seconds.
        jitter: A number in 0..1 for each wait, so that callers do not come back together.
    """

    def __init__(
        self,
        *,
        concurrency: int,
        per_minute: float | None,
        timeout_s: float,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
        now: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._free = asyncio.Semaphore(concurrency)
        self._apart = 60.0 / per_minute if per_minute else 0.0
        self._timeout_s = timeout_s
        self._sleep, self._now, self._jitter = sleep, now, jitter
        self._next = self._held = 0.0

    async def run(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call, again where it fails in passing.

        Args:
            call: The call.

        Returns:
            What it gives.

        Raises:
            AugmentError: If it fails for good, or too often; named by its kind alone.
        """
        async with self._free:
            for number in range(TRIES):
                await self._turn()
                try:
                    async with asyncio.timeout(self._timeout_s):
                        return await call()
                except AugmentError:
                    raise
                except Exception as error:  # noqa: BLE001 - every provider has errors of its own
                    if not passing(error):
                        raise AugmentError(f"a model failed: {_kind(error)}") from None
                    if number == TRIES - 1:
                        raise AugmentError(
                            f"a model failed {TRIES} times, at last by {_kind(error)}; the same command goes on from "
                            "here"
                        ) from None
                    await self._wait(error, number)
        raise AssertionError

    async def _turn(self) -> None:
        """Wait until the next call may start."""
        at = max(self._next, self._now())
        self._next = at + self._apart
        while (wait := max(at, self._held) - self._now()) > 0:
            await self._sleep(wait)

    async def _wait(self, error: BaseException, number: int) -> None:
        """Wait before a call is made again; all others do where the provider says how long."""
        asked = min(retry_after(error) or 0.0, _PATIENCE_S)
        self._held = max(self._held, self._now() + asked)
        await self._sleep(asked + min(_FIRST_S * 2**number, _LONGEST_S) * self._jitter())


def passing(error: BaseException) -> bool:
    """Whether the same call may succeed later.

    Args:
        error: What a provider raised.

    Returns:
        Whether it is busy, out of reach or too slow.
    """
    code = status(error)
    if code is not None:
        return code in _BUSY
    if isinstance(error, TimeoutError | ConnectionError):
        return True
    return any(part in type(error).__name__ for part in _NAMES)


def retry_after(error: BaseException) -> float | None:
    """How long a provider asks to wait.

    Args:
        error: What it raised.

    Returns:
        Seconds; None where it does not say.
    """
    headers: Any = getattr(getattr(error, "response", None), "headers", None) or {}
    said = headers.get("retry-after") if hasattr(headers, "get") else None
    if said is None:
        return None
    try:
        seconds = float(said)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(str(said)) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):  # no date, or one without a zone
            return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None


async def together(calls: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Wait for several calls; where one fails the others are ended.

    Args:
        calls: The calls.

    Returns:
        What they give, in order.
    """
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def _kind(error: BaseException) -> str:
    # By its kind alone: what it says may quote the text.
    code = status(error)
    return f"{type(error).__name__}" + (f" (status {code})" if code is not None else "")
