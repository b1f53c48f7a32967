"""The channels of an agent's state that are the guard's own: their names, and how what several write becomes one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

JUDGED, NOTES, TOKENS, TOOLS, BLOCKED = (
    "lec_guard_judged",
    "lec_guard_notes",
    "lec_guard_tokens",
    "lec_guard_tools",
    "lec_guard_blocked",
)
"""Keyed hashes of messages that were judged, what the system prompt has to say, what tokens in messages stand for, how
the model was told what tools do, and why results are blocked that have yet to end the agent."""


def merge_entries(before: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> dict[str, Any]:
    """Entries that were there and entries that are new; one that is None is removed.

    Args:
        before: What is there.
        new: What is written.

    Returns:
        Both.
    """
    return {key: value for key, value in {**(before or {}), **(new or {})}.items() if value is not None}


def merge_notes(before: Sequence[str] | None, new: Sequence[str] | None) -> list[str]:
    """Notes that were there, and after them those that are new.

    Args:
        before: What is there.
        new: What is written.

    Returns:
        Each note once.
    """
    return list(dict.fromkeys([*(before or ()), *(new or ())]))


_MERGES: Mapping[str, Any] = {
    JUDGED: merge_entries,
    NOTES: merge_notes,
    TOKENS: merge_entries,
    BLOCKED: merge_entries,
}


def merged(state: Mapping[str, Any], update: Mapping[str, Any]) -> dict[str, Any]:
    """A state with an update of these channels as LangGraph makes it, and of others as they are in it.

    Args:
        state: The state.
        update: The update.

    Returns:
        The state with it.
    """
    merge = {key: _MERGES[key](state.get(key), new) for key, new in update.items() if key in _MERGES}
    return {**state, **update, **merge}


def joined_updates(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Two updates of these channels as one; what the first removes stays removed unless the second writes it.

    Args:
        first: What is written before.
        second: What is written after.

    Returns:
        Both.
    """
    both = {**first, **second}
    for key in first.keys() & second.keys() & _MERGES.keys():
        both[key] = merge_notes(first[key], second[key]) if key == NOTES else {**first[key], **second[key]}
    return both
