"""LangChain agents: a middleware that judges what goes into the model, what comes out, and what tools are given."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, cast
from uuid import uuid4

from langchain_core.messages import AIMessage, BaseMessage, SystemMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config
from langchain_core.tools import BaseTool

from lec_guard.act.effects import Effects
from lec_guard.acting import Fingerprint
from lec_guard.chain.callbacks import adispatch, dispatch
from lec_guard.chain.lens import read
from lec_guard.chain.messages import SystemMessages
from lec_guard.chain.notes import with_notes
from lec_guard.chain.quiet import Hushed, hushed_call
from lec_guard.chain.runnable import GuardRunnable, TenantResolver
from lec_guard.detect.detector import Detector
from lec_guard.errors import UnsupportedValueError
from lec_guard.guard import Guard
from lec_guard.guard import Tell as Into
from lec_guard.observe.events import Event, EventSink
from lec_guard.observe.sinks import OnSinkError
from lec_guard_integrations.channels import (
    JUDGED,
    NOTES,
    TOKENS,
    TOOLS,
    joined_updates,
    merge_entries,
    merge_notes,
    merged,
)
from lec_guard_integrations.conversation import (
    Apply,
    Asking,
    Check,
    Join,
    OnBlock,
    Place,
    Tell,
    Turn,
    Turned,
    Ways,
    doubles,
)
from lec_guard_integrations.langgraph import InterruptEscalator
from lec_guard_integrations.tokens import hiding, restored

try:
    from langchain.agents.middleware import AgentMiddleware, AgentState, ModelRequest, ModelResponse, hook_config
    from langchain.agents.middleware.types import ExtendedModelResponse, PrivateStateAttr
    from langgraph.config import get_config
    from langgraph.constants import TAG_NOSTREAM
    from langgraph.prebuilt.tool_node import ToolCallRequest
    from langgraph.runtime import Runtime
    from langgraph.types import Command

    from lec_guard_integrations.tool_results import ToolResults
except ModuleNotFoundError as missing:
    raise UnsupportedValueError(
        f"GuardMiddleware needs {missing.name}; run: pip install 'lec-guard[langchain]'"
    ) from None

_MOST_TOOLS, _LONGEST_DESCRIPTION = 256, 4000
"""Tools whose descriptions a thread keeps, and how many characters of each."""

__all__ = ["GuardMiddleware", "GuardState", "OnBlock", "told_tools"]


class GuardState(AgentState[Any]):
    """What `GuardMiddleware` keeps in an agent's state; no caller can give it, and none gets it as a result.

    Attributes:
        lec_guard_judged: By a message's id, a keyed hash over what its verdicts follow from.
        lec_guard_notes: What the system prompt has to say for texts in the messages.
        lec_guard_tokens: What tokens in the messages stand for.
        lec_guard_tools: By a tool's name, how the model was told what it does: context of what it is given and gives.
        lec_guard_blocked: By the id of a tool's result, why it is blocked, where the agent has yet to end for it.
    """

    # Tools that are called at once write at once.
    lec_guard_judged: NotRequired[Annotated[dict[str, Any], PrivateStateAttr, merge_entries]]
    lec_guard_notes: NotRequired[Annotated[list[str], PrivateStateAttr, merge_notes]]
    lec_guard_tokens: NotRequired[Annotated[dict[str, Any], PrivateStateAttr, merge_entries]]
    lec_guard_blocked: NotRequired[Annotated[dict[str, Any], PrivateStateAttr, merge_entries]]
    lec_guard_tools: NotRequired[Annotated[dict[str, str], PrivateStateAttr]]


class GuardMiddleware(AgentMiddleware[GuardState, Any, Any]):
    """Puts a guard into an agent made by `langchain.agents.create_agent`.

    Before each call of the model, what nobody has judged yet is: messages of users as input, results of tools as tool
    output, a history that a caller brings along as what it is. After it, the answer is judged as output, and each tool
    call as tool input, before any tool runs, and right after a tool ran its result; in the end, what came since. What
    is rewritten is replaced under its own id.

    | what is blocked | what happens, unless `on_block` says otherwise |
    |---|---|
    | a message of a user | the policy's message stands in its place, and is the agent's answer |
    | a tool's result | the policy's message stands in its place as an error, and the agent goes on |
    | a tool call | it does not run; an error with the policy's message answers it, and the agent goes on |
    | an answer | the policy's message stands in its place, and the agent ends |

    Where a policy asks somebody, `kind: interrupt` stops the graph before the model or the tools run, so that neither
    runs twice; see `InterruptEscalator`. A review queue raises `EscalationPending` out of the agent: nothing ran, and
    `agent.invoke(None, config)` goes on there (without a checkpointer, the same call again) once there is a decision.
    Where nobody can be asked about an answer or a result, it is judged inside the node that gives it, and no stream
    shows another.

    Where a text is quarantined, the system prompt says what that means. Where personal data gave way to tokens, the
    model is sent tokens only, tools get the real values, and so does the final answer. The state of the thread holds
    what tokens stand for, and so do its checkpoints; a checkpoint also holds a user's message as it came, for
    LangGraph saves it before any node runs.

    List it first, so that it judges what other middleware makes of an answer. One object serves all threads and
    tenants.

    Args:
        guard: What judges. For policies with `kind: interrupt` it has to have `effects=Effects(interrupt=...)`, as
            `from_policies` makes it.
        tenant: The tenant of all runs; None where the run's config or the resolver names it.
        tenant_key: The key of `configurable` that names the tenant.
        locale_key: The key of `configurable` that names the language of refusals.
        resolver: The operator's own way from a run's config to its tenant.
        system_prompt: The agent's system prompt, as context of what users say: `create_agent` keeps it out of the
            state. None judges them without.
        on_block: What follows where something is blocked, stage by stage.
        media: What follows where a message holds images, files or other parts that are no text, or a tool keeps
            something beside its result that can't be read: `flag` lets it pass with an event of the rule
            `unread:media`, `block` does not. The texts in it are judged either way.
        system_messages: Whose system messages in the state are. `trusted`: the operator's own; they are context of
            what users say, and not judged. `judged`: a caller may have sent them, so they are a user's messages in all
            respects. The prompt of `create_agent(system_prompt=...)` is the operator's either way.
        hide_stream: Whether what is judged later is kept out of streams: tokens of models out of
            `stream_mode="messages"`, which then shows each answer as a whole, after it was judged, and runs of models
            and tools out of `stream_mode="tools"`, `astream_events` and `astream_log`, which then show what passes.

    Raises:
        PolicyError: If the tenant is unknown.
        UnsupportedValueError: If `media` or `system_messages` is neither.
    """

    state_schema = GuardState

    def __init__(
        self,
        guard: Guard,
        *,
        tenant: str | None = None,
        tenant_key: str = "tenant",
        locale_key: str = "locale",
        resolver: TenantResolver | None = None,
        system_prompt: str | None = None,
        on_block: OnBlock | None = None,
        media: Literal["flag", "block"] = "flag",
        system_messages: SystemMessages = "trusted",
        hide_stream: bool = True,
    ) -> None:
        super().__init__()
        self.guard = guard
        self._ways = Ways(
            on_block=on_block or OnBlock(), system_prompt=system_prompt, media=media, system_messages=system_messages
        )
        self._hide_stream = hide_stream
        view = GuardRunnable(guard, tenant_key=tenant_key, locale_key=locale_key, resolver=resolver)
        self._view = view if tenant is None else view.for_tenant(tenant)

    @classmethod
    def from_policies(
        cls,
        path: str | Path | None = None,
        *,
        detector: Detector | str | Path | None = None,
        sinks: Iterable[EventSink] = (),
        watch: bool = False,
        own_detectors: int = 8,
        on_sink_error: OnSinkError = "warn",
        effects: Effects | None = None,
        tenant: str | None = None,
        tenant_key: str = "tenant",
        locale_key: str = "locale",
        resolver: TenantResolver | None = None,
        system_prompt: str | None = None,
        on_block: OnBlock | None = None,
        media: Literal["flag", "block"] = "flag",
        system_messages: SystemMessages = "trusted",
        hide_stream: bool = True,
    ) -> GuardMiddleware:
        """Make a middleware and its guard; see `Guard.from_policies`.

        Args:
            path: A folder of policies, one policy file, or None for the packaged default policy.
            detector: A bundle's folder, a detector, or None for the embedded one.
            sinks: Where events go.
            watch: Whether policies are reloaded when their files change.
            own_detectors: Tenants' own detectors that are kept in memory.
            on_sink_error: What follows where a sink fails.
            effects: What rewriting and asking needs; where it names no `interrupt`, that is `InterruptEscalator`.
            tenant: The tenant of all runs; None where the run's config or the resolver names it.
            tenant_key: The key of `configurable` that names the tenant.
            locale_key: The key of `configurable` that names the language of refusals.
            resolver: The operator's own way from a run's config to its tenant.
            system_prompt: The agent's system prompt, as context of what users say.
            on_block: What follows where something is blocked, stage by stage.
            media: What follows where a message holds more than text.
            system_messages: Whose system messages in the state are: `trusted` or `judged`.
            hide_stream: Whether what is judged later is kept out of streams.

        Returns:
            The middleware; its `guard` is to be closed by whoever made it.

        Raises:
            PolicyError: If a policy is wrong or reads what the detector does not give, or the tenant is unknown.
            BundleError: If the detector can't be loaded.
            UnsupportedValueError: If `media` or `system_messages` is neither.
        """
        given = effects or Effects()
        guard = Guard.from_policies(
            path,
            detector=detector,
            sinks=sinks,
            watch=watch,
            own_detectors=own_detectors,
            on_sink_error=on_sink_error,
            effects=given if given.interrupt is not None else replace(given, interrupt=InterruptEscalator()),
        )
        return cls(
            guard,
            tenant=tenant,
            tenant_key=tenant_key,
            locale_key=locale_key,
            resolver=resolver,
            system_prompt=system_prompt,
            on_block=on_block,
            media=media,
            system_messages=system_messages,
            hide_stream=hide_stream,
        )

    # --- what is judged

    @hook_config(can_jump_to=["end"])
    def before_model(self, state: GuardState, runtime: Runtime[Any]) -> dict[str, Any] | None:  # noqa: ARG002
        """Judge what the model is to be shown.

        Args:
            state: The agent's state.
            runtime: Not used.

        Returns:
            The update of the state.

        Raises:
            GuardBlocked: If something is blocked, and `on_block` wants that.
            EscalationPending: If somebody has yet to decide.
            TenantMismatch: If config and resolver name different tenants.
            PolicyError: If the tenant is unknown.
        """
        turns = self._turns()
        return _update(self._run(turns.at("before", state).flow(), turns))

    @hook_config(can_jump_to=["end"])
    async def abefore_model(self, state: GuardState, runtime: Runtime[Any]) -> dict[str, Any] | None:  # noqa: ARG002
        """`before_model`, without blocking the event loop."""
        turns = await self._aturns()
        return _update(await self._arun(turns.at("before", state).flow(), turns))

    @hook_config(can_jump_to=["end"])
    def after_model(self, state: GuardState, runtime: Runtime[Any]) -> dict[str, Any] | None:  # noqa: ARG002
        """Judge what the model has answered, and what it wants tools to be given.

        Args:
            state: The agent's state.
            runtime: Not used.

        Returns:
            The update of the state.

        Raises:
            EscalationPending: As of `before_model`, like the others.
        """
        turns = self._turns()
        return _answered(state, self._run(turns.at("answer", state).flow(), turns))

    @hook_config(can_jump_to=["end"])
    async def aafter_model(self, state: GuardState, runtime: Runtime[Any]) -> dict[str, Any] | None:  # noqa: ARG002
        """`after_model`, without blocking the event loop."""
        turns = await self._aturns()
        return _answered(state, await self._arun(turns.at("answer", state).flow(), turns))

    def _run(self, flow: _Flow, turns: _Turns) -> Any:
        """Drive a flow; what is a call of the model is for `wrap_model_call`."""
        sent: Any = None
        while True:
            try:
                wanted = flow.send(sent)
            except StopIteration as done:
                return done.value
            told: list[Event] = []
            match wanted:
                case Apply(plan):
                    sent = self.guard.apply_many(plan.steps, plan.tenants, tell=_into(told), fits=plan.fits)
                case Check(steps):
                    sent = self.guard.check_many(steps, turns.tenant)
                case Join(joins):
                    sent = self.guard.apply_joined(joins, turns.tenant, tell=_into(told))
                case Tell(step, rule, blocks):
                    sent = self.guard.unread(step, turns.tenant, rule=rule, blocks=blocks, tell=_into(told))
                case Calling(request, handler):
                    with _quiet(turns.config, is_wanted=self._hide_stream):
                        sent = handler(request)
                case Handing(request, hushed, handler):
                    with hushed_call(request.runtime.config, hushed):
                        sent = handler(request)
            dispatch(told, turns.config)

    async def _arun(self, flow: _Flow, turns: _Turns) -> Any:
        """`_run`, without blocking the event loop."""
        sent: Any = None
        while True:
            try:
                wanted = flow.send(sent)
            except StopIteration as done:
                return done.value
            told: list[Event] = []
            match wanted:
                case Apply(plan):
                    sent = await self.guard.aapply_many(plan.steps, plan.tenants, tell=_into(told), fits=plan.fits)
                case Check(steps):
                    sent = await self.guard.acheck_many(steps, turns.tenant)
                case Join(joins):
                    sent = await self.guard.aapply_joined(joins, turns.tenant, tell=_into(told))
                case Tell(step, rule, blocks):
                    sent = self.guard.unread(step, turns.tenant, rule=rule, blocks=blocks, tell=_into(told))
                case Calling(request, handler):
                    with _quiet(turns.config, is_wanted=self._hide_stream):
                        sent = await handler(request)
                case Handing(request, hushed, handler):
                    with hushed_call(request.runtime.config, hushed):
                        sent = await handler(request)
            await adispatch(told, turns.config)

    def _turns(self) -> _Turns:
        """What holds for the run that a hook is called in."""
        config = get_config()
        tenant = self._view.tenant_of(config)
        return self._turns_of(config, tenant, self.guard.fingerprints(tenant))

    async def _aturns(self) -> _Turns:
        """`_turns`, without blocking the event loop while policies are read."""
        config = get_config()
        tenant = self._view.tenant_of(config)
        return self._turns_of(config, tenant, await self.guard.afingerprints(tenant))

    def _turns_of(self, config: RunnableConfig, tenant: str | None, fingerprint: Fingerprint) -> _Turns:
        locale = config.get("configurable", {}).get(self._view.locale_key)
        traces = self.guard.traces(tenant)
        return _Turns(config, tenant, locale if isinstance(locale, str) else None, fingerprint, self._ways, traces)

    # --- notes and tokens

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
        """Judge what others have put into the messages since, call the model, and judge its answer.

        The model is told of quarantined texts, and is sent tokens instead of what they stand for. An answer about which
        somebody may have to be asked is left to `after_model`: the model would run again when they answer.

        Args:
            request: The call of the model.
            handler: What calls it.

        Returns:
            The answer as it passes.

        Raises:
            UnsupportedValueError: If tokens can't be put into a message that has what they stand for.
            GuardBlocked: If something is blocked, and `on_block` wants that.
        """
        turns = self._turns()
        result: ModelResponse[Any] | ExtendedModelResponse[Any]
        result = self._run(self._called(request, handler, turns), turns)
        return result

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
        """`wrap_model_call`, without blocking the event loop."""
        turns = await self._aturns()
        result: ModelResponse[Any] | ExtendedModelResponse[Any]
        result = await self._arun(self._called(request, handler, turns), turns)
        return result

    def _called(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Any], turns: _Turns
    ) -> Generator[Asking | Calling, Any, ModelResponse[Any] | ExtendedModelResponse[Any]]:
        """A call of the model, and what is judged before and after it."""
        state: dict[str, Any] = {**request.state}
        update: dict[str, Any] = {}
        before = yield from turns.at("before", state, request.messages).flow()
        if before is not None:
            update |= before.private | _written(before.changed, request.messages, state["messages"])
            if before.is_ended:
                return ExtendedModelResponse(ModelResponse(result=before.messages[-1:]), Command(update=update))
            messages: list[Any] = [*before.messages]
            request = request.override(messages=messages)
        state = merged(state, {key: value for key, value in update.items() if key != "messages"})
        tools = told_tools(request.tools, state.get(TOOLS) or {})
        if tools != (state.get(TOOLS) or {}):
            # What was judged without knowing of them stays judged, or a person would be asked twice.
            state[TOOLS] = update[TOOLS] = tools
            known = turns.at("before", state, request.messages)
            marks = {JUDGED: known.judged(request.messages, {id(one) for one in request.messages})}
            state, update = merged(state, marks), joined_updates(update, marks)
        response = _response((yield Calling(_prepared(request, state, turns.ways), handler)))
        turn = turns.at("answer", state, [*request.messages, *response.result], response.structured_response)
        items = turn.items()
        if not any(self.guard.may_stop(step, turn.tenant) for item in items for step in item.part.steps):
            after = yield from turn.flow(items)
            if after is not None:
                update = joined_updates(update, after.private)
                result = after.messages[len(request.messages) :]
                response = replace(response, result=result, structured_response=after.structured)
        return ExtendedModelResponse(response, Command(update=update)) if update else response

    def wrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], ToolMessage | Command[Any]]
    ) -> ToolMessage | Command[Any]:
        """Give a tool what tokens in its arguments stand for, and judge what it gives.

        A result about which somebody may have to be asked is left to `before_model`: the tool would run again when
        they answer. Joined with what other results say each is judged there, too, and there a block ends the agent.

        Args:
            request: The call of the tool, which was judged as the model wrote it.
            handler: What runs the tool.

        Returns:
            The result as it passes, in a command that tells the thread that it was judged.

        Raises:
            UnsupportedValueError: If that can't be put into the arguments.
        """
        turns = self._turns()
        hushed = Hushed.of(request.runtime.config, keeps_messages=True, is_wanted=self._hide_stream)
        call = request.tool_call
        with hushed.tool(call["name"], call["args"], call["id"]) as shown:
            shown.output, result = self._run(self._handed(request, hushed, handler, turns), turns)
        return cast("ToolMessage | Command[Any]", result)

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[ToolMessage | Command[Any]]]
    ) -> ToolMessage | Command[Any]:
        """`wrap_tool_call`, without blocking the event loop."""
        turns = await self._aturns()
        hushed = Hushed.of(request.runtime.config, keeps_messages=True, is_wanted=self._hide_stream)
        call = request.tool_call
        async with hushed.atool(call["name"], call["args"], call["id"]) as shown:
            shown.output, result = await self._arun(self._handed(request, hushed, handler, turns), turns)
        return cast("ToolMessage | Command[Any]", result)

    def _handed(
        self, request: ToolCallRequest, hushed: Hushed, handler: Callable[[ToolCallRequest], Any], turns: _Turns
    ) -> Generator[Asking | Handing, Any, tuple[Any, Any]]:
        """A call of a tool, and what is judged after it: the result as such, and with what the thread has to know."""
        given = yield Handing(_with_values(request), hushed, handler)
        if not isinstance(request.state, Mapping) or not isinstance(request.state.get("messages"), list):
            return given, given
        told: list[Any] = []
        passing: list[Any] = []
        for part in ToolResults.of(given):
            turn = turns.at("tools", request.state, [*request.state["messages"], *part.messages])
            items = turn.items()
            if any(self.guard.may_stop(step, turn.tenant) for item in items for step in item.steps()):
                told.append(part.given)
                passing.append(part.given)
                continue
            turned = yield from turn.flow(items)
            messages = part.messages if turned is None else turned.messages[len(request.state["messages"]) :]
            private = {} if turned is None else turned.private
            told.append(messages[0] if isinstance(part.given, ToolMessage) else part.passing(messages, {}))
            passing.append(part.passing(messages, private))
        return (told, passing) if isinstance(given, list) else (told[0], passing[0])

    def after_agent(self, state: GuardState, runtime: Runtime[Any]) -> dict[str, Any] | None:  # noqa: ARG002
        """Judge what came after the last call of the model, and put what tokens stand for into the final answer.

        Results of tools that return directly come here, and what other middleware answers.

        Args:
            state: The agent's state.
            runtime: Not used.

        Returns:
            The update of the state; where values can't be put into an answer, the tokens stay.

        Raises:
            EscalationPending: As of `before_model`, like the others.
        """
        turns = self._turns()
        return _ended(turns, state, self._run(turns.at("end", state).flow(), turns))

    async def aafter_agent(self, state: GuardState, runtime: Runtime[Any]) -> dict[str, Any] | None:  # noqa: ARG002
        """`after_agent`, without blocking the event loop."""
        turns = await self._aturns()
        return _ended(turns, state, await self._arun(turns.at("end", state).flow(), turns))


@dataclass(frozen=True, slots=True)
class Calling:
    """A flow waits for a call of the model; it is sent the answer."""

    request: ModelRequest[Any]
    handler: Callable[[ModelRequest[Any]], Any]


@dataclass(frozen=True, slots=True)
class Handing:
    """A flow waits for a call of a tool; it is sent the result."""

    request: ToolCallRequest
    hushed: Hushed
    handler: Callable[[ToolCallRequest], Any]


_Flow = Generator[Any, Any, Any]


@dataclass(frozen=True, slots=True)
class _Turns:
    """What is the same for all turns of one run."""

    config: RunnableConfig
    tenant: str | None
    locale: str | None
    fingerprint: Fingerprint
    ways: Ways
    traces: bool

    def at(
        self,
        place: Place,
        state: Mapping[str, Any],
        messages: Sequence[BaseMessage] | None = None,
        structured: Any = None,
    ) -> Turn:
        """The turn at a place; messages and structured response are the state's where none are given."""
        return Turn(
            state=state,
            messages=state["messages"] if messages is None else messages,
            structured=state.get("structured_response") if messages is None else structured,
            place=place,
            tenant=self.tenant,
            locale=self.locale,
            fingerprint=self.fingerprint,
            ways=self.ways,
            traces=self.traces,
        )


