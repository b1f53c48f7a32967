"""Putting, claiming, deciding, answering; one after the other."""

from __future__ import annotations

import os
import stat
import sys
import threading
import time

import pytest

from lec_guard.act.base import Reply
from lec_guard.act.queue import QueueError, ReviewQueue, default_url
from tests.act.queue.made import SECRET, allow, case, key

# --- put


def test_a_step_that_is_asked_about_is_not_asked_about_again(queue):
    first = queue.put(case(), expires_s=60)
    assert queue.put(case(), expires_s=99) == first
    queue.decide(first.ticket, allow())
    for _ in range(2):
        assert queue.put(case(), expires_s=60).ticket == first.ticket
        assert queue.answer(key()) is not None


def test_an_item_that_expired_gives_way_to_a_new_one(queue, clock):
    first = queue.put(case(), expires_s=60)
    clock.now += 60
    second = queue.put(case(), expires_s=60)
    assert second.ticket != first.ticket
    assert queue.get(first.ticket).status == "expired"
    # Who asked anew is not told of the one before.
    assert queue.answer(key()) is None
    queue.decide(second.ticket, allow())
    assert queue.answer(key()) == allow()


@pytest.mark.parametrize("expires_s", [0, -1])
def test_nothing_is_put_that_has_expired_already(queue, expires_s):
    with pytest.raises(ValueError, match="expires_s"):
        queue.put(case(), expires_s=expires_s)


def test_a_step_that_nobody_could_read_is_refused(queue):
    with pytest.raises(QueueError, match="10000000 characters"):
        queue.put(case(text="x" * 10_000_001), expires_s=60)


# --- pending


def test_pending_items_come_oldest_first_page_by_page(queue):
    tickets = [queue.put(case(number), expires_s=60).ticket for number in range(7)]
    pages = [[item.ticket for item in queue.pending(limit=3)]]
    queue.decide(pages[0][-1], allow())
    while pages[-1]:
        pages.append([item.ticket for item in queue.pending(limit=3, after=pages[-1][-1])])
    assert pages == [tickets[:3], tickets[3:6], tickets[6:], []]


def test_pending_items_are_those_of_the_tenants_that_are_named(queue):
    for number, tenant in enumerate(["acme", None, "globex", "acme"]):
        queue.put(case(number, tenant=tenant), expires_s=60)

    def shown(tenants):
        return [item.tenant for item in queue.pending(tenants=tenants)]

    assert shown(None) == ["acme", None, "globex", "acme"]
    assert shown(["acme"]) == ["acme", "acme"]
    assert shown([None]) == [None]
    assert shown([None, "globex"]) == [None, "globex"]
    assert shown([]) == []
    assert shown(["nobody"]) == []


def test_what_is_decided_or_overdue_is_not_pending(queue, clock):
    queue.put(case(0), expires_s=10)
    decided = queue.put(case(1), expires_s=60)
    left = queue.put(case(2), expires_s=60)
    queue.decide(decided.ticket, allow())
    clock.now += 10
    assert [item.ticket for item in queue.pending()] == [left.ticket]


@pytest.mark.parametrize("limit", [0, 1001])
def test_a_page_has_a_size(queue, limit):
    with pytest.raises(ValueError, match="limit"):
        queue.pending(limit=limit)


def test_nothing_is_known_of_a_ticket_that_was_not_given(queue):
    assert queue.get("nothing") is None
    assert queue.pending(after="nothing") == []


# --- claim


def test_one_reviewer_at_a_time(queue, clock):
    ticket = queue.put(case(), expires_s=6000).ticket
    claimed = queue.claim(ticket, "ann", for_s=100)
    assert (claimed.claimed_by, claimed.claimed_until) == ("ann", clock.now + 100)
    for refused in (
        lambda: queue.claim(ticket, "bob"),
        lambda: queue.release(ticket, "bob"),
        lambda: queue.decide(ticket, allow("bob")),
    ):
        with pytest.raises(QueueError, match="another reviewer"):
            refused()
    clock.now += 99
    assert queue.claim(ticket, "ann").claimed_until == clock.now + 300
    clock.now += 300
    assert queue.claim(ticket, "bob").claimed_by == "bob"
    assert queue.decide(ticket, allow("bob")).by == "bob"


