"""A local chat model that is guarded from within: judged by what its own layers make of what it reads and writes."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections import deque
from collections.abc import AsyncIterator, Generator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    BaseCallbackHandler,
    CallbackManager,
    CallbackManagerForLLMRun,
)
from langchain_core.language_models.chat_models import generate_from_stream
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config, run_in_executor
from pydantic import Field, model_validator
from torch import Tensor
from transformers import LogitsProcessor

from lec_guard.act.effects import Effects
from lec_guard.chain.base import given
from lec_guard.chain.holding import Stopped
from lec_guard.chain.plan import Passed, Plan
from lec_guard.chain.protect import put_back
from lec_guard.chain.runnable import VERDICT_EVENT, GuardRunnable
from lec_guard.errors import GuardBlocked, UnsupportedValueError
from lec_guard.generate.calls import CALL_CLOSES, CALL_OPENS
from lec_guard.generate.decoding import Decoder
from lec_guard.generate.detector import EVERY, InsideDetector
from lec_guard.generate.local import Answered, LocalChatModel
from lec_guard.generate.reading import Reading
from lec_guard.generate.states import Caught
from lec_guard.generate.writing import Writing
from lec_guard.observe.events import EventSink
from lec_guard.policy.guidance import least_trusted
from lec_guard.step import ACTIONS, Verdict

_CONFIG = "lec_guard_config"
"""The keyword by which a call's config reaches what answers it; LangChain hands none on."""

_TOLD = ("action", "rule", "cause", "stage", "tenant", "policy", "policy_version", "detector_id")
"""What an answer's metadata say of the severest verdict."""


