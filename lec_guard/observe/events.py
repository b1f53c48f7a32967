"""What operators see: one event a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from lec_guard.step import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictEvent:
    """A step was judged.

    Attributes:
        verdict: The judgement; it holds no text.
    """

    verdict: Verdict


class EventSink(Protocol):
    """Where events go. Called on the thread of the caller; an exception stops the step from passing."""

    def emit(self, event: VerdictEvent) -> None:
        """Take an event.

        Args:
            event: What happened.
        """
        ...
