"""A record has one way to be written."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lec_guard.observe.audit.keys import ZERO, Key
from lec_guard.observe.audit.lines import Files, Head, canonical, parse, read_head, seal
from tests.observe.audit.made import KEY, OTHER

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
HEAD = Head(log="0" * 16, file=10**9, seq=10**15, events=10**15, mac="f" * 64, synced=10**15, key="k" * 16)


@settings(deadline=None)
@given(st.dictionaries(st.text(), PLAIN, min_size=1, max_size=5))
def test_any_record_is_one_line_of_json_that_is_read_back(fields):
    key = Key(KEY)
    line, mac = seal(key, ZERO, canonical(fields))
    assert line.count(b"\n") == 1
    assert line.isascii()
    assert json.loads(line)["mac"] == mac
    read = parse(line[:-1])
    assert read is not None
    assert (read.fields, read.mac) == (fields, mac)
    assert read.is_signed(key, ZERO)
    assert not read.is_signed(key, "1" * 64)
    assert not read.is_signed(Key(OTHER), ZERO)


@given(st.binary())
def test_any_bytes_are_a_line_or_none(content):
    parse(content)


def test_a_signature_in_capitals_is_no_record():
    line, mac = seal(Key(KEY), ZERO, canonical({"seq": 1}))
    assert parse(line[:-1].replace(mac.encode(), mac.upper().encode())) is None


def test_a_head_has_always_the_same_length(tmp_path):
    files = Files.of(tmp_path / "a.jsonl")
    key = Key(KEY)
    small = Head(log="0" * 16, file=1, seq=0, events=0, mac=ZERO, synced=0, key=key.id)
    assert len(HEAD.sealed(key)) == len(small.sealed(key)) == 512
    files.head.write_bytes(small.sealed(key))
    found = read_head(files.head, {key.id: key})
    assert found is not None
    assert (found.head, found.is_signed) == (small, True)
    unknown = read_head(files.head, {})
    assert unknown is not None
    assert unknown.is_signed is None


@pytest.mark.parametrize("content", [b"", b"\x00" * 512, b'{"log":1,"sig":"' + b"0" * 64 + b'"}\n', b'[],"sig":""}'])
def test_what_is_no_head_is_told(tmp_path, content):
    (tmp_path / "head").write_bytes(content)
    found = read_head(tmp_path / "head", {})
    assert found is not None
    assert found.head is None


def test_only_numbered_files_are_older_ones(tmp_path):
    files = Files.of(tmp_path / "a.jsonl")
    for name in (
        "a.jsonl.000002",
        "a.jsonl.000010",
        "a.jsonl.1000000",
        "a.jsonl.000001.gz",
        "a.jsonl.1",
        "b.jsonl.000001",
    ):
        (tmp_path / name).touch()
    assert list(files.older()) == [2, 10, 1000000]
