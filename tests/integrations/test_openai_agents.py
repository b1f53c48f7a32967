"""The OpenAI Agents SDK: what models of a run are shown and say, and guardrails in the SDK's own form."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from agents import (
    Agent,
    FunctionTool,
    InputGuardrailTripwireTriggered,
    ModelBehaviorError,
    ModelRefusalError,
    ModelSettings,
    OutputGuardrailTripwireTriggered,
    RunConfig,
    Runner,
    SQLiteSession,
    ToolInputGuardrailTripwireTriggered,
    ToolOutputGuardrailTripwireTriggered,
    UserError,
    function_tool,
    handoff,
)
from agents.models.interface import Model, ModelProvider
from agents.retry import ModelRetrySettings
from agents.testing import ModelStep, ScriptedModel, assistant_message, function_call
from lec_guard_integrations.conversation import OnBlock
from lec_guard_integrations.langgraph import InterruptEscalator
from lec_guard_integrations.openai_agents import AgentGuard, GuardedModel
from openai.types.responses import ResponseCompletedEvent, ResponseErrorEvent, ResponseFailedEvent
from openai.types.responses.response_reasoning_item import Content, ResponseReasoningItem, Summary
from pydantic import BaseModel

from lec_guard import Effects, EscalationPending, Guard, GuardBlocked, PolicyError, UnsupportedValueError
from lec_guard.testing import KeywordDetector
from tests.conftest import write_policies
from tests.integrations.agents import KEY, POLICY, WORDS, Soften
from tests.integrations.guards import Guarded

WAYS = pytest.mark.parametrize("way", ["sync", "async", "streamed"])


@dataclass
class Caller:
    """The context of a run."""

    tenant: str | None = None


class Provider(ModelProvider):
    """One model under every name."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def get_model(self, model_name: str | None) -> Model:
        return self.model


@pytest.fixture(autouse=True)
def loop() -> Iterator[None]:
    """`run_sync` has a loop of its own and leaves it open."""
    own = asyncio.new_event_loop()
    asyncio.set_event_loop(own)
    yield
    asyncio.set_event_loop(None)
    own.close()


@dataclass
class Ran:
    """A run and its stream."""

    result: Any
    events: list[Any]

    @property
    def deltas(self) -> str:
        return "".join(
            event.data.delta
            for event in self.events
            if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
        )


def ran(agent: Agent[Any], given: Any, way: str = "async", **more: Any) -> Ran:
    config = more.pop("run_config", None) or RunConfig()
    config.tracing_disabled = True
    events: list[Any] = []

    async def streamed() -> Any:
        result = Runner.run_streamed(agent, given, run_config=config, **more)
        async for event in result.stream_events():
            events.append(event)
        return result

    if way == "sync":
        return Ran(Runner.run_sync(agent, given, run_config=config, **more), events)
    return Ran(
        asyncio.run(streamed() if way == "streamed" else Runner.run(agent, given, run_config=config, **more)), events
    )


def shown(model: ScriptedModel, at: int = -1) -> Any:
    """What a call of the model was shown."""
    given = model.calls[at].input
    return (
        given
        if isinstance(given, str)
        else [item.get("content", item.get("output", item.get("arguments"))) for item in given]
    )


class World:
    """An agent with a tool, a scripted model and a guard in front of it."""

    def __init__(
        self, guarded: Guarded, *steps: Any, result: str = "fine", guards: AgentGuard | None = None, **more: Any
    ) -> None:
        self.sent: list[str] = []
        self.model = ScriptedModel(list(steps))
        self.guards = guards or AgentGuard(guarded.guard)

        @function_tool(tool_input_guardrails=[self.guards.tool_input], description_override="Sends a text.")
        def send(text: str) -> str:
            self.sent.append(text)
            return result

        self.tool = send
        self.agent: Agent[Any] = Agent(name="helper", instructions="Be kind.", tools=more.pop("tools", [send]), **more)

    def run(self, given: Any, way: str = "async", **more: Any) -> Ran:
        base = RunConfig(model_provider=Provider(self.model))
        return ran(self.agent, given, way, run_config=self.guards.run_config(base), **more)


