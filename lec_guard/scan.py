"""Scanning what was logged: a table of texts in, a table of verdicts out, a part at a time.

A part is a few thousand rows. Its verdicts are written to a file of their own, whole or not at all, so a scan that was
interrupted goes on with the next part, and memory holds one part whatever the size of the table. In the end the parts
become one table.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lec_guard.errors import UnsupportedValueError
from lec_guard.guard import Guard
from lec_guard.step import STAGES, Step, ToolRef, Verdict

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.fs import FileSystem

PART_ROWS = 4096
"""Rows of a part by default."""

COLUMNS = ("text", "id", "context", "stage", "tool", "tenant")
"""What a row may have; all but the text may be missing."""

Progress = Callable[[int, int], None]
"""Is told how many rows are done, and of how many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scanned:
    """What a scan did.

    Attributes:
        rows: Rows of the table.
        resumed: Rows whose verdicts were there already.
        actions: Action -> rows.
    """

    rows: int
    resumed: int
    actions: Mapping[str, int]


def scan(
    source: str,
    out: str,
    guard: Guard,
    *,
    columns: Mapping[str, str] | None = None,
    stage: str = "input",
    tenant: str | None = None,
    scores: bool = False,
    part_rows: int = PART_ROWS,
    progress: Progress = lambda _done, _rows: None,
) -> Scanned:
    """Judge each row of a table; nothing is rewritten, and nobody is asked.

    Args:
        source: A Parquet file: a path, or a URI that pyarrow knows (`s3://…`, `gs://…`).
        out: Where the verdicts go, likewise: a row each, in order, without any text. While it runs the parts stand in a
            folder beside it, `OUT.parts`.
        guard: What judges.
        columns: Of `COLUMNS` what they are called in the table, where that is another name.
        stage: Of rows that name none.
        tenant: Of rows that name none.
        scores: Whether scores are kept, as JSON.
        part_rows: Rows of a part.
        progress: Is told how far it is.

    Returns:
        What came of it.

    Raises:
        UnsupportedValueError: If the table can't be read, a row can't be judged, or the parts are of another scan; and
            if pyarrow is missing.
        PolicyError: If a row's tenant is unknown.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
        from pyarrow.fs import FileSystem
    except ModuleNotFoundError:
        raise UnsupportedValueError("scan needs pyarrow; run: pip install 'lec-guard[train]'") from None
    named = _named(columns or {})
    try:
        files, path = _place(FileSystem, source)
        table = pq.ParquetFile(path, filesystem=files)
    except (OSError, pa.ArrowException) as error:
        raise UnsupportedValueError(f"{source}: can't be read as Parquet: {error}") from None
    with table:
        missing = [named[name] for name in COLUMNS if name == "text" or name in (columns or {})]
        missing = [name for name in missing if name not in table.schema_arrow.names]
        if missing:
            raise UnsupportedValueError(f"{source}: there is no column {missing[0]!r}: name the column of the texts")
        wanted = [name for name in named.values() if name in table.schema_arrow.names]
        info = files.get_file_info(path)
        what = {
            "source": [source, info.size, info.mtime_ns],
            "policy": guard.policy(tenant).version,
            "detector": _detector_id(guard),
            "named": named,
            "stage": stage,
            "tenant": tenant,
            "scores": scores,
            "part_rows": part_rows,
        }
        parts = _Parts(*_place(FileSystem, out), what)
        rows, done, resumed = table.metadata.num_rows, 0, 0
        for number, batch in enumerate(_batches(table, wanted, part_rows)):
            if parts.has(number):
                resumed += batch.num_rows
            else:
                parts.write(number, _judged(batch, named, guard, stage, tenant, done, keep=scores))
            done += batch.num_rows
            progress(done, rows)
        actions = parts.join()
    return Scanned(rows=rows, resumed=resumed, actions=actions)


def _named(columns: Mapping[str, str]) -> dict[str, str]:
    unknown = set(columns) - set(COLUMNS)
    if unknown:
        raise UnsupportedValueError(f"unknown column {sorted(unknown)[0]!r}; there are {', '.join(COLUMNS)}")
    return {name: columns.get(name, name) for name in COLUMNS}


def _place(kind: type[FileSystem], name: str) -> tuple[FileSystem, str]:
    from pyarrow.fs import LocalFileSystem

    if "://" in name:
        found: tuple[FileSystem, str] = kind.from_uri(name)
        return found
    return LocalFileSystem(), name


def _batches(table: Any, wanted: list[str], rows: int) -> Iterator[pa.RecordBatch]:
    """Batches of so many rows each, whatever row groups the table has, so that parts are the same on every run."""
    import pyarrow as pa

    held: list[pa.RecordBatch] = []
    count = 0
    for batch in table.iter_batches(batch_size=rows, columns=wanted):
        held.append(batch)
        count += batch.num_rows
        while count >= rows:
            whole = pa.Table.from_batches(held)
            yield whole.slice(0, rows).combine_chunks().to_batches()[0]
            rest = whole.slice(rows)
            held, count = (rest.to_batches() if rest.num_rows else []), rest.num_rows
    if count:
        yield pa.Table.from_batches(held).combine_chunks().to_batches()[0]


def _judged(
    batch: pa.RecordBatch,
    named: Mapping[str, str],
    guard: Guard,
    stage: str,
    tenant: str | None,
    first: int,
    *,
    keep: bool,
) -> pa.Table:
    rows = batch.to_pylist()
    steps, tenants = [], []
    for number, row in enumerate(rows, start=first):
        own = {name: row.get(column) for name, column in named.items()}
        text = own["text"]
        if not isinstance(text, str):
            raise UnsupportedValueError(f"row {number}: {named['text']!r} is {type(text).__name__}, not a text")
        where = own["stage"] or stage
        if where not in STAGES:
            raise UnsupportedValueError(f"row {number}: unknown stage {where!r}; use one of {', '.join(STAGES)}")
        tool = ToolRef(name=str(own["tool"])) if own["tool"] else None
        context = None if own["context"] is None else str(own["context"])
        steps.append(Step(stage=where, text=text, context=context, tool=tool))
        tenants.append(own["tenant"] or tenant)
    verdicts = guard.check_many(steps, tenants)
    import pyarrow as pa

    found = [
        _record(number, row.get(named["id"]), verdict, keep=keep)
        for number, (row, verdict) in enumerate(zip(rows, verdicts, strict=True), start=first)
    ]
    return pa.Table.from_pylist(found, schema=_schema(keep=keep))


def _schema(*, keep: bool) -> pa.Schema:
    import pyarrow as pa

    text = pa.string()
    names = ("id", "action", "rule", "cause", "stage", "tenant", "policy", "policy_version", "detector_id")
    return pa.schema([("row", pa.int64()), *((name, text) for name in names), *([("scores", text)] if keep else [])])


def _record(number: int, given: object, verdict: Verdict, *, keep: bool) -> dict[str, Any]:
    kept = {"scores": json.dumps({head: dict(own) for head, own in verdict.scores.items()})} if keep else {}
    return {
        "row": number,
        "id": None if given is None else str(given),
        "action": verdict.action,
        "rule": verdict.rule,
        "cause": verdict.cause,
        "stage": verdict.stage,
        "tenant": verdict.tenant,
        "policy": verdict.policy,
        "policy_version": verdict.policy_version,
        "detector_id": verdict.detector_id,
        **kept,
    }


def _detector_id(guard: Guard) -> str:
    return guard.check(Step(stage="input", text="")).detector_id


class _Parts:
    """The parts of a scan, in a folder beside its end."""

    def __init__(self, files: FileSystem, out: str, what: Mapping[str, Any]) -> None:
        self._files, self._out = files, out
        self._folder = f"{out}.parts"
        self._name = hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()
        self._count = 0
        note = f"{self._folder}/scan.json"
        if self._is_file(note):
            with files.open_input_stream(note) as opened:
                if json.loads(opened.read())["scan"] != self._name:
                    raise UnsupportedValueError(
                        f"{self._folder}: holds parts of another scan (another table, policy, detector or options): "
                        "end that one as it was begun, or delete the folder"
                    )
        else:
            files.create_dir(self._folder, recursive=True)
            self._put(note, json.dumps({"scan": self._name}).encode())
        self._there = {info.base_name for info in files.get_file_info(_under(self._folder))}

    def has(self, number: int) -> bool:
        self._count = number + 1
        return self._file(number) in self._there

    def write(self, number: int, table: pa.Table) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer)
        self._put(f"{self._folder}/{self._file(number)}", buffer.getvalue().to_pybytes())

    def join(self) -> dict[str, int]:
        """Make one table of them, and count what was decided."""
        import pyarrow.parquet as pq

        actions: dict[str, int] = {}
        partial = f"{self._folder}/whole-{uuid.uuid4().hex}"
        writer: Any = None
        for number in range(self._count):
            table = pq.read_table(f"{self._folder}/{self._file(number)}", filesystem=self._files)
            writer = writer or pq.ParquetWriter(partial, table.schema, filesystem=self._files)
            writer.write_table(table)
            for action in table.column("action").to_pylist():
                actions[action] = actions.get(action, 0) + 1
        if writer is None:
            raise UnsupportedValueError("there are no rows to scan")
        writer.close()
        self._files.move(partial, self._out)
        self._files.delete_dir(self._folder)
        return actions

    @staticmethod
    def _file(number: int) -> str:
        return f"part-{number:08d}.parquet"

    def _put(self, path: str, content: bytes) -> None:
        partial = f"{path}.{uuid.uuid4().hex}"
        with self._files.open_output_stream(partial) as opened:
            opened.write(content)
        self._files.move(partial, path)

    def _is_file(self, path: str) -> bool:
        from pyarrow.fs import FileType

        return bool(self._files.get_file_info(path).type == FileType.File)


def _under(folder: str) -> Any:
    from pyarrow.fs import FileSelector

    return FileSelector(folder)
