"""Writes an audit log."""

from __future__ import annotations

import logging
import os
import secrets
import threading
import weakref
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lec_guard.errors import SinkError
from lec_guard.observe.audit.disk import HeadFile, NewestFile, sync_folder, write_private
from lec_guard.observe.audit.keys import ZERO, Key
from lec_guard.observe.audit.lines import FORMAT, LONGEST, Files, Head, canonical, read_head, seal
from lec_guard.observe.audit.lock import Lock
from lec_guard.observe.audit.walk import Walk, loss
from lec_guard.observe.events import Event
from lec_guard.observe.record import record

_AWAY = "move the log away, with its head, to begin a new one"

_log = logging.getLogger(__name__)

_open_logs: weakref.WeakSet[AuditLog] = weakref.WeakSet()


class AuditLog:
    """Writes every event as a line of JSON that nobody can change, remove or add unseen without the key.

    Each line is signed (HMAC-SHA256) with all that stands before it; `verify` finds what was changed. Beside the file
    stands `PATH.head`, signed too, which says after each line how far the log goes, so that a cut tail is found. When
    the file is full it is moved to `PATH.000001` (then `.000002` …), and the new one goes on with the last signature.

    Every line is handed to the system before `emit` returns: a killed process loses nothing that it told. Lines are
    forced to disk with each checkpoint, with each new file and by `close`: a machine that loses power loses at most
    `checkpoint_every` events, and the log says so when it is opened again. `checkpoint_every=1` forces every event.

    A line that was not written to its end is moved to `PATH.cut-N` when the log is opened again; records that are gone
    from the end are told in the next one. Both are logged as well. Everything else that is wrong with the newest file
    is an error then: nothing is added to a log that somebody changed.

    One writer a file, guarded by `PATH.lock`; all its threads may call `emit`. A fork can't use it: make one in each
    process, each with a file of its own.

    Args:
        path: The newest file. Its folder must be there.
        key: The secret, at least 16 bytes; or the name of the environment variable that holds it. It is never written;
            its id is.
        old_key: The key that the newest file was signed with so far, if `key` is a new one: a new file begins then, and
            says so.
        rotate_bytes: How long a file gets before the next one begins.
        checkpoint_every: How many events may be told before all is forced to disk.
        include_text: Whether a detector's own words on a failure are written; they may quote what it read.

    Raises:
        SinkError: If the key is missing or another one, if somebody else writes to the log or changed it, or if it
            can't be written.
    """

    def __init__(
        self,
        path: str | Path,
        key: bytes | str,
        *,
        old_key: bytes | str | None = None,
        rotate_bytes: int = 64 * 1024 * 1024,
        checkpoint_every: int = 100,
        include_text: bool = False,
    ) -> None:
        for name, value in (("rotate_bytes", rotate_bytes), ("checkpoint_every", checkpoint_every)):
            if value < 1:
                raise SinkError(f"{name} must be at least 1, not {value}")
        self._files = Files.of(path)
        self._key = Key.of(key)
        self._rotate_bytes = rotate_bytes
        self._checkpoint_every = checkpoint_every
        self._include_text = include_text
        self._pid = os.getpid()
        self._mutex = threading.Lock()
        self._is_closed = False
        self._since = 0
        # What the next record says besides: what was wrong when the log was opened.
        self._besides: dict[str, Any] = {}
        self._file: NewestFile | None = None
        self._is_full = False
        try:
            self._lock = Lock(self._files.lock)
            try:
                old = () if old_key is None else (Key.of(old_key),)
                self._at, is_new = self._found({one.id: one for one in (self._key, *old)})
                self._head = HeadFile(self._files.head, self._at.sealed(self._key) if is_new else None)
                self._go_on()
            except BaseException:
                self._shut()
                self._lock.release()
                raise
        except OSError as error:
            raise self._failed(error) from error
        _open_logs.add(self)

    def emit(self, event: Event) -> None:
        """Write an event.

        Args:
            event: What happened.

        Raises:
            SinkError: If it could not be written, or the log is closed, was forked or changed by somebody else.
        """
        if os.getpid() != self._pid:
            raise SinkError(
                f"the audit log of process {self._pid} can't be used in its fork {os.getpid()}; make one in each "
                "process, each with a file of its own"
            )
        told = record(event, key=self._key.text, include_text=self._include_text)
        with self._mutex:
            if self._is_closed:
                raise SinkError(f"{self._files.path}: the audit log is closed")
            try:
                self._append("event", {"event": told})
                if self._since >= self._checkpoint_every:
                    self._checkpoint()
            except OSError as error:
                raise self._failed(error) from error

    def close(self) -> None:
        """Force all to disk and let go of the file; may be called again. In a fork there is nothing to close.

        Raises:
            SinkError: If that fails; it is closed all the same.
        """
        if os.getpid() != self._pid:
            return
        with self._mutex:
            if self._is_closed:
                return
            self._is_closed = True
            try:
                self._checkpoint()
            except OSError as error:
                raise self._failed(error) from error
            finally:
                self._shut()
                self._lock.release()

    def _failed(self, error: OSError) -> SinkError:
        return SinkError(f"{error.filename or self._files.path}: can't be written: {error.strerror or error}")

    # Opening.

    def _found(self, keys: Mapping[str, Key]) -> tuple[Head, bool]:
        """Where the log ends, and whether that is its beginning; the newest file is open then if it is there."""
        older = self._files.older()
        known = read_head(self._files.head, keys)
        if known is None:
            if older or self._files.path.exists():
                raise SinkError(f"{self._files.head}: is missing, so nobody can say how far the log went; {_AWAY}")
            start = Head(log=secrets.token_hex(8), file=1, seq=0, events=0, mac=ZERO, synced=0, key=self._key.id)
            return start, True
        if known.head is not None and known.is_signed is None:
            raise SinkError(
                f"{self._files.head}: the log is signed with the key {known.head.key!r}, not with {self._key.id!r}; "
                "give the other one as old_key to go on with a new key"
            )
        if known.head is None or not known.is_signed:
            raise SinkError(f"{self._files.head}: somebody changed it; {_AWAY}")
        return self._resumed(known.head, keys, older), False

    def _resumed(self, head: Head, keys: Mapping[str, Key], older: Mapping[int, Path]) -> Head:
        """Where the log ends that is there."""
        path, newest = self._files.path, max(older, default=0)
        walk = Walk(keys, frozenset([head.seq]))
        rest, size, is_there = b"", 0, path.exists()
        if is_there:
            self._read(walk, path, newest + 1)
            rest, size = walk.rest, walk.size
        self._is_full = walk.key is not None and walk.key.id != self._key.id
        if not walk.records and newest:
            self._read(walk, older[newest], newest)
        if walk.log not in (None, head.log) or walk.macs.get(head.seq, head.mac) != head.mac:
            raise SinkError(f"{self._files.head}: is not of this log; {_AWAY}")
        number = newest + 1 if is_there else max(newest, head.file) + 1
        at = replace(head, file=number, seq=walk.seq, events=walk.events, mac=walk.mac, key=self._key.id)
        if head.seq > walk.seq:
            lost = {"first": walk.seq + 1, "last": head.seq, "synced": head.synced}
            _log.error("%s: %s", path, loss(**lost))
            self._besides["lost"] = lost
            at = replace(at, seq=head.seq, events=head.events)
        if is_there:
            self._file = NewestFile(path)
            if rest:
                self._set_aside(self._file, rest, size, at.seq + 1)
        return at

    def _read(self, walk: Walk, path: Path, number: int) -> None:
        finding = walk.read(path, number)
        if finding is not None:
            raise SinkError(f"{path.parent / finding.message}; {_AWAY}")

    def _set_aside(self, file: NewestFile, rest: bytes, size: int, seq: int) -> None:
        """Move bytes away that are no record."""
        aside = self._files.aside(seq)
        write_private(aside, rest)
        file.cut(size)
        _log.error("%s: the last record has no end; its %d bytes are in %s", self._files.path, len(rest), aside)
        self._besides["set_aside"] = {"file": aside.name, "bytes": len(rest)}

    def _go_on(self) -> None:
        """Say that the log goes on, or begins."""
        if self._file is not None and self._file.size:
            self._append("resume", {})
        self._sync(self._ready())

    # Writing. All of it is called with the mutex held, or before anybody else has the log.

    def _append(self, kind: str, fields: Mapping[str, Any]) -> NewestFile:
        """Write a record into the newest file, or into the next one where that is full."""
        if self._file is not None and (self._is_full or self._file.size >= self._rotate_bytes):
            self._move(self._file)
        file = self._ready()
        self._record(file, kind, fields)
        return file

    def _checkpoint(self) -> None:
        self._sync(self._append("checkpoint", {}))

    def _ready(self) -> NewestFile:
        """The newest file, which says what it is."""
        if self._file is None:
            self._file = NewestFile(self._files.path)
        if not self._file.size:
            said = {"format": FORMAT, "log": self._at.log, "file": self._at.file, "key": self._key.id}
            self._record(self._file, "open", {**said, "before": self._at.mac})
        return self._file

    def _record(self, file: NewestFile, kind: str, fields: Mapping[str, Any]) -> None:
        """Write a record, and how far the log goes now."""
        at = self._at
        said = {"kind": kind, "seq": at.seq + 1, "time": datetime.now(UTC).isoformat(), **self._besides, **fields}
        if kind != "event":
            said["events"] = at.events
        line, mac = seal(self._key, at.mac, canonical(said))
        if len(line) > LONGEST:
            raise SinkError(f"{self._files.path}: an event of {len(line)} bytes is too long for an audit log")
        file.write(line)
        is_event = kind == "event"
        self._at = replace(at, seq=at.seq + 1, mac=mac, events=at.events + is_event)
        self._since += is_event
        self._besides = {}
        self._head.write(self._at.sealed(self._key))

    def _sync(self, file: NewestFile) -> None:
        """Force all to disk: first the records, then the head that says they are there."""
        file.sync()
        self._at = replace(self._at, synced=self._at.seq)
        self._head.write(self._at.sealed(self._key))
        self._head.sync()
        self._since = 0

    def _move(self, file: NewestFile) -> None:
        """Put the newest file beside the older ones; there is none then."""
        self._sync(file)
        file.check()
        old = self._files.old(self._at.file)
        if old.exists():
            raise SinkError(f"{old}: is there already; somebody else put it there")
        self._files.path.rename(old)
        self._file, self._is_full = None, False
        self._at = replace(self._at, file=self._at.file + 1)
        file.close()
        sync_folder(old.parent)

    def _shut(self) -> None:
        for one in (self._file, getattr(self, "_head", None)):
            if one is not None:
                one.close()
        self._file = None

    def _forget(self) -> None:
        """In a fork: let go of everything; the parent has it still."""
        if not self._is_closed:
            self._is_closed = True
            self._shut()
            self._lock.forget()


def _forget_all() -> None:
    for log in list(_open_logs):
        log._forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
