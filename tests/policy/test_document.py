"""YAML that is wrong, hostile or merely odd: each is a PolicyError that says where."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from lec_guard import PolicyError
from lec_guard.policy.document import Mark, read_document


def write(folder: Path, content: str | bytes) -> Path:
    file = folder / "policy.yaml"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def refused(file: Path, line: int | None, column: int | None = None) -> str:
    """The rest of the error, once it has named the file, and the place if there is one."""
    with pytest.raises(PolicyError) as caught:
        read_document(file)
    message = str(caught.value)
    assert "\n" not in message
    if line is None:
        assert message.startswith(f"{file}: ")
        return message.removeprefix(f"{file}: ")
    found = re.match(rf"{re.escape(str(file))}:(\d+):(\d+): ", message)
    assert found is not None
    assert int(found[1]) == line
    assert column is None or int(found[2]) == column
    return message[found.end() :]


def test_plain_yaml_becomes_plain_data(tmp_path):
    file = write(tmp_path, "a: 1\nb:\n  - x\n  - 0.5\nc: {d: true, e: null}\n")
    document = read_document(file)
    assert document.data == {"a": 1, "b": ["x", 0.5], "c": {"d": True, "e": None}}
    assert document.file == file


@pytest.mark.parametrize("content", ["", "\n\n", "# only a comment\n"])
def test_a_file_without_content_has_no_data(tmp_path, content):
    document = read_document(write(tmp_path, content))
    assert document.data is None
    assert document.where(("rules",)) == f"{document.file}:1:1"


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path):
    document = read_document(write(tmp_path, b"\xef\xbb\xbfa: 1\nb: 2\n"))
    assert document.data == {"a": 1, "b": 2}
    assert document.marks[("a",)] == Mark(1, 1)


def test_lines_of_windows_are_lines(tmp_path):
    document = read_document(write(tmp_path, "a: 1\r\nb:\r\n  - x\r\n"))
    assert document.data == {"a": 1, "b": ["x"]}
    assert document.marks[("b", 0)] == Mark(3, 5)
    assert "stands twice" in refused(write(tmp_path, "a: 1\r\na: 2\r\n"), 2, 1)


def test_places_of_nested_paths(tmp_path):
    content = """\
message: No.

rules:
  # a comment
  - name: first
    stages: [input,
             output]
  - name: second

    threshold:
      0.5
