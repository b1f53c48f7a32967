"""The nouns that all rooms share: what is judged, what the detector says, what was decided."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from lec_guard.errors import DetectorError, UnsupportedValueError

Stage = Literal["input", "output", "tool_input", "tool_output", "retrieval", "tool_definition"]
"""Where in an application a text passes the guard."""

Action = Literal["allow", "flag", "rewrite", "escalate", "block"]
"""What a policy can decide, mildest first."""

Mode = Literal["enforce", "shadow"]
"""Whether a policy acts, or only says what it would have done."""

Cause = Literal["timeout", "error", "budget"]
"""Why a text was not judged: the scores came too late (or there was no room for more), the detector failed,
the text was too long."""

Role = Literal["live", "floor", "candidate"]
"""Why a policy is read: it is the tenant's, it holds for all tenants, or it is tried out."""

Trust = Literal["operator", "user", "model", "third_party"]
"""Who wrote a text: the operator of the application, its user, a model, or somebody else."""

TaintKind = Literal["email", "host", "url", "number", "path", "id", "words"]
"""What a part of a text is that came from elsewhere: a name of something, by its kind, or words in a row."""

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
class Taint:
    """A part of a step's text that an earlier text of a third party said first, and no user and no operator.

    Attributes:
        start: First character, counted in the text of the step.
        end: One past the last.
        kind: What it is.
        source: The tool whose result said it; `retrieval` for documents; empty where it is not known.
        ids: Identifiers of that text, as in `Origin`.
    """

    start: int
    end: int
    kind: TaintKind
    source: str = ""
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
        taint: Which parts of it came from third parties, as `lec_guard.taint.trace` finds them; None where nobody
            looked.

    Raises:
        UnsupportedValueError: If the stage is unknown, or text or context is not a string.
    """

    stage: Stage
    text: str
    context: str | None = None
    tool: ToolRef | None = None
    origin: Origin | None = None
    taint: tuple[Taint, ...] | None = None

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
        spans: For each head, the part of the text that scored highest, then the other parts that scored, as far as
            they are elsewhere, best first and so many at most (`lec_guard.detect.layer.MOST_SPANS`). Of a head that
            finds things, each of them, in any order.
        windows: How many windows the text was read in; 0 for a text without any token.
        context_read: Whether the step's context took part in the scores.
        unread: Why part of the text was not read, or None if all of it was.
        over_budget: Whether it is unread because it is over the detector's budget.
        detector_id: The detector that scored, by content.
        backend: What it ran on, for example `torch-fp32`.

    Raises:
        DetectorError: If a score is not a number in 0..1, for a NaN compares false with every threshold
            and would pass as "nothing found"; or if it is over the budget, but not unread.
    """

    by_head: Mapping[str, Mapping[str, float]]
    spans: tuple[Span, ...] = ()
    windows: int = 1
    context_read: bool = False
    unread: str | None = None
    over_budget: bool = False
    detector_id: str
    backend: str

    def __post_init__(self) -> None:
        """Refuse scores that mean nothing."""
        for head, labels in self.by_head.items():
            for label, score in labels.items():
                if not math.isfinite(score) or not 0.0 <= score <= 1.0:
                    raise DetectorError(f"detector {self.detector_id} gave {head}.{label} = {score}; not in 0..1")
        if self.over_budget and self.unread is None:
            raise DetectorError(f"detector {self.detector_id} read a text that it says is over its budget")


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What one policy says of a step, whether or not that counts.

    Attributes:
        role: Why the policy was read.
        policy: Its name.
        version: A hash over it with all it inherits.
        mode: In `shadow` it is told and does not count; a candidate's never counts.
        action: What it says.
        rule: The rule that decided; None where none matched.
        matched: All of its rules that matched, in order.
    """

    role: Role
    policy: str
    version: str
    mode: Mode
    action: Action
    rule: str | None
    matched: tuple[str, ...]

    @property
    def counts(self) -> bool:
        """Whether the step's verdict is made of it."""
        return self.mode == "enforce" and self.role != "candidate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The judgement of a step. It never holds the text.

    Attributes:
        action: What the policies that count decided together: the severest of what each says.
        rule: The rule that decided; None where no rule matched. Rules of the floor are `floor:name`, allow entries
            `allow:name`, fail modes `fail:cause`.
        matched: All rules that matched, in order, those of the floor last.
        rewrites: What is to be done to the text: sections of `rewrite`, named as rules are.
        escalations: Who has to allow it, likewise.
        cause: Why the text was not judged, where that decided.
        message: What to tell the user, in the policy's own language; set where the text may not pass as it is.
        messages: The same in all its languages.
        judgements: What each policy said that was read: the tenant's, the floor, a candidate.
        scores: Head name -> label -> probability. `taint` among the heads is the guard's own: which parts of the text
            came from third parties, where somebody looked.
        spans: What the matched rules' heads scored highest in the text, several parts a head; see `Scores.spans`.
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
    rewrites: tuple[str, ...] = ()
    escalations: tuple[str, ...] = ()
    cause: Cause | None = None
    message: str | None = None
    messages: Mapping[str, str] = field(default_factory=dict, hash=False)
    judgements: tuple[Judgement, ...] = ()
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

    def message_in(self, locale: str | None) -> str | None:
        """The message in a language, or in the nearest that there is.

        Args:
            locale: A language tag, for example `de` or `pt-BR`; None for the policy's own language.

        Returns:
            The message of `locale`, of its language without the region, of that language elsewhere, or the policy's;
            None where the text may pass.
        """
        folded = {name.lower(): text for name, text in self.messages.items()}
        wanted = (locale or "").lower().replace("_", "-")
        language = wanted.partition("-")[0]
        while wanted:
            if wanted in folded:
                return folded[wanted]
            wanted = wanted.rpartition("-")[0]
        return next((text for name, text in folded.items() if language == name.partition("-")[0]), self.message)

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
class Edit:
    """A change of a text: what stands between two places gives way to something else.

    Attributes:
        start: First character that goes, counted in the text as it was.
        end: One past the last; equal to `start` where something is only put in.
        replacement: What stands there instead; may be empty.
    """

    start: int
    end: int
    replacement: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What acting on a verdict gave.

    Attributes:
        verdict: The judgement, a block where the text may not pass. Where a text passes that was rewritten, or that
            somebody allowed, it is the judgement of the text as it came.
        text: The text that may pass; None if none may, or none may yet.
        edits: How the text that may pass differs from the one that was judged, in order.
        notes: What the system prompt has to say for the text that passes, for example of a quarantine.
        tokens: What stands in the text -> what it stands for. For whoever may put it back (`protect`, an agent's
            middleware); no event and no log holds it.
        ticket: Under what number somebody has yet to decide; None where nobody has to.
    """

    verdict: Verdict
    text: str | None
    edits: tuple[Edit, ...] = ()
    notes: tuple[str, ...] = ()
    tokens: Mapping[str, str] = field(default_factory=dict, hash=False, repr=False)
    ticket: str | None = None


def severest(verdicts: list[Verdict]) -> Verdict:
    """The verdict with the severest action; the first of them where several are equal.

    Args:
        verdicts: At least one verdict.

    Returns:
        One of the verdicts.
    """
    return max(verdicts, key=lambda verdict: ACTIONS.index(verdict.action))
