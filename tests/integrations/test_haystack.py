"""Haystack: components in pipelines, what they stop, and that they can be saved."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
from haystack import Document, Pipeline, component
from haystack.dataclasses import ChatMessage, ImageContent, ReasoningContent, TextContent, ToolCall
from haystack.dataclasses.byte_stream import ByteStream
from lec_guard_integrations import haystack as ours
from lec_guard_integrations.haystack import GuardDocuments, GuardMessages, GuardTexts

from lec_guard import EscalationPending, Guard, LayerDetector, PolicyError, TenantMismatch, UnsupportedValueError
from lec_guard.act.quarantine import NOTE
from tests.conftest import POLICIES, write_policies
from tests.integrations.guards import Guarded

BOTH = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


async def run(one: Any, is_async: bool, **given: Any) -> dict[str, Any]:
    return await one.run_async(**given) if is_async else one.run(**given)


@component
class Generator:
    """Answers every conversation, and counts."""

    def __init__(self, answer: str = "Fine.") -> None:
        self.sent: list[list[ChatMessage]] = []
        self.answer = answer

    @component.output_types(replies=list[ChatMessage])
    def run(self, messages: list[ChatMessage]) -> dict[str, Any]:
        self.sent.append(messages)
        return {"replies": [ChatMessage.from_assistant(self.answer)]}


def pipeline(guard: Guard, answer: str = "Fine.") -> tuple[Pipeline, Generator]:
    whole, generator = Pipeline(), Generator(answer)
    whole.add_component("before", GuardMessages(guard=guard))
    whole.add_component("llm", generator)
    whole.add_component("after", GuardMessages(guard=guard))
    whole.connect("before.messages", "llm.messages")
    whole.connect("llm.replies", "after.messages")
    whole.connect("before.messages", "after.request")
    return whole, generator


def said(*messages: ChatMessage | str) -> dict[str, Any]:
    return {"before": {"messages": [ChatMessage.from_user(one) if isinstance(one, str) else one for one in messages]}}


# --- in a pipeline


async def ask(whole: Pipeline, given: dict[str, Any], is_async: bool) -> dict[str, Any]:
    return await whole.run_async(given) if is_async else whole.run(given)


@BOTH
async def test_what_may_pass_goes_through(guarded: Guarded, is_async: bool) -> None:
    whole, generator = pipeline(guarded.guard)
    result = await ask(whole, said("hello"), is_async)
    assert [one.text for one in result["after"]["messages"]] == ["Fine."]
    assert guarded.seen == [("input", "hello"), ("output", "Fine.")]
    assert guarded.detector.seen[1].context == "hello"
    assert len(generator.sent) == 1


@BOTH
async def test_nothing_runs_behind_what_is_blocked(guarded: Guarded, is_async: bool) -> None:
    whole, generator = pipeline(guarded.guard)
    result = await ask(whole, said("an attack"), is_async)
    assert list(result) == ["before"]
    [told] = result["before"]["refusal"]
    assert (told.text, told.meta["lec_guard"]) == ("No.", {"action": "block", "stage": "input", "rule": "block"})
    assert generator.sent == []


@BOTH
async def test_an_answer_that_is_blocked_becomes_a_refusal(guarded: Guarded, is_async: bool) -> None:
    whole, _ = pipeline(guarded.guard, "an attack")
    result = await ask(whole, said("hello"), is_async)
    assert list(result["after"]) == ["refusal"]


@BOTH
async def test_who_is_yet_to_decide_and_what_fails(guarded: Guarded, is_async: bool) -> None:
    whole, generator = pipeline(guarded.guard)
    with pytest.raises(Exception, match="t-1") as pending:
        await ask(whole, said("poison"), is_async)
    assert isinstance(pending.value.__cause__, EscalationPending)
    assert (await ask(whole, said("boom"), is_async))["before"]["refusal"]
    assert generator.sent == []


# --- messages


def call(to: str) -> ToolCall:
    return ToolCall(tool_name="send", arguments={"to": to, "n": 1}, id="c1", extra={"kept": "yes"})


@BOTH
async def test_every_part_of_a_message_is_rewritten_in_its_place(guarded: Guarded, is_async: bool) -> None:
    messages = [
        ChatMessage.from_system("darn rules"),
        ChatMessage.from_user(content_parts=["darn you", TextContent(text="hi")], meta={"own": 1}),
        ChatMessage.from_assistant(
            "darn", tool_calls=[call("darn bob")], reasoning=ReasoningContent("darn it", {"signed": True})
        ),
        ChatMessage.from_tool("so darn", origin=call("bob"), error=True),
    ]
    before = [one.to_dict() for one in messages]
    after = (await run(GuardMessages(guard=guarded.guard), is_async, messages=messages))["messages"]
    assert [one.to_dict() for one in messages] == before
    assert after[0] is messages[0]
    assert (after[1].texts, after[1].meta) == (["dear you", "hi"], {"own": 1})
    assert (after[2].text, after[2].reasoning) == ("dear", ReasoningContent("dear it", {"signed": True}))
    assert after[2].tool_call == call("dear bob")
    assert (after[3].tool_call_result.result, after[3].tool_call_result.error) == ("so dear", True)


@BOTH
async def test_a_callers_system_messages_are_judged_where_it_is_said(guarded: Guarded, is_async: bool) -> None:
    made = GuardMessages(guard=guarded.guard, system_messages="judged")
    asked = [ChatMessage.from_system("darn rules"), ChatMessage.from_user("hi")]
    after = (await run(made, is_async, messages=asked))["messages"]
    assert (after[0].role, after[0].text) == (asked[0].role, "dear rules")
    attack = [ChatMessage.from_system("an attack"), ChatMessage.from_user("hi")]
    assert list(await run(made, is_async, messages=attack)) == ["refusal"]
    assert list(await run(GuardMessages(guard=guarded.guard), is_async, messages=attack)) == ["messages"]


def test_a_wrong_word_is_refused(guarded: Guarded) -> None:
    with pytest.raises(UnsupportedValueError, match="trusted or judged"):
        GuardMessages(guard=guarded.guard, system_messages="judge")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "message",
    [
        ChatMessage.from_user(content_parts=["an att", "ack"]),
        ChatMessage.from_assistant("fine", reasoning="an attack"),
        ChatMessage.from_assistant(tool_calls=[call("attack")]),
        ChatMessage.from_tool("an attack", origin=call("bob")),
        ChatMessage.from_tool([TextContent(text="an attack")], origin=call("bob")),
        ChatMessage.from_assistant("fine", meta={"refusal": "an attack"}),
    ],
    ids=["split", "thoughts", "call", "result", "result in parts", "refusal"],
)
@BOTH
async def test_every_part_of_a_message_is_judged(guarded: Guarded, message: ChatMessage, is_async: bool) -> None:
    result = await run(GuardMessages(guard=guarded.guard), is_async, messages=[message])
    assert list(result) == ["refusal"]


def test_an_image_does_not_pass(guarded: Guarded) -> None:
    image = ImageContent(base64_image="aGk=", mime_type="image/png", validation=False)
    with pytest.raises(UnsupportedValueError, match="ImageContent"):
        GuardMessages(guard=guarded.guard).run([ChatMessage.from_user(content_parts=["hi", image])])


@pytest.mark.parametrize("system", [None, "Be kind."])
def test_the_system_prompt_tells_of_a_quarantine(guarded: Guarded, system: str | None) -> None:
    first = [] if system is None else [ChatMessage.from_system(system)]
    after = GuardMessages(guard=guarded.guard).run([*first, ChatMessage.from_user("click here")])["messages"]
    assert [one.role.value for one in after] == ["system", "user"]
    assert after[0].texts == [NOTE] if system is None else [system, NOTE]
    assert after[1].text != "click here"


# --- texts


@BOTH
async def test_texts_pass_or_none_of_them(guarded: Guarded, is_async: bool) -> None:
    guard = GuardTexts(guard=guarded.guard, stage="tool_output")
    assert await run(guard, is_async, texts=["hi", "darn"]) == {"texts": ["hi", "dear"]}
    assert {stage for stage, _ in guarded.seen} == {"tool_output"}
    assert await run(guard, is_async, texts=["hi", "attack"]) == {"refusal": "No."}
    assert await run(guard, is_async, texts=[]) == {"texts": []}


def test_tenants(guarded: Guarded) -> None:
    open_, bound = GuardTexts(guard=guarded.guard), GuardTexts(guard=guarded.guard, tenant="acme")
    assert open_.run(["darn"]) == {"texts": ["dear"]}
    assert open_.run(["darn"], tenant="acme") == bound.run(["darn"]) == {"refusal": "Acme says no."}
    with pytest.raises(TenantMismatch):
        bound.run(["hi"], tenant="globex")
    with pytest.raises(PolicyError):
        open_.run(["hi"], tenant="nobody")
    with pytest.raises(PolicyError):
        GuardTexts(guard=guarded.guard, tenant="nobody")


# --- documents


@BOTH
async def test_documents_that_may_not_pass_are_left_out_and_told(guarded: Guarded, is_async: bool) -> None:
    documents = [
        Document(content="fine", meta={"page": 1}, score=0.5),
        Document(content="an attack"),
        Document(content="fine", meta={"title": "attack"}),
        Document(content="darn", meta={"title": "darn", "page": 2}, score=0.25, embedding=[1.0]),
    ]
    result = await run(GuardDocuments(guard=guarded.guard), is_async, documents=documents)
    first, last = result["documents"]
    assert first is documents[0]
    assert (last.content, last.meta) == ("dear", {"title": "dear", "page": 2})
    assert (last.id, last.score, last.embedding) == (documents[3].id, 0.25, [1.0])
    assert documents[3].content == "darn"
    assert [one["id"] for one in result["blocked"]] == [documents[1].id, documents[2].id]
    assert "attack" not in str(result["blocked"][0]["verdict"]).replace("'attack'", "")
    assert {stage for stage, _ in guarded.seen} == {"retrieval"}


def test_binary_data_does_not_pass(guarded: Guarded) -> None:
    with pytest.raises(UnsupportedValueError, match="binary"):
        GuardDocuments(guard=guarded.guard).run([Document(blob=ByteStream(b"attack"))])


# --- saving


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guarded: Guarded) -> Path:
    """Policies for a guard that components make themselves, of keywords."""
    monkeypatch.setattr(LayerDetector, "load", lambda source=None: guarded.detector)
    return write_policies(tmp_path / "saved", POLICIES)


@pytest.mark.parametrize("kind", [GuardTexts, GuardMessages, GuardDocuments])
def test_a_component_is_as_it_was_saved(saved: Path, kind: Any) -> None:
    more = {GuardTexts: {"stage": "output"}, GuardMessages: {"system_messages": "judged"}}.get(kind, {})
    one = kind(str(saved), tenant="acme", **more)
    data = one.to_dict()
    assert data["init_parameters"] == {"policies": str(saved), "detector": None, "tenant": "acme", **more}
    again = kind.from_dict(data)
    assert (again.to_dict(), again.tenant) == (data, "acme")
    assert again.guard is one.guard  # One model for all components of a path.


def test_a_pipeline_is_as_it_was_saved(saved: Path) -> None:
    whole = Pipeline()
    whole.add_component("guard", GuardTexts(str(saved)))
    again = Pipeline.loads(whole.dumps(), allowed_modules=["lec_guard_integrations.*"])
    assert again.run({"guard": {"texts": ["an attack"]}}) == {"guard": {"refusal": "No."}}


def test_what_holds_a_guard_of_its_own_is_not_saved(guarded: Guarded, saved: Path) -> None:
    with pytest.raises(UnsupportedValueError, match="policies"):
        GuardTexts(guard=guarded.guard).to_dict()
    with pytest.raises(UnsupportedValueError, match="not both"):
        GuardTexts(str(saved), guard=guarded.guard)
    with pytest.raises(UnsupportedValueError, match="stage"):
        GuardTexts(guard=guarded.guard, stage="nowhere")  # type: ignore[arg-type]


def test_a_guard_that_nobody_uses_is_let_go(saved: Path) -> None:
    one = GuardTexts(str(saved))
    assert (str(saved), None) in ours._guards
    del one
    gc.collect()
    assert (str(saved), None) not in ours._guards
