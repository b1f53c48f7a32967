"""Labelled texts from files: JSON lines, CSV, TSV, Parquet, or folders of them.

Nothing is left out in silence: what can't be read is an error that names file and row, and what was merged, dropped
or sampled away is counted.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from lec_guard.errors import UnsupportedValueError
from lec_guard.policy.schema import nearest
from lec_guard.step import STAGES, Stage
from lec_guard.train.fit import Floats, Ints
from lec_guard.train.labels import Found, LabelRules, Value, classes, one_class, read_label, shown
from lec_guard.train.rows import ENDINGS, Mistakes, Row, read_rows, size_of

MOST_BYTES = 512 << 20
"""Of all files together, that are read whole."""

_LISTED = 20
"""Conflicts that a message shows; it counts the others."""

Conflicts = Literal["error", "drop"]
"""What to do with texts that have several labels."""

_Name = Annotated[str, Field(min_length=1)]


class Columns(BaseModel):
    """Which column holds what. Those with a text and its label must be there; of the others, those named here.

    Attributes:
        text: The text that is judged.
        label: Its label; see `LabelRules`.
        context: What it is judged against: the system prompt of a message, the request of a response.
        family: Where it comes from; rows of one family are never on both sides of a split.
        stage: Where in an application it would pass the guard.
        language: Its language; figures are given for each.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: _Name = "text"
    label: _Name = "label"
    context: _Name = "context"
    family: _Name = "family"
    stage: _Name = "stage"
    language: _Name = "language"


