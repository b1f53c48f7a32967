"""What is sent to the API, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from lec_guard.detect.wire import SpanOut, StepBody, Text
from lec_guard.step import Action, Cause, Edit, Outcome, Span, Stage, Verdict


def _several(steps: object) -> object:
    """One step is a list of one."""
    return [steps] if isinstance(steps, dict) else steps


Steps = Annotated[list[StepBody], Field(min_length=1)]


class CheckBody(BaseModel):
    """Steps to judge by the policy of a tenant.

    Attributes:
        steps: The steps; one alone needs no list.
        tenant: Whose policy; what the key says where it is for one tenant.
        act: Whether texts are rewritten, and people asked, as the policy says; else the verdicts alone.
    """

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"steps": [{"text": "Where is my parcel?", "stage": "input"}]}]},
    )

    steps: Annotated[Steps, BeforeValidator(_several)]
    tenant: Text | None = None
    act: bool = False


class EditOut(BaseModel):
    """A change of a text; see `lec_guard.step.Edit`."""

    start: int
    end: int
    replacement: str

    @classmethod
    def of(cls, edit: Edit) -> EditOut:
        """The same for JSON."""
        return cls(start=edit.start, end=edit.end, replacement=edit.replacement)


class VerdictOut(BaseModel):
    """The judgement of a step; see `lec_guard.step.Verdict`.

    Attributes:
        scores: Head -> label -> probability; None for keys that may not see it.
        spans: What the matched rules' heads scored highest; None for keys that may not see it.
        text: With `act`, the text that may pass; None where none may, or none may yet.
        edits: With `act`, how it differs.
        notes: With `act`, what the system prompt has to say for it.
        tokens: With `act`, what stands in it -> what that stands for.
        ticket: With `act`, under what number somebody has yet to decide.
    """

    action: Action
    rule: str | None
    matched: list[str]
    rewrites: list[str]
    escalations: list[str]
    cause: Cause | None
    message: str | None
    messages: dict[str, str]
    stage: Stage
    tenant: str | None
    policy: str
    policy_version: str
    detector_id: str
    backend: str
    windows: int
    context_read: bool
    ms: float
    scores: Mapping[str, Mapping[str, float]] | None = None
    spans: list[SpanOut] | None = None
    text: str | None = None
    edits: list[EditOut] | None = None
    notes: list[str] | None = None
    tokens: dict[str, str] | None = None
    ticket: str | None = None

    @classmethod
    def of(cls, verdict: Verdict, *, exact: bool, outcome: Outcome | None = None) -> VerdictOut:
        """What is answered of a verdict.

        Args:
            verdict: The verdict.
            exact: Whether scores and spans are told.
            outcome: What came of acting on it, if that was asked for.

        Returns:
            The answer.
        """
        acted: dict[str, Any] = {}
        if outcome is not None:
            acted = {
                "text": outcome.text,
                "edits": [EditOut.of(edit) for edit in outcome.edits],
                "notes": list(outcome.notes),
                "tokens": dict(outcome.tokens),
                "ticket": outcome.ticket,
            }
        return cls(
            action=verdict.action,
            rule=verdict.rule,
            matched=list(verdict.matched),
            rewrites=list(verdict.rewrites),
            escalations=list(verdict.escalations),
            cause=verdict.cause,
            message=verdict.message,
            messages=dict(verdict.messages),
            stage=verdict.stage,
            tenant=verdict.tenant,
            policy=verdict.policy,
            policy_version=verdict.policy_version,
            detector_id=verdict.detector_id,
            backend=verdict.backend,
            windows=verdict.windows,
            context_read=verdict.context_read,
            ms=verdict.ms,
            scores=verdict.scores if exact else None,
            spans=[SpanOut.of(span) for span in verdict.spans] if exact else None,
            **acted,
        )

    def verdict(self) -> Verdict:
        """The verdict, as far as it was told."""
        return Verdict(
            action=self.action,
            rule=self.rule,
            matched=tuple(self.matched),
            rewrites=tuple(self.rewrites),
            escalations=tuple(self.escalations),
            cause=self.cause,
            message=self.message,
            messages=self.messages,
            scores=self.scores or {},
            spans=tuple(Span(**span.model_dump()) for span in self.spans or ()),
            windows=self.windows,
            context_read=self.context_read,
            stage=self.stage,
            tenant=self.tenant,
            policy=self.policy,
            policy_version=self.policy_version,
            detector_id=self.detector_id,
            backend=self.backend,
            ms=self.ms,
        )


class CheckOut(BaseModel):
    """The verdicts, in the order of the steps."""

    results: list[VerdictOut]


Kind = Literal["invalid_request", "authentication", "permission", "too_much", "server"]
"""What kind of thing went wrong."""


class ErrorBody(BaseModel):
    """What went wrong.

    Attributes:
        type: What kind of thing: `invalid_request`, `authentication`, `permission`, `too_much` or `server`.
        message: For whoever asked; it quotes nothing of a request.
        request_id: What the server's log knows the request by.
    """

    type: Kind
    message: str
    request_id: str


class ErrorOut(BaseModel):
    """The answer to a request that could not be served."""

    error: ErrorBody
