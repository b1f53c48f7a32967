"""The table: made once, and known again."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine, inspect, text

from lec_guard.act.queue import QueueError, ReviewQueue
from tests.act.queue.made import allow, case, key


@pytest.fixture
def changed(url, queue):
    """Changes the database by hand."""
    queue.put(case(), expires_s=60)
    engine = create_engine(url)

    def change(*statements: str) -> None:
        with engine.begin() as connection:
            for statement in statements:
                connection.execute(text(statement))

    yield change
    engine.dispose()


def test_a_queue_finds_what_another_one_put(url, queue):
    item = queue.put(case(), expires_s=60)
    for _ in range(2):
        again = ReviewQueue(url, clock=queue._clock)
        assert again.get(item.ticket) == item
        again.close()


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        (["UPDATE lec_guard_escalations_version SET version = 2"], "is of version 2"),
        (["DELETE FROM lec_guard_escalations_version"], "is of version unknown"),
        (["DROP TABLE lec_guard_escalations_version"], "is of version unknown"),
        (["DROP TABLE lec_guard_escalations"], "is of version 1"),
    ],
)
def test_a_table_of_another_release_is_refused_and_left_alone(url, changed, statements, said):
    changed(*statements)
    again = ReviewQueue(url)
    for refused in (
        lambda: again.put(case(), expires_s=60),
        lambda: again.answer(key()),
        lambda: again.pending(),
        lambda: again.decide("x", allow()),
    ):
        with pytest.raises(QueueError, match=said):
            refused()
    again.close()


def test_a_table_that_is_gone_is_told_and_then_made_again(queue, changed):
    changed("DROP TABLE lec_guard_escalations", "DROP TABLE lec_guard_escalations_version")
    with pytest.raises(QueueError, match="failed: "):
        queue.answer(key())
    assert queue.answer(key()) is None
    assert queue.pending() == []


def test_a_table_that_lacks_a_column_is_told(queue, changed):
    changed("ALTER TABLE lec_guard_escalations DROP COLUMN reason")
    for failed in (lambda: queue.answer(key()), lambda: queue.put(case(), expires_s=60), lambda: queue.pending()):
        with pytest.raises(QueueError, match="failed: "):
            failed()


def test_other_tables_of_the_database_are_left_alone(url):
    engine = create_engine(url.replace("/queue/", "/"))
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE mine (x INTEGER)"))
    queue = ReviewQueue(url.replace("/queue/", "/"))
    queue.put(case(), expires_s=60)
    assert {"mine", "lec_guard_escalations"} <= set(inspect(engine).get_table_names())
    queue.close()
    engine.dispose()
