"""The OpenAI Agents SDK: a model that judges what it is shown and says, and guardrails in the SDK's own form."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from inspect import isawaitable
from typing import Any, Literal
from uuid import uuid4

from langchain_core.messages import AIMessage, BaseMessage, SystemMessage, ToolMessage
from pydantic import TypeAdapter

from lec_guard.chain.definitions import Definition, Definitions
from lec_guard.chain.lens import read
from lec_guard.chain.messages import request_of
from lec_guard.errors import EscalationPending, GuardBlocked, LecGuardError, UnsupportedValueError
from lec_guard.guard import Guard
from lec_guard.step import Step, ToolRef, Verdict
from lec_guard_integrations.channels import NOTES, TOKENS, TOOLS
from lec_guard_integrations.conversation import (
    Apply,
    Check,
    Join,
    OnBlock,
    Place,
    Tell,
    Turn,
    Turned,
    TurnFlow,
    Ways,
)
from lec_guard_integrations.openai_items import Item, Piece, answer_of, arguments_of, pieces_of
from lec_guard_integrations.tokens import hiding, restored

try:
    from agents import (
        Agent,
        AgentOutputSchemaBase,
        FunctionTool,
        GuardrailFunctionOutput,
        Handoff,
        InputGuardrail,
        Model,
        ModelProvider,
        ModelResponse,
        ModelSettings,
        ModelTracing,
        OutputGuardrail,
        RunConfig,
        RunContextWrapper,
        Tool,
        ToolGuardrailFunctionOutput,
        ToolInputGuardrail,
        ToolInputGuardrailData,
        ToolOutputGuardrail,
        ToolOutputGuardrailData,
        Usage,
    )
    from agents.items import TResponseOutputItem, TResponseStreamEvent
    from agents.retry import ModelRetryAdvice, ModelRetryAdviceRequest
    from agents.run_config import CallModelData, ModelInputData
    from openai.types.responses import (
        Response,
        ResponseCompletedEvent,
        ResponseCreatedEvent,
        ResponseOutputItem,
        ResponseOutputItemAddedEvent,
        ResponseOutputItemDoneEvent,
        ResponseOutputMessage,
        ResponseOutputRefusal,
        ResponseOutputText,
        ResponseRefusalDeltaEvent,
        ResponseTextDeltaEvent,
    )
except ModuleNotFoundError as missing:
    raise UnsupportedValueError(
        f"guards for the OpenAI Agents SDK need {missing.name}; run: pip install 'lec-guard[openai-agents]'"
    ) from None

Tenant = str | Callable[[Any], str | None] | None
"""A tenant, or what knows it by the context of a run: the object given as `context=` to `Runner.run`."""

_REFUSED = "lec_guard_refused"
"""The only argument of a call that may not run; its value is what answers the call."""

_LONGEST_DESCRIPTION = 4000
"""Characters of a tool's description that are context of what it is given and gives."""

_run: ContextVar[tuple[Any, Sequence[Any]] | None] = ContextVar("lec_guard_openai_agents_run", default=None)
"""The context of the run that is about to call a model, and the items that it will show. By these it is known again:
a run inside one of its tools is another."""

_item: TypeAdapter[TResponseOutputItem] = TypeAdapter(ResponseOutputItem)


