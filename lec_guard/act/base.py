"""What acting on a verdict is made of: rewriters, which change a text, and escalators, which ask somebody."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

from lec_guard.step import Edit, Span, Step, Verdict

Answer = Literal["allow", "edit", "block"]
"""What somebody who is asked can say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A text that a rewriter is to change.

    Attributes:
        step: The step; its text may have been changed by other rewriters.
        spans: What the heads found that asked for this rewrite: parts of the text that scored, or entities. They may
            overlap, and are in no order.
        tenant: Whose policy asks; None for the default one.
    """

    step: Step
    spans: tuple[Span, ...]
    tenant: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewriting:
    """What a rewriter does to a text.

    Attributes:
        edits: The changes, which do not overlap; none means that the rewriter can do nothing for this text, and the
            next action follows.
        tokens: What stands in the text -> what it stands for, where that may be put back.
        note: What the system prompt has to say for the text, if anything.
    """

    edits: tuple[Edit, ...]
    tokens: Mapping[str, str] = field(default_factory=dict, repr=False)
    note: str | None = None


class Rewriter(ABC):
    """Changes a text so that it may pass; the result is judged once more.

    One object serves all threads, and keeps nothing of a call. An exception means that the next action follows.
    """

    @abstractmethod
    def rewrite(self, subject: Subject) -> Rewriting:
        """Change a text.

        Args:
            subject: The text, and what was found in it.

        Returns:
            The changes.
        """

    async def arewrite(self, subject: Subject) -> Rewriting:
        """`rewrite`, without blocking the event loop; by default on another thread."""
        return await asyncio.to_thread(self.rewrite, subject)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What somebody is asked to decide.

    Attributes:
        key: A keyed hash (32 hexadecimal digits) over tenant, stage, tool, context and text of the step, the section
            that asks, and the versions of policy and detector. An answer counts for what has this key and for nothing
            else; the same step asked again has the same one.
        step: The step, its text as it would pass.
        verdict: The judgement that asks.
        section: The section of `escalations` that is asked, `floor:` before it where the floor asks.
    """

    key: str
    step: Step
    verdict: Verdict
    section: str

    def to_dict(self) -> dict[str, Any]:
        """What whoever decides is shown: plain dicts, lists and scalars, with the texts.

        Returns:
            `key`, `section`, `stage`, `tool` (its name), `tenant`, `policy`, `policy_version`, `rule`, `matched`,
            `scores`, `spans`, `text` and `context`.
        """
        step, verdict = self.step, self.verdict
        return {
            "key": self.key,
            "section": self.section,
            "stage": step.stage,
            "tool": None if step.tool is None else step.tool.name,
            "tenant": verdict.tenant,
            "policy": verdict.policy,
            "policy_version": verdict.policy_version,
            "rule": verdict.rule,
            "matched": list(verdict.matched),
            # A detector may use NumPy's numbers, which no JSON takes.
            "scores": {
                head: {label: float(score) for label, score in labels.items()}
                for head, labels in verdict.scores.items()
            },
            "spans": [
                {**asdict(span), "start": int(span.start), "end": int(span.end), "score": float(span.score)}
                for span in verdict.spans
            ],
            "text": step.text,
            "context": step.context,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What somebody decided.

    Attributes:
        answer: The decision.
        text: The text that may pass instead, of an `edit`; it is judged again.
        by: Who decided, as far as that is known.
        reason: Why, in their words.
    """

    answer: Answer
    text: str | None = None
    by: str | None = None
    reason: str | None = None

    def __post_init__(self) -> None:
        """Refuse an answer that says nothing."""
        if self.answer not in ("allow", "edit", "block"):
            raise ValueError(f"unknown answer {self.answer!r}; use allow, edit or block")
        if (self.answer == "edit") != (self.text is not None):
            raise ValueError("an edit has a text, and nothing else has")


class Escalator(ABC):
    """Asks somebody whether a step may pass.

    One object serves all threads, and keeps nothing of a call. A `TimeoutError` means that nobody answered in time:
    `on_timeout` follows. `EscalationPending` means that somebody will: no text passes yet, and the caller has a
    ticket. Any other exception is a failure: `on_error` follows.

    Attributes:
        passes: Exceptions that are nobody's failure and go to the caller as they are: how a graph is stopped.
        reruns: Whether what the caller did before is done again when the answer comes; then it can be asked only where
            an integration sees to it that nothing runs twice.
    """

    passes: ClassVar[tuple[type[BaseException], ...]] = ()
    reruns: ClassVar[bool] = False

    @abstractmethod
    def ask(self, case: Case) -> Reply:
        """Ask, and wait for the answer.

        Args:
            case: The step, and the judgement that asks.

        Returns:
            The answer.

        Raises:
            TimeoutError: If nobody answered in time.
            EscalationPending: If somebody has yet to.
        """

    async def aask(self, case: Case) -> Reply:
        """`ask`, without blocking the event loop; by default on another thread."""
        return await asyncio.to_thread(self.ask, case)

    def close(self) -> None:
        """Let go of connections; the escalator is of no use after."""
        return
