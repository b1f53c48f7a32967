"""LangChain's eight ways to run a step, on top of four that its author writes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from types import GeneratorType
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForChainRun, CallbackManagerForChainRun
from langchain_core.runnables import Runnable, RunnableConfig


class BatchRunnable(Runnable[Any, Any]):
    """A runnable whose one value is a batch of one: a subclass handles lists and streams, sync and async.

    Every call is a traced run of its own, and a value's error in a list takes only that value's place.
    """

    @abstractmethod
    def _batch(
        self,
        values: list[Any],
        run_manager: list[CallbackManagerForChainRun],
        config: list[RunnableConfig],
        **kwargs: Any,
    ) -> list[Any]:
        """A result or an exception for each value."""

    @abstractmethod
    async def _abatch(
        self,
        values: list[Any],
        run_manager: list[AsyncCallbackManagerForChainRun],
        config: list[RunnableConfig],
        **kwargs: Any,
    ) -> list[Any]:
        """`_batch`, without blocking the event loop."""

    @abstractmethod
    def _transform(
        self, chunks: Iterator[Any], run_manager: CallbackManagerForChainRun, config: RunnableConfig, **kwargs: Any
    ) -> Iterator[Any]:
        """A stream from a stream."""

    @abstractmethod
    def _atransform(
        self,
        chunks: AsyncIterator[Any],
        run_manager: AsyncCallbackManagerForChainRun,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
        """`_transform`, without blocking the event loop."""

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Handle a value.

        Args:
            input: The value.
            config: The run's config.
            **kwargs: As the class says.

        Returns:
            As the class says.
        """
        return self._call_with_config(self._one, input, config, **kwargs)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """`invoke`, without blocking the event loop."""
        return await self._acall_with_config(self._aone, input, config, **kwargs)

    def batch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        """Handle values together.

        Args:
            inputs: The values.
            config: One config for all, or one a value.
            return_exceptions: Return errors in the place of their results instead of raising the first.
            **kwargs: As the class says.

        Returns:
            The results, in order.
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

    def transform(self, input: Iterator[Any], config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:
        """Handle a stream.

        Args:
            input: The chunks.
            config: The run's config.
            **kwargs: As the class says.

        Yields:
            Chunks.
        """
        upstream = Upstream(input)
        inner = self._transform_stream_with_config(upstream, self._transform, config, **kwargs)
        try:
            # Not `yield from`, which would close it first: it then pulls all that is left of its input.
            for chunk in inner:  # noqa: UP028
                yield chunk
        finally:
            upstream.stop()
            close = getattr(inner, "close", None)
            if close is not None:
                close()

    async def atransform(
        self, input: AsyncIterator[Any], config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        """`transform`, without blocking the event loop."""
        upstream = AsyncUpstream(input)
        inner = self._atransform_stream_with_config(upstream, self._atransform, config, **kwargs)
        try:
            async for chunk in inner:
                yield chunk
        finally:
            await upstream.stop()
            await _aclosed(inner)

    def _one(self, value: Any, run_manager: CallbackManagerForChainRun, config: RunnableConfig, **kwargs: Any) -> Any:
        return given(self._batch([value], [run_manager], [config], **kwargs)[0])

    async def _aone(
        self, value: Any, run_manager: AsyncCallbackManagerForChainRun, config: RunnableConfig, **kwargs: Any
    ) -> Any:
        return given((await self._abatch([value], [run_manager], [config], **kwargs))[0])


class StreamStopped(Exception):
    """What is raised in a stream that nobody reads any more, to stop it where it stands."""


class Upstream(Iterator[Any]):
    """A stream that can be stopped, so that nothing more is pulled from it.

    LangChain's runnables pull all that is left of their input when they are closed, but not when something is raised in
    them.

    Args:
        chunks: The stream.
    """

    def __init__(self, chunks: Iterator[Any]) -> None:
        self._chunks = chunks
        self._is_stopped = False

    def __next__(self) -> Any:
        """The next chunk."""
        if self._is_stopped:
            raise StopIteration
        return next(self._chunks)

    def stop(self) -> None:
        """Stop it; nothing happens where it has ended. What it raises then is nobody's concern any more."""
        self._is_stopped = True
        # The first of them first: what stands behind it has nothing left to pull then.
        for part in reversed(_parts(self._chunks)):
            with suppress(Exception):
                part.throw(StreamStopped())
        close = getattr(self._chunks, "close", None)
        with suppress(Exception):
            if close is not None:
                close()


def _parts(chunks: Iterator[Any]) -> list[GeneratorType[Any, Any, Any]]:
    """The generators that a stream is made of, the last one first.

    Of the frames of others only what they delegate to is looked at; in LangChain's own, every generator is a part of
    the stream.
    """
    found: list[GeneratorType[Any, Any, Any]] = []
    waiting: list[object] = [chunks]
    while waiting:
        part = waiting.pop()
        if not isinstance(part, GeneratorType) or any(part is one for one in found):
            continue
        found.append(part)
        waiting.append(part.gi_yieldfrom)
        if part.gi_frame is not None and part.gi_frame.f_globals.get("__name__", "").startswith("langchain_core."):
            waiting += part.gi_frame.f_locals.values()
    return found


class AsyncUpstream(AsyncIterator[Any]):
    """`Upstream` without blocking the event loop. Nothing is pulled from asynchronous runnables that are closed.

    Args:
        chunks: The stream.
    """

    def __init__(self, chunks: AsyncIterator[Any]) -> None:
        self._chunks = chunks
        self._is_stopped = False

    async def __anext__(self) -> Any:
        """The next chunk."""
        if self._is_stopped:
            raise StopAsyncIteration
        return await anext(self._chunks)

    async def stop(self) -> None:
        """Stop it; see `Upstream.stop`."""
        self._is_stopped = True
        await _aclosed(self._chunks)


async def _aclosed(chunks: AsyncIterator[Any]) -> None:
    close = getattr(chunks, "aclose", None)
    with suppress(Exception):
        if close is not None:
            await close()


def given(result: Any) -> Any:
    """A result of a batch as a single call gives it.

    Args:
        result: A result or an exception.

    Returns:
        The result.

    Raises:
        Exception: The exception.
    """
    if isinstance(result, Exception):
        raise result
    return result
