"""Applications that are probed: ours, LangChain's own middleware, and one without any guard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from langchain.agents.middleware import PIIMiddleware
from langchain_core.messages import BaseMessage
from langchain_core.runnables import Runnable, RunnableLambda
from lec_guard_integrations.langchain import GuardMiddleware

from lec_guard import Guard, GuardRunnable, LayerDetector
from lec_guard.testing import Rig, WatchedDetector, agent_with

POLICY = Path(__file__).parent / "policy.yaml"

TOOLS = ("tool_argument", "tool_result", "artifact", "sub_agent")
"""Paths that need tools."""

SUMMARIES = ("summarised", "summary")
"""Paths that need summaries."""


WATCHED = WatchedDetector(LayerDetector.load())
"""The embedded detector, in all targets of ours."""

GUARD = Guard.from_policies(POLICY, detector=WATCHED)
"""Blocks at every stage what it finds."""

OWN = GuardRunnable(GUARD, system_messages="judged")
"""The same in chains. The probe's system messages come from the caller."""


def middleware(rig: Rig) -> Runnable[Any, Any]:
    """An agent with `GuardMiddleware`, and its sub-agent too. System messages are a caller's."""
    return agent_with(GuardMiddleware(GUARD, system_messages="judged"))(rig)


def pipe(rig: Rig) -> Runnable[Any, Any]:
    """`guard | model | guard`; for documents and structured answers, what one would write for them."""
    if rig.path == "document":
        finds: Runnable[Any, Any] = RunnableLambda(_question) | rig.retriever | OWN | RunnableLambda(_told)
        return finds | rig.model | OWN
    return OWN | _model(rig) | OWN


def protected(rig: Rig) -> Runnable[Any, Any]:
    """`guard.protect(model)`."""
    return OWN.protect(_model(rig))


def protected_agent(rig: Rig) -> Runnable[Any, Any]:
    """`guard.protect(agent)`: the agent itself has no guard."""
    return OWN.protect(agent_with()(rig))


def tools(rig: Rig) -> Runnable[Any, Any]:
    """`guard.tool(tool)` around each tool of an agent without middleware, and `guard.retriever(retriever)`."""
    rig.tools = [OWN.tool(one) for one in rig.tools]
    rig.helper_tools = [OWN.tool(one) for one in rig.helper_tools]
    rig.retriever = OWN.retriever(rig.retriever)
    return agent_with()(rig)


def pii(rig: Rig) -> Runnable[Any, Any]:
    """An agent with LangChain's `PIIMiddleware`, told to look for the attack everywhere that it can."""
    own = PIIMiddleware(
        "attack",
        strategy="block",
        detector=r"Ignore all previous instructions[^.]*",
        apply_to_input=True,
        apply_to_output=True,
        apply_to_tool_results=True,
    )
    return agent_with(own)(rig)


def unguarded(rig: Rig) -> Runnable[Any, Any]:
    """The same agent without a guard."""
    return agent_with()(rig)


def _model(rig: Rig) -> Runnable[Any, Any]:
    return rig.model.with_structured_output(rig.schema) if rig.path == "structured_output" else rig.model


def _question(messages: list[BaseMessage]) -> str:
    return messages[-1].text


def _told(documents: list[Any]) -> str:
    return "Answer by these:\n\n" + "\n\n".join(found.page_content for found in documents)
