"""Budgets from a tenant's own harmless traffic, instead of from the texts that its detector's bundle knows.

Whoever can write into that traffic could teach a guard to let attacks pass. Against that stand: a bound on how far a
threshold moves (`lec_guard.policy.budget.MAX_SHIFT`); attacks that have to be stopped as before; sources that count
alike, however much one of them sends; and the texts that score highest, for a person to look at. No text is kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lec_guard.detect.detector import Detector
from lec_guard.errors import DetectorError, UnsupportedValueError
from lec_guard.policy.budget import Bar, TooFew, at_length, bars
from lec_guard.policy.calibration import Calibration, OwnScores
from lec_guard.policy.compile import STOPPING, Compiled, Reading, Readings, Threshold, compile_policy
from lec_guard.policy.decide import decide
from lec_guard.policy.folder import BUILTIN
from lec_guard.step import STAGES, Scores, Stage
from lec_guard.train.calibrate import FEWEST, benign_scores
from lec_guard.train.families import first_alike
from lec_guard.train.fit import Floats
from lec_guard.train.metrics import needed_for
from lec_guard.train.tenant import TenantPolicy
from lec_guard.train.traffic import Text

CANARIES = BUILTIN.parent / "canaries.jsonl"
"""Attacks of our own words that come with the package."""

OF_SOURCE = 100
"""Texts of a stage and length from which a source counts by itself; smaller ones are counted together."""

TOP = 20
"""Texts with the highest scores that a person is shown, of each stage and head."""

_LOOKED = 500
"""They are found among so many, of which near duplicates are shown as one."""

_CHUNK = 512
"""Texts that a detector reads between two reports of progress."""

Progress = Callable[[str, int, int], None]
"""What is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """What becomes of a threshold, for texts of some lengths.

    Attributes:
        rule: The rule.
        stage: The stage.
        tool: The pattern of the tools that it holds for; None for all others.
        head: The head that is read.
        budget: The rate that it shares with the other rules of the stage.
        windows: For texts of so many windows or more, up to the next.
        before: The threshold that is in force.
        alone: What the traffic alone would make of it.
        after: What it becomes: that, within bounds.
        rows: Rows of the traffic of that stage and length.
        matched_before: How many of them the rule matches now.
        matched_after: How many it would match.
    """

    rule: str
    stage: Stage
    tool: str | None
    head: str
    budget: float
    windows: int
    before: float
    alone: float
    after: float
    rows: int
    matched_before: int
    matched_after: int

    @property
    def is_bounded(self) -> bool:
        """Whether the traffic would move it further than it may."""
        # What is taken went through log odds and back.
        return abs(self.after - self.alone) > 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class StageChange:
    """How much of the traffic is stopped at a stage, by whatever rule.

    Attributes:
        stage: The stage.
        rows: Rows of the traffic.
        before: How many of them are stopped now.
        after: How many would be.
        canaries: Attacks of that stage.
        canaries_before: How many of them are stopped now.
        canaries_after: How many would be.
    """

    stage: Stage
    rows: int
    before: int
    after: int
    canaries: int
    canaries_before: int
    canaries_after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Top:
    """A text with one of the highest scores, and its near duplicates.

    Attributes:
        stage: The stage.
        head: The head.
        score: The highest of their scores.
        where: Where that one stands.
        text: The part of it that scores highest.
        texts: How many different texts they are.
        rows: How many rows.
        passes: How many of these would pass as they are.
        newly: How many of these are stopped now.
    """

    stage: Stage
    head: str
    score: float
    where: str
    text: str
    texts: int
    rows: int
    passes: int
    newly: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalibrated:
    """What a tenant's traffic makes of its policy.

    Attributes:
        calibration: What is to be written.
        policy: The policy with it.
        moves: Thresholds, before and after.
        stages: What is stopped of the traffic, before and after.
        left_out: Why budgets of some heads stay as they are: stage, reason and heads in a line.
        top: The texts that score highest, those of a stage and head together.
        lost: Attacks that are stopped now and would not be any more; with one of them the calibration is no good.
        sources: Source -> rows.
        repeats: Rows that repeat another one; they tell nothing new, and count once in the thresholds.
        unread: Rows that the detector could not read; they tell nothing of scores.
        allowed: Rows on the allow list for all rules; no threshold stops them.
    """

    calibration: Calibration
    policy: Compiled
    moves: tuple[Move, ...]
    stages: tuple[StageChange, ...]
    left_out: tuple[str, ...]
    top: tuple[Top, ...]
    lost: tuple[Text, ...]
    sources: Mapping[str, int]
    repeats: int
    unread: int
    allowed: int

    @property
    def unproved(self) -> tuple[StageChange, ...]:
        """Stages at which no attack is stopped now, so that none could be lost."""
        return tuple(one for one in self.stages if not one.canaries_before)


