"""The labelled sets that the embedded heads are fitted to and measured on."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ValidationError

from lec_guard.errors import UnsupportedValueError

Kind = Literal["prompt", "statement", "document", "response"]


class _Row(BaseModel):
    """A line of a file; other fields are for other readers."""

    user: str | None = None
    response: str | None = None
    system: str | None = None
    label: str
    kind: Kind
    family: str
    category: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A labelled text.

    Attributes:
        source: The file it came from, without its ending.
        family: Sets of one origin share a family; cross-validation leaves families out, not files.
        kind: `prompt`, `statement`, `document` or `response`.
        text: What is judged.
        context: What it is judged against: the request of a response, else the system prompt; None where unknown.
        label: The label as the file has it.
        category: The set's own category, or None.
        labels: Head -> what the text says to it, 1 or 0, or None for nothing; None: what its set's label says.
        group: What it is read together with, such as an attack and its harmless twin; None: nothing.
    """

    source: str
    family: str
    kind: Kind
    text: str
    context: str | None = None
    label: str
    category: str | None
    labels: dict[str, int | None] | None = None
    group: str | None = None


def read_examples(path: Path) -> list[Example]:
    """Read a file of labelled texts.

    Args:
        path: One JSON object a line with `user` (or `response`, for that kind), `label`, `kind` and
            `family`, perhaps `system` and `category`.

    Returns:
        The examples in order.

    Raises:
        UnsupportedValueError: If a line is no such object; names file and line.
    """
    examples = []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = _Row.model_validate_json(line)
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(map(str, first["loc"])) or "the line"
                raise UnsupportedValueError(f"{path}:{number}: {where}: {first['msg']}") from error
            text = row.response if row.kind == "response" else row.user
            if text is None:
                raise UnsupportedValueError(f"{path}:{number}: a {row.kind} needs its text")
            examples.append(
                Example(
                    source=path.stem,
                    family=row.family,
                    kind=row.kind,
                    text=text,
                    context=(row.user if row.kind == "response" else row.system) or None,
                    label=row.label,
                    category=row.category or None,
                )
            )
    return examples


def sample(folder: Path, most: int, *, seed: int = 0) -> list[Example]:
    """Up to `most` examples of each set and label, the same ones on every run with a seed."""
    chosen: list[Example] = []
    for path in sorted(folder.glob("*.jsonl")):
        by_label: dict[str, list[Example]] = {}
        for example in read_examples(path):
            by_label.setdefault(example.label, []).append(example)
        for label, examples in sorted(by_label.items()):
            of = f"{path.stem}/{label}" + (f"/{seed}" if seed else "")
            random.Random(of).shuffle(examples)  # noqa: S311 - a sample, not a secret
            chosen += examples[:most]
    return chosen
