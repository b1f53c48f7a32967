"""Words that are harmless where they are shown."""

from __future__ import annotations

import re

_HARMLESS = re.compile(r"[\w.:@/+-]+", re.ASCII)


def plain(word: str) -> str:
    """A word from anywhere, harmless to a terminal: no control, bidi or other invisible characters, no ends of lines.

    Args:
        word: Any text.

    Returns:
        The same with what can't be seen written out.
    """
    return "".join(one if one.isprintable() else _escaped(one) for one in word)


def field(word: str, longest: int = 80) -> str:
    """A word as one field of a line: no word can pass for two fields, or for another one.

    Args:
        word: Any text.
        longest: How many characters of it are shown.

    Returns:
        The word; in quotes where it holds more than letters, digits and the signs of names.
    """
    shown = word if len(word) <= longest else word[: longest - 1] + "…"
    if _HARMLESS.fullmatch(shown):
        return shown
    quoted = shown.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{plain(quoted)}"'


def encodable(word: str) -> str:
    """A word that fits into UTF-8: one lone surrogate would keep a whole batch from being sent or read.

    Args:
        word: Any text.

    Returns:
        The same with lone surrogates written out.
    """
    return word.encode("utf-8", "backslashreplace").decode("utf-8")


def _escaped(one: str) -> str:
    return f"\\u{ord(one):04x}" if ord(one) < 0x10000 else f"\\U{ord(one):08x}"