def said(text: str) -> list[Any]:
    return [assistant_message(text)]


def call(arguments: Any, name: str = "send", call_id: str = "c1") -> list[Any]:
    return [function_call(name, arguments, call_id=call_id)]


# --- what passes


@WAYS
def test_what_may_pass_passes(guarded: Guarded, way: str) -> None:
    world = World(guarded, call({"text": "hello"}), said("Sent."))
    run = world.run("send it", way)
    assert (run.result.final_output, world.sent) == ("Sent.", ["hello"])
    assert shown(world.model, 0) == ["send it"]
    assert shown(world.model) == ["send it", '{"text":"hello"}', "fine"]
    assert run.deltas == ("Sent." if way == "streamed" else "")
    steps = {(step.stage, step.text): step for step in guarded.detector.seen}
    assert steps["input", "send it"].context == "Be kind."
    given, gave = steps["tool_input", "text: hello"], steps["tool_output", "fine"]
    assert (given.tool.name, given.tool.description) == ("send", "Sends a text.")
    assert (gave.tool.name, gave.tool.description, gave.context) == ("send", "Sends a text.", "send it")
    assert steps["output", "Sent."].context == "send it"
    assert [stage for stage, _ in guarded.seen].count("tool_definition") == 1


def test_an_agent_without_tools(guarded: Guarded) -> None:
    assert World(guarded, said("Hi."), tools=[]).run("hello").result.final_output == "Hi."


# --- what may not


@WAYS
@pytest.mark.parametrize("given", ["an attack", [{"role": "user", "content": "an attack"}], "boom"])
def test_the_model_is_not_called_on_a_blocked_input(guarded: Guarded, way: str, given: Any) -> None:
    world = World(guarded)
    run = world.run(given, way)
    assert (run.result.final_output, world.model.calls) == ("No.", ())
    assert run.deltas == ("No." if way == "streamed" else "")


@WAYS
def test_a_blocked_answer_is_never_seen(guarded: Guarded, way: str) -> None:
    run = World(guarded, said("an attack")).run("hi", way)
    assert run.result.final_output == "No."
    assert "attack" not in repr(run.events)
    assert "attack" not in repr(run.result.to_input_list())


@WAYS
def test_a_blocked_call_does_not_run_and_the_agent_goes_on(guarded: Guarded, way: str) -> None:
    world = World(guarded, [*call({"text": "attack"}), *call({"text": "fine"}, call_id="c2")], said("Well."))
    run = world.run("send it", way)
    assert (run.result.final_output, world.sent) == ("Well.", ["fine"])
    assert shown(world.model)[-2:] == ["No.", "fine"]
    assert "attack" not in repr(run.events) + repr(shown(world.model))


@WAYS
def test_a_call_of_a_tool_that_cannot_refuse_ends_the_run(guarded: Guarded, way: str) -> None:
    sent: list[str] = []

    @function_tool
    def bare(text: str) -> str:
        sent.append(text)
        return text

    world = World(guarded, call({"text": "attack"}, "bare"), tools=[bare])
    assert (world.run("hi", way).result.final_output, sent) == ("No.", [])


@WAYS
def test_invalid_json_of_a_call_is_read(guarded: Guarded, way: str) -> None:
    world = World(guarded, call('{"text": "attack'))
    assert (world.run("hi", way).result.final_output, world.sent) == ("No.", [])
    world = World(guarded, call('{"text": "attack", "text": "fine"}'))
    assert (world.run("hi", way).result.final_output, world.sent) == ("No.", [])
    world = World(guarded, call('{"text": '), said("Sorry."))
    assert (world.run("hi", way).result.final_output, world.sent) == ("Sorry.", [])


@WAYS
def test_a_blocked_result_gives_way(guarded: Guarded, way: str) -> None:
    world = World(guarded, call({"text": "x"}), said("Well."), result="an attack")
    assert world.run("send it", way).result.final_output == "Well."
    assert shown(world.model)[-1] == "No."
    assert world.model.calls[-1].input[-1]["call_id"] == "c1"


