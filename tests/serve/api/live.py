"""A server on loopback, in a thread of the test's own process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from lec_guard.serve.server import AnnouncingServer, configured


@contextmanager
def live(app: Any, port: int = 0) -> Iterator[str]:
    """Serve an application; its URL."""
    announced = threading.Event()
    urls: list[str] = []

    def announce(url: str) -> None:
        urls.append(url)
        announced.set()

    config = configured(app, host="127.0.0.1", port=port)
    config.limit_concurrency = None
    server: uvicorn.Server = AnnouncingServer(config, announce)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert announced.wait(20)
        yield urls[0]
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()
