"""Texts of one origin, joined: a payload that is split over turns is harmless in each of them.

A model reads a conversation as one; so the newest text of an origin (the user's turns, the results of one tool) is
judged once more behind those just before it. They are joined as lines, for harmless turns without a full stop would run
into one sentence.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from lec_guard.step import Step, ToolRef

PARTS = 4
"""Texts that are joined: the newest one, and so many less one before it."""

PART_CHARS = 600
"""Characters of a text that take part: of the newest its beginning, of those before it their end; what stands before a
longer one is too far away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """Several texts of one origin as one step.

    Attributes:
        place: The place of the newest in the conversation.
        step: The joined step, in the newest one's context.
        parts: The steps whose texts it has.
    """

    place: int
    step: Step
    parts: tuple[Step, ...]


def joined(steps: Sequence[Step], newest: Collection[int]) -> list[Joined]:
    """Join texts of one origin.

    Args:
        steps: A conversation, in order, with its texts as they pass.
        newest: The places of steps that may be the last part. Of each origin only its last text is.

    Returns:
        One for each origin with several texts, the last of them among those.
    """
    origins: dict[tuple[str, ToolRef | None], list[int]] = {}
    for at, step in enumerate(steps):
        if step.stage in ("input", "tool_output") and step.text.strip() and not _is_operators(step):
            origins.setdefault((step.stage, step.tool), []).append(at)
    found: list[Joined] = []
    for places in origins.values():
        parts = _parts([steps[at] for at in places]) if places[-1] in newest else []
        if len(parts) > 1:
            text = "\n".join(_cut(part.text, at_end=part is not parts[-1]) for part in parts)
            found.append(Joined(place=places[-1], step=replace(parts[-1], text=text), parts=tuple(parts)))
    return found


def _parts(steps: Sequence[Step]) -> list[Step]:
    parts = [steps[-1]]
    said = {_letters(steps[-1])}
    for step in reversed(steps[:-1]):
        if len(parts) == PARTS:
            break
        # A message in two readings, or a turn that was said again, adds nothing.
        if _letters(step) in said:
            continue
        said.add(_letters(step))
        parts.append(step)
        if len(step.text.strip()) > PART_CHARS:
            break
    return parts[::-1]


def _cut(text: str, *, at_end: bool) -> str:
    """As much of a text as takes part, in whole words where it has any."""
    text = text.strip()
    if len(text) <= PART_CHARS:
        return text
    part = text[-PART_CHARS:] if at_end else text[:PART_CHARS]
    whole = part.partition(" ")[2] if at_end else part.rpartition(" ")[0]
    return whole or part


def _letters(step: Step) -> str:
    return "".join(step.text.split())


def _is_operators(step: Step) -> bool:
    return step.origin is not None and step.origin.trust == "operator"