class TaughtColumns(Columns):
    """The same, and what only a run reads that tunes a model.

    Attributes:
        score: What a teacher says, as `lec-guard augment` writes it: the probability that the text is harmful.
        group: Texts of one group are read together, such as an attack and its harmless twin.
    """

    score: _Name = "score"
    group: _Name = "group"


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A text to learn from or to measure on.

    Attributes:
        source: `path:row`, as errors and reports name it.
        text: What is judged, as the file has it.
        context: What it is judged against; None where unknown.
        stage: Where in an application it would pass the guard.
        family: Where it comes from, as the data says; None where it does not.
        language: Its language, as the data says; None where it does not.
        score: What a teacher says, where `TaughtColumns` are read; None where none was asked.
        group: Which texts it is read with, likewise.
    """

    source: str
    text: str
    context: str | None
    stage: Stage
    family: str | None
    language: str | None
    score: float | None = None
    group: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Texts with their labels.

    Attributes:
        examples: The texts, in the order of the files.
        labels: The classes; the first is the benign one.
        targets: Probability of each class, `[examples, classes]`; rows sum to 1, and hold one 1 unless labels are soft.

    Raises:
        ValueError: If shapes don't fit.
    """

    examples: tuple[Example, ...]
    labels: tuple[str, ...]
    targets: Floats

    def __post_init__(self) -> None:
        if self.targets.shape != (len(self.examples), len(self.labels)):
            raise ValueError(
                f"targets are {self.targets.shape} for {len(self.examples)} examples of {len(self.labels)} classes: "
                "give [examples, classes]"
            )

    @property
    def hard(self) -> Ints:
        """The likeliest class of each text, `[examples]`; 0 is the benign one."""
        return np.asarray(self.targets.argmax(axis=1), np.int64)

    @property
    def harmful(self) -> Floats:
        """The probability that each text is not benign, `[examples]`."""
        return np.asarray(1 - self.targets[:, 0], np.float32)

    def subset(self, rows: Ints) -> Dataset:
        """Some of the rows, of the same classes.

        Args:
            rows: Which, in the order they are to have.

        Returns:
            Those rows.
        """
        examples = tuple(self.examples[row] for row in rows.tolist())
        return Dataset(examples=examples, labels=self.labels, targets=self.targets[rows])


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRows:
    """How many rows a file has, before any were merged, dropped or left out."""

    path: Path
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What was read, and what became of every row of it.

    Attributes:
        dataset: The rows that are left.
        files: The files, in the order they were read.
        merged: Rows that repeat another one's text, context, stage and label.
        conflicting: Rows that were dropped because the same text has several labels.
        left_out: Rows that a sample left out.
        passed_over: Files of the folders that are of no format that is read.
    """

    dataset: Dataset
    files: tuple[FileRows, ...]
    merged: int
    conflicting: int
    left_out: int
    passed_over: tuple[Path, ...]

    @property
    def rows(self) -> int:
        """Rows of all files."""
        return sum(file.rows for file in self.files)

    def told(self) -> tuple[str, ...]:
        """What became of rows that are not among the texts, in words.

        Returns:
            A sentence for each thing that happened; none where every row is there.
        """
        counts = {
            "rows repeat another one, and count once": self.merged,
            "rows were dropped, because their texts have several labels": self.conflicting,
            "rows were left out by the sample": self.left_out,
            "files were passed over, because nothing here reads their format": len(self.passed_over),
        }
        return tuple(f"{count:,} {what}" for what, count in counts.items() if count)


def read_dataset(
    paths: Sequence[Path],
    columns: Columns | None = None,
    labels: LabelRules | None = None,
    *,
    stage: Stage = "input",
    on_conflict: Conflicts = "error",
    sample: int | None = None,
    most_bytes: int = MOST_BYTES,
) -> Reading:
    """Read labelled texts.

    A sample is the rows whose texts have the lowest hashes: the same ones on each run and in any order of rows, and
    what is left out takes no memory. Texts with several labels are then looked for among the rows of the sample.

    Args:
        paths: Files, or folders that are read with all that is in them; formats are told by `ENDINGS`.
        columns: Which column holds what; None takes the ones called so. A column that is named here and is not there
            is an error; one of the others is not.
        labels: What labels mean, where they don't say so.
        stage: The stage of rows that name none.
        on_conflict: Whether texts with several labels are an error, or dropped with all their rows.
        sample: Rows to take of each label, at most; None takes all.
        most_bytes: Of all files together; more is an error unless a sample is taken.

    Returns:
        The texts, and what became of every row.

    Raises:
        UnsupportedValueError: If files or rows can't be read, or labels say nothing that can be learnt; names file
            and row, and how to mend it.
    """
    if sample is not None and sample < 1:
        raise UnsupportedValueError(f"a sample of {sample} rows of each label is none: give --sample 1 or more")
    columns, labels = columns or Columns(), labels or LabelRules()
    files, passed_over = _files(paths)
    if sample is None:
        _check_size(files, most_bytes)
    mistakes, found, kept = Mistakes(), Found(), _Kept(sample)
    counts = []
    needed = ["text", "label", *(name for name in columns.model_fields_set if name not in ("text", "label"))]
    wanted = [own for name, own in columns if name not in needed]
    for path in files:
        rows = 0
        for row in read_rows(path, [getattr(columns, name) for name in needed], wanted, mistakes):
            rows += 1
            entry = _entry(row, columns, stage, mistakes)
            # After a mistake nothing is learnt any more, but all mistakes are to be told.
            if entry is not None and not mistakes.count:
                found.add(entry.value, row.source)
                kept.add(entry)
        counts.append(FileRows(path=path, rows=rows))
    mistakes.stop()
    total = sum(file.rows for file in counts)
    if not total:
        raise UnsupportedValueError(f"no rows in {', '.join(map(str, files[:_LISTED]))}: give labelled texts")
    meant = classes(found, labels, total)
    entries = kept.entries()
    left_out = total - sum(entry.copies for entry in entries)
    entries, conflicting = _settled(entries, on_conflict)
    targets = meant.targets([entry.value for entry in entries])
    dataset = Dataset(examples=tuple(entry.example for entry in entries), labels=meant.labels, targets=targets)
    _check_classes(dataset, conflicting)
    return Reading(
        dataset=dataset,
        files=tuple(counts),
        merged=sum(entry.copies - 1 for entry in entries),
        conflicting=conflicting,
        left_out=left_out,
        passed_over=tuple(passed_over),
    )


def _files(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Files to read, and others that lie beside them."""
    if not paths:
        raise UnsupportedValueError("no data: give files or folders with labelled texts")
    files: list[Path] = []
    others: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(one for one in path.rglob("*") if not one.is_dir())
            own = [one for one in inside if one.suffix in ENDINGS]
            if not own:
                raise UnsupportedValueError(f"{path}: no file in it ends in {', '.join(ENDINGS)}")
            files += own
            others += (one for one in inside if one.suffix not in ENDINGS)
        elif path.suffix not in ENDINGS:
            raise UnsupportedValueError(f"{path}: no format that is read; name it with {', '.join(ENDINGS)}")
        else:
            files.append(path)
    by_place: dict[Path, Path] = {}
    for path in files:
        if path.resolve() in by_place:
            raise UnsupportedValueError(f"{path}: given twice, also as {by_place[path.resolve()]}")
        by_place[path.resolve()] = path
    return files, others


