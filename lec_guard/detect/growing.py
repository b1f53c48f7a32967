"""A text that comes bit by bit, read as it comes: a window is read once, when nothing can change it any more.

A text is settled up to where a word ended: what follows changes no token before. Settled text is cut into windows as it
comes (`lec_guard.detect.windows.Cut`), and its end, as far as it has not passed, is read again as it is meant. When
the text is over it is cut once more as a whole, as any text is, and only windows that are new are read: so in the end
the scores are those of the whole text, and before that only what of it can be known.

What no part of a text can know of itself is seen at the end: what a word far behind changes about how a text is meant
(leet counts where two words have it, look-alikes where most letters are Latin), and what is joined over more than what
is looked at together (a list of many items that reads on late).
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, TypeVar

import numpy as np

from lec_guard.detect.heads import Matrix
from lec_guard.detect.normalise import meant, readable
from lec_guard.detect.windows import Cut, Window, Windower
from lec_guard.step import Scores, Step

LOOK = 512
"""Characters between two looks at a text, at least: a pass over several windows costs less than one over each."""

FIRST_LOOK = 6
"""Characters for each token that is held back before the first look: with fewer hardly anything can pass."""

BEFORE = 1000
"""Characters that passed and are looked at again with those that follow: what is spelt, encoded or listed over a border
of two looks is read in one piece."""

MOST_TOGETHER = 16_384
"""Characters that are looked at together, at most. Where a text has more that can't pass, as one encoded run has that
does not end, nothing more of it is looked at, or passes, before it is over: looks would cost more each time."""

_POOL = 1024
"""Windows that are read together, at most: it bounds memory."""

_WORD_END = re.compile(r".*(?:\S(?=\s)|[\u3002\uff01\uff1f\uff1b](?=[^\W_]))", re.DOTALL)
"""Up to the last place that no tokenizer reads over: behind a word, or behind a sentence's end in scripts without
spaces."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Look:
    """What is new since the last look at a text.

    Attributes:
        windows: Windows of the text as it is that are complete now; each is told once.
        meant: Those of the end of the text as it is meant, all of them at each look; none where that is as it is.
        passed: How many characters from the start are held back no more: no window has them that is not complete, and
            as many tokens as are to be held back follow.
        tokens: How many tokens there are so far.
    """

    windows: list[Window]
    meant: list[Window]
    passed: int
    tokens: int


class GrowingWindows:
    """Cuts a text that comes bit by bit. Not to be shared between threads.

    Args:
        windower: How texts are cut.
        hold_back: Tokens behind a character before it passes.
    """

    def __init__(self, windower: Windower, hold_back: int) -> None:
        self._windower = windower
        self._cut = Cut(windower, as_meant=False)
        self._hold_back = hold_back
        self._last: deque[int] = deque(maxlen=hold_back)  # Where the last tokens start.
        self._begins: deque[int] = deque([0])  # Where windows start, from the start of `_near`.
        self._near, self._near_from = "", 0  # The settled text that is looked at.
        self._waiting: list[str] = []  # What follows, which is not settled.
        self._new: list[str] = []
        self._tokens = self._passed = 0

    def add(self, text: str) -> None:
        """Take what follows, without looking at it."""
        self._new.append(text)

    def look(self) -> Look | None:
        """Look at what came; None where there is too much that can't pass to look any more."""
        piece = self._settled()
        if not piece:
            return Look([], [], self._passed, self._tokens)
        if len(self._near) + len(piece) > MOST_TOGETHER:
            return None
        at = self._near_from + len(self._near)
        self._near += piece
        run = self._windower.tokens(piece, at)
        self._tokens += len(run.ids)
        self._last.extend(run.starts)
        windows = list(self._cut.add(run))
        self._begins.extend(window.span[0] for window in windows)
        end = at + len(piece)
        limits = [end, self._last[0] if len(self._last) == self._hold_back else 0]
        limits += [] if self._cut.open_from is None else [self._cut.open_from]
        view = meant(self._near)
        otherwise: list[Window] = []
        if view is not None:
            cut = Cut(self._windower, as_meant=True)
            otherwise = list(cut.add(self._windower.seen(view, self._near_from)))
            limits += [] if cut.open_from is None else [cut.open_from]
        self._passed = max(self._passed, min(limits))
        self._forget(self._passed - BEFORE)
        return Look(windows, otherwise, self._passed, self._tokens)

    def _settled(self) -> str:
        """What is settled since the last look."""
        new = readable("".join(self._new))
        self._new = []
        before = self._waiting[-1][-1:] if self._waiting else ""
        # Only what is new is searched, however long a word has been going on.
        found = _WORD_END.match(before + new)
        if found is None:
            self._waiting += [new] if new else []
            return ""
        border = found.end() - len(before)
        piece = "".join([*self._waiting, new[:border]])
        self._waiting = [new[border:]] if new[border:] else []
        return piece

    def _forget(self, border: int) -> None:
        """Let go of what lies before the last window that starts at a place or before it."""
        while len(self._begins) > 1 and self._begins[1] <= border:
            self._begins.popleft()
        if self._begins[0] > self._near_from:
            self._near = self._near[self._begins[0] - self._near_from :]
            self._near_from = self._begins[0]


