from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import Runnable, RunnableLambda
from pydantic import BaseModel

from lec_guard import GuardBlocked, GuardRunnable, TenantMismatch, UnsupportedValueError
from lec_guard.testing import KeywordDetector, ScriptedChatModel
from tests.chain.test_runnable import METHODS
from tests.chain.values import ATTACK
from tests.conftest import POLICIES, write_policies


@pytest.fixture
def llm() -> ScriptedChatModel:
    return ScriptedChatModel(script={"evil": "first words and then POISON"}, answer="fine")


Text = Callable[[Any], str]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value.text)


@pytest.mark.parametrize("name", [name for name in METHODS if "stream" not in name and "transform" not in name])
@pytest.mark.parametrize(("request_", "answer"), [("hi", "fine"), (ATTACK, "No."), ("evil", "No.")])
async def test_every_method_answers(
    guard: GuardRunnable, llm: ScriptedChatModel, name: str, request_: str, answer: str
) -> None:
    for chain, kind in ((llm, AIMessage), (llm | StrOutputParser(), str)):
        out = await METHODS[name](guard.protect(chain), request_)  # type: ignore[arg-type]
        assert isinstance(out, kind)
        assert _text(out) == answer
    assert len(llm.calls) == (0 if request_ == ATTACK else 2)


@pytest.mark.parametrize(("request_", "answer"), [("hi", "fine"), (ATTACK, "No."), ("evil", "No.")])
async def test_every_stream_answers(guard: GuardRunnable, llm: ScriptedChatModel, request_: str, answer: str) -> None:
    protected = guard.protect(llm)
    streams = [
        list(protected.stream(request_)),
        [chunk async for chunk in protected.astream(request_)],
        list(protected.transform(iter([request_]))),
    ]
    for chunks in streams:
        assert all(isinstance(chunk, AIMessageChunk) for chunk in chunks)
        assert "".join(_text(chunk) for chunk in chunks) == answer


def test_the_request_is_the_context_of_the_answer(guard: GuardRunnable, keywords: KeywordDetector) -> None:
    guard.protect(ScriptedChatModel(answer="fine")).invoke([HumanMessage("old"), AIMessage("x"), HumanMessage("new")])
    assert (keywords.seen[-1].stage, keywords.seen[-1].text, keywords.seen[-1].context) == ("output", "fine", "new")
    list(guard.protect(ScriptedChatModel(answer="fine") | StrOutputParser()).stream("again"))
    assert [(step.stage, step.context) for step in keywords.seen[-2:]] == [("input", None), ("output", "again")]


def test_a_batch_is_two_calls_of_the_detector(policies: Any, llm: ScriptedChatModel) -> None:
    calls = []

    class Counting(KeywordDetector):
        def score(self, steps: Any, *, keys: Any = None) -> Any:
            calls.append(len(steps))
            return super().score(steps, keys=keys)

    detector = Counting({"injection": {"injection": ["attack"]}, "safety": {"unsafe": ["poison"], "rude": ["darn"]}})
    guard = GuardRunnable.from_policies(policies, detector=detector)
    answers = guard.protect(llm | StrOutputParser()).batch(["hi", ATTACK, "evil", "hello"])
    assert answers == ["fine", "No.", "No.", "fine"]
    assert calls == [4, 3]


def test_a_refusal_can_be_given(guard: GuardRunnable, llm: ScriptedChatModel) -> None:
    assert guard.protect(llm, refusal="Sorry.").invoke(ATTACK) == "Sorry."
    told = guard.protect(llm, refusal=lambda verdict: AIMessage(f"Not at {verdict.stage}."))
    assert told.invoke("evil").content == "Not at output."


def test_a_refusal_has_the_tenants_words(guard: GuardRunnable, llm: ScriptedChatModel) -> None:
    config: Any = {"configurable": {"tenant": "acme"}}
    assert guard.protect(llm).invoke(ATTACK, config).content == "Acme says no."
    with pytest.raises(TenantMismatch):
        guard.for_tenant("globex").protect(llm).invoke("hi", config)


async def test_a_refusal_is_in_the_language_of_the_run(policies: Any, keywords: Any) -> None:
    write_policies(policies, {"default.yaml": POLICIES["default.yaml"].replace("No.", "{en: No., de: Nein.}")})
    protected = GuardRunnable.from_policies(policies, detector=keywords).protect(ScriptedChatModel(answer="POISON"))
    config: Any = {"configurable": {"locale": "de-CH"}}
    for request in (ATTACK, "hi"):
        assert protected.invoke(request, config).content == "Nein."
        assert (await protected.ainvoke(request, config)).content == "Nein."
        assert [chunk.content for chunk in protected.stream(request, config)] == ["Nein."]
        assert protected.invoke(request).content == "No."


def test_where_the_detector_fails_the_chain_does_not_run(policies: Any, llm: ScriptedChatModel) -> None:
    class Broken(KeywordDetector):
        def score(self, steps: Any, *, keys: Any = None) -> Any:
            raise RuntimeError("out of memory")

    broken = Broken({"injection": {"injection": []}, "safety": {"unsafe": [], "rude": []}})
    assert GuardRunnable.from_policies(policies, detector=broken).protect(llm).invoke("hi").content == "No."
    assert llm.calls == []


def test_a_conversation_gets_the_refusal_as_its_last_message(guard: GuardRunnable) -> None:
    agent = RunnableLambda(lambda state: {"messages": [*state["messages"], AIMessage("some POISON")]})
    for text in (ATTACK, "hi"):
        state = {"messages": [HumanMessage(text)]}
        out = guard.protect(agent).invoke(state)
        assert [message.text for message in out["messages"]] == [text, "No."]
        assert len(state["messages"]) == 1, "the caller's list was changed"