@WAYS
def test_handoffs_are_judged_and_so_are_the_models_behind_them(guarded: Guarded, way: str) -> None:
    class Why(BaseModel):
        why: str

    reasons: list[str] = []
    other: Agent[Any] = Agent(name="other")
    to_other = handoff(other, on_handoff=lambda _, given: reasons.append(given.why), input_type=Why)
    world = World(guarded, call({"why": "attack"}, "transfer_to_other"), handoffs=[to_other])
    assert (world.run("hi", way).result.final_output, reasons) == ("No.", [])
    world = World(guarded, call({"why": "darn"}, "transfer_to_other"), said("an attack"), handoffs=[to_other])
    assert (world.run("hi", way).result.final_output, reasons) == ("No.", ["dear"])


def test_history_that_may_not_pass_gives_way_and_the_run_goes_on(guarded: Guarded) -> None:
    world = World(guarded, said("Fine."))
    history = [
        {"role": "user", "content": "an attack"},
        {"role": "assistant", "content": "an attack, too"},
        {"type": "function_call", "id": "fc_1", "call_id": "c0", "name": "send", "arguments": '{"text": "attack"}'},
        {"type": "function_call_output", "call_id": "c0", "output": "attack"},
        {"role": "user", "content": "hello"},
    ]
    assert world.run(history).result.final_output == "Fine."
    assert shown(world.model) == ["No.", "No.", "{}", "No.", "hello"]
    assert "fc_1" not in repr(world.model.calls[-1].input)


def test_a_session_whose_input_was_blocked_can_be_used(guarded: Guarded) -> None:
    session = SQLiteSession("s")
    world = World(guarded, said("Fine."))
    assert world.run("an attack", session=session).result.final_output == "No."
    assert world.run("hello", session=session).result.final_output == "Fine."
    first, answer, last = shown(world.model)
    assert (first, answer[0]["text"], last) == ("No.", "No.", "hello")
    session.close()


def test_a_poisoned_definition_is_raised(guarded: Guarded) -> None:
    tool = FunctionTool(
        name="t", description="x",
        params_json_schema={"type": "object", "properties": {"a": {"description": "attack"}}},
        on_invoke_tool=lambda *_: None, strict_json_schema=False,
    )  # fmt: skip
    world = World(guarded, tools=[tool])
    with pytest.raises(GuardBlocked) as raised:
        world.run("hi")
    assert (raised.value.verdict.stage, world.model.calls) == ("tool_definition", ())


@WAYS
@pytest.mark.parametrize("stage", ["input", "output", "tool_input", "tool_output"])
def test_on_block_raises(guarded: Guarded, way: str, stage: Any) -> None:
    guards = AgentGuard(guarded.guard, on_block=OnBlock(**{stage: "raise"}))
    steps = {
        "input": [],
        "output": [said("attack")],
        "tool_input": [call({"text": "attack"})],
        "tool_output": [call({"text": "x"})],
    }[stage]
    world = World(guarded, *steps, result="attack", guards=guards)
    with pytest.raises(GuardBlocked) as raised:
        world.run("an attack" if stage == "input" else "hi", way, session=None)
    assert raised.value.verdict.stage == stage
    assert "attack" not in str(raised.value)


def test_a_block_is_not_tried_again(guarded: Guarded) -> None:
    guards = AgentGuard(guarded.guard, on_block=OnBlock(input="raise"))
    settings = ModelSettings(retry=ModelRetrySettings(max_retries=3, policy=lambda _: True))
    world = World(guarded, guards=guards, model_settings=settings)
    with pytest.raises(GuardBlocked):
        world.run("an attack")
    assert [text for _, text in guarded.seen].count("an attack") == 1


# --- rewrites


