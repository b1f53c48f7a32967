"""Calls that keep to a rate, and come again when a provider is busy: on a clock that only waiting moves."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace

import pytest

from lec_guard.train.harmaug import AugmentError
from lec_guard.train.harmaug.pace import TRIES, Pace, passing, retry_after, together


class Clock:
    """Time that passes when somebody waits."""

    def __init__(self) -> None:
        self.now = 100.0
        self.waits: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)

    def pace(self, *, concurrency: int = 1, per_minute: float | None = None, timeout_s: float = 60.0) -> Pace:
        return Pace(
            concurrency=concurrency,
            per_minute=per_minute,
            timeout_s=timeout_s,
            sleep=self.sleep,
            now=lambda: self.now,
            jitter=lambda: 1.0,
        )


class Busy(Exception):
    def __init__(self, status: int = 429, after: str | None = None) -> None:
        super().__init__("the secret text")
        self.response = SimpleNamespace(status_code=status, headers={} if after is None else {"retry-after": after})


def failing(*errors: Exception):
    """A call that fails so, and then succeeds."""
    left = list(errors)

    async def call() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return call


async def test_calls_start_apart_when_there_is_a_limit_a_minute():
    clock, started = Clock(), []

    async def call() -> None:
        started.append(clock.now)

    pace = clock.pace(concurrency=4, per_minute=30)
    await together(pace.run(call) for _ in range(5))
    assert sorted(started)[0] == 100.0
    assert len(started) == 5
    # However long each had to wait: so many in a minute, and no more.
    assert max(started) >= 108.0


async def test_no_more_calls_run_at_once_than_may():
    clock, running, most = Clock(), 0, 0

    async def call() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1

    pace = clock.pace(concurrency=3)
    await together(pace.run(call) for _ in range(10))
    assert most == 3


async def test_who_is_busy_is_asked_again_later_and_later():
    clock = Clock()
    assert await clock.pace().run(failing(*[Busy()] * 5)) == "done"
    assert clock.waits == [1.0, 2.0, 4.0, 8.0, 16.0]


async def test_a_wait_that_is_asked_for_is_kept_by_all():
    pace = Pace(concurrency=2, per_minute=None, timeout_s=60.0, jitter=lambda: 0.0)
    began, started = time.monotonic(), []

    async def other() -> None:
        started.append(time.monotonic() - began)

    first = asyncio.ensure_future(pace.run(failing(Busy(after="0.2"))))
    await asyncio.sleep(0.01)
    await pace.run(other)
    assert await first == "done"
    assert started[0] >= 0.2


async def test_nobody_is_waited_for_longer_than_a_while():
    clock = Clock()
    assert await clock.pace().run(failing(Busy(after="86400"))) == "done"
    assert clock.waits[0] == 601.0


async def test_a_provider_that_stays_busy_ends_the_run_and_its_words_are_not_told():
    clock = Clock()
    with pytest.raises(AugmentError, match=rf"failed {TRIES} times, at last by Busy \(status 429\)") as caught:
        await clock.pace().run(failing(*[Busy()] * TRIES))
    assert "secret" not in str(caught.value)
    assert len(clock.waits) == TRIES - 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
async def test_what_will_not_pass_is_not_tried_again(status):
    clock = Clock()
    with pytest.raises(AugmentError, match=rf"Busy \(status {status}\)") as caught:
        await clock.pace().run(failing(Busy(status)))
    assert "secret" not in str(caught.value)
    assert clock.waits == []


async def test_a_call_that_hangs_is_made_again():
    clock, calls = Clock(), []

    async def call() -> str:
        calls.append(1)
        if len(calls) == 1:
            await asyncio.sleep(60)
        return "done"

    assert await clock.pace(timeout_s=0.02).run(call) == "done"
    assert len(calls) == 2


class RateLimitError(Exception):
    """As some providers name it, without a status."""


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (Busy(429), True), (Busy(503), True), (Busy(529), True), (Busy(400), False), (RateLimitError(), True),
        (TimeoutError(), True), (ConnectionResetError(), True), (ValueError(), False),
    ],
)  # fmt: skip
def test_what_passes_is_told_from_what_does_not(error, again):
    assert passing(error) is again


def test_how_long_to_wait_comes_as_seconds_or_as_a_date():
    assert retry_after(Busy(after="2.5")) == 2.5
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=40), usegmt=True)
    assert 35 < retry_after(Busy(after=soon)) <= 40
    assert retry_after(Busy(after="Wed, 21 Oct 2015 07:28:00 GMT")) == 0.0
    for nothing in ("soon", "nan", "inf", ""):
        assert retry_after(Busy(after=nothing)) in (None, 0.0)
    assert retry_after(ValueError()) is None


async def test_where_one_call_fails_the_others_are_ended():
    ended = []

    async def long() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(1)

    async def fail() -> None:
        await asyncio.sleep(0.001)
        raise AugmentError("no")

    with pytest.raises(AugmentError):
        await together([long(), fail(), long()])
    assert ended == [1, 1]
