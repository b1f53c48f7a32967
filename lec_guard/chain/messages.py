"""The reading side of a lens: what LangChain passes from step to step -> the steps that a guard judges.

Every text in a value becomes part of a step, or the value is refused: nothing passes unread. What belongs
together is one step (the text blocks of a message, the keys and leaves of a tool call), so that an attack
split over the parts is read in one piece. The way back, from edits of those texts to a value, is
`lec_guard.chain.lens`; the paths that are noted here are all that it goes by.
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
from typing import Any, Literal, cast, get_args

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
from langchain_core.prompt_values import ChatPromptValue, ImagePromptValue, PromptValue, StringPromptValue
from pydantic import BaseModel

from lec_guard.act.quarantine import NOTE
from lec_guard.chain.segments import Path, Source, Told
from lec_guard.errors import UnsupportedValueError
from lec_guard.step import Origin, Stage, Step, ToolRef, Trust

SystemMessages = Literal["trusted", "judged"]
"""Whose system messages are: `trusted`, the operator's own and context of the others; or `judged` like a user's, for a
caller may have written them."""

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
"""Role of a message -> its stage; None is a system message's."""

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


def steps_of(
    value: object,
    stage: Stage | None = None,
    request: str | None = None,
    system_messages: SystemMessages = "trusted",
) -> list[Step]:
    """The steps in a value.

    A message's role is its stage: human is `input`, AI `output`, tool `tool_output`; each tool call of an
    AI message is a `tool_input` of its own. A document is `retrieval`. System messages are the operator's
    own words and the context of the others; only where a value has nothing else are they judged, as
    `input`. With `judged` they are a user's messages in all respects, but for the guard's own note of what a
    quarantine means.

    Dicts and tuples with a role are messages where LangChain takes them for such: as the value, in a list that
    is the value, under the key `messages`, or in a list with a message object. Anywhere else they are data, and
    all of it is read.

    Args:
        value: A str, prompt value, message or chunk, list of messages in any form that LangChain takes,
            document, tool call, pydantic object, dataclass, scalar, or dict or list of those.
        stage: The stage of texts that have no role of their own. None: the direction is not known, and
            such a text becomes two steps, `input` and `output`.
        request: The request that an output answers, where the value itself does not hold it.
        system_messages: Whose system messages are.

    Returns:
        At least one step.

    Raises:
        UnsupportedValueError: If any part of the value can't be read; says which, and never its text.
    """
    told = tell(value, stage, request, system_messages)
    return list(dict.fromkeys([one.step for one in told if one.step is not None]))


def tell(
    value: object,
    stage: Stage | None = None,
    request: str | None = None,
    system_messages: SystemMessages = "trusted",
) -> list[Told]:
    """Everything that is read in a value, with where it stands there.

    Args:
        value: As for `steps_of`.
        stage: As for `steps_of`.
        request: As for `steps_of`.
        system_messages: As for `steps_of`.

    Returns:
        In the order of `steps_of`; equal steps of several sources once for each. System messages that are only context
        are among them.

    Raises:
        UnsupportedValueError: As of `steps_of`.
    """
    return list(_Lens(stage, request, system_messages).read(value, "the value", 0, (), top=True))


def request_of(value: object, system_messages: SystemMessages = "trusted") -> str | None:
    """The text of a value's last user message, as context for what answers it.

    Args:
        value: Anything that `steps_of` reads.
        system_messages: As for `steps_of`.

    Returns:
        The text, or None where there is no user text.
    """
    inputs = [step.text for step in steps_of(value, "input", None, system_messages) if step.stage == "input"]
    return inputs[-1] if inputs else None


def known_system_messages(name: str) -> SystemMessages:
    """The way to take system messages that goes by a name: a wrong one would leave them unread.

    Args:
        name: What an option was given.

    Returns:
        The same.

    Raises:
        UnsupportedValueError: If there is no such way.
    """
    for one in get_args(SystemMessages):
        if one == name:
            return cast("SystemMessages", one)
    raise UnsupportedValueError(f"system_messages: use {' or '.join(get_args(SystemMessages))}")


