"""Every figure of a report: its value, how sure it is, and from how many texts; a sample too small says so.

Scores are probabilities of harm, higher is worse; infinity stands for a text that is flagged whatever the cut. There
are two intervals, because they answer two questions. Over texts: other texts of the same sets; texts are drawn again
within their class. Over sets: texts of other sets; whole sets are drawn again. The second is wider, and the one that
says how a figure holds elsewhere.

The bootstrap (Efron 1979) is run with weights: a resample is a vector of how often each text was drawn, so that texts
are ranked once and a statistic of all resamples is a few sums.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from lec_guard.errors import UnsupportedValueError

Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Names = npt.NDArray[np.str_]

FEWEST_OF_A_CLASS: Final = 5
"""Texts of each class that a figure of both classes needs, and texts that a share needs."""

FEWEST_FOR_INTERVAL: Final = 10
"""Texts of each class that an interval needs."""

FEWEST_SETS: Final = 4
"""Sets with texts of each class that an interval over sets needs; over fewer it would be made up."""

FEWEST_OF_A_SET: Final = 10
"""Texts of a class that a set needs to be named as the worst, or to be reported by itself."""

RESAMPLES: Final = 500
BINS: Final = 15
FEWEST_IN_BINS: Final = BINS * 10
POINTS: Final = 200
"""Of a curve, at most."""

_CHUNK = 1_000_000
"""Weights of resamples that are held at once."""
_SLACK = 1e-9
"""Sums of shares are off by their rounding."""
_Z = 1.959963984540054


class Report(BaseModel):
    """Base of what a report holds: frozen, and ready for JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Interval(Report):
    """A 95% interval over sets.

    Attributes:
        low: Its lower end; None where there are too few sets.
        high: Its upper end.
        sets: How many sets there are; of two classes those of the class with fewer.
        reason: Why there is none.
    """

    low: float | None = None
    high: float | None = None
    sets: int
    reason: str | None = None


class Figure(Report):
    """A figure, or why there is none.

    Attributes:
        value: The figure; None where the sample is too small for it.
        low: Lower end of its 95% interval over texts.
        high: Upper end.
        n: How many texts it is taken from.
        reason: Why there is no value; or, where there is one, why it has no interval.
        over_sets: The 95% interval over sets; None for what belongs to one set.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int
    reason: str | None = None
    over_sets: Interval | None = None


class SetRate(Report):
    """How many texts of one set are flagged.

    Attributes:
        name: The set.
        rate: The share of its texts that are flagged.
    """

    name: str
    rate: Figure


class Cut(Report):
    """Where benign texts reach a rate, the rate being averaged over sets, so that every set counts alike.

    Attributes:
        score: Texts with a score above it are flagged.
        rate: The share of benign texts that are, averaged over sets: the one asked for or, because of ties, less;
            more only where texts that could not be read alone exceed it.
        worst: The set with the highest share, of those with at least `FEWEST_OF_A_SET` benign texts; None without any.
    """

    score: float
    rate: float
    worst: SetRate | None


class Confusion(Report):
    """How often texts of each class were taken for each.

    Attributes:
        labels: The classes, the benign one first.
        counts: `counts[truth][taken for]`.
    """

    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


class Band(Report):
    """The 95% interval of a curve at each of its points.

    Attributes:
        low: Lower ends.
        high: Upper ends.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]


