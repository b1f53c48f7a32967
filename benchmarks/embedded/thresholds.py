"""Writes the thresholds that the fit of the embedded detector found into the packaged policy.

    python -m benchmarks.embedded.thresholds

What blocks at a stage has 1% of harmless texts together, what flags there 5%; rules of several heads share that alike.
Thresholds are rounded up to three digits. All else in the policy, comments too, stays as it is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import yaml

from benchmarks.embedded.tasks import TASKS
from lec_guard.detect.bundle import EMBEDDED
from lec_guard.policy.folder import BUILTIN

RATES = {"block": 0.01, "flag": 0.05}
"""Of harmless texts, what the rules of a stage may stop together."""
MEASURED = ("input", "output", "tool_output")
"""The stages that have thresholds of their own in a fit; other third-party text has that of tool output."""


def thresholds(policy: str, fit: Mapping[str, Any]) -> dict[str, float]:
    """The thresholds that a policy's rules are to have.

    Args:
        policy: The policy's YAML.
        fit: What `benchmarks.embedded.fit` wrote.

    Returns:
        Name of the rule -> threshold, for rules of heads that were fitted.
    """
    heads = {task.head for task in TASKS}
    rules = [rule for rule in yaml.safe_load(policy)["rules"] if rule["head"] in heads]
    found = {}
    for rule in rules:
        stage = next(stage for stage in rule["stages"] if stage in MEASURED)
        beside = {own["head"] for own in rules if stage in own["stages"] and own["action"] == rule["action"]}
        exact = fit[rule["head"]]["thresholds"][stage][str(RATES[rule["action"]] / len(beside))]
        found[rule["name"]] = math.ceil(exact * 1000) / 1000
    return found


def written(policy: str, found: Mapping[str, float]) -> str:
    """A policy with other thresholds.

    Args:
        policy: The policy's YAML, one key a line.
        found: Name of the rule -> threshold.

    Returns:
        The same with these.
    """
    lines, name = [], ""
    for line in policy.splitlines():
        key, _, value = line.strip().removeprefix("- ").partition(": ")
        name = value if key == "name" else name
        indent = line[: len(line) - len(line.lstrip())]
        lines.append(f"{indent}threshold: {found[name]:.3f}" if key == "threshold" and name in found else line)
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the policy, and tell what changed."""
    before = BUILTIN.read_text(encoding="utf-8")
    fit = json.loads((EMBEDDED / "fit.json").read_text(encoding="utf-8"))
    found = thresholds(before, fit)
    BUILTIN.write_text(written(before, found), encoding="utf-8")
    for rule in yaml.safe_load(before)["rules"]:
        if rule["name"] in found and rule["threshold"] != found[rule["name"]]:
            print(f"{rule['name']}: {rule['threshold']:.3f} -> {found[rule['name']]:.3f}")


if __name__ == "__main__":
    main()
