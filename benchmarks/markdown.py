"""Tables and figures of the pages that benchmarks write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, figures: bool = True) -> str:
    """A table in Markdown.

    Args:
        head: The names of its columns.
        rows: Its cells.
        figures: Whether all columns but the first are figures, which stand to the right.

    Returns:
        The table, with a line end.
    """
    return bare_table(head, rows, figures=figures) + "\n"


def bare_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, figures: bool = False) -> str:
    """A table in Markdown, for a text that goes on after it.

    Args:
        head: The names of its columns.
        rows: Its cells.
        figures: Whether all columns but the first are figures, which stand to the right.

    Returns:
        The table, without a line end.
    """
    right = "---:" if figures else "---"
    lines = [head, ["---", *(right for _ in head[1:])], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def interval(own: Mapping[str, Any], key: str = "value", form: str = ".2f") -> str:
    """A figure with its interval.

    Args:
        own: The figure, and where there is an interval `low` and `high`.
        key: The name of the figure.
        form: How numbers are written.

    Returns:
        Such as `0.30 [0.20, 0.40]`, or `0.30` where there is none.
    """
    text = format(own[key], form)
    return f"{text} [{own['low']:{form}}, {own['high']:{form}}]" if own.get("low") is not None else text
