"""What the pages stand on, and who asks for them."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, cast
from urllib.parse import parse_qsl

from fastapi import Depends, Request
from starlette.exceptions import HTTPException

from lec_guard.act.queue import ReviewQueue
from lec_guard.guard import Guard
from lec_guard.serve import csrf
from lec_guard.serve.reviewers import Reviewers
from lec_guard.serve.sessions import Session, Sessions
from lec_guard.serve.throttle import Throttle
from lec_guard.step import Span, Step

MOST_FIELDS = 16
"""The fields that a form of ours may have."""

TRIES_AT_ONCE = 2
"""Texts that are judged at a time for the page to try things; others wait."""

Heat = Callable[[Step], Sequence[Span]]
"""What a detector says of each window, for each head."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What the pages stand on.

    Attributes:
        guard: What judges texts that reviewers try; None for no such page.
        heat: What its detector says of each window; None where it does not say.
        queue: Where items wait; None for no such pages.
        reviewers: Who may sign in.
        sessions: Who is signed in.
        throttle: How often somebody may try keys.
        secure: Whether browsers reach the pages by https.
        clock: Unix seconds, as the queue's times are.
        login_key: A secret of this process, for the form to sign in.
        tries: Who judges a text that is tried has to hold it.
    """

    guard: Guard | None
    heat: Heat | None
    queue: ReviewQueue | None
    reviewers: Reviewers
    sessions: Sessions
    throttle: Throttle
    secure: bool
    clock: Callable[[], float]
    login_key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    tries: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(TRIES_AT_ONCE))

    @property
    def cookie(self) -> str:
        """The name of the session's cookie; its beginning makes browsers see to it that nobody else sets it."""
        return f"{self._prefix}lec_guard"

    @property
    def login_cookie(self) -> str:
        """The name of the cookie that belongs to the form to sign in."""
        return f"{self._prefix}lec_guard_login"

    @property
    def _prefix(self) -> str:
        return "__Host-" if self.secure else ""


class NotSignedIn(Exception):
    """Nobody is signed in, or no more.

    Args:
        typed: What they had typed, which is shown to them once more.
    """

    def __init__(self, typed: str | None = None) -> None:
        super().__init__("nobody is signed in")
        self.typed = typed


@dataclass(frozen=True, slots=True, kw_only=True)
class Posted:
    """A form that was sent from one of our own pages by somebody who is signed in.

    Attributes:
        session: Who.
        fields: What it holds, without its token.
    """

    session: Session
    fields: Mapping[str, str] = field(repr=False)


def services(request: Request) -> Services:
    """What the pages stand on.

    Args:
        request: Any request.

    Returns:
        It.
    """
    return cast("Services", request.app.state.services)


Ours = Annotated[Services, Depends(services)]


def signed_in(request: Request, ours: Ours) -> Session:
    """Who asks.

    Args:
        request: The request.
        ours: What the pages stand on.

    Returns:
        Their session.

    Raises:
        NotSignedIn: If nobody is.
    """
    session = ours.sessions.find(request.cookies.get(ours.cookie, ""))
    if session is None:
        raise NotSignedIn
    return session


SignedIn = Annotated[Session, Depends(signed_in)]


async def sent_form(request: Request, ours: Ours) -> dict[str, str]:
    """A form from one of our own pages, whoever sent it.

    Args:
        request: The request.
        ours: What the pages stand on.

    Returns:
        Its fields.

    Raises:
        HTTPException: If it comes from elsewhere, or is no form.
    """
    if not csrf.from_here(request.headers, secure=ours.secure):
        raise HTTPException(403, "This form was not sent from one of our pages.")
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        raise HTTPException(415, "This is not how our forms are sent.")
    try:
        pairs = parse_qsl(
            (await request.body()).decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=MOST_FIELDS,
        )
    except ValueError:
        raise HTTPException(400, "This form can't be read.") from None
    return dict(pairs)


Form = Annotated[dict[str, str], Depends(sent_form)]


async def posted(request: Request, ours: Ours, form: Form) -> Posted:
    """A form with the token of the session that sends it.

    Args:
        request: The request.
        ours: What the pages stand on.
        form: Its fields.

    Returns:
        Who sent it, and what.

    Raises:
        NotSignedIn: If nobody is signed in; what was typed is kept.
        HTTPException: If the token is missing or wrong.
    """
    try:
        session = signed_in(request, ours)
    except NotSignedIn:
        raise NotSignedIn(form.get("text")) from None
    if not csrf.same(form.pop("csrf", ""), session.csrf):
        raise HTTPException(403, "This form is of an older session; go back, reload the page and send it again.")
    return Posted(session=session, fields=form)


Sent = Annotated[Posted, Depends(posted)]
