"""A database that fails: told within seconds, nothing passes, no text is shown."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy.pool import Pool

from lec_guard.act.queue import QueueError, QueueEscalator, ReviewQueue
from tests.act.queue.made import SECRET, allow, case, key


def everything(queue: ReviewQueue, ticket: str) -> list[Callable[[], object]]:
    """All that can be done with a queue."""
    return [*reads(queue, ticket), *writes(queue, ticket)]


def reads(queue: ReviewQueue, ticket: str) -> list[Callable[[], object]]:
    return [
        lambda: queue.get(ticket),
        lambda: queue.pending(),
        lambda: queue.answer(key()),
        lambda: queue.wait(ticket, 30),
    ]


def writes(queue: ReviewQueue, ticket: str) -> list[Callable[[], object]]:
    return [
        lambda: queue.put(case(7), expires_s=60),
        lambda: queue.claim(ticket, "ann"),
        lambda: queue.release(ticket, "ann"),
        lambda: queue.decide(ticket, allow()),
        lambda: queue.expire(),
        lambda: queue.purge(0),
        lambda: QueueEscalator(queue=queue, wait_s=1, expires_s=60).ask(case(8)),
    ]


def assert_all_fail(failing: list[Callable[[], object]], said: str, *, within_s: float = 1.0) -> None:
    for one in failing:
        began = time.monotonic()
        with pytest.raises(QueueError, match=said) as failed:
            one()
        assert time.monotonic() - began < within_s
        assert SECRET not in "".join(traceback.format_exception(failed.value))


@pytest.fixture
def file(sqlite_url: str) -> Path:
    """The file of a queue."""
    return Path(sqlite_url.removeprefix("sqlite:///"))


@pytest.fixture
def filled(sqlite_url: str, file: Path) -> tuple[ReviewQueue, str]:
    """A queue of SQLite that waits for 0.1 seconds at most, and the ticket of its one item."""
    queue = ReviewQueue(f"{sqlite_url}?timeout=0.1")
    return queue, queue.put(case(), expires_s=60).ticket


# --- SQLite


def test_a_file_that_somebody_locks_is_waited_for_a_while(filled, file):
    queue, ticket = filled
    holder = sqlite3.connect(file, isolation_level=None)
    holder.execute("PRAGMA locking_mode=EXCLUSIVE")
    holder.execute("BEGIN EXCLUSIVE")
    holder.execute("UPDATE lec_guard_escalations SET rule = 'x'")
    assert_all_fail(everything(queue, ticket), r"SQLITE_BUSY")
    # One that has not used the file yet fails likewise.
    assert_all_fail(writes(ReviewQueue(f"sqlite:///{file}?timeout=0.1"), ticket), r"SQLITE_BUSY")
    holder.execute("ROLLBACK")
    holder.close()
    assert queue.get(ticket).status == "pending"
    assert queue.answer(key(7)) is None


def test_who_only_reads_does_not_wait_for_who_writes(filled, file):
    queue, ticket = filled
    holder = sqlite3.connect(file, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    assert queue.get(ticket) is not None
    assert queue.answer(key()) is None
    assert_all_fail(writes(queue, ticket)[:-2], "SQLITE_BUSY")
    holder.close()


def test_a_lock_that_is_let_go_of_in_time_holds_nobody_up(sqlite_url, file):
    queue = ReviewQueue(sqlite_url)
    queue.put(case(), expires_s=60)
    holder = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN IMMEDIATE")
    import threading

    timer = threading.Timer(0.3, holder.close)
    timer.start()
    assert queue.put(case(1), expires_s=60).status == "pending"
    timer.join()


@contextmanager
def most_pages(pages: int) -> Iterator[None]:
    """Every database is full at so many pages: what a full disk is to SQLite."""

    def limit(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute(f"PRAGMA max_page_count={pages}").close()

    sqlalchemy.event.listen(Pool, "connect", limit)
    try:
        yield
    finally:
        sqlalchemy.event.remove(Pool, "connect", limit)


def test_a_full_disk_loses_nothing_and_lets_nothing_pass(sqlite_url):
    with most_pages(40):
        queue = ReviewQueue(sqlite_url)
        tickets = []
        with pytest.raises(QueueError, match="SQLITE_FULL") as failed:
            for number in range(100):
                tickets.append(queue.put(case(number, text=SECRET * 500), expires_s=60).ticket)
        assert 0 < len(tickets) < 100
        assert SECRET not in "".join(traceback.format_exception(failed.value))
        assert [item.ticket for item in queue.pending()] == tickets
        assert queue.answer(key(len(tickets))) is None
        with pytest.raises(QueueError, match="SQLITE_FULL"):
            QueueEscalator(queue=queue, wait_s=0, expires_s=60).ask(case(99, text=SECRET * 500))
    # There is room again.
    assert queue.put(case(99), expires_s=60).status == "pending"


def test_a_disk_that_is_full_from_the_beginning(sqlite_url):
    with most_pages(2):
        assert_all_fail(everything(ReviewQueue(sqlite_url), "x"), "SQLITE_FULL")


def test_a_file_of_something_else_is_left_alone(sqlite_url, file):
    file.parent.mkdir()
    file.write_bytes(b"this is a text, not a database. " * 200)
    before = file.read_bytes()
    assert_all_fail(everything(ReviewQueue(sqlite_url), "x"), "SQLITE_NOTADB")
    assert file.read_bytes() == before


def test_a_file_that_was_damaged_is_told(filled, file):
    queue, ticket = filled
    size = file.stat().st_size
    with file.open("r+b") as damaged:
        damaged.seek(4096)
        damaged.write(b"\xff" * (size - 4096))
    assert_all_fail(everything(queue, ticket), "SQLITE_CORRUPT|no such|SQLITE_ERROR")


def test_a_folder_in_place_of_a_file_is_told(tmp_path):
    (tmp_path / "queue.db").mkdir()
    assert_all_fail(everything(ReviewQueue(f"sqlite:///{tmp_path}/queue.db"), "x"), "SQLITE_CANTOPEN")


def test_a_file_in_place_of_the_folder_is_told(tmp_path):
    (tmp_path / "file").touch()
    assert_all_fail(everything(ReviewQueue(f"sqlite:///{tmp_path}/file/queue.db"), "x"), "failed: (File|Not a)")


def test_a_file_that_was_moved_away_is_told_and_then_made_again(filled, file):
    queue, _ = filled
    file.rename(file.with_name("away.db"))
    with pytest.raises(QueueError, match="SQLITE_CANTOPEN"):
        queue.answer(key())
    assert queue.answer(key()) is None
    assert file.stat().st_mode & 0o777 == 0o600


@contextmanager
def nobody() -> Iterator[Path]:
    """Run as somebody whom file modes hold back, with a folder that is open to all."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o755)
    was_root = os.geteuid() == 0
    try:
        yield folder
    finally:
        if was_root:
            os.seteuid(0)
        folder.chmod(0o755)
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("file_mode", "folder_mode", "said"),
    [(0o000, 0o755, "SQLITE_CANTOPEN"), (0o444, 0o555, "SQLITE_(READONLY|CANTOPEN)"), (0o644, 0o000, "failed: ")],
)
def test_a_file_that_may_not_be_read_or_written_is_told(file_mode, folder_mode, said):
    with nobody() as folder:
        url = f"sqlite:///{folder}/queue.db"
        ticket = ReviewQueue(url).put(case(), expires_s=60).ticket
        (folder / "queue.db").chmod(file_mode)
        folder.chmod(folder_mode)
        if os.geteuid() == 0:
            os.seteuid(65534)
        assert_all_fail(writes(ReviewQueue(url), ticket), said)


