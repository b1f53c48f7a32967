"""Flows: generators that yield what has to be waited for, and are sent what came of it.

What a guard does with a step is written once, as flows; the sync and the async driver only differ in how they wait.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from lec_guard.detect.asking import Answer, Asker
from lec_guard.detect.detector import Detector
from lec_guard.step import Step

AT_ONCE = 16
"""Effects of one call that are waited for at once by the sync driver: a batch of webhooks takes no longer than one."""

T = TypeVar("T")


@dataclass(slots=True)
class Asked:
    """A flow waits for the answers of a detector; it is sent a list of `Answer`, one a step.

    Attributes:
        detector: The detector.
        places: Which of the flow's steps it is asked for.
        steps: These steps.
        keys: Whose each of them is.
        limit_s: How long may be waited for all of them; None for no limit.
    """

    detector: Detector
    places: list[int]
    steps: list[Step]
    keys: list[str | None]
    limit_s: float | None

    def add(self, place: int, step: Step, key: str | None, limit_s: float | None) -> None:
        """Ask for one more step.

        Args:
            place: Which of the flow's steps it is.
            step: The step.
            key: Whose it is.
            limit_s: Seconds that may be waited for it; None for no limit.
        """
        self.places.append(place)
        self.steps.append(step)
        self.keys.append(key)
        self.limit_s = None if limit_s is None or self.limit_s is None else self.limit_s + limit_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Doing:
    """A flow waits for something to be done; it is sent a `Done`.

    Attributes:
        run: Does it, and waits.
        arun: The same, without blocking the event loop.
        passes: Exceptions of it that end the whole flow, and go to its caller.
        alone: Whether it has to be done where the caller stands, and in order: on its thread, and in its task.
    """

    run: Callable[[], Any]
    arun: Callable[[], Awaitable[Any]]
    passes: tuple[type[BaseException], ...] = ()
    alone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What came of doing something.

    Attributes:
        result: What it gave; None where it failed.
        error: How it failed.
        ms: How long it took, in milliseconds.
    """

    result: Any
    error: Exception | None
    ms: float


Flow = Generator[list[Asked | Doing], list[Any], T]
"""Yields what it waits for, and is sent as many answers."""


def together(flows: Sequence[Flow[T]]) -> Flow[list[T]]:
    """Several flows as one: what all of them wait for is waited for at once.

    Args:
        flows: The flows.

    Returns:
        A flow of their results, in order.
    """
    results: dict[int, T] = {}
    waiting: dict[int, list[Asked | Doing]] = {}
    for at, flow in enumerate(flows):
        try:
            waiting[at] = next(flow)
        except StopIteration as done:
            results[at] = done.value
    while waiting:
        answers = iter((yield [one for own in waiting.values() for one in own]))
        for at, own in list(waiting.items()):
            mine = [next(answers) for _ in own]
            try:
                waiting[at] = flows[at].send(mine)
            except StopIteration as done:
                results[at] = done.value
                del waiting[at]
    return [results[at] for at in range(len(flows))]


def drive(flow: Flow[T], asker: Asker, first: list[Asked | Doing] | None = None) -> T:
    """Run a flow to its end, where the caller stands.

    Args:
        flow: The flow.
        asker: How detectors are asked.
        first: What it waits for, where it has begun.

    Returns:
        What the flow gives.
    """
    try:
        wanted = next(flow) if first is None else first
        while True:
            wanted = flow.send(_answers(wanted, asker))
    except StopIteration as done:
        result: T = done.value
        return result


async def adrive(flow: Flow[T], asker: Asker, *, ready: bool) -> T:
    """`drive`, without blocking the event loop.

    Args:
        flow: The flow.
        asker: How detectors are asked.
        ready: Whether the flow's beginning reads nothing from disk; else it begins on another thread.

    Returns:
        What the flow gives.
    """
    wanted = _begun(flow) if ready else await asyncio.to_thread(_begun, flow)
    while not isinstance(wanted, _End):
        answers = await _aanswers(wanted, asker)
        try:
            wanted = flow.send(answers)
        except StopIteration as done:
            wanted = _End(done.value)
    result: T = wanted.value
    return result


@dataclass(frozen=True, slots=True)
class _End:
    """A flow has ended; no future can hold a StopIteration."""

    value: Any


def _begun(flow: Flow[Any]) -> list[Asked | Doing] | _End:
    try:
        return next(flow)
    except StopIteration as done:
        return _End(done.value)


def _answers(wanted: Sequence[Asked | Doing], asker: Asker) -> list[Any]:
    given: dict[int, Any] = {}
    aside = [at for at, one in enumerate(wanted) if isinstance(one, Doing) and not one.alone]
    if len(aside) > 1:
        with ThreadPoolExecutor(min(len(aside), AT_ONCE), thread_name_prefix="lec-guard-effect") as workers:
            # Whoever traces the caller finds it on the other thread.
            begun = {at: workers.submit(contextvars.copy_context().run, _do, wanted[at]) for at in aside}
            given = {at: future.result() for at, future in begun.items()}
    for at, one in enumerate(wanted):
        if at not in given:
            given[at] = _ask(one, asker) if isinstance(one, Asked) else _do(one)
    return [given[at] for at in range(len(wanted))]


def _ask(one: Asked, asker: Asker) -> list[Answer]:
    return asker.ask(one.detector, one.steps, one.keys, one.limit_s)


def _do(one: Any) -> Done:
    began = time.perf_counter()
    try:
        result = one.run()
    except one.passes:
        raise
    except Exception as error:  # noqa: BLE001 - whatever fails, the policy says what follows
        return _failed(error, began)
    return Done(result=result, error=None, ms=_since(began))


async def _aanswers(wanted: Sequence[Asked | Doing], asker: Asker) -> list[Any]:
    aside = {at: _aone(one, asker) for at, one in enumerate(wanted) if isinstance(one, Asked) or not one.alone}
    given = dict(zip(aside, await asyncio.gather(*aside.values()), strict=True))
    for at, one in enumerate(wanted):
        if at not in given:
            given[at] = await _aone(one, asker)
    return [given[at] for at in range(len(wanted))]


async def _aone(one: Asked | Doing, asker: Asker) -> Any:
    if isinstance(one, Asked):
        return await asker.aask(one.detector, one.steps, one.keys, one.limit_s)
    began = time.perf_counter()
    try:
        result = await one.arun()
    except one.passes:
        raise
    except Exception as error:  # noqa: BLE001 - whatever fails, the policy says what follows
        return _failed(error, began)
    return Done(result=result, error=None, ms=_since(began))


def _failed(error: Exception, began: float) -> Done:
    return Done(result=None, error=error, ms=_since(began))


def _since(began: float) -> float:
    return (time.perf_counter() - began) * 1000