@contextmanager
def _quiet(config: RunnableConfig, *, is_wanted: bool) -> Iterator[None]:
    """Whatever model is called in it, neither LangGraph nor `astream_events` streams its tokens."""
    if not is_wanted:
        yield
        return
    # The tag goes to all runs beneath, so that no model that others put in the place of the agent's is without it.
    tagged: RunnableConfig = {**config, "tags": [*(config.get("tags") or ()), TAG_NOSTREAM]}
    token = var_child_runnable_config.set(Hushed.of(tagged, keeps_messages=True).config)
    try:
        yield
    finally:
        var_child_runnable_config.reset(token)


def _response(answer: Any) -> ModelResponse[Any]:
    """An answer in which each message has an id, by which it is known later."""
    response: ModelResponse[Any] = ModelResponse(result=[answer]) if isinstance(answer, AIMessage) else answer
    result = [one if one.id else one.model_copy(update={"id": str(uuid4())}) for one in response.result]
    return replace(response, result=result)


def _written(
    changed: Sequence[BaseMessage], asked: Sequence[BaseMessage], there: Sequence[BaseMessage]
) -> dict[str, Any]:
    """What of the messages of one call of the model has to change in the state: what is there as it was asked."""
    same = {one.id for one in asked if one.id and any(one is other for other in there)}
    own = [one for one in changed if one.id in same]
    return {"messages": own} if own else {}


