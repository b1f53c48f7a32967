"""Segments of a step's text: which part of it stands where in the value, and which can't change."""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from lec_guard.errors import UnsupportedValueError
from lec_guard.step import Edit, Step

Path = tuple[Any, ...]
"""Where something stands in a value: `(path of what is around it, kind, key)`, and `()` for the value itself.

Linked, because reading makes one for every leaf. The kinds are

- `item`, `member`: the n-th of a list or tuple, or of a set
- `key`, `field`: under a key of a mapping, or in an attribute of an object
- `json`: in what a str says as JSON
- `raw`: a str that may be JSON, and is read as it stands
- `pieces`: in the arguments of a call that a chunk holds in these pieces
- `said`: in the message that LangChain makes of a str, tuple or dict
- `fixed`: in something that can be read, but not changed
"""

Source = tuple[int, Path] | None
"""Where a line of text comes from: how long the name before it is, and the path of the str that follows. None where no
part of the line can change."""

_JSON_TOKEN = re.compile(r'"((?:[^"\\]|\\.)*)"?|[{}\[\]:,]', re.DOTALL)
_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{0,4}|.)", re.DOTALL)


class UneditableError(UnsupportedValueError):
    """An edit that can't be made in the value; says where, and never the text."""


class Told(NamedTuple):
    """One thing that was read in a value, and where it stands there.

    Attributes:
        step: What it is to a guard; None for system messages that are only context.
        joint: What stands between its lines.
        lines: The lines of its text.
        sources: Where each of them comes from.
        derived: Whether LangChain parses it from the pieces of a call in the same value, so that it follows those.
    """

    step: Step | None
    joint: str
    lines: list[str]
    sources: list[Source]
    derived: bool = False

    def leaves(self) -> Iterator[tuple[Path, str]]:
        """The strs in the value that can change, with their paths."""
        for line, source in zip(self.lines, self.sources, strict=True):
            if source is not None and _can_change(source[1]):
                yield source[1], line[source[0] :]


@dataclass(frozen=True, slots=True)
class _Segment:
    """A part of a step's text that can change; with JSON in it, as inside of the quotes of a JSON string."""

    start: int
    end: int
    path: Path
    offset: int
    quoted: bool
    leaf: str


def placed(told: Told, edits: Sequence[Edit], where: str) -> Iterator[tuple[Path, Edit]]:
    """Edits of a text as edits of the strs in the value that it was read from.

    An edit over several of them puts its replacement into the first. What the lens itself has put between lines may
    be among what an edit takes out, but not be all of it; it stays as long as there are lines on both sides.

    Args:
        told: What was read.
        edits: Edits of its text that do not overlap, in any order.
        where: What to call it in an error.

    Yields:
        Paths, and an edit of the str that stands there.

    Raises:
        UneditableError: If an edit hits a key, a name, or anything else that is no str in the value.
    """
    segments, joints = list(_segments(told)), list(_joints(told))
    for edit in edits:
        near = segments[bisect_left(segments, edit.start, key=lambda one: one.end) :]
        if edit.start == edit.end:
            touched = [one for one in near[:1] if one.start <= edit.start]
        else:
            near = near[: bisect_left(near, edit.end, key=lambda one: one.start)]
            touched = [one for one in near if edit.start < one.end and one.start < one.end]
            free = sum(min(one.end, edit.end) - max(one.start, edit.start) for one in touched)
            if free + bisect_left(joints, edit.end) - bisect_left(joints, edit.start) < edit.end - edit.start:
                touched = []
        if not touched:
            raise UneditableError(
                f"{where}: an edit of characters {edit.start} to {edit.end} hits a key, a name, or something else "
                "that is no text of the value"
            )
        for number, one in enumerate(touched):
            start = max(edit.start, one.start) - one.start + one.offset
            end = min(edit.end, one.end) - one.start + one.offset
            text = "" if number else edit.replacement
            if one.quoted:
                text = _escaped(text)
                inside = one.offset, one.offset + one.end - one.start
                if any(m.start() < at < m.end() for m in _ESCAPE.finditer(one.leaf, *inside) for at in (start, end)):
                    raise UneditableError(f"{where}: an edit at character {edit.start} cuts an escape sequence in two")
            yield one.path, Edit(start=start, end=end, replacement=text)


def put_through(path: Path, text: str, change: Callable[[str], str]) -> str:
    """What a function makes of a str in a value; of JSON, of each string in it that is no key.

    Args:
        path: Where the str stands.
        text: The str.
        change: The function.

    Returns:
        The new str.
    """
    if not _is_json(path, text):
        return change(text)
    parts, at = [], 0
    for start, end in _json_values(text):
        old = text[start:end]
        try:
            said = json.loads(f'"{old}"', strict=False)
        except ValueError:  # the end of a string that is not whole
            said = old
        new = change(said)
        parts += [text[at:start], old if new == said else _escaped(new)]
        at = end
    return "".join([*parts, text[at:]])


def _segments(told: Told) -> Iterator[_Segment]:
    at = 0
    for line, source in zip(told.lines, told.sources, strict=True):
        if source is not None and _can_change(source[1]):
            skipped, path = source
            leaf = line[skipped:]
            quoted = _is_json(path, leaf)
            for start, end in _json_values(leaf) if quoted else [(0, len(leaf))]:
                yield _Segment(at + skipped + start, at + skipped + end, path, start, quoted, leaf)
        at += len(line) + len(told.joint)


def _joints(told: Told) -> Iterator[int]:
    """The places of characters that the lens has put between lines."""
    at = 0
    for line in told.lines[:-1]:
        at += len(line)
        yield from range(at, at + len(told.joint))
        at += len(told.joint)


def _can_change(path: Path) -> bool:
    while path:
        if path[1] == "fixed":
            return False
        path = path[0]
    return True


def _is_json(path: Path, text: str) -> bool:
    """Whether a str is to be taken for JSON, or for the beginning of some."""
    if not path or path[1] != "raw" or text.lstrip()[:1] not in ("{", "[", '"'):
        return False
    try:
        json.loads(text, strict=False)
    except json.JSONDecodeError as error:
        # It breaks off: in a string, in an escape or a word, or where something is yet to come.
        return error.msg.startswith("Unterminated") or (error.msg != "Extra data" and len(text) - error.pos < 6)
    except (ValueError, RecursionError):  # numbers too long, or too deep, but JSON up to there
        return True
    return True


def _json_values(text: str) -> Iterator[tuple[int, int]]:
    """The insides of JSON's strings that are no keys; the text may end anywhere."""
    around: list[str] = []
    before = ""
    for token in _JSON_TOKEN.finditer(text):
        sign = token[0][0]
        if sign == '"':
            if before == ":" or not around or around[-1] == "[":
                yield token.span(1)
        elif sign in "{[":
            around.append(sign)
        elif sign in "}]" and around:
            around.pop()
        before = sign


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]
