"""Patterns of tools' names, and which of them can fit one and the same tool."""

from __future__ import annotations

import re
from fnmatch import translate
from functools import lru_cache

MOST = 256
"""Ways in which the patterns of a stage may fit a tool."""

_ANYTHING = "\0" * 256
"""Longer than any pattern, and of a character that none has: what only a `*` fits."""


class TooMany(ValueError):
    """Patterns overlap in too many ways."""


def compiled(glob: str) -> re.Pattern[str]:
    """Make a pattern ready to match.

    Args:
        glob: `*` stands for any characters, `?` for one, and everything else for itself.

    Returns:
        An expression of which `match` takes a whole name. It does not backtrack over a `*`, so no name can hang it.
    """
    return re.compile(translate(glob.replace("[", "[[]")))


@lru_cache(maxsize=512)  # Tenants inherit most patterns from the same few policies.
def ways(globs: tuple[str, ...]) -> tuple[frozenset[str], ...]:
    """In which ways patterns can fit a tool.

    Args:
        globs: The patterns.

    Returns:
        The sets of patterns that can fit a tool at once while all others don't, the empty one first. A few of them may
        be impossible, where each two of three patterns can fit a tool, but not all three.

    Raises:
        TooMany: If there are more than `MOST`.
    """
    patterns = {glob: compiled(glob) for glob in globs}
    implied = {glob: {glob} | {other for other in globs if _is_within(glob, patterns[other])} for glob in globs}
    beside = {glob: frozenset(other for other in globs if _can_meet(glob, other)) for glob in globs}
    found: dict[frozenset[str], None] = {frozenset(): None}
    new = list(found)
    while new:
        grown = (way | implied[glob] for way in new for glob in globs if glob not in way and way <= beside[glob])
        new = [way for way in dict.fromkeys(grown) if way not in found]
        found |= dict.fromkeys(new)
        if len(found) > MOST:
            raise TooMany(f"the patterns {', '.join(map(repr, globs[:5]))}, … overlap in more than {MOST} ways")
    return tuple(found)


def _is_within(glob: str, other: re.Pattern[str]) -> bool:
    """Whether a pattern fits whatever another one fits; where that is hard to tell, it says no."""
    names = (glob.replace("*", stars).replace("?", _ANYTHING[0]) for stars in ("", _ANYTHING))
    return all(other.match(name) for name in names)


def _can_meet(glob: str, other: str) -> bool:
    """Whether there is a name that both patterns fit."""
    # reached[at]: what is read of `glob` so far and other[:at] can fit the same name.
    reached = [True, *(set(other[:at]) == {"*"} for at in range(1, len(other) + 1))]
    for letter in glob:
        before, reached = reached, [reached[0] and letter == "*"]
        for at, its in enumerate(other, start=1):
            if "*" in (letter, its):
                reached.append(before[at] or reached[-1])
            else:
                reached.append(before[at - 1] and (letter == its or "?" in (letter, its)))
    return reached[-1]
