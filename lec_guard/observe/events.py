"""What operators see: an event for every step, and for what happens to the policies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from lec_guard.step import Cause, Verdict

Result = Literal["passed", "rewritten", "blocked", "pending"]
"""What can come of a step that a policy wants rewritten or allowed by somebody."""

Resolution = Literal["allow", "edit", "block", "timeout", "error"]
"""What can come of asking: an answer, none in time, or a failure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictEvent:
    """A step was judged.

    Attributes:
        verdict: The judgement, with what each policy said that was read; it holds no text.
    """

    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorEvent:
    """A step could not be judged as a policy wanted: the scores came too late, or there were none.

    Attributes:
        verdict: What followed.
        cause: Why.
        reason: Why the detector failed, or what it did not read; None where it was late, or was not asked.
        kind: The type of the detector's error, by name; None where there was none.
    """

    verdict: Verdict
    cause: Cause
    reason: str | None
    kind: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BypassEvent:
    """A fail mode let a step pass that was not judged.

    Attributes:
        verdict: What the policies made of it.
        cause: Why it was not judged.
    """

    verdict: Verdict
    cause: Cause


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectEvent:
    """A step that was to be rewritten, or that somebody was to allow, has its outcome.

    Attributes:
        verdict: The judgement that asked for it.
        result: What came of it: `passed` as it was, `rewritten`, `blocked`, or `pending`.
        rewrites: The sections of `rewrite` that were applied.
        again: The judgement of the text as it was to pass, where it was judged once more; it holds no text.
        failed: What could not be done and why, `section: type of the error` each; no text.
        ms: How long all of it took, in milliseconds.
    """

    verdict: Verdict
    result: Result
    rewrites: tuple[str, ...]
    again: Verdict | None
    failed: tuple[str, ...]
    ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EscalationResolved:
    """Somebody who was asked about a step answered, or did not.

    Attributes:
        verdict: The judgement that asked.
        section: The section of `escalations` that was asked.
        key: The keyed hash of what was decided.
        resolution: What came of it.
        follows: What follows: `allow`, `edit` or `block`; of a timeout or a failure what the policy says.
        by: Who answered, if known.
        failure: The type of the error, where it failed.
        ms: How long that took, in milliseconds.
    """

    verdict: Verdict
    section: str
    key: str
    resolution: Resolution
    follows: Literal["allow", "edit", "block"]
    by: str | None
    failure: str | None
    ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyReloaded:
    """A policy came into force while the application ran.

    Attributes:
        policy: Its name.
        version: Its version.
        before: The version that was in force; empty for a new one.
    """

    policy: str
    version: str
    before: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReloadRefused:
    """A change of a policy was not taken; what was in force still is.

    Attributes:
        policy: The policy's or file's name.
        reason: Why; a line each mistake.
        version: The version that stays in force; None where none was read yet.
    """

    policy: str
    reason: str
    version: str | None


Event = VerdictEvent | ErrorEvent | BypassEvent | EffectEvent | EscalationResolved | PolicyReloaded | ReloadRefused


class EventSink(Protocol):
    """Where events go.

    Those of a step come on the thread of the caller, those of policies maybe on another one. A sink that raises is told
    of, and changes no verdict unless the guard was made with `on_sink_error="block"`.
    """

    def emit(self, event: Event) -> None:
        """Take an event.

        Args:
            event: What happened.
        """
        ...
