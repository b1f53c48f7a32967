from __future__ import annotations

import pytest
from langchain_core.documents import Document
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.runnables.utils import AddableDict

from lec_guard import UnsupportedValueError
from lec_guard.chain.messages import merged, request_of, steps_of
from tests.chain.values import ATTACK, KINDS, OUTPUTS, Answer, Inner, Kind, call


@pytest.mark.parametrize("kind", [*KINDS, *OUTPUTS], ids=str)
def test_a_text_is_read_wherever_it_stands(kind: Kind) -> None:
    assert any(ATTACK in step.text for step in steps_of(kind.make(ATTACK)))


@pytest.mark.parametrize("kind", [*KINDS, *OUTPUTS], ids=str)
def test_reading_leaves_the_value_as_it_was(kind: Kind) -> None:
    value, twin = kind.make(ATTACK), kind.make(ATTACK)
    steps_of(value)
    assert value == twin


def test_a_str_of_unknown_direction_is_judged_both_ways() -> None:
    assert [step.stage for step in steps_of("x")] == ["input", "output"]
    assert [step.stage for step in steps_of("x", "tool_output")] == ["tool_output"]


def test_a_message_keeps_its_own_stage_whatever_the_view() -> None:
    value = [HumanMessage("a"), AIMessage("b", tool_calls=[call({"q": "c"})]), ToolMessage("d", tool_call_id="1")]
    for stage in (None, "input", "output"):
        assert [step.stage for step in steps_of(value, stage)] == ["input", "output", "tool_input", "tool_output"]


def test_each_step_has_the_context_it_is_judged_against() -> None:
    value = [
        SystemMessage("be a bank"),
        HumanMessage("my task"),
        AIMessage("", tool_calls=[call({"q": "x"})]),
        ToolMessage("found", tool_call_id="1", name="search"),
        AIMessage("answer"),
    ]
    human, arguments, found, answer = steps_of(value)
    assert (human.context, arguments.context, found.context, answer.context) == (
        "be a bank",
        "my task",
        "my task",
        "my task",
    )
    assert arguments.tool is not None
    assert found.tool is not None
    assert (arguments.tool.name, found.tool.name) == ("search", "search")
    assert [step.origin.trust for step in (human, arguments, found, answer) if step.origin] == [
        "user",
        "model",
        "third_party",
        "model",
    ]


def test_a_request_from_outside_is_the_context_of_an_output() -> None:
    assert [step.context for step in steps_of("answer", "output", "the request")] == ["the request"]
    assert [step.context for step in steps_of(AIMessage("answer"), None, "the request")] == ["the request"]


def test_parts_that_belong_together_are_one_step() -> None:
    [blocks] = steps_of(HumanMessage([{"type": "text", "text": "ignore"}, {"type": "text", "text": "the rules"}]))
    assert blocks.text == "ignore\nthe rules"
    [arguments] = steps_of(AIMessage("", tool_calls=[call({"a": "ignore", "b": ["the", {"c": "rules"}], "n": 7})]))
    assert arguments.text == "a: ignore\nb: the\nc: rules\nn: 7"


def test_system_messages_are_context_but_alone_they_are_judged() -> None:
    assert [step.text for step in steps_of([SystemMessage("be nice"), HumanMessage("hi")])] == ["hi"]
    assert [(step.stage, step.text) for step in steps_of([SystemMessage("be nice")])] == [("input", "be nice")]


@pytest.mark.parametrize(
    "empty",
    ["", HumanMessage(""), AIMessage(""), AIMessage([]), ToolMessage("", tool_call_id="1"), {}, RemoveMessage(id="1")],
    ids=repr,
)
def test_an_empty_value_is_a_step_with_an_empty_text(empty: object) -> None:
    assert {step.text for step in steps_of(empty)} == {""}


def test_a_call_without_arguments_is_a_step() -> None:
    assert [step.stage for step in steps_of(AIMessage("", tool_calls=[call({})]))] == ["tool_input"]


def test_a_repeated_call_is_one_step() -> None:
    block = {"type": "tool_use", "id": "1", "name": "search", "input": {"q": "x"}}
    assert len(steps_of(AIMessage([block], tool_calls=[call({"q": "x"})]))) == 1


@pytest.mark.parametrize(
    "value",
    [
        None,
        7,
        True,
        b"bytes",
        object(),
        [object()],
        {"a": b"bytes"},
        {"a": {"b": [object()]}},
        AIMessage("", tool_calls=[call({"q": object()})]),
        HumanMessage([{"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}]),
        HumanMessage([{"type": "image", "base64": "aGk=", "mime_type": "image/png"}]),
        HumanMessage([{"type": "audio", "base64": "aGk="}]),
        Document(page_content="x", metadata={"blob": b"bytes"}),
        [("human", "hi"), object()],
        [HumanMessage("hi"), {"role": "user"}],
        (step for step in "ab"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_read_is_refused(value: object) -> None:
    with pytest.raises(UnsupportedValueError):
        steps_of(value)


def test_a_refusal_says_where() -> None:
    with pytest.raises(UnsupportedValueError, match=r"the value\.a\.b\[1\] is a bytes"):
        steps_of({"a": {"b": ["x", b"y"]}})


def test_an_empty_list_in_a_conversation_has_nothing_to_judge() -> None:
    assert {step.text for step in steps_of([])} == {""}


def test_nesting_without_end_is_refused() -> None:
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(UnsupportedValueError, match="deep"):
        steps_of(loop)
    with pytest.raises(UnsupportedValueError, match="deep"):
        steps_of(AIMessage("", tool_calls=[call({"q": loop})]))


def test_data_that_only_looks_like_a_message_is_read_as_data() -> None:
    [step, _] = steps_of({"type": "article", "content": "text", "role": "editor"})
    assert step.text == "type: article\ncontent: text\nrole: editor"


def test_none_says_nothing() -> None:
    [step, _] = steps_of(Answer(inner=Inner(note="x")))
    assert step.text == "note: x\nhidden: \nnumber: 1.5\ncolour: red"


def test_request_of_is_the_last_user_text() -> None:
    assert request_of([HumanMessage("a"), AIMessage("b"), HumanMessage("c"), AIMessage("d")]) == "c"
    assert request_of("a") == "a"
    assert request_of(AIMessage("a")) is None


def test_chunks_that_add_up_are_read_as_one() -> None:
    assert merged(["a ", "b"]) == ["a b"]
    [message] = merged([AIMessageChunk(content="a "), AIMessageChunk(content="b")])
    assert message.content == "a b"
    assert merged([AddableDict({"a": "x "}), AddableDict({"a": "y"})]) == [{"a": "x y"}]


def test_chunks_that_do_not_add_up_are_all_read() -> None:
    partial = [{"a": "x"}, {"a": "x y"}]
    assert merged(partial) == partial
    messages = [AIMessage("a"), AIMessage("b")]
    assert merged(messages) == messages
    assert merged([]) == []
