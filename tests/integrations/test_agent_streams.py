"""What each way of streaming an agent shows of answers and results that are blocked."""

from __future__ import annotations

import asyncio
import gc
import warnings
from pathlib import Path
from typing import Any

import pytest
from langchain.tools import ToolRuntime
from langchain_core._api import LangChainBetaWarning, LangChainDeprecationWarning
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.tools import tool

from tests.integrations.agents import POLICY, QUIET, World, calling

BOTH = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
MODES = ["messages", "updates", "values", "custom", "debug", "tasks", "checkpoints"]
CONFIG: Any = {"configurable": {"thread_id": "1"}}
GIVEN: Any = {"messages": [("user", "please")]}


def chunks(world: World, mode: Any) -> list[Any]:
    async def astream() -> list[Any]:
        return [chunk async for chunk in world.agent.astream(GIVEN, CONFIG, stream_mode=mode)]

    return asyncio.run(astream()) if world.is_async else list(world.agent.stream(GIVEN, CONFIG, stream_mode=mode))


def blocked(folder: Path, is_async: bool, **changes: Any) -> World:
    files = {"default.yaml": QUIET, **changes.pop("files", {})}
    return World(folder, {"please": "an attack in an answer"}, is_async=is_async, files=files, **changes)


@BOTH
@pytest.mark.parametrize("mode", MODES)
def test_no_mode_shows_an_answer_that_is_blocked(tmp_path: Path, mode: str, is_async: bool):
    shown = chunks(world := blocked(tmp_path, is_async), mode)
    assert "attack" not in str(shown)
    assert len(world.model.calls) == 1
    if mode != "custom":
        assert "No." in str(shown)


@BOTH
@pytest.mark.parametrize("mode", MODES)
def test_no_mode_shows_what_was_before_a_rewrite(tmp_path: Path, mode: str, is_async: bool):
    world = World(tmp_path, {"please": "Oh darn."}, is_async=is_async, files={"default.yaml": QUIET})
    shown = chunks(world, mode)
    assert "darn" not in str(shown)
    if mode != "custom":
        assert "Oh dear." in str(shown)


@BOTH
def test_all_modes_at_once_show_nothing_either(tmp_path: Path, is_async: bool):
    assert "attack" not in str(chunks(blocked(tmp_path, is_async), MODES))


@BOTH
def test_where_somebody_may_be_asked_updates_show_it_and_messages_and_tokens_do_not(tmp_path: Path, is_async: bool):
    policy = {"default.yaml": POLICY}
    assert "attack" in str(chunks(blocked(tmp_path / "1", is_async, files=policy), "updates"))
    shown = chunks(blocked(tmp_path / "2", is_async, files=policy), "messages")
    # LangGraph shows the message of the node whole, as it does in updates.
    assert [chunk.text for chunk, told in shown if told["langgraph_node"] == "model"] == ["an attack in an answer"]


@BOTH
def test_with_hide_stream_off_tokens_are_shown_before_they_are_judged(tmp_path: Path, is_async: bool):
    shown = chunks(blocked(tmp_path, is_async, hide_stream=False), "messages")
    assert "attack" in "".join(chunk.text for chunk, _ in shown)


def events(world: World, version: Any = "v2", **wanted: Any) -> list[Any]:
    async def run() -> list[Any]:
        shown = world.agent.astream_events(GIVEN, CONFIG, version=version, **wanted)
        return [one async for one in (await shown if version == "v3" else shown)]

    with warnings.catch_warnings():
        for kind in (LangChainBetaWarning, LangChainDeprecationWarning):
            warnings.simplefilter("ignore", kind)
        found = asyncio.run(run())
    gc.collect()
    return found


def test_events_show_no_model_that_is_judged_later_unless_that_is_wanted(tmp_path: Path):
    for version in ("v1", "v2", "v3"):
        shown = events(blocked(tmp_path / version, True), version)
        assert "attack" not in str(shown)
        assert "No." in str(shown)
    shown = events(blocked(tmp_path / "all", True, hide_stream=False))
    assert "attack" in str([one for one in shown if "chat_model" in one["event"]])


def test_a_log_shows_no_model_and_no_tool_that_is_judged_later(tmp_path: Path):
    async def run(world: World) -> str:
        return str([one async for one in world.agent.astream_log(GIVEN, CONFIG)])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for world in (blocked(tmp_path / "1", True), tooled(tmp_path / "2", True)):
            shown = asyncio.run(run(world))
            assert "attack" not in shown
            assert "No." in shown


# --- what tools give


