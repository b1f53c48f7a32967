"""`/v1/check`, `/v1/scores` and `/v1/detector`."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request

from lec_guard.detect.submitting import in_order, submitted
from lec_guard.detect.wire import DetectorOut, ManyScoresOut, ScoresBody, ScoresOut
from lec_guard.serve.api.bodies import (
    CheckBody,
    CheckOut,
    ErrorOut,
    VerdictOut,
)
from lec_guard.serve.api.keys import ApiKey
from lec_guard.serve.api.refusing import Refused
from lec_guard.serve.api.services import Api, Asking, admitted, check_count, described, size_of, tenant_of

PROBLEMS: dict[int | str, dict[str, object]] = {
    400: {"model": ErrorOut, "description": "The request can't be served as it is."},
    401: {"model": ErrorOut, "description": "There is no key, or nobody's."},
    403: {"model": ErrorOut, "description": "The key is not for that."},
    408: {"model": ErrorOut, "description": "The body took too long to come."},
    413: {"model": ErrorOut, "description": "The body is too large, or has too many texts."},
    415: {"model": ErrorOut, "description": "The body is not said to be JSON."},
    422: {"model": ErrorOut, "description": "A field is missing or wrong."},
    429: {
        "model": ErrorOut,
        "description": "No room, or too many steps a second: ask again after the seconds of `Retry-After`.",
    },
    500: {"model": ErrorOut, "description": "Something went wrong; the log knows the request's id."},
    503: {"model": ErrorOut, "description": "The server is about to stop."},
}
"""How every route may fail."""

routes = APIRouter(responses=PROBLEMS)


@routes.post("/v1/check", tags=["checks"], summary="Judge steps by a tenant's policy")
async def check(request: Request, body: CheckBody, ours: Api, key: Asking) -> CheckOut:
    """Judge steps by a tenant's policy; with `act`, do what it says too.

    Where a step could not be judged the policy's `fail` decides, and the verdict's `cause` says so.
    """
    tenant = tenant_of(request, key, body.tenant)
    steps = [one.step() for one in body.steps]
    await admitted(ours, key, tenant, steps)
    with ours.room.taken(len(steps), size_of(steps)):
        if body.act:
            outcomes = await ours.guard.aapply_many(steps, tenant)
            results = [VerdictOut.of(one.verdict, exact=key.scores, outcome=one) for one in outcomes]
        else:
            verdicts = await ours.guard.acheck_many(steps, tenant)
            results = [VerdictOut.of(one, exact=key.scores) for one in verdicts]
    return CheckOut(results=results)


@routes.post("/v1/scores", tags=["scores"], summary="Score steps, for policies that stay with the application")
async def scores(body: ScoresBody, ours: Api, key: Asking) -> ManyScoresOut:
    """Score steps with the server's detector; for keys that may see exact scores."""
    _may_see(key)
    steps = [one.step() for one in body.steps]
    check_count(ours, steps)
    ours.rates.take(f"key {key.name}", len(steps), key.rate_per_s)
    with ours.room.taken(len(steps), size_of(steps)):
        keys = [(key.name, own) for own in body.keys or [""] * len(steps)]
        with submitted(ours.detector, steps, keys) as futures:
            await asyncio.gather(*map(asyncio.wrap_future, futures))
            found = in_order(futures)
    return ManyScoresOut(results=[ScoresOut.of(one) for one in found])


@routes.get("/v1/detector", tags=["scores"], summary="What policies have to know of the detector")
async def detector(ours: Api, key: Asking) -> DetectorOut:
    """Say what heads there are and how high harmless texts score; for keys that may see exact scores."""
    _may_see(key)
    return described(ours.detector, most_steps=ours.limits.steps)


def _may_see(key: ApiKey) -> None:
    if not key.scores:
        raise Refused(403, "permission", "this key may not see exact scores; its entry needs scores: true")
