"""Penalised logistic regression over feature vectors: all heads of a detector as one matrix.

A head is what LEC calls a PLR classifier: one column a label on top of frozen features. Scaler and
calibration are folded into the matrix when it is fitted, so nothing else has to be stored or applied.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from lec_guard.errors import BundleError
from lec_guard.step import Stage

Matrix = npt.NDArray[np.float32]

LEAST_SCORE = 0.05
"""A window that scores less is told of only where it is its head's highest: half of the harmless inputs score as high
with the embedded injection head, so that it says nothing of a place."""

MOST_KEPT = 64
"""Windows that a text keeps of each head: it bounds memory. It is several times what a detector tells of
(`lec_guard.detect.layer.MOST_SPANS`), because windows overlap, and of those at one place only the best is told."""

_LEAST_ALARM = math.log(LEAST_SCORE / (1.0 - LEAST_SCORE))

_Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
_Share = Annotated[float, Field(ge=0.0, le=1.0)]


class LengthOffset(BaseModel):
    """A point of what a text has subtracted for its length: linear in the logarithm in between, constant beyond.

    Attributes:
        windows: Of a text with so many windows …
        logit: … this is subtracted from its logit.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    windows: Annotated[int, Field(gt=0)]
    logit: Annotated[float, Field(allow_inf_nan=False)]


