"""The pages to sign in and out."""

from __future__ import annotations

import logging
import secrets

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from lec_guard.serve import csrf
from lec_guard.serve.rendering import page
from lec_guard.serve.services import Form, NotSignedIn, Ours, Sent, Services, signed_in

routes = APIRouter()
_log = logging.getLogger(__name__)


@routes.get("/")
async def home(ours: Ours) -> Response:
    """Lead to the first page that there is."""
    return RedirectResponse(_home(ours), status_code=303)


@routes.get("/login")
async def ask_key(request: Request, ours: Ours) -> Response:
    """Show the form to sign in."""
    try:
        signed_in(request, ours)
    except NotSignedIn:
        return login_form(request, ours)
    return RedirectResponse(_home(ours), status_code=303)


@routes.post("/login")
async def take_key(request: Request, ours: Ours, form: Form) -> Response:
    """Sign somebody in, under a new session, whatever the browser showed before."""
    cookie = request.cookies.get(ours.login_cookie, "")
    if not cookie or not csrf.same(form.get("csrf", ""), csrf.login_token(cookie, ours.login_key)):
        return login_form(request, ours, problem="The form was too old. Please try again.", status=403)
    address = request.client.host if request.client else ""
    if wait := ours.throttle.wait_s(address):
        answer = login_form(request, ours, problem=f"Too many wrong keys. Try again in {wait} s.", status=429)
        answer.headers["Retry-After"] = str(wait)
        return answer
    reviewer = ours.reviewers.of(form.get("key", "").strip())
    if reviewer is None:
        ours.throttle.failed(address)
        _log.warning("somebody at %s tried a wrong key", address)
        return login_form(request, ours, problem="Nobody has this key.", status=403)
    ours.sessions.end(request.cookies.get(ours.cookie, ""))
    session = ours.sessions.begin(reviewer)
    answer = RedirectResponse(_home(ours), status_code=303)
    _set(answer, ours, ours.cookie, session.id)
    _delete(answer, ours, ours.login_cookie)
    return answer


@routes.post("/logout")
async def leave(ours: Ours, sent: Sent) -> Response:
    """Sign out."""
    ours.sessions.end(sent.session.id)
    answer = RedirectResponse("/login", status_code=303)
    _delete(answer, ours, ours.cookie)
    return answer


def login_form(
    request: Request, ours: Services, *, problem: str | None = None, typed: str | None = None, status: int = 200
) -> Response:
    """The form to sign in.

    Args:
        request: Who is asked.
        ours: What the pages stand on.
        problem: Why they are asked again.
        typed: What they had typed before their session ended.
        status: The status of the answer.

    Returns:
        The answer.
    """
    # The same one while it is there, so that two windows with the form do not spoil each other's.
    cookie = request.cookies.get(ours.login_cookie) or secrets.token_urlsafe(32)
    answer = page(
        "login.html",
        status=status,
        session=None,
        csrf=csrf.login_token(cookie, ours.login_key),
        problem=problem,
        typed=typed,
    )
    _set(answer, ours, ours.login_cookie, cookie)
    return answer


def _home(ours: Services) -> str:
    if ours.queue is None and ours.guard is None:
        raise HTTPException(404)
    return "/try" if ours.queue is None else "/queue"


def _set(answer: Response, ours: Services, name: str, value: str) -> None:
    answer.set_cookie(name, value, path="/", secure=ours.secure, httponly=True, samesite="strict")


def _delete(answer: Response, ours: Services, name: str) -> None:
    answer.delete_cookie(name, path="/", secure=ours.secure, httponly=True, samesite="strict")
