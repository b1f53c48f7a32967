"""What a model writes is split into content and tool calls, however it comes."""

from __future__ import annotations

import pytest
from langchain_core.messages import AIMessageChunk

from lec_guard.generate.calls import Calls

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>'


@pytest.mark.parametrize(
    ("written", "content", "calls", "invalid"),
    [
        ("plain", "plain", [], 0),
        ("a < b <tool> <tool_cal", "a < b <tool> <tool_cal", [], 0),
        ("  \n ", "  \n ", [], 0),
        (f"\n{CALL}\n", "", [("add", {"a": 1, "b": 2})], 0),
        (f"a {CALL}\n{CALL}", "a ", [("add", {"a": 1, "b": 2})] * 2, 0),
        (f"{CALL} b\nc ", " b\nc ", [("add", {"a": 1, "b": 2})], 0),
        ('<tool_call>{"name": "f"}</tool_call>', "", [("f", {})], 0),
        ('<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>', "", [("f", {"a": 1})], 0),
        ('<tool_call>{"name": "f", "arguments": {"a": 1}}', "", [("f", {"a": 1})], 0),
        ('<tool_call>{"name": "f", "arguments": {"a": 1}', "", [], 1),
        ('<tool_call>{"name": "f", "arguments": [1]}</tool_call>', "", [], 1),
        ('<tool_call>{"name": "f", "arguments": {"a": NaN}}</tool_call>', "", [], 1),
        ('<tool_call>{"name": ""}</tool_call>', "", [], 1),
        ("<tool_call>[1]</tool_call>", "", [], 1),
        ("<tool_call></tool_call>", "", [], 1),
        ("<tool_call>" + "[" * 3_000 + "</tool_call>", "", [], 1),
        (f"<tool_call>nothing</tool_call>{CALL}", "", [("add", {"a": 1, "b": 2})], 1),
    ],
)
def test_calls_are_read_however_they_come(written, content, calls, invalid):
    for size in (1, 2, 3, 7, 1000):
        if size < 7 and len(written) > 1_000:
            continue
        reader = Calls()
        parts = [part for at in range(0, len(written), size) for part in reader.add(written[at : at + size])]
        parts += reader.rest()
        assert "".join(part for part in parts if isinstance(part, str)) == content
        told = [part for part in parts if not isinstance(part, str)]
        assert [(part["name"], part["args"]) for part in told if part["type"] == "tool_call"] == calls
        wrong = [part for part in told if part["type"] == "invalid_tool_call"]
        assert len(wrong) == invalid
        for part in wrong:
            assert part["error"].startswith("not a tool call")
            # As a chunk it stays what it is.
            chunk = {"name": part["name"], "args": part["args"], "id": part["id"], "index": 0}
            one = AIMessageChunk(content="", tool_call_chunks=[chunk]) + AIMessageChunk("", chunk_position="last")
            assert one.tool_calls == []
            assert len(one.invalid_tool_calls) == 1


def test_what_may_begin_a_call_is_kept_back():
    reader = Calls()
    assert reader.add("a <tool") == ["a "]
    assert reader.add("box>") == ["<toolbox>"]
    assert reader.add("<tool_call>{") == []
    assert reader.add("never shown") == []
