"""Conversations from JSON lines; what is none is named by file and line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lec_guard.errors import UnsupportedValueError
from lec_guard.train.rows import LINES, Mistakes, Row, read_rows

Message = dict[str, str]
"""`role` and `content`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialogue:
    """A conversation.

    Attributes:
        name: Its id; a hash of its messages where it has none.
        messages: A system message perhaps, then user and assistant in turns.
    """

    name: str
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Dialogues:
    """All that were read.

    Attributes:
        all: Each once.
        repeated: How many lines had one that was there already.
    """

    all: tuple[Dialogue, ...]
    repeated: int


def read_dialogues(paths: Sequence[Path]) -> Dialogues:
    """Read conversations.

    Args:
        paths: JSON lines, or folders of them.

    Returns:
        The conversations, each once.

    Raises:
        UnsupportedValueError: If a file or a line can't be read (one line a mistake), an id stands for two
            conversations, or there is none.
    """
    mistakes, found, repeated = Mistakes(), dict[str, tuple[Message, ...]](), 0
    named: dict[tuple[str, ...], str] = {}
    for row in rows_of(paths, ["messages"], ["id"], mistakes):
        try:
            messages = tuple(messages_of(row.values["messages"]))
            name = _name(row.values.get("id"), messages)
        except ValueError as error:
            mistakes.add(row.source, str(error))
            continue
        key = tuple(json.dumps(message, sort_keys=True) for message in messages)
        if key in named:
            repeated += 1
        elif name in found:
            mistakes.add(row.source, f"the id {name!r} stands for another conversation above")
        else:
            found[name] = messages
            named[key] = name
    mistakes.stop()
    if not found:
        raise UnsupportedValueError(f"{', '.join(map(str, paths))}: no conversation in it")
    return Dialogues(tuple(Dialogue(name=name, messages=own) for name, own in found.items()), repeated)


def rows_of(paths: Sequence[Path], needed: Sequence[str], wanted: Sequence[str], mistakes: Mistakes) -> Iterator[Row]:
    """Read the rows of files.

    Args:
        paths: JSON lines, or folders of them.
        needed: Keys that must be there.
        wanted: Keys to read where they are there.
        mistakes: Where to note rows that are none.

    Yields:
        The rows that have all of the needed keys.

    Raises:
        UnsupportedValueError: If a file can't be read, or a folder has none.
    """
    for path in paths:
        files = sorted(one for one in path.iterdir() if one.suffix in LINES) if path.is_dir() else [path]
        if not files:
            raise UnsupportedValueError(f"{path}: no file in it ends in {' or '.join(LINES)}")
        for file in files:
            if file.suffix not in LINES:
                raise UnsupportedValueError(f"{file}: give JSON lines, a file that ends in {' or '.join(LINES)}")
            for row in read_rows(file, needed, wanted, mistakes):
                missing = next((key for key in needed if key not in row.values), None)
                if missing is not None:
                    mistakes.add(row.source, f"no {missing!r}")
                else:
                    yield row


def messages_of(raw: Any, *, last: str | None = None) -> list[Message]:
    """Messages as a chat template takes them.

    Args:
        raw: What a row has.
        last: Whose message the last one must be; None for anybody's.

    Returns:
        The same, with `role` and `content` alone.

    Raises:
        ValueError: If it is no list of messages, or they are not in turns; says where.
    """
    if not isinstance(raw, list) or not raw:
        raise ValueError("its messages are no list with one in it")
    messages: list[Message] = []
    for at, one in enumerate(raw):
        role, content = (one.get("role"), one.get("content")) if isinstance(one, dict) else (None, None)
        if role not in ("system", "user", "assistant"):
            raise ValueError(f"message {at + 1} has no role of system, user or assistant")
        if not isinstance(content, str) or not content.strip():
            raise ValueError(f"message {at + 1} has no text as its content")
        messages.append({"role": role, "content": content})
    turns = [one["role"] for one in messages if one["role"] != "system"]
    systems = len(messages) - len(turns)
    if systems > 1 or (systems and messages[0]["role"] != "system"):
        raise ValueError("a system message stands elsewhere than first")
    if turns != ["user" if at % 2 == 0 else "assistant" for at in range(len(turns))] or not turns:
        raise ValueError("its messages are not user's and assistant's in turns, the user's first")
    if last is not None and turns[-1] != last:
        raise ValueError(f"its last message is not the {last}'s")
    return messages


def with_system(messages: Sequence[Message], asked: str) -> list[Message]:
    """Put into the system prompt what is asked for, as `lec_guard.generate.paired` does.

    Args:
        messages: A conversation.
        asked: What is asked for; comes after what the system prompt says already.

    Returns:
        The conversation with it.
    """
    if messages[0]["role"] == "system":
        return [{**messages[0], "content": f"{messages[0]['content']}\n\n{asked}"}, *messages[1:]]
    return [{"role": "system", "content": asked}, *messages]


def _name(raw: Any, messages: Sequence[Message]) -> str:
    if raw is None:
        return hashlib.sha256(json.dumps(list(messages), sort_keys=True).encode()).hexdigest()[:16]
    if isinstance(raw, bool) or not isinstance(raw, str | int) or not str(raw).strip():
        raise ValueError("its id is no text or number")
    return str(raw)
