"""YAML text -> plain data that knows where each value stood."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lec_guard.errors import PolicyError

_LARGEST = 1 << 20
"""Bytes of a policy file; a larger one is no policy that a person wrote."""

_DEEPEST = 32
"""Levels of nesting; a policy has six, and PyYAML takes minutes over 100,000 brackets."""

_MOST = 50_000
"""Keys and values of a file; PyYAML takes a second for 20,000 of them."""

_LONGEST = 100
"""Characters of a number or a date; Python takes minutes over a number of a million digits."""

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a file; both count from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Document:
    """A YAML file that has been read.

    Attributes:
        file: Where it lies.
        data: Dicts with string keys, lists and scalars.
        marks: Path to a value -> where its key (or item) stands.
    """

    file: Path
    data: Any
    marks: Mapping[KeyPath, Mark]

    def where(self, path: KeyPath) -> str:
        """Where a value stands, or the nearest thing around it that is in the file.

        Args:
            path: Keys and positions that lead to it.

        Returns:
            `file:line:column`, as editors understand it.
        """
        while path and path not in self.marks:
            path = path[:-1]
        mark = self.marks.get(path, Mark(1, 1))
        return f"{self.file}:{mark.line}:{mark.column}"


def read_document(file: Path) -> Document:
    """Read a file of YAML with plain types only: no tags, no aliases, no key twice.

    Args:
        file: The file.

    Returns:
        Its data, and where each value stands.

    Raises:
        PolicyError: If the file can't be read; says where and why.
    """
    return parse_document(file, read_file(file))


def read_file(file: Path) -> bytes:
    """The bytes of a file that is no larger than a policy may be.

    Args:
        file: The file.

    Returns:
        All of it.

    Raises:
        PolicyError: If it can't be read, is no file, or is larger.
    """
    try:
        if not file.is_file():
            # Not opened: whoever opens a named pipe waits until somebody writes into it.
            raise PolicyError(f"{file}: can't be read: {'it is no file' if file.exists() else 'no such file'}")
        with file.open("rb") as opened:
            content = opened.read(_LARGEST + 1)
    except OSError as error:
        raise PolicyError(f"{file}: can't be read: {error.strerror}") from None
    if len(content) > _LARGEST:
        raise PolicyError(f"{file}: more than {_LARGEST} bytes, too many for a file that a person wrote")
    return content


def parse_document(file: Path, content: bytes) -> Document:
    """Read YAML with plain types only: no tags, no aliases, no key twice.

    Args:
        file: Where it is from, for messages.
        content: What stands there.

    Returns:
        Its data, and where each value stands.

    Raises:
        PolicyError: If it is not such YAML; says where and why.
    """
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        where = _at(file, content[: error.start].decode("utf-8"))
        raise PolicyError(f"{where}: 0x{content[error.start]:02x} is no UTF-8; save the file as UTF-8") from None
    reader = _Reader(file, text)
    try:
        data = reader.read()
    except yaml.reader.ReaderError as error:
        where = _at(file, text[: error.position])
        character = f"U+{ord(text[error.position]):04X}"
        raise PolicyError(f"{where}: not valid YAML: it has no character {character}; leave it out") from None
    except yaml.MarkedYAMLError as error:
        raise PolicyError(f"{_where(file, error.problem_mark)}: not valid YAML: {error.problem}") from None
    return Document(file, data, reader.marks)


def _at(file: Path, before: str) -> str:
    """Where a text ends."""
    return f"{file}:{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"


def _where(file: Path, mark: yaml.Mark | Any) -> str:
    return f"{file}:{mark.line + 1}:{mark.column + 1}" if mark else f"{file}:1:1"


_TEXT = "tag:yaml.org,2002:str"


class _Reader:
    """Makes data of the events of a file, as they come: nothing is built of what is not allowed."""

    def __init__(self, file: Path, text: str) -> None:
        self.marks: dict[KeyPath, Mark] = {}
        self._file = file
        self._events = yaml.parse(text, Loader=yaml.SafeLoader)
        self._resolver: Any = yaml.resolver.Resolver()
        self._read = 0

    def read(self) -> Any:
        """All of it; None where nothing is said."""
        next(self._events)  # The stream begins.
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return None
        data = self._value(next(self._events), ())
        next(self._events)  # The document ends.
        event = next(self._events)
        if not isinstance(event, yaml.StreamEndEvent):
            raise self._wrong(event, "not valid YAML: another document begins here; a file holds one")
        return data

    def _value(self, event: yaml.Event, path: KeyPath) -> Any:
        self._check(event)
        self.marks.setdefault(path, _mark(event))
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event)
        if len(path) >= _DEEPEST:
            raise self._wrong(event, "nested too deep")
        return self._list(path) if isinstance(event, yaml.SequenceStartEvent) else self._mapping(path)

    def _list(self, path: KeyPath) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._value(event, (*path, len(items))))
        return items

    def _mapping(self, path: KeyPath) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            self._check(event)
            key = self._scalar(event) if isinstance(event, yaml.ScalarEvent) else None
            if not isinstance(key, str):
                raise self._wrong(event, "a key must be a word; put it in quotes if it is one")
            if key in mapping:
                first = self.marks[(*path, key)]
                raise self._wrong(event, f"the key {key!r} stands twice, first on line {first.line}")
            self.marks[(*path, key)] = _mark(event)
            mapping[key] = self._value(next(self._events), (*path, key))
        return mapping

    def _scalar(self, event: yaml.ScalarEvent) -> Any:
        tag = self._resolver.resolve(yaml.ScalarNode, event.value, event.implicit)
        if tag == _TEXT:
            return event.value
        if len(event.value) > _LONGEST:
            raise self._wrong(event, "no number or date is so long; put it in quotes")
        begins: Any = event.start_mark
        node = yaml.ScalarNode(tag, event.value, begins)
        try:
            return yaml.constructor.SafeConstructor().construct_object(node)
        except ValueError as error:
            # PyYAML takes 2024-99-99 for a date and 0x_ for a number, and then can't build them.
            raise self._wrong(event, f"not valid YAML: {error}; put it in quotes") from None

    def _check(self, event: yaml.Event) -> None:
        self._read += 1
        if self._read > _MOST:
            raise self._wrong(event, f"more than {_MOST} keys and values, too many for a file that a person wrote")
        if isinstance(event, yaml.AliasEvent):
            raise self._wrong(event, "YAML aliases are not allowed; write it out")
        if getattr(event, "tag", None) is not None:
            raise self._wrong(event, "YAML tags are not allowed; quote what must be text")

    def _wrong(self, event: yaml.Event, what: str) -> PolicyError:
        return PolicyError(f"{_where(self._file, event.start_mark)}: {what}")


def _mark(event: yaml.Event) -> Mark:
    begins: Any = event.start_mark  # Never None of what stands in a text.
    return Mark(begins.line + 1, begins.column + 1)
