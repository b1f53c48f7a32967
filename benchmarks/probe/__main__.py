"""What becomes of attacks on every path of applications with our guard, with LangChain's own middleware, and with none.

    python -m benchmarks.probe

Writes benchmarks/probe/results.json and the page of it.
"""

from __future__ import annotations

import importlib.metadata
import json
from typing import Any

from benchmarks.probe import targets
from benchmarks.probe.page import RESULTS, write_page
from lec_guard.testing import PATHS, PathResult, probe
from lec_guard.testing.probing import Target

RUNS: tuple[tuple[Target, bool, tuple[str, ...]], ...] = (
    (targets.middleware, True, ()),
    (targets.pipe, True, (*targets.TOOLS, *targets.SUMMARIES)),
    (targets.protected, True, (*targets.TOOLS, *targets.SUMMARIES, "document")),
    (targets.protected_agent, True, ()),
    (targets.tools, True, tuple(path for path in PATHS if path not in (*targets.TOOLS, "document"))),
    (targets.pii, False, ()),
    (targets.unguarded, False, ()),
)
"""Each target, whether it has the guard whose detector is watched, and the paths that it has not."""


def measure() -> dict[str, Any]:
    """All outcomes, as JSON has them."""
    found: dict[str, Any] = {}
    for target, is_ours, missing in RUNS:
        paths = [path for path in PATHS if path not in missing]
        results = probe(target, paths=paths, watched=targets.WATCHED if is_ours else None)
        found[target.__name__] = {
            "what": (target.__doc__ or "").strip(),
            "without": list(missing),
            "results": _compact(results),
        }
    packages = ("langchain", "langchain-core", "langgraph")
    return {
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "detector": targets.WATCHED.detector_id,
        "targets": found,
    }


def _compact(results: list[PathResult]) -> dict[str, list[dict[str, Any]]]:
    """By path, what became of it and by which methods."""
    by_path: dict[str, dict[tuple[str, str], list[str]]] = {}
    for one in results:
        by_path.setdefault(one.path, {}).setdefault((one.outcome, one.why), []).append(one.method)
    return {
        path: [{"outcome": outcome, "why": why, "methods": methods} for (outcome, why), methods in own.items()]
        for path, own in by_path.items()
    }


def main() -> None:
    report = measure()
    RESULTS.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    write_page(report)


if __name__ == "__main__":
    main()
