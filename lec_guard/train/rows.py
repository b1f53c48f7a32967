"""Rows of JSON lines, CSV, TSV and Parquet, one after the other, so that a file of any size takes little memory."""

from __future__ import annotations

import csv
import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from lec_guard.errors import UnsupportedValueError

LINES = (".jsonl", ".json-lines")
TABLES = {".csv": ",", ".tsv": "\t"}
PARQUET = ".parquet"
ENDINGS = (*LINES, *TABLES, PARQUET)

_LONGEST = 1 << 26
"""Bytes of a row: a longer one is a file without line ends, or with a quote that never closes."""

_BATCH = 256
"""Rows of Parquet in memory at once."""

_LISTED = 20
"""Mistakes or columns that a message shows; it counts the others."""

_KEPT_COLUMNS = 1000
"""Columns of JSON lines to remember for messages; every row may bring others."""


@dataclass(slots=True)
class Mistakes:
    """Bad rows of all files: the first few by name, and how many there are."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, source: str, what: str) -> None:
        """Note a row, `path:row`, and what is wrong with it."""
        self.count += 1
        if len(self.first) < _LISTED:
            self.first.append(f"{source}: {what}")

    def stop(self) -> None:
        """Raise what was noted.

        Raises:
            UnsupportedValueError: If there was anything.
        """
        if self.count:
            more = [f"… and {self.count - len(self.first)} more"] if self.count > len(self.first) else []
            rows = "1 row" if self.count == 1 else f"{self.count} rows"
            raise UnsupportedValueError("\n".join([f"{rows} can't be read:", *self.first, *more]))


@dataclass(frozen=True, slots=True)
class Row:
    """A row.

    Attributes:
        source: `path:row`. Rows count from 1 as an editor or a spreadsheet shows them: in CSV the header is the first.
        values: Column -> value.
    """

    source: str
    values: Mapping[str, Any]


def read_rows(path: Path, needed: Iterable[str], wanted: Iterable[str], mistakes: Mistakes) -> Iterator[Row]:
    """Read a file's rows; blank lines hold none.

    Args:
        path: A file whose name ends in one of `ENDINGS`.
        needed: Columns that must be there.
        wanted: Columns to read where they are there.
        mistakes: Where to note rows that are none.

    Yields:
        The rows; of Parquet only with these columns.

    Raises:
        UnsupportedValueError: If the file can't be read, or lacks a needed column.
    """
    needed = list(needed)
    try:
        if path.suffix == PARQUET:
            yield from _parquet(path, needed, [*needed, *wanted], mistakes)
            return
        with path.open("rb") as file:
            if path.suffix in TABLES:
                yield from _table(path, file, needed, mistakes)
            else:
                yield from _lines(path, file, needed, mistakes)
    except OSError as error:
        raise UnsupportedValueError(f"{path}: can't be read: {error.strerror or error}") from None


def _bounded(path: Path, file: BinaryIO) -> Iterator[bytes]:
    number = 0
    while line := file.readline(_LONGEST + 1):
        number += 1
        if len(line) > _LONGEST:
            raise UnsupportedValueError(f"{path}:{number}: longer than {_LONGEST} bytes: does each row end its line?")
        # Programs on Windows begin a file with this mark.
        yield line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line


def _lines(path: Path, file: BinaryIO, needed: list[str], mistakes: Mistakes) -> Iterator[Row]:
    columns: dict[str, None] = {}
    for number, line in enumerate(_bounded(path, file), start=1):
        if not line.strip():
            continue
        source = f"{path}:{number}"
        try:
            values = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            mistakes.add(source, _not_utf8(error))
            continue
        except (ValueError, RecursionError) as error:
            mistakes.add(source, f"no JSON object: {error}")
            continue
        if not isinstance(values, dict):
            mistakes.add(source, f"no JSON object, but {type(values).__name__}: write {{…}} on each line")
            continue
        columns.update(dict.fromkeys(name for name in values if name in needed or len(columns) < _KEPT_COLUMNS))
        yield Row(source, values)
    if columns:
        _check(path, needed, list(columns))


def _table(path: Path, file: BinaryIO, needed: list[str], mistakes: Mistakes) -> Iterator[Row]:
    # The limit is one for the whole process: only ever raised, because another thread may read, too.
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST))
    # What is no UTF-8 is found in the fields, so that the row can be named.
    text = (line.decode("utf-8", "surrogateescape") for line in _bounded(path, file))
    reader = csv.reader(text, delimiter=TABLES[path.suffix], strict=True)
    header: list[str] | None = None
    number = 0
    while True:
        number += 1
        source = f"{path}:{number}"
        try:
            fields = next(reader, None)
            if fields is None:
                return
            for one in fields:
                one.encode("utf-8")
        except UnicodeEncodeError as error:
            mistakes.add(source, f"byte {ord(error.object[error.start]) - 0xDC00:#04x} is no UTF-8: save it as UTF-8")
            if header is None:
                mistakes.stop()
            continue
        except csv.Error as error:
            # Where a quote is wrong, nobody knows where the next row begins.
            mistakes.add(source, f"no row of a table: {error}: put text in double quotes, and write one in it twice")
            mistakes.stop()
        if not fields:
            continue
        if header is None:
            header = [name.strip() for name in fields]
            _check(path, needed, header)
        elif len(fields) != len(header):
            mistakes.add(
                source,
                f"{len(fields)} fields where the header has {len(header)}: put text that holds a separator in quotes",
            )
        else:
            yield Row(source, dict(zip(header, fields, strict=True)))


def _parquet(path: Path, needed: list[str], wanted: list[str], mistakes: Mistakes) -> Iterator[Row]:
    pa, parquet = _arrow()
    try:
        with parquet.ParquetFile(path) as file:
            there = file.schema_arrow.names
            _check(path, needed, there)
            number = 0
            for batch in file.iter_batches(_BATCH, columns=[name for name in there if name in wanted]):
                for at in range(batch.num_rows):
                    number += 1
                    source = f"{path}:{number}"
                    try:
                        values = {name: batch.column(name)[at].as_py() for name in batch.schema.names}
                    except UnicodeDecodeError as error:
                        mistakes.add(source, _not_utf8(error))
                        continue
                    yield Row(source, values)
    except pa.ArrowException as error:
        raise UnsupportedValueError(f"{path}: not Parquet that can be read: {error}") from None


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as parquet
    except ImportError:
        raise UnsupportedValueError("reading Parquet needs pyarrow; run: pip install 'lec-guard[train]'") from None
    return pa, parquet


def size_of(path: Path) -> int:
    """How many bytes a file's rows take in memory, roughly.

    Args:
        path: The file.

    Returns:
        Bytes; those of Parquet before they were compressed.

    Raises:
        UnsupportedValueError: If the file can't be read.
    """
    try:
        size = path.stat().st_size
        if path.suffix != PARQUET:
            return size
        pa, parquet = _arrow()
        try:
            about = parquet.read_metadata(path)
        except pa.ArrowException as error:
            raise UnsupportedValueError(f"{path}: not Parquet that can be read: {error}") from None
        return max(size, sum(int(about.row_group(at).total_byte_size) for at in range(about.num_row_groups)))
    except OSError as error:
        raise UnsupportedValueError(f"{path}: can't be read: {error.strerror or error}") from None


def _check(path: Path, needed: list[str], there: list[str]) -> None:
    for name in needed:
        if name not in there:
            close = difflib.get_close_matches(name, there, n=1, cutoff=0.5)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            if len(there) == 1 and ";" in there[0]:
                hint = "; separate columns by commas, not by semicolons"
            more = f", … {len(there)} in all" if len(there) > _LISTED else ""
            shown = ", ".join(map(repr, there[:_LISTED])) or "none"
            raise UnsupportedValueError(f"{path}: no column {name!r}; there are: {shown}{more}{hint}")
        if there.count(name) > 1:
            raise UnsupportedValueError(f"{path}: the column {name!r} stands twice: rename one")


def _not_utf8(error: UnicodeDecodeError) -> str:
    return f"byte {error.object[error.start]:#04x} is no UTF-8: save it as UTF-8"
