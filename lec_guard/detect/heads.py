"""Penalised logistic regression over feature vectors: all heads of a detector as one matrix.

A head is what LEC calls a PLR classifier: one column a label on top of frozen features. Scaler and
calibration are folded into the matrix when it is fitted, so nothing else has to be stored or applied.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from lec_guard.errors import BundleError

Matrix = npt.NDArray[np.float32]

_Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class LengthOffset(BaseModel):
    """A point of what a text has subtracted for its length: linear in the logarithm in between, constant beyond.

    Attributes:
        windows: Of a text with so many windows …
        logit: … this is subtracted from its logit.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    windows: Annotated[int, Field(gt=0)]
    logit: Annotated[float, Field(allow_inf_nan=False)]


class HeadSpec(BaseModel):
    """What the columns of a head mean.

    Attributes:
        name: The name that policies use.
        kind: `binary`: one column, the probability of the only label. `multiclass`: one column a label
            and one before them for "none of these". `two_level`: one column for the first label, then
            one a category; a category's probability is its share, given the first label, times that one.
        labels: The labels that the head can raise, in the order of the columns.
        aggregation: How a text's windows make its logit, at a temperature t. `log_mean_exp`:
            `t * log(mean(exp(logit / t)))`. `attention`: their mean, weighted by `softmax(logit / t)`. Both lie
            between their highest (t near 0) and their mean (t large).
        temperature: t.
        length_offsets: What a text has subtracted from its logit for what many windows give by chance, so that
            false alarms are as frequent as for one window; none subtracts nothing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: _Label
    kind: Literal["binary", "multiclass", "two_level"]
    labels: Annotated[tuple[_Label, ...], Field(min_length=1)]
    aggregation: Literal["log_mean_exp", "attention"] = "log_mean_exp"
    temperature: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 1.0
    length_offsets: tuple[LengthOffset, ...] = ()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("a label stands twice")
        if self.kind == "binary" and len(self.labels) != 1:
            raise ValueError("a binary head has one label")
        if self.kind == "two_level" and len(self.labels) < 3:
            raise ValueError("a two-level head has a first label and at least two categories")
        points = [point.windows for point in self.length_offsets]
        if points != sorted(set(points)):
            raise ValueError("length offsets must be in the order of their windows, each once")
        return self

    @property
    def columns(self) -> int:
        """How many columns of the matrix belong to the head."""
        return len(self.labels) + (self.kind == "multiclass")


class LengthOffsets:
    """What texts have subtracted from their logits for their length.

    Args:
        points: As a head's spec has them; none subtracts nothing.
    """

    def __init__(self, points: Sequence[LengthOffset]) -> None:
        points = points or (LengthOffset(windows=1, logit=0.0),)
        self._lengths = [math.log(point.windows) for point in points]
        self._logits = [point.logit for point in points]

    def of(self, windows: int) -> float:
        """What a text has subtracted from its logit.

        Args:
            windows: How many windows it has, at least one.

        Returns:
            A difference of log odds.
        """
        return float(np.interp(math.log(windows), self._lengths, self._logits))


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
        self._offsets = [LengthOffsets(spec.length_offsets) for spec in specs]

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
        """Probabilities of the text that the windows make up; see `Aggregate`.

        Args:
            logits: `[windows, columns]`, at least one window.

        Returns:
            Head name -> `[labels]`.
        """
        text = self.aggregate()
        text.add(logits, range(len(logits)))
        return text.scores()

    def aggregate(self) -> Aggregate:
        """What collects the windows of one text.

        Returns:
            An empty one.
        """
        return Aggregate(self.specs, self._slices, self._offsets)


class Aggregate:
    """The windows of a text so far. Its size does not grow with them. Not to be shared between threads.

    How sure a head is that a window holds something is aggregated over the windows as its spec says; its other
    columns are averaged with the weights that the windows have in that.

    Args:
        specs: The heads.
        columns: The columns of each.
        offsets: What each subtracts for length.
    """

    def __init__(self, specs: Sequence[HeadSpec], columns: Sequence[slice], offsets: Sequence[LengthOffsets]) -> None:
        self._specs = specs
        self._columns = columns
        self._offsets = offsets
        self._heads = [_Running() for _ in specs]
        self.windows = 0

    def add(self, logits: Matrix, marks: Sequence[Any]) -> None:
        """Add windows.

        Args:
            logits: `[windows, columns]`.
            marks: What each window is to the caller; `highest` gives one back.
        """
        if not len(logits):
            return
        self.windows += len(logits)
        wide = logits.astype(np.float64)
        for spec, columns, head in zip(self._specs, self._columns, self._heads, strict=True):
            own = wide[:, columns]
            alarm = _alarm(spec, own)
            at = int(alarm.argmax())
            # Not `>`: what is no number compares false, and has to come out as none.
            if not alarm[at] <= head.top:
                fade = np.exp((head.top - alarm[at]) / spec.temperature)
                head.total *= fade
                head.alarm *= fade
                head.weighted = head.weighted * fade
                # A copy, because a part of an array keeps all of it.
                head.top, head.mark, head.row = float(alarm[at]), marks[at], own[at].copy()
            shares = np.exp((alarm - head.top) / spec.temperature)
            head.total += float(shares.sum())
            head.alarm += float(shares @ alarm)
            head.weighted = head.weighted + shares @ own

    def scores(self) -> dict[str, Matrix]:
        """Probabilities of the text; at least one window must have been added.

        Returns:
            Head name -> `[labels]`.
        """
        scores = {}
        for spec, offsets, head in zip(self._specs, self._offsets, self._heads, strict=True):
            if spec.aggregation == "attention":
                total = head.alarm / head.total
            else:
                total = head.top + spec.temperature * np.log(head.total / self.windows)
            total -= offsets.of(self.windows)
            mean = head.weighted / head.total
            # What the average lacks to the aggregate goes to the columns that raise the alarm.
            if spec.kind == "multiclass":
                mean[1:] += total - _alarm(spec, mean[None])[0]
            else:
                mean[0] = total
            scores[spec.name] = _probabilities(spec, mean[None].astype(np.float32))[0]
        return scores

    def highest(self) -> Iterator[Highest]:
        """Each head's highest window; at least one window must have been added.

        Yields:
            One a head, in order.
        """
        for spec, head in zip(self._specs, self._heads, strict=True):
            scores = _probabilities(spec, head.row[None].astype(np.float32))[0]
            label = int(scores.argmax())
            yield Highest(spec.name, spec.labels[label], float(scores[label]), head.mark)


@dataclass(frozen=True, slots=True)
class Highest:
    """The window of which a head is surest.

    Attributes:
        head: The head.
        label: Its likeliest label there.
        score: That label's probability for this window alone.
        mark: What the window is to the caller.
    """

    head: str
    label: str
    score: float
    mark: Any


@dataclass(slots=True)
class _Running:
    """A head's sums over the windows so far; shares are relative to the highest alarm."""

    top: float = -math.inf
    total: float = 0.0
    alarm: float = 0.0
    weighted: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(1))
    row: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(1))
    mark: Any = None


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