@WAYS
def test_rewrites_everywhere(guarded: Guarded, way: str) -> None:
    world = World(guarded, call({"text": "darn"}), said("oh darn"), result="darn!")
    given = [{"role": "user", "content": [{"type": "input_text", "text": "darn it"}]}]
    run = world.run(given, way)
    assert (run.result.final_output, world.sent) == ("oh dear", ["dear"])
    assert shown(world.model) == [[{"type": "input_text", "text": "dear it"}], '{"text": "dear"}', "dear!"]
    assert run.deltas == ("oh dear" if way == "streamed" else "")
    assert given[0]["content"][0]["text"] == "darn it"  # type: ignore[index]


@WAYS
def test_tokens_are_put_back(guarded: Guarded, way: str) -> None:
    def answering(one: Any) -> Any:
        text = one.input[0]["content"]
        token = text.removeprefix("I am ")
        return call({"text": f"to {token}"}) if len(one.input) == 1 else said(f"Hello {token}")

    world = World(guarded, ModelStep.respond(answering), ModelStep.respond(answering))
    run = world.run("I am ann@example.com", way)
    assert (run.result.final_output, world.sent) == ("Hello ann@example.com", ["to ann@example.com"])
    assert "ann@example.com" not in repr([one.input for one in world.model.calls])


def test_a_quarantine_is_explained(guarded: Guarded) -> None:
    world = World(guarded, call({"text": "x"}), said("Well."), result="click here")
    world.run("send it")
    first, last = world.model.calls
    assert first.system_instructions == "Be kind."
    assert last.system_instructions.startswith("Be kind.\n\n")
    assert shown(world.model)[-1].startswith("<quarantine-")


# --- final outputs with a type


class Answer(BaseModel):
    """A final output."""

    text: str
    more: list[str] = []


@WAYS
def test_structured_outputs(guarded: Guarded, way: str) -> None:
    def of(text: str) -> World:
        return World(guarded, said(text), output_type=Answer)

    assert of('{"text": "fine"}').run("hi", way).result.final_output == Answer(text="fine")
    assert of('{"text": "d\\u0061rn", "more": ["darn"]}').run("hi", way).result.final_output == Answer(
        text="dear", more=["dear"]
    )
    for hidden in ('{"text": "an attack"}', '{"text": "\\u0061ttack"}', '{"text": "attack", "text": "fine"}'):
        with pytest.raises(ModelRefusalError, match=r"No\.") as raised:
            of(hidden).run("hi", way)
        assert "ttack" not in str(raised.value)
    with pytest.raises(ModelRefusalError):
        World(guarded, output_type=Answer).run("an attack", way)


def test_a_refusal_can_be_handled(guarded: Guarded) -> None:
    world = World(guarded, said('{"text": "an attack"}'), output_type=Answer)
    handlers: Any = {"model_refusal": lambda refused: Answer(text=refused.error.refusal)}
    assert world.run("hi", error_handlers=handlers).result.final_output == Answer(text="No.")


def test_json_that_is_none_is_left_to_the_sdk(guarded: Guarded) -> None:
    with pytest.raises(ModelBehaviorError):
        World(guarded, said("{"), output_type=Answer).run("hi")


# --- who has to decide, and who it is for


@WAYS
@pytest.mark.parametrize("stage", ["input", "output", "tool_input", "tool_output"])
def test_pending_escalations(guarded: Guarded, way: str, stage: str) -> None:
    steps = {
        "input": [],
        "output": [said("poison")],
        "tool_input": [call({"text": "poison"})],
        "tool_output": [call({"text": "x"})],
    }[stage]
    world = World(guarded, *steps, result="poison")
    with pytest.raises(EscalationPending) as raised:
        world.run("poison" if stage == "input" else "hi", way)
    assert (raised.value.ticket, raised.value.verdict.stage) == ("t-1", stage)


def test_tenants_of_runs(guarded: Guarded) -> None:
    guards = AgentGuard(guarded.guard, tenant=lambda caller: caller.tenant)
    world = World(guarded, said("Hi."), guards=guards)
    assert world.run("darn", context=Caller("acme")).result.final_output == "Acme says no."
    assert world.run("darn", context=Caller()).result.final_output == "Hi."
    with pytest.raises(PolicyError):
        world.run("hi", context=Caller("nobody"))
    with pytest.raises(PolicyError):
        AgentGuard(guarded.guard, tenant="nobody")
    assert (
        World(guarded, guards=AgentGuard(guarded.guard, tenant="acme")).run("darn").result.final_output
        == "Acme says no."
    )


