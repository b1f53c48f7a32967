"""What a webhook is told, and what it may answer."""

from __future__ import annotations

import hmac
import json
import math
from typing import Annotated, Any, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lec_guard.act.base import Case, Reply
from lec_guard.act.webhook.errors import WebhookError

VERSION = 1
"""Of the form of requests."""

LONGEST = 4 * 1024 * 1024
"""Bytes of the longest request that is sent."""


def write_request(case: Case, *, request_id: str, issued: float, timeout_s: float) -> bytes:
    """The body of a request: JSON in ASCII.

    Args:
        case: What is asked about.
        request_id: The id of this asking.
        issued: When it begins, in Unix seconds.
        timeout_s: Seconds until nobody waits for the reply any more.

    Returns:
        The body, the same for each attempt.

    Raises:
        WebhookError: If it is too long; nothing of a text is left out.
    """
    said = {
        "version": VERSION,
        "id": request_id,
        **case.to_dict(),
        "issued": int(issued),
        "expires": math.ceil(issued + timeout_s),
    }
    body = json.dumps(said, allow_nan=False).encode("ascii")
    if len(body) > LONGEST:
        raise WebhookError(f"a request of {len(body)} bytes is too long to be sent; at most {LONGEST}")
    return body


class _Said(BaseModel):
    """A reply. What is not known here is refused, so that nothing that was meant to hold a text back is missed."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: str
    key: str
    decision: Literal["allow", "block", "edit"]
    text: str | None = None
    by: Annotated[str, Field(max_length=200)] | None = None
    reason: Annotated[str, Field(max_length=4000)] | None = None


def read_reply(body: bytes, *, request_id: str, key: str) -> Reply:
    """A reply, read from a body that is known to be signed for this request.

    Args:
        body: JSON in UTF-8.
        request_id: The id that it must name.
        key: The case's key, likewise.

    Returns:
        What was decided.

    Raises:
        WebhookError: If it says nothing that counts.
    """
    try:
        said = _Said.model_validate(
            json.loads(body.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_constant)
        )
    except ValidationError as error:
        # Fields that are not known are the sender's words, and so are values.
        raise WebhookError(f"the reply has a wrong form in {error.error_count()} places") from None
    except (ValueError, RecursionError):
        raise WebhookError("the reply is no JSON") from None
    if not _same(said.id, request_id) or not _same(said.key, key):
        raise WebhookError("the reply is to something else")
    if (said.decision == "edit") != (said.text is not None):
        raise WebhookError("the reply has an edit without a text, or a text without an edit")
    return Reply(answer=said.decision, text=said.text, by=said.by, reason=said.reason)


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(errors="replace"), expected.encode())


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object that says nothing twice: of two decisions, who knows which one is meant."""
    said = dict(pairs)
    if len(said) != len(pairs):
        raise ValueError
    return said


def _no_constant(_: str) -> NoReturn:
    raise ValueError
