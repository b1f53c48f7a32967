"""`lec_guard` hands on the names that users hold, and does nothing else."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import lec_guard


def tree() -> ast.Module:
    return ast.parse(Path(lec_guard.__file__).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", lec_guard.__all__)
def test_every_exported_name_exists_is_documented_and_is_of_this_package(name):
    member = getattr(lec_guard, name)
    module = getattr(member, "__module__", None)
    # An alias of a type, such as Stage, belongs to typing.
    assert module in ("typing", "types") or module.startswith("lec_guard.")
    assert module in ("typing", "types") or member.__doc__


def test_the_names_are_sorted_and_stand_once():
    assert lec_guard.__all__ == sorted(set(lec_guard.__all__))


def test_every_name_that_is_imported_is_exported():
    imports = [node for node in tree().body if isinstance(node, ast.ImportFrom)]
    assert sorted(alias.asname or alias.name for node in imports for alias in node.names) == lec_guard.__all__
    assert {(node.module or "").split(".")[0] for node in imports} == {"lec_guard"}


def test_the_package_only_hands_names_on():
    docstring, *rest = tree().body
    assert isinstance(docstring, ast.Expr)
    assert ast.get_docstring(tree())
    *imports, exported = rest
    assert all(isinstance(node, ast.ImportFrom) for node in imports)
    assert isinstance(exported, ast.Assign)
    assert [target.id for target in exported.targets if isinstance(target, ast.Name)] == ["__all__"]


def test_a_star_import_gives_exactly_those_names():
    names: dict[str, object] = {}
    exec("from lec_guard import *", names)
    assert sorted(set(names) - {"__builtins__"}) == lec_guard.__all__
