"""A chat model of LangChain that is a Hugging Face model in this process: nothing is fetched, nothing leaves it.

Each answer is a `Writing`: what is streamed is written while it is read, whoever stops reading stops the writing, and
`invoke` reads the same to its end.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, Self

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.output_parsers import JsonOutputKeyToolsParser, JsonOutputToolsParser, PydanticToolsParser
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.runnables.config import run_in_executor
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor
from transformers import (
    LogitsProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
)

from lec_guard.detect.causal import load_causal
from lec_guard.errors import UnsupportedValueError
from lec_guard.generate.calls import CALL_CLOSES, CALL_OPENS, Calls, Part
from lec_guard.generate.guidance import GuidedCausalLM
from lec_guard.generate.mixing import Guidance
from lec_guard.generate.prompts import NEGATIVE, POSITIVE, padded, paired
from lec_guard.generate.rendering import Rendered, check_template, conversation_of, longest_of, render
from lec_guard.generate.writing import Writing

_SAMPLING = ("temperature", "top_p", "top_k")
_LENGTHS = ("max_new_tokens", "max_tokens")
"""LangChain's name for it is the second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What is answered.

    Attributes:
        rendered: The prompt; with guidance the positive one.
        inputs: What `generate` takes, on the model's device.
        room: Tokens that the answer may have before the model's context is full; None where it names no limit.
    """

    rendered: Rendered
    inputs: Mapping[str, Tensor]
    room: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """How it is answered: the model's fields, and what a call says otherwise.

    Attributes:
        max_new_tokens: Tokens that the answer may have.
        stop: Texts that end it.
        sampling: Settings of `generate` that say how tokens are drawn.
        tools: What may be called, as OpenAI schemas.
    """

    max_new_tokens: int
    stop: tuple[str, ...] = ()
    sampling: Mapping[str, Any] = field(default_factory=dict)
    tools: tuple[Mapping[str, Any], ...] = ()


class LocalChatModel(BaseChatModel):
    """A causal model of transformers as a chat model.

    Tool calls are read as Hermes and Qwen write them. The model decides whether it calls, so that no `tool_choice`
    can be kept but "auto". Safe to share between threads; each call writes on a thread of its own.

    Args:
        model: The model, with its weights where they are to be used.
        tokenizer: Its tokenizer: a fast one, with a chat template.
        guidance: How far answers are steered from what `negative` asks for; None for not at all.
        positive: What the system prompt asks for besides, with guidance.
        negative: What the negative one asks for.
        max_new_tokens: Tokens of an answer at most (`max_tokens` is taken for it too). Where the model's context is
            full before, the answer ends there.
        temperature: How tokens are drawn; None or 0 takes the likeliest.
        top_p: Draws from the likeliest that have this probability together; None: as the model's own config says.
        top_k: Draws from so many; None: as the model's own config says.
        stop: Texts that end an answer and are no part of it.
        streaming: Whether callbacks see the tokens of `invoke` too.

    Raises:
        UnsupportedValueError: If the tokenizer has no chat template.
    """

    # A misspelt setting would be left out in silence.
    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid", protected_namespaces=())

    model: PreTrainedModel = Field(repr=False)
    tokenizer: PreTrainedTokenizerBase = Field(repr=False)
    guidance: Guidance | None = None
    positive: str = POSITIVE
    negative: str = NEGATIVE
    max_new_tokens: int = Field(default=512, ge=1)
    temperature: float | None = Field(default=None, ge=0.0)
    top_p: float | None = Field(default=None, gt=0.0, le=1.0)
    top_k: int | None = Field(default=None, ge=1)
    stop: list[str] = Field(default_factory=list)
    streaming: bool = False

    @model_validator(mode="before")
    @classmethod
    def _named(cls, fields: Any) -> Any:
        if isinstance(fields, dict) and "max_tokens" in fields:
            if "max_new_tokens" in fields:
                raise ValueError("max_new_tokens and max_tokens are the same; give one")
            return {("max_new_tokens" if name == "max_tokens" else name): own for name, own in fields.items()}
        return fields

    @model_validator(mode="after")
    def _checked(self) -> Self:
        check_template(self.tokenizer)
        return self

    @classmethod
    def load(cls, path: str | Path, *, device: str | None = None, **fields: Any) -> Self:
        """Load model and tokenizer from a folder. Nothing is fetched, and no code or pickle of the folder is run.

        Args:
            path: The folder, with weights as safetensors.
            device: Where to, such as `cuda`; None leaves the model on the CPU.
            fields: Other fields of the class.

        Returns:
            The chat model.

        Raises:
            BundleError: If the folder holds no whole causal model with a tokenizer.
            UnsupportedValueError: If the tokenizer has no chat template.
        """
        found = load_causal(Path(path))
        # transformers' own types of `to` do not fit each other.
        model: Any = found.model
        return cls(model=model if device is None else model.to(device), tokenizer=found.tokenizer, **fields)

    def with_guidance(self, guidance: Guidance | None) -> Self:
        """The same model, steered in another way.

        Args:
            guidance: How far; None for not at all.

        Returns:
            A copy; the weights are shared.
        """
        return self.model_copy(update={"guidance": guidance})

    def guided(self, coefficient: float, space: Literal["log", "probability"]) -> Self:
        """The same model, steered as a policy's `regenerate` asks for it.

        Args:
            coefficient: As of `Guidance`.
            space: Likewise.

        Returns:
            A copy; the weights are shared.

        Raises:
            ValueError: If the coefficient steers nowhere.
        """
        sequential = self.guidance is not None and self.guidance.sequential
        return self.with_guidance(Guidance(coefficient=coefficient, space=space, sequential=sequential))

    # What LangChain asks of a model.

    @property
    def _llm_type(self) -> str:
        return "lec-guard-local"

    @property
    def model_name(self) -> str:
        """What the model is called in metadata and traces; of a path, the last part."""
        name = str(self.model.name_or_path or "")
        path = Path(name)
        if not name:
            return type(self.model).__name__
        return path.resolve().name if path.is_absolute() or name.startswith(".") or path.exists() else name

    @property
    def _identifying_params(self) -> dict[str, Any]:
        steered: dict[str, Any] = {"guidance": None}
        if self.guidance is not None:
            steered = {"guidance": asdict(self.guidance), "positive": self.positive, "negative": self.negative}
        return {
            "model_name": self.model_name,
            "max_new_tokens": self.max_new_tokens,
            **{name: getattr(self, name) for name in _SAMPLING},
            "stop": list(self.stop),
            **steered,
        }

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        found = LangSmithParams(
            ls_provider="lec_guard",
            ls_model_type="chat",
            ls_model_name=kwargs["model"] if isinstance(kwargs.get("model"), str) else self.model_name,
            ls_max_tokens=next(
                (kwargs[name] for name in _LENGTHS if kwargs.get(name) is not None), self.max_new_tokens
            ),
        )
        temperature = kwargs.get("temperature", self.temperature)
        if temperature is not None:
            found["ls_temperature"] = temperature
        if stop or self.stop:
            found["ls_stop"] = list(stop or self.stop)
        return found

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Let the model call tools.

        Args:
            tools: The tools, in any form that LangChain knows.
            tool_choice: None or "auto": a local model calls if it writes a call.
            kwargs: Bound too.

        Returns:
            The model with them.

        Raises:
            UnsupportedValueError: If `tool_choice` asks for more, or the chat template has no place for tools.
        """
        schemas = [convert_to_openai_tool(tool) for tool in tools]
        self._check_tools(schemas, tool_choice)
        return self.bind(tools=schemas, **kwargs)

    def with_structured_output(
        self, schema: dict[str, Any] | type, *, include_raw: bool = False, **kwargs: Any
    ) -> Runnable[LanguageModelInput, dict[str, Any] | BaseModel]:
        """Let the model answer with a tool call of this schema, as LangChain's own does, without forcing it to.

        Args:
            schema: A pydantic class, TypedDict, JSON schema or OpenAI tool.
            include_raw: Whether to give `raw`, `parsed` and `parsing_error` instead of what was parsed.
            kwargs: `method` and `strict` change nothing, as with LangChain's own.

        Returns:
            A runnable that gives what was parsed, or None where the model wrote no call.

        Raises:
            UnsupportedValueError: If something else is asked for, or the chat template has no place for tools.
        """
        kwargs.pop("method", None)
        kwargs.pop("strict", None)
        if kwargs:
            raise UnsupportedValueError(f"structured output has no {', '.join(sorted(kwargs))}; leave it out")
        shown = {"kwargs": {"method": "function_calling"}, "schema": schema}
        model = self.bind_tools([schema], ls_structured_output_format=shown)
        parser: JsonOutputToolsParser
        if isinstance(schema, type) and is_basemodel_subclass(schema):
            parser = PydanticToolsParser(tools=[schema], first_tool_only=True)
        else:
            name = convert_to_openai_tool(schema)["function"]["name"]
            parser = JsonOutputKeyToolsParser(key_name=name, first_tool_only=True)
        if not include_raw:
            return model | parser
        parsed = RunnablePassthrough.assign(parsed=itemgetter("raw") | parser, parsing_error=lambda _: None)
        nothing = RunnablePassthrough.assign(parsed=lambda _: None)
        return RunnableMap(raw=model) | parsed.with_fallbacks([nothing], exception_key="parsing_error")

    def _check_tools(self, tools: Sequence[Mapping[str, Any]], tool_choice: str | None) -> None:
        if tool_choice not in (None, "auto"):
            raise UnsupportedValueError(
                f"tool_choice={tool_choice!r} can't be kept: whether a local model calls a tool is what it writes; "
                "leave it out"
            )
        if tools and CALL_OPENS not in self.tokenizer.get_chat_template(tools=[dict(tool) for tool in tools]):
            raise UnsupportedValueError(
                f"the chat template of {self.tokenizer.name_or_path!r} has no tool calls between {CALL_OPENS} and "
                f"{CALL_CLOSES}; take a model that writes them so"
            )

    # What a kind of this class may do otherwise.

    def _prompt(self, messages: Sequence[BaseMessage], asked: Asked) -> Prompt:
        """Write the prompt down, on the caller's thread."""
        conversation = conversation_of(messages)
        longest = longest_of(self.model)
        if self.guidance is None:
            rendered = render(self.tokenizer, conversation, tools=asked.tools, longest=longest)
            ids, mask = padded([rendered.ids], self.tokenizer)
            inputs, width = {"input_ids": ids, "attention_mask": mask}, ids.shape[1]
        else:
            prompts = paired(
                self.tokenizer,
                [conversation],
                positive=self.positive,
                negative=self.negative,
                tools=asked.tools,
                longest=longest,
            )
            rendered, inputs = prompts.positive[0], prompts.arguments()
            width = max(prompts.input_ids.shape[1], prompts.negative_input_ids.shape[1])
        device = self.model.device
        return Prompt(
            rendered=rendered,
            inputs={name: own.to(device) for name, own in inputs.items()},
            room=None if longest is None else longest - width,
        )

    def _writing(
        self,
        prompt: Prompt,
        asked: Asked,
        *,
        logits_processor: Sequence[LogitsProcessor] = (),
        stopping_criteria: Sequence[StoppingCriteria] = (),
    ) -> Writing:
        """An answer that has yet to begin."""
        return Writing(
            self.model if self.guidance is None else GuidedCausalLM(self.model, self.guidance),
            self.tokenizer,
            prompt.inputs,
            max_new_tokens=asked.max_new_tokens if prompt.room is None else min(asked.max_new_tokens, prompt.room),
            stop=asked.stop,
            keep=(CALL_OPENS, CALL_CLOSES) if asked.tools else (),
            logits_processor=logits_processor,
            stopping_criteria=stopping_criteria,
            **asked.sampling,
        )

    # The four ways of LangChain to ask: each reads a writing to its end.

    def _begun(self, messages: list[BaseMessage], stop: list[str] | None, settings: Mapping[str, Any]) -> Answered:
        asked = self._asked(stop, settings)
        prompt = self._prompt(messages, asked)
        return Answered(self._writing(prompt, asked), self.model_name, reads_calls=bool(asked.tools))

    def _asked(self, stop: list[str] | None, settings: Mapping[str, Any]) -> Asked:
        """The model's fields, and what this call says otherwise."""
        known = {*_SAMPLING, *_LENGTHS, "tools", "tool_choice", "stream"}
        for name in settings:
            if name not in known:
                raise UnsupportedValueError(f"{name!r} is no setting of this model; it has {', '.join(sorted(known))}")
        tools = tuple(convert_to_openai_tool(tool) for tool in settings.get("tools") or ())
        self._check_tools(tools, settings.get("tool_choice"))
        drawn = {name: settings.get(name, getattr(self, name)) for name in _SAMPLING}
        # Where nothing is drawn, settings of how to draw are none.
        if not drawn["temperature"]:
            drawn = dict.fromkeys(_SAMPLING)
        else:
            drawn = {name: value for name, value in drawn.items() if value is not None}
        return Asked(
            max_new_tokens=next(
                (settings[name] for name in _LENGTHS if settings.get(name) is not None), self.max_new_tokens
            ),
            stop=tuple(self.stop if stop is None else stop),
            sampling={"do_sample": bool(drawn["temperature"]), **drawn},
            tools=tools,
        )

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002 - LangChain hands it on
        **kwargs: Any,
    ) -> ChatResult:
        answer = self._begun(messages, stop, kwargs)
        with answer.writing:
            parts = [part for piece in answer.writing for part in answer.parts(piece)]
            return answer.result([*parts, *answer.rest()])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002 - LangChain hands it on
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        answer = self._begun(messages, stop, kwargs)
        with answer.writing:
            for piece in answer.writing:
                for part in answer.parts(piece):
                    yield answer.chunk(part)
            for part in answer.rest():
                yield answer.chunk(part)
            yield answer.last()

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,  # noqa: ARG002 - LangChain hands it on
        **kwargs: Any,
    ) -> ChatResult:
        # Read piece by piece like a stream, so that a task that is cancelled writes no further.
        answer = await run_in_executor(None, self._begun, messages, stop, kwargs)
        parts: list[Part] = []
        async with _ended(answer.writing):
            while (piece := await run_in_executor(None, next, answer.writing, None)) is not None:
                parts += answer.parts(piece)
            return answer.result([*parts, *answer.rest()])

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,  # noqa: ARG002 - LangChain hands it on
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        answer = await run_in_executor(None, self._begun, messages, stop, kwargs)
        async with _ended(answer.writing):
            while (piece := await run_in_executor(None, next, answer.writing, None)) is not None:
                for part in answer.parts(piece):
                    yield answer.chunk(part)
            for part in answer.rest():
                yield answer.chunk(part)
            yield answer.last()


