"""Messages and artifacts with parts that no guard reads: what there is to read in them, and the way back from edits."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import BaseMessage, HumanMessage

from lec_guard.chain.lens import read
from lec_guard.errors import UnsupportedValueError

_DEEPEST = 48
"""Levels of nesting in which parts are looked for; what is deeper is read as a whole, or not at all."""

_PAYLOAD_KEYS = {"base64", "data", "file_data", "image_url", "url", "uri", "blob", "bytes"}
"""Under which keys media hold what they are made of."""

_PAYLOAD = re.compile(r"data:[^,]{0,200};base64,.*|(?:[\w+/-]{60,}\r?\n)*[\w+/-]{64,}={0,2}\s*", re.DOTALL | re.ASCII)
"""What is no text: base64 in lines as it is wrapped, or a URL that holds it."""

_Rebuild = Callable[[Any], Any]
"""Makes of an edited part the part that it stands for."""


@dataclass(frozen=True, slots=True)
class Readable:
    """What there is to read in a value.

    Attributes:
        value: What a lens can read instead of the value, or the value itself.
        rebuild: Makes of that, edited, the value with the same edits.
        unread: What was left out, as a digest; None where nothing was.
    """

    value: Any
    rebuild: _Rebuild
    unread: str | None = None


def readable_message(message: BaseMessage) -> Readable | None:
    """What there is to read in a message of which a lens refuses a part: of media in its content, the texts in them.

    Args:
        message: The message.

    Returns:
        What can be read; None where something that is no medium can't be.
    """
    if isinstance(message.content, str):
        return None
    parts = [Readable(block, _same) if _reads_block(block) else _medium(block) for block in message.content]
    blocks = [part for part in parts if part is not None]
    value = message.model_copy(update={"content": [part.value for part in blocks]})
    if len(blocks) < len(parts) or not _reads(value):
        return None

    def rebuild(edited: BaseMessage) -> BaseMessage:
        content = [part.rebuild(block) for part, block in zip(blocks, edited.content, strict=True)]
        return edited.model_copy(update={"content": content})

    return Readable(value, rebuild, _digest([part.unread for part in blocks if part.unread is not None]))


def readable_artifact(artifact: object) -> Readable:
    """What there is to read in what a tool keeps beside its result.

    Args:
        artifact: Anything.

    Returns:
        The same dicts, lists and tuples with nothing in the place of media and of objects that can't be read.
    """
    left_out: list[object] = []
    value, rebuild = _without(artifact, "", {}, 0, left_out, is_renamed=False)
    return Readable(value, rebuild, _digest(left_out))


def _medium(block: Any) -> Readable | None:
    """A block of media, as one that a lens does not take for such; None where it can't be read for another reason."""
    if not isinstance(block, Mapping):
        return None
    for is_renamed in (False, True):  # A tool's result with an image in it stays a tool's result.
        left_out: list[object] = []
        inner = {
            key: _without(item, key, block, 1, left_out, is_renamed=True, strict=True) for key, item in block.items()
        }
        names = {key: f"{key}_" if is_renamed else key for key in block if not (is_renamed and key == "type")}
        value = {names[key]: inner[key][0] for key in names}
        if is_renamed:
            value = {"type": "unread", **value}
        if _reads_block(value):
            return Readable(value, _back(block, inner, names), _digest([block]))
    return None


def _back(block: Mapping[str, Any], inner: Mapping[str, tuple[Any, _Rebuild]], names: Mapping[str, str]) -> _Rebuild:
    return lambda edited: {
        key: inner[key][1](edited[names[key]]) if key in names else item for key, item in block.items()
    }


def _without(
    value: Any,
    key: object,
    around: Mapping[Any, Any],
    depth: int,
    left_out: list[object],
    *,
    is_renamed: bool,
    strict: bool = False,
) -> tuple[Any, _Rebuild]:
    """A value without what media are made of.

    Args:
        value: The value.
        key: The key that it stands under.
        around: What that key is of.
        depth: Levels of nesting around it.
        left_out: Takes what was left out.
        is_renamed: Whether keys get another name, so that nothing is taken for media any more.
        strict: Whether other things that can't be read stay, so that the whole can't be read.
    """
    if isinstance(value, bytes | bytearray) or (isinstance(value, str) and _is_payload(value, key, around)):
        left_out.append(value)
        return "", lambda _: value
    if isinstance(value, str) or value is None:
        return value, _same
    if type(value) is dict and depth < _DEEPEST:
        parts = {
            name: _without(item, name, value, depth + 1, left_out, is_renamed=is_renamed, strict=strict)
            for name, item in value.items()
        }
        names = {name: f"{name}_" if is_renamed else name for name in parts}
        return (
            {names[name]: part for name, (part, _) in parts.items()},
            lambda edited: {name: rebuild(edited[names[name]]) for name, (_, rebuild) in parts.items()},
        )
    if type(value) in (list, tuple) and depth < _DEEPEST:
        kind = type(value)
        items = [_without(one, key, around, depth + 1, left_out, is_renamed=is_renamed, strict=strict) for one in value]
        return (
            kind(part for part, _ in items),
            lambda edited: kind(rebuild(one) for (_, rebuild), one in zip(items, edited, strict=True)),
        )
    if strict or _reads(value):
        return value, _same
    left_out.append(value)
    return None, lambda _: value


def _is_payload(text: str, key: object, around: Mapping[Any, Any]) -> bool:
    kinds = [around.get(name) for name in ("type", "mime_type", "media_type", "mimeType")]
    if any(isinstance(kind, str) and kind.partition("/")[0] == "text" for kind in kinds):
        return False
    return key in _PAYLOAD_KEYS and _PAYLOAD.fullmatch(text) is not None


def _reads_block(block: Any) -> bool:
    return _reads(HumanMessage(content=[block])) if isinstance(block, str | dict) else False


def _reads(value: object) -> bool:
    try:
        read(value, "tool_output", None, "judged")
    except UnsupportedValueError:
        return False
    return True


def _digest(parts: list[Any]) -> str | None:
    """What tells parts from others; an object that prints its address is never known again."""
    return hashlib.sha256(repr(parts).encode("utf-8", "surrogatepass")).hexdigest() if parts else None


def _same(value: Any) -> Any:
    return value