# --- PostgreSQL


def test_a_server_that_is_not_there_is_told():
    queue = ReviewQueue("postgresql+psycopg://ann:plugh@127.0.0.1:1/name")
    assert_all_fail(everything(queue, "x"), r"of 127.0.0.1/name failed: OperationalError$")


def test_a_password_that_is_wrong_is_not_shown(postgres_url):
    queue = ReviewQueue(postgres_url.replace("test@", "nobody:plugh@"))
    with pytest.raises(QueueError) as failed:
        queue.pending()
    assert "plugh" not in "".join(traceback.format_exception(failed.value))


def test_a_database_that_only_reads_is_told(postgres_url):
    ticket = ReviewQueue(postgres_url).put(case(), expires_s=60).ticket
    queue = ReviewQueue(f"{postgres_url}%20-cdefault_transaction_read_only%3Don")
    assert_all_fail(writes(queue, ticket), "25006")
    assert queue.get(ticket).status == "pending"


def test_a_row_that_somebody_locks_is_waited_for_a_while(postgres_url):
    queue = ReviewQueue(f"{postgres_url}&connect_timeout=0.3")
    ticket = queue.put(case(), expires_s=60).ticket
    holder = sqlalchemy.create_engine(postgres_url)
    with holder.connect() as connection:
        connection.execute(sqlalchemy.text("LOCK TABLE lec_guard_escalations IN ACCESS EXCLUSIVE MODE"))
        assert_all_fail([*reads(queue, ticket)[:2], *writes(queue, ticket)[:2]], "57014")
    assert queue.get(ticket).status == "pending"
    queue.close()
    holder.dispose()


def test_connections_that_the_server_closed_are_opened_again(postgres_url):
    queue = ReviewQueue(postgres_url)
    ticket = queue.put(case(), expires_s=60).ticket
    admin = sqlalchemy.create_engine(postgres_url)
    with admin.begin() as connection:
        mine = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        connection.execute(sqlalchemy.text(f"{mine} AND backend_type = 'client backend'"))
    assert queue.get(ticket).status == "pending"
    queue.close()
    admin.dispose()


# --- both


def test_no_text_is_shown_where_the_database_quotes_it(url, caplog, clock):
    """PostgreSQL tells the whole row where a condition fails."""
    queue = ReviewQueue(url, clock=clock)
    ticket = queue.put(case(), expires_s=60).ticket
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(sqlalchemy.text("ALTER TABLE lec_guard_escalations ADD CHECK (rule <> 'xyzzy')"))
        else:
            trigger = "CREATE TRIGGER t BEFORE INSERT ON lec_guard_escalations BEGIN SELECT RAISE(ABORT, 'xyzzy'); END"
            connection.execute(sqlalchemy.text(trigger))
    engine.dispose()
    with caplog.at_level(logging.DEBUG), pytest.raises(QueueError) as failed:
        queue.put(case(1, rule="xyzzy"), expires_s=60)
    shown = "".join(traceback.format_exception(failed.value)) + caplog.text
    assert "xyzzy" not in shown.replace('rule="xyzzy"', "")
    assert queue.get(ticket).status == "pending"
    queue.close()


def test_a_name_that_is_no_text_is_told(queue):
    with pytest.raises(QueueError, match="failed: a name that is no text"):
        queue.put(case(tenant="\ud800"), expires_s=60)
    with pytest.raises(QueueError, match="failed: a name that is no text"):
        queue.claim("x", "\ud800")