def recalibrate(
    policy: TenantPolicy,
    traffic: Sequence[Text],
    canaries: Sequence[Text],
    *,
    top: int = TOP,
    progress: Progress | None = None,
) -> Recalibrated:
    """Measure how high a tenant's harmless texts score, and what that makes of its thresholds and of attacks.

    Args:
        policy: The tenant's policy.
        traffic: Its texts, all of them harmless.
        canaries: Attacks.
        top: How many of the texts with the highest scores to show, of each stage and head.
        progress: Is told how far it is.

    Returns:
        All of it; nothing is written.

    Raises:
        UnsupportedValueError: If the policy has no budget, or the texts are too few for each of its budgets.
        DetectorError: If the detector can read none of the texts.
    """
    shares = _shares(policy.live)
    if not shares:
        raise UnsupportedValueError(
            f"{policy.live.policy.file}: no rule of {policy.name!r} has a max_fpr, so there is nothing to take from "
            "traffic: give rules a max_fpr instead of a threshold"
        )
    tell = progress or _silent
    found = _read(policy.detector, "reading the traffic", _distinct(traffic), tell)
    attacks = _read(policy.detector, "reading attacks", _distinct(canaries), tell)
    if found and all(one.scores.unread is not None for one in found):
        raise DetectorError(f"none of {len(traffic):,} texts could be read; the first: {found[0].scores.unread}")
    unread = [one for one in found if one.scores.unread is not None]
    allowed = [one for one in found if one.scores.unread is None and _is_allowed(policy.live, one)]
    counting = [one for one in found if one.scores.unread is None and not _is_allowed(policy.live, one)]
    own, left_out = _own_scores(counting, shares)
    if not own:
        raise UnsupportedValueError("\n".join(["the texts are too few for each budget of the policy:", *left_out]))
    by_head = {head: tuple(e for (h, _), entries in own.items() if h == head for e in entries) for head, _ in own}
    calibration = Calibration(
        detector_id=policy.heads.detector_id, texts=sum(one.rows for one in counting), heads=by_head
    )
    after = compile_policy(replace(policy.live.policy, calibration=calibration), policy.heads)
    both = _Both(policy.live, after)
    stages = dict.fromkeys(stage for _, stage in own)
    return Recalibrated(
        calibration=calibration,
        policy=after,
        moves=tuple(_moves(both, found, own)),
        stages=tuple(_change(both, stage, found, attacks) for stage in STAGES if stage in stages),
        left_out=tuple(left_out),
        top=tuple(one for head, stage in own for one in _top(both, head, stage, counting, top)),
        lost=tuple(one.text for one in attacks if both.stops_before(one) and not both.stops_after(one)),
        sources=dict(Counter(text.origin for text in traffic).most_common()),
        repeats=len(traffic) - len(found),
        unread=sum(one.rows for one in unread),
        allowed=sum(one.rows for one in allowed),
    )


