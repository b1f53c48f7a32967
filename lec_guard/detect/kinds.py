"""A quick look at a text: its characters by kind, so that a search for bytes tells what most texts do not have.

A regular expression looks at every character by itself; this costs as much as copying the text. It sees less, so a
hit only means that a closer look is due.
"""

from __future__ import annotations

from collections.abc import Mapping

LATIN = "".join(map(chr, range(256)))
"""The characters that are told apart; all others are seen as question marks."""


def table(kinds: Mapping[str, str]) -> bytes:
    """What tells characters apart.

    Args:
        kinds: One character for a kind -> those of `LATIN` that are of it; all others are seen as spaces.

    Returns:
        What `seen` takes.
    """
    kind_of = {char: kind for kind, chars in kinds.items() for char in chars}
    return "".join(kind_of.get(char, " ") for char in LATIN).encode("latin-1")


def seen(text: str, by: bytes, *, without: bytes = b"") -> bytes:
    """A text by the kinds of its characters.

    Args:
        text: Any Python string.
        by: A table.
        without: Characters that are left out.

    Returns:
        One byte a character.
    """
    return text.encode("latin-1", "replace").translate(by, without)
