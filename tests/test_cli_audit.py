"""`lec-guard audit verify`."""

from __future__ import annotations

from pathlib import Path

import pytest

from lec_guard.observe.audit import AuditLog
from tests.observe.audit.made import KEY, ONE, OTHER, lines, write
from tests.test_cli import run


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUDIT_KEY", KEY.decode())
    monkeypatch.setenv("NEW_KEY", OTHER.decode())
    return write(tmp_path / "audit.jsonl", 5)


def test_a_log_as_it_was_written_is_ok(path):
    result = run("audit", "verify", path, "--key-env", "AUDIT_KEY")
    assert result.exit_code == 0
    assert result.out.startswith("ok: log ")
    assert "7 records (5 events) of 1 files" in result.out


def test_a_changed_log_is_not_and_the_place_is_told(path):
    path.write_bytes(path.read_bytes().replace(b'"t3"', b'"t4"'))
    result = run("audit", "verify", path, "--key-env", "AUDIT_KEY")
    assert result.exit_code == 3
    assert result.out == (
        "changed: audit.jsonl:5: record 5 is not as it was written; "
        "4 records (3 events) of 1 files were read that are as they were written\n"
    )


@pytest.mark.parametrize(("cut", "code"), [(0, 0), (1, 3)])
def test_it_can_be_read_by_machines(path, cut, code):
    path.write_bytes(b"".join(lines(path)[: 7 - cut]))
    result = run("audit", "verify", path, "--key-env", "AUDIT_KEY", "--json")
    assert result.exit_code == code
    (found,) = result.records
    assert found["ok"] is (code == 0)
    assert (found["finding"] or {}).get("kind") == (None if code == 0 else "cut")


def test_older_keys_files_and_heads_can_be_given(path, tmp_path):
    kept = tmp_path / "kept.head"
    kept.write_bytes((tmp_path / "audit.jsonl.head").read_bytes())
    log = AuditLog(path, OTHER, old_key=KEY)
    log.emit(ONE)
    log.close()
    both = ("--key-env", "NEW_KEY", "--key-env", "AUDIT_KEY")
    assert run("audit", "verify", path, *both).exit_code == 0
    assert run("audit", "verify", path, "--key-env", "NEW_KEY").exit_code == 3
    assert run("audit", "verify", path, *both, "--head", kept).exit_code == 0
    (tmp_path / "audit.jsonl.000001").unlink()
    assert run("audit", "verify", path, *both).exit_code == 3
    assert run("audit", "verify", path, "--key-env", "NEW_KEY", "--first-file", 2).exit_code == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--key-env", "LEC_GUARD_NO_SUCH_KEY"), "LEC_GUARD_NO_SUCH_KEY holds no key"),
        ((), "--key-env"),
        (("--key-env", "AUDIT_KEY", "--head", "no.head"), "no.head: there is no such file"),
    ],
)
def test_wrong_usage_is_exit_code_2(path, words, says):
    result = run("audit", "verify", path, *words)
    assert result.exit_code == 2
    assert says in result.err


def test_what_stands_in_the_file_moves_no_cursor(path):
    content = lines(path)
    path.write_bytes(b"".join([content[0].replace(b'"key":"', b'"key":"\x1b[31m\xe2\x80\xae'), *content[1:]]))
    result = run("audit", "verify", path, "--key-env", "AUDIT_KEY")
    assert result.exit_code == 3
    assert "\x1b" not in result.out
    assert "\u202e" not in result.out
