"""The way back from edits of steps' texts to a value."""

from __future__ import annotations

import copy
import dataclasses
import json
import types
from collections import OrderedDict, UserDict, defaultdict
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Annotated, Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.messages.base import TextAccessor
from langchain_core.prompt_values import ChatPromptValue, StringPromptValue
from langgraph.types import Command, Interrupt
from pydantic import AliasChoices, AliasPath, BaseModel, ConfigDict, Field, RootModel, computed_field, field_validator

from lec_guard import UnsupportedValueError
from lec_guard.act.edits import apply_edits
from lec_guard.chain.lens import Reading, UneditableError, read
from lec_guard.chain.messages import steps_of
from lec_guard.step import Edit, Stage
from tests.chain.values import KINDS, OUTPUTS, Colour, Kind, call

WORD, BY = "SECRET", "[gone]"
TEXT = f"an {WORD} here"
KEYS = {"named human message", "tool call key", "key of a dict"}
"""Kinds whose text is a name or a key."""


def found(reading: Reading, word: str = WORD, by: str = BY) -> dict[int, list[Edit]]:
    """Edits of a word wherever it is read, as a rewriter makes them."""
    edits: dict[int, list[Edit]] = {}
    for number, step in enumerate(reading.steps):
        at = step.text.find(word)
        while at >= 0:
            edits.setdefault(number, []).append(Edit(start=at, end=at + len(word), replacement=by))
            at = step.text.find(word, at + len(word))
    return edits


def redacted(value: Any, word: str = WORD, by: str = BY, stage: Stage | None = None) -> Any:
    reading = read(value, stage)
    return reading.edited(found(reading, word, by))


def dumped(value: Any) -> str:
    """All that a value holds."""
    if isinstance(value, BaseModel):
        return str(value.model_dump()) + repr(value) + str(getattr(value, "content_blocks", ""))
    if isinstance(value, list | tuple):
        return "".join(dumped(item) for item in value)
    if isinstance(value, dict):
        return "".join(dumped(key) + dumped(item) for key, item in value.items())
    return repr(value)


def texts(value: Any) -> list[str]:
    return [step.text for step in steps_of(value)]


# --- every kind of value


@pytest.mark.parametrize("stage", [None, "input", "output"])
@pytest.mark.parametrize("kind", [*KINDS, *OUTPUTS], ids=str)
def test_an_edit_finds_its_text_wherever_it_stands(kind: Kind, stage: Stage | None) -> None:
    value, before = kind.make(TEXT), kind.make(TEXT)
    if kind.name in KEYS:
        with pytest.raises(UneditableError):
            redacted(value, stage=stage)
    else:
        new = redacted(value, stage=stage)
        assert new == kind.make(TEXT.replace(WORD, BY))
        assert type(new) is (str if isinstance(value, str) else type(value))
        assert WORD not in dumped(new)
    assert value == before
    assert dumped(value) == dumped(before)


@pytest.mark.parametrize("kind", [*KINDS, *OUTPUTS], ids=str)
def test_a_function_is_given_every_text(kind: Kind) -> None:
    value = kind.make(TEXT)
    new = read(value).mapped(lambda text: text.replace(WORD, BY))
    assert new == (value if kind.name in KEYS else kind.make(TEXT.replace(WORD, BY)))
    assert read(new).mapped(lambda text: text.replace(BY, WORD)) == value


@pytest.mark.parametrize("kind", [*KINDS, *OUTPUTS], ids=str)
def test_the_steps_are_those_of_steps_of(kind: Kind) -> None:
    value = kind.make(TEXT)
    for stage in (None, "output"):
        assert read(value, stage, "asked").steps == steps_of(value, stage, "asked")  # type: ignore[arg-type]


def test_without_edits_nothing_is_new() -> None:
    value = [HumanMessage("a")]
    assert read(value).edited({}) is value
    assert read(value).edited({0: []}) is value
    assert read(value).mapped(str) is value


# --- tool calls


def openai() -> AIMessage:
    return AIMessage(
        "",
        id="m",
        name="agent",
        tool_calls=[call({"to": TEXT, "n": 1, "deep": {"l": [TEXT, True]}})],
        additional_kwargs={
            "tool_calls": [
                {
                    "id": "1",
                    "type": "function",
                    "function": {
                        "name": "search",
                        "arguments": json.dumps({"to": TEXT, "n": 1, "deep": {"l": [TEXT, True]}}),
                    },
                }
            ]
        },
        response_metadata={"model_name": "m", "model_provider": "openai"},
        usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
    )


def responses_api() -> AIMessage:
    block = {
        "type": "function_call",
        "id": "f",
        "call_id": "1",
        "name": "search",
        "arguments": json.dumps({"to": TEXT}),
    }
    return AIMessage([{"type": "text", "text": TEXT}, block], tool_calls=[call({"to": TEXT})])