def is_system(message: BaseMessage) -> bool:
    """Whether a message speaks to a model as the operator, by whatever name of that role.

    Args:
        message: The message.

    Returns:
        Whether it is a system message, or one of a developer.
    """
    return _stage(message) is None


# --- values


class _Lens:
    """One reading of a value."""

    def __init__(self, stage: Stage | None, request: str | None, system_messages: SystemMessages) -> None:
        self._stages: tuple[Stage, ...] = ("input", "output") if stage is None else (stage,)
        self._request = request
        self._judges_system = system_messages == "judged"

    def read(self, value: object, at: str, depth: int, path: Path, *, top: bool = False) -> Iterator[Told]:
        """What is read in a value, or in a part that has a stage of its own."""
        if isinstance(value, BaseMessage):
            yield from self._conversation([(value, path)], at)
        elif isinstance(value, ImagePromptValue):
            raise UnsupportedValueError(f"{at} is an image: the guard reads text, and passes nothing unread")
        elif isinstance(value, PromptValue):
            yield from self._conversation(_prompt(value, path), at)
        elif isinstance(value, Document):
            yield _document(value, at, path)
        elif _is_call(value):
            yield _call(value, self._request, at, path)
        elif isinstance(value, _Talk):
            yield from self._conversation([(value[0], path)] if value.single else _items(value, path), at)
        elif _is_talk(value, loose=top and "input" in self._stages):
            yield from self._conversation(_items(value, path) if isinstance(value, list) else [(value, path)], at)
        else:
            yield from self._data(value, at, depth, path)

    def _data(self, value: object, at: str, depth: int, path: Path) -> Iterator[Told]:
        """Texts without a role are one step; messages and documents among them are steps of their own."""
        found = Texts(apart=True)
        found.walk(value, "", at, depth, path)
        for part, where, deep, place in found.parts:
            yield from self.read(part, where, deep, place)
        if found.said or not found.parts:
            text = "\n".join(found.lines)
            for stage in self._stages:
                context = self._request if stage == "output" else None
                yield Told(Step(stage=stage, text=text, context=context), "\n", found.lines, found.sources)

    def _conversation(self, items: Iterable[tuple[object, Path]], at: str) -> Iterator[Told]:
        request = self._request
        system = Texts()
        judged = 0
        for number, (item, path) in enumerate(items):
            where = f"{at}[{number}]"
            message = _message(item, where)
            if message is not item:
                path = (path, "said", None)
            stage = _stage(message)
            content = _content(message, where, path)
            # Our own note stays in graphs and is read again there; who sends it says nothing that we do not.
            if stage is None and self._judges_system and content[0][0] != NOTE:
                stage = "input"
            if stage is None:
                _, _, lines, sources = content[0]
                # A message without a line is an empty one.
                system.lines += lines or [""]
                system.sources += sources or [None]
                continue
            context = "\n".join(system.lines) or None if stage == "input" else request
            for told in _message_steps(message, stage, content, context, request, where, path):
                judged += 1
                yield told
            if stage == "input":
                request = content[0][0]
        alone = Step(stage="input", text="\n".join(system.lines), origin=Origin(trust="operator"))
        if system.lines or not judged:
            yield Told(None if judged else alone, "\n", system.lines, system.sources)


