"""How the application is run: on which address, and with what in its log."""

from __future__ import annotations

import ipaddress
import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
from uvicorn.supervisors import Multiprocess

if TYPE_CHECKING:
    from socket import socket

    from starlette.types import ASGIApp


class NoQueries(logging.Filter):
    """Cuts what stands after the question mark of addresses out of the access log."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change a record.

        Args:
            record: One of uvicorn's access log: address, method, path, version, status.

        Returns:
            True: it is written in any case.
        """
        if isinstance(record.args, tuple) and len(record.args) == 5:
            client, method, path, version, status = record.args
            record.args = (client, method, str(path).partition("?")[0], version, status)
        return True


class AnnouncingServer(uvicorn.Server):
    """Says where it is reached as soon as it is.

    Args:
        config: How it is run.
        announce: What is told its URL.
    """

    def __init__(self, config: uvicorn.Config, announce: Callable[[str], None]) -> None:
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets)
        if self.started:
            port = self.servers[0].sockets[0].getsockname()[1]
            host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
            self._announce(f"{'https' if self.config.is_ssl else 'http'}://{host}:{port}")


def run_workers(config: uvicorn.Config, announce: Callable[[str], None]) -> None:
    """Run several processes on one address, and start another for each that dies.

    Args:
        config: How they are run.
        announce: What is told the URL once the address is taken.
    """
    socket = config.bind_socket()
    host, port = socket.getsockname()[:2]
    shown = f"[{host}]" if ":" in str(host) else host
    announce(f"{'https' if config.is_ssl else 'http'}://{shown}:{port}")
    Multiprocess(config, sockets=[socket]).run()


def log_as_json() -> None:
    """Write the server's own lines to the standard error, one object each; none has a text of a request."""
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonLines())
    for name in ("lec_guard", "uvicorn"):
        own = logging.getLogger(name)
        own.handlers[:] = [handler]
        own.propagate = False
        own.setLevel(logging.INFO)


class _JsonLines(logging.Formatter):
    """A line that is an object already stays as it is."""

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        if record.name == "lec_guard.serve.access":
            return text
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        return json.dumps({"time": time, "level": record.levelname, "logger": record.name, "message": text})


def is_local(host: str) -> bool:
    """Whether an address can be reached from its own machine alone.

    Args:
        host: An address, or a name.

    Returns:
        Whether it can; False for names other than `localhost`.
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def configured(
    app: ASGIApp | str,
    *,
    host: str,
    port: int,
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
    behind_proxy: bool = False,
    workers: int = 1,
) -> uvicorn.Config:
    """How uvicorn runs the application.

    Args:
        app: The application of pages; or where a factory of one with the API is, as `module:name`.
        host: The address to listen on.
        port: The port; 0 for a free one.
        tls_cert: The certificate's file.
        tls_key: Its key's file.
        behind_proxy: Whether a proxy says whom a request comes from. It is believed where it runs on this machine, or
            where the environment variable FORWARDED_ALLOW_IPS names it.
        workers: Processes that serve.

    Returns:
        The configuration.
    """
    has_api = isinstance(app, str)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        ssl_certfile=tls_cert,
        ssl_keyfile=tls_key,
        proxy_headers=behind_proxy,
        server_header=False,
        ws="none",
        lifespan="off",
        # The API bounds what is in flight itself, and a thousand clients may stay connected.
        limit_concurrency=None if has_api else 200,
        timeout_graceful_shutdown=30 if has_api else 5,
        log_level="info",
        factory=has_api,
        workers=workers,
        # It has a log of its own, in JSON.
        access_log=not has_api,
    )
    access = logging.getLogger("uvicorn.access")
    if not any(isinstance(one, NoQueries) for one in access.filters):
        access.addFilter(NoQueries())
    return config
