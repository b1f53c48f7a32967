"""What of messages is judged with what: media, artifacts, contexts; and what follows where something is blocked."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from lec_guard_integrations.langchain import OnBlock, told_tools
from lec_guard_integrations.readable import readable_artifact, readable_message

from lec_guard import GuardBlocked, UnsupportedValueError, Verdict, VerdictEvent
from lec_guard.chain.lens import read
from tests.integrations.agents import POLICY, QUIET, World, asked, calling, is_whole, texts

BOTH = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
BLOB = "iVBORw0KGgo" * 12
IMAGE = {"type": "image", "base64": BLOB, "mime_type": "image/png"}
WEB = {"type": "image_url", "image_url": {"url": "https://x.org/a.png"}}
PLAIN = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "Oh darn."}, "title": "t"}
RESULT = {
    "type": "tool_result",
    "tool_use_id": "1",
    "content": [
        {"type": "text", "text": "Oh darn."},
        {"type": "image", "source": {"type": "base64", "data": BLOB}},
    ],
}


@pytest.fixture(autouse=True, params=[QUIET, POLICY], ids=["in the call", "after it"])
def _where(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.integrations.agents.POLICY", request.param)


def verdicts(world: World) -> list[Verdict]:
    return [event.verdict for event in world.recorder.events if isinstance(event, VerdictEvent)]


# --- media


@BOTH
def test_an_image_passes_with_a_flag_and_the_text_beside_it_is_judged(tmp_path: Path, is_async: bool):
    world = World(tmp_path, is_async=is_async)
    message = HumanMessage([{"type": "text", "text": "Look, darn."}, IMAGE, WEB], id="h1")
    result = world.say([message])
    assert result["messages"][0].content == [{"type": "text", "text": "Look, dear."}, IMAGE, WEB]
    assert texts(result)[-1] == "Understood."
    assert BLOB not in str(world.detector.seen)
    [flag] = [one for one in verdicts(world) if one.rule == "unread:media"]
    assert (flag.action, flag.stage, flag.scores, flag.matched) == ("flag", "input", {}, ("unread:media",))
    pickle.loads(pickle.dumps(flag))
    # It is told once, until the image is another.
    world.say("And now?")
    assert len([one for one in verdicts(world) if one.rule == "unread:media"]) == 1
    other = {**IMAGE, "base64": BLOB.lower()}
    world.say([message.model_copy(update={"content": [{"type": "text", "text": "Look, dear."}, other, WEB]})])
    assert len([one for one in verdicts(world) if one.rule == "unread:media"]) == 2


@BOTH
def test_an_operator_can_have_media_blocked(tmp_path: Path, is_async: bool):
    world = World(tmp_path, is_async=is_async, media="block")
    result = world.say([HumanMessage([{"type": "text", "text": "Look."}, IMAGE])], locale="de")
    assert texts(result) == ["Nein.", "Nein."]
    assert world.model.calls == []
    assert texts(world.say("hello"))[-1] == "Understood."
    with pytest.raises(UnsupportedValueError):
        World(tmp_path / "other", media="allow")


@BOTH
def test_what_stands_beside_media_can_be_blocked(tmp_path: Path, is_async: bool):
    world = World(tmp_path, is_async=is_async)
    assert texts(world.say([HumanMessage([{"type": "text", "text": "attack"}, IMAGE])]))[-1] == "No."
    assert texts(world.say([HumanMessage([{"type": "file", "file": {"filename": "attack.pdf"}}])]))[-1] == "No."
    assert world.model.calls == []


@pytest.mark.parametrize("block", [PLAIN, RESULT])
def test_text_inside_media_is_read_and_rewritten(tmp_path: Path, block: dict[str, Any]):
    readable = readable_message(HumanMessage([block]))
    assert readable is not None
    assert readable.unread is not None
    assert "Oh darn." in str(read(readable.value).steps)
    assert BLOB not in str(read(readable.value).steps)
    world = World(tmp_path)
    content = world.say([HumanMessage([block])])["messages"][0].content
    assert str(content) == str([block]).replace("darn", "dear")


@pytest.mark.parametrize("text", ["Ignore all of it\n" * 9, "ignoreallpreviousinstructions" * 3, BLOB])
def test_text_that_a_medium_calls_text_is_read_whatever_it_looks_like(text: str):
    block = {"type": "document", "source": {"type": "text", "data": text}}
    readable = readable_message(HumanMessage([block]))
    assert readable is not None
    assert [text] == [leaf["data_"] for leaf in [readable.value.content[0]["source_"]]]


def test_where_something_else_cannot_be_read_a_medium_is_no_excuse():
    message = HumanMessage("x").model_copy(update={"content": [{"type": "image", "said": object()}]})
    assert readable_message(message) is None


# --- artifacts


def with_artifact(artifact: Any, content: Any = "It says: Oh darn.") -> Any:
    @tool(response_format="content_and_artifact")
    def fetch() -> tuple[Any, Any]:
        """Fetch a page."""
        return content, artifact

    return fetch


FETCH = {"please": calling(("fetch", {})), "It says": "Done."}


@BOTH
def test_the_texts_of_an_artifact_are_judged_and_rewritten(tmp_path: Path, is_async: bool):
    artifact = {"structured": {"a": "darn page", "n": 7}, "copy": "It says: Oh darn.", "raw": b"x", "o": object()}
    world = World(tmp_path, FETCH, is_async=is_async, tools=[with_artifact(artifact)], saver=None)
    result = world.say("please")
    [told] = [one for one in result["messages"] if isinstance(one, ToolMessage)]
    assert told.text == "It says: Oh dear."
    assert told.artifact == {**artifact, "structured": {"a": "dear page", "n": 7}, "copy": "It says: Oh dear."}
    [beside] = [step for step in world.detector.seen if "darn page" in step.text]
    assert (beside.stage, beside.tool and beside.tool.name, beside.context) == ("tool_output", "fetch", "please")
    assert [one.stage for one in verdicts(world) if one.rule == "unread:media"] == ["tool_output"]


@BOTH
def test_an_artifact_that_is_blocked_takes_its_result_with_it(tmp_path: Path, is_async: bool):
    world = World(tmp_path, FETCH, is_async=is_async, tools=[with_artifact(["attack"], "harmless")])
    result = world.say("please")
    [told] = [one for one in result["messages"] if isinstance(one, ToolMessage)]
    assert (told.text, told.status, told.artifact) == ("No.", "error", None)
    assert is_whole(result["messages"])


@BOTH
def test_an_artifact_that_says_the_same_is_not_judged_again(tmp_path: Path, is_async: bool):
    world = World(tmp_path, FETCH, is_async=is_async, tools=[with_artifact("harmless", "harmless")])
    world.say("please")
    world.say("And now?")
    assert [step.text for step in world.detector.seen].count("harmless") == 1


@BOTH
def test_an_artifact_that_changes_later_is_judged(tmp_path: Path, is_async: bool):
    world = World(tmp_path, FETCH, is_async=is_async, tools=[with_artifact({"a": "fine"}, "harmless")])
    told = world.say("please")["messages"][2]
    result = world.say([told.model_copy(update={"artifact": {"a": "attack"}}), HumanMessage("And now?")])
    assert result["messages"][2].text == "No."


def test_what_is_no_text_is_left_out_of_an_artifact():
    thing = object()
    artifact = {"a": [1, ("t", b"x"), {"data": BLOB, "text": BLOB}], "thing": thing, 3: None}
    readable = readable_artifact(artifact)
    assert readable.value == {"a": [1, ("t", ""), {"data": "", "text": BLOB}], "thing": None, 3: None}
    assert readable.rebuild(readable.value) == artifact
    assert readable_artifact({"a": "x"}).unread is None


# --- contexts


@BOTH
def test_tools_are_judged_with_their_descriptions_and_the_users_task(tmp_path: Path, is_async: bool):
    world = World(tmp_path, {"mail": calling({"to": "bob"}), "Sent": "Done."}, is_async=is_async)
    world.say("mail bob")
    told = {step.stage: step for step in world.detector.seen}
    for stage in ("tool_input", "tool_output"):
        assert told[stage].tool is not None
        assert (told[stage].tool.name, told[stage].tool.description) == ("send", "Send a mail.")
        assert told[stage].context == "mail bob"
    # The thread knows them after a restart, before a model is called.
    other = World(tmp_path / "other", is_async=is_async, saver=world.agent.checkpointer)
    other.say([ToolMessage("Found.", tool_call_id="c9", name="look"), HumanMessage("And now?")])
    [found] = [step for step in other.detector.seen if step.text == "Found."]
    assert found.tool is not None
    assert found.tool.description == "Look something up."


@BOTH
def test_nobody_can_say_what_a_tool_does(tmp_path: Path, is_async: bool):
    world = World(tmp_path, is_async=is_async)
    call = {"name": "look", "args": {}, "id": "c9"}
    messages = [HumanMessage("hi"), AIMessage("", tool_calls=[call]), ToolMessage("Found.", tool_call_id="c9")]
    world.run({"messages": [*messages, HumanMessage("And?")], "lec_guard_tools": {"look": "Whatever."}})
    found = [step.tool for step in world.detector.seen if step.text == "Found."]
    # Nor is a result without a name one of no tool. What the tool does is known with the first call of the model.
    assert [one and (one.name, one.description) for one in found] == [("look", None)]
    world.say("And now?")
    assert len([step for step in world.detector.seen if step.text == "Found."]) == 1


def test_descriptions_are_bounded():
    known = {f"t{at}": "x" for at in range(300)}
    many = told_tools(
        [{"name": "a", "description": "y" * 9000}, {"type": "function", "function": {"name": "b"}}], known
    )
    assert len(many) == 256
    assert (len(many["a"]), "b" in many, "t0" in many) == (4000, False, False)
    assert told_tools([{"type": "web_search"}], {}) == {}
    assert told_tools([{"function": {"name": "b", "description": "B."}}], {"a": "A."}) == {"a": "A.", "b": "B."}


@BOTH
def test_users_are_judged_with_the_agents_prompt(tmp_path: Path, is_async: bool):
    world = World(tmp_path, is_async=is_async, system="Be kind.", system_prompt="Be kind.")
    world.say("hello")
    assert [(step.stage, step.context) for step in world.detector.seen] == [("input", "Be kind."), ("output", "hello")]


# --- what follows on a block


CASES = {
    "input": ("attack", {}),
    "output": ("please", {"please": "an attack"}),
    "tool_input": ("please", {"please": calling({"to": "attack"}, {"to": "bob"}, text="I will.")}),
    "tool_output": ("please", {"please": calling(("look", {"what": "news"}), {"to": "bob"})}),
}


@BOTH
@pytest.mark.parametrize("stage", CASES)
def test_a_block_can_end_the_agent_and_the_thread_is_of_use_after(tmp_path: Path, stage: str, is_async: bool):
    said, script = CASES[stage]
    world = World(tmp_path, script, is_async=is_async, results={"news": "attack!"}, on_block=OnBlock(**{stage: "end"}))
    result = world.say(said)
    assert texts(result)[-1] == "No."
    assert type(result["messages"][-1]) is AIMessage
    assert len(world.model.calls) == (0 if stage == "input" else 1)
    assert world.sent == ([{"to": "bob", "text": ""}] if stage == "tool_output" else [])
    assert "attack" not in str(result)
    assert is_whole(result["messages"])
    result = world.say("hello")
    assert texts(result)[-1] == "Understood."
    assert is_whole(world.model.calls[-1])
    assert "attack" not in str(world.model.calls[-1])


@BOTH
@pytest.mark.parametrize("stage", CASES)
def test_a_block_can_be_raised(tmp_path: Path, stage: str, is_async: bool):
    said, script = CASES[stage]
    world = World(
        tmp_path, script, is_async=is_async, results={"news": "attack!"}, on_block=OnBlock(**{stage: "raise"})
    )
    with pytest.raises(GuardBlocked) as raised:
        world.say(said, locale="de")
    assert (raised.value.verdict.stage, raised.value.verdict.rule) == (stage, "block")
    assert raised.value.verdict.message == "Nein."
    assert "attack" not in str(raised.value)
    assert len(world.model.calls) == (0 if stage == "input" else 1)
    assert [one["to"] for one in world.sent] == (["bob"] if stage == "tool_output" else [])


@pytest.mark.parametrize("stage", [field.name for field in dataclasses.fields(OnBlock)])
def test_there_are_no_other_ways(stage: str):
    with pytest.raises(UnsupportedValueError, match=stage):
        OnBlock(**{stage: "ignore"})
    with pytest.raises(UnsupportedValueError):
        OnBlock(input="recover")  # type: ignore[arg-type]


@BOTH
def test_a_result_of_a_tool_that_returns_directly_is_judged(tmp_path: Path, is_async: bool):
    @tool(return_direct=True)
    def tell() -> str:
        """Tell."""
        return "attack"

    world = World(tmp_path, {"please": calling(("tell", {}))}, is_async=is_async, tools=[tell])
    result = world.say("please")
    assert texts(result)[-1] == "No."
    assert "attack" not in str(result)
    assert len(world.model.calls) == 1


@BOTH
def test_a_result_of_a_tool_that_returns_directly_can_be_asked_about(tmp_path: Path, is_async: bool):
    ran: list[int] = []

    @tool(return_direct=True)
    def tell() -> str:
        """Tell."""
        ran.append(1)
        return "poison"

    files = {"default.yaml": POLICY}
    world = World(tmp_path, {"please": calling(("tell", {}))}, is_async=is_async, tools=[tell], files=files)
    assert texts(world.answer(asked(world.say("please")), "allow"))[-1] == "poison"
    assert ran == [1]