class Texts:
    """Keys and leaves of a value, a line each, and beside each line where it stands in the value.

    Args:
        apart: Whether messages, documents and tool calls are set apart as `parts` instead.
        media: Whether images and the like are data, not something that a model is shown.
    """

    def __init__(self, *, apart: bool = False, media: bool = True) -> None:
        self.lines: list[str] = []
        self.sources: list[Source] = []
        self.parts: list[tuple[object, str, int, Path]] = []
        self.said = False
        self._apart = apart
        self._media = media

    def walk(self, value: object, key: str, at: str, depth: int, path: Path = ()) -> None:
        """Read a value; `key` is the name it goes by in what is around it."""
        if depth > DEEPEST:
            raise UnsupportedValueError(f"{at}: nested more than {DEEPEST} deep")
        if key and not _NAME.fullmatch(key):
            self.said = True
        # Before str and int: an enum may be one too, and its value is what a model is shown.
        if isinstance(value, enum.Enum):
            self.walk(value.value, key, at, depth + 1, (path, "fixed", None))
        elif isinstance(value, str):
            self.line(key, str(value), path)
            self.said = True
        elif isinstance(value, PurePath | BaseException):
            self.line(key, str(value))
            self.said = True
        elif value is None:
            self.line(key, "")
        elif is_scalar(value):
            self.line(key, str(value))
        elif self._apart and (isinstance(value, BaseMessage | PromptValue | Document) or _is_call(value)):
            self.line(key, "")
            self.parts.append((value, at, depth + 1, path))
        elif self._apart and _is_talk(value, loose=key == "messages"):
            self.line(key, "")
            self.parts.append((_Talk(value), at, depth + 1, path))
        elif isinstance(value, list | tuple | set | frozenset):
            if not value:
                self.line(key, "")
            kind = "member" if isinstance(value, set | frozenset) else "item"
            for number, item in enumerate(value):
                self.walk(item, key, f"{at}[{number}]", depth + 1, (path, kind, number))
        else:
            self._fields(value, key, at, depth, path)

    def _fields(self, value: object, key: str, at: str, depth: int, path: Path) -> None:
        items = items_of(value)
        if items is None:
            raise UnsupportedValueError(
                f"{at} is a {type(value).__name__}, which the guard can't read; give it text, messages, documents, "
                "tool calls, pydantic objects, dataclasses, or dicts and lists of those"
            )
        if not self._media:
            _refuse_media(dict(items), at)
        if key:
            self.line(key, "")
        # A key need not be a str; what is read is how it prints.
        keys = list(value) if isinstance(value, Mapping) else None
        for number, (name, item) in enumerate(items):
            place = (path, "field", name) if keys is None else (path, "key", keys[number])
            self.walk(item, name, f"{at}.{name if _NAME.fullmatch(name) else f'<key {number}>'}", depth + 1, place)

    def line(self, key: str, text: str, path: Path | None = None) -> None:
        """Note a leaf; `path` is None where its text can't be edited."""
        if text:
            self.lines.append(f"{key}: {text}" if key else text)
            self.sources.append(None if path is None else (len(key) + 2 if key else 0, path))
        elif key:
            self.lines.append(key)
            self.sources.append(None)

    def text(self, text: str, path: Path) -> None:
        """Note a text that is a line even where it is empty."""
        self.lines.append(text)
        self.sources.append((0, path))


class _Talk(list[object]):
    """Messages that were found inside other data."""

    def __init__(self, value: object) -> None:
        self.single = not isinstance(value, list | tuple) or _is_loose_message(value)
        super().__init__([value] if self.single else cast("Iterable[object]", value))


def _items(values: Iterable[object], path: Path) -> Iterator[tuple[object, Path]]:
    """Items of a list with their paths."""
    return ((item, (path, "item", number)) for number, item in enumerate(values))


def _prompt(value: PromptValue, path: Path) -> list[tuple[object, Path]]:
    """The messages of a prompt with their paths; those of a kind that is not known can't be edited."""
    messages = value.to_messages()
    if isinstance(value, ChatPromptValue):
        return list(_items(messages, (path, "field", "messages")))
    if isinstance(value, StringPromptValue):
        return [(message, ((path, "field", "text"), "said", None)) for message in messages]
    return [(message, (path, "fixed", None)) for message in messages]


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
    """The stage of a message's role; None for a system message."""
    if isinstance(message, SystemMessage):
        return None
    if isinstance(message, AIMessage):
        return "output"
    if isinstance(message, ToolMessage | FunctionMessage):
        return "tool_output"
    if isinstance(message, ChatMessage):
        return _ROLES.get(message.role.lower(), "input")
    return "input"


_Content = tuple[str, str, list[str], list[Source]]
"""A text, what its lines are joined by, the lines, and where they stand."""


