"""What would change if one policy took the place of another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from lec_guard.errors import PolicyError
from lec_guard.policy.decide import FLOOR_PREFIX
from lec_guard.policy.guidance import ORIGINS, Space, bounded
from lec_guard.policy.store import InForce, acting_guidance
from lec_guard.step import ACTIONS, STAGES, Action, Judgement, Stage, Trust, Verdict


@dataclass(frozen=True, slots=True)
class Judged:
    """A text that both policies have judged.

    Attributes:
        id: What its line is called, or which line it is.
        text: The text.
        verdict: What was said of it by policies as `pair` gives them.
    """

    id: str
    text: str
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """Texts that go from one action to another; to the same one where nothing changes.

    Attributes:
        stage: Where they pass.
        live: What follows now.
        candidate: What would follow.
        texts: How many there are.
    """

    stage: Stage
    live: Action
    candidate: Action
    texts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleChange:
    """What a rule matches.

    Attributes:
        rule: The rule, an allow entry (`allow:NAME`) or a fail mode (`fail:CAUSE`).
        live: Texts that it matches now.
        candidate: Texts that it would match.
        gained: Texts that it would match and does not now.
        lost: Texts that it matches now and would not.
    """

    rule: str
    live: int
    candidate: int
    gained: int
    lost: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A text for which something would change.

    Attributes:
        id: What its line is called, or which line it is.
        stage: Where it passes.
        live: What follows now.
        live_rule: The rule that decides it.
        candidate: What would follow.
        candidate_rule: The rule that would decide it.
        text: The text.
    """

    id: str
    stage: Stage
    live: Action
    live_rule: str | None
    candidate: Action
    candidate_rule: str | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GuidanceChange:
    """Another guidance of a local model's answers; None for what nobody says.

    Attributes:
        origin: Who wrote the least trusted text of the conversation.
        live: The coefficient now.
        live_space: What is weighed now.
        candidate: The coefficient then.
        candidate_space: What would be weighed.
    """

    origin: Trust
    live: float | None
    live_space: Space | None
    candidate: float | None
    candidate_space: Space | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Diff:
    """What would change.

    Attributes:
        texts: How many were judged.
        changed: For how many of them another action would follow.
        moves: From which action to which, by stage.
        rules: What each rule matches, now and then.
        examples: Texts for which something would change, as many of each move as were asked for.
        guidance: Origins for which answers would be guided otherwise.
    """

    texts: int
    changed: int
    moves: tuple[Move, ...]
    rules: tuple[RuleChange, ...]
    examples: tuple[Example, ...]
    guidance: tuple[GuidanceChange, ...] = ()


def pair(live: InForce, candidate: InForce) -> InForce:
    """Two policies that are judged on the same scores, under one floor.

    Args:
        live: The one that is in force.
        candidate: The one that would take its place.

    Returns:
        Both.

    Raises:
        PolicyError: If they read different detectors.
    """
    one, other = live.live, candidate.live
    if one.policy.detector != other.policy.detector:
        raise PolicyError(
            f"{other.policy.where('detector')}: {other.policy.name!r} reads {other.detector_id}, and "
            f"{one.policy.name!r} reads {one.detector_id}: policies are compared on the same scores"
        )
    return replace(live, candidate=other)


@dataclass(slots=True)
class _Tally:
    most: int
    texts: int = 0
    moves: Counter[tuple[Stage, Action, Action]] = field(default_factory=Counter)
    rules: dict[str, Counter[Literal["live", "candidate", "gained", "lost"]]] = field(default_factory=dict)
    examples: list[Example] = field(default_factory=list)

    def add(self, judged: Judged) -> None:
        said = {one.role: one for one in judged.verdict.judgements}
        live, candidate, floor = said["live"], said["candidate"], said.get("floor")
        stage, now, then = judged.verdict.stage, _with_floor(live, floor), _with_floor(candidate, floor)
        key = (stage, now.action, then.action)
        self.texts += 1
        self.moves[key] += 1
        before, after = _names(live), _names(candidate)
        for rule in before | after:
            counts = self.rules.setdefault(rule, Counter())
            counts["live"] += rule in before
            counts["candidate"] += rule in after
            counts["gained"] += rule not in before
            counts["lost"] += rule not in after
        if now.action != then.action and self.moves[key] <= self.most:
            self.examples.append(
                Example(
                    id=judged.id,
                    stage=stage,
                    live=now.action,
                    live_rule=now.rule,
                    candidate=then.action,
                    candidate_rule=then.rule,
                    text=judged.text,
                )
            )


def compare(judged: Iterable[Judged], examples: int = 0, policies: InForce | None = None) -> Diff:
    """Count what would change.

    What either policy says counts whether or not it acts, and where the floor says something severer, that counts.

    Args:
        judged: Texts, with verdicts of policies as `pair` gives them; read one by one, and not kept.
        examples: How many texts of each move to keep.
        policies: The policies as `pair` gives them, to compare what they say of guidance too.

    Returns:
        The changes.
    """
    tally = _Tally(examples)
    for one in judged:
        tally.add(one)
    moves = [
        Move(stage=stage, live=live, candidate=candidate, texts=texts)
        for (stage, live, candidate), texts in tally.moves.items()
    ]
    moves.sort(key=lambda one: (STAGES.index(one.stage), ACTIONS.index(one.live), ACTIONS.index(one.candidate)))
    return Diff(
        texts=tally.texts,
        changed=sum(one.texts for one in moves if one.live != one.candidate),
        moves=tuple(moves),
        rules=tuple(
            RuleChange(
                rule=rule,
                live=counts["live"],
                candidate=counts["candidate"],
                gained=counts["gained"],
                lost=counts["lost"],
            )
            for rule, counts in sorted(tally.rules.items())
        ),
        examples=tuple(tally.examples),
        guidance=() if policies is None else tuple(_guidance(policies)),
    )


def _guidance(policies: InForce) -> Iterator[GuidanceChange]:
    floor = acting_guidance(policies.floor)
    other = None if policies.candidate is None else policies.candidate.policy.guidance
    for origin in ORIGINS:
        now = bounded(policies.live.policy.guidance, floor, origin)
        then = bounded(other, floor, origin)
        if now != then:
            yield GuidanceChange(
                origin=origin,
                live=None if now is None else now.coefficient,
                live_space=None if now is None else now.space,
                candidate=None if then is None else then.coefficient,
                candidate_space=None if then is None else then.space,
            )


def _names(said: Judgement) -> set[str]:
    """The rules that matched, and the allow entry that decided."""
    return {*said.matched, *([said.rule] if said.rule else [])}


def _with_floor(said: Judgement, floor: Judgement | None) -> Judgement:
    """What follows of a judgement, were it the one that acts."""
    if floor is None or not floor.counts or ACTIONS.index(floor.action) <= ACTIONS.index(said.action):
        return said
    return replace(floor, rule=f"{FLOOR_PREFIX}{floor.rule}")
