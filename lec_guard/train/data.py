"""Labelled examples from JSON lines."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from lec_guard.errors import UnsupportedValueError


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A labelled text.

    Attributes:
        source: The file it came from, without its ending.
        family: Sets of one origin share a family; cross-validation leaves families out, not files.
        kind: `prompt`, `statement`, `document` or `response`.
        text: What is judged.
        label: The label as the file has it.
        category: The set's own category, or None.
    """

    source: str
    family: str
    kind: str
    text: str
    label: str
    category: str | None


def read_examples(path: Path) -> list[Example]:
    """Read a file of labelled texts.

    Args:
        path: One JSON object a line with `user` (or `response`, for that kind), `label`, `kind` and
            `family`, perhaps `category`.

    Returns:
        The examples in order.

    Raises:
        UnsupportedValueError: If a line is no such object; names file and line.
    """
    examples = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                examples.append(
                    Example(
                        source=path.stem,
                        family=row["family"],
                        kind=row["kind"],
                        text=row["response"] if row["kind"] == "response" else row["user"],
                        label=row["label"],
                        category=row.get("category") or None,
                    )
                )
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise UnsupportedValueError(f"{path}:{number}: not a labelled text: {error!r}") from error
    return examples
