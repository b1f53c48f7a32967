"""Every kind of value that passes between LangChain steps, clean and with an attack in each of its places."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from typing import Any

from langchain_core.documents import Document
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    HumanMessageChunk,
    SystemMessage,
    ToolMessage,
)
from langchain_core.messages.base import TextAccessor
from langchain_core.prompt_values import ChatPromptValue, StringPromptValue
from pydantic import BaseModel, Field

ATTACK = "an ATTACK here"
CLEAN = "a plain text"


class Colour(enum.Enum):
    """A leaf of a structured answer."""

    RED = "red"


class Inner(BaseModel):
    """Part of a structured answer."""

    note: str
    hidden: str = Field(default="", exclude=True)


class Answer(BaseModel):
    """A structured answer."""

    inner: Inner
    number: float = 1.5
    colour: Colour = Colour.RED
    tags: list[str] = []


def call(args: Any, name: str = "search") -> dict[str, Any]:
    """A tool call."""
    return {"name": name, "args": args, "id": "1", "type": "tool_call"}


@dataclasses.dataclass(frozen=True)
class Kind:
    """A value type with one place where a text can stand."""

    name: str
    make: Callable[[str], Any]

    def __str__(self) -> str:
        return self.name


KINDS = [
    Kind("str", lambda t: t),
    Kind("text accessor", lambda t: TextAccessor(t)),
    Kind("chat prompt value", lambda t: ChatPromptValue(messages=[SystemMessage("be nice"), HumanMessage(t)])),
    Kind("string prompt value", lambda t: StringPromptValue(text=t)),
    Kind("human message", lambda t: HumanMessage(t)),
    Kind("human chunk", lambda t: HumanMessageChunk(content=t)),
    Kind("named human message", lambda t: HumanMessage("hi", name=t)),
    Kind("chat message", lambda t: ChatMessage(role="critic", content=t)),
    Kind("tool message", lambda t: ToolMessage(t, tool_call_id="1", name="search")),
    Kind("tool message with blocks", lambda t: ToolMessage([{"type": "text", "text": t}], tool_call_id="1")),
    Kind("function message", lambda t: FunctionMessage(content=t, name="f")),
    Kind("text block", lambda t: HumanMessage([{"type": "text", "text": "hi"}, {"type": "text", "text": t}])),
    Kind("plain block", lambda t: HumanMessage(["hi", t])),
    Kind("unknown block", lambda t: HumanMessage([{"type": "note", "deep": {"er": [1, t]}}])),
    Kind("tool call argument", lambda t: AIMessage("", tool_calls=[call({"q": t})])),
    Kind("tool call key", lambda t: AIMessage("", tool_calls=[call({t: 1})])),
    Kind("nested tool call", lambda t: AIMessage("ok", tool_calls=[call({"a": [{"b": {"c": [None, 1, t]}}]})])),
    Kind("second tool call", lambda t: AIMessage("", tool_calls=[call({"q": "x"}), call({"q": t})])),
    Kind(
        "broken tool call",
        lambda t: AIMessage(
            "", invalid_tool_calls=[{"name": "f", "args": t, "id": "1", "error": None, "type": "invalid_tool_call"}]
        ),
    ),
    Kind(
        "tool use block",
        lambda t: AIMessage([{"type": "tool_use", "id": "1", "name": "f", "input": {"q": t}}]),
    ),
    Kind(
        "raw tool call",
        lambda t: AIMessage("", additional_kwargs={"function_call": {"name": "f", "arguments": t}}),
    ),
    Kind(
        "tool call chunk",
        lambda t: AIMessageChunk(
            content="", tool_call_chunks=[{"name": "f", "args": f'{{"q": "{t}"', "id": "1", "index": 0}]
        ),
    ),
    Kind("tool call dict", lambda t: call({"q": t})),
    Kind("message list", lambda t: [HumanMessage("hi"), AIMessage("hello"), HumanMessage(t)]),
    Kind("old message in a list", lambda t: [HumanMessage(t), AIMessage("hello"), HumanMessage("hi")]),
    Kind("tuples", lambda t: [("system", "be nice"), ("human", t)]),
    Kind("role dicts", lambda t: [{"role": "user", "content": t}]),
    Kind("role dict", lambda t: {"role": "user", "content": t}),
    Kind("list of str", lambda t: ["hi", t]),
    Kind("messages dict", lambda t: {"messages": [HumanMessage(t)], "remaining_steps": 3}),
    Kind("prompt input", lambda t: {"question": "hi", "history": [HumanMessage(t)]}),
    Kind("text beside messages", lambda t: {"question": t, "history": [HumanMessage("hi")]}),
    Kind("key of a dict", lambda t: {"messages": [HumanMessage("hi")], t: "x"}),
    Kind("deep messages", lambda t: {"state": {"inner": {"messages": [HumanMessage(t)]}}}),
    Kind("plain dict", lambda t: {"a": {"b": [t]}, "n": 1}),
    Kind("document", lambda t: Document(page_content=t)),
    Kind("document metadata", lambda t: Document(page_content="x", metadata={"title": {"deep": [t]}})),
    Kind("documents", lambda t: [Document(page_content="x"), Document(page_content=t)]),
    Kind("documents in a dict", lambda t: {"question": "hi", "context": [Document(page_content=t)]}),
    Kind("pydantic", lambda t: Answer(inner=Inner(note=t))),
    Kind("excluded pydantic field", lambda t: Answer(inner=Inner(note="x", hidden=t))),
    Kind("pydantic list", lambda t: Answer(inner=Inner(note="x"), tags=[t])),
    Kind("system only", lambda t: [SystemMessage(t)]),
]

OUTPUTS = [
    Kind("ai message", lambda t: AIMessage(t)),
    Kind("ai chunk", lambda t: AIMessageChunk(content=t)),
    Kind("reasoning block", lambda t: AIMessage([{"type": "reasoning", "reasoning": t}, "x"])),
    Kind("reasoning kwarg", lambda t: AIMessage("x", additional_kwargs={"reasoning_content": t})),
    Kind("ai tuple", lambda t: [("human", "hi"), ("ai", t)]),
]
"""Kinds whose text is judged as output."""
