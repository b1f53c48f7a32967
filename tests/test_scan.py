"""Scanning tables: a verdict for each row, in order, however often it was interrupted."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lec_guard import Guard
from lec_guard.errors import PolicyError, UnsupportedValueError
from lec_guard.scan import scan
from lec_guard.step import Step
from tests.test_cli import run


@pytest.fixture
def judge(policies, keywords):
    made = Guard.from_policies(policies, detector=keywords)
    yield made
    made.close()


@pytest.fixture
def table(tmp_path):
    texts = [f"an ATTACK {n}" if n % 7 == 0 else f"hello {n}" for n in range(100)]
    rows = {"text": texts, "id": list(range(100)), "tenant": ["acme" if n % 2 else None for n in range(100)]}
    path = tmp_path / "logs.parquet"
    pq.write_table(pa.table(rows), path, row_group_size=9)
    return path


def test_each_row_has_the_verdict_that_the_guard_gives(table, tmp_path, judge):
    out = tmp_path / "verdicts.parquet"
    told = []
    found = scan(str(table), str(out), judge, part_rows=16, scores=True, progress=lambda *own: told.append(own))
    verdicts = pq.read_table(out).to_pylist()
    rows = pq.read_table(table).to_pylist()
    assert [one["row"] for one in verdicts] == list(range(100))
    expected = judge.check_many(
        [Step(stage="input", text=row["text"]) for row in rows], [row["tenant"] for row in rows]
    )
    for one, own, row in zip(verdicts, expected, rows, strict=True):
        assert (one["action"], one["rule"], one["tenant"], one["id"]) == (
            own.action, own.rule, row["tenant"], str(row["id"])
        )  # fmt: skip
        assert json.loads(one["scores"]) == own.scores
        assert row["text"] not in one.values()
    assert (found.rows, found.resumed) == (100, 0)
    assert found.actions == {"allow": 85, "block": 15}
    assert told[-1] == (100, 100)
    assert not (tmp_path / "verdicts.parquet.parts").exists()


def test_what_was_interrupted_goes_on_with_the_next_part(table, tmp_path, judge):
    out = tmp_path / "verdicts.parquet"
    stopped = 0

    def stop(done: int, _: int) -> None:
        nonlocal stopped
        if done == 48:
            stopped += 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan(str(table), str(out), judge, part_rows=16, progress=stop)
    assert not out.exists()
    with pytest.raises(UnsupportedValueError, match="parts of another scan"):
        scan(str(table), str(out), judge, part_rows=16, stage="output")
    found = scan(str(table), str(out), judge, part_rows=16)
    assert (found.rows, found.resumed) == (100, 48)
    assert [one["row"] for one in pq.read_table(out).to_pylist()] == list(range(100))


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ({"body": ["x"]}, "no column 'text'"),
        ({"text": ["x", None]}, "row 1: 'text' is NoneType"),
        ({"text": ["x"], "stage": ["nowhere"]}, "row 0: unknown stage"),
        ({"text": pa.array([], pa.string())}, "no rows"),
    ],
)
def test_what_can_not_be_judged_is_told_by_row(tmp_path, judge, rows, says):
    pq.write_table(pa.table(rows), tmp_path / "t.parquet")
    with pytest.raises(UnsupportedValueError, match=says):
        scan(str(tmp_path / "t.parquet"), str(tmp_path / "out.parquet"), judge)
    assert not (tmp_path / "out.parquet").exists()


def test_an_unknown_tenant_ends_it(tmp_path, judge):
    pq.write_table(pa.table({"text": ["x"], "tenant": ["nobody"]}), tmp_path / "t.parquet")
    with pytest.raises(PolicyError, match="nobody"):
        scan(str(tmp_path / "t.parquet"), str(tmp_path / "out.parquet"), judge)


def test_a_file_that_is_no_table_is_refused(tmp_path, judge):
    (tmp_path / "t.parquet").write_text("no")
    for name in ("t.parquet", "none.parquet"):
        with pytest.raises(UnsupportedValueError, match="can't be read as Parquet"):
            scan(str(tmp_path / name), str(tmp_path / "out.parquet"), judge)
    with pytest.raises(UnsupportedValueError, match="unknown column 'txt'"):
        scan("t", "o", judge, columns={"txt": "text"})


def test_the_command_reads_other_columns(tmp_path, embedded, monkeypatch):
    from lec_guard import LayerDetector

    monkeypatch.setattr(LayerDetector, "load", lambda source=None: embedded)
    pq.write_table(pa.table({"prompt": ["How are you?"]}), tmp_path / "t.parquet")
    out = tmp_path / "v.parquet"
    found = run("scan", tmp_path / "t.parquet", "--out", out, "--column", "text=prompt")
    assert found.exit_code == 0
    assert "1 rows: allow 1" in found.err
    assert pq.read_table(out).num_rows == 1
    assert run("scan", tmp_path / "t.parquet", "--out", out).exit_code == 2
