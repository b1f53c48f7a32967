"""The agent that shows what a middleware covers: tools, a retriever, a sub-agent and summaries, all of the probe's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.runnables import Runnable

from lec_guard.errors import UnsupportedValueError
from lec_guard.testing.probing import Target
from lec_guard.testing.rig import Rig

if TYPE_CHECKING:
    from langchain.agents.middleware import AgentMiddleware

LONG = 8
"""Messages of a conversation from which on it is summarised."""


def agent_with(*middleware: AgentMiddleware[Any, Any, Any]) -> Target:
    """Make a target for `probe` of middleware for LangChain agents.

    Args:
        *middleware: What is to be looked at, in its order, in the agent and in its sub-agent alike. The middleware that
            summarises long conversations stands behind it.

    Returns:
        What makes the agent.

    Raises:
        UnsupportedValueError: If LangChain's agents are not installed.
    """
    try:
        from langchain.agents import create_agent
        from langchain.agents.middleware import SummarizationMiddleware
        from langgraph.checkpoint.memory import InMemorySaver
    except ModuleNotFoundError as missing:
        raise UnsupportedValueError(f"agents need {missing.name}; run: pip install 'lec-guard[langchain]'") from None

    def target(rig: Rig) -> Runnable[Any, Any]:
        helper = create_agent(rig.helper_model, rig.helper_tools, middleware=middleware)
        shortens = SummarizationMiddleware(rig.summary_model, trigger=("messages", LONG), keep=("messages", 2))
        agent: Runnable[Any, Any] = create_agent(
            rig.model,
            [*rig.tools, rig.as_search(rig.retriever), rig.as_helper(helper)],
            middleware=[*middleware, shortens],
            checkpointer=InMemorySaver(),
            response_format=rig.schema if rig.path == "structured_output" else None,
        )
        return agent

    return target
