"""Every error that lec-guard raises on purpose.

```
LecGuardError
├── GuardBlocked            a policy refused a step; carries the verdict
├── EscalationPending       somebody has yet to decide; carries the verdict and a ticket
├── PolicyError             a policy file or a tenant name is wrong
├── DetectorError           a detector could not read a text or gave scores that mean nothing
│   └── OverloadError       a detector had no time or room for steps; to ask again at once is no help
├── BundleError             a detector on disk is missing, altered or made for another extractor
├── UnsupportedValueError   a value that the guard can't read, and so will not let pass
├── TenantMismatch          two sources name different tenants
└── SinkError               a sink can't be made, or could not take an event
```

Where only one room can fail in a way, it has a kind for that: `UneditableError` (an edit that can't be made in a value)
of `chain`; `QueueError`, `WebhookError` and `OpinionError` of `act`, which `on_error` follows; `RefusedByServer` of
`detect`; `AugmentError` and `TuneError` of `train`. `CircuitOpen` is raised where another service is left alone for a
while.

All of them can be pickled, so that they survive process pools and Ray.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lec_guard.step import Verdict


class LecGuardError(Exception):
    """Base of all errors that lec-guard raises on purpose."""


class GuardBlocked(LecGuardError):
    """A policy refused a step.

    The message names rule, policy and stage and never the text.

    Args:
        verdict: The judgement that refused.
    """

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(
            f"blocked at stage {verdict.stage!r} by rule {verdict.rule!r} "
            f"of policy {verdict.policy!r} (version {verdict.policy_version})"
        )
        self.verdict = verdict

    def __reduce__(self) -> tuple[type[GuardBlocked], tuple[Verdict]]:
        """Rebuild from the verdict, not from the message."""
        return type(self), (self.verdict,)


class EscalationPending(LecGuardError):
    """Somebody has yet to decide whether a step passes.

    The message names rule, policy, stage and ticket, and never the text. The same step, checked again, passes or is
    blocked once there is a decision.

    Args:
        verdict: The judgement that asks.
        ticket: What the review queue knows the step by.
    """

    def __init__(self, verdict: Verdict, ticket: str) -> None:
        super().__init__(
            f"at stage {verdict.stage!r} rule {verdict.rule!r} of policy {verdict.policy!r} "
            f"(version {verdict.policy_version}) asks for a decision: ticket {ticket}"
        )
        self.verdict = verdict
        self.ticket = ticket

    def __reduce__(self) -> tuple[type[EscalationPending], tuple[Verdict, str]]:
        """Rebuild from its parts, not from the message."""
        return type(self), (self.verdict, self.ticket)


class PolicyError(LecGuardError):
    """A policy file or a tenant name is wrong; the message says which file, line and key."""


class DetectorError(LecGuardError):
    """A detector could not be built, could not read a text, or gave scores that mean nothing."""


class OverloadError(DetectorError):
    """A detector had no time or no room for steps, whatever they hold; to ask again at once makes it worse."""


class BundleError(LecGuardError):
    """A detector on disk is missing, altered, or made for another extractor."""


class UnsupportedValueError(LecGuardError):
    """A value of a type that the guard can't read; it is refused, never passed unread."""


class TenantMismatch(LecGuardError):
    """Two sources (a view of the guard, the run's config) name different tenants."""


class SinkError(LecGuardError):
    """A sink can't be made, or could not take an event where a step must not pass untold."""
