"""What a call of a tool gives an agent: its results, in whatever they come, and the same with others in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

from langchain_core.messages import BaseMessage, ToolMessage
from langgraph.types import Command


@dataclass(frozen=True, slots=True)
class ToolResults:
    """The results in what a call of a tool gives: a message, a command, or a list of these.

    Attributes:
        given: All of it.
        messages: The results in it, each with an id by which it is known later.
        is_elsewhere: Whether they go to another graph's state.
    """

    given: Any
    messages: list[ToolMessage]
    is_elsewhere: bool = False

    @classmethod
    def of(cls, given: Any) -> list[ToolResults]:
        """The results in what a call gives, those of each part by themselves.

        Args:
            given: What a handler of `wrap_tool_call` gives.

        Returns:
            One for each part, in order.
        """
        return [cls._of(part) for part in (given if isinstance(given, list) else [given])]

    @classmethod
    def _of(cls, part: Any) -> ToolResults:
        found = [_named(one) for one in _messages(part) if isinstance(one, ToolMessage)]
        return cls(part, found, isinstance(part, Command) and part.graph is not None)

    def passing(self, messages: Sequence[BaseMessage], private: Mapping[str, Any]) -> Any:
        """The part with other results in it.

        Args:
            messages: One for each of `messages`.
            private: What the guard's own channels are to be told.

        Returns:
            A command, or the part itself where there is no result in it.
        """
        if not self.messages:
            return self.given
        if isinstance(self.given, ToolMessage):
            return Command(update={"messages": list(messages), **private})
        left = iter(messages)
        update = dict(self.given._update_as_tuples())
        own = update["messages"]
        if isinstance(own, ToolMessage):
            update["messages"] = next(left)
        else:
            update["messages"] = [next(left) if isinstance(one, ToolMessage) else one for one in own]
        return replace(self.given, update={**update, **({} if self.is_elsewhere else private)})


def _messages(part: Any) -> list[Any]:
    if isinstance(part, ToolMessage):
        return [part]
    if not isinstance(part, Command):
        return []
    # Whatever is no message yet is judged before the model's next call, when LangGraph has made one of it.
    found = [value for key, value in part._update_as_tuples() if key == "messages"]
    if len(found) != 1:
        return []
    return list(found[0]) if isinstance(found[0], list | tuple) else [found[0]]


def _named(message: ToolMessage) -> ToolMessage:
    return message if message.id else message.model_copy(update={"id": str(uuid4())})
