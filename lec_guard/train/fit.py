"""Penalised logistic regression on window features, with scaler and calibration folded into one matrix.

The labels of texts are known, those of their windows are not: a document with an injected sentence is
benign in most of its windows. A first fit therefore picks the window that stands for an attacked text, its
highest, and the others are left out, as in MI-SVM (Andrews et al. 2002, "Support Vector Machines for
Multiple-Instance Learning", section 3.2), with one round.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

MANY_CLASSES = "The number of unique classes is greater than"
"""How scikit-learn begins to say that few texts of many classes look like a regression; here they never are one."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Columns of a head's matrix.

    Attributes:
        weight: `[features, columns]`.
        bias: `[columns]`.
    """

    weight: Floats
    bias: Floats

    def logits(self, features: Floats) -> Floats:
        """`[n, features]` -> `[n, columns]`."""
        return features @ self.weight + self.bias

    def scaled(self, slope: float, offset: float) -> Columns:
        """The columns whose logits are `slope * logit + offset`."""
        return Columns(np.asarray(self.weight * slope, np.float32), np.asarray(self.bias * slope + offset, np.float32))


def fit_binary(features: Floats, labels: Ints, weights: Floats, *, c: float) -> Columns:
    """Fit one column.

    Args:
        features: `[n, features]`.
        labels: 0 or 1, `[n]`.
        weights: Weight of each row, `[n]`.
        c: Inverse strength of the L2 penalty on standardised features.

    Returns:
        One column over the raw features.
    """
    return _fit(features, labels, weights, c)


def fit_categories(features: Floats, labels: Ints, weights: Floats, *, c: float) -> Columns:
    """Fit one column a category, by multinomial regression.

    Args:
        features: `[n, features]`.
        labels: 0 … categories - 1, each at least once, `[n]`.
        weights: Weight of each row, `[n]`.
        c: Inverse strength of the L2 penalty on standardised features.

    Returns:
        One column a category over the raw features.
    """
    columns = _fit(features, labels, weights, c)
    if columns.bias.shape == (1,):
        # Of two categories scikit-learn gives only the second one's log odds.
        return Columns(
            np.hstack([np.zeros_like(columns.weight), columns.weight]), np.concatenate([[np.float32(0)], columns.bias])
        )
    return columns


_STILL = 2**-7
"""The spread of a feature, as a share of its mean, below which it says nothing: bfloat16 tells no finer steps apart."""


def _fit(features: Floats, labels: Ints, weights: Floats, c: float) -> Columns:
    scaler = StandardScaler().fit(features, sample_weight=weights)
    # What hardly moves beside its own size is lost where a backend rounds; scaled up it would be all that a head hears.
    scaler.scale_[scaler.scale_ < _STILL * np.abs(scaler.mean_)] = np.inf
    model = LogisticRegression(C=c, max_iter=300, tol=1e-3)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=MANY_CLASSES)
        model.fit(scaler.transform(features), labels, sample_weight=weights)
    weight = model.coef_ / scaler.scale_
    bias = model.intercept_ - weight @ scaler.mean_
    return Columns(np.asarray(weight.T, np.float32), np.asarray(bias, np.float32))


def fit_windows(features: Floats, owner: Ints, labels: Ints, weights: Floats, *, c: float) -> Columns:
    """Fit one column to windows of which only the texts' labels are known.

    Args:
        features: `[windows, features]`.
        owner: The text of each window, `[windows]`.
        labels: 0 or 1 for each text, `[texts]`.
        weights: Weight of each text, `[texts]`.
        c: Inverse strength of the L2 penalty on standardised features.

    Returns:
        One column over the raw features.
    """
    first = fit_binary(features, labels[owner], shares(owner, weights), c=c)
    keep = standing(first.logits(features)[:, 0], owner, labels)
    return fit_binary(features[keep], labels[owner[keep]], shares(owner[keep], weights), c=c)


def shares(owner: Ints, weights: Floats) -> Floats:
    """Split the weight of each text among its windows.

    Args:
        owner: The text of each window, `[windows]`.
        weights: Weight of each text, `[texts]`.

    Returns:
        Weight of each window, `[windows]`.
    """
    return np.asarray((weights / np.maximum(np.bincount(owner, minlength=len(weights)), 1))[owner], np.float32)


def some_of_each(owner: Ints, most: Ints) -> npt.NDArray[np.bool_]:
    """Some windows of each text, drawn at random, the same ones on every run: long texts would outweigh all else.

    Args:
        owner: The text of each window, `[windows]`.
        most: Of each window, how many its text gives at most, `[windows]`.

    Returns:
        Which windows, `[windows]`.
    """
    order = np.lexsort((np.random.default_rng(0).random(len(owner)), owner))
    ordered = owner[order]
    rank = np.empty(len(owner), np.int64)
    rank[order] = np.arange(len(owner)) - np.searchsorted(ordered, ordered)
    return np.asarray(rank < most)


def copied(owner: Ints, text: Ints, texts: int) -> tuple[Ints, Ints]:
    """Windows of texts of which some occur several times, as one of which nobody is sure does for each label.

    Args:
        owner: The text of each window, `[windows]`.
        text: Which text each occurrence is of.
        texts: How many texts there are.

    Returns:
        Which window, and which occurrence it belongs to, for each window of each occurrence.
    """
    order = np.argsort(owner, kind="stable")
    counts = np.bincount(owner, minlength=texts)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    copy = np.repeat(np.arange(len(text)), counts[text])
    within = np.arange(len(copy)) - np.repeat(np.cumsum(counts[text]) - counts[text], counts[text])
    return order[np.repeat(starts[text], counts[text]) + within], copy


def standing(logits: Floats, owner: Ints, labels: Ints) -> npt.NDArray[np.bool_]:
    """The windows whose text's label holds for them: all of a benign text, and the highest of an attacked one.

    Args:
        logits: `[windows]`.
        owner: The text of each window, `[windows]`.
        labels: 0 or 1 for each text, `[texts]`.

    Returns:
        Which windows, `[windows]`.
    """
    return np.asarray((labels[owner] == 0) | (logits >= highest(logits, owner, len(labels))[owner]))


def highest(logits: Floats, owner: Ints, texts: int) -> Floats:
    """The highest window of each text.

    Args:
        logits: `[windows]`.
        owner: The text of each window, `[windows]`.
        texts: How many texts there are.

    Returns:
        `[texts]`; minus infinity for a text without windows.
    """
    out = np.full(texts, -np.inf, np.float32)
    np.maximum.at(out, owner, logits)
    return out


def text_logits(
    logits: Floats,
    owner: Ints,
    texts: int,
    temperature: float,
    aggregation: Literal["log_mean_exp", "attention"] = "log_mean_exp",
) -> Floats:
    """Aggregate windows into texts, as `lec_guard.detect.heads.HeadSpec` says.

    Args:
        logits: `[windows]`.
        owner: The text of each window, `[windows]`.
        texts: How many texts there are.
        temperature: t.
        aggregation: `t * log(mean(exp(logit / t)))`, or the mean weighted by `softmax(logit / t)`.

    Returns:
        `[texts]`; minus infinity for a text without windows.
    """
    top = highest(logits, owner, texts)
    each = np.exp((logits - top[owner]) / temperature)
    shares = np.bincount(owner, weights=each, minlength=texts)
    if aggregation == "attention":
        sums = np.bincount(owner, weights=each * logits, minlength=texts)
        return np.asarray(np.where(shares > 0, sums / np.maximum(shares, 1.0), -np.inf), np.float32)
    count = np.bincount(owner, minlength=texts)
    with np.errstate(divide="ignore"):
        return np.asarray(top + temperature * np.log(shares / np.maximum(count, 1)), np.float32)


def balanced_weights(labels: Ints, families: npt.NDArray[np.str_]) -> Floats:
    """Weights under which all labels count alike, and a family counts by the root of its size.

    Args:
        labels: The class of each text, counted from 0.
        families: The family of each text.

    Returns:
        One weight a text; they sum to the number of texts where all labels occur.
    """
    classes = max(2, int(labels.max(initial=0)) + 1)
    _, family = np.unique(families, return_inverse=True)
    _, group, sizes = np.unique(family * classes + labels, return_inverse=True, return_counts=True)
    weights = 1.0 / np.sqrt(sizes[group])
    for label in range(classes):
        weights[labels == label] /= weights[labels == label].sum()
    return np.asarray(weights * len(labels) / classes, np.float32)


def family_folds(labels: Ints, families: npt.NDArray[np.str_], count: int) -> list[Ints]:
    """Split texts so that a family is never on both sides, and every fold holds out positives.

    Families with positives are dealt out first, largest first, to the fold with the fewest positives; then
    the others by negatives.

    Args:
        labels: 0 or 1 for each text.
        families: The family of each text.
        count: How many folds.

    Returns:
        The rows to hold out in each fold.

    Raises:
        ValueError: If there are fewer families with positives than folds.
    """
    names = np.unique(families)
    positives = {name: int(labels[families == name].sum()) for name in names}
    negatives = {name: int((families == name).sum()) - positives[name] for name in names}
    attacked = sorted((n for n in names if positives[n]), key=lambda n: -positives[n])
    if len(attacked) < count:
        raise ValueError(f"{len(attacked)} families with positives can't make {count} folds")
    folds: list[list[str]] = [[] for _ in range(count)]
    for name in attacked:
        min(folds, key=lambda fold: sum(positives[n] for n in fold)).append(name)
    for name in sorted((n for n in names if not positives[n]), key=lambda n: -negatives[n]):
        min(folds, key=lambda fold: sum(negatives[n] for n in fold)).append(name)
    return [np.flatnonzero(np.isin(families, fold)) for fold in folds]
