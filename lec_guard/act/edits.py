"""Edits: apply them, join those of several rewriters, and find those that lead from one text to another."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from lec_guard.errors import UnsupportedValueError
from lec_guard.step import Edit


def apply_edits(text: str, edits: Iterable[Edit]) -> str:
    """A text with edits made.

    Args:
        text: The text.
        edits: Edits that do not overlap, in any order. Several that only put something in at one place are made in the
            order in which they are given.

    Returns:
        The new text.

    Raises:
        UnsupportedValueError: If an edit lies outside the text, or two overlap.
    """
    parts: list[str] = []
    at = 0
    for edit in sorted(edits, key=lambda one: (one.start, one.end)):
        if not at <= edit.start <= edit.end <= len(text):
            raise UnsupportedValueError(
                f"an edit of characters {edit.start} to {edit.end} overlaps another one, or lies outside the text"
            )
        parts += [text[at : edit.start], edit.replacement]
        at = edit.end
    return "".join([*parts, text[at:]])


def merge_edits(edits: Iterable[Edit]) -> tuple[Edit, ...]:
    """Edits of several rewriters, made ready to be applied together.

    Args:
        edits: Edits of one text; they may overlap.

    Returns:
        Edits in order that do not overlap: where some do, all that any of them takes out is taken out, and what the
        widest puts in stands there.
    """
    merged: list[tuple[Edit, int]] = []
    for edit in sorted(dict.fromkeys(edits), key=lambda one: (one.start, one.end)):
        width = edit.end - edit.start
        if merged and edit.start < merged[-1][0].end:
            last, widest = merged[-1]
            said = edit if width > widest else last
            both = Edit(start=last.start, end=max(last.end, edit.end), replacement=said.replacement)
            merged[-1] = (both, max(widest, width))
        else:
            merged.append((edit, width))
    return tuple(edit for edit, _ in merged)


def compose_edits(text: str, first: Sequence[Edit], then: Sequence[Edit]) -> tuple[Edit, ...]:
    """Edits of a text that do at once what two do one after the other.

    Args:
        text: The text.
        first: Edits of it.
        then: Edits of what these make of it.

    Returns:
        Edits of the text. Where the second changes what the first put in, one edit does both.

    Raises:
        UnsupportedValueError: As of `apply_edits`.
    """
    middle = apply_edits(text, first)
    apply_edits(middle, then)
    # What each edit of either kind covers in the middle text, and by how much the first have moved what follows.
    covered: list[tuple[int, int, Edit, bool]] = []
    moved = 0
    for edit in sorted(first, key=lambda one: (one.start, one.end)):
        start = edit.start + moved
        moved += len(edit.replacement) - (edit.end - edit.start)
        covered.append((start, start + len(edit.replacement), edit, True))
    covered += [(edit.start, edit.end, edit, False) for edit in then]
    covered.sort(key=lambda one: (one[0], one[1], not one[3]))
    groups: list[list[tuple[int, int, Edit, bool]]] = []
    reach = -1
    for one in covered:
        if groups and (one[0] < reach or (one[0] == reach and any(own[3] != one[3] for own in groups[-1]))):
            groups[-1].append(one)
        else:
            groups.append([one])
        reach = max(reach, one[1])
    composed: list[Edit] = []
    moved = 0
    for group in groups:
        low, high = min(one[0] for one in group), max(one[1] for one in group)
        start = low - moved
        moved += sum(len(one[2].replacement) - (one[2].end - one[2].start) for one in group if one[3])
        own = [
            Edit(start=edit.start - low, end=edit.end - low, replacement=edit.replacement)
            for _, _, edit, is_first in group
            if not is_first
        ]
        composed.append(Edit(start=start, end=high - moved, replacement=apply_edits(middle[low:high], own)))
    return tuple(composed)


def edits_between(old: str, new: str) -> tuple[Edit, ...]:
    """Edits that lead from one text to another, none of them over the end of a line that both have.

    Args:
        old: The text.
        new: What it is to become.

    Returns:
        The edits, in order; none where the texts are equal.
    """
    before, after = old.splitlines(keepends=True), new.splitlines(keepends=True)
    edits: list[Edit] = []
    starts = [0]
    for line in before:
        starts.append(starts[-1] + len(line))
    for tag, a, b, c, d in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag == "equal":
            continue
        if tag == "replace" and b - a == d - c:
            edits += [_between(starts[a + at], before[a + at], after[c + at]) for at in range(b - a)]
        else:
            edits.append(_between(starts[a], "".join(before[a:b]), "".join(after[c:d])))
    return tuple(edits)


def _between(at: int, old: str, new: str) -> Edit:
    """The one edit between two texts, without what both begin and end with."""
    head = 0
    while head < min(len(old), len(new)) and old[head] == new[head]:
        head += 1
    tail = 0
    while tail < min(len(old), len(new)) - head and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    return Edit(start=at + head, end=at + len(old) - tail, replacement=new[head : len(new) - tail])