"""
    document = read_document(write(tmp_path, content))
    expected = {
        (): (1, 1),
        ("message",): (1, 1),
        ("rules",): (3, 1),
        ("rules", 0): (5, 5),
        ("rules", 0, "stages"): (6, 5),
        ("rules", 0, "stages", 1): (7, 14),
        ("rules", 1): (8, 5),
        ("rules", 1, "threshold"): (10, 5),
    }
    assert {path: (document.marks[path].line, document.marks[path].column) for path in expected} == expected


def test_the_place_of_what_is_missing_is_that_of_what_surrounds_it(tmp_path):
    document = read_document(write(tmp_path, "a: 1\nrules:\n  - name: x\n"))
    assert document.where(("rules", 0, "threshold")) == f"{document.file}:3:5"
    assert document.where(("rules", 7, "threshold")) == f"{document.file}:2:1"
    assert document.where(("nowhere", "at", "all")) == f"{document.file}:1:1"


def test_a_key_that_stands_twice_is_refused_and_both_lines_are_told(tmp_path):
    message = refused(write(tmp_path, "rules:\n  - name: a\n    threshold: 0.5\n    threshold: 0.9\n"), 4)
    assert "'threshold' stands twice" in message
    assert "line 3" in message


def test_the_same_key_in_two_mappings_is_no_duplicate(tmp_path):
    assert read_document(write(tmp_path, "- a: 1\n- a: 2\n")).data == [{"a": 1}, {"a": 2}]


def test_billion_laughs_are_refused_at_the_first_alias(tmp_path):
    lines = ["a: &a [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    # Nine more levels would fill the memory of a machine; these few show whether the first one is let in.
    for name, above in zip("bcd", "abc", strict=True):
        lines.append(f"{name}: &{name} [{', '.join([f'*{above}'] * 9)}]")
    assert "aliases" in refused(write(tmp_path, "\n".join(lines)), 2, 8)


def test_an_alias_as_a_key_is_refused(tmp_path):
    assert "aliases" in refused(write(tmp_path, "a: &x b\n*x : 1\n"), 2, 1)


def test_an_anchor_that_nobody_refers_to_is_harmless(tmp_path):
    assert read_document(write(tmp_path, "a: &x 1\n")).data == {"a": 1}


@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:os.system ['exit 1']",
        "!!python/object:collections.Counter {a: 1}",
        "!!python/name:os.system",
        "!!python/name:os.system ''",
        "!!set {x, y}",
        "!!binary aGVsbG8=",
        "!!bool perhaps",
        "!!timestamp never",
        "!local word",
        "! word",
    ],
)
def test_tags_are_refused(tmp_path, value):
    assert "tags" in refused(write(tmp_path, f"message: No.\nrules: {value}\n"), 2)


def test_a_tagged_key_is_refused(tmp_path):
    assert "tags" in refused(write(tmp_path, "a: 1\n!!python/name:os.system : 2\n"), 2)


@pytest.mark.parametrize("key", ["1", "0.5", "yes", "null", "2024-01-01", "[a, b]", "{a: b}"])
def test_a_key_that_is_no_word_is_refused(tmp_path, key):
    assert "must be a word" in refused(write(tmp_path, f"a: 1\n? {key}\n: 2\n"), 2, 3)


def test_merge_keys_are_refused(tmp_path):
    assert "merge" in refused(write(tmp_path, "a:\n  <<: {b: 1}\n"), 2)


@pytest.mark.parametrize(
    "value",
    ["2024-99-99", "0x_", "9" * 5000, "0x" + "F" * 900_000, "1" + ":1" * 400_000, "1." + "0" * 900_000],
    ids=["date", "hexadecimal", "huge integer", "huge hexadecimal", "huge sexagesimal", "huge float"],
)
def test_a_scalar_that_looks_like_a_value_and_is_none_is_refused(tmp_path, value):
    assert "put it in quotes" in refused(write(tmp_path, f"a: 1\nmessage: {value}\n"), 2, 10)
    assert "put it in quotes" in refused(write(tmp_path, f"a: 1\n? {value}\n: 2\n"), 2, 3)
    quoted = read_document(write(tmp_path, f"message: '{value}'\n"))
    assert quoted.data == {"message": value}


@pytest.mark.parametrize(
    "content",
    ["[" * 100_000, "[" * 100_000 + "]" * 100_000, "{a: " * 20_000, "- " * 20_000],
    ids=["open brackets", "closed brackets", "braces", "dashes"],
)
def test_nesting_without_end_is_refused_at_once(tmp_path, content):
    # PyYAML alone takes minutes over the brackets, or runs into the interpreter's recursion limit.
    assert "too deep" in refused(write(tmp_path, content), 1)


def test_the_line_of_too_deep_a_nesting_is_told(tmp_path):
    assert "too deep" in refused(write(tmp_path, "".join(" " * depth + "a:\n" for depth in range(100))), 33)


def test_a_file_over_a_mebibyte_is_refused_and_one_of_exactly_that_size_is_read(tmp_path):
    comment = b"a: 1\n#".ljust(1 << 20, b"x")
    assert read_document(write(tmp_path, comment)).data == {"a": 1}
    assert "more than 1048576 bytes" in refused(write(tmp_path, comment + b"x"), None)


@pytest.mark.parametrize(
    "content",
    ["a: [" + "a," * 520_000 + "a]", "k: v\n" * 200_000, "- {a: b, c: d}\n" * 65_000, "- x\n" * 250_000],
    ids=["list", "keys", "mappings", "items"],
)
def test_a_file_of_too_many_values_is_refused_before_all_are_read(tmp_path, content):
    unique = "".join(f"k{at}: v\n" for at in range(70_000)) if content.startswith("k") else content[: 1 << 20]
    with pytest.raises(PolicyError, match="more than 50000 keys and values"):
        read_document(write(tmp_path, unique))


@pytest.mark.parametrize(
    ("content", "line", "column"),
    [(b"message: caf\xe9\n", 1, 13), ("message: Ä\n# ö".encode() + b"\xff", 2, 4), (b"\xff\xfea\x00", 1, 1)],
    ids=["latin", "behind umlauts", "utf-16"],
)
def test_bytes_that_are_no_utf8_are_refused_with_their_place(tmp_path, content, line, column):
    assert "is no UTF-8; save the file as UTF-8" in refused(write(tmp_path, content), line, column)


def test_characters_that_yaml_forbids_are_refused_with_their_place(tmp_path):
    assert "no character U+0000" in refused(write(tmp_path, "a: 1\nmessage: a\x00b\n"), 2, 11)
    assert "no character U+001B" in refused(write(tmp_path, "# \x1b[31m\n"), 1, 3)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("a: 1\nb: [1, 2\nc: 3\n", 3),
        ("a: 1\nb: 'open\n", 3),
        ("a: 1\n\tb: 2\n", 2),
        ("a: 1\n---\nb: 2\n", 2),
        ("a: b: c\n", 1),
    ],
    ids=["bracket", "quote", "tab", "two documents", "two colons"],
)
def test_a_syntax_error_names_the_line(tmp_path, content, line):
    assert "not valid YAML" in refused(write(tmp_path, content), line)


def test_what_is_no_file_is_refused(tmp_path):
    assert refused(tmp_path / "nothing.yaml", None) == "can't be read: no such file"
    assert refused(tmp_path, None) == "can't be read: it is no file"
    (tmp_path / "broken.yaml").symlink_to(tmp_path / "nothing.yaml")
    assert refused(tmp_path / "broken.yaml", None) == "can't be read: no such file"


def test_a_named_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    assert refused(tmp_path / "pipe.yaml", None) == "can't be read: it is no file"


def test_a_file_that_vanishes_is_refused(tmp_path, monkeypatch):
    file = write(tmp_path, "a: 1\n")
    monkeypatch.setattr(Path, "is_file", lambda _: file.unlink() is None)
    assert refused(file, None) == "can't be read: No such file or directory"