def _content(message: BaseMessage, at: str, path: Path) -> list[_Content]:
    """The text of a message but for its tool calls and results, in all the ways in which it may be put together.

    LangChain's `.text` puts text blocks together without a space, providers show them apart: both are read.
    """
    found = Texts(media=False)
    plain: list[str] = []
    places: list[Source] = []
    for number, (block, place) in enumerate(_blocks(message, path)):
        if isinstance(block, str):
            plain.append(block)
            places.append((0, place))
            found.text(block, place)
        elif block.get("type") == "text" and isinstance(block.get("text"), str):
            said = (place, "key", "text")
            plain.append(block["text"])
            places.append((0, said))
            found.text(block["text"], said)
            _block_lines({k: v for k, v in block.items() if k != "text"}, found, f"{at}.content[{number}]", place)
        elif not _is_call_block(block) and not _is_result_block(block):
            _block_lines(block, found, f"{at}.content[{number}]", place)
    extra = {k: v for k, v in message.additional_kwargs.items() if k not in ("tool_calls", "function_call") and v}
    if extra:
        found.walk(extra, "", f"{at}.additional_kwargs", 0, (path, "field", "additional_kwargs"))
    if message.name and not isinstance(message, ToolMessage | FunctionMessage):
        found.line("name", message.name)
    content = [("\n".join(found.lines), "\n", found.lines, found.sources)]
    if len(plain) > 1:
        content.append(("".join(plain), "", plain, places))
    return content


def _blocks(message: BaseMessage, path: Path) -> list[tuple[str | dict[str, Any], Path]]:
    """The blocks of a message's content with their paths."""
    content, path = message.content, (path, "field", "content")
    if isinstance(content, str):
        return [(content, path)]
    return [(block, (path, "item", number)) for number, block in enumerate(content)]


def _block_lines(block: Mapping[str, Any], found: Texts, at: str, path: Path) -> None:
    _refuse_media(block, at)
    kind = block.get("type")
    for key, value in block.items():
        if key not in _NOT_TEXT and value is not None and value != []:
            found.walk(value, "" if key == kind else key, f"{at}.{key}", 0, (path, "key", key))


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
    message: BaseMessage,
    stage: Stage,
    content: list[_Content],
    context: str | None,
    request: str | None,
    at: str,
    path: Path,
) -> Iterator[Told]:
    others = [*_calls(message, request, at, path), *_results(message, request, at, path)]
    if not others or any(text for text, *_ in content):
        tool = ToolRef(name=message.name or "") if stage == "tool_output" else None
        ids = (message.id,) if message.id else ()
        origin = Origin(trust=_TRUST.get(stage, "third_party"), ids=ids)
        for text, joint, lines, sources in content:
            step = Step(stage=stage, text=text, context=context, tool=tool, origin=origin)
            yield Told(step, joint, lines, sources)
    yield from others


def _calls(message: BaseMessage, request: str | None, at: str, path: Path) -> Iterator[Told]:
    """Every form in which a message carries tool calls; what says the same makes the same step."""
    pieces: dict[object, tuple[str, str, tuple[int, ...]]] = {}
    if isinstance(message, AIMessageChunk):
        for number, chunk in enumerate(message.tool_call_chunks):
            key = number if chunk["index"] is None else f"index {chunk['index']}"
            name, args, numbers = pieces.get(key, ("", "", ()))
            pieces[key] = (name + (chunk["name"] or ""), args + (chunk["args"] or ""), (*numbers, number))
    if isinstance(message, AIMessage):
        derived = bool(pieces)
        for call, place in _items(message.tool_calls, (path, "field", "tool_calls")):
            yield _call(call, request, at, place, derived=derived)
        for broken, place in _items(message.invalid_tool_calls, (path, "field", "invalid_tool_calls")):
            said = {key: cast("Mapping[str, Any]", broken)[key] for key in ("name", "args", "error")}
            yield _call(said, request, at, place, derived=derived)
    for name, args, numbers in pieces.values():
        parsed = _parsed(args)
        own = {"args": _inside((path, "pieces", numbers), args, parsed)}
        yield _call({"name": name, "args": parsed}, request, at, path, own)
    for block, place in _blocks(message, path):
        if _is_call_block(block):
            yield _call(block, request, at, place)
    extra = (path, "field", "additional_kwargs")
    raw, whole = message.additional_kwargs.get("tool_calls") or [], (extra, "key", "tool_calls")
    for entry, place in [
        *(_items(raw, whole) if isinstance(raw, list) else [(raw, whole)]),
        (message.additional_kwargs.get("function_call"), (extra, "key", "function_call")),
    ]:
        if entry:
            flat, own = _flat(entry, place)
            yield _call(flat, request, at, place, own)