def test_tenants_of_runs_at_once(guarded: Guarded) -> None:
    guards = AgentGuard(guarded.guard, tenant=lambda caller: caller.tenant)
    world = World(guarded, *[said("Hi.")] * 4, guards=guards)
    config = guards.run_config(RunConfig(model_provider=Provider(world.model), tracing_disabled=True))

    async def both() -> list[Any]:
        callers = [Caller("acme"), Caller()] * 4
        return await asyncio.gather(
            *(Runner.run(world.agent, "darn", context=one, run_config=config) for one in callers)
        )

    assert [one.final_output for one in asyncio.run(both())] == ["Acme says no.", "Hi."] * 4


def test_a_model_that_knows_no_run_does_not_guess_its_tenant(guarded: Guarded) -> None:
    guards = AgentGuard(guarded.guard, tenant=lambda caller: caller.tenant)
    model = ScriptedModel([said("Hi.")])
    with pytest.raises(UnsupportedValueError, match="run_config"):
        ran(Agent(name="a", model=guards.model(model)), "hi", context=Caller("acme"))
    agent: Agent[Any] = Agent(name="a", model=AgentGuard(guarded.guard, tenant="acme").model(model))
    assert ran(agent, "darn").result.final_output == "Acme says no."
    assert model.calls == ()


def test_no_model_goes_around_the_guard(guarded: Guarded) -> None:
    guards, model = AgentGuard(guarded.guard), ScriptedModel([said("attack"), said("attack")])
    agent: Agent[Any] = Agent(name="a", model=model)
    with pytest.raises(UnsupportedValueError, match="a model of its own"):
        ran(agent, "hi", run_config=guards.run_config())
    assert model.calls == ()
    assert ran(agent, "hi", run_config=guards.run_config(RunConfig(model=model))).result.final_output == "No."
    own = agent.clone(model=guards.model(model))
    assert ran(own, "hi", run_config=guards.run_config()).result.final_output == "No."
    assert guards.model(own.model) is own.model  # type: ignore[arg-type]


def test_filters_of_the_application_are_asked_first(guarded: Guarded) -> None:
    def worse(data: Any) -> Any:
        data.model_data.input = [{"role": "user", "content": "an attack"}]
        return data.model_data

    async def later(data: Any) -> Any:
        return worse(data)

    for own in (worse, later):
        world = World(guarded)
        config = RunConfig(model_provider=Provider(world.model), call_model_input_filter=own)
        assert ran(world.agent, "hi", run_config=world.guards.run_config(config)).result.final_output == "No."
        assert config.call_model_input_filter is own


def test_a_run_that_is_not_told_of_is_not_taken_for_the_one_around_it(guarded: Guarded) -> None:
    guards = AgentGuard(guarded.guard, tenant=lambda caller: caller.tenant)
    inner: Agent[Any] = Agent(name="inner", model=guards.model(ScriptedModel([said("Hi.")])))
    errors: list[Exception] = []

    @function_tool
    async def ask() -> str:
        try:
            await Runner.run(inner, "hi", context=Caller(), run_config=RunConfig(tracing_disabled=True))
        except UnsupportedValueError as error:
            errors.append(error)
        return "asked"

    world = World(guarded, call({}, "ask"), said("Well."), guards=guards, tools=[ask])
    assert world.run("hi", context=Caller("acme")).result.final_output == "Well."
    assert ["run_config" in str(error) for error in errors] == [True]


@WAYS
def test_agents_that_are_tools_are_judged_for_the_same_tenant(guarded: Guarded, way: str) -> None:
    guards = AgentGuard(guarded.guard, tenant=lambda caller: caller.tenant)
    inner = Agent(name="inner", model="inner").as_tool("ask", "Asks.")
    world = World(guarded, call({"input": "darn"}, "ask"), said("Well."), guards=guards, tools=[inner])
    assert world.run("hi", way, context=Caller("acme")).result.final_output == "Well."
    assert shown(world.model)[-1] == "Acme says no."
    assert len(world.model.calls) == 2


