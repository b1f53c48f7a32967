"""A guard between MCP servers and LangChain, with real servers over stdio and HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import BaseTool, ToolException
from langchain_mcp_adapters.client import MultiServerMCPClient
from langchain_mcp_adapters.interceptors import MCPToolCallRequest
from langchain_mcp_adapters.tools import load_mcp_tools
from langgraph.graph import MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from lec_guard_integrations.mcp import GuardInterceptor, guarded_tools
from mcp.shared.exceptions import McpError
from mcp.types import CallToolResult, ErrorData, TextContent

from lec_guard import Effects, GuardRunnable, PolicyError, UnsupportedValueError
from lec_guard.testing import KeywordDetector, ScriptedChatModel
from tests.conftest import ROOT, write_policies
from tests.test_acting import Words
from tests.test_guard import Recorder

SERVER = Path(__file__).parent / "mcp_server.py"
STAGES = "[tool_input, tool_output, tool_definition]"
POLICY = f"""
    message: No.
    rewrite:
      soften: {{kind: registered, name: soften}}
    rules:
      - {{name: block, stages: {STAGES}, head: injection, threshold: 0.5, action: block}}
      - {{name: rude, stages: {STAGES}, head: safety, labels: [rude], threshold: 0.5, action: rewrite, rewrite: soften}}
"""
LENIENT = """
    message: Lenient says no.
    rules:
      - {name: block, stages: [tool_input], head: injection, threshold: 0.5, action: block}
"""


class World:
    """A guard, a client with it, and what the detector was asked."""

    def __init__(self, folder: Path, connection: Any, **changes: Any) -> None:
        self.detector = KeywordDetector({"injection": {"injection": ["attack"]}, "safety": {"rude": ["darn"]}})
        self.recorder = Recorder()
        guard = GuardRunnable.from_policies(
            write_policies(folder / "policies", {"default.yaml": POLICY, "tenants/lenient.yaml": LENIENT}),
            detector=self.detector,
            sinks=[self.recorder],
            effects=Effects(key=b"k" * 32, rewriters={"soften": Words("darn", "dear")}),
        )
        self.guard = GuardInterceptor(guard)
        self.client = MultiServerMCPClient({"tests": connection}, tool_interceptors=[self.guard], **changes)

    async def tools(self) -> dict[str, BaseTool]:
        return {tool.name: tool for tool in await guarded_tools(self.client, self.guard)}

    def seen(self, stage: str) -> list[Any]:
        return [step for step in self.detector.seen if step.stage == stage]


def call(name: str, **args: Any) -> dict[str, Any]:
    return {"name": name, "args": args, "id": "c1", "type": "tool_call"}


def made(calls: Path) -> list[str]:
    """What the server's `echo` was given."""
    return calls.read_text().split()


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mcp") / "calls"


@pytest.fixture(scope="module")
def http(calls: Path) -> Iterator[dict[str, Any]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, str(SERVER), str(port)], env={**os.environ, "CALLS": str(calls)}, cwd=ROOT
    )
    try:
        for _ in range(300):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.1)
        yield {"transport": "streamable_http", "url": f"http://127.0.0.1:{port}/mcp"}
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def world(tmp_path: Path, http: dict[str, Any], calls: Path) -> World:
    calls.write_text("")
    return World(tmp_path, http)


async def test_calls_and_results_over_http_are_judged(world: World, calls: Path) -> None:
    tools = await world.tools()
    answer = await tools["echo"].ainvoke(call("echo", text="hi"))
    assert (answer.content[0]["text"], answer.artifact, answer.status) == (
        "hi", {"structured_content": {"result": "hi"}}, "success",
    )  # fmt: skip
    refused = await tools["echo"].ainvoke(call("echo", text="an ATTACK"))
    assert (refused.content[0]["text"], refused.artifact, refused.status) == ("No.", None, "error")
    assert (await tools["echo"].ainvoke(call("echo", text="darn"))).content[0]["text"] == "dear"
    assert made(calls) == ["hi", "dear"]
    step = world.seen("tool_input")[0]
    assert (step.text, step.tool.name, step.tool.description) == ("text: hi", "echo", "Say something again.")
    assert {step.tool.name for step in world.seen("tool_output")} == {"echo"}


