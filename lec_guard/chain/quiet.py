"""Runs that streams of events tell nothing of, since their values are judged later, and what these tell instead."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any, TypeVar

from langchain_core.callbacks import (
    AsyncCallbackHandler,
    AsyncCallbackManager,
    BaseCallbackHandler,
    BaseCallbackManager,
    CallbackManager,
)
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config, var_child_runnable_config
from langchain_core.tracers._streaming import _StreamingCallbackHandler

_Manager = TypeVar("_Manager", CallbackManager, AsyncCallbackManager)


@dataclass(slots=True)
class Shown:
    """What a stream of events is to be told that came of a run.

    Attributes:
        output: It; to be set before the run ends.
    """

    output: Any = None


@dataclass(frozen=True, slots=True)
class Hushed:
    """The config of a run whose values are judged later, without the handlers that would stream them to a caller.

    These are those of `astream_events`, `astream_log` and LangGraph's streams; they hear of custom events only, which
    are what somebody means to tell. All others, tracers and an application's own, stay.

    Attributes:
        config: The config for the run; the same object where there are none of them.
        taken: The handlers that are not in it.
        given: The config as it was.
    """

    config: RunnableConfig | None
    taken: tuple[BaseCallbackHandler, ...]
    given: RunnableConfig

    @classmethod
    def of(cls, config: RunnableConfig | None, *, keeps_messages: bool = False, is_wanted: bool = True) -> Hushed:
        """Take the handlers out of a config.

        Args:
            config: The config, which is not changed; None for that of the run that is under way.
            keeps_messages: Whether LangGraph's `stream_mode="messages"` hears of the run, for it has agents in it whose
                messages are streamed as they pass.
            is_wanted: Whether any are to be taken out.

        Returns:
            The config without them.
        """
        given = ensure_config(config)
        callbacks = given.get("callbacks")
        there: list[BaseCallbackHandler] = []
        if isinstance(callbacks, BaseCallbackManager):
            there = [*callbacks.handlers, *callbacks.inheritable_handlers]
        elif callbacks is not None:
            there = callbacks
        taken = [one for one in there if is_wanted and _streams(one, keeps_messages)]
        if not taken:
            return cls(config, (), given)
        # By identity: handlers may be equal, or have no hash.
        instead = {id(one): _Relay(one) for one in taken}
        left: list[BaseCallbackHandler] | BaseCallbackManager = [instead.get(id(one), one) for one in there]
        if isinstance(callbacks, BaseCallbackManager):
            left = callbacks.copy()
            left.handlers = [instead.get(id(one), one) for one in left.handlers]
            left.inheritable_handlers = [instead.get(id(one), one) for one in left.inheritable_handlers]
        return cls({**given, "callbacks": left}, tuple({id(one): one for one in taken}.values()), given)

    @contextmanager
    def tool(self, name: str, args: Any, call_id: str | None) -> Iterator[Shown]:
        """Tell the handlers of a tool's run in the place of the one that they do not hear of.

        Args:
            name: The tool's name.
            args: What it is given.
            call_id: The id of its call.

        Yields:
            What is to be told in the end; an error is told as it is raised.
        """
        shown = Shown()
        if not self.taken:
            yield shown
            return
        # In a context of its own: LangGraph's handler would let the tool stream what it has before anybody judged it.
        run = copy_context().run(
            self._manager(CallbackManager).on_tool_start,
            {"name": name},
            str(args),
            name=self.given.get("run_name") or name,
            inputs=args if isinstance(args, dict) else None,
            tool_call_id=call_id,
        )
        try:
            yield shown
        except Exception as error:
            run.on_tool_error(error, tool_call_id=call_id)
            raise
        run.on_tool_end(shown.output, name=name)

    @asynccontextmanager
    async def atool(self, name: str, args: Any, call_id: str | None) -> AsyncIterator[Shown]:
        """`tool`, without blocking the event loop."""
        shown = Shown()
        if not self.taken:
            yield shown
            return
        started = self._manager(AsyncCallbackManager).on_tool_start(
            {"name": name},
            str(args),
            name=self.given.get("run_name") or name,
            inputs=args if isinstance(args, dict) else None,
            tool_call_id=call_id,
        )
        run = await asyncio.create_task(started)
        try:
            yield shown
        except Exception as error:
            await run.on_tool_error(error, tool_call_id=call_id)
            raise
        await run.on_tool_end(shown.output, name=name)

    @contextmanager
    def retriever(self, name: str, query: str) -> Iterator[Shown]:
        """`tool`, of a retriever's run.

        Args:
            name: The retriever's name.
            query: What it is asked.

        Yields:
            What is to be told in the end; an error is told as it is raised.
        """
        shown = Shown()
        if not self.taken:
            yield shown
            return
        name = self.given.get("run_name") or name
        run = self._manager(CallbackManager).on_retriever_start(None, query, name=name)
        try:
            yield shown
        except Exception as error:
            run.on_retriever_error(error)
            raise
        run.on_retriever_end(shown.output)

    @asynccontextmanager
    async def aretriever(self, name: str, query: str) -> AsyncIterator[Shown]:
        """`retriever`, without blocking the event loop."""
        shown = Shown()
        if not self.taken:
            yield shown
            return
        name = self.given.get("run_name") or name
        run = await self._manager(AsyncCallbackManager).on_retriever_start(None, query, name=name)
        try:
            yield shown
        except Exception as error:
            await run.on_retriever_error(error)
            raise
        await run.on_retriever_end(shown.output)

    def _manager(self, kind: type[_Manager]) -> _Manager:
        """What tells the handlers that were taken out, and nobody else."""
        callbacks = self.given.get("callbacks")
        own: BaseCallbackManager = callbacks if isinstance(callbacks, BaseCallbackManager) else CallbackManager([])
        return kind(
            handlers=list(self.taken),
            parent_run_id=own.parent_run_id,
            tags=list(dict.fromkeys([*own.tags, *own.inheritable_tags, *(self.given.get("tags") or ())])),
            metadata={**own.metadata, **own.inheritable_metadata, **(self.given.get("metadata") or {})},
        )


@contextmanager
def hushed_context(*, keeps_messages: bool = False, is_wanted: bool = True) -> Iterator[None]:
    """Let the run that is under way stream nothing of what is run in it without a config, or by LangGraph with one.

    LangGraph adds the handlers of the run that is under way to those that it is given.

    Args:
        keeps_messages: As for `Hushed.of`.
        is_wanted: Likewise.
    """
    token = var_child_runnable_config.set(
        Hushed.of(var_child_runnable_config.get(), keeps_messages=keeps_messages, is_wanted=is_wanted).config
    )
    try:
        yield
    finally:
        # A stream may be closed in another context than the one it was begun in, which is gone with this.
        with suppress(ValueError):
            var_child_runnable_config.reset(token)


@contextmanager
def hushed_call(config: RunnableConfig, hushed: Hushed) -> Iterator[None]:
    """Let a call whose config is fixed stream nothing, as long as it lasts.

    Args:
        config: The config, which belongs to that call alone.
        hushed: What was made of it.
    """
    with hushed_context(keeps_messages=True, is_wanted=bool(hushed.taken)):
        if not hushed.taken or hushed.config is None:
            yield
            return
        before = config.get("callbacks")
        config["callbacks"] = hushed.config.get("callbacks")
        try:
            yield
        finally:
            config["callbacks"] = before


class _Relay(AsyncCallbackHandler):
    """Tells a handler of custom events, and of nothing else."""

    def __init__(self, handler: BaseCallbackHandler) -> None:
        self._handler = handler

    async def on_custom_event(self, name: str, data: Any, **kwargs: Any) -> None:
        told = self._handler.on_custom_event(name, data, **kwargs)
        if inspect.isawaitable(told):
            await told


def _streams(handler: BaseCallbackHandler, keeps_messages: bool) -> bool:
    """Whether a handler streams to a caller what runs give."""
    # By what it is made of: the protocol itself would match whatever has methods of these names.
    kinds = type(handler).__mro__
    if _StreamingCallbackHandler not in kinds:
        return False
    return not (keeps_messages and any(kind.__name__ == "StreamMessagesHandler" for kind in kinds))
