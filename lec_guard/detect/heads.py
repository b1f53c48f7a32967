"""Penalised logistic regression over feature vectors: all heads of a detector as one matrix.

A head is what LEC calls a PLR classifier: one column a label on top of frozen features. Scaler and
calibration are folded into the matrix when it is fitted, so nothing else has to be stored or applied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from lec_guard.errors import BundleError

Matrix = npt.NDArray[np.float32]

_Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class HeadSpec(BaseModel):
    """What the columns of a head mean.

    Attributes:
        name: The name that policies use.
        kind: `binary`: one column, the probability of the only label. `multiclass`: one column a label
            and one before them for "none of these". `two_level`: one column for the first label, then
            one a category; a category's probability is its share, given the first label, times that one.
        labels: The labels that the head can raise, in the order of the columns.
        temperature: How a text's windows make its logit: `t * log(mean(exp(logit / t)))`, between their
            highest (t near 0) and their mean (t large).
        length_terms: What a text of n windows has subtracted from its logit: the first times log n, and the
            second times its square, so that false alarms are as frequent as for one window.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: _Label
    kind: Literal["binary", "multiclass", "two_level"]
    labels: Annotated[tuple[_Label, ...], Field(min_length=1)]
    temperature: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 1.0
    length_terms: tuple[float, float] = (0.0, 0.0)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("a label stands twice")
        if self.kind == "binary" and len(self.labels) != 1:
            raise ValueError("a binary head has one label")
        if self.kind == "two_level" and len(self.labels) < 3:
            raise ValueError("a two-level head has a first label and at least two categories")
        return self

    @property
    def columns(self) -> int:
        """How many columns of the matrix belong to the head."""
        return len(self.labels) + (self.kind == "multiclass")


class HeadStack:
    """Heads that read the same features, as one matrix product.

    Args:
        specs: The heads in the order of their columns.
        weight: `[features, columns]`.
        bias: `[columns]`.

    Raises:
        BundleError: If shapes and heads don't fit, or a number is not finite.
    """

    def __init__(self, specs: Sequence[HeadSpec], weight: Matrix, bias: Matrix) -> None:
        columns = sum(spec.columns for spec in specs)
        if weight.ndim != 2 or weight.shape[1] != columns or bias.shape != (columns,):
            raise BundleError(f"the heads need {columns} columns; weight is {weight.shape} and bias {bias.shape}")
        if len({spec.name for spec in specs}) != len(specs):
            raise BundleError("two heads have the same name")
        self.specs = tuple(specs)
        with np.errstate(over="ignore"):
            self.weight = weight.astype(np.float32)
            self.bias = bias.astype(np.float32)
        if not (np.isfinite(self.weight).all() and np.isfinite(self.bias).all()):
            raise BundleError("the heads hold numbers that are not finite")
        ends = np.cumsum([spec.columns for spec in specs])
        self._slices = [slice(end - spec.columns, end) for spec, end in zip(specs, ends, strict=True)]

    @property
    def labels(self) -> dict[str, tuple[str, ...]]:
        """Head name -> the labels that it can raise."""
        return {spec.name: spec.labels for spec in self.specs}

    def logits(self, features: Matrix) -> Matrix:
        """The one matrix product.

        Args:
            features: `[windows, features]`.

        Returns:
            `[windows, columns]`.
        """
        return features @ self.weight + self.bias

    def window_scores(self, logits: Matrix) -> dict[str, Matrix]:
        """Probabilities of each window by itself.

        Args:
            logits: `[windows, columns]`.

        Returns:
            Head name -> `[windows, labels]`.
        """
        return {
            spec.name: _probabilities(spec, logits[:, columns])
            for spec, columns in zip(self.specs, self._slices, strict=True)
        }

    def text_scores(self, logits: Matrix) -> dict[str, Matrix]:
        """Probabilities of the text that the windows make up.

        How sure a head is that a window holds something is aggregated over the windows as its spec says;
        its other columns are averaged with the weights that the windows have in that.

        Args:
            logits: `[windows, columns]`, at least one window.

        Returns:
            Head name -> `[labels]`.
        """
        scores = {}
        for spec, columns in zip(self.specs, self._slices, strict=True):
            own = logits[:, columns].astype(np.float64)
            alarm = _alarm(spec, own)
            highest = alarm.max()
            shares = np.exp((alarm - highest) / spec.temperature)
            log = np.log(len(own))
            total = highest + spec.temperature * np.log(shares.mean())
            total -= spec.length_terms[0] * log + spec.length_terms[1] * log**2
            mean = (shares / shares.sum()) @ own
            # What the average lacks to the aggregate goes to the columns that raise the alarm.
            if spec.kind == "multiclass":
                mean[1:] += total - _alarm(spec, mean[None])[0]
            else:
                mean[0] = total
            scores[spec.name] = _probabilities(spec, mean[None].astype(np.float32))[0]
        return scores


def _alarm(spec: HeadSpec, logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """How sure a head is that a window holds something: `[windows, columns]` -> `[windows]`."""
    if spec.kind == "multiclass":
        return np.asarray(logits[:, 1:].max(axis=1) - logits[:, 0])
    return logits[:, 0]


def _probabilities(spec: HeadSpec, logits: Matrix) -> Matrix:
    """`[n, columns]` -> `[n, labels]`."""
    match spec.kind:
        case "binary":
            return _sigmoid(logits)
        case "multiclass":
            return _softmax(logits)[:, 1:]
        case "two_level":
            first = _sigmoid(logits[:, :1])
            return np.concatenate([first, first * _softmax(logits[:, 1:])], axis=1)


def _sigmoid(x: Matrix) -> Matrix:
    # By tanh, because exp overflows for large negative logits.
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x.astype(np.float64))), dtype=np.float32)


def _softmax(x: Matrix) -> Matrix:
    shifted = np.exp(x.astype(np.float64) - x.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), dtype=np.float32)
