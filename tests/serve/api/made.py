"""What the tests of the API share: an application over a keyword detector, and who asks."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from prometheus_client import CollectorRegistry

from lec_guard import Batcher, Guard
from lec_guard.detect.detector import Detector
from lec_guard.observe.prometheus import PrometheusSink
from lec_guard.serve.api.app import create_api
from lec_guard.serve.api.keys import ApiKeys
from lec_guard.serve.api.limits import Limits
from lec_guard.serve.key_files import hash_of

ALL, ACME, TWO, EXACT, OLD = "lgk_all", "lgk_acme", "lgk_two", "lgk_exact", "lgk_old"

KEYS = f"""
keys:
  - {{name: all, key_sha256: {hash_of(ALL)}, tenants: all}}
  - {{name: acme, key_sha256: [{hash_of(ACME)}, {hash_of("lgk_acme_next")}], tenants: [acme]}}
  - {{name: two, key_sha256: {hash_of(TWO)}, tenants: [acme, globex]}}
  - {{name: exact, key_sha256: {hash_of(EXACT)}, tenants: all, scores: true, metrics: true}}
  - {{name: old, key_sha256: {hash_of(OLD)}, tenants: all, until: 2020-01-01T00:00:00Z}}
"""


class Site:
    """An API over a detector."""

    def __init__(
        self, folder: Path, policies: Path | None, detector: Detector, *, limits: Limits | None = None, **more: Any
    ) -> None:
        self.keys_file = folder / "api-keys.yaml"
        self.keys_file.write_text(KEYS, encoding="utf-8")
        self.batcher = Batcher(detector)
        self.stopping = threading.Event()
        registry = CollectorRegistry()
        self.guard = Guard.from_policies(policies, detector=self.batcher, sinks=[PrometheusSink(registry)])
        self.app = create_api(
            guard=self.guard,
            detector=self.batcher,
            keys=ApiKeys.read(self.keys_file),
            limits=limits,
            registry=registry,
            stopping=self.stopping,
            **more,
        )

    def client(self, key: str | None = ALL, **headers: str) -> httpx.AsyncClient:
        """Somebody who asks."""
        own = {} if key is None else {"Authorization": f"Bearer {key}"}
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app, raise_app_exceptions=False),
            base_url="http://api",
            headers={**own, **headers},
        )

    async def ask(self, path: str, body: Any = None, *, key: str | None = ALL, **headers: str) -> httpx.Response:
        """Ask once."""
        async with self.client(key, **headers) as client:
            return await (client.get(path) if body is None else client.post(path, json=body))

    def close(self) -> None:
        """End its threads."""
        self.guard.close()
        self.batcher.close()


@contextmanager
def site(*arguments: Any, **more: Any) -> Any:
    """A site that is closed."""
    made = Site(*arguments, **more)
    try:
        yield made
    finally:
        made.close()