def tooled(folder: Path, is_async: bool, **changes: Any) -> World:
    """A tool's text is blocked, and of another one the artifact."""

    @tool(response_format="content_and_artifact")
    def fetch() -> tuple[str, Any]:
        """Fetch a page."""
        return "Here it is.", {"page": "attack"}

    script = {"please": calling(("look", {"what": "news"}), ("fetch", {}))}
    return World(
        folder,
        script,
        is_async=is_async,
        results={"news": "attack!"},
        tools=[fetch],
        **{"files": {"default.yaml": QUIET}, **changes},
    )


@BOTH
@pytest.mark.parametrize("mode", [*MODES, "tools"])
def test_no_mode_shows_what_a_tool_gives_before_it_is_judged(tmp_path: Path, mode: str, is_async: bool):
    shown = chunks(tooled(tmp_path, is_async), mode)
    assert "attack" not in str(shown)
    if mode != "custom":
        assert str(shown).count("No.") >= 2


@BOTH
def test_no_mode_shows_it_with_subgraphs_either(tmp_path: Path, is_async: bool):
    world = tooled(tmp_path, is_async)

    async def astream() -> list[Any]:
        return [one async for one in world.agent.astream(GIVEN, CONFIG, stream_mode=[*MODES, "tools"], subgraphs=True)]

    modes: Any = [*MODES, "tools"]
    shown = (
        asyncio.run(astream())
        if is_async
        else list(world.agent.stream(GIVEN, CONFIG, stream_mode=modes, subgraphs=True))
    )
    assert "attack" not in str(shown)


def test_events_tell_of_tools_what_passes(tmp_path: Path):
    for version in ("v1", "v2", "v3"):
        assert "attack" not in str(events(tooled(tmp_path / version, True), version))
    shown = events(tooled(tmp_path / "own", True))
    ended = [one for one in shown if one["event"] == "on_tool_end"]
    assert sorted(one["name"] for one in ended) == ["fetch", "look"]
    assert [one["data"]["output"].text for one in ended] == ["No.", "No."]
    started = [one for one in shown if one["event"] == "on_tool_start"]
    assert {"what": "news"} in [one["data"]["input"] for one in started]
    assert [one["event"] for one in shown].count("on_custom_event") == len(tooled_verdicts(shown)) > 0
    assert "attack" in str(events(tooled(tmp_path / "all", True, hide_stream=False)))


@BOTH
def test_what_a_tool_gives_out_while_it_runs_is_not_shown(tmp_path: Path, is_async: bool):
    @tool
    def slow(runtime: ToolRuntime) -> str:
        """Take a while."""
        runtime.emit_output_delta("attack")
        return "Done."

    script = {"please": calling(("slow", {}))}
    for hides in (True, False):
        folder = tmp_path / str(hides)
        world = World(folder, script, is_async=is_async, tools=[slow], files={"default.yaml": QUIET}, hide_stream=hides)
        assert ("attack" in str(chunks(world, "tools"))) is not hides


def tooled_verdicts(shown: list[Any]) -> list[Any]:
    return [one for one in shown if one["name"] == "lec_guard.verdict"]


def test_events_tell_of_a_tool_that_fails(tmp_path: Path):
    @tool
    def fetch() -> str:
        """Fetch a page."""
        raise OSError("down")

    world = World(tmp_path, {"please": calling(("fetch", {}))}, is_async=True, tools=[fetch])
    heard: list[str] = []

    async def run() -> None:
        async for one in world.agent.astream_events(GIVEN, CONFIG, version="v2"):
            heard.append(one["event"])

    with pytest.raises(OSError, match="down"):
        asyncio.run(run())
    gc.collect()
    assert heard.count("on_tool_error") == 1


@BOTH
def test_other_handlers_hear_of_the_tool_itself(tmp_path: Path, is_async: bool):
    class Handler(BaseCallbackHandler):
        def __init__(self) -> None:
            self.heard: list[str] = []

        def on_tool_end(self, output: Any, **kwargs: Any) -> None:
            self.heard.append(output.text)

    world, handler = tooled(tmp_path, is_async), Handler()
    config: Any = {**CONFIG, "callbacks": [handler]}

    async def astream() -> list[Any]:
        return [one async for one in world.agent.astream(GIVEN, config, stream_mode="tools")]

    shown = asyncio.run(astream()) if is_async else list(world.agent.stream(GIVEN, config, stream_mode="tools"))
    assert sorted(handler.heard) == ["Here it is.", "attack!"]
    assert [one["event"] for one in shown].count("tool-finished") == 2


@BOTH
def test_what_a_tool_gives_is_shown_where_somebody_may_be_asked(tmp_path: Path, is_async: bool):
    for mode, is_shown in [("values", True), ("updates", True), ("messages", True), ("custom", False)]:
        world = tooled(tmp_path / mode, is_async, files={"default.yaml": POLICY})
        assert ("attack" in str(chunks(world, mode))) is is_shown
