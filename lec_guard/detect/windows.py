"""Text -> windows of whole sentences, each with the characters it covers.

A model reads a window without its neighbours, so that one sentence in a long text is judged as it would be alone: in
a window of many sentences its tokens would attend to theirs, and be pooled with them.

A text is read whole, however long it is, block by block, so that memory does not grow with it; nothing is cut off
in silence. It is read as it is and, where that differs, as it is meant (`lec_guard.detect.normalise`). What ends
the reading is a budget, and then the result says so.
"""

from __future__ import annotations

import bisect
import itertools
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from tokenizers import Tokenizer

from lec_guard.detect import kinds
from lec_guard.detect.normalise import View, meant, readable
from lec_guard.errors import BundleError, DetectorError

VERSION = "1"
"""What `windows` gives for the same text and spec changes only with this; features of another version don't compare."""

_BLOCK = 65_536
"""Characters that go through the tokenizer at once; longer texts are split at white space."""

_MOST_TOKENS = 64
"""More than one character makes: a normal form may write it as 18 characters of 33 bytes, and a tokenizer make a
token of each byte, and of each mark that it sets where a word begins."""

_MOST_PARTS = 4
"""Characters that canonical decomposition (NFD) makes of one, at most."""

_SENTENCE_END = re.compile(
    # One set of all that may begin an end, because a search for that is over sooner than one for alternatives.
    r"""[.!?\u2026;\u061f\u06d4\u0964\u0965\u3002\uff01\uff1f\uff1b\n\r\u2028\u2029]
    (?:
        (?<=[.!?\u2026;\u061f\u06d4\u0964\u0965])    # A mark,
        ['"\u2019\u201d\u00bb)\]*_]*(?=\s|\Z)        # what it may close, and white space.
    |   (?<=[\u3002\uff01\uff1f\uff1b])             # Full-width marks need none.
    |   (?<=[\n\r\u2028\u2029])(?>(?<=\r)\n|)       # A new line,
        (?![ \t]*[a-z])                           # unless wrapped prose goes on in lower case.
    )""",
    re.VERBOSE,
)
_WITHOUT_SPACE = re.compile(r"\S+")
_NOT_SPACE = kinds.table({"x": "".join(_WITHOUT_SPACE.findall(kinds.LATIN))})
_TO_LAST_SEAM = re.compile(r".*\W", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowSpec:
    """How a text is cut.

    Attributes:
        size: Tokens in a window at most, with the tokenizer's special tokens: what the model reads at once.
        stride: Where a sentence is longer than a window, tokens from the start of one of its windows to the next.
        least: Tokens of text in a window at least, where the text has as many: a word or two alone say little. A
            sentence that is shorter is read with those that follow; one that is not is always read alone, too.
    """

    size: int
    stride: int
    least: int


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens that the model reads in one go.

    Attributes:
        ids: Token ids with the special tokens around them.
        span: First character of the text and one past the last.
        unknown: How many of the tokens stand for something the tokenizer does not know.
        as_meant: Whether the tokens are those of the text as it is meant, not as it is.
    """

    ids: list[int]
    span: tuple[int, int]
    unknown: int
    as_meant: bool


@dataclass(frozen=True, slots=True)
class Placed:
    """A window, and where its tokens stand among those of its text.

    Attributes:
        window: The window.
        first: The first of its tokens, counted from 0.
        last: One past the last.
    """

    window: Window
    first: int
    last: int


@dataclass(slots=True)
class Run:
    """Tokens of a stretch of text: ids, where they start and stop, and how many lie before each end of a sentence."""

    ids: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    stops: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)

    def add(self, run: Run) -> None:
        """Take what follows."""
        # Where no token lies between two ends they are one, and many of them take no memory.
        ends = (end + len(self.ids) for end in run.ends)
        self.ends += [end for end in ends if not self.ends or end > self.ends[-1]]
        self.ids += run.ids
        self.starts += run.starts
        self.stops += run.stops

    def without(self, tokens: int) -> Run:
        """The same without the first tokens."""
        ends = [end - tokens for end in self.ends if end > tokens]
        return Run(self.ids[tokens:], self.starts[tokens:], self.stops[tokens:], ends)

    def close(self) -> None:
        """Nothing follows: the end of the text ends a sentence."""
        self.add(Run(ends=[0]))

    def end_before(self, border: int | None) -> int | None:
        """The last end of a sentence before one, or the last of all."""
        at = len(self.ends) if border is None else bisect.bisect_left(self.ends, border)
        return self.ends[at - 1] if at else None

    def end_after(self, tokens: int) -> int | None:
        """The first end of a sentence with so many tokens before it, or more."""
        at = bisect.bisect_left(self.ends, tokens)
        return self.ends[at] if at < len(self.ends) else None


class Windower:
    """Cuts texts into windows; holds no state between calls.

    Args:
        tokenizer: A fast tokenizer. Its own truncation and padding are switched off.
        spec: How texts are cut.
        unknown_id: The token for what the tokenizer does not know, if it has one.
        longest_word: Characters beyond which the tokenizer takes a word for unknown, if it does that.

    Attributes:
        special: How many tokens of each window belong to no text.
        room: How many do, at most.
        spec: How texts are cut.

    Raises:
        DetectorError: If windows leave a gap or no room for text, or the tokenizer can't read.
    """

    def __init__(
        self, tokenizer: Tokenizer, spec: WindowSpec, *, unknown_id: int | None = None, longest_word: int | None = None
    ) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        # A special token that somebody typed is text: as a token it would cut a sentence in two.
        tokenizer.encode_special_tokens = True
        probe = tokenizer.encode("a", add_special_tokens=True)
        if 0 not in probe.special_tokens_mask:
            raise DetectorError("the tokenizer makes no token of the letter 'a'")
        first = probe.special_tokens_mask.index(0)
        last = len(probe.ids) - probe.special_tokens_mask[::-1].index(0)
        self._prefix, self._suffix = probe.ids[:first], probe.ids[last:]
        self.special = len(self._prefix) + len(self._suffix)
        self.room = spec.size - self.special
        if not 0 < spec.stride <= self.room:
            raise DetectorError(
                f"windows of {spec.size} tokens hold {self.room} tokens of text: "
                f"the stride must lie in 1..{self.room}, not be {spec.stride}"
            )
        if not 0 < spec.least <= self.room:
            raise DetectorError(
                f"windows of {spec.size} tokens hold {self.room} tokens of text: "
                f"their least must lie in 1..{self.room}, not be {spec.least}"
            )
        self._tokenizer = tokenizer
        self._unknown_id = unknown_id
        self._longest_word = longest_word
        self.spec = spec

    @classmethod
    def from_json(cls, content: bytes, spec: WindowSpec) -> Windower:
        """Make one from a `tokenizer.json`.

        Args:
            content: The file's bytes.
            spec: How texts are cut.

        Returns:
            A windower that knows what the tokenizer can't see.

        Raises:
            BundleError: If the bytes are no tokenizer.
            DetectorError: If the windows don't fit it.
        """
        try:
            tokenizer = Tokenizer.from_str(content.decode())
            model = json.loads(content)["model"]
        except Exception as error:
            raise BundleError(f"tokenizer.json: not a tokenizer that can be read: {error}") from error
        unknown = model.get("unk_token")
        return cls(
            tokenizer,
            spec,
            unknown_id=tokenizer.token_to_id(unknown) if isinstance(unknown, str) else None,
            longest_word=model.get("max_input_chars_per_word"),
        )

    def too_long(self, text: str, budget: int) -> bool:
        """Whether a text has more tokens than a budget, found without keeping them.

        Args:
            text: The text.
            budget: How many it may have.
        """
        if len(text) * _MOST_TOKENS <= budget:
            return False
        tokens = 0
        for run in self._runs(readable(text)):
            tokens += len(run.ids)
            if tokens > budget:
                return True
        return False

    def ids(self, text: str) -> list[int]:
        """All tokens of a text, as it is and uncut.

        Args:
            text: Any Python string.

        Returns:
            Token ids, without the special ones that stand around a text.
        """
        return [token for run in self._runs(readable(text)) for token in run.ids]

    def template_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of what stands around a text in a template: here a special token is what it stands for.

        Args:
            texts: Strings of the bundle, never of a user.

        Returns:
            Token ids of each.
        """
        # Not the tokenizer that others read texts with, which takes special tokens for text.
        tokenizer = Tokenizer.from_str(self._tokenizer.to_str())
        tokenizer.encode_special_tokens = False
        return [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]

    def text_ids(self, window: Window) -> list[int]:
        """A window without the special tokens around its text.

        Args:
            window: A window that this object cut.

        Returns:
            Token ids.
        """
        return window.ids[len(self._prefix) : len(window.ids) - len(self._suffix)]

    def windows(self, text: str, *, as_meant: bool = True) -> Iterator[Window]:
        """All windows of a text: first those of the text as it is, block after block, then those as it is meant.

        Args:
            text: Any Python string.
            as_meant: Whether to read it as it is meant too.

        Yields:
            Windows; none where the text holds no token.
        """
        yield from self._cut(self._runs(readable(text)), as_meant=False)
        if as_meant:
            yield from self.meant_windows(text)

    def meant_windows(self, text: str) -> Iterator[Window]:
        """The windows of a text as it is meant, where that is not as it is.

        Args:
            text: Any Python string.

        Yields:
            Windows; none for most texts.
        """
        for at, block in _blocks(readable(text)):
            view = meant(block)
            if view is not None:
                yield from self._cut([self.seen(view, at)], as_meant=True)

    def run(self, text: str) -> Run:
        """All tokens of a text, as it is and uncut.

        Args:
            text: Any Python string.

        Returns:
            Them, with offsets into the text.
        """
        whole = Run()
        for run in self._runs(readable(text)):
            whole.add(run)
        return whole

    def run_of(self, ids: list[int], starts: list[int], stops: list[int], text: str) -> Run:
        """Tokens of a text that somebody else made, such as a model that wrote it.

        Args:
            ids: Token ids, without the special ones.
            starts: Where in the text each begins; never falls.
            stops: Where it ends.
            text: The text.

        Returns:
            The same as `run` gives them.
        """
        ends = (bisect.bisect_left(starts, end.end()) for end in _SENTENCE_END.finditer(text))
        return Run(ids, starts, stops, list(dict.fromkeys(ends)))

    def placed(self, run: Run) -> Iterator[Placed]:
        """The windows of a text as it is, with the tokens that are theirs.

        Args:
            run: All tokens of the text.

        Yields:
            Windows in their order; none where there is no token.
        """
        count = len(run.ids)
        cut = Cut(self, as_meant=False)
        # Where a token's place is its number, a window's span is that of its tokens.
        for window in (*cut.add(Run(run.ids, [*range(count)], [*range(1, count + 1)], run.ends)), *cut.close()):
            first, last = window.span
            span = min(run.starts[first:last]), max(run.stops[first:last])
            yield Placed(Window(window.ids, span, window.unknown, as_meant=False), first, last)

    def seen(self, view: View, at: int) -> Run:
        """Tokens of a stretch of text as it is meant.

        Args:
            view: What is meant.
            at: Where the stretch begins in the text.

        Returns:
            Its tokens, with offsets into the text as it is.
        """
        run = self.tokens(view.text, 0)
        spans = [view.span(*span) for span in zip(run.starts, run.stops, strict=True)]
        run.starts, run.stops = [start + at for start, _ in spans], [stop + at for _, stop in spans]
        return run

    def _runs(self, clean: str) -> Iterator[Run]:
        for at, block in _blocks(clean):
            yield self.tokens(block, at)

    def tokens(self, block: str, at: int) -> Run:
        """Tokens of a stretch of text.

        Args:
            block: The stretch; it is readable, and no word goes on beyond it.
            at: Where it begins in the text.

        Returns:
            Its tokens, with offsets into the text.
        """
        run = Run()
        for offset, piece in self._pieces(block):
            encoding = self._tokenizer.encode(piece, add_special_tokens=False)
            spans, offset = encoding.offsets, at + offset
            run.ids += encoding.ids
            run.starts += [start + offset for start, _ in spans]
            run.stops += [stop + offset for _, stop in spans]
        ends = (bisect.bisect_left(run.starts, end.end() + at) for end in _SENTENCE_END.finditer(block))
        run.ends = list(dict.fromkeys(ends))
        return run

    def _pieces(self, block: str) -> Iterator[tuple[int, str]]:
        """A block, cut inside the words that the tokenizer would take for one unknown token."""
        longest, at = self._longest_word or 0, 0
        # Most texts have no word that is long enough for a closer look.
        may_be_long = longest and b"x" * (longest // _MOST_PARTS + 1) in kinds.seen(block, _NOT_SPACE)
        for run in _WITHOUT_SPACE.finditer(block) if may_be_long else ():
            start, end = run.span()
            while (stop := _reach(block, start, end, longest)) < end:
                # Beside punctuation a cut changes nothing; only where there is none it goes through a word.
                seam = _TO_LAST_SEAM.match(block, start, stop)
                start = seam.end() if seam else stop
                yield at, block[at:start]
                at = start
        yield at, block[at:]

    def _cut(self, runs: Iterable[Run], *, as_meant: bool) -> Iterator[Window]:
        cut = Cut(self, as_meant=as_meant)
        for run in runs:
            yield from cut.add(run)
        yield from cut.close()

    def next_after(self, held: Run, at: int, border: int | None) -> int:
        """Where the next window starts, after the one from `at` to `border` or to where it is full."""
        short = held.end_before(border)
        fits = border is not None and border - at <= self.room
        if short is None or short <= at:
            return border if border is not None and fits else at + self.spec.stride
        # The last sentence was read with short ones before it. Those must not hide it: it is read alone too.
        return border if border is not None and fits and border - short < self.spec.least else short

    def window(self, run: Run, start: int, end: int, as_meant: bool) -> Window:
        """Some tokens as a window."""
        ids = run.ids[start:end]
        # Not the ends of the lists: a text as it is meant may have another order.
        span = min(run.starts[start:end]), max(run.stops[start:end])
        unknown = 0 if self._unknown_id is None else ids.count(self._unknown_id)
        return Window([*self._prefix, *ids, *self._suffix], span, unknown, as_meant)


class Cut:
    """Windows of a text whose tokens come bit by bit: the same, however they come. Not to be shared between threads.

    Args:
        windower: How the text is cut.
        as_meant: What windows say of themselves.
    """

    def __init__(self, windower: Windower, *, as_meant: bool) -> None:
        self._windower = windower
        self._as_meant = as_meant
        self._held = Run()
        # The next window starts at `at`; the tokens before `done` stood in one.
        self._at = self._done = 0

    @property
    def open_from(self) -> int | None:
        """Where the part of the text begins of which more windows will come; None where none can."""
        return min(self._held.starts, default=None)

    def add(self, run: Run) -> Iterator[Window]:
        """Take what follows.

        Args:
            run: Tokens.

        Yields:
            The windows that are complete with it.
        """
        self._held.add(run)
        yield from self._complete()
        before = max(self._at - self._windower.spec.least, 0)
        self._held, self._at, self._done = self._held.without(before), self._at - before, self._done - before

    def close(self) -> Iterator[Window]:
        """The text ends.

        Yields:
            What is left of its windows.
        """
        held, windower = self._held, self._windower
        held.close()
        yield from self._complete()
        if self._done < len(held.ids):
            # What is left over is short, and is read with what stood before it.
            yield windower.window(held, max(len(held.ids) - windower.spec.least, 0), len(held.ids), self._as_meant)

    def _complete(self) -> Iterator[Window]:
        held, windower = self._held, self._windower
        while True:
            border = held.end_after(self._at + windower.spec.least)
            if border is None and len(held.ids) - self._at <= windower.room:
                return
            full = self._at + windower.room
            self._done = full if border is None else min(border, full)
            yield windower.window(held, self._at, self._done, self._as_meant)
            self._at = windower.next_after(held, self._at, border)


def _reach(text: str, start: int, end: int, longest: int) -> int:
    """Where to stop between start and end, so that a tokenizer that takes characters apart sees at most `longest`.

    It makes up to three letters of a Hangul syllable, and a letter and its accents of an accented one.
    """
    part = text[start : min(end, start + longest)]
    if unicodedata.is_normalized("NFD", part):
        return start + len(part)
    sizes = itertools.accumulate(len(unicodedata.normalize("NFD", char)) for char in part)
    return start + max(bisect.bisect(list(sizes), longest), 1)


def _blocks(text: str) -> Iterator[tuple[int, str]]:
    """Offset and text of each block; borders lie at white space where there is some near."""
    at = 0
    while at < len(text):
        end = min(at + _BLOCK, len(text))
        if end < len(text):
            border = max(text.rfind(space, at + _BLOCK // 2, end) for space in " \n\t")
            # Before the space, because whether a new line ends a sentence depends on what follows it.
            border = at + len(text[at:border].rstrip()) if border > at else at
            end = border if border > at else end
        yield at, text[at:end]
        at = end