def test_a_claim_that_was_released_or_ran_out_holds_nobody_up(queue, clock):
    ticket = queue.put(case(), expires_s=6000).ticket
    queue.claim(ticket, "ann")
    assert queue.release(ticket, "ann").claimed_by is None
    assert queue.release(ticket, "ann").claimed_by is None
    queue.claim(ticket, "bob", for_s=10)
    clock.now += 10
    assert queue.decide(ticket, allow("ann")).by == "ann"


@pytest.mark.parametrize("for_s", [0, -1])
def test_a_claim_lasts(queue, for_s):
    with pytest.raises(ValueError, match="for_s"):
        queue.claim("ticket", "ann", for_s=for_s)


# --- decide


@pytest.mark.parametrize(
    "reply",
    [
        Reply(answer="allow", by="ann"),
        Reply(answer="block", by="ann", reason="no"),
        Reply(answer="edit", text="", by="ann"),
        Reply(answer="edit", text="another text", by="ann", reason="so"),
    ],
)
def test_a_decision_is_given_as_it_was_made_to_all_who_ask(queue, reply):
    ticket = queue.put(case(), expires_s=60).ticket
    assert queue.answer(key()) is None
    decided = queue.decide(ticket, reply)
    assert (decided.status, decided.answer, decided.edited) == ("decided", reply.answer, reply.text)
    for _ in range(3):
        assert queue.answer(key()) == reply
        assert queue.get(ticket) == decided


def test_a_decision_counts_for_its_key_alone(queue):
    queue.decide(queue.put(case(0), expires_s=60).ticket, allow())
    queue.put(case(1), expires_s=60)
    assert queue.answer(key(1)) is None
    assert queue.answer(key(0)) is not None


def test_a_decision_is_made_once(queue):
    ticket = queue.put(case(), expires_s=60).ticket
    queue.decide(ticket, Reply(answer="block", by="ann"))
    for _ in range(2):
        for refused in (
            lambda: queue.decide(ticket, allow("ann")),
            lambda: queue.claim(ticket, "ann"),
            lambda: queue.release(ticket, "ann"),
        ):
            with pytest.raises(QueueError, match="decided already: block"):
                refused()
        assert queue.answer(key()).answer == "block"


def test_nothing_is_decided_that_is_not_there(queue):
    for refused in (
        lambda: queue.decide("nothing", allow()),
        lambda: queue.claim("nothing", "ann"),
        lambda: queue.release("nothing", "ann"),
        lambda: queue.wait("nothing", 5),
    ):
        with pytest.raises(QueueError, match="no item has this ticket"):
            refused()


def test_nothing_is_decided_after_its_time(queue, clock):
    ticket = queue.put(case(), expires_s=60).ticket
    queue.claim(ticket, "ann", for_s=600)
    clock.now += 60
    for _ in range(2):
        with pytest.raises(QueueError, match="has expired"):
            queue.decide(ticket, allow("ann"))
        with pytest.raises(QueueError, match="has expired"):
            queue.claim(ticket, "ann")
        assert queue.get(ticket).status == "expired"
        queue.expire()


@pytest.mark.parametrize("by", [None, "", "  ", "x" * 201])
def test_a_decision_says_who_made_it(queue, by):
    ticket = queue.put(case(), expires_s=60).ticket
    with pytest.raises(QueueError, match=r"who decides|at most 200"):
        queue.decide(ticket, Reply(answer="allow", by=by))
    assert queue.get(ticket).status == "pending"


@pytest.mark.parametrize(
    "reply", [Reply(answer="allow", by="a", reason="x" * 10_001), Reply(answer="edit", by="a", text="x" * 10_000_001)]
)
def test_a_decision_is_not_too_long(queue, reply):
    ticket = queue.put(case(), expires_s=60).ticket
    with pytest.raises(QueueError, match="at most"):
        queue.decide(ticket, reply)
    assert queue.get(ticket).status == "pending"


