"""Tool calls in what a model writes: between two marks, as JSON with a name and arguments."""

from __future__ import annotations

import json
import uuid

from langchain_core.messages import InvalidToolCall
from langchain_core.messages.tool import ToolCall, invalid_tool_call, tool_call

CALL_OPENS, CALL_CLOSES = "<tool_call>", "</tool_call>"
"""What stands around a tool call; Hermes, Qwen and others that were trained like them write it so."""

Part = str | ToolCall | InvalidToolCall
"""What an answer is made of: text, calls, and what should have been a call."""


class Calls:
    """Text as it comes, split into content and tool calls; what may be the beginning of a call is kept back.

    Space before the first call and after one belongs to the calls.
    """

    def __init__(self) -> None:
        self._held = ""
        self._inside = self._called = False
        self._blank = True

    def add(self, text: str) -> list[Part]:
        """Take what follows.

        Args:
            text: What the model wrote next.

        Returns:
            The content that is surely content, and the calls that are whole, in their order.
        """
        self._held += text
        found: list[Part] = []
        while True:
            mark = CALL_CLOSES if self._inside else CALL_OPENS
            before, is_there, after = self._held.partition(mark)
            if not is_there:
                break
            self._held = after
            if self._inside:
                found.append(_call(before, mark))
                self._called = self._blank = True
            elif not (self._blank and before.isspace()):
                found += self._content(before)
            self._inside = not self._inside
        if not self._inside:
            begun = max((size for size in range(len(CALL_OPENS)) if self._held.endswith(CALL_OPENS[:size])), default=0)
            safe = self._held[: len(self._held) - begun]
            if not (self._blank and safe.isspace()):
                found += self._content(safe)
                self._held = self._held[len(safe) :]
        return found

    def rest(self) -> list[Part]:
        """What is left at the end: a call that was never closed is one if it is whole."""
        held, self._held = self._held, ""
        if self._inside:
            return [_call(held, "")]
        return [] if self._called and held.isspace() else self._content(held)

    def _content(self, text: str) -> list[Part]:
        if not text:
            return []
        self._blank = False
        return [text]


def _call(written: str, closed: str) -> ToolCall | InvalidToolCall:
    """What the model wrote between the marks; one that was never closed counts if it is whole."""
    own = f"call_{uuid.uuid4().hex}"
    name: str | None = None
    try:
        found = json.loads(written, parse_constant=_no_number)
        if not isinstance(found, dict) or not isinstance(found.get("name"), str) or not found["name"]:
            raise ValueError("it is no object with a name")
        name, args = found["name"], found.get("arguments", {})
        if isinstance(args, str):
            args = json.loads(args, parse_constant=_no_number)
        if not isinstance(args, dict):
            raise ValueError("its arguments are no object")
    except (ValueError, RecursionError) as error:
        # With the marks it is no JSON, so that nobody who mends what looks unfinished makes a call of it.
        return invalid_tool_call(
            name=name, args=f"{CALL_OPENS}{written}{closed}", id=own, error=f"not a tool call: {error}"
        )
    return tool_call(name=name, args=args, id=own)


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no value of JSON")
