"""An event as plain data, for logs: every attribute under its own name, and no raw text."""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from numbers import Integral, Real
from typing import Any, assert_never

from lec_guard.observe.events import (
    BypassEvent,
    EffectEvent,
    ErrorEvent,
    EscalationResolved,
    Event,
    PolicyReloaded,
    ReloadRefused,
    VerdictEvent,
)
from lec_guard.step import Verdict

_LEFT_OUT = frozenset({"message", "messages"})
"""What a log needs no copy of: the policy's own words, which its version names."""


def record(event: Event, *, key: bytes, include_text: bool = False) -> dict[str, Any]:
    """An event as plain dicts, lists and scalars, ready for JSON.

    What a detector said of its failure may quote what it read. It is kept as `reason_hmac`, by which the same failures
    are known again, and in full only where asked; the type of its error stays. Why a policy was refused stays: it is
    about the operator's own file. Who answered an escalation stays as it was told, so whoever shows it has to make it
    harmless.

    Args:
        event: What happened.
        key: For the hash of what is not to be shown. Without it nobody can try out what was hashed.
        include_text: Whether `reason` holds a detector's own words.

    Returns:
        `event`, which says what happened, and what the event holds under the same names: `verdict` and `again` without
        the messages for users, and beside `reason` its hash as `reason_hmac`. A score that is no number is None.
    """
    match event:
        case VerdictEvent():
            return {"event": "verdict", "verdict": _verdict(event.verdict)}
        case ErrorEvent():
            reason = event.reason
            return {
                "event": "error",
                "cause": event.cause,
                "kind": event.kind,
                "reason": reason if include_text else None,
                "reason_hmac": None if reason is None else keyed_hash(key, reason),
                "verdict": _verdict(event.verdict),
            }
        case BypassEvent():
            return {"event": "bypass", "cause": event.cause, "verdict": _verdict(event.verdict)}
        case EffectEvent():
            return {"event": "effect", **_told(event)}
        case EscalationResolved():
            return {"event": "escalation_resolved", **_told(event)}
        case PolicyReloaded():
            return {"event": "policy_reloaded", **_plain(event)}
        case ReloadRefused():
            return {"event": "reload_refused", **_plain(event)}
        case _:
            assert_never(event)


def keyed_hash(key: bytes, text: str) -> str:
    """A hash by which a text is known again, but can't be guessed without the key.

    Args:
        key: The key.
        text: The text; may hold lone surrogates.

    Returns:
        32 hexadecimal digits.
    """
    return hmac.new(key, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:32]


def _told(event: EffectEvent | EscalationResolved) -> dict[str, Any]:
    kind: type = type(event)
    told = {name: getattr(event, name) for name in _names(kind)}
    return {name: _verdict(value) if isinstance(value, Verdict) else _plain(value) for name, value in told.items()}


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {name: _plain(getattr(verdict, name)) for name in _names(Verdict) if name not in _LEFT_OUT}


@cache
def _names(kind: type) -> tuple[str, ...]:
    return tuple(one.name for one in fields(kind)) if is_dataclass(kind) else ()


def _plain(value: Any) -> Any:
    """Plain data; `dataclasses.asdict` would copy every string and keep NumPy's numbers."""
    kind: Any = type(value)
    if kind is str or kind is int or kind is bool or value is None:
        return value
    if kind is float:
        return value if math.isfinite(value) else None
    if kind is tuple or kind is list:
        return [_plain(one) for one in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(own) for key, own in value.items()}
    names = _names(kind)
    if names:
        return {name: _plain(getattr(value, name)) for name in names}
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return _plain(float(value))
    return str(value)
