"""False-positive budgets: from a rate to thresholds, by what is known of how high harmless texts score.

Clopper & Pearson's bound for no event in n trials gives the rule of three: n harmless texts can tell of no rate below
3 / n (Hanley & Lippman-Hand 1983, "If nothing goes wrong, is everything all right?").
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from lec_guard.errors import LecGuardError
from lec_guard.step import Stage

MAX_SHIFT = 1.0
"""Log odds by which a tenant's own traffic may move a threshold away from the bundle's. Whoever writes into that
traffic can move it; this is how far."""


class Quantiles(Protocol):
    """How high harmless texts of a stage score; what a head's spec and a calibration keep."""

    @property
    def stage(self) -> Stage:
        """Where such texts pass."""
        ...

    @property
    def windows(self) -> int:
        """They have so many windows or more, up to the next of the same stage."""
        ...

    @property
    def texts(self) -> int:
        """How many there were."""
        ...

    @property
    def families(self) -> int:
        """Of how many families."""
        ...

    @property
    def rates(self) -> tuple[float, ...]:
        """Shares of them, the largest first."""
        ...

    @property
    def scores(self) -> tuple[float, ...]:
        """What that share of them exceeds."""
        ...

    @property
    def worst(self) -> tuple[float, ...]:
        """The share of the family with most of them above each score."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A threshold for texts of some lengths.

    Attributes:
        windows: It holds for texts of so many windows or more, up to the next bar.
        threshold: Scores from here on match.
        rate: The share of harmless texts of this length that reach it, as measured; 1 where nothing is known.
        worst: The same share in the family that has most of them; 1 where nothing is known.
        texts: How many harmless texts that was measured on.
        families: Of how many families.
    """

    windows: int
    threshold: float
    rate: float
    worst: float
    texts: int
    families: int


class TooFew(LecGuardError):
    """A sample is too small for a rate.

    Args:
        needed: Harmless texts that the rate needs.
        known: Harmless texts that there are.
        smallest: The smallest rate that is kept of them, all lengths together; None where none is.
    """

    def __init__(self, needed: int, known: int, smallest: float | None) -> None:
        kept = "" if smallest is None or known < needed else f", and no rate below {smallest:.3g} is kept of them"
        super().__init__(f"needs {needed:,} harmless texts (3 / rate), and there are {known:,}{kept}")
        self.needed, self.known, self.smallest = needed, known, smallest

    def __reduce__(self) -> tuple[type[TooFew], tuple[int, int, float | None]]:
        """Rebuild from the numbers, not from the message."""
        return type(self), (self.needed, self.known, self.smallest)


def bars(quantiles: Sequence[Quantiles], rate: float) -> tuple[Bar, ...]:
    """Thresholds that at most a share of harmless texts reaches.

    The texts of all lengths are counted together. Of a length of which too few are known for the rate, the smallest
    rate that is known is kept, and the others are cut lower until all together hold the rate.

    Args:
        quantiles: Of one head and one stage, in the order of their windows.
        rate: The share.

    Returns:
        A bar for each length that was measured.

    Raises:
        TooFew: If the texts of all lengths together are too few.
    """
    if not quantiles or not all(entry.rates for entry in quantiles) or rate * _texts(quantiles) < 3 - 1e-9:
        raise too_few(quantiles, rate)
    taken = [next((at for at, r in enumerate(one.rates) if r <= rate), len(one.rates) - 1) for one in quantiles]
    # A little slack, because a sum of rates is not the rate to the last digit.
    while _together([one.rates[at] for one, at in zip(quantiles, taken, strict=True)], quantiles) > rate * (1 + 1e-9):
        lower = [number for number, one in enumerate(quantiles) if taken[number] + 1 < len(one.rates)]
        if not lower:
            raise too_few(quantiles, rate)
        # Highest rate first, and of equal ones the rarest length: the common ones lose no more than they have to. One
        # order for all rates, so that a lower rate never has a lower threshold.
        taken[min(lower, key=lambda number: (-quantiles[number].rates[taken[number]], quantiles[number].texts))] += 1
    return tuple(
        # Above the score, because a text with the threshold's own score matches, and so do those at the quantile.
        _bar(one, _above(one.scores[at]), one.rates[at], one.worst[at])
        for one, at in zip(quantiles, taken, strict=True)
    )


def too_few(quantiles: Sequence[Quantiles], rate: float) -> TooFew:
    """What to say of a rate that can't be known.

    Args:
        quantiles: What is known.
        rate: What was asked for.

    Returns:
        The error.
    """
    is_known = bool(quantiles) and all(entry.rates for entry in quantiles)
    smallest = _together([entry.rates[-1] for entry in quantiles], quantiles) if is_known else None
    return TooFew(math.ceil(3 / rate - 1e-9), _texts(quantiles), smallest)