# --- time


@pytest.mark.parametrize("swept", [False, True])
def test_that_nobody_decided_in_time_is_told_once(queue, clock, swept):
    ticket = queue.put(case(), expires_s=60).ticket
    clock.now += 59.9
    assert queue.answer(key()) is None
    clock.now += 0.1
    if swept:
        assert queue.expire() == 1
        assert queue.expire() == 0
    with pytest.raises(TimeoutError):
        queue.answer(key())
    assert queue.answer(key()) is None
    assert queue.get(ticket).status == "expired"
    assert queue.put(case(), expires_s=60).ticket != ticket
    assert queue.answer(key()) is None


@pytest.mark.parametrize("swept", [False, True])
def test_a_decision_counts_as_long_again_and_then_as_if_it_had_never_been(queue, clock, swept):
    ticket = queue.put(case(), expires_s=60).ticket
    clock.now += 59
    assert queue.decide(ticket, allow()).expires == clock.now + 60
    clock.now += 59
    assert queue.expire() == 0
    assert queue.answer(key()) == allow()
    assert queue.put(case(), expires_s=60).ticket == ticket
    clock.now += 1
    if swept:
        assert queue.expire() == 1
    # Somebody decided in time: nobody is told that nobody did.
    for _ in range(2):
        assert queue.answer(key()) is None
        assert queue.get(ticket).status == "expired"
    anew = queue.put(case(), expires_s=60)
    assert (anew.ticket != ticket, anew.status) == (True, "pending")
    assert queue.answer(key()) is None


def test_what_has_expired_is_deleted_and_nothing_else(queue, clock):
    kinds = ["pending", "decided", "late", "over"]
    items = {
        kind: queue.put(case(number), expires_s=1000 if number < 2 else 10 * number)
        for number, kind in enumerate(kinds)
    }
    queue.decide(items["decided"].ticket, allow())
    queue.decide(items["over"].ticket, allow())
    assert queue.answer(items["decided"].key) == allow()

    def left():
        return [kind for kind in kinds if queue.get(items[kind].ticket) is not None]

    clock.now += 80
    assert queue.purge(60) == 0
    clock.now += 1
    assert queue.purge(60) == 1
    assert left() == ["pending", "decided", "over"]
    assert queue.purge(0) == 1
    assert left() == ["pending", "decided"]
    assert queue.answer(items["decided"].key) == allow()
    clock.now += 1000
    assert queue.purge(0) == 2
    assert left() == []
    with pytest.raises(ValueError, match="older_than_s"):
        queue.purge(-1)


def test_a_deleted_text_is_gone_from_the_disk(tmp_path, clock):
    queue = ReviewQueue(f"sqlite:///{tmp_path}/queue.db", clock=clock)
    item = queue.put(case(), expires_s=60)
    assert SECRET.encode() in b"".join(path.read_bytes() for path in tmp_path.iterdir())
    queue.decide(item.ticket, allow())
    clock.now += 61
    assert queue.purge(0) == 1
    assert SECRET.encode() not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


# --- wait


@pytest.mark.parametrize("is_async", [False, True])
async def test_waiting_ends_soon_after_another_process_decides(url, other, is_async):
    queue = ReviewQueue(url)
    ticket = queue.put(case(), expires_s=60).ticket
    code = "time.sleep(0.2); ReviewQueue(url).decide(ticket, allow()); print(time.time())"
    other.begin(code, url=url, ticket=ticket)
    item = await queue.wait_async(ticket, 30) if is_async else queue.wait(ticket, 30)
    ended = time.time()
    (decided,) = other.end()
    assert item.answer == "allow"
    assert ended - float(decided) < 2
    queue.close()