class Curve(Report):
    """A curve of at most `POINTS` points, `x` rising.

    Attributes:
        x: False-positive rates of a ROC curve, recalls of a precision-recall curve.
        y: True-positive rates, or precisions.
        over_texts: The interval over texts; None where there are too few.
        over_sets: That over sets, likewise.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]
    over_texts: Band | None = None
    over_sets: Band | None = None


class Bin(Report):
    """Texts of similar score, to hold what was promised against what was.

    Attributes:
        score: Their mean score.
        harmful: The share of them that is harmful.
        n: How many texts, about.
    """

    score: float
    harmful: float
    n: int


@dataclass(frozen=True, slots=True)
class Sample:
    """Scored texts of which it is known what they are.

    Attributes:
        scores: Probability of harm, `[n]`; infinity for a text that is flagged whatever the cut.
        harmful: Which are harmful, `[n]`.
        sets: The set (family) of each, `[n]`.

    Raises:
        UnsupportedValueError: If lengths differ, or a score is not a number.
    """

    scores: Doubles
    harmful: Bools
    sets: Names

    def __post_init__(self) -> None:
        if not len(self.scores) == len(self.harmful) == len(self.sets):
            raise UnsupportedValueError(
                f"{len(self.scores)} scores, {len(self.harmful)} labels and {len(self.sets)} sets: "
                "give each text one of each"
            )
        wrong = np.flatnonzero(np.isnan(self.scores))
        if len(wrong):
            raise UnsupportedValueError(f"the score of text {wrong[0]} is not a number")

    def of(self, rows: Bools) -> Sample:
        """Some of the texts.

        Args:
            rows: Which, `[n]`.

        Returns:
            Those.
        """
        return Sample(self.scores[rows], self.harmful[rows], self.sets[rows])

    @property
    def n(self) -> int:
        """How many texts."""
        return len(self.scores)

    @property
    def positives(self) -> int:
        """How many are harmful."""
        return int(self.harmful.sum())

    @property
    def negatives(self) -> int:
        """How many are benign."""
        return self.n - self.positives

    def alike(self) -> Doubles:
        """Weights under which, among the texts of a class, every set counts alike.

        Returns:
            `[n]`.
        """
        weights = np.empty(self.n)
        for own in (self.harmful, ~self.harmful):
            _, at, counts = np.unique(self.sets[own], return_inverse=True, return_counts=True)
            weights[own] = 1.0 / counts[at]
        return weights


class Ranking:
    """Texts in the order of their scores, for statistics of many weightings at once.

    Args:
        scores: `[n]`.
        harmful: `[n]`.
    """

    def __init__(self, scores: Doubles, harmful: Bools) -> None:
        self._order = np.argsort(-scores, kind="stable")
        ranked = scores[self._order]
        # Texts of equal score are on the same side of every cut.
        self._ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True)) if len(ranked) else np.empty(0, int)
        self._harmful = harmful[self._order].astype(np.float64)
        self.distinct: Doubles = ranked[self._ends]

    def sums(self, weights: Doubles) -> Sums:
        """Add up weights from the highest score down.

        Args:
            weights: `[resamples, n]`.

        Returns:
            The sums at each distinct score.
        """
        ranked = weights[:, self._order]
        harmful = np.cumsum(ranked * self._harmful, axis=1)[:, self._ends]
        return Sums(harmful, np.cumsum(ranked, axis=1)[:, self._ends] - harmful)


@dataclass(frozen=True, slots=True)
class Sums:
    """Weights of the texts that score at least as high as each distinct score, highest first.

    Attributes:
        harmful: `[resamples, distinct scores]`.
        benign: Likewise.
    """

    harmful: Doubles
    benign: Doubles

    def auc(self) -> Doubles:
        """Area under the ROC curve, `[resamples]`: a harmful text is above a benign one; ties count half."""
        before = np.concatenate([np.zeros_like(self.harmful[:, :1]), self.harmful[:, :-1]], axis=1)
        area = (_steps(self.benign) * (self.harmful + before)).sum(axis=1) / 2
        return _over(area, self.harmful[:, -1] * self.benign[:, -1])

    def average_precision(self) -> Doubles:
        """Area under the precision-recall curve as a sum of steps, `[resamples]`."""
        precision = _over(self.harmful, self.harmful + self.benign, empty=0.0)
        return _over((_steps(self.harmful) * precision).sum(axis=1), self.harmful[:, -1])


def auc(scores: Doubles, harmful: Bools, weights: Doubles | None = None) -> float:
    """Area under the ROC curve.

    Args:
        scores: `[n]`.
        harmful: `[n]`, both classes.
        weights: Weight of each text, `[n]`; None: all alike.

    Returns:
        In 0..1; NaN for one class.
    """
    return float(Ranking(scores, harmful).sums(_row(weights, len(scores))).auc()[0])


def average_precision(scores: Doubles, harmful: Bools, weights: Doubles | None = None) -> float:
    """Area under the precision-recall curve, as a sum of steps.

    Args:
        scores: `[n]`.
        harmful: `[n]`, at least one.
        weights: Weight of each text, `[n]`; None: all alike.

    Returns:
        In 0..1; NaN where nothing is harmful.
    """
    return float(Ranking(scores, harmful).sums(_row(weights, len(scores))).average_precision()[0])


def needed_for(rate: float) -> int:
    """Benign texts that a rate can be measured with.

    Args:
        rate: A false-positive rate.

    Returns:
        3 / rate: of fewer, none at all could be flagged while the rate is higher (the rule of three, at 95%).
    """
    return math.ceil(3 / rate - 1e-9)


def cut_at(sample: Sample, rate: float) -> Cut:
    """The lowest cut at which benign texts are flagged no more often than at a rate, averaged over their sets.

    Args:
        sample: Scored texts of one stage; the benign ones count.
        rate: In 0..1.

    Returns:
        The cut.

    Raises:
        UnsupportedValueError: If there is no benign text, or the rate is none.
    """
    if not 0.0 < rate < 1.0:
        raise UnsupportedValueError(f"a false-positive rate lies between 0 and 1, not at {rate}")
    benign = sample.of(~sample.harmful)
    if not benign.n:
        raise UnsupportedValueError(f"no benign text, so nothing can be cut at a false-positive rate of {rate:g}")
    ranking = Ranking(benign.scores, benign.harmful)
    running = ranking.sums(benign.alike()[None]).benign
    at = int(_cut_indices(running / running[:, -1:], ranking.distinct, rate)[0])
    score = float(ranking.distinct[at]) if at < len(ranking.distinct) else 1.0
    flagged = benign.scores > score
    return Cut(
        score=score,
        rate=float(np.average(flagged, weights=benign.alike())),
        worst=worst(set_rates(flagged, benign.sets)),
    )


def set_rates(flagged: Bools, sets: Names) -> tuple[SetRate, ...]:
    """How many texts of each set are flagged.

    Args:
        flagged: `[n]`.
        sets: The set of each text, `[n]`.

    Returns:
        One a set, the highest rate first.
    """
    names, at = np.unique(sets, return_inverse=True)
    counts = np.bincount(at, minlength=len(names))
    hits = np.bincount(at, weights=flagged, minlength=len(names))
    order = np.lexsort((-counts, -hits / counts)) if len(names) else np.empty(0, int)
    return tuple(SetRate(name=str(names[i]), rate=_proportion(hits[i] / counts[i], int(counts[i]))) for i in order)


def worst(rates: Sequence[SetRate]) -> SetRate | None:
    """The set with the highest rate.

    Args:
        rates: Of sets, the highest first.

    Returns:
        The first of those with at least `FEWEST_OF_A_SET` texts; None without any.
    """
    return next((own for own in rates if own.rate.n >= FEWEST_OF_A_SET), None)


def rate_figure(flagged: Bools, sets: Names, *, fewest: int = FEWEST_OF_A_CLASS, what: str = "texts") -> Figure:
    """The share of texts that are flagged, averaged over their sets.

    The interval over texts is Wilson's (1927), with Kish's effective sample size for the unequal weights: a
    bootstrap of "none of them" would be sure of it.

    Args:
        flagged: `[n]`.
        sets: The set of each text, `[n]`.
        fewest: How many texts the figure needs.
        what: What the texts are, for the reason.

    Returns:
        The figure.
    """
    n = len(flagged)
    if n < fewest:
        return Figure(n=n, reason=f"needs {fewest:,} {what}, there are {n:,}")
    names, at, counts = np.unique(sets, return_inverse=True, return_counts=True)
    rates = np.bincount(at, weights=flagged) / counts
    value = float(rates.mean())
    effective = len(names) ** 2 / float((1.0 / counts).sum())
    if len(names) < FEWEST_SETS:
        over_sets = Interval(sets=len(names), reason=_too_few_sets(len(names)))
    else:
        drawn = np.random.default_rng(0).integers(0, len(names), (RESAMPLES, len(names)))
        low, high = np.percentile(rates[drawn].mean(axis=1), [2.5, 97.5])
        over_sets = Interval(low=float(low), high=float(high), sets=len(names))
    return _proportion(value, n, effective).model_copy(update={"over_sets": over_sets})


@dataclass(frozen=True, slots=True)
class Ranks:
    """Figures of how well harmful texts are ranked above benign ones.

    Attributes:
        auc: Area under the ROC curve, every text counting alike.
        auc_by_sets: The same where every set counts alike within its class.
        auprc: Area under the precision-recall curve; it depends on how many of the texts are harmful.
    """

    auc: Figure
    auc_by_sets: Figure
    auprc: Figure


def ranks(sample: Sample, *, resamples: int = RESAMPLES) -> Ranks:
    """AUC and AUPRC with their intervals.

    Args:
        sample: Scored texts.
        resamples: How many, of each interval.

    Returns:
        The figures.
    """
    ranking, alike = Ranking(sample.scores, sample.harmful), sample.alike()

    def statistic(weights: Doubles) -> Doubles:
        sums = ranking.sums(weights)
        return np.stack([sums.auc(), ranking.sums(weights * alike).auc(), sums.average_precision()], axis=1)

    return Ranks(*_of_both(sample, statistic, 3, resamples))


@dataclass(frozen=True, slots=True)
class AtThresholds:
    """Figures of flags that stand.

    Attributes:
        precision: Of the flagged texts, how many are harmful.
        recall: Of the harmful texts, how many are flagged; every text counts alike.
        f1: Their harmonic mean.
        weighted_f1: F1 of both classes, weighted by how many texts are of each.
    """

    precision: Figure
    recall: Figure
    f1: Figure
    weighted_f1: Figure


def at_thresholds(sample: Sample, flagged: Bools, *, resamples: int = RESAMPLES) -> AtThresholds:
    """Precision, recall and F1 with their intervals.

    Args:
        sample: Texts of which it is known what they are.
        flagged: Which of them are flagged, `[n]`.
        resamples: How many, of each interval.

    Returns:
        The figures.
    """
    kinds = np.stack(
        [
            sample.harmful & flagged,
            ~sample.harmful & flagged,
            sample.harmful & ~flagged,
            ~sample.harmful & ~flagged,
        ],
        axis=1,
    ).astype(np.float64)

    def statistic(weights: Doubles) -> Doubles:
        hit, alarm, missed, quiet = (weights @ kinds).T
        f1 = _over(2 * hit, 2 * hit + alarm + missed, empty=0.0)
        benign_f1 = _over(2 * quiet, 2 * quiet + alarm + missed, empty=0.0)
        weighted = _over(f1 * (hit + missed) + benign_f1 * (quiet + alarm), weights.sum(axis=1))
        return np.stack([_over(hit, hit + alarm, empty=0.0), _over(hit, hit + missed), f1, weighted], axis=1)

    return AtThresholds(*_of_both(sample, statistic, 4, resamples))


def confusion(truth: npt.NDArray[np.int64], taken: npt.NDArray[np.int64], labels: Sequence[str]) -> Confusion:
    """Count what texts were taken for.

    Args:
        truth: The class of each text, `[n]`.
        taken: The class it was taken for, `[n]`.
        labels: The classes.

    Returns:
        The counts.
    """
    counts = np.zeros((len(labels), len(labels)), np.int64)
    np.add.at(counts, (truth, taken), 1)
    return Confusion(labels=tuple(labels), counts=tuple(tuple(int(count) for count in row) for row in counts))


def recall_at(sample: Sample, stages: Names, rate: float, *, resamples: int = RESAMPLES) -> Figure:
    """Recall, averaged over sets, where each stage is cut at a false-positive rate, averaged over its benign sets.

    The cuts are taken again in each resample, so that the intervals hold what is not known of them.

    Args:
        sample: Scored texts.
        stages: The stage of each, `[n]`.
        rate: In 0..1.
        resamples: How many, of each interval.

    Returns:
        The figure.

    Raises:
        UnsupportedValueError: If a stage has no benign text; names it.
    """
    names = [str(name) for name in np.unique(stages)]
    benign = {name: int((~sample.harmful & (stages == name)).sum()) for name in names}
    for name, count in benign.items():
        if not count:
            raise UnsupportedValueError(
                f"stage {name!r} has no benign text, so it can't be cut at a false-positive rate of {rate:g}: "
                "add benign texts of that stage, leave its texts out, or ask for no rate"
            )
        if count < needed_for(rate):
            reason = f"a rate of {rate:g} needs {needed_for(rate):,} benign texts, stage {name!r} has {count:,}"
            return Figure(n=sample.n, reason=reason)
    parts = []
    alike = sample.alike()
    for name in names:
        own = stages == name
        part = sample.of(own)
        # Among harmful texts a set counts once over all stages; among benign ones, once in each.
        weights = np.where(part.harmful, alike[own], part.alike())
        parts.append((np.flatnonzero(own), weights, Ranking(part.scores, part.harmful)))

    def statistic(weights: Doubles) -> Doubles:
        hit, total = np.zeros(len(weights)), np.zeros(len(weights))
        for rows, base, ranking in parts:
            sums = ranking.sums(weights[:, rows] * base)
            at = _cut_indices(_over(sums.benign, sums.benign[:, -1:]), ranking.distinct, rate)
            above = np.take_along_axis(sums.harmful, np.maximum(at - 1, 0)[:, None], axis=1)[:, 0]
            # A draw without a benign text of the stage has no cut.
            hit += np.where(sums.benign[:, -1] > 0, np.where(at > 0, above, 0.0), np.nan)
            total += sums.harmful[:, -1]
        return _over(hit, total)[:, None]

    return _of_both(sample, statistic, 1, resamples)[0]


def brier(sample: Sample, *, resamples: int = RESAMPLES) -> Figure:
    """Mean squared distance of scores from what is (Brier 1950); 0 is best.

    Args:
        sample: Scored texts; infinity counts as 1.
        resamples: How many, of each interval.

    Returns:
        The figure.
    """
    errors = (np.minimum(sample.scores, 1.0) - sample.harmful) ** 2
    return _of_both(sample, lambda weights: _over(weights @ errors, weights.sum(axis=1))[:, None], 1, resamples)[0]


def reliability(sample: Sample) -> tuple[Bin, ...]:
    """Up to `BINS` bins of equally many texts, from the lowest score up.

    Texts of equal score share what is true of them, since nothing but their order in a file could part them.

    Args:
        sample: Scored texts; infinity counts as 1.

    Returns:
        The bins; fewer where there are fewer texts.
    """
    if not sample.n:
        return ()
    values, at, counts = np.unique(np.minimum(sample.scores, 1.0), return_inverse=True, return_counts=True)
    share = np.bincount(at, weights=sample.harmful) / counts
    scores, harmful = np.repeat(values, counts), np.repeat(share, counts)
    parts = zip(*(np.array_split(of, min(BINS, sample.n)) for of in (scores, harmful)), strict=True)
    return tuple(Bin(score=float(p.mean()), harmful=float(y.mean()), n=len(p)) for p, y in parts)


def calibration_error(sample: Sample) -> Figure:
    """Expected calibration error: how far mean score and share of harmful texts are apart, averaged over the bins.

    Naeini et al. 2015, "Obtaining Well Calibrated Probabilities Using Bayesian Binning", here with bins of equally
    many texts. It holds for the share of harmful texts that the sample has.

    Args:
        sample: Scored texts.

    Returns:
        The figure, without an interval.
    """
    if sample.n < FEWEST_IN_BINS:
        return Figure(n=sample.n, reason=f"needs {FEWEST_IN_BINS} texts for {BINS} bins, there are {sample.n}")
    missing = _missing(sample)
    if missing:
        return Figure(n=sample.n, reason=missing)
    value = sum(own.n * abs(own.score - own.harmful) for own in reliability(sample)) / sample.n
    return Figure(value=value, n=sample.n, reason="no interval: resampling makes a calibration error larger")


def roc_curve(sample: Sample, *, resamples: int = RESAMPLES) -> Curve | None:
    """True-positive rate over false-positive rate.

    Args:
        sample: Scored texts.
        resamples: How many, of each band.

    Returns:
        The curve with its bands; None with too few texts of a class.
    """
    if _missing(sample):
        return None
    ranking = Ranking(sample.scores, sample.harmful)
    sums = ranking.sums(np.ones((1, sample.n)))
    x, y = (np.append(0.0, of[0] / of[0, -1]) for of in (sums.benign, sums.harmful))
    # A plot may have a logarithmic axis.
    kept = _thin(x, y, np.log10(np.maximum(x, 1.0 / sample.negatives)))

    def values(own: Sums) -> Doubles:
        at = _rows_searched(_over(own.benign, own.benign[:, -1:]), x[kept] + _SLACK, "right")
        rates = np.concatenate([np.zeros((len(at), 1)), _over(own.harmful, own.harmful[:, -1:])], axis=1)
        return np.take_along_axis(rates, at, axis=1)

    return _with_bands(sample, ranking, x[kept], y[kept], values, resamples)


def precision_recall_curve(sample: Sample, *, resamples: int = RESAMPLES) -> Curve | None:
    """Precision over recall.

    Args:
        sample: Scored texts.
        resamples: How many, of each band.

    Returns:
        The curve with its bands; None with too few texts of a class.
    """
    if _missing(sample):
        return None
    ranking = Ranking(sample.scores, sample.harmful)
    sums = ranking.sums(np.ones((1, sample.n)))
    x = sums.harmful[0] / sums.harmful[0, -1]
    y = sums.harmful[0] / (sums.harmful + sums.benign)[0]
    kept = _thin(x, y)

    def values(own: Sums) -> Doubles:
        precision = _over(own.harmful, own.harmful + own.benign, empty=0.0)
        at = _rows_searched(_over(own.harmful, own.harmful[:, -1:]), x[kept] - _SLACK, "left")
        return np.take_along_axis(precision, np.minimum(at, precision.shape[1] - 1), axis=1)

    return _with_bands(sample, ranking, x[kept], y[kept], values, resamples)


Statistic = Callable[[Doubles], Doubles]
"""Weights of texts, `[resamples, n]` -> values, `[resamples, statistics]`."""


def _of_both(sample: Sample, statistic: Statistic, count: int, resamples: int) -> list[Figure]:
    """Figures that need both classes, with their intervals."""
    missing = _missing(sample)
    if missing:
        return [Figure(n=sample.n, reason=missing)] * count
    values = statistic(np.ones((1, sample.n)))[0]
    reason = None
    lows: Sequence[float | None]
    highs: Sequence[float | None]
    lows = highs = [None] * count
    if min(sample.positives, sample.negatives) < FEWEST_FOR_INTERVAL:
        reason = f"no interval: it needs {FEWEST_FOR_INTERVAL} texts of each class, {_have(sample)}"
    else:
        lows, highs = _percentiles(map(statistic, _over_texts(sample, resamples)))
    sets = _sets(sample)
    if sets < FEWEST_SETS:
        over_sets = [Interval(sets=sets, reason=_too_few_sets(sets))] * count
    else:
        ends = _percentiles(map(statistic, _over_sets(sample, resamples)))
        over_sets = [Interval(low=low, high=high, sets=sets) for low, high in zip(*ends, strict=True)]
    return [
        Figure(value=float(value), low=low, high=high, n=sample.n, reason=reason, over_sets=interval)
        for value, low, high, interval in zip(values, lows, highs, over_sets, strict=True)
    ]


def _with_bands(
    sample: Sample, ranking: Ranking, x: Doubles, y: Doubles, values: Callable[[Sums], Doubles], resamples: int
) -> Curve:
    def band(draws: Iterator[Doubles]) -> Band:
        low, high = _percentiles(values(ranking.sums(weights)) for weights in draws)
        return Band(low=tuple(low), high=tuple(high))

    enough = min(sample.positives, sample.negatives) >= FEWEST_FOR_INTERVAL
    return Curve(
        x=tuple(x.tolist()),
        y=tuple(y.tolist()),
        over_texts=band(_over_texts(sample, resamples)) if enough else None,
        over_sets=band(_over_sets(sample, resamples)) if _sets(sample) >= FEWEST_SETS else None,
    )


def _over_texts(sample: Sample, resamples: int) -> Iterator[Doubles]:
    """How often each text is drawn within its class, `[some resamples, n]`; the same on every run."""
    random = np.random.default_rng(0)
    for size in _sizes(sample.n, resamples):
        weights = np.empty((size, sample.n))
        for own in (sample.harmful, ~sample.harmful):
            weights[:, own] = _counts(random, size, int(own.sum()))
        yield weights


def _over_sets(sample: Sample, resamples: int) -> Iterator[Doubles]:
    """How often the set of each text is drawn, `[some resamples, n]`."""
    random = np.random.default_rng(0)
    names, at = np.unique(sample.sets, return_inverse=True)
    for size in _sizes(sample.n, resamples):
        yield _counts(random, size, len(names))[:, at]


def _counts(random: np.random.Generator, rows: int, n: int) -> Doubles:
    drawn = random.integers(0, n, (rows, n)) + np.arange(rows)[:, None] * n
    return np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)


def _sizes(n: int, resamples: int) -> Iterator[int]:
    most = max(1, _CHUNK // max(n, 1))
    for start in range(0, resamples, most):
        yield min(most, resamples - start)


def _percentiles(parts: Iterator[Doubles]) -> tuple[list[float], list[float]]:
    """Ends of the 95% intervals; a draw without one of the classes says nothing."""
    drawn = np.concatenate(list(parts))
    drawn = drawn[~np.isnan(drawn).any(axis=1)]
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    return low.tolist(), high.tolist()


def _cut_indices(rates: Doubles, distinct: Doubles, rate: float) -> npt.NDArray[np.int64]:
    """The first distinct score at which a running rate exceeds the one asked for: the cut, `[resamples]`."""
    first: npt.NDArray[np.int64] = np.argmax(rates > rate + _SLACK, axis=1)
    # Texts that were not read are flagged whatever the cut.
    return np.asarray(np.maximum(first, int((distinct == np.inf).sum())), np.int64)


def _rows_searched(rows: Doubles, values: Doubles, side: Literal["left", "right"]) -> npt.NDArray[np.int64]:
    return np.array([np.searchsorted(row, values, side=side) for row in rows], np.int64)


def _thin(x: Doubles, y: Doubles, *scales: Doubles) -> npt.NDArray[np.int64]:
    """Points of a curve, evenly along it, on the axes as they are and on others of `x`; both ends are kept."""
    if len(x) <= POINTS:
        return np.arange(len(x))
    kept = [np.array([0, len(x) - 1])]
    each = (POINTS - 2) // (1 + len(scales))
    for scale in (x, *scales):
        spread = (scale - scale.min()) / max(float(np.ptp(scale)), _SLACK)
        along = np.append(0.0, np.cumsum(np.abs(np.diff(spread)) + np.abs(np.diff(y))))
        kept.append(np.searchsorted(along, np.linspace(0.0, along[-1], each)))
    return np.unique(np.minimum(np.concatenate(kept), len(x) - 1))


def _proportion(value: float, n: int, effective: float | None = None) -> Figure:
    """A share with Wilson's interval."""
    if n < FEWEST_FOR_INTERVAL:
        return Figure(value=value, n=n, reason=f"no interval: it needs {FEWEST_FOR_INTERVAL} texts, there are {n}")
    size = n if effective is None else effective
    middle = value + _Z**2 / (2 * size)
    spread = _Z * np.sqrt(value * (1 - value) / size + _Z**2 / (4 * size**2))
    low, high = (float(np.clip((middle + sign * spread) / (1 + _Z**2 / size), 0.0, 1.0)) for sign in (-1, 1))
    return Figure(value=value, low=min(low, value), high=max(high, value), n=n)


def _missing(sample: Sample) -> str | None:
    if min(sample.positives, sample.negatives) >= FEWEST_OF_A_CLASS:
        return None
    return f"needs {FEWEST_OF_A_CLASS} texts of each class, {_have(sample)}"


def _have(sample: Sample) -> str:
    return f"there are {sample.positives:,} harmful and {sample.negatives:,} benign ones"


def _sets(sample: Sample) -> int:
    """Sets with texts of a class, of the class with fewer."""
    return min(len(np.unique(sample.sets[own])) for own in (sample.harmful, ~sample.harmful))


def _too_few_sets(sets: int) -> str:
    return f"needs {FEWEST_SETS} sets with texts of each class, there are {sets}"


def _steps(sums: Doubles) -> Doubles:
    return np.diff(sums, axis=1, prepend=0.0)


def _over(part: Doubles, whole: Doubles, *, empty: float = np.nan) -> Doubles:
    out = np.full(np.broadcast_shapes(part.shape, whole.shape), empty)
    np.divide(part, whole, out=out, where=whole > 0)
    return out


def _row(weights: Doubles | None, n: int) -> Doubles:
    return np.ones((1, n)) if weights is None else np.asarray(weights, np.float64)[None]
