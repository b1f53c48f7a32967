from __future__ import annotations

import subprocess
import sys

from tests.conftest import ROOT


def test_the_quickstart_prints_a_verdict_for_every_step() -> None:
    run = subprocess.run(
        [sys.executable, "examples/quickstart.py"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr
    for request in ("a plain question", "an override attack", "a harmful request", "a poisoned tool", "an off-purpose"):
        assert request in run.stdout
    for stage in ("input", "output", "tool_input", "tool_output"):
        assert stage in run.stdout
    for head in ("injection", "indirect_injection", "safety", "reading", "ms"):
        assert head in run.stdout.splitlines()[2], "a column without its name"
    assert "GuardBlocked" in run.stdout
    assert run.stderr == ""


def test_a_real_model_can_be_named() -> None:
    run = subprocess.run(
        [sys.executable, "examples/quickstart.py", "--model", "nonsense:model"],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert run.returncode != 0
    assert "nonsense" in run.stderr
