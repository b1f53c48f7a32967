"""Items of OpenAI's Responses form, read as LangChain's messages, and the way back from edits."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from lec_guard.errors import UnsupportedValueError

Item = Mapping[str, Any]
"""An item as a dict, of a request or of an answer."""

_SILENT = {"id", "call_id", "status", "type", "role", "encrypted_content", "caller", "logprobs"}
"""Keys that say how an item is built, or say once more what it says."""

_UNREADABLE = {"additional_tools", "compaction", "compaction_trigger", "image_generation_call", "item_reference"}
"""Items with nothing to read that a model is shown all the same: what a provider keeps, has encrypted or has drawn."""

_RAN = {
    "code_interpreter_call",
    "file_search_call",
    "mcp_call",
    "mcp_list_tools",
    "tool_search_call",
    "web_search_call",
}
"""Calls that the provider has carried out: they bring third parties' words along."""

_TEXTS = {"input_text", "output_text", "text", "summary_text", "reasoning_text"}
"""Types of the parts of an item that are plain text."""

_TEXT_RESULTS = {
    "apply_patch_call_output", "custom_tool_call_output", "function_call_output", "local_shell_call_output",
}  # fmt: skip
"""Results that may be a plain text."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Items that are one message: what a model has answered at once, or any other item by itself.

    Attributes:
        items: The items.
        message: What they say.
        rebuild: Makes of the message, edited or with something else in its place, the items that say that.
    """

    items: list[Item]
    message: BaseMessage
    rebuild: Callable[[Any], list[Item]]

    def passing(self, message: BaseMessage) -> list[Item]:
        """The items with what became of their message.

        Args:
            message: The message as it passes.

        Returns:
            The same items where it is the same.
        """
        return self.items if message is self.message else self.rebuild(message)


def pieces_of(items: Sequence[Any]) -> list[Piece]:
    """Read items.

    Args:
        items: Items of a request, or of an answer.

    Returns:
        Their messages, each with an id of its own.

    Raises:
        UnsupportedValueError: If one can't be read; says which, and never its text.
    """
    pieces: list[Piece] = []
    said: list[Item] = []
    names: dict[str, str] = {}
    for at, item in enumerate(items):
        if not isinstance(item, Mapping):
            raise UnsupportedValueError(f"item {at} is a {type(item).__name__}, which can't be read")
        kind, role = item.get("type"), item.get("role")
        _refuse(item, at)
        if kind == "function_call":
            names[str(item.get("call_id"))] = str(item.get("name") or "")
        if kind in (None, "message") and role not in ("user", "system", "developer", "assistant"):
            raise UnsupportedValueError(f"item {at} is a message of nobody that is known")
        is_others = _is_result(kind) or kind == "mcp_approval_response"
        if role == "assistant" or not (role or is_others):
            said.append(item)
            continue
        if said:
            pieces.append(_answer(said, len(pieces)))
            said = []
        pieces.append(_other(item, len(pieces), names))
    return [*pieces, _answer(said, len(pieces))] if said else pieces


def answer_of(items: Sequence[Item], at: int) -> Piece:
    """Read an answer.

    Args:
        items: All of its items, with what tools of the provider have given.
        at: Its place among the messages.

    Returns:
        The answer, as one message.

    Raises:
        UnsupportedValueError: If one can't be read; says which, and never its text.
    """
    for number, item in enumerate(items):
        _refuse(item, number)
    return _answer(list(items), at)


def arguments_of(text: object) -> dict[str, Any] | None:
    """The arguments of a call.

    Args:
        text: As the model wrote them.

    Returns:
        The arguments; None where that is no JSON of an object, or would lose a part of the text.
    """

    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) != len(pairs):
            raise ValueError
        return dict(pairs)

    try:
        parsed = json.loads(text, object_pairs_hook=distinct) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def _refuse(item: Item, at: int) -> None:
    kind = item.get("type")
    if kind in _UNREADABLE:
        raise UnsupportedValueError(f"item {at} is of type {kind}: the guard reads text, and passes nothing unread")


# --- what others say


def _other(item: Item, at: int, names: Mapping[str, str]) -> Piece:
    """A message of a user or of the operator, or a tool's result."""
    kind = item.get("type")
    is_result = _is_result(kind)
    key = "output" if is_result else "content"
    part = _Content.of(item.get(key), {} if kind in (None, "message") else _rest(item, key))
    name = f"m{at}"
    message: BaseMessage
    if is_result:
        call = str(item.get("call_id") or "")
        message = ToolMessage(content=part.said, tool_call_id=call, name=item.get("name") or names.get(call), id=name)
    elif item.get("role") in ("system", "developer"):
        message = SystemMessage(content=part.said, id=name)
    else:
        message = HumanMessage(content=part.said, id=name)

    def rebuild(edited: BaseMessage) -> list[Item]:
        if isinstance(edited.content, str) and not isinstance(part.said, str):
            if kind not in (None, "message", *_TEXT_RESULTS):
                raise UnsupportedValueError(f"an item of type {kind} may not pass, and no text can stand in its place")
            return [{**{one: item[one] for one in item if one in _SILENT}, key: edited.content}]
        content, rest = part.rebuilt(edited.content)
        return [{**item, **({key: content} if key in item else {}), **rest}]

    return Piece([item], message, rebuild)


