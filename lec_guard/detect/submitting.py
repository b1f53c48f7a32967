"""Asking a detector without waiting for it, and what its answer must be, however it was asked."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

from lec_guard.errors import DetectorError, LecGuardError
from lec_guard.step import Scores, Step

Submitted = dict[Future[list[Scores]], list[int]]
"""The futures of steps that were submitted, each with the places of its steps."""


@runtime_checkable
class Submitting(Protocol):
    """What a detector can do so that no thread waits for it; `Batcher` does."""

    def submit(self, steps: Sequence[Step], *, key: Hashable = None) -> Future[list[Scores]]:
        """Have steps scored, without waiting for it.

        Args:
            steps: The steps; may be empty.
            key: Whose they are, as in `Detector.score`.

        Returns:
            A future of one `Scores` a step, in order; cancelled before its steps are begun, it costs nothing.
            Its errors are such as a future of asyncio can carry, so no StopIteration.

        Raises:
            DetectorError: If the steps are refused; an OverloadError where that is for want of room.
        """
        ...


@contextmanager
def submitted(detector: Submitting, steps: Sequence[Step], keys: Sequence[Hashable]) -> Iterator[Submitted]:
    """Submit steps, in one call for each key; what has not begun in the end is cancelled.

    Args:
        detector: What scores them.
        steps: The steps.
        keys: Whose each step is.

    Yields:
        The futures, to wait for.

    Raises:
        ValueError: If there is not one key a step.
        DetectorError: If some of the steps are refused.
    """
    if len(keys) != len(steps):
        raise ValueError(f"{len(keys)} keys for {len(steps)} steps")
    places: dict[Hashable, list[int]] = {}
    for at, key in enumerate(keys):
        places.setdefault(key, []).append(at)
    futures: Submitted = {}
    try:
        for key, own in places.items():
            futures[detector.submit([steps[at] for at in own], key=key)] = own
        yield futures
    finally:
        for future in futures:
            future.cancel()


def in_order(futures: Submitted) -> list[Scores]:
    """The scores of steps that were submitted.

    Args:
        futures: The futures, all of which are done.

    Returns:
        One `Scores` a step, in the order of the steps.

    Raises:
        DetectorError: If the detector failed, or gave something else.
    """
    scores: dict[int, Scores] = {}
    for future, places in futures.items():
        scores.update(zip(places, checked(future.result(), len(places)), strict=True))
    return [scores[at] for at in range(len(scores))]


def checked(scores: object, count: int) -> list[Scores]:
    """What a detector gave, if that is what a detector has to give.

    Args:
        scores: Anything.
        count: How many steps it was asked for.

    Returns:
        The same.

    Raises:
        DetectorError: If it is not one `Scores` a step.
    """
    if not isinstance(scores, list) or not all(isinstance(one, Scores) for one in scores):
        raise DetectorError(f"the detector gave a {type(scores).__name__}, not a list of Scores")
    if len(scores) != count:
        raise DetectorError(f"the detector gave {len(scores)} scores for {count} steps")
    return scores


def failed(error: BaseException, what: str = "detector") -> LecGuardError:
    """What was raised as an error of this package, which no caller takes for a pass and any future can carry.

    asyncio takes some classes for a cancellation, or for the end of a loop.

    Args:
        error: What was raised.
        what: What raised it.

    Returns:
        The same, if it is of this package already; else one that tells it and has it for its cause.
    """
    if isinstance(error, LecGuardError):
        return error
    failure = DetectorError(f"the {what} failed: {error!r}")
    failure.__cause__ = error
    return failure
