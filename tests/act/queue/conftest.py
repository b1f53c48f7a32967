"""Queues on both databases."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lec_guard.act.queue import ReviewQueue
from tests.act.queue.made import Clock, Other


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    """The URL of a database that is empty."""
    if request.param == "sqlite":
        return request.getfixturevalue("sqlite_url")
    return request.getfixturevalue("postgres_url")


@pytest.fixture
def clock() -> Clock:
    """A clock that is set by hand."""
    return Clock()


@pytest.fixture
def queue(url: str, clock: Clock) -> Iterator[ReviewQueue]:
    """A queue whose clock stands still."""
    queue = ReviewQueue(url, clock=clock)
    yield queue
    queue.close()


@pytest.fixture(scope="session")
def other() -> Iterator[Other]:
    """Another process."""
    other = Other()
    yield other
    other.close()