class BenignScores(BaseModel):
    """How high benign texts of families that a head had not seen score: what a false-positive budget is read from.

    Attributes:
        stage: Where such texts pass.
        windows: They have so many windows or more, up to the next entry of the same stage.
        texts: How many there were.
        families: Of how many families.
        rates: Shares of them, every family counting alike, the largest first; none is below 3 / `texts`.
        scores: What that share of them exceeds: of a head with several labels, the highest label counts.
        worst: The share of the family with most of them above each score.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: Stage
    windows: Annotated[int, Field(gt=0)]
    texts: Annotated[int, Field(gt=0)]
    families: Annotated[int, Field(gt=0)]
    rates: tuple[_Share, ...]
    scores: tuple[_Share, ...]
    worst: tuple[_Share, ...]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not len(self.rates) == len(self.scores) == len(self.worst):
            raise ValueError("every rate needs its score and its worst family")
        if list(self.rates) != sorted(set(self.rates), reverse=True) or list(self.scores) != sorted(self.scores):
            raise ValueError("rates must fall, and scores rise with it")
        return self


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
        benign: How high benign texts score, by stage and number of windows; a stage that is missing was not measured.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: _Label
    kind: Literal["binary", "multiclass", "two_level"]
    labels: Annotated[tuple[_Label, ...], Field(min_length=1)]
    aggregation: Literal["log_mean_exp", "attention"] = "log_mean_exp"
    temperature: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 1.0
    length_offsets: tuple[LengthOffset, ...] = ()
    benign: tuple[BenignScores, ...] = ()

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
        for stage in {entry.stage for entry in self.benign}:
            bins = [entry.windows for entry in self.benign if entry.stage == stage]
            if bins[0] != 1 or bins != sorted(set(bins)):
                raise ValueError(f"benign scores of {stage} must start at 1 window and be in order, each once")
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
        self._lengths = np.array([math.log(point.windows) for point in points])
        self._logits = np.array([point.logit for point in points])

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

    Attributes:
        labels: Head name -> the labels that it can raise.

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
        self.labels = {spec.name: spec.labels for spec in specs}
        self._layout = _Layout(self.specs)

    def head(self, name: str) -> HeadStack:
        """One of the heads by itself.

        Args:
            name: Its name.

        Returns:
            A stack of that head alone.

        Raises:
            ValueError: If there is none of this name.
        """
        at = list(self.labels).index(name)
        own = self._layout.columns[at]
        return HeadStack([self.specs[at]], self.weight[:, own], self.bias[own])

    def beside(self, others: HeadStack) -> HeadStack:
        """These heads and, behind them, others that read the same features.

        Args:
            others: The other heads. One that is among these already, the same in every number, is not added again.

        Returns:
            All of them.

        Raises:
            BundleError: If one has the name of a head that is here but is not the same, or they read features of
                another width.
        """
        if self.weight.shape[0] != others.weight.shape[0]:
            raise BundleError(
                f"the heads read {others.weight.shape[0]} features, those beside them {self.weight.shape[0]}"
            )
        added = []
        for name in others.labels:
            other = others.head(name)
            if name not in self.labels:
                added.append(other)
            elif not self.head(name)._equals(other):
                raise BundleError(f"another head {name!r} is there already; give one of them another name")
        return HeadStack(
            [*self.specs, *(head.specs[0] for head in added)],
            np.hstack([self.weight, *(head.weight for head in added)]),
            np.concatenate([self.bias, *(head.bias for head in added)]),
        )

    def _equals(self, other: HeadStack) -> bool:
        numbers = zip((self.weight, self.bias), (other.weight, other.bias), strict=True)
        return self.specs == other.specs and all(np.array_equal(own, theirs) for own, theirs in numbers)

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
        return self._layout.probabilities(logits)

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
        return Aggregate(self._layout)


class Aggregate:
    """The windows of a text so far. Its size does not grow with them. Not to be shared between threads.

    How sure a head is that a window holds something is aggregated over the windows as its spec says; its other
    columns are averaged with the weights that the windows have in that.

    Args:
        layout: What the columns are.
    """

    def __init__(self, layout: _Layout) -> None:
        self._layout = layout
        heads, columns = len(layout.specs), len(layout.head_of)
        self.windows = 0
        # Of each head: its highest alarm, and sums over the windows with shares that are relative to it.
        self._top = np.full(heads, -math.inf)
        self._total = np.zeros(heads)
        self._alarm = np.zeros(heads)
        self._weighted = np.zeros(columns)
        # The window with that alarm.
        self._row = np.zeros(columns)
        self._marks: list[Any] = [None] * heads
        # Of each head: the windows that score, by mark, best first. Many are made, so they are no dataclasses.
        self._high: list[dict[Any, Scored]] = [{} for _ in layout.specs]

    def add(self, logits: Matrix, marks: Sequence[Any]) -> None:
        """Add windows.

        Args:
            logits: `[windows, columns]`.
            marks: What each window is to the caller; `highest` and `high` give some back. Windows with equal marks
                are one place, where the best counts.
        """
        if not len(logits):
            return
        if self.windows == 1:
            # While it was the only one, it was the highest, and that was all there was to keep.
            self._keep(self._row[None].astype(np.float32), self._top[None], self._marks[:1])
        self.windows += len(logits)
        head_of, temperature = self._layout.head_of, self._layout.temperature
        wide = logits.astype(np.float64)
        alarm = self._layout.alarm(wide)
        at, found = alarm.argmax(axis=0), alarm.max(axis=0)
        # Not `>`: what is no number compares false, and has to come out as none.
        is_higher = ~(found <= self._top)
        top = np.where(is_higher, found, self._top)
        fade = np.exp((self._top - top) / temperature)
        shares = np.exp((alarm - top) / temperature)
        self._top = top
        self._total = self._total * fade + shares.sum(axis=0)
        self._alarm = self._alarm * fade + (shares * alarm).sum(axis=0)
        self._weighted = self._weighted * fade[head_of] + (shares[:, head_of] * wide).sum(axis=0)
        for head in np.flatnonzero(is_higher).tolist():
            own = self._layout.columns[head]
            self._row[own] = wide[at[head], own]
            self._marks[head] = marks[at[head]]
        # A text of one window has no other to tell of.
        if self.windows > 1:
            self._keep(logits, alarm, marks)

    def _keep(self, logits: Matrix, alarm: npt.NDArray[np.float64], marks: Sequence[Any]) -> None:
        """Keep the windows that score; `alarm` is `[windows, heads]`."""
        # No label of a window is likelier than that it holds something, so that most need no closer look.
        rows = np.flatnonzero((alarm >= _LEAST_ALARM).any(axis=1))
        if not len(rows):
            return
        of_labels = self._layout.probabilities(logits[rows]).values()
        scores = np.stack([own.max(axis=1) for own in of_labels])
        labels = np.stack([own.argmax(axis=1) for own in of_labels])
        order = np.argsort(-scores, axis=1, kind="stable")
        for head, (spec, high) in enumerate(zip(self._layout.specs, self._high, strict=True)):
            least = next(reversed(high.values())).score if len(high) == MOST_KEPT else 0.0
            some = order[head]
            own = scores[head, some]
            some = some[(own >= LEAST_SCORE) & (own > least)]
            new: dict[Any, Scored] = {}
            found = rows[some].tolist(), labels[head, some].tolist(), scores[head, some].tolist()
            for row, label, score in zip(*found, strict=True):
                if marks[row] not in new:
                    new[marks[row]] = Scored(spec.name, spec.labels[label], score, marks[row])
                    if len(new) == MOST_KEPT:
                        break
            self._high[head] = _merged(high, new) if high else new

    def scores(self) -> dict[str, Matrix]:
        """Probabilities of the text; at least one window must have been added.

        Returns:
            Head name -> `[labels]`.
        """
        layout = self._layout
        total = np.where(
            layout.is_attention,
            self._alarm / self._total,
            self._top + layout.temperature * np.log(self._total / self.windows),
        )
        total -= [offsets.of(self.windows) for offsets in layout.offsets]
        mean = self._weighted / self._total[layout.head_of]
        # What the average lacks to the aggregate goes to the columns that raise the alarm.
        lack = total - layout.alarm(mean[None])[0]
        for head, (spec, own) in enumerate(zip(layout.specs, layout.columns, strict=True)):
            if spec.kind == "multiclass":
                mean[own][1:] += lack[head]
            else:
                mean[own.start] = total[head]
        return {name: of_text[0] for name, of_text in layout.probabilities(mean[None].astype(np.float32)).items()}

    def highest(self) -> Iterator[Scored]:
        """Each head's highest window; at least one window must have been added.

        Yields:
            One a head, in order.
        """
        probabilities = self._layout.probabilities(self._row[None].astype(np.float32))
        for spec, mark in zip(self._layout.specs, self._marks, strict=True):
            scores = probabilities[spec.name][0]
            label = int(scores.argmax())
            yield Scored(spec.name, spec.labels[label], float(scores[label]), mark)

    def high(self) -> dict[str, list[Scored]]:
        """The windows that score `LEAST_SCORE` or more, the highest among them; the best `MOST_KEPT` of a head.

        Returns:
            Head name -> its windows, best first, and the first of equals; of those with equal marks the best.
        """
        return {spec.name: list(high.values()) for spec, high in zip(self._layout.specs, self._high, strict=True)}


class Scored(NamedTuple):
    """What a head says of a window.

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