def anthropic() -> AIMessage:
    return AIMessage(
        [
            {"type": "thinking", "thinking": TEXT, "signature": "s"},
            {"type": "text", "text": TEXT},
            {"type": "tool_use", "id": "1", "name": "search", "input": {"to": TEXT}},
        ],
        tool_calls=[call({"to": TEXT})],
        response_metadata={"model_provider": "anthropic"},
    )


def gemini() -> AIMessage:
    return AIMessage(
        "",
        tool_calls=[call({"to": TEXT})],
        additional_kwargs={"function_call": {"name": "search", "arguments": json.dumps({"to": TEXT})}},
    )


def v1() -> AIMessage:
    content = [
        {"type": "text", "text": TEXT, "annotations": []},
        {"type": "reasoning", "reasoning": TEXT},
        {"type": "tool_call", "id": "1", "name": "search", "args": {"to": TEXT}},
    ]
    return AIMessage(content_blocks=content, response_metadata={"output_version": "v1"})  # type: ignore[arg-type]


def pieces(texts: Sequence[str], **more: Any) -> list[AIMessageChunk]:
    return [
        AIMessageChunk(
            content="",
            id="run",
            tool_call_chunks=[
                {
                    "name": None if number else "search",
                    "args": text,
                    "id": None if number else "1",
                    "index": 0,
                    "type": "tool_call_chunk",
                }
            ],
            **more,
        )
        for number, text in enumerate(texts)
    ]


def summed(chunks: Sequence[AIMessageChunk]) -> AIMessageChunk:
    total = chunks[0]
    for chunk in chunks[1:]:
        total = total + chunk
    return total


def openai_stream() -> AIMessageChunk:
    last = AIMessageChunk(content="", id="run", chunk_position="last", response_metadata={"finish_reason": "stop"})
    said = AIMessageChunk(content=TEXT, id="run")
    return summed([said, *pieces(['{"to": "an SEC', "RET he", 're", "n": 1}']), last])


def anthropic_stream() -> AIMessageChunk:
    args = ["", '{"to": "an SEC', 'RET here"}']
    chunks = [
        AIMessageChunk([{"type": "text", "text": "an SEC", "index": 0}], id="run"),
        AIMessageChunk([{"type": "text", "text": "RET here", "index": 0}], id="run"),
    ]
    for number, text in enumerate(args):
        block = (
            {"type": "input_json_delta", "partial_json": text, "index": 1}
            if number
            else {"type": "tool_use", "id": "1", "name": "search", "input": {}, "index": 1}
        )
        piece = {"name": None if number else "search", "args": text, "id": None if number else "1", "index": 1}
        chunks.append(AIMessageChunk([block], id="run", tool_call_chunks=[piece]))  # type: ignore[list-item]
    return summed([*chunks, AIMessageChunk(content=[], id="run", chunk_position="last")])


def v1_stream() -> AIMessageChunk:
    chunks = [
        AIMessageChunk(
            [{"type": "tool_call_chunk", "id": None if n else "1", "name": None if n else "f", "args": t, "index": 0}],
            id="run",
            response_metadata={} if n else {"output_version": "v1"},
            tool_call_chunks=[{"name": None if n else "f", "args": t, "id": None if n else "1", "index": 0}],
        )
        for n, t in enumerate(['{"to": "an SEC', 'RET here"}'])
    ]
    return summed([*chunks, AIMessageChunk(content=[], id="run", chunk_position="last")])


def unmerged() -> AIMessageChunk:
    chunks = [chunk.tool_call_chunks[0] for chunk in pieces(['{"to": "an SEC', "RET he", 're", "n": 1}'])]
    chunks[0]["name"], chunks[2]["name"] = "sea", "rch"
    return AIMessageChunk(content="", tool_call_chunks=chunks)


def not_whole() -> AIMessageChunk:
    return summed(pieces(['{"n": 1, "to": "an SEC', "RET he"]))


MESSAGES = [
    openai, responses_api, anthropic, gemini, v1, openai_stream, anthropic_stream, v1_stream, unmerged, not_whole,
]  # fmt: skip


@pytest.mark.parametrize("make", MESSAGES, ids=lambda make: make.__name__)
def test_nothing_of_an_edited_call_is_left_in_any_of_its_forms(make: Callable[[], AIMessage]) -> None:
    value = make()
    before = copy.deepcopy(value)
    new = redacted(value)
    assert value == before
    assert type(new) is type(value)
    assert "SEC" not in dumped(new)
    assert "RET" not in dumped(new)
    assert BY in dumped(new)
    kept = ("id", "name", "response_metadata", "usage_metadata")
    assert [getattr(new, name) for name in kept] == [getattr(value, name) for name in kept]
    assert [(one["id"], one["name"]) for one in new.tool_calls] == [("1", "f" if make is v1_stream else "search")]


