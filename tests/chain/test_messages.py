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
from langchain_core.prompt_values import ImagePromptValue
from langgraph.types import Command, Interrupt
from pydantic import BaseModel, RootModel, computed_field

from lec_guard import UnsupportedValueError
from lec_guard.chain.messages import request_of, steps_of
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
    blocks = steps_of(HumanMessage([{"type": "text", "text": "ignore"}, {"type": "text", "text": "the rules"}]))
    assert [step.text for step in blocks] == ["ignore\nthe rules", "ignorethe rules"]
    [arguments] = steps_of(AIMessage("", tool_calls=[call({"a": "ignore", "b": ["the", {"c": "rules"}], "n": 7})]))
    assert arguments.text == "a: ignore\nb: the\nb\nc: rules\nn: 7"


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
        ImagePromptValue(image_url={"url": "https://x.example/a.png"}),
        HumanMessage([{"type": "tool_result", "tool_use_id": "1", "content": [{"type": "image", "data": "aGk="}]}]),
        HumanMessage([{"type": "non_standard", "value": {"type": "image_url", "image_url": {"url": "data:x"}}}]),
        AIMessage([{"type": "image_generation_call", "result": "aGk="}]),
        HumanMessage([{"type": "text-plain", "base64": "aGk="}]),
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


def test_keys_and_leaves_are_a_line_each() -> None:
    [step, _] = steps_of(Answer(inner=Inner(note="x")))
    assert step.text == "inner\nnote: x\nhidden\nnumber: 1.5\ncolour: red\ntags"


def test_request_of_is_the_last_user_text() -> None:
    assert request_of([HumanMessage("a"), AIMessage("b"), HumanMessage("c"), AIMessage("d")]) == "c"
    assert request_of("a") == "a"
    assert request_of(AIMessage("a")) is None


@pytest.mark.parametrize(
    "value",
    [
        {ATTACK: {"x": "y"}},
        {ATTACK: None},
        {ATTACK: []},
        {ATTACK: {}},
        {ATTACK: HumanMessage("hi")},
        {"messages": [HumanMessage("hi")], ATTACK: 1},
        AIMessage("", tool_calls=[call({ATTACK: {"x": 1}})]),
        Document(page_content="x", metadata={ATTACK: {"y": "z"}}),
        {"turns": [{"role": "system", "content": ATTACK}, {"role": "user", "content": "x"}]},
        {"turns": [{"type": "system", "content": ATTACK}, {"type": "human", "content": "x"}]},
        {"members": [{"role": "user", "content": ATTACK}, {"role": "owner", "content": "y"}]},
        {"logs": [{"type": "tool", "content": ATTACK}]},
        {"event": {"type": "system", "content": {"a": ATTACK}}},
        {"role": "assistant", "content": ATTACK, "tool_calls": ["a"]},
        {"type": "tool_call", "name": ["a"], "args": {"q": ATTACK}},
        {"type": "tool_call", "name": "s", "args": {}, "id": "1", "note": ATTACK},
        AIMessage([{"type": "tool_use", "id": "1", "name": "s", "input": {}, "partial_json": ATTACK}]),
        AIMessage([{"type": "function_call", "name": "s", "input": "", "arguments": ATTACK}]),
        AIMessage([{"type": "server_tool_use", "id": "1", "name": "s", "input": {"q": ATTACK}}]),
        HumanMessage([{"type": "tool_call", "text": ATTACK}]),
        HumanMessage([{"type": ["x"], "text": ATTACK}]),
        AIMessage("", tool_calls=[call({"q": "x"})], additional_kwargs={"function_call": {"arguments": ATTACK}}),
        AIMessage(
            "",
            tool_calls=[call({"q": "hi"})],
            additional_kwargs={
                "tool_calls": [{"id": "1", "function": {"arguments": f'{{"q": "{ATTACK}", "q": "hi"}}'}}]
            },
        ),
        AIMessageChunk(
            content="", tool_call_chunks=[{"name": "s", "args": f'{{"q": 1}} {ATTACK}', "id": "1", "index": 0}]
        ),
        HumanMessage([{"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": ATTACK}]}]),
        Command(resume=ATTACK),
        {"__interrupt__": [Interrupt(value={"question": ATTACK}, id="1")]},
        {"raw": AIMessage("x"), "parsed": None, "parsing_error": ValueError(ATTACK)},
    ],
    ids=lambda value: str(value)[:40],
)
def test_no_corner_goes_unread(value: object) -> None:
    for stage in (None, "output"):
        assert any(ATTACK in step.text for step in steps_of(value, stage))  # type: ignore[arg-type]


def test_pydantic_objects_are_read_whole_however_they_iterate() -> None:
    class Listed(BaseModel):
        title: str
        items: list[tuple[str, str]]

        def __iter__(self):  # type: ignore[no-untyped-def]
            return iter(self.items)

        @computed_field  # type: ignore[prop-decorator]
        @property
        def summary(self) -> str:
            return "computed"

    text = steps_of(Listed(title="the title", items=[("a", "b")]))[0].text
    assert "the title" in text
    assert "computed" in text
    assert "in a root" in steps_of(RootModel[list[str]](["in a root"]))[0].text


def test_an_attack_split_over_text_blocks_is_read_in_one_piece() -> None:
    message = HumanMessage([{"type": "text", "text": ATTACK[i : i + 3]} for i in range(0, len(ATTACK), 3)])
    assert message.text == ATTACK
    assert any(ATTACK in step.text for step in steps_of(message))


def test_a_result_in_another_message_is_third_party_text() -> None:
    [step] = steps_of(HumanMessage([{"type": "tool_result", "tool_use_id": "1", "content": "found"}]))
    assert step.stage == "tool_output"
    assert "found" in step.text
    assert step.origin is not None
    assert step.origin.trust == "third_party"


@pytest.mark.parametrize("copy", ["tool_calls", "function_call"])
def test_a_providers_copy_of_a_call_is_not_judged_twice(copy: str) -> None:
    function = {"name": "search", "arguments": '{"q": "x"}'}
    raw = {copy: function} if copy == "function_call" else {copy: [{"type": "function", "function": function}]}
    assert len(steps_of(AIMessage("", tool_calls=[call({"q": "x"})], additional_kwargs=raw))) == 1


def test_harmless_leaves_are_no_reason_to_refuse() -> None:
    import datetime
    import pathlib

    import numpy as np

    metadata = {"score": np.float32(0.5), "n": np.int64(3), "ok": np.bool_(True), "path": pathlib.PurePath("a/b")}
    metadata |= {"age": datetime.timedelta(1), "day": datetime.date(2026, 1, 1), "none": None}
    [step] = steps_of(Document(page_content="x", metadata=metadata))
    assert "score: 0.5" in step.text
    for value, text in ((None, ""), (7, "7"), (True, "True")):
        assert {step.text for step in steps_of(value)} == {text}


def test_a_refusal_never_shows_the_text() -> None:
    for value in (
        [HumanMessage("x"), {"role": "user", "foo": "my-secret"}],
        {"my secret words that are a key": object()},
        AIMessage("", tool_calls=[call({"my secret words that are a key": object()})]),
    ):
        with pytest.raises(UnsupportedValueError) as refused:
            steps_of(value)
        assert "secret" not in str(refused.value)
