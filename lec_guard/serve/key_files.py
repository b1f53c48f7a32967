"""Files of keys: who may ask, and hashes of what they prove it with."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from lec_guard.errors import UnsupportedValueError

_MOST_BYTES = 1_000_000
_LONGEST_KEY = 512


class _Named(Protocol):
    @property
    def name(self) -> str: ...


_File = TypeVar("_File", bound=BaseModel)
_Owner = TypeVar("_Owner", bound=_Named)
_Whose = TypeVar("_Whose")


def read_key_file(path: str | Path, model: type[_File]) -> _File:
    """Read a file of keys.

    Args:
        path: YAML, or JSON where its name says so.
        model: What it has to hold.

    Returns:
        Its content.

    Raises:
        UnsupportedValueError: If the file can't be read, or is wrong somewhere; no message quotes the file, for it may
            hold a key.
    """
    file = Path(path)
    try:
        with file.open("rb") as opened:
            content = opened.read(_MOST_BYTES + 1)
    except OSError as error:
        raise UnsupportedValueError(f"{file}: {error.strerror}") from None
    if len(content) > _MOST_BYTES:
        raise UnsupportedValueError(f"{file}: more than {_MOST_BYTES:,} bytes")
    try:
        raw = json.loads(content) if file.suffix == ".json" else yaml.safe_load(content)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        # Where it is wrong, but nothing of what stands there: it may be a key.
        mark = getattr(error, "problem_mark", None)
        place = f":{mark.line + 1}" if mark else ""
        raise UnsupportedValueError(f"{file}{place}: no {'JSON' if file.suffix == '.json' else 'YAML'}") from None
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        wrong = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in wrong["loc"]) or "the file"
        raise UnsupportedValueError(f"{file}: {where}: {wrong['msg']}") from None


def owners_by_hash(
    owners: Iterable[tuple[_Owner, Sequence[str]]], file: Path, *, what: str, taken: str
) -> dict[str, _Owner]:
    """Who is found by which hash: one name, one owner, and one hash, one owner.

    Args:
        owners: Everybody, with the hashes of their keys.
        file: Where they stand.
        what: What errors call them all.
        taken: What errors say of whoever has a hash that is there already.

    Returns:
        Hash -> whose it is.

    Raises:
        UnsupportedValueError: If a name or a hash is there twice.
    """
    names: set[str] = set()
    found: dict[str, _Owner] = {}
    for owner, hashes in owners:
        if owner.name in names:
            raise UnsupportedValueError(f"{file}: two {what} are named {owner.name!r}")
        names.add(owner.name)
        for one in hashes:
            if one in found:
                raise UnsupportedValueError(f"{file}: {owner.name!r} has {taken}")
            found[one] = owner
    return found


def made_key(prefix: str) -> str:
    """A new key.

    It has 256 random bits, so that a plain hash of it can be kept without anybody guessing it.

    Args:
        prefix: What it begins with, so that people and scanners for secrets know what it is.

    Returns:
        The key.
    """
    return f"{prefix}_{secrets.token_urlsafe(32)}"


def hash_of(key: str) -> str:
    """What a file keeps of a key: its SHA-256, in hexadecimal digits."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def whose(key: str, by_hash: Mapping[str, _Whose]) -> _Whose | None:
    """Whose a key is, in the same time whatever the key.

    Args:
        key: What somebody gave as their key.
        by_hash: Hash -> whose it is.

    Returns:
        Whose it is; None if nobody's.
    """
    if len(key) > _LONGEST_KEY:
        return None
    given = hash_of(key)
    found = None
    for own, owner in by_hash.items():
        if hmac.compare_digest(own, given):
            found = owner
    return found
