"""The writing side of a lens: a value with some of its strs changed, and everything else as it was."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, NoReturn, cast

from langchain_core.messages import AIMessageChunk, BaseMessage, ToolCallChunk, ToolMessage
from pydantic import AliasChoices, BaseModel, RootModel

from lec_guard.chain.segments import Path, UneditableError

_Trail = tuple[tuple[str, Any], ...]
"""A path from the outside in: kinds and keys."""

_Change = tuple[_Trail, str, str]
"""Where a str stands, what it says, and what it is to say."""


def rebuilt(value: Any, changes: Mapping[Path, tuple[str, str]]) -> Any:
    """A value with some of its strs changed.

    Args:
        value: The value; it is not changed. What no change is in, the new value shares with it.
        changes: For the path of each str what it says, and what it is to say.

    Returns:
        A value of the same type.

    Raises:
        UneditableError: If a part of the value can't be made anew, or is not as it was read.
    """
    return _rebuilt(value, [(_trail(path), old, new) for path, (old, new) in changes.items()], "the value")


def _trail(path: Path) -> _Trail:
    steps: list[tuple[str, Any]] = []
    while path:
        path, kind, key = path
        steps.append((kind, key))
    return tuple(reversed(steps))


def _refuse(at: str, why: str) -> NoReturn:
    raise UneditableError(f"{at} {why}")


def _rebuilt(value: Any, changes: Sequence[_Change], at: str) -> Any:
    if not changes:
        return value
    try:
        new = _made(value, changes, at)
    except UneditableError:
        raise
    except Exception:  # noqa: BLE001 - whatever somebody's class raises
        # Not their message: it may show the text.
        raise UneditableError(f"{at} is a {type(value).__name__}, which can't be made anew with another text") from None
    if type(new) is not type(value) and not isinstance(value, str):
        _refuse(at, f"is a {type(value).__name__}, which becomes another type when it is made anew")
    return new


def _made(value: Any, changes: Sequence[_Change], at: str) -> Any:
    inner: dict[tuple[str, Any], list[_Change]] = {}
    for trail, old, new in changes:
        if trail:
            inner.setdefault(trail[0], []).append((trail[1:], old, new))
    if not inner:
        return _leaf(value, {(old, new) for _, old, new in changes}, at)
    for (kind, _), own in inner.items():
        if kind == "raw":
            return _rebuilt(value, own, at)
        if kind == "said":
            return _rebuilt(value, [change for one in own for change in _loose(value, one, at)], at)
        if kind == "json":
            return json.dumps(_rebuilt(json.loads(value, strict=False), own, at), ensure_ascii=False)
    for base, build in _BUILDERS:
        if isinstance(value, base):
            return build(value, inner, at)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(cast("Any", value), **_fields(value, inner, at))
    _refuse(at, f"is a {type(value).__name__}, which can't be made anew with another text")


def _leaf(value: Any, said: set[tuple[str, str]], at: str) -> str:
    if len(said) != 1:
        _refuse(at, "is to become two different texts")
    [(old, new)] = said
    if not isinstance(value, str) or str(value) != old:
        _refuse(at, "is no longer what was read")
    return new


# --- objects


_Inner = Mapping[tuple[str, Any], Sequence[_Change]]
"""Changes by the part that they are in."""


def _fields(value: Any, inner: _Inner, at: str) -> dict[str, Any]:
    """New values of an object's attributes."""
    update: dict[str, Any] = {}
    for (kind, name), changes in inner.items():
        if kind == "field":
            update[name] = _rebuilt(getattr(value, name), changes, f"{at}.{name}")
    return update


def _message(value: BaseMessage, inner: _Inner, at: str) -> BaseMessage:
    update = _fields(value, inner, at)
    if isinstance(value, ToolMessage) and value.artifact is not None and ("field", "content") in inner:
        copies = {old: new for _, old, new in inner["field", "content"] if old}
        update["artifact"] = _copied(value.artifact, copies)
    if isinstance(value, AIMessageChunk) and value.tool_call_chunks:
        update |= _calls(value, {numbers: own for (kind, numbers), own in inner.items() if kind == "pieces"}, at)
    return value.model_copy(update=update)


def _calls(value: AIMessageChunk, changes: Mapping[tuple[int, ...], Sequence[_Change]], at: str) -> dict[str, Any]:
    """New values of all in which a chunk has its calls; a call that was in several pieces becomes one."""
    if not changes:
        return {}
    pieces: dict[int, ToolCallChunk] = dict(enumerate(value.tool_call_chunks))
    for numbers, own in changes.items():
        parts = [pieces.pop(number) for number in numbers]
        args = _rebuilt("".join(part["args"] or "" for part in parts), own, f"{at}.tool_call_chunks")
        pieces[numbers[0]] = {**parts[0], "name": "".join(part["name"] or "" for part in parts) or None, "args": args}
    # The calls are what LangChain parses of the pieces, and a copy of a message is not parsed again.
    before = AIMessageChunk(content="", tool_call_chunks=value.tool_call_chunks)
    after = AIMessageChunk(content="", tool_call_chunks=[pieces[number] for number in sorted(pieces)])
    names = ("tool_calls", "invalid_tool_calls", "tool_call_chunks")
    if any(getattr(before, name) != getattr(value, name) for name in names):
        _refuse(at, "has calls that are not those of its pieces")
    return {name: getattr(after, name) for name in names}


