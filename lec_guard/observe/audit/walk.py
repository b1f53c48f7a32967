"""Reads the files of an audit log, oldest first, up to the first record that is not as it was written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lec_guard.observe.audit.findings import Finding, Kind
from lec_guard.observe.audit.keys import ZERO, Key
from lec_guard.observe.audit.lines import FORMAT, LONGEST, Line, parse


class Walk:
    """How far a log is as it was written, and what that says.

    Args:
        keys: Keys by their ids.
        marks: Numbers of records whose signatures are wanted.

    Attributes:
        log: The log's id; None before the first record.
        key: The key of the file that was read last.
        seq: The number of the last record; 0 before the first.
        mac: That record's signature.
        events: How many events the log holds up to there.
        records: How many records were read.
        told: How many events were read.
        macs: The signatures of the wanted records that were read.
        rest: The bytes after the last line of the file that was read last.
        size: The bytes before them.
        set_aside: How many records were set aside.
        lost: How many records are lost.
        gap: The first place where some are lost.
    """

    def __init__(self, keys: Mapping[str, Key], marks: frozenset[int] = frozenset()) -> None:
        self._keys = keys
        self._marks = marks
        self.log: str | None = None
        self.key: Key | None = None
        self.seq = 0
        self.mac = ZERO
        self.events = 0
        self.records = 0
        self.told = 0
        self.macs: dict[int, str] = {}
        self.rest = b""
        self.size = 0
        self.set_aside = 0
        self.lost = 0
        self.gap: Finding | None = None

    def read(self, path: Path, number: int) -> Finding | None:
        """Read a file.

        Args:
            path: The file.
            number: Its number.

        Returns:
            The first bad place, after which nothing is read; None if there is none. Bytes without the end of a line are
            none: they are the `rest`.

        Raises:
            OSError: If it can't be read.
        """
        self.rest, self.size = b"", 0
        for at, raw in _lines(path):
            if not raw.endswith(b"\n") and len(raw) <= LONGEST:
                self.rest = raw
                return None
            finding = self._take(path, number, at, parse(raw[:-1]))
            if finding is not None:
                return finding
            self.size += len(raw)
        return None

    def _take(self, path: Path, number: int, at: int, line: Line | None) -> Finding | None:
        if at == 1:
            finding = self._opened(path, number, line)
            if finding is not None:
                return finding
        if line is None or self.key is None or not line.is_signed(self.key, self.mac):
            return self._wrong(path, at, line)
        # What follows was written by who has the key; it is checked all the same, for two may have written.
        fields, seq, lost = line.fields, line.seq, line.fields.get("lost")
        if lost is not None:
            self._lose(path, at, lost)
        if seq is None or (lost is None and seq != self.seq + 1):
            return found("changed", path, at, f"is record {seq}, not {self.seq + 1}")
        if fields["kind"] == "event":
            self.events += 1
            self.told += 1
        elif self.records == 0 or lost is not None:
            self.events = fields["events"]
        elif fields["events"] != self.events:
            return found("changed", path, at, f"counts {fields['events']} events, but there are {self.events}")
        self.seq, self.mac = seq, line.mac
        self.records += 1
        self.set_aside += fields.get("set_aside") is not None
        if seq in self._marks:
            self.macs[seq] = line.mac
        return None

    def _opened(self, path: Path, number: int, line: Line | None) -> Finding | None:
        """Take the first record of a file: it says with what it is signed and what was before."""
        if line is None:
            return found("changed", path, 1, "is no record of an audit log")
        fields = line.fields
        if fields.get("kind") != "open":
            return found("missing", path, 1, "is not the first record of a file; records before it are missing")
        key = self._keys.get(str(fields.get("key")))
        if key is None:
            return found(
                "rechained",
                path,
                1,
                f"this file is signed with the key {str(fields.get('key'))[:16]!r}, not with one that was given "
                f"({', '.join(self._keys)}): give the older key too if the key was changed, or somebody else wrote it",
            )
        before = fields.get("before")
        if not isinstance(before, str) or not line.is_signed(key, before):
            self.key = key
            return self._wrong(path, 1, line)
        if fields["format"] != FORMAT:
            return found("changed", path, 1, f"has format {fields['format']}; this version reads {FORMAT}")
        if self.records == 0:
            self.log = fields["log"]
            if number > 1:
                # Older files need not be there; what they ended with is signed here.
                self.seq, self.mac = fields["seq"] - 1, before
        if fields["file"] > number:
            gone = ", ".join(map(str, range(number, fields["file"])))
            return found("missing", path, 1, f"this is file {fields['file']} of the log; file {gone} is missing")
        if fields["file"] < number or fields["log"] != self.log:
            said = f"file {fields['file']} of the log {fields['log']}"
            return found("reordered", path, 1, f"this is {said}, but file {number} of {self.log} belongs here")
        if before != self.mac:
            return found(
                "missing",
                path,
                1,
                f"record {fields['seq'] - 1} stood before this one, but the file before ends with record {self.seq}",
            )
        self.key = key
        return None

    def _lose(self, path: Path, at: int, lost: Mapping[str, Any]) -> None:
        first, last, synced = lost["first"], lost["last"], lost["synced"]
        self.lost += last - first + 1
        if self.gap is None:
            self.gap = found("cut", path, at, f"the log says itself: {loss(first, last, synced)}")

    def _wrong(self, path: Path, at: int, line: Line | None) -> Finding:
        """What a wrong signature means, as far as that can be told from what stands after it."""
        expected, key = self.seq + 1, self.key
        is_ours_later = False
        numbers: list[int | None] = []
        one = line
        for place, raw in _lines(path):
            if place <= at:
                continue
            before, one = one, parse(raw[:-1])
            numbers.append(None if one is None else one.seq)
            if before is not None and one is not None and key is not None:
                is_ours_later = is_ours_later or one.is_signed(key, before.mac)
        seq = None if line is None or at == 1 else line.seq
        following = numbers[0] if numbers else None
        if seq not in (None, expected) and expected in numbers:
            place = at + 1 + numbers.index(expected)
            return found("reordered", path, at, f"is record {seq}, but record {expected} stands in line {place}")
        if line is not None and not is_ours_later and any(number is not None for number in numbers):
            signed = "with its key" if key is None else f"with the key {key.id}"
            what = f"from here on nothing is signed {signed}; somebody who does not have it wrote this"
            return found("rechained", path, at, what)
        if seq is not None and seq > expected and following in (None, seq + 1):
            return found("missing", path, at, f"is record {seq}; records {expected} to {seq - 1} are missing")
        if seq is not None and seq < expected and following != expected + 1:
            return found("reordered", path, at, f"is record {seq}, which stood before record {expected - 1}")
        return found("changed", path, at, f"record {expected} is not as it was written")


def loss(first: int, last: int, synced: int) -> str:
    """How records are told of that are gone from the end.

    Args:
        first: The first of them.
        last: The last of them.
        synced: The last record that had been forced to disk.

    Returns:
        The words.
    """
    gone = f"records {first} to {last} were written and are gone from the end"
    if synced < first:
        return f"{gone}: somebody cut it, or the machine lost power before they were on disk"
    return f"{gone}: somebody cut it, for those up to {synced} were on disk"


def found(kind: Kind, path: Path, line: int | None, what: str) -> Finding:
    """Make a finding.

    Args:
        kind: What is wrong.
        path: In which file.
        line: In which line; None for the whole file.
        what: What, and what may have happened.

    Returns:
        The finding.
    """
    at = path.name if line is None else f"{path.name}:{line}"
    return Finding(kind=kind, file=path.name, line=line, message=f"{at}: {what}")


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        at = 0
        while raw := file.readline(LONGEST + 1):
            at += 1
            yield at, raw
