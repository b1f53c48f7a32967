"""What a review queue holds, and how it fails."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lec_guard.act.base import Answer
from lec_guard.errors import LecGuardError
from lec_guard.step import Stage

Status = Literal["pending", "decided", "expired"]
"""Nobody has decided yet; somebody has, and that counts; the time ran out, of the asking or of the decision."""


class QueueError(LecGuardError):
    """A review queue could not do what it was asked, or refused it; the message says why, and never a text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A step that waits for a reviewer, or has been decided.

    All times are seconds since 1970 (UTC). What others wrote is not shown by `repr`.

    Attributes:
        ticket: What it is known by; nobody can guess it.
        key: What the decision counts for; as in `Case`.
        section: The section of `escalations` that asks.
        tenant: Whose policy asks; None for the default one.
        stage: The stage of the step.
        tool: The name of the step's tool, if any.
        policy: The policy that asks.
        policy_version: Its version.
        rule: The rule that decided.
        text: The step's text as it would pass.
        context: The step's context, if any.
        verdict: The judgement that asks, as of `Verdict.to_dict`.
        status: How far it is.
        created: When it was put.
        expires: When its time runs out: until then it can be decided, and a decision counts.
        claimed_by: The reviewer who works on it, or the last who did.
        claimed_until: Until when nobody else may decide it.
        answer: The decision.
        edited: The text that may pass instead, of an `edit`.
        by: Who decided.
        reason: Why, in their words.
        decided: When.
    """

    ticket: str
    key: str
    section: str
    tenant: str | None
    stage: Stage
    tool: str | None = field(repr=False)
    policy: str
    policy_version: str
    rule: str | None
    text: str = field(repr=False)
    context: str | None = field(repr=False)
    verdict: Mapping[str, Any] = field(hash=False, repr=False)
    status: Status
    created: float
    expires: float
    claimed_by: str | None = None
    claimed_until: float | None = None
    answer: Answer | None = None
    edited: str | None = field(default=None, repr=False)
    by: str | None = None
    reason: str | None = field(default=None, repr=False)
    decided: float | None = None
