"""Tables of the pages that benchmarks write."""

from __future__ import annotations

from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, figures: bool = True) -> str:
    """A table in Markdown.

    Args:
        head: The names of its columns.
        rows: Its cells.
        figures: Whether all columns but the first are figures, which stand to the right.

    Returns:
        The table, with a line end.
    """
    right = "---:" if figures else "---"
    lines = [head, ["---", *(right for _ in head[1:])], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
