"""The sentences that scored are taken out of a text."""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterable, Iterator

from lec_guard.act.base import Rewriter, Rewriting, Subject
from lec_guard.errors import UnsupportedValueError
from lec_guard.step import Edit, Span

_STOPS = ".!?…؟۔।॥"  # noqa: RUF001
"""These end a sentence where white space follows; "v1.2", "a.b@c.de" and "/?q=1" go on."""

_FULL_STOPS = "。！？｡"  # noqa: RUF001
"""These end one whatever follows."""

_CLOSERS = r"\"'”’»«›‹)\]}*_`」』）】》〉"  # noqa: RUF001
"""These belong to the sentence that ends before them."""

_GOES_ON = r"(?<!\b[^\W\d])(?<!\b[DMS]r)(?<!\bM[rs]s)(?<!\bProf)(?<!\b[Vv]s)(?<!\bbzw)"
"""A sentence does not end with "e.g.", "z. B.", "Dr."; one that does all the same is taken out with the next."""

_END = re.compile(
    rf"(?<![{_STOPS}])(?:(?!\.)|{_GOES_ON})[{_STOPS}]++[{_CLOSERS}]*+(?=\s|\Z)|[{_FULL_STOPS}]++[{_CLOSERS}]*+"
)

_SPACE = re.compile(r"[^\S\n]*")


class DropSpans(Rewriter):
    """Takes out what scored, widened to whole sentences. Safe to share between threads.

    A sentence ends with `.`, `!`, `?`, `…` or what other scripts have for them, with quotes and brackets that close
    there, and always with its line. No edit goes over a line break, for lines may belong to different blocks of a
    message: of what scored over several lines each line's part is an edit of its own.

    Args:
        mark: What stands in a gap, once where several touch; may be empty.
    """

    def __init__(self, *, mark: str) -> None:
        self._mark = mark

    def rewrite(self, subject: Subject) -> Rewriting:
        """Take out the sentences that scored.

        Args:
            subject: The text; its spans are what scored.

        Returns:
            An edit for each gap in each line; none where nothing but white space scored.

        Raises:
            UnsupportedValueError: If a span lies outside the text.
        """
        text = subject.step.text
        gaps: list[Edit] = []
        for start, end in _gaps(text, list(_joined(subject.spans, len(text)))):
            if not self._mark:
                # Else the white space before the gap and that after it would be left, one beside the other.
                end = _past_space(text, end)
            between = text[gaps[-1].end : start] if gaps else ""
            if not gaps or between.strip():
                gaps.append(Edit(start=start, end=end, replacement=self._mark))
            elif "\n" in between:
                gaps.append(Edit(start=start, end=end, replacement=""))
            else:
                gaps[-1] = Edit(start=gaps[-1].start, end=max(end, gaps[-1].end), replacement=gaps[-1].replacement)
        return Rewriting(edits=tuple(gaps))


def _joined(spans: Iterable[Span], length: int) -> Iterator[tuple[int, int]]:
    """What spans cover, in order and without overlaps."""
    low = high = 0
    for one in sorted(spans, key=lambda one: (one.start, one.end)):
        if not 0 <= one.start <= one.end <= length:
            raise UnsupportedValueError(f"a span of characters {one.start} to {one.end} lies outside the text")
        if one.start > high:
            if low < high:
                yield low, high
            low = one.start
        high = max(high, one.end)
    if low < high:
        yield low, high


def _gaps(text: str, covered: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """What is taken out of each line, in order; two in one line may overlap."""
    begin = following = 0
    for line in text.split("\n"):
        end = begin + len(line)
        sentences: _Sentences | None = None
        while following < len(covered) and covered[following][0] < end:
            low, high = covered[following]
            part = line[max(low - begin, 0) : high - begin]
            first = max(low - begin, 0) + len(part) - len(part.lstrip())
            if part.strip():
                sentences = sentences or _Sentences(line)
                start, stop = sentences.around(first, first + len(part.strip()))
                yield begin + start, begin + stop
            if high > end:
                break
            following += 1
        begin = end + 1


class _Sentences:
    """The sentences of a line."""

    def __init__(self, line: str) -> None:
        self._line = line
        self._ends = [one.end() for one in _END.finditer(line)]
        self._last = len(line.rstrip())

    def around(self, first: int, last: int) -> tuple[int, int]:
        """From where to where sentences reach, without white space around them, that hold a part of the line."""
        before = bisect.bisect_right(self._ends, first)
        begin = self._ends[before - 1] if before else 0
        # A part may end inside the punctuation that ends its sentence.
        after = bisect.bisect_left(self._ends, last)
        end = self._ends[after] if after < len(self._ends) else self._last
        return _past_space(self._line, begin), end


def _past_space(text: str, at: int) -> int:
    """Where white space ends that begins at a place, at the end of the line at the latest."""
    found = _SPACE.match(text, at)
    return found.end() if found else at
