"""Detectors on labelled texts, side by side with baselines in the same run.

Every method is measured alike: over all texts, over those of sets that nothing was fitted on, and for each stage,
language, length and set. A cut at a false-positive rate is taken per stage, the rate averaged over benign sets, and
recall is averaged over sets, so that no set counts for more because it is larger.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, cast

import numpy as np
from pydantic import Field
from sklearn.model_selection import StratifiedKFold

from lec_guard.detect.heads import HeadSpec
from lec_guard.detect.layer import LayerDetector
from lec_guard.errors import DetectorError, UnsupportedValueError
from lec_guard.policy.budget import Bar, TooFew, at_length, bars
from lec_guard.policy.compile import Threshold
from lec_guard.step import STAGES, Scores, Stage, Step
from lec_guard.train import metrics
from lec_guard.train.baselines import Baseline, BaselineError, text_baselines
from lec_guard.train.data import Dataset
from lec_guard.train.fit import Floats, Ints, family_folds
from lec_guard.train.metrics import Bin, Bools, Confusion, Curve, Cut, Doubles, Figure, Names, Report, Sample, SetRate

RATES: Final = (0.01, 0.001)
"""False-positive rates at which recall is told."""

LENGTHS: Final = ((1, 1), (2, 3), (4, 7), (8, 15), (16, None))
"""Numbers of windows, from and to, that are reported apart."""

UNNAMED: Final = "unnamed"
"""The set of texts that name none."""
UNKNOWN: Final = "unknown"
"""Their language, likewise."""

_BATCH = 1000
"""Texts that a detector reads between two reports of progress."""
_FOLDS = 5
_TOLD = 20
"""Texts that were not read and are named."""
_BASELINE_BAR = 0.5

Progress = Callable[[str, int, int], None]
"""What is being done, how much of it is done, and how much there is."""

Thresholds = Mapping[Stage, Mapping[int, float]]
"""Stage -> from so many windows -> threshold; a score that reaches it is flagged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """Labelled texts as columns.

    Attributes:
        sources: Where each stands.
        texts: The texts.
        contexts: What each is judged against.
        stages: The stage of each, `[n]`.
        sets: The set (family) of each, `[n]`.
        languages: The language of each, `[n]`.
        labels: The classes, the benign one first.
        targets: `[n, classes]`.
    """

    sources: Sequence[str]
    texts: Sequence[str]
    contexts: Sequence[str | None]
    stages: Names
    sets: Names
    languages: Names
    labels: tuple[str, ...]
    targets: Floats

    @classmethod
    def of(cls, data: Dataset) -> Texts:
        """Take apart.

        Args:
            data: Labelled texts.

        Returns:
            Their columns.
        """
        own = data.examples
        return cls(
            sources=[example.source for example in own],
            texts=[example.text for example in own],
            contexts=[example.context for example in own],
            stages=np.array([example.stage for example in own], np.str_),
            sets=np.array([example.family or UNNAMED for example in own], np.str_),
            languages=np.array([example.language or UNKNOWN for example in own], np.str_),
            labels=data.labels,
            targets=data.targets,
        )

    @property
    def harmful(self) -> Bools:
        """Which are more likely harmful than not, `[n]`."""
        return np.asarray(self.targets[:, 0] < 0.5)

    @property
    def classes(self) -> Ints:
        """The likeliest class of each, `[n]`; benign for none of the harmful ones."""
        rest = 1 + self.targets[:, 1:].argmax(axis=1)
        return np.asarray(np.where(self.harmful, rest, 0), np.int64)

    def take(self, rows: Ints) -> tuple[list[str], list[str | None]]:
        """Texts and contexts of some rows.

        Args:
            rows: Which.

        Returns:
            Both, in order.
        """
        return [self.texts[row] for row in rows], [self.contexts[row] for row in rows]


class Budget(Report):
    """Thresholds that a detector keeps for a false-positive rate.

    Attributes:
        max_fpr: The rate they stand for.
        thresholds: By stage and number of windows.
    """

    max_fpr: float = Field(gt=0, lt=1)
    thresholds: Thresholds


