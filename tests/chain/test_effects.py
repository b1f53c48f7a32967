"""Rewrites and escalations in chains: values keep their type, and nothing passes that was not judged."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompt_values import ChatPromptValue, StringPromptValue
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda

from lec_guard import (
    Case,
    CompositeDetector,
    Effects,
    EscalationPending,
    GuardBlocked,
    GuardRunnable,
    PiiDetector,
    PolicyError,
    Reply,
)
from lec_guard.act.quarantine import NOTE
from lec_guard.chain.callbacks import GuardCallbackHandler
from lec_guard.testing import KeywordDetector, ScriptedChatModel
from tests.conftest import write_policies
from tests.test_acting import Boss, Interrupting, Stops, Words

POLICY = """
    message: No.
    hold_back: all
    rewrite:
      soften: {kind: registered, name: soften}
      mask: {kind: redact_pii}
      tokens: {kind: redact_pii, operator: token}
      drop: {kind: drop_spans}
      seal: {kind: quarantine}
      swap: {kind: replace, text: "[withheld]"}
    escalations: {boss: {kind: registered, name: boss}}
    rules:
      - {name: block, stages: [input, output, tool_input, tool_output, retrieval], head: injection, threshold: 0.5,
         action: block}
      - {name: rude, stages: [input, output, tool_input, tool_output, retrieval], head: safety, labels: [rude],
         threshold: 0.5, action: rewrite, rewrite: soften}
      - {name: ask, stages: [input, output, tool_input], head: safety, labels: [unsafe], threshold: 0.5,
         action: escalate, escalation: boss}
      - {name: pii-in, stages: [input], head: pii, threshold: 0.4, action: rewrite, rewrite: tokens}
      - {name: pii-out, stages: [output, tool_output], head: pii, threshold: 0.4, action: rewrite, rewrite: mask}
      - {name: web, stages: [tool_output, retrieval], head: web, threshold: 0.5, action: rewrite, rewrite: seal}
      - {name: spam, stages: [input, output, retrieval], head: spam, threshold: 0.5, action: rewrite, rewrite: drop}
      - {name: secret, stages: [output], head: secret, threshold: 0.5, action: rewrite, rewrite: swap}
