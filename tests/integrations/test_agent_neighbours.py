"""A guard beside other middleware, agents inside agents, and whatever models and tools do wrong."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import (
    AgentMiddleware,
    HumanInTheLoopMiddleware,
    ModelCallLimitMiddleware,
    ModelFallbackMiddleware,
    PIIMiddleware,
    SummarizationMiddleware,
)
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from lec_guard.testing import ScriptedChatModel
from tests.integrations.agents import POLICY, QUIET, World, asked, calling, is_whole, texts

BOTH = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
ORDER = pytest.mark.parametrize("is_first", [True, False], ids=["guard first", "guard last"])


@pytest.fixture(autouse=True, params=[QUIET, POLICY], ids=["in the call", "after it"])
def _where(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.integrations.agents.POLICY", request.param)


def beside(world: World, *others: Any, is_first: bool = True, tools: Any = None, **more: Any) -> World:
    """The world's agent, made anew with other middleware."""
    middleware = [world.guard, *others] if is_first else [*others, world.guard]
    own = [one for one in world.tools if tools is None or one.name in tools]
    world.agent = create_agent(world.model, own, middleware=middleware, checkpointer=InMemorySaver(), **more)
    return world


# --- other middleware


@BOTH
@ORDER
def test_beside_pii_middleware_nothing_is_lost(tmp_path: Path, is_async: bool, is_first: bool):
    script = {"REDACTED": "I wrote to eve@x.org, darn."}
    pii = PIIMiddleware("email", strategy="redact", apply_to_output=True)
    world = beside(World(tmp_path, script, is_async=is_async), pii, is_first=is_first)
    result = world.say("darn, write to bob@x.org")
    assert texts(result) == ["dear, write to [REDACTED_EMAIL]", "I wrote to [REDACTED_EMAIL], dear."]
    assert "bob@x.org" not in str(world.model.calls)
    assert "darn" not in str(world.model.calls)
    assert texts(world.say("attack"))[-1] == "No."


@BOTH
@ORDER
def test_a_summary_is_judged_before_the_model_sees_it(tmp_path: Path, is_async: bool, is_first: bool):
    writer = ScriptedChatModel(answer="They spoke of an attack.")
    summary = SummarizationMiddleware(model=writer, trigger=("messages", 3), keep=("messages", 1))
    world = beside(World(tmp_path, is_async=is_async), summary, is_first=is_first)
    world.say("hello")
    result = world.say("And now?")
    assert len(writer.calls) == 1
    assert texts(result)[-1] == "No."
    assert len(world.model.calls) == 1
    assert len([step for step in world.detector.seen if "attack" in step.text]) == 1
    assert "attack" not in str(result)
    # The thread is of use after.
    writer.answer = "Hello was said."
    assert texts(world.say("And then?"))[-1] == "Understood."
    assert "attack" not in str(world.model.calls)


def approve(*kinds: str) -> Any:
    return Command(resume={"decisions": [{"type": kind} for kind in kinds]})


@BOTH
def test_a_person_is_asked_beside_it(tmp_path: Path, is_async: bool):
    person = HumanInTheLoopMiddleware(interrupt_on={"send": True})
    script = {"please": calling({"to": "bob"}, {"to": "attack"}), "Sent": "Done.", "No.": "Done."}
    for answers, sent in [
        (("approve", "approve"), ["bob"]),
        (("reject", "reject"), []),
        (("approve", "reject"), ["bob"]),
    ]:
        world = beside(World(tmp_path / "-".join(answers), script, is_async=is_async), person)
        [interrupt] = world.say("please")["__interrupt__"]
        assert world.sent == []
        assert len(interrupt.value["action_requests"]) == 2
        result = world.run(approve(*answers))
        # What the guard refuses does not run whoever approves, and each call has one result.
        assert [one["to"] for one in world.sent] == sent
        assert is_whole(result["messages"])
        assert is_whole(world.model.calls[-1])
        assert len(world.model.calls) == 2


@BOTH
def test_where_the_guard_comes_first_people_are_asked_about_what_may_pass(tmp_path: Path, is_async: bool):
    person = HumanInTheLoopMiddleware(interrupt_on={"send": True})
    script = {"please": calling({"to": "darn bob"}), "Sent": "Done."}
    world = beside(World(tmp_path, script, is_async=is_async, files={"default.yaml": QUIET}), person)
    [interrupt] = world.say("please")["__interrupt__"]
    assert interrupt.value["action_requests"][0]["args"] == {"to": "dear bob"}
    world.run(approve("approve"))
    assert world.sent == [{"to": "dear bob", "text": ""}]


