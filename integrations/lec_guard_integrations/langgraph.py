"""LangGraph: a step that has to be allowed stops the graph until somebody answers."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Any, ClassVar, get_args

from lec_guard.act.base import Answer, Case, Escalator, Reply
from lec_guard.errors import UnsupportedValueError

try:
    from langgraph.config import get_config
    from langgraph.errors import GraphBubbleUp
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
    step, verdict = case.step, case.verdict
    return {
        "type": ESCALATION,
        "key": case.key,
        "section": case.section,
        "stage": step.stage,
        "tool": None if step.tool is None else step.tool.name,
        "tenant": verdict.tenant,
        "policy": verdict.policy,
        "policy_version": verdict.policy_version,
        "rule": verdict.rule,
        "matched": list(verdict.matched),
        "scores": {
            head: {label: float(score) for label, score in labels.items()} for head, labels in verdict.scores.items()
        },
        "spans": [
            {
                "start": int(span.start),
                "end": int(span.end),
                "head": span.head,
                "label": span.label,
                "score": float(span.score),
            }
            for span in verdict.spans
        ],
        "text": step.text,
        "context": step.context,
        "message": verdict.message,
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