def _copied(value: Any, texts: Mapping[str, str]) -> Any:
    """What a tool keeps beside its text: no model and no guard reads it, but a copy of the text follows the text."""
    if isinstance(value, str):
        return texts.get(value, value)
    if type(value) is dict:
        return {key: _copied(item, texts) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_copied(item, texts) for item in value)
    return value


def _model(value: BaseModel, inner: _Inner, at: str) -> BaseModel:
    update = _fields(value, inner, at)
    new = value.model_copy(update=update)
    # A copy is not validated. What validation would change, or has to refuse, is not to be there.
    given = new.root if isinstance(new, RootModel) else _given(new, at)
    checked = type(value).model_validate(given)
    if any(getattr(checked, name) != item for name, item in update.items()):
        _refuse(at, f"is a {type(value).__name__}, which does not take the text as it is to be")
    return new


def _given(model: BaseModel, at: str) -> dict[str, Any]:
    """The fields of a model by the names that validation takes."""
    config, fields = type(model).model_config, type(model).model_fields
    by_name = config.get("populate_by_name") or config.get("validate_by_name")
    given: dict[str, Any] = {}
    for name, item in BaseModel.__iter__(model):
        alias: object = fields[name].validation_alias if name in fields and not by_name else None
        if isinstance(alias, AliasChoices):
            alias = next((one for one in alias.choices if isinstance(one, str)), alias)
        if alias is not None and not isinstance(alias, str):
            _refuse(at, f"is a {type(model).__name__}, which takes a field from a path and can't be made anew")
        given[alias or name] = item
    return given


# --- collections


def _mapping(value: Mapping[Any, Any], inner: _Inner, at: str) -> Mapping[Any, Any]:
    if not isinstance(value, dict):
        _refuse(at, f"is a {type(value).__name__}, which can't be made anew with another text")
    new = copy.copy(value)
    for (_, key), changes in inner.items():
        new[key] = _rebuilt(value[key], changes, f"{at}.{key if isinstance(key, str) and _plain(key) else '<key>'}")
    return new


def _sequence(value: Sequence[Any], inner: _Inner, at: str) -> Sequence[Any]:
    items = list(value)
    for (_, number), changes in inner.items():
        items[number] = _rebuilt(items[number], changes, f"{at}[{number}]")
    if isinstance(value, list):
        new = copy.copy(value)
        new[:] = items
        return new
    make: Callable[[list[Any]], Sequence[Any]] = getattr(value, "_make", None) or type(value)
    return make(items)


def _set(value: Set[Any], inner: _Inner, at: str) -> Set[Any]:
    items = list(value)
    for (_, number), changes in inner.items():
        items[number] = _rebuilt(items[number], changes, f"a member of {at}")
    make = cast("Callable[[list[Any]], Set[Any]]", type(value))
    return make(items)


def _plain(key: str) -> bool:
    return key.isascii() and key.isidentifier() and len(key) <= 32


_BUILDERS: tuple[tuple[Any, Callable[[Any, _Inner, str], Any]], ...] = (
    (BaseMessage, _message),
    (BaseModel, _model),
    (Mapping, _mapping),
    ((list, tuple), _sequence),
    ((set, frozenset), _set),
)


# --- loose messages


def _loose(value: Any, change: _Change, at: str) -> list[_Change]:
    """A change of the message that LangChain makes of a str, tuple or dict as a change of that; see `said`.

    None where the message has something twice that stands in the dict once: reading the new value tells whether all
    of it has changed.
    """
    ((_, name), *rest), old, new = change
    if isinstance(value, str) and name == "content":
        return [(tuple(rest), old, new)]
    if isinstance(value, tuple | list) and name == "content":
        return [((("item", 1), *rest), old, new)]
    if not isinstance(value, dict):
        _refuse(at, "is a message that can't be made anew")
    around: _Trail = ()
    if value.get("lc") == 1 and isinstance(value.get("kwargs"), dict):
        value, around = value["kwargs"], (("key", "kwargs"),)
    kwargs = value.get("additional_kwargs")
    if name == "additional_kwargs" and not (isinstance(kwargs, dict) and rest[0][1] in kwargs):
        return [((*around, *rest), old, new)]
    if name in ("tool_calls", "invalid_tool_calls"):
        if name not in value:
            return []
        (_, number), *rest = rest
        function = value[name][number].get("function")
        around = (*around, ("key", name), ("item", number))
        if function is None:
            return [((*around, *rest), old, new)]
        said = (("json", None),) if isinstance(function["arguments"], str) else ()
        return [((*around, ("key", "function"), ("key", "arguments"), *said, *rest[1:]), old, new)]
    return [((*around, ("key", name), *rest), old, new)]
