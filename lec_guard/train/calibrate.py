"""From the logits of windows to scores that mean something: aggregation, length, calibration, benign quantiles.

All of it is measured on logits of models that had not seen the family of the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression

from lec_guard.detect.heads import BenignScores
from lec_guard.step import Stage
from lec_guard.train.fit import Floats, Ints, highest, text_logits

LENGTHS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
"""Windows of the documents on which lengths are measured."""

DOCUMENTS = 1500
"""How many documents of each length are made up."""

BUDGET = 0.01
"""Share of benign documents that may raise an alarm, whatever their length."""

RATES = (0.5, 0.2, 0.1, 0.05, 0.025, 0.01, 0.005, 0.0025, 0.001)
"""Shares of benign texts whose scores a bundle keeps."""

BINS = (1, 2, 4, 8, 16, 64)
"""Numbers of windows from which benign texts are counted apart."""

_FEWEST = 300
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
        documents, n = windows.shape
        if self.method == "top_mean":
            most = min(int(self.parameter), n)
            return np.asarray(-np.partition(-windows, most - 1, axis=1)[:, :most].mean(axis=1), np.float32)
        owner = np.repeat(np.arange(documents), n)
        return text_logits(windows.ravel(), owner, documents, self.parameter, self.method)


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
    way: Aggregation,
) -> Aggregation:
    """Measure on made-up documents what is to be taken off for length, and on others what comes of it.

    A document is n harmless windows of one family that the model had not seen; an attacked one has one of them
    replaced by the highest window of an attacked text. Every family counts alike.

    Args:
        logits: Of windows, from models that had not seen their family: `[windows]`.
        owner: The text of each window, `[windows]`.
        labels: 0 or 1 for each text, `[texts]`.
        families: The family of each text, `[texts]`.
        harmless: The texts of whose windows documents are made, `[texts]`.
        way: How windows are aggregated.

    Returns:
        The same with what was measured.
    """
    chosen, family = harmless[owner], families[owner]
    pools = [logits[chosen & (family == f)] for f in np.unique(families[harmless])]
    large = [pool for pool in pools if len(pool) >= _POOL]
    pools = large or [_like(np.concatenate(pools))]
    witness = highest(logits, owner, len(labels))
    attacks = [witness[(labels == 1) & (families == f)] for f in np.unique(families[labels == 1])]
    attacks = [attack[np.isfinite(attack)] for attack in attacks]
    attacks = [attack for attack in attacks if len(attack)]
    quantiles = {n: _quantile(way.logits(_documents(pools, n, seed=0))) for n in LENGTHS}
    recall, alarms = {}, {}
    for n in LENGTHS:
        bar = quantiles[n]
        documents = _documents(pools, n, seed=1)
        alarms[n] = float((way.logits(documents) > bar).mean())
        caught = []
        for number, attack in enumerate(attacks):
            documents[:, 0] = np.random.default_rng(number).choice(attack, len(documents))
            caught.append(float((way.logits(documents) > bar).mean()))
        recall[n] = float(np.mean(caught))
    return replace(
        way,
        taken_off={n: quantiles[n] - quantiles[1] for n in LENGTHS},
        recall_by_windows=recall,
        false_alarms_by_windows=alarms,
    )


def _like(logits: Floats) -> Floats:
    """More of the same kind, where no family has enough windows: drawn from their normal distribution."""
    return np.random.default_rng(0).normal(logits.mean(), logits.std(), 10 * _POOL).astype(np.float32)


def _documents(pools: list[Floats], n: int, *, seed: int) -> Floats:
    """Logits of made-up harmless documents of n windows: `[documents, n]`."""
    random = np.random.default_rng([seed, n])
    return np.concatenate([random.choice(pool, (DOCUMENTS // len(pools), n)) for pool in pools])


def _quantile(values: Floats) -> float:
    return float(np.quantile(values, 1 - BUDGET))


def platt(logits: Floats, labels: Ints, weights: Floats) -> tuple[float, float]:
    """Slope and offset that turn out-of-family logits into log odds (Platt 1999).

    Args:
        logits: `[n]`, from models that have not seen the row's family.
        labels: 0 or 1, `[n]`.
        weights: Weight of each row; they state the prior.

    Returns:
        Slope and offset.
    """
    model = LogisticRegression(C=1e6).fit(logits[:, None], labels, sample_weight=weights)
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


def benign_scores(
    scores: Floats, windows: Ints, families: npt.NDArray[np.str_], stages: npt.NDArray[np.str_] | Sequence[Stage]
) -> tuple[BenignScores, ...]:
    """Count how high benign texts score, by stage and number of windows.

    Args:
        scores: Final scores of benign texts, from models that had not seen their family: `[texts]`.
        windows: How many windows each has.
        families: The family of each.
        stages: The stage of each.

    Returns:
        What a head's spec keeps; nothing of a stage where so few texts were seen that no rate is known.
    """
    found: list[BenignScores] = []
    stages = np.asarray(stages)
    windows = np.maximum(windows, 1)  # A text without any is as short as texts get.
    for stage in np.unique(stages):
        there = stages == stage
        edges = _edges(windows[there])
        for low, high in zip(edges, [*edges[1:], np.inf], strict=True):
            own = there & (windows >= low) & (windows < high)
            rates = [rate for rate in RATES if rate * own.sum() >= 3]
            bars = [threshold_at(scores[own], families[own], rate) for rate in rates]
            names = np.unique(families[own])
            worst = [max(float((scores[own & (families == n)] > bar).mean()) for n in names) for bar in bars]
            if rates:
                found.append(
                    BenignScores(
                        stage=stage.item(),
                        windows=low,
                        texts=int(own.sum()),
                        families=len(names),
                        rates=tuple(rates),
                        scores=tuple(bars),
                        worst=tuple(worst),
                    )
                )
    return tuple(found)


def _edges(windows: Ints) -> list[int]:
    """Where bins start, so that each holds enough texts."""
    edges: list[int] = [1]
    for edge in BINS[1:]:
        below = ((windows >= edges[-1]) & (windows < edge)).sum()
        if below >= _FEWEST and (windows >= edge).sum() >= _FEWEST:
            edges.append(edge)
    return edges