class GuardedChatModel(LocalChatModel):
    """A local chat model whose prompts and answers a guard judges in the pass that reads and writes them.

    Prompts are judged before the first token: one that is blocked is answered with the policy's message, one that is
    rewritten is read anew. An answer is judged while it is written, goes on as far as the policy's `hold_back` lets it,
    and ends within a few tokens where it is a block; tool calls are judged when they are whole. The severest verdict is
    in the answer's `response_metadata` under `lec_guard`; verdicts reach the guard's sinks and callbacks
    (`GuardCallbackHandler`) as from any other guard. The tenant comes as to a `GuardRunnable`. What the tenant's policy
    says of `guidance` steers the answer, by who wrote the least trusted text of the conversation.

    Args:
        guard: What judges; its detector is, or has in it, the one below.
        detector: Reads by this model's layers.
        on_block: What follows a block: an `answer` that says so, or `raise` of `GuardBlocked`.

    Raises:
        UnsupportedValueError: If the detector reads by another model's layers, or answers are to be cached: they would
            outlive the policy that let them pass.
    """

    guard: GuardRunnable = Field(repr=False)
    detector: InsideDetector = Field(repr=False)
    on_block: Literal["answer", "raise"] = "answer"

    @model_validator(mode="before")
    @classmethod
    def _of_guard(cls, fields: Any) -> Any:
        if isinstance(fields, dict) and isinstance(fields.get("detector"), InsideDetector):
            return {"model": fields["detector"].model, "cache": False, **fields}
        return fields

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.detector.model is not self.model:
            raise UnsupportedValueError("the detector reads by another model's layers; load it with this model")
        if self.cache:
            raise UnsupportedValueError("answers that passed a policy are not cached: it may change; leave out cache")
        return self

    @classmethod
    def load_guarded(
        cls,
        path: str | Path,
        *bundles: str | Path,
        policies: str | Path | None = None,
        sinks: Sequence[EventSink] = (),
        effects: Effects | None = None,
        every: int = EVERY,
        device: str | None = None,
        **fields: Any,
    ) -> Self:
        """Load a model with heads on its layers and policies that read them.

        Args:
            path: The model's folder.
            *bundles: Folders that `lec-guard train --model PATH --turn ROLE` wrote for it.
            policies: As for `Guard.from_policies`.
            sinks: Likewise.
            effects: Likewise.
            every: Tokens after which an answer is judged again while it is written.
            device: Where the model goes; None leaves it on the CPU.
            fields: Other fields of the class.

        Returns:
            The chat model.

        Raises:
            BundleError: If the folder holds no model, or a bundle was not fitted on it.
            PolicyError: If a policy is wrong, or reads heads that no bundle has.
        """
        plain = LocalChatModel.load(path, device=device)
        detector = InsideDetector.load(plain.model, plain.tokenizer, *bundles, every=every)
        guard = GuardRunnable.from_policies(policies, detector=detector, sinks=sinks, effects=effects)
        return cls(tokenizer=plain.tokenizer, guard=guard, detector=detector, **fields)

    def for_tenant(self, tenant: str) -> Self:
        """The same model for one tenant.

        Args:
            tenant: The tenant.

        Returns:
            A copy; the weights are shared.

        Raises:
            PolicyError: If the tenant is unknown.
            TenantMismatch: If this one is bound to another.
        """
        return self.model_copy(update={"guard": self.guard.for_tenant(tenant)})

    @property
    def _llm_type(self) -> str:
        return "lec-guard-guarded"

    # LangChain hands no config on to what answers: it goes as a keyword.

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """See `BaseChatModel.invoke`."""
        return super().invoke(input, config, **_with(config, kwargs))

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """See `BaseChatModel.ainvoke`."""
        return await super().ainvoke(input, config, **_with(config, kwargs))

    def stream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[AIMessageChunk]:
        """See `BaseChatModel.stream`."""
        own = _named(config)
        yield from super().stream(input, own, **_with(own, kwargs))

    async def astream(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[AIMessageChunk]:
        """See `BaseChatModel.astream`."""
        own = _named(config)
        async for chunk in super().astream(input, own, **_with(own, kwargs)):
            yield chunk

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return generate_from_stream(self._stream(messages, stop, run_manager, **kwargs))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        flow = _Flow(self, messages, stop, run_manager, kwargs)
        try:
            while (chunk := flow.step()) is not None:
                yield chunk
        finally:
            flow.close()

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        chunks = [chunk async for chunk in self._astream(messages, stop, run_manager, **kwargs)]
        return generate_from_stream(iter(chunks))

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        flow = _Flow(self, messages, stop, None if run_manager is None else run_manager.get_sync(), kwargs)
        async with _closing(flow):
            while (chunk := await run_in_executor(None, flow.step)) is not None:
                yield chunk

    def _steered(self, trust: Any, tenant: str | None) -> LocalChatModel:
        """This model as the tenant's policy wants it steered."""
        rule = self.guard.guard.guidance(tenant, trust)
        return self if rule is None else self.guided(rule.coefficient, rule.space)


class _Flow:
    """One call: everything between a conversation and the chunks of its answer. One step at a time, on any thread."""

    def __init__(
        self,
        model: GuardedChatModel,
        messages: Sequence[BaseMessage],
        stop: list[str] | None,
        run_manager: CallbackManagerForLLMRun | None,
        settings: dict[str, Any],
    ) -> None:
        self._model = model
        self._heard = _Heard()
        handed = settings.pop(_CONFIG, None)
        self._config = _run_config(handed.config if isinstance(handed, _Handed) else {}, run_manager, self._heard)
        self._asked = model._asked(stop, settings)
        self._chunks = self._run(list(messages))
        self._stepping = threading.Lock()
        self._writing: Writing | None = None

    def step(self) -> ChatGenerationChunk | None:
        """The next chunk; None when there is none left."""
        with self._stepping:
            return next(self._chunks, None)

    def cancel(self) -> None:
        """End what is being written, and wait for nothing."""
        if self._writing is not None:
            self._writing.cancel()

    def close(self) -> None:
        """End it, and wait for its thread."""
        with self._stepping:
            self._chunks.close()

    def _run(self, messages: list[BaseMessage]) -> Generator[ChatGenerationChunk, None, None]:
        guard = self._model.guard
        plan = guard.input.plan([messages], [self._config])
        for error in plan.errors.values():
            raise error
        trust = least_trusted(None if step.origin is None else step.origin.trust for step in plan.steps)
        model = self._model._steered(trust, guard.tenant_of(self._config))
        try:
            talk = _Talk(self, model, messages, plan)
            yield from self._answer(talk, {})
        except _Anew as anew:
            # What the policy made of the prompt was judged, and is read by the model from its start.
            yield from self._answer(_Talk(self, model, anew.passed.value, None), anew.passed.tokens)
        except _Refused as refused:
            yield self._refusal(refused.verdict, {})

    def _answer(self, talk: _Talk, tokens: Mapping[str, str]) -> Iterator[ChatGenerationChunk]:
        """An answer as far as it may go on, and at its end what was decided."""
        self._writing = talk.writing
        with talk.writing:
            held = talk.in_force(
                self._model.guard.output.hold(talk.chunks(), self._config, talk.messages, whole=bool(tokens))
            )
            for chunk in put_back(list(held), tokens) if tokens else held:
                if isinstance(chunk, Stopped):
                    last: Any = talk.answered.last().message
                    yield self._refusal(chunk.verdict, last.usage_metadata)
                    return
                yield ChatGenerationChunk(message=chunk)
            yield self._with_verdict(talk.answered.last().message)

    def _refusal(self, verdict: Verdict, usage: Any) -> ChatGenerationChunk:
        if self._model.on_block == "raise":
            raise GuardBlocked(verdict)
        message = AIMessageChunk(
            content=verdict.message or "",
            usage_metadata=usage or None,
            response_metadata={"model_name": self._model.model_name, "finish_reason": "blocked"},
            chunk_position="last",
        )
        return self._with_verdict(message)

    def _with_verdict(self, message: Any) -> ChatGenerationChunk:
        told = {**message.response_metadata, "lec_guard": self._heard.told()}
        return ChatGenerationChunk(message=message.model_copy(update={"response_metadata": told}))


class _Talk:
    """One conversation in one generation: what the writing thread sees, and the reader of it."""

    def __init__(self, flow: _Flow, model: LocalChatModel, messages: Sequence[BaseMessage], plan: Plan | None) -> None:
        self.messages = list(messages)
        prompt = model._prompt(self.messages, flow._asked)
        self._tap = flow._model.detector.tap
        self._caught = Caught(self._tap)
        self._reading = Reading(prompt.rendered)
        self._passes = _Passes(self._caught, self._reading, None if plan is None else self._judge)
        self._flow, self._plan = flow, plan
        self.writing = model._writing(prompt, flow._asked, logits_processor=[self._passes])
        self.answered = Answered(self.writing, model.model_name, reads_calls=bool(flow._asked.tools))
        keep = (CALL_OPENS, CALL_CLOSES) if flow._asked.tools else ()
        self._decoder = Decoder(model.tokenizer, keep)

    def in_force(self, chunks: Iterator[Any]) -> Iterator[Any]:
        """Chunks, each made where scores come of this conversation and its states are caught."""
        end = object()
        while True:
            # Not around the loop: what reads the chunks may do so on several threads, each with a context of its own.
            with self._reading.in_force(), self._tap.catching(self._caught):
                chunk = next(chunks, end)
            if chunk is end:
                return
            yield chunk

    def chunks(self) -> Iterator[Any]:
        """The answer as it is written, with its states where detectors look for them."""
        for piece in self.writing:
            self._drain()
            yield from (self.answered.chunk(part).message for part in self.answered.parts(piece))
        self._drain()
        self._reading.answer.close(self._decoder.rest())
        yield from (self.answered.chunk(part).message for part in self.answered.rest())

    def _drain(self) -> None:
        answer, ends = self._reading.answer, self.writing.ends
        while self._passes.waiting:
            one = self._passes.waiting.popleft()
            if one.token not in ends:
                answer.write(one.token, self._decoder.add(one.token))
                answer.add(one.states)

    def _judge(self) -> None:
        """Judge the prompt, on the writing thread, between reading it and drawing the first token."""
        guard, config = self._flow._model.guard.input, self._flow._config
        assert self._plan is not None  # noqa: S101 - else nothing is judged
        passed: Passed = given(guard.judge(self._plan, [self.messages], [config])[0])
        if passed.verdict.blocked:
            raise _Refused(passed.verdict)
        if passed.value is not self.messages:
            raise _Anew(passed)


@dataclass(frozen=True, slots=True)
class _Token:
    """A token that the layers have read."""

    token: int
    states: Mapping[int, Tensor]


class _Passes(LogitsProcessor):
    """Sees each pass when it is over, on the writing thread, and changes no score."""

    def __init__(self, caught: Caught, reading: Reading, judge: Any) -> None:
        self.waiting: deque[_Token] = deque()
        self._caught = caught
        self._reading = reading
        self._judge = judge
        self._has_begun = False

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Judge the prompt after the first pass, keep the states of a token after each other."""
        states = self._caught.take(1)
        if self._has_begun:
            last = {layer: own[0, -1:] for layer, own in states.items()}
            self.waiting.append(_Token(int(input_ids[0, -1]), last))
            return scores
        self._has_begun = True
        self._reading.fill(states)
        if self._judge is not None:
            with self._reading.in_force():
                self._judge()
        self._reading.forget()
        return scores


class _Refused(Exception):
    """The prompt is blocked."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__("the prompt is blocked")
        self.verdict = verdict


class _Anew(Exception):
    """The prompt was rewritten."""

    def __init__(self, passed: Passed) -> None:
        super().__init__("the prompt was rewritten")
        self.passed = passed


class _Heard(BaseCallbackHandler):
    """What was decided in a run."""

    def __init__(self) -> None:
        self._verdicts: list[Mapping[str, Any]] = []

    def on_custom_event(self, name: str, data: Any, **_: Any) -> None:
        """Hear a verdict."""
        if name == VERDICT_EVENT:
            self._verdicts.append(data)

    def told(self) -> dict[str, Any]:
        """The severest of them, and how many there are."""
        if not self._verdicts:
            return {"steps": 0}
        worst = max(self._verdicts, key=lambda one: ACTIONS.index(one["action"]))
        return {**{name: worst.get(name) for name in _TOLD}, "steps": len(self._verdicts)}


@dataclass(frozen=True, slots=True, repr=False)
class _Handed:
    """A call's config, on its way past what traces keywords."""

    config: RunnableConfig

    def __repr__(self) -> str:
        return "the config of this call"


def _named(config: RunnableConfig | None) -> RunnableConfig:
    """A config with the id that its run will have: who streams is told of no run."""
    own = ensure_config(config)
    return {**own, "run_id": own.get("run_id") or uuid.uuid4()}


def _with(config: RunnableConfig | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {**settings, _CONFIG: _Handed(ensure_config(config))}


def _run_config(config: RunnableConfig, run_manager: CallbackManagerForLLMRun | None, heard: _Heard) -> RunnableConfig:
    """The config of a model's run, as events are sent with."""
    if run_manager is None:
        callbacks = CallbackManager.configure(
            config.get("callbacks"), inheritable_tags=config.get("tags"), inheritable_metadata=config.get("metadata")
        )
        callbacks.parent_run_id = config.get("run_id") or uuid.uuid4()
        callbacks.add_handler(heard)
    else:
        callbacks = CallbackManager(
            handlers=[*run_manager.handlers, heard],
            parent_run_id=run_manager.run_id,
            tags=list(run_manager.tags),
            metadata=dict(run_manager.metadata),
        )
    own: RunnableConfig = {**config, "callbacks": callbacks}
    return own


@asynccontextmanager
async def _closing(flow: _Flow) -> AsyncIterator[None]:
    """Ends a flow without making the loop wait for its threads."""
    try:
        yield
    finally:
        flow.cancel()
        await asyncio.shield(run_in_executor(None, flow.close))
