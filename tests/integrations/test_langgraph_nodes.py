"""Guards as nodes of plain LangGraph graphs: no message is there twice, and nothing runs behind a block."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import Annotated, Any

import pytest
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.message import add_messages
from lec_guard_integrations.langgraph import guard_node

from lec_guard import EscalationPending, GuardBlocked, GuardRunnable, UnsupportedValueError
from lec_guard.act.quarantine import NOTE
from lec_guard.testing import ScriptedChatModel
from tests.integrations.guards import Guarded

BOTH = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


class State(MessagesState):
    log: Annotated[list[str], operator.add]
    secret: str


def graph(before: Any, after: Any, model: ScriptedChatModel, state: Any = State, saver: Any = None) -> Any:
    def llm(now: Any) -> dict[str, Any]:
        messages = now["messages"] if isinstance(now, dict) else now.messages
        return {"messages": [model.invoke(messages)]}

    made = StateGraph(state)
    made.add_node("before", before)
    made.add_node("llm", llm)
    made.add_node("after", after)
    made.add_edge(START, "before")
    made.add_edge("before", "llm")
    made.add_edge("llm", "after")
    made.add_edge("after", END)
    return made.compile(checkpointer=saver)


async def run(made: Any, is_async: bool, *messages: Any, tenant: str | None = None, **more: Any) -> Any:
    config = {"configurable": {"thread_id": "1", **({"tenant": tenant} if tenant else {})}}
    given = {"messages": list(messages), **more}
    return await made.ainvoke(given, config) if is_async else made.invoke(given, config)


def both(guarded: Guarded, **changes: Any) -> tuple[Any, Any, ScriptedChatModel]:
    guard = GuardRunnable(guarded.guard)
    return guard_node(guard), guard_node(guard), ScriptedChatModel(**changes)


@BOTH
async def test_what_may_pass_is_there_once_and_nothing_else_of_the_state_is_touched(
    guarded: Guarded, is_async: bool
) -> None:
    made = graph(*both(guarded, answer="Fine."))
    result = await run(made, is_async, HumanMessage("hello"), log=["a"], secret="an attack, and not judged")
    assert [one.text for one in result["messages"]] == ["hello", "Fine."]
    assert result["log"] == ["a"]
    assert guarded.seen == [("input", "hello"), ("input", "hello"), ("output", "Fine.")]
    assert guarded.detector.seen[2].context == "hello"


@BOTH
async def test_the_model_is_not_called_behind_a_block(guarded: Guarded, is_async: bool) -> None:
    before, after, model = both(guarded)
    with pytest.raises(GuardBlocked):
        await run(graph(before, after, model), is_async, HumanMessage("an attack"))
    with pytest.raises(EscalationPending):
        await run(graph(before, after, model), is_async, HumanMessage("poison"))
    assert model.calls == []
    with pytest.raises(GuardBlocked):
        await run(graph(*both(guarded, answer="an attack")), is_async, HumanMessage("hi"))


@BOTH
async def test_what_is_rewritten_is_replaced(guarded: Guarded, is_async: bool) -> None:
    before, after, model = both(guarded, answer="oh darn")
    made = graph(before, after, model, saver=InMemorySaver())
    first = await run(made, is_async, HumanMessage("darn you", id="1"))
    assert [one.text for one in first["messages"]] == ["dear you", "oh dear"]
    second = await run(made, is_async, HumanMessage("hi"))
    assert [one.text for one in second["messages"]] == ["dear you", "oh dear", "hi", "oh dear"]
    assert first["messages"][0].id == "1"
    assert [one.text for one in model.calls[0]] == ["dear you"]


@BOTH
@pytest.mark.parametrize("system", [[], [SystemMessage("Be kind.")]], ids=["none", "one"])
async def test_a_note_stands_in_front(guarded: Guarded, system: list[Any], is_async: bool) -> None:
    made = graph(*both(guarded))
    result = await run(made, is_async, *system, HumanMessage("click here"))
    assert [one.type for one in result["messages"]] == ["system", "human", "ai"]
    assert result["messages"][0].text.count(NOTE) == 1
    assert len({one.id for one in result["messages"]}) == 3


@BOTH
async def test_the_tenant_is_that_of_the_run(guarded: Guarded, is_async: bool) -> None:
    with pytest.raises(GuardBlocked, match="acme"):
        await run(graph(*both(guarded)), is_async, HumanMessage("darn"), tenant="acme")


def test_a_state_that_is_an_object_and_one_without_messages(guarded: Guarded) -> None:
    @dataclass
    class Own:
        messages: Annotated[list[AnyMessage], add_messages] = field(default_factory=list)

    before, after, model = both(guarded)
    result = graph(before, after, model, Own).invoke({"messages": [HumanMessage("darn you")]})
    assert [one.text for one in result["messages"]] == ["dear you", "Understood."]
    with pytest.raises(UnsupportedValueError, match="not a list"):
        before.invoke({"messages": "an attack"})


@BOTH
async def test_a_guard_itself_is_a_node_where_messages_are_all_of_the_state(guarded: Guarded, is_async: bool) -> None:
    guard, model = GuardRunnable(guarded.guard), ScriptedChatModel(answer="oh darn")
    result = await run(graph(guard, guard, model, MessagesState), is_async, HumanMessage("darn you"))
    assert [(one.type, one.text) for one in result["messages"]] == [("human", "dear you"), ("ai", "oh dear")]
    assert isinstance(result["messages"][1], AIMessage)
    with pytest.raises(GuardBlocked):
        await run(graph(guard, guard, model, MessagesState), is_async, HumanMessage("an attack"))
    assert len(model.calls) == 1
