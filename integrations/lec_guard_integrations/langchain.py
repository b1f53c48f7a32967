"""LangChain agents: a middleware that judges what goes into the model, what comes out, and what tools are given."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NotRequired

from langchain_core.messages import AIMessage, SystemMessage, ToolMessage
from langchain_core.runnables import RunnableConfig

from lec_guard.act.effects import Effects
from lec_guard.chain.callbacks import adispatch, dispatch
from lec_guard.chain.lens import read
from lec_guard.chain.notes import with_notes
from lec_guard.chain.runnable import GuardRunnable, TenantResolver
from lec_guard.detect.detector import Detector
from lec_guard.errors import UnsupportedValueError
from lec_guard.guard import Guard, Tell
from lec_guard.observe.events import Event, EventSink
from lec_guard.observe.sinks import OnSinkError
from lec_guard_integrations.conversation import JUDGED, NOTES, TOKENS, Apply, Turn, hiding
from lec_guard_integrations.langgraph import InterruptEscalator

try:
    from langchain.agents.middleware import AgentMiddleware, AgentState, ModelRequest, ModelResponse, hook_config
    from langchain.agents.middleware.types import PrivateStateAttr
    from langgraph.config import get_config
    from langgraph.prebuilt.tool_node import ToolCallRequest
    from langgraph.runtime import Runtime
    from langgraph.types import Command
except ModuleNotFoundError as missing:
    raise UnsupportedValueError(
        f"GuardMiddleware needs {missing.name}; run: pip install 'lec-guard[langchain]'"
    ) from None


class GuardState(AgentState[Any]):
    """What `GuardMiddleware` keeps in an agent's state; no caller can give it, and none gets it as a result.

    Attributes:
        lec_guard_judged: By a message's id, a digest of it as it was judged.
        lec_guard_notes: What the system prompt has to say for texts in the messages.
        lec_guard_tokens: What tokens in the messages stand for.
    """

    lec_guard_judged: NotRequired[Annotated[dict[str, str], PrivateStateAttr]]
    lec_guard_notes: NotRequired[Annotated[list[str], PrivateStateAttr]]
    lec_guard_tokens: NotRequired[Annotated[dict[str, str], PrivateStateAttr]]


class GuardMiddleware(AgentMiddleware[GuardState, Any, Any]):
    """Puts a guard into an agent made by `langchain.agents.create_agent`.

    Before each call of the model, what nobody has judged yet is: messages of users as input, results of tools as tool
    output, a history that a caller brings along as what it is. After it, the answer is judged as output, and each tool
    call as tool input, before any tool runs. What is rewritten is replaced under its own id.

    | what is blocked | what happens |
    |---|---|
    | a message of a user | the policy's message stands in its place, and is the agent's answer |
    | a tool's result | the policy's message stands in its place as an error, and the agent goes on |
    | a tool call | it does not run; an error with the policy's message answers it, and the agent goes on |
    | an answer | the policy's message stands in its place, and the agent ends |

    Where a policy asks somebody, `kind: interrupt` stops the graph before the model or the tools run, so that neither
    runs twice; see `InterruptEscalator`. A review queue raises `EscalationPending` out of the agent: nothing ran, and
    `agent.invoke(None, config)` goes on there (without a checkpointer, the same call again) once there is a decision.

    Where a text is quarantined, the system prompt says what that means. Where personal data gave way to tokens, the
    model is sent tokens only, tools get the real values, and so does the final answer. The state of the thread holds
    what tokens stand for, and so do its checkpoints; a checkpoint also holds a user's message as it came, for
    LangGraph saves it before any node runs.

    List it first, so that it judges what other middleware makes of an answer. Tokens of what the model streams
    (`stream_mode="messages"`) are seen before they are judged. One object serves all threads and tenants.

    Args:
        guard: What judges. For policies with `kind: interrupt` it has to have `effects=Effects(interrupt=...)`, as
            `from_policies` makes it.
        tenant: The tenant of all runs; None where the run's config or the resolver names it.
        tenant_key: The key of `configurable` that names the tenant.
        locale_key: The key of `configurable` that names the language of refusals.
        resolver: The operator's own way from a run's config to its tenant.

    Raises:
        PolicyError: If the tenant is unknown.
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
    ) -> None:
        super().__init__()
        self.guard = guard
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

        Returns:
            The middleware; its `guard` is to be closed by whoever made it.

        Raises:
            PolicyError: If a policy is wrong or reads what the detector does not give, or the tenant is unknown.
            BundleError: If the detector can't be loaded.
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
        return cls(guard, tenant=tenant, tenant_key=tenant_key, locale_key=locale_key, resolver=resolver)

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
            UnsupportedValueError: If a message can't be read.
            EscalationPending: If somebody has yet to decide.
            TenantMismatch: If config and resolver name different tenants.
            PolicyError: If the tenant is unknown.
        """
        return self._run(state, is_answered=False)

    @hook_config(can_jump_to=["end"])
    async def abefore_model(self, state: GuardState, runtime: Runtime[Any]) -> dict[str, Any] | None:  # noqa: ARG002
        """`before_model`, without blocking the event loop."""
        return await self._arun(state, is_answered=False)

    @hook_config(can_jump_to=["end"])
    def after_model(self, state: GuardState, runtime: Runtime[Any]) -> dict[str, Any] | None:  # noqa: ARG002
        """Judge what the model has answered, and what it wants tools to be given.

        Args:
            state: The agent's state.
            runtime: Not used.

        Returns:
            The update of the state.

        Raises:
            UnsupportedValueError: As of `before_model`, like the others.
            EscalationPending: If somebody has yet to decide.
        """
        return self._run(state, is_answered=True)

    @hook_config(can_jump_to=["end"])
    async def aafter_model(self, state: GuardState, runtime: Runtime[Any]) -> dict[str, Any] | None:  # noqa: ARG002
        """`after_model`, without blocking the event loop."""
        return await self._arun(state, is_answered=True)

    def _run(self, state: Mapping[str, Any], *, is_answered: bool) -> dict[str, Any] | None:
        config = get_config()
        turn = self._turn(state, config, is_answered=is_answered)
        flow = turn.flow()
        sent: list[Any] | None = None
        while True:
            try:
                wanted = next(flow) if sent is None else flow.send(sent)
            except StopIteration as done:
                return _update(done)
            if isinstance(wanted, Apply):
                plan, told = wanted.plan, list[Event]()
                sent = list(self.guard.apply_many(plan.steps, plan.tenants, tell=_into(told), fits=plan.fits))
                dispatch(told, config)
            else:
                sent = list(self.guard.check_many(wanted.steps, turn.tenant))

    async def _arun(self, state: Mapping[str, Any], *, is_answered: bool) -> dict[str, Any] | None:
        config = get_config()
        turn = self._turn(state, config, is_answered=is_answered)
        flow = turn.flow()
        sent: list[Any] | None = None
        while True:
            try:
                wanted = next(flow) if sent is None else flow.send(sent)
            except StopIteration as done:
                return _update(done)
            if isinstance(wanted, Apply):
                plan, told = wanted.plan, list[Event]()
                sent = list(await self.guard.aapply_many(plan.steps, plan.tenants, tell=_into(told), fits=plan.fits))
                await adispatch(told, config)
            else:
                sent = list(await self.guard.acheck_many(wanted.steps, turn.tenant))

    def _turn(self, state: Mapping[str, Any], config: RunnableConfig, *, is_answered: bool) -> Turn:
        locale = config.get("configurable", {}).get(self._view.locale_key)
        return Turn(
            state=state,
            tenant=self._view.tenant_of(config),
            locale=locale if isinstance(locale, str) else None,
            is_answered=is_answered,
        )

    # --- notes and tokens

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Tell the model of quarantined texts, and send it tokens instead of what they stand for.

        Args:
            request: The call of the model.
            handler: What calls it.

        Returns:
            The answer.

        Raises:
            UnsupportedValueError: If tokens can't be put into a message that has what they stand for.
        """
        return handler(_prepared(request))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        """`wrap_model_call`, without blocking the event loop."""
        return await handler(_prepared(request))

    def wrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], ToolMessage | Command[Any]]
    ) -> ToolMessage | Command[Any]:
        """Give a tool what tokens in its arguments stand for.

        Args:
            request: The call of the tool, which was judged as the model wrote it.
            handler: What runs the tool.

        Returns:
            The result.

        Raises:
            UnsupportedValueError: If that can't be put into the arguments.
        """
        return handler(_with_values(request))

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[ToolMessage | Command[Any]]]
    ) -> ToolMessage | Command[Any]:
        """`wrap_tool_call`, without blocking the event loop."""
        return await handler(_with_values(request))

    def after_agent(self, state: GuardState, runtime: Runtime[Any]) -> dict[str, Any] | None:  # noqa: ARG002
        """Put what tokens stand for into the final answer.

        Args:
            state: The agent's state.
            runtime: Not used.

        Returns:
            The update of the state; where the values can't be put there, the tokens stay.
        """
        tokens, messages = state.get("lec_guard_tokens"), state["messages"]
        answer = messages[-1] if messages else None
        if not tokens or not isinstance(answer, AIMessage):
            return None
        update: dict[str, Any] = {}
        restored = _restored([answer], tokens)[0]
        if restored is not answer:
            turn = self._turn(state, get_config(), is_answered=True)
            update |= {"messages": [restored], JUDGED: turn.judged([restored])}
        structured = state.get("structured_response")
        if structured is not None and (found := _restored(structured, tokens)) is not structured:
            update["structured_response"] = found
        return update or None

    async def aafter_agent(self, state: GuardState, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """`after_agent`; it waits for nothing."""
        return self.after_agent(state, runtime)


def _into(told: list[Event]) -> Tell:
    return lambda _, event: told.append(event)


def _update(done: StopIteration) -> dict[str, Any] | None:
    update: dict[str, Any] | None = done.value
    return update


def _prepared(request: ModelRequest[Any]) -> ModelRequest[Any]:
    """A call of the model with tokens instead of values, and with notes in its system prompt."""
    state: Mapping[str, Any] = request.state
    tokens, notes = state.get(TOKENS), state.get(NOTES)
    system: list[Any] = [] if request.system_message is None else [request.system_message]
    before: list[Any] = [*system, *request.messages]
    messages = before
    if tokens:
        hide = hiding(tokens)
        messages = [read([message]).mapped(hide)[0] for message in messages]
    if notes:
        messages = with_notes(messages, notes)
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


def _restored(value: Any, tokens: Mapping[str, str]) -> Any:
    """A value with what tokens in it stand for; the value itself where that can't be put there."""
    # Imported here: most agents have nothing to put back.
    from lec_guard.act.redact import restore

    try:
        return read(value, "output").mapped(lambda text: restore(text, tokens))
    except UnsupportedValueError:
        return value
