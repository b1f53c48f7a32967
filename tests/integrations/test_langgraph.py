"""Interrupts: who is asked decides, about exactly what was asked, and neither model nor tools run twice."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any, TypedDict

import pytest
from langchain.agents.middleware import AgentMiddleware
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import GraphBubbleUp
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command
from lec_guard_integrations.langgraph import InterruptEscalator

from lec_guard import Case, Effects, EscalationResolved, Guard, Reply, Step
from lec_guard.testing import KeywordDetector
from tests.conftest import write_policies
from tests.integrations.agents import KEY, POLICY, WORDS, World, asked, calling, is_whole, texts

BOTH = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
PAY = {"please": calling({"to": "poison", "text": "hi"}), "Sent": "Done."}


def resolved(world: World) -> list[EscalationResolved]:
    return [event for event in world.recorder.events if isinstance(event, EscalationResolved)]


def test_it_lets_interrupts_pass_and_says_that_it_reruns():
    assert InterruptEscalator.passes == (GraphBubbleUp,)
    assert InterruptEscalator.reruns


# --- arguments of tools


@BOTH
def test_a_call_that_is_asked_about_waits_before_any_tool_runs(tmp_path: Path, is_async: bool):
    world = World(tmp_path, PAY, is_async=is_async)
    question = asked(world.say("please"))
    assert (world.sent, len(world.model.calls)) == ([], 1)
    assert json.loads(json.dumps(question)) == question
    assert question == {
        "type": "lec_guard.escalation",
        "key": question["key"],
        "section": "boss",
        "stage": "tool_input",
        "tool": "send",
        "tenant": None,
        "policy": "default",
        "policy_version": question["policy_version"],
        "rule": "ask",
        "matched": ["ask"],
        "scores": question["scores"],
        "spans": [],
        "text": "to: poison\ntext: hi",
        "context": "please",
        "message": "No.",
        "decisions": ["allow", "edit", "block"],
    }
    assert question["scores"]["safety"] == {"unsafe": 1.0, "rude": 0.0}
    assert len(question["key"]) == 32


@BOTH
def test_a_call_that_is_allowed_runs_once(tmp_path: Path, is_async: bool):
    world = World(
        tmp_path,
        PAY,
        is_async=is_async,
        files={"default.yaml": POLICY.replace("[input, output, tool_input, tool_output]", "[tool_input]")},
    )
    result = world.answer(asked(world.say("please")), "allow", by="ana", reason="fine")
    assert world.sent == [{"to": "poison", "text": "hi"}]
    assert len(world.model.calls) == 2
    assert "__interrupt__" not in result
    assert texts(result) == ["please", "", "Sent to poison.", "Done."]
    [event] = resolved(world)
    assert (event.resolution, event.follows, event.by) == ("allow", "allow", "ana")


@BOTH
def test_a_call_that_is_edited_runs_as_edited(tmp_path: Path, is_async: bool):
    world = World(tmp_path, PAY, is_async=is_async)
    before = world.say("please")
    result = world.answer(asked(before), "edit", text="to: bob\ntext: hi")
    assert world.sent == [{"to": "bob", "text": "hi"}]
    assert len(world.model.calls) == 2
    answer, was = result["messages"][1], before["messages"][1]
    assert answer.tool_calls == [{"name": "send", "args": {"to": "bob", "text": "hi"}, "id": "c0", "type": "tool_call"}]
    assert (answer.id, answer.usage_metadata) == (was.id, was.usage_metadata)


@BOTH
@pytest.mark.parametrize(
    "text", ["to: attack\ntext: hi", "to: more poison\ntext: hi", "from: bob\ntext: hi", "to: bob\ntext: hi\ncc: eve"]
)
def test_an_edit_is_judged_too_and_must_be_one_of_arguments(tmp_path: Path, text: str, is_async: bool):
    world = World(tmp_path, PAY, is_async=is_async)
    result = world.answer(asked(world.say("please")), "edit", text=text)
    assert world.sent == []
    assert result["messages"][2].status == "error"
    assert is_whole(result["messages"])


@BOTH
def test_a_call_that_is_blocked_is_answered_with_an_error_and_the_agent_goes_on(tmp_path: Path, is_async: bool):
    world = World(tmp_path, PAY, is_async=is_async)
    result = world.answer(asked(world.say("please")), "block", by="ana")
    assert world.sent == []
    told = result["messages"][2]
    assert isinstance(told, ToolMessage)
    assert (told.text, told.status, told.tool_call_id, told.name) == ("No.", "error", "c0", "send")
    assert texts(result)[3:] == ["Understood."]
    assert len(world.model.calls) == 2


NO_ANSWERS: dict[str, Any] = {
    "no key": {"decision": "allow"},
    "another key": {"key": "0" * 32, "decision": "allow"},
    "a key that is no str": {"key": 1, "decision": "allow"},
    "a key beyond ASCII": {"key": "é" * 32, "decision": "allow"},
    "no decision": {"key": ...},
    "an unknown decision": {"key": ..., "decision": "approve"},
    "a decision that is no str": {"key": ..., "decision": ["allow"]},
    "an edit without text": {"key": ..., "decision": "edit"},
    "an edit with another type": {"key": ..., "decision": "edit", "text": {"to": "bob"}},
    "a text that is not asked for": {"key": ..., "decision": "allow", "text": "to: bob\ntext: hi"},
    "a key that means nothing": {"key": ..., "decision": "allow", "edits": []},
    "somebody of another type": {"key": ..., "decision": "allow", "by": 7},
    "somebody with a long name": {"key": ..., "decision": "allow", "by": "x" * 201},
    "a str": "allow",
    "true": True,
    "a list": [{"decision": "allow"}],
    "what LangChain's own middleware takes": {"decisions": [{"type": "approve"}]},
}


@BOTH
@pytest.mark.parametrize("what", NO_ANSWERS)
def test_an_answer_that_is_none_blocks(tmp_path: Path, what: str, is_async: bool):
    world = World(tmp_path, PAY, is_async=is_async)
    key, answer = asked(world.say("please"))["key"], NO_ANSWERS[what]
    if isinstance(answer, dict) and answer.get("key") is ...:
        answer = {**answer, "key": key}
    result = world.run(Command(resume=answer))
    assert world.sent == []
    assert result["messages"][2].status == "error"
    [event] = resolved(world)
    assert (event.resolution, event.follows, event.failure) == ("error", "block", "ValueError")


def test_where_the_policy_says_so_an_answer_that_is_none_allows(tmp_path: Path):
    policy = POLICY.replace("{kind: interrupt}", "{kind: interrupt, on_error: allow}")
    policy = policy.replace("[input, output, tool_input, tool_output]", "[tool_input]")
    world = World(tmp_path, PAY, files={"default.yaml": policy})
    world.say("please")
    world.run(Command(resume="whatever"))
    assert len(world.sent) == 1


@BOTH
def test_an_answer_counts_once(tmp_path: Path, is_async: bool):
    world = World(tmp_path, PAY, is_async=is_async)
    first = asked(world.say("please"))
    # The call was allowed; its result is asked about, too. The first answer is none to that.
    second = asked(world.answer(first, "allow"))
    assert (second["stage"], second["key"] != first["key"]) == ("tool_output", True)
    result = world.answer(first, "allow")
    assert result["messages"][2].text == "No."
    assert len(world.sent) == 1
    # There is nothing left to answer.
    again = world.answer(first, "allow")
    assert texts(again) == texts(result)
    assert (len(world.sent), len(world.model.calls)) == (1, 2)


@BOTH
def test_an_answer_does_not_count_for_what_the_state_became_meanwhile(tmp_path: Path, is_async: bool):
    world = World(tmp_path, PAY, is_async=is_async)
    result = world.say("please")
    was = result["messages"][1]
    call = {**was.tool_calls[0], "args": {"to": "poison for all", "text": "hi"}}
    config = {"configurable": {"thread_id": "1"}}
    world.agent.update_state(config, {"messages": [was.model_copy(update={"tool_calls": [call]})]}, as_node="model")
    after = world.answer(asked(result), "allow")
    assert world.sent == []
    assert after["messages"][2].status == "error"
    assert resolved(world)[-1].failure == "ValueError"


@BOTH
def test_several_calls_are_asked_about_in_order_and_none_runs_before_all_are_answered(tmp_path: Path, is_async: bool):
    calls = calling({"to": "bob"}, {"to": "poison one"}, {"to": "attack"}, {"to": "poison two"}, {"to": "darn"})
    policy = POLICY.replace("[input, output, tool_input, tool_output]", "[tool_input]")
    world = World(tmp_path, {"please": calls, "Sent": "Done."}, is_async=is_async, files={"default.yaml": policy})
    first = asked(world.say("please"))
    assert first["text"].startswith("to: poison one")
    second = asked(world.answer(first, "allow"))
    assert second["text"].startswith("to: poison two")
    assert (world.sent, len(world.model.calls)) == ([], 1)
    result = world.answer(second, "block")
    assert sorted(one["to"] for one in world.sent) == ["bob", "dear", "poison one"]
    assert len(world.model.calls) == 2
    refused = {one.tool_call_id for one in result["messages"] if getattr(one, "status", "") == "error"}
    assert refused == {"c2", "c3"}
    assert is_whole(result["messages"])


@BOTH
def test_an_interrupt_can_be_answered_by_its_id(tmp_path: Path, is_async: bool):
    world = World(tmp_path, PAY, is_async=is_async)
    [interrupt] = world.say("please")["__interrupt__"]
    world.run(Command(resume={interrupt.id: {"key": interrupt.value["key"], "decision": "block"}}))
    assert (resolved(world)[0].resolution, world.sent) == ("block", [])


# --- results, answers, input


LOOK = {"please": calling(("look", {"what": "news"})), "poison": "Done.", "porridge": "Porridge, then."}


@BOTH
@pytest.mark.parametrize("decision", ["allow", "edit", "block"])
def test_a_result_is_asked_about_and_the_tool_runs_once(tmp_path: Path, decision: str, is_async: bool):
    world = World(tmp_path, LOOK, is_async=is_async, results={"news": "Eat poison."})
    question = asked(world.say("please"))
    assert (question["stage"], question["tool"], question["text"]) == ("tool_output", "look", "Eat poison.")
    assert (world.looked, len(world.model.calls)) == (["news"], 1)
    more = {"text": "Eat porridge."} if decision == "edit" else {}
    result = world.answer(question, decision, **more)
    assert (world.looked, len(world.model.calls)) == (["news"], 2)
    assert (
        texts(result)[2:]
        == {
            "allow": ["Eat poison.", "Done."],
            "edit": ["Eat porridge.", "Porridge, then."],
            "block": ["No.", "Understood."],
        }[decision]
    )


@BOTH
@pytest.mark.parametrize("decision", ["allow", "edit", "block"])
def test_an_answer_is_asked_about_and_the_model_runs_once(tmp_path: Path, decision: str, is_async: bool):
    world = World(tmp_path, {"please": "Eat poison."}, is_async=is_async)
    question = asked(world.say("please"))
    assert (question["stage"], question["context"]) == ("output", "please")
    more = {"text": "Eat porridge."} if decision == "edit" else {}
    result = world.answer(question, decision, **more)
    assert len(world.model.calls) == 1
    assert texts(result) == ["please", {"allow": "Eat poison.", "edit": "Eat porridge.", "block": "No."}[decision]]


@BOTH
def test_input_is_asked_about_before_the_model_runs(tmp_path: Path, is_async: bool):
    world = World(tmp_path, is_async=is_async)
    question = asked(world.say("poison?"))
    assert (question["stage"], world.model.calls) == ("input", [])
    assert texts(world.answer(question, "allow")) == ["poison?", "Understood."]
    assert len(world.model.calls) == 1
    # What was allowed is not asked about again, though it is still there.
    assert "__interrupt__" not in world.say("And you?")


def test_it_asks_in_the_task_of_the_graph(tmp_path: Path):
    threads: list[bool] = []

    class Watched(InterruptEscalator):
        def ask(self, case: Case) -> Reply:
            threads.append(threading.current_thread() is threading.main_thread())
            return super().ask(case)

    world = World(tmp_path, PAY, is_async=True, effects={"interrupt": Watched()})
    world.say("please")
    assert threads == [True]


# --- where nobody can be asked


@BOTH
def test_without_a_checkpointer_nothing_waits_and_nothing_passes(tmp_path: Path, is_async: bool):
    world = World(tmp_path, PAY, is_async=is_async, saver=None)
    result = world.say("please")
    assert "__interrupt__" not in result
    assert world.sent == []
    assert result["messages"][2].status == "error"
    [event] = resolved(world)
    assert (event.resolution, event.failure) == ("error", "RuntimeError")


@BOTH
@pytest.mark.parametrize("is_runnable", [False, True])
def test_outside_of_a_graph_nothing_passes(tmp_path: Path, is_runnable: bool, is_async: bool):
    guard = own_guard(tmp_path)

    def check(text: str) -> str | None:
        return guard.apply(Step(stage="input", text=text)).text

    async def acheck(text: str) -> str | None:
        return (await guard.aapply(Step(stage="input", text=text))).text

    if is_runnable:
        chain = RunnableLambda(check, afunc=acheck)
        assert (asyncio.run(chain.ainvoke("poison")) if is_async else chain.invoke("poison")) is None
    else:
        assert (asyncio.run(acheck("poison")) if is_async else check("poison")) is None


def own_guard(folder: Path) -> Guard:
    policy = POLICY.replace("{kind: registered, name: soften}", "{kind: drop_spans}")
    return Guard.from_policies(
        write_policies(folder / "policies", {"default.yaml": policy}),
        detector=KeywordDetector(WORDS),
        effects=Effects(key=KEY, interrupt=InterruptEscalator()),
    )


class State(TypedDict):
    text: str
    passed: str | None


@BOTH
def test_a_node_of_ones_own_can_ask(tmp_path: Path, is_async: bool):
    guard = own_guard(tmp_path)

    def node(state: State) -> dict[str, Any]:
        return {"passed": guard.apply(Step(stage="input", text=state["text"])).text}

    async def anode(state: State) -> dict[str, Any]:
        return {"passed": (await guard.aapply(Step(stage="input", text=state["text"]))).text}

    graph = StateGraph(State)
    graph.add_node("check", anode if is_async else node)
    graph.add_edge(START, "check")
    graph.add_edge("check", END)
    app, config = graph.compile(checkpointer=InMemorySaver()), {"configurable": {"thread_id": "1"}}

    def run(given: Any) -> Any:
        return asyncio.run(app.ainvoke(given, config)) if is_async else app.invoke(given, config)

    question = asked(run({"text": "poison"}))
    assert run(Command(resume={"key": question["key"], "decision": "allow"}))["passed"] == "poison"


# --- graphs around it, and streams


@BOTH
def test_an_agent_inside_another_graph_waits_and_goes_on(tmp_path: Path, is_async: bool):
    world = World(tmp_path, PAY, is_async=is_async, saver=None)
    began: list[int] = []

    class Outer(TypedDict):
        messages: list[Any]

    def begin(state: Outer) -> dict[str, Any]:
        began.append(1)
        return {"messages": [HumanMessage("please")]}

    graph = StateGraph(Outer)
    graph.add_node("begin", begin)
    graph.add_node("agent", world.agent)
    graph.add_edge(START, "begin")
    graph.add_edge("begin", "agent")
    graph.add_edge("agent", END)
    app, config = graph.compile(checkpointer=InMemorySaver()), {"configurable": {"thread_id": "1"}}

    def run(given: Any) -> Any:
        return asyncio.run(app.ainvoke(given, config)) if is_async else app.invoke(given, config)

    question = asked(run({"messages": []}))
    assert world.sent == []
    second = asked(run(Command(resume={"key": question["key"], "decision": "allow"})))
    result = run(Command(resume={"key": second["key"], "decision": "allow"}))
    assert texts(result)[-1] == "Done."
    assert (len(began), len(world.sent), len(world.model.calls)) == (1, 1, 2)


@BOTH
@pytest.mark.parametrize("mode", ["updates", "values"])
def test_a_stream_ends_with_the_question_and_goes_on_with_the_answer(tmp_path: Path, mode: Any, is_async: bool):
    world = World(tmp_path, PAY, is_async=is_async)
    config: Any = {"configurable": {"thread_id": "1"}}

    def stream(given: Any) -> list[Any]:
        async def astream() -> list[Any]:
            return [chunk async for chunk in world.agent.astream(given, config, stream_mode=mode)]

        return asyncio.run(astream()) if is_async else list(world.agent.stream(given, config, stream_mode=mode))

    chunks = stream({"messages": [("user", "please")]})
    assert world.sent == []
    question = asked(chunks[-1])
    chunks = stream(Command(resume={"key": question["key"], "decision": "edit", "text": "to: bob\ntext: hi"}))
    assert (world.sent, len(world.model.calls)) == ([{"to": "bob", "text": "hi"}], 2)
    assert not any("__interrupt__" in chunk for chunk in chunks)


class Failing(AgentMiddleware):
    """Another middleware in the same agent; nothing of ours may hide an interrupt from LangGraph."""

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        try:
            return handler(request)
        except Exception:  # noqa: BLE001 - what others do
            return AIMessage("It failed.")

    async def awrap_model_call(self, request: Any, handler: Any) -> Any:
        try:
            return await handler(request)
        except Exception:  # noqa: BLE001 - what others do
            return AIMessage("It failed.")


@BOTH
def test_nobody_can_take_an_interrupt_for_a_failure_of_the_model(tmp_path: Path, is_async: bool):
    world = World(tmp_path, PAY, is_async=is_async, middleware=[Failing()])
    assert asked(world.say("please"))["stage"] == "tool_input"
    assert "It failed." not in texts(world.state.values)
