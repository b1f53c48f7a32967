"""What the API stands on, and who asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol, cast

from fastapi import Depends, Request
from fastapi.security import APIKeyHeader, HTTPBearer
from fastapi.security.http import HTTPAuthorizationCredentials

from lec_guard.detect.detector import Detector
from lec_guard.detect.heads import HeadSpec
from lec_guard.detect.submitting import Submitting
from lec_guard.detect.wire import DetectorOut
from lec_guard.errors import PolicyError
from lec_guard.guard import Guard
from lec_guard.serve.api.keys import ApiKey, ApiKeys
from lec_guard.serve.api.limits import Limits, Rates, Room
from lec_guard.serve.api.refusing import Refused
from lec_guard.serve.throttle import Throttle
from lec_guard.step import Step

TENANT_HEADER = "X-Lec-Guard-Tenant"
"""Names the tenant, where a key is for several and the body does not."""


class Served(Detector, Submitting, Protocol):
    """A detector whose calls are shared, and that says what it is: a `Batcher`, or one that stands for others."""

    @property
    def heads(self) -> tuple[HeadSpec, ...]:
        """What its fitted heads are."""
        ...

    @property
    def detector_id(self) -> str | None:
        """Name and content hash."""
        ...

    @property
    def window_tokens(self) -> int | None:
        """Tokens that it reads at once, at most."""
        ...


def described(detector: Served, *, most_steps: int) -> DetectorOut:
    """What policies elsewhere have to know of a detector.

    Args:
        detector: The detector.
        most_steps: Steps that it takes in one call.

    Returns:
        That.
    """
    return DetectorOut(
        detector_id=detector.detector_id or "",
        labels={head: list(own) for head, own in detector.labels.items()},
        heads=list(detector.heads),
        window_tokens=detector.window_tokens,
        most_steps=most_steps,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiServices:
    """What the API stands on.

    Attributes:
        guard: What judges.
        detector: What the guard asks.
        keys: Who may ask.
        limits: How much.
        room: What is in flight.
        rates: What tenants asked of late.
        throttle: How often somebody may try keys.
    """

    guard: Guard
    detector: Served
    keys: ApiKeys
    limits: Limits
    room: Room
    rates: Rates
    throttle: Throttle


def api(request: Request) -> ApiServices:
    """What the API stands on.

    Args:
        request: Any request.

    Returns:
        It.
    """
    return cast("ApiServices", request.app.state.api)


Api = Annotated[ApiServices, Depends(api)]

_bearer = HTTPBearer(auto_error=False, description="A key of the server's file of keys.")
_header = APIKeyHeader(name="x-api-key", auto_error=False, description="The same, as LiteLLM sends it.")


def asking(
    request: Request,
    ours: Api,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)] = None,
    header: Annotated[str | None, Depends(_header)] = None,
) -> ApiKey:
    """Who asks.

    Args:
        request: The request.
        ours: What the API stands on.
        bearer: `Authorization: Bearer KEY`.
        header: `x-api-key: KEY`.

    Returns:
        Whose the key is.

    Raises:
        Refused: If there is no key, or nobody's, or an address has tried too many.
    """
    given = bearer.credentials if bearer is not None else header
    if not given:
        raise Refused(401, "authentication", "send a key: Authorization: Bearer KEY, or x-api-key: KEY")
    found = ours.keys.of(given)
    if found is None:
        address = request.client.host if request.client else ""
        wait = ours.throttle.wait_s(address)
        if wait:
            raise Refused(429, "too_much", "too many wrong keys from this address", retry_after_s=wait)
        ours.throttle.failed(address)
        raise Refused(401, "authentication", "nobody has this key, or it has ended")
    request.state.key = found.name
    return found


Asking = Annotated[ApiKey, Depends(asking)]


def tenant_of(request: Request, key: ApiKey, named: str | None) -> str | None:
    """Whose policy applies.

    Args:
        request: The request, whose header may name the tenant.
        key: Who asks.
        named: The tenant that the body names.

    Returns:
        The tenant; None for no tenant.

    Raises:
        Refused: If the key is not for that tenant, or is for several and none is named; or header and body differ.
    """
    header = request.headers.get(TENANT_HEADER)
    if named is not None and header is not None and named != header:
        raise Refused(400, "invalid_request", f"the body and the header {TENANT_HEADER} name different tenants")
    asked = named if named is not None else header
    if key.tenants is not None:
        if asked is None and len(key.tenants) > 1:
            words = f"this key is for several tenants: name one, as tenant or in the header {TENANT_HEADER}"
            raise Refused(400, "invalid_request", words)
        if asked is not None and asked not in key.tenants:
            raise Refused(403, "permission", "this key is not for that tenant")
        asked = key.tenants[0] if asked is None else asked
    request.state.tenant = asked
    return asked


async def admitted(ours: ApiServices, key: ApiKey, tenant: str | None, steps: Sequence[Step]) -> None:
    """Refuse what is more than is taken of a request or a tenant, and tenants that there are not.

    Args:
        ours: What the API stands on.
        key: Who asks.
        tenant: For whom.
        steps: What is to be judged.

    Raises:
        Refused: If there are too many steps, or no such tenant.
        TooMuch: If the tenant has asked too much of late.
    """
    check_count(ours, steps)
    try:
        await ours.guard.apolicy(tenant)
    except PolicyError:
        raise Refused(400, "invalid_request", "there is no policy for this tenant, or it is wrong") from None
    ours.rates.take(tenant, len(steps), key.rate_per_s)


def check_count(ours: ApiServices, steps: Sequence[Step]) -> None:
    """Refuse more texts than a request may have.

    Args:
        ours: What the API stands on.
        steps: What is asked for.

    Raises:
        Refused: If there are too many.
    """
    if len(steps) > ours.limits.steps:
        words = f"{len(steps):,} texts in a request; send {ours.limits.steps:,} at most"
        raise Refused(413, "too_much", words)


def size_of(steps: Sequence[Step]) -> int:
    """Characters of steps, those of their contexts too."""
    return sum(len(step.text) + len(step.context or "") for step in steps)