@pytest.mark.parametrize("make", [openai, gemini, anthropic, v1], ids=lambda make: make.__name__)
def test_a_message_is_what_the_provider_would_have_sent(make: Callable[[], AIMessage]) -> None:
    expected = json.loads(json.dumps(make().model_dump()).replace(WORD, BY))
    assert redacted(make()).model_dump() == expected


def test_pieces_of_a_call_that_were_not_added_up_become_one() -> None:
    new = redacted(unmerged())
    args = {"to": f"an {BY} here", "n": 1}
    assert new.tool_call_chunks == pieces([json.dumps(args)])[0].tool_call_chunks
    assert new.tool_calls == [call(args)]
    assert new.invalid_tool_calls == []


def test_a_piece_alone_can_not_be_edited() -> None:
    reading = read(unmerged())
    [piece] = [number for number, step in enumerate(reading.steps) if step.text == "to: an SEC"]
    with pytest.raises(UneditableError, match="follows the pieces of a tool call"):
        reading.edited({piece: [Edit(start=7, end=10, replacement="")]})


def test_an_edited_stream_goes_on_as_one() -> None:
    new = redacted(openai_stream())
    assert new.tool_call_chunks[0]["args"] == json.dumps({"to": f"an {BY} here", "n": 1})
    assert AIMessageChunk(**new.model_dump()) == new
    assert (new.chunk_position, new.text) == ("last", f"an {BY} here")


def test_what_is_parsed_of_a_call_that_is_not_whole_follows_it() -> None:
    reading = read(not_whole())
    (parsed, its), (whole, edits) = found(reading).items()
    assert [reading.steps[parsed].text[:2], reading.steps[whole].text[:2]] == ["n:", '{"']
    new = reading.edited({whole: edits})
    assert new.tool_calls[0]["args"] == {"n": 1, "to": f"an {BY} he"}
    assert reading.edited({whole: edits, parsed: its}) == new
    end = len(reading.steps[parsed].text)
    for other in ({parsed: its}, {parsed: [*its, Edit(start=end, end=end, replacement="?")], whole: edits}):
        with pytest.raises(UneditableError, match="follows the pieces"):
            reading.edited(other)


def test_calls_that_are_not_those_of_the_pieces_are_not_lost() -> None:
    value = summed(pieces(['{"to": "SECRET"}'])).model_copy(update={"tool_calls": [call({"to": "somebody else"})]})
    with pytest.raises(UneditableError, match="not those of its pieces"):
        redacted(value)
    assert redacted(value.model_copy(update={"content": WORD, "tool_call_chunks": []})).tool_calls == value.tool_calls


@pytest.mark.parametrize("by", ['a "quote"', "back\\slash", "line\nbreak", "üñí 😀", ""])
@pytest.mark.parametrize("make", MESSAGES, ids=lambda make: make.__name__)
def test_json_stays_json(make: Callable[[], AIMessage], by: str) -> None:
    new = redacted(make(), by=by)
    if make is not not_whole:
        for one in new.tool_calls[:1]:
            assert one["args"]["to"] == f"an {by} here"
    for block in new.content:
        for key in ("arguments", "partial_json"):
            if isinstance(block, dict) and key in block:
                assert json.loads(block[key])["to"] == f"an {by} here"


RAW = r'{"k\"ey": "a \"SECRET\" \u00e9", "n": 12, "list": ["x", {"y": "SECRET"}], "last": "SEC'


@pytest.mark.parametrize("raw", [RAW, RAW + 'RET"}'])
def test_of_json_that_is_read_as_it_stands_only_strings_can_change(raw: str) -> None:
    def edited(start: int, end: int, by: str = "?") -> Any:
        reading = read(AIMessage([{"type": "tool_use", "id": "1", "name": "f", "input": {}, "partial_json": raw}]))
        assert [step.text for step in reading.steps] == [raw]
        return reading.edited({0: [Edit(start=start, end=end, replacement=by)]}).content[0]["partial_json"]

    inside = [
        (m, m + len(word)) for word in ('a \\"SECRET\\" \\u00e9', "x", "SECRET") for m in [raw.index(f'"{word}') + 1]
    ]
    last = raw.index("SEC", raw.index("last"))
    for start, end in [*inside, (last, last + 3)]:
        assert edited(start, end) == raw[:start] + "?" + raw[end:]
        assert edited(start, start, 'say "x"') == raw[:start] + 'say \\"x\\"' + raw[start:]
    key, number, escape = raw.index('k\\"ey'), raw.index("12"), raw.index("\\u00e9")
    first = inside[0][0]
    for start, end in [
        (key, key + 2),
        (key + 5, key + 5),
        (number, number + 1),
        (number, number),
        (first - 1, first + 1),
        (first, number),
        (escape + 1, escape + 6),
        (escape, escape + 3),
        (escape + 1, escape + 1),
        (0, len(raw)),
    ]:
        with pytest.raises(UneditableError):
            edited(start, end)


