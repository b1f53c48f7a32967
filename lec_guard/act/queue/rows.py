"""What is done to the table of a review queue within one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, delete, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from lec_guard.act.base import Reply
from lec_guard.act.queue.items import Item, Status
from lec_guard.act.queue.table import ITEMS, OPEN

_SHOWN = [ITEMS.c[name] for name in Item.__slots__]
_PENDING = ITEMS.c.status == "pending"
_UNDECIDED = ITEMS.c.decided.is_(None)
_UNTOLD = and_(ITEMS.c.status == "expired", _UNDECIDED, ITEMS.c.told.is_(None))


class Rows:
    """The rows as one transaction sees them.

    Whatever depends on a row's state is one UPDATE that says which state that is, so that of two that try one does it.

    Args:
        connection: In a transaction; whoever makes this commits it.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def item(self, ticket: str) -> Item | None:
        """The item of a ticket."""
        return self._first(select(*_SHOWN).where(ITEMS.c.ticket == ticket))

    def state(self, ticket: str) -> tuple[Status, float] | None:
        """The status of a ticket's item, and when it expires; without its texts."""
        row = self._connection.execute(
            select(ITEMS.c.status, ITEMS.c.expires).where(ITEMS.c.ticket == ticket)
        ).one_or_none()
        return None if row is None else (row.status, row.expires)

    def open(self, key: str) -> Item | None:
        """The item that stands for a key, decided or not."""
        return self._first(select(*_SHOWN).where(ITEMS.c.key == key, OPEN))

    def newest(self, key: str) -> Item | None:
        """The newest item of a key that stands for it, or of which nobody was told that it expired undecided."""
        return self._first(
            select(*_SHOWN).where(ITEMS.c.key == key, or_(OPEN, _UNTOLD)).order_by(ITEMS.c.seq.desc()).limit(1)
        )

    def pending(self, now: float, tenants: Sequence[str | None] | None, limit: int, after: str | None) -> list[Item]:
        """Items that can be decided, oldest first."""
        chosen = select(*_SHOWN).where(_PENDING, ITEMS.c.expires > now)
        if tenants is not None:
            named = ITEMS.c.tenant.in_([tenant for tenant in tenants if tenant is not None])
            chosen = chosen.where(or_(named, ITEMS.c.tenant.is_(None)) if None in tenants else named)
        if after is not None:
            last = select(ITEMS.c.seq).where(ITEMS.c.ticket == after).scalar_subquery()
            chosen = chosen.where(ITEMS.c.seq > last)
        return [_item(row) for row in self._connection.execute(chosen.order_by(ITEMS.c.seq).limit(limit))]

    def insert(self, item: Item) -> bool:
        """Add an item; False where another one stands for its key by now."""
        values = {name: getattr(item, name) for name in Item.__slots__}
        # Not an error that is caught: PostgreSQL gives up a transaction in which anything failed.
        if self._connection.dialect.name == "postgresql":
            return (
                self._connection.execute(postgresql.insert(ITEMS).values(values).on_conflict_do_nothing()).rowcount == 1
            )
        return self._connection.execute(sqlite.insert(ITEMS).values(values).on_conflict_do_nothing()).rowcount == 1

    def lapse(self, now: float, key: str | None = None) -> int:
        """Mark as expired what is overdue; of one key, or all."""
        mine = () if key is None else (ITEMS.c.key == key,)
        return self._update(OPEN, ITEMS.c.expires <= now, *mine, status="expired")

    def supersede(self, key: str, now: float) -> None:
        """Nobody is to be told any more that earlier items of a key expired."""
        self._update(ITEMS.c.key == key, _UNTOLD, told=now)

    def claim(self, ticket: str, by: str, now: float, until: float) -> bool:
        """Reserve an item for a reviewer; False where it is not theirs to take."""
        return self._free(ticket, by, now, claimed_by=by, claimed_until=until)

    def release(self, ticket: str, by: str) -> bool:
        """End a reviewer's claim; False where they have none."""
        mine = (ITEMS.c.ticket == ticket, _PENDING, ITEMS.c.claimed_by == by)
        return self._update(*mine, claimed_by=None, claimed_until=None) == 1

    def decide(self, ticket: str, reply: Reply, by: str, now: float) -> bool:
        """Note a decision; False where it is not theirs to make.

        It counts for as long as the reviewer could decide in all.
        """
        return self._free(
            ticket,
            by,
            now,
            status="decided",
            answer=reply.answer,
            edited=reply.text,
            by=by,
            reason=reply.reason,
            decided=now,
            expires=now + (ITEMS.c.expires - ITEMS.c.created),
        )

    def tell(self, ticket: str, now: float) -> bool:
        """Note that who asked is told that nobody decided; False where somebody else was, or it is decided by now."""
        mine = (ITEMS.c.ticket == ticket, ITEMS.c.expires <= now, _UNDECIDED, ITEMS.c.told.is_(None))
        return self._update(*mine, status="expired", told=now) == 1

    def purge(self, before: float) -> int:
        """Delete what expired before a time."""
        ended = (ITEMS.c.status == "expired", ITEMS.c.expires < before)
        return self._connection.execute(delete(ITEMS).where(*ended)).rowcount

    def _free(self, ticket: str, by: str, now: float, /, **values: Any) -> bool:
        """Change an item that can be decided, and that nobody else works on."""
        nobody_else = or_(ITEMS.c.claimed_by.is_(None), ITEMS.c.claimed_by == by, ITEMS.c.claimed_until <= now)
        return self._update(ITEMS.c.ticket == ticket, _PENDING, ITEMS.c.expires > now, nobody_else, **values) == 1

    def _update(self, *where: ColumnElement[bool], **values: Any) -> int:
        return self._connection.execute(update(ITEMS).where(*where).values(values)).rowcount

    def _first(self, chosen: Select[Any]) -> Item | None:
        row = self._connection.execute(chosen).one_or_none()
        return None if row is None else _item(row)


def _item(row: Row[Any]) -> Item:
    return Item(**row._mapping)
