"""Keys of the API: a file that says who may ask, and what happens when it changes."""

from __future__ import annotations

import os
import re

import pytest

from lec_guard.errors import UnsupportedValueError
from lec_guard.serve.api import keys as module
from lec_guard.serve.api.keys import ApiKeys, new_api_key
from lec_guard.serve.key_files import hash_of
from tests.serve.api.made import KEYS
from tests.test_cli import run


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "keys.yaml"
    path.write_text(KEYS, encoding="utf-8")
    return path


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(module, "_LOOK_EVERY_S", 0.0)


def test_a_new_key_goes_into_the_file(tmp_path):
    made = new_api_key("shop")
    path = tmp_path / "keys.yaml"
    path.write_text(f"keys:\n{made.entry}\n", encoding="utf-8")
    found = ApiKeys.read(path).of(made.key)
    assert (found.name, found.tenants, found.scores) == ("shop", None, False)
    assert made.key not in repr(made)
    printed = run("serve", "--new-api-key", "shop")
    assert printed.exit_code == 0
    assert re.search(r"lgk_\S+", printed.err)[0] not in printed.out


def test_a_file_that_changes_is_read_anew(file, at_once):
    keys = ApiKeys.read(file)
    assert keys.of("lgk_new") is None
    file.write_text(KEYS + f"  - {{name: new, key_sha256: {hash_of('lgk_new')}, tenants: all}}\n", encoding="utf-8")
    os.utime(file, (1, 1))
    assert keys.of("lgk_new").name == "new"


def test_a_file_that_becomes_wrong_leaves_in_force_what_was(file, at_once, caplog):
    keys = ApiKeys.read(file)
    file.write_text("keys: [", encoding="utf-8")
    assert keys.of("lgk_all").name == "all"
    assert "the keys stay as they were" in caplog.text
    file.unlink()
    assert keys.of("lgk_all").name == "all"


def test_a_key_ends(file):
    keys = ApiKeys.read(file)
    assert keys.of("lgk_old") is None


def entry(name, digit):
    return f"{{name: {name}, key_sha256: '{digit * 64}', tenants: all}}"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("keys: []", "keys"),
        ("keys: [{name: a, key_sha256: lgk_oops, tenants: all}]", "keys.0.key_sha256"),
        (f"keys: [{{name: a, key_sha256: '{'0' * 64}', tenants: []}}]", "tenants"),
        (f"keys: [{{name: a, key_sha256: '{'0' * 64}', tenants: all, until: 2027-01-01T00:00:00}}]", "until"),
        (f"keys: [{{name: a, key_sha256: '{'0' * 64}', tenants: all, rate_per_s: .nan}}]", "rate_per_s"),
        (f"keys: [{{name: a, key_sha256: '{'0' * 64}', tenants: all, score: true}}]", "score"),
        (f"keys: [{entry('a', '0')}, {entry('b', '0')}]", "stands there already"),
        (f"keys: [{entry('a', '0')}, {entry('a', '1')}]", "two keys are named"),
    ],
)
def test_a_wrong_file_says_where_and_quotes_no_key(file, text, says):
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UnsupportedValueError, match=re.escape(says)) as caught:
        ApiKeys.read(file)
    assert "lgk_oops" not in str(caught.value)
