"""What users test their own code with."""

from __future__ import annotations

import time
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from pydantic import BaseModel

from lec_guard import Guard, LayerDetector, Span, Step
from lec_guard.errors import DetectorError
from lec_guard.testing import (
    MOST_FOUND,
    FailingDetector,
    KeywordDetector,
    ScriptedChatModel,
    SlowDetector,
    StatedDetector,
    WatchedDetector,
)
from tests.conftest import write_policies

KEYWORDS = KeywordDetector({"injection": {"injection": ["attack", "ignore all"]}, "safety": {"unsafe": ["poison"]}})


def found(text: str, detector: KeywordDetector = KEYWORDS) -> list[tuple[str, str]]:
    (scores,) = detector.score([Step(stage="input", text=text)])
    return [(span.head, text[span.start : span.end]) for span in scores.spans]


def test_every_word_that_is_found_is_a_span() -> None:
    text = "An Attack, poison; IGNORE ALL, attackattack."
    (scores,) = KEYWORDS.score([Step(stage="input", text=text)])
    assert scores.by_head == {"injection": {"injection": 1.0}, "safety": {"unsafe": 1.0}}
    assert scores.spans[0] == Span(start=3, end=9, head="injection", label="injection", score=1.0)
    assert found(text) == [
        *[("injection", word) for word in ("Attack", "attack", "attack", "IGNORE ALL")],
        ("safety", "poison"),
    ]


@pytest.mark.parametrize("text", ["", "harmless"])
def test_what_holds_no_word_has_no_span(text: str) -> None:
    (scores,) = KEYWORDS.score([Step(stage="input", text=text)])
    assert (scores.spans, set(scores.by_head["injection"].values())) == ((), {0.0})


def test_spans_stand_where_the_words_do_also_where_lower_case_is_longer() -> None:
    assert found("\u0130\u0130 ATTACK \u0130 attack \u0130") == [("injection", "ATTACK"), ("injection", "attack")]


def test_words_are_no_patterns_and_an_empty_one_stands_nowhere() -> None:
    detector = KeywordDetector({"h": {"x": ["a.c", "", "("]}})
    assert found("abc a.c (", detector) == [("h", "a.c"), ("h", "(")]


def test_so_many_spans_and_no_more() -> None:
    assert len(found("attack " * (MOST_FOUND + 5))) == MOST_FOUND


# --- other detectors

RULE = """
    message: No.
    rules:
      - {name: block, stages: [input], head: injection, threshold: 0.5, action: block}
"""


def test_scores_are_those_that_are_stated() -> None:
    detector = StatedDetector({"a": {"h": {"x": 0.2, "y": 0.9}}, "b": {"h": {"x": 0.4}, "g": {"z": 1.0}}})
    assert detector.labels == {"h": ("x", "y"), "g": ("z",)}
    steps = [Step(stage="input", text=text) for text in ("a", "ba", "-")]
    assert [one.by_head for one in detector.score(steps)] == [
        {"h": {"x": 0.2, "y": 0.9}, "g": {"z": 0.0}},
        {"h": {"x": 0.4, "y": 0.9}, "g": {"z": 1.0}},
        {"h": {"x": 0.0, "y": 0.0}, "g": {"z": 0.0}},
    ]
    assert detector.seen == steps


@pytest.mark.parametrize("score", [-0.1, 1.1, float("nan")])
def test_a_stated_score_is_from_0_to_1(score: float) -> None:
    with pytest.raises(DetectorError, match=r"h\.x"):
        StatedDetector({"a": {"h": {"x": score}}})


def test_a_detector_that_fails_fails_closed(tmp_path: Path) -> None:
    detector = FailingDetector({"injection": ["injection"]})
    guard = Guard(write_policies(tmp_path, {"default.yaml": RULE}), detector)
    assert guard.check(Step(stage="input", text="hi")).action == "block"
    assert detector.asked
    assert detector.score([]) == []
    with pytest.raises(ZeroDivisionError):
        FailingDetector({}, ZeroDivisionError()).score([Step(stage="input", text="hi")])


def test_a_slow_detector_is_late_and_can_be_released(tmp_path: Path) -> None:
    detector = SlowDetector(KEYWORDS, 30.0)
    assert (detector.labels, detector.detector_id) == (KEYWORDS.labels, "keywords")
    policy = RULE + "    fail: {input: {timeout: flag, timeout_ms: 20}}\n"
    try:
        guard = Guard(write_policies(tmp_path, {"default.yaml": policy}), detector)
        began = time.perf_counter()
        assert guard.check(Step(stage="input", text="hi")).action == "flag"
        assert time.perf_counter() - began < 20
    finally:
        detector.release()
    assert detector.score([Step(stage="input", text="attack")])[0].by_head["injection"] == {"injection": 1.0}


def test_a_watched_detector_gives_the_same_and_tells_what_it_was_asked(embedded: LayerDetector) -> None:
    steps = [Step(stage="input", text="How are you?")]
    watched = WatchedDetector(embedded)
    assert watched.score(steps)[0].by_head == embedded.score(steps)[0].by_head
    assert (watched.seen, watched.detector_id, watched.heads) == (steps, embedded.detector_id, embedded.heads)
    failing = WatchedDetector(FailingDetector({"h": ["x"]}))
    with pytest.raises(DetectorError):
        failing.score(steps)
    assert failing.seen == steps


# --- the model


class Place(BaseModel):
    """A place."""

    name: str
    people: int = 0


@tool
def pay(to: str, amount: int) -> str:
    """Pay a bill."""
    return f"Paid {amount} to {to}."


