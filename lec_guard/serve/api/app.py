"""The API as an application."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.types import ASGIApp

from lec_guard.errors import LecGuardError
from lec_guard.guard import Guard
from lec_guard.serve.api import check, health, litellm, moderations, refusing
from lec_guard.serve.api.keys import ApiKeys
from lec_guard.serve.api.limits import Limits, Rates, Room, TooMuch
from lec_guard.serve.api.services import ApiServices, Served
from lec_guard.serve.api.transport import BoundedBodies, RequestIds, Stopping
from lec_guard.serve.throttle import Throttle

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


def create_api(
    *,
    guard: Guard,
    detector: Served,
    keys: ApiKeys,
    limits: Limits | None = None,
    pages: ASGIApp | None = None,
    registry: CollectorRegistry | None = None,
    stopping: threading.Event | None = None,
) -> FastAPI:
    """Make the API.

    Args:
        guard: What judges.
        detector: What it asks: a `Batcher`, so that requests share forward passes.
        keys: Who may ask.
        limits: How much; None for `Limits()`.
        pages: The application for reviewers, which answers whatever is not the API's; None for none.
        registry: What `/metrics` shows; None for the one that the process shares.
        stopping: Is set when the server is told to stop: from then on it is not ready, and takes nothing.

    Returns:
        An ASGI application, with its OpenAPI document at `/openapi.json`.
    """
    from prometheus_client import REGISTRY

    own, stops = limits or Limits(), stopping or threading.Event()
    app = FastAPI(
        title="lec-guard",
        version="1",
        description="Judges texts by tenants' policies. Errors are JSON: `error` has type, message and request_id.",
        docs_url=None,
        redoc_url=None,
        middleware=[
            Middleware(RequestIds),
            Middleware(Stopping, stopping=stops),
            Middleware(_ApiOnly, bounded=own),
        ],
        exception_handlers=_HANDLERS,
    )
    app.state.api = ApiServices(
        guard=guard,
        detector=detector,
        keys=keys,
        limits=own,
        room=Room(own),
        rates=Rates(own),
        throttle=Throttle(),
    )
    app.state.stopping = stops
    app.state.registry = registry or REGISTRY
    for routes in (check.routes, moderations.routes, litellm.routes, health.routes):
        app.include_router(routes)
    if pages is not None:
        app.mount("/", pages)
    return app


class _ApiOnly:
    """Bounds bodies of the API; pages have forms, and bounds of their own.

    Args:
        app: What answers.
        bounded: How much.
    """

    def __init__(self, app: ASGIApp, *, bounded: Limits) -> None:
        self._app = app
        self._bodies = BoundedBodies(app, limits=bounded)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer."""
        is_ours = scope["type"] == "http" and scope["path"].startswith(("/v1/", "/beta/"))
        await (self._bodies if is_ours else self._app)(scope, receive, send)


_HANDLERS: Any = {
    refusing.Refused: refusing.refused,
    TooMuch: refusing.too_much,
    RequestValidationError: refusing.invalid,
    HTTPException: refusing.failed,
    LecGuardError: refusing.not_judged,
}