def test_a_policy_that_interrupts(tmp_path: Path) -> None:
    folder = write_policies(tmp_path / "p", {"default.yaml": POLICY})

    def guard(**more: Any) -> Guard:
        effects = Effects(key=KEY, rewriters={"soften": Soften("dear")}, **more)
        return Guard.from_policies(folder, detector=KeywordDetector(WORDS), effects=effects)

    with pytest.raises(PolicyError):
        guard()
    guards = AgentGuard(guard(interrupt=InterruptEscalator()))
    model = ScriptedModel()
    run = ran(Agent(name="a"), "poison", run_config=guards.run_config(RunConfig(model=model)))
    assert (run.result.final_output, model.calls) == ("No.", ())


# --- what can't be read


def test_media(guarded: Guarded) -> None:
    given: Any = [
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "look"},
                {"type": "input_image", "image_url": "https://x/y.png"},
            ],
        }
    ]
    world = World(guarded)
    assert (world.run(given).result.final_output, world.model.calls) == ("No.", ())
    world = World(guarded, said("Nice."), guards=AgentGuard(guarded.guard, media="flag"))
    assert world.run(given).result.final_output == "Nice."
    assert world.model.calls[0].input == given
    given[0]["content"][0]["text"] = "an attack"
    assert world.run(given).result.final_output == "No."
    with pytest.raises(UnsupportedValueError):
        AgentGuard(guarded.guard, media="pass")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "item",
    [
        {"type": "item_reference", "id": "x"},
        {"type": "compaction", "id": "x", "encrypted_content": "x"},
        {"role": "stranger", "content": "x"},
        {"type": "message", "content": "x"},
    ],
)
def test_items_that_cannot_be_read(guarded: Guarded, item: Any) -> None:
    world = World(guarded)
    with pytest.raises(UnsupportedValueError):
        world.run([{"role": "user", "content": "hi"}, item])
    assert world.model.calls == ()


def test_reasoning_is_judged(guarded: Guarded) -> None:
    def thinking(text: str) -> list[Any]:
        thought = ResponseReasoningItem(
            id="r", type="reasoning", summary=[Summary(text=text, type="summary_text")],
            content=[Content(text="hm", type="reasoning_text")], encrypted_content="darn",
        )  # fmt: skip
        return [thought, *said("Fine.")]

    assert World(guarded, thinking("attack")).run("hi").result.final_output == "No."
    run = World(guarded, thinking("darn")).run("hi")
    [thought, _] = run.result.raw_responses[0].output
    assert (thought.summary[0].text, thought.content[0].text, thought.encrypted_content) == ("dear", "hm", None)
    thought = World(guarded, thinking("x")).run("hi").result.raw_responses[0].output[0]
    assert thought.encrypted_content == "darn"


# --- odd streams


def streaming(guarded: Guarded, *events: Any, output: Any = ()) -> World:
    return World(guarded, ModelStep.stream(list(events), output=list(output)))


async def events_of(output: list[Any]) -> list[Any]:
    model = ScriptedModel([output])
    arguments: Any = (None, "hi", ModelSettings(), [], None, [], None)
    none: Any = {"previous_response_id": None, "conversation_id": None, "prompt": None}
    from agents import ModelTracing

    return [one async for one in model.stream_response(*arguments[:-1], ModelTracing.DISABLED, **none)]


def test_a_model_that_streams_nothing(guarded: Guarded) -> None:
    class Silent(ScriptedModel):
        async def stream_response(self, *_: Any, **__: Any) -> AsyncIterator[Any]:  # type: ignore[override]
            return
            yield

    world = World(guarded)
    world.model = Silent()
    with pytest.raises(ModelBehaviorError):
        world.run("hi", "streamed")


