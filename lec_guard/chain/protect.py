"""A chain with a guard around it, which answers with a refusal instead of raising."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from langchain_core.callbacks import AsyncCallbackManagerForChainRun, CallbackManagerForChainRun
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.utils import ConfigurableFieldSpec
from pydantic import BaseModel

from lec_guard.chain.messages import request_of
from lec_guard.chain.runnable import Chunks, GuardRunnable
from lec_guard.errors import GuardBlocked, LecGuardError
from lec_guard.step import Verdict


@dataclass(frozen=True, eq=False)
class ProtectedRunnable(Runnable[Any, Any]):
    """Judges a request, runs a chain on it, and judges the answer with the request as its context.

    The chain does not run on a request that is blocked, and no chunk of an answer leaves before the whole
    answer was judged.

    Attributes:
        guard: What judges.
        chain: What is protected.
        refusal: What to answer on a block: a value, or a function of the verdict; None for the policy's
            message in the type of the chain's answers.
    """

    guard: GuardRunnable
    chain: Runnable[Any, Any]
    refusal: object = None

    @property
    def config_specs(self) -> list[ConfigurableFieldSpec]:
        """What guard and chain read from `configurable`."""
        return [*self.guard.config_specs, *self.chain.config_specs]

    @property
    def InputType(self) -> Any:  # noqa: N802 - LangChain's name
        """What the chain takes."""
        return self.chain.InputType

    @property
    def OutputType(self) -> Any:  # noqa: N802 - LangChain's name
        """What the chain gives."""
        return self.chain.OutputType

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Answer a request.

        Args:
            input: The request.
            config: The run's config.
            **kwargs: For the chain.

        Returns:
            The chain's answer, or the refusal.

        Raises:
            GuardBlocked: On a block where the chain's answers are of a type that a message can't be put
                into, and no `refusal` was given.
            UnsupportedValueError: If request or answer can't be read.
            TenantMismatch: If two sources name different tenants.
        """
        return self._call_with_config(self._invoke, input, config, **kwargs)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """`invoke`, without blocking the event loop."""
        return await self._acall_with_config(self._ainvoke, input, config, **kwargs)

    def batch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        """Answer requests: one call of the detector for all requests, and one for all answers.

        Args:
            inputs: The requests.
            config: One config for all, or one a request.
            return_exceptions: Return errors in the place of their answers instead of raising the first.
            **kwargs: For the chain.

        Returns:
            Answers and refusals, in order.
        """
        return self._batch_with_config(self._batch, inputs, config, return_exceptions=return_exceptions, **kwargs)

    async def abatch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        """`batch`, without blocking the event loop."""
        return await self._abatch_with_config(
            self._abatch, inputs, config, return_exceptions=return_exceptions, **kwargs
        )

    def stream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:
        """Answer a request in the chain's chunks, held back until all of them were judged.

        Args:
            input: The request.
            config: The run's config.
            **kwargs: For the chain.

        Yields:
            The chain's chunks, or the refusal.
        """
        yield from self.transform(iter([input]), config, **kwargs)

    async def astream(
        self,
        input: Any,
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
        """`stream`, without blocking the event loop."""

        async def once() -> AsyncIterator[Any]:
            yield input

        async for chunk in self.atransform(once(), config, **kwargs):
            yield chunk

    def transform(
        self,
        input: Iterator[Any],
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Iterator[Any]:
        """`stream`, with the request as a stream.

        Args:
            input: The chunks of the request.
            config: The run's config.
            **kwargs: For the chain.

        Yields:
            The chain's chunks, or the refusal.
        """
        yield from self._transform_stream_with_config(input, self._transform, config, **kwargs)

    async def atransform(
        self,
        input: AsyncIterator[Any],
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
        """`transform`, without blocking the event loop."""
        async for chunk in self._atransform_stream_with_config(input, self._atransform, config, **kwargs):
            yield chunk

    def _invoke(
        self,
        request: Any,
        run_manager: CallbackManagerForChainRun,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> Any:
        return _given(self._batch([request], [run_manager], [config], **kwargs)[0])

    async def _ainvoke(
        self,
        request: Any,
        run_manager: AsyncCallbackManagerForChainRun,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> Any:
        return _given((await self._abatch([request], [run_manager], [config], **kwargs))[0])

    def _batch(
        self,
        requests: list[Any],
        run_manager: list[CallbackManagerForChainRun],
        config: list[RunnableConfig],
        **kwargs: Any,
    ) -> list[Any]:
        view = self.guard.input
        results = self._after_input(requests, view.judge(view.plan(requests, config), run_manager, config))
        open_ = _open(results)
        answers = self.chain.batch(
            [requests[at] for at in open_], [config[at] for at in open_], return_exceptions=True, **kwargs
        )
        answered = _fill(results, open_, answers)
        view = self.guard.output
        managers, configs = [run_manager[at] for at in answered], [config[at] for at in answered]
        plan = view.plan([results[at] for at in answered], configs, [request_of(requests[at]) for at in answered])
        return self._after_output(requests, results, answered, view.judge(plan, managers, configs))

    async def _abatch(
        self,
        requests: list[Any],
        run_manager: list[AsyncCallbackManagerForChainRun],
        config: list[RunnableConfig],
        **kwargs: Any,
    ) -> list[Any]:
        view = self.guard.input
        results = self._after_input(requests, await view.ajudge(view.plan(requests, config), run_manager, config))
        open_ = _open(results)
        answers = await self.chain.abatch(
            [requests[at] for at in open_], [config[at] for at in open_], return_exceptions=True, **kwargs
        )
        answered = _fill(results, open_, answers)
        view = self.guard.output
        managers, configs = [run_manager[at] for at in answered], [config[at] for at in answered]
        plan = view.plan([results[at] for at in answered], configs, [request_of(requests[at]) for at in answered])
        return self._after_output(requests, results, answered, await view.ajudge(plan, managers, configs))

    def _transform(
        self, chunks: Iterator[Any], run_manager: CallbackManagerForChainRun, config: RunnableConfig, **kwargs: Any
    ) -> Iterator[Any]:
        request = Chunks(list(chunks)).whole()
        view = self.guard.input
        [result] = self._after_input([request], view.judge(view.plan([request], [config]), [run_manager], [config]))
        if result is not _OPEN:
            yield _chunk(_given(result))
            return
        held = list(self.chain.stream(request, config, **kwargs))
        if held:
            view = self.guard.output
            plan = view.plan([Chunks(held)], [config], [request_of(request)])
            [verdict] = view.judge(plan, [run_manager], [config])
            held = self._after_stream(request, held, verdict)
        yield from held

    async def _atransform(
        self,
        chunks: AsyncIterator[Any],
        run_manager: AsyncCallbackManagerForChainRun,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
        request = Chunks([chunk async for chunk in chunks]).whole()
        view = self.guard.input
        verdicts = await view.ajudge(view.plan([request], [config]), [run_manager], [config])
        [result] = self._after_input([request], verdicts)
        if result is not _OPEN:
            yield _chunk(_given(result))
            return
        held = [chunk async for chunk in self.chain.astream(request, config, **kwargs)]
        if held:
            view = self.guard.output
            plan = view.plan([Chunks(held)], [config], [request_of(request)])
            [verdict] = await view.ajudge(plan, [run_manager], [config])
            held = self._after_stream(request, held, verdict)
        for chunk in held:
            yield chunk

    def _after_input(self, requests: Sequence[Any], verdicts: Sequence[Verdict | LecGuardError]) -> list[Any]:
        """For each request `_OPEN`, a refusal or an error."""
        return [
            self._refuse(verdict, request, None)
            if isinstance(verdict, Verdict) and verdict.blocked
            else _OPEN
            if isinstance(verdict, Verdict)
            else verdict
            for request, verdict in zip(requests, verdicts, strict=True)
        ]

    def _after_output(
        self,
        requests: Sequence[Any],
        results: list[Any],
        answered: Sequence[int],
        verdicts: Sequence[Verdict | LecGuardError],
    ) -> list[Any]:
        """Put refusals and errors in the place of answers that may not pass."""
        for at, verdict in zip(answered, verdicts, strict=True):
            if isinstance(verdict, LecGuardError):
                results[at] = verdict
            elif verdict.blocked:
                results[at] = self._refuse(verdict, requests[at], results[at])
        return results

    def _after_stream(self, request: Any, held: list[Any], verdict: Verdict | LecGuardError) -> list[Any]:
        if isinstance(verdict, LecGuardError):
            raise verdict
        if not verdict.blocked:
            return held
        return [_chunk(_given(self._refuse(verdict, request, held[-1])))]

    def _refuse(self, verdict: Verdict, request: Any, answer: Any) -> Any:
        """The refusal in the type of the chain's answers, or `GuardBlocked` where a message has no place."""
        if self.refusal is not None:
            return cast("Callable[[Verdict], Any]", self.refusal)(verdict) if callable(self.refusal) else self.refusal
        text = verdict.message or ""
        kind = type(answer) if answer is not None else _output_class(self.chain)
        if issubclass(kind, str):
            return text
        told = AIMessage(
            content=text,
            id=answer.id if isinstance(answer, BaseMessage) else None,
            response_metadata={"lec_guard": {"action": verdict.action, "stage": verdict.stage, "rule": verdict.rule}},
        )
        if _has_messages(request) and not issubclass(kind, BaseMessage):
            return {**request, "messages": [*request["messages"], told]}
        if kind is object or issubclass(kind, BaseMessage):
            return told
        return GuardBlocked(verdict)


class _Open:
    """A request that passed and has no answer yet."""


_OPEN = _Open()


def _open(results: Sequence[Any]) -> list[int]:
    return [at for at, result in enumerate(results) if result is _OPEN]


def _fill(results: list[Any], places: Sequence[int], answers: Sequence[Any]) -> list[int]:
    """Put answers in their places; returns the places of those that are no exceptions."""
    for at, answer in zip(places, answers, strict=True):
        results[at] = answer
    return [at for at in places if not isinstance(results[at], Exception)]


def _given(result: Any) -> Any:
    if isinstance(result, Exception):
        raise result
    return result


def _has_messages(request: object) -> bool:
    return isinstance(request, Mapping) and isinstance(request.get("messages"), list)


def _output_class(chain: Runnable[Any, Any]) -> type:
    """The class of a chain's answers; `object` where it does not say or says several."""
    try:
        kind = chain.OutputType
    except TypeError:
        return object
    if inspect.isclass(kind) and issubclass(kind, str | BaseMessage | BaseModel):
        return kind
    return object


def _chunk(value: Any) -> Any:
    """A message as the chunk that consumers of a stream expect."""
    if isinstance(value, AIMessage) and not isinstance(value, AIMessageChunk):
        return AIMessageChunk(content=value.content, id=value.id, response_metadata=value.response_metadata)
    return value
