"""What came of a run: rows that `lec-guard train` reads, and counts that leave nothing out."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from lec_guard.step import Stage
from lec_guard.train.harmaug.exemplars import Topic, Written
from lec_guard.train.harmaug.prompts import Kind
from lec_guard.train.harmaug.teacher import Label

EXAMPLES = "examples.jsonl"
ASIDE = "set_aside.jsonl"
REPORT = "augment.json"
JOURNAL = "journal.jsonl"
"""In the folder of a run: what may be learnt from, what may not, how it went, and what a run goes on from."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Made(_Part):
    """What became of texts of one kind.

    Attributes:
        wanted: How many there were to be.
        calls: How often a model was asked.
        no_use: Why answers were of no use -> how many.
        missing: How many there are not, because all tries were of no use.
        harmful: Rows that the teacher finds harmful.
        harmless: Rows that it does not.
        set_aside: Why others are no rows -> how many.
    """

    wanted: int
    calls: int
    no_use: dict[str, int]
    missing: int
    harmful: int
    harmless: int
    set_aside: dict[str, int]


class Asked(_Part):
    """What a model was asked for, in all runs that the journal is of.

    Attributes:
        model: Its name.
        calls: How often it answered.
        tokens_in: Tokens that it read.
        tokens_out: Tokens that it wrote.
        cost: What that cost, in the currency of the prices; None where there are none.
    """

    model: str
    calls: int
    tokens_in: int
    tokens_out: int
    cost: float | None


class Report(_Part):
    """What came of a run.

    Attributes:
        rows: Rows of `examples.jsonl`.
        made: What became of texts, by kind.
        asked: What models were asked for, by role.
        families: Family -> its rows.
        settings: The run.
        notes: What else is to be known.
    """

    rows: int
    made: dict[Kind, Made]
    asked: dict[str, Asked]
    families: dict[str, int]
    settings: dict[str, Any]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A text that was made.

    Attributes:
        kind: What it is.
        number: Of the instruction that it is, or belongs to.
        topic: What that is about.
        text: The text.
        context: The instruction that a response answers.
        exemplars: Where the texts stand that the instruction was made from.
        attempt: How many answers were of no use before it.
    """

    kind: Kind
    number: int
    topic: Topic
    text: str
    context: str | None
    exemplars: tuple[str, ...]
    attempt: int

    def row(self, label: Label | None, *, benign: Written, generator: str, writer: str, teacher: str) -> dict[str, Any]:
        """The text as a row.

        Args:
            label: What the teacher says; None where it says nothing.
            benign: The label of harmless texts.
            generator: The name of what made the instruction: a family is its work on one topic.
            writer: The name of what made this text.
            teacher: That of the teacher.

        Returns:
            The row.
        """
        stage: Stage = "input" if self.context is None else "output"
        said: dict[str, Any] = {"label": None, "score": None}
        if label is not None:
            said = {"label": self.topic.label if label.score > 0.5 else benign, "score": round(label.score, 4)}
        family = f"augmented/{generator}/{self.topic.name}"
        return {
            "text": self.text,
            **({} if self.context is None else {"context": self.context}),
            **said,
            "family": family,
            # An attack and its twins, which `lec-guard distil` reads in one batch.
            "group": f"{family}/{self.number}",
            "category": self.topic.name,
            "stage": stage,
            "origin": {
                "kind": self.kind,
                "number": self.number,
                "generator": writer,
                "exemplars": list(self.exemplars),
                "attempt": self.attempt,
                "teacher": teacher,
                "asks": 0 if label is None else label.asks,
                "spread": None if label is None else round(label.spread, 4),
            },
        }


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows as JSON lines, in one step, for the owner of the file alone.

    Args:
        path: The file.
        rows: The rows.
    """
    _write(path, "".join(f"{json.dumps(row)}\n" for row in rows))


def write_report(path: Path, report: Report) -> None:
    """Write a report, in one step.

    Args:
        path: The file.
        report: The report.
    """
    _write(path, report.model_dump_json(indent=2) + "\n")


def _write(path: Path, content: str) -> None:
    beside = path.with_name(f"{path.name}.new")
    beside.unlink(missing_ok=True)
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(content)
    beside.replace(path)
