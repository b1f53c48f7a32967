"""Who may ask the API, for which tenants, and whether they see exact scores."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from lec_guard.errors import LecGuardError, UnsupportedValueError
from lec_guard.serve.key_files import hash_of, made_key, owners_by_hash, read_key_file, whose

_log = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0
"""How often it is looked whether the file has changed, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """What somebody may do who has a key.

    Attributes:
        name: What logs call them.
        tenants: The tenants that they may ask for; None for all, and for no tenant.
        scores: Whether they see exact scores and spans. A head can be copied by whoever sees many of them.
        metrics: Whether they may read the server's metrics.
        system_messages: Whose system messages are that come through LiteLLM: `judged` like a user's, because whoever
            may call the proxy can send some; `trusted` where only the operator does.
        rate_per_s: Steps a second that each of their tenants has; None for the server's own limit.
        until: When it ends, in Unix seconds; None for never.
    """

    name: str
    tenants: tuple[str, ...] | None
    scores: bool
    metrics: bool
    system_messages: Literal["trusted", "judged"]
    rate_per_s: float | None
    until: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewApiKey:
    """A key that was just made.

    Attributes:
        key: The key; nothing else holds it.
        entry: What goes into the file of keys, under `keys:`.
    """

    key: str = field(repr=False)
    entry: str


class ApiKeys:
    """All who may ask. A file that changes is read anew; one that is wrong then leaves in force what was.

    Args:
        by_hash: SHA-256 of the key in hexadecimal digits -> whose it is.
        path: The file that they are from; None for none.
        clock: Unix seconds.
    """

    def __init__(
        self, by_hash: dict[str, ApiKey], *, path: Path | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._by_hash = dict(by_hash)
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._looked = time.monotonic()
        self._seen = None if path is None else _stamp(path)

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a file of keys.

        Args:
            path: YAML, or JSON where its name says so: `keys`, a list of `name`, `key_sha256` (one, or several while a
                key is changed), `tenants` (names, or the word `all`), and perhaps `scores`, `metrics`,
                `system_messages`, `rate_per_s` and `until` (a time with its zone).

        Returns:
            Who may ask.

        Raises:
            UnsupportedValueError: If the file can't be read, or is wrong somewhere.
        """
        return cls(_read(Path(path)), path=Path(path))

    def of(self, key: str) -> ApiKey | None:
        """Whose a key is, in the same time whatever the key.

        Args:
            key: What somebody gave as their key.

        Returns:
            Whose it is; None if nobody's, or no more.
        """
        self._renew()
        found = whose(key, self._by_hash)
        return None if found is None or (found.until is not None and self._clock() >= found.until) else found

    def _renew(self) -> None:
        if self._path is None:
            return
        with self._lock:
            now = time.monotonic()
            if now - self._looked < _LOOK_EVERY_S:
                return
            self._looked = now
            stamp = _stamp(self._path)
            if stamp == self._seen:
                return
            self._seen = stamp
            try:
                self._by_hash = _read(self._path)
            except LecGuardError as error:
                _log.error("the keys stay as they were: %s", error)
            else:
                _log.info("the keys were read anew: %d of them", len(self._by_hash))


def new_api_key(name: str) -> NewApiKey:
    """Make a key for an application.

    Args:
        name: The application's name.

    Returns:
        The key, and what goes into the file.

    Raises:
        UnsupportedValueError: If the name is not one.
    """
    key = made_key("lgk")
    try:
        entry = _Entry(name=name, key_sha256=hash_of(key), tenants="all")
    except ValueError:
        raise UnsupportedValueError("an application's name has 1 to 80 printable characters") from None
    lines = [
        f"  - name: {json.dumps(entry.name)}",
        f'    key_sha256: "{hash_of(key)}"  # or a list, while a key is changed',
        "    tenants: all  # or a list: [acme, globex]",
        "    scores: false  # exact scores and spans, and /v1/scores",
    ]
    return NewApiKey(key=key, entry="\n".join(lines))


_Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=80, pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]+$")]
    key_sha256: _Hash | Annotated[list[_Hash], Field(min_length=1, max_length=10)]
    tenants: Annotated[list[str], Field(min_length=1)] | Literal["all"]
    scores: bool = False
    metrics: bool = False
    system_messages: Literal["trusted", "judged"] = "judged"
    rate_per_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    until: AwareDatetime | None = None


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: Annotated[list[_Entry], Field(min_length=1, max_length=100_000)]


def _read(path: Path) -> dict[str, ApiKey]:
    entries = read_key_file(path, _File).keys
    return owners_by_hash(map(_owner, entries), path, what="keys", taken="a key that stands there already")


def _owner(entry: _Entry) -> tuple[ApiKey, list[str]]:
    key = ApiKey(
        name=entry.name,
        tenants=None if entry.tenants == "all" else tuple(dict.fromkeys(entry.tenants)),
        scores=entry.scores,
        metrics=entry.metrics,
        system_messages=entry.system_messages,
        rate_per_s=entry.rate_per_s,
        until=entry.until.astimezone(UTC).timestamp() if isinstance(entry.until, datetime) else None,
    )
    return key, [entry.key_sha256] if isinstance(entry.key_sha256, str) else entry.key_sha256


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
