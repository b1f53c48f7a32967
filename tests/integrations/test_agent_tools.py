"""What tools give an agent: judged in their call, joined after it, in whatever it comes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any, NotRequired

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, AgentState, ToolRetryMiddleware
from langchain.agents.middleware.types import PrivateStateAttr
from langchain.tools import InjectedToolCallId
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from lec_guard_integrations.channels import joined_updates, merge_entries, merged
from lec_guard_integrations.langchain import OnBlock

from lec_guard import GuardBlocked, VerdictEvent
from lec_guard.act.quarantine import NOTE
from lec_guard.chain.callbacks import GuardCallbackHandler
from lec_guard.testing import ScriptedChatModel
from tests.integrations.agents import ASK, MAIL_POLICY, POLICY, QUIET, World, asked, calling, is_whole, texts

BOTH = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
HUSH = {"default.yaml": QUIET}
SPLIT = {"injection": {"injection": ["attack", "pay\nload"]}}
CONFIG: Any = {"configurable": {"thread_id": "1"}}
GIVEN: Any = {"messages": [("user", "please")]}


def looking(*things: str) -> Any:
    return calling(*(("look", {"what": thing}) for thing in things))


def updates(world: World) -> list[Any]:
    async def astream() -> list[Any]:
        return [chunk async for chunk in world.agent.astream(GIVEN, CONFIG, stream_mode="updates")]

    return asyncio.run(astream()) if world.is_async else list(world.agent.stream(GIVEN, CONFIG, stream_mode="updates"))


def from_tools(world: World) -> list[Any]:
    """What the nodes of tools gave, before any other node ran."""
    return [chunk["tools"] for chunk in updates(world) if "tools" in chunk]


# --- calls beside one another


@BOTH
@pytest.mark.parametrize("files", [HUSH, {"default.yaml": POLICY}], ids=["in the call", "after it"])
@pytest.mark.parametrize("things", ["pl", "plx", "pxl", "xplxxxxx"])
def test_a_payload_split_over_results_of_calls_at_once_does_not_pass(
    tmp_path: Path, things: str, files: Any, is_async: bool
):
    words = {"injection": {"injection": ["pay\nload", "pay\nfine 1.\nload"]}}
    said = ["pay" if one == "p" else "load" if one == "l" else f"fine {at}." for at, one in enumerate(things)]
    results = {str(at): one for at, one in enumerate(said)}
    script = {"please": looking(*results)}
    world = World(tmp_path, script, is_async=is_async, files=files, words=words, results=results)
    result = world.say("please")
    # The end of it is gone, and nothing else.
    assert texts(result)[2:-1] == ["No." if one == "load" else one for one in said]
    assert "load" not in world.shown
    assert is_whole(world.model.calls[-1])


@BOTH
def test_each_payload_that_is_split_over_results_is_found(tmp_path: Path, is_async: bool):
    said = ["pay", "load", "pay", "load!", "Fine."]
    results = {str(at): one for at, one in enumerate(said)}
    script = {"please": looking(*results)}
    world = World(tmp_path, script, is_async=is_async, files=HUSH, words=SPLIT, results=results)
    assert texts(world.say("please"))[2:-1] == ["pay", "No.", "pay", "No.", "Fine."]


@BOTH
def test_a_payload_split_over_a_result_and_one_of_a_turn_before_does_not_pass(tmp_path: Path, is_async: bool):
    script = {"please": looking("a"), "again": looking("b")}
    world = World(tmp_path, script, is_async=is_async, files=HUSH, words=SPLIT, results={"a": "pay", "b": "load"})
    world.say("please")
    assert "load" not in texts(world.say("again"))
    assert "load" not in world.shown


@BOTH
def test_results_that_are_returned_directly_are_judged_joined_too(tmp_path: Path, is_async: bool):
    @tool(return_direct=True)
    def tell(what: str) -> str:
        """Tell."""
        return what

    script = {"please": calling(("tell", {"what": "pay"}), ("tell", {"what": "load"}))}
    world = World(tmp_path, script, is_async=is_async, files=HUSH, words={**SPLIT}, tools=[tell])
    assert {"pay", "load"} > set(texts(world.say("please"))[2:]) - {"No."}
    assert len(world.model.calls) == 1


@BOTH
def test_results_of_calls_at_once_are_judged_once_and_known_in_the_next_turn(tmp_path: Path, is_async: bool):
    world = World(
        tmp_path, {"please": looking("a", "b")}, is_async=is_async, files=HUSH, results={"a": "One.", "b": "Two."}
    )
    result = world.say("please")
    seen = [step.text for step in world.detector.seen]
    assert sorted(seen) == sorted(set(seen))
    assert "One.\nTwo." in seen
    assert set(world.state.values["lec_guard_judged"]) == {one.id for one in result["messages"]}
    world.say("And now?")
    assert [step.text for step in world.detector.seen[len(seen) :]] == ["And now?", "please\nAnd now?", "Understood."]
    # Each verdict is told once.
    assert len([one for one in world.recorder.events if isinstance(one, VerdictEvent)]) == len(world.detector.seen)


@BOTH
def test_handlers_of_the_run_hear_of_a_result_once(tmp_path: Path, is_async: bool):
    class Handler(GuardCallbackHandler):
        def __init__(self) -> None:
            self.heard: list[str] = []

        def on_guard_verdict(self, verdict: Any, **kwargs: Any) -> None:
            self.heard.append(verdict["stage"])

    handler, world = Handler(), World(tmp_path, {"please": looking("a")}, is_async=is_async, files=HUSH)
    config: Any = {**CONFIG, "callbacks": [handler]}
    asyncio.run(world.agent.ainvoke(GIVEN, config)) if is_async else world.agent.invoke(GIVEN, config)
    assert handler.heard.count("tool_output") == 1


@BOTH
def test_a_mark_of_a_result_that_was_judged_alone_is_none_of_one_that_was_joined(tmp_path: Path, is_async: bool):
    world = World(tmp_path, {"please": looking("a")}, is_async=is_async, files=HUSH)
    [tools] = from_tools(world)
    [(key, alone)] = tools["lec_guard_judged"].items()
    final = world.state.values["lec_guard_judged"][key]
    assert alone != final
    assert world.state.values["messages"][2].id == key


@BOTH
def test_notes_and_tokens_of_calls_at_once_are_all_kept(tmp_path: Path, is_async: bool):
    quiet = MAIL_POLICY.replace(ASK, "").replace("    escalations:\n      boss: {kind: interrupt}\n", "")
    files = {"default.yaml": quiet}
    results = {"a": "Please click.", "b": "Write to ann@x.org.", "c": "Write to bob@x.org."}
    world = World(tmp_path, {"please": looking("a", "b", "c")}, is_async=is_async, files=files, results=results)
    world.say("please")
    assert world.state.values["lec_guard_notes"] == [NOTE]
    assert sorted(world.state.values["lec_guard_tokens"].values()) == ["ann@x.org", "bob@x.org"]
    assert NOTE in world.model.calls[-1][0].text
    assert "@x.org" not in str(world.model.calls)


# --- what follows on a block


@BOTH
@pytest.mark.parametrize("way", ["recover", "end", "raise"])
def test_what_is_blocked_is_nowhere_whatever_follows(tmp_path: Path, way: Any, is_async: bool):
    world = World(
        tmp_path, {"please": looking("a", "b")}, is_async=is_async, files=HUSH,
        results={"a": "attack", "b": "Fine."}, on_block=OnBlock(tool_output=way),
    )  # fmt: skip
    if way == "raise":
        for given in ("please", "And now?"):
            with pytest.raises(GuardBlocked) as raised:
                world.say(given, locale="de")
            verdict = raised.value.verdict
            assert (verdict.stage, verdict.rule, verdict.message) == ("tool_output", "block", "Nein.")
        assert sorted(world.looked) == ["a", "b"]  # Once each.
        [told] = [one for one in world.state.values["messages"] if one.text == "No." or one.text == "Nein."]
        world.agent.update_state(CONFIG, {"messages": [RemoveMessage(id=told.id)]})
        assert texts(world.say("And then?"))[-1] == "Understood."
        assert not world.state.values["lec_guard_blocked"]
    else:
        assert texts(world.say("please"))[-1] == ("No." if way == "end" else "Understood.")
        assert not world.state.values.get("lec_guard_blocked")
        assert is_whole(world.state.values["messages"])
        assert texts(world.say("And now?"))[-1] == "Understood."
    assert "attack" not in str(world.state.values)
    assert [step.text for step in world.detector.seen].count("attack") == 1


@BOTH
@pytest.mark.parametrize("way", ["end", "raise"])
def test_the_block_that_waits_streams_nothing_of_the_text(tmp_path: Path, way: Any, is_async: bool):
    world = World(
        tmp_path, {"please": looking("a")}, is_async=is_async, files=HUSH, results={"a": "attack"},
        on_block=OnBlock(tool_output=way),
    )  # fmt: skip
    shown: list[Any] = []

    async def astream() -> None:
        async for chunk in world.agent.astream(GIVEN, CONFIG, stream_mode=["updates", "values"]):
            shown.append(chunk)

    try:
        asyncio.run(astream()) if is_async else shown.extend(world.agent.stream(GIVEN, CONFIG, stream_mode="updates"))
    except GuardBlocked:
        assert way == "raise"
    assert "attack" not in str(shown)


@BOTH
def test_where_somebody_may_be_asked_a_result_waits_and_the_tool_runs_once(tmp_path: Path, is_async: bool):
    world = World(
        tmp_path, {"please": looking("a", "b")}, is_async=is_async, results={"a": "poison", "b": "Fine."},
        files={"default.yaml": POLICY},
    )  # fmt: skip
    question = asked(world.say("please"))
    assert question["stage"] == "tool_output"
    assert texts(world.answer(question, "block"))[2:] == ["No.", "Fine.", "Understood."]
    assert sorted(world.looked) == ["a", "b"]
    assert len(world.model.calls) == 2


# --- in what results come


def filing(*messages: Any, **more: Any) -> Any:
    @tool
    def file(call_id: Annotated[str, InjectedToolCallId]) -> Any:
        """File."""
        own = [one(call_id) if callable(one) else one for one in messages]
        return Command(update={"messages": own, **more})

    return file


class Files(AgentMiddleware):
    """Has a channel of its own."""

    class State(AgentState[Any]):
        files: NotRequired[list[str]]

    state_schema = State


@BOTH
def test_results_in_commands_are_judged_and_all_else_stays(tmp_path: Path, is_async: bool):
    own = filing(
        lambda call_id: ToolMessage("Oh darn.", tool_call_id=call_id, artifact={"a": "darn page"}),
        HumanMessage("attack"),
        files=["a.txt"],
    )
    world = World(
        tmp_path, {"please": calling(("file", {}))}, is_async=is_async, files=HUSH, tools=[own], middleware=[Files()]
    )
    [tools] = from_tools(world)
    assert "darn" not in str(tools)
    assert tools["files"] == ["a.txt"]
    # What is no result is judged before the model is called.
    state = world.state.values
    assert (state["messages"][2].text, state["messages"][2].artifact) == ("Oh dear.", {"a": "dear page"})
    assert texts(state)[3:] == ["No.", "No."]
    assert len(world.model.calls) == 1
    assert state["files"] == ["a.txt"]


@BOTH
def test_a_command_with_one_message_or_a_list_of_results_is_judged(tmp_path: Path, is_async: bool):
    @tool
    def several(call_id: Annotated[str, InjectedToolCallId]) -> Any:
        """Do several things."""
        return [Command(update={"files": ["b.txt"]}), ToolMessage("attack", tool_call_id=call_id)]

    world = World(
        tmp_path, {"please": calling(("several", {}))}, is_async=is_async, files=HUSH, tools=[several],
        middleware=[Files()],
    )  # fmt: skip
    assert "attack" not in str(from_tools(world))
    state = world.state.values
    assert texts(state)[2:] == ["No.", "Understood."]
    assert state["files"] == ["b.txt"]


@BOTH
def test_an_image_in_a_result_is_told_once(tmp_path: Path, is_async: bool):
    @tool
    def draw() -> Any:
        """Draw."""
        return [{"type": "text", "text": "A cat."}, {"type": "image", "base64": "AAAA", "mime_type": "image/png"}]

    world = World(tmp_path, {"please": calling(("draw", {}))}, is_async=is_async, files=HUSH, tools=[draw])
    world.say("please")
    rules = [one.verdict.rule for one in world.recorder.events if isinstance(one, VerdictEvent)]
    assert rules.count("unread:media") == 1


# --- beside others


class Seeing(AgentMiddleware):
    """Looks at what a call gives."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def wrap_tool_call(self, request: Any, handler: Any) -> Any:
        self.seen.append(handler(request))
        return self.seen[-1]

    async def awrap_tool_call(self, request: Any, handler: Any) -> Any:
        self.seen.append(await handler(request))
        return self.seen[-1]


