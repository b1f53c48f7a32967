"""Figures of both commands as tables of words: for a terminal, for a page and for a model card.

A figure that is not there, or has no interval, has a mark; what the mark stands for is under the table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lec_guard.train.metrics import Figure

NONE = "\u2013"
"""Stands where there is no figure."""

_RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")

Form = Callable[[float], str]
"""How a number is written."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of words.

    Attributes:
        title: What it shows.
        columns: The heads of its columns.
        rows: Its rows, each as long as `columns`; a cell may have several lines.
        words: Which columns hold words; the others hold numbers.
        note: What to know when reading it.
        footnotes: What its marks stand for, from 1 on.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: tuple[int, ...] = (0,)
    note: str = ""
    footnotes: tuple[str, ...] = ()

    @property
    def below(self) -> tuple[str, ...]:
        """Note and footnotes, one a line."""
        marked = (f"{_mark(number)} {why}" for number, why in enumerate(self.footnotes, start=1))
        return (*([self.note] if self.note else []), *marked)


class Footnotes:
    """Reasons that stand under a table, each once."""

    def __init__(self) -> None:
        self._reasons: dict[str, int] = {}

    def mark(self, reason: str) -> str:
        """Mark a cell.

        Args:
            reason: What the mark stands for.

        Returns:
            The mark, such as `²`.
        """
        return _mark(self._reasons.setdefault(reason, len(self._reasons) + 1))

    @property
    def reasons(self) -> tuple[str, ...]:
        """What the marks stand for, from 1 on."""
        return tuple(self._reasons)


def number(value: float) -> str:
    """A score such as an AUC: `0.83`; what is not quite 0 or 1 never looks as if it were.

    Args:
        value: In 0..1 as a rule.

    Returns:
        Two decimals, or three where these would round to 0 or 1.
    """
    if not 0.0 < value < 1.0:
        return f"{value:.2f}"
    short = f"{value:.2f}"
    return _near(f"{value:.3f}", ("0.000", "<0.001"), ("1.000", ">0.999")) if short in ("0.00", "1.00") else short


def percent(value: float) -> str:
    """A rate: `1.2%`.

    Args:
        value: In 0..1.

    Returns:
        One decimal.
    """
    if not 0.0 < value < 1.0:
        return f"{value:.0%}"
    return _near(f"{value:.1%}", ("0.0%", "<0.1%"), ("100.0%", ">99.9%"))


def figure(own: Figure, notes: Footnotes, form: Form = number, *, over_sets: bool = False) -> str:
    """A figure with its interval, such as `0.83 [0.79, 0.86]`.

    Args:
        own: The figure.
        notes: Gets the reason where the figure or its interval is not there.
        form: How its numbers are written.
        over_sets: Whether to write the interval over sets in a line of its own.

    Returns:
        The cell.
    """
    if own.value is None:
        return NONE + notes.mark(own.reason or "not measured")
    written = form(own.value)
    if own.low is not None and own.high is not None:
        written += f" [{form(own.low)}, {form(own.high)}]"
    elif own.reason:
        written += notes.mark(own.reason)
    if over_sets and own.over_sets is not None:
        wide = own.over_sets
        if wide.low is not None and wide.high is not None:
            written += f"\nsets [{form(wide.low)}, {form(wide.high)}]"
        elif wide.reason:
            written += f"\nsets {NONE}{notes.mark(wide.reason)}"
    return written


def plain(words: str) -> str:
    r"""Words from a file, harmless on a terminal and on a page: no control, bidi or other invisible characters.

    Args:
        words: Words; line breaks stay.

    Returns:
        The same, with such characters written as `\u202e`.
    """
    return "".join(c if c.isprintable() or c == "\n" else f"\\u{ord(c):04x}" for c in words)


def listed(words: Sequence[str], most: int = 12) -> str:
    """Words with commas, the rest counted.

    Args:
        words: What to list.
        most: How many are named.

    Returns:
        Such as `a, b and 3 more`.
    """
    named = ", ".join(words[:most])
    return named if len(words) <= most else f"{named} and {len(words) - most:,} more"


def counted(count: int, one: str, many: str | None = None) -> str:
    """A count with its noun.

    Args:
        count: How many.
        one: The noun for one.
        many: The noun for any other count; None adds an s.

    Returns:
        Such as `1 text` or `1,200 texts`.
    """
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _near(written: str, *ends: tuple[str, str]) -> str:
    """What is written, unless it says 0 or 1 of what is neither."""
    return dict(ends).get(written, written)


def _mark(number_of: int) -> str:
    return str(number_of).translate(_RAISED)
