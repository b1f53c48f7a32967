"""What every call gave, on disk before anything is made of it: an interrupted run asks nothing twice."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lec_guard.errors import UnsupportedValueError

_SETTINGS = "settings"


class Journal:
    """A file of JSON lines that only grows: the settings of the run, then a line for each call. One process a file.

    A last line that was not written whole is taken off. Everything before it counts.

    Args:
        path: The file; made where it is not there, for its owner alone.
        settings: What the answers depend on: name -> value, as JSON has it.

    Raises:
        UnsupportedValueError: If the file is of other settings, is none, can't be written, or another run writes to it.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self._path = path
        self._known: dict[str, dict[str, Any]] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b")
        except OSError as error:
            raise UnsupportedValueError(f"{path}: can't be written: {error.strerror}") from None
        try:
            _lock(self._file.fileno(), path)
            self._read(dict(settings))
        except BaseException:
            self._file.close()
            raise

    def __len__(self) -> int:
        """How many calls it holds."""
        return len(self._known)

    def get(self, key: str) -> dict[str, Any] | None:
        """What a call gave.

        Args:
            key: The call.

        Returns:
            What was noted; None where it was not made.
        """
        return self._known.get(key)

    def add(self, key: str, found: Mapping[str, Any]) -> None:
        """Note what a call gave; it is the system's when this returns.

        Args:
            key: The call.
            found: What it gave.
        """
        self._write({"key": key, **found})
        self._known[key] = dict(found)

    def close(self) -> None:
        """Have it written to the disk, and let go of it."""
        os.fsync(self._file.fileno())
        self._file.close()

    def _write(self, line: Mapping[str, Any]) -> None:
        # Half of a surrogate pair is written as an escape.
        self._file.write(json.dumps(line).encode("ascii") + b"\n")
        self._file.flush()

    def _read(self, settings: dict[str, Any]) -> None:
        content = self._file.read()
        whole = content[: content.rfind(b"\n") + 1]
        lines = whole.splitlines()
        entries = [self._entry(number, line, len(lines)) for number, line in enumerate(lines, start=1)]
        if entries and entries[-1] is None:
            whole = b"".join(line + b"\n" for line in lines[:-1])
            entries.pop()
        self._file.seek(len(whole))
        self._file.truncate()
        if not entries:
            self._write({_SETTINGS: settings})
            return
        first, *calls = entries
        assert first is not None  # noqa: S101 - only the last one may be
        if not isinstance(first.get(_SETTINGS), dict):
            raise UnsupportedValueError(f"{self._path}:1: not the journal of a run; give another folder")
        before, now = first[_SETTINGS], json.loads(json.dumps(settings))
        changed = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
        if changed:
            raise UnsupportedValueError(
                f"{self._path}: was begun with other settings ({', '.join(changed)}); give another folder, or the same "
                "settings again"
            )
        for number, one in enumerate(calls, start=2):
            key = None if one is None else one.pop("key", None)
            if one is None or not isinstance(key, str):
                raise UnsupportedValueError(f"{self._path}:{number}: not a line of a journal; take it out")
            self._known[key] = one

    def _entry(self, number: int, line: bytes, last: int) -> dict[str, Any] | None:
        """A line; None where the last one is none, as a machine that lost its power leaves it."""
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if isinstance(found, dict):
            return found
        if number == last:
            return None
        raise UnsupportedValueError(f"{self._path}:{number}: not a line of a journal; take it out")


def _lock(fd: int, path: Path) -> None:
    try:
        import fcntl
    except ModuleNotFoundError:  # pragma: no cover - no such locks on this system
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UnsupportedValueError(f"{path}: another run writes to it; wait for it, or give another folder") from None
