"""How long a new interpreter takes to its first verdict."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from lec_guard.bench.children import run_child
from lec_guard.bench.detectors import Detectors
from lec_guard.bench.plan import Plan
from lec_guard.bench.policies import policy_for
from lec_guard.bench.report import ColdStart
from lec_guard.bench.rounds import median_ms, ratio, take_turns, timing

IMPORTS = "import torch, transformers"
"""What is needed anyway, and what is held against the other."""

VERDICT = """
import json, sys, time
began = time.perf_counter()
from lec_guard import Guard, Step
imported = time.perf_counter()
guard = Guard.from_policies(sys.argv[2] or None, detector=sys.argv[1] or None)
loaded = time.perf_counter()
guard.check(Step(stage="input", text="How do I order a new debit card?"))
checked = time.perf_counter()
print(json.dumps({"importing": imported - began, "loading": loaded - imported, "checking": checked - loaded}))
"""
"""What a user's process does: its arguments are a bundle and a policy, or nothing for those as shipped."""


class _Stages(BaseModel):
    """Seconds, as `VERDICT` prints them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    importing: float
    loading: float
    checking: float


@dataclass(frozen=True, slots=True)
class _Run:
    """A process that ended."""

    seconds: float
    printed: str


def measure_cold_start(
    detectors: Detectors, plan: Plan, *, imports: str = IMPORTS, verdict: str = VERDICT
) -> ColdStart:
    """Start new interpreters, by turns with nothing but the imports and with all of a first verdict.

    Args:
        detectors: The detectors; the one as shipped is loaded.
        plan: The rounds.
        imports: The program that only imports.
        verdict: The program that prints the seconds of its stages.

    Returns:
        Both times, and what the second consists of.

    Raises:
        DetectorError: If a process fails.
    """
    source = "" if detectors.source is None else str(detectors.source.resolve())
    with policy_for(detectors.shipped) as policy:
        arguments = (source, "" if policy is None else str(policy))
        jobs: dict[str, Callable[[], _Run]] = {
            "imports": lambda: _run(imports),
            "verdict": lambda: _run(verdict, *arguments),
        }
        found = take_turns(jobs, plan.processes)
    bare, whole = ([run.seconds for run in found[name]] for name in jobs)
    stages = [_Stages.model_validate_json(run.printed) for run in found["verdict"]]
    return ColdStart(
        imports=timing(bare),
        verdict=timing(whole),
        ratio=ratio(whole, bare),
        import_ms=median_ms([one.importing for one in stages]),
        load_ms=median_ms([one.loading for one in stages]),
        check_ms=median_ms([one.checking for one in stages]),
    )


def _run(program: str, *arguments: str) -> _Run:
    began = time.perf_counter()
    printed = run_child(program, *arguments)
    return _Run(time.perf_counter() - began, printed)