def budget_of(spec: HeadSpec, max_fpr: float) -> Budget:
    """The thresholds that a policy would have whose one rule reads this head and says `max_fpr`.

    Args:
        spec: The head.
        max_fpr: The rate.

    Returns:
        The thresholds; a stage of which the head knows too few harmless texts for the rate has none.
    """
    thresholds: dict[Stage, dict[int, float]] = {}
    for stage in dict.fromkeys(entry.stage for entry in spec.benign):
        try:
            found = bars([entry for entry in spec.benign if entry.stage == stage], max_fpr)
        except TooFew:
            continue
        thresholds[stage] = _by_length([found])
    return Budget(max_fpr=max_fpr, thresholds=thresholds)


def thresholds_of(rules: Iterable[Threshold]) -> dict[Stage, dict[int, float]]:
    """From which score on any of some rules matches.

    Args:
        rules: The thresholds of a policy that count, each for the steps of any tool.

    Returns:
        By stage and number of windows; a stage where none of them reads is missing.
    """
    found = {stage: [one.bars for one in own] for stage, own in _by_stage(rules).items()}
    return {stage: _by_length(own) for stage, own in found.items()}


def _by_stage(rules: Iterable[Threshold]) -> dict[Stage, list[Threshold]]:
    by_stage: dict[Stage, list[Threshold]] = {stage: [] for stage in STAGES}
    for rule in rules:
        by_stage[rule.stage].append(rule)
    return {stage: own for stage, own in by_stage.items() if own}


def _by_length(own: Sequence[Sequence[Bar]]) -> dict[int, float]:
    """The lowest of several rules' thresholds; lengths that follow each other and have the same one are one."""
    found: dict[int, float] = {}
    for windows in sorted({bar.windows for each in own for bar in each}):
        lowest = min(at_length(each, windows).threshold for each in own)
        if not found or lowest != list(found.values())[-1]:
            found[windows] = lowest
    return found


def bar_at(thresholds: Thresholds, stage: str, windows: int) -> float:
    """The threshold for a text.

    Args:
        thresholds: By stage and number of windows.
        stage: Where the text passes.
        windows: How many windows it has.

    Returns:
        The threshold; infinity where the stage has none.
    """
    own = thresholds.get(_stage(stage), {})
    # A text of fewer windows than any that were counted has the threshold of the shortest.
    reached = [start for start in own if start <= windows] or [min(own)] if own else []
    return own[max(reached)] if reached else float("inf")


class AtRate(Report):
    """What comes of cutting each stage at a false-positive rate.

    Attributes:
        rate: The rate, averaged over the benign sets of a stage.
        cuts: Stage -> where it is cut; stages with too few benign texts have none.
        recall: Share of harmful texts above the cuts, averaged over sets.
        fpr: Share of benign texts above them, averaged over sets.
        worst: The set with the most benign texts above them.
    """

    rate: float
    cuts: Mapping[str, Cut]
    recall: Figure
    fpr: Figure
    worst: SetRate | None


class AtThresholds(Report):
    """What comes of thresholds that stand.

    Attributes:
        precision: Of the flagged texts, how many are harmful.
        recall: Of the harmful texts, how many are flagged; every text counts alike.
        f1: Their harmonic mean.
        weighted_f1: F1 of both classes, weighted by how many texts are of each.
        recall_by_sets: Recall averaged over sets.
        fpr_by_sets: Share of benign texts that are flagged, averaged over sets.
        worst: The set with the most benign texts flagged.
        confusion: Of benign and harmful.
    """

    precision: Figure
    recall: Figure
    f1: Figure
    weighted_f1: Figure
    recall_by_sets: Figure
    fpr_by_sets: Figure
    worst: SetRate | None
    confusion: Confusion