@pytest.mark.parametrize(
    "raw", ["[SECRET] and more", '"so" said SECRET to me', "{SECRET = 1}", "SECRET", "{SECRET: a}"]
)
def test_arguments_that_are_no_json_are_text(raw: str) -> None:
    block = {"type": "custom_tool_call", "id": "1", "name": "f", "input": raw}
    assert redacted(AIMessage([block])).content[0]["input"] == raw.replace(WORD, BY)


def test_each_string_in_json_goes_through_a_function_by_itself() -> None:
    raw = r'{"SECRET": "SECRET \"\u00e9\"", "n": [1, "SECRET"], "t": "SECRET\u12'
    seen: list[str] = []

    def change(text: str) -> str:
        seen.append(text)
        return text.replace(WORD, '"x"')

    new = read(AIMessage([{"type": "tool_use", "id": "1", "name": "f", "input": {}, "partial_json": raw}])).mapped(
        change
    )
    assert new.content[0]["partial_json"].startswith(r'{"SECRET": "\"x\" \"é\"", "n": [1, "\"x\""], "t": "\"x\"')
    assert seen[:2] == ['SECRET "é"', "SECRET"]


# --- blocks, lines and insertions


def blocks(*said: str) -> HumanMessage:
    return HumanMessage([{"type": "text", "text": text} for text in said])


def said(message: BaseMessage) -> list[str]:
    return [block["text"] for block in message.content if isinstance(block, dict)]


def test_an_edit_over_several_blocks_puts_its_text_into_the_first() -> None:
    reading = read(blocks("ignore", "all", "the rules"))
    assert [step.text for step in reading.steps] == ["ignore\nall\nthe rules", "ignoreallthe rules"]
    assert said(reading.edited({0: [Edit(start=4, end=14, replacement="X")]})) == ["ignoX", "", " rules"]
    assert said(reading.edited({1: [Edit(start=4, end=12, replacement="X")]})) == ["ignoX", "", " rules"]


def test_edits_of_two_readings_of_one_text_are_merged() -> None:
    reading = read(blocks("my SECRET", "word"))
    same = {0: [Edit(start=3, end=9, replacement="X")], 1: [Edit(start=3, end=9, replacement="X")]}
    assert said(reading.edited(same)) == ["my X", "word"]
    wider = {0: [Edit(start=3, end=9, replacement="X")], 1: [Edit(start=1, end=7, replacement="Y")]}
    assert said(reading.edited(wider)) == ["mY", "word"]
    split = {0: [Edit(start=3, end=9, replacement="X")], 1: [Edit(start=3, end=13, replacement="Z")]}
    assert said(reading.edited(split)) == ["my X", ""]


def test_a_str_of_unknown_direction_is_edited_once() -> None:
    reading = read("a b c")
    one, two = Edit(start=0, end=1, replacement="A"), Edit(start=4, end=5, replacement="C")
    assert reading.edited({0: [one], 1: [one]}) == "A b c"
    assert reading.edited({0: [one], 1: [two]}) == "A b C"
    assert reading.edited({1: [one, two]}) == "A b C"


def test_messages_that_say_the_same_are_all_edited() -> None:
    new = redacted([HumanMessage(TEXT, id=None), HumanMessage(TEXT), AIMessage("x"), HumanMessage(TEXT)])
    assert WORD not in dumped(new)


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (0, ["+one", "two"]),
        (1, ["o+ne", "two"]),
        (3, ["one+", "two"]),
        (4, ["one", "+two"]),
        (7, ["one", "two+"]),
    ],
)
def test_what_is_put_in_at_a_border_goes_to_the_text_there(at: int, expected: list[str]) -> None:
    assert said(read(blocks("one", "two")).edited({0: [Edit(start=at, end=at, replacement="+")]})) == expected


def test_between_two_texts_with_nothing_between_it_goes_to_the_one_that_ends() -> None:
    assert said(read(blocks("one", "two")).edited({1: [Edit(start=3, end=3, replacement="+")]})) == ["one+", "two"]


DATA: dict[str, Any] = {"title": "one", "n": 7, "none": None, "more": ["two", {"x": "three"}], "colour": Colour.RED}
"""title: one / n: 7 / none / more: two / more / x: three / colour: red"""


def test_the_data_read_as_the_tests_below_take_it() -> None:
    assert texts(DATA)[0] == "title: one\nn: 7\nnone\nmore: two\nmore\nx: three\ncolour: red"


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (0, 3),  # a key
        (0, 0),  # before one
        (5, 8),  # what stands between key and text
        (6, 6),
        (6, 10),
        (11, 15),  # a key and a number
        (14, 15),  # a number
        (15, 15),  # after it
        (10, 11),  # a line break alone
        (9, 12),  # over into the next key
        (20, 20),  # at the end of a key without a text
        (27, 41),  # from text over a key to text
        (0, 61),
        (52, 60),  # an enum's value
        (61, 61),
    ],
)
@pytest.mark.parametrize("by", ["", "?"])
def test_what_is_no_text_of_the_value_can_not_be_edited(start: int, end: int, by: str) -> None:
    value = copy.deepcopy(DATA)
    with pytest.raises(UneditableError, match=r"step 0: an edit of characters \d+ to \d+"):
        read(value).edited({0: [Edit(start=start, end=end, replacement=by)]})
    assert value == DATA


