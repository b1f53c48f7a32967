"""Taking turns: whatever is compared is measured in the same rounds, so that a noisy machine hits all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from lec_guard.bench.report import Ratio, Timing

Name = TypeVar("Name")
Found = TypeVar("Found")

Clock = Callable[[], float]
"""Seconds since some moment."""

Job = Callable[[], Callable[[], object]]
"""Prepares a measurement, which costs nothing, and gives what is to be timed."""

_REST_S = 0.005
"""A thread pool looks out for more work for a while; it shall not do so in the next one's time."""


def take_turns(jobs: Mapping[Name, Callable[[], Found]], rounds: int) -> dict[Name, list[Found]]:
    """Run each job once a round; another one begins in every round, and the first round warms up and is dropped.

    Args:
        jobs: What to run, by name.
        rounds: Rounds that count, at least 1.

    Returns:
        What each job gave, in the order of the rounds.
    """
    found: dict[Name, list[Found]] = {name: [] for name in jobs}
    names = list(jobs)
    for at in range(rounds + 1):
        first = at % max(len(names), 1)
        for name in names[first:] + names[:first]:
            result = jobs[name]()
            if at:
                found[name].append(result)
    return found


def seconds(jobs: Mapping[Name, Job], rounds: int, clock: Clock = time.perf_counter) -> dict[Name, list[float]]:
    """Time jobs in turn.

    Args:
        jobs: What to time, by name.
        rounds: Rounds that count.
        clock: Tells the time in seconds.

    Returns:
        The seconds of each job, in the order of the rounds.
    """

    def timed(job: Job) -> Callable[[], float]:
        def once() -> float:
            run = job()
            rest()
            began = clock()
            run()
            return clock() - began

        return once

    return take_turns({name: timed(job) for name, job in jobs.items()}, rounds)


def rest() -> None:
    """Let the thread pools of whoever went before come to rest."""
    time.sleep(_REST_S)


def timing(found: Sequence[float]) -> Timing:
    """Sum up the rounds of one job.

    Args:
        found: Seconds, at least one.

    Returns:
        Median and 95th percentile in milliseconds.
    """
    p50, p95 = np.percentile(found, [50, 95]) * 1000
    return Timing(p50_ms=float(p50), p95_ms=float(p95), rounds=len(found))


def ratio(above: Sequence[float], below: Sequence[float]) -> Ratio:
    """Compare two jobs that took turns, round by round.

    Args:
        above: Seconds of the one.
        below: Seconds of the other, in the same rounds.

    Returns:
        The median of the rounds' ratios, with the percentiles around it.
    """
    p5, p50, p95 = np.percentile([a / b for a, b in zip(above, below, strict=True)], [5, 50, 95])
    return Ratio(p50=float(p50), p5=float(p5), p95=float(p95), rounds=len(above))


def median_ms(found: Sequence[float]) -> float:
    """The median alone.

    Args:
        found: Seconds, or differences of seconds, at least one.

    Returns:
        Milliseconds.
    """
    return float(np.median(found)) * 1000