class AgentGuard:
    """Puts a guard into runs of the OpenAI Agents SDK.

    With `run_config`, each call of a model is judged, whichever agent makes it: before it, all that the model is shown
    (users, history, results of tools, definitions of tools); after it, its answer, reasoning, calls of tools and
    handoffs, before any of them runs. What is rewritten is rewritten in what the model is shown and in what it said.

    | what is blocked | what happens, unless `on_block` says otherwise |
    |---|---|
    | a message of a user | the model is not called; the policy's message is its answer |
    | a tool's result | the policy's message stands in its place, and the agent goes on |
    | a call of a tool that has `tool_input` | it does not run; the policy's message answers it, the agent goes on |
    | any other call, a handoff | the policy's message is the answer |
    | an answer | the policy's message stands in its place |
    | the definition of a tool | `GuardBlocked`, whatever `on_block` says |

    Where an agent has an output type, the policy's message is a refusal of the model's: the SDK raises
    `ModelRefusalError`, or asks the handler `model_refusal`. What is blocked in a history gives way to the policy's
    message, and the run goes on.

    The guardrails `input`, `output`, `tool_input` and `tool_output` can be used without that, as the SDK has them. They
    can't edit, so what would have to be rewritten trips them too. They see no more than one text and the user's task.

    One object serves all runs.

    Args:
        guard: What judges.
        tenant: Whose policy applies: a name, or what finds it by a run's context.
        on_block: What follows where something is blocked, stage by stage. At `tool_input` and `tool_output` the
            guardrails of that name go by it, too: they reject the content, or with `raise` or `end` raise the SDK's
            exception.
        media: What follows where a message holds images, files or other parts that are no text: `block`, or `flag`,
            which lets it pass with an event of the rule `unread:media`. The texts in it are judged either way.

    Attributes:
        input: Judges the input of a run before the model is called.
        output: Judges the final output of a run.
        tool_input: Judges what a tool is given, before it runs.
        tool_output: Judges what a tool gives.

    Raises:
        PolicyError: If the tenant is unknown.
        UnsupportedValueError: If `media` is neither.
    """

    def __init__(
        self,
        guard: Guard,
        *,
        tenant: Tenant = None,
        on_block: OnBlock | None = None,
        media: Literal["block", "flag"] = "block",
    ) -> None:
        if isinstance(tenant, str):
            guard.policy(tenant)
        self.guard = guard
        self.ways = Ways(on_block=on_block or OnBlock(), media=media)
        self._tenant = tenant
        self._definitions = Definitions(guard)
        self.input: InputGuardrail[Any] = InputGuardrail(self._on_input, name="lec_guard", run_in_parallel=False)
        self.output: OutputGuardrail[Any] = OutputGuardrail(self._on_output, name="lec_guard")
        self.tool_input: ToolInputGuardrail[Any] = ToolInputGuardrail(self._on_tool_input, name="lec_guard")
        self.tool_output: ToolOutputGuardrail[Any] = ToolOutputGuardrail(self._on_tool_output, name="lec_guard")

    # --- models

    def model(self, model: Model) -> GuardedModel:
        """Put the guard in front of a model.

        Args:
            model: The model; it is not changed.

        Returns:
            A model that judges what it is shown and what it says.
        """
        return model if isinstance(model, GuardedModel) else GuardedModel(model, self)

    def run_config(self, base: RunConfig | None = None) -> RunConfig:
        """Have all models of a run judged, those of agents that it is handed to as well.

        Args:
            base: What else is to hold for the run; it is not changed.

        Returns:
            What to give as `run_config` to `Runner.run`, `run_sync` or `run_streamed`.
        """
        base = base or RunConfig()
        own = base.call_model_input_filter

        async def noting(data: CallModelData[Any]) -> ModelInputData:
            model = data.agent.model
            if base.model is None and isinstance(model, Model) and not isinstance(model, GuardedModel):
                raise UnsupportedValueError(
                    "an agent has a model of its own, which no guard stands in front of: give it AgentGuard.model(...)"
                )
            given = data.model_data if own is None else own(data)
            shown = await given if isawaitable(given) else given
            _run.set((data.context, list(shown.input)))
            return shown

        return replace(
            base,
            model=self.model(base.model) if isinstance(base.model, Model) else base.model,
            model_provider=_GuardedProvider(base.model_provider, self),
            call_model_input_filter=noting,
        )

    def tenant_of(self, context: tuple[Any] | None) -> str | None:
        """Whose policy applies.

        Args:
            context: The context of the run, in a tuple; None where nobody has told of a run.

        Returns:
            The tenant.

        Raises:
            UnsupportedValueError: If the context has to be known, and is not.
        """
        if not callable(self._tenant):
            return self._tenant
        if context is None:
            raise UnsupportedValueError("the tenant is in the run's context: give run_config=AgentGuard.run_config()")
        return self._tenant(context[0])

    # --- guardrails

    async def _on_input(
        self, context: RunContextWrapper[Any], agent: Agent[Any], given: Any
    ) -> GuardrailFunctionOutput:
        messages = _messages(given)
        if isinstance(agent.instructions, str) and agent.instructions:
            messages = [SystemMessage(content=agent.instructions), *messages]
        return _tripped(await self._refused(read(messages, "input").steps if messages else [], context))

    async def _on_output(
        self,
        context: RunContextWrapper[Any],
        agent: Agent[Any],  # noqa: ARG002 - the SDK's signature
        said: Any,
    ) -> GuardrailFunctionOutput:
        steps = [] if said is None else read(said, "output", _task(context)).steps
        return _tripped(await self._refused(steps, context))

    async def _on_tool_input(self, data: ToolInputGuardrailData) -> ToolGuardrailFunctionOutput:
        text = data.context.tool_arguments
        args = arguments_of(text)
        if args is not None and list(args) == [_REFUSED]:
            return self._rejected(str(args[_REFUSED]), {})
        call = {"type": "tool_call", "name": data.context.tool_name, "args": text if args is None else args}
        return await self._on_tool(read(call, "tool_input", _task(data.context)).steps, data, "tool_input")

    async def _on_tool_output(self, data: ToolOutputGuardrailData) -> ToolGuardrailFunctionOutput:
        steps = [] if data.output is None else read(data.output, "tool_output", _task(data.context)).steps
        return await self._on_tool(steps, data, "tool_output")

    async def _on_tool(
        self, steps: Sequence[Step], data: ToolInputGuardrailData, stage: Literal["tool_input", "tool_output"]
    ) -> ToolGuardrailFunctionOutput:
        name = data.context.tool_name
        described = next(
            (one.description for one in data.agent.tools if isinstance(one, FunctionTool) and one.name == name), None
        )
        tool = ToolRef(name=name, description=described or None)
        placed = [replace(step, stage=stage, tool=tool, context=_task(data.context)) for step in steps]
        verdict = await self._refused(placed, data.context)
        if verdict is None:
            return ToolGuardrailFunctionOutput.allow()
        if getattr(self.ways.on_block, stage) != "recover":
            return ToolGuardrailFunctionOutput.raise_exception(_told(verdict))
        return self._rejected(verdict.message or "", _told(verdict))

    @staticmethod
    def _rejected(message: str, told: dict[str, Any]) -> ToolGuardrailFunctionOutput:
        return ToolGuardrailFunctionOutput.reject_content(message, told)

    async def _refused(self, steps: Sequence[Step], context: RunContextWrapper[Any]) -> Verdict | None:
        """Why texts may not pass as they are."""
        tenant = self.tenant_of((context.context,))
        outcomes = await self.guard.aapply_many(list(steps), tenant) if steps else []
        for outcome in outcomes:
            if outcome.ticket is not None:
                raise EscalationPending(outcome.verdict, outcome.ticket)
        for step, outcome in zip(steps, outcomes, strict=True):
            if outcome.text != step.text:
                return replace(outcome.verdict, action="block")
        return None

    # --- definitions of tools

    async def judge_definitions(self, tools: Sequence[Tool], tenant: str | None) -> None:
        """Judge what a model is to be told of tools; what was judged by the same policy is not judged again.

        Args:
            tools: The tools.
            tenant: Whose policy applies.

        Raises:
            GuardBlocked: If a definition may not pass as it is.
            EscalationPending: If somebody has yet to decide.
        """
        told = [
            (one, {"name": one.name, "description": one.description, "parameters": one.params_json_schema})
            for one in tools
            if isinstance(one, FunctionTool)
        ]
        for tool, said in told:
            whole = json.dumps(said, sort_keys=True, default=repr).encode("utf-8", "surrogatepass")
            ref = ToolRef(name=tool.name, description=tool.description or None)
            definition = Definition(ref, "", hashlib.sha256(whole).hexdigest())
            if self._definitions.passed(definition, tenant):
                continue
            steps = [replace(step, tool=ref) for step in read(said, "tool_definition").steps]
            for step, outcome in zip(steps, await self.guard.aapply_many(steps, tenant), strict=True):
                if outcome.ticket is not None:
                    raise EscalationPending(outcome.verdict, outcome.ticket)
                if outcome.text != step.text:
                    raise GuardBlocked(replace(outcome.verdict, action="block"))
            self._definitions.note(definition, tenant)


