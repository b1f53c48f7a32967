"""Items of the Responses form: all that they say is read, and comes back edited where it was."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from lec_guard_integrations.openai_items import answer_of, pieces_of

from lec_guard.chain.lens import read
from lec_guard.errors import UnsupportedValueError

OTHERS: list[dict[str, Any]] = [
    {"role": "user", "content": "darn"},
    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": one} for one in ("darn", "x")]},
    {"role": "developer", "content": "darn"},
    {"type": "function_call_output", "call_id": "c", "output": "darn"},
    {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "darn"}]},
    {"type": "custom_tool_call_output", "call_id": "c", "output": "darn"},
    {"type": "local_shell_call_output", "id": "i", "output": "darn"},
    {"type": "shell_call_output", "call_id": "c", "output": [{"stdout": "darn", "outcome": {"exit_code": 1}}]},
    {"type": "computer_call_output", "call_id": "c", "output": {"text": "darn"}, "checks": [{"message": "darn"}]},
    {"type": "program_output", "call_id": "c", "result": "darn"},
    {"type": "mcp_approval_response", "approval_request_id": "a", "approve": True, "reason": "darn"},
]  # fmt: skip
SAID: list[dict[str, Any]] = [
    {"role": "assistant", "content": "darn"},
    {
        "type": "message",
        "id": "m",
        "role": "assistant",
        "status": "completed",
        "content": [
            {"type": "output_text", "text": "x", "annotations": [{"type": "url_citation", "title": "darn", "url": "http://darn"}]},
            {"type": "output_text", "text": "darn", "annotations": []},
            {"type": "refusal", "refusal": "darn"},
        ],
    },
    {"type": "function_call", "id": "f", "call_id": "c", "name": "send", "arguments": '{"a": ["darn"], "b": 1}'},
    {"type": "function_call", "call_id": "d", "name": "send", "arguments": '{"a": "darn'},
    {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "darn"}]},
    {"type": "reasoning", "id": "r", "summary": [], "content": [{"type": "reasoning_text", "text": "darn"}]},
    {"type": "custom_tool_call", "call_id": "c", "name": "t", "input": "darn"},
    {"type": "local_shell_call", "call_id": "c", "action": {"type": "exec", "command": ["darn"], "env": {"A": "darn"}}},
    {"type": "apply_patch_call", "call_id": "c", "operation": {"type": "create_file", "path": "darn", "diff": "+darn"}},
    {"type": "computer_call", "call_id": "c", "actions": [{"type": "type", "text": "darn"}]},
    {"type": "web_search_call", "id": "w", "action": {"type": "search", "query": "darn"}},
    {"type": "file_search_call", "id": "w", "queries": ["darn"], "results": [{"text": "darn", "filename": "darn"}]},
    {"type": "mcp_call", "id": "w", "name": "t", "server_label": "s", "arguments": '{"a": "darn"}', "output": "darn"},
    {"type": "mcp_approval_request", "id": "w", "name": "t", "arguments": "darn", "server_label": "s"},
    {"type": "code_interpreter_call", "id": "w", "code": "darn", "outputs": [{"type": "logs", "logs": "darn"}]},
    {"type": "program", "id": "w", "call_id": "c", "code": "darn"},
]  # fmt: skip
NAMES = [one.get("type") or one["role"] for one in (*OTHERS, *SAID)]


def softened(value: Any) -> Any:
    match value:
        case str():
            return value.replace("darn", "dear")
        case list():
            return [softened(one) for one in value]
        case dict():
            return {key: softened(one) for key, one in value.items()}
        case _:
            return value


@pytest.mark.parametrize("item", [*OTHERS, *SAID], ids=NAMES)
@pytest.mark.parametrize("is_answer", [False, True])
def test_all_of_an_item_is_read_and_comes_back(item: dict[str, Any], is_answer: bool) -> None:
    if is_answer and item in OTHERS and not str(item.get("type")).endswith("_output"):
        return  # No model answers that.
    before = copy.deepcopy(item)
    piece = answer_of([item], 3) if is_answer else pieces_of([item])[0]
    assert piece.passing(piece.message) == [item]
    edited = read([piece.message]).mapped(lambda text: text.replace("darn", "dear"))[0]
    assert edited is not piece.message
    assert piece.passing(edited) == [softened(item)]
    assert item == before


def test_what_says_how_likely_the_old_words_were_goes() -> None:
    part = {"type": "output_text", "text": "darn", "annotations": [], "logprobs": [{"token": "darn", "logprob": 0.0}]}
    [piece] = pieces_of([{"role": "assistant", "content": [part, {**part, "text": "x"}]}])
    edited = read([piece.message]).mapped(lambda text: text.replace("darn", "dear"))[0]
    [item] = piece.passing(edited)
    assert item["content"] == [{"type": "output_text", "text": "dear", "annotations": []}, {**part, "text": "x"}]


def test_what_a_model_says_at_once_is_one_message() -> None:
    pieces = pieces_of([OTHERS[0], SAID[0], SAID[2], OTHERS[3], SAID[0], OTHERS[0]])
    assert [len(piece.items) for piece in pieces] == [1, 2, 1, 1, 1]
    assert [type(piece.message).__name__ for piece in pieces] == [
        "HumanMessage", "AIMessage", "ToolMessage", "AIMessage", "HumanMessage",
    ]  # fmt: skip
    assert pieces[2].message.name == "send"
    assert len({piece.message.id for piece in pieces}) == 5


def test_what_no_text_can_stand_for_is_refused() -> None:
    [piece] = pieces_of([OTHERS[8]])
    with pytest.raises(UnsupportedValueError, match="computer_call_output"):
        piece.passing(piece.message.model_copy(update={"content": "No."}))
    for item in ({"type": "item_reference"}, {"type": "compaction"}, {"type": "image_generation_call"}):
        with pytest.raises(UnsupportedValueError):
            answer_of([item], 0)
    with pytest.raises(UnsupportedValueError, match="item 0 is a str"):
        pieces_of(["darn"])
    with pytest.raises(UnsupportedValueError):
        pieces_of([{"role": "user", "content": [7]}])
