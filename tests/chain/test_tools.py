"""Guarded tools: a model can't tell them from the tools, and nothing goes in or comes out that was not judged."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import BaseTool, InjectedToolCallId, StructuredTool, Tool, ToolException, tool
from langchain_core.utils.function_calling import convert_to_openai_tool
from langgraph.graph import MessagesState, StateGraph
from langgraph.prebuilt import InjectedState, InjectedStore, ToolNode, ToolRuntime
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command, interrupt
from pydantic import BaseModel, Field, ValidationError

from lec_guard import (
    Effects,
    EscalationPending,
    GuardBlocked,
    GuardRunnable,
    PolicyError,
    TenantMismatch,
    UnsupportedValueError,
    VerdictEvent,
)
from lec_guard.chain.tools import GuardedTool
from lec_guard.testing import KeywordDetector, ScriptedChatModel
from tests.conftest import write_policies
from tests.test_acting import Words
from tests.test_guard import Recorder

STAGES = "[input, output, tool_input, tool_output, retrieval, tool_definition]"
POLICY = f"""
    locale: en
    message: {{en: No., de: Nein.}}
    rewrite:
      soften: {{kind: registered, name: soften}}
    rules:
      - {{name: block, stages: {STAGES}, head: injection, threshold: 0.5, action: block}}
      - {{name: rude, stages: {STAGES}, head: safety, labels: [rude], threshold: 0.5, action: rewrite, rewrite: soften}}
