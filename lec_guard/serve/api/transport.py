"""What holds for every request to the API: an id, a line in the log, a bound on what is read, an end."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import threading
import time
import traceback
import uuid
from datetime import UTC, datetime
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lec_guard.serve.api.limits import Limits
from lec_guard.serve.api.refusing import refusal

ACCESS = logging.getLogger("lec_guard.serve.access")
"""A line of JSON for each request, without any text of it."""

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_MOST_HEADER_BYTES = 32 * 1024
_QUIET = frozenset(["/healthz", "/healthz/live", "/healthz/ready"])
"""Asked every few seconds, and of no interest while they are well."""


class RequestIds:
    """Gives each request an id, the caller's own if it is one, and writes the line in the log.

    A request that failed in a way nobody foresaw ends here: messages of exceptions may quote texts, so the log gets the
    type and where it happened, and the caller the id.

    Args:
        app: What answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _ID.fullmatch(given) else uuid.uuid4().hex
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        began, status = time.perf_counter(), 0

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                headers["Cache-Control"] = "no-store"
                headers["X-Content-Type-Options"] = "nosniff"
            await send(message)

        error: str | None = None
        try:
            if sum(len(name) + len(value) for name, value in scope["headers"]) > _MOST_HEADER_BYTES:
                words = f"the headers have more than {_MOST_HEADER_BYTES:,} bytes"
                await refusal(request_id, 431, "invalid_request", words)(scope, receive, sent)
                return
            await self._app(scope, receive, sent)
        except Exception as failure:  # noqa: BLE001 - the last one who could see it
            places = [f"{at.filename}:{at.lineno} {at.name}" for at in traceback.extract_tb(failure.__traceback__)]
            error = f"{type(failure).__name__} at {' < '.join(reversed(places[-8:]))}"
            if not status:
                words = "something went wrong here; the server's log knows this request's id"
                await refusal(request_id, 500, "server", words)(scope, receive, sent)
        finally:
            if scope["path"] not in _QUIET or status != 200:
                self._log(scope, state, status, (time.perf_counter() - began) * 1000, error)

    @staticmethod
    def _log(scope: Scope, state: dict[str, Any], status: int, ms: float, error: str | None) -> None:
        route = scope.get("route")
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "request_id": state["request_id"],
            "method": scope["method"],
            # The template of the route: what a caller writes into an address may be a text.
            "route": getattr(route, "path", None),
            "status": status,
            "ms": round(ms, 2),
            "key": state.get("key"),
            "tenant": state.get("tenant"),
        } | ({} if error is None else {"error": error})
        ACCESS.log(logging.ERROR if error or status >= 500 else logging.INFO, json.dumps(line))


class BoundedBodies:
    """Reads bodies that are said to be JSON, of so many bytes, and in time; no other gets any further.

    Args:
        app: What answers.
        limits: How much, and how long.
    """

    def __init__(self, app: ASGIApp, *, limits: Limits) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        if scope["type"] != "http" or scope["method"] not in ("POST", "PUT", "PATCH"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = scope.get("state", {}).get("request_id", "")
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            words = "send JSON, with the header Content-Type: application/json"
            await refusal(request_id, 415, "invalid_request", words)(scope, receive, send)
            return
        most = self._limits.body_bytes
        said = headers.get("content-length", "")
        too_long = refusal(request_id, 413, "too_much", f"a request may have {most:,} bytes")
        if said.isdigit() and int(said) > most:
            too_long.headers["Connection"] = "close"
            await too_long(scope, receive, send)
            return
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.read_s):
                more = True
                while more:
                    message = await receive()
                    if message["type"] != "http.request":
                        return  # whoever sent it has gone
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > most:
                        too_long.headers["Connection"] = "close"
                        await too_long(scope, receive, send)
                        return
        except TimeoutError:
            words = f"the body did not come within {self._limits.read_s:g} s"
            answer = refusal(request_id, 408, "invalid_request", words)
            answer.headers["Connection"] = "close"
            await answer(scope, receive, send)
            return
        given = False

        async def whole() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        await self._app(scope, whole, send)


class Stopping:
    """Refuses new requests once the server was told to stop; those that are being served are finished.

    Args:
        app: What answers.
        stopping: Is set when it was.
    """

    def __init__(self, app: ASGIApp, *, stopping: threading.Event) -> None:
        self._app = app
        self._stopping = stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        is_asked = scope["type"] == "http" and not scope["path"].startswith("/healthz")
        if is_asked and self._stopping.is_set():
            request_id = scope.get("state", {}).get("request_id", "")
            answer = refusal(request_id, 503, "server", "this server is about to stop; ask again", retry_after_s=1)
            answer.headers["Connection"] = "close"
            await answer(scope, receive, send)
            return
        await self._app(scope, receive, send)
