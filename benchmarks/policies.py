"""What policies cost: deciding, finding a tenant's policy among ten thousand, loading them, and changing one.

    python -m benchmarks.policies [--tenants N] [--out FILE]

Detectors do nothing here, so that what is left is our own code.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import tempfile
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median

from lec_guard import Guard, Scores, Step
from lec_guard.bench.machine import processor
from lec_guard.guard import heads_of
from lec_guard.policy.compile import Compiled
from lec_guard.policy.decide import decide
from lec_guard.policy.store import MOST, PolicyStore

HEADS = 8
RULES = 20
STEP = Step(stage="input", text="What is the capital of France?")


@dataclass(frozen=True)
class Figure:
    """Something that was measured.

    Attributes:
        what: What.
        figure: How much.
        unit: Of what.
        target: What it should not be above, if somebody said so.
    """

    what: str
    figure: float
    unit: str
    target: float | None = None


class Idle:
    """A detector that says the same of every text, at no cost."""

    detector_id = "idle"
    labels = {f"head-{at}": ("first", "second") for at in range(HEADS)}  # noqa: RUF012

    def __init__(self, score: float = 0.0) -> None:
        self._scores = Scores(
            by_head={head: dict.fromkeys(labels, score) for head, labels in self.labels.items()},
            detector_id=self.detector_id,
            backend="none",
        )

    def score(self, steps: Sequence[Step], *, keys: Sequence[Hashable] | None = None) -> list[Scores]:  # noqa: ARG002
        return [self._scores] * len(steps)


def policy(**more: object) -> str:
    """A policy of 20 rules: half of them read one label of a head, the others all."""
    rules = [
        {
            "name": f"rule-{at}",
            "stages": ["input", "output"],
            "head": f"head-{at % HEADS}",
            **({"labels": ["first"]} if at % 2 else {}),
            "threshold": 0.5,
            "action": "flag" if at % 4 else "block",
        }
        for at in range(RULES)
    ]
    return json.dumps({"message": "No.", "rules": rules, **more})


def per_call_us(act: Callable[[], object], *, calls: int = 1000, rounds: int = 31) -> float:
    """Microseconds of a call: of rounds of many calls, the median."""
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        for _ in range(calls):
            act()
        taken.append((time.perf_counter() - began) / calls)
    return median(taken) * 1e6


def resident_mb() -> float:
    """The memory of this process, when all garbage is gone."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def seconds(act: Callable[[], object]) -> float:
    """How long a call takes."""
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def compiled(folder: Path) -> Compiled:
    """The policy of 20 rules."""
    file = folder / "policy.yaml"
    file.write_text(policy(), encoding="utf-8")
    return PolicyStore(file, lambda _: heads_of(Idle())).get(None).live


def deciding(folder: Path) -> list[Figure]:
    """One decision: where no rule matches, as with nearly all texts, and where all do."""
    ready, figures = compiled(folder), []
    for score, name in ((0.0, "none matches"), (1.0, "all match")):
        [scores] = Idle(score).score([STEP])
        us = per_call_us(partial(decide, ready, STEP, scores))
        figures.append(Figure(f"deciding by {RULES} rules of which {name}", us, "µs", 20.0))
    return figures


def checking(folder: Path) -> list[Figure]:
    """`Guard.check` with a detector that takes no time, and what floor and candidate add."""
    figures = []
    for at, (extra, name) in enumerate((
        ({}, "alone"),
        ({"floor.yaml": policy()}, "beside a floor"),
        ({"floor.yaml": policy(), "default.yaml": policy(candidate="next"), "next.yaml": policy()},
         "beside a floor and a candidate"),
    )):  # fmt: skip
        own = folder / str(at)
        own.mkdir()
        for file, content in {"default.yaml": policy(), **extra}.items():
            (own / file).write_text(content, encoding="utf-8")
        guard = Guard(own, Idle())
        us = per_call_us(partial(guard.check, STEP), calls=200)
        figures.append(Figure(f"Guard.check by {RULES} rules, {name}", us, "µs"))
    return figures


def many(folder: Path, tenants: int) -> list[Figure]:
    """A folder with a file for each of many tenants."""
    (folder / "tenants").mkdir()
    (folder / "default.yaml").write_text(policy(), encoding="utf-8")
    names = [f"tenant-{at:05}" for at in range(tenants)]
    for at, name in enumerate(names):
        rule = {"name": "own", "stages": ["input"], "head": "head-0", "threshold": 0.4 + at / tenants / 2}
        content = {"extends": "default", "message": f"This is {name}.", "rules": [{**rule, "action": "block"}]}
        (folder / "tenants" / f"{name}.yaml").write_text(json.dumps(content), encoding="utf-8")
    before = resident_mb()
    began = time.perf_counter()
    store = PolicyStore(folder, lambda _: heads_of(Idle()))
    loaded = time.perf_counter() - began
    memory = resident_mb() - before
    first = [1000 * seconds(partial(store.get, name)) for name in names]
    used = resident_mb() - before
    warm = per_call_us(lambda: store.get(names[-1]))
    quiet = median(1000 * seconds(store.reload) for _ in range(5))
    edits = []
    for at in range(5):
        file = folder / "tenants" / f"{names[-1 - at]}.yaml"
        file.write_text(file.read_text(encoding="utf-8").replace("This is", "It is"), encoding="utf-8")
        edits.append(1000 * seconds(store.reload))
    parent = folder / "default.yaml"
    parent.write_text(policy(description="Changed.", locale="en"), encoding="utf-8")
    shared = seconds(store.reload)
    return [
        Figure(f"finding a tenant's policy that is ready, among {tenants:,}", warm, "µs", 10.0),
        Figure(f"loading a folder with {tenants:,} tenants", loaded, "s"),
        Figure("memory for that", memory, "MB"),
        Figure("a tenant's first use", median(first), "ms"),
        Figure(
            f"memory after each of {tenants:,} was used once, {min(MOST, tenants):,} of them kept ready", used, "MB"
        ),
        Figure(f"a reload where none of {tenants:,} changed", quiet, "ms"),
        Figure(f"a reload where one of {tenants:,} changed", median(edits), "ms"),
        Figure(f"a reload where what all of {tenants:,} extend changed", shared, "s"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tenants", type=int, default=10_000)
    parser.add_argument("--out", type=Path, help="where to write the figures as JSON")
    args = parser.parse_args()
    figures: list[Figure] = []
    for measure in (deciding, checking, lambda folder: many(folder, args.tenants)):
        with tempfile.TemporaryDirectory() as name:
            figures += measure(Path(name))
    for one in figures:
        target = "" if one.target is None else f"   (target: {one.target:g})"
        print(f"{one.what:80}{one.figure:12.4g} {one.unit}{target}")
    if args.out:
        report = {
            "machine": {"processor": processor(), "load_before": os.getloadavg()[0]},
            "tenants": args.tenants,
            "figures": [asdict(one) for one in figures],
        }
        args.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
