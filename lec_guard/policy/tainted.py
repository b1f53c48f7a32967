"""What a step's taint is to a policy: scores of a head that no detector has."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import get_args

from lec_guard.step import Span, Stage, Step, TaintKind

TAINT = "taint"
"""The head's name."""

LABELS: tuple[str, ...] = ("third_party", *get_args(TaintKind))
"""`third_party` is the highest of the others."""

STAGES: tuple[Stage, ...] = ("tool_input", "output")
"""Stages at which it is known where a text came from: a third party's own text comes from there as a whole."""


def scores(step: Step, sources: Sequence[re.Pattern[str]] = ()) -> Mapping[str, float]:
    """How far a step's text came from third parties.

    Args:
        step: The step.
        sources: Patterns of the tools whose text counts; none given: all. A source that is not known counts always.

    Returns:
        Label -> score: 1 for a kind of name that is in the text, for words the share of the text's characters; 0 for
        all where nobody looked.
    """
    found = dict.fromkeys(LABELS, 0.0)
    covered = 0
    end = 0
    for one in sorted(step.taint or (), key=lambda taint: (taint.start, taint.end)):
        if sources and one.source and not any(pattern.match(one.source) for pattern in sources):
            continue
        if one.kind == "words":
            covered += max(one.end - max(one.start, end), 0)
            end = max(end, one.end)
        else:
            found[one.kind] = 1.0
    found["words"] = min(covered / max(len(step.text), 1), 1.0)
    found["third_party"] = max(found.values())
    return found


def spans(step: Step) -> tuple[Span, ...]:
    """The parts of a step's text that came from third parties.

    Args:
        step: The step.

    Returns:
        A span for each, with what it is for a label.
    """
    return tuple(Span(start=one.start, end=one.end, head=TAINT, label=one.kind, score=1.0) for one in step.taint or ())
