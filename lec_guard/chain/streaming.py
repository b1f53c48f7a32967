"""What the chunks of a stream that is over add up to, for judging it and for handing it on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import BaseMessage, BaseMessageChunk

from lec_guard.chain.lens import Reading, UneditableError, read
from lec_guard.chain.messages import DEEPEST, SystemMessages, Texts, is_scalar, items_of
from lec_guard.step import Edit, Stage, Step


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream that was held whole, as a value that is judged.

    Attributes:
        chunks: All of its chunks.
    """

    chunks: list[Any]


@dataclass(frozen=True, slots=True, eq=False)
class StreamReading:
    """The steps of a stream that was held whole, and the way back.

    Attributes:
        steps: The steps of what its chunks add up to. Where they do not add up, each is read by itself, and besides all
            their texts in one piece.
        readings: What the chunks add up to: one reading, or several.
    """

    steps: list[Step]
    readings: list[Reading]

    def edited(self, edits: Mapping[int, Sequence[Edit]]) -> list[Any]:
        """The stream with texts of its steps edited, in one chunk.

        Args:
            edits: By a step's position in `steps`, edits of its text.

        Returns:
            New chunks.

        Raises:
            UneditableError: If its chunks do not add up, or as of `Reading.edited`.
        """
        if len(self.readings) != 1:
            raise UneditableError("chunks of several kinds can't be edited together")
        return [self.readings[0].edited(edits)]

    def mapped(self, change: Callable[[str], str]) -> list[Any]:
        """The stream with every text in it changed, a chunk for each thing that its chunks add up to.

        Args:
            change: What becomes of a text.

        Returns:
            New chunks.

        Raises:
            UneditableError: As of `Reading.mapped`.
        """
        return [reading.mapped(change) for reading in self.readings]

    def again(self, chunks: Sequence[Any]) -> StreamReading:
        """What became of the stream, read as the stream was.

        Args:
            chunks: Its chunks now.

        Returns:
            Their reading.
        """
        first = self.readings[0]
        return read_stream(chunks, first.stage, first.request, first.system_messages)


def read_stream(
    chunks: Sequence[Any],
    stage: Stage | None = None,
    request: str | None = None,
    system_messages: SystemMessages = "trusted",
) -> StreamReading:
    """Read a stream that was held whole.

    Args:
        chunks: All chunks, in order.
        stage: As for `read`.
        request: As for `read`.
        system_messages: As for `read`.

    Returns:
        At least one step, unless there are no chunks.

    Raises:
        UnsupportedValueError: If a chunk can't be read.
    """
    readings = [read(total, stage, request, system_messages) for total in _totals(list(chunks), 0)]
    steps = [step for reading in readings for step in reading.steps]
    if len(readings) > 1:
        for own in dict.fromkeys(step.stage for step in steps):
            texts = [step.text for step in steps if step.stage == own]
            context = next((step.context for step in steps if step.stage == own), None)
            steps.append(Step(stage=own, text="".join(texts), context=context))
    return StreamReading(list(dict.fromkeys(steps)), readings)


def whole(chunks: Sequence[Any]) -> Any:
    """A stream as the one value that a chain takes: its sum, as LangChain adds, or its last chunk.

    Args:
        chunks: All chunks, in order.

    Returns:
        The value; None for an empty stream.
    """
    total = None
    for chunk in chunks:
        try:
            total = chunk if total is None else total + chunk
        except TypeError:
            total = chunk
    return total


