"""A lens: what LangChain passes from step to step -> the steps that a guard judges.

Every text in a value becomes part of a step, or the value is refused: nothing passes unread. What belongs
together is one step (the text blocks of a message, the keys and leaves of a tool call), so that an attack
split over the parts is read in one piece.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from langchain_core.documents import Document
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    BaseMessageChunk,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    convert_to_messages,
)
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables.utils import AddableDict
from pydantic import BaseModel

from lec_guard.errors import UnsupportedValueError
from lec_guard.step import Origin, Stage, Step, ToolRef, Trust

_DEEPEST = 64
"""Levels of nesting that are read; deeper values are refused."""

_ROLES = {
    "human": "input",
    "user": "input",
    "ai": "output",
    "assistant": "output",
    "tool": "tool_output",
    "function": "tool_output",
    "system": "system",
    "developer": "system",
}
"""Role of a message -> its stage, or `system`."""

_MEDIA = {
    "image",
    "image_url",
    "input_image",
    "audio",
    "input_audio",
    "video",
    "file",
    "input_file",
    "document",
    "media",
}
_CALLS = {"tool_use", "tool_call", "tool_call_chunk", "function_call", "server_tool_call", "input_json_delta"}
_NOT_TEXT = {"type", "id", "index", "signature", "cache_control"}
"""Keys of a content block that say how it is built, not what it says."""


@dataclass(frozen=True, slots=True)
class _Talk:
    """What a message of a conversation is judged against."""

    system: str | None = None
    request: str | None = None


def steps_of(value: object, stage: Stage | None = None, request: str | None = None) -> list[Step]:
    """The steps in a value.

    A message's role is its stage: human is `input`, AI `output`, tool `tool_output`; each tool call of an
    AI message is a `tool_input` of its own. A document is `retrieval`. System messages are the operator's
    own words and the context of the others; only where a value has nothing else are they judged, as
    `input`.

    Args:
        value: A str, prompt value, message or chunk, list of messages in any form that LangChain takes,
            document, tool call, pydantic object, or dict or list of those.
        stage: The stage of texts that have no role of their own. None: the direction is not known, and
            such a text becomes two steps, `input` and `output`.
        request: The request that an output answers, where the value itself does not hold it.

    Returns:
        At least one step.

    Raises:
        UnsupportedValueError: If any part of the value can't be read; says which.
    """
    steps = list(_Lens(stage, request).read(value, "the value", 0))
    return list(dict.fromkeys(steps))


def request_of(value: object) -> str | None:
    """The text of a value's last user message, as context for what answers it.

    Args:
        value: Anything that `steps_of` reads.

    Returns:
        The text, or None where there is no user text.
    """
    inputs = [step.text for step in steps_of(value, "input") if step.stage == "input"]
    return inputs[-1] if inputs else None


class _Lens:
    """One reading of a value."""

    def __init__(self, stage: Stage | None, request: str | None) -> None:
        self._stages: tuple[Stage, ...] = ("input", "output") if stage is None else (stage,)
        self._request = request

    def read(self, value: object, at: str, depth: int) -> Iterator[Step]:
        if depth > _DEEPEST:
            raise UnsupportedValueError(f"{at}: nested more than {_DEEPEST} deep")
        if isinstance(value, str):
            yield from self._text(str(value))
        elif isinstance(value, BaseMessage) or _is_message(value):
            yield from self._conversation([value], at)
        elif isinstance(value, PromptValue):
            yield from self._conversation(value.to_messages(), at)
        elif isinstance(value, Document):
            yield _document(value, at)
        elif _is_call(value):
            call = cast("Mapping[str, Any]", value)
            yield _call(call["name"], call["args"], self._request, at)
        elif isinstance(value, list | tuple | set | frozenset) and any(
            isinstance(item, BaseMessage) or _is_message(item) for item in value
        ):
            yield from self._conversation(value, at)
        elif isinstance(value, Mapping | BaseModel | list | tuple | set | frozenset):
            yield from self._container(value, at, depth)
        else:
            raise UnsupportedValueError(
                f"{at} is a {type(value).__name__}, which the guard can't read; give it text, messages, documents, "
                "tool calls, pydantic objects, or dicts and lists of those"
            )

    def _text(self, text: str) -> Iterator[Step]:
        for stage in self._stages:
            yield Step(stage=stage, text=text, context=self._request if stage == "output" else None)

    def _container(self, value: object, at: str, depth: int) -> Iterator[Step]:
        """Texts without a role are one step; messages and documents among them are steps of their own."""
        lines: list[str] = []
        parts: list[tuple[object, str]] = []
        found = _walk(value, "", at, depth, lines, parts)
        for part, where in parts:
            yield from self.read(part, where, depth + 1)
        if found or not parts:
            yield from self._text("\n".join(lines))

    def _conversation(self, items: Iterable[object], at: str) -> Iterator[Step]:
        talk = _Talk(request=self._request)
        system: list[BaseMessage] = []
        judged = 0
        for number, item in enumerate(items):
            message = _message(item, f"{at}[{number}]")
            role = _role(message)
            text = _content(message, f"{at}[{number}]")
            if role == "system":
                system.append(message)
                talk = _Talk(system="\n".join(filter(None, [talk.system, text])), request=talk.request)
                continue
            for step in _message_steps(message, role, text, talk, f"{at}[{number}]"):
                judged += 1
                yield step
            if role == "input":
                talk = _Talk(system=talk.system, request=text)
        if not judged and system:
            yield Step(stage="input", text=talk.system or "", origin=Origin(trust="operator", ids=_ids(*system)))
        elif not judged:
            raise UnsupportedValueError(f"{at} is an empty list of messages: there is nothing to judge")


def _message_steps(message: BaseMessage, role: Stage, text: str, talk: _Talk, at: str) -> Iterator[Step]:
    calls: list[Step] = []
    if isinstance(message, AIMessage):
        for call in message.tool_calls:
            calls.append(_call(call["name"], call["args"], talk.request, at))
        for broken in message.invalid_tool_calls:
            calls.append(_call(broken["name"] or "", broken["args"] or "", talk.request, at))
    blocks = message.content if isinstance(message.content, list) else []
    for block in blocks:
        if isinstance(block, dict) and block.get("type") in _CALLS:
            given = block.get("input", block.get("args", block.get("arguments", block.get("partial_json", ""))))
            calls.append(_call(str(block.get("name", "")), given, talk.request, at))
    for key in ("tool_calls", "function_call"):
        raw = message.additional_kwargs.get(key)
        if raw and not (isinstance(message, AIMessage) and (message.tool_calls or message.invalid_tool_calls)):
            calls.append(_call("", raw, talk.request, at))
    if text or not calls:
        tool = ToolRef(name=message.name or "") if role == "tool_output" else None
        yield Step(
            stage=role,
            text=text,
            context=talk.system if role == "input" else talk.request,
            tool=tool,
            origin=Origin(trust=_TRUST.get(role, "third_party"), ids=_ids(message)),
        )
    yield from calls


_TRUST: dict[Stage, Trust] = {"input": "user", "output": "model"}


def _content(message: BaseMessage, at: str) -> str:
    """All text of a message but its tool calls, one line a part."""
    blocks = [message.content] if isinstance(message.content, str) else message.content
    lines = []
    for block in blocks:
        if isinstance(block, str):
            lines.append(block)
        elif block.get("type") in _MEDIA:
            raise UnsupportedValueError(
                f"{at} holds a block of type {block['type']!r}: the guard reads text, and passes nothing unread"
            )
        elif block.get("type") not in _CALLS:
            for key, value in block.items():
                if key not in _NOT_TEXT:
                    _walk(value, "" if key == block.get("type") else key, at, 0, lines, None)
    extra = {k: v for k, v in message.additional_kwargs.items() if k not in ("tool_calls", "function_call")}
    _walk(extra, "", at, 0, lines, None)
    if message.name and not isinstance(message, ToolMessage | FunctionMessage):
        lines.append(f"name: {message.name}")
    return "\n".join(lines)


def _walk(
    value: object, key: str, at: str, depth: int, lines: list[str], parts: list[tuple[object, str]] | None
) -> bool:
    """Collect keys and leaves as lines; put what has a stage of its own into `parts`, where that is allowed.

    Returns whether there was any text: a key of a dict alone is none.
    """
    if depth > _DEEPEST:
        raise UnsupportedValueError(f"{at}: nested more than {_DEEPEST} deep")
    prefix = f"{key}: " if key else ""
    if value is None:
        return False
    # Before str: an enum may be one too, and its value is what a model is shown.
    if isinstance(value, enum.Enum):
        return _walk(value.value, key, at, depth + 1, lines, parts)
    if isinstance(value, str):
        lines.append(f"{prefix}{value!s}")
        return True
    if isinstance(value, int | float | decimal.Decimal | uuid.UUID | datetime.date | datetime.time):
        lines.append(f"{prefix}{value}")
        return False
    if parts is not None and _has_stage(value):
        parts.append((value, at))
        return False
    found = False
    if isinstance(value, Mapping | BaseModel):
        # Not model_dump(): it leaves out fields that are marked as excluded.
        for name, item in value.items() if isinstance(value, Mapping) else value:
            found |= _walk(item, str(name), f"{at}.{name}", depth + 1, lines, parts)
        return found
    if isinstance(value, list | tuple | set | frozenset):
        for number, item in enumerate(value):
            found |= _walk(item, key, f"{at}[{number}]", depth + 1, lines, parts)
        return found
    raise UnsupportedValueError(f"{at} is a {type(value).__name__}, which the guard can't read as text")


def _has_stage(value: object) -> bool:
    if isinstance(value, BaseMessage | PromptValue | Document) or _is_message(value) or _is_call(value):
        return True
    return isinstance(value, list | tuple) and any(isinstance(item, BaseMessage) or _is_message(item) for item in value)


def _is_message(value: object) -> bool:
    """Whether LangChain takes a value in a list of messages for a message, other than a plain str."""
    if isinstance(value, Mapping):
        role = value.get("role", value.get("type"))
        return isinstance(role, str) and role in _ROLES and "content" in value
    return (
        isinstance(value, tuple) and len(value) == 2 and all(isinstance(v, str) for v in value) and value[0] in _ROLES
    )


def _is_call(value: object) -> bool:
    return isinstance(value, Mapping) and value.get("type") == "tool_call" and "name" in value and "args" in value


def _message(item: Any, at: str) -> BaseMessage:
    if isinstance(item, BaseMessage):
        return item
    try:
        return convert_to_messages([item])[0]
    except (ValueError, NotImplementedError, TypeError, KeyError) as error:
        raise UnsupportedValueError(f"{at} is no message: {error}") from error


def _role(message: BaseMessage) -> Any:
    if isinstance(message, HumanMessage):
        return "input"
    if isinstance(message, AIMessage):
        return "output"
    if isinstance(message, SystemMessage):
        return "system"
    if isinstance(message, ToolMessage | FunctionMessage):
        return "tool_output"
    if isinstance(message, ChatMessage):
        return _ROLES.get(message.role.lower(), "input")
    return "input"


def _document(document: Document, at: str) -> Step:
    lines = [document.page_content]
    _walk(document.metadata, "", f"{at}.metadata", 0, lines, None)
    ids = (document.id,) if document.id else ()
    return Step(stage="retrieval", text="\n".join(lines), origin=Origin(trust="third_party", ids=ids))


def _call(name: str, args: object, request: str | None, at: str) -> Step:
    """A tool call: its name is the tool's, its keys and leaves are the text."""
    lines: list[str] = []
    _walk(args, "", f"{at}, arguments of {name!r}", 0, lines, None)
    return Step(
        stage="tool_input",
        text="\n".join(lines),
        context=request,
        tool=ToolRef(name=name),
        origin=Origin(trust="model"),
    )


def _ids(*messages: BaseMessage) -> tuple[str, ...]:
    return tuple(message.id for message in messages if message.id)


def merged(chunks: Sequence[Any]) -> list[Any]:
    """Put the chunks of a stream together for reading.

    Args:
        chunks: All chunks, in order.

    Returns:
        One value where chunks of this kind add up to one (text, message chunks, LangChain's addable
        dicts); else the chunks as they are, each to be read by itself.
    """
    kinds = (str, BaseMessageChunk, AddableDict)
    if len(chunks) > 1 and any(all(isinstance(chunk, kind) for chunk in chunks) for kind in kinds):
        total = chunks[0]
        try:
            for chunk in chunks[1:]:
                total = total + chunk
        except TypeError:
            return list(chunks)
        return [total]
    return list(chunks)
