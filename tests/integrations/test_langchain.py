"""A guard in an agent: blocks, rewrites, quarantines and tokens, through the whole loop and over several turns."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain.agents.structured_output import ToolStrategy
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage, SystemMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from lec_guard_integrations.tokens import hiding
from pydantic import BaseModel

from lec_guard import (
    Case,
    EscalationPending,
    Escalator,
    PolicyError,
    Reply,
    Step,
    TenantMismatch,
    Verdict,
    VerdictEvent,
)
from lec_guard.act.quarantine import NOTE
from lec_guard.chain.callbacks import GuardCallbackHandler
from tests.conftest import ROOT
from tests.integrations.agents import MAIL_POLICY, POLICY, QUIET, World, asked, calling, is_whole, texts

assert "ask" not in QUIET


@pytest.fixture(autouse=True, params=[QUIET, POLICY], ids=["in the call", "after it"])
def _where(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody can be asked, answers are judged inside the call of the model, else in a node of their own."""
    monkeypatch.setattr("tests.integrations.agents.POLICY", request.param)


BOTH = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
MAIL = {"default.yaml": MAIL_POLICY}
IMAGE = {"type": "image", "base64": "AAAA", "mime_type": "image/png"}


def verdicts(world: World) -> list[Verdict]:
    return [event.verdict for event in world.recorder.events if isinstance(event, VerdictEvent)]


# --- blocks


@BOTH
def test_what_is_harmless_passes_as_it_is(tmp_path: Path, is_async: bool):
    world = World(tmp_path, {"mail": calling({"to": "bob"}, text="I will."), "Sent": "Done."}, is_async=is_async)
    result = world.say("mail bob")
    assert texts(result) == ["mail bob", "I will.", "Sent to bob.", "Done."]
    assert set(result) == {"messages"}
    judged = [(step.stage, step.text, step.context) for step in world.detector.seen]
    assert judged == [
        ("input", "mail bob", None),
        ("output", "I will.", "mail bob"),
        ("tool_input", "to: bob", "mail bob"),
        ("tool_output", "Sent to bob.", "mail bob"),
        ("output", "Done.", "mail bob"),
    ]
    assert len([event for event in world.recorder.events if isinstance(event, VerdictEvent)]) == len(judged)


@BOTH
def test_a_message_of_a_user_that_is_blocked_is_never_seen_by_the_model(tmp_path: Path, is_async: bool):
    world = World(tmp_path, is_async=is_async)
    result = world.say([HumanMessage("attack", id="h1", name="attacker")])
    assert world.model.calls == []
    user, answer = result["messages"]
    assert (type(user), user.text, user.id, user.name) == (HumanMessage, "No.", "h1", None)
    assert (type(answer), answer.text) == (AIMessage, "No.")
    # The thread is of use after.
    assert texts(world.say("hello"))[2:] == ["hello", "Understood."]
    assert "attack" not in str(world.model.calls)
    # Nor is what we said judged as if a model had.
    assert [step.text for step in world.detector.seen] == [
        "attack\nname: attacker", "hello", "No.\nhello", "Understood.",
    ]  # fmt: skip


@BOTH
def test_a_refusal_is_in_the_language_of_the_run(tmp_path: Path, is_async: bool):
    world = World(tmp_path, is_async=is_async)
    assert texts(world.say("attack", locale="de-AT")) == ["Nein.", "Nein."]


@BOTH
def test_a_result_that_is_blocked_is_an_error_and_the_agent_goes_on(tmp_path: Path, is_async: bool):
    script = {"news": calling(("look", {"what": "news"}))}
    world = World(tmp_path, script, is_async=is_async, results={"news": "attack!"})
    result = world.say("news?")
    told = result["messages"][2]
    assert (told.text, told.status, told.tool_call_id, told.name) == ("No.", "error", "c0", "look")
    assert texts(result)[3:] == ["Understood."]
    assert "attack" not in str(world.model.calls)
    assert is_whole(result["messages"])
    assert texts(world.say("hello"))[-1] == "Understood."


