"""The table of a review queue, and how it comes to be."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Connection,
    Dialect,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    func,
    insert,
    inspect,
    select,
)
from sqlalchemy.types import TypeDecorator

from lec_guard.act.queue.items import QueueError

VERSION = 1
"""Raised with every change of the table, so that no release reads another one's rows wrongly."""

_LOCK = 0x6C65635F67756172
"""Under what number PostgreSQL keeps two processes from making the table at once."""


class AnyText(TypeDecorator[str]):
    """Text as it came. PostgreSQL's own type takes no NUL, and neither database half a surrogate pair.

    Whoever is judged would otherwise choose what a reviewer can be asked about.
    """

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> bytes | None:  # noqa: ARG002 - SQLAlchemy's
        """Text to bytes."""
        return None if value is None else value.encode("utf-8", "surrogatepass")

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> str | None:  # noqa: ARG002 - SQLAlchemy's
        """Bytes to text."""
        return None if value is None else bytes(value).decode("utf-8", "surrogatepass")


_metadata = MetaData()

ITEMS = Table(
    "lec_guard_escalations",
    _metadata,
    # In the order in which they came; SQLite counts by itself only in a column of type INTEGER.
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("ticket", Text, nullable=False, unique=True),
    Column("key", Text, nullable=False, index=True),
    Column("section", Text, nullable=False),
    Column("tenant", Text),
    Column("stage", Text, nullable=False),
    Column("tool", AnyText),
    Column("policy", Text, nullable=False),
    Column("policy_version", Text, nullable=False),
    Column("rule", Text),
    Column("text", AnyText, nullable=False),
    Column("context", AnyText),
    Column("verdict", JSON, nullable=False),
    Column("status", Text, nullable=False),
    Column("created", Double, nullable=False),
    Column("expires", Double, nullable=False),
    Column("claimed_by", Text),
    Column("claimed_until", Double),
    Column("answer", Text),
    Column("edited", AnyText),
    Column("by", Text),
    Column("reason", AnyText),
    Column("decided", Double),
    # When who asked was told that nobody decided in time, or asked anew before that.
    Column("told", Double),
    sqlite_autoincrement=True,
)
"""One row an item. The database itself sees to it that no key is asked about twice at a time."""

OPEN = ITEMS.c.status.in_(("pending", "decided"))
"""What stands for its key."""

Index(
    "lec_guard_escalations_open",
    ITEMS.c.key,
    unique=True,
    sqlite_where=ITEMS.c.status.in_(("pending", "decided")),
    postgresql_where=ITEMS.c.status.in_(("pending", "decided")),
)
Index("lec_guard_escalations_order", ITEMS.c.status, ITEMS.c.seq)

_VERSIONS = Table("lec_guard_escalations_version", _metadata, Column("version", Integer, nullable=False))


def prepare(connection: Connection) -> None:
    """Make the table where there is none, and see that it is one of this release.

    Args:
        connection: In a transaction that writes.

    Raises:
        QueueError: If there is a table of another release, or of something else.
        sqlalchemy.exc.SQLAlchemyError: If the database fails.
    """
    if _has_tables(connection) == (False, False):
        if connection.dialect.name == "postgresql":
            connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
        if _has_tables(connection) == (False, False):
            _metadata.create_all(connection)
            connection.execute(insert(_VERSIONS).values(version=VERSION))
    has_items, has_version = _has_tables(connection)
    found = connection.execute(select(_VERSIONS.c.version)).scalars().all() if has_version else []
    if not has_items or list(found) != [VERSION]:
        raise QueueError(
            f"the table {ITEMS.name} is of version {found[0] if found else 'unknown'}, and this release of lec-guard "
            f"reads version {VERSION}; give the queue another database, or the release that made it"
        )


def _has_tables(connection: Connection) -> tuple[bool, bool]:
    seen = inspect(connection)
    return seen.has_table(ITEMS.name), seen.has_table(_VERSIONS.name)