class Measures(Report):
    """Figures of one method over some texts.

    Attributes:
        name: Which texts: a stage, a language, a number of windows, a set.
        texts: How many there are.
        harmful: How many of them are harmful.
        sets: How many sets they are of.
        fitted: Of one set: whether baselines or heads were fitted on texts of it; None where that is not known.
        auc: Area under the ROC curve, every text counting alike.
        auc_by_sets: The same where every set counts alike within its class.
        auprc: Area under the precision-recall curve.
        brier: Mean squared distance of scores from what is.
        calibration_error: Over 15 bins of equally many texts.
        at_rates: One a rate. Of one language, length or set, the cuts are those of its stages over all texts.
        at_thresholds: At the policy's thresholds, or a baseline's even odds; None without any.
    """

    name: str
    texts: int
    harmful: int
    sets: int
    fitted: bool | None = None
    auc: Figure
    auc_by_sets: Figure
    auprc: Figure
    brier: Figure
    calibration_error: Figure
    at_rates: tuple[AtRate, ...]
    at_thresholds: AtThresholds | None


class LeftOut(Report):
    """A set at a cut that was taken on the benign texts of all other sets of its stage.

    Attributes:
        name: The set.
        stage: The stage.
        rate: The rate of the cut on the others.
        cut: Texts with a score above it are flagged; None where the others have too few benign texts.
        fpr: Share of the set's benign texts above it.
        recall: Share of its harmful texts above it.
    """

    name: str
    stage: str
    rate: float
    cut: float | None
    fpr: Figure
    recall: Figure


class Realised(Report):
    """What came of the thresholds that a detector keeps for a rate, on sets that nothing was fitted on.

    Attributes:
        max_fpr: The rate they stand for.
        stage: The stage.
        fpr: The rate that came of them, averaged over benign sets.
        recall: Share of harmful texts that are flagged, averaged over sets.
        worst: The set with the most benign texts flagged.
    """

    max_fpr: float
    stage: str
    fpr: Figure
    recall: Figure
    worst: SetRate | None


class Unread(Report):
    """A text that could not be read; it counts as flagged.

    Attributes:
        source: Where it stands.
        why: What the detector says.
    """

    source: str
    why: str