@BOTH
def test_an_answer_that_is_blocked_ends_the_agent_and_runs_no_tool(tmp_path: Path, is_async: bool):
    script = {"please": calling({"to": "bob"}, text="attack")}
    world = World(tmp_path, script, is_async=is_async)
    result = world.say("please")
    assert world.sent == []
    assert len(world.model.calls) == 1
    answer = result["messages"][-1]
    assert (answer.text, answer.tool_calls, answer.usage_metadata["total_tokens"]) == ("No.", [], 3)
    assert len(result["messages"]) == 2
    assert texts(world.say("hello"))[-1] == "Understood."
    assert is_whole(world.model.calls[-1])


@BOTH
def test_a_call_that_is_blocked_does_not_run_and_the_others_do(tmp_path: Path, is_async: bool):
    script = {"please": calling({"to": "bob"}, {"to": "attack"}), "Sent": "Done."}
    world = World(tmp_path, script, is_async=is_async)
    result = world.say("please")
    assert world.sent == [{"to": "bob", "text": ""}]
    by_id = {one.tool_call_id: one for one in result["messages"] if isinstance(one, ToolMessage)}
    assert (by_id["c1"].text, by_id["c1"].status, by_id["c1"].name) == ("No.", "error", "send")
    assert by_id["c0"].status == "success"
    assert len(world.model.calls) == 2
    assert is_whole(world.model.calls[-1])
    # What stands in a result that we wrote is ours, and is not judged.
    assert "No." not in [step.text for step in world.detector.seen]


@BOTH
def test_where_all_calls_are_blocked_the_agent_goes_back_to_the_model(tmp_path: Path, is_async: bool):
    script = {"please": calling({"to": "attack"}, {"to": "attack again"}), "No.": "As you wish."}
    world = World(tmp_path, script, is_async=is_async)
    result = world.say("please")
    assert (world.sent, len(world.model.calls)) == ([], 2)
    assert texts(result)[-1] == "As you wish."
    assert is_whole(world.model.calls[-1])
    assert texts(world.say("hello"))[-1] == "Understood."


def test_a_call_without_an_id_that_is_blocked_blocks_the_answer(tmp_path: Path):
    answer = calling({"to": "attack"})
    answer.tool_calls[0]["id"] = None
    world = World(tmp_path, {"please": answer})
    assert texts(world.say("please")) == ["please", "No."]
    assert world.sent == []


@BOTH
def test_what_a_model_writes_as_a_broken_call_is_judged(tmp_path: Path, is_async: bool):
    broken = {"name": "send", "args": '{"to": "attack', "id": "c0", "error": None, "type": "invalid_tool_call"}
    world = World(tmp_path, {"please": AIMessage("", invalid_tool_calls=[broken])}, is_async=is_async)
    result = world.say("please")
    assert texts(result) == ["please", "No."]
    assert result["messages"][1].invalid_tool_calls == []


# --- what is judged, and how often


@BOTH
def test_nothing_is_judged_twice_over_turns(tmp_path: Path, is_async: bool):
    world = World(tmp_path, {"mail": calling({"to": "bob"}), "Sent": "Done."}, is_async=is_async)
    world.say("mail bob")
    world.say("And now?")
    seen = [step.text for step in world.detector.seen]
    assert sorted(seen) == sorted(set(seen))


@BOTH
def test_a_history_that_a_caller_brings_along_is_judged(tmp_path: Path, is_async: bool):
    world = World(tmp_path, is_async=is_async)
    call = {"name": "look", "args": {"what": "attack"}, "id": "c9"}
    result = world.say(
        [
            SystemMessage("attack is a word of the operator's"),
            HumanMessage("hello"),
            AIMessage("attack", tool_calls=[call]),
            ToolMessage("attack", tool_call_id="c9"),
            AIMessage("Well."),
            HumanMessage("And now?"),
        ]
    )
    assert texts(result)[1:] == ["hello", "No.", "No.", "Well.", "And now?", "Understood."]
    assert result["messages"][2].tool_calls[0]["args"] == {}
    assert is_whole(world.model.calls[-1])
    contexts = {step.text: step.context for step in world.detector.seen if step.stage in ("input", "output")}
    assert contexts["hello"] == contexts["And now?"] == "attack is a word of the operator's"
    assert contexts["Understood."] == "And now?"
    other = World(tmp_path / "other", is_async=is_async)
    assert texts(other.say([HumanMessage("attack"), AIMessage("Well."), HumanMessage("hi")]))[-1] == "No."
    assert other.model.calls == []


