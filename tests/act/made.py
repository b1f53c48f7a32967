"""Subjects to rewrite, and texts as strange as they come."""

from __future__ import annotations

from hypothesis import strategies as st

from lec_guard import Span, Step
from lec_guard.act.base import Subject

KEY = b"k" * 32

TEXTS = st.one_of(
    st.text(st.sampled_from("ab .!?\n\r\x0b\u2028\t。é<>*_-"), max_size=40),
    # Lone surrogates too.
    st.text(st.characters(codec=None), max_size=40),
)


def subject(text, *spans, stage="tool_output", tenant="acme"):
    """A text with spans, each `(start, end)`, `(start, end, label)` or `(start, end, label, score)`."""
    made = []
    for one in spans:
        start, end, label, score = (*one, *("EMAIL_ADDRESS", 0.9)[len(one) - 2 :])
        made.append(Span(start=start, end=end, head="pii", label=label, score=score))
    return Subject(step=Step(stage=stage, text=text), spans=tuple(made), tenant=tenant)


def where(text, *parts, label="EMAIL_ADDRESS"):
    """Spans of parts of a text, each where it stands first."""
    return [(text.index(part), text.index(part) + len(part), label) for part in parts]


@st.composite
def spans_of(draw, text, labels=("A", "B", "C"), most=6):
    """Spans of a text, which may overlap."""
    made = []
    for _ in range(draw(st.integers(0, most))) if text else ():
        start = draw(st.integers(0, len(text) - 1))
        end = draw(st.integers(start + 1, len(text)))
        made.append((start, end, draw(st.sampled_from(labels)), draw(st.sampled_from((0.2, 0.5, 0.9)))))
    return made


def lines_apart(text, edits):
    """Whether no edit takes out a line break or puts one in."""
    return all("\n" not in text[one.start : one.end] + one.replacement for one in edits)
