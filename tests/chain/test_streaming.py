from __future__ import annotations

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.runnables.utils import AddableDict

from lec_guard.chain.streaming import read_stream, whole
from tests.chain.values import ATTACK


def texts(chunks: list[object]) -> list[str]:
    return [step.text for step in read_stream(chunks, "output").steps]


def test_chunks_that_add_up_are_read_as_one() -> None:
    assert texts(["a ", "b"]) == ["a b"]
    assert texts([AIMessageChunk(content="a "), AIMessageChunk(content="b")]) == ["a b"]
    assert texts([["ignore"], ["all"]]) == ["ignore\nall"]
    assert read_stream([]).steps == []


def test_dicts_add_up_key_by_key() -> None:
    assert texts([AddableDict({"a": "x "}), AddableDict({"a": "y"})]) == ["a: x y"]
    mixed = [{"a": "EV"}, {"b": {"c": 1}}, {"a": "IL"}, {"b": {"c": 12, "d": "z"}}]
    assert texts(mixed) == ["a: EVIL\nb\nc: 12\nd: z"]


def test_a_growing_object_is_read_once() -> None:
    assert texts([{}, {"a": "x"}, {"a": "x y"}, {"a": "x y", "b": [1]}]) == ["a: x y\nb: 1"]
    assert texts([None, 1, 12]) == ["12"]


def test_chunks_whose_metadata_do_not_add_up_are_still_one_text() -> None:
    chunks = [
        AIMessageChunk(content="EV", response_metadata={"score": 0.5}, additional_kwargs={"x": "a"}),
        AIMessageChunk(content="IL", response_metadata={"score": 0.7}, additional_kwargs={"x": {"b": 1}}),
    ]
    assert any("EVIL" in text for text in texts(chunks))


def test_the_names_of_chunks_are_read() -> None:
    assert texts([AIMessageChunk(content="a ", name=ATTACK), AIMessageChunk(content="b")]) == [f"a b\nname: {ATTACK}"]


def test_chunks_of_different_messages_keep_their_stages() -> None:
    from langchain_core.messages import ChatMessageChunk, SystemMessageChunk, ToolMessageChunk

    steps = read_stream([AIMessageChunk(content="hi"), ToolMessageChunk(content="x", tool_call_id="1")]).steps
    assert {step.stage for step in steps} == {"output", "tool_output"}
    steps = read_stream([SystemMessageChunk(content="x"), AIMessageChunk(content=ATTACK)]).steps
    assert ("output", ATTACK) in [(step.stage, step.text) for step in steps]
    assert read_stream([ChatMessageChunk(role="user", content="a"), ChatMessageChunk(role="ai", content="b")]).steps


def test_chunks_of_different_kinds_are_read_apart_and_in_one_piece() -> None:
    assert any("EVIL" in text for text in texts([AIMessageChunk(content="EV"), AIMessage("IL")]))
    assert any("EVIL" in text for text in texts(["EV", AIMessageChunk(content="IL")]))


def test_a_graphs_streams_are_read_in_every_mode() -> None:
    meta = {"langgraph_node": "model", "ls_model_name": "x"}
    messages = [(AIMessageChunk(content="EV"), meta), (AIMessageChunk(content="IL"), meta)]
    assert texts(messages) == ["EVIL"]  # type: ignore[arg-type]
    assert any("EVIL" in text for text in texts([("messages", one) for one in messages]))
    assert any("EVIL" in text for text in texts([(("sub:1",), "messages", one) for one in messages]))
    updates = [("updates", {"model": {"messages": [AIMessage(ATTACK)]}}), ("messages", messages[0])]
    assert any(ATTACK in text for text in texts(updates))  # type: ignore[arg-type]


def test_a_stream_is_added_as_langchain_adds() -> None:
    assert whole(["a", "b"]) == "ab"
    assert whole([[1, "a"], ["b"]]) == [1, "a", "b"]
    assert whole([{"a": 1}, {"a": 2}]) == {"a": 2}
    assert whole([]) is None
