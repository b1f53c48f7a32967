"""The database of a review queue: connections, transactions, and what is said where one fails."""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, func, make_url, select
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from lec_guard.act.queue import table
from lec_guard.act.queue.items import QueueError
from lec_guard.act.queue.rows import Rows

PATIENCE_S = 5.0
"""Seconds for which one operation waits for a lock or a server, unless the URL says otherwise."""

_LONGEST_S = 60.0
_WRITES = "lec_guard_writes"


class Database:
    """Where a review queue keeps its rows. Safe to share between threads, and usable in a fork of its process.

    Args:
        url: As of `ReviewQueue`.

    Raises:
        QueueError: If the URL is none that it knows.
        ModuleNotFoundError: If the database's driver is missing.
    """

    def __init__(self, url: str) -> None:
        try:
            self._url = make_url(url)
        except ArgumentError:
            # The error quotes the URL, and that may hold a password.
            raise QueueError("the URL of a review queue is none") from None
        self._file: Path | None = None
        if self._url.drivername in ("sqlite", "sqlite+pysqlite"):
            self._file = _file_of(self._url)
            self._patience = _seconds(self._url, "timeout")
            self._where = str(self._file)
        elif self._url.drivername in ("postgresql", "postgresql+psycopg"):
            import psycopg  # noqa: F401 - to tell at once that it is missing

            self._url = self._url.set(drivername="postgresql+psycopg")
            self._patience = _seconds(self._url, "connect_timeout")
            self._where = f"{self._url.host or 'localhost'}/{self._url.database or ''}"
        else:
            raise QueueError(
                f"a review queue can't use {self._url.drivername}; "
                "its URL is sqlite:////folder/file or postgresql+psycopg://user@host/name"
            )
        # Of each process, because a fork can't share its parent's connections. They stay in here, so that the fork
        # does not close them either. A dict whose `setdefault` is atomic needs no lock, which a fork may copy held.
        self._engines: dict[int, Engine] = {}
        self._ready = False

    @contextmanager
    def reading(self) -> Iterator[Rows]:
        """A transaction that only reads.

        Yields:
            The rows.

        Raises:
            QueueError: If the database fails; it does so within seconds.
        """
        with self._transaction(writes=False) as connection:
            yield Rows(connection)

    @contextmanager
    def writing(self) -> Iterator[Rows]:
        """A transaction that is committed in the end; an exception takes back what it did.

        Yields:
            The rows.

        Raises:
            QueueError: If the database fails; it does so within seconds.
        """
        with self._transaction(writes=True) as connection:
            yield Rows(connection)

    def close(self) -> None:
        """Close the connections of this process; the next use opens new ones."""
        engine = self._engines.pop(os.getpid(), None)
        if engine is not None:
            engine.dispose()

    @contextmanager
    def _transaction(self, *, writes: bool) -> Iterator[Connection]:
        try:
            if not self._ready:
                self._prepare()
                self._ready = True
            with self._begun(writes=writes) as connection:
                yield connection
        except (SQLAlchemyError, OSError, UnicodeError) as error:
            # The table is looked for again, in case that somebody took it away.
            self._ready = False
            # Not `from error`, which quotes what was to be stored.
            raise QueueError(f"the review queue of {self._where} failed: {_said(error)}") from None

    @contextmanager
    def _begun(self, *, writes: bool) -> Iterator[Connection]:
        with self._engine().connect() as connection:
            connection.execution_options(**{_WRITES: writes})
            with connection.begin():
                if self._file is None:
                    # Of this transaction, for what is set at connecting does not pass every connection pooler.
                    milliseconds = str(int(self._patience * 1000))
                    connection.execute(select(func.set_config("statement_timeout", milliseconds, True)))
                yield connection

    def _prepare(self) -> None:
        if self._file is not None:
            _make_private(self._file)
            self._log_ahead()
        with self._begun(writes=True) as connection:
            table.prepare(connection)

    def _log_ahead(self) -> None:
        """Have SQLite write ahead to a log, so that who reads and who writes do not wait for each other."""
        ends = time.monotonic() + self._patience
        while True:
            try:
                with self._engine().connect() as connection:
                    # As the driver does it: this can't be done within a transaction.
                    connection.connection.cursor().execute("PRAGMA journal_mode=WAL").close()
            except sqlite3.OperationalError as error:
                # Where several do it at once, SQLite does not wait by itself.
                if error.sqlite_errorname != "SQLITE_BUSY" or time.monotonic() > ends:
                    raise QueueError(f"the review queue of {self._where} failed: {_named(error)}") from None
                time.sleep(0.02)
            except sqlite3.Error as error:
                raise QueueError(f"the review queue of {self._where} failed: {_named(error)}") from None
            else:
                return

    def _engine(self) -> Engine:
        engine = self._engines.get(os.getpid())
        if engine is None:
            made = self._for_postgresql() if self._file is None else self._for_sqlite(self._file)
            engine = self._engines.setdefault(os.getpid(), made)
        return engine

    def _for_sqlite(self, file: Path) -> Engine:
        def connect() -> sqlite3.Connection:
            # SQLite must not make the file: everybody could read it. `isolation_level` None: it is us who begin.
            address = f"{file.as_uri()}?mode=rw"
            connection = sqlite3.connect(
                address, uri=True, timeout=self._patience, isolation_level=None, check_same_thread=False
            )
            try:
                # What is committed survives a loss of power, and what is deleted is overwritten.
                connection.execute("PRAGMA synchronous=FULL").close()
                connection.execute("PRAGMA secure_delete=ON").close()
            except BaseException:
                connection.close()
                raise
            return connection

        # A connection for each transaction: one that is kept would go on with a file that somebody moved away.
        engine = create_engine(
            "sqlite://", creator=connect, poolclass=NullPool, hide_parameters=True, json_serializer=_json
        )

        @event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            writes = connection.get_execution_options().get(_WRITES)
            connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

        return engine

    def _for_postgresql(self) -> Engine:
        from lec_guard.act.queue.postgresql import BoundedConnection

        engine = create_engine(
            self._url.difference_update_query(["connect_timeout"]),
            connect_args={"connect_timeout": max(1, round(self._patience))},
            pool_pre_ping=True,
            pool_timeout=self._patience,
            hide_parameters=True,
            json_serializer=_json,
        )

        @event.listens_for(engine, "do_connect")
        def connect(_dialect: Any, _record: Any, args: list[Any], parameters: dict[str, Any]) -> Any:
            connection = BoundedConnection.connect(*args, **parameters)
            # The server ends what takes too long; this is for one that says nothing any more.
            connection.patience_s = self._patience + 1.0
            return connection

        return engine


