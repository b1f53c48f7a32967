"""The page to try things: a text, and what the guard says of it. Nothing follows from it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import Response

from lec_guard.errors import LecGuardError, PolicyError
from lec_guard.guard import Guard
from lec_guard.serve import marks
from lec_guard.serve.rendering import page
from lec_guard.serve.services import Ours, Sent, Services, SignedIn
from lec_guard.serve.sessions import Session
from lec_guard.step import STAGES, Span, Step

LONGEST = 200_000
"""Characters of a text, and of a system text, that are tried."""

MOST_NAMES = 100
"""Tenants that the page proposes."""

routes = APIRouter()
_log = logging.getLogger(__name__)


@routes.get("/try")
async def ask_text(ours: Ours, session: SignedIn) -> Response:
    """Show the form."""
    return _page(ours, session, _guard(ours, session))


@routes.post("/try")
async def judge(ours: Ours, sent: Sent) -> Response:
    """Judge a text, and show what was found where."""
    guard = _guard(ours, sent.session)
    system, text = (marks.typed(sent.fields.get(name, ""), "") for name in ("system", "text"))
    stage = next((known for known in STAGES if known == sent.fields.get("stage")), None)
    tenant = sent.fields.get("tenant", "").strip() or None
    given = {"system": system, "text": text, "stage": stage or STAGES[0], "tenant": tenant or ""}
    if max(len(system), len(text)) > LONGEST:
        long = max(len(system), len(text))
        problem = f"A text has up to {LONGEST:,} characters here; yours has {long:,}."
        return _page(ours, sent.session, guard, given=given, problem=problem, status=413)
    if stage is None:
        return _page(ours, sent.session, guard, given=given, problem="There is no such stage.", status=422)
    if not sent.session.reviewer.sees(tenant):
        problem = "You may not try this tenant's policy." if tenant else "Choose one of your tenants."
        return _page(ours, sent.session, guard, given=given, problem=problem, status=404)
    step = Step(stage=stage, text=text, context=system or None)
    async with ours.tries:
        try:
            verdict = await guard.acheck(step, tenant)
        except PolicyError as error:
            _log.warning("a policy could not be tried: %s", marks.plain(str(error)).replace("\n", " "))
            problem = "There is no policy for this tenant that can be read; the server's log says why."
            return _page(ours, sent.session, guard, given=given, problem=problem, status=422)
        windows = await _windows(ours, step)
    heads = list(dict.fromkeys(span.head for span in windows))
    hottest = max(windows, key=lambda span: span.score, default=None)
    head = sent.fields.get("head")
    if head not in heads:
        head = hottest.head if hottest else None
    own = [span for span in windows if span.head == head]
    return _page(
        ours,
        sent.session,
        guard,
        given=given,
        result={
            "verdict": verdict,
            "shown": marks.marked(text, verdict.spans),
            "heads": heads,
            "head": head,
            "windows": len(own),
            "heat": marks.heated(text, own) if own else None,
        },
    )


async def _windows(ours: Services, step: Step) -> Sequence[Span]:
    """What the detector says of each window, where it does."""
    if ours.heat is None:
        return ()
    try:
        return await run_in_threadpool(ours.heat, step)
    except LecGuardError as error:
        # The verdict says what follows from that; here is only less to see.
        _log.warning("no heat for a text that was tried: %s", type(error).__name__)
        return ()


def _guard(ours: Services, session: Session) -> Guard:
    if ours.guard is None or not session.reviewer.may_try:
        raise HTTPException(404)
    return ours.guard


def _page(
    ours: Services,
    session: Session,
    guard: Guard,
    *,
    given: dict[str, str] | None = None,
    problem: str | None = None,
    result: dict[str, object] | None = None,
    status: int = 200,
) -> Response:
    own = session.reviewer.tenants
    names = guard.policies.tenants() if own is None else tuple(name for name in own if name is not None)
    first = names[0] if own is not None and None not in own and names else ""
    return page(
        "try.html",
        status=status,
        session=session,
        trying=True,
        reviewing=ours.queue is not None,
        stages=STAGES,
        names=names[:MOST_NAMES],
        longest=LONGEST,
        given=given or {"system": "", "text": "", "stage": STAGES[0], "tenant": first},
        problem=problem,
        result=result,
    )
