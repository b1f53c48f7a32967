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

from lec_guard.chain.base import AsyncUpstream, BatchRunnable, Upstream, given
from lec_guard.chain.holding import Stopped
from lec_guard.chain.lens import Reading, UneditableError, read
from lec_guard.chain.plan import Passed
from lec_guard.chain.quiet import Hushed, hushed_context
from lec_guard.chain.runnable import GuardRunnable
from lec_guard.chain.streaming import StreamReading, read_stream, whole
from lec_guard.errors import GuardBlocked, LecGuardError
from lec_guard.step import Verdict


@dataclass(frozen=True, eq=False)
class ProtectedRunnable(BatchRunnable):
    """Judges a request, runs a chain on it, and judges the answer with the request as its context.

    The chain does not run on a request that is blocked. A chunk of a streamed answer is held back as by the guard: the
    whole answer, unless the policy's `hold_back` is a number and nothing of the request is to be put back. What went on
    before a block stays, and the refusal is the last chunk. A batch is one call of the detector for all requests, and
    one for all answers. Keyword arguments go to the chain. On a block the answer is a refusal, or `GuardBlocked` where
    the chain's answers are of a type that a message can't be put into and no refusal was given; other errors are those
    of `GuardRunnable` and of the chain. `astream_events` and LangGraph's streams are shown what passes, and nothing of
    the runs inside the chain but custom events.

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

    def stream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:
        """Answer a request in the chain's chunks, held back as the policy wants.

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

    def _batch(
        self,
        values: list[Any],
        run_manager: list[CallbackManagerForChainRun],
        config: list[RunnableConfig],
        **kwargs: Any,
    ) -> list[Any]:
        view = self.guard.input
        begun = self._after_input(values, view.judge(view.plan(values, config), values, config))
        open_ = _open(begun)
        asked, quiet = [begun[at].value for at in open_], [_quiet(config[at]) for at in open_]
        with hushed_context():
            answers = self.chain.batch(asked, quiet, return_exceptions=True, **kwargs)
        results = _fill(begun, open_, answers)
        answered = [at for at in open_ if not isinstance(results[at], Exception)]
        view, own = self.guard.output, [results[at] for at in answered]
        configs = [config[at] for at in answered]
        plan = view.plan(own, configs, [begun[at].value for at in answered])
        return self._after_output(values, begun, results, answered, view.judge(plan, own, configs))

    async def _abatch(
        self,
        values: list[Any],
        run_manager: list[AsyncCallbackManagerForChainRun],
        config: list[RunnableConfig],
        **kwargs: Any,
    ) -> list[Any]:
        view = self.guard.input
        begun = self._after_input(values, await view.ajudge(await view.aplan(values, config), values, config))
        open_ = _open(begun)
        asked, quiet = [begun[at].value for at in open_], [_quiet(config[at]) for at in open_]
        with hushed_context():
            answers = await self.chain.abatch(asked, quiet, return_exceptions=True, **kwargs)
        results = _fill(begun, open_, answers)
        answered = [at for at in open_ if not isinstance(results[at], Exception)]
        view, own = self.guard.output, [results[at] for at in answered]
        configs = [config[at] for at in answered]
        plan = await view.aplan(own, configs, [begun[at].value for at in answered])
        return self._after_output(values, begun, results, answered, await view.ajudge(plan, own, configs))

    def _transform(
        self, chunks: Iterator[Any], run_manager: CallbackManagerForChainRun, config: RunnableConfig, **kwargs: Any
    ) -> Iterator[Any]:
        request = whole(list(chunks))
        view = self.guard.input
        [begun] = self._after_input([request], view.judge(view.plan([request], [config]), [request], [config]))
        if not isinstance(begun, _Open):
            yield _chunk(given(begun))
            return
        answer = Upstream(self.chain.stream(begun.value, _quiet(config), **kwargs))
        held = self.guard.output.hold(answer, config, begun.value, whole=bool(begun.tokens))
        with hushed_context():
            try:
                if begun.tokens:
                    held = iter(put_back(list(held), begun.tokens))
                for chunk in held:
                    yield self._passing(chunk, request)
            finally:
                answer.stop()

    async def _atransform(
        self,
        chunks: AsyncIterator[Any],
        run_manager: AsyncCallbackManagerForChainRun,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
        request = whole([chunk async for chunk in chunks])
        view = self.guard.input
        judged = await view.ajudge(await view.aplan([request], [config]), [request], [config])
        [begun] = self._after_input([request], judged)
        if not isinstance(begun, _Open):
            yield _chunk(given(begun))
            return
        answer = AsyncUpstream(self.chain.astream(begun.value, _quiet(config), **kwargs))
        held = self.guard.output.ahold(answer, config, begun.value, whole=bool(begun.tokens))
        with hushed_context():
            try:
                if begun.tokens:
                    held = _each(put_back([chunk async for chunk in held], begun.tokens))
                async for chunk in held:
                    yield self._passing(chunk, request)
            finally:
                await answer.stop()

    def _passing(self, chunk: Any, request: Any) -> Any:
        """A chunk that was held back, or the refusal where the stream was stopped."""
        return self._refused_chunk(chunk.verdict, request, chunk.last) if isinstance(chunk, Stopped) else chunk

    def _after_input(self, requests: Sequence[Any], judged: Sequence[Passed | LecGuardError]) -> list[Any]:
        """For each request an `_Open`, a refusal or an error."""
        results: list[Any] = []
        for request, one in zip(requests, judged, strict=True):
            if isinstance(one, LecGuardError):
                results.append(one)
            elif one.verdict.blocked:
                results.append(self._refuse(one.verdict, request, None))
            else:
                results.append(_Open(one.value, one.tokens))
        return results

    def _after_output(
        self,
        requests: Sequence[Any],
        begun: Sequence[Any],
        results: list[Any],
        answered: Sequence[int],
        judged: Sequence[Passed | LecGuardError],
    ) -> list[Any]:
        """Put refusals and errors in the place of answers that may not pass, and in others what their tokens mean."""
        for at, one in zip(answered, judged, strict=True):
            if isinstance(one, LecGuardError):
                results[at] = one
            elif one.verdict.blocked:
                results[at] = self._refuse(one.verdict, requests[at], results[at])
            else:
                results[at] = one.value
                if begun[at].tokens:
                    results[at] = _restored(read(one.value, "output"), begun[at].tokens)
        return results

    def _refused_chunk(self, verdict: Verdict, request: Any, last: Any) -> Any:
        """The refusal in the form of a stream's last chunk: of a chain, or of a graph in any of its modes."""
        if isinstance(last, tuple) and len(last) == 2 and isinstance(last[0], BaseMessage):
            return _chunk(given(self._refuse(verdict, request, last[0]))), last[1]
        if isinstance(last, tuple) and len(last) >= 2:
            return (*last[:-1], self._refused_chunk(verdict, request, last[-1]))
        if isinstance(last, Mapping) and len(last) == 1 and _has_messages(next(iter(last.values()))):
            # Nothing else of the update: a structured response says what the answer does.
            return {next(iter(last)): {"messages": [given(self._refuse(verdict, None, AIMessage("")))]}}
        return _chunk(given(self._refuse(verdict, request, last)))

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
        if _has_messages(request) and (kind is object or issubclass(kind, Mapping)):
            before = request["messages"]
            return {**request, "messages": [*(before if isinstance(before, list) else [before]), told]}
        if kind is object or issubclass(kind, BaseMessage):
            return told
        return GuardBlocked(verdict)


def _quiet(config: RunnableConfig) -> RunnableConfig:
    """The config for the chain's own run: what streams to a caller hears of what passes, from the run around it."""
    return Hushed.of(config).config or config


@dataclass(frozen=True, slots=True)
class _Open:
    """A request that passed and has no answer yet: what the chain is given, and what may be put back."""

    value: Any
    tokens: Mapping[str, str]


def _open(results: Sequence[Any]) -> list[int]:
    return [at for at, result in enumerate(results) if isinstance(result, _Open)]


def _fill(begun: Sequence[Any], places: Sequence[int], answers: Sequence[Any]) -> list[Any]:
    """All results, with the answers in their places."""
    results = list(begun)
    for at, answer in zip(places, answers, strict=True):
        results[at] = answer
    return results


def _restored(reading: Reading | StreamReading, tokens: Mapping[str, str]) -> Any:
    """An answer with what the tokens of its request stand for; an error where it can't be put there."""
    # Imported here: most chains have nothing to put back.
    from lec_guard.act.redact import restore

    try:
        return reading.mapped(lambda text: restore(text, tokens))
    except UneditableError as error:
        return error


def put_back(held: list[Any], tokens: Mapping[str, str]) -> list[Any]:
    """A whole stream with what the tokens of its request stand for.

    Args:
        held: Its chunks as they may go on, perhaps with a `Stopped` at the end.
        tokens: What stands in the request -> what it stands for.

    Returns:
        New chunks.

    Raises:
        UneditableError: If it can't be put there.
    """
    if not held or isinstance(held[-1], Stopped):
        return held
    chunks: list[Any] = given(_restored(read_stream(held, "output"), tokens))
    return chunks


async def _each(chunks: list[Any]) -> AsyncIterator[Any]:
    for chunk in chunks:
        yield chunk


def _has_messages(request: object) -> bool:
    return isinstance(request, Mapping) and isinstance(request.get("messages"), list | str | BaseMessage)


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