def test_deltas_without_an_end_are_not_told(guarded: Guarded) -> None:
    begun = [one for one in asyncio.run(events_of(said("a secret attack"))) if one.type != "response.completed"]
    got: list[Any] = []

    async def run() -> None:
        class Broken(ScriptedModel):
            async def stream_response(self, *_: Any, **__: Any) -> AsyncIterator[Any]:  # type: ignore[override]
                for one in begun:
                    yield one

        config = AgentGuard(guarded.guard).run_config(RunConfig(model=Broken(), tracing_disabled=True))
        result = Runner.run_streamed(Agent(name="a"), "hi", run_config=config)
        async for event in result.stream_events():
            got.append(event)

    with pytest.raises(ModelBehaviorError):
        asyncio.run(run())
    assert "attack" not in repr(got)


def test_items_that_only_the_events_have_are_judged(guarded: Guarded) -> None:
    events = asyncio.run(events_of(said("an attack")))
    last = events[-1]
    assert isinstance(last, ResponseCompletedEvent)
    empty = last.model_copy(update={"response": last.response.model_copy(update={"output": []})})
    run = streaming(guarded, *events[:-1], empty).run("hi", "streamed")
    assert run.result.final_output == "No."
    assert "attack" not in repr(run.events)


@pytest.mark.parametrize("is_error", [False, True])
def test_a_stream_that_fails_tells_nothing_of_what_was_said(guarded: Guarded, is_error: bool) -> None:
    events = asyncio.run(events_of(said("an attack")))
    failed: Any = ResponseFailedEvent(response=events[-1].response, sequence_number=9, type="response.failed")
    if is_error:
        failed = ResponseErrorEvent(code="x", message="broken", sequence_number=9, type="error")
    got: list[Any] = []
    world = streaming(guarded, *events[:-1], failed)

    async def run() -> None:
        config = world.guards.run_config(RunConfig(model=world.model, tracing_disabled=True))
        result = Runner.run_streamed(world.agent, "hi", run_config=config)
        async for event in result.stream_events():
            got.append(event)

    with pytest.raises(ModelBehaviorError):
        asyncio.run(run())
    assert got
    assert "attack" not in repr(got)


# --- guardrails


def plain(guarded: Guarded, *steps: Any, guards: AgentGuard | None = None, result: Any = "fine", **more: Any) -> World:
    """An agent with the guardrails only."""
    guards = guards or AgentGuard(guarded.guard)
    world = World(guarded, *steps, guards=guards, **more)

    @function_tool(tool_input_guardrails=[guards.tool_input], tool_output_guardrails=[guards.tool_output])
    def send(text: str) -> Any:
        """Sends a text."""
        world.sent.append(text)
        return result

    world.agent = world.agent.clone(
        model=world.model, tools=[send], input_guardrails=[guards.input], output_guardrails=[guards.output]
    )
    return world


@WAYS
@pytest.mark.parametrize("given", ["an attack", "darn", "click me", [{"role": "user", "content": "an attack"}], "boom"])
def test_the_input_guardrail_comes_before_the_model(guarded: Guarded, way: str, given: Any) -> None:
    world = plain(guarded)
    with pytest.raises(InputGuardrailTripwireTriggered) as raised:
        ran(world.agent, given, way)
    assert world.model.calls == ()
    info = raised.value.guardrail_result.output.output_info
    assert (info["stage"], set(info)) == ("input", {"action", "stage", "rule", "message"})


@WAYS
def test_guardrails_let_pass_what_may(guarded: Guarded, way: str) -> None:
    world = plain(guarded, call({"text": "hello"}), said("Sent."))
    assert (ran(world.agent, "send it", way).result.final_output, world.sent) == ("Sent.", ["hello"])
    steps = {(step.stage, step.text): step for step in guarded.detector.seen}
    assert steps["input", "send it"].context == "Be kind."
    assert steps["output", "Sent."].context == "send it"
    for one in (steps["tool_input", "text: hello"], steps["tool_output", "fine"]):
        assert (one.tool.name, one.tool.description, one.context) == ("send", "Sends a text.", "send it")