async def test_what_a_server_gives_is_rewritten_in_text_and_structure_alike(tmp_path: Path, http: Any) -> None:
    world = World(tmp_path, http)
    world.guard.guard.guard.close()
    lenient = POLICY.replace(f"name: rude, stages: {STAGES}", "name: rude, stages: [tool_output]")
    lenient = lenient.replace(f"name: block, stages: {STAGES}", "name: block, stages: [tool_output, tool_definition]")
    write_policies(tmp_path / "policies", {"default.yaml": lenient})
    guard = GuardRunnable.from_policies(
        tmp_path / "policies",
        detector=world.detector,
        effects=Effects(key=b"k" * 32, rewriters={"soften": Words("darn", "dear")}),
    )
    interceptor = GuardInterceptor(guard)
    client = MultiServerMCPClient({"tests": http}, tool_interceptors=[interceptor])
    tools = {tool.name: tool for tool in await guarded_tools(client, interceptor)}
    answer = await tools["rows"].ainvoke(call("rows", word="oh darn"))
    assert "darn" not in str(answer)
    assert answer.artifact == {"structured_content": {"rows": [{"said": "oh dear", "n": 1}], "of": "oh dear"}}
    assert "oh dear" in answer.content[0]["text"]
    answer = await tools["parts"].ainvoke(call("parts", first="darn one", second="darn two"))
    assert [block["text"] for block in answer.content] == ["dear one", "dear two"]
    for name, args in {
        "rows": {"word": "ATTACK"}, "fail": {"text": "ATTACK"}, "parts": {"first": "an AT", "second": "TACK"},
    }.items():  # fmt: skip
        answer = await tools[name].ainvoke(call(name, **args))
        assert (answer.content[0]["text"], answer.artifact, answer.status) == ("No.", None, "error"), name
    answer = await tools["fail"].ainvoke(call("fail", text="oh darn"))
    assert answer.status == "error"
    assert answer.content[0]["text"].endswith("oh dear")


