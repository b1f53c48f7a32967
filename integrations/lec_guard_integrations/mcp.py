"""MCP servers behind LangChain's adapters: a guard for calls, results, and what tools say of themselves."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import BaseMessage, ToolMessage
from langchain_core.tools import BaseTool, ToolException

from lec_guard.chain.definitions import Definition, Definitions
from lec_guard.chain.knowing import KnowingGuard, Refused, own_run, settled
from lec_guard.chain.results import Parts, passes, said_by
from lec_guard.chain.runnable import GuardRunnable
from lec_guard.chain.tools import messages_in, request_in
from lec_guard.errors import UnsupportedValueError
from lec_guard.step import Stage, ToolRef

try:
    from langchain_mcp_adapters.client import MultiServerMCPClient
    from langchain_mcp_adapters.interceptors import MCPToolCallRequest, MCPToolCallResult
    from mcp.types import CallToolResult, ContentBlock, EmbeddedResource, TextContent, TextResourceContents
except ModuleNotFoundError as missing:
    raise UnsupportedValueError(f"GuardInterceptor needs {missing.name}; run: pip install 'lec-guard[mcp]'") from None

_log = logging.getLogger(__name__)

_Handler = Callable[[MCPToolCallRequest], Awaitable[MCPToolCallResult]]


class GuardInterceptor:
    """Judges what MCP tools are given and what they give back: `MultiServerMCPClient(..., tool_interceptors=[this])`.

    Arguments are judged as `tool_input` before the server is asked, and texts and structured content of its result as
    `tool_output`; what is rewritten is edited in both. What is blocked is answered by a result with `isError` and the
    policy's message, and so is what can't be read: images, audio, links, binary resources. What the server says as it
    fails is judged before it is raised. `EscalationPending`, `TenantMismatch` and `PolicyError` are raised.

    The tenant is that of the run's config; in a graph the user's task is the context. Tools that `guarded_tools` has
    listed are only called while their definitions are as they were judged, by the policy of the call's tenant.

    List it first, so that it judges what other interceptors make of a result, and what they do not see. One object
    serves all servers, threads and tenants.

    Args:
        guard: What judges, perhaps bound to a tenant.
    """

    def __init__(self, guard: GuardRunnable) -> None:
        self.guard = guard
        self._definitions = Definitions(guard.guard)
        self._lock = threading.Lock()
        # Under that lock: what servers said last of their tools.
        self._listed: dict[tuple[str, str], Definition] = {}

    async def __call__(self, request: MCPToolCallRequest, handler: _Handler) -> MCPToolCallResult:
        """Judge a call, make it, and judge its result.

        Args:
            request: The call.
            handler: What makes it.

        Returns:
            The result as it may pass.

        Raises:
            EscalationPending: If somebody has yet to decide.
            TenantMismatch: If guard, config and resolver name different tenants.
            PolicyError: If the tenant is unknown, or the policy asks by an interrupt.
            ToolException: If what the server said as it failed was rewritten.
        """
        what = "definition"
        try:
            listed = self._listed.get((request.server_name, request.name))
            if listed is not None:
                await self._judge_definition(listed)
            what = "call"
            ref = listed.ref if listed is not None else ToolRef(name=request.name)
            about = _About(self.guard, ref, request_in([request.runtime]), messages_in([request.runtime]))
            call = {"name": about.ref.name, "args": request.args, "id": None, "type": "tool_call"}
            [passed] = await about.judge("tool_input", [call])
            what = "result"
            try:
                result = await handler(request if passed is call else request.override(args=passed["args"]))
            except Exception as error:
                if passes(error):
                    raise
                said = said_by(error)
                [text] = await about.judge("tool_output", [said])
                if text is said:
                    raise
                raise ToolException(text) from None
            return await _passed(result, about)
        except Refused as refused:
            if isinstance(refused.cause, UnsupportedValueError):
                _log.warning("the %s of tool %r can't be checked: %s", what, request.name, refused.cause)
            return CallToolResult(content=[TextContent(type="text", text=refused.said(what))], isError=True)

    async def listed(self, server: str, named: Sequence[tuple[str, BaseTool]]) -> list[BaseTool]:
        """Take what a server says of its tools; see `guarded_tools`.

        Args:
            server: The server's name.
            named: Its tools, each with the name that the server knows it by.

        Returns:
            Those that a model may be told of.

        Raises:
            EscalationPending: If somebody has yet to decide about one.
        """
        passed: list[BaseTool] = []
        for name, tool in named:
            try:
                definition = Definition.of(tool)
                with self._lock:
                    before = self._listed.get((server, name))
                    # From here on calls of it wait for what is judged of this.
                    self._listed[server, name] = definition
                if before is not None and before.digest != definition.digest:
                    _log.warning("server %r says something else of tool %r now; it is judged anew", server, name)
                await self._judge_definition(definition)
            except (Refused, UnsupportedValueError) as error:
                cause = error.cause if isinstance(error, Refused) else error
                _log.warning("tool %r of server %r is left out: %s", name, server, cause)
                continue
            passed.append(tool)
        return passed

    async def _judge_definition(self, definition: Definition) -> None:
        """Judge what a tool says of itself, where that is new to the policy in force."""
        tenant = self.guard.tenant_of(own_run(None))
        await self.guard.guard.apolicy(tenant)
        if not self._definitions.passed(definition, tenant):
            await _About(self.guard, definition.ref, None).judge("tool_definition", [definition.text])
            self._definitions.note(definition, tenant)


async def guarded_tools(client: MultiServerMCPClient, guard: GuardInterceptor) -> list[BaseTool]:
    """The tools of MCP servers that a model may be told of.

    What each says of itself is judged as `tool_definition`. One that is blocked is left out, which an event and a
    warning tell. Where one says something else than at the last listing, a warning tells that; all calls of it, also
    by tools that were listed before, are refused unless what it says now passes.

    Args:
        client: The client.
        guard: What judges its calls, one of its `tool_interceptors`.

    Returns:
        The tools.

    Raises:
        UnsupportedValueError: If calls of the client are not judged by it.
        EscalationPending: If somebody has yet to decide about one.
    """
    if not any(one is guard for one in client.tool_interceptors):
        raise UnsupportedValueError(
            "the client's calls are not judged: give it tool_interceptors=[guard] with this guard"
        )
    servers = list(client.connections)
    listings = await asyncio.gather(*(client.get_tools(server_name=server) for server in servers))
    passed: list[BaseTool] = []
    for server, tools in zip(servers, listings, strict=True):
        prefix = f"{server}_" if client.tool_name_prefix else ""
        passed += await guard.listed(server, [(tool.name.removeprefix(prefix), tool) for tool in tools])
    return passed


@dataclass(frozen=True, slots=True)
class _About:
    """What is known of a tool's call, and what judges it."""

    guard: GuardRunnable
    ref: ToolRef
    request: str | None
    thread: Sequence[BaseMessage] = ()

    async def judge(self, stage: Stage, values: list[Any]) -> list[Any]:
        """What may pass of values, if all of it may; a `Refused` otherwise."""
        view = KnowingGuard.of(self.guard, stage, tool=self.ref, request=self.request, thread=self.thread)
        return settled(await view.abatch(values, own_run(None), return_exceptions=True))


