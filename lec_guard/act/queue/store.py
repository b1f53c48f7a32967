"""The review queue as those see it who ask, and those who decide."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lec_guard.act.base import Case, Reply
from lec_guard.act.queue.items import Item, QueueError

if TYPE_CHECKING:
    from lec_guard.act.queue.database import Database

_MISSING = "a review queue needs {name}; run: pip install 'lec-guard[queue]'"

_LONGEST_TEXT = 10_000_000
_LONGEST_REASON = 10_000
_LONGEST_NAME = 200
_MOST_ITEMS = 1000
_MOST_TRIES = 10


def default_url() -> str:
    """The URL of this user's own queue.

    Returns:
        A SQLite file `lec-guard/queue.db` in the folder XDG_DATA_HOME, or in `~/.local/share`.

    Raises:
        QueueError: If SQLAlchemy is missing.
    """
    try:
        from sqlalchemy.engine import URL
    except ModuleNotFoundError as missing:
        raise QueueError(_MISSING.format(name=missing.name)) from None
    given = Path(os.environ.get("XDG_DATA_HOME", ""))
    folder = given if given.is_absolute() else Path.home() / ".local" / "share"
    return URL.create("sqlite", database=str(folder / "lec-guard" / "queue.db")).render_as_string()


class ReviewQueue:
    """Steps that wait for a reviewer, in a database that processes and machines share.

    One object serves all threads, and is usable in a fork of its process. The table is made when it is first needed.
    A file of SQLite is made so that only its owner can read it, for it holds the texts. Whatever fails is a
    `QueueError` within seconds, and lets nothing pass.

    Args:
        url: The database in SQLAlchemy's form: `sqlite:////folder/file` or `postgresql+psycopg://user@host/name`.
            `?timeout=2` of the first and `?connect_timeout=2` of the second say for how many seconds an operation
            waits for a lock or a server, 5 if not given.
        clock: Tells the time, in seconds since 1970. All that share a database need the same.

    Raises:
        QueueError: If the URL is none that it knows, or a package is missing. The database is not asked yet.
    """

    def __init__(self, url: str, *, clock: Callable[[], float] = time.time) -> None:
        try:
            from lec_guard.act.queue.database import Database

            self._db: Database = Database(url)
        except ModuleNotFoundError as missing:
            raise QueueError(_MISSING.format(name=missing.name)) from None
        self._clock = clock

    def put(self, case: Case, *, expires_s: float) -> Item:
        """Ask about a step, unless somebody already does.

        Args:
            case: The step, and the judgement that asks.
            expires_s: Seconds for which it can be decided.

        Returns:
            The item that stands for the case's key: the one there is while it can be decided, or its decision counts;
            else a new one.

        Raises:
            QueueError: If it can't be stored.
        """
        if expires_s <= 0:
            raise ValueError(f"expires_s must be above 0, not {expires_s}")
        if len(case.step.text) + len(case.step.context or "") > _LONGEST_TEXT:
            raise QueueError(f"a step of more than {_LONGEST_TEXT} characters is too long for a reviewer")
        for _ in range(_MOST_TRIES):
            now = self._clock()
            with self._db.writing() as rows:
                rows.lapse(now, case.key)
                found = rows.open(case.key)
                if found is not None:
                    return found
                rows.supersede(case.key, now)
                item = _new(case, now, expires_s)
                if rows.insert(item):
                    return rows.item(item.ticket) or item
        raise QueueError(_BUSY)

    def get(self, ticket: str) -> Item | None:
        """An item as it stands.

        Args:
            ticket: Its ticket.

        Returns:
            The item; None where there is none, or none any more.

        Raises:
            QueueError: If the database fails.
        """
        with self._db.reading() as rows:
            item = rows.item(ticket)
        if item is not None and item.status in ("pending", "decided") and item.expires <= self._clock():
            return replace(item, status="expired")
        return item

    def pending(
        self, *, tenants: Sequence[str | None] | None = None, limit: int = 50, after: str | None = None
    ) -> list[Item]:
        """What can be decided, oldest first.

        Args:
            tenants: Whose; None among them is the default policy. None for all.
            limit: How many at most, up to 1000.
            after: The ticket of the last item that was shown, for those after it; whether or not it is decided by now.

        Returns:
            The items.

        Raises:
            QueueError: If the database fails.
        """
        if not 1 <= limit <= _MOST_ITEMS:
            raise ValueError(f"limit must be in 1..{_MOST_ITEMS}, not {limit}")
        with self._db.reading() as rows:
            return rows.pending(self._clock(), tenants, limit, after)

    def claim(self, ticket: str, by: str, *, for_s: float = 300.0) -> Item:
        """Reserve an item for a reviewer, or renew that.

        Args:
            ticket: Its ticket.
            by: The reviewer.
            for_s: Seconds for which nobody else may claim or decide it.

        Returns:
            The item.

        Raises:
            QueueError: If another reviewer has it, it can't be decided (any more), or the database fails.
        """
        if for_s <= 0:
            raise ValueError(f"for_s must be above 0, not {for_s}")
        by = _name(by)
        now = self._clock()
        with self._db.writing() as rows:
            done = rows.claim(ticket, by, now, now + for_s)
            item = rows.item(ticket)
        return _changed(done, item, now)

    def release(self, ticket: str, by: str) -> Item:
        """End a reviewer's claim; there need not be one.

        Args:
            ticket: The item's ticket.
            by: The reviewer.

        Returns:
            The item.

        Raises:
            QueueError: If another reviewer has it, it can't be decided (any more), or the database fails.
        """
        by = _name(by)
        now = self._clock()
        with self._db.writing() as rows:
            done = rows.release(ticket, by)
            item = rows.item(ticket)
        is_nobodys = item is not None and item.status == "pending" and not _is_claimed(item, now)
        return _changed(done or is_nobodys, item, now)

    def decide(self, ticket: str, reply: Reply) -> Item:
        """Decide, once. The decision counts for as long from now as the item could be decided in all.

        Args:
            ticket: The item's ticket.
            reply: The decision; it says who decides.

        Returns:
            The item.

        Raises:
            QueueError: If it is decided, expired or unknown, another reviewer has it, the reply does not say who
                decides or is too long, or the database fails.
        """
        by = _name(reply.by)
        if len(reply.reason or "") > _LONGEST_REASON:
            raise QueueError(f"a reason has at most {_LONGEST_REASON} characters")
        if len(reply.text or "") > _LONGEST_TEXT:
            raise QueueError(f"a text has at most {_LONGEST_TEXT} characters")
        now = self._clock()
        with self._db.writing() as rows:
            done = rows.decide(ticket, reply, by, now)
            item = rows.item(ticket)
        return _changed(done, item, now)

    def answer(self, key: str) -> Reply | None:
        """The decision that counts for a key, for whoever asks and as often as they do.

        An application that got a ticket makes the whole call again later, and may come to a second question on its way:
        it has to find the first decision then, too.

        Args:
            key: The key, as in `Case`.

        Returns:
            The decision; None where there is none, not yet or not any more.

        Raises:
            TimeoutError: If the time ran out before anybody decided; one caller is told so, once.
            QueueError: If the database fails.
        """
        with self._db.reading() as rows:
            item = rows.newest(key)
        now = self._clock()
        if item is None:
            return None
        if item.answer is not None:
            if item.expires <= now:
                return None
            return Reply(answer=item.answer, text=item.edited, by=item.by, reason=item.reason)
        if item.expires > now:
            return None
        with self._db.writing() as rows:
            is_told = rows.tell(item.ticket, now)
        if is_told:
            raise TimeoutError("nobody decided in time")
        return None

    def wait(self, ticket: str, timeout_s: float) -> Item:
        """Wait until an item is decided, or its time has run out.

        Args:
            ticket: Its ticket.
            timeout_s: Seconds to wait at most.

        Returns:
            The item as it stands then.

        Raises:
            QueueError: If there is no such item, or the database fails.
        """
        ends = time.monotonic() + timeout_s
        for pause in _pauses():
            left = ends - time.monotonic()
            if self._is_settled(ticket) or left <= 0:
                break
            time.sleep(min(pause, left))
        return self._known(ticket)

    async def wait_async(self, ticket: str, timeout_s: float) -> Item:
        """`wait`, without blocking the event loop."""
        ends = time.monotonic() + timeout_s
        for pause in _pauses():
            left = ends - time.monotonic()
            if await asyncio.to_thread(self._is_settled, ticket) or left <= 0:
                break
            await asyncio.sleep(min(pause, left))
        return await asyncio.to_thread(self._known, ticket)

    def expire(self) -> int:
        """Mark what is overdue: what nobody decided, and decisions that count no more.

        Returns:
            How many items.

        Raises:
            QueueError: If the database fails.
        """
        with self._db.writing() as rows:
            return rows.lapse(self._clock())

    def purge(self, older_than_s: float) -> int:
        """Delete what has expired, with its texts, so that these do not lie around.

        Args:
            older_than_s: Only what expired more than so many seconds ago.

        Returns:
            How many items.

        Raises:
            QueueError: If the database fails.
        """
        if older_than_s < 0:
            raise ValueError(f"older_than_s must be 0 or more, not {older_than_s}")
        now = self._clock()
        with self._db.writing() as rows:
            rows.lapse(now)
            return rows.purge(now - older_than_s)

    def close(self) -> None:
        """Close this process's connections; the next use opens new ones."""
        self._db.close()

    def _is_settled(self, ticket: str) -> bool:
        with self._db.reading() as rows:
            state = rows.state(ticket)
        return state is None or state[0] != "pending" or state[1] <= self._clock()

    def _known(self, ticket: str) -> Item:
        item = self.get(ticket)
        if item is None:
            raise QueueError(_UNKNOWN)
        return item


