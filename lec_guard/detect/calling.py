"""Calling a lec-guard server: patience, second tries, and an end to both.

All calls of a client run on one event loop, on a thread of its own; who calls waits for a future, on a thread or in a
coroutine. So there is one way of calling, one pool of connections, and nothing that the two forms could differ in.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import random
import threading
import weakref
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx

from lec_guard.breaker import Breaker, CircuitOpen
from lec_guard.errors import DetectorError, OverloadError

KEY_VARIABLE = "LEC_GUARD_API_KEY"
"""The environment variable with the key for servers, where none is given."""

_AGAIN = frozenset([429, 502, 503, 504])
"""Statuses after which the same may be asked again: nothing was done."""

_LAST_S = 5.0
"""Seconds that closing waits for the connections to be closed."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How a server is called.

    Attributes:
        timeout_s: Seconds for a try: to connect, and then for each part of the answer.
        tries: How often it is tried at most.
        wait_s: What is waited after the first try that failed, at most; twice that after the next one. Drawn at random
            below it, so that clients of a server that was gone don't come back all at once.
        most_wait_s: What is waited at most, also where the server says when to come back.
        failures: So many calls in a row that fail, and no call is made for a while (a circuit breaker).
        rest_s: That while, in seconds; after it one call tries.
        connections: At once.
    """

    timeout_s: float = 10.0
    tries: int = 3
    wait_s: float = 0.1
    most_wait_s: float = 2.0
    failures: int = 8
    rest_s: float = 5.0
    connections: int = 64

    def __post_init__(self) -> None:
        """Refuse what can't be meant."""
        for name in ("timeout_s", "tries", "wait_s", "most_wait_s", "failures", "rest_s", "connections"):
            if not getattr(self, name) > 0:
                raise DetectorError(f"{name} must be above 0")


class RefusedByServer(DetectorError):
    """A server does not serve a request: a wrong key, an unknown tenant, a body that it can't read."""


class _Answered(BaseException):
    """A server that refuses is there: no failure of its."""

    def __init__(self, error: RefusedByServer) -> None:
        self.error = error