async def _passed(result: MCPToolCallResult, about: _About) -> MCPToolCallResult:
    """A result as it may pass."""
    if not isinstance(result, CallToolResult):
        parts = Parts.of(result)
        made: MCPToolCallResult = parts.put(await about.judge("tool_output", parts.values))
        return made
    # As blocks of one message: an attack that is split over them is read in one piece.
    blocks: list[str | dict[str, Any]] = [{"type": "text", "text": _text(one)} for one in result.content]
    message = ToolMessage(content=blocks, tool_call_id="")
    structured = result.structuredContent
    values = [message] if structured is None else [message, structured]
    passed = await about.judge("tool_output", values)
    if all(one is value for one, value in zip(passed, values, strict=True)):
        return result
    content = [_with_text(one, block["text"]) for one, block in zip(result.content, passed[0].content, strict=True)]
    return result.model_copy(
        update={"content": content, "structuredContent": None if structured is None else passed[1]}
    )


def _text(content: ContentBlock) -> str:
    """What a model is shown of a part of a result."""
    match content:
        case TextContent():
            return content.text
        case EmbeddedResource(resource=TextResourceContents() as resource):
            return resource.text
    raise Refused(UnsupportedValueError(f"a result has a {type(content).__name__} that is no text"))


def _with_text(content: ContentBlock, text: str) -> ContentBlock:
    """The same part with another text."""
    if isinstance(content, EmbeddedResource):
        return content.model_copy(update={"resource": content.resource.model_copy(update={"text": text})})
    return content.model_copy(update={"text": text})