_BUSY = "others ask about the same step again and again, and it expires; ask once more"
_UNKNOWN = "no item has this ticket, or it was deleted since"


def _new(case: Case, now: float, expires_s: float) -> Item:
    step, verdict = case.step, case.verdict
    return Item(
        ticket=secrets.token_urlsafe(16),
        key=case.key,
        section=case.section,
        tenant=verdict.tenant,
        stage=step.stage,
        tool=None if step.tool is None else step.tool.name,
        policy=verdict.policy,
        policy_version=verdict.policy_version,
        rule=verdict.rule,
        text=step.text,
        context=step.context,
        verdict=verdict.to_dict(),
        status="pending",
        created=now,
        expires=now + expires_s,
    )


def _name(by: str | None) -> str:
    if by is None or not by.strip():
        raise QueueError("it has to be said who decides")
    if len(by) > _LONGEST_NAME:
        raise QueueError(f"a reviewer's name has at most {_LONGEST_NAME} characters")
    return by


def _is_claimed(item: Item, now: float) -> bool:
    return item.claimed_by is not None and item.claimed_until is not None and item.claimed_until > now


def _changed(done: bool, item: Item | None, now: float) -> Item:
    """The item, or why it could not be changed."""
    if item is None:
        raise QueueError(_UNKNOWN)
    if done:
        return item
    if item.status == "decided":
        raise QueueError(f"the item is decided already: {item.answer}")
    if item.status == "expired" or item.expires <= now:
        raise QueueError("the item has expired; who asks again gets a new one")
    raise QueueError("another reviewer has claimed the item")


def _pauses() -> Iterator[float]:
    """Seconds between looks: soon at first, for many answers are quick, and never far apart."""
    pause = 0.02
    while True:
        yield pause
        pause = min(pause * 1.5, 0.5)
