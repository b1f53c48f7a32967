"""Connections of webhooks: to addresses that were looked at, and never longer than there is time.

httpx hands a request to a transport. These transports are httpcore's pools, as httpx's own are, over network backends
of ours: a backend is where a name becomes an address, so what is looked at is what is connected to, while the `Host`
header and the name in the TLS certificate stay the URL's. Each asking has a transport of its own: no connection
outlives it, so that none is shared between event loops, and nothing that a server sends unasked is taken for a reply.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Any

import httpcore
import httpx

from lec_guard.act.threads import Threads
from lec_guard.act.webhook.addresses import Resolver, check_addresses, literal

FAILURES = (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, httpx.TransportError, OSError)
"""What a connection fails with."""

_PIECE = 16_384
"""Bytes that are sent between two looks at the clock."""


class Deadline:
    """The moment at which an asking is over.

    Args:
        limit_s: Seconds from now.
    """

    def __init__(self, limit_s: float) -> None:
        self._until = time.monotonic() + limit_s

    @property
    def left(self) -> float:
        """Seconds that are left; 0 where none are."""
        return max(self._until - time.monotonic(), 0.0)

    def left_to_wait(self) -> float:
        """The same, to wait for a socket.

        Raises:
            httpcore.ReadTimeout: If none are left.
        """
        left = self.left
        if left <= 0:
            raise httpcore.ReadTimeout("the time is over")
        return left


class Names:
    """Looks names up, on threads of its own: no look-up can be cut short. Safe to share between threads.

    Args:
        resolve: What looks them up.
    """

    def __init__(self, resolve: Resolver) -> None:
        self._resolve = resolve
        self._threads: Threads[Sequence[str]] = Threads("lec-guard-webhook-names", 32)

    def addresses(self, host: str, port: int, deadline: Deadline) -> tuple[str, ...]:
        """Addresses of a host that may be connected to, the best first.

        Raises:
            WebhookError: If one of them may not.
            TimeoutError: If they could not be found in time.
            OSError: If there are none.
        """
        address = literal(host)
        if address is not None:
            return check_addresses(host, [address])
        return _some(host, self._threads.run(lambda: self._resolve(host, port), deadline.left))

    async def aaddresses(self, host: str, port: int) -> tuple[str, ...]:
        """`addresses`, without blocking the event loop, and without a limit."""
        address = literal(host)
        if address is not None:
            return check_addresses(host, [address])
        return _some(host, await self._threads.arun(lambda: self._resolve(host, port)))


def _some(host: str, found: Sequence[str]) -> tuple[str, ...]:
    if not found:
        raise OSError(f"{host} leads nowhere")
    return check_addresses(host, found)


class Transport(httpx.BaseTransport):
    """Sends the requests of one asking.

    Args:
        names: What looks names up.
        deadline: When it is over; all waiting ends then.
        tls: How certificates are verified.
    """

    def __init__(self, names: Names, deadline: Deadline, tls: ssl.SSLContext) -> None:
        backend = _Backend(names, deadline)
        self._pool = httpcore.ConnectionPool(ssl_context=tls, max_keepalive_connections=0, network_backend=backend)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; the body of the response is yet to be read."""
        answer = self._pool.handle_request(_as_core(request))
        return httpx.Response(answer.status, headers=answer.headers, stream=_Body(answer))

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()


class AsyncTransport(httpx.AsyncBaseTransport):
    """`Transport` without blocking the event loop; who uses it ends the waiting, by `asyncio.timeout`.

    Args:
        names: What looks names up.
        deadline: When the asking is over.
        tls: How certificates are verified.
    """

    def __init__(self, names: Names, deadline: Deadline, tls: ssl.SSLContext) -> None:
        backend = _AsyncBackend(names, deadline)
        self._pool = httpcore.AsyncConnectionPool(ssl_context=tls, max_keepalive_connections=0, network_backend=backend)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; the body of the response is yet to be read."""
        answer = await self._pool.handle_async_request(_as_core(request))
        return httpx.Response(answer.status, headers=answer.headers, stream=_AsyncBody(answer))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._pool.aclose()


def _as_core(request: httpx.Request) -> httpcore.Request:
    url = request.url
    return httpcore.Request(
        method=request.method,
        url=httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
        headers=request.headers.raw,
        content=request.stream,
    )


class _Body(httpx.SyncByteStream):
    def __init__(self, answer: httpcore.Response) -> None:
        self._answer = answer

    def __iter__(self) -> Iterator[bytes]:
        yield from self._answer.iter_stream()

    def close(self) -> None:
        self._answer.close()


class _AsyncBody(httpx.AsyncByteStream):
    def __init__(self, answer: httpcore.Response) -> None:
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._answer.aiter_stream():
            yield part

    async def aclose(self) -> None:
        await self._answer.aclose()


class _Backend(httpcore.NetworkBackend):
    def __init__(self, names: Names, deadline: Deadline) -> None:
        self._names = names
        self._deadline = deadline
        self._inner = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002 - the deadline's instead
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        addresses = self._names.addresses(host, port, self._deadline)
        for at, address in enumerate(addresses, start=1):
            # An address where nobody answers leaves time for the others.
            limit_s = self._deadline.left_to_wait() / (len(addresses) - at + 1)
            try:
                stream = self._inner.connect_tcp(address, port, limit_s, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if at == len(addresses):
                    raise
            else:
                return _Stream(stream, self._deadline)
        raise httpcore.ConnectError("no address")


class _Stream(httpcore.NetworkStream):
    """A stream of which each wait ends with the asking, however little comes at a time."""

    def __init__(self, inner: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._inner = inner
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        return self._inner.read(max_bytes, self._deadline.left_to_wait())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        # In pieces: each wait within `write` may take as long as there was time when it began.
        for at in range(0, len(buffer), _PIECE):
            self._inner.write(buffer[at : at + _PIECE], self._deadline.left_to_wait())

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002
    ) -> httpcore.NetworkStream:
        stream = self._inner.start_tls(ssl_context, server_hostname, self._deadline.left_to_wait())
        return _Stream(stream, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _AsyncBackend(httpcore.AsyncNetworkBackend):
    def __init__(self, names: Names, deadline: Deadline) -> None:
        self._names = names
        self._deadline = deadline
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002, ASYNC109 - the deadline's instead
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        addresses = await self._names.aaddresses(host, port)
        for at, address in enumerate(addresses, start=1):
            limit_s = self._deadline.left_to_wait() / (len(addresses) - at + 1)
            try:
                return await self._inner.connect_tcp(address, port, limit_s, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if at == len(addresses):
                    raise
        raise httpcore.ConnectError("no address")
