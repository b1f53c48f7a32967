"""LangGraph: a step that has to be allowed stops the graph until somebody answers."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Any, ClassVar, get_args
from uuid import uuid4

from langchain_core.messages import BaseMessage, RemoveMessage
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda

from lec_guard.act.base import Answer, Case, Escalator, Reply
from lec_guard.chain.runnable import GuardRunnable
from lec_guard.errors import UnsupportedValueError

try:
    from langgraph.config import get_config
    from langgraph.errors import GraphBubbleUp
    from langgraph.graph.message import REMOVE_ALL_MESSAGES
    from langgraph.types import interrupt
except ModuleNotFoundError as missing:
    raise UnsupportedValueError(f"interrupts need {missing.name}; run: pip install 'lec-guard[langchain]'") from None

ESCALATION = "lec_guard.escalation"
"""The `type` of an interrupt's value by which an application tells ours from others."""

DECISIONS: tuple[Answer, ...] = get_args(Answer)
"""What an answer can decide."""

_CHECKPOINTER = "__pregel_checkpointer"
"""Where LangGraph keeps a graph's checkpointer in `configurable`; its own name for it is private."""

_LONGEST: Mapping[str, int] = {"text": 1_000_000, "by": 200, "reason": 2000}
"""Keys of an answer that hold text, and how many characters it may have."""


class InterruptEscalator(Escalator):
    """Asks by `langgraph.types.interrupt`: the graph stops, and goes on when somebody answers.

    The value of the interrupt is a plain dict: `type` (`lec_guard.escalation`), `key`, `section`, `stage`, `tool`,
    `tenant`, `policy`, `policy_version`, `rule`, `matched`, `scores`, `spans`, `text` (as it would pass), `context`,
    `message` (what the user is told on a block) and `decisions`. The answer is `Command(resume=...)` with a dict:
    `key`, the same as in the value; `decision`, one of `decisions`; of an edit the `text` that may pass instead, which
    is judged again; and perhaps `by` and `reason`.

    An answer counts for what was asked and for nothing else: where its key is another one, because the state changed
    meanwhile or it answers something else, the policy's `on_error` follows, which blocks unless it says otherwise. The
    same holds for answers in any other form, outside of a graph, and in a graph without a checkpointer, which could
    not go on.

    LangGraph runs the node that asked from its beginning when the answer comes. `GuardMiddleware` asks in nodes of its
    own, so that no model and no tool runs twice. In a node of your own, call the guard before anything that must not.
    A subgraph with `checkpointer=False` begins from its start instead; nobody can be asked there without running twice.
    """

    passes: ClassVar[tuple[type[BaseException], ...]] = (GraphBubbleUp,)
    reruns: ClassVar[bool] = True

    def ask(self, case: Case) -> Reply:
        """Stop the graph, or take the answer where there is one.

        Args:
            case: The step, and the judgement that asks.

        Returns:
            The answer.

        Raises:
            GraphInterrupt: If there is no answer yet.
            ValueError: If the answer is none to this case.
            RuntimeError: If there is no graph that could stop and go on.
        """
        _require_checkpointer()
        return _reply(case, interrupt(_asked(case)))

    async def aask(self, case: Case) -> Reply:
        """`ask`; it waits for nothing, and has to run in the graph's own task."""
        return self.ask(case)


def guard_node(guard: GuardRunnable, key: str = "messages") -> Runnable[Any, dict[str, Any]]:
    """A node for a graph of your own that judges the messages in its state, and nothing else of it.

    All messages are judged each time, each as what it is: before the node that calls a model, and again behind it.
    What is rewritten is replaced under its own id. What may not pass is raised as `GuardBlocked`: edges that lead on
    from a node are followed whatever the node returns, so that nothing less would keep the model from being called.
    The message stays in a checkpointer then; remove it there (`RemoveMessage`), or every later turn is blocked by it.
    Where callers can send system messages, give it a guard with `system_messages="judged"`.

    Args:
        guard: What judges; the tenant is that of the run's config, as in any chain.
        key: Where the state has its messages: a list with the reducer `add_messages`.

    Returns:
        For `graph.add_node(name, guard_node(guard))`. Its update is the messages where any was rewritten, or nothing.
    """

    def run(state: Any, config: RunnableConfig) -> dict[str, Any]:
        before = _messages(state, key)
        return _changed(key, before, guard.invoke(before, config))

    async def arun(state: Any, config: RunnableConfig) -> dict[str, Any]:
        before = _messages(state, key)
        return _changed(key, before, await guard.ainvoke(before, config))

    return RunnableLambda(run, afunc=arun, name="guard")


def _messages(state: Any, key: str) -> list[Any]:
    """The messages of a state, which may be a dict or an object."""
    found = state[key] if isinstance(state, Mapping) else getattr(state, key)
    if not isinstance(found, list):
        raise UnsupportedValueError(f"{key!r} of the state is a {type(found).__name__}, not a list of messages")
    return found


def _changed(key: str, before: list[Any], after: list[Any]) -> dict[str, Any]:
    """An update of the state that has no message twice."""
    if after is before:
        return {}
    if len(after) == len(before) or not all(isinstance(one, BaseMessage) and one.id for one in before):
        return {key: after}
    # A system prompt where there was none belongs to the front; a reducer would put it behind the others.
    named = [message if message.id else message.model_copy(update={"id": str(uuid4())}) for message in after]
    return {key: [RemoveMessage(id=REMOVE_ALL_MESSAGES), *named]}


def _require_checkpointer() -> None:
    try:
        configurable = get_config().get("configurable", {})
    except RuntimeError:
        raise RuntimeError("kind: interrupt can only ask in a LangGraph graph") from None
    if not configurable.get(_CHECKPOINTER):
        # LangGraph would stop without a word, and nobody could make it go on.
        raise RuntimeError("kind: interrupt can only ask in a graph with a checkpointer: give checkpointer=...")


def _asked(case: Case) -> dict[str, Any]:
    """What whoever decides is shown: plain data, for checkpointers and clients of any kind."""
    return {
        "type": ESCALATION,
        **case.to_dict(),
        "message": case.verdict.message,
        "decisions": list(DECISIONS),
    }


def _reply(case: Case, answer: object) -> Reply:
    """An answer, if it is one to this case. No message shows what stands in it."""
    if not isinstance(answer, dict):
        raise ValueError(f"an answer is a dict, not a {type(answer).__name__}")
    if any(key not in ("key", "decision", *_LONGEST) for key in answer):
        raise ValueError("an answer has a key that means nothing")
    key = answer.get("key")
    if not isinstance(key, str) or not hmac.compare_digest(key.encode("utf-8", "surrogatepass"), case.key.encode()):
        raise ValueError("the answer is to something else than what was asked")
    decision = next((one for one in DECISIONS if one == answer.get("decision")), None)
    if decision is None:
        raise ValueError(f"an answer decides {', '.join(DECISIONS)}")
    for name, longest in _LONGEST.items():
        said = answer.get(name)
        if said is not None and (not isinstance(said, str) or len(said) > longest):
            raise ValueError(f"{name} of an answer is a str of at most {longest} characters")
    return Reply(answer=decision, text=answer.get("text"), by=answer.get("by"), reason=answer.get("reason"))