def _check_size(files: Iterable[Path], most: int) -> None:
    sizes = {path: size_of(path) for path in files}
    if sum(sizes.values()) > most:
        largest = sorted(sizes, key=lambda path: -sizes[path])
        each = ", ".join(f"{path} {_mib(sizes[path])}" for path in largest[:5])
        more = f", … {len(sizes)} files" if len(sizes) > 5 else ""
        raise UnsupportedValueError(
            f"{_mib(sum(sizes.values()))} of data ({each}{more}) are more than {_mib(most)}: "
            "say how many rows of each label to take, with --sample N (`sample:` in the config)"
        )


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.1f} MiB"


@dataclass(slots=True)
class _Entry:
    """A row that was read, and how often it stood there."""

    example: Example
    value: Value
    digest: bytes
    order: int = 0
    copies: int = 1


def _entry(row: Row, columns: Columns, stage: Stage, mistakes: Mistakes) -> _Entry | None:
    """One row; None after noting each thing that is wrong with it."""
    try:
        text = _text(row.values.get(columns.text), columns.text)
        raw_context = row.values.get(columns.context)
        context = None if _missing(raw_context) else _string(raw_context, columns.context)
        own_stage = _word(row.values.get(columns.stage), columns.stage) or stage
        if own_stage not in STAGES:
            raise ValueError(f"unknown stage {own_stage!r}{nearest(own_stage, list(STAGES))}")
        taught = columns if isinstance(columns, TaughtColumns) else None
        example = Example(
            source=row.source,
            text=text,
            context=context,
            stage=own_stage,
            family=_word(row.values.get(columns.family), columns.family),
            language=_word(row.values.get(columns.language), columns.language),
            score=None if taught is None else _share(row.values.get(taught.score), taught.score),
            group=None if taught is None else _word(row.values.get(taught.group), taught.group),
        )
        value = read_label(row.values.get(columns.label))
    except ValueError as error:
        mistakes.add(row.source, str(error))
        return None
    whole = hashlib.blake2b(text.strip().encode("utf-8", "surrogatepass"), digest_size=16)
    # No UTF-8 holds this byte, so text and context can't run into each other.
    whole.update(b"\xff" + (context or "").strip().encode("utf-8", "surrogatepass"))
    return _Entry(example, value, whole.digest())


def _missing(raw: Any) -> bool:
    """Whether a cell holds nothing; tables of numbers write NaN for that."""
    return raw is None or (isinstance(raw, float) and math.isnan(raw)) or (isinstance(raw, str) and not raw.strip())


def _text(raw: Any, column: str) -> str:
    if _missing(raw):
        raise ValueError(f"no text in {column!r}" if raw is None else f"the text in {column!r} is empty")
    return _string(raw, column)


def _string(raw: Any, column: str) -> str:
    if not isinstance(raw, str):
        raise ValueError(f"{column!r} must hold text, not {type(raw).__name__}")
    return raw


def _word(raw: Any, column: str) -> str | None:
    if _missing(raw):
        return None
    if isinstance(raw, int) and not isinstance(raw, bool):
        return str(raw)
    return _string(raw, column).strip()