class GuardedModel(Model):
    """A model with a guard in front of it; `AgentGuard.model` makes it.

    A stream is held back whole, and told anew once it was judged: what it is made of has no other pieces than a text at
    a time, and nothing of it is what the model's provider sent.

    Args:
        model: What is protected.
        guards: What judges.
    """

    def __init__(self, model: Model, guards: AgentGuard) -> None:
        self._model = model
        self._guards = guards
        # The SDK asks that of models it knows.
        self._supports_default_prompt_cache_key = getattr(model, "_supports_default_prompt_cache_key", None)

    async def get_response(
        self,
        system_instructions: str | None,
        input: Any,  # noqa: A002 - the SDK's name
        model_settings: ModelSettings,
        tools: list[Tool],
        output_schema: AgentOutputSchemaBase | None,
        handoffs: list[Handoff],
        tracing: ModelTracing,
        *,
        previous_response_id: str | None,
        conversation_id: str | None,
        prompt: Any,
    ) -> ModelResponse:
        """Judge a request, call the model, and judge its answer; see `Model.get_response`.

        Args:
            system_instructions: Context of what users say; not judged.
            input: What is judged.
            model_settings: As there.
            tools: As there; their definitions are judged.
            output_schema: As there.
            handoffs: As there.
            tracing: As there.
            previous_response_id: As there.
            conversation_id: As there; what a provider keeps under it was judged when it passed.
            prompt: As there.

        Returns:
            The answer as it may pass.

        Raises:
            GuardBlocked: If something is blocked, and `on_block` wants that.
            EscalationPending: If somebody has yet to decide.
            UnsupportedValueError: If something can't be read.
            PolicyError: If the tenant is unknown.
        """
        talk = await _Talk.of(self._guards, system_instructions, input, tools, handoffs, output_schema)
        if talk.refusal is not None:
            return ModelResponse(output=talk.refused(talk.refusal), usage=Usage(), response_id=None)
        response = await self._model.get_response(
            talk.system,
            talk.items,
            model_settings,
            tools,
            output_schema,
            handoffs,
            tracing,
            previous_response_id=previous_response_id,
            conversation_id=conversation_id,
            prompt=prompt,
        )
        return replace(response, output=await talk.answered(response.output))

    async def stream_response(
        self,
        system_instructions: str | None,
        input: Any,  # noqa: A002 - the SDK's name
        model_settings: ModelSettings,
        tools: list[Tool],
        output_schema: AgentOutputSchemaBase | None,
        handoffs: list[Handoff],
        tracing: ModelTracing,
        *,
        previous_response_id: str | None,
        conversation_id: str | None,
        prompt: Any,
    ) -> AsyncIterator[TResponseStreamEvent]:
        """`get_response` as a stream, whose first event comes once all of the answer was judged."""
        talk = await _Talk.of(self._guards, system_instructions, input, tools, handoffs, output_schema)
        if talk.refusal is not None:
            for told in _events(_response(talk.refused(talk.refusal))):
                yield told
            return
        items: list[TResponseOutputItem] = []
        last: Any = None
        async for event in self._model.stream_response(
            talk.system,
            talk.items,
            model_settings,
            tools,
            output_schema,
            handoffs,
            tracing,
            previous_response_id=previous_response_id,
            conversation_id=conversation_id,
            prompt=prompt,
        ):
            if event.type == "response.output_item.done":
                items.append(event.item)
            elif event.type in ("response.completed", "response.failed", "response.incomplete", "error"):
                last = event
        if last is None:
            return  # The SDK knows that nothing came, and says so.
        if not isinstance(last, ResponseCompletedEvent):
            # How it failed is told, and not what had been said until then.
            response = getattr(last, "response", None)
            changes = {} if response is None else {"response": response.model_copy(update={"output": []})}
            yield last.model_copy(update=changes)
            return
        output = await talk.answered(last.response.output or items)
        for told in _events(last.response.model_copy(update={"output": output})):
            yield told

    async def close(self) -> None:
        """Close the model."""
        await self._model.close()

    async def _cleanup_on_run_end(self, owner: object) -> None:
        await self._model._cleanup_on_run_end(owner)

    def get_retry_advice(self, request: ModelRetryAdviceRequest) -> ModelRetryAdvice | None:
        """What the model advises; what the guard has said is not asked again.

        Args:
            request: The failure.

        Returns:
            The advice.
        """
        if isinstance(request.error, LecGuardError):
            return ModelRetryAdvice(suggested=False, replay_safety="unsafe")
        return self._model.get_retry_advice(request)


