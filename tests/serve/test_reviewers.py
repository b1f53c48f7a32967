"""Who may review."""

from __future__ import annotations

import hashlib
import json

import pytest

from lec_guard.errors import UnsupportedValueError
from lec_guard.serve.reviewers import Reviewer, Reviewers, new_key


def entry(key: str = "k", **others: object) -> dict:
    return {"name": "ada", "key_sha256": hashlib.sha256(key.encode()).hexdigest(), "tenants": ["acme", None], **others}


def written(tmp_path, content: object, name: str = "keys.yaml"):
    file = tmp_path / name
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return file


@pytest.mark.parametrize("name", ["keys.yaml", "keys.json"])
def test_a_key_is_its_reviewers(tmp_path, name):
    found = Reviewers.read(written(tmp_path, {"reviewers": [entry(), entry("other", name="bo", tenants="all")]}, name))
    assert found.of("k") == Reviewer(name="ada", tenants=("acme", None), may_try=False)
    assert found.of("other") == Reviewer(name="bo", tenants=None, may_try=False)
    assert not found.any_may_try
    for wrong in ("", "K", "k ", entry()["key_sha256"], "\udcff", "k" * 600):
        assert found.of(wrong) is None


def test_tenants_bound_what_is_seen():
    own = Reviewer(name="a", tenants=("acme", None), may_try=True)
    assert [own.sees(tenant) for tenant in ("acme", None, "globex", "")] == [True, True, False, False]
    nobody, everybody = (Reviewer(name="a", tenants=tenants, may_try=True) for tenants in ((), None))
    assert not nobody.sees(None)
    assert everybody.sees("globex")
    assert everybody.sees(None)


def test_a_new_key_goes_into_the_file_as_it_is_printed(tmp_path):
    made = new_key('Zoë "z": #1')
    found = Reviewers.read(written(tmp_path, f"reviewers:\n{made.entry}\n"))
    assert found.of(made.key) == Reviewer(name='Zoë "z": #1', tenants=None, may_try=True)
    assert made.key not in made.entry
    assert made.key not in repr(made)
    assert new_key("a").key != new_key("a").key
    assert len(made.key) > 40


@pytest.mark.parametrize("name", ["", "a\nb", "\x1b[31m", "x" * 81])
def test_names_that_are_none(name):
    with pytest.raises(UnsupportedValueError, match="name"):
        new_key(name)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"reviewers": [entry(), entry("other")]}, "two reviewers are named 'ada'"),
        ({"reviewers": [entry(), entry(name="bo")]}, "'bo' has the key of somebody else"),
        ({"reviewers": [entry(key_sha256="k")]}, "reviewers.0.key_sha256"),
        ({"reviewers": [entry(tenants="acme")]}, "reviewers.0.tenants"),
        ({"reviewers": [entry(may_tri=True)]}, "reviewers.0.may_tri"),
        ({"reviewers": [entry(may_try="yes")]}, "reviewers.0.may_try"),
        ({"reviewers": []}, "reviewers"),
        ([], "the file"),
        ("reviewers: [\n", "keys.yaml:2: no YAML"),
        ("!!python/object/apply:os.system [echo]", "no YAML"),
    ],
)
def test_a_wrong_file_is_told_and_nothing_of_it_is_shown(tmp_path, content, says):
    with pytest.raises(UnsupportedValueError) as told:
        Reviewers.read(written(tmp_path, content))
    assert says in str(told.value)
    assert entry()["key_sha256"] not in str(told.value)
    assert told.value.__cause__ is None


def test_no_file_and_a_long_one(tmp_path):
    with pytest.raises(UnsupportedValueError, match=r"none\.yaml: No such file"):
        Reviewers.read(tmp_path / "none.yaml")
    with pytest.raises(UnsupportedValueError, match="more than"):
        Reviewers.read(written(tmp_path, "#" * 1_000_001))
