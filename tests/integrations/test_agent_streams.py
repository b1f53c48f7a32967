"""What each way of streaming an agent shows of an answer that is blocked."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import Any

import pytest

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


def events(world: World, **wanted: Any) -> list[Any]:
    async def run() -> list[Any]:
        return [one async for one in world.agent.astream_events(GIVEN, CONFIG, version="v2", **wanted)]

    found = asyncio.run(run())
    gc.collect()
    return found


def test_events_show_what_the_model_says_unless_its_tag_is_left_out(tmp_path: Path):
    assert "attack" in str([one for one in events(blocked(tmp_path / "1", True)) if "chat_model" in one["event"]])
    shown = events(blocked(tmp_path / "2", True), exclude_tags=["nostream"])
    assert "attack" not in str(shown)
    assert "No." in str(shown)


@BOTH
def test_what_a_tool_gives_is_shown_before_it_is_judged(tmp_path: Path, is_async: bool):
    script = {"please": calling(("look", {"what": "news"}))}
    for mode, is_shown in [("values", True), ("updates", True), ("messages", True), ("custom", False)]:
        files = {"default.yaml": QUIET}
        world = World(tmp_path / mode, script, is_async=is_async, files=files, results={"news": "attack!"})
        assert ("attack" in str(chunks(world, mode))) is is_shown