class _GuardedProvider(ModelProvider):
    """A provider of guarded models."""

    def __init__(self, provider: ModelProvider, guards: AgentGuard) -> None:
        self._provider = provider
        self._guards = guards

    def get_model(self, model_name: str | None) -> Model:
        """The model of a name, guarded."""
        return self._guards.model(self._provider.get_model(model_name))

    async def aclose(self) -> None:
        """Close the provider."""
        await self._provider.aclose()


# --- a call of a model


@dataclass(frozen=True, slots=True, kw_only=True)
class _Talk:
    """A call of a model as it passes, and what its answer is judged with.

    Attributes:
        guards: What judges.
        tenant: Whose policy applies.
        ways: What the operator wants.
        state: What is known of the messages.
        system: What the model is instructed, with what it has to be told of quarantined texts.
        items: What it is shown.
        refusal: What is said instead of asking it; None where it may be asked.
        structured: Whether an answer is to be JSON.
        recovering: Tools that reject their calls themselves.
    """

    guards: AgentGuard
    tenant: str | None
    ways: Ways
    state: dict[str, Any]
    system: str | None
    items: Any
    refusal: str | None
    structured: bool
    recovering: frozenset[str]

    @classmethod
    async def of(
        cls,
        guards: AgentGuard,
        system: str | None,
        given: Any,
        tools: Sequence[Tool],
        handoffs: Sequence[Handoff],
        output_schema: AgentOutputSchemaBase | None,
    ) -> _Talk:
        """Judge what a model is to be shown."""
        tenant = guards.tenant_of(_context(given))
        await guards.guard.apolicy(tenant)
        await guards.judge_definitions(tools, tenant)
        functions = [one for one in tools if isinstance(one, FunctionTool)]
        described = {one.name: one.description for one in functions}
        described |= {one.tool_name: one.tool_description for one in handoffs}
        pieces = pieces_of([{"role": "user", "content": given}] if isinstance(given, str) else given)
        state: dict[str, Any] = {
            "messages": [piece.message for piece in pieces],
            TOOLS: {name: said[:_LONGEST_DESCRIPTION] for name, said in described.items() if said},
        }
        talk = cls(
            guards=guards,
            tenant=tenant,
            ways=replace(guards.ways, system_prompt=system),
            state=state,
            system=system,
            items=given,
            refusal=None,
            structured=output_schema is not None and not output_schema.is_plain_text(),
            recovering=frozenset(
                one.name
                for one in functions
                if any(own is guards.tool_input for own in one.tool_input_guardrails or ())
            ),
        )
        return await talk._asked(pieces)

    async def _asked(self, pieces: Sequence[Piece]) -> _Talk:
        """What may be shown to the model of what it is to be shown."""
        messages: list[BaseMessage] = self.state["messages"]
        # What was answered already gives way where it may not pass; only what is new can end the run.
        history = max((at + 1 for at, one in enumerate(messages) if isinstance(one, AIMessage)), default=0)
        state = self.state
        if history and (before := await self._turned(state, messages[:history], "end")) is not None:
            messages = [*before.messages, *messages[history:]]
            state = {**state, **before.private, "messages": messages}
        now = await self._turned(state, messages, "before")
        if now is not None and now.is_ended:
            return replace(self, refusal=now.messages[-1].text)
        if now is not None:
            messages = now.messages
            state = {**state, **now.private, "messages": messages}
        shown = messages
        if tokens := state.get(TOKENS):
            hide = hiding(tokens)
            shown = [read([one]).mapped(hide)[0] for one in messages]
        items = self.items
        if any(one is not piece.message for one, piece in zip(shown, pieces, strict=True)):
            items = [item for one, piece in zip(shown, pieces, strict=True) for item in piece.passing(one)]
        notes = [note for note in state.get(NOTES) or () if note not in (self.system or "")]
        system = "\n\n".join([*([self.system] if self.system else []), *notes]) or None
        return replace(self, state=state, items=items, system=system)

    async def answered(self, output: Sequence[TResponseOutputItem]) -> list[TResponseOutputItem]:
        """An answer as it may pass."""
        given = list(output)
        items = [one if isinstance(one, dict) else one.model_dump(exclude_unset=True) for one in given]
        messages: list[BaseMessage] = self.state["messages"]
        piece = answer_of(items, len(messages))
        value = _structured(items) if self.structured else None
        turned = await self._turned(self.state, [*messages, piece.message], "answer", value)
        message, rest, structured = piece.message, [], value
        if turned is not None:
            message, *rest = turned.messages[len(messages) :]
            structured = turned.structured
            if turned.is_ended:
                return self.refused(message.text)
        if tokens := self.state.get(TOKENS):
            message, structured = restored([message], tokens)[0], restored(structured, tokens)
        calls = {one.tool_call_id: one.text for one in rest if isinstance(one, ToolMessage)}
        if calls:
            own = message.tool_calls if isinstance(message, AIMessage) else []
            if any(call["id"] in calls and call["name"] not in self.recovering for call in own):
                return self.refused(next(iter(calls.values())))
            refused = [{**call, "args": {_REFUSED: calls[call["id"]]}} if call["id"] in calls else call for call in own]
            message = message.model_copy(update={"tool_calls": refused})
        passing: list[Item] = [*piece.passing(message)]
        if value is not None and structured != value:
            passing = _with_structured(passing, structured)
        return [
            old if new is was else _item.validate_python(new)
            for old, was, new in zip(given, items, passing, strict=True)
        ]

    def refused(self, said: str) -> list[TResponseOutputItem]:
        """What is answered instead; a refusal where JSON is expected."""
        content: Any = (
            ResponseOutputRefusal(refusal=said or "The guard refuses this.", type="refusal")
            if self.structured
            else ResponseOutputText(text=said, type="output_text", annotations=[], logprobs=[])
        )
        return [
            ResponseOutputMessage(
                id=f"msg_{uuid4().hex}", type="message", role="assistant", status="completed", content=[content]
            )
        ]

    async def _turned(
        self, state: Mapping[str, Any], messages: Sequence[BaseMessage], place: Place, structured: Any = None
    ) -> Turned | None:
        guard = self.guards.guard
        turn = Turn(
            state=state,
            messages=messages,
            structured=structured,
            place=place,
            tenant=self.tenant,
            locale=None,
            fingerprint=await guard.afingerprints(self.tenant),
            ways=self.ways,
            traces=guard.traces(self.tenant),
        )
        return await _driven(guard, turn.flow(), self.tenant)


