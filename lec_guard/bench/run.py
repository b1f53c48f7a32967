"""One run of all that is asked for, part by part."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from lec_guard.bench.detectors import Detectors
from lec_guard.bench.machine import describe, measure_peak
from lec_guard.bench.plan import Part, Plan
from lec_guard.bench.report import Report
from lec_guard.errors import LecGuardError


def run(
    detectors: Detectors, plan: Plan, *, command: str = "", tell: Callable[[str], object] = lambda _: None
) -> Report:
    """Measure what a plan says; a part that fails costs no other one.

    Args:
        detectors: The detectors.
        plan: What to measure.
        command: What was typed, for the report.
        tell: Is told of each part that begins.

    Returns:
        The report.

    Raises:
        LecGuardError: If the detector can't be loaded as shipped.
    """
    machine = describe()
    detectors.info()  # What can't be loaded at all is told before anything is measured.
    sections: dict[str, Any] = {}
    for part in plan.parts:
        tell(part)
        try:
            sections |= _measure(part, detectors, plan)
        except LecGuardError as error:
            detectors.skip(part, "everything", str(error), failed=True)
    return Report(
        command=command,
        date=datetime.now(UTC).date().isoformat(),
        detector=detectors.info(),
        machine=machine,
        skipped=tuple(detectors.skipped),
        **sections,
    )


def _measure(part: Part, detectors: Detectors, plan: Plan) -> dict[str, Any]:
    """One section of the report, by the name that it has there."""
    # Each is imported where it is asked for: what a part needs is no burden to another one.
    match part:
        case "machine":
            return {"peak": measure_peak(detectors, plan)}
        case "latency":
            from lec_guard.bench.latency import measure_latency

            return {"latency": measure_latency(detectors, plan)}
        case "throughput":
            from lec_guard.bench.throughput import measure_throughput

            return {"throughput": measure_throughput(detectors, plan)}
        case "costs":
            from lec_guard.bench.costs import measure_costs

            return {"costs": measure_costs(detectors, plan)}
        case "overhead":
            from lec_guard.bench.overhead import measure_overhead

            return {"overhead": measure_overhead(detectors, plan)}
        case "cold-start":
            from lec_guard.bench.cold_start import measure_cold_start

            return {"cold_start": measure_cold_start(detectors, plan)}
        case "memory":
            from lec_guard.bench.memory import measure_memory

            return {"memory": measure_memory(detectors, plan)}
        case "others":
            from lec_guard.bench.others import measure_others

            return {"others": measure_others(detectors, plan)}
