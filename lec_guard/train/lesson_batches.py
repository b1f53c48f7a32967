"""Lessons as batches of tokens: each text read once for all heads, classes and families balanced, twins together.

A text that several heads learn from is one text here, and what it counts for each is put right by weights: drawn with
the chance Q, an example that its head would draw with the chance p counts p / Q. What a head learns is then, on
average, what it would have learnt alone from classes and families in balance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lec_guard.detect.windows import Windower
from lec_guard.errors import UnsupportedValueError
from lec_guard.train.fit import Floats, Ints
from lec_guard.train.lessons import Lesson


@dataclass(frozen=True, slots=True)
class Marks:
    """What a lesson says of its texts; arrays are `[rows]`, by text.

    Attributes:
        text: Which text.
        label: Its label; -1 for none.
        soft: What a teacher says; not a number for nothing.
        side: 0 or 1.
        family: Counted from 0.
        chance: How often it is to be learnt from; they sum to 1.
    """

    text: Ints
    label: Ints
    soft: Floats
    side: Ints
    family: Ints
    chance: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step reads.

    Attributes:
        windows: Token ids of each window.
        at: The windows of each text, `[texts, most windows]`; 0 where it has fewer.
        mask: Which of these are windows, `[texts, most windows]`.
        rows: Of each lesson: which of its rows, which text of the batch each is, and what it counts.
    """

    windows: list[Sequence[int]]
    at: Ints
    mask: npt.NDArray[np.bool_]
    rows: tuple[tuple[Ints, Ints, Floats], ...]


class Material:
    """Texts of lessons as tokens, and the order in which they are read: a function of seed and epoch alone.

    Args:
        lessons: The lessons.
        windower: Cuts their texts, as a detector's are.
        tokens: In a batch, at most.
        most_windows: Of a text in a batch, at most; of longer ones others are drawn each time.
        seed: Decides the order.
        progress: Is told the share of texts that were cut.

    Attributes:
        marks: What each lesson says of the texts.

    Raises:
        UnsupportedValueError: If a text holds no token, or a group is larger than a batch.
    """

    def __init__(
        self,
        lessons: Sequence[Lesson],
        windower: Windower,
        *,
        tokens: int,
        most_windows: int,
        seed: int,
        progress: Callable[[float], None] = lambda _share: None,
    ) -> None:
        self._tokens, self._most, self._seed = tokens, most_windows, seed
        position: dict[str, int] = {}
        for lesson in lessons:
            for example in lesson.examples:
                position.setdefault(example.text, len(position))
        self.marks = tuple(_marks(lesson, position) for lesson in lessons)
        self._cut(list(position), windower, progress)
        self._check_read(lessons, position)
        self._units, self._unit_of = _units(lessons, position)
        chance = np.sum([np.bincount(own.text, own.chance, minlength=len(position)) for own in self.marks], axis=0)
        means = np.array([float(np.mean(chance[unit])) for unit in self._units])
        # Of twins the mean, or the members of large groups would be drawn as often as there are of them.
        self._chance = means / means.sum()
        self._rows = [_by_text(own.text, len(position)) for own in self.marks]
        # Of a text with more windows than are drawn, no draw has more than so many of the longest.
        longest = int(np.diff(self._window_ends).max())
        every = np.diff(self._window_ends[self._text_starts])
        costs = np.where(np.diff(self._text_starts) <= most_windows, every, most_windows * longest)
        self._cost = np.array([int(costs[unit].sum()) for unit in self._units])
        if self._cost.max() > tokens:
            worst = int(self._cost.argmax())
            raise UnsupportedValueError(
                f"{len(self._units[worst])} texts that belong together have {self._cost[worst]:,} tokens, more than "
                f"the {tokens:,} of a batch: give larger batches, fewer windows of a text, or smaller groups"
            )

    @property
    def texts(self) -> int:
        """How many different texts there are."""
        return len(self._text_starts) - 1

    def batches(self, epoch: int) -> list[Ints]:
        """What an epoch's batches draw: of each, the units.

        Args:
            epoch: Which, from 0.

        Returns:
            The batches in order. A unit is drawn as often as its chance says, rounded up or down.
        """
        random = np.random.default_rng([self._seed, epoch])
        count = len(self._units)
        order = random.permutation(count)
        # Systematic sampling: no unit is drawn more than once too often or too seldom, as single draws would be.
        ends = np.cumsum(self._chance[order])
        drawn = order[np.minimum(np.searchsorted(ends, (np.arange(count) + random.random()) / count), count - 1)]
        found: list[Ints] = []
        batch: list[int] = []
        cost = 0
        for unit in random.permutation(drawn).tolist():
            if cost + self._cost[unit] > self._tokens:
                found.append(np.array(batch, np.int64))
                batch, cost = [], 0
            batch.append(unit)
            cost += int(self._cost[unit])
        if found and 2 * cost < self._tokens:  # a few texts alone would make a step as long as hundreds
            both = [*found.pop().tolist(), *batch]
            half = np.searchsorted(np.cumsum(self._cost[both]), self._cost[both].sum() / 2) + 1
            return [*found, np.array(both[:half], np.int64), np.array(both[half:], np.int64)]
        return [*found, np.array(batch, np.int64)]

    def batch(self, units: Ints, *, seed: Sequence[int]) -> Batch:
        """Tokens and marks of what a batch draws.

        Args:
            units: As `batches` gave them.
            seed: Decides which windows of long texts are read.

        Returns:
            The batch.
        """
        random = np.random.default_rng([self._seed, *seed])
        texts = np.concatenate([self._units[unit] for unit in units.tolist()])
        own = [self._some(text, random) for text in texts.tolist()]
        counts = np.array([len(windows) for windows in own])
        at = np.zeros((len(texts), counts.max()), np.int64)
        mask = np.arange(counts.max()) < counts[:, None]
        at[mask] = np.arange(counts.sum())
        ids = self._tokens_of(np.concatenate(own))
        rows = tuple(self._rows_of(number, texts, len(units)) for number in range(len(self.marks)))
        return Batch(ids, at, mask, rows)

    def every_window(self, texts: Ints) -> tuple[list[Sequence[int]], Ints]:
        """Tokens of some texts' windows, up to as many of each as a batch takes.

        Args:
            texts: Which texts.

        Returns:
            Token ids of each window, and which of these texts it is of.
        """
        random = np.random.default_rng(self._seed)
        own = [self._some(text, random) for text in texts.tolist()]
        owner = np.repeat(np.arange(len(texts)), [len(windows) for windows in own])
        return self._tokens_of(np.concatenate(own)), owner

    def _cut(self, texts: Sequence[str], windower: Windower, progress: Callable[[float], None]) -> None:
        ids: list[npt.NDArray[np.int32]] = []
        ends, starts = [0], []
        for number, text in enumerate(texts):
            starts.append(len(ends) - 1)
            own: list[int] = []
            # As features are collected: a text as it is meant teaches nothing about one that hides nothing.
            for window in windower.windows(text, as_meant=False):
                own += window.ids
                ends.append(ends[-1] + len(window.ids))
            ids.append(np.array(own, np.int32))
            if number % 256 == 0:
                progress(number / len(texts))
        self._ids = np.concatenate(ids) if ids else np.zeros(0, np.int32)
        self._window_ends = np.array(ends, np.int64)
        self._text_starts = np.array([*starts, len(ends) - 1], np.int64)
        progress(1.0)

    def _check_read(self, lessons: Sequence[Lesson], position: dict[str, int]) -> None:
        unread = np.flatnonzero(np.diff(self._text_starts) == 0)
        for text in unread.tolist():
            for lesson in lessons:
                for at, example in enumerate(lesson.examples):
                    if position[example.text] == text:
                        raise UnsupportedValueError(
                            f"the lesson {lesson.head.name!r}, example {at}: no token that the model can read; "
                            f"leave it out ({len(unread)} such texts)"
                        )

    def _some(self, text: int, random: np.random.Generator) -> Ints:
        windows = np.arange(self._text_starts[text], self._text_starts[text + 1])
        if len(windows) <= self._most:
            return windows
        return np.sort(random.choice(windows, self._most, replace=False))

    def _tokens_of(self, windows: Ints) -> list[Sequence[int]]:
        return [self._ids[self._window_ends[one] : self._window_ends[one + 1]].tolist() for one in windows.tolist()]

    def _rows_of(self, lesson: int, texts: Ints, units: int) -> tuple[Ints, Ints, Floats]:
        starts, order = self._rows[lesson]
        rows = [order[starts[text] : starts[text + 1]] for text in texts.tolist()]
        owner = np.repeat(np.arange(len(texts)), [len(own) for own in rows])
        flat = np.concatenate(rows)
        # A mean over units, so that a step counts alike however long its texts are.
        weights = self.marks[lesson].chance[flat] / self._chance[self._unit_of[texts[owner]]] / units
        return flat, owner, np.asarray(weights, np.float32)


