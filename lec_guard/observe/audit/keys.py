"""The key of an audit log, and what is made of it: one key for each use, so that no two uses can be mixed up."""

from __future__ import annotations

import hashlib
import hmac
import os

from lec_guard.errors import SinkError

_SHORTEST = 16

ZERO = "0" * 64
"""What stands where nothing was written before."""


class Key:
    """A secret that signs an audit log. It stands in no file, and is never shown.

    Args:
        secret: The secret.

    Attributes:
        id: By which a file says with what it is signed; the secret can't be told from it.
        text: The key for hashes of what is not to be shown.

    Raises:
        SinkError: If the secret is too short.
    """

    def __init__(self, secret: bytes) -> None:
        if len(secret) < _SHORTEST:
            raise SinkError(
                f"the key of an audit log needs at least {_SHORTEST} bytes, not {len(secret)}; "
                "make one: openssl rand -hex 32"
            )
        self.id = _derived(secret, "id").hex()[:16]
        self.text = _derived(secret, "text")
        self._chain = _derived(secret, "chain")
        self._head = _derived(secret, "head")

    @classmethod
    def of(cls, given: bytes | str) -> Key:
        """A key from its bytes, or from the variable of the environment that holds it.

        Args:
            given: The secret as bytes; or the variable's name. Its value counts as it is written, in UTF-8, without
                white space around it: 64 hexadecimal digits are 64 bytes.

        Returns:
            The key.

        Raises:
            SinkError: If the variable is not set, or the secret is too short.
        """
        if isinstance(given, bytes):
            return cls(given)
        value = os.environ.get(given, "").strip()
        if not value:
            raise SinkError(f"the environment variable {given} holds no key; make one: openssl rand -hex 32")
        return cls(value.encode("utf-8", "surrogateescape"))

    def __repr__(self) -> str:
        return f"Key(id={self.id!r})"

    def line(self, before: str, body: bytes) -> str:
        """Sign a record with all that stands before it.

        Args:
            before: The signature of the record before.
            body: The record as it is written.

        Returns:
            64 hexadecimal digits.
        """
        return hmac.new(self._chain, before.encode("ascii") + body, hashlib.sha256).hexdigest()

    def head(self, body: bytes) -> str:
        """Sign a head; with a key of its own, so that no record of a log can be made into a head.

        Args:
            body: The head as it is written.

        Returns:
            64 hexadecimal digits.
        """
        return hmac.new(self._head, body, hashlib.sha256).hexdigest()


def _derived(secret: bytes, use: str) -> bytes:
    return hmac.new(secret, b"lec-guard audit 1: " + use.encode("ascii"), hashlib.sha256).digest()