"""
WORDS = {
    "injection": {"injection": ["attack"]},
    "safety": {"unsafe": ["poison"], "rude": ["darn"]},
    "web": {"third": ["click"]},
    "spam": {"spam": ["buy now"]},
    "secret": {"secret": ["hush"]},
}


@pytest.fixture(scope="module")
def detector() -> CompositeDetector:
    return CompositeDetector(KeywordDetector(WORDS), PiiDetector())


@pytest.fixture
def boss() -> Boss:
    return Boss()


@pytest.fixture
def guard(tmp_path: Path, detector: CompositeDetector, boss: Boss) -> GuardRunnable:
    effects = Effects(key=b"k" * 32, rewriters={"soften": Words("darn", "dear")}, escalators={"boss": boss})
    folder = write_policies(tmp_path / "policies", {"default.yaml": POLICY})
    return GuardRunnable.from_policies(folder, detector=detector, effects=effects)


def run(runnable: Runnable[Any, Any], value: Any, how: str, config: Any = None) -> Any:
    """The value that a call gives; of a stream the sum of its chunks."""
    match how:
        case "invoke":
            return runnable.invoke(value, config)
        case "ainvoke":
            return asyncio.run(runnable.ainvoke(value, config))
        case "batch":
            return runnable.batch([value], config)[0]
        case "abatch":
            return asyncio.run(runnable.abatch([value], config))[0]
        case "transform":
            return added(list(runnable.transform(iter([value]), config)))
        case _:
            return asyncio.run(_astreamed(runnable, value, config))


async def _astreamed(runnable: Runnable[Any, Any], value: Any, config: Any) -> Any:
    async def once() -> Any:
        yield value

    return added([chunk async for chunk in runnable.atransform(once(), config)])


def added(chunks: list[Any]) -> Any:
    total = chunks[0]
    for chunk in chunks[1:]:
        total = total + chunk
    return total


HOWS = ["invoke", "ainvoke", "batch", "abatch", "transform", "atransform"]
every_way = pytest.mark.parametrize("how", HOWS)

CALL = {
    "name": "search",
    "args": {"q": "darn cats", "n": 3, "deep": [{"a": "oh darn"}]},
    "id": "c1",
    "type": "tool_call",
}
SOFT = {
    "name": "search",
    "args": {"q": "dear cats", "n": 3, "deep": [{"a": "oh dear"}]},
    "id": "c1",
    "type": "tool_call",
}
VALUES: dict[str, tuple[Any, Any]] = {
    "str": ("Oh darn.", "Oh dear."),
    "message": (HumanMessage("Oh darn.", id="1"), HumanMessage("Oh dear.", id="1")),
    "blocks": (
        HumanMessage([{"type": "text", "text": "Oh darn."}, {"type": "text", "text": "Bye."}], id="1"),
        HumanMessage([{"type": "text", "text": "Oh dear."}, {"type": "text", "text": "Bye."}], id="1"),
    ),
    "answer": (
        AIMessage("darn", id="2", usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}),
        AIMessage("dear", id="2", usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}),
    ),
    "tool call": (AIMessage("", tool_calls=[CALL]), AIMessage("", tool_calls=[SOFT])),
    "list": (
        [SystemMessage("Be kind."), HumanMessage("darn"), AIMessage("darn"), HumanMessage("hi")],
        [SystemMessage("Be kind."), HumanMessage("dear"), AIMessage("dear"), HumanMessage("hi")],
    ),
    "state": ({"messages": [HumanMessage("darn")], "n": 1}, {"messages": [HumanMessage("dear")], "n": 1}),
    "prompt": (ChatPromptValue(messages=[HumanMessage("darn")]), ChatPromptValue(messages=[HumanMessage("dear")])),
    "string prompt": (StringPromptValue(text="darn"), StringPromptValue(text="dear")),
    "documents": (
        [Document("darn", metadata={"source": "a"}), Document("fine", id="d")],
        [Document("dear", metadata={"source": "a"}), Document("fine", id="d")],
    ),
    "dict": ({"question": "darn?", "k": 4}, {"question": "dear?", "k": 4}),
    "result": (ToolMessage("darn", tool_call_id="c1", id="3"), ToolMessage("dear", tool_call_id="c1", id="3")),
}


@every_way
@pytest.mark.parametrize("kind", VALUES)
def test_a_value_is_rewritten_in_its_own_type(guard: GuardRunnable, kind: str, how: str):
    value, expected = VALUES[kind]
    before = repr(value)
    result = run(guard, value, how)
    assert result == expected
    assert type(result) is type(expected)
    assert repr(value) == before


@every_way
def test_where_nothing_is_rewritten_the_same_object_passes(guard: GuardRunnable, how: str):
    value = HumanMessage("hello")
    assert run(guard, value, how) is value


@every_way
def test_an_edit_that_would_hit_a_key_is_a_block(guard: GuardRunnable, how: str):
    call = {"name": "search", "args": {"darn": "cats"}, "id": "c1", "type": "tool_call"}
    with pytest.raises(GuardBlocked):
        run(guard, AIMessage("", tool_calls=[call]), how)


@every_way
def test_a_whole_replacement_of_a_call_is_a_block_and_of_a_text_is_not(guard: GuardRunnable, how: str):
    assert run(guard, AIMessage("hush"), how).content == "[withheld]"
    assert run(guard.output, "hush", how) == "[withheld]"


@every_way
def test_dropped_sentences_leave_a_mark(guard: GuardRunnable, how: str):
    assert run(guard.input, "Hi there. Buy now! What time is it?", how) == "Hi there. [removed] What time is it?"


@every_way
def test_who_is_asked_decides_and_an_edit_is_judged(guard: GuardRunnable, boss: Boss, how: str):
    assert run(guard.input, "poison", how) == "poison"
    boss.answer = Reply(answer="edit", text="porridge")
    assert run(guard, HumanMessage("poison", id="1"), how) == HumanMessage("porridge", id="1")
    boss.answer = Reply(answer="edit", text="attack")
    with pytest.raises(GuardBlocked):
        run(guard.input, "poison", how)


@every_way
def test_where_somebody_has_yet_to_decide_that_is_raised(guard: GuardRunnable, boss: Boss, how: str):
    def later(case: Case) -> Reply:
        raise EscalationPending(case.verdict, "t-1")

    boss.answer = later
    with pytest.raises(EscalationPending, match="t-1") as caught:
        run(guard.input, "poison", how)
    assert caught.value.ticket == "t-1"
    # A block beats it.
    with pytest.raises(GuardBlocked):
        run(guard, [HumanMessage("poison"), HumanMessage("attack")], how)


def test_errors_of_a_batch_stay_in_their_places(guard: GuardRunnable, boss: Boss):
    def later(case: Case) -> Reply:
        raise EscalationPending(case.verdict, "t-1")

    boss.answer = later
    results = guard.input.batch(["darn", "poison", "attack", "fine"], return_exceptions=True)
    assert results[0] == "dear"
    assert [type(result) for result in results[1:3]] == [EscalationPending, GuardBlocked]
    assert results[3] == "fine"


@every_way
def test_an_interrupt_can_t_be_asked_in_a_chain(tmp_path: Path, detector: CompositeDetector, how: str):
    policy = POLICY.replace("{kind: registered, name: boss}", "{kind: interrupt}")
    effects = Effects(interrupt=Interrupting(Stops()), rewriters={"soften": Words("darn", "dear")})
    guard = GuardRunnable.from_policies(
        write_policies(tmp_path, {"default.yaml": policy}), detector=detector, effects=effects
    )
    # Whatever the text is: not only when it first happens.
    with pytest.raises(PolicyError, match="boss"):
        run(guard.input, "hello", how)
    assert run(guard, ToolMessage("hello", tool_call_id="1"), how).content == "hello"


# --- quarantine


@every_way
def test_untrusted_text_is_quarantined_and_the_prompt_says_so(guard: GuardRunnable, how: str):
    messages = [SystemMessage("Be kind."), HumanMessage("Look."), ToolMessage("Please click here.", tool_call_id="1")]
    system, human, tool = run(guard, messages, how)
    assert system.content == f"Be kind.\n\n{NOTE}"
    assert human == messages[1]
    assert tool.content != messages[2].content
    assert tool.tool_call_id == "1"
    # In the next turn it is known, and neither quarantined again nor judged for what it was quarantined for.
    again = run(guard, [system, human, tool], how)
    assert again == [system, human, tool]


def test_without_a_system_prompt_there_is_one(guard: GuardRunnable):
    system, *_ = guard.invoke([HumanMessage("Look."), AIMessage("So?"), ToolMessage("click", tool_call_id="1")])
    assert system == SystemMessage(NOTE)


def test_a_quarantine_is_not_forged_by_copying_one(guard: GuardRunnable):
    tool = guard.invoke(ToolMessage("click", tool_call_id="1"))
    forged = ToolMessage(f"{tool.content} click", tool_call_id="1")
    assert guard.invoke(forged).content not in (forged.content, tool.content)
    with pytest.raises(GuardBlocked):
        guard.invoke(ToolMessage(tool.content.replace("click", "attack"), tool_call_id="1"))


# --- personal data


class Echo(ScriptedChatModel):
    """Says what it was told."""

    def _reply(self, messages: list[BaseMessage]) -> AIMessage:
        self.calls.append(messages)
        return AIMessage(f"I wrote to {messages[-1].text}")


MAIL = "ana@example.com"


@every_way
def test_tokens_are_put_back_after_judging_and_the_model_never_sees_what_they_stand_for(guard: GuardRunnable, how: str):
    model = Echo()
    answer = run(guard.protect(model), f"{MAIL}, thanks", how)
    assert answer.text == f"I wrote to {MAIL}, thanks"
    assert MAIL not in repr(model.calls)
    assert "<EMAIL_ADDRESS_" in model.calls[0][-1].text


@every_way
def test_without_protect_tokens_stay(guard: GuardRunnable, how: str):
    model = Echo()
    answer = run(guard | model | guard, [HumanMessage(MAIL)], how)
    assert "<EMAIL_ADDRESS_" in answer.text
    assert MAIL not in answer.text


@every_way
def test_what_the_model_knows_itself_is_redacted_all_the_same(guard: GuardRunnable, how: str):
    chain = guard.protect(ScriptedChatModel(answer="Ask bob@example.com.") | StrOutputParser())
    assert run(chain, f"Who knows {MAIL}?", how) == "Ask <EMAIL_ADDRESS>."


def test_runs_at_once_do_not_mix_their_tokens(guard: GuardRunnable):
    chain = guard.protect(Echo())
    mails = [f"user{at}@example.com" for at in range(8)]
    answers = chain.batch(mails)
    assert [answer.text for answer in answers] == [f"I wrote to {mail}" for mail in mails]
    # A token of another run is only a word.
    token = guard.input.invoke(mails[0])
    assert chain.invoke(f"{mails[1]} {token}").text == f"I wrote to {mails[1]} {token}"


def test_personal_data_over_two_blocks_does_not_pass(guard: GuardRunnable):
    message = HumanMessage([{"type": "text", "text": "ana@exam"}, {"type": "text", "text": "ple.com"}])
    try:
        passed = guard.invoke(message)
    except GuardBlocked:
        return
    assert "ana@exam" not in repr(passed)
    assert MAIL not in passed.text


def test_text_that_is_all_personal_data(guard: GuardRunnable):
    assert guard.output.invoke(MAIL) == "<EMAIL_ADDRESS>"


# --- streams


def chunks_of(text: str) -> Iterator[AIMessageChunk]:
    for at, letter in enumerate(text):
        yield AIMessageChunk(letter, id="1", chunk_position="last" if at == len(text) - 1 else None)


def test_a_stream_is_rewritten_as_a_whole(guard: GuardRunnable):
    total = added(list(guard.transform(chunks_of("Oh darn it."))))
    assert (total.content, total.id, total.chunk_position) == ("Oh dear it.", "1", "last")
    passed = list(guard.transform(chunks_of("Oh well.")))
    assert len(passed) == len("Oh well.")


def test_a_stream_that_can_t_be_put_together_is_blocked_where_it_would_have_to_be_rewritten(guard: GuardRunnable):
    mixed: list[Any] = ["darn", AIMessageChunk("hello")]
    with pytest.raises(GuardBlocked):
        list(guard.transform(iter(mixed)))


# --- events and traces


class Heard(GuardCallbackHandler):
    def __init__(self) -> None:
        self.told: list[str] = []

    def on_guard_verdict(self, verdict: dict[str, Any], *, run_id: Any, **kwargs: Any) -> None:
        self.told.append(f"verdict {verdict['action']}")

    def on_guard_effect(self, event: dict[str, Any], *, run_id: Any, **kwargs: Any) -> None:
        self.told.append(f"effect {event['result']}")

    def on_guard_escalation_resolved(self, event: dict[str, Any], *, run_id: Any, **kwargs: Any) -> None:
        self.told.append(f"resolved {event['follows']}")


@every_way
def test_every_event_of_a_step_reaches_the_callbacks_of_its_run(guard: GuardRunnable, how: str):
    heard = Heard()
    run(guard.input, "darn poison", how, {"callbacks": [heard]})
    assert heard.told == ["verdict escalate", "resolved allow", "effect rewritten"]


def test_a_chain_with_everything(guard: GuardRunnable):
    prompt = ChatPromptTemplate([("system", "Be kind."), ("human", "{question}")])
    model = Echo()
    chain = prompt | guard | model | guard | RunnableLambda(lambda message: message.text)
    assert chain.invoke({"question": "Darn it"}) == "I wrote to dear it"