@BOTH
def test_middleware_behind_the_guard_sees_messages_and_retries(tmp_path: Path, is_async: bool):
    ran: list[int] = []

    @tool
    def flaky() -> str:
        """Try."""
        ran.append(1)
        if len(ran) == 1:
            raise OSError("down")
        return "attack"

    seeing, retry = Seeing(), ToolRetryMiddleware(initial_delay=0.0, jitter=False, max_retries=2)
    world = World(
        tmp_path, {"please": calling(("flaky", {}))}, is_async=is_async, files=HUSH, tools=[flaky],
        middleware=[retry, seeing],
    )  # fmt: skip
    assert texts(world.say("please"))[2:] == ["No.", "Understood."]
    assert [type(one) for one in seeing.seen] == [ToolMessage]
    assert len(ran) == 2


@BOTH
def test_a_guarded_agent_in_a_tool_streams_its_messages(tmp_path: Path, is_async: bool):
    inner = World(tmp_path / "inner", {"task": "All well."}, is_async=is_async, files=HUSH, saver=None)

    @tool
    def ask(what: str) -> str:
        """Ask a colleague."""
        return inner.agent.invoke({"messages": [("user", what)]})["messages"][-1].text

    if is_async:

        async def aask(what: str) -> str:
            """Ask a colleague."""
            return (await inner.agent.ainvoke({"messages": [("user", what)]}))["messages"][-1].text

        ask.func, ask.coroutine = None, aask
    script = {"please": calling(("ask", {"what": "task"}))}
    world = World(tmp_path, script, is_async=is_async, files=HUSH, tools=[ask])

    async def astream() -> list[Any]:
        return [one async for one in world.agent.astream(GIVEN, CONFIG, stream_mode="messages", subgraphs=True)]

    found = (
        asyncio.run(astream())
        if is_async
        else list(world.agent.stream(GIVEN, CONFIG, stream_mode="messages", subgraphs=True))
    )
    inside = [message.text for space, (message, _) in found if space and isinstance(message, AIMessage)]
    assert inside == ["All well."]


