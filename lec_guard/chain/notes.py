"""What the system prompt has to say for texts that pass, put where it belongs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import BaseMessage, SystemMessage
from langchain_core.prompt_values import ChatPromptValue


def with_notes(value: Any, notes: Sequence[str], *, apart: bool = False) -> Any:
    """A conversation whose system prompt has notes.

    Args:
        value: What goes to a model.
        notes: What it has to be told; a note that is there already is not told again.
        apart: Whether notes are messages of their own, because system messages are a caller's.

    Returns:
        A new list of messages, chat prompt or dict of messages; anything else as it is, for it has no place for a
        system prompt.
    """
    if isinstance(value, ChatPromptValue):
        return ChatPromptValue(messages=with_notes(list(value.messages), notes, apart=apart))
    if isinstance(value, list) and value and all(isinstance(item, BaseMessage) for item in value):
        return _apart(value, notes) if apart else _noted(value, notes)
    if isinstance(value, Mapping) and isinstance(value.get("messages"), list):
        return {**value, "messages": with_notes(value["messages"], notes, apart=apart)}
    return value


def _noted(messages: list[Any], notes: Sequence[str]) -> list[Any]:
    first = messages[0] if messages and isinstance(messages[0], SystemMessage) else None
    told = "" if first is None else first.text
    missing = [note for note in notes if note not in told]
    if not missing:
        return messages
    said = "\n\n".join(missing)
    if first is None:
        return [SystemMessage(content=said), *messages]
    blocks = (
        [first.content, said] if isinstance(first.content, str) else [*first.content, {"type": "text", "text": said}]
    )
    content = "\n\n".join(map(str, blocks)) if isinstance(first.content, str) else blocks
    return [first.model_copy(update={"content": content}), *messages[1:]]


def _apart(messages: list[Any], notes: Sequence[str]) -> list[Any]:
    told = [message.content for message in messages if isinstance(message, SystemMessage)]
    missing = [note for note in notes if note not in told]
    return [*(SystemMessage(content=note) for note in missing), *messages] if missing else messages
