"""Events of every kind."""

from __future__ import annotations

from typing import get_args

from lec_guard import BypassEvent, ErrorEvent, Event, Judgement, PolicyReloaded, ReloadRefused, Verdict, VerdictEvent
from tests.test_step import SPAN, verdict

HOSTILE = "\x1b[31mred\x1b]0;title\x07\u202eevil\u2066\x00\r\n\t\x9b31m\u200b\ud800\U000e0041[bold]x[/bold]"

JUDGEMENTS = (
    Judgement(
        role="live",
        policy="acme",
        version="0123456789abcdef",
        mode="enforce",
        action="block",
        rule="injection",
        matched=("injection",),
    ),
    Judgement(
        role="floor", policy="floor", version="f1", mode="shadow", action="flag", rule="floor:x", matched=("floor:x",)
    ),
    Judgement(role="candidate", policy="next", version="n1", mode="enforce", action="allow", rule=None, matched=()),
)


def judged(**changes: object) -> Verdict:
    """A verdict of three policies, one of which counts."""
    return verdict(**{"judgements": JUDGEMENTS, "messages": {"en": "No.", "de": "Nein."}, **changes})


def failed(reason: str | None = "could not read 'xyzzy'") -> ErrorEvent:
    """A failure of which the detector says what it read."""
    return ErrorEvent(verdict=judged(cause="error", spans=(SPAN,)), cause="error", reason=reason)


EVENTS: list[Event] = [
    VerdictEvent(verdict=judged()),
    failed(),
    BypassEvent(verdict=judged(action="allow", rule="fail:timeout", cause="timeout"), cause="timeout"),
    PolicyReloaded(policy="acme", version="new", before="old"),
    ReloadRefused(policy="acme", reason="acme.yaml:3:1: rules: wrong\nacme.yaml:4:1: wrong, too", version="old"),
]

# A new kind of event has to be added to the list.
assert {type(event) for event in EVENTS} == set(get_args(Event))