def _merged(high: dict[Any, Scored], new: dict[Any, Scored]) -> dict[Any, Scored]:
    """The best of both, by mark; of equals the first."""
    merged: dict[Any, Scored] = {}
    for one in sorted([*high.values(), *new.values()], key=lambda one: -one.score):
        merged.setdefault(one.mark, one)
    return dict(itertools.islice(merged.items(), MOST_KEPT))


class _Layout:
    """What the columns are, for all heads at once.

    Args:
        specs: The heads in the order of their columns.

    Attributes:
        specs: The same.
        columns: The columns of each head.
        head_of: The head of each column.
        temperature: Of each head.
        is_attention: Whether each head aggregates so.
        offsets: What each head subtracts for length.
    """

    def __init__(self, specs: tuple[HeadSpec, ...]) -> None:
        self.specs = specs
        sizes = [spec.columns for spec in specs]
        starts = [end - size for end, size in zip(itertools.accumulate(sizes), sizes, strict=True)]
        self.columns = [slice(start, start + size) for start, size in zip(starts, sizes, strict=True)]
        self.head_of = np.repeat(np.arange(len(specs)), sizes)
        self.temperature = np.array([spec.temperature for spec in specs])
        self.is_attention = np.array([spec.aggregation == "attention" for spec in specs])
        self.offsets = [LengthOffsets(spec.length_offsets) for spec in specs]
        self._starts = np.array(starts, dtype=np.intp)

    def alarm(self, logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """How sure each head is that a window holds something: `[windows, columns]` -> `[windows, heads]`."""
        alarm = logits[:, self._starts]
        for head, (spec, own) in enumerate(zip(self.specs, self.columns, strict=True)):
            if spec.kind == "multiclass":
                alarm[:, head] = logits[:, own][:, 1:].max(axis=1) - alarm[:, head]
        return alarm

    def probabilities(self, logits: Matrix) -> dict[str, Matrix]:
        """`[n, columns]` -> head name -> `[n, labels]`."""
        found = {}
        # One call for all heads costs less than it wastes on the columns that need none.
        sure = _sigmoid(logits)
        for spec, own in zip(self.specs, self.columns, strict=True):
            match spec.kind:
                case "binary":
                    found[spec.name] = sure[:, own]
                case "multiclass":
                    found[spec.name] = _softmax(logits[:, own])[:, 1:]
                case "two_level":
                    first = sure[:, own][:, :1]
                    found[spec.name] = np.concatenate([first, first * _softmax(logits[:, own][:, 1:])], axis=1)
        return found


def _sigmoid(x: Matrix) -> Matrix:
    # By tanh, because exp overflows for large negative logits.
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x.astype(np.float64))), dtype=np.float32)


def _softmax(x: Matrix) -> Matrix:
    shifted = np.exp(x.astype(np.float64) - x.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), dtype=np.float32)