@pytest.mark.parametrize(
    ("start", "end", "change"),
    [
        (7, 10, {"title": "?"}),
        (7, 7, {"title": "?one"}),
        (10, 10, {"title": "one?"}),
        (7, 11, {"title": "?"}),  # with the line break after it
        (27, 30, {"more": ["?", {"x": "three"}]}),
        (39, 40, {"more": ["two", {"x": "?hree"}]}),
    ],
)
def test_texts_in_data_can_be_edited(start: int, end: int, change: dict[str, Any]) -> None:
    assert read(DATA).edited({0: [Edit(start=start, end=end, replacement="?")]}) == {**DATA, **change}


@pytest.mark.parametrize("by", ["", "many words: x"])
@pytest.mark.parametrize("kind", [kind for kind in [*KINDS, *OUTPUTS] if kind.name not in KEYS], ids=str)
def test_a_whole_text_can_go(kind: Kind, by: str) -> None:
    assert redacted(kind.make(TEXT), TEXT, by) == kind.make(by)


def test_a_name_is_no_text() -> None:
    with pytest.raises(UneditableError):
        redacted(HumanMessage("hi", name=WORD))
    with pytest.raises(UneditableError):
        redacted(AIMessage("", tool_calls=[call({WORD: "x"})]))
    with pytest.raises(UneditableError):
        redacted(AIMessage([{"type": "tool_use", "id": "1", "name": ["a", WORD], "input": {}}]))


# --- what a value is made of


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)
    note: str


class Aliased(BaseModel):
    note: str = Field(validation_alias="theNote")
    other: str = Field(default="", validation_alias=AliasChoices(AliasPath("a", 0), "b"))


class FromPath(BaseModel):
    note: str = Field(validation_alias=AliasPath("notes", 0))


class Short(BaseModel):
    note: Annotated[str, Field(max_length=20)]
    level: str = Field(default="a", pattern="^[a-c]$")


class Lower(BaseModel):
    note: str

    @field_validator("note")
    @classmethod
    def lower(cls, note: str) -> str:
        return note.lower()


class Computed(BaseModel):
    note: str

    @computed_field  # type: ignore[prop-decorator]
    @property
    def loud(self) -> str:
        return self.note + "!"


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    _hidden: int = 0


@dataclasses.dataclass(frozen=True)
class Point:
    note: str
    n: int = 1


@dataclasses.dataclass
class Late:
    n: int
    note: str = dataclasses.field(init=False, default="")


@dataclasses.dataclass
class Picky:
    note: str

    def __post_init__(self) -> None:
        if WORD not in self.note:
            raise ValueError(self.note)


class Pair(NamedTuple):
    note: str
    n: int


class Tagged(list[str]):
    pass


class Loses(dict[str, str]):
    def __copy__(self) -> dict[str, str]:
        return dict(self)


class Level(StrEnum):
    HIGH = TEXT


def late() -> Late:
    value = Late(1)
    value.note = TEXT
    return value


def nested(text: str) -> dict[str, Any]:
    return {
        "a": (Pair(text, 1), [Point(text)]),
        "b": {text},
        "c": frozenset({("x", text)}),
        "d": defaultdict(list, k=[text]),
    }


