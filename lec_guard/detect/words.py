"""Common English words, and where one ends and the next begins in a row of letters.

`words.txt` has them, about the most common first, as counted over the sets that the embedded heads are fitted on: words
of four sets and more, with some of everyday English added, without slurs, and without regular forms (`rules`, `asked`,
`asking`) that other words of the list have. What the normaliser reads depends on it: whoever changes it has to raise
`normalise.VERSION`.
"""

from __future__ import annotations

import functools
import math
import string
from importlib.resources import files

_LONGEST = 18
_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
"""Other than `str.lower`, this keeps every text's length."""

# Costs are logarithms of how rare something is; these were tried out on English sentences with their spaces removed.
_FORM = 3.0
_UNKNOWN, _UNKNOWN_LETTER = 8.0, 2.7
_SPARE, _DEAREST_LETTER = 5.0, 2.45
"""What English may cost. German, French, Spanish, Dutch and Polish cost 2.7 a letter, the dearest English one 2.2."""


def is_word(letters: str) -> bool:
    """Whether letters are a common English word of three letters or more, in either case.

    Args:
        letters: What may be a word.
    """
    return len(letters) >= 3 and letters.translate(_LOWER) in _costs()


def split(letters: str) -> list[str] | None:
    """Letters without spaces -> the words that they most likely are.

    Args:
        letters: Of any length, in either case; the time grows with their number alone.

    Returns:
        Words that are the same letters when joined, or None where they don't read as English.
    """
    costs, lower = _costs(), letters.translate(_LOWER)
    best, start = [0.0], [0]
    unknown, unknown_start = math.inf, 0
    for end in range(1, len(lower) + 1):
        if best[end - 1] + _UNKNOWN < unknown:
            unknown, unknown_start = best[end - 1] + _UNKNOWN, end - 1
        unknown += _UNKNOWN_LETTER
        least, begin = unknown, unknown_start
        for at in range(max(0, end - _LONGEST), end):
            cost = costs.get(lower[at:end])
            if cost is not None and best[at] + cost < least:
                least, begin = best[at] + cost, at
        best.append(least)
        start.append(begin)
    if best[-1] > _DEAREST_LETTER * len(letters) + _SPARE:
        return None
    words, end = [], len(letters)
    while end:
        words.append(letters[start[end] : end])
        end = start[end]
    return words[::-1]


@functools.cache
def _costs() -> dict[str, float]:
    """Zipf's law: the n-th word is about n times as rare as the first."""
    words = files(__package__).joinpath("words.txt").read_text(encoding="ascii").split()
    costs = {word: math.log(rank * math.log(len(words))) for rank, word in enumerate(words, 1)}
    for word in words:
        for form in _forms(word):
            costs.setdefault(form, costs[word] + _FORM)
    return costs


def _forms(word: str) -> list[str]:
    if len(word) < 4:
        return []
    stem = word.removesuffix("e")
    return [f"{word}s", f"{stem}ed", f"{stem}ing", f"{word}ly"]
