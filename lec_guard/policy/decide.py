"""Scores -> decision: a pure function of policy, step and scores; and what several policies decide together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lec_guard.errors import PolicyError
from lec_guard.policy.compile import Compiled, Reading
from lec_guard.policy.messages import Messages
from lec_guard.policy.schema import Allowed
from lec_guard.policy.tainted import TAINT
from lec_guard.policy.tainted import scores as tainted
from lec_guard.step import ACTIONS, Action, Cause, Scores, Step

UNREAD_RULE = "fail:unread"
"""What verdicts name as rule where a text holds nothing that the model can read."""

FLOOR_PREFIX = "floor:"
"""What stands before the rules of the floor; a rule's own name can't have a colon."""

_SEVERITY = {action: at for at, action in enumerate(ACTIONS)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a policy says of one step.

    Attributes:
        action: The severest action of the rules that matched; `allow` where none did.
        rule: The first rule with that action; else the allow entry that decided; else None.
        matched: All rules that matched, in order.
        heads: The heads of those rules.
        rewrites: The sections of `rewrite` of those that count, in order, each once.
        escalations: The sections of `escalations` likewise.
        cause: Why the text was not judged, where that decided.
        message: What to tell the user where the text may not pass as it is.
    """

    action: Action
    rule: str | None = None
    matched: tuple[str, ...] = ()
    heads: frozenset[str] = frozenset()
    rewrites: tuple[str, ...] = ()
    escalations: tuple[str, ...] = ()
    cause: Cause | None = None
    message: Messages | None = None


_NOTHING = Decision(action="allow")


def decide(policy: Compiled, step: Step, read: Scores | Cause, *, sealed: bool = False) -> Decision:
    """Read all rules of the step's stage; the severest one that matches wins.

    A text without anything that the model can read is blocked, whatever the rules say. One that is on the allow list
    for all rules passes, judged or not. Rules on where a text came from need no detector: they are read, too, where
    the text was not judged, and what is severer then counts.

    Args:
        policy: The policy.
        step: The step.
        read: What the detector said of it, or why it said nothing.
        sealed: Whether the text passes quarantined: rules that ask for a quarantine have what they want, and don't
            count.

    Returns:
        The decision.

    Raises:
        PolicyError: If a rule reads a head or label that the scores lack.
    """
    allowed = policy.allowed[step.stage].find(step.text)
    matched: list[Reading] = []
    cause: Cause | None = None
    if isinstance(read, str):
        cause = read
    elif read.unread is not None:
        cause = "budget" if read.over_budget else None
    else:
        by_head, windows = read.by_head, read.windows
        readings = policy.readings[step.stage].of(step.tool)
        try:
            for one in readings:
                labels = by_head[one.head] if one.head != TAINT else tainted(step, one.sources)
                score = _score(one, labels)
                if (
                    score >= one.lowest
                    and (not one.bars or score >= one.threshold(windows))
                    and (not one.tainted or _is_tainted(step, one))
                ):
                    matched.append(one)
        except (KeyError, ValueError):
            raise PolicyError(
                f"rule {one.name!r} reads head {one.head!r}, which detector {read.detector_id} did not score"
            ) from None
    is_read = isinstance(read, Scores) and read.unread is None
    if not is_read and step.taint:
        for one in policy.readings[step.stage].of(step.tool):
            if one.head == TAINT and _score(one, tainted(step, one.sources)) >= one.lowest:
                matched.append(one)
    if sealed:
        matched = [one for one in matched if not one.seals]
    if not matched and not allowed and is_read:
        return _NOTHING
    # Lists and sets, because a generator costs more than what is done in it.
    names = tuple([reading.name for reading in matched])
    heads = frozenset({TAINT if reading.tainted else reading.head for reading in matched} | {r.head for r in matched})
    whole = next((entry for entry in allowed if entry.rules is None), None)
    if whole is not None:
        return Decision(action="allow", rule=f"allow:{whole.name}", matched=names, heads=heads)
    if is_read:
        return _won(matched, allowed, names, heads)
    unjudged = _unjudged(policy, step, cause)
    if not matched:
        return unjudged
    won = _won(matched, allowed, names, heads)
    winner = won if _SEVERITY[won.action] > _SEVERITY[unjudged.action] else unjudged
    return replace(winner, matched=names + unjudged.matched, heads=heads, cause=unjudged.cause)


def _score(reading: Reading, labels: Mapping[str, float]) -> float:
    if reading.labels is None:
        return max(labels.values())
    if len(reading.labels) == 1:
        return labels[reading.labels[0]]
    return max([labels[label] for label in reading.labels])


def _is_tainted(step: Step, reading: Reading) -> bool:
    return bool(step.taint) and tainted(step, reading.sources)["third_party"] > 0.0


def _won(matched: list[Reading], allowed: Sequence[Allowed], names: tuple[str, ...], heads: frozenset[str]) -> Decision:
    counting = matched
    if allowed:
        excused = {name: entry for entry in allowed for name in entry.rules or ()}
        counting = [reading for reading in matched if reading.name not in excused]
        if not counting:
            entry = next((excused[reading.name] for reading in matched), None)
            rule = f"allow:{entry.name}" if entry else None
            return Decision(action="allow", rule=rule, matched=names, heads=heads)
    winner, highest = counting[0], -1
    rewrites: dict[str, None] = {}
    escalations: dict[str, None] = {}
    for reading in counting:
        severity = _SEVERITY[reading.action]
        if severity > highest:
            winner, highest = reading, severity
        if reading.section is not None:
            (rewrites if reading.action == "rewrite" else escalations)[reading.section] = None
    return Decision(
        action=winner.action,
        rule=winner.name,
        matched=names,
        heads=heads,
        rewrites=tuple(rewrites),
        escalations=tuple(escalations),
        message=winner.message if highest >= _SEVERITY["rewrite"] else None,
    )


def _unjudged(policy: Compiled, step: Step, cause: Cause | None) -> Decision:
    rule = UNREAD_RULE if cause is None else f"fail:{cause}"
    action: Action = "block" if cause is None else policy.fail[step.stage].action(cause)
    message = policy.policy.message if action == "block" else None
    return Decision(action=action, rule=rule, matched=(rule,), cause=cause, message=message)


def compose(live: Decision | None, floor: Decision | None) -> Decision:
    """What the tenant's policy and the floor decide together: no less than either of them alone.

    All rewrites of both apply, whoever is asked by either has to allow the text, and a block is a block.

    Args:
        live: The tenant's decision; None where its policy does not act.
        floor: The floor's, likewise.

    Returns:
        The decision, with the floor's parts named `floor:…`.
    """
    if floor is None:
        return live or _NOTHING
    if floor is not _NOTHING:
        floor = replace(
            floor,
            rule=None if floor.rule is None else FLOOR_PREFIX + floor.rule,
            matched=_prefixed(floor.matched),
            rewrites=_prefixed(floor.rewrites),
            escalations=_prefixed(floor.escalations),
        )
    if live is None or live is _NOTHING:
        return floor
    winner = floor if _SEVERITY[floor.action] > _SEVERITY[live.action] else live
    return Decision(
        action=winner.action,
        rule=winner.rule,
        matched=live.matched + floor.matched,
        heads=live.heads | floor.heads,
        rewrites=live.rewrites + floor.rewrites,
        escalations=live.escalations + floor.escalations,
        cause=winner.cause,
        message=winner.message,
    )


def _prefixed(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(FLOOR_PREFIX + name for name in names)
