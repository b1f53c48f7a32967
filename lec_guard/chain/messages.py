"""A lens: what LangChain passes from step to step -> the steps that a guard judges.

Every text in a value becomes part of a step, or the value is refused: nothing passes unread. What belongs
together is one step (the text blocks of a message, the keys and leaves of a tool call), so that an attack
split over the parts is read in one piece.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
import numbers
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePath
from typing import Any

from langchain_core.documents import Document
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    SystemMessage,
    ToolMessage,
    convert_to_messages,
)
from langchain_core.prompt_values import ImagePromptValue, PromptValue
from pydantic import BaseModel

from lec_guard.errors import UnsupportedValueError
from lec_guard.step import Origin, Stage, Step, ToolRef, Trust

DEEPEST = 64
"""Levels of nesting that are read; deeper values are refused."""

_ROLES: dict[str, Stage | None] = {
    "human": "input",
    "user": "input",
    "ai": "output",
    "assistant": "output",
    "tool": "tool_output",
    "function": "tool_output",
    "system": None,
    "developer": None,
}
"""Role of a message -> its stage; None is the operator's own."""

_TRUST: dict[Stage, Trust] = {"input": "user", "output": "model"}

_CALLS = {
    "tool_use", "tool_call", "tool_call_chunk", "function_call", "input_json_delta", "server_tool_call",
    "server_tool_call_chunk", "server_tool_use", "mcp_tool_use", "mcp_call", "custom_tool_call",
    "code_interpreter_call", "web_search_call", "file_search_call",
}  # fmt: skip
_RESULTS = ("tool_result", "function_call_output")
"""How the types of blocks with a tool's result end."""
_MEDIA = {
    "image", "image_url", "input_image", "image_generation_call", "computer_screenshot", "audio", "input_audio",
    "video", "file", "input_file", "document", "media",
}  # fmt: skip
_MEDIA_KEYS = {"base64", "image_url", "file_data", "input_audio"}
_NOT_TEXT = {"type", "id", "index", "signature", "cache_control"}
"""Keys of a content block that say how it is built, not what it says."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,31}")
"""A key that says nothing by itself, and that an error message may show."""


def steps_of(value: object, stage: Stage | None = None, request: str | None = None) -> list[Step]:
    """The steps in a value.

    A message's role is its stage: human is `input`, AI `output`, tool `tool_output`; each tool call of an
    AI message is a `tool_input` of its own. A document is `retrieval`. System messages are the operator's
    own words and the context of the others; only where a value has nothing else are they judged, as
    `input`.

    Dicts and tuples with a role are messages where LangChain takes them for such: as the value, in a list that
    is the value, under the key `messages`, or in a list with a message object. Anywhere else they are data, and
    all of it is read.

    Args:
        value: A str, prompt value, message or chunk, list of messages in any form that LangChain takes,
            document, tool call, pydantic object, dataclass, scalar, or dict or list of those.
        stage: The stage of texts that have no role of their own. None: the direction is not known, and
            such a text becomes two steps, `input` and `output`.
        request: The request that an output answers, where the value itself does not hold it.

    Returns:
        At least one step.

    Raises:
        UnsupportedValueError: If any part of the value can't be read; says which, and never its text.
    """
    return list(dict.fromkeys(_Lens(stage, request).read(value, "the value", 0, top=True)))


def request_of(value: object) -> str | None:
    """The text of a value's last user message, as context for what answers it.

    Args:
        value: Anything that `steps_of` reads.

    Returns:
        The text, or None where there is no user text.
    """
    inputs = [step.text for step in steps_of(value, "input") if step.stage == "input"]
    return inputs[-1] if inputs else None


# --- values


class _Lens:
    """One reading of a value."""

    def __init__(self, stage: Stage | None, request: str | None) -> None:
        self._stages: tuple[Stage, ...] = ("input", "output") if stage is None else (stage,)
        self._request = request

    def read(self, value: object, at: str, depth: int, *, top: bool = False) -> Iterator[Step]:
        """The steps of a value, or of a part that has a stage of its own."""
        if isinstance(value, BaseMessage):
            yield from self._conversation([value], at)
        elif isinstance(value, ImagePromptValue):
            raise UnsupportedValueError(f"{at} is an image: the guard reads text, and passes nothing unread")
        elif isinstance(value, PromptValue):
            yield from self._conversation(value.to_messages(), at)
        elif isinstance(value, Document):
            yield _document(value, at)
        elif _is_call(value):
            yield _call(value, self._request, at)
        elif _is_talk(value, loose=top and "input" in self._stages):
            yield from self._conversation(value if isinstance(value, list) else [value], at)
        else:
            yield from self._data(value, at, depth)

    def _data(self, value: object, at: str, depth: int) -> Iterator[Step]:
        """Texts without a role are one step; messages and documents among them are steps of their own."""
        found = Texts(apart=True)
        found.walk(value, "", at, depth)
        for part, where, deep in found.parts:
            yield from self.read(part, where, deep)
        if found.said or not found.parts:
            for stage in self._stages:
                context = self._request if stage == "output" else None
                yield Step(stage=stage, text="\n".join(found.lines), context=context)

    def _conversation(self, items: Iterable[object], at: str) -> Iterator[Step]:
        request = self._request
        system: list[str] = []
        judged = 0
        for number, item in enumerate(items):
            where = f"{at}[{number}]"
            message = _message(item, where)
            stage = _stage(message)
            text, variants = _content(message, where)
            if stage is None:
                system.append(text)
                continue
            context = "\n".join(system) or None if stage == "input" else request
            for step in _message_steps(message, stage, variants, context, request, where):
                judged += 1
                yield step
            if stage == "input":
                request = text
        if not judged:
            yield Step(stage="input", text="\n".join(system), origin=Origin(trust="operator"))


class Texts:
    """Keys and leaves of a value, a line each.

    Args:
        apart: Whether messages, documents and tool calls are set apart as `parts` instead.
        media: Whether images and the like are data, not something that a model is shown.
    """

    def __init__(self, *, apart: bool = False, media: bool = True) -> None:
        self.lines: list[str] = []
        self.parts: list[tuple[object, str, int]] = []
        self.said = False
        self._apart = apart
        self._media = media

    def walk(self, value: object, key: str, at: str, depth: int) -> None:
        """Read a value; `key` is the name it goes by in what is around it."""
        if depth > DEEPEST:
            raise UnsupportedValueError(f"{at}: nested more than {DEEPEST} deep")
        if key and not _NAME.fullmatch(key):
            self.said = True
        # Before str and int: an enum may be one too, and its value is what a model is shown.
        if isinstance(value, enum.Enum):
            self.walk(value.value, key, at, depth + 1)
        elif isinstance(value, str | PurePath | BaseException):
            self._line(key, str(value))
            self.said = True
        elif value is None:
            self._line(key, "")
        elif is_scalar(value):
            self._line(key, str(value))
        elif self._apart and (isinstance(value, BaseMessage | PromptValue | Document) or _is_call(value)):
            self._line(key, "")
            self.parts.append((value, at, depth + 1))
        elif self._apart and _is_talk(value, loose=key == "messages"):
            self._line(key, "")
            self.parts.append((_Talk(value), at, depth + 1))
        elif isinstance(value, list | tuple | set | frozenset):
            if not value:
                self._line(key, "")
            for number, item in enumerate(value):
                self.walk(item, key, f"{at}[{number}]", depth + 1)
        else:
            self._fields(value, key, at, depth)

    def _fields(self, value: object, key: str, at: str, depth: int) -> None:
        items = items_of(value)
        if items is None:
            raise UnsupportedValueError(
                f"{at} is a {type(value).__name__}, which the guard can't read; give it text, messages, documents, "
                "tool calls, pydantic objects, dataclasses, or dicts and lists of those"
            )
        if not self._media:
            _refuse_media(dict(items), at)
        if key:
            self._line(key, "")
        for number, (name, item) in enumerate(items):
            self.walk(item, name, f"{at}.{name if _NAME.fullmatch(name) else f'<key {number}>'}", depth + 1)

    def _line(self, key: str, text: str) -> None:
        if key or text:
            self.lines.append(f"{key}: {text}" if key and text else key or text)


class _Talk(list[object]):
    """Messages that were found inside other data."""

    def __init__(self, value: object) -> None:
        super().__init__(value if isinstance(value, list | tuple) and not _is_loose_message(value) else [value])


def items_of(value: object) -> list[tuple[str, object]] | None:
    """Names and values of everything in a dict, pydantic object or dataclass; None for anything else."""
    if isinstance(value, Mapping):
        return [(str(name), item) for name, item in value.items()]
    if isinstance(value, BaseModel):
        # Not model_dump(), which leaves out excluded fields, nor the object's own idea of iterating.
        fields = list(BaseModel.__iter__(value))
        return fields + [(name, getattr(value, name)) for name in type(value).model_computed_fields]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    return None


def is_scalar(value: object) -> bool:
    """Whether a value is a number, date, time or identifier: a leaf that is read as it prints."""
    if isinstance(value, numbers.Number | uuid.UUID | datetime.date | datetime.time | datetime.timedelta):
        return True
    # NumPy's scalars, which re-rankers leave in metadata.
    return type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0


# --- messages


def _is_loose_message(value: object) -> bool:
    """Whether LangChain takes a value in a list of messages for one, though it is no message object."""
    if isinstance(value, Mapping):
        role = value.get("role", value.get("type"))
        return isinstance(role, str) and role in _ROLES and "content" in value
    return (
        isinstance(value, tuple) and len(value) == 2 and all(isinstance(v, str) for v in value) and value[0] in _ROLES
    )


def _is_talk(value: object, *, loose: bool) -> bool:
    """Whether a value is a message or a list of them; `loose`: role dicts and tuples count, if they can be read."""
    if isinstance(value, _Talk):
        return True
    if isinstance(value, list | tuple) and any(isinstance(item, BaseMessage) for item in value):
        return True
    if not loose:
        return False
    items = value if isinstance(value, list) else [value]
    if not any(_is_loose_message(item) for item in items):
        return False
    try:
        return all(_coerced(item) for item in items)
    except Exception:  # noqa: BLE001 - data that LangChain can't make a message of is data
        return False


def _coerced(item: Any) -> BaseMessage:
    return item if isinstance(item, BaseMessage) else convert_to_messages([item])[0]


def _message(item: object, at: str) -> BaseMessage:
    try:
        return _coerced(item)
    except Exception:  # noqa: BLE001 - whatever LangChain or pydantic raise
        # Not LangChain's message: it shows the text.
        raise UnsupportedValueError(f"{at} is a {type(item).__name__} among messages, but no message") from None


def _stage(message: BaseMessage) -> Stage | None:
    """The stage of a message's role; None for the operator's own."""
    if isinstance(message, SystemMessage):
        return None
    if isinstance(message, AIMessage):
        return "output"
    if isinstance(message, ToolMessage | FunctionMessage):
        return "tool_output"
    if isinstance(message, ChatMessage):
        return _ROLES.get(message.role.lower(), "input")
    return "input"


def _content(message: BaseMessage, at: str) -> tuple[str, list[str]]:
    """The text of a message but for its tool calls and results, and all the ways in which it may be put together.

    LangChain's `.text` puts text blocks together without a space, providers show them apart: both are read.
    """
    found = Texts(media=False)
    texts: list[str] = []
    for number, block in enumerate(_blocks(message)):
        if isinstance(block, str):
            texts.append(block)
            found.lines.append(block)
        elif block.get("type") == "text" and isinstance(block.get("text"), str):
            texts.append(block["text"])
            found.lines.append(block["text"])
            _block_lines({k: v for k, v in block.items() if k != "text"}, found, f"{at}.content[{number}]")
        elif not _is_call_block(block) and not _is_result_block(block):
            _block_lines(block, found, f"{at}.content[{number}]")
    extra = {k: v for k, v in message.additional_kwargs.items() if k not in ("tool_calls", "function_call") and v}
    found.walk(extra, "", f"{at}.additional_kwargs", 0)
    if message.name and not isinstance(message, ToolMessage | FunctionMessage):
        found.lines.append(f"name: {message.name}")
    text = "\n".join(found.lines)
    return text, list(dict.fromkeys([text, "".join(texts)])) if len(texts) > 1 else [text]


def _blocks(message: BaseMessage) -> list[str | dict[str, Any]]:
    return [message.content] if isinstance(message.content, str) else message.content


def _block_lines(block: Mapping[str, Any], found: Texts, at: str) -> None:
    _refuse_media(block, at)
    kind = block.get("type")
    for key, value in block.items():
        if key not in _NOT_TEXT and value is not None and value != []:
            found.walk(value, "" if key == kind else key, f"{at}.{key}", 0)


def _refuse_media(block: Mapping[str, Any], at: str) -> None:
    kind = block.get("type")
    if (isinstance(kind, str) and kind in _MEDIA) or any(block.get(key) for key in _MEDIA_KEYS):
        raise UnsupportedValueError(
            f"{at} is a block of media ({kind if isinstance(kind, str) and kind in _MEDIA else 'no text'}): "
            "the guard reads text, and passes nothing unread"
        )


def _is_call_block(block: object) -> bool:
    return isinstance(block, dict) and isinstance(block.get("type"), str) and block["type"] in _CALLS


def _is_result_block(block: object) -> bool:
    return isinstance(block, dict) and isinstance(block.get("type"), str) and block["type"].endswith(_RESULTS)


def _message_steps(
    message: BaseMessage, stage: Stage, texts: list[str], context: str | None, request: str | None, at: str
) -> Iterator[Step]:
    others = [*_calls(message, request, at), *_results(message, request, at)]
    if any(texts) or not others:
        tool = ToolRef(name=message.name or "") if stage == "tool_output" else None
        ids = (message.id,) if message.id else ()
        origin = Origin(trust=_TRUST.get(stage, "third_party"), ids=ids)
        for text in texts:
            yield Step(stage=stage, text=text, context=context, tool=tool, origin=origin)
    yield from others


def _calls(message: BaseMessage, request: str | None, at: str) -> Iterator[Step]:
    """Every form in which a message carries tool calls; what says the same makes the same step."""
    if isinstance(message, AIMessage):
        for call in message.tool_calls:
            yield _call(call, request, at)
        for broken in message.invalid_tool_calls:
            yield _call({"name": broken["name"], "args": broken["args"], "error": broken["error"]}, request, at)
    if isinstance(message, AIMessageChunk):
        pieces: dict[object, tuple[str, str]] = {}
        for number, chunk in enumerate(message.tool_call_chunks):
            key = number if chunk["index"] is None else f"index {chunk['index']}"
            name, args = pieces.get(key, ("", ""))
            pieces[key] = (name + (chunk["name"] or ""), args + (chunk["args"] or ""))
        for name, args in pieces.values():
            yield _call({"name": name, "args": _parsed(args)}, request, at)
    for block in _blocks(message):
        if _is_call_block(block):
            yield _call(block, request, at)
    raw = message.additional_kwargs.get("tool_calls") or []
    for entry in [*(raw if isinstance(raw, list) else [raw]), message.additional_kwargs.get("function_call")]:
        if entry:
            yield _call(_flat(entry), request, at)


def _flat(entry: object) -> dict[str, Any]:
    """A provider's form of a call, `{"function": {"name", "arguments"}}`, as LangChain's."""
    if not isinstance(entry, dict):
        return {"args": entry}
    function = entry.get("function", entry)
    if not isinstance(function, dict):
        return {"args": entry}
    outside = (
        {k: v for k, v in entry.items() if k not in ("function", "type", "id", "index")} if "function" in entry else {}
    )
    rest = {k: v for k, v in function.items() if k not in ("name", "arguments")}
    return {"name": function.get("name"), "args": _parsed(function.get("arguments")), **rest, **outside}


def _parsed(arguments: object) -> object:
    """JSON as the arguments that it stands for, unless that would lose a part of the text."""
    if not isinstance(arguments, str):
        return arguments

    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) != len(pairs):
            raise ValueError
        return dict(pairs)

    try:
        parsed = json.loads(arguments, object_pairs_hook=distinct)
    except (ValueError, RecursionError):
        return arguments
    return parsed if isinstance(parsed, dict) else arguments


def _is_call(value: object) -> bool:
    return isinstance(value, Mapping) and value.get("type") == "tool_call" and "name" in value and "args" in value


def _call(call: Any, request: str | None, at: str) -> Step:
    """A tool call: its name is the tool's, all its other keys and leaves are the text."""
    found = Texts()
    for key, value in call.items():
        if key not in (*_NOT_TEXT, "name") and value not in (None, ""):
            # What holds the arguments goes by many names; theirs count.
            named = isinstance(value, Mapping | list) or key in ("args", "arguments", "input", "partial_json")
            found.walk(value, "" if named else key, f"{at}, a tool call", 0)
    name = call.get("name")
    if name is not None and not isinstance(name, str):
        found.walk(name, "name", f"{at}, a tool call", 0)
    return Step(
        stage="tool_input",
        text="\n".join(found.lines),
        context=request,
        tool=ToolRef(name=name if isinstance(name, str) else ""),
        origin=Origin(trust="model"),
    )


def _results(message: BaseMessage, request: str | None, at: str) -> Iterator[Step]:
    """Results of tools inside other messages: third-party text, whatever the message's role."""
    for number, block in enumerate(_blocks(message)):
        if isinstance(block, dict) and _is_result_block(block):
            found = Texts(media=False)
            _block_lines(block, found, f"{at}.content[{number}]")
            name = block.get("name")
            yield Step(
                stage="tool_output",
                text="\n".join(found.lines),
                context=request,
                tool=ToolRef(name=name if isinstance(name, str) else ""),
                origin=Origin(trust="third_party"),
            )


def _document(document: Document, at: str) -> Step:
    found = Texts()
    found.walk(document.metadata, "", f"{at}.metadata", 0)
    ids = (document.id,) if document.id else ()
    text = "\n".join([document.page_content, *found.lines])
    return Step(stage="retrieval", text=text, origin=Origin(trust="third_party", ids=ids))
