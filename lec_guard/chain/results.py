"""What tools give and raise, as parts that can be judged and put together again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import ToolMessage
from langchain_core.messages.tool import ToolOutputMixin
from langchain_core.tools.base import TOOL_MESSAGE_BLOCK_TYPES

from lec_guard.chain.knowing import Refused
from lec_guard.errors import LecGuardError, UnsupportedValueError


@dataclass(frozen=True, slots=True)
class Parts:
    """What of a result is judged by itself, and how it is put together again.

    Attributes:
        values: The parts.
        put: Makes the result of the parts as they may pass.
    """

    values: list[Any]
    put: Callable[[list[Any]], Any]

    @classmethod
    def of(cls, result: Any) -> Parts:
        """Take a result apart.

        Args:
            result: What a tool gave: a message, several, a LangGraph command, content of a message, or any data.

        Returns:
            Its parts.
        """
        if isinstance(result, ToolMessage):
            return cls._of_message(result)
        if isinstance(result, list) and result and all(isinstance(one, ToolOutputMixin) for one in result):
            return cls._of_several([cls.of(one) for one in result], result)
        if _is_content(result):
            # As a message it is read as a model is shown it.
            message = ToolMessage(content=result, tool_call_id="")
            return cls([message], lambda new: result if new[0] is message else new[0].content)
        return cls([result], lambda new: new[0])

    @classmethod
    def _of_message(cls, message: ToolMessage) -> Parts:
        if message.artifact is None:
            return cls([message], lambda new: new[0])
        # A model is not shown the artifact, but other steps are: a step of its own.
        bare = message.model_copy(update={"artifact": None})

        def put(new: list[Any]) -> Any:
            if new[0] is bare and new[1] is message.artifact:
                return message
            return new[0].model_copy(update={"artifact": new[1]})

        return cls([bare, message.artifact], put)

    @classmethod
    def _of_several(cls, parts: Sequence[Parts], result: Any) -> Parts:
        def put(new: list[Any]) -> Any:
            left = iter(new)
            made = [part.put([next(left) for _ in part.values]) for part in parts]
            return result if all(one is old for one, old in zip(made, result, strict=True)) else made

        return cls([value for part in parts for value in part.values], put)


def _is_content(value: Any) -> bool:
    """Whether LangChain shows a value to a model as it is: a text, or blocks of content."""
    return isinstance(value, str) or (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(block, str) or (isinstance(block, dict) and block.get("type") in TOOL_MESSAGE_BLOCK_TYPES)
            for block in value
        )
    )


def passes(error: Exception) -> bool:
    """Whether an error goes to the caller unread.

    Args:
        error: What a tool raised.

    Returns:
        Whether it is how a graph is stopped, or one of ours, which hold no text.
    """
    # By name: without LangGraph there is none.
    return isinstance(error, LecGuardError) or any(base.__name__ == "GraphBubbleUp" for base in type(error).__mro__)


def said_by(error: Exception) -> str:
    """What an error says, in the ways in which it may be shown to a model.

    Args:
        error: What a tool raised.

    Returns:
        Its text, and that of its arguments where they say something else.

    Raises:
        Refused: If it can't be read.
    """
    try:
        return "\n".join(dict.fromkeys([str(error), *map(str, error.args)]))
    except Exception:  # noqa: BLE001 - whatever somebody's class raises
        raise Refused(UnsupportedValueError(f"a {type(error).__name__} has a text that can't be read")) from None