@pytest.mark.parametrize(
    "make",
    [
        lambda t: Frozen(note=t),
        lambda t: Aliased(theNote=t, b=t),  # type: ignore[call-arg]
        lambda t: RootModel[list[str]]([t, "x"]),
        lambda t: Open(note=t, other=1),  # type: ignore[call-arg]
        lambda t: Short(note=t),
        lambda t: Point(t),
        lambda t: Pair(t, 2),
        lambda t: Tagged([t, "x"]),
        lambda t: OrderedDict(a=t, b=1),
        lambda t: {1: t, None: t, "some key": t, (1, 2): [t]},
        lambda t: {"x", t},
        lambda t: frozenset({t}),
        nested,
        lambda t: [Document(id="7", page_content=t, metadata={"author": t, "n": 1, "tags": ["x", t]})],
        lambda t: ChatPromptValue(messages=[SystemMessage("s"), HumanMessage(t), AIMessage(t)]),
        lambda t: StringPromptValue(text=t),
        lambda t: [("system", "s"), ("human", t), {"role": "assistant", "content": [{"type": "text", "text": t}]}],
        lambda t: [t, HumanMessage(t), ["human", t]],
        lambda t: ("human", t),
        lambda t: {"messages": (HumanMessage(t), AIMessage(t)), "note": t},
        lambda t: {"messages": ("human", t), "n": 1},
        lambda t: {"messages": [{"type": "human", "content": t, "id": "1", "reasoning": t}]},
        lambda t: [HumanMessage("x"), {"role": "user", "content": "x", "additional_kwargs": {"reasoning": t}}],
        lambda t: [
            {"role": "user", "content": t},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "1", "type": "function", "function": {"name": "f", "arguments": json.dumps({"q": t})}},
                    {"id": "2", "type": "tool_call", "name": "f", "args": {"q": [t]}},
                ],
            },
            {"role": "tool", "tool_call_id": "1", "content": t},
        ],
        lambda t: [
            HumanMessage("x"),
            {
                "lc": 1,
                "type": "constructor",
                "id": ["AIMessage"],
                "kwargs": {"content": t, "tool_calls": [call({"q": t})]},
            },
        ],
        lambda t: [
            {
                "role": "assistant",
                "content": "",
                "additional_kwargs": {
                    "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": json.dumps({"q": t})}}]
                },
            }
        ],
        lambda t: {"raw": AIMessage(t), "parsed": Frozen(note=t), "docs": [Document(page_content=t)]},
        lambda t: Command(resume=t, update={"messages": [HumanMessage(t)]}),
        lambda t: {"__interrupt__": [Interrupt(value={"question": t}, id="1")]},
        lambda t: AIMessage([{"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": t}]}]),
        lambda t: ToolMessage([t, {"type": "text", "text": t}], tool_call_id="1", artifact=[1], status="error"),
    ],
)  # fmt: skip
def test_a_value_is_made_anew_in_its_own_type(make: Callable[[str], Any]) -> None:
    value = make(TEXT)
    new = redacted(value)
    assert new == make(TEXT.replace(WORD, BY))
    assert value == make(TEXT)
    assert type(new) is type(value)
    assert read(new).mapped(lambda text: text.replace(BY, WORD)) == value


def test_types_deep_inside_are_kept() -> None:
    new = redacted(nested(TEXT))
    assert [type(new["a"]), type(new["a"][0]), type(new["c"]), type(new["d"])] == [tuple, Pair, frozenset, defaultdict]
    assert new["d"].default_factory is list