def _totals(chunks: list[Any], depth: int) -> list[Any]:
    """What chunks add up to: one value, or several where they are of several kinds."""
    if len(chunks) < 2 or depth > DEEPEST:
        return chunks
    if any(isinstance(chunk, tuple) for chunk in chunks):
        apart = [_unwrapped(chunk) for chunk in chunks]
        if all(wrap is not None for wrap, _ in apart):
            return [
                t
                for own in _by(apart, lambda pair: pair[0])
                for t in _totals([payload for _, payload in own], depth + 1)
            ]
    if all(isinstance(chunk, str) for chunk in chunks):
        return ["".join(chunks)]
    if all(isinstance(chunk, BaseMessageChunk) for chunk in chunks):
        return [message_total(own) for own in _by(chunks, _same_message)]
    if all(_grows(a, b, 0) for a, b in itertools.pairwise(chunks)):
        return chunks[-1:]
    if all(isinstance(chunk, list) for chunk in chunks):
        return [[item for chunk in chunks for item in chunk]]
    if all(isinstance(chunk, Mapping) for chunk in chunks):
        keys = list(dict.fromkeys(key for chunk in chunks for key in chunk))
        by_key = {key: _totals([chunk[key] for chunk in chunks if key in chunk], depth + 1) for key in keys}
        return [{key: totals[0] if len(totals) == 1 else totals for key, totals in by_key.items()}]
    kinds = _by(
        chunks, lambda chunk: (isinstance(chunk, BaseMessage), isinstance(chunk, str), isinstance(chunk, Mapping))
    )
    return [total for own in kinds for total in _totals(own, depth + 1)] if len(kinds) > 1 else chunks


def _by(items: Sequence[Any], key: Callable[[Any], object]) -> list[list[Any]]:
    """Items in groups of the same key, in the order of each group's first one."""
    groups: dict[object, list[Any]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())


def _unwrapped(chunk: Any) -> tuple[object, Any]:
    """What a graph's stream says about a chunk, and the chunk: (message, metadata), (mode, …), (namespace, mode, …)."""
    if (
        isinstance(chunk, tuple)
        and len(chunk) == 2
        and isinstance(chunk[0], BaseMessage)
        and isinstance(chunk[1], Mapping)
    ):
        return "message", chunk[0]
    if isinstance(chunk, tuple) and len(chunk) == 2 and isinstance(chunk[0], str):
        wrap, payload = _unwrapped(chunk[1])
        return (chunk[0], wrap), payload
    if isinstance(chunk, tuple) and len(chunk) >= 2 and isinstance(chunk[0], tuple):
        wrap, payload = _unwrapped(chunk[1:] if len(chunk) > 2 else chunk[1])
        return (chunk[0], wrap), payload
    return (None, chunk) if isinstance(chunk, tuple) else ("plain", chunk)


def _same_message(chunk: BaseMessageChunk) -> object:
    return type(chunk), getattr(chunk, "role", None), getattr(chunk, "tool_call_id", None)


def message_total(chunks: list[Any]) -> Any:
    """The sum of a message's chunks; where their metadata do not add up, without them.

    Args:
        chunks: At least one chunk.

    Returns:
        A chunk.
    """
    try:
        total = _sum(chunks)
    except (TypeError, ValueError):
        total = _sum(
            [chunk.model_copy(update={"response_metadata": {}, "additional_kwargs": _texts(chunk)}) for chunk in chunks]
        )
    # LangChain's sum of chunks has none of their names.
    names = " ".join(dict.fromkeys(chunk.name for chunk in chunks if chunk.name))
    return total.model_copy(update={"name": names}) if names and total.name != names else total


def _texts(chunk: BaseMessageChunk) -> dict[str, Any]:
    """Additional arguments in a form that always adds up: one text."""
    found = Texts()
    found.walk({k: v for k, v in chunk.additional_kwargs.items() if v}, "", "a chunk", 0)
    return {"texts": "\n".join(found.lines)} if found.lines else {}


def _sum(chunks: list[Any]) -> Any:
    total = chunks[0]
    for chunk in chunks[1:]:
        total = total + chunk
    return total


def _grows(before: Any, after: Any, depth: int) -> bool:
    """Whether all that was in one chunk is in the next one, as parsers stream a growing object."""
    if depth > DEEPEST:
        return False
    if before is None or before is after:
        return True
    if isinstance(before, str) and isinstance(after, str):
        return after.startswith(before)
    if isinstance(before, list) and isinstance(after, list):
        pairs = zip(before, after, strict=False)
        return len(before) <= len(after) and all(_grows(a, b, depth + 1) for a, b in pairs)
    old, new = items_of(before), items_of(after)
    if old is not None and new is not None and not isinstance(before, BaseMessage):
        fields = dict(new)
        return all(name in fields and _grows(item, fields[name], depth + 1) for name, item in old)
    # A number's digits come one by one.
    return is_scalar(before) and is_scalar(after) and str(after).startswith(str(before))