def _marks(lesson: Lesson, position: dict[str, int]) -> Marks:
    examples = lesson.examples
    _, family = np.unique([example.family for example in examples], return_inverse=True)
    return Marks(
        text=np.array([position[example.text] for example in examples], np.int64),
        label=np.array([-1 if example.label is None else example.label for example in examples], np.int64),
        soft=np.array([np.nan if example.soft is None else example.soft for example in examples], np.float32),
        side=lesson.sides,
        family=family.astype(np.int64),
        chance=lesson.chances(),
    )


def _by_text(text: Ints, texts: int) -> tuple[Ints, Ints]:
    """Where each text's rows start in an order of rows, and that order."""
    return np.searchsorted(np.sort(text), np.arange(texts + 1)), np.argsort(text, kind="stable")


def _units(lessons: Sequence[Lesson], position: dict[str, int]) -> tuple[list[Ints], Ints]:
    """Texts that are read together, directly or by way of others, and which of these each text is in."""
    of = list(range(len(position)))

    def root(text: int) -> int:
        while of[text] != text:
            of[text] = of[of[text]]
            text = of[text]
        return text

    first: dict[str, int] = {}
    for lesson in lessons:
        for example in lesson.examples:
            if example.group is not None:
                text = position[example.text]
                of[root(text)] = root(first.setdefault(example.group, text))
    roots = _numbered(root(text) for text in range(len(of)))
    order = np.argsort(roots, kind="stable")
    return np.split(order, np.cumsum(np.bincount(roots))[:-1]), roots


def _numbered(keys: Iterable[int]) -> Ints:
    number: dict[int, int] = {}
    return np.array([number.setdefault(key, len(number)) for key in keys], np.int64)