def _file_of(url: URL) -> Path:
    name = url.database or ""
    if not name or name == ":memory:" or name.startswith("file:"):
        raise QueueError("a review queue needs a file that other processes can open: sqlite:////folder/file")
    return Path(name).absolute()


def _seconds(url: URL, name: str) -> float:
    given = url.query.get(name)
    try:
        found = PATIENCE_S if given is None else float(str(given))
    except ValueError:
        found = -1.0
    if not 0 < found <= _LONGEST_S:
        raise QueueError(f"{name} of a review queue's URL is no number of seconds up to {_LONGEST_S:g}")
    return found


def _make_private(file: Path) -> None:
    """Make a file that nobody else may read, where there is none."""
    if file.exists():
        return
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Made aside: who opens a file of SQLite and closes it takes away the locks that this process has on it.
    aside = file.with_name(f"{file.name}.{secrets.token_hex(8)}")
    os.close(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        os.link(aside, file)
    except FileExistsError:
        return
    finally:
        aside.unlink()


def _json(value: Any) -> str:
    return json.dumps(value, allow_nan=False)


def _said(error: Exception) -> str:
    """What went wrong, without a word of what a database says, for that may quote a row."""
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    if isinstance(error, UnicodeError):
        return "a name that is no text"
    return _named(getattr(error, "orig", None) or error)


def _named(error: BaseException) -> str:
    code = getattr(error, "sqlite_errorname", None) or getattr(error, "sqlstate", None)
    return f"{type(error).__name__} ({code})" if code else type(error).__name__
