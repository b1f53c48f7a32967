"""LangChain's eight ways to run a step, on top of four that its author writes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Iterator
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
        yield from self._transform_stream_with_config(input, self._transform, config, **kwargs)

    async def atransform(
        self, input: AsyncIterator[Any], config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        """`transform`, without blocking the event loop."""
        async for chunk in self._atransform_stream_with_config(input, self._atransform, config, **kwargs):
            yield chunk

    def _one(self, value: Any, run_manager: CallbackManagerForChainRun, config: RunnableConfig, **kwargs: Any) -> Any:
        return given(self._batch([value], [run_manager], [config], **kwargs)[0])

    async def _aone(
        self, value: Any, run_manager: AsyncCallbackManagerForChainRun, config: RunnableConfig, **kwargs: Any
    ) -> Any:
        return given((await self._abatch([value], [run_manager], [config], **kwargs))[0])


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
