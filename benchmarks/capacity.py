"""What so many checks a second need, and cost: computed from what was measured on one machine.

    python -m benchmarks.capacity           # after benchmarks.serving

Reads `benchmarks/results/serving.json` and writes the tables of `docs/scale.md`.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from benchmarks.markdown import bare_table
from benchmarks.queueing import Service, simulate

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "scale.md"
MEASURED = ROOT / "benchmarks" / "results" / "serving.json"

LOADS = (1_000, 100_000, 10_000_000)
"""Checks a second."""

BUSY = 0.6
"""Of a replica's throughput, what it is given: above that the slowest answers take long."""

PRICES = {
    "2 vCPU, compute optimised (x86)": (2, 0.0893),
    "4 vCPU, compute optimised (x86)": (4, 0.1785),
    "4 vCPU, compute optimised (ARM)": (4, 0.1450),
    "4 vCPU, general purpose (x86)": (4, 0.2016),
}
"""Kind -> vCPUs and dollars an hour: examples of on-demand list prices. Put in your own."""

EVENT_BYTES = 600
"""Of a verdict in the audit log, in JSON."""


def service_of(report: dict[str, Any]) -> Service:
    """How long things took."""
    own = report["service"]
    return Service(own["http_ms"] / 1000, {int(size): ms / 1000 for size, ms in own["batch_ms"].items()})


def per_core(report: dict[str, Any]) -> float:
    """Checks a second of a core that does everything, one text in a request.

    The model was measured on one core while HTTP had another one, so what HTTP takes is added.
    """
    return 1 / (1 / float(report["closed"]["texts_per_s"]) + service_of(report).http)


def needs(report: dict[str, Any]) -> str:
    """Machines for each load, with what a simulation says of latency on them."""
    service, rows = service_of(report), []
    rate = per_core(report) * BUSY
    said = simulate(service, rate * 8, replicas=8)
    for load in LOADS:
        replicas = math.ceil(load / rate)
        memory = replicas * report["overload"]["mb"][-1] / 1024
        rows.append(
            [
                f"{load:,}",
                f"{replicas:,}",
                f"{memory:,.0f} GB",
                f"{load * EVENT_BYTES / 1e6:,.1f} MB/s",
                f"{said.p50 * 1000:.0f} / {said.p99 * 1000:.0f} ms",
            ]
        )
    head = ["checks/s", "cores, a replica on each", "memory", "audit log", "p50 / p99, simulated"]
    return bare_table(head, rows)


def costs(report: dict[str, Any]) -> str:
    """Dollars for a million checks."""
    rows = []
    for kind, (cores, dollars) in PRICES.items():
        second = per_core(report) * cores * BUSY
        rows.append([kind, f"{dollars:.4f}", f"{second:,.0f}", f"{dollars / 3600 / second * 1e6:.2f}"])
    return bare_table(["machine", "$/h", f"checks/s at {BUSY:.0%}", "$ for a million"], rows)


def curve(report: dict[str, Any]) -> str:
    """Latency on one server, measured and simulated."""
    rows = [
        [
            f"{one['rate']:.0f}",
            f"{one['p50_ms']:.0f} / {one['p99_ms']:.0f}",
            f"{one['simulated_p50_ms']:.0f} / {one['simulated_p99_ms']:.0f}",
        ]
        for one in report["curve"]
    ]
    return bare_table(["checks/s", "measured p50 / p99 ms", "simulated"], rows)


def page(text: str, report: dict[str, Any]) -> str:
    """The page with its tables computed anew.

    Args:
        text: The page; each table stands between `<!-- name -->` and `<!-- end -->`.
        report: What was measured.

    Returns:
        The page.
    """
    memory = report["overload"]["mb"]
    figures = (
        f"- {per_core(report):.0f} checks a second on a core, through HTTP, one text of 8 to 128 tokens in a request; "
        f"{report['closed_16']['texts_per_s']:.0f} with 16 in a request.\n"
        f"- {memory[0]:,.0f} MB a replica, {memory[-1]:,.0f} MB after an overload.\n"
        f"- HTTP, JSON and the policy take {report['service']['http_ms']:.1f} ms of a core, "
        f"the model {report['service']['batch_ms']['1']:.0f} ms for one text."
    )
    for name, own in (
        ("figures", figures),
        ("needs", needs(report)),
        ("costs", costs(report)),
        ("curve", curve(report)),
    ):
        text, count = re.subn(rf"(<!-- {name} -->\n).*?(\n<!-- end -->)", rf"\1\n{own}\n\2", text, flags=re.DOTALL)
        if count != 1:
            raise ValueError(f"{PAGE.name} has {count} places for {name}")
    return text


def main() -> None:
    """Write the page."""
    report = json.loads(MEASURED.read_text(encoding="utf-8"))
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), report), encoding="utf-8")


if __name__ == "__main__":
    main()
