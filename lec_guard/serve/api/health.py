"""Whether the server lives, whether it takes requests, and its numbers."""

from __future__ import annotations

import os
from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from lec_guard.serve.api.check import PROBLEMS
from lec_guard.serve.api.refusing import Refused
from lec_guard.serve.api.services import Asking

routes = APIRouter()


class HealthOut(BaseModel):
    """How the server is."""

    status: Literal["live", "ready", "stopping"]


@routes.get("/healthz", tags=["health"], summary="Does it take requests?", responses={503: {"model": HealthOut}})
@routes.get("/healthz/ready", tags=["health"], summary="Does it take requests?", responses={503: {"model": HealthOut}})
async def ready(request: Request, response: Response) -> HealthOut:
    """Ready once the detector has answered, until the server is told to stop. Needs no key."""
    if request.app.state.stopping.is_set():
        response.status_code = 503
        return HealthOut(status="stopping")
    return HealthOut(status="ready")


@routes.get("/healthz/live", tags=["health"], summary="Does it live?")
async def live() -> HealthOut:
    """Live as long as it answers. Needs no key."""
    return HealthOut(status="live")


@routes.get("/metrics", tags=["health"], summary="Numbers for Prometheus", responses=PROBLEMS, response_class=Response)
async def metrics(request: Request, key: Asking) -> Response:
    """Numbers of all workers together, for keys that may read them: they name tenants and rules."""
    from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
    from prometheus_client.multiprocess import MultiProcessCollector

    if not key.metrics:
        raise Refused(403, "permission", "this key may not read metrics; its entry needs metrics: true")
    registry = request.app.state.registry
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