def test_a_blocked_answer_keeps_its_id_and_tells_no_scores(guard: GuardRunnable) -> None:
    chain = RunnableLambda(lambda _: AIMessage("POISON", id="m1"))
    out = guard.protect(chain).invoke("hi")
    assert (out.id, out.content) == ("m1", "No.")
    assert out.response_metadata == {"lec_guard": {"action": "block", "stage": "output", "rule": "unsafe"}}


class Parsed(BaseModel):
    """A structured answer."""

    text: str


def test_where_a_message_has_no_place_a_block_is_raised(guard: GuardRunnable) -> None:
    chain: Runnable[Any, Any] = RunnableLambda(lambda text: Parsed(text=text))
    assert guard.protect(chain).invoke("hi") == Parsed(text="hi")
    with pytest.raises(GuardBlocked):
        guard.protect(chain).invoke("POISON")
    assert guard.protect(chain, refusal=Parsed(text="no")).invoke("POISON") == Parsed(text="no")


def test_errors_of_the_chain_are_its_own(guard: GuardRunnable) -> None:
    def fail(text: str) -> str:
        if text == "bad":
            raise ConnectionError(text)
        return text

    protected = guard.protect(RunnableLambda(fail))
    with pytest.raises(ConnectionError):
        protected.invoke("bad")
    results = protected.batch(["hi", "bad", ATTACK], return_exceptions=True)
    assert results[0] == "hi"
    assert isinstance(results[1], ConnectionError)
    with pytest.raises(UnsupportedValueError):
        protected.invoke(b"bytes")
    with pytest.raises(UnsupportedValueError):
        guard.protect(RunnableLambda(lambda _: b"bytes")).invoke("hi")


def test_both_checks_are_events_of_one_run(guard: GuardRunnable, llm: ScriptedChatModel) -> None:
    from tests.chain.test_runnable import Recorder

    recorder = Recorder()
    guard.protect(llm).invoke("evil", {"callbacks": [recorder]})
    assert [(data["stage"], data["action"]) for _, data in recorder.events] == [("input", "allow"), ("output", "block")]


def _agent(answer: str) -> Any:
    from langchain.agents import create_agent

    return create_agent(ScriptedChatModel(answer=answer), [])


MODES = ["values", "updates", "messages", ["updates", "messages"]]


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_an_agent_streams_in_every_mode(guard: GuardRunnable, mode: Any) -> None:
    request = {"messages": [HumanMessage("hi")]}
    chunks = list(guard.protect(_agent("all is well")).stream(request, stream_mode=mode))
    assert "all is well" in str(chunks) or "well" in str(chunks)


@pytest.mark.parametrize("mode", MODES, ids=str)
async def test_a_refused_agent_streams_in_the_form_of_its_mode(guard: GuardRunnable, mode: Any) -> None:
    request = {"messages": [HumanMessage("hi")]}
    protected = guard.protect(_agent("some POISON"))
    plain = list(protected.stream(request, stream_mode=mode))
    twins = [chunk async for chunk in protected.astream(request, stream_mode=mode)]
    for chunks in (plain, twins):
        assert "POISON" not in str(chunks)
        assert "No." in str(chunks)
        [chunk] = chunks
        if mode == "messages":
            assert isinstance(chunk, tuple)
        elif mode == "updates":
            assert [update["messages"][-1].content for update in chunk.values()] == ["No."]
        elif mode == "values":
            assert chunk["messages"][-1].content == "No."


def test_a_refused_agent_streams_no_structured_answer(guard: GuardRunnable) -> None:
    from langchain.agents import create_agent
    from pydantic import BaseModel

    class Note(BaseModel):
        text: str

    agent = create_agent(ScriptedChatModel(answer=Note(text="some POISON")), [], response_format=Note)
    [chunk] = guard.protect(agent).stream({"messages": [HumanMessage("hi")]}, stream_mode="updates")
    assert [list(update) for update in chunk.values()] == [["messages"]]
    assert "POISON" not in str(chunk)


def test_a_graph_takes_a_request_in_any_form(guard: GuardRunnable) -> None:
    for messages in (ATTACK, HumanMessage(ATTACK)):
        out = guard.protect(_agent("fine")).invoke({"messages": messages})
        assert out["messages"][-1].content == "No."


def test_a_streamed_request_reaches_the_chain_whole(guard: GuardRunnable) -> None:
    got = []
    protected = guard.protect(RunnableLambda(lambda value: got.append(value) or "fine"))
    list(protected.transform(iter([[1, "a"], ["b"]])))
    assert got == [[1, "a", "b"]]


def test_an_interrupted_agent_passes_and_resumes(guard: GuardRunnable) -> None:
    from langgraph.checkpoint.memory import InMemorySaver
    from langgraph.graph import StateGraph
    from langgraph.types import Command, interrupt
    from typing_extensions import TypedDict

    class State(TypedDict):
        text: str

    graph = StateGraph(State)
    graph.add_node("ask", lambda state: {"text": interrupt({"question": "really?"})})
    graph.set_entry_point("ask")
    protected = guard.protect(graph.compile(checkpointer=InMemorySaver()))
    config: Any = {"configurable": {"thread_id": "1"}}
    assert "__interrupt__" in protected.invoke({"text": "hi"}, config)
    assert protected.invoke(Command(resume="yes"), config) == {"text": "yes"}
