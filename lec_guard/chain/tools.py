"""Tools with a guard around them: what they are given, what they give back, and what a model is told of them."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from typing import Any, get_type_hints

from langchain_core.messages import BaseMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import ArgsSchema, BaseTool, Tool, ToolException
from langchain_core.tools.base import FILTERED_ARGS, get_all_basemodel_annotations
from pydantic import PrivateAttr

from lec_guard.chain.definitions import Definition, Definitions
from lec_guard.chain.knowing import KnowingGuard, Refused, own_run, settled
from lec_guard.chain.quiet import Hushed, Shown, hushed_context
from lec_guard.chain.results import Parts, passes, said_by
from lec_guard.chain.runnable import GuardRunnable
from lec_guard.errors import UnsupportedValueError
from lec_guard.step import Stage

_log = logging.getLogger(__name__)

_RUNTIME = "runtime"
"""The argument in which LangGraph gives tools what they run in. A guarded tool asks for it, to know the user's task."""


def guarded(guard: GuardRunnable, tool: BaseTool) -> BaseTool:
    """Put a guard around a tool; see `GuardRunnable.tool`.

    Args:
        guard: What judges.
        tool: The tool.

    Returns:
        The guarded tool.

    Raises:
        GuardBlocked: If a model may not be told of it.
        UnsupportedValueError: If its definition can't be read.
    """
    view, definition = _definition_view(guard, tool)
    try:
        settled(view.batch([definition.text], own_run(None), return_exceptions=True))
    except Refused as refused:
        raise refused.cause from None
    return _wrapped(guard, tool, definition)


async def aguarded(guard: GuardRunnable, tool: BaseTool) -> BaseTool:
    """`guarded`, without blocking the event loop."""
    view, definition = _definition_view(guard, tool)
    try:
        settled(await view.abatch([definition.text], own_run(None), return_exceptions=True))
    except Refused as refused:
        raise refused.cause from None
    return _wrapped(guard, tool, definition)


def _definition_view(guard: GuardRunnable, tool: BaseTool) -> tuple[KnowingGuard, Definition]:
    definition = Definition.of(tool)
    return KnowingGuard.of(guard, "tool_definition", tool=definition.ref), definition


def _wrapped(guard: GuardRunnable, tool: BaseTool, definition: Definition) -> BaseTool:
    definitions = Definitions(guard.guard)
    definitions.note(definition, guard.tenant_of(own_run(None)))
    own = {name: getattr(tool, name) for name in BaseTool.model_fields}
    # Of a `Tool` LangChain tells models by its class.
    made: _Delegate = GuardedFunction(func=None, **own) if isinstance(tool, Tool) else GuardedTool(**own)
    made._wrapped = _Wrapped(tool, guard, definitions, definition.digest, _takes_runtime(tool))
    if isinstance(made, GuardedFunction):
        made.func, made.coroutine = _stand_ins(made, tool)
    return made


@dataclass(frozen=True, slots=True)
class _Wrapped:
    """What a guarded tool is made of.

    Attributes:
        tool: The tool.
        guard: What judges.
        definitions: Which definitions of it have passed.
        digest: That of the definition that was judged first.
        takes_runtime: Whether the tool itself has an argument of the name `runtime`.
    """

    tool: BaseTool
    guard: GuardRunnable
    definitions: Definitions
    digest: str
    takes_runtime: bool


@dataclass(frozen=True, slots=True)
class _Check:
    """Values that are to be judged; a flow is sent what may pass of each, or why not."""

    view: KnowingGuard
    values: list[Any]


@dataclass(frozen=True, slots=True)
class _Call:
    """What the tool is to be called with; a flow is sent the result, or given what the tool raised.

    Attributes:
        value: All of it.
        args: What of it a model wrote.
    """

    value: Any
    args: Any


_Flow = Generator[_Check | _Call, Any, Any]