@dataclass(frozen=True, slots=True)
class _Content:
    """A content or an output, and what an item has beside it.

    Attributes:
        value: The content.
        said: As a message has it.
        rest: What is beside it, as one more block of the message; None where there is nothing.
    """

    value: Any
    said: Any
    rest: dict[str, Any] | None

    @classmethod
    def of(cls, value: Any, rest: Mapping[str, Any]) -> _Content:
        if isinstance(value, str) and not rest:
            return cls(value, value, None)
        blocks = [_block(part) for part in _listed(value)]
        beside = {"type": "beside", **rest} if rest else None
        return cls(value, [*blocks, beside] if beside is not None else blocks, beside)

    def rebuilt(self, edited: Any) -> tuple[Any, dict[str, Any]]:
        """The content and what is beside it, as they pass."""
        if isinstance(self.said, str):
            return edited, {}
        blocks = list(edited)
        rest: dict[str, Any] = {}
        if self.rest is not None:
            rest = {key: item for key, item in blocks.pop().items() if key != "type"}
        parts = [_part(old, block) for old, block in zip(_listed(self.value), blocks, strict=True)]
        if isinstance(self.value, str | Mapping):
            [one] = parts
            return one, rest
        return (None if self.value is None else parts), rest


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return [value] if isinstance(value, str | Mapping) else list(value)


def _block(part: Any) -> dict[str, Any]:
    """A part of an item as a block of a message."""
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if not isinstance(part, Mapping):
        raise UnsupportedValueError(f"a part of an item is a {type(part).__name__}, which can't be read")
    kind = part.get("type")
    told = {key: item for key, item in part.items() if key not in ("type", "logprobs")}
    return {"type": "text" if kind in _TEXTS else kind or "part", **told}


def _part(old: Any, block: Mapping[str, Any]) -> Any:
    """A part with what became of its block; how likely its words were is not said of others."""
    if isinstance(old, str):
        return block["text"]
    told = {key: item for key, item in block.items() if key != "type"}
    if all(old.get(key) == item for key, item in told.items()):
        return old
    return {**{key: item for key, item in old.items() if key != "logprobs"}, **told}


def _rest(item: Item, *keys: str) -> dict[str, Any]:
    return {key: value for key, value in item.items() if key not in _SILENT and key not in (*keys, "name") and value}


def _is_result(kind: object) -> bool:
    return isinstance(kind, str) and kind.endswith("_output")


# --- what a model says


@dataclass(slots=True)
class _Said:
    """What a model has answered at once, as it becomes a message.

    Attributes:
        blocks: Its content.
        calls: Its calls.
        broken: Its calls that can't be parsed.
    """

    blocks: list[str | dict[str, Any]] = field(default_factory=list)
    calls: list[Any] = field(default_factory=list)
    broken: list[Any] = field(default_factory=list)

    def add(self, item: Item) -> None:
        """Take what an item says."""
        kind = item.get("type")
        match kind:
            case "function_call":
                text, args = item.get("arguments"), arguments_of(item.get("arguments"))
                call = {"name": str(item.get("name") or ""), "id": str(item.get("call_id") or "")}
                if args is not None:
                    self.calls.append({**call, "args": args, "type": "tool_call"})
                else:
                    said = text if isinstance(text, str) else ""
                    self.broken.append({**call, "args": said, "error": None, "type": "invalid_tool_call"})
            case None | "message" | "reasoning":
                for key in _texts(item):
                    self.blocks += [_block(part) for part in _listed(item.get(key))]
            case _:
                self.blocks.append({"type": _type(kind), "name": str(item.get("name") or kind), **_rest(item)})


def _type(kind: object) -> str:
    """Of what type a block is: a result, a call, or something else that is said."""
    if kind in _RAN or _is_result(kind):
        return "tool_result"
    return "custom_tool_call" if str(kind).endswith("_call") else "said"


def _texts(item: Item) -> tuple[str, ...]:
    return ("summary", "content") if item.get("type") == "reasoning" else ("content",)


def _answer(items: list[Item], at: int) -> Piece:
    """What a model has answered at once."""
    said = _Said()
    for item in items:
        said.add(item)
    message = AIMessage(content=said.blocks, tool_calls=said.calls, invalid_tool_calls=said.broken, id=f"m{at}")
    return Piece(items, message, lambda edited: list(_rebuilt(items, edited)))


def _rebuilt(items: Sequence[Item], edited: AIMessage) -> Iterator[Item]:
    if isinstance(edited.content, str):
        # Something else stands in its place. Ids would name what a provider keeps of it.
        yield {"type": "message", "role": "assistant", "content": edited.content}
        for item in items:
            if item.get("type") == "function_call" and edited.tool_calls:
                yield {key: item[key] for key in item if key not in ("id", "arguments")} | {"arguments": "{}"}
        return
    blocks, calls, broken = iter(edited.content), iter(edited.tool_calls), iter(edited.invalid_tool_calls)
    for item in items:
        kind = item.get("type")
        match kind:
            case "function_call":
                args = arguments_of(item.get("arguments"))
                if args is None:
                    new = next(broken)["args"]
                    yield item if new == item.get("arguments") else {**item, "arguments": new}
                else:
                    own = next(calls)["args"]
                    yield item if own == args else {**item, "arguments": json.dumps(own, ensure_ascii=False)}
            case None | "message" | "reasoning":
                changed: dict[str, Any] = {}
                for key in _texts(item):
                    old = item.get(key)
                    parts = [_part(part, _mapping(next(blocks))) for part in _listed(old)]
                    if parts != _listed(old):
                        changed[key] = parts[0] if isinstance(old, str) else parts
                # What is encrypted still says the old.
                said = {key: item[key] for key in item if key != "encrypted_content"}
                yield {**said, **changed} if changed else item
            case _:
                told = _mapping(next(blocks))
                changed = {key: told[key] for key in _rest(item) if told[key] != item[key]}
                yield {**item, **changed} if changed else item


def _mapping(block: str | dict[Any, Any]) -> Mapping[str, Any]:
    return {"type": "text", "text": block} if isinstance(block, str) else block
