"""YAML text -> plain data that knows on which line each value stood."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lec_guard.errors import PolicyError

_LARGEST = 1 << 20
"""Bytes of a policy file; a larger one is no policy that a person wrote."""

_DEEPEST = 32
"""Levels of nesting; a policy has four, and PyYAML takes minutes over 100,000 brackets."""

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """A YAML file that has been read.

    Attributes:
        file: Where it lies.
        data: Dicts with string keys, lists and scalars.
        lines: Path to a value -> the line where its key (or item) stands, from 1.
    """

    file: Path
    data: Any
    lines: dict[KeyPath, int]

    def line(self, path: KeyPath) -> int:
        """The line of a value, or of the nearest thing around it that has one."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def read_document(file: Path) -> Document:
    """Read YAML with plain types only: no tags, no aliases, no key twice.

    Args:
        file: The file.

    Returns:
        Its data and line numbers.

    Raises:
        PolicyError: If the file can't be read; says where and why.
    """
    try:
        with file.open("rb") as opened:
            content = opened.read(_LARGEST + 1)
    except OSError as error:
        raise PolicyError(f"{file}: can't be read: {error.strerror}") from None
    if len(content) > _LARGEST:
        raise PolicyError(f"{file}: more than {_LARGEST} bytes, too many for a file that a person wrote")
    try:
        text = content.decode("utf-8")
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            line = event.start_mark.line + 1 if event.start_mark else 1
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                raise PolicyError(f"{file}:{line}: nested too deep")
            if isinstance(event, yaml.AliasEvent):
                raise PolicyError(f"{file}:{line}: YAML aliases are not allowed; write it out")
            if isinstance(event, yaml.NodeEvent) and getattr(event, "tag", None) is not None:
                raise PolicyError(f"{file}:{line}: YAML tags are not allowed; quote what must be text")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        lines: dict[KeyPath, int] = {}
        data = None if node is None else _plain(node, (), lines, file)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise PolicyError(f"{file}:{line}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PolicyError(f"{file}: not valid YAML: {error}") from None
    return Document(file, data, lines)


def _plain(node: yaml.Node, path: KeyPath, lines: dict[KeyPath, int], file: Path) -> Any:
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*path, at), lines, file) for at, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, value in node.value:
            line = key_node.start_mark.line + 1
            key = _built(key_node, file)
            if not isinstance(key, str):
                raise PolicyError(f"{file}:{line}: the key {key!r} must be a word")
            if key in mapping:
                raise PolicyError(f"{file}:{line}: the key {key!r} stands twice, first on line {lines[(*path, key)]}")
            lines[(*path, key)] = line
            mapping[key] = _plain(value, (*path, key), lines, file)
        return mapping
    return _built(node, file)


def _built(node: yaml.Node, file: Path) -> Any:
    try:
        return yaml.constructor.SafeConstructor().construct_object(node, deep=True)
    except ValueError as error:
        # PyYAML takes 2024-99-99 for a date and 0x_ for a number, and then can't build them.
        raise PolicyError(f"{file}:{node.start_mark.line + 1}: not valid YAML: {error}; put it in quotes") from None
