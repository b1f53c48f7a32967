"""The nouns that all rooms share: what is judged, what the detector says, what was decided."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from lec_guard.errors import DetectorError, UnsupportedValueError

Stage = Literal["input", "output", "tool_input", "tool_output", "retrieval", "tool_definition"]
"""Where in an application a text passes the guard."""

Action = Literal["allow", "flag", "block"]
"""What a policy can decide, mildest first."""

Trust = Literal["operator", "user", "model", "third_party"]
"""Who wrote a text: the operator of the application, its user, a model, or somebody else."""

STAGES: tuple[Stage, ...] = get_args(Stage)
ACTIONS: tuple[Action, ...] = get_args(Action)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolRef:
    """The tool that a step belongs to.

    Attributes:
        name: The tool's name as the model sees it.
        description: The tool's description as the model sees it, if known.
    """

    name: str
    description: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where the text of a step came from.

    Attributes:
        trust: Who wrote it.
        ids: Identifiers of the sources (a message id, a document id), outermost first.
    """

    trust: Trust
    ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing that passes a guard: a text at a stage, with the context it is judged against.

    Attributes:
        stage: Where in the application the text passes.
        text: The text to judge. May be empty.
        context: What the text is judged against: the system prompt for a user message, the request
            for a response, the user's task for a tool result. None where it is not known.
        tool: The tool that the step belongs to, if any.
        origin: Where the text came from, if known.

    Raises:
        UnsupportedValueError: If the stage is unknown, or text or context is not a string.
    """

    stage: Stage
    text: str
    context: str | None = None
    tool: ToolRef | None = None
    origin: Origin | None = None

    def __post_init__(self) -> None:
        """Refuse what the detector could not read."""
        if self.stage not in STAGES:
            raise UnsupportedValueError(f"unknown stage {self.stage!r}; use one of {', '.join(STAGES)}")
        if not isinstance(self.text, str):
            raise UnsupportedValueError(f"the text of a step must be a str, not {type(self.text).__name__}")
        if self.context is not None and not isinstance(self.context, str):
            raise UnsupportedValueError(f"the context of a step must be a str, not {type(self.context).__name__}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A part of a step's text that a head scored.

    Attributes:
        start: First character, counted in the text of the step.
        end: One past the last character.
        head: The head that scored it.
        label: The head's label with the highest score there.
        score: That label's probability for this part alone.
    """

    start: int
    end: int
    head: str
    label: str
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What a detector says of one step.

    Attributes:
        by_head: Head name -> label -> probability in 0..1. Only labels that a head can raise are
            listed; what is left is the probability of "nothing found".
        spans: For each head, the part of the text that scored highest.
        windows: How many windows the text was read in; 0 for a text without any token.
        context_read: Whether the step's context took part in the scores.
        unread: Why part of the text was not read, or None if all of it was.
        detector_id: The detector that scored, by content.
        backend: What it ran on, for example `torch-fp32`.

    Raises:
        DetectorError: If a score is not a number in 0..1. A NaN compares false with every
            threshold, so it would pass as "nothing found".
    """

    by_head: Mapping[str, Mapping[str, float]]
    spans: tuple[Span, ...] = ()
    windows: int = 1
    context_read: bool = False
    unread: str | None = None
    detector_id: str
    backend: str

    def __post_init__(self) -> None:
        """Refuse scores that mean nothing."""
        for head, labels in self.by_head.items():
            for label, score in labels.items():
                if not math.isfinite(score) or not 0.0 <= score <= 1.0:
                    raise DetectorError(f"detector {self.detector_id} gave {head}.{label} = {score}; not in 0..1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The judgement of a step. It never holds the text.

    Attributes:
        action: What the policy decided.
        rule: The rule that decided; None where no rule matched.
        matched: All rules that matched, in the policy's order.
        message: What to tell the user, from the policy; set where the action is `block`.
        scores: Head name -> label -> probability.
        spans: The parts of the text that the matched rules' heads scored highest.
        windows: How many windows the text was read in.
        context_read: Whether the step's context took part in the scores.
        stage: The stage of the step.
        tenant: The tenant whose policy was applied; None for the default policy.
        policy: That policy's name.
        policy_version: A hash over that policy with all it inherits.
        detector_id: The detector that scored.
        backend: What the detector ran on.
        ms: This step's share of its call's time, in milliseconds.
    """

    action: Action
    rule: str | None
    matched: tuple[str, ...] = ()
    message: str | None = None
    scores: Mapping[str, Mapping[str, float]] = field(hash=False)
    spans: tuple[Span, ...] = ()
    windows: int
    context_read: bool
    stage: Stage
    tenant: str | None
    policy: str
    policy_version: str
    detector_id: str
    backend: str
    ms: float

    @property
    def blocked(self) -> bool:
        """Whether the text may not pass."""
        return self.action == "block"

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists and scalars, ready for JSON.

        Returns:
            Every attribute under its own name.
        """
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What acting on a verdict gave.

    Attributes:
        verdict: The judgement.
        text: The text that may pass; None if none may.
    """

    verdict: Verdict
    text: str | None


def severest(verdicts: list[Verdict]) -> Verdict:
    """The verdict with the severest action; the first of them where several are equal.

    Args:
        verdicts: At least one verdict.

    Returns:
        One of the verdicts.
    """
    return max(verdicts, key=lambda verdict: ACTIONS.index(verdict.action))
