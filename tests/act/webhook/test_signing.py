"""Signatures: known values, what they cover, and when they count."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from lec_guard.act.webhook import WebhookError, sign_reply, sign_request
from lec_guard.act.webhook.signing import check_reply

SECRET = b"k" * 32


def test_they_are_what_the_documentation_says():
    def mac(message: bytes) -> str:
        return "v1=" + hmac.new(SECRET, message, hashlib.sha256).hexdigest()

    assert sign_request(SECRET, 17, b"{}") == mac(b"v1:17:{}")
    assert sign_reply(SECRET, 17, "abc", b"{}") == mac(b"v1r:17:abc:{}")


def test_a_request_is_no_reply():
    assert sign_request(SECRET, 17, b"abc:{}") != sign_reply(SECRET, 17, "abc", b"{}")


GIVEN = {"timestamp": "1000", "request_id": "abc", "body": b"{}", "now": 1000.0, "tolerance_s": 300.0}


def check(**changes: object) -> None:
    signature = sign_reply(SECRET, 1000, "abc", b"{}")
    check_reply(SECRET, **{"signature": signature, **GIVEN, **changes})


@pytest.mark.parametrize("now", [700.0, 1000.0, 1300.0])
def test_one_that_is_signed_now_counts(now):
    check(now=now)


@pytest.mark.parametrize(
    "changes",
    [
        {"now": 699.0},
        {"now": 1301.0},
        {"timestamp": "1001"},
        {"timestamp": None},
        {"timestamp": ""},
        {"timestamp": "+1000"},
        {"timestamp": "1_000"},
        {"timestamp": "\u0661000"},
        {"timestamp": "1000\n"},
        {"timestamp": "9" * 5000},
        {"signature": None},
        {"signature": ""},
        {"signature": "v1="},
        {"signature": "\ud800"},
        {"signature": sign_request(SECRET, 1000, b"{}")},
        {"signature": sign_reply(b"l" * 32, 1000, "abc", b"{}")},
        {"signature": sign_reply(SECRET, 1000, "abc", b"{}").upper()},
        {"signature": sign_reply(SECRET, 1000, "abc", b"{}").removeprefix("v1=")},
        {"request_id": "abd"},
        {"body": b"{} "},
    ],
)
def test_any_other_does_not(changes):
    with pytest.raises(WebhookError):
        check(**changes)
