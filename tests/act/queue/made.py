"""Cases, and processes that use a queue."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

from lec_guard import Step, ToolRef
from lec_guard.act.base import Case, Reply
from tests.conftest import ROOT
from tests.test_step import verdict

SECRET = "the xyzzy of the plugh"

RUNNER = """
import json, sys, time
from lec_guard.act.queue import QueueError, ReviewQueue
from tests.act.queue.made import allow, case, key
print(*sys.modules, flush=True)
for line in sys.stdin:
    code, arguments = json.loads(line)
    exec(code, {**globals(), **arguments})
    print("done", flush=True)
"""


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def key(number: int = 0) -> str:
    return f"{number:032x}"


def case(number: int = 0, *, text: str = SECRET, context: str | None = "a context", **changes: object) -> Case:
    step = Step(stage="input", text=text, context=context, tool=ToolRef(name="search"))
    return Case(key=key(number), step=step, verdict=verdict(action="escalate", **changes), section="reviewer")


def allow(by: str = "ann") -> Reply:
    return Reply(answer="allow", by=by, reason="fine")


class Other:
    """Another Python, which runs code: for what processes do to each other."""

    def __init__(self) -> None:
        # The start of a Python takes a second, so several tests share one.
        self._process = subprocess.Popen(
            [sys.executable, "-c", RUNNER], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.imported = self.line().split()

    def begin(self, code: str, **arguments: object) -> None:
        """Have code run, which finds the arguments by their names."""
        self._process.stdin.write(json.dumps([textwrap.dedent(code), arguments]) + "\n")
        self._process.stdin.flush()

    def line(self) -> str:
        """What it printed next; empty if it is dead."""
        return self._process.stdout.readline().rstrip("\n")

    def end(self) -> list[str]:
        """What it printed until the code was done."""
        said = []
        while (line := self.line()) != "done":
            assert self._process.poll() is None or line, "the other process died"
            said.append(line)
        return said

    def close(self) -> None:
        """End it."""
        self._process.kill()
        with self._process:
            pass