def told_tools(tools: Iterable[BaseTool | dict[str, Any]], known: Mapping[str, str]) -> dict[str, str]:
    """How a model is told what tools do, those of this call and those that were there before.

    Args:
        tools: The tools of a call of the model.
        known: What is known from earlier calls.

    Returns:
        Name -> description, as far as it is read; those that were told last come last, and of many they stay.
    """
    told = dict(known)
    for tool in tools:
        if isinstance(tool, BaseTool):
            name, description = tool.name, tool.description
        else:
            function = tool.get("function")
            own: Mapping[str, Any] = function if isinstance(function, dict) else tool
            name, description = own.get("name", ""), own.get("description", "")
        if isinstance(name, str) and isinstance(description, str) and description:
            told.pop(name, None)
            told[name] = description[:_LONGEST_DESCRIPTION]
    return dict(list(told.items())[-_MOST_TOOLS:])


def _into(told: list[Event]) -> Into:
    return lambda _, event: told.append(event)


def _update(turned: Turned | None) -> dict[str, Any] | None:
    return None if turned is None else turned.update()


def _answered(state: GuardState, turned: Turned | None) -> dict[str, Any] | None:
    """The update after an answer; a call that others have answered too keeps its first result."""
    update = _update(turned) or {}
    removed = [] if turned is not None and turned.is_ended else doubles(state["messages"])
    return {**update, "messages": [*update.get("messages", ()), *removed]} if removed else update or None


