"""What is wrong with an audit log."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal["changed", "missing", "reordered", "truncated", "cut", "rechained"]
"""What is wrong: a record is not as it was written; records or files are gone from the middle, or from the beginning;
they are in another order; the last line has no end; records are gone from the end; it is signed with another key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A bad place.

    Attributes:
        kind: What is wrong.
        file: The name of the file.
        line: The line in it; None if it is about the whole file.
        message: What, where, and what may have happened.
    """

    kind: Kind
    file: str
    line: int | None
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What became of an audit log.

    Attributes:
        path: Its newest file.
        log: Its id; None if no record could be read. A log of another machine has another one.
        files: How many files there are, from the oldest that was kept.
        records: How many records are as they were written, up to the first that is not.
        events: How many of them are events.
        last: The number of the last of them; 0 for none.
        set_aside: How many records were not written to their end, which the log says itself and keeps beside it.
        lost: How many records the log says itself were gone when it was opened again.
        finding: The first bad place; None if there is none. A loss that the log tells itself is one, too, if nothing
            else is wrong.
    """

    path: str
    log: str | None
    files: int
    records: int
    events: int
    last: int
    set_aside: int
    lost: int
    finding: Finding | None

    @property
    def ok(self) -> bool:
        """Whether every record that was written is there as it was written."""
        return self.finding is None

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists and scalars, ready for JSON.

        Returns:
            Every attribute under its own name, and `ok`.
        """
        return {"ok": self.ok, **asdict(self)}