class _Delegate(BaseTool):
    """Everything about a guarded tool, but for its class."""

    _wrapped: _Wrapped = PrivateAttr()

    @property
    def tool(self) -> BaseTool:
        """The tool itself."""
        return self._wrapped.tool

    # --- what a model is told

    @property
    def args(self) -> dict[str, Any]:
        """The tool's own."""
        return self.tool.args

    @property
    def is_single_input(self) -> bool:
        """The tool's own."""
        return self.tool.is_single_input

    @property
    def tool_call_schema(self) -> ArgsSchema:
        """The tool's own."""
        return self.tool.tool_call_schema

    def get_input_schema(self, config: RunnableConfig | None = None) -> Any:
        """The tool's own.

        Args:
            config: For the tool.

        Returns:
            The schema of its arguments, injected ones too.
        """
        return self.tool.get_input_schema(config)

    # --- calls

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Call the tool; see `GuardRunnable.tool`.

        Args:
            input: What the tool takes: a tool call, or arguments.
            config: The run's config.
            **kwargs: For the tool.

        Returns:
            What the tool gives, as it may pass; on a block of a tool call a `ToolMessage` with the status `error`.
        """
        given, hushed = _Given.of(input), Hushed.of(config, keeps_messages=True)
        return _drive(self, given, config, hushed, lambda value: self.tool.invoke(value, hushed.config, **kwargs))

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """`invoke`, without blocking the event loop."""
        await self._ready(config)
        given, hushed = _Given.of(input), Hushed.of(config, keeps_messages=True)
        return await _adrive(
            self, given, config, hushed, lambda value: self.tool.ainvoke(value, hushed.config, **kwargs)
        )

    def run(self, tool_input: str | dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Call the tool, as LangChain does it inside.

        Args:
            tool_input: Its arguments.
            *args: For the tool.
            **kwargs: For the tool.

        Returns:
            As `invoke`; with a `tool_call_id` as for a tool call.
        """
        config = _config_of(kwargs)
        given = _Given(tool_input, tool_input, kwargs.get("tool_call_id"))
        hushed, quiet = _hushed(kwargs)
        return _drive(self, given, config, hushed, lambda value: self.tool.run(value, *args, **quiet))

    async def arun(self, tool_input: str | dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """`run`, without blocking the event loop."""
        config = _config_of(kwargs)
        await self._ready(config)
        given = _Given(tool_input, tool_input, kwargs.get("tool_call_id"))
        hushed, quiet = _hushed(kwargs)
        return await _adrive(self, given, config, hushed, lambda value: self.tool.arun(value, *args, **quiet))

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        # Nothing calls it but who goes around LangChain's own ways.
        return self.run(args[0] if args else kwargs)

    async def _arun(self, *args: Any, **kwargs: Any) -> Any:
        return await self.arun(args[0] if args else kwargs)

    async def _ready(self, config: RunnableConfig | None) -> None:
        """Read the policy, so that the flow need not."""
        guard = self._wrapped.guard
        await guard.guard.apolicy(guard.tenant_of(own_run(config)))

    def _flow(self, given: _Given, config: RunnableConfig | None) -> _Flow:
        """Everything between a call and its result, apart from how it is judged and called."""
        what = "definition"
        try:
            yield from self._redefined(config)
            what = "call"
            written, injected = self._split(given)
            request, thread = request_in(injected), messages_in(injected)
            call = {"name": self.name, "args": written, "id": given.call_id, "type": "tool_call"}
            [passed] = settled((yield _Check(self._view("tool_input", request, thread), [call])))
            value = given.with_args(passed["args"]) if passed is not call else given.value
            what = "result"
            view = self._view("tool_output", request)
            try:
                result = yield _Call(self._without_runtime(value), passed["args"])
            except Exception as error:
                if passes(error):
                    raise
                said = said_by(error)
                [text] = settled((yield _Check(view, [said])))
                if text is said:
                    raise
                raise ToolException(text) from None
            parts = Parts.of(result)
            return parts.put(settled((yield _Check(view, parts.values))))
        except Refused as refused:
            if given.call_id is None:
                raise refused.cause from None
            if isinstance(refused.cause, UnsupportedValueError):
                _log.warning("the %s of tool %r can't be checked: %s", what, self.name, refused.cause)
            return ToolMessage(refused.said(what), tool_call_id=given.call_id, name=self.name, status="error")

    def _redefined(self, config: RunnableConfig | None) -> _Flow:
        """Judge what a model is told of the tool, where that is new, or new to the policy."""
        wrapped = self._wrapped
        tenant = wrapped.guard.tenant_of(own_run(config))
        for definition in dict.fromkeys([Definition.of(self), *self._tools_own()]):
            if wrapped.definitions.passed(definition, tenant):
                continue
            if definition.digest != wrapped.digest:
                _log.warning("the definition of tool %r is not the one that was judged; it is judged anew", self.name)
            settled((yield _Check(self._view("tool_definition", None), [definition.text])))
            wrapped.definitions.note(definition, tenant)

    def _tools_own(self) -> list[Definition]:
        """The definition of the tool itself, where that is another by now."""
        same = self.tool.name == self.name and self.tool.description == self.description
        return [] if same else [Definition.of(self.tool)]

    def _view(self, stage: Stage, request: str | None, thread: Sequence[BaseMessage] = ()) -> KnowingGuard:
        ref = Definition.ref_of(self)
        return KnowingGuard.of(self._wrapped.guard, stage, tool=ref, request=request, thread=thread)

    def _split(self, given: _Given) -> tuple[Any, list[Any]]:
        """What of the arguments a model wrote, and what others did."""
        if not isinstance(given.args, Mapping):
            return given.args, []
        args = dict(given.args)
        written = self.tool._filter_injected_args(args)
        # Others are left out there too, by name alone; whoever wrote them, they are given to the tool.
        written |= {key: args[key] for key in FILTERED_ARGS if key in args}
        if not self._wrapped.takes_runtime and _is_runtime(written.get(_RUNTIME)):
            del written[_RUNTIME]
        return written, [value for key, value in args.items() if key not in written]

    def _without_runtime(self, value: Any) -> Any:
        """What the tool is given: not what only the guard asked for."""
        if self._wrapped.takes_runtime or not isinstance(value, Mapping):
            return value
        given = _Given.of(value)
        if not isinstance(given.args, Mapping) or not _is_runtime(given.args.get(_RUNTIME)):
            return value
        args = {key: arg for key, arg in given.args.items() if key != _RUNTIME}
        return {**value, "args": args} if given.args is not value else args


class GuardedTool(_Delegate):
    """A tool with a guard around it; made by `GuardRunnable.tool`."""

    @property
    def func(self) -> Callable[..., Any] | None:
        """What LangGraph reads the injected arguments of a tool from; to call it is to call the guarded tool."""
        return _stand_ins(self, self.tool)[0]

    @property
    def coroutine(self) -> Callable[..., Any] | None:
        """`func`, of a tool that has none."""
        return _stand_ins(self, self.tool)[1]


class GuardedFunction(_Delegate, Tool):
    """A `langchain_core.tools.Tool` with a guard around it; made by `GuardRunnable.tool`."""


@dataclass(frozen=True, slots=True)
class _Given:
    """What a tool is called with.

    Attributes:
        value: All of it.
        args: The arguments in it.
        call_id: The id of the tool call; None where it is none, and the result is no message.
    """

    value: Any
    args: Any
    call_id: str | None

    @classmethod
    def of(cls, value: Any) -> _Given:
        if isinstance(value, Mapping) and value.get("type") == "tool_call":
            return cls(value, value.get("args"), value.get("id"))
        return cls(value, value, None)

    def with_args(self, written: Any) -> Any:
        """The same with other arguments; those that a model did not write stay."""
        args = {**self.args, **written} if isinstance(self.args, Mapping) else written
        return args if self.args is self.value else {**self.value, "args": args}


def request_in(values: Iterable[Any]) -> str | None:
    """The user's task, in what a graph injects into a tool's arguments.

    Args:
        values: States of a graph, lists of messages, LangGraph's runtime, and anything else.

    Returns:
        The text of the last user message in the first of them that has one; None where none has.
    """
    for value in values:
        for message in reversed(_messages_of(value)):
            if isinstance(message, HumanMessage):
                return str(message.text) or None
    return None


def messages_in(values: Iterable[Any]) -> list[BaseMessage]:
    """The messages of a graph, in what it injects into a tool's arguments.

    Args:
        values: As for `request_in`.

    Returns:
        Those of the first of them that has any.
    """
    found = (_messages_of(value) for value in values)
    return next((messages for messages in found if messages), [])


def _messages_of(value: Any) -> list[BaseMessage]:
    state = getattr(value, "state", value)
    messages = state.get("messages") if isinstance(state, Mapping) else getattr(state, "messages", state)
    return [one for one in messages if isinstance(one, BaseMessage)] if isinstance(messages, list) else []


# --- drivers


def _drive(
    tool: _Delegate, given: _Given, config: RunnableConfig | None, hushed: Hushed, call: Callable[[Any], Any]
) -> Any:
    own, flow = own_run(hushed.config), tool._flow(given, config)
    send, shown = flow.send, Shown()
    sent: Any = None
    with ExitStack() as stack:
        while True:
            try:
                wanted = send(sent)
            except StopIteration as done:
                shown.output = done.value
                return done.value
            send = flow.send
            if isinstance(wanted, _Check):
                sent = wanted.view.batch(wanted.values, own, return_exceptions=True)
                continue
            shown = stack.enter_context(hushed.tool(tool.name, wanted.args, given.call_id))
            try:
                with hushed_context(keeps_messages=True):
                    sent = call(wanted.value)
            except Exception as error:  # noqa: BLE001 - the flow decides what becomes of it
                sent, send = error, flow.throw


async def _adrive(
    tool: _Delegate, given: _Given, config: RunnableConfig | None, hushed: Hushed, call: Callable[[Any], Any]
) -> Any:
    own, flow = own_run(hushed.config), tool._flow(given, config)
    send, shown = flow.send, Shown()
    sent: Any = None
    async with AsyncExitStack() as stack:
        while True:
            try:
                wanted = send(sent)
            except StopIteration as done:
                shown.output = done.value
                return done.value
            send = flow.send
            if isinstance(wanted, _Check):
                sent = await wanted.view.abatch(wanted.values, own, return_exceptions=True)
                continue
            shown = await stack.enter_async_context(hushed.atool(tool.name, wanted.args, given.call_id))
            try:
                with hushed_context(keeps_messages=True):
                    sent = await call(wanted.value)
            except Exception as error:  # noqa: BLE001 - the flow decides what becomes of it
                sent, send = error, flow.throw


def _hushed(keywords: Mapping[str, Any]) -> tuple[Hushed, dict[str, Any]]:
    """What of the keywords of `run` streams to a caller, and the keywords without."""
    config, callbacks = keywords.get("config"), keywords.get("callbacks")
    if config is None and callbacks is None:
        return Hushed(None, (), {}), dict(keywords)
    own: RunnableConfig = {**(config or {}), **({} if callbacks is None else {"callbacks": callbacks})}
    hushed = Hushed.of(own, keeps_messages=True)
    if not hushed.taken or hushed.config is None:
        return hushed, dict(keywords)
    quiet: dict[str, Any] = {"config": hushed.config, "callbacks": hushed.config.get("callbacks")}
    return hushed, {**keywords, **{key: value for key, value in quiet.items() if keywords.get(key) is not None}}


def _config_of(keywords: Mapping[str, Any]) -> RunnableConfig | None:
    """The config among the keywords of `run`."""
    config: RunnableConfig | None = keywords.get("config")
    if config is None and keywords.get("callbacks") is not None:
        return {"callbacks": keywords["callbacks"]}
    return config


# --- what LangGraph injects


def _stand_ins(made: BaseTool, tool: BaseTool) -> tuple[Callable[..., Any] | None, Callable[..., Any] | None]:
    """`func` and `coroutine` of a guarded tool: one of them, with the type hints of the tool's own and the runtime."""
    own = getattr(tool, "func", None) or getattr(tool, "coroutine", None)

    def func(**kwargs: Any) -> Any:
        return made.run(kwargs)

    async def coroutine(**kwargs: Any) -> Any:
        return await made.arun(kwargs)

    has_func = getattr(tool, "func", None) is not None
    stand_in: Callable[..., Any] = func if has_func else coroutine
    hints = {} if own is None else get_type_hints(own, include_extras=True)
    if own is not None:
        stand_in.__signature__ = inspect.signature(own)  # type: ignore[attr-defined] # typeshed lacks it
    stand_in.__annotations__ = hints if _takes_runtime(tool) else {**hints, _RUNTIME: Any}
    return (stand_in, None) if has_func else (None, stand_in)


def _takes_runtime(tool: BaseTool) -> bool:
    """Whether a tool has an argument of that name itself."""
    own = getattr(tool, "func", None) or getattr(tool, "coroutine", None)
    if own is not None and _RUNTIME in inspect.signature(own).parameters:
        return True
    if isinstance(tool.args_schema, dict):
        return _RUNTIME in tool.args_schema.get("properties", {})
    return _RUNTIME in get_all_basemodel_annotations(tool.get_input_schema())


def _is_runtime(value: Any) -> bool:
    return hasattr(value, "state") and hasattr(value, "tool_call_id")
