"""Ranks layers without fitting a head: two scores in closed form over text-level features.

They tell how well a linear model could do on what it is fitted on, and know nothing of other sources. So they screen,
and `agreement` says how far they would have led to the layers that the sweep found best.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict
from scipy.stats import kendalltau, spearmanr

from lec_guard.detect.bundle import FeatureBlock
from lec_guard.detect.extractor import Block
from lec_guard.errors import UnsupportedValueError
from lec_guard.train.features import Features
from lec_guard.train.fit import Floats, Ints
from lec_guard.train.sweep import Sweep, each_layer, name_of

Measure = Literal["h_score", "log_me"]
MEASURES: tuple[Measure, ...] = ("h_score", "log_me")

_Wide = npt.NDArray[np.float64]
_ROUNDS = 100
"""Steps of LogME's fixed point at most; it takes about ten."""
_FEWEST = 3
"""Candidates below which a rank correlation means nothing."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Screened(_Part):
    """The scores of some features; the higher, the better.

    Attributes:
        name: The features, as reports name them.
        blocks: The features.
        layer: The highest layer that they need.
        h_score: See `h_score`.
        log_me: See `log_me`.
    """

    name: str
    blocks: tuple[FeatureBlock, ...]
    layer: int
    h_score: float
    log_me: float


class Screen(_Part):
    """What came of a screen.

    Attributes:
        texts: How many texts it saw.
        rows: Each candidate, in the order they were given.
    """

    texts: int
    rows: tuple[Screened, ...]

    def ranking(self, measure: Measure) -> tuple[Screened, ...]:
        """The candidates, best first.

        Args:
            measure: By which score.

        Returns:
            All rows.
        """
        return tuple(sorted(self.rows, key=lambda row: -getattr(row, measure)))


class Agreement(_Part):
    """How a screen's order goes with a sweep's, at one size.

    Attributes:
        measure: The score that was screened by.
        size: Texts that heads were fitted on.
        candidates: How many both know.
        kendall: Kendall's tau-b between score and mean AUC: 1 the same order, -1 the reverse; None where fewer than
            three candidates or equal figures leave nothing to rank.
        spearman: Spearman's rank correlation, likewise.
        lost: Mean AUC of the sweep's best less that of the screen's first: what choosing by the screen costs.
    """

    measure: Measure
    size: int
    candidates: int
    kendall: float | None
    spearman: float | None
    lost: float


def h_score(features: Floats, labels: Ints) -> float:
    """How much of features' covariance lies between classes (Bao et al. 2019), shrunk (Ibrahim et al. 2021).

    `tr(S⁻¹ B)`, where S is the covariance of features and B that of their class means. With fewer texts than features
    S can't be inverted, so both are shrunk by Ledoit and Wolf's amount a, as in "Newer is not always better: Rethinking
    transferability metrics" (section 4): `(1 - a) tr(((1 - a) S + a m I)⁻¹ B)`, m being the mean variance.

    Args:
        features: `[texts, features]`.
        labels: The class of each text, `[texts]`.

    Returns:
        Between 0 and the number of classes less one.

    Raises:
        UnsupportedValueError: If there is one class alone, a shape does not fit, or a number is not finite.
    """
    wide = _checked(features, labels)
    centred = wide - wide.mean(axis=0)
    mean_variance = float((centred**2).mean())
    if not mean_variance:
        return 0.0  # All texts are alike.
    variances, directions = _spectrum(centred)
    shrinkage = _shrinkage(centred, variances)
    # S and B in the directions in which texts differ at all: the class means have no part in others.
    shrunk = (1 - shrinkage) * variances / len(wide) + shrinkage * mean_variance
    between = np.zeros(len(variances))
    for k in np.unique(labels):
        own = labels == k
        # Texts are rows of `directions * sqrt(variances)`, turned.
        between += own.mean() * (directions[own].mean(axis=0) ** 2) * variances
    return float((1 - shrinkage) * (between / shrunk).sum())


def log_me(features: Floats, labels: Ints) -> float:
    """The evidence for a linear model of the labels, at the best prior and noise (You et al. 2021, algorithm 1).

    For each class, `max log p(y | features, a, b) / texts`, where y is 1 for the class and 0 for others, weights have
    the prior `N(0, 1/a)` and y the noise `N(0, 1/b)`; the mean over classes. There is no intercept, as in the paper.

    Args:
        features: `[texts, features]`.
        labels: The class of each text, `[texts]`.

    Returns:
        Log density a text, so that figures of one set of texts compare; the higher, the better.

    Raises:
        UnsupportedValueError: As `h_score` does.
    """
    wide = _checked(features, labels)
    variances, directions = _spectrum(wide)
    return float(np.mean([_evidence(variances, directions, labels == k, wide.shape[1]) for k in np.unique(labels)]))


def screen(
    features: Features,
    labels: Ints,
    *,
    candidates: Sequence[Sequence[Block]] | None = None,
    texts: Ints | None = None,
) -> Screen:
    """Score candidates by the means of texts over their windows.

    Args:
        features: Of the texts' windows; every text has one at least.
        labels: The class of each text, `[texts]`.
        candidates: The blocks of each; None for those that `sweep` tries.
        texts: Which texts to look at, such as `Parts.draw` of `lec_guard.train.sweep.split`: a screen must not see
            what the sweep tests on. None for all.

    Returns:
        The scores.

    Raises:
        UnsupportedValueError: If a block was not collected, a text has no window, or the texts have one class alone.
    """
    own = np.arange(features.texts) if texts is None else texts
    if labels.shape != (features.texts,):
        raise UnsupportedValueError(f"labels {labels.shape} for {features.texts} texts: give one each")
    rows = []
    for blocks in each_layer(features.blocks) if candidates is None else candidates:
        means = features.means(blocks)[own]
        rows.append(
            Screened(
                name=name_of(blocks),
                blocks=tuple(FeatureBlock(**asdict(block)) for block in blocks),
                layer=max(block.layer for block in blocks),
                h_score=h_score(means, labels[own]),
                log_me=log_me(means, labels[own]),
            )
        )
    return Screen(texts=len(own), rows=tuple(rows))


def agreement(screened: Screen, swept: Sweep) -> tuple[Agreement, ...]:
    """How far a screen would have led to what a sweep found best.

    Args:
        screened: The scores.
        swept: The sweep; its mean AUC at the C that it chose is what counts.

    Returns:
        One for each measure and size that the sweep has.

    Raises:
        UnsupportedValueError: If they have no candidate in common.
    """
    rows = swept.summary()
    known = {row.blocks: row for row in screened.rows}
    if not any(row.blocks in known for row in rows):
        raise UnsupportedValueError("screen and sweep have no features in common: screen what was swept")
    found = []
    for measure in MEASURES:
        for size in sorted({row.size for row in rows}):
            both = [row for row in rows if row.size == size and row.blocks in known]
            scores = np.array([getattr(known[row.blocks], measure) for row in both])
            aucs = np.array([row.auc.mean for row in both])
            ranked = len(both) >= _FEWEST and len(np.unique(scores)) > 1 and len(np.unique(aucs)) > 1
            found.append(
                Agreement(
                    measure=measure,
                    size=size,
                    candidates=len(both),
                    kendall=float(kendalltau(scores, aucs).statistic) if ranked else None,
                    spearman=float(spearmanr(scores, aucs).statistic) if ranked else None,
                    lost=float(aucs.max() - aucs[scores.argmax()]),
                )
            )
    return tuple(found)


def _spectrum(rows: _Wide) -> tuple[_Wide, _Wide]:
    """Squared singular values and left singular vectors, `[rank]` and `[texts, rank]`, of `[texts, features]`.

    By the smaller of the two products of the matrix with itself: several times faster than decomposing the matrix.
    """
    if rows.shape[0] <= rows.shape[1]:
        values, left = np.linalg.eigh(rows @ rows.T)
        keep = values > values.max() * 1e-12
        return values[keep], left[:, keep]
    values, right = np.linalg.eigh(rows.T @ rows)
    keep = values > values.max() * 1e-12
    return values[keep], rows @ right[:, keep] / np.sqrt(values[keep])


def _shrinkage(centred: _Wide, variances: _Wide) -> float:
    """Ledoit and Wolf's amount ("A well-conditioned estimator for large-dimensional covariance matrices", 2004).

    scikit-learn finds the same number by a product of features with features; the spectrum has it already.
    """
    texts, width = centred.shape
    square = float((variances**2).sum()) / texts**2
    spread = square - float(variances.sum() / texts) ** 2 / width
    error = (float(((centred**2).sum(axis=1) ** 2).mean()) - square) / texts
    return min(error / spread, 1.0) if spread > 0 else 1.0


def _evidence(variances: _Wide, directions: _Wide, own: npt.NDArray[np.bool_], width: int) -> float:
    """Log evidence a text of one class against the others, at the fixed point of prior and noise."""
    y = own.astype(np.float64)
    n = len(y)
    z = (directions.T @ y) ** 2
    outside = max(float(y @ y - z.sum()), 0.0)  # What no weights can give.
    prior = noise = 1.0
    for _ in range(_ROUNDS):
        ratio = prior / noise
        freedom = float((variances / (ratio + variances)).sum())
        weights = float((variances * z / (ratio + variances) ** 2).sum())
        missed = float((z * (ratio / (ratio + variances)) ** 2).sum()) + outside
        # Bounded, because labels that the features give exactly would have no noise, and others no weights.
        prior = max(freedom, 1e-10) / max(weights, 1e-10)
        noise = max(n - freedom, 1e-10) / max(missed, 1e-10)
        if abs(prior / noise - ratio) <= 1e-4 * ratio:
            break
    ratio = prior / noise
    weights = float((variances * z / (ratio + variances) ** 2).sum())
    missed = float((z * (ratio / (ratio + variances)) ** 2).sum()) + outside
    log_determinant = float(np.log(prior + noise * variances).sum()) + (width - len(variances)) * math.log(prior)
    log_evidence = n * math.log(noise / (2 * math.pi)) + width * math.log(prior) - log_determinant
    return (log_evidence - noise * missed - prior * weights) / (2 * n)


def _checked(features: Floats, labels: Ints) -> _Wide:
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise UnsupportedValueError(f"features {features.shape} and labels {labels.shape} don't fit")
    if len(np.unique(labels)) < 2:
        raise UnsupportedValueError("layers are screened by how they tell classes apart: give texts of two at least")
    wide = features.astype(np.float64)
    if not np.isfinite(wide).all():
        raise UnsupportedValueError("a feature is no finite number")
    return wide
