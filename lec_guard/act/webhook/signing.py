"""Signatures of requests and replies: HMAC-SHA256 (RFC 2104) with a secret that both sides have.

A reply is signed together with the id of its request, so that it is of no use for any other.
"""

from __future__ import annotations

import hashlib
import hmac
import re

from lec_guard.act.webhook.errors import WebhookError

SIGNATURE_HEADER = "X-Lec-Guard-Signature"
"""The header with the signature, of requests and replies."""

TIMESTAMP_HEADER = "X-Lec-Guard-Timestamp"
"""The header with the time of signing in Unix seconds, of requests and replies."""

_SECONDS = re.compile(r"[0-9]{1,12}")


def sign_request(secret: bytes, timestamp: int, body: bytes) -> str:
    """The signature of a request.

    A receiver computes it over what came, and compares it with the header `X-Lec-Guard-Signature` by
    `hmac.compare_digest`. It also refuses a timestamp that is minutes off, and an id that it has seen with another
    body.

    Args:
        secret: What both sides know.
        timestamp: The header `X-Lec-Guard-Timestamp`, Unix seconds.
        body: The body, byte for byte.

    Returns:
        The value of the header: `v1=` and 64 hexadecimal digits.
    """
    return _sign(secret, f"v1:{timestamp}:".encode() + body)


def sign_reply(secret: bytes, timestamp: int, request_id: str, body: bytes) -> str:
    """The signature of a reply, for its header `X-Lec-Guard-Signature`.

    Args:
        secret: What both sides know.
        timestamp: Unix seconds now, which also go into the header `X-Lec-Guard-Timestamp`.
        request_id: The `id` of the request that is answered.
        body: The body of the reply, byte for byte.

    Returns:
        The value of the header: `v1=` and 64 hexadecimal digits.
    """
    return _sign(secret, f"v1r:{timestamp}:{request_id}:".encode() + body)


def check_reply(
    secret: bytes,
    *,
    timestamp: str | None,
    signature: str | None,
    request_id: str,
    body: bytes,
    now: float,
    tolerance_s: float,
) -> None:
    """Refuse a reply that is not signed for this request, and now.

    Args:
        secret: What both sides know.
        timestamp: The reply's header; None where it has none.
        signature: Likewise.
        request_id: The id of the request.
        body: The body of the reply.
        now: Unix seconds.
        tolerance_s: By how many seconds the clocks may differ, either way.

    Raises:
        WebhookError: If it is not.
    """
    if timestamp is None or signature is None or not _SECONDS.fullmatch(timestamp):
        raise WebhookError("the reply is not signed")
    expected = sign_reply(secret, int(timestamp), request_id, body)
    # As bytes: text outside ASCII can't be compared in constant time.
    if not hmac.compare_digest(expected.encode(), signature.encode(errors="replace")):
        raise WebhookError("the reply has a wrong signature")
    if abs(now - int(timestamp)) > tolerance_s:
        raise WebhookError("the reply was signed too long ago, or in the future")


def _sign(secret: bytes, message: bytes) -> str:
    return f"v1={hmac.new(secret, message, hashlib.sha256).hexdigest()}"