@dataclass(frozen=True, slots=True)
class _Scored:
    """A text, of how many rows, and what the detector says of it."""

    text: Text
    rows: int
    scores: Scores

    def highest(self, head: str) -> float:
        return max(self.scores.by_head[head].values())

    def part(self, head: str) -> str:
        """What a head is surest of: an attack need not stand where a text begins."""
        text = self.text.step.text
        return next((text[span.start : span.end] for span in self.scores.spans if span.head == head), text)


@dataclass(frozen=True, slots=True)
class _Both:
    """The policy as it is, and as it would be."""

    before: Compiled
    after: Compiled

    def stops_before(self, one: _Scored) -> bool:
        return decide(self.before, one.text.step, one.scores).action in STOPPING

    def stops_after(self, one: _Scored) -> bool:
        return decide(self.after, one.text.step, one.scores).action in STOPPING


def _shares(live: Compiled) -> dict[tuple[str, Stage], float]:
    """Head and stage -> the smallest rate that a budget leaves it."""
    shares: dict[tuple[str, Stage], float] = {}
    for one in live.thresholds:
        if one.share is not None:
            key = (one.head, one.stage)
            shares[key] = min(one.share, shares.get(key, 1.0))
    return shares


def _distinct(texts: Iterable[Text]) -> list[tuple[Text, int]]:
    """Texts, each once, with how many rows of the same source are the same step."""
    counts: dict[tuple[object, ...], list[Text]] = {}
    for text in texts:
        step = text.step
        key = (text.origin, step.stage, step.text.strip(), (step.context or "").strip(), step.tool)
        counts.setdefault(key, []).append(text)
    return [(same[0], len(same)) for same in counts.values()]


def _read(detector: Detector, what: str, texts: Sequence[tuple[Text, int]], tell: Progress) -> list[_Scored]:
    found: list[_Scored] = []
    for start in range(0, len(texts), _CHUNK):
        tell(what, start, len(texts))
        chunk = texts[start : start + _CHUNK]
        scores = detector.score([text.step for text, _ in chunk])
        found += [_Scored(text, rows, one) for (text, rows), one in zip(chunk, scores, strict=True)]
    tell(what, len(texts), len(texts))
    return found


def _is_allowed(policy: Compiled, one: _Scored) -> bool:
    step = one.text.step
    return any(entry.rules is None for entry in policy.allowed[step.stage].find(step.text))


def _own_scores(
    found: Sequence[_Scored], shares: Mapping[tuple[str, Stage], float]
) -> tuple[dict[tuple[str, Stage], tuple[OwnScores, ...]], list[str]]:
    """What is known of each head at each stage with a budget, and why of some there is nothing."""
    kept: dict[tuple[str, Stage], tuple[OwnScores, ...]] = {}
    why: dict[str, list[str]] = {}
    for (head, stage), share in shares.items():
        there = [one for one in found if one.text.step.stage == stage]
        scores: Floats = np.array([one.highest(head) for one in there], np.float32)
        counted = benign_scores(
            scores,
            np.array([one.scores.windows for one in there], np.int64),
            np.array([one.text.origin for one in there], np.str_),
            [stage] * len(there),
            of_bin=max(needed_for(share), FEWEST),
            of_family=OF_SOURCE,
        )
        entries = tuple(OwnScores.model_validate(entry.model_dump()) for entry in counted)
        try:
            bars(entries, share)
        except TooFew as error:
            # Nothing is kept of a few texts, but they are there.
            known = TooFew(error.needed, len(there), error.smallest)
            reason = f"{stage}: a rate of {share:.3g} {known}" if there else f"{stage}: there is no text of it"
            why.setdefault(reason, []).append(head)
        else:
            kept[head, stage] = entries
    return kept, [f"{reason} ({', '.join(heads)})" for reason, heads in why.items()]


