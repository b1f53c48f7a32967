"""A real server on this machine that answers as it is told, one behaviour a request, the last one for all that follow.

It knows no more of the guard than the two functions that sign.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from lec_guard.act.webhook import sign_reply, sign_request

SECRET = b"a secret of thirty-two bytes....."


@dataclass
class Asked:
    """A request as it came."""

    headers: dict[str, str]
    body: bytes
    said: dict[str, Any]

    @property
    def is_signed(self) -> bool:
        timestamp = self.headers["x-lec-guard-timestamp"]
        expected = sign_request(SECRET, int(timestamp), self.body)
        return hmac.compare_digest(expected, self.headers["x-lec-guard-signature"])


Behaviour = Callable[[BaseHTTPRequestHandler, Asked], None]


@dataclass
class Service:
    """What was asked, and what is answered."""

    behaviours: list[Behaviour] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    port: int = 0
    ended: threading.Event = field(default_factory=threading.Event)
    sent: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?x=1"

    def does(self, *behaviours: Behaviour) -> None:
        self.behaviours = list(behaviours)


@contextlib.contextmanager
def running(tls: ssl.SSLContext | None = None) -> Iterator[Service]:
    service = Service()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            asked = Asked({name.lower(): value for name, value in self.headers.items()}, body, json.loads(body))
            service.asked.append(asked)
            self.close_connection = True
            behaviour = service.behaviours[min(len(service.asked), len(service.behaviours)) - 1]
            # Whoever asks may be gone.
            with contextlib.suppress(OSError):
                behaviour(self, asked)

        def log_message(self, *_: object) -> None:
            return

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, *_: object) -> None:
            return

    server = Server(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    service.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield service
    finally:
        service.ended.set()
        server.shutdown()
        thread.join()
        server.server_close()


def send(handler: BaseHTTPRequestHandler, status: int, body: bytes = b"", **headers: str) -> None:
    handler.sent = (status, body, headers)
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def reply(
    *,
    secret: bytes = SECRET,
    late_s: int = 0,
    off_s: int = 0,
    signed_for: str | None = None,
    raw: Callable[[bytes], bytes] = lambda body: body,
    tampered: Callable[[bytes], bytes] = lambda body: body,
    headers: dict[str, str] | None = None,
    **said: object,
) -> Behaviour:
    """An honest reply, but for what is given.

    `raw` changes the body before it is signed, `tampered` after; `off_s` is by how much the header is off what is
    signed.
    """

    def behave(handler: BaseHTTPRequestHandler, asked: Asked) -> None:
        content = {"id": asked.said["id"], "key": asked.said["key"], "decision": "allow", **said}
        body = raw(json.dumps(content).encode())
        timestamp = int(time.time()) - late_s
        signature = sign_reply(secret, timestamp, signed_for or asked.said["id"], body)
        made = {"X_Lec_Guard_Timestamp": str(timestamp + off_s), "X_Lec_Guard_Signature": signature, **(headers or {})}
        send(handler, 200, tampered(body), **{name: value for name, value in made.items() if value})

    return behave


def status(code: int, **headers: str) -> Behaviour:
    return lambda handler, _: send(handler, code, b"{}", **headers)


def hangs(service: Service) -> Behaviour:
    return lambda *_: service.ended.wait() and None


def drips(service: Service, head: bytes) -> Behaviour:
    """Sends something, and then a byte every 20 ms, for ever."""

    def behave(handler: BaseHTTPRequestHandler, _: Asked) -> None:
        handler.wfile.write(head)
        while not service.ended.wait(0.02):
            handler.wfile.write(b"a")

    return behave


def floods(service: Service, size: int, *, with_length: bool = True) -> Behaviour:
    """Sends a lot, and counts how much of it went out."""

    def behave(handler: BaseHTTPRequestHandler, _: Asked) -> None:
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
        length = b"Content-Length: %d\r\n" % size if with_length else b""
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + length + b"\r\n")
        for _part in range(size // 8192):
            handler.wfile.write(b"a" * 8192)
            service.sent += 8192

    return behave


def breaks(handler: BaseHTTPRequestHandler, _: Asked) -> None:
    """Ends in the middle of a body."""
    handler.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"id":')
