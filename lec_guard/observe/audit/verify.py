"""Finds out whether an audit log is as it was written."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lec_guard.errors import SinkError
from lec_guard.observe.audit.findings import Finding, Report
from lec_guard.observe.audit.keys import Key
from lec_guard.observe.audit.lines import Files, FoundHead, Head, read_head
from lec_guard.observe.audit.walk import Walk, found, loss


def verify(
    path: str | Path,
    key: bytes | str,
    *,
    older_keys: Iterable[bytes | str] = (),
    first_file: int = 1,
    head: str | Path | None = None,
) -> Report:
    """Find out whether an audit log is as it was written.

    It may be written to meanwhile, but not begin a new file: then run it again.

    What nobody can find out here: that the log and its head were both put back to an older state that somebody had
    kept, for that is a log as it was written. A head that is copied elsewhere from time to time finds it: give it as
    `head`.

    Args:
        path: The log's newest file; the older ones and the head stand beside it.
        key: The key: bytes, or the variable of the environment that holds it.
        older_keys: Keys with which older files are signed.
        first_file: The number of the oldest file that was kept. Those before may be gone.
        head: A copy of a head that was kept elsewhere; None for the one beside the log.

    Returns:
        What became of the log.

    Raises:
        SinkError: If there is no key, or a file can't be read.
    """
    files = Files.of(path)
    keys = {one.id: one for one in map(Key.of, (key, *older_keys))}
    head_path = files.head if head is None else Path(head)
    try:
        # First the head: what is written meanwhile makes the log longer than that, never shorter.
        known = read_head(head_path, keys)
        if head is not None and known is None:
            raise SinkError(f"{head_path}: there is no such file")
        marks = frozenset([known.head.seq] if known is not None and known.head is not None else ())
        walk = Walk(keys, marks)
        older = files.older()
        sources = [(number, one) for number, one in older.items() if number >= first_file]
        newest = max([first_file - 1, *older])
        if files.path.exists():
            sources.append((newest + 1, files.path))
        finding = _read(walk, sources, first_file, files)
        read = len(sources)
    except OSError as error:
        where = error.filename or files.path
        raise SinkError(f"{where}: can't be read: {error.strerror}") from error
    finding = finding or _end(walk, head_path, known) or walk.gap
    return Report(
        path=str(files.path),
        log=walk.log,
        files=read,
        records=walk.records,
        events=walk.told,
        last=walk.seq,
        set_aside=walk.set_aside,
        lost=walk.lost,
        finding=finding,
    )


def _read(walk: Walk, sources: list[tuple[int, Path]], first_file: int, files: Files) -> Finding | None:
    """Read all files, up to the first bad place."""
    expected = first_file
    for number, path in sources:
        if number != expected:
            return found("missing", files.old(expected), None, "the file is missing")
        finding = walk.read(path, number)
        if finding is None and walk.rest:
            what = f"{len(walk.rest)} bytes stand after record {walk.seq}; a record was cut in the middle"
            finding = found("truncated", path, _count_lines(path), what)
        if finding is not None:
            return finding
        expected += 1
    return None


def _count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


def _end(walk: Walk, path: Path, known: FoundHead | None) -> Finding | None:
    """Whether the log goes as far as its head says."""
    if known is None:
        return found("missing", path, None, "the file is missing that says how far the log goes")
    if known.head is None or known.is_signed is False:
        return found("changed", path, None, "is not as it was written")
    if known.is_signed is None:
        return found("rechained", path, None, f"is signed with the key {known.head.key!r}, which was not given")
    return _compared(walk, path, known.head)


def _compared(walk: Walk, path: Path, head: Head) -> Finding | None:
    if walk.log is not None and head.log != walk.log:
        return found("changed", path, None, f"is of the log {head.log}, not {walk.log}")
    if head.seq > walk.seq:
        return found(
            "cut", path, None, f"the log ends with record {walk.seq}; {loss(walk.seq + 1, head.seq, head.synced)}"
        )
    if head.seq in walk.macs and walk.macs[head.seq] != head.mac:
        return found("cut", path, None, f"record {head.seq} is another one: the log was cut before it and written on")
    return None
