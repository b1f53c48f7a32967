"""Measurements that need an interpreter of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import lec_guard
from lec_guard.errors import DetectorError

_ROOT = Path(lec_guard.__file__).parent.parent
"""The first place where a child looks for modules, so that it runs the code that runs here."""


def run_child(program: str, *arguments: str) -> str:
    """Run a program in a new interpreter.

    Args:
        program: Python source.
        *arguments: What it finds in `sys.argv[1:]`.

    Returns:
        What it printed.

    Raises:
        DetectorError: If it failed; the message is the last line of its complaint.
    """
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=_ROOT,
        check=False,
    )
    if done.returncode != 0:
        complaint = done.stderr.strip().splitlines() or ["nothing was said"]
        raise DetectorError(f"a process of the measurement ended with code {done.returncode}: {complaint[-1]}")
    return done.stdout