USAGE = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
PAYS = AIMessage(
    content="",
    tool_calls=[
        {"name": "pay", "args": {"to": "the plumber in the old town", "amount": 80}, "id": "c1"},
        {"name": "pay", "args": {}, "id": "c2"},
    ],
    usage_metadata=USAGE,
    response_metadata={"finish_reason": "tool_calls"},
)


def same(one: AIMessage, other: AIMessage) -> bool:
    """Whether two messages say the same."""
    return (one.text, one.tool_calls, one.usage_metadata) == (other.text, other.tool_calls, other.usage_metadata)


async def said(model: ScriptedChatModel, text: str = "go") -> list[AIMessage]:
    """What a model answers in every mode, put together."""
    return [
        model.invoke(text),
        await model.ainvoke(text),
        *model.batch([text]),
        *await model.abatch([text]),
        reduce(add, model.stream(text)),
        reduce(add, [chunk async for chunk in model.astream(text)]),
        *[e["data"]["output"] async for e in model.astream_events(text) if e["event"] == "on_chat_model_end"],
    ]


@pytest.mark.parametrize(
    "answer",
    [
        PAYS,
        AIMessage(""),
        AIMessage(" two  words ", usage_metadata=USAGE),
        AIMessage([{"type": "text", "text": "in blocks"}, {"type": "text", "text": " of text"}]),
        PAYS.model_copy(update={"content": "I pay."}),
    ],
    ids=["calls", "nothing", "words", "blocks", "both"],
)
async def test_an_answer_is_the_same_in_every_mode(answer: AIMessage) -> None:
    answers = await said(ScriptedChatModel(answer=answer))
    assert len(answers) == 7
    for one in answers:
        assert same(one, answer), one
        assert one.response_metadata.get("finish_reason") == answer.response_metadata.get("finish_reason")


@given(
    text=st.text(), args=st.dictionaries(st.text(), st.text() | st.integers(-9, 9), max_size=3), calls=st.integers(0, 2)
)
@settings(deadline=None, max_examples=60)
def test_chunks_add_up_to_the_answer(text: str, args: dict[str, Any], calls: int) -> None:
    answer = AIMessage(text, tool_calls=[{"name": "f", "args": args, "id": str(at)} for at in range(calls)])
    assert same(reduce(add, ScriptedChatModel(answer=answer).stream("go")), answer)


def test_arguments_are_streamed_in_pieces() -> None:
    chunks = list(ScriptedChatModel(answer=PAYS).stream("go"))
    pieces = [call["args"] for chunk in chunks for call in chunk.tool_call_chunks]
    assert sum("plumber" in (piece or "") for piece in pieces) <= 1
    assert len(pieces) > 4
    assert [chunk.chunk_position for chunk in chunks].count("last") == 1


def test_a_script_can_be_a_function_and_the_tools_that_were_offered_are_told() -> None:
    model = ScriptedChatModel(script={"first": "one"}, answer=lambda messages: f"{len(messages)} messages")
    bound = model.bind_tools([pay, Place])
    assert [bound.invoke(text).text for text in ("the first", "another")] == ["one", "1 messages"]
    assert model.offered == [["pay", "Place"]] * 2
    assert [call[0].text for call in model.calls] == ["the first", "another"]


async def test_structured_answers_are_objects_of_the_schema() -> None:
    chain = ScriptedChatModel(answer=Place(name="Oslo", people=2)).with_structured_output(Place)
    assert chain.invoke("go") == await chain.ainvoke("go") == Place(name="Oslo", people=2)
    assert list(chain.stream("go"))[-1] == Place(name="Oslo", people=2)
    agent = create_agent(ScriptedChatModel(answer=Place(name="Oslo")), [], response_format=Place)
    assert agent.invoke({"messages": [("user", "hi")]})["structured_response"] == Place(name="Oslo")


def answers(messages: list[Any]) -> str | AIMessage:
    return "Done." if messages[-1].type == "tool" else PAYS.model_copy(update={"tool_calls": PAYS.tool_calls[:1]})


AGENT = create_agent(ScriptedChatModel(answer=answers), [pay])
GO: Any = {"messages": [HumanMessage("pay")]}


@pytest.mark.parametrize("mode", ["values", "updates", "messages", "debug"])
async def test_an_agent_runs_to_its_end_in_every_stream_mode(mode: Any) -> None:
    chunks = list(AGENT.stream(GO, stream_mode=mode))
    twins = [chunk async for chunk in AGENT.astream(GO, stream_mode=mode)]
    for own in (chunks, twins):
        assert "Paid 80 to the plumber in the old town." in str(own)
        assert "Done." in str(own)


def test_no_tool_call_is_lost_where_messages_are_streamed() -> None:
    chunks = [chunk for chunk, _ in AGENT.stream(GO, stream_mode="messages") if chunk.type == "AIMessageChunk"]
    asked = [chunk for chunk in chunks if chunk.id == chunks[0].id]
    assert reduce(add, asked).tool_calls == PAYS.tool_calls[:1]


async def test_an_agent_runs_to_its_end_where_events_are_streamed() -> None:
    ends = [event async for event in AGENT.astream_events(GO) if event["event"] == "on_tool_end"]
    assert [end["data"]["output"].text for end in ends] == ["Paid 80 to the plumber in the old town."]


@pytest.mark.filterwarnings("ignore:The v3 streaming protocol")
async def test_and_in_the_third_form_of_events() -> None:
    assert "Paid 80" in str([event async for event in await AGENT.astream_events(GO, version="v3")])