def _flat(entry: object, path: Path) -> tuple[dict[str, Any], dict[str, Path]]:
    """A provider's form of a call, `{"function": {"name", "arguments"}}`, as LangChain's, and where its keys stand."""
    function = entry.get("function", entry) if isinstance(entry, dict) else None
    if not isinstance(entry, dict) or not isinstance(function, dict):
        return {"args": entry}, {"args": path}
    inner: Path = (path, "key", "function") if "function" in entry else path
    outside = (
        {k: v for k, v in entry.items() if k not in ("function", "type", "id", "index")} if "function" in entry else {}
    )
    rest = {k: v for k, v in function.items() if k not in ("name", "arguments")}
    arguments = function.get("arguments")
    parsed = _parsed(arguments)
    own: dict[str, Path] = {"args": _inside((inner, "key", "arguments"), arguments, parsed)}
    own |= {k: (inner, "key", k) for k in rest}
    own |= {k: (path, "key", k) for k in outside}
    return {"name": function.get("name"), "args": parsed, **rest, **outside}, own


def _inside(path: Path, arguments: object, parsed: object) -> Path:
    """The path of what was parsed."""
    return path if parsed is arguments else (path, "json", None)


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


def _call(
    call: Any,
    request: str | None,
    at: str,
    path: Path,
    own: Mapping[str, Path] | None = None,
    *,
    derived: bool = False,
) -> Told:
    """A tool call: its name is the tool's, all its other keys and leaves are the text; `own`: where its keys stand."""
    found = Texts()
    for key, value in call.items():
        if key not in (*_NOT_TEXT, "name") and value not in (None, ""):
            place = own[key] if own is not None else (path, "key", key)
            # What holds the arguments goes by many names; theirs count.
            if isinstance(value, Mapping | list):
                named = True
            elif named := key in ("args", "arguments", "input", "partial_json"):
                place = (place, "raw", None)
            found.walk(value, "" if named else key, f"{at}, a tool call", 0, place)
    name = call.get("name")
    if name is not None and not isinstance(name, str):
        found.walk(name, "name", f"{at}, a tool call", 0, (path, "fixed", None))
    step = Step(
        stage="tool_input",
        text="\n".join(found.lines),
        context=request,
        tool=ToolRef(name=name if isinstance(name, str) else ""),
        origin=Origin(trust="model"),
    )
    return Told(step, "\n", found.lines, found.sources, derived)


def _results(message: BaseMessage, request: str | None, at: str, path: Path) -> Iterator[Told]:
    """Results of tools inside other messages: third-party text, whatever the message's role."""
    for number, (block, place) in enumerate(_blocks(message, path)):
        if isinstance(block, dict) and _is_result_block(block):
            found = Texts(media=False)
            _block_lines(block, found, f"{at}.content[{number}]", place)
            name = block.get("name")
            step = Step(
                stage="tool_output",
                text="\n".join(found.lines),
                context=request,
                tool=ToolRef(name=name if isinstance(name, str) else ""),
                origin=Origin(trust="third_party"),
            )
            yield Told(step, "\n", found.lines, found.sources)


def _document(document: Document, at: str, path: Path) -> Told:
    found = Texts()
    found.text(document.page_content, (path, "field", "page_content"))
    found.walk(document.metadata, "", f"{at}.metadata", 0, (path, "field", "metadata"))
    ids = (document.id,) if document.id else ()
    origin = Origin(trust="third_party", ids=ids)
    step = Step(stage="retrieval", text="\n".join(found.lines), origin=origin)
    return Told(step, "\n", found.lines, found.sources)