class Method(Report):
    """A detector or a baseline, measured.

    Attributes:
        name: What it is called.
        kind: Which of both.
        detector_id: The detector by content; None for a baseline.
        reason: Why a baseline was not measured; all that follows is then empty.
        overall: Over all texts; None if it was not measured.
        unseen: Over the sets that nothing was fitted on; None where that is not known, or is none or all of them.
        stages: For each stage.
        languages: For each language.
        lengths: For each number of windows.
        sets: For each set with enough texts, the others together.
        roc: The ROC curve over all texts.
        precision_recall: The precision-recall curve over all texts.
        reliability: Scores held against what is.
        over_defence: How many benign texts of each set with enough of them are flagged at the thresholds, the worst
            first.
        left_out: For each set, at cuts of all others.
        realised: For each stage, what came of a detector's own thresholds for a rate.
        classes: What texts of each class were taken for, where a head tells the classes of the data apart.
        unread: How many texts could not be read.
        unread_texts: The first of them.
        contexts_read: Of how many texts the context took part in the scores.
    """

    name: str
    kind: Literal["detector", "baseline"]
    detector_id: str | None = None
    reason: str | None = None
    overall: Measures | None = None
    unseen: Measures | None = None
    stages: tuple[Measures, ...] = ()
    languages: tuple[Measures, ...] = ()
    lengths: tuple[Measures, ...] = ()
    sets: tuple[Measures, ...] = ()
    roc: Curve | None = None
    precision_recall: Curve | None = None
    reliability: tuple[Bin, ...] = ()
    over_defence: tuple[SetRate, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    realised: tuple[Realised, ...] = ()
    classes: Confusion | None = None
    unread: int = 0
    unread_texts: tuple[Unread, ...] = ()
    contexts_read: int = 0


class Evaluation(Report):
    """Methods side by side on the same texts.

    Attributes:
        head: The head that was measured.
        labels: The classes of the data, the benign one first.
        texts: How many texts.
        harmful: How many of them are harmful.
        sets: Set -> how many texts.
        rates: The false-positive rates that were asked for.
        thresholds: Detector -> the policy's thresholds with it.
        baselines: On what the baselines were fitted.
        fitted_sets: Sets that something was fitted on; None where that is not known.
        repeated: How many texts stand, letter by letter, among those that were fitted on.
        lengths: Whose windows `lengths` counts.
        methods: The detectors, then the baselines.
    """

    head: str
    labels: tuple[str, ...]
    texts: int
    harmful: int
    sets: Mapping[str, int]
    rates: tuple[float, ...]
    thresholds: Mapping[str, Thresholds]
    baselines: str
    fitted_sets: tuple[str, ...] | None
    repeated: int
    lengths: str
    methods: tuple[Method, ...]


def evaluate(
    detectors: Mapping[str, LayerDetector],
    data: Dataset,
    *,
    head: str,
    thresholds: Mapping[str, Thresholds] | None = None,
    budgets: Mapping[str, Budget] | None = None,
    fit_data: Dataset | None = None,
    baselines: Sequence[Baseline] | None = None,
    rates: Sequence[float] = RATES,
    resamples: int = metrics.RESAMPLES,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure detectors on labelled texts, and baselines beside them.

    Args:
        detectors: Name -> detector; at least one.
        data: What to measure on, of both classes.
        head: The head of the detectors that is measured.
        thresholds: Name of a detector -> the policy's thresholds with it; a text is flagged if a label's score
            reaches that of its stage and length. Texts of other stages are never flagged. A detector that is missing
            has no figures at thresholds.
        budgets: Name of a detector -> the thresholds that it keeps for a false-positive rate.
        fit_data: What the baselines are fitted on, and the heads were. None: the baselines are fitted on other
            sets of the measured texts, in folds.
        baselines: What to hold the detectors against; None: those that need no model.
        rates: False-positive rates at which recall is told; each stage needs benign texts for it.
        resamples: How many, of each interval.
        progress: Is told how far it is.

    Returns:
        All figures.

    Raises:
        UnsupportedValueError: If a detector lacks the head, the texts are of one class, or a stage has no benign
            text while a rate is asked.
        DetectorError: If a detector can read none of the texts.
    """
    rows = Texts.of(data)
    _check(rows, rates)
    specs = {name: _spec(name, detector, head) for name, detector in detectors.items()}
    if not specs:
        raise UnsupportedValueError("no detector to evaluate: give at least one")
    for what, names in (("thresholds", thresholds or {}), ("a budget", budgets or {})):
        for name in names:
            if name not in specs:
                raise UnsupportedValueError(f"{what} for {name!r}, which is no detector here{_nearest(name, specs)}")
    own = text_baselines() if baselines is None else tuple(baselines)
    for name in specs:
        if name in {baseline.name for baseline in own}:
            raise UnsupportedValueError(
                f"a detector and a baseline are called {name!r}: give the detector another name"
            )
    tell = progress or _silent
    found = {name: _read(name, detector, rows, tell) for name, detector in detectors.items()}
    fitted = None if fit_data is None else Texts.of(fit_data)
    first = next(iter(found))
    windows = np.array([scores.windows for scores in found[first]], np.int64)
    task = _Task(rows, windows, tuple(rates), resamples, None if fitted is None else np.unique(fitted.sets))
    methods = []
    for done, (name, scores) in enumerate(found.items()):
        tell("measuring detectors", done, len(found))
        own_thresholds, budget = (thresholds or {}).get(name), (budgets or {}).get(name)
        methods.append(_detector(task, name, specs[name], scores, own_thresholds, budget))
    tell("measuring detectors", len(found), len(found))
    for done, baseline in enumerate(own):
        tell("measuring baselines", done, len(own))
        methods.append(_baseline(task, baseline, fitted))
    tell("measuring baselines", len(own), len(own))
    sets, counts = np.unique(rows.sets, return_counts=True)
    known = set() if fitted is None else set(fitted.texts)
    return Evaluation(
        head=head,
        labels=rows.labels,
        texts=len(rows.texts),
        harmful=int(rows.harmful.sum()),
        sets={str(name): int(count) for name, count in zip(sets, counts, strict=True)},
        rates=tuple(rates),
        thresholds=thresholds or {},
        baselines=_fitted_on(rows, fitted),
        fitted_sets=None if task.fitted is None else tuple(map(str, task.fitted)),
        repeated=sum(text in known for text in rows.texts),
        lengths=first,
        methods=tuple(methods),
    )


@dataclass(frozen=True, slots=True)
class _Task:
    """What all methods are measured on."""

    rows: Texts
    windows: Ints
    rates: tuple[float, ...]
    resamples: int
    fitted: Names | None

    def unseen(self) -> Bools:
        """Texts of sets that nothing was fitted on; all where nothing is known."""
        if self.fitted is None:
            return np.ones(len(self.rows.texts), np.bool_)
        return ~np.isin(self.rows.sets, self.fitted)


@dataclass(frozen=True, slots=True)
class _Flags:
    """Which texts are flagged by a threshold, `[n]`."""

    flagged: Bools


def _detector(
    task: _Task,
    name: str,
    spec: HeadSpec,
    found: Sequence[Scores],
    thresholds: Thresholds | None,
    budget: Budget | None,
) -> Method:
    rows = task.rows
    labels = np.array([[own.by_head.get(spec.name, {}).get(one, 1.0) for one in spec.labels] for own in found])
    unread = np.array([own.unread is not None for own in found])
    # Of several exclusive labels any is harm; of two levels the first says it all.
    harm = np.minimum(labels.sum(axis=1), 1.0) if spec.kind == "multiclass" else labels[:, 0]
    # A text that was not read is flagged, whatever the cut.
    harm[unread] = np.inf
    alarm = np.where(unread, np.inf, labels.max(axis=1))

    def flagged(own: Thresholds) -> Bools:
        lengths = [one.windows for one in found]
        reached = [bar_at(own, stage, windows) for stage, windows in zip(rows.stages, lengths, strict=True)]
        return np.asarray((alarm >= np.array(reached)) | unread)

    flags = None if thresholds is None else _Flags(flagged(thresholds))
    realised = () if budget is None else tuple(_realised(task, budget, flagged(budget.thresholds)))
    why = [Unread(source=rows.sources[i], why=found[i].unread or "") for i in np.flatnonzero(unread)[:_TOLD]]
    return _method(task, harm, flags).model_copy(
        update={
            "name": name,
            "kind": "detector",
            "detector_id": found[0].detector_id,
            "realised": realised,
            "classes": None if flags is None else _classes(rows, spec, labels, flags.flagged),
            "unread": int(unread.sum()),
            "unread_texts": tuple(why),
            "contexts_read": sum(own.context_read for own in found),
        }
    )


def _baseline(task: _Task, baseline: Baseline, fitted: Texts | None) -> Method:
    try:
        scores = _baseline_scores(task.rows, baseline, fitted).astype(np.float64)
    except BaselineError as error:
        return Method(name=baseline.name, kind="baseline", reason=str(error))
    return _method(task, scores, _Flags(scores >= _BASELINE_BAR)).model_copy(update={"name": baseline.name})


def _baseline_scores(rows: Texts, baseline: Baseline, fitted: Texts | None) -> Floats:
    if fitted is not None:
        baseline.fit(fitted.texts, fitted.contexts, fitted.targets)
        return baseline.scores(rows.texts, rows.contexts)
    harmful = rows.harmful.astype(np.int64)
    scores = np.zeros(len(rows.texts), np.float32)
    for held in _folds(rows):
        kept = np.setdiff1d(np.arange(len(rows.texts)), held)
        if len(np.unique(harmful[kept])) < 2:
            raise BaselineError("all benign texts are of one set, so none is left to fit on: give texts to fit on")
        baseline.fit(*rows.take(kept), rows.targets[kept])
        scores[held] = baseline.scores(*rows.take(held))
    return scores


def _fitted_on(rows: Texts, fitted: Texts | None) -> str:
    if fitted is not None:
        return f"fitted on {len(fitted.texts):,} rows that were given for it"
    several = len(np.unique(rows.sets)) > 1
    return f"fitted on other {'sets of the' if several else 'rows of the one set of'} measured texts, in folds"


def _folds(rows: Texts) -> list[Ints]:
    """What is left out in turn: whole sets, or of a single one its texts."""
    harmful = rows.harmful.astype(np.int64)
    if len(np.unique(rows.sets)) > 1:
        folds = min(_FOLDS, len(np.unique(rows.sets[rows.harmful])))
        if folds < 2:
            raise BaselineError("all harmful texts are of one set, so none is left to fit on: give texts to fit on")
        return [held for held in family_folds(harmful, rows.sets, folds) if len(held)]
    folds = min(_FOLDS, *np.bincount(harmful, minlength=2).tolist())
    if folds < 2:
        raise BaselineError("a class has one text alone, so none is left to fit on: give texts to fit on")
    split = StratifiedKFold(folds, shuffle=True, random_state=0)
    return [np.asarray(held, np.int64) for _, held in split.split(rows.texts, harmful)]


def _method(task: _Task, scores: Doubles, flags: _Flags | None) -> Method:
    """All that is measured of detectors and of baselines alike."""
    rows, everything = task.rows, np.ones(len(scores), np.bool_)
    sample = Sample(scores, rows.harmful, rows.sets)
    cuts = _cuts(task.rates, sample, rows.stages)

    def some(name: str, own: Bools, *, whole: bool = False, fitted: bool | None = None) -> Measures:
        return _measures(task, sample, cuts, flags, name, own, whole=whole, fitted=fitted)

    unseen = task.unseen()
    over_defence: tuple[SetRate, ...] = ()
    if flags is not None:
        over_defence = tuple(
            own
            for own in metrics.set_rates(flags.flagged[~sample.harmful], rows.sets[~sample.harmful])
            if own.rate.n >= metrics.FEWEST_OF_A_SET
        )
    return Method(
        name="",
        kind="baseline",
        overall=some("all texts", everything, whole=True),
        unseen=some("unseen sets", unseen, whole=True) if unseen.any() and not unseen.all() else None,
        stages=tuple(some(str(own), rows.stages == own, whole=True) for own in np.unique(rows.stages)),
        languages=tuple(some(str(own), rows.languages == own) for own in np.unique(rows.languages)),
        lengths=tuple(some(name, own) for name, own in _lengths(task.windows)),
        sets=tuple(some(name, own, fitted=fitted) for name, own, fitted in _sets(task)),
        roc=metrics.roc_curve(sample, resamples=task.resamples),
        precision_recall=metrics.precision_recall_curve(sample, resamples=task.resamples),
        reliability=metrics.reliability(sample),
        over_defence=over_defence,
        left_out=tuple(_left_out(task, sample)),
    )


def _measures(
    task: _Task,
    sample: Sample,
    cuts: Mapping[float, Mapping[str, Cut]],
    flags: _Flags | None,
    name: str,
    own: Bools,
    *,
    whole: bool,
    fitted: bool | None,
) -> Measures:
    part, stages = sample.of(own), task.rows.stages[own]
    ranks = metrics.ranks(part, resamples=task.resamples)
    if whole:
        cuts = _cuts(task.rates, part, stages)
    return Measures(
        name=name,
        texts=part.n,
        harmful=part.positives,
        sets=len(np.unique(part.sets)),
        fitted=fitted,
        auc=ranks.auc,
        auc_by_sets=ranks.auc_by_sets,
        auprc=ranks.auprc,
        brier=metrics.brier(part, resamples=task.resamples),
        calibration_error=metrics.calibration_error(part),
        at_rates=tuple(_at_rate(task, part, stages, rate, cuts[rate], whole=whole) for rate in task.rates),
        at_thresholds=None if flags is None else _at_thresholds(task, part, flags.flagged[own]),
    )


def _at_rate(task: _Task, part: Sample, stages: Names, rate: float, cuts: Mapping[str, Cut], *, whole: bool) -> AtRate:
    own = {str(stage): cuts[str(stage)] for stage in np.unique(stages) if str(stage) in cuts}
    lacking = [str(stage) for stage in np.unique(stages) if str(stage) not in cuts]
    if lacking:
        reason = (
            f"stage {lacking[0]!r} has fewer than the {metrics.needed_for(rate):,} benign texts for a rate of {rate:g}"
        )
        none = Figure(n=part.n, reason=reason)
        return AtRate(rate=rate, cuts=own, recall=none, fpr=none, worst=None)
    above = part.scores > np.array([own[str(stage)].score for stage in stages])
    benign = ~part.harmful
    return AtRate(
        rate=rate,
        cuts=own,
        # Of whole stages the cut is drawn again with the texts; elsewhere it is given.
        recall=metrics.recall_at(part, stages, rate, resamples=task.resamples)
        if whole
        else metrics.rate_figure(above[part.harmful], part.sets[part.harmful], what="harmful texts"),
        fpr=metrics.rate_figure(above[benign], part.sets[benign], what="benign texts"),
        worst=metrics.worst(metrics.set_rates(above[benign], part.sets[benign])),
    )


def _at_thresholds(task: _Task, part: Sample, flagged: Bools) -> AtThresholds:
    figures, benign = metrics.at_thresholds(part, flagged, resamples=task.resamples), ~part.harmful
    return AtThresholds(
        precision=figures.precision,
        recall=figures.recall,
        f1=figures.f1,
        weighted_f1=figures.weighted_f1,
        recall_by_sets=metrics.rate_figure(flagged[part.harmful], part.sets[part.harmful], what="harmful texts"),
        fpr_by_sets=metrics.rate_figure(flagged[benign], part.sets[benign], what="benign texts"),
        worst=metrics.worst(metrics.set_rates(flagged[benign], part.sets[benign])),
        confusion=metrics.confusion(
            part.harmful.astype(np.int64), flagged.astype(np.int64), (task.rows.labels[0], "harmful")
        ),
    )


def _cuts(rates: Sequence[float], sample: Sample, stages: Names) -> dict[float, dict[str, Cut]]:
    """Rate -> stage -> cut, of stages with enough benign texts."""
    found: dict[float, dict[str, Cut]] = {rate: {} for rate in rates}
    for stage in np.unique(stages):
        part = sample.of(stages == stage)
        for rate, own in found.items():
            if part.negatives >= metrics.needed_for(rate):
                own[str(stage)] = metrics.cut_at(part, rate)
    return found


def _left_out(task: _Task, sample: Sample) -> Iterable[LeftOut]:
    """Every set at the cuts of all others, stage by stage."""
    for stage in np.unique(task.rows.stages):
        there = task.rows.stages == stage
        part = sample.of(there)
        names, counts = np.unique(part.sets, return_counts=True)
        for name in names[counts >= metrics.FEWEST_OF_A_SET]:
            inside = part.sets == name
            others, own = part.of(~inside & ~part.harmful), part.of(inside)
            for rate in task.rates:
                needed = metrics.needed_for(rate)
                if others.n < needed:
                    reason = f"a rate of {rate:g} needs {needed:,} benign texts of other sets, there are {others.n:,}"
                    fpr = recall = Figure(n=own.n, reason=reason)
                    score = None
                else:
                    score = metrics.cut_at(others, rate).score
                    above = own.scores > score
                    fpr = _share(above[~own.harmful], "benign texts")
                    recall = _share(above[own.harmful], "harmful texts")
                yield LeftOut(name=str(name), stage=str(stage), rate=rate, cut=score, fpr=fpr, recall=recall)


def _realised(task: _Task, budget: Budget, flagged: Bools) -> Iterable[Realised]:
    rows, unseen = task.rows, task.unseen()
    needed = metrics.needed_for(budget.max_fpr)
    for stage in np.unique(rows.stages):
        there = unseen & (rows.stages == stage)
        benign, harmful = there & ~rows.harmful, there & rows.harmful
        if _stage(stage) in budget.thresholds:
            what = f"benign texts of unseen sets at a rate of {budget.max_fpr:g}"
            fpr = metrics.rate_figure(flagged[benign], rows.sets[benign], fewest=needed, what=what)
            recall = metrics.rate_figure(flagged[harmful], rows.sets[harmful], what="harmful texts of unseen sets")
            found = metrics.worst(metrics.set_rates(flagged[benign], rows.sets[benign]))
        else:
            reason = (
                f"the detector keeps no threshold for stage {str(stage)!r}: it was fitted on too few benign texts of it"
            )
            fpr = recall = Figure(n=int(there.sum()), reason=reason)
            found = None
        yield Realised(max_fpr=budget.max_fpr, stage=str(stage), fpr=fpr, recall=recall, worst=found)


def _classes(rows: Texts, spec: HeadSpec, labels: Doubles, flagged: Bools) -> Confusion | None:
    """What texts of each class were taken for: the likeliest of the data's classes, or benign if not flagged."""
    names = rows.labels[1:]
    if len(names) < 2 or not set(names) <= set(spec.labels):
        return None
    likeliest = labels[:, [spec.labels.index(name) for name in names]].argmax(axis=1)
    taken = np.where(flagged, likeliest + 1, 0)
    return metrics.confusion(rows.classes, np.asarray(taken, np.int64), rows.labels)


def _lengths(windows: Ints) -> Iterable[tuple[str, Bools]]:
    for low, high in LENGTHS:
        own = (windows >= low) & (windows <= (high or windows.max()))
        name = f"{low}+ windows" if high is None else f"{low} window" if low == high else f"{low}-{high} windows"
        if own.any():
            yield name, own
    if (windows == 0).any():
        yield "empty or not read", windows == 0


def _sets(task: _Task) -> Iterable[tuple[str, Bools, bool | None]]:
    """Sets with enough texts, and the others together."""
    names, at, counts = np.unique(task.rows.sets, return_inverse=True, return_counts=True)
    enough = counts >= metrics.FEWEST_OF_A_SET
    for number in np.flatnonzero(enough):
        known = None if task.fitted is None else bool(np.isin(names[number], task.fitted))
        yield str(names[number]), at == number, known
    if not enough.all():
        yield f"{int((~enough).sum())} sets of fewer than {metrics.FEWEST_OF_A_SET} texts", ~enough[at], None


def _silent(what: str, done: int, total: int) -> None:
    """For whoever does not ask."""


def _share(flagged: Bools, what: str) -> Figure:
    """A share of one set's texts."""
    one = np.zeros(len(flagged), np.str_)
    return metrics.rate_figure(flagged, one, what=what).model_copy(update={"over_sets": None})


def _read(name: str, detector: LayerDetector, rows: Texts, tell: Progress) -> list[Scores]:
    steps = [
        Step(stage=_stage(stage), text=text, context=context)
        for stage, text, context in zip(rows.stages, rows.texts, rows.contexts, strict=True)
    ]
    found: list[Scores] = []
    for start in range(0, len(steps), _BATCH):
        tell(f"reading with {name}", start, len(steps))
        found += detector.score(steps[start : start + _BATCH])
    tell(f"reading with {name}", len(steps), len(steps))
    if all(own.unread is not None for own in found):
        raise DetectorError(f"{name}: could read none of {len(found):,} texts; the first: {found[0].unread}")
    return found


def _check(rows: Texts, rates: Sequence[float]) -> None:
    harmful = rows.harmful
    if not harmful.any() or harmful.all():
        kind = "benign" if not harmful.any() else "harmful"
        raise UnsupportedValueError(
            f"all {len(harmful):,} texts are {kind}, so nothing can be told apart: add texts of the other class"
        )
    for stage in np.unique(rows.stages) if rates else ():
        if harmful[rows.stages == stage].all():
            raise UnsupportedValueError(
                f"stage {str(stage)!r} has no benign text, so it can't be cut at a false-positive rate of "
                f"{rates[0]:g}: add benign texts of that stage, leave its texts out, or ask for no rate"
            )


def _spec(name: str, detector: LayerDetector, head: str) -> HeadSpec:
    specs = {spec.name: spec for spec in detector.heads}
    if head not in specs:
        raise UnsupportedValueError(
            f"{name} ({detector.detector_id}) has no head {head!r}{_nearest(head, specs)}; "
            f"its heads: {', '.join(specs)}"
        )
    return specs[head]


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _stage(name: str) -> Stage:
    """A stage out of an array of strings; a step refuses what is none."""
    return cast("Stage", str(name))
