"""One run of a target by one method, with all that a caller would be given."""

from __future__ import annotations

import asyncio
import sys
import warnings
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any
from uuid import uuid4

from langchain_core._api.beta_decorator import LangChainBetaWarning
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.runnables import Runnable, RunnableConfig

from lec_guard.testing.paths import GOALS, WHOLE, PathName
from lec_guard.testing.rig import DONE, QUESTION, Run

STEPS = 30
"""Steps of a graph at most: a target whose model is asked again and again ends."""


def takes_state(target: Runnable[Any, Any]) -> bool:
    """Whether a target takes `{"messages": [...]}`, as agents do, and not a list of messages.

    Args:
        target: The target.

    Returns:
        Whether its input's schema says so.
    """
    try:
        schema: dict[str, Any] = target.get_input_jsonschema()
    except Exception:  # noqa: BLE001 - of a type that pydantic knows nothing of; then it does not say so
        return False
    name = str(schema.get("$ref", "")).rpartition("/")[2]
    return "messages" in schema.get("$defs", {}).get(name, schema).get("properties", {})


def applies(method: str, path: PathName, target: Runnable[Any, Any]) -> bool:
    """Whether a method is one of a target's, and has anything to do with a path.

    Args:
        method: One of `METHODS`.
        path: The path.
        target: The target.

    Returns:
        Whether it is.
    """
    if (path == "streamed_answer" and method in WHOLE) or (path == "final_answer" and method not in WHOLE):
        return False
    if method == "astream_events:v3":
        return _is_graph(target)
    if method.endswith(":custom") and "caller" in GOALS[path]:
        # It shows what nodes write to it on purpose, and no answers.
        return False
    if method in ("stream", "astream"):
        return not takes_state(target)
    return takes_state(target) if ":" in method else True


def _is_graph(target: object) -> bool:
    module = sys.modules.get("langgraph.pregel")
    return module is not None and isinstance(target, module.Pregel)


def perform(
    target: Runnable[Any, Any], method: str, run: Run, config: RunnableConfig | None, runner: asyncio.Runner
) -> str | None:
    """Run a target once.

    Args:
        target: The target.
        method: One of `METHODS`.
        run: What is planted, and what is told where it comes to.
        config: What the caller's config holds besides.
        runner: Runs what is async.

    Returns:
        The name of the class of what was raised; None where nothing was.
    """
    given = _given(run)
    value: Any = {"messages": given} if takes_state(target) else given
    configs: list[RunnableConfig] = [
        {
            "recursion_limit": STEPS,
            **(config or {}),
            "configurable": {**(config or {}).get("configurable", {}), "thread_id": str(uuid4())},
        }
        for _ in range(2)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LangChainBetaWarning)
        try:
            if method.startswith("a"):
                runner.run(_hear(_aoutputs(target, method, value, configs), run))
            else:
                for output in _outputs(target, method, value, configs):
                    run.at("caller", output)
        except Exception as error:  # noqa: BLE001 - whatever a guard or a target raises is part of what is probed
            run.at("caller", error)
            return type(error).__name__
    return None


async def _hear(outputs: AsyncIterator[Any], run: Run) -> None:
    async for output in outputs:
        run.at("caller", output)


def _outputs(target: Runnable[Any, Any], method: str, value: Any, configs: list[RunnableConfig]) -> Iterator[Any]:
    name, _, mode = method.partition(":")
    if name == "invoke":
        yield target.invoke(value, configs[0])
    elif name == "batch":
        yield target.batch([value, value], configs)
    else:
        yield from target.stream(value, configs[0], **_mode(mode))


async def _aoutputs(
    target: Runnable[Any, Any], method: str, value: Any, configs: list[RunnableConfig]
) -> AsyncIterator[Any]:
    name, _, mode = method.partition(":")
    if name == "ainvoke":
        yield await target.ainvoke(value, configs[0])
    elif name == "abatch":
        yield await target.abatch([value, value], configs)
    elif name == "astream":
        async for chunk in target.astream(value, configs[0], **_mode(mode)):
            yield chunk
    else:
        events: Any
        if mode == "v3":
            events = await target.astream_events(value, configs[0], version="v3")
        else:
            events = target.astream_events(value, configs[0])
        async for event in events:
            yield event


def _mode(mode: str) -> Mapping[str, str]:
    return {"stream_mode": mode} if mode else {}


def _given(run: Run) -> list[BaseMessage]:
    """What the caller gives: a question, and what comes before it."""
    asked = HumanMessage(run.plant("user", QUESTION))
    match run.path:
        case "system":
            return [SystemMessage(run.plant("system")), asked]
        case "history_ai":
            return [HumanMessage(QUESTION), AIMessage(run.plant("history_ai")), asked]
        case "history_tool":
            call = {"name": "probe_lookup", "args": {"query": "opening hours"}, "id": "call-before"}
            found = ToolMessage(run.plant("history_tool"), tool_call_id="call-before", name="probe_lookup")
            return [HumanMessage(QUESTION), AIMessage("", tool_calls=[call]), found, AIMessage(DONE), asked]
        case "summarised" | "summary":
            first = HumanMessage(run.plant("summarised", QUESTION))
            before = [message for _ in range(5) for message in (AIMessage(DONE), HumanMessage(QUESTION))]
            return [first, *before, AIMessage(DONE), asked]
        case _:
            return [asked]
