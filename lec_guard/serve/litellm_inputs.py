"""What LiteLLM gives a guardrail, in its proxy and over HTTP: what is judged of it, and the way back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from lec_guard.chain.lens import Reading, read
from lec_guard.chain.messages import SystemMessages, request_of
from lec_guard.chain.plan import Passed
from lec_guard.errors import GuardBlocked, UnsupportedValueError

InputType = Literal["request", "response"]
"""Which way what LiteLLM gives a guardrail goes."""


@dataclass(slots=True)
class Parts:
    """What is judged of a request or an answer, and the way back.

    Attributes:
        inputs: What LiteLLM gave.
        readings: What is judged.
        places: For each of them where its new value belongs: a key of the inputs and a position there. None where
            it can't be put back.
        answered: What an answer answers, where that is known.
    """

    inputs: Any
    readings: list[Reading] = field(default_factory=list)
    places: list[tuple[str, int] | None] = field(default_factory=list)
    answered: Reading | None = None

    def add(self, reading: Reading, place: tuple[str, int] | None) -> None:
        """Have one more value judged."""
        self.readings.append(reading)
        self.places.append(place)

    def back(self, passed: Sequence[Passed], *, is_fixed: bool) -> dict[str, Any]:
        """The inputs with what was rewritten.

        Args:
            passed: What may pass, in the order of the readings.
            is_fixed: Whether nothing that is rewritten can be put back.

        Returns:
            The inputs, as LiteLLM wants them.

        Raises:
            GuardBlocked: If something was rewritten that can't be put back.
        """
        after = {key: list(self.inputs[key]) for key in ("texts", "tool_calls", "tools") if self.inputs.get(key)}
        for one, reading, place in zip(passed, self.readings, self.places, strict=True):
            if one.value is reading.value:
                continue
            if place is None or is_fixed:
                raise GuardBlocked(replace(one.verdict, action="block"))
            key, at = place
            match key:
                case "messages":
                    after |= {"texts": _texts(one.value), "tool_calls": _calls(one.value)}
                case "tool_calls":
                    after[key][at] = _calls(one.value)[0]
                case _:
                    after[key][at] = one.value
        for old, new in zip(self.inputs.get("tool_calls") or [], after.get("tool_calls", []), strict=True):
            if new is not old:
                # LiteLLM looks for an answer's calls where it has put them.
                old["function"] = new["function"]
        return {**self.inputs, **after}


def request_parts(inputs: Any, system_messages: SystemMessages) -> Parts:
    """What is judged of a request.

    Args:
        inputs: What LiteLLM gives a guardrail.
        system_messages: Whose system messages are.

    Returns:
        It, and the way back.

    Raises:
        UnsupportedValueError: If something can't be read, such as an image.
    """
    _refuse_images(inputs)
    parts = Parts(inputs)
    messages = inputs.get("structured_messages") or []
    texts, calls = inputs.get("texts") or [], inputs.get("tool_calls") or []
    is_chat = bool(messages) and (_texts(messages), _calls(messages)) == (texts, calls)
    if messages:
        parts.add(read(messages, "input", None, system_messages), ("messages", 0) if is_chat else None)
    if not is_chat:
        for at, text in enumerate(texts):
            parts.add(read(text, "input"), None if messages else ("texts", at))
        for at, call in enumerate(calls):
            parts.add(_called(call, None), None if messages else ("tool_calls", at))
    for at, tool in enumerate(inputs.get("tools") or []):
        parts.add(read(tool, "tool_definition"), ("tools", at))
    return parts


def response_parts(inputs: Any, request_data: Mapping[str, Any], system_messages: SystemMessages) -> Parts:
    """What is judged of an answer.

    Args:
        inputs: What LiteLLM gives a guardrail.
        request_data: What it knows of the request: `messages`, and the `response` as it came.
        system_messages: Whose system messages are.

    Returns:
        It, and the way back.

    Raises:
        UnsupportedValueError: If something can't be read, such as an image.
    """
    _refuse_images(inputs)
    parts = Parts(inputs)
    asked = request_data.get("messages")
    request: str | None = None
    if isinstance(asked, list) and asked:
        request = request_of(asked, system_messages)
        parts.answered = read(asked, "input", None, system_messages)
    for at, text in enumerate(inputs.get("texts") or []):
        parts.add(read(text, "output", request), ("texts", at))
    for at, call in enumerate(inputs.get("tool_calls") or []):
        parts.add(_called(call, request), ("tool_calls", at))
    for choice in getattr(request_data.get("response"), "choices", None) or []:
        thoughts = getattr(getattr(choice, "message", None), "reasoning_content", None)
        if isinstance(thoughts, str) and thoughts:
            parts.add(read(thoughts, "output", request), None)
    return parts


def _called(call: Mapping[str, Any], request: str | None) -> Reading:
    """A tool call as the message that makes it."""
    return read([{"role": "assistant", "content": None, "tool_calls": [call]}], request=request)


def _texts(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """All texts of messages, in the order in which LiteLLM lists them."""
    found: list[str] = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, str):
            found.append(content)
        elif isinstance(content, list):
            found += [block["text"] for block in content if isinstance(block, dict) and block.get("text") is not None]
    return found


def _calls(messages: Sequence[Mapping[str, Any]]) -> list[Any]:
    """All tool calls of messages, likewise."""
    return [
        call
        for message in messages
        if isinstance(message.get("tool_calls"), list)
        for call in message["tool_calls"]
        if isinstance(call, dict)
    ]


def _refuse_images(inputs: Any) -> None:
    if inputs.get("images"):
        raise UnsupportedValueError("there are images: the guard reads text, and passes nothing unread")