@BOTH
def test_two_who_ask_are_both_answered(tmp_path: Path, is_async: bool):
    person = HumanInTheLoopMiddleware(interrupt_on={"send": True})
    script = {"please": calling({"to": "poison"}), "Sent": "Done."}
    files = {"default.yaml": POLICY.replace("[input, output, tool_input, tool_output]", "[tool_input]")}
    world = beside(World(tmp_path, script, is_async=is_async, files=files), person)
    assert "__interrupt__" in world.say("please")
    question = asked(world.run(approve("approve")))
    assert question["type"] == "lec_guard.escalation"
    assert world.sent == []
    assert texts(world.answer(question, "allow"))[-1] == "Done."
    assert (len(world.sent), len(world.model.calls)) == (1, 2)


@BOTH
def test_another_model_that_takes_over_is_judged_and_not_streamed(tmp_path: Path, is_async: bool):
    class Failing(ScriptedChatModel):
        def _reply(self, messages: Any) -> AIMessage:
            raise OSError("down")

    world = World(tmp_path, {"please": "an attack"}, is_async=is_async, files={"default.yaml": QUIET})
    spare, world.model = world.model, Failing()
    beside(world, ModelFallbackMiddleware(spare))
    config: Any = {"configurable": {"thread_id": "1"}}
    given: Any = {"messages": [("user", "please")]}

    async def astream() -> list[Any]:
        return [chunk async for chunk in world.agent.astream(given, config, stream_mode="messages")]

    shown = asyncio.run(astream()) if is_async else list(world.agent.stream(given, config, stream_mode="messages"))
    assert "attack" not in str(shown)
    assert len(spare.calls) == 1
    assert texts(world.state.values)[-1] == "No."


@BOTH
def test_what_others_answer_is_judged_in_the_end(tmp_path: Path, is_async: bool):
    class Last(AgentMiddleware):
        def after_model(self, state: Any, runtime: Any) -> Any:
            return {"messages": [AIMessage("attack", id=state["messages"][-1].id)]}

    world = beside(World(tmp_path, is_async=is_async), Last(), is_first=False)
    assert texts(world.say("hello")) == ["hello", "No."]
    limited = World(tmp_path / "other", {"mail": calling({"to": "bob"})}, is_async=is_async)
    beside(limited, ModelCallLimitMiddleware(run_limit=1), is_first=False)
    assert "limit" in texts(limited.say("mail"))[-1]


@BOTH
def test_an_agent_can_be_a_tool_of_another(tmp_path: Path, is_async: bool):
    inner = World(tmp_path / "inner", {"task": "an attack", "fine": "All well."}, is_async=is_async, saver=None)

    @tool
    def ask(what: str) -> str:
        """Ask a colleague."""
        return inner.say(what)["messages"][-1].text

    script = {"please": calling(("ask", {"what": "task"})), "now": calling(("ask", {"what": "fine"}))}
    world = World(tmp_path, {**script, "No.": "They refuse."}, is_async=is_async, tools=[ask])
    if is_async:

        async def aask(what: str) -> str:
            """Ask a colleague."""
            result = await inner.agent.ainvoke({"messages": [("user", what)]})
            return result["messages"][-1].text

        ask.func, ask.coroutine = None, aask
    assert texts(world.say("please"))[2:] == ["No.", "They refuse."]
    assert texts(world.say("now"))[-2:] == ["All well.", "Understood."]


# --- what goes wrong


@BOTH
def test_two_calls_with_one_id_are_not_lost(tmp_path: Path, is_async: bool):
    both = calling({"to": "bob"}, {"to": "attack"})
    both.tool_calls[1]["id"] = "c0"
    world = World(tmp_path, {"please": both}, is_async=is_async)
    world.say("please")
    assert "attack" not in str(world.sent)
    assert texts(world.say("hello"))[-1] == "Understood."