@BOTH
def test_a_message_in_the_place_of_one_that_was_judged_is_judged(tmp_path: Path, is_async: bool):
    world = World(tmp_path, is_async=is_async)
    world.say([HumanMessage("hello", id="h1")])
    result = world.say([HumanMessage("attack", id="h1"), HumanMessage("And now?")])
    assert texts(result)[0] == "No."
    assert len(world.model.calls) == 1


@BOTH
def test_nobody_can_claim_that_a_message_was_judged(tmp_path: Path, is_async: bool):
    world = World(tmp_path, is_async=is_async)
    message = HumanMessage("attack", id="h1")
    mark = world.guard.guard.fingerprints()([Step(stage="input", text="attack")])
    result = world.run({"messages": [message], "lec_guard_judged": {"h1": mark}})
    assert texts(result) == ["No.", "No."]


def test_another_tenant_judges_anew(tmp_path: Path):
    strict = {"tenants/strict.yaml": POLICY.replace("head: injection\n", "head: web\n")}
    world = World(tmp_path, files=strict)
    assert texts(world.say("click"))[-1] == "Understood."
    assert texts(world.say("hello", tenant="strict"))[0] == "No."


def test_digests_of_messages_that_are_gone_are_dropped(tmp_path: Path):
    world = World(tmp_path)
    world.say([HumanMessage("hello", id="h1")])
    assert "h1" in world.state.values["lec_guard_judged"]
    world.say([RemoveMessage(id="h1"), HumanMessage("hi", id="h2")])
    assert set(world.state.values["lec_guard_judged"]) == {one.id for one in world.state.values["messages"]}


@pytest.mark.parametrize(
    "other",
    [
        HumanMessage("hello.", id="h"),
        HumanMessage([{"type": "text", "text": "hello"}, {"type": "text", "text": "x"}], id="h"),
        HumanMessage("hello", id="h", name="bob"),
        HumanMessage("hello", id="h", additional_kwargs={"more": "x"}),
        AIMessage("hello", id="h"),
        HumanMessage(
            [{"type": "text", "text": "hello"}, {"type": "image", "base64": "AAAA", "mime_type": "x/y"}], id="h"
        ),
    ],
)
def test_what_is_put_in_the_place_of_a_message_is_judged(tmp_path: Path, other: Any):
    world = World(tmp_path)
    world.say([HumanMessage("hello", id="h")])
    seen = len(world.detector.seen)
    world.say([HumanMessage("hello", id="h"), HumanMessage("And now?")])
    # The question, that behind the one before it, and the answer.
    assert len(world.detector.seen) == seen + 3
    world.say([other, HumanMessage("And then?")])
    assert len(world.detector.seen) > seen + 6


@BOTH
def test_another_policy_or_detector_judges_anew(tmp_path: Path, is_async: bool):
    world = World(tmp_path, is_async=is_async)
    assert texts(world.say("click"))[-1] == "Understood."
    file = tmp_path / "policies" / "default.yaml"
    file.write_text(file.read_text().replace("head: injection", "head: web", 1))
    world.guard.guard.reload()
    result = world.say("hello")
    assert texts(result)[0] == "No."
    other = World(tmp_path / "other", is_async=is_async, saver=world.agent.checkpointer)
    other.detector.detector_id = "others"
    other.guard.guard.close()
    assert texts(other.say("hello"))[-1] == "Understood."
    assert other.detector.seen[0].text == "No."