@asynccontextmanager
async def _ended(writing: Writing) -> AsyncIterator[None]:
    """Ends a writing without making the loop wait for its thread."""
    try:
        yield
    finally:
        if writing.finish_reason is None:
            writing.cancel()
            await asyncio.shield(run_in_executor(None, writing.stop))


class Answered:
    """A writing, read as content and tool calls.

    Args:
        writing: The answer while it is written.
        model_name: What metadata call the model.
        reads_calls: Whether what looks like a tool call is one.
    """

    def __init__(self, writing: Writing, model_name: str, *, reads_calls: bool) -> None:
        self.writing = writing
        self._model_name = model_name
        # Who bound no tools asked for no calls: what looks like one is text.
        self._calls = Calls() if reads_calls else None
        self._index = 0

    def parts(self, piece: str) -> list[Part]:
        """What a piece of text brings: text, and calls that are whole with it."""
        return [piece] if self._calls is None else self._calls.add(piece)

    def rest(self) -> list[Part]:
        """What is left at the end."""
        return [] if self._calls is None else self._calls.rest()

    def chunk(self, part: Part) -> ChatGenerationChunk:
        """A part as LangChain streams it."""
        if isinstance(part, str):
            return ChatGenerationChunk(message=AIMessageChunk(content=part))
        args = part["args"] if isinstance(part["args"], str) else json.dumps(part["args"], ensure_ascii=False)
        chunk = tool_call_chunk(name=part["name"], args=args, id=part["id"], index=self._index)
        self._index += 1
        return ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=[chunk]))

    def last(self) -> ChatGenerationChunk:
        """What ends a stream: no text, but what it took."""
        message = AIMessageChunk(
            content="", usage_metadata=self._usage(), response_metadata=self._metadata(), chunk_position="last"
        )
        return ChatGenerationChunk(message=message)

    def result(self, parts: Sequence[Part]) -> ChatResult:
        """All parts as one answer."""
        message = AIMessage(
            content="".join(part for part in parts if isinstance(part, str)),
            tool_calls=[part for part in parts if not isinstance(part, str) and part["type"] == "tool_call"],
            invalid_tool_calls=[
                part for part in parts if not isinstance(part, str) and part["type"] == "invalid_tool_call"
            ],
            usage_metadata=self._usage(),
            response_metadata=self._metadata(),
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _usage(self) -> UsageMetadata:
        read, written = self.writing.prompt_tokens, self.writing.written_tokens
        return UsageMetadata(input_tokens=read, output_tokens=written, total_tokens=read + written)

    def _metadata(self) -> dict[str, Any]:
        return {"model_name": self._model_name, "finish_reason": self.writing.finish_reason}