def _moves(
    both: _Both, found: Sequence[_Scored], own: Mapping[tuple[str, Stage], Sequence[OwnScores]]
) -> Iterator[Move]:
    before = {(one.rule, one.stage, one.tools): one for one in both.before.thresholds}
    for new in both.after.thresholds:
        if new.budget is None or new.share is None or (new.head, new.stage) not in own:
            continue
        one = before[new.rule, new.stage, new.tools]
        alone = bars(own[new.head, new.stage], new.share)
        then, now = _matches(both.after, new), _matches(both.before, one)
        there = [own_text for own_text in found if own_text.scores.unread is None and now.reads(own_text)]
        for bar, above in zip(new.bars, (*(bar.windows for bar in new.bars[1:]), None), strict=True):
            inside = [own_text for own_text in there if _is_of(own_text.scores.windows, bar, above)]
            yield Move(
                rule=one.rule,
                stage=one.stage,
                tool=one.tool,
                head=one.head,
                budget=new.budget,
                windows=bar.windows,
                before=at_length(one.bars, bar.windows).threshold,
                alone=at_length(alone, bar.windows).threshold,
                after=bar.threshold,
                rows=sum(own_text.rows for own_text in inside),
                matched_before=sum(own_text.rows for own_text in inside if now.matches(own_text)),
                matched_after=sum(own_text.rows for own_text in inside if then.matches(own_text)),
            )


def _is_of(windows: int, bar: Bar, above: int | None) -> bool:
    # A text without any window is as short as texts get.
    return max(windows, 1) >= bar.windows and (above is None or windows < above)


@dataclass(frozen=True, slots=True)
class _Matches:
    """A rule as a policy reads it at a stage, for some tools."""

    stage: Stage
    readings: Readings
    reading: Reading

    def reads(self, one: _Scored) -> bool:
        step = one.text.step
        return step.stage == self.stage and any(own is self.reading for own in self.readings.of(step.tool))

    def matches(self, one: _Scored) -> bool:
        labels = one.scores.by_head[self.reading.head]
        score = max(labels[label] for label in self.reading.labels or labels)
        return score >= self.reading.threshold(one.scores.windows)


def _matches(policy: Compiled, of: Threshold) -> _Matches:
    readings = policy.readings[of.stage]
    reading = next(one for one in readings.special[frozenset(of.tools)] if one.name == of.rule)
    return _Matches(of.stage, readings, reading)


def _change(both: _Both, stage: Stage, found: Sequence[_Scored], attacks: Sequence[_Scored]) -> StageChange:
    there = [one for one in found if one.text.step.stage == stage]
    canaries = [one for one in attacks if one.text.step.stage == stage]
    return StageChange(
        stage=stage,
        rows=sum(one.rows for one in there),
        before=sum(one.rows for one in there if both.stops_before(one)),
        after=sum(one.rows for one in there if both.stops_after(one)),
        canaries=len(canaries),
        canaries_before=sum(both.stops_before(one) for one in canaries),
        canaries_after=sum(both.stops_after(one) for one in canaries),
    )


def _top(both: _Both, head: str, stage: Stage, found: Sequence[_Scored], most: int) -> Iterator[Top]:
    """The texts that score highest; near duplicates are told once, with how many they are."""
    there = [one for one in found if one.text.step.stage == stage]
    there.sort(key=lambda one: -one.highest(head))
    looked = there[:_LOOKED]
    groups: dict[int, list[_Scored]] = {}
    for one, first in zip(looked, first_alike([one.text.step.text for one in looked]), strict=True):
        groups.setdefault(first, []).append(one)
    for group in list(groups.values())[:most]:
        passing = [one for one in group if not both.stops_after(one)]
        yield Top(
            stage=stage,
            head=head,
            score=group[0].highest(head),
            where=group[0].text.where,
            text=group[0].part(head),
            texts=len(group),
            rows=sum(one.rows for one in group),
            passes=sum(one.rows for one in passing),
            newly=sum(one.rows for one in passing if both.stops_before(one)),
        )


def _silent(what: str, done: int, total: int) -> None:
    """For whoever does not ask."""
