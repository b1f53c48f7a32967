"""Texts as a reviewer sees them: what heads found is marked, and what can't be seen is written out.

Nothing here makes HTML. A text becomes pieces of plain characters, which templates escape; no piece holds a character
that moves, hides or turns around what stands beside it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise

from lec_guard.step import Span

MOST_BOXES = 2_000
"""Runs of characters that can't be seen which get a box of their own in one text; a page with more is too heavy."""

HOTTEST = 10
"""The highest level of heat."""

_OTHERS = re.compile(r"[^\x20-\x7e\n\t]+")
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Printable by their category, and still nothing is to be seen."""
_VARIATION = ((0x180B, 0x180F), (0xFE00, 0xFE0F), (0xE0100, 0xE01EF))
_TAGS = (0xE0020, 0xE007E)
_SHORT = {"\x00": "\\0", "\r": "\\r", "\x1b": "\\x1b"}
_KINDS = {"Cc": "control character", "Cs": "half a pair of surrogates", "Co": "private use"}
"""What those are called that have no name of their own."""
_TIMES = "\N{MULTIPLICATION SIGN}"
_COLOURS = 6
_NAMED = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Some characters of a text, or what is shown in their place.

    Attributes:
        text: What is shown.
        name: What the characters are called that can't be seen and are written out here; None for what is shown as it
            is.
    """

    text: str
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Something that a head found, as it is listed beside a text.

    Attributes:
        number: Its number, from 1, by where it begins.
        colour: The colour of its head, from 1.
        span: What was found.
    """

    number: int
    colour: int
    span: Span

    @property
    def title(self) -> str:
        """Head, label and score in one line."""
        return f"{self.span.head}: {self.span.label} {self.span.score:.2f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Neighbouring characters that the same marks cover.

    Attributes:
        parts: The characters, in order.
        marks: What covers them, the shortest first: what lies within something else keeps its colour.
        begins: The numbers of the marks that begin here.
        heat: How high the highest window scores that holds them, from 0 to `HOTTEST`; None where no window does.
    """

    parts: tuple[Part, ...]
    marks: tuple[Mark, ...] = ()
    begins: tuple[int, ...] = ()
    heat: int | None = None

    @property
    def title(self) -> str:
        """What covers the characters, in one line."""
        return "; ".join(mark.title for mark in self.marks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A text as it is shown.

    Attributes:
        runs: All of it, in order.
        legend: The marks, by number.
        hidden: How many characters of it can't be seen.
        boxed: Whether each run of those has a box; otherwise they are written out among the others.
    """

    runs: tuple[Run, ...]
    legend: tuple[Mark, ...] = ()
    hidden: int = 0
    boxed: bool = True


def marked(text: str, spans: Sequence[Span] = ()) -> Shown:
    """A text with what heads found in it.

    Args:
        text: The text.
        spans: What was found, in characters of the text. They may overlap, hold each other, and reach beyond the text.

    Returns:
        The text in runs that the same spans cover.
    """
    within = sorted(_within(spans, len(text)), key=lambda span: (span.start, -span.end))
    colours = {head: at % _COLOURS + 1 for at, head in enumerate(dict.fromkeys(span.head for span in within))}
    legend = tuple(Mark(number=at, colour=colours[span.head], span=span) for at, span in enumerate(within, start=1))
    hidden = list(_hidden(text))
    boxed = len(hidden) <= MOST_BOXES
    runs = []
    for start, end, places in _cuts(len(text), within):
        covering = sorted(
            (legend[place] for place in places), key=lambda mark: (mark.span.end - mark.span.start, -mark.span.score)
        )
        runs.append(
            Run(
                parts=tuple(_parts(text[start:end], boxed=boxed)),
                marks=tuple(covering),
                begins=tuple(sorted(mark.number for mark in covering if mark.span.start == start)),
            )
        )
    return Shown(runs=tuple(runs), legend=legend, hidden=sum(end - start for start, end in hidden), boxed=boxed)


def heated(text: str, windows: Sequence[Span]) -> Shown:
    """A text with how high its windows score.

    Args:
        text: The text.
        windows: What one head says of each window. Where they overlap, the highest counts.

    Returns:
        The text in runs of the same heat.
    """
    within = _within(windows, len(text))
    levels = [
        (start, end, max((level(within[place].score) for place in places), default=None))
        for start, end, places in _cuts(len(text), within)
    ]
    hidden = list(_hidden(text))
    boxed = len(hidden) <= MOST_BOXES
    runs = []
    for heat, same in groupby(levels, key=lambda one: one[2]):
        pieces = list(same)
        parts = tuple(_parts(text[pieces[0][0] : pieces[-1][1]], boxed=boxed))
        runs.append(Run(parts=parts, heat=heat))
    return Shown(runs=tuple(runs), hidden=sum(end - start for start, end in hidden), boxed=boxed)


def excerpt(text: str, spans: Sequence[Span], longest: int = 160) -> Shown:
    """The part of a text that matters most, on one line.

    Args:
        text: The text.
        spans: What was found in it; the highest score decides which part is shown.
        longest: How many characters are shown.

    Returns:
        The part, with dots where something was left out.
    """
    within = _within(spans, len(text))
    top = max(within, key=lambda span: span.score, default=None)
    start = max(0, min(top.start - longest // 4, len(text) - longest)) if top else 0
    end = min(len(text), start + longest)
    # One character for one, so that the spans still hold.
    line = re.sub(r"[\n\t]", " ", text[start:end])
    moved = [replace(span, start=span.start - start, end=span.end - start) for span in within]
    shown = marked(line, moved)
    dots = Run(parts=(Part(text="…"),))
    runs = ((dots,) if start else ()) + shown.runs + ((dots,) if end < len(text) else ())
    return Shown(runs=runs, legend=shown.legend, hidden=shown.hidden, boxed=shown.boxed)


def level(score: float) -> int:
    """How hot a score is.

    Args:
        score: A probability.

    Returns:
        A level from 0 to `HOTTEST`.
    """
    return min(HOTTEST, max(0, int(score * HOTTEST + 0.5)))


def plain(word: str) -> str:
    """A word in which nothing is hidden.

    Args:
        word: Any text.

    Returns:
        The same with what can't be seen written out; ends of lines and tabs stay.
    """
    return "".join(part.text for part in _parts(word, boxed=False))


def seen_only(text: str) -> str:
    """A text without the characters that can't be seen.

    Args:
        text: Any text.

    Returns:
        What is left of it.
    """
    return "".join(text[start:end] for start, end, hidden in _pieces(text) if not hidden)


def field(text: str) -> str:
    """A text as it stands in a field of a form, which can't hold all of them.

    Args:
        text: Any text.

    Returns:
        The same with line feeds alone as ends of lines, and a replacement character for what no form sends.
    """
    lines = re.sub(r"\r\n?", "\n", text)
    return re.sub(r"[\x00\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", lines)


def typed(value: str, original: str) -> str:
    """What somebody typed into a field that held a text.

    Args:
        value: What the form sent, whose lines end as browsers end them.
        original: The text that the field held.

    Returns:
        The new text, whose lines end as those of the original.
    """
    lines = re.sub(r"\r\n?", "\n", value)
    if "\r\n" in original and not re.search(r"(?<!\r)\n", original):
        return lines.replace("\n", "\r\n")
    return lines


def _within(spans: Sequence[Span], length: int) -> list[Span]:
    """The spans as far as they lie in a text; those that hold nothing of it are left out."""
    found = []
    for span in spans:
        start, end = max(0, span.start), min(length, span.end)
        if start < end:
            found.append(replace(span, start=start, end=end))
    return found


def _cuts(length: int, spans: Sequence[Span]) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """The text cut wherever a span begins or ends: from, to, and which spans cover that."""
    begin: dict[int, list[int]] = {}
    end: dict[int, list[int]] = {}
    for place, span in enumerate(spans):
        begin.setdefault(span.start, []).append(place)
        end.setdefault(span.end, []).append(place)
    active: dict[int, None] = {}
    for here, there in pairwise(sorted({0, length, *begin, *end})):
        for place in end.get(here, ()):
            del active[place]
        active.update(dict.fromkeys(begin.get(here, ())))
        yield here, there, tuple(active)


def _parts(text: str, *, boxed: bool) -> Iterator[Part]:
    if boxed:
        for start, end, hidden in _pieces(text):
            yield _box(text[start:end]) if hidden else Part(text=text[start:end].replace("\r\n", "\n"))
    elif text:
        yield Part(
            text="".join(
                _box(text[start:end]).text if hidden else text[start:end].replace("\r\n", "\n")
                for start, end, hidden in _pieces(text)
            )
        )


def _pieces(text: str) -> Iterator[tuple[int, int, bool]]:
    """A text cut into what can be seen and what can't, in order."""
    at = 0
    for start, end in _hidden(text):
        if at < start:
            yield at, start, False
        yield start, end, True
        at = end
    if at < len(text):
        yield at, len(text), False


def _hidden(text: str) -> Iterator[tuple[int, int]]:
    """Where characters stand that can't be seen, neighbours together."""
    start = end = -1
    for others in _OTHERS.finditer(text):
        for at in range(others.start(), others.end()):
            if not _is_hidden(text, at):
                continue
            if at != end:
                if start != end:
                    yield start, end
                start = at
            end = at + 1
    if start != end:
        yield start, end


def _is_hidden(text: str, at: int) -> bool:
    one = text[at]
    if one == "\r":
        return text[at + 1 : at + 2] != "\n"
    if not one.isprintable() or one in _BLANK:
        return True
    if not any(low <= ord(one) <= high for low, high in _VARIATION):
        return False
    # Half of all emoji are followed by one; more than one, or one after a letter, carries something.
    return not (one in "\ufe0e\ufe0f" and at > 0 and unicodedata.category(text[at - 1]) == "So")


def _box(hidden: str) -> Part:
    """What is shown for neighbouring characters that can't be seen."""
    texts, names = [], []
    for spells, run in groupby(hidden, key=lambda one: _TAGS[0] <= ord(one) <= _TAGS[1]):
        if spells:
            word = "".join(chr(ord(one) - 0xE0000) for one in run)
            texts.append(f"tags “{word}”")
            names.append(f"{len(word)} tag characters that spell “{word}”")
            continue
        for one, same in groupby(run):
            count = sum(1 for _ in same)
            texts.append(_escape(one) + (f"{_TIMES}{count}" if count > 1 else ""))
            names.append(
                unicodedata.name(one, _KINDS.get(unicodedata.category(one), "no character"))
                + (f", {count} times" if count > 1 else "")
            )
    shown = names if len(names) <= _NAMED else [*names[:_NAMED], f"and {len(names) - _NAMED} more"]
    return Part(text=" ".join(texts), name="; ".join(shown))


def _escape(one: str) -> str:
    if one in _SHORT:
        return _SHORT[one]
    return f"\\u{ord(one):04x}" if ord(one) < 0x10000 else f"\\U{ord(one):08x}"
