"""How many harmless steps the rules of a stage stop together, and how many conversations that hits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lec_guard.policy.compile import STOPPING, Compiled, Threshold
from lec_guard.policy.store import InForce
from lec_guard.step import STAGES, Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A share of harmless steps.

    Attributes:
        mean: Over all of the texts that it was measured on.
        worst: In the family that has most of them.
        texts: How many texts that were, of all lengths.
        families: Of how many families, at the length with most of them.
    """

    mean: float
    worst: float
    texts: int
    families: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """Harmless steps of a stage that all its rules stop together, those of the floor among them.

    Heads may agree on a text, so a sum over them is an upper bound.

    Attributes:
        stage: The stage.
        tool: The pattern of the tools that it holds for; None for all others.
        mean: The share of them, at most.
        worst: The same, if each head met its worst family.
        unknown: Rules of which nobody knows what they stop; they are not counted.
    """

    stage: Stage
    tool: str | None
    mean: float
    worst: float
    unknown: tuple[str, ...]

    def of(self, steps: int) -> float:
        """The share of harmless conversations of so many such steps in which one is stopped, if each stands alone."""
        return 1 - (1 - min(self.mean, 1.0)) ** steps


def rate_of(threshold: Threshold) -> Rate | None:
    """What is known of a threshold.

    Args:
        threshold: The threshold.

    Returns:
        The rate over all lengths; None where it was not measured at one of them.
    """
    if threshold.rate >= 1.0:
        return None
    return Rate(
        mean=threshold.rate,
        worst=max(bar.worst for bar in threshold.bars),
        texts=threshold.texts,
        families=max(bar.families for bar in threshold.bars),
    )


def stopped(policies: InForce) -> tuple[Stopped, ...]:
    """How many harmless steps are stopped at each stage at which something can be.

    Args:
        policies: What steps are judged by.

    Returns:
        A row for each stage, and for each pattern of tools that has rules of its own there.
    """
    both = [one for one in (policies.live, policies.floor) if one is not None]
    rows: list[Stopped] = []
    for stage in STAGES:
        for tool in dict.fromkeys(one.tool for policy in both for one in policy.thresholds if one.stage == stage):
            found = [(policy, one) for policy in both for one in _stopping(policy, stage, tool)]
            if found:
                rows.append(_row(stage, tool, found))
    return tuple(rows)


def _stopping(policy: Compiled, stage: Stage, tool: str | None) -> list[Threshold]:
    """The thresholds that hold for a tool; of a policy that knows no such tools, those for all."""
    here = [one for one in policy.thresholds if one.stage == stage]
    held = [one for one in here if one.tool == tool] or [one for one in here if one.tool is None]
    return [one for one in held if one.action in STOPPING]


def _row(stage: Stage, tool: str | None, found: Sequence[tuple[Compiled, Threshold]]) -> Stopped:
    means: dict[tuple[str, str], float] = {}
    worsts: dict[tuple[str, str], float] = {}
    unknown: list[str] = []
    for policy, one in found:
        rate, head = rate_of(one), (policy.detector_id, one.head)
        if rate is None:
            unknown.append(one.rule)
        else:
            means[head] = max(means.get(head, 0.0), rate.mean)
            worsts[head] = max(worsts.get(head, 0.0), rate.worst)
    return Stopped(
        stage=stage,
        tool=tool,
        mean=sum(means.values()),
        worst=sum(worsts.values()),
        unknown=tuple(dict.fromkeys(unknown)),
    )