@WAYS
@pytest.mark.parametrize("text", ["an attack", "oh darn"])
def test_the_output_guardrail(guarded: Guarded, way: str, text: str) -> None:
    with pytest.raises(OutputGuardrailTripwireTriggered):
        ran(plain(guarded, said(text)).agent, "hi", way)
    world = plain(guarded, said(json.dumps({"text": "x", "more": [text]})), output_type=Answer)
    with pytest.raises(OutputGuardrailTripwireTriggered):
        ran(world.agent, "hi", way)


@WAYS
@pytest.mark.parametrize("arguments", ['{"text": "attack"}', '{"text": "darn"}', '{"text": "attack'])
def test_tools_are_not_given_what_is_blocked(guarded: Guarded, way: str, arguments: str) -> None:
    world = plain(guarded, call(arguments), said("Well."))
    assert (ran(world.agent, "hi", way).result.final_output, world.sent) == ("Well.", [])
    raising = AgentGuard(guarded.guard, on_block=OnBlock(tool_input="raise"))
    world = plain(guarded, call(arguments), guards=raising)
    with pytest.raises(ToolInputGuardrailTripwireTriggered):
        ran(world.agent, "hi", way)
    assert world.sent == []


@WAYS
@pytest.mark.parametrize("result", ["an attack", "darn", "click here", {"a": ["attack"]}])
def test_what_tools_give_is_judged(guarded: Guarded, way: str, result: Any) -> None:
    world = plain(guarded, call({"text": "x"}), said("Well."), result=result)
    assert ran(world.agent, "hi", way).result.final_output == "Well."
    out = world.model.calls[-1].input[-1]["output"]
    assert not any(word in out for word in ("attack", "darn", "click"))
    raising = AgentGuard(guarded.guard, on_block=OnBlock(tool_output="raise"))
    with pytest.raises(ToolOutputGuardrailTripwireTriggered):
        ran(plain(guarded, call({"text": "x"}), guards=raising, result=result).agent, "hi", way)


@WAYS
def test_errors_of_guardrails(guarded: Guarded, way: str) -> None:
    guards = AgentGuard(guarded.guard, tenant=lambda caller: caller.tenant)
    with pytest.raises(EscalationPending):
        ran(plain(guarded).agent, "poison", way)
    with pytest.raises(EscalationPending):
        ran(plain(guarded, said("poison")).agent, "hi", way)
    with pytest.raises(UserError) as raised:  # The SDK's own idea, for whatever goes wrong about a tool.
        ran(plain(guarded, call({"text": "poison"})).agent, "hi", way)
    assert isinstance(raised.value.__cause__, EscalationPending)
    with pytest.raises(PolicyError):
        ran(plain(guarded, guards=guards).agent, "hi", way, context=Caller("nobody"))
    with pytest.raises(InputGuardrailTripwireTriggered):
        ran(plain(guarded, guards=guards).agent, "darn", way, context=Caller("acme"))
    with pytest.raises(UnsupportedValueError):
        ran(plain(guarded).agent, [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}], way)


def test_a_stream_shows_what_the_output_guardrail_blocks_in_the_end(guarded: Guarded) -> None:
    got: list[Any] = []

    async def run(world: World, config: RunConfig) -> None:
        config.tracing_disabled = True
        async for event in Runner.run_streamed(world.agent, "hi", run_config=config).stream_events():
            got.append(event)

    world = plain(guarded, said("an attack"))
    with pytest.raises(OutputGuardrailTripwireTriggered):
        asyncio.run(run(world, RunConfig()))
    assert "attack" in repr(got)
    got.clear()
    world = plain(guarded, said("an attack"))
    asyncio.run(run(world, world.guards.run_config(RunConfig(model=world.model))))
    assert "attack" not in repr(got)


def test_models_are_closed_and_advise(guarded: Guarded) -> None:
    class Closing(ScriptedModel):
        closed = 0

        async def close(self) -> None:
            self.closed += 1

    model = Closing()
    guarding = AgentGuard(guarded.guard).model(model)
    assert isinstance(guarding, GuardedModel)
    asyncio.run(guarding.close())
    assert model.closed == 1