@BOTH
def test_a_process_with_the_same_key_knows_what_another_has_judged(tmp_path: Path, is_async: bool):
    world = World(tmp_path, {"news?": calling(("look", {"what": "news"}))}, is_async=is_async)
    world.say("news?")
    other = World(tmp_path / "other", is_async=is_async, saver=world.agent.checkpointer)
    other.say("hello")
    assert [step.text for step in other.detector.seen] == ["hello", "news?\nhello", "Understood."]


@BOTH
def test_what_a_caller_writes_into_the_state_is_worth_nothing_without_the_key(tmp_path: Path, is_async: bool):
    world = World(tmp_path, is_async=is_async)
    world.say("hello")
    config: Any = {"configurable": {"thread_id": "1"}}
    forged = {"messages": [HumanMessage("attack", id="h1")], "lec_guard_judged": {"h1": "0" * 32}}
    world.agent.update_state(config, forged)
    assert "No." in texts(world.say("And now?"))
    assert "attack" not in str(world.model.calls)


@BOTH
def test_what_cannot_be_read_does_not_pass(tmp_path: Path, is_async: bool):
    world = World(tmp_path, is_async=is_async)
    deep: Any = "attack"
    for _ in range(80):
        deep = {"a": deep}
    result = world.say([HumanMessage([{"type": "other", "said": deep}])])
    assert texts(result) == ["No.", "No."]
    assert world.model.calls == []
    assert verdicts(world)[-1].rule == "unread"
    # The thread is of use after.
    assert texts(world.say("hello"))[-1] == "Understood."


# --- rewrites


@BOTH
def test_what_is_rewritten_keeps_its_place_and_all_else(tmp_path: Path, is_async: bool):
    script = {
        "Sent": AIMessage("Oh darn.", id="last", response_metadata={"model": "m"}),
        "dear": calling({"to": "darn bob"}, text="darn, I will."),
    }
    world = World(tmp_path, script, is_async=is_async)
    result = world.say([HumanMessage("darn mail", id="h1")])
    assert texts(result) == ["dear mail", "dear, I will.", "Sent to dear bob.", "Oh dear."]
    user, call, _, last = result["messages"]
    assert (user.id, last.id, last.response_metadata["model"]) == ("h1", "last", "m")
    assert call.usage_metadata["total_tokens"] == 3
    assert (call.tool_calls[0]["id"], call.tool_calls[0]["args"]) == ("c0", {"to": "dear bob"})
    assert world.sent == [{"to": "dear bob", "text": ""}]
    assert "darn" not in str(world.model.calls)


@BOTH
def test_a_rewrite_that_hits_a_name_of_an_argument_blocks_the_call_alone(tmp_path: Path, is_async: bool):
    calls = calling(("look", {"darn": "x", "what": "y"}), ("look", {"what": "z"}))
    world = World(tmp_path, {"please": calls}, is_async=is_async)
    result = world.say("please")
    assert world.looked == ["z"]
    assert [one.tool_call_id for one in result["messages"] if getattr(one, "status", "") == "error"] == ["c0"]


@BOTH
def test_what_an_edit_of_one_reading_makes_of_another_is_judged(tmp_path: Path, is_async: bool):
    # Blocks are read with and without a line break between them; the rule finds something in the first reading only.
    words = {"safety": {"unsafe": [], "rude": ["darn\nack"]}}
    world = World(tmp_path, is_async=is_async, words=words, instead="att")
    blocks = [{"type": "text", "text": "darn"}, {"type": "text", "text": "ack"}]
    assert texts(world.say([HumanMessage(blocks)])) == ["No.", "No."]
    assert world.model.calls == []
    harmless = World(tmp_path / "other", is_async=is_async, words=words, instead="sm")
    assert texts(harmless.say([HumanMessage(blocks)])) == ["smack", "Understood."]


# --- tenants and sinks