def _share(raw: Any, column: str) -> float | None:
    if _missing(raw):
        return None
    try:
        share = float(raw) if isinstance(raw, str | int | float) and not isinstance(raw, bool) else math.nan
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise ValueError(f"{column!r} must hold a teacher's probability in 0..1, or nothing")
    return share


class _Kept:
    """The rows that stay: all, or of each label those of the lowest hashes."""

    def __init__(self, most: int | None) -> None:
        self._most = most
        self._by_key: dict[tuple[str, bytes, Stage, Value], _Entry] = {}
        self._heaps: dict[str, list[tuple[int, int, tuple[str, bytes, Stage, Value]]]] = {}
        self._count = 0

    def add(self, entry: _Entry) -> None:
        """Keep a row, or count it as a copy of one that is kept, or let it go."""
        label = shown(entry.value)
        key = label, entry.digest, entry.example.stage, entry.value
        there = self._by_key.get(key)
        if there is not None:
            there.copies += 1
            return
        entry.order = self._count = self._count + 1
        if self._most is not None:
            heap = self._heaps.setdefault(label, [])
            # The highest of the kept hashes lies on top, and is the first to go.
            item = -int.from_bytes(entry.digest, "big"), -entry.order, key
            if len(heap) < self._most:
                heapq.heappush(heap, item)
            else:
                gone = heapq.heappushpop(heap, item)
                if gone is item:
                    return
                del self._by_key[gone[2]]
        self._by_key[key] = entry

    def entries(self) -> list[_Entry]:
        """What stayed, in the order of the files."""
        return sorted(self._by_key.values(), key=lambda entry: entry.order)


def _settled(entries: list[_Entry], on_conflict: Conflicts) -> tuple[list[_Entry], int]:
    """The rows whose texts have one label, and how many have several."""
    by_text: dict[bytes, list[_Entry]] = {}
    for entry in entries:
        by_text.setdefault(entry.digest, []).append(entry)
    pairs = []
    torn: set[bytes] = set()
    for digest, own in by_text.items():
        for other in own[1:]:
            if other.value != own[0].value:
                pairs.append((own[0], other))
                torn.add(digest)
    if pairs and on_conflict == "error":
        lines = [
            f"{one.example.source}: {_say(one.value)}, but {two.example.source}: {_say(two.value)}"
            for one, two in pairs[:_LISTED]
        ]
        more = [f"… and {len(pairs) - _LISTED} more"] if len(pairs) > _LISTED else []
        raise UnsupportedValueError(
            "\n".join(
                [
                    f"{len(torn)} {'text has' if len(torn) == 1 else 'texts have'} several labels:",
                    *lines,
                    *more,
                    "correct them, or leave all of them out with --on-conflict drop (config: `on_conflict: drop`)",
                ]
            )
        )
    return (
        [entry for entry in entries if entry.digest not in torn],
        sum(entry.copies for entry in entries if entry.digest in torn),
    )


def _say(value: Value) -> str:
    if isinstance(value, tuple):
        return ", ".join(f"{label} {share:g}" for label, share in value)
    return repr(value) if isinstance(value, str) else f"{value:g}"


def _check_classes(dataset: Dataset, conflicting: int) -> None:
    """Refuse classes that nothing can be learnt of."""
    left = np.bincount(dataset.hard, minlength=len(dataset.labels))
    if conflicting and (dataset.targets.max(axis=0, initial=0) == 0).any():
        gone = [
            label
            for label, most in zip(dataset.labels, dataset.targets.max(axis=0, initial=0), strict=True)
            if not most
        ]
        raise UnsupportedValueError(
            f"after {conflicting} rows with several labels were dropped, none is left of "
            f"{', '.join(map(repr, gone))}: correct their labels"
        )
    if not left[0] or not left[1:].any():
        only = dataset.labels[int(left.argmax())]
        raise one_class(only, len(dataset.examples), benign=not left[1:].any())


__all__ = [
    "ENDINGS",
    "MOST_BYTES",
    "Columns",
    "Conflicts",
    "Dataset",
    "Example",
    "FileRows",
    "LabelRules",
    "Reading",
    "TaughtColumns",
    "read_dataset",
]
