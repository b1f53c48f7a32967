"""Scores -> decision: a pure function of policy, stage and scores."""

from __future__ import annotations

from dataclasses import dataclass

from lec_guard.errors import PolicyError
from lec_guard.policy.schema import Rule
from lec_guard.policy.store import Policy
from lec_guard.step import ACTIONS, Action, Scores, Stage

UNREAD_RULE = "fail:unread"
"""What verdicts name as rule where a text could not be read whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a policy says of one step.

    Attributes:
        action: The severest action of the rules that matched; `allow` where none did.
        rule: The first rule with that action, or None.
        matched: All rules that matched, in order.
        heads: The heads of those rules.
        message: What to tell the user; set on `block`.
    """

    action: Action
    rule: str | None
    matched: tuple[str, ...]
    heads: frozenset[str]
    message: str | None


def decide(policy: Policy, stage: Stage, scores: Scores) -> Decision:
    """Read all rules of a stage; the severest one that matches wins.

    A text that was not read whole is blocked, whatever the rules say.

    Args:
        policy: The tenant's policy.
        stage: The stage of the step.
        scores: What the detector said of it.

    Returns:
        The decision.

    Raises:
        PolicyError: If a rule reads a head or label that the scores lack.
    """
    if scores.unread is not None:
        return Decision(
            action="block", rule=UNREAD_RULE, matched=(UNREAD_RULE,), heads=frozenset(), message=policy.message
        )
    matched = [rule for rule in policy.rules if stage in rule.stages and _score(rule, scores) >= rule.threshold]
    if not matched:
        return Decision(action="allow", rule=None, matched=(), heads=frozenset(), message=None)
    winner = max(matched, key=lambda rule: ACTIONS.index(rule.action))
    return Decision(
        action=winner.action,
        rule=winner.name,
        matched=tuple(rule.name for rule in matched),
        heads=frozenset(rule.head for rule in matched),
        message=(winner.message or policy.message) if winner.action == "block" else None,
    )


def _score(rule: Rule, scores: Scores) -> float:
    try:
        labels = scores.by_head[rule.head]
        return max(labels[label] for label in rule.labels or labels)
    except (KeyError, ValueError):
        raise PolicyError(
            f"rule {rule.name!r} reads head {rule.head!r}, which detector {scores.detector_id} did not score"
        ) from None
