"""The pages of the review queue: what waits, one item, and what became of it."""

from __future__ import annotations

import re
from contextlib import suppress

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from lec_guard.act.base import Reply
from lec_guard.act.queue import Item, QueueError, ReviewQueue
from lec_guard.serve import marks
from lec_guard.serve.rendering import page
from lec_guard.serve.services import Ours, Sent, Services, SignedIn
from lec_guard.serve.sessions import Session
from lec_guard.serve.verdicts import verdict_of

ON_A_PAGE = 50
"""Items on a page of the queue."""

NEIGHBOURS = 50
"""Items among which the one before, and one that nobody holds, are looked for."""

LONGEST_REASON = 1_000
"""Characters of a reason."""

DONE = {
    "approve": "Approved. The text may pass as it is.",
    "edit": "Approved as you edited it. The new text is judged again before it passes.",
    "refuse": "Refused. The text does not pass.",
    "release": "Left to the others.",
}
"""What is said after a decision; addresses name one of these, and no words of their own."""

routes = APIRouter()
_TICKET = re.compile(r"[\w-]{1,128}", re.ASCII)


@routes.get("/queue")
async def list_items(ours: Ours, session: SignedIn, after: str | None = None, done: str | None = None) -> Response:
    """Show what waits, oldest first."""
    queue, now = _queue(ours), ours.clock()
    if after is not None:
        _checked(after)
    found = await _waiting(queue, session, ON_A_PAGE + 1, after)
    rows = [
        (item, marks.excerpt(item.text, verdict_of(item.verdict).spans), _holder(item, session, now))
        for item in found[:ON_A_PAGE]
    ]
    return page(
        "queue.html",
        session=session,
        trying=_may_try(ours, session),
        now=now,
        rows=rows,
        first=after is None,
        more=found[ON_A_PAGE - 1].ticket if len(found) > ON_A_PAGE else None,
        done=DONE.get(done or ""),
    )


@routes.get("/queue/{ticket}")
async def open_item(
    ours: Ours, session: SignedIn, ticket: str, leave: str | None = None, done: str | None = None
) -> Response:
    """Show an item, and hold it for who looks at it."""
    queue = _queue(ours)
    item = await _own(ours, session, ticket)
    if leave is not None and leave != ticket:
        # Whoever only looks through the queue would hold all of it.
        with suppress(HTTPException):
            await _release(queue, session, await _own(ours, session, leave))
    if _is_open(item, ours.clock()):
        try:
            item = await run_in_threadpool(queue.claim, ticket, session.reviewer.name)
        except QueueError:
            item = await _own(ours, session, ticket)
    return await _item_page(ours, session, item, done=DONE.get(done or ""))


@routes.post("/queue/{ticket}/approve")
async def approve(ours: Ours, sent: Sent, ticket: str) -> Response:
    """Let a text pass as it is."""
    return await _decide(ours, sent.session, ticket, Reply(answer="allow", by=sent.session.reviewer.name), "approve")


@routes.post("/queue/{ticket}/refuse")
async def refuse(ours: Ours, sent: Sent, ticket: str) -> Response:
    """Let a text not pass."""
    reason = sent.fields.get("reason", "").strip()
    if len(reason) > LONGEST_REASON:
        item = await _own(ours, sent.session, ticket)
        problem = f"A reason has up to {LONGEST_REASON:,} characters; yours has {len(reason):,}."
        return await _item_page(ours, sent.session, item, problem=problem, reason=reason, status=422)
    reply = Reply(answer="block", by=sent.session.reviewer.name, reason=reason or None)
    return await _decide(ours, sent.session, ticket, reply, "refuse", typed=reason or None)


@routes.post("/queue/{ticket}/edit")
async def edit(ours: Ours, sent: Sent, ticket: str) -> Response:
    """Let another text pass instead."""
    item = await _own(ours, sent.session, ticket)
    given = sent.fields.get("text", "")
    text = marks.typed(given, item.text)
    if "seen_only" in sent.fields:
        text = marks.seen_only(text)
    problem = None
    if not text.strip():
        problem = "Nothing is left of the text. Refuse it, if nothing may pass."
    elif marks.field(text) == marks.field(item.text):
        problem = "You changed nothing. Approve the text as it is, or change it."
    if problem:
        return await _item_page(ours, sent.session, item, problem=problem, typed=given, status=422)
    reply = Reply(answer="edit", text=text, by=sent.session.reviewer.name)
    return await _decide(ours, sent.session, ticket, reply, "edit", typed=given)


