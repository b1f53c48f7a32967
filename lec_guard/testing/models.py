"""An offline chat model that answers by a script, alike in every mode."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from uuid import uuid4

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import BaseModel, Field, InstanceOf

Answer = str | InstanceOf[AIMessage] | InstanceOf[BaseModel]
"""What a script says: words, a message, or an object of a schema, as the call of a tool of the schema's name."""

PIECE = 12
"""Characters of a tool call's arguments in a chunk of a stream: no JSON of more than that is whole in one of them."""


class ScriptedChatModel(BaseChatModel):
    """An offline chat model that answers by a script.

    It works with `invoke`, `batch` and `stream` (a word a chunk, arguments of tool calls in pieces), their async forms,
    `bind_tools`, `with_structured_output`, `astream_events`, and agents in every stream mode. An answer's content,
    tool calls, usage and metadata are the same in all of them; without content, too.

    Attributes:
        script: Part of the last message's text -> answer; the first part that is found counts. An object of a pydantic
            class answers as `with_structured_output` and agents with a `response_format` expect it.
        answer: The answer where no part is found; or a function of the messages that gives it.
        calls: The messages of every call, for asserting what the model was shown, or that it was not called.
        offered: By call, the names of the tools that the model was offered.
    """

    script: dict[str, Answer] = Field(default_factory=dict)
    answer: Answer | Callable[[list[BaseMessage]], Answer] = "Understood."
    calls: list[list[BaseMessage]] = Field(default_factory=list)
    offered: list[list[str]] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "lec-guard-scripted"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[LanguageModelInput, AIMessage]:  # noqa: ARG002
        """Offer tools; the script alone decides what is called.

        Args:
            tools: The tools, as any chat model takes them.
            **kwargs: Not used.

        Returns:
            The model with these tools; its calls are told by this object.
        """
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools])

    def _reply(self, messages: list[BaseMessage]) -> AIMessage:
        self.calls.append(messages)
        text = messages[-1].text if messages else ""
        answer = next((reply for part, reply in self.script.items() if part in text), self.answer)
        if not isinstance(answer, str | BaseModel):
            answer = answer(messages)
        if isinstance(answer, str):
            return AIMessage(content=answer)
        if isinstance(answer, AIMessage):
            return answer.model_copy()
        call = {"name": type(answer).__name__, "args": answer.model_dump(mode="json"), "id": str(uuid4())}
        return AIMessage(content="", tool_calls=[call])

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,  # noqa: ARG002 - LangChain's signature
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,
    ) -> ChatResult:
        self._offer(kwargs)
        reply = self._reply(messages)
        return ChatResult(generations=[ChatGeneration(message=reply)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,  # noqa: ARG002 - LangChain's signature
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002 - whoever calls this tells of each chunk
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        self._offer(kwargs)
        reply = self._reply(messages)
        chunks = [*_content(reply), *_calls(reply)]
        if not chunks or chunks[-1].tool_call_chunks:
            # A call whose last piece is the last of a message is taken to be whole by itself.
            chunks.append(AIMessageChunk(content=""))
        # The rest of a message comes with its last chunk.
        *chunks, last = chunks
        rest = {
            "additional_kwargs": reply.additional_kwargs,
            "response_metadata": reply.response_metadata,
            "usage_metadata": reply.usage_metadata,
            "chunk_position": "last",
        }
        for chunk in (*chunks, last.model_copy(update=rest)):
            chunk.id, chunk.name = reply.id, reply.name
            yield ChatGenerationChunk(message=chunk)

    def _offer(self, given: Mapping[str, Any]) -> None:
        self.offered.append([str(tool.get("function", tool).get("name")) for tool in given.get("tools", ())])


def _content(reply: AIMessage) -> Iterator[AIMessageChunk]:
    """What a message says, a word a chunk; of blocks that are no text, a block a chunk."""
    if isinstance(reply.content, str):
        for word in _words(reply.content):
            yield AIMessageChunk(content=word)
        return
    for index, block in enumerate(reply.content):
        given = {"type": "text", "text": block} if isinstance(block, str) else block
        if given.get("type") != "text":
            yield AIMessageChunk(content=[{**given, "index": index}])
            continue
        for word in _words(given["text"]):
            yield AIMessageChunk(content=[{**given, "text": word, "index": index}])


def _words(text: str) -> list[str]:
    """A text in pieces that are its words, each but the last with the space behind it."""
    words = text.split(" ")
    return [piece for piece in (*(f"{word} " for word in words[:-1]), words[-1]) if piece]


def _calls(reply: AIMessage) -> Iterator[AIMessageChunk]:
    """The calls of a message as providers stream them: a name and an id, and then arguments in pieces."""
    calls: list[tuple[str | None, str | None, str]] = [
        *((call["name"], call["id"], json.dumps(call["args"])) for call in reply.tool_calls),
        *((call["name"], call["id"], call["args"] or "") for call in reply.invalid_tool_calls),
    ]
    for index, (name, call_id, args) in enumerate(calls):
        yield AIMessageChunk(
            content="", tool_call_chunks=[tool_call_chunk(name=name, id=call_id, args="", index=index)]
        )
        for at in range(0, len(args), PIECE):
            piece = tool_call_chunk(name=None, id=None, args=args[at : at + PIECE], index=index)
            yield AIMessageChunk(content="", tool_call_chunks=[piece])
