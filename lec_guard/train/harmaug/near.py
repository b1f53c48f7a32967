"""Texts that are there already, word for word or almost."""

from __future__ import annotations

import math
import re
import unicodedata
from typing import Literal

Alike = Literal["equal", "near"]

_WORDS = 3
"""In a shingle."""

_CHARACTERS = 5
"""In a shingle of a text that is not written in words with spaces between them, or in very few."""

_ROUNDING = 1e-9
"""A product of fractions may be off by."""


class Texts:
    """Texts that later ones must not resemble, each with a name for its kind.

    Texts are equal where their words are, whatever their case, marks and spaces. They are near where their shingles
    are: by the Jaccard index, exactly. A text can only reach it with one that has one of its rarest shingles, so only
    those are compared.

    Args:
        near: Jaccard index from which texts are near; with 1 only equal ones are found.
    """

    def __init__(self, near: float) -> None:
        self._near = near
        self._by_words: dict[str, int] = {}
        self._shingles: list[frozenset[int]] = []
        self._kinds: list[str] = []
        self._holders: dict[int, list[int]] = {}

    def add(self, text: str, kind: str) -> None:
        """Take a text in; of equal ones the first counts.

        Args:
            text: The text.
            kind: What `find` calls it.
        """
        words = normalised(text)
        if words in self._by_words:
            return
        self._by_words[words] = len(self._kinds)
        own = shingles(words)
        for one in own:
            self._holders.setdefault(one, []).append(len(self._kinds))
        self._shingles.append(own)
        self._kinds.append(kind)

    def find(self, text: str, *, twin_of: str | None = None) -> tuple[Alike, str] | None:
        """Look for a text that this one is like.

        Args:
            text: The text.
            twin_of: A text that this one may be near to, but not equal.

        Returns:
            How like it is, and the kind of the one that is there; None where there is none.
        """
        words = normalised(text)
        if words in self._by_words:
            return "equal", self._kinds[self._by_words[words]]
        if self._near >= 1:
            return None
        own = shingles(words)
        rarest = sorted(own, key=lambda one: len(self._holders.get(one, ())))
        # With none of these in common, too few are left to have in common.
        enough = rarest[: len(own) - math.ceil(len(own) * self._near - _ROUNDING) + 1]
        spared = None if twin_of is None else self._by_words.get(normalised(twin_of))
        for at in sorted({at for one in enough for at in self._holders.get(one, ())} - {spared}):
            other = self._shingles[at]
            common = len(own & other)
            if common and common >= self._near * (len(own) + len(other) - common) - _ROUNDING:
                return "near", self._kinds[at]
        return None


def normalised(text: str) -> str:
    """The words of a text alone.

    Args:
        text: The text.

    Returns:
        Its words in lower case, one space between them; the text itself where it has none.
    """
    words = re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(words) if words else text.strip()


def shingles(words: str) -> frozenset[int]:
    """What a text is compared by.

    Args:
        words: Its words, as `normalised` gives them.

    Returns:
        Hashes, of one process, of its runs of words; of its characters where it has few words.
    """
    each = words.split()
    if len(each) > _WORDS and len(words) < 20 * len(each):
        return frozenset(hash(tuple(each[at : at + _WORDS])) for at in range(len(each) - _WORDS + 1))
    ends = max(len(words) - _CHARACTERS + 1, 1)
    return frozenset(hash(words[at : at + _CHARACTERS]) for at in range(ends))
