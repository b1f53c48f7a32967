"""Test doubles for applications that use the guard: no weights, no network, no surprises."""

from __future__ import annotations

import itertools
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from pydantic import Field

from lec_guard.step import Scores, Span, Step

MOST_FOUND = 1000
"""Spans that a `KeywordDetector` gives of one text at most."""


class ScriptedChatModel(BaseChatModel):
    """An offline chat model that answers by a script.

    It works with `invoke`, `stream` (a word a chunk), `batch`, their async forms, `bind_tools` and agents.

    Attributes:
        script: Part of the last message's text -> answer; the first part that is found counts.
        answer: The answer where no part is found.
        calls: The messages of every call, for asserting what the model was shown, or that it was not called.
    """

    script: dict[str, str | AIMessage] = Field(default_factory=dict)
    answer: str | AIMessage = "Understood."
    calls: list[list[BaseMessage]] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "lec-guard-scripted"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[LanguageModelInput, AIMessage]:  # noqa: ARG002
        """Accept tools; the script alone decides what is called.

        Args:
            tools: Not used.
            **kwargs: Not used.

        Returns:
            The model itself.
        """
        return self

    def _reply(self, messages: list[BaseMessage]) -> AIMessage:
        self.calls.append(messages)
        text = messages[-1].text
        answer = next((reply for part, reply in self.script.items() if part in text), self.answer)
        return AIMessage(content=answer) if isinstance(answer, str) else answer.model_copy()

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,  # noqa: ARG002 - LangChain's signature
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self._reply(messages))])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,  # noqa: ARG002 - LangChain's signature
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,  # noqa: ARG002
    ) -> Iterator[ChatGenerationChunk]:
        reply = self._reply(messages)
        words = reply.text.split(" ")
        for at, word in enumerate(words):
            last = at == len(words) - 1
            message = AIMessageChunk(
                content=word if last else f"{word} ",
                tool_calls=reply.tool_calls if last else [],
                chunk_position="last" if last else None,
            )
            if run_manager:
                run_manager.on_llm_new_token(str(message.content))
            yield ChatGenerationChunk(message=message)


class KeywordDetector:
    """A detector that scores by substrings: 1.0 where a text holds one, else 0.0. Each of them is a span.

    Args:
        heads: Head -> label -> the words (in lower case) that raise it.

    Attributes:
        detector_id: What verdicts name as the detector.
        seen: Every step that was scored, in order.
    """

    detector_id = "keywords"

    def __init__(self, heads: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
        self._heads = heads
        self.seen: list[Step] = []

    @property
    def labels(self) -> Mapping[str, tuple[str, ...]]:
        """Head name -> the labels that it can raise."""
        return {head: tuple(labels) for head, labels in self._heads.items()}

    def score(
        self,
        steps: Sequence[Step],
        *,
        keys: Sequence[Hashable] | None = None,  # noqa: ARG002 - it keeps nothing between calls
    ) -> list[Scores]:
        """Score steps.

        Args:
            steps: The steps.
            keys: Whose each step is.

        Returns:
            One `Scores` a step, in order. Their spans are the words that are found, head by head, label by label and
            word by word, each in the order of the text; `MOST_FOUND` of them at most.
        """
        self.seen.extend(steps)
        return [
            Scores(
                by_head={
                    head: {
                        label: float(any(word in step.text.lower() for word in words))
                        for label, words in labels.items()
                    }
                    for head, labels in self._heads.items()
                },
                spans=tuple(itertools.islice(self._found(step.text), MOST_FOUND)),
                detector_id=self.detector_id,
                backend="python",
            )
            for step in steps
        ]

    def _found(self, text: str) -> Iterator[Span]:
        lower = text.lower()
        # Where each character of the lower case comes from: it may have more of them.
        origin = range(len(text)) if len(lower) == len(text) else [at for at, c in enumerate(text) for _ in c.lower()]
        for head, labels in self._heads.items():
            for label, words in labels.items():
                for word in filter(None, words):
                    for found in re.finditer(re.escape(word), lower):
                        start, end = origin[found.start()], origin[found.end() - 1] + 1
                        yield Span(start=start, end=end, head=head, label=label, score=1.0)
