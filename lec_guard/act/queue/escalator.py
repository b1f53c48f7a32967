"""Asks reviewers by way of a queue."""

from __future__ import annotations

import asyncio
import time

from lec_guard.act.base import Case, Escalator, Reply
from lec_guard.act.queue.store import ReviewQueue
from lec_guard.errors import EscalationPending


class QueueEscalator(Escalator):
    """Puts a step into a review queue, and gives the decision to all who ask about the same step, until it expires.

    Where the time runs out first, one caller is told so, and the next one asks anew. Safe to share between threads, and
    usable in a fork of its process.

    Args:
        queue: The queue; `close` closes it.
        wait_s: Seconds to wait for a decision before the caller gets a ticket; may be 0.
        expires_s: Seconds for which a reviewer can decide; the decision then counts for as long.
    """

    def __init__(self, *, queue: ReviewQueue, wait_s: float, expires_s: float) -> None:
        if wait_s < 0:
            raise ValueError(f"wait_s must be 0 or more, not {wait_s}")
        if expires_s <= 0:
            raise ValueError(f"expires_s must be above 0, not {expires_s}")
        self._queue = queue
        self._wait_s = wait_s
        self._expires_s = expires_s

    def ask(self, case: Case) -> Reply:
        """Give the decision if there is one; else put the step into the queue, and wait a while.

        Args:
            case: The step, and the judgement that asks.

        Returns:
            The decision.

        Raises:
            TimeoutError: If the time ran out before anybody decided, of what an earlier call put or this one.
            EscalationPending: If nobody has decided yet.
            QueueError: If the queue fails.
        """
        ends = time.monotonic() + self._wait_s
        while True:
            reply = self._queue.answer(case.key)
            if reply is not None:
                return reply
            item = self._queue.put(case, expires_s=self._expires_s)
            left = ends - time.monotonic()
            if left <= 0:
                raise EscalationPending(case.verdict, item.ticket)
            self._queue.wait(item.ticket, left)

    async def aask(self, case: Case) -> Reply:
        """`ask`, without blocking the event loop."""
        ends = time.monotonic() + self._wait_s
        while True:
            reply = await asyncio.to_thread(self._queue.answer, case.key)
            if reply is not None:
                return reply
            item = await asyncio.to_thread(self._queue.put, case, expires_s=self._expires_s)
            left = ends - time.monotonic()
            if left <= 0:
                raise EscalationPending(case.verdict, item.ticket)
            await self._queue.wait_async(item.ticket, left)

    def close(self) -> None:
        """Close the queue's connections."""
        self._queue.close()