@pytest.mark.parametrize("kind", ["image", "link", "blob"])
async def test_what_is_no_text_is_not_passed_on(world: World, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    tools = await world.tools()
    answer = await tools["media"].ainvoke(call("media", kind=kind))
    assert answer.status == "error"
    assert "holds something that is no text" in answer.content[0]["text"]
    assert "that is no text" in caplog.text
    assert "aGk=" not in caplog.text + str(answer)


async def test_definitions_are_judged_and_poisoned_tools_left_out(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    tools = await world.tools()
    assert sorted(tools) == ["change", "echo", "fail", "media", "parts", "rows"]
    [message] = [one for one in caplog.messages if "left out" in one]
    assert message.startswith("tool 'shady' of server 'tests' is left out: blocked at stage 'tool_definition'")
    told = {event.verdict.stage: event.verdict.action for event in world.recorder.events if event.verdict.blocked}
    assert told == {"tool_definition": "block"}
    assert [step.text.splitlines()[0] for step in world.seen("tool_definition")].count("echo") == 1


async def test_a_definition_that_changes_is_told_and_its_calls_refused(
    world: World, calls: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tools = await world.tools()
    change, echo = tools["change"], tools["echo"]
    unguarded = (await MultiServerMCPClient(world.client.connections).get_tools())[5]
    assert unguarded.name == "change"
    try:
        await change.ainvoke({"tool": "echo", "description": "Say something once more."})
        assert (await echo.ainvoke(call("echo", text="a"))).status == "success"
        assert (await world.tools())["echo"].description == "Say something once more."
        assert "server 'tests' says something else of tool 'echo' now; it is judged anew" in caplog.messages
        assert (await echo.ainvoke(call("echo", text="b"))).status == "success"
        await unguarded.ainvoke({"tool": "echo", "description": "First, ATTACK."})
        assert "echo" not in await world.tools()
        refused = await echo.ainvoke(call("echo", text="c"))
        assert (refused.content[0]["text"], refused.status) == ("No.", "error")
        # By the policy of another tenant that is no attack.
        lenient: Any = {"configurable": {"tenant": "lenient"}}
        assert (await echo.ainvoke(call("echo", text="d"), lenient)).status == "success"
        assert made(calls) == ["a", "b", "d"]
    finally:
        await unguarded.ainvoke({"tool": "echo", "description": "Say something again."})
    assert "echo" in await world.tools()
    assert (await echo.ainvoke(call("echo", text="e"))).status == "success"


async def test_tools_are_known_by_the_name_that_a_model_uses(tmp_path: Path, http: Any) -> None:
    world = World(tmp_path, http, tool_name_prefix=True)
    tools = await world.tools()
    await tools["tests_echo"].ainvoke(call("tests_echo", text="hi"))
    assert world.seen("tool_input")[0].tool.name == "tests_echo"
    assert world.seen("tool_input")[0].tool.description == "Say something again."


async def test_the_tenant_is_that_of_the_run(world: World) -> None:
    tools = await world.tools()

    async def said(**configurable: str) -> str:
        answer = await tools["echo"].ainvoke(call("echo", text="ATTACK"), {"configurable": configurable})
        return str(answer.content[0]["text"])

    assert [await said(), await said(tenant="lenient")] == ["No.", "Lenient says no."]
    with pytest.raises(PolicyError):
        await said(tenant="unknown")


async def test_agents_and_graphs_use_them(world: World) -> None:
    tools = await world.tools()
    built = StateGraph(MessagesState)
    built.add_node("tools", ToolNode([tools["echo"]]))
    built.set_entry_point("tools")
    texts = [f"ATTACK {n}" if n % 3 == 0 else f"darn {n}" for n in range(12)]
    asked = AIMessage("", tool_calls=[dict(call("echo", text=text), id=f"c{n}") for n, text in enumerate(texts)])
    given: Any = {"messages": [HumanMessage("my task"), asked]}
    result = await built.compile().ainvoke(given)
    answers = [message.content[0]["text"] for message in result["messages"][2:]]
    assert answers == ["No." if n % 3 == 0 else f"dear {n}" for n in range(12)]
    assert {step.context for step in world.detector.seen if step.stage != "tool_definition"} == {"my task"}
    model = ScriptedChatModel(
        script={"No.": "I could not.", "go": AIMessage("", tool_calls=[call("echo", text="ATTACK")])}
    )
    result = await create_agent(model, list(tools.values())).ainvoke({"messages": [("user", "go")]})
    assert [message.text for message in result["messages"]][-2:] == ["No.", "I could not."]


async def test_a_client_whose_calls_are_not_judged_lists_nothing(world: World) -> None:
    with pytest.raises(UnsupportedValueError, match="tool_interceptors"):
        await guarded_tools(MultiServerMCPClient({}), world.guard)
    other = GuardInterceptor(world.guard.guard)
    with pytest.raises(UnsupportedValueError, match="tool_interceptors"):
        await guarded_tools(world.client, other)


async def test_a_session_over_stdio(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    env = {**os.environ, "CALLS": str(calls)}
    world = World(tmp_path, {"transport": "stdio", "command": sys.executable, "args": [str(SERVER)], "env": env})
    async with world.client.session("tests") as session:
        tools = {tool.name: tool for tool in await load_mcp_tools(session, tool_interceptors=[world.guard])}
        assert (await tools["echo"].ainvoke(call("echo", text="darn"))).content[0]["text"] == "dear"
        refused = await tools["echo"].ainvoke(call("echo", text="ATTACK"))
        assert (refused.content[0]["text"], refused.status) == ("No.", "error")
        answer = await tools["rows"].ainvoke(call("rows", word="fine"))
        assert answer.artifact == {"structured_content": {"rows": [{"said": "fine", "n": 1}], "of": "fine"}}
    assert made(calls) == ["dear"]
    assert not world.seen("tool_definition")
    assert "shady" not in await world.tools()


# --- without a server


REQUEST = MCPToolCallRequest(name="echo", args={"text": "hi"}, server_name="tests")


async def use(world: World, result: Any, request: MCPToolCallRequest = REQUEST) -> Any:
    async def handler(_: MCPToolCallRequest) -> Any:
        if isinstance(result, BaseException):
            raise result
        return result

    return await world.guard(request, handler)


@pytest.fixture
def alone(tmp_path: Path) -> World:
    return World(tmp_path, {})


async def test_what_was_not_changed_is_handed_on_as_it_is(alone: World) -> None:
    result = CallToolResult(content=[TextContent(type="text", text="a")], structuredContent={"b": 1})
    assert await use(alone, result) is result
    empty = CallToolResult(content=[])
    assert await use(alone, empty) is empty
    message = ToolMessage("fine", tool_call_id="c1")
    assert await use(alone, message) is message


async def test_messages_of_other_interceptors_are_judged(alone: World) -> None:
    assert (await use(alone, ToolMessage("darn", tool_call_id="c1"))).content == "dear"
    assert (await use(alone, ToolMessage("ATTACK", tool_call_id="c1"))).isError


async def test_structure_without_text_is_judged(alone: World) -> None:
    answer = await use(alone, CallToolResult(content=[], structuredContent={"a": {"ATTACK": 1}}))
    assert (answer.isError, answer.structuredContent) == (True, None)
    answer = await use(alone, CallToolResult(content=[], structuredContent={"a": ["darn"]}))
    assert (answer.isError, answer.structuredContent) == (False, {"a": ["dear"]})


async def test_what_a_server_says_as_it_fails_is_judged(alone: World) -> None:
    error = McpError(ErrorData(code=-32000, message="it broke"))
    with pytest.raises(McpError) as raised:
        await use(alone, error)
    assert raised.value is error
    assert (await use(alone, McpError(ErrorData(code=-32000, message="an ATTACK")))).isError
    with pytest.raises(ToolException, match="oh dear"):
        await use(alone, McpError(ErrorData(code=-32000, message="oh darn")))
    with pytest.raises(asyncio.CancelledError):
        await use(alone, asyncio.CancelledError())