@BOTH
def test_the_tenant_of_the_run_decides(tmp_path: Path, is_async: bool):
    acme = {"tenants/acme.yaml": "extends: default\nmessage: {en: Acme says no.}"}
    world = World(tmp_path, is_async=is_async, files=acme, resolver=lambda config: config["configurable"].get("token"))
    assert texts(world.say("attack", tenant="acme"))[-1] == "Acme says no."
    assert texts(world.say("attack", token="acme"))[-1] == "Acme says no."
    with pytest.raises(TenantMismatch):
        world.say("hello", tenant="acme", token="other")
    with pytest.raises(PolicyError):
        world.say("hello", tenant="unknown")
    assert world.model.calls == []


def test_a_middleware_can_be_of_one_tenant(tmp_path: Path):
    acme = {"tenants/acme.yaml": "extends: default\nmessage: {en: Acme says no.}"}
    world = World(tmp_path, files=acme, tenant="acme")
    assert texts(world.say("attack"))[-1] == "Acme says no."
    with pytest.raises(PolicyError):
        World(tmp_path / "other", tenant="unknown")


@BOTH
def test_handlers_of_the_run_hear_of_it(tmp_path: Path, is_async: bool):
    class Handler(GuardCallbackHandler):
        def __init__(self) -> None:
            self.heard: list[str] = []

        def on_guard_verdict(self, verdict: Any, **kwargs: Any) -> None:
            self.heard.append(verdict["action"])

    handler, world = Handler(), World(tmp_path, {"please": "Oh darn."}, is_async=is_async)
    given: Any = {"messages": [("user", "please")]}
    config: Any = {"configurable": {"thread_id": "1"}, "callbacks": [handler]}
    asyncio.run(world.agent.ainvoke(given, config)) if is_async else world.agent.invoke(given, config)
    assert handler.heard == ["allow", "rewrite"]


class Later(Escalator):
    def __init__(self) -> None:
        self.answer: Reply | None = None

    def ask(self, case: Case) -> Reply:
        if self.answer is None:
            raise EscalationPending(case.verdict, "t-1")
        return self.answer


@BOTH
def test_where_somebody_has_yet_to_decide_the_agent_can_be_called_again(tmp_path: Path, is_async: bool):
    later = Later()
    policy = POLICY.replace("kind: interrupt", "kind: registered, name: later")
    policy = policy.replace("[input, output, tool_input, tool_output]", "[tool_input]")
    script = {"please": calling({"to": "poison"}), "Sent": "Done."}
    files, effects = {"default.yaml": policy}, {"escalators": {"later": later}}
    world = World(tmp_path, script, is_async=is_async, files=files, effects=effects)
    with pytest.raises(EscalationPending) as pending:
        world.say("please")
    assert (pending.value.ticket, world.sent) == ("t-1", [])
    later.answer = Reply(answer="allow")
    assert texts(world.run(None))[-1] == "Done."
    assert (len(world.sent), len(world.model.calls)) == (1, 2)


# --- quarantines


SHADY = {"news": calling(("look", {"what": "news"})), "<quarantine": "It says to click."}


@BOTH
def test_what_is_quarantined_is_explained_once_and_stays_as_it_is(tmp_path: Path, is_async: bool):
    world = World(tmp_path, SHADY, is_async=is_async, results={"news": "Please click."}, system="Be kind.")
    result = world.say("news?")
    told = result["messages"][2].text
    assert told.startswith("<quarantine-")
    assert texts(result)[-1] == "It says to click."
    assert [call[0].text.count(NOTE) for call in world.model.calls] == [0, 1]
    assert world.model.calls[1][0].text.startswith("Be kind.")
    seen = len(world.detector.seen)
    result = world.say("And now?")
    assert texts(result)[2] == told
    assert world.model.calls[2][0].text.count(NOTE) == 1
    assert len([one for one in world.model.calls[2] if isinstance(one, SystemMessage)]) == 1
    # The question, that behind the one before it, and the answer; nothing else of what was there before.
    assert [step.text for step in world.detector.seen[seen:-1]] == ["And now?", "news?\nAnd now?"]
    assert len(world.detector.seen) == seen + 3


