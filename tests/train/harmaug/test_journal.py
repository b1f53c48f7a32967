"""What every call gave: kept, repaired at its end, and never mixed up with another run's."""

from __future__ import annotations

import json

import pytest

from lec_guard.errors import UnsupportedValueError
from lec_guard.train.harmaug.journal import Journal

SETTINGS = {"seed": 1, "generator.model": "x", "shown": [1, 2]}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "out" / "journal.jsonl"


def filled(path, *keys):
    journal = Journal(path, SETTINGS)
    for key in keys:
        journal.add(key, {"text": f"of {key}"})
    journal.close()
    return path.read_bytes()


def known(path):
    journal = Journal(path, SETTINGS)
    try:
        return [key for key in ("a", "b", "c") if journal.get(key) == {"text": f"of {key}"}]
    finally:
        journal.close()


def test_what_was_noted_is_there_again_and_for_its_owner_alone(path):
    filled(path, "a", "b")
    assert known(path) == ["a", "b"]
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o077 == 0


def test_it_is_on_the_disk_before_anything_else_happens(path):
    journal = Journal(path, SETTINGS)
    journal.add("a", {"text": "of a"})
    assert json.loads(path.read_bytes().splitlines()[-1]) == {"key": "a", "text": "of a"}
    journal.close()


def test_half_a_surrogate_pair_is_kept(path):
    journal = Journal(path, SETTINGS)
    journal.add("a", {"text": "\ud83d and caf\u00e9"})
    journal.close()
    again = Journal(path, SETTINGS)
    assert again.get("a") == {"text": "\ud83d and caf\u00e9"}
    again.close()


@pytest.mark.parametrize("cut", range(1, 30))
def test_a_last_line_that_was_not_written_whole_is_taken_off(path, cut):
    whole = filled(path, "a", "b")
    path.write_bytes(whole[:-cut])
    assert known(path) == ["a"]
    assert filled(path, "c").endswith(b"\n")
    assert known(path)[-1] == "c"


def test_a_last_line_of_zeros_is_taken_off_too(path):
    whole = filled(path, "a")
    path.write_bytes(whole + b"\0" * 20 + b"\n")
    assert known(path) == ["a"]
    assert path.read_bytes() == whole


def test_a_first_line_that_was_not_written_whole_is_a_new_journal(path):
    path.parent.mkdir()
    path.write_bytes(b'{"settings": {"se')
    assert filled(path, "a") == filled(path)
    assert known(path) == ["a"]


def test_a_line_in_the_middle_that_is_none_is_told_and_nothing_is_changed(path):
    first, _, third = filled(path, "a", "b").splitlines(keepends=True)
    path.write_bytes(first + b"hm\n" + third)
    with pytest.raises(UnsupportedValueError, match=r"journal.jsonl:2: not a line of a journal"):
        Journal(path, SETTINGS)
    assert path.read_bytes() == first + b"hm\n" + third


def test_other_settings_are_named_and_nothing_is_changed(path):
    before = filled(path, "a")
    with pytest.raises(UnsupportedValueError, match=r"other settings \(seed, shown\)"):
        Journal(path, {**SETTINGS, "seed": 2, "shown": [1]})
    assert path.read_bytes() == before


def test_another_file_is_no_journal(path):
    path.parent.mkdir()
    path.write_text('{"text": "a"}\n{"text": "b"}\n')
    with pytest.raises(UnsupportedValueError, match="not the journal of a run"):
        Journal(path, SETTINGS)


def test_two_runs_do_not_write_to_one(path):
    journal = Journal(path, SETTINGS)
    with pytest.raises(UnsupportedValueError, match="another run writes to it"):
        Journal(path, SETTINGS)
    journal.close()
    Journal(path, SETTINGS).close()


def test_a_place_that_cant_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UnsupportedValueError, match="can't be written"):
        Journal(tmp_path / "file" / "journal.jsonl", SETTINGS)
