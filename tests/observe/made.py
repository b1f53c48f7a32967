"""Events of every kind."""

from __future__ import annotations

from typing import get_args

from lec_guard import BypassEvent, ErrorEvent, Event, Judgement, PolicyReloaded, ReloadRefused, Verdict, VerdictEvent
from lec_guard.observe.events import EffectEvent, EscalationResolved
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


def failed(reason: str | None = "could not read 'xyzzy'", kind: str = "OSError") -> ErrorEvent:
    """A failure of which the detector says what it read."""
    return ErrorEvent(verdict=judged(cause="error", spans=(SPAN,)), cause="error", reason=reason, kind=kind)


def effect(**changes: object) -> EffectEvent:
    """A text that was rewritten, judged once more, and passed; one rewriter failed."""
    content = {
        "verdict": judged(action="rewrite", rule="pii", rewrites=("redact", "floor:drop")),
        "result": "rewritten",
        "rewrites": ("redact",),
        "again": judged(action="allow", rule=None, ms=0.7),
        "failed": ("floor:drop: TimeoutError",),
        "ms": 2500.0,
    }
    return EffectEvent(**{**content, **changes})


def resolved(**changes: object) -> EscalationResolved:
    """Somebody allowed a step after a minute and a half."""
    content = {
        "verdict": judged(action="escalate", rule="transfer", escalations=("floor:reviewer",)),
        "section": "floor:reviewer",
        "key": "0123456789abcdef0123456789abcdef",
        "resolution": "allow",
        "follows": "allow",
        "by": "Ada",
        "failure": None,
        "ms": 90_000.0,
    }
    return EscalationResolved(**{**content, **changes})


EVENTS: list[Event] = [
    VerdictEvent(verdict=judged()),
    failed(),
    BypassEvent(verdict=judged(action="allow", rule="fail:timeout", cause="timeout"), cause="timeout"),
    effect(),
    resolved(),
    PolicyReloaded(policy="acme", version="new", before="old"),
    ReloadRefused(policy="acme", reason="acme.yaml:3:1: rules: wrong\nacme.yaml:4:1: wrong, too", version="old"),
]

# A new kind of event has to be added to the list.
assert {type(event) for event in EVENTS} == set(get_args(Event))