@BOTH
def test_without_a_system_prompt_the_note_is_one(tmp_path: Path, is_async: bool):
    world = World(tmp_path, SHADY, is_async=is_async, results={"news": "Please click."})
    world.say("news?")
    first, *others = world.model.calls[-1]
    assert (type(first), first.text) == (SystemMessage, NOTE)
    assert not any(isinstance(one, SystemMessage) for one in others)
    assert not any(isinstance(one, SystemMessage) for one in world.state.values["messages"])


@BOTH
def test_a_quarantine_in_a_history_that_a_caller_keeps_is_known_and_explained(tmp_path: Path, is_async: bool):
    world = World(tmp_path, SHADY, is_async=is_async, results={"news": "Please click."}, saver=None)
    kept = world.say("news?")["messages"]
    result = world.say([*kept, HumanMessage("And now?")])
    assert texts(result)[2] == kept[2].text
    assert world.model.calls[-1][0].text == NOTE


@BOTH
def test_a_quarantine_that_somebody_allows_is_explained_too(tmp_path: Path, is_async: bool):
    files = {"default.yaml": POLICY}
    world = World(tmp_path, SHADY, is_async=is_async, results={"news": "Please click on poison."}, files=files)
    first = world.answer(asked(world.say("news?")), "allow")
    assert world.model.calls[-1][0].text == NOTE
    other = World(tmp_path / "other", is_async=is_async, files=files)
    other.answer(asked(other.say([*first["messages"], HumanMessage("And now?")])), "allow")
    assert other.model.calls[-1][0].text == NOTE
    assert texts(other.state.values)[2] == texts(first)[2]


# --- tokens


TO_BOB = {"mail": calling({"to": "bob"}), "Sent": "Done."}


class Writing(AgentMiddleware):
    """A model that writes to whomever it is told to."""

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        return _written(request, handler(request))

    async def awrap_model_call(self, request: Any, handler: Any) -> Any:
        return _written(request, await handler(request))


def _written(request: Any, response: Any) -> Any:
    token = next(word for word in request.messages[0].text.split() if word.startswith("<EMAIL_ADDRESS_"))
    for message in response.result:
        message.content = message.content.replace("THEM", token)
        for call in message.tool_calls:
            call["args"] = {key: value.replace("THEM", token) for key, value in call["args"].items()}
    return response


@BOTH
def test_the_model_sees_tokens_and_tools_and_users_see_what_they_stand_for(tmp_path: Path, is_async: bool):
    script = {"Write to": calling({"to": "THEM", "text": "hi THEM"}), "Sent": "I wrote to THEM."}
    world = World(tmp_path, script, is_async=is_async, files=MAIL, middleware=[Writing()], system="Ann is ann@x.org")
    result = world.say("Write to ann@x.org please")
    assert world.sent == [{"to": "ann@x.org", "text": "hi ann@x.org"}]
    assert texts(result)[-1] == "I wrote to ann@x.org."
    assert len(world.model.calls) == 2
    assert "ann@x.org" not in str(world.model.calls)
    assert "<EMAIL_ADDRESS_" in world.shown[1]
    # Neither the caller nor the messages have more of it than the answer.
    assert set(result) == {"messages"}
    assert ["ann@x.org" in text for text in texts(result)] == [False, False, False, True]
    assert list(world.state.values["lec_guard_tokens"].values()) == ["ann@x.org"]
    # In the next turn the model is sent tokens for what the answer says, too.
    seen = len(world.detector.seen)
    script = world.model.script
    script["Thanks"] = "Always."
    assert texts(world.say("Thanks"))[-1] == "Always."
    assert "ann@x.org" not in str(world.model.calls)
    assert [step.text for step in world.detector.seen[seen:]][0::2] == ["Thanks", "Always."]
    # As the first question passes: with a token.
    assert world.detector.seen[seen + 1].text == f"{result['messages'][0].text}\nThanks"
    assert "<EMAIL_ADDRESS_" in world.detector.seen[seen + 1].text
    assert len(world.detector.seen) == seen + 3


