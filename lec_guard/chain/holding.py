"""The chunks of a stream between upstream and consumer: which of them add up to one text, and which may go on.

Only chunks are told apart here whose text can be read as it comes: strs, and an AI message's text with its reasoning
before it. From the first other one on (a tool call, media, data, another message's role) a stream is held to its end,
and judged as `lec_guard.chain.streaming` reads it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from langchain_core.messages import AIMessageChunk

from lec_guard.chain.base import given
from lec_guard.chain.plan import Passed
from lec_guard.chain.segments import UneditableError
from lec_guard.chain.streaming import message_total
from lec_guard.errors import LecGuardError
from lec_guard.growing import GrowingStep
from lec_guard.step import Origin, Stage, Step, Verdict

_BESIDE = {"type", "id", "index", "signature"}
"""Keys of a content block that say how it is built, not what it says."""


@dataclass(frozen=True, slots=True)
class Delta:
    """What a chunk adds to the text of a stream.

    Attributes:
        kind: `text` or `reasoning`.
        block: Which of a message's content blocks it belongs to; None where it does not say.
        text: The text.
    """

    kind: str
    block: object
    text: str


class Holding:
    """A stream's chunks so far. It belongs to one stream, and is not to be shared between threads.

    Args:
        stage: The stage of texts without a role; None where it is not known.
        request: The request that the stream answers, if known.

    Attributes:
        chunks: All that came.
        gone: How many of them went on.
    """

    def __init__(self, stage: Stage | None, request: str | None) -> None:
        self.chunks: list[Any] = []
        self.gone = 0
        self._stages: tuple[Stage, ...] = ("input", "output") if stage is None else (stage,)
        self._request = request
        self._ends: list[int] = []  # Where each chunk's text ends, as far as the text goes.
        self._length = 0
        self._last: tuple[str, object] | None = None
        self._is_open = True
        self._began = time.perf_counter()
        self._first_ms: float | None = None
        self._early = 0

    def take(self, chunk: Any) -> str | None:
        """Take a chunk.

        Args:
            chunk: The chunk.

        Returns:
            What it adds to the text of the stream; None where it can't be read before the stream is over, nor can what
            follows.
        """
        self.chunks.append(chunk)
        deltas = _deltas(chunk) if self._is_open else None
        if deltas is None or isinstance(chunk, str) != isinstance(self.chunks[0], str):
            self._is_open = False
            return None
        said: list[str] = []
        for delta in deltas:
            here = delta.kind, delta.block
            if self._last is not None and here != self._last:
                if (self._last[0], delta.kind) != ("reasoning", "text"):
                    # How blocks are put together is seen when all of them are there.
                    self._is_open = False
                    return None
                said.append("\n")
            self._last = here
            said.append(delta.text)
        text = "".join(said)
        self._length += len(text)
        self._ends.append(self._length)
        return text

    def steps(self) -> list[Step]:
        """The steps that its text is, but for the text; none where it has no text that can be read as it comes."""
        if not self._is_open or not self.chunks:
            return []
        if isinstance(first := self.chunks[0], AIMessageChunk):
            origin = Origin(trust="model", ids=(first.id,) if first.id else ())
            return [Step(stage="output", text="", context=self._request, origin=origin)]
        return [
            Step(stage=stage, text="", context=self._request if stage == "output" else None) for stage in self._stages
        ]

    def passed(self, characters: int) -> list[Any]:
        """The chunks that may go on, and did not yet.

        Args:
            characters: How many of the text may, from its start.

        Returns:
            The chunks.
        """
        first, before = self.gone, self._ends[self.gone - 1] if self.gone else 0
        while self.gone < len(self._ends) and self._ends[self.gone] <= characters:
            self.gone += 1
        if self.gone and self._ends[self.gone - 1] > before:
            self._text_went()
        self._early = self.gone
        return self.chunks[first : self.gone]

    def rest(self) -> list[Any]:
        """All that did not go on yet, when the whole stream may."""
        first, self.gone = self.gone, len(self.chunks)
        self._text_went()
        return self.chunks[first:]

    def rewritten(self, edited: Sequence[Any]) -> list[Any]:
        """What is left of a stream that was rewritten as a whole, when the whole of that may go on.

        Args:
            edited: What it was rewritten to.

        Returns:
            As of `rest_of`.

        Raises:
            UneditableError: As of `rest_of`.
        """
        left = self.rest_of(edited)
        self.gone = len(self.chunks)
        self._text_went()
        return left

    def rest_of(self, edited: Sequence[Any]) -> list[Any]:
        """What is left of a stream that was rewritten as a whole, when some of it went on.

        Args:
            edited: What it was rewritten to.

        Returns:
            What is to go on instead of the chunks that did not.

        Raises:
            UneditableError: If what went on is not the beginning of it.
        """
        if not self.gone:
            return list(edited)
        if len(edited) != 1:
            raise UneditableError("a stream of several values can't be rewritten when a part of it went on")
        whole, before, after = edited[0], self.chunks[: self.gone], self.chunks[self.gone :]
        if isinstance(whole, str):
            return [_without("".join(before), whole)]
        if not all(isinstance(chunk.content, str) and not chunk.additional_kwargs for chunk in before):
            raise UneditableError("a message of several parts can't be rewritten when one of them went on")
        content = _without("".join(chunk.content for chunk in before), whole.content)
        # All but the text is in what is left, for a stream with more than text goes no further.
        keys = ("additional_kwargs", "tool_call_chunks", "tool_calls", "invalid_tool_calls")
        left = message_total(after)
        return [left.model_copy(update={"content": content, **{key: getattr(whole, key) for key in keys}})]

    def told(self) -> dict[str, Any]:
        """What there is to say of it when it is over: no text.

        Returns:
            `ms_to_first`: milliseconds from its first chunk to the first text that went on, None where none did;
            `ms`: to now; `chunks`, and `early`, how many of them went on before the stream was over.
        """
        now = (time.perf_counter() - self._began) * 1000
        return {"ms_to_first": self._first_ms, "ms": now, "chunks": len(self.chunks), "early": self._early}

    def _text_went(self) -> None:
        if self._first_ms is None:
            self._first_ms = (time.perf_counter() - self._began) * 1000


@dataclass(frozen=True, slots=True)
class Stopped:
    """The last thing that comes of a stream whose rest may not go on.

    Attributes:
        verdict: Why, with the message in the language of its run.
        last: The last chunk that was pulled.
    """

    verdict: Verdict
    last: Any


@dataclass(slots=True)
class Held:
    """A stream that is held back.

    Attributes:
        holding: Its chunks.
        whole: Whether nothing of it may go on before it is over.
        growing: Its text, as it is judged while it comes.
    """

    holding: Holding
    whole: bool
    growing: GrowingStep | None = None

    @property
    def was_judged_early(self) -> bool:
        """Whether it was looked at before it was over."""
        return self.growing is not None and self.growing.progress.verdict is not None

    def begun(self, steps: Sequence[Step]) -> Mapping[int, GrowingStep]:
        """The steps of the whole stream of which something was read while it came.

        Args:
            steps: Its steps.

        Returns:
            Their places.
        """
        if self.growing is None:
            return {}
        known = {(step.stage, step.context) for step in self.growing.steps}
        return {at: self.growing for at, step in enumerate(steps) if (step.stage, step.context) in known}

    def left(self, passed: Passed | LecGuardError) -> list[Any]:
        """What is to go on when the stream is over.

        Args:
            passed: What came of judging the whole of it.

        Returns:
            The rest of it; a `Stopped` where it may not go on.

        Raises:
            LecGuardError: Where it was not judged, or may not pass yet.
        """
        value: Passed = given(passed)
        if value.verdict.blocked:
            return [Stopped(value.verdict, self.holding.chunks[-1])]
        if value.value is self.holding.chunks:
            return self.holding.rest()
        try:
            return self.holding.rewritten(value.value)
        except UneditableError:
            # Each step's edits could be made in what is left, but not those of all together.
            return [Stopped(replace(value.verdict, action="block"), self.holding.chunks[-1])]


def _deltas(chunk: Any) -> list[Delta] | None:
    """What a chunk adds to the text; None where there is more in it than text, or it can't be told."""
    if isinstance(chunk, str):
        return [Delta("text", None, str(chunk))]
    # A subclass may have more fields.
    if type(chunk) is not AIMessageChunk or chunk.name:
        return None
    if chunk.tool_call_chunks or chunk.tool_calls or chunk.invalid_tool_calls:
        return None
    found: list[Delta] = []
    for key, value in chunk.additional_kwargs.items():
        if not value:
            continue
        if key != "reasoning_content" or not isinstance(value, str):
            return None
        found.append(Delta("reasoning", None, value))
    if isinstance(chunk.content, str):
        return [*found, Delta("text", None, chunk.content)] if chunk.content else found
    for block in chunk.content:
        delta = _of_block(block)
        if delta is None:
            return None
        found.append(delta)
    return found


def _of_block(block: object) -> Delta | None:
    if not isinstance(block, Mapping):
        return None
    key = str(block.get("type"))
    kind = {"text": "text", "reasoning": "reasoning", "thinking": "reasoning"}.get(key)
    text = block.get(key, "")
    if kind is None or not isinstance(text, str) or any(v for k, v in block.items() if k not in (*_BESIDE, key)):
        return None
    return Delta(kind, block.get("index"), text)


def _without(before: str, whole: object) -> str:
    if not isinstance(whole, str) or not whole.startswith(before):
        raise UneditableError("an edit is in a part of the stream that went on already")
    return whole[len(before) :]