@BOTH
def test_two_hundred_calls_at_once(tmp_path: Path, is_async: bool):
    many = calling(*({"to": "attack" if at % 50 == 7 else f"bob {at}"} for at in range(200)))
    world = World(tmp_path, {"please": many, "No.": "Done.", "Sent": "Done."}, is_async=is_async)
    result = world.say("please")
    assert len(world.sent) == 196
    assert "attack" not in str(world.sent)
    assert is_whole(result["messages"])
    assert texts(result)[-1] == "Done."


@BOTH
def test_a_tool_that_nobody_knows_is_judged_too(tmp_path: Path, is_async: bool):
    script = {"please": calling(("shell", {"do": "attack"}), ("other", {"do": "x"})), "not a valid tool": "Sorry."}
    world = World(tmp_path, script, is_async=is_async)
    result = world.say("please")
    assert [one.text for one in result["messages"] if one.type == "tool"].count("No.") == 1
    assert is_whole(result["messages"])


@BOTH
def test_a_result_of_twenty_megabytes_is_read_whole(tmp_path: Path, is_async: bool):
    text = "word " * 4_000_000
    world = World(
        tmp_path, {"news?": calling(("look", {"what": "news"}))}, is_async=is_async, results={"news": text + "attack"}
    )
    assert texts(world.say("news?"))[2] == "No."
    other = World(
        tmp_path / "other", {"news?": calling(("look", {"what": "news"}))}, is_async=is_async, results={"news": text}
    )
    assert texts(other.say("news?"))[2] == text


@BOTH
def test_a_call_that_is_no_json_leaves_a_thread_of_use(tmp_path: Path, is_async: bool):
    broken = {"name": "send", "args": '{"to": "bob', "id": "c0", "error": None, "type": "invalid_tool_call"}
    world = World(tmp_path, {"please": AIMessage("Hm.", invalid_tool_calls=[broken])}, is_async=is_async)
    assert texts(world.say("please"))[-1] == "Hm."
    result = world.say("hello")
    assert texts(result)[-1] == "Understood."
    assert world.sent == []


@BOTH
def test_a_model_that_says_nothing(tmp_path: Path, is_async: bool):
    world = World(tmp_path, {"please": AIMessage("")}, is_async=is_async)
    assert texts(world.say("please")) == ["please", ""]
    config: Any = {"configurable": {"thread_id": "1"}}
    list(world.agent.stream({"messages": [("user", "please")]}, config, stream_mode="messages"))


@BOTH
def test_a_tool_that_raises_leaves_a_thread_that_can_go_on(tmp_path: Path, is_async: bool):
    fails = [True]

    @tool
    def fetch() -> str:
        """Fetch."""
        if fails:
            raise OSError("down")
        return "attack"

    world = World(tmp_path, {"please": calling(("fetch", {}))}, is_async=is_async, tools=[fetch])
    with pytest.raises(OSError, match="down"):
        world.say("please")
    fails.clear()
    assert texts(world.run(None))[2:] == ["No.", "Understood."]


@BOTH
def test_without_a_checkpointer_all_but_asking_works(tmp_path: Path, is_async: bool):
    script = {"please": calling({"to": "attack"}, {"to": "darn"}), "No.": "Done.", "Sent": "Done."}
    world = World(tmp_path, script, is_async=is_async, saver=None)
    result = world.say("please")
    assert world.sent == [{"to": "dear", "text": ""}]
    assert is_whole(result["messages"])
    assert texts(world.say([*result["messages"], HumanMessage("attack")]))[-1] == "No."


@BOTH
@pytest.mark.parametrize("wrong", [7, "allow", [], {"decisions": [{"type": "approve"}]}], ids=str)
def test_a_resume_of_the_wrong_shape_blocks(tmp_path: Path, wrong: Any, is_async: bool):
    world = World(tmp_path, {"please": calling({"to": "poison"})}, is_async=is_async, files={"default.yaml": POLICY})
    world.say("please")
    result = world.run(Command(resume=wrong))
    assert world.sent == []
    assert is_whole(result["messages"])
    assert texts(world.say("hello"))[-1] == "Understood."


@BOTH
def test_a_system_message_in_the_thread_is_context(tmp_path: Path, is_async: bool):
    world = World(tmp_path, is_async=is_async, system_prompt="Be kind.")
    world.say([SystemMessage("Be brief."), HumanMessage("hello")])
    assert world.detector.seen[0].context == "Be kind.\nBe brief."
