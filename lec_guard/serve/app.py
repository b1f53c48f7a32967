"""The application: pages, static files, and what holds for all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from lec_guard.act.queue import ReviewQueue
from lec_guard.guard import Guard
from lec_guard.serve import queue_pages, signing_in, try_page
from lec_guard.serve.headers import KnownHosts, NoTraces, SafeHeaders, ShortBodies
from lec_guard.serve.rendering import page
from lec_guard.serve.reviewers import Reviewers
from lec_guard.serve.services import Heat, NotSignedIn, Services, services
from lec_guard.serve.sessions import Sessions
from lec_guard.serve.throttle import Throttle

LOCAL = ("127.0.0.1", "localhost", "[::1]")
"""Names of a server that only its own machine reaches."""

_WORDS = {
    400: ("This can't be read", "The request is not one of ours."),
    403: ("Not from here", "The request was not sent from one of our pages."),
    404: ("Nothing here", "There is nothing here, or nothing that you may see."),
    405: ("Not this way", "Go back to the page with the form, and send it from there."),
    413: ("Too much", "That is more than is read here."),
    422: ("This can't be read", "The address is not one of ours."),
}


def create_app(
    *,
    guard: Guard | None,
    queue: ReviewQueue | None,
    reviewers: Reviewers,
    heat: Heat | None = None,
    hosts: Iterable[str] = LOCAL,
    secure: bool = False,
    sessions: Sessions | None = None,
    throttle: Throttle | None = None,
    clock: Callable[[], float] = time.time,
) -> FastAPI:
    """Make the application.

    Sessions live in the memory of the process: run one process, or send each browser to the same one.

    Args:
        guard: What judges texts that reviewers try. Only `check` is called, so nothing follows from a try. None for no
            such page.
        queue: Where items wait; None for no such pages.
        reviewers: Who may sign in.
        heat: What the guard's detector says of each window (its method `heat`); None where it has none.
        hosts: The names that browsers know the server by, without ports.
        secure: Whether browsers reach it by https, here or at a proxy. Then cookies go nowhere else.
        sessions: Who is signed in; None for sessions that end after 30 idle minutes, or 10 hours.
        throttle: How often somebody may try keys; None for 5 at once, then one in 20 seconds.
        clock: Unix seconds, the same as the queue's.

    Returns:
        An ASGI application.
    """
    app = FastAPI(
        title="lec-guard",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        middleware=[
            Middleware(SafeHeaders, secure=secure),
            Middleware(NoTraces),
            Middleware(KnownHosts, hosts=tuple(hosts)),
            Middleware(ShortBodies),
        ],
        exception_handlers={HTTPException: _failed, NotSignedIn: _not_signed_in},
    )
    app.state.services = Services(
        guard=guard,
        heat=heat,
        queue=queue,
        reviewers=reviewers,
        sessions=sessions or Sessions(),
        throttle=throttle or Throttle(),
        secure=secure,
        clock=clock,
    )
    for routes in (signing_in.routes, queue_pages.routes, try_page.routes):
        app.include_router(routes)
    app.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"))
    return app


async def _failed(request: Request, error: HTTPException) -> Response:  # noqa: ARG001 - Starlette's signature
    title, words = _WORDS.get(error.status_code, ("This did not work", "Go back and try again."))
    # Ours are sentences; Starlette's own are the names of statuses.
    own = error.detail if error.detail.endswith(".") else words
    answer = page("error.html", status=error.status_code, session=None, title=title, words=own)
    answer.headers.update(error.headers or {})
    return answer


async def _not_signed_in(request: Request, error: NotSignedIn) -> Response:
    if request.method == "POST":
        problem = "Your session has ended, and nothing was decided. Sign in, and send it again."
        return signing_in.login_form(request, services(request), problem=problem, typed=error.typed, status=401)
    return RedirectResponse("/login", status_code=303)
