"""Whether a form was sent from a page of ours."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from urllib.parse import urlsplit


def same(given: str, expected: str) -> bool:
    """Compare secrets in the same time wherever they differ.

    Args:
        given: What was sent.
        expected: What it has to be.

    Returns:
        Whether they are the same.
    """
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), expected.encode("utf-8", "surrogatepass"))


def login_token(cookie: str, key: bytes) -> str:
    """The token of the form to sign in, when there is no session yet that could hold one.

    Args:
        cookie: A random value that the browser holds.
        key: A secret of this process.

    Returns:
        The token that belongs to the cookie.
    """
    return hmac.new(
        key, b"lec-guard login form\0" + cookie.encode("utf-8", "surrogatepass"), hashlib.sha256
    ).hexdigest()


def from_here(headers: Mapping[str, str], *, secure: bool) -> bool:
    """Whether a browser says that a request comes from one of our own pages.

    Pages that send no referrer send `Origin: null` with their forms, so `Sec-Fetch-Site`, which no page can forge,
    decides where it is there.

    Args:
        headers: The request's headers, in lower case.
        secure: Whether our pages have https addresses.

    Returns:
        Whether it does.
    """
    origin = headers.get("origin")
    ours = f"{'https' if secure else 'http'}://{headers.get('host', '')}".lower()
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin" and (origin is None or origin == "null" or _is(origin, ours))
    return origin is not None and _is(origin, ours)


def _is(origin: str, ours: str) -> bool:
    try:
        one, other = urlsplit(origin.lower()), urlsplit(ours)
        ports = {"http": 80, "https": 443}
        return (one.scheme, one.hostname, one.port or ports.get(one.scheme)) == (
            other.scheme,
            other.hostname,
            other.port or ports.get(other.scheme),
        )
    except ValueError:
        return False
