"""One head, from features to columns: penalty, aggregation, calibration, and what is known of its false alarms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lec_guard.detect.heads import HeadSpec, HeadStack, LengthOffset, LengthOffsets
from lec_guard.step import Stage
from lec_guard.train.calibrate import Aggregation, aggregate, benign_scores, best_of, platt
from lec_guard.train.fit import Columns, Floats, Ints, balanced_weights, text_logits
from lec_guard.train.select import Bags, alarms, fit_bags, out_of_family

_LEAST_SLOPE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedHead:
    """A head that is ready to be written.

    Attributes:
        spec: What its columns mean.
        columns: The columns, calibrated.
        aggregations: The ways of aggregating that were tried.
        platt: Slope and offset of the calibration.
        scores: What each text would have scored, had its family not been seen: `[texts, labels]`.
    """

    spec: HeadSpec
    columns: Columns
    aggregations: tuple[Aggregation, ...]
    platt: tuple[float, float]
    scores: Floats


def fit_head(
    features: Floats,
    bags: Bags,
    folds: Sequence[Ints],
    stages: Sequence[Stage],
    *,
    name: str,
    labels: Sequence[str],
    c: float,
) -> FittedHead:
    """Fit a head under a penalty that was chosen.

    Args:
        features: `[windows, features]`.
        bags: The texts.
        folds: The texts to leave out, fold by fold.
        stages: The stage of each text.
        name: The head's name.
        labels: The classes, the benign one first.
        c: Inverse strength of the L2 penalty.

    Returns:
        The head, fitted on all texts; aggregation, calibration and quantiles come of models that had not seen the
        family of the text.
    """
    left_out = out_of_family(features, bags, folds, c=c)
    fitted = fit_bags(features, bags, np.ones(len(features), np.bool_), c=c)
    return _judged(left_out, bags, stages, fitted, name, labels)


def fit_head_apart(
    features: Floats,
    bags: Bags,
    held: npt.NDArray[np.bool_],
    stages: Sequence[Stage],
    *,
    name: str,
    labels: Sequence[str],
    c: float,
) -> FittedHead:
    """Fit a head to some texts, and judge it on others alone: for features that were trained on the first ones.

    Features that know a text make it easy to tell, and folds over such texts would promise what no new text keeps.

    Args:
        features: `[windows, features]`.
        bags: The texts.
        held: Which texts neither features nor head have seen, `[texts]`; whole families.
        stages: The stage of each text.
        name: The head's name.
        labels: The classes, the benign one first.
        c: Inverse strength of the L2 penalty.

    Returns:
        The head, fitted to the others. Aggregation, calibration and quantiles come of the held-out texts; `scores` are
        theirs, in their order.
    """
    fitted, left_out = fit_apart(features, bags, held, c=c)
    own_stages = [stage for stage, out in zip(stages, held.tolist(), strict=True) if out]
    return _judged(left_out, bags.only(held), own_stages, fitted, name, labels)


def fit_apart(features: Floats, bags: Bags, held: npt.NDArray[np.bool_], *, c: float) -> tuple[Columns, Floats]:
    """Fit to some texts, and see what that says of the others.

    Args:
        features: `[windows, features]`.
        bags: The texts.
        held: Which texts it is not fitted to, `[texts]`.
        c: Inverse strength of the L2 penalty.

    Returns:
        The columns, and their logits for the windows of the held-out texts, `[windows of these, columns]`.
    """
    out = held[bags.owner]
    fitted = fit_bags(features, bags, ~out, c=c)
    return fitted, fitted.logits(features[out])


def _judged(
    left_out: Floats, bags: Bags, stages: Sequence[Stage], fitted: Columns, name: str, labels: Sequence[str]
) -> FittedHead:
    """A head with what is known of it by logits of texts that it had not seen."""
    draft, tried = _aggregation(
        left_out,
        bags,
        HeadSpec(name=name, kind="binary" if len(labels) == 2 else "multiclass", labels=tuple(labels[1:])),
    )
    slope, offset = _calibration(left_out, bags, draft)
    spec = draft.model_copy(
        update={
            "temperature": draft.temperature * slope,
            "length_offsets": tuple(
                LengthOffset(windows=point.windows, logit=point.logit * slope) for point in draft.length_offsets
            ),
        }
    )
    scores = _text_scores(_calibrated(left_out, slope, offset), bags, spec)
    benign = bags.harmful == 0
    windows = np.bincount(bags.owner, minlength=len(bags.targets))
    own_stages = np.asarray(stages)[benign]
    known = benign_scores(scores[benign].max(axis=1), windows[benign], bags.families[benign], own_stages)
    return FittedHead(
        spec=spec.model_copy(update={"benign": known}),
        columns=Columns(_calibrated(fitted.weight, slope, 0.0), _calibrated(fitted.bias[None], slope, offset)[0]),
        aggregations=tried,
        platt=(slope, offset),
        scores=scores,
    )


def _aggregation(logits: Floats, bags: Bags, spec: HeadSpec) -> tuple[HeadSpec, tuple[Aggregation, ...]]:
    """The spec with the way of aggregating that finds most, and all that were tried."""
    sure, harmful = alarms(logits), bags.harmful
    tried = aggregate(sure, bags.owner, harmful, bags.families, harmful == 0)
    best = best_of(tried)
    offsets = tuple(LengthOffset(windows=n, logit=taken) for n, taken in best.taken_off.items())
    found = {"aggregation": best.method, "temperature": best.parameter, "length_offsets": offsets}
    return spec.model_copy(update=found), tuple(tried)


def _calibration(logits: Floats, bags: Bags, spec: HeadSpec) -> tuple[float, float]:
    """Slope and offset for a head's alarm; a text of which nobody is sure counts on both sides."""
    texts = text_logits(alarms(logits), bags.owner, len(bags.targets), spec.temperature, spec.aggregation)
    windows = np.bincount(bags.owner, minlength=len(bags.targets))
    offsets = LengthOffsets(spec.length_offsets)
    texts -= np.array([offsets.of(max(int(n), 1)) for n in windows], np.float32)
    read = np.isfinite(texts)
    harm = 1 - bags.targets[read, 0]
    weights, labels = balanced_weights(bags.harmful, bags.families)[read], np.repeat([1, 0], read.sum())
    slope, offset = platt(np.tile(texts[read], 2), labels, np.concatenate([weights * harm, weights * (1 - harm)]))
    # Where left-out families turn a head upside down it knows nothing; turned round it would know no more.
    return max(slope, _LEAST_SLOPE), offset


def _calibrated(logits: Floats, slope: float, offset: float) -> Floats:
    """Columns whose alarm is `slope * alarm + offset`: `[n, columns]`."""
    shift = np.full(logits.shape[1], offset)
    if len(shift) > 1:
        shift[0] = 0.0  # The alarm of several columns is what a label's has beyond that of none.
    return np.asarray(logits * slope + shift, np.float32)


def _text_scores(logits: Floats, bags: Bags, spec: HeadSpec) -> Floats:
    """What the head says of texts, by the code that says it in service: `[texts, labels]`."""
    columns = logits.shape[1]
    heads = HeadStack([spec], np.eye(columns, dtype=np.float32), np.zeros(columns, np.float32))
    order = np.argsort(bags.owner, kind="stable")
    borders = np.searchsorted(bags.owner[order], np.arange(len(bags.targets) + 1))
    scores = np.zeros((len(bags.targets), len(spec.labels)), np.float32)
    for text in np.unique(bags.owner):
        scores[text] = heads.text_scores(logits[order[borders[text] : borders[text + 1]]])[spec.name]
    return scores
