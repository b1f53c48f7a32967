"""From the logits of windows to scores that mean something: aggregation, length, calibration, benign quantiles.

All of it is measured on logits of models that had not seen the family of the text.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression

from lec_guard.detect.heads import BenignScores
from lec_guard.step import Stage
from lec_guard.train.fit import Floats, Ints, highest

LENGTHS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
"""Windows of the documents on which lengths are measured."""

DOCUMENTS = 1500
"""How many documents of each length are made up."""

_WINDOWS = 2**22
"""They have no more windows than this together: of the longest there are fewer."""

PRIOR = 0.5
"""Share of harmful texts that calibrated probabilities take for granted: both sides count alike."""

BUDGET = 0.01
"""Share of benign documents that may raise an alarm, whatever their length."""

RATES = (0.5, 0.2, 0.1, 0.05, 0.025, 0.01, 0.005, 0.0025, 0.001)
"""Shares of benign texts whose scores a bundle keeps."""

BINS = (1, 2, 4, 8, 16, 64)
"""Numbers of windows from which benign texts are counted apart."""

FEWEST = 300
"""A bin of fewer texts is counted with its neighbour: so many tell of one in a hundred (rule of three)."""

_POOL = 100
"""Windows that a family needs so that documents are made of it."""


@dataclass(frozen=True)
class Aggregation:
    """How windows make a text's logit, and what came of it on documents of many lengths.

    `log_mean_exp` has a temperature; `top_mean` is the mean of that many highest windows; `attention` is the mean
    weighted by the softmax of the windows' own logits over a temperature.
    """

    method: Literal["log_mean_exp", "top_mean", "attention"]
    parameter: float
    taken_off: dict[int, float]
    recall_by_windows: dict[int, float]
    false_alarms_by_windows: dict[int, float]

    @property
    def gain(self) -> float:
        """Recall beyond false alarms, over all lengths."""
        sums = [float(np.mean(list(own.values()))) for own in (self.recall_by_windows, self.false_alarms_by_windows)]
        return sums[0] - sums[1]

    def logits(self, windows: Floats) -> Floats:
        """`[documents, windows]` -> `[documents]`, before what is taken off for their length."""
        first = windows[:, 0]
        return np.asarray(self.logits_with(first[None], self.rest(windows[:, 1:]))[0], np.float32)

    def rest(self, windows: Floats) -> Floats:
        """What is to be known of all windows of documents but one: `[documents, windows]` -> `[documents, sums]`."""
        documents, n = windows.shape
        if self.method == "top_mean":
            most = min(int(self.parameter), n)
            top = -np.partition(-windows, most - 1, axis=1)[:, :most] if most else windows
            padding = np.full((documents, int(self.parameter) - most), -np.inf, np.float32)
            return np.hstack([top, padding])
        top = windows.max(axis=1, initial=-np.inf)
        each = np.exp((windows - np.where(np.isfinite(top), top, 0)[:, None]) / self.parameter)
        return np.stack([top, each.sum(axis=1), (each * windows).sum(axis=1), np.full(documents, n)], axis=1)

    def logits_with(self, windows: Floats, rest: Floats) -> Floats:
        """The documents' logits with one more window each.

        Args:
            windows: The one more, as often as wanted: `[times, documents]`.
            rest: What `rest` gave of the others.

        Returns:
            `[times, documents]`, before what is taken off for their length.
        """
        if self.method == "top_mean":
            every = np.concatenate([np.broadcast_to(rest, (len(windows), *rest.shape)), windows[..., None]], axis=2)
            top = -np.sort(-every, axis=2)[..., : int(self.parameter)]
            there = np.isfinite(top)
            return np.asarray(np.where(there, top, 0).sum(axis=2) / there.sum(axis=2), np.float32)
        below, total, weighted, n = rest.T
        top = np.maximum(windows, below)
        fade, own = np.exp((below - top) / self.parameter), np.exp((windows - top) / self.parameter)
        shares = total * fade + own
        if self.method == "attention":
            return np.asarray((weighted * fade + own * windows) / shares, np.float32)
        return np.asarray(top + self.parameter * np.log(shares / (n + 1)), np.float32)


AGGREGATIONS = [
    # No higher: whoever pads a text with harmless pages would choose its score.
    *(Aggregation("log_mean_exp", t, {}, {}, {}) for t in (0.1, 0.3, 0.5, 1.0, 2.0)),
    *(Aggregation("attention", t, {}, {}, {}) for t in (0.3, 1.0, 2.0)),
    *(Aggregation("top_mean", m, {}, {}, {}) for m in (1, 3, 5)),
]
"""What is tried: `top_mean` of one is the bare maximum, for comparison; no detector aggregates by it."""


def aggregate(
    logits: Floats,
    owner: Ints,
    labels: Ints,
    families: npt.NDArray[np.str_],
    harmless: npt.NDArray[np.bool_],
) -> list[Aggregation]:
    """Measure on made-up documents what is to be taken off for length, and on others what comes of it.

    A document is n harmless windows of one family that the model had not seen; an attacked one has one of them
    replaced by the highest window of an attacked text. Every family counts alike.

    Args:
        logits: Of windows, from models that had not seen their family: `[windows]`.
        owner: The text of each window, `[windows]`.
        labels: 0 or 1 for each text, `[texts]`.
        families: The family of each text, `[texts]`.
        harmless: The texts of whose windows documents are made, `[texts]`.

    Returns:
        All `AGGREGATIONS`, with what was measured.
    """
    chosen, family = harmless[owner], families[owner]
    pools = [logits[chosen & (family == f)] for f in np.unique(families[harmless])]
    large = [pool for pool in pools if len(pool) >= _POOL]
    pools = large or [_like(np.concatenate(pools))]
    witness = highest(logits, owner, len(labels))
    attacks = [witness[(labels == 1) & (families == f)] for f in np.unique(families[labels == 1])]
    attacks = [attack[np.isfinite(attack)] for attack in attacks]
    attacks = [attack for attack in attacks if len(attack)]
    bars: list[dict[int, float]] = [{} for _ in AGGREGATIONS]
    recall: list[dict[int, float]] = [{} for _ in AGGREGATIONS]
    alarms: list[dict[int, float]] = [{} for _ in AGGREGATIONS]
    for n in LENGTHS:
        first, second = _documents(pools, n, seed=0), _documents(pools, n, seed=1)
        replaced = np.stack([np.random.default_rng(i).choice(own, len(second)) for i, own in enumerate(attacks)])
        for number, way in enumerate(AGGREGATIONS):
            bar = bars[number][n] = float(np.quantile(way.logits(first), 1 - BUDGET))
            rest = way.rest(second[:, 1:])
            alarms[number][n] = float((way.logits_with(second[None, :, 0], rest) > bar).mean())
            recall[number][n] = float((way.logits_with(replaced, rest) > bar).mean())
    return [
        replace(
            way,
            taken_off={n: bars[number][n] - bars[number][1] for n in LENGTHS},
            recall_by_windows=recall[number],
            false_alarms_by_windows=alarms[number],
        )
        for number, way in enumerate(AGGREGATIONS)
    ]


def best_of(tried: Sequence[Aggregation]) -> Aggregation:
    """The way that finds most, of those that detectors aggregate by.

    Args:
        tried: What `aggregate` gave.

    Returns:
        The one with the largest gain.
    """
    return max((way for way in tried if way.method != "top_mean"), key=lambda way: way.gain)


def _like(logits: Floats) -> Floats:
    """More of the same kind, where no family has enough windows: drawn from their normal distribution."""
    return np.random.default_rng(0).normal(logits.mean(), logits.std(), 10 * _POOL).astype(np.float32)


def _documents(pools: list[Floats], n: int, *, seed: int) -> Floats:
    """Logits of made-up harmless documents of n windows: `[documents, n]`."""
    random = np.random.default_rng([seed, n])
    each = max(min(DOCUMENTS, _WINDOWS // n) // len(pools), 1)
    return np.concatenate([random.choice(pool, (each, n)) for pool in pools])


def platt(logits: Floats, labels: Ints, weights: Floats) -> tuple[float, float]:
    """Slope and offset that turn out-of-family logits into log odds.

    Platt 1999, "Probabilistic Outputs for Support Vector Machines", section 2.2: of n texts of a side, one more is
    taken to be of the other, or few texts that a head tells apart without a mistake would make it as sure as can be.

    Args:
        logits: `[n]`, from models that have not seen the row's family.
        labels: 0 or 1, `[n]`.
        weights: Weight of each row; they state the prior.

    Returns:
        Slope and offset.
    """
    counts = np.maximum(np.bincount(labels[weights > 0], minlength=2), 1)
    doubt = (1 / (counts + 2))[labels]
    both = np.concatenate([weights * (1 - doubt), weights * doubt])
    sides = np.concatenate([labels, 1 - labels])
    model = LogisticRegression(C=1e6).fit(np.tile(logits, 2)[:, None], sides, sample_weight=both)
    return float(model.coef_[0, 0]), float(model.intercept_[0])


def threshold_at(scores: Floats, families: npt.NDArray[np.str_], rate: float) -> float:
    """The score that benign texts exceed at a rate, where every family counts alike.

    Args:
        scores: Of benign texts, `[texts]`.
        families: Their families, `[texts]`.
        rate: A share of them.

    Returns:
        The score; a share of `rate` or less lies above it.
    """
    order = np.argsort(-scores)
    _, family, sizes = np.unique(families, return_inverse=True, return_counts=True)
    share = 1 / sizes[family]
    running = np.cumsum(share[order] / share.sum())
    return float(scores[order][np.searchsorted(running, rate)])


def threshold_of_most(scores: Floats, families: npt.NDArray[np.str_], rate: float, share: float) -> float:
    """The score that benign texts of most families exceed at a rate at most.

    A mean over families says little of the next one: one family may have all of the alarms. This is an upper quantile
    of the families' own thresholds. Families of fewer texts than it takes to see the rate once are counted as one: the
    highest score of a few texts says nothing of it.

    Args:
        scores: Of benign texts, `[texts]`.
        families: Their families, `[texts]`.
        rate: A share of each family's texts.
        share: The share of families that are to keep the rate.

    Returns:
        The score; in that share of the families or more a share of `rate` or less lies above it.
    """
    counted = _counted(families, math.ceil(1 / rate))
    own = [np.quantile(scores[counted == name], 1 - rate, method="higher") for name in np.unique(counted)]
    return float(np.quantile(own, share, method="higher"))


def benign_scores(
    scores: Floats,
    windows: Ints,
    families: npt.NDArray[np.str_],
    stages: npt.NDArray[np.str_] | Sequence[Stage],
    *,
    of_bin: int = FEWEST,
    of_family: int = 1,
    of_families: float | None = None,
) -> tuple[BenignScores, ...]:
    """Count how high benign texts score, by stage and number of windows.

    Args:
        scores: Final scores of benign texts, from models that had not seen their family: `[texts]`.
        windows: How many windows each has.
        families: The family of each.
        stages: The stage of each.
        of_bin: Texts of so many windows are only counted apart where there are so many of them.
        of_family: Families with fewer texts of a stage and length are counted as one there, or where they are too few
            together, with the largest: families count alike, so that a few texts could outweigh hundreds.
        of_families: A score stands for a rate that this share of the families keeps, or the mean of all of them, which
            ever is higher; None: for the mean alone.

    Returns:
        What a head's spec keeps; nothing of a stage where so few texts were seen that no rate is known.
    """
    found: list[BenignScores] = []
    stages = np.asarray(stages)
    windows = np.maximum(windows, 1)  # A text without any is as short as texts get.
    for stage in np.unique(stages):
        there = stages == stage
        edges = _edges(windows[there], of_bin)
        for low, high in zip(edges, [*edges[1:], np.inf], strict=True):
            own = there & (windows >= low) & (windows < high)
            rates = [rate for rate in RATES if rate * own.sum() >= 3]
            inside, counted = scores[own], _counted(families[own], of_family)
            bars = [threshold_at(inside, counted, rate) for rate in rates]
            if of_families is not None:
                most = [threshold_of_most(inside, counted, rate, of_families) for rate in rates]
                # At a lower rate others may be counted as one; what is rarer still scores no less.
                bars = list(itertools.accumulate(map(max, bars, most), max))
            worst = [max(float((inside[counted == n] > bar).mean()) for n in np.unique(counted)) for bar in bars]
            if rates:
                found.append(
                    BenignScores(
                        stage=stage.item(),
                        windows=low,
                        texts=int(own.sum()),
                        families=len(np.unique(families[own])),
                        rates=tuple(rates),
                        scores=tuple(bars),
                        worst=tuple(worst),
                    )
                )
    return tuple(found)


def _counted(families: npt.NDArray[np.str_], fewest: int) -> npt.NDArray[np.str_]:
    """As what each text is counted: its family, unless that has too few."""
    names, at, sizes = np.unique(families, return_inverse=True, return_counts=True)
    few = sizes < fewest
    others = len(names) if few.all() or sizes[few].sum() >= fewest else int(sizes.argmax())
    return np.where(few, others, np.arange(len(names)))[at].astype(np.str_)


def _edges(windows: Ints, fewest: int) -> list[int]:
    """Where bins start, so that each holds enough texts."""
    edges: list[int] = [1]
    for edge in BINS[1:]:
        below = ((windows >= edges[-1]) & (windows < edge)).sum()
        if below >= fewest and (windows >= edge).sum() >= fewest:
            edges.append(edge)
    return edges
