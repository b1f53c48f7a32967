"""What operators see: an event for every step, and for what happens to the policies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from lec_guard.step import Cause, Verdict


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
    """

    verdict: Verdict
    cause: Cause
    reason: str | None


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


Event = VerdictEvent | ErrorEvent | BypassEvent | PolicyReloaded | ReloadRefused


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