class TextReader(Protocol[T]):
    """What reads one text's windows and collects what heads say of them; `T` is such a collection."""

    budget: int | None
    """Tokens of a text beyond which it is not read."""

    def collect(self) -> T:
        """An empty one."""
        ...

    def logits(self, windows: Sequence[Window]) -> Matrix:
        """Read windows: `[windows, columns]`."""
        ...

    def add(self, collected: T, windows: Sequence[Window], logits: Matrix) -> None:
        """Add windows."""
        ...

    def instead(self, collected: T, windows: Sequence[Window], logits: Matrix) -> None:
        """Put windows of the text as it is meant instead of all such windows before."""
        ...

    def scores(self, collected: T, text: str | None) -> Scores:
        """What the heads say of a text; None where it is not over."""
        ...

    def too_long(self) -> Scores:
        """What is said of a text that is over the budget."""
        ...


class LayerText:
    """A text that a `LayerDetector` reads as it comes; see `lec_guard.detect.detector.GrowingText`.

    What was read of a window is kept until the text is over, a few numbers each.

    Args:
        reader: Reads windows.
        windower: Cuts the text.
        hold_back: Tokens behind a character before it passes.
    """

    def __init__(self, reader: TextReader[T], windower: Windower, hold_back: int) -> None:
        self._reader: TextReader[T] = reader
        self._windower = windower
        self._windows = GrowingWindows(windower, hold_back)
        self._collected = reader.collect()
        self._known: dict[tuple[int, ...], Matrix] = {}
        self._wait = FIRST_LOOK * hold_back
        self._over = False
        self.passed = 0

    def add(self, text: str) -> bool:
        """Take what follows; see `GrowingText.add`."""
        self._windows.add(text)
        self._wait -= len(text)
        return self._wait <= 0 and not self._over

    def scores(self) -> Scores:
        """What is known of the text so far; see `GrowingText.scores`."""
        self._wait = LOOK if self.passed else LOOK // 4
        look = None if self._over else self._windows.look()
        if look is None:
            self._over = True
            return self._reader.scores(self._collected, None)
        if self._reader.budget is not None and look.tokens > self._reader.budget:
            return self._reader.too_long()
        # Where a pass fails its windows are lost, and nothing may pass any more.
        self._over = True
        if look.windows:
            self._reader.add(self._collected, look.windows, self._logits(look.windows))
        self._reader.instead(self._collected, look.meant, self._logits(look.meant))
        scores = self._reader.scores(self._collected, None)
        self.passed, self._over = look.passed, False
        return scores

    def finish(self, step: Step) -> Scores:
        """The scores of a whole text; see `GrowingText.finish`."""
        if self._reader.budget is not None and self._windower.too_long(step.text, self._reader.budget):
            return self._reader.too_long()
        collected = self._reader.collect()
        windows = self._windower.windows(step.text)
        while some := list(islice(windows, _POOL)):
            self._reader.add(collected, some, self._logits(some))
        return self._reader.scores(collected, step.text)

    def _logits(self, windows: Sequence[Window]) -> Matrix:
        """Logits of windows, of which only those are read that were not before."""
        keys = [tuple(window.ids) for window in windows]
        new = {key: window for key, window in zip(keys, windows, strict=True) if key not in self._known}
        for some in _parts(list(new.items())):
            rows = self._reader.logits([window for _, window in some])
            self._known.update(zip([key for key, _ in some], rows, strict=True))
        return np.stack([self._known[key] for key in keys]) if keys else np.empty((0, 0), np.float32)


def _parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for at in range(0, len(items), _POOL):
        yield items[at : at + _POOL]