def _context(given: Any) -> tuple[Any] | None:
    """The context of the run that shows a model something; None where that is not known."""
    if (noted := _run.get()) is None:
        return None
    context, items = noted
    known = {id(item) for item in items}
    return (context,) if isinstance(given, list) and all(id(item) in known for item in given) else None


async def _driven(guard: Guard, flow: TurnFlow, tenant: str | None) -> Turned | None:
    """Drive a flow to its end."""
    sent: Any = None
    while True:
        try:
            wanted = flow.send(sent)
        except StopIteration as done:
            result: Turned | None = done.value
            return result
        match wanted:
            case Apply(plan):
                sent = await guard.aapply_many(plan.steps, plan.tenants, fits=plan.fits)
            case Check(steps):
                sent = await guard.acheck_many(steps, tenant)
            case Join(joins):
                sent = await guard.aapply_joined(joins, tenant)
            case Tell(step, rule, blocks):
                sent = guard.unread(step, tenant, rule=rule, blocks=blocks)


def _structured(items: Sequence[Item]) -> Any:
    """What the SDK will make of the JSON in an answer; None where it is none."""
    texts = [
        "".join(part.get("text") or "" for part in item.get("content") or ())
        for item in items
        if item.get("type") == "message"
    ]
    try:
        return json.loads(texts[-1]) if texts else None
    except (ValueError, RecursionError):
        return None


