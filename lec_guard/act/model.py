"""Calling a chat model that may hang, fail or be overheard."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any, Literal, Protocol, runtime_checkable

from lec_guard.act.threads import Threads
from lec_guard.errors import UnsupportedValueError

Messages = list[tuple[str, str]]
"""Role and content of each message, as LangChain takes them."""

_THREADS = 16
"""Calls of one model at once that wait on threads: those of one that hangs can't be ended."""


@runtime_checkable
class Guidable(Protocol):
    """A chat model whose answers can be led away from what a negative prompt makes likely."""

    def guided(self, coefficient: float, space: Literal["log", "probability"]) -> Any:
        """The same model with another guidance.

        Args:
            coefficient: 1 for none, more to lead away, less to lead towards.
            space: What is weighed: logarithms of probabilities, or probabilities.

        Returns:
            A chat model; this one stays as it is.

        Raises:
            ValueError: If it can't be guided so.
        """
        ...


def guided(model: Any, coefficient: float, space: Literal["log", "probability"]) -> Any:
    """A chat model with another guidance.

    Args:
        model: The model.
        coefficient: As of `Guidable.guided`.
        space: As of `Guidable.guided`.

    Returns:
        Another chat model.

    Raises:
        UnsupportedValueError: If it can't be guided, or not so.
    """
    # By its class: a LangChain binding has all methods of the model inside, and what they return is bound no more.
    if not issubclass(type(model), Guidable):
        raise UnsupportedValueError(
            f"guidance: {type(model).__name__} can't be guided, for it has no method guided(coefficient, space); "
            "register a lec_guard.generate.LocalChatModel, or leave guidance out"
        )
    try:
        return model.guided(coefficient, space)
    except ValueError as error:
        raise UnsupportedValueError(f"guidance: {type(model).__name__} can't be guided so: {error}") from error


class Model:
    """Calls a chat model within a time limit, outside of the caller's run. Safe to share between threads.

    No callbacks, tags or streams of the caller's run apply, so that what the model says reaches nobody but the caller
    before it is judged.

    Args:
        model: A LangChain chat model, or anything else with `invoke` and `ainvoke`.
        timeout_s: Seconds for an answer.
        name: What threads that wait for it are called.
        failed: Makes the error that is raised where the model fails. It is given the model's own, whose message may
            hold the text.
    """

    def __init__(
        self, model: Any, *, timeout_s: float, name: str, failed: Callable[[BaseException], Exception]
    ) -> None:
        self._model = model
        self._timeout_s = timeout_s
        self._failed = failed
        self._threads: Threads[Any] = Threads(name, _THREADS)

    def call(self, messages: Messages) -> Any:
        """Call it, on a thread that is left behind if it takes too long.

        Args:
            messages: What it is told.

        Returns:
            What it answers.

        Raises:
            TimeoutError: If it did not answer in time.
            Exception: What `failed` makes of any other error.
        """
        try:
            return self._threads.run(lambda: self._invoke(messages), self._timeout_s)
        except TimeoutError:
            raise self._late() from None

    async def acall(self, messages: Messages) -> Any:
        """`call`, without blocking the event loop."""
        calling = asyncio.get_running_loop().create_task(self._ainvoke(messages), context=contextvars.Context())
        calling.add_done_callback(_look_away)
        try:
            # Not `wait_for`, which waits for what is cancelled: a model may not heed that.
            done, _ = await asyncio.wait({calling}, timeout=self._timeout_s)
        finally:
            calling.cancel()
        if not done:
            raise self._late()
        try:
            return calling.result()
        except TimeoutError:
            raise self._late() from None

    def _invoke(self, messages: Messages) -> Any:
        try:
            return self._model.invoke(messages)
        except TimeoutError:
            raise
        # On a thread of its own: what would end another one has to end the waiting for it.
        except BaseException as error:  # noqa: BLE001
            raise self._failed(error) from None

    async def _ainvoke(self, messages: Messages) -> Any:
        try:
            return await self._model.ainvoke(messages)
        except TimeoutError:
            raise
        # A model that was cancelled within itself is none that its caller cancelled.
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001
            raise self._failed(error) from None

    def _late(self) -> TimeoutError:
        return TimeoutError(f"the model did not answer within {self._timeout_s} s")


def _look_away(calling: asyncio.Task[Any]) -> None:
    """What comes too late is nobody's; asyncio would complain that nobody looked at it."""
    if not calling.cancelled():
        calling.exception()