@routes.post("/queue/{ticket}/release")
async def release(ours: Ours, sent: Sent, ticket: str) -> Response:
    """Leave an item to the others."""
    await _release(_queue(ours), sent.session, await _own(ours, sent.session, ticket))
    return RedirectResponse("/queue?done=release", status_code=303)


async def _decide(
    ours: Services, session: Session, ticket: str, reply: Reply, done: str, *, typed: str | None = None
) -> Response:
    """Store a decision and go on, or say why it does not count any more."""
    queue = _queue(ours)
    await _own(ours, session, ticket)
    try:
        await run_in_threadpool(queue.decide, ticket, reply)
    except QueueError:
        item, now = await _own(ours, session, ticket), ours.clock()
        holder = _holder(item, session, now)
        return page(
            "conflict.html",
            # Where nobody was quicker, it is the queue that failed.
            status=503 if _is_open(item, now) and holder is None else 409,
            session=session,
            trying=_may_try(ours, session),
            item=item,
            now=now,
            holder=holder,
            typed=typed,
        )
    for after in (ticket, None):
        for item in await _waiting(queue, session, NEIGHBOURS, after):
            if _holder(item, session, ours.clock()) is None:
                return RedirectResponse(f"/queue/{item.ticket}?done={done}", status_code=303)
    return RedirectResponse(f"/queue?done={done}", status_code=303)


async def _item_page(
    ours: Services,
    session: Session,
    item: Item,
    *,
    done: str | None = None,
    problem: str | None = None,
    typed: str | None = None,
    reason: str = "",
    status: int = 200,
) -> Response:
    queue, now, verdict = _queue(ours), ours.clock(), verdict_of(item.verdict)
    tickets = [one.ticket for one in await _waiting(queue, session, NEIGHBOURS)]
    at = tickets.index(item.ticket) if item.ticket in tickets else 0
    after = await _waiting(queue, session, 1, item.ticket)
    return page(
        "item.html",
        status=status,
        session=session,
        trying=_may_try(ours, session),
        now=now,
        item=item,
        verdict=verdict,
        holder=_holder(item, session, now),
        shown=marks.marked(item.text, verdict.spans),
        context=None if item.context is None else marks.marked(item.context),
        open=_is_open(item, now),
        before=tickets[at - 1] if at else None,
        after=after[0].ticket if after else None,
        done=done,
        problem=problem,
        typed=typed,
        reason=reason,
        longest_reason=LONGEST_REASON,
    )


def _queue(ours: Services) -> ReviewQueue:
    if ours.queue is None:
        raise HTTPException(404)
    return ours.queue


async def _own(ours: Services, session: Session, ticket: str) -> Item:
    """An item that this reviewer may see; all others are as if they were not there."""
    item = await run_in_threadpool(_queue(ours).get, _checked(ticket))
    if item is None or not session.reviewer.sees(item.tenant):
        raise HTTPException(404)
    return item


async def _release(queue: ReviewQueue, session: Session, item: Item) -> None:
    with suppress(QueueError):  # It is decided, or somebody else's by now.
        await run_in_threadpool(queue.release, item.ticket, session.reviewer.name)


async def _waiting(queue: ReviewQueue, session: Session, limit: int, after: str | None = None) -> list[Item]:
    return await run_in_threadpool(queue.pending, tenants=session.reviewer.tenants, limit=limit, after=after)


def _is_open(item: Item, now: float) -> bool:
    return item.status == "pending" and item.expires > now


def _holder(item: Item, session: Session, now: float) -> str | None:
    """Who else holds an item."""
    if item.claimed_by is None or item.claimed_by == session.reviewer.name or (item.claimed_until or 0) <= now:
        return None
    return item.claimed_by


def _may_try(ours: Services, session: Session) -> bool:
    return ours.guard is not None and session.reviewer.may_try


def _checked(ticket: str) -> str:
    """A ticket that could be one; no database has to read anything else."""
    if not _TICKET.fullmatch(ticket):
        raise HTTPException(404)
    return ticket
