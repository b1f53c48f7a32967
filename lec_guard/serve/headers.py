"""What holds for every request and every answer, whatever the page."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
"""Nothing but our own style sheet, script and icon is loaded, and no script or style in a page runs."""

MOST_BODY_BYTES = 8 * 1024 * 1024
"""The longest form that is read."""

_log = logging.getLogger(__name__)


class SafeHeaders:
    """Puts the headers on every answer that keep browsers from doing more than our pages say.

    Args:
        app: What answers.
        secure: Whether browsers reach the pages by https.
    """

    def __init__(self, app: ASGIApp, *, secure: bool) -> None:
        self._app = app
        self._headers = {
            "Content-Security-Policy": CONTENT_POLICY,
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cache-Control": "no-store",
        }
        if secure:
            self._headers["Strict-Transport-Security"] = "max-age=31536000"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self._headers)
            await send(message)

        await self._app(scope, receive, sent if scope["type"] == "http" else send)


class NoTraces:
    """Ends a request that failed in a way nobody foresaw, and tells neither the browser nor the log what it held.

    Messages of exceptions may quote texts; the log gets the type, and where it happened.

    Args:
        app: What answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        begun = False

        async def sent(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, sent)
        except Exception as error:  # noqa: BLE001 - the last one who could see it
            places = [f"{at.filename}:{at.lineno} {at.name}" for at in traceback.extract_tb(error.__traceback__)]
            _log.error("a page failed: %s at %s", type(error).__name__, " < ".join(reversed(places[-8:])))
            if not begun and scope["type"] == "http":
                words = "Something went wrong here; it was not your input's fault. The server's log says where.\n"
                await PlainTextResponse(words, status_code=500)(scope, receive, send)


class KnownHosts:
    """Answers only to names that the operator gave, so that no foreign name can be pointed at this server.

    Otherwise a page from elsewhere whose name resolves to 127.0.0.1 would count as one of our own.

    Args:
        app: What answers.
        hosts: The names, without ports; IPv6 addresses in brackets.
    """

    def __init__(self, app: ASGIApp, *, hosts: Collection[str]) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        if scope["type"] == "http":
            given = Headers(scope=scope).getlist("host")
            if len(given) != 1 or _without_port(given[0]) not in self._hosts:
                words = "This server does not go by that name; see --allow-host.\n"
                await PlainTextResponse(words, status_code=400)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class ShortBodies:
    """Reads no more of a request than a form may hold; whoever reads on gets an HTTPException 413.

    Args:
        app: What answers.
        most: How many bytes are read.
    """

    def __init__(self, app: ASGIApp, *, most: int = MOST_BODY_BYTES) -> None:
        self._app = app
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        read = 0

        async def received() -> Message:
            nonlocal read
            message = await receive()
            if message["type"] == "http.request":
                read += len(message.get("body", b""))
                if read > self._most:
                    raise HTTPException(413, f"A form may hold {self._most // 2**20} MB.")
            return message

        await self._app(scope, received, send)


def _without_port(host: str) -> str:
    name, colon, port = host.lower().rpartition(":")
    return name if colon and (port.isdigit() or not port) else host.lower()
