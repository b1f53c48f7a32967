"""What is freed goes back to the system."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from lec_guard.serve import memory

PROBE = """
import re, sys
from pathlib import Path
from lec_guard.serve.memory import give_back

def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

if sys.argv[1] == "yes":
    assert give_back()
else:
    # What glibc learns from one large block that is freed: to keep blocks of that size.
    bytearray(30 * 2**20)
held = [bytearray(8 * 2**20) for _ in range(20)]
last = bytearray(2**20)
del held
print(resident())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="another C library")
def test_freed_blocks_are_given_back():
    found = {
        way: float(
            subprocess.run([sys.executable, "-c", PROBE, way], capture_output=True, text=True, check=True).stdout
        )
        for way in ("yes", "no")
    }
    assert found["yes"] < found["no"] - 100


def test_elsewhere_nothing_happens(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not memory.give_back()
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert not memory.give_back()
