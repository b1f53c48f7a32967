"""What streams of events are shown of chains, tools and retrievers with a guard around them."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import Any

import pytest
from langchain_core.callbacks import AsyncCallbackManager, BaseCallbackHandler, CallbackManager
from langchain_core.callbacks.manager import dispatch_custom_event
from langchain_core.documents import Document
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_core.tools import ToolException, tool
from langchain_core.tracers._streaming import _StreamingCallbackHandler
from langchain_core.tracers.log_stream import LogStreamCallbackHandler
from langgraph.graph import END, START, MessagesState, StateGraph

from lec_guard import Guard, GuardRunnable
from lec_guard.chain.quiet import Hushed
from lec_guard.testing import KeywordDetector
from tests.conftest import write_policies

POLICY = """
message: No.
rules:
  - name: block
    stages: [input, output, tool_input, tool_output, retrieval]
    head: injection
    threshold: 0.5
    action: block
"""


@pytest.fixture
def guard(tmp_path: Path) -> GuardRunnable:
    detector = KeywordDetector({"injection": {"injection": ["attack"]}})
    policies = write_policies(tmp_path / "policies", {"default.yaml": POLICY})
    return GuardRunnable(Guard.from_policies(policies, detector=detector))


def model(*answers: str) -> GenericFakeChatModel:
    return GenericFakeChatModel(messages=iter([AIMessage(one) for one in answers]))


def events(runnable: Runnable[Any, Any], given: Any) -> list[Any]:
    async def run() -> list[Any]:
        return [one async for one in runnable.astream_events(given, version="v2")]

    found = asyncio.run(run())
    gc.collect()
    return found


def names(found: list[Any]) -> list[str]:
    return [one["event"] for one in found]


# --- chains


def test_of_a_protected_chain_events_show_what_passes(guard: GuardRunnable):
    shown = events(guard.protect(model("an attack")), "hello")
    assert "attack" not in str(shown)
    assert [one["data"]["chunk"].text for one in shown if one["event"] == "on_chain_stream"] == ["No."]
    assert "on_custom_event" in names(shown)
    shown = events(guard.protect(model("all is well")), "hello")
    said = [one["data"]["chunk"].text for one in shown if one["event"] == "on_chain_stream"]
    assert "".join(said) == "all is well"
    assert "on_chat_model_stream" not in names(shown)


def test_what_runs_without_a_config_inside_a_protected_chain_is_not_shown_either(guard: GuardRunnable):
    def inner(messages: Any) -> Any:
        return model("an attack").invoke("x")

    assert "attack" not in str(events(guard.protect(RunnableLambda(inner)), "hello"))

    def graph() -> Any:
        made = StateGraph(MessagesState)
        made.add_node("say", lambda state: {"messages": [model("an attack").invoke(state["messages"])]})
        made.add_edge(START, "say")
        made.add_edge("say", END)
        return made.compile()

    shown = events(guard.protect(graph()), {"messages": [("user", "hello")]})
    assert "attack" not in str(shown)
    assert "No." in str(shown)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_in_a_graph_the_tokens_of_a_protected_model_are_not_streamed(guard: GuardRunnable, is_async: bool):
    protected = guard.protect(model("an attack"))

    def say(state: MessagesState) -> Any:
        return {"messages": [protected.invoke(state["messages"])]}

    async def asay(state: MessagesState) -> Any:
        return {"messages": [await protected.ainvoke(state["messages"])]}

    made: Any = StateGraph(MessagesState)
    made.add_node("say", asay if is_async else say)
    made.add_edge(START, "say")
    made.add_edge("say", END)
    graph, given = made.compile(), {"messages": [("user", "hello")]}

    async def astream() -> list[Any]:
        return [one async for one in graph.astream(given, stream_mode="messages")]

    shown = asyncio.run(astream()) if is_async else list(graph.stream(given, stream_mode="messages"))
    assert [message.text for message, _ in shown] == ["No."]


def test_other_handlers_hear_of_the_model_as_before(guard: GuardRunnable):
    class Handler(BaseCallbackHandler):
        def __init__(self) -> None:
            self.heard: list[str] = []

        def on_llm_end(self, response: Any, **kwargs: Any) -> None:
            self.heard.append(response.generations[0][0].text)

    handler = Handler()
    guard.protect(model("an attack")).invoke("hello", {"callbacks": [handler]})
    assert handler.heard == ["an attack"]


# --- tools


@tool(response_format="content_and_artifact")
def fetch(url: str) -> tuple[str, Any]:
    """Fetch a page."""
    dispatch_custom_event("progress", {"of": url})
    if url == "down":
        raise ToolException("attack: down")
    return "Here it is.", {"page": "attack" if url == "evil" else "fine"}


@pytest.mark.parametrize(("url", "told"), [("evil", "No."), ("good", "Here it is.")])
def test_of_a_guarded_tool_events_show_what_passes(guard: GuardRunnable, url: str, told: str):
    guarded = guard.tool(fetch)
    call = {"name": "fetch", "args": {"url": url}, "id": "1", "type": "tool_call"}
    for called in (RunnableLambda(guarded.invoke), RunnableLambda(guarded.ainvoke)):
        shown = events(called, call)
        assert "attack" not in str(shown)
        [started] = [one for one in shown if one["event"] == "on_tool_start"]
        [ended] = [one for one in shown if one["event"] == "on_tool_end"]
        assert (started["name"], started["data"]["input"]) == ("fetch", {"url": url})
        assert ended["data"]["output"].text == told
        assert ended["run_id"] == started["run_id"]
        # What the tool itself tells is told.
        assert {"of": url} in [one["data"] for one in shown if one["event"] == "on_custom_event"]


def test_an_error_of_a_guarded_tool_is_shown_as_it_passes(guard: GuardRunnable):
    guarded, shown = guard.tool(fetch), []

    async def run(given: Any) -> None:
        async for one in RunnableLambda(guarded.ainvoke).astream_events(given, version="v2"):
            shown.append(one)

    asyncio.run(run({"name": "fetch", "args": {"url": "down"}, "id": "1", "type": "tool_call"}))
    gc.collect()
    assert "attack" not in str(shown)
    [ended] = [one for one in shown if one["event"] == "on_tool_end"]
    assert ended["data"]["output"].text == "No."


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("by", ["callbacks", "config"])
def test_a_guarded_tool_that_is_run_shows_what_passes(guard: GuardRunnable, by: str, is_async: bool):
    class Heard(BaseCallbackHandler, _StreamingCallbackHandler[Any]):
        def __init__(self) -> None:
            self.heard: list[str] = []

        def on_tool_end(self, output: Any, **kwargs: Any) -> None:
            self.heard.append(output.text)

    guarded, heard = guard.tool(fetch), Heard()
    manager = (AsyncCallbackManager if is_async else CallbackManager)([heard], [heard])
    given: Any = {"callbacks": manager, **({"config": {"callbacks": manager}} if by == "config" else {})}
    run: Any = lambda **more: asyncio.run(guarded.arun(**more)) if is_async else guarded.run(**more)  # noqa: E731
    for url in ("evil", "good"):
        assert run(tool_input={"url": url}, tool_call_id="1", **given).text == heard.heard[-1]
    assert heard.heard == ["No.", "Here it is."]
    assert manager.handlers == [heard]


# --- retrievers


class Finding(BaseRetriever):
    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        return [Document("attack"), Document("A fine page.")]


def test_of_a_guarded_retriever_events_show_what_passes(guard: GuardRunnable):
    guarded = guard.retriever(Finding())
    for called in (RunnableLambda(guarded.invoke), RunnableLambda(guarded.ainvoke)):
        shown = events(called, "hello")
        assert "attack" not in str(shown)
        [ended] = [one for one in shown if one["event"] == "on_retriever_end"]
        assert [one.page_content for one in ended["data"]["output"]] == ["A fine page."]


# --- the config


def test_a_config_is_not_changed_and_is_the_same_where_nobody_streams():
    config: Any = {"callbacks": [BaseCallbackHandler()]}
    assert Hushed.of(config).config is config
    assert Hushed.of(None).config is None
    heard, other = LogStreamCallbackHandler(), BaseCallbackHandler()
    manager = CallbackManager([heard, other], [heard, other])
    hushed = Hushed.of({"callbacks": manager})
    assert hushed.taken == (heard,)
    left: Any = hushed.config and hushed.config["callbacks"]
    assert heard not in [*left.handlers, *left.inheritable_handlers]
    assert other in left.handlers
    assert manager.handlers == manager.inheritable_handlers == [heard, other]
    assert Hushed.of({"callbacks": manager}, is_wanted=False).taken == ()


def test_messages_are_those_of_a_graph():
    class StreamMessagesHandler(LogStreamCallbackHandler):
        """As LangGraph's, by its name."""

    heard = StreamMessagesHandler()
    assert Hushed.of({"callbacks": [heard]}, keeps_messages=True).taken == ()
    assert Hushed.of({"callbacks": [heard]}).taken == (heard,)


def test_graphs_name_it_so():
    from langgraph.pregel._messages import StreamMessagesHandler

    assert StreamMessagesHandler.__name__ == "StreamMessagesHandler"