class Caller:
    """Calls one server. Safe to share between threads; of a fork's process make another one.

    Args:
        url: Where it is, such as `https://guard.example.com`; `http` only for this machine, unless `insecure`.
        key: The key; None for the environment's `LEC_GUARD_API_KEY`.
        patience: How it is called.
        insecure: Whether a key may cross a network in the clear.
        transport: What sends; None for the network.

    Raises:
        DetectorError: If the URL is not one, there is no key, or it would be sent in the clear.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        patience: Patience | None = None,
        insecure: bool = False,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = _checked(url, insecure=insecure)
        own = key or os.environ.get(KEY_VARIABLE)
        if not own:
            raise DetectorError(f"{self.url}: give the server's key, or set {KEY_VARIABLE}")
        self.patience = patience or Patience()
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._line = _Line(self.url, {"Authorization": f"Bearer {own}"}, self.patience, transport)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._ends: Callable[[], object] | None = None
        self._closed = False
        self._breaker = Breaker(failures=self.patience.failures, open_s=self.patience.rest_s)

    def submit(self, call: Coroutine[Any, Any, _T]) -> Future[_T]:
        """Run a coroutine that calls.

        Args:
            call: It.

        Returns:
            Its future.

        Raises:
            DetectorError: If this was closed, or is used in a fork.
        """
        try:
            loop = self._running()
        except DetectorError:
            call.close()
            raise
        return asyncio.run_coroutine_threadsafe(call, loop)

    async def ask(self, method: str, path: str, body: str | None = None) -> bytes:
        """Ask the server; on the caller's own loop.

        Args:
            method: HTTP's.
            path: Below the URL.
            body: JSON; None for none.

        Returns:
            The body of its answer, of status 200.

        Raises:
            OverloadError: If it is too slow, or has no room.
            RefusedByServer: If it refuses; the message has its words and no text.
            DetectorError: If it can't be reached, or failed.
        """
        try:
            with self._breaker.call():
                return await self._tried(method, path, body)
        except CircuitOpen as error:
            raise DetectorError(f"{self.url}: {error}") from None
        except _Answered as answered:
            raise answered.error from None

    async def _tried(self, method: str, path: str, body: str | None) -> bytes:
        last: DetectorError | None = None
        for number in range(self.patience.tries):
            try:
                answer = await self._line.send(method, path, body)
            except httpx.TimeoutException:
                last = OverloadError(f"{self.url}: no answer within {self.patience.timeout_s:g} s")
                after = None
            except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
                last = DetectorError(f"{self.url}: can't be reached ({type(error).__name__})")
                after = None
            else:
                if answer.status_code == 200:
                    return answer.content
                last = _refused(self.url, answer)
                if isinstance(last, RefusedByServer):
                    raise _Answered(last)
                if answer.status_code not in _AGAIN:
                    raise last
                after = _after(answer.headers)
            if number + 1 < self.patience.tries:
                await asyncio.sleep(self._wait(number, after))
        assert last is not None  # noqa: S101 - there is one try at least
        raise last

    def close(self) -> None:
        """Close the connections and end the thread; calls that run fail. May be called again.

        A client that is garbage does the same.
        """
        with self._lock:
            self._closed = True
            self._loop = None
        if self._ends is not None and self._pid == os.getpid():
            self._ends()  # once
            if self._thread is not None and self._thread is not threading.current_thread():
                self._thread.join(_LAST_S)

    def _wait(self, number: int, after: float | None) -> float:
        most = min(self.patience.wait_s * 2**number, self.patience.most_wait_s)
        drawn = random.uniform(0, most)  # noqa: S311 - no secret
        return drawn if after is None else min(after, self.patience.most_wait_s) + drawn

    def _running(self) -> asyncio.AbstractEventLoop:
        if os.getpid() != self._pid:
            raise DetectorError(f"{self.url}: a client of process {self._pid} can't be used in its fork; make another")
        with self._lock:
            if self._closed:
                raise DetectorError(f"{self.url}: this client was closed")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=_run, args=(self._loop,), name="lec-guard-client", daemon=True)
                self._thread.start()
                self._ends = weakref.finalize(self, _end, self._loop, self._line)
            return self._loop


class _Line:
    """The connections to a server, on one loop."""

    def __init__(
        self, url: str, headers: Mapping[str, str], patience: Patience, transport: httpx.AsyncBaseTransport | None
    ) -> None:
        self._url, self._headers, self._patience, self._transport = url, headers, patience, transport
        self._client: httpx.AsyncClient | None = None

    async def send(self, method: str, path: str, body: str | None) -> httpx.Response:
        if self._client is None:
            self._client = httpx.AsyncClient(
                base_url=self._url,
                headers=self._headers,
                timeout=self._patience.timeout_s,
                limits=httpx.Limits(max_connections=self._patience.connections),
                follow_redirects=False,
                transport=self._transport,
            )
        headers = {} if body is None else {"Content-Type": "application/json"}
        return await self._client.request(method, path, content=body, headers=headers)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.close()


def _end(loop: asyncio.AbstractEventLoop, line: _Line) -> None:
    """Close what is open, and then the loop's thread ends."""

    async def last() -> None:
        running = asyncio.all_tasks() - {asyncio.current_task()}
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await line.close()
        loop.stop()

    if not loop.is_closed():
        with suppress(RuntimeError):  # it has ended just now
            asyncio.run_coroutine_threadsafe(last(), loop)


def _checked(url: str, *, insecure: bool) -> str:
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        host = None
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not host or parts.username or parts.query or parts.fragment:
        raise DetectorError(f"{url!r} is no address of a server; write https://host, or https://host:port/prefix")
    if parts.scheme == "http" and not insecure and not _is_here(host):
        raise DetectorError(f"{url}: the key and all texts would cross a network in the clear; use https")
    return url.rstrip("/")


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _refused(url: str, answer: httpx.Response) -> DetectorError:
    try:
        said = str(answer.json()["error"]["message"])[:300]
    except (ValueError, KeyError, TypeError):
        said = "it says no more"
    words = f"{url}: refused with status {answer.status_code}: {said}"
    if answer.status_code in (429, 503):
        return OverloadError(words)
    return DetectorError(words) if answer.status_code >= 500 else RefusedByServer(words)


def _after(headers: Mapping[str, str]) -> float | None:
    said = headers.get("retry-after", "")
    return float(said) if said.isdigit() else None