@pytest.mark.parametrize(
    "value",
    [
        FromPath.model_validate({"notes": [TEXT]}),
        Short.model_construct(note="x" * 20 + WORD),
        Lower.model_construct(note=TEXT),
        Computed(note=TEXT),
        late(),
        Picky(TEXT),
        types.MappingProxyType({"a": TEXT}),
        UserDict({"a": [TEXT]}),
        Loses(a=TEXT),
        {"a": types.MappingProxyType({"a": TEXT})},
        Level.HIGH,
        ValueError(TEXT),
        {"error": ValueError(TEXT)},
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_can_not_be_made_anew_is_refused(value: Any) -> None:
    assert any(WORD in text for text in texts(value))
    with pytest.raises(UneditableError) as refused:
        redacted(value, by="NEW" * 9)
    said: BaseException | None = refused.value
    while said is not None:
        assert WORD not in str(said)
        assert said.__cause__ is None
        assert said.__suppress_context__ or said.__context__ is None
        said = said.__cause__


def test_a_model_refuses_what_it_would_not_take() -> None:
    assert redacted(Short(note="SECRET")) == Short(note=BY)
    with pytest.raises(UneditableError):
        redacted(Short(note="SECRET"), by="x" * 21)
    with pytest.raises(UneditableError):
        redacted(Short(note="x", level="b"), "b", "z")


def test_private_attributes_and_set_fields_stay() -> None:
    value = Open(note=TEXT)  # type: ignore[call-arg]
    value._hidden = 7
    new = redacted(value)
    assert (new._hidden, new.note, new.model_fields_set) == (7, f"an {BY} here", {"note"})


def test_the_rest_is_shared_and_the_original_untouched() -> None:
    other = {"deep": ["kept"]}
    value = {"a": [TEXT], "b": other}
    new = redacted(value)
    assert new["b"] is other
    assert value == {"a": [TEXT], "b": {"deep": ["kept"]}}


def test_a_copy_of_a_tools_text_follows_it() -> None:
    value = ToolMessage(TEXT, tool_call_id="1", artifact={"structured_content": {"result": TEXT}, "n": 1})
    assert redacted(value).artifact == {"structured_content": {"result": f"an {BY} here"}, "n": 1}
    assert value.artifact == {"structured_content": {"result": TEXT}, "n": 1}


def test_members_of_a_set_that_become_equal_are_no_loss() -> None:
    assert redacted({"a SECRET", "a [gone]"}) == {"a [gone]"}


def test_a_function_changes_neither_keys_nor_what_is_no_str() -> None:
    value = {**DATA, "computed": Computed(note=""), "level": Level.HIGH, "error": ValueError("why")}
    new = read(value).mapped(lambda text: f"<{text}>" if text and text != "!" else text)
    assert new == {**value, "title": "<one>", "more": ["<two>", {"x": "<three>"}]}


def test_a_text_accessor_becomes_a_str() -> None:
    assert type(redacted(TextAccessor(TEXT))) is str


def test_system_messages_go_through_a_function_too() -> None:
    value = [SystemMessage("<1>"), HumanMessage("<1>")]
    new = read(value).mapped(lambda text: text.replace("<1>", "bob"))
    assert [message.content for message in new] == ["bob", "bob"]
    assert [m.content for m in redacted([SystemMessage(WORD), HumanMessage(WORD)])] == [WORD, BY]


@pytest.mark.parametrize(
    "edits",
    [
        {0: [Edit(start=0, end=9, replacement="")]},
        {0: [Edit(start=-1, end=1, replacement="")]},
        {0: [Edit(start=0, end=2, replacement=""), Edit(start=1, end=3, replacement="")]},
        {2: [Edit(start=0, end=1, replacement="")]},
        {-1: [Edit(start=0, end=1, replacement="")]},
    ],
)
def test_edits_that_have_no_place_are_refused(edits: dict[int, list[Edit]]) -> None:
    with pytest.raises(UneditableError):
        read("text").edited(edits)


def test_an_uneditable_value_is_an_unsupported_one() -> None:
    assert issubclass(UneditableError, UnsupportedValueError)


def test_a_value_that_has_changed_since_is_refused() -> None:
    value = {"a": "SECRET one", "b": ["x"]}
    reading = read(value)
    value["a"] = "SECRET two"
    with pytest.raises(UneditableError, match="no longer what was read"):
        reading.edited(found(reading))
    value["a"], value["b"] = "SECRET one", ["new text"]
    with pytest.raises(UneditableError, match="does not read as it should"):
        reading.edited(found(reading))


def test_a_text_that_would_turn_data_into_something_else_is_refused() -> None:
    value = {"messages": [{"role": "critic", "content": TEXT}]}
    reading = read(value)
    at = reading.steps[0].text.index("critic")
    with pytest.raises(UneditableError):
        reading.edited({0: [Edit(start=at, end=at + 6, replacement="user")]})


def test_a_prompt_of_an_unknown_kind_is_refused() -> None:
    class Own(StringPromptValue):
        def to_messages(self) -> list[BaseMessage]:
            return [HumanMessage(self.text + "!")]

    with pytest.raises(UneditableError):
        redacted(Own(text=TEXT))


def test_a_message_without_text_has_nothing_to_edit() -> None:
    with pytest.raises(UneditableError):
        read(RemoveMessage(id="1")).edited({0: [Edit(start=0, end=1, replacement="")]})
    assert read(HumanMessage("")).edited({0: [Edit(start=0, end=0, replacement="x")]}) == HumanMessage("x")


# --- any value, any edits

WORDS = st.text(alphabet='ab "\\\n:é😀{[', max_size=12)
NAMES = st.sampled_from(["q", "to", "some key", "text", "args", "7"])
LEAVES: st.SearchStrategy[Any] = st.one_of(WORDS, st.integers(), st.booleans(), st.none())
TREES: st.SearchStrategy[Any] = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=8
)
ARGS = st.dictionaries(NAMES, TREES, max_size=3)


@st.composite
def ai_messages(draw: st.DrawFn) -> AIMessage:
    args = draw(st.lists(ARGS, max_size=2))
    calls = [{"name": "f", "args": one, "id": str(n), "type": "tool_call"} for n, one in enumerate(args)]
    raw = [
        {"id": c["id"], "function": {"name": "f", "arguments": json.dumps(c["args"], ensure_ascii=False)}}
        for c in calls
    ]
    content: Any = draw(WORDS | st.lists(WORDS | WORDS.map(lambda t: {"type": "text", "text": t}), max_size=3))
    form = draw(st.sampled_from(["plain", "openai", "gemini", "anthropic", "stream"]))
    if form == "stream":
        cut = draw(st.integers(0, 5))
        said = [json.dumps(c["args"], ensure_ascii=False) for c in calls]
        pieces = [
            {"name": None if n else "f", "args": part, "id": None if n else c["id"], "index": i}
            for i, c in enumerate(calls)
            for n, part in enumerate([said[i][:cut], said[i][cut:]])
        ]
        chunks = [AIMessageChunk(content="", tool_call_chunks=[piece]) for piece in pieces]  # type: ignore[list-item]
        return summed([AIMessageChunk(content=content, id="m"), *chunks])
    if form == "anthropic":
        content = [content] if isinstance(content, str) else content
        content = content + [{"type": "tool_use", "id": c["id"], "name": "f", "input": c["args"]} for c in calls]
    kwargs: dict[str, Any] = {}
    if form == "openai":
        kwargs = {"tool_calls": raw}
    elif form == "gemini" and raw:
        kwargs = {"function_call": raw[-1]["function"]}
    return AIMessage(content=content, id="m", tool_calls=calls, additional_kwargs=kwargs)  # type: ignore[arg-type]


MESSAGE = (
    ai_messages()
    | st.builds(HumanMessage, WORDS | st.lists(WORDS, max_size=3))
    | st.builds(SystemMessage, WORDS)
    | st.builds(lambda t: ToolMessage(t, tool_call_id="1", name="f"), WORDS)
)
DOCUMENT = st.builds(lambda text, meta: Document(page_content=text, metadata=meta, id="d"), WORDS, ARGS)
VALUES = st.one_of(
    WORDS,
    MESSAGE,
    st.lists(MESSAGE, max_size=3),
    DOCUMENT,
    TREES,
    st.fixed_dictionaries({"messages": st.lists(MESSAGE, max_size=2), "context": st.lists(DOCUMENT), "more": TREES}),
    st.lists(st.tuples(st.sampled_from(["human", "ai", "system"]), WORDS), min_size=1, max_size=3),
    ARGS.map(call),
)


def skeleton(value: Any) -> Any:
    """A value without its texts."""
    if isinstance(value, BaseModel):
        fields = {k: v for k, v in BaseModel.__iter__(value) if k not in ("tool_call_chunks", "additional_kwargs")}
        return type(value), {k: v if k in ("type", "id", "name") else skeleton(v) for k, v in fields.items()}
    if isinstance(value, dict):
        return {k: v if k in ("type", "id", "name") else skeleton(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value), [skeleton(item) for item in value]
    return str if isinstance(value, str) else value


@settings(max_examples=100, deadline=None)
@given(value=VALUES, data=st.data())
def test_any_edit_of_any_value_is_made_or_refused(value: Any, data: st.DataObject) -> None:
    before = copy.deepcopy(value)
    reading = read(value)
    number = data.draw(st.integers(0, len(reading.steps) - 1))
    text = reading.steps[number].text
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    edit = Edit(start=start, end=end, replacement=data.draw(WORDS))
    try:
        new = reading.edited({number: [edit]})
    except UneditableError:
        return
    finally:
        assert value == before
    assert skeleton(new) == skeleton(value)
    expected = apply_edits(text, [edit])
    squeezed = [step.text.replace("\n", "") for step in read(new).steps]
    said = expected.replace("\n", "")
    # A key without a text has no colon after it.
    assert said in squeezed or said.replace(": ", "") in [one.replace(": ", "") for one in squeezed]


@settings(max_examples=100, deadline=None)
@given(value=VALUES, by=st.text(alphabet='xy"\\\n', max_size=4), data=st.data())
def test_a_word_inside_a_text_is_edited_in_all_of_its_forms(value: Any, by: str, data: st.DataObject) -> None:
    marked: list[str] = []

    def mark(text: str) -> str:
        if text and not marked and data.draw(st.booleans()):
            at = data.draw(st.integers(0, len(text)))
            marked.append(text)
            return text[:at] + "SECRET" + text[at:]
        return text

    first = read(value).mapped(mark)
    if not marked:
        return
    if not found(read(first)):
        return  # it is in a system message
    before = copy.deepcopy(first)
    new = redacted(first, by=by)
    assert first == before
    assert "SECRET" not in dumped(new)
    assert skeleton(new) == skeleton(first)


@settings(max_examples=60, deadline=None)
@given(value=VALUES)
def test_what_a_function_does_it_can_undo(value: Any) -> None:
    there = read(value).mapped(lambda text: f"<{text}>" if text else text)
    assert read(there).mapped(lambda text: text[1:-1]) == value


def with_key(value: Any, number: int) -> Any:
    """Data with a key around one part of it."""
    if number <= 0 or not isinstance(value, list | dict) or not value:
        return {"a SECRET key": value}
    if isinstance(value, list):
        return [with_key(value[0], number - 1), *value[1:]]
    first = next(iter(value))
    return {**value, first: with_key(value[first], number - 1)}


@settings(max_examples=60, deadline=None)
@given(value=TREES, number=st.integers(0, 3), as_call=st.booleans())
def test_no_key_is_edited_anywhere(value: Any, number: int, as_call: bool) -> None:
    data = with_key(value, number)
    if as_call:
        call_of = AIMessage("", tool_calls=[call({"q": data})])
        data = summed([AIMessageChunk(content="", tool_call_chunks=[
            {"name": "f", "args": json.dumps({"q": data}), "id": "1", "index": 0}
        ])]) if number % 2 else call_of  # fmt: skip
    with pytest.raises(UneditableError):
        redacted(data)
