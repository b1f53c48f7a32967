"""The ways on which text gets into an application and out of it, and what becomes of an attack on each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

PathName = Literal[
    "user",
    "history_ai",
    "history_tool",
    "system",
    "tool_argument",
    "tool_result",
    "artifact",
    "document",
    "sub_agent",
    "summarised",
    "summary",
    "streamed_answer",
    "final_answer",
    "structured_output",
]
"""A way; `GOALS` says where what is planted on it must not come to."""

Place = Literal["model", "tool", "helper", "summariser", "caller"]
"""Where a text may come to: the model, a tool, a sub-agent's model, the model that writes summaries, the caller."""

Outcome = Literal["blocked", "judged", "leaked", "unreached"]
"""What became of an attack: it did not come there; it did after the guard had seen it; it did unseen; nothing would."""

PATHS: tuple[PathName, ...] = get_args(PathName)
"""All of them."""

GOALS: Mapping[PathName, tuple[Place, ...]] = {
    "user": ("model",),
    "history_ai": ("model",),
    "history_tool": ("model",),
    "system": ("model",),
    "tool_argument": ("tool",),
    "tool_result": ("model",),
    "artifact": ("model", "caller"),
    "document": ("model",),
    "sub_agent": ("helper", "model"),
    "summarised": ("summariser",),
    "summary": ("model",),
    "streamed_answer": ("caller",),
    "final_answer": ("caller",),
    "structured_output": ("caller",),
}
"""Where an attack must not come to, path by path."""

EXPECTED: frozenset[PathName] = frozenset({"system"})
"""Paths on which what comes may be the operator's own: what becomes of an attack there is told, and fails nothing. A
guard that takes it for a caller's (`system_messages="judged"`) stops it there, too."""

MODES = ("values", "updates", "messages", "custom", "tasks", "debug")
"""Stream modes of LangGraph's graphs."""

METHODS: tuple[str, ...] = (
    "invoke",
    "ainvoke",
    "batch",
    "abatch",
    "stream",
    "astream",
    *(f"stream:{mode}" for mode in MODES),
    *(f"astream:{mode}" for mode in MODES),
    "astream_events",
    "astream_events:v3",
)
"""Ways to call a target. Those with a mode are for what takes `{"messages": ...}`, `stream` and `astream` for others;
`astream_events:v3` is for LangGraph's graphs."""

WHOLE = ("invoke", "ainvoke", "batch", "abatch")
"""Methods that give an answer in one piece."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PathResult:
    """What became of an attack on one path by one method.

    Attributes:
        path: Where it was planted.
        method: How the target was called.
        outcome: What became of it.
        why: What says so, in a few words, without any text of the run.
    """

    path: PathName
    method: str
    outcome: Outcome
    why: str

    @property
    def fails(self) -> bool:
        """Whether that is a finding: a leak, or a path on which nothing could be told; not on `EXPECTED` ones."""
        return self.outcome in ("leaked", "unreached") and self.path not in EXPECTED
