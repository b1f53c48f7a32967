"""The tasks of the LEC paper, from the sets that are at hand: what is told apart, and what gives it away."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.embedded.sets import Example as Row
from benchmarks.embedded.sets import read_examples
from benchmarks.embedded.tasks import CATEGORIES, category
from lec_guard.train.data import Dataset, Example

MOST = 5000
"""Texts of a task, as in the paper."""

FEWEST = 20
"""Texts that a category of its set's own needs."""

HARMFUL = ("aart", "catqa", "ailuminate_demo", "sap_attack_prompts", "harmfulqa", "circuit_breaker_goals", "sgbench")
HARMLESS = ("nq_open_dev", "instructions", "truthfulqa", "clinc_oos_test", "banking77_test", "bfcl")


@dataclass(frozen=True)
class Task:
    """One table of the report.

    Attributes:
        name: What it is called.
        claim: Which lines of the paper it is held against: `injection` or `content`.
        data: Its texts.
        note: What gives the class away.
    """

    name: str
    claim: str
    data: Dataset
    note: str


def tasks(data: Path) -> list[Task]:
    """All of them.

    Args:
        data: The folder with `train/`.

    Returns:
        In the order of the report.
    """

    def rows(*names: str) -> list[Row]:
        return [row for name in names for row in read_examples(data / "train" / f"{name}.jsonl")]

    spml = rows("spml_user")
    pairs = rows("spml_pairs")
    harmful = [row for row in rows(*HARMFUL) if row.label == "unsafe"]
    harmless = [row for row in rows(*HARMLESS) if row.label == "benign"]
    mixed = rows("fuzzyai_benign")
    of_aart = Counter(row.category for row in rows("aart"))
    return [
        Task(
            "injection: spml_user",
            "injection",
            _dataset(spml, ("benign", "injection"), lambda row: row.label),
            "length alone tells the classes of this set apart",
        ),
        Task(
            "injection: spml_user, length-matched",
            "injection",
            _dataset(_matched(spml), ("benign", "injection"), lambda row: row.label),
            "as many texts of each class in every tenth of the lengths",
        ),
        Task(
            "injection: spml_pairs",
            "injection",
            _dataset(pairs, ("benign", "injection"), lambda row: row.label, with_context=True),
            "system prompt and user prompt in one text, as the paper reads them; small",
        ),
        Task(
            "content: harmful or not",
            "content",
            _dataset(_some(harmful) + _some(harmless), ("benign", "unsafe"), lambda row: row.label),
            "as in the paper the two classes come from different sources, and the source gives the class away",
        ),
        Task(
            "content: harmful or not, one source",
            "content",
            _dataset(mixed, ("benign", "unsafe"), lambda row: row.label),
            "both classes come from one source (fuzzyai_benign), though its harmless questions are shorter",
        ),
        Task(
            "content: 2 categories",
            "content",
            _categories(harmful, harmless, _hazard(CATEGORIES[:2])),
            "as above; " + " and ".join(CATEGORIES[:2]),
        ),
        Task(
            "content: 10 categories",
            "content",
            _categories(harmful, harmless, _hazard(CATEGORIES)),
            "as above; several categories come from one source each",
        ),
        Task(
            "content: all categories of a source",
            "content",
            _categories(
                [row for row in harmful if row.source == "aart" and of_aart[row.category] >= FEWEST],
                harmless,
                lambda row: _word(row.category or ""),
            ),
            f"as above; the categories of aart with {FEWEST} texts or more, a harmful text being of one source",
        ),
    ]


def _dataset(
    rows: Iterable[Row], labels: tuple[str, ...], label: Callable[[Row], str], *, with_context: bool = False
) -> Dataset:
    once = {(row.context if with_context else None, row.text): row for row in rows}
    kept = _some(list(once.values()))
    examples = tuple(
        Example(
            source=f"{row.source}:{number}",
            text=f"{row.context}\n\n{row.text}" if with_context else row.text,
            context=None,
            stage="input",
            family=None,
            language=None,
        )
        for number, row in enumerate(kept)
    )
    classes = np.array([labels.index(label(row)) for row in kept])
    return Dataset(examples=examples, labels=labels, targets=np.eye(len(labels), dtype=np.float32)[classes])


def _some(rows: list[Row]) -> list[Row]:
    return random.Random(0).sample(rows, min(len(rows), MOST))  # noqa: S311 - repeatable


def _matched(rows: list[Row]) -> list[Row]:
    """As many of each label in every tenth of the lengths, drawn at random."""
    lengths = np.array([len(row.text) for row in rows])
    tenth = np.digitize(lengths, np.unique(np.quantile(lengths, np.linspace(0.05, 0.95, 19))))
    labels = sorted({row.label for row in rows})
    kept: list[Row] = []
    for part in np.unique(tenth):
        own = [[row for row, at in zip(rows, tenth, strict=True) if at == part and row.label == x] for x in labels]
        few = min(map(len, own))
        for group in own:
            kept += random.Random(0).sample(group, few)  # noqa: S311 - repeatable
    return kept


def _categories(harmful: list[Row], harmless: list[Row], named: Callable[[Row], str | None]) -> Dataset:
    """Benign and each category; of benign texts as many as of all harmful ones together."""
    known = [row for row in harmful if named(row) is not None]
    known = _some(known)[: MOST // 2]
    benign = _some(harmless)[: len(known)]
    labels = ("benign", *sorted({str(named(row)) for row in known}))
    return _dataset([*known, *benign], labels, lambda row: "benign" if row.label == "benign" else str(named(row)))


def _hazard(categories: tuple[str, ...]) -> Callable[[Row], str | None]:
    def named(row: Row) -> str | None:
        number = category(row)
        return CATEGORIES[number] if number is not None and CATEGORIES[number] in categories else None

    return named


def _word(name: str) -> str:
    return "-".join(name.split()) or "other"