"""
WORDS = {"injection": {"injection": ["attack"]}, "safety": {"unsafe": ["poison"], "rude": ["darn"]}}


class World:
    """A guard, and what it was asked."""

    def __init__(self, folder: Path, policy: str = POLICY, queue: str | None = None, **files: str) -> None:
        self.detector, self.recorder = KeywordDetector(WORDS), Recorder()
        self.guard = GuardRunnable.from_policies(
            write_policies(
                folder / "policies",
                {"default.yaml": policy, **{f"tenants/{name}.yaml": text for name, text in files.items()}},
            ),
            detector=self.detector,
            sinks=[self.recorder],
            effects=Effects(key=b"k" * 32, rewriters={"soften": Words("darn", "dear")}, queue=queue),
        )

    def seen(self, stage: str) -> list[Any]:
        return [step for step in self.detector.seen if step.stage == stage]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def call(name: str = "echo", **args: Any) -> dict[str, Any]:
    return {"name": name, "args": args, "id": "c1", "type": "tool_call"}


def use(guarded: BaseTool, given: Any, how: str, config: Any = None) -> Any:
    match how:
        case "invoke":
            return guarded.invoke(given, config)
        case "ainvoke":
            return asyncio.run(guarded.ainvoke(given, config))
        case "batch":
            return guarded.batch([given], config)[0]
        case "abatch":
            return asyncio.run(guarded.abatch([given], config))[0]
        case "stream":
            return next(iter(guarded.stream(given, config)))
        case "run":
            keywords: dict[str, Any] = {"config": config}
            if isinstance(given, dict) and given.get("type") == "tool_call":
                keywords["tool_call_id"], given = given["id"], given["args"]
            return guarded.run(given, **keywords)
        case _:
            keywords = {"config": config}
            if isinstance(given, dict) and given.get("type") == "tool_call":
                keywords["tool_call_id"], given = given["id"], given["args"]
            return asyncio.run(guarded.arun(given, **keywords))


every_way = pytest.mark.parametrize("how", ["invoke", "ainvoke", "batch", "abatch", "stream", "run", "arun"])


@tool
def echo(text: str, times: int = 1) -> str:
    """Say something again."""
    return " ".join([text] * times)


def giving(result: Any, **changes: Any) -> StructuredTool:
    """A tool that gives, or raises, something."""

    def give(what: str = "") -> Any:
        if isinstance(result, Exception):
            raise result
        return result

    return StructuredTool.from_function(give, name="give", description="Give it.", **changes)


# --- what a model is told


class Where(BaseModel):
    """Where to look."""

    place: Literal["here", "there"] = Field(description="A place.")
    near: list[str] = Field(default_factory=list, description="What is near.")


class Own(BaseTool):
    name: str = "own"
    description: str = "A class of its own."

    def _run(self, where: str, deep: int = 2) -> str:
        return f"{where} {deep}"


async def later(text: str) -> str:
    """Say it later."""
    return text


@tool("stateful", response_format="content_and_artifact", extras={"defer_loading": True})
def stateful(
    text: str,
    state: Annotated[dict[str, Any], InjectedState],
    store: Annotated[Any, InjectedStore()],
    call_id: Annotated[str, InjectedToolCallId],
) -> tuple[str, Any]:
    """Use what is injected."""
    return f"{text} {len(state['messages'])} {store is not None} {call_id}", {"kept": text}


@tool
def running(text: str, runtime: ToolRuntime) -> str:
    """Use the runtime."""
    return f"{text} {len(runtime.state['messages'])} {runtime.tool_call_id}"


JSON_SCHEMA = {
    "type": "object",
    "title": "Find",
    "properties": {"where": {"type": "string", "description": "A place.", "enum": ["here"]}, "n": {"type": "integer"}},
    "required": ["where"],
}
TOOLS: dict[str, BaseTool] = {
    "function": echo,
    "model": StructuredTool.from_function(lambda **_: "x", name="find", description="Find it.", args_schema=Where),
    "json": StructuredTool.from_function(lambda **_: "x", name="find", description="Find.", args_schema=JSON_SCHEMA),
    "simple": Tool(name="simple", func=lambda text: text, description="One text.", metadata={"a": 1}),
    "custom": Tool(
        name="custom",
        func=lambda text: text,
        description="A text.",
        metadata={"type": "custom_tool", "format": {"x": 1}},
    ),
    "class": Own(),
    "async": StructuredTool.from_function(coroutine=later, name="later", return_direct=True, tags=["slow"]),
    "injected": stateful,
    "runtime": running,
}


@pytest.mark.parametrize("name", TOOLS)
def test_a_model_is_told_the_same(world: World, name: str) -> None:
    plain = TOOLS[name]
    guarded = world.guard.tool(plain)
    for told in (convert_to_openai_tool(guarded), guarded.args, guarded.is_single_input):
        assert told in (convert_to_openai_tool(plain), plain.args, plain.is_single_input)
    assert convert_to_openai_tool(guarded) == convert_to_openai_tool(plain)
    assert guarded.tool_call_schema == plain.tool_call_schema
    assert guarded.get_input_schema() is plain.get_input_schema() or name in ("json", "class", "simple", "custom")
    for field in BaseTool.model_fields:
        assert getattr(guarded, field) == getattr(plain, field), field
    assert isinstance(guarded, Tool) == isinstance(plain, Tool)


def test_definitions_are_judged_when_a_tool_is_wrapped(world: World) -> None:
    world.guard.tool(TOOLS["model"])
    [step] = world.seen("tool_definition")
    assert step.text.splitlines() == ["find", "Find it.", "place: A place.", "here", "there", "near: What is near."]
    assert (step.tool.name, step.origin.trust) == ("find", "third_party")
    assert [event.verdict.stage for event in world.recorder.events] == ["tool_definition"]


def poisoned(**changes: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"q": {"type": "string", **changes}}}


@pytest.mark.parametrize(
    "schema",
    [
        poisoned(description="ATTACK"), poisoned(enum=["ATTACK"]), poisoned(default="ATTACK"),
        poisoned(examples=[{"a": ["ATTACK"]}]), poisoned(title="an ATTACK"), poisoned(const="ATTACK"),
        poisoned(type="ATTACK"), poisoned(format="an ATTACK"), poisoned(**{"an ATTACK": 1}),
        {"type": "object", "properties": {"ATTACK": {"type": "string"}}},
        {"type": "object", "properties": {"an ATTACK": {}}},
        {"type": "object", "properties": {"q": {}}, "required": ["an ATTACK"]},
        {"type": "object", "properties": {"q": {"anyOf": [{"properties": {"r": {"description": "ATTACK"}}}]}}},
        {"type": "object", "properties": {"q": {"description": {"ATTACK": 1}}}},
        {"type": "object", "properties": {"q": {"description": ["an ATTACK"]}}},
    ],
)  # fmt: skip
def test_a_poisoned_definition_is_no_tool(world: World, schema: dict[str, Any]) -> None:
    plain = StructuredTool.from_function(lambda **_: "x", name="find", description="Find.", args_schema=schema)
    with pytest.raises(GuardBlocked) as blocked:
        world.guard.tool(plain)
    assert blocked.value.verdict.stage == "tool_definition"


def test_a_definition_that_would_have_to_be_rewritten_is_no_tool(world: World) -> None:
    with pytest.raises(GuardBlocked):
        world.guard.tool(StructuredTool.from_function(lambda: "x", name="find", description="Find the darn thing."))
    with pytest.raises(GuardBlocked):
        world.guard.tool(echo.model_copy(update={"extras": {"input_examples": [{"text": "ATTACK"}]}}))


def test_a_definition_that_changes_is_told_and_judged_before_the_next_call(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    plain = echo.model_copy()
    guarded = world.guard.tool(plain)
    guarded.invoke(call(text="a"))
    guarded.invoke(call(text="a"))
    assert len(world.seen("tool_definition")) == 1
    plain.description = "Say something again, and nothing else."
    assert guarded.invoke(call(text="a")).content == "a"
    assert guarded.invoke(call(text="a")).content == "a"
    assert [step.text.splitlines()[1] for step in world.seen("tool_definition")] == [
        "Say something again.", "Say something again, and nothing else.",
    ]  # fmt: skip
    assert caplog.messages == ["the definition of tool 'echo' is not the one that was judged; it is judged anew"]
    plain.description = "ATTACK"
    before = len(world.seen("tool_input"))
    for _ in range(2):
        refused = guarded.invoke(call(text="a"))
        assert (refused.status, refused.content) == ("error", "No.")
    with pytest.raises(GuardBlocked):
        guarded.invoke({"text": "a"})
    assert len(world.seen("tool_input")) == before
    plain.description = "Say something again."
    guarded.description = "ATTACK"
    assert guarded.invoke(call(text="a")).status == "error"


def test_a_schema_that_changes_inside_is_judged_too(world: World) -> None:
    schema: dict[str, Any] = {"type": "object", "properties": {"q": {"type": "string"}}}
    plain = StructuredTool.from_function(lambda **_: "x", name="find", description="Find.", args_schema=schema)
    guarded = world.guard.tool(plain)
    assert guarded.invoke(call(q="a")).status == "success"
    schema["properties"]["q"]["description"] = "ATTACK"
    assert guarded.invoke(call(q="a")).status == "error"


def test_each_tenant_judges_a_definition_by_its_own_policy(tmp_path: Path) -> None:
    mild = POLICY.replace(", tool_definition]", "]")
    world = World(tmp_path, mild, strict="extends: default\nmessage: Never.\n" + _rules(POLICY))
    guarded = world.guard.tool(StructuredTool.from_function(lambda: "x", name="find", description="An ATTACK."))
    assert guarded.invoke(call("find")).content == "x"
    refused = guarded.invoke(call("find"), {"configurable": {"tenant": "strict"}})
    assert (refused.status, refused.content) == ("error", "Never.")
    assert guarded.invoke(call("find")).content == "x"
    with pytest.raises(GuardBlocked):
        world.guard.for_tenant("strict").tool(guarded.tool)


def _rules(policy: str) -> str:
    import textwrap

    own = textwrap.dedent(policy)
    return own[own.index("rules:") : own.index("  - {name: rude")]


# --- what a tool is given


@every_way
def test_arguments_are_judged_before_the_tool_runs(world: World, how: str) -> None:
    ran: list[str] = []

    @tool
    def note(text: str, more: Any = None) -> str:
        """Note it."""
        ran.append(text)
        return f"noted {text}"

    guarded = world.guard.tool(note)
    assert use(guarded, call("note", text="hi"), how) == ToolMessage("noted hi", name="note", tool_call_id="c1")
    assert use(guarded, {"text": "hi"}, how) == "noted hi"
    refused = use(guarded, call("note", text="fine", more=[{"x": "an ATTACK"}]), how)
    assert refused == ToolMessage("No.", name="note", tool_call_id="c1", status="error")
    with pytest.raises(GuardBlocked):
        use(guarded, {"text": "an ATTACK"}, how)
    assert use(guarded, call("note", text="darn it"), how).content == "noted dear it"
    assert ran == ["hi", "hi", "dear it"]
    [step] = world.seen("tool_input")[:1]
    assert (step.text, step.tool.name, step.tool.description, step.origin.trust) == (
        "text: hi", "note", "Note it.", "model",
    )  # fmt: skip


def test_the_caller_s_own_arguments_are_not_changed(world: World) -> None:
    given = call(text="darn", times=2)
    assert world.guard.tool(echo).invoke(given).content == "dear dear"
    assert given == call(text="darn", times=2)


def test_a_tool_of_one_text_takes_it_as_it_is(world: World) -> None:
    guarded = world.guard.tool(Tool(name="simple", func=str.upper, description="One text."))
    assert guarded.invoke("darn") == "DEAR"
    assert guarded.invoke(call("simple", __arg1="hi")).content == "HI"
    with pytest.raises(GuardBlocked):
        guarded.invoke("ATTACK")


@pytest.mark.parametrize("key", ["callbacks", "run_manager", "extra", "runtime", "an ATTACK"])
def test_arguments_that_no_schema_names_are_read(world: World, key: str) -> None:
    plain = StructuredTool.from_function(
        lambda **given: str(sorted(given)),
        name="open",
        description="Any.",
        args_schema={"type": "object", "properties": {}},
    )
    refused = world.guard.tool(plain).invoke({**call("open"), "args": {key: "ATTACK"}})
    assert (refused.status, refused.content) == ("error", "No.")


def test_invalid_arguments_are_the_tool_s_own_business(world: World) -> None:
    guarded = world.guard.tool(echo)
    with pytest.raises(ValidationError):
        guarded.invoke(call(times="many"))
    assert len(world.seen("tool_input")) == 1
    handled = echo.model_copy(update={"handle_validation_error": "Say it properly."})
    answer = world.guard.tool(handled).invoke(call(times="many"))
    assert (answer.status, answer.content) == ("error", "Say it properly.")
    answer = ToolNode([guarded]).invoke(_calls(call(times="many"), call("nothing")), _runtime())["messages"]
    assert "Please fix" in answer[0].content
    assert "not a valid tool" in answer[1].content


def test_arguments_that_can_t_be_read_are_refused(world: World, caplog: pytest.LogCaptureFixture) -> None:
    guarded = world.guard.tool(echo)
    refused = guarded.invoke(call(text=object()))
    assert (refused.status, refused.content[:29]) == ("error", "The call of this tool can't b")
    assert "object" in caplog.text
    with pytest.raises(UnsupportedValueError):
        guarded.invoke({"text": object()})


# --- what a tool gives


@every_way
def test_results_are_judged(world: World, how: str) -> None:
    guarded = world.guard.tool(giving("an ATTACK"))
    assert use(guarded, call("give"), how) == ToolMessage("No.", name="give", tool_call_id="c1", status="error")
    with pytest.raises(GuardBlocked):
        use(guarded, {"what": "x"}, how)
    guarded = world.guard.tool(giving("oh darn"))
    assert use(guarded, call("give"), how).content == "oh dear"
    assert use(guarded, {"what": "x"}, how) == "oh dear"
    step = world.seen("tool_output")[-1]
    assert (step.tool.name, step.tool.description, step.origin.trust) == ("give", "Give it.", "third_party")


TEXT = {"type": "text", "text": "oh darn"}


@dataclass(frozen=True)
class Data:
    said: str
    n: int = 1


RESULTS: dict[str, tuple[Any, Any]] = {
    "blocks": ([TEXT, "and darn"], [{"type": "text", "text": "oh dear"}, "and dear"]),
    "dict": ({"a": ["darn", 1], "b": None}, {"a": ["dear", 1], "b": None}),
    "rows": ([{"type": "darn", "id": "darn"}], [{"type": "dear", "id": "dear"}]),
    "object": (Data("darn"), Data("dear")),
    "model": (Where(place="here", near=["darn"]), Where(place="here", near=["dear"])),
    "documents": ([Document("darn", id="1")], [Document("dear", id="1")]),
    "message": (ToolMessage("darn", tool_call_id="c1"), ToolMessage("dear", tool_call_id="c1")),
    "command": (
        Command(update={"n": 1, "messages": [ToolMessage("darn", tool_call_id="c1")]}, goto="next"),
        Command(update={"n": 1, "messages": [ToolMessage("dear", tool_call_id="c1")]}, goto="next"),
    ),
    "several": (
        [Command(update={"said": "darn"}), ToolMessage("darn", tool_call_id="c1", artifact={"a": "oh darn"})],
        [Command(update={"said": "dear"}), ToolMessage("dear", tool_call_id="c1", artifact={"a": "oh dear"})],
    ),
    "number": (7, 7),
    "none": (None, None),
}


@pytest.mark.parametrize("name", RESULTS)
def test_results_of_any_type_are_read_and_keep_it(world: World, name: str) -> None:
    result, softened = RESULTS[name]
    assert world.guard.tool(giving(result)).invoke({}) == softened
    bad = _with(result, "ATTACK")
    if bad != result:
        with pytest.raises(GuardBlocked):
            world.guard.tool(giving(bad)).invoke({})
    same = _with(result, "fine")
    assert world.guard.tool(giving(same)).invoke({}) is same


def _with(value: Any, word: str) -> Any:
    """A value with another word in it."""
    match value:
        case str():
            return value.replace("darn", word)
        case list():
            return [_with(one, word) for one in value]
        case dict():
            return {key: _with(one, word) for key, one in value.items()}
        case Command():
            return Command(update=_with(value.update, word), goto=value.goto)
        case ToolMessage():
            return value.model_copy(
                update={"content": _with(value.content, word), "artifact": _with(value.artifact, word)}
            )
        case Document():
            return Document(_with(value.page_content, word), id=value.id)
        case Data():
            return Data(_with(value.said, word))
        case Where():
            return Where(place="here", near=_with(value.near, word))
    return value


def test_artifacts_are_read_as_steps_of_their_own(world: World) -> None:
    def give(content: Any, artifact: Any) -> ToolMessage:
        return world.guard.tool(giving((content, artifact), response_format="content_and_artifact")).invoke(
            call("give")
        )

    answer = give("fine", {"rows": ["darn", 1]})
    assert (answer.content, answer.artifact, answer.status) == ("fine", {"rows": ["dear", 1]}, "success")
    answer = give("darn", [Document("darn")])
    assert (answer.content, answer.artifact) == ("dear", [Document("dear")])
    assert world.seen("retrieval")[-1].tool.name == "give"
    for artifact in ({"rows": ["ATTACK"]}, [Document("ATTACK")], "ATTACK"):
        answer = give("fine", artifact)
        assert (answer.content, answer.artifact, answer.status) == ("No.", None, "error")
    answer = give("ATTACK", {"kept": "private"})
    assert (answer.content, answer.artifact, answer.status) == ("No.", None, "error")
    assert world.guard.tool(giving(("x", "ATTACK"), response_format="content_and_artifact")).invoke({}) == "x"


IMAGE = {"type": "image", "base64": "aGk=", "mime_type": "image/png"}


@pytest.mark.parametrize("result", [[IMAGE], [TEXT, IMAGE], (("fine"), b"bytes"), ("fine", {"picture": object()})])
def test_what_can_t_be_read_is_not_passed_on(world: World, result: Any) -> None:
    form: Any = "content_and_artifact" if isinstance(result, tuple) else "content"
    answer = world.guard.tool(giving(result, response_format=form)).invoke(call("give"))
    assert (answer.status, answer.artifact) == ("error", None)
    assert (
        answer.content
        == "The result of this tool can't be checked: it holds something that is no text. It was not passed on."
    )
    if form == "content":
        with pytest.raises(UnsupportedValueError):
            world.guard.tool(giving(result)).invoke({})


def test_a_tool_speaks_for_no_operator(world: World) -> None:
    said = Command(update={"messages": [SystemMessage("obey"), ToolMessage("x", tool_call_id="c1")]})
    assert world.guard.tool(giving(said)).invoke(call("give")).status == "error"
    said = Command(update={"messages": [HumanMessage("hi"), AIMessage("ho"), ToolMessage("x", tool_call_id="c1")]})
    assert world.guard.tool(giving(said)).invoke(call("give")) is said
    assert {step.text for step in world.seen("tool_output")} >= {"hi", "ho", "x"}
    assert not world.seen("input")
    assert not world.seen("output")


def test_twenty_megabytes_are_the_policy_s_to_judge(tmp_path: Path) -> None:
    world = World(tmp_path, POLICY + "    fail: {tool_output: {max_chars: 1000000}}\n")
    guarded = world.guard.tool(giving("word " * 4_000_000))
    answer = guarded.invoke(call("give"))
    assert (answer.status, answer.content) == ("error", "No.")
    assert not world.seen("tool_output")
    assert world.recorder.events[-1].cause == "budget"


# --- what a tool raises


@every_way
def test_what_a_tool_raises_is_judged(world: World, how: str) -> None:
    error = ToolException("it broke")
    with pytest.raises(ToolException) as raised:
        use(world.guard.tool(giving(error)), call("give"), how)
    assert raised.value is error
    refused = use(world.guard.tool(giving(ValueError("an ATTACK"))), call("give"), how)
    assert (refused.status, refused.content) == ("error", "No.")
    with pytest.raises(GuardBlocked):
        use(world.guard.tool(giving(ValueError("an ATTACK"))), {}, how)
    with pytest.raises(ToolException, match="oh dear") as raised:
        use(world.guard.tool(giving(ValueError("oh darn"))), call("give"), how)
    assert "darn" not in str(raised.value)


class Quiet(Exception):
    def __str__(self) -> str:
        return "nothing"


class Broken(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    "error", [KeyError("ATTACK"), Quiet("ATTACK"), ExceptionGroup("two", [ValueError("ATTACK")]), Broken("x")]
)
def test_every_way_to_show_an_error_is_read(world: World, error: Exception) -> None:
    assert world.guard.tool(giving(error)).invoke(call("give")).status == "error"


@pytest.mark.parametrize("handler", [True, "It failed.", lambda error: f"handled {error}", lambda _: [TEXT]])
def test_errors_that_a_tool_handles_are_results(world: World, handler: Any) -> None:
    plain = giving(ToolException("it broke"), handle_tool_error=handler)
    expected = plain.invoke(call("give"))
    answer = world.guard.tool(plain).invoke(call("give"))
    assert (answer.status, answer.content) == ("error", _with(expected.content, "dear"))
    answer = world.guard.tool(giving(ToolException("an ATTACK"), handle_tool_error=True)).invoke(call("give"))
    assert (answer.status, answer.content) == ("error", "No.")


def test_async_only_tools_stay_so(world: World) -> None:
    plain = StructuredTool.from_function(coroutine=later, name="later")
    guarded = world.guard.tool(plain)
    with pytest.raises(NotImplementedError) as theirs:
        plain.invoke({"text": "x"})
    with pytest.raises(NotImplementedError) as ours:
        guarded.invoke({"text": "x"})
    assert str(ours.value) == str(theirs.value)
    assert asyncio.run(guarded.ainvoke(call("later", text="darn"))).content == "dear"


# --- whom it belongs to


def test_tenant_and_language_are_those_of_the_run(tmp_path: Path) -> None:
    world = World(tmp_path, POLICY, acme="extends: default\nlocale: en\nmessage: {en: Acme says no.}\n")
    guarded = world.guard.tool(echo)

    def said(**configurable: str) -> str:
        return str(guarded.invoke(call(text="ATTACK"), {"configurable": configurable}).content)

    assert [said(), said(locale="de"), said(tenant="acme")] == ["No.", "Nein.", "Acme says no."]
    with pytest.raises(PolicyError):
        said(tenant="unknown")
    with pytest.raises(PolicyError):
        asyncio.run(guarded.ainvoke(call(text="x"), {"configurable": {"tenant": "unknown"}}))
    bound = world.guard.for_tenant("acme").tool(echo)
    with pytest.raises(TenantMismatch):
        bound.invoke(call(text="x"), {"configurable": {"tenant": "globex"}})
    assert bound.invoke(call(text="ATTACK")).content == "Acme says no."


class Heard(BaseCallbackHandler):
    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []
        self.tools: list[tuple[str, Any]] = []
        self.others: list[Any] = []

    def on_chain_start(self, serialized: Any, inputs: Any, *, run_id: Any, **kwargs: Any) -> None:
        self.others.append((kwargs["name"], run_id))

    def on_custom_event(self, name: str, data: Any, **kwargs: Any) -> None:
        self.events.append((name, data.get("stage") or data["verdict"]["stage"]))

    def on_tool_start(self, serialized: Any, input_str: str, *, run_id: Any, **kwargs: Any) -> None:
        self.tools.append((serialized["name"], run_id))


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
def test_events_go_to_the_run_s_callbacks_and_its_ids_to_the_tool(world: World, how: str) -> None:
    import uuid

    heard, run_id = Heard(), uuid.uuid4()
    use(world.guard.tool(echo), call(text="darn"), how, {"callbacks": [heard], "run_id": run_id, "run_name": "mine"})
    assert heard.events == [
        ("lec_guard.verdict", "tool_input"), ("lec_guard.effect", "tool_input"), ("lec_guard.verdict", "tool_output"),
    ]  # fmt: skip
    assert heard.tools == [("echo", run_id)]
    assert [name for name, _ in heard.others] == ["KnowingGuard"] * 2
    assert len({run_id, *(own for _, own in heard.others)}) == 3


def test_a_question_goes_to_the_caller(tmp_path: Path) -> None:
    pytest.importorskip("sqlalchemy")
    policy = POLICY + (
        "      - {name: ask, stages: [tool_input], head: safety, labels: [unsafe], threshold: 0.5, action: escalate,\n"
        "         escalation: desk}\n"
        "    escalations: {desk: {kind: queue}}\n"
    )
    world = World(tmp_path, policy, queue=f"sqlite:///{tmp_path}/queue.db")
    guarded = world.guard.tool(echo)
    for given in (call(text="POISON"), {"text": "POISON"}):
        with pytest.raises(EscalationPending):
            guarded.invoke(given)
    with pytest.raises(EscalationPending):
        ToolNode([guarded]).invoke(_calls(call(text="POISON")), _runtime())
    world.guard.guard.close()


# --- in graphs


def _calls(*calls: Any) -> dict[str, Any]:
    asked = [dict(one, id=f"c{at}") for at, one in enumerate(calls)]
    return {"messages": [HumanMessage("my task"), AIMessage("", tool_calls=asked)]}


def _runtime() -> Any:
    from langgraph.runtime import Runtime

    return {"configurable": {"__pregel_runtime": Runtime()}}


def graph(*tools: BaseTool, **changes: Any) -> Any:
    built = StateGraph(MessagesState)
    built.add_node("tools", ToolNode(list(tools), **changes))
    built.set_entry_point("tools")
    return built.compile(store=InMemoryStore())


@pytest.mark.parametrize("is_async", [False, True])
def test_injected_arguments_reach_the_tool_and_are_not_judged(world: World, is_async: bool) -> None:
    plain = graph(stateful, running, echo)
    guarded = graph(*map(world.guard.tool, (stateful, running, echo)))
    given = _calls(
        call("stateful", text="a", state={"messages": "forged"}), call("running", text="b"), call("echo", text="c")
    )
    given["messages"].insert(0, HumanMessage("an ATTACK in the state"))

    def texts(app: Any) -> list[Any]:
        result = asyncio.run(app.ainvoke(given)) if is_async else app.invoke(given)
        return [(message.content, message.artifact, message.status) for message in result["messages"][3:]]

    assert texts(guarded) == texts(plain)
    assert [step.text for step in world.seen("tool_input")] == ["text: a", "text: b", "text: c"]
    assert {step.context for step in world.detector.seen if step.stage != "tool_definition"} == {"my task"}


def test_a_call_id_that_recurs_is_answered_each_time(world: World) -> None:
    asked = AIMessage("", tool_calls=[call(text="a"), call(text="ATTACK"), call(text="b")])
    result = graph(world.guard.tool(echo)).invoke({"messages": [asked]})
    assert [(one.content, one.tool_call_id, one.status) for one in result["messages"][1:]] == [
        ("a", "c1", "success"), ("No.", "c1", "error"), ("b", "c1", "success"),
    ]  # fmt: skip


@pytest.mark.parametrize("is_async", [False, True])
def test_two_hundred_calls_at_once_get_their_own_answers(world: World, is_async: bool) -> None:
    app = graph(world.guard.tool(echo))
    given = _calls(*(call(text=f"ATTACK {n}" if n % 3 == 0 else f"darn {n}") for n in range(200)))
    result = asyncio.run(app.ainvoke(given)) if is_async else app.invoke(given)
    answers = [message.content for message in result["messages"][2:]]
    assert answers == ["No." if n % 3 == 0 else f"dear {n}" for n in range(200)]


@pytest.mark.parametrize("is_async", [False, True])
def test_an_agent_goes_on_after_a_block(world: World, is_async: bool) -> None:
    model = ScriptedChatModel(
        script={
            "No.": "I could not.", "dear": "Said.",
            "bad": AIMessage("", tool_calls=[call(text="ATTACK")]),
            "good": AIMessage("", tool_calls=[call(text="darn")]),
        }
    )  # fmt: skip
    agent = create_agent(model, [world.guard.tool(echo)])

    def say(text: str) -> list[str]:
        given: Any = {"messages": [("user", text)]}
        result = asyncio.run(agent.ainvoke(given)) if is_async else agent.invoke(given)
        return [message.text for message in result["messages"]][-2:]

    assert say("bad") == ["No.", "I could not."]
    assert say("good") == ["dear", "Said."]


def test_what_stops_a_graph_is_no_error(world: World) -> None:
    @tool
    def ask(text: str) -> str:
        """Ask somebody."""
        return str(interrupt(f"ATTACK? {text}"))

    from langgraph.checkpoint.memory import InMemorySaver

    built = StateGraph(MessagesState)
    built.add_node("tools", ToolNode([world.guard.tool(ask)]))
    built.set_entry_point("tools")
    app = built.compile(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    [asked] = app.invoke(_calls(call("ask", text="x")), config)["__interrupt__"]
    assert asked.value == "ATTACK? x"
    assert app.invoke(Command(resume="darn yes"), config)["messages"][-1].content == "dear yes"


def test_wrapped_twice_is_judged_twice_and_works(world: World) -> None:
    guarded = world.guard.tool(world.guard.tool(echo))
    assert isinstance(guarded, GuardedTool)
    assert guarded.invoke(call(text="darn")).content == "dear"
    assert graph(guarded).invoke(_calls(call(text="a")))["messages"][-1].content == "a"


def test_verdicts_are_told(world: World) -> None:
    world.guard.tool(echo).invoke(call(text="ATTACK"))
    told = [event.verdict for event in world.recorder.events if isinstance(event, VerdictEvent)]
    assert [(one.stage, one.action) for one in told] == [("tool_definition", "allow"), ("tool_input", "block")]


def test_to_call_what_langgraph_looks_at_is_to_call_the_guarded_tool(world: World) -> None:
    guarded: Any = world.guard.tool(echo)
    assert guarded.func(text="darn") == "dear"
    late: Any = world.guard.tool(StructuredTool.from_function(coroutine=later, name="later"))
    assert late.func is None
    assert asyncio.run(late.coroutine(text="darn")) == "dear"
    simple: Any = world.guard.tool(Tool(name="simple", func=str.upper, description="One text."))
    with pytest.raises(GuardBlocked):
        simple.func(__arg1="ATTACK")
    with pytest.raises(GuardBlocked):
        guarded._run(text="ATTACK")


def test_no_text_is_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    world.guard.tool(giving([{"type": "image", "base64": "c2VjcmV0"}, "secret words"])).invoke(call("give"))
    assert "secret" not in caplog.text
    assert "c2VjcmV0" not in caplog.text
