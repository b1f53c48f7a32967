"""Verdicts that were stored, as objects again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from lec_guard.step import Judgement, Span, Verdict

_T = TypeVar("_T", Judgement, Span, Verdict)


def verdict_of(stored: Mapping[str, Any]) -> Verdict:
    """The verdict that was made plain by `Verdict.to_dict`.

    What is not known here is left out: a newer lec-guard may have stored it, and a reviewer must still be able to
    decide.

    Args:
        stored: The verdict as JSON keeps it.

    Returns:
        The verdict.
    """
    return _made(
        Verdict,
        {
            **stored,
            "matched": tuple(stored.get("matched", ())),
            "rewrites": tuple(stored.get("rewrites", ())),
            "escalations": tuple(stored.get("escalations", ())),
            "judgements": tuple(
                _made(Judgement, {**one, "matched": tuple(one.get("matched", ()))})
                for one in stored.get("judgements", ())
            ),
            "spans": tuple(_made(Span, one) for one in stored.get("spans", ())),
        },
    )


def _made(kind: type[_T], values: Mapping[str, Any]) -> _T:
    known = {field.name for field in fields(kind)}
    return kind(**{name: value for name, value in values.items() if name in known})