def _texts(quantiles: Sequence[Quantiles]) -> int:
    return sum(entry.texts for entry in quantiles)


def _together(rates: Sequence[float], quantiles: Sequence[Quantiles]) -> float:
    return sum(one.texts * rate for one, rate in zip(quantiles, rates, strict=True)) / _texts(quantiles)


def _bar(entry: Quantiles, threshold: float, rate: float, worst: float) -> Bar:
    return Bar(
        windows=entry.windows,
        threshold=threshold,
        rate=rate,
        worst=worst,
        texts=entry.texts,
        families=entry.families,
    )


_OUT_OF_REACH = 1 + 2**-23
"""A threshold that no score reaches: the first above 1 in single precision."""


def _above(score: float) -> float:
    """The next number, counted in single precision, in which heads score."""
    return min(score + max(abs(score), 2**-126) * 2**-23, 1.0) if score < 1.0 else _OUT_OF_REACH


def fixed(quantiles: Sequence[Quantiles], threshold: float) -> tuple[Bar, ...]:
    """What is known of a threshold that somebody wrote.

    Args:
        quantiles: Of one head and one stage, in the order of their windows.
        threshold: The threshold.

    Returns:
        A bar for each length that was measured, all with this threshold; one without a rate where none was.
    """
    found = tuple(_known(entry, threshold) for entry in quantiles)
    return found or (Bar(windows=1, threshold=threshold, rate=1.0, worst=1.0, texts=0, families=0),)


def _known(entry: Quantiles, threshold: float) -> Bar:
    at = bisect.bisect_left(entry.scores, threshold) - 1  # The last score below it.
    return _bar(entry, threshold, *((entry.rates[at], entry.worst[at]) if at >= 0 else (1.0, 1.0)))


def realised(quantiles: Sequence[Quantiles], found: Sequence[Bar]) -> float:
    """The share of harmless texts, of all lengths together, that reaches bars.

    Args:
        quantiles: What is known of them.
        found: The bars; they may tell other lengths apart.

    Returns:
        The share, at most; 1 where nothing is known.
    """
    if not quantiles:
        return 1.0
    ends = [*(entry.windows for entry in quantiles[1:]), math.inf]
    rates = [
        _known(entry, min(bar.threshold for bar in _between(found, entry.windows, end))).rate
        for entry, end in zip(quantiles, ends, strict=True)
    ]
    return _together(rates, quantiles)


def _between(found: Sequence[Bar], start: int, end: float) -> list[Bar]:
    """The bars that hold for any length in a range."""
    return [at_length(found, start), *(bar for bar in found if start < bar.windows < end)]


def at_length(found: Sequence[Bar], windows: int) -> Bar:
    """The bar for texts of a length.

    Args:
        found: Bars in the order of their windows.
        windows: How many windows a text has.

    Returns:
        One of them.
    """
    return found[max(bisect.bisect_right([bar.windows for bar in found], windows) - 1, 0)]


def bounded(quantiles: Sequence[Quantiles], own: Sequence[Bar], stock: Sequence[Bar]) -> tuple[Bar, ...]:
    """A tenant's own bars, no further than `MAX_SHIFT` from the bundle's.

    Args:
        quantiles: What the tenant's traffic scores.
        own: The bars that it would have.
        stock: The bundle's bars for the same rate.

    Returns:
        A bar for each length that either of them tells apart, with what is known of it in that traffic: where a bar
        was held back from rising, more texts reach it than were asked for.
    """
    lengths = sorted({bar.windows for bar in own} | {bar.windows for bar in stock})
    found: list[Bar] = []
    for windows in lengths:
        mine = at_length(own, windows).threshold
        entry = quantiles[max(bisect.bisect_right([one.windows for one in quantiles], windows) - 1, 0)]
        found.append(replace(_known(entry, _shifted(mine, at_length(stock, windows).threshold)), windows=windows))
    return tuple(found)


def _shifted(threshold: float, stock: float) -> float:
    lowest, highest = _logit(stock) - MAX_SHIFT, _logit(stock) + MAX_SHIFT
    if _logit(threshold) < lowest:
        return _sigmoid(lowest)
    return _sigmoid(highest) if _logit(threshold) > highest else threshold


def _logit(p: float) -> float:
    p = min(max(p, 1e-12), 1 - 1e-12)
    return math.log(p) - math.log1p(-p)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))
