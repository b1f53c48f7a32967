"""Means over answers, with intervals: answers of one conversation are alike, and are drawn together."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lec_guard.train.metrics import FEWEST_FOR_INTERVAL, FEWEST_OF_A_CLASS, RESAMPLES, Figure

_NONE_OF_THEM = -math.log(0.025)
"""The upper end of the 95% interval of a Poisson count of 0 (Garwood 1936): a bootstrap would be sure of 0."""


def mean_figure(values: Sequence[float], groups: Sequence[str], *, what: str = "conversations") -> Figure:
    """A mean, and its 95% interval by a bootstrap over groups (Efron 1979).

    Args:
        values: `[n]`, counts or differences.
        groups: What each belongs to, `[n]`.
        what: What groups are, for the reason.

    Returns:
        The figure; `n` is how many values it is taken from.
    """
    n = len(values)
    if n < FEWEST_OF_A_CLASS:
        return Figure(n=n, reason=f"needs {FEWEST_OF_A_CLASS} answers, there are {n}")
    own = np.asarray(values, np.float64)
    names, at = np.unique(np.asarray(groups), return_inverse=True)
    mean = float(own.mean())
    if len(names) < FEWEST_FOR_INTERVAL:
        reason = f"no interval: it needs {FEWEST_FOR_INTERVAL} {what}, there are {len(names)}"
        return Figure(value=mean, n=n, reason=reason)
    if not own.any():
        return Figure(value=0.0, low=0.0, high=_NONE_OF_THEM / len(names), n=n)
    sums, counts = np.bincount(at, weights=own), np.bincount(at)
    drawn = np.random.default_rng(0).integers(0, len(names), (RESAMPLES, len(names)))
    low, high = np.percentile(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1), [2.5, 97.5])
    return Figure(value=mean, low=min(float(low), mean), high=max(float(high), mean), n=n)
