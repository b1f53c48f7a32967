"""Who may review: names, what they may see, and hashes of their keys."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lec_guard.errors import UnsupportedValueError

_MOST_BYTES = 1_000_000
_LONGEST_KEY = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Reviewer:
    """Somebody who may sign in.

    Attributes:
        name: What decisions are signed with.
        tenants: Whose items they see, None among them for steps of no tenant; None instead of the whole for all.
        may_try: Whether they may judge texts of their own with these tenants' policies.
    """

    name: str
    tenants: tuple[str | None, ...] | None
    may_try: bool

    def sees(self, tenant: str | None) -> bool:
        """Whether what belongs to a tenant is theirs to see.

        Args:
            tenant: The tenant; None for no tenant.

        Returns:
            Whether it is.
        """
        return self.tenants is None or tenant in self.tenants


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """A key that was just made.

    Attributes:
        key: The key; nothing else holds it.
        entry: What goes into the file of keys, under `reviewers:`.
    """

    key: str = field(repr=False)
    entry: str


class Reviewers:
    """All who may sign in.

    Args:
        by_hash: SHA-256 of the key in hexadecimal digits -> whose it is.
    """

    def __init__(self, by_hash: dict[str, Reviewer]) -> None:
        self._by_hash = dict(by_hash)

    @classmethod
    def read(cls, path: str | Path) -> Reviewers:
        """Read a file of keys.

        Args:
            path: YAML, or JSON where its name says so: `reviewers`, a list of `name`, `key_sha256`, `tenants` (names,
                null for steps of no tenant, or the word `all`) and `may_try`.

        Returns:
            Who may sign in.

        Raises:
            UnsupportedValueError: If the file can't be read, or is wrong somewhere.
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
            entries = _File.model_validate(raw).reviewers
        except ValidationError as error:
            wrong = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(str(part) for part in wrong["loc"]) or "the file"
            raise UnsupportedValueError(f"{file}: {where}: {wrong['msg']}") from None
        return cls(_unique(entries, file))

    @property
    def any_may_try(self) -> bool:
        """Whether anybody may judge texts of their own."""
        return any(reviewer.may_try for reviewer in self._by_hash.values())

    def of(self, key: str) -> Reviewer | None:
        """Whose a key is, in the same time whatever the key.

        Args:
            key: What somebody gave as their key.

        Returns:
            Whose it is; None if nobody's.
        """
        if len(key) > _LONGEST_KEY:
            return None
        given = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
        found = None
        for own, reviewer in self._by_hash.items():
            if hmac.compare_digest(own, given):
                found = reviewer
        return found


def new_key(name: str) -> NewKey:
    """Make a key for a reviewer.

    A key has 256 random bits, so that a plain hash of it can be kept without anybody guessing it.

    Args:
        name: The reviewer's name.

    Returns:
        The key, and what goes into the file.

    Raises:
        UnsupportedValueError: If the name is not one.
    """
    key = f"lgr_{secrets.token_urlsafe(32)}"
    try:
        entry = _Entry(name=name, key_sha256=hashlib.sha256(key.encode()).hexdigest(), tenants="all")
    except ValidationError:
        raise UnsupportedValueError("a reviewer's name has 1 to 80 printable characters") from None
    lines = [
        f"  - name: {json.dumps(entry.name)}",
        f"    key_sha256: {entry.key_sha256}",
        "    tenants: all  # or a list: [acme, globex]; null in it means steps of no tenant",
        "    may_try: true",
    ]
    return NewKey(key=key, entry="\n".join(lines))


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: Annotated[str, Field(min_length=1, max_length=80, pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]+$")]
    key_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    tenants: list[str | None] | Literal["all"]
    may_try: bool = False


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    reviewers: Annotated[list[_Entry], Field(min_length=1, max_length=10_000)]


def _unique(entries: Sequence[_Entry], file: Path) -> dict[str, Reviewer]:
    """One key, one name: decisions are signed with the name, and claims held by it."""
    names: set[str] = set()
    found: dict[str, Reviewer] = {}
    for entry in entries:
        if entry.name in names:
            raise UnsupportedValueError(f"{file}: two reviewers are named {entry.name!r}")
        if entry.key_sha256 in found:
            raise UnsupportedValueError(f"{file}: {entry.name!r} has the key of somebody else")
        names.add(entry.name)
        found[entry.key_sha256] = Reviewer(
            name=entry.name,
            tenants=None if entry.tenants == "all" else tuple(dict.fromkeys(entry.tenants)),
            may_try=entry.may_try,
        )
    return found