def _with_structured(items: Sequence[Item], value: Any) -> list[Item]:
    """An answer with other JSON."""
    last = max(at for at, item in enumerate(items) if item.get("type") == "message")
    text = {"type": "output_text", "text": json.dumps(value, ensure_ascii=False), "annotations": []}
    return [{**item, "content": [text]} if at == last else item for at, item in enumerate(items)]


# --- streams


def _response(output: list[TResponseOutputItem]) -> Response:
    """A response of nobody's."""
    return Response(
        id=f"resp_{uuid4().hex}",
        created_at=time.time(),
        model="lec_guard",
        object="response",
        output=output,
        parallel_tool_calls=False,
        tool_choice="auto",
        tools=[],
    )


def _events(response: Response) -> Iterator[TResponseStreamEvent]:
    """A response as a stream of each text at once, and of nothing that is not in it."""
    number = iter(range(2**31))
    begun = response.model_copy(update={"output": [], "status": "in_progress"})
    yield ResponseCreatedEvent(response=begun, sequence_number=next(number), type="response.created")
    for at, item in enumerate(response.output):
        yield ResponseOutputItemAddedEvent(
            item=item, output_index=at, sequence_number=next(number), type="response.output_item.added"
        )
        for place, part in enumerate(item.content if isinstance(item, ResponseOutputMessage) else ()):
            where = {"item_id": item.id, "output_index": at, "content_index": place, "sequence_number": next(number)}
            if isinstance(part, ResponseOutputText):
                yield ResponseTextDeltaEvent(delta=part.text, logprobs=[], type="response.output_text.delta", **where)
            else:
                yield ResponseRefusalDeltaEvent(delta=part.refusal, type="response.refusal.delta", **where)
        yield ResponseOutputItemDoneEvent(
            item=item, output_index=at, sequence_number=next(number), type="response.output_item.done"
        )
    yield ResponseCompletedEvent(response=response, sequence_number=next(number), type="response.completed")


# --- guardrails


def _messages(given: Any) -> list[BaseMessage]:
    return [one.message for one in pieces_of([{"role": "user", "content": given}] if isinstance(given, str) else given)]


def _task(context: RunContextWrapper[Any]) -> str | None:
    """What the user wants of this run, as far as it can be read."""
    try:
        messages = _messages(context.turn_input)
        return request_of(messages) if messages else None
    except UnsupportedValueError:
        return None


def _told(verdict: Verdict) -> dict[str, Any]:
    """What the SDK is told of a verdict: no scores, and no text."""
    return {"action": verdict.action, "stage": verdict.stage, "rule": verdict.rule, "message": verdict.message}


def _tripped(verdict: Verdict | None) -> GuardrailFunctionOutput:
    told = {"action": "allow"} if verdict is None else _told(verdict)
    return GuardrailFunctionOutput(output_info=told, tripwire_triggered=verdict is not None)
