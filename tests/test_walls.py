"""Imports run one way: the contracts of pyproject.toml hold."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import ROOT


def test_no_import_crosses_a_wall():
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    if done.returncode != 0 or " 0 broken." not in done.stdout:
        pytest.fail(f"{done.stdout}\n{done.stderr}", pytrace=False)
    # Nothing that is kept would be kept by an empty list.
    assert " 0 kept," not in done.stdout