# --- channels


def test_what_several_write_is_put_together():
    assert merge_entries(None, {"a": 1}) == {"a": 1}
    assert merge_entries({"a": 1, "b": 2}, {"a": None, "c": 3, "d": None}) == {"b": 2, "c": 3}
    state = {"lec_guard_judged": {"a": "1"}, "lec_guard_notes": ["x"], "messages": []}
    first = {"lec_guard_judged": {"a": None, "b": "2"}, "lec_guard_notes": ["y", "x"], "lec_guard_tools": {"t": ""}}
    second = {"lec_guard_judged": {"b": "3"}, "lec_guard_notes": ["z"]}
    both = joined_updates(first, second)
    assert both["lec_guard_judged"] == {"a": None, "b": "3"}
    assert merged(state, both) == merged(merged(state, first), second)
    assert merged(state, both)["lec_guard_notes"] == ["x", "y", "z"]
    assert merged(state, both)["lec_guard_tools"] == {"t": ""}


class _Before(AgentState[Any]):
    """As the state was before tools wrote into it."""

    lec_guard_judged: NotRequired[Annotated[dict[str, str], PrivateStateAttr]]
    lec_guard_notes: NotRequired[Annotated[list[str], PrivateStateAttr]]
    lec_guard_tokens: NotRequired[Annotated[dict[str, str], PrivateStateAttr]]
    lec_guard_tools: NotRequired[Annotated[dict[str, str], PrivateStateAttr]]


@BOTH
def test_a_thread_of_an_older_version_goes_on(tmp_path: Path, is_async: bool):
    saver = InMemorySaver()
    world = World(tmp_path, is_async=is_async, files=HUSH, saver=saver)
    world.guard.state_schema = _Before  # type: ignore[misc]
    world.agent = create_agent(ScriptedChatModel(), world.tools, middleware=[world.guard], checkpointer=saver)
    world.say([HumanMessage("hello", id="h1")])
    assert isinstance(world.state.values["lec_guard_judged"], dict)
    other = World(tmp_path / "other", {"please": looking("a")}, is_async=is_async, files=HUSH, saver=saver)
    other.say("please")
    assert "hello" not in [step.text for step in other.detector.seen]
    assert "h1" in other.state.values["lec_guard_judged"]