def _ended(turns: _Turns, state: GuardState, turned: Turned | None) -> dict[str, Any] | None:
    """The update at the end, with what tokens stand for in the final answer."""
    update = _update(turned) or {}
    now = merged({**state}, update)
    messages = list(state["messages"]) if turned is None else turned.messages
    tokens, answer = now.get(TOKENS), messages[-1] if messages else None
    if not tokens or not isinstance(answer, AIMessage):
        return update or None
    final = restored([answer], tokens)[0]
    if final is not answer:
        own = [one for one in update.get("messages", ()) if one.id != final.id]
        now["messages"] = messages = [*messages[:-1], final]
        marks = {JUDGED: turns.at("end", now).judged(messages, {id(final)})}
        update = {**joined_updates(update, marks), "messages": [*own, final]}
    structured = now.get("structured_response")
    if structured is not None and (found := restored(structured, tokens)) is not structured:
        update["structured_response"] = found
    return update or None


def _prepared(request: ModelRequest[Any], state: Mapping[str, Any], ways: Ways) -> ModelRequest[Any]:
    """A call of the model with tokens instead of values, and with notes in its system prompt."""
    tokens, notes = state.get(TOKENS), state.get(NOTES)
    system: list[Any] = [] if request.system_message is None else [request.system_message]
    before: list[Any] = [*system, *request.messages]
    messages = before
    if tokens:
        hide = hiding(tokens)
        messages = [read([message]).mapped(hide)[0] for message in messages]
    if notes:
        messages = with_notes(messages, notes, apart=not system and ways.system_messages == "judged")
    if messages is before:
        return request
    first = messages[0]
    if isinstance(first, SystemMessage) and (system or len(messages) > len(before)):
        return request.override(system_message=first, messages=messages[1:])
    return request.override(messages=messages)


def _with_values(request: ToolCallRequest) -> ToolCallRequest:
    """A call of a tool with what tokens in its arguments stand for."""
    tokens = request.state.get(TOKENS) if isinstance(request.state, Mapping) else None
    if not tokens:
        return request
    from lec_guard.act.redact import restore

    call = {**request.tool_call, "type": "tool_call"}
    return request.override(tool_call=read(call).mapped(lambda text: restore(text, tokens)))
