"""How an audit log is written: a record a line, and a head beside the file that says how far it goes."""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lec_guard.observe.audit.keys import Key

FORMAT = 1
LONGEST = 16 * 1024 * 1024
"""Bytes of a line. What is longer was not written by an audit log."""

_HEAD_BYTES = 512
"""One sector of a disk: a head is written whole or not at all."""

_SEALED = re.compile(rb'(\{.+),"mac":"([0-9a-f]{64})"\}', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Line:
    """A record as it stands in a file.

    Attributes:
        body: The bytes that are signed.
        mac: The signature that stands there, right or wrong.
        fields: What the body says.
    """

    body: bytes
    mac: str
    fields: Mapping[str, Any]

    @property
    def seq(self) -> int | None:
        """The record's number, if it has one."""
        found = self.fields.get("seq")
        return found if isinstance(found, int) else None

    def is_signed(self, key: Key, before: str) -> bool:
        """Whether the signature is right.

        Args:
            key: The key.
            before: The signature of the record before.

        Returns:
            Whether the record is as it was written, and where.
        """
        return hmac.compare_digest(key.line(before, self.body), self.mac)


def canonical(fields: Mapping[str, Any]) -> bytes:
    """A record's bytes: JSON in ASCII, keys in order, no white space.

    Args:
        fields: Plain data.

    Returns:
        The bytes.
    """
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def seal(key: Key, before: str, body: bytes) -> tuple[bytes, str]:
    """Make a line of a record.

    Args:
        key: The key.
        before: The signature of the record before.
        body: The record's bytes.

    Returns:
        The line with its end, and its signature.
    """
    mac = key.line(before, body)
    return body[:-1] + b',"mac":"' + mac.encode("ascii") + b'"}\n', mac


def parse(line: bytes) -> Line | None:
    """Read a line.

    Args:
        line: The line without its end.

    Returns:
        What stands there; None if an audit log can't have written it.
    """
    found = _SEALED.fullmatch(line)
    if found is None:
        return None
    body = found[1] + b"}"
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return Line(body, found[2].decode("ascii"), fields) if isinstance(fields, dict) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """How far a log goes.

    Attributes:
        log: The log's id.
        file: The number of its newest file.
        seq: The number of its last record.
        events: How many events it holds.
        mac: That record's signature.
        synced: The last record that was forced to disk.
        key: The id of the key that signed.
    """

    log: str
    file: int
    seq: int
    events: int
    mac: str
    synced: int
    key: str

    def sealed(self, key: Key) -> bytes:
        """The bytes of a head's file.

        Args:
            key: The key.

        Returns:
            Always as many.
        """
        body = canonical({"format": FORMAT, **{name: getattr(self, name) for name in self.__slots__}})
        line = body[:-1] + b',"sig":"' + key.head(body).encode("ascii") + b'"}'
        return line.ljust(_HEAD_BYTES - 1) + b"\n"


@dataclass(frozen=True, slots=True)
class FoundHead:
    """A head's file as it stands there.

    Attributes:
        head: What it says; None if it is no head.
        is_signed: Whether its signature is right; None where its key is not known.
    """

    head: Head | None
    is_signed: bool | None


_HEAD = re.compile(rb'(\{.+),"sig":"([0-9a-f]{64})"\} *\n', re.DOTALL)


def read_head(path: Path, keys: Mapping[str, Key]) -> FoundHead | None:
    """Read a head's file.

    Args:
        path: The file.
        keys: Keys by their ids.

    Returns:
        What stands there; None if there is no file.

    Raises:
        OSError: If it can't be read.
    """
    found = _parsed_head(path, keys)
    if found is not None and not found.is_signed:
        # A log that is written to meanwhile may have been read in the middle.
        found = _parsed_head(path, keys)
    return found


def _parsed_head(path: Path, keys: Mapping[str, Key]) -> FoundHead | None:
    try:
        with path.open("rb") as file:
            content = file.read(_HEAD_BYTES + 1)
    except FileNotFoundError:
        return None
    found = _HEAD.fullmatch(content)
    if found is None:
        return FoundHead(None, None)
    body = found[1] + b"}"
    try:
        fields = json.loads(body)
        fields.pop("format")
        head = Head(**fields)
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
        return FoundHead(None, None)
    key = keys.get(head.key) if isinstance(head.key, str) else None
    if key is None:
        return FoundHead(head, None)
    return FoundHead(head, hmac.compare_digest(key.head(body).encode("ascii"), found[2]))


@dataclass(frozen=True, slots=True)
class Files:
    """The files of a log.

    Attributes:
        path: The newest file, which is written to.
        head: Beside it: how far the log goes.
        lock: Beside it: held by the one that writes.
    """

    path: Path
    head: Path
    lock: Path

    @classmethod
    def of(cls, path: str | Path) -> Files:
        """The files of a log.

        Args:
            path: The newest file.

        Returns:
            Where all of them are.
        """
        path = Path(path)
        return cls(path, path.with_name(f"{path.name}.head"), path.with_name(f"{path.name}.lock"))

    def old(self, number: int) -> Path:
        """The file that an older one is moved to.

        Args:
            number: Its number.

        Returns:
            The file.
        """
        return self.path.with_name(f"{self.path.name}.{number:06d}")

    def aside(self, seq: int) -> Path:
        """The file for the bytes of a record that was not written to its end.

        Args:
            seq: The number of the record that says so.

        Returns:
            The file.
        """
        return self.path.with_name(f"{self.path.name}.cut-{seq}")

    def older(self) -> dict[int, Path]:
        """The older files that are there.

        Returns:
            Number -> file, oldest first.

        Raises:
            OSError: If the folder can't be read.
        """
        pattern = re.compile(re.escape(self.path.name) + r"\.([0-9]{6,})")
        found = ((pattern.fullmatch(one.name), one) for one in self.path.parent.iterdir())
        return dict(sorted((int(name[1]), one) for name, one in found if name is not None))