@pytest.mark.parametrize("is_async", [False, True])
async def test_waiting_ends_when_its_time_or_the_items_is_over(queue, clock, is_async):
    ticket = queue.put(case(), expires_s=60).ticket
    for _ in range(2):
        began = time.monotonic()
        item = await queue.wait_async(ticket, 0.1) if is_async else queue.wait(ticket, 0.1)
        assert 0.1 <= time.monotonic() - began < 2
        assert item.status == "pending"
    clock.now += 60
    began = time.monotonic()
    item = await queue.wait_async(ticket, 30) if is_async else queue.wait(ticket, 30)
    assert time.monotonic() - began < 5
    assert item.status == "expired"


# --- where it is


def test_a_file_is_for_its_owner_alone(tmp_path):
    folder = tmp_path / "a" / "b"
    before = os.umask(0)
    try:
        queue = ReviewQueue(f"sqlite:///{folder}/queue.db")
        queue.put(case(), expires_s=60)
        with queue._db.writing():
            made = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert made["queue.db"] == 0o600
    assert set(made.values()) == {0o600}
    assert set(made) <= {"queue.db", "queue.db-wal", "queue.db-shm"}


def test_a_name_with_signs_is_a_name(tmp_path):
    path = tmp_path / "a b#c%20" / "queue&.db"
    from sqlalchemy.engine import URL

    url = URL.create("sqlite", database=str(path)).render_as_string()
    ReviewQueue(url).put(case(), expires_s=60)
    assert path.exists()


def test_a_queue_asks_nothing_of_its_database_before_it_is_used(tmp_path):
    ReviewQueue(f"sqlite:///{tmp_path}/queue.db")
    ReviewQueue("postgresql+psycopg://test@127.0.0.1:1/none")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("given", ["absolute", "relative", None])
def test_a_user_has_a_queue_of_their_own(tmp_path, monkeypatch, given):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    if given is not None:
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data") if given == "absolute" else "data")
    ReviewQueue(default_url()).put(case(), expires_s=60)
    folder = tmp_path / ("data" if given == "absolute" else ".local/share") / "lec-guard"
    assert (folder / "queue.db").exists()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("no url", "is none"),
        ("mysql://ann:plugh@host/name", "can't use mysql"),
        ("sqlite+aiosqlite:///x.db", "can't use sqlite\\+aiosqlite"),
        ("sqlite://", "needs a file"),
        ("sqlite:///:memory:", "needs a file"),
        ("sqlite:///file:x?uri=true", "needs a file"),
        ("sqlite:////tmp/x.db?timeout=never", "timeout"),
        ("postgresql+psycopg://ann:plugh@host/name?connect_timeout=0", "connect_timeout"),
    ],
)
def test_another_url_is_refused_and_no_password_shown(url, said):
    with pytest.raises(QueueError, match=said) as refused:
        ReviewQueue(url)
    assert "plugh" not in str(refused.value)


@pytest.mark.parametrize(
    ("missing", "made"),
    [
        ("sqlalchemy", lambda: ReviewQueue("sqlite:////tmp/x.db")),
        ("sqlalchemy", default_url),
        ("psycopg", lambda: ReviewQueue("postgresql+psycopg://host/name")),
    ],
)
def test_a_missing_package_is_named(monkeypatch, missing, made):
    for name in ("database", "rows", "table"):
        monkeypatch.delitem(sys.modules, f"lec_guard.act.queue.{name}", raising=False)
    for name in [name for name in sys.modules if name.split(".")[0] == missing]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(QueueError, match=rf"needs {missing}.*pip install 'lec-guard\[queue\]'"):
        made()


def test_nothing_is_imported_before_it_is_needed(other):
    # The first thing that this process did was to import the package.
    assert {"sqlalchemy", "psycopg"}.isdisjoint(other.imported)


def test_a_closed_queue_leaves_no_connection_and_opens_new_ones(queue):
    item = queue.put(case(), expires_s=60)
    queue.close()
    queue.close()
    assert queue.get(item.ticket) == item


def test_threads_share_a_queue_that_is_new(url):
    queue = ReviewQueue(url)
    start = threading.Barrier(8)
    found: list[object] = []

    def put() -> None:
        start.wait()
        try:
            found.append(queue.put(case(), expires_s=60).ticket)
        except QueueError as error:
            found.append(error)

    threads = [threading.Thread(target=put) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    queue.close()