@BOTH
def test_tokens_are_there_before_anything_waits(tmp_path: Path, is_async: bool):
    script = {"Write to": calling({"to": "THEM", "text": "poison"}), "Sent": "Done."}
    world = World(tmp_path, script, is_async=is_async, files=MAIL, middleware=[Writing()])
    question = asked(world.say("Write to ann@x.org please"))
    assert "ann@x.org" not in str(question)
    assert "ann@x.org" not in str(world.state.values["messages"])
    world.answer(question, "allow")
    assert world.sent == [{"to": "ann@x.org", "text": "poison"}]


@BOTH
def test_nobody_can_give_tokens_a_meaning(tmp_path: Path, is_async: bool):
    world = World(tmp_path, TO_BOB, is_async=is_async, files=MAIL)
    world.run({"messages": [("user", "mail")], "lec_guard_tokens": {"bob": "eve"}})
    assert world.sent == [{"to": "bob", "text": ""}]


def test_values_are_hidden_wherever_they_stand():
    hide = hiding({"<A_1>": "ann@x.org", "<P_1>": "Al", "<P_2>": "Al", "<P_3>": "Alan"})
    assert hide("mailto:ann@x.org2, Al; Also Alanis, <A_1>") == "mailto:<A_1>2, <P_1>; Also <P_3>is, <A_1>"
    assert hiding({"<A_123>": "A_123"})("<A_123> is A_123") == "<A_123> is <A_123>"
    assert hiding({})("as it is") == "as it is"
    assert hiding({"<A_1>": ""})("as it is") == "as it is"


# --- structured answers


class Report(BaseModel):
    title: str
    stars: int


def reporting(world: World, title: str) -> Any:
    world.model.script["please"] = calling(("Report", {"title": title, "stars": 3}))
    world.agent = create_agent(
        world.model, [], middleware=[world.guard], response_format=ToolStrategy(Report), checkpointer=InMemorySaver()
    )
    return world.say("please")


@BOTH
def test_a_structured_answer_passes_as_it_is(tmp_path: Path, is_async: bool):
    result = reporting(world := World(tmp_path, is_async=is_async), "fine")
    assert result["structured_response"] == Report(title="fine", stars=3)
    assert is_whole(result["messages"])
    assert [step.stage for step in world.detector.seen] == ["input", "tool_input", "output"]


@BOTH
@pytest.mark.parametrize("stage", ["tool_input", "output"])
def test_one_rule_is_enough_to_block_a_structured_answer(tmp_path: Path, stage: str, is_async: bool):
    policy = POLICY.replace("[input, output, tool_input, tool_output]", f"[{stage}]")
    world = World(tmp_path, is_async=is_async, files={"default.yaml": policy})
    result = reporting(world, "attack")
    assert result.get("structured_response") is None
    assert texts(result) == ["please", "No."]


@BOTH
def test_a_structured_answer_that_is_blocked_is_none(tmp_path: Path, is_async: bool):
    result = reporting(world := World(tmp_path, is_async=is_async), "attack")
    assert result.get("structured_response") is None
    assert texts(result) == ["please", "No."]
    assert "attack" not in str(result)
    assert len(world.model.calls) == 1


@BOTH
def test_a_structured_answer_that_is_rewritten_is_so_everywhere(tmp_path: Path, is_async: bool):
    result = reporting(World(tmp_path, is_async=is_async), "darn")
    assert result["structured_response"] == Report(title="dear", stars=3)
    assert "darn" not in str(result)


# --- what it needs


@pytest.mark.parametrize("module", ["langchain", "langgraph"])
@pytest.mark.parametrize("missing", ["langchain", "langgraph"])
def test_without_the_extra_the_error_says_what_to_run(module: str, missing: str):
    code = (
        f"import sys; sys.modules[{missing!r}] = None\nimport lec_guard_integrations.{module} as it\nprint(it.__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    if module == "langgraph" and missing == "langchain":
        assert done.stdout.strip() == "lec_guard_integrations.langgraph"
    else:
        assert "pip install 'lec-guard[langchain]'" in done.stderr
        assert missing in done.stderr.splitlines()[-1]
