"""A server that falls silent."""

from __future__ import annotations

import os
import signal
import time

import psycopg
import pytest

from lec_guard.act.queue import QueueError, ReviewQueue
from lec_guard.act.queue.postgresql import BoundedConnection
from tests.act.queue.made import allow, case


def test_a_statement_that_takes_too_long_costs_the_connection(postgres):
    with BoundedConnection.connect(postgres[0]) as connection:
        connection.patience_s = 0.2
        assert connection.execute("SELECT 1").fetchone() == (1,)
        began = time.monotonic()
        with pytest.raises(psycopg.OperationalError, match="says nothing"):
            connection.execute("SELECT pg_sleep(30)")
        assert time.monotonic() - began < 2
        assert connection.closed


def test_a_server_that_hangs_is_told_and_used_again_when_it_is_back(postgres, postgres_url):
    queue = ReviewQueue(f"{postgres_url}&connect_timeout=0.2")
    ticket = queue.put(case(), expires_s=60).ticket
    with psycopg.connect(postgres[0], autocommit=True) as watcher:
        found = watcher.execute(
            "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname IS NOT NULL"
        )
        backends = [pid for (pid,) in found]
    stopped = [postgres[1], *backends]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        with pytest.raises(QueueError, match=r"OperationalError|ConnectionTimeout"):
            queue.decide(ticket, allow())
        assert time.monotonic() - began < 5
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    assert queue.get(ticket).status == "pending"
    assert queue.decide(ticket, allow()).status == "decided"
    queue.close()
