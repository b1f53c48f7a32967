"""A policy made ready for a detector: every head is there, every budget is a threshold, every pattern is compiled."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from lec_guard.errors import PolicyError
from lec_guard.policy.allow import AllowList, allow_lists
from lec_guard.policy.budget import Bar, Quantiles, TooFew, at_length, bars, bounded, fixed, realised, too_few
from lec_guard.policy.messages import Messages, in_order
from lec_guard.policy.resolve import Policy
from lec_guard.policy.schema import TOOL_STAGES, Fail, Quarantine, RedactPii, Rule, nearest
from lec_guard.policy.tainted import LABELS, TAINT
from lec_guard.policy.tools import TooMany, compiled, ways
from lec_guard.step import STAGES, Action, Stage, ToolRef

STOPPING: tuple[Action, ...] = ("rewrite", "escalate", "block")
"""Actions after which a text does not pass as it is: what a budget counts."""

_ENTITY = re.compile(r"[A-Z][A-Z0-9_]*")

_BLOCK = Fail()


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """What a policy has to know of a detector.

    Attributes:
        detector_id: Which one.
        labels: Head -> the labels that it can raise.
        benign: Head -> how high harmless texts score, where that is known.
        window: Tokens of its widest window; None where it does not say.
    """

    detector_id: str
    labels: Mapping[str, tuple[str, ...]]
    benign: Mapping[str, Sequence[Quantiles]] = field(default_factory=dict)
    window: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """Where a rule matches at a stage, and why there.

    Attributes:
        rule: The rule.
        stage: The stage.
        tools: The patterns that fit the tools that it holds for; none for all other steps. For each such set all rules
            in force are listed, because they share one budget.
        action: What follows.
        head: The head that is read.
        bars: One for each length that is told apart, the shortest first.
        rate: The share of harmless steps of all lengths that reaches them, at most; 1 where nothing is known.
        texts: How many harmless texts that was measured on.
        budget: The rate that the rules of the stage share; None where the rule has a threshold of its own.
        share: This head's part of it.
        own: Whether the tenant's own traffic decided, within bounds.
    """

    rule: str
    stage: Stage
    tools: tuple[str, ...]
    action: Action
    head: str
    bars: tuple[Bar, ...]
    rate: float
    texts: int
    budget: float | None = None
    share: float | None = None
    own: bool = False

    @property
    def tool(self) -> str | None:
        """The patterns as one word for people; None for all other steps."""
        return " and ".join(self.tools) or None


@dataclass(frozen=True, slots=True)
class Reading:
    """A rule as one stage reads it.

    Attributes:
        name: The rule's.
        head: The head that it reads.
        labels: The labels that count; None for all.
        lowest: No score below it matches, of whatever length.
        bars: Thresholds by length; empty where `lowest` holds for all.
        action: What follows.
        section: The section of `rewrite` or `escalations`.
        seals: Whether that section is a quarantine.
        message: What to tell the user.
        tainted: Whether only texts match that came from third parties in part.
        sources: Patterns of the tools whose results count for that; none for all.
    """

    name: str
    head: str
    labels: tuple[str, ...] | None
    lowest: float
    bars: tuple[Bar, ...]
    action: Action
    section: str | None
    seals: bool
    message: Messages
    tainted: bool = False
    sources: tuple[re.Pattern[str], ...] = ()

    def threshold(self, windows: int) -> float:
        """From which score on the rule matches a text of so many windows."""
        return at_length(self.bars, windows).threshold if self.bars else self.lowest


@dataclass(frozen=True, slots=True)
class Readings:
    """The rules in force at a stage.

    Attributes:
        usual: In order, for steps of no tool, or of one that no pattern fits.
        patterns: Pattern of tools' names -> the same, ready to match.
        special: Patterns that fit a tool -> the rules in force for it.
    """

    usual: tuple[Reading, ...]
    patterns: Mapping[str, re.Pattern[str]]
    special: Mapping[frozenset[str], tuple[Reading, ...]]

    def of(self, tool: ToolRef | None) -> tuple[Reading, ...]:
        """The rules in force for a step of a tool, in order."""
        if tool is None or not self.patterns:
            return self.usual
        return self.special[frozenset(glob for glob, pattern in self.patterns.items() if pattern.match(tool.name))]


@dataclass(frozen=True, slots=True)
class Compiled:
    """A policy that is ready to decide. Immutable, and safe to share between threads.

    Attributes:
        policy: What it was made of.
        detector_id: The detector whose scores it reads.
        readings: Stage -> the rules in force there.
        allowed: Stage -> texts for which rules don't count.
        fail: Stage -> what follows where a text was not judged.
        thresholds: Where each rule matches, for people to read.
        traces: Whether any of its rules asks where a text came from.
    """

    policy: Policy
    detector_id: str
    readings: Mapping[Stage, Readings]
    allowed: Mapping[Stage, AllowList]
    fail: Mapping[Stage, Fail]
    thresholds: tuple[Threshold, ...]
    traces: bool = False


def compile_policy(policy: Policy, heads: Heads) -> Compiled:
    """Make a policy ready for a detector.

    Args:
        policy: The policy.
        heads: What the detector gives.

    Returns:
        The policy, ready to decide.

    Raises:
        PolicyError: If it reads what the detector does not give, a budget can't be held, or a pattern is wrong.
    """
    if TAINT in heads.labels:
        raise PolicyError(
            f"{policy.file}: the detector {heads.detector_id} has a head {TAINT!r}, and that name is the guard's own"
        )
    heads = replace(heads, labels={**heads.labels, TAINT: LABELS})
    mistakes = list(_missing(policy, heads))
    if mistakes:
        raise PolicyError("\n".join(mistakes))
    hold_back = policy.hold_back
    if isinstance(hold_back, int) and heads.window is not None and hold_back < heads.window:
        raise PolicyError(
            f"{policy.where('hold_back')}: the detector reads {heads.window} tokens at once; hold back as many, or all"
        )
    if policy.calibration is not None and policy.calibration.detector_id != heads.detector_id:
        raise PolicyError(
            f"{policy.where('calibration')}: was made with {policy.calibration.detector_id}, but the detector is "
            f"{heads.detector_id}; run lec-guard policy calibrate again"
        )
    stages = {stage: _Stage(policy, heads, stage) for stage in STAGES}
    return Compiled(
        policy=policy,
        detector_id=heads.detector_id,
        readings={stage: one.readings for stage, one in stages.items()},
        allowed=allow_lists(policy),
        fail={stage: policy.fail.get(stage, _BLOCK) for stage in STAGES},
        thresholds=tuple(threshold for one in stages.values() for threshold in one.thresholds),
        traces=any(rule.traces for rule in policy.rules),
    )


def finds_entities(labels: Sequence[str]) -> bool:
    """Whether a head finds things in a text, and does not score the whole of it.

    Args:
        labels: The labels that it can raise.

    Returns:
        Whether all of them are written as entity types are: `EMAIL_ADDRESS`.
    """
    return bool(labels) and all(_ENTITY.fullmatch(label) for label in labels)


def _missing(policy: Policy, heads: Heads) -> Iterator[str]:
    """What rules read and the detector does not give."""
    for rule in policy.rules:
        where = f"{policy.where(f'rules.{rule.name}')}: rule {rule.name!r}"
        if rule.head not in heads.labels:
            yield f"{where}: the detector has no head {rule.head!r}{nearest(rule.head, list(heads.labels))}"
            continue
        labels = heads.labels[rule.head]
        if rule.head == TAINT and any(one.max_fpr is not None for one in rule.variants()):
            yield f"{where}: nobody knows how many harmless steps head {TAINT!r} stops; give a threshold"
        for one in rule.variants():
            for label in one.labels or ():
                if label not in labels:
                    yield f"{where}: head {rule.head!r} has no label {label!r}{nearest(label, labels)}"
            way = policy.rewrite.get(one.rewrite or "")
            if isinstance(way, RedactPii):
                if not finds_entities(labels):
                    yield f"{where}: redact_pii takes out what a head finds, and head {rule.head!r} finds no entities"
                    continue
                for entity in way.entities or ():
                    if entity not in labels:
                        yield f"{where}: head {rule.head!r} finds no {entity!r}{nearest(entity, labels)}"


@dataclass(frozen=True, slots=True)
class _Budget:
    """The harmless steps of a stage that its rules may stop, or flag, together."""

    rate: float
    share: float
    heads: int
    where: str


class _Stage:
    """The rules of a stage, for each way in which the patterns of tools may fit one."""

    def __init__(self, policy: Policy, heads: Heads, stage: Stage) -> None:
        self._policy, self._heads, self._stage = policy, heads, stage
        self._rules = [rule for rule in policy.rules if stage in rule.stages]
        globs = tuple(dict.fromkeys(glob for rule in self._rules for glob in rule.tools))
        self.thresholds: list[Threshold] = []
        special = {
            way: self._read(tuple(glob for glob in globs if glob in way))
            for way in self._ways(globs if stage in TOOL_STAGES else ())
        }
        patterns = {glob: compiled(glob) for glob in globs if len(special) > 1}
        self.readings = Readings(special[frozenset()], patterns, special)

    def _ways(self, globs: tuple[str, ...]) -> tuple[frozenset[str], ...]:
        try:
            return ways(globs)
        except TooMany as error:
            first = next(rule.name for rule in self._rules if rule.tools)
            where = self._policy.where(f"rules.{first}")
            raise PolicyError(f"{where}: at {self._stage} {error}; write fewer of them, or narrower ones") from None

    def _read(self, way: tuple[str, ...]) -> tuple[Reading, ...]:
        """The rules in force for tools that some patterns fit."""
        rules: list[Rule] = []
        special: set[str] = set()
        for rule in self._rules:
            glob = next((glob for glob in rule.tools if glob in way), None)
            rules.append(rule if glob is None else rule.for_tool(glob))
            if glob is not None and rule.tools[glob].max_fpr is not None:
                special.add(rule.name)
        found: dict[str, Threshold] = {}
        for actions in (STOPPING, ("flag",)):
            together = [rule for rule in rules if rule.action in actions]
            budget = self._budget(together, special, way)
            found |= {rule.name: self._threshold(rule, way, budget) for rule in together}
        in_force = [rule for rule in rules if rule.name in found]
        self.thresholds += [found[rule.name] for rule in in_force]
        return tuple(self._reading(rule, found[rule.name].bars) for rule in in_force)

    def _reading(self, rule: Rule, found: tuple[Bar, ...]) -> Reading:
        policy = self._policy
        text = policy.message if rule.message is None else Messages.of(rule.message)
        thresholds = {bar.threshold for bar in found}
        return Reading(
            name=rule.name,
            head=rule.head,
            labels=rule.labels,
            lowest=min(thresholds),
            bars=found if len(thresholds) > 1 else (),
            action=rule.action,
            section=rule.rewrite or rule.escalation,
            seals=isinstance(policy.rewrite.get(rule.rewrite or ""), Quarantine),
            message=Messages(in_order(text.texts, policy.locale, policy.where(f"rules.{rule.name}"))),
            tainted=rule.when is not None,
            sources=tuple(map(compiled, (rule.when.sources if rule.when else None) or ())),
        )

    def _budget(self, rules: Sequence[Rule], special: Collection[str], tools: tuple[str, ...]) -> _Budget | None:
        """Divide the least of the budgets of rules by the heads that they read, less what thresholds take of it.

        A max_fpr that is said for some tools is the budget of all rules that read these tools' steps.
        """
        asking = [rule for rule in rules if rule.max_fpr is not None]
        if not asking:
            return None
        said = [rule for rule in asking if rule.name in special] or asking
        strictest = min(said, key=lambda rule: rule.max_fpr or 0.0)
        where = self._policy.where(f"rules.{strictest.name}") + (
            f": for tools {' and '.join(tools)!r}" if tools else ""
        )
        rate = strictest.max_fpr or 0.0
        taken: dict[str, float] = {}
        for rule in rules:
            # What finds entities is right or wrong about each of them: no share of texts that score high by chance.
            # Nor is where a text came from.
            if rule.threshold is None or rule.head == TAINT or finds_entities(self._heads.labels[rule.head]):
                continue
            known = self._known(rule.head)
            own = realised(known, fixed(known, rule.threshold))
            if own >= 1.0:
                raise PolicyError(
                    f"{where}: rule {rule.name!r} has a threshold at {self._stage} too, and nobody knows how many "
                    f"harmless steps that stops; give it a max_fpr, or this rule a threshold"
                )
            # Whatever several rules match of one head, the lowest of their thresholds matches.
            taken[rule.head] = max(taken.get(rule.head, 0.0), own)
        heads = {rule.head for rule in asking}
        share = (rate - sum(taken.values())) / len(heads)
        if share <= 0:
            raise PolicyError(
                f"{where}: the other rules of {self._stage} alone stop {sum(taken.values()):.3g} of harmless steps; "
                f"nothing is left of max_fpr {rate:g}"
            )
        return _Budget(rate, share, len(heads), where)

    def _threshold(self, rule: Rule, tools: tuple[str, ...], budget: _Budget | None) -> Threshold:
        known = self._known(rule.head)
        if rule.threshold is not None or budget is None:
            found, budget, is_own = fixed(known, rule.threshold or 0.0), None, False
        else:
            found, is_own = self._bars(rule.head, budget), bool(self._own(rule.head))
        return Threshold(
            rule=rule.name,
            stage=self._stage,
            tools=tools,
            action=rule.action,
            head=rule.head,
            bars=found,
            rate=realised(known, found),
            texts=sum(entry.texts for entry in known),
            budget=budget.rate if budget else None,
            share=budget.share if budget else None,
            own=is_own,
        )

    def _bars(self, head: str, budget: _Budget) -> tuple[Bar, ...]:
        """Where a head reaches its share of a budget, by the tenant's own traffic where that is known."""
        stock, own = self._stock(head), self._own(head)
        try:
            if not own:
                return bars(stock, budget.share)
            smallest = max((entry.rates[-1] for entry in stock if entry.rates), default=None)
            if smallest is None:
                raise too_few(stock, budget.share)
            # The bundle need not know so low a rate: it only says from where a bar may not move far.
            return bounded(own, bars(own, budget.share), bars(stock, max(budget.share, smallest)))
        except TooFew as error:
            parts = f" ({budget.rate:g} shared by {budget.heads} heads)" if budget.heads > 1 else ""
            raise PolicyError(
                f"{budget.where}: max_fpr: head {head!r} at {self._stage}: a rate of {budget.share:.3g}{parts} "
                f"{error}; give a larger max_fpr or a threshold"
            ) from None

    def _known(self, head: str) -> Sequence[Quantiles]:
        return self._own(head) or self._stock(head)

    def _own(self, head: str) -> Sequence[Quantiles]:
        calibration = self._policy.calibration
        return [one for one in calibration.heads.get(head, ()) if one.stage == self._stage] if calibration else []

    def _stock(self, head: str) -> Sequence[Quantiles]:
        return [one for one in self._heads.benign.get(head, ()) if one.stage == self._stage]
