"""Who may review: names, what they may see, and hashes of their keys."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lec_guard.errors import UnsupportedValueError
from lec_guard.serve.key_files import hash_of, made_key, owners_by_hash, read_key_file, whose


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
        entries = read_key_file(path, _File).reviewers
        # One name, one key: decisions are signed with the name, and claims held by it.
        return cls(owners_by_hash(map(_owner, entries), Path(path), what="reviewers", taken="the key of somebody else"))

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
        return whose(key, self._by_hash)


def new_key(name: str) -> NewKey:
    """Make a key for a reviewer.

    Args:
        name: The reviewer's name.

    Returns:
        The key, and what goes into the file.

    Raises:
        UnsupportedValueError: If the name is not one.
    """
    key = made_key("lgr")
    try:
        entry = _Entry(name=name, key_sha256=hash_of(key), tenants="all")
    except ValidationError:
        raise UnsupportedValueError("a reviewer's name has 1 to 80 printable characters") from None
    lines = [
        f"  - name: {json.dumps(entry.name)}",
        f'    key_sha256: "{entry.key_sha256}"',  # YAML takes some for numbers
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


def _owner(entry: _Entry) -> tuple[Reviewer, list[str]]:
    reviewer = Reviewer(
        name=entry.name,
        tenants=None if entry.tenants == "all" else tuple(dict.fromkeys(entry.tenants)),
        may_try=entry.may_try,
    )
    return reviewer, [entry.key_sha256]
