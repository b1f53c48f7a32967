"""Personal data as a detector: Presidio's patterns and checksums, and names where a language model is installed."""

from __future__ import annotations

import bisect
import functools
import hashlib
import re
import time
import unicodedata
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lec_guard.detect import normalise
from lec_guard.errors import DetectorError
from lec_guard.step import Scores, Span, Step

if TYPE_CHECKING:
    from presidio_analyzer import PatternRecognizer

    from lec_guard.detect.presidio import Finding

PII = "pii"
"""The head's name."""

THRESHOLD = 0.4
"""What Presidio gives to a phone number alone, and to a weak pattern beside a word that speaks for it."""

CHARACTER_BUDGET = 1 << 20
"""Characters of one text that are read by default."""

PIECE = 4096
"""Characters that Presidio reads at once: some of its patterns take time that grows with the square of a text."""

OVERLAP = 512
"""Characters that two neighbouring pieces share. Twice as long as anything that has spaces in it."""

VERSION = "1"
"""How texts are read and findings put together; part of the detector's id."""

SECONDS = 0.5
"""Seconds for each piece of a text: about as much as one of nothing but phone numbers takes, and twenty times what is
usual."""

_LEAST_PIECES = 4
"""A short text has the time of so many pieces."""

_SPACE = re.compile(r"\s")

_FOREIGN = re.compile(r"[^\x00-\x7f]")

_HYPHEN = re.compile(r"(?<=\d)[\u2010-\u2015\u2212](?=\d)")
"""A dash between digits; one between words may be the end of a sentence."""


class PiiDetector:
    """Finds personal data. Safe to share between threads, and between tenants: it keeps nothing of what it reads.

    It has one head, `pii`, whose labels are entity types (`EMAIL_ADDRESS`, `CREDIT_CARD` …). A label's score is that of
    its highest finding, and 0 where there is none; every finding is a span. Findings of one label that overlap are one.
    Those of different labels are all told, for a number may be two things, and a rule may read one of them alone.

    Texts of any length are read whole, in overlapping pieces, so that time grows with length and no faster. Digits of
    any script are digits, and a text that is meant otherwise than it is written (`lec_guard.detect.normalise`) is read
    both ways; what is found in an encoded run is the whole run. A text over the budget, or whose patterns take too
    long, is unread and over the budget; a policy's `fail` decides then.

    Contexts are not read. Nothing is downloaded, ever.

    Args:
        entities: Entity types to look for, of any country; None for what Presidio looks for in these languages, without
            dates, URLs, UUIDs and organizations, which tell of nobody by themselves.
        language: Which languages' usual entity types and context words are taken: one code, or several.
        ner: Whether an installed spaCy model looks for names and places, one of each language; or a model's name or
            folder. False: patterns and checksums alone. The detector's id has a model's name and version, not its
            weights.
        threshold: Presidio's score from which on something is a finding.
        recognizers: Patterns of your own, which are looked for beside the entity types.
        budget: Characters of one text beyond which it is not read; None reads any length.
        seconds: How long reading may take for each piece of 4096 characters that a text has, all pieces together; a
            short text has the time of four.

    Raises:
        DetectorError: If Presidio or a model is not installed (the message says what to run), an entity type is
            unknown, or a number is none that makes sense.
    """

    def __init__(
        self,
        entities: Sequence[str] | None = None,
        *,
        language: str | Sequence[str] = "en",
        ner: bool | str = False,
        threshold: float = THRESHOLD,
        recognizers: Sequence[PatternRecognizer] = (),
        budget: int | None = CHARACTER_BUDGET,
        seconds: float = SECONDS,
    ) -> None:
        if isinstance(entities, str):
            raise DetectorError(f"entities must be a list: give [{entities!r}]")
        if not 0 < threshold <= 1:
            raise DetectorError(f"threshold must be above 0 and at most 1, not {threshold}")
        if (budget is not None and budget < 1) or not seconds > 0:
            raise DetectorError("budget and seconds must be above 0")
        try:
            # Imported here: it takes seconds, and comes with an extra.
            from lec_guard.detect import presidio
        except ModuleNotFoundError as missing:
            if missing.name is not None and missing.name.startswith("lec_guard"):
                raise
            raise DetectorError(f"PiiDetector needs {missing.name}; run: pip install 'lec-guard[pii]'") from None
        languages = [language] if isinstance(language, str) else list(language)
        self._too_slow = presidio.TooSlowError
        self._analyzer = presidio.Analyzer(entities, languages, ner, threshold, recognizers)
        self._budget = budget
        self._seconds = seconds
        version = hashlib.sha256(f"{self._analyzer.version} {VERSION} {normalise.VERSION}".encode())
        self.detector_id = f"pii@{version.hexdigest()[:16]}"
        self._backend = "presidio+spacy" if ner else "presidio"

    @property
    def labels(self) -> Mapping[str, tuple[str, ...]]:
        """The head and the entity types that it can raise."""
        return {PII: self._analyzer.labels}

    @property
    def budget(self) -> int | None:
        """Characters of one text beyond which it is not read; None where any length is read."""
        return self._budget

    def score(
        self,
        steps: Sequence[Step],
        *,
        keys: Sequence[Hashable] | None = None,  # noqa: ARG002 - it keeps nothing between calls
    ) -> list[Scores]:
        """Score steps; the same text is read once, however many steps have it.

        Args:
            steps: The steps; may be empty.
            keys: Whose each step is; makes no difference.

        Returns:
            One `Scores` a step, in order.

        Raises:
            DetectorError: If a recognizer fails on a text.
        """
        scores = {text: self._score(text) for text in dict.fromkeys(step.text for step in steps)}
        return [scores[step.text] for step in steps]

    def _score(self, text: str) -> Scores:
        if self._budget is not None and len(text) > self._budget:
            return self._unread(f"the text has more than {self._budget} characters, the budget of a step")
        pieces = list(_pieces(text))
        try:
            found = self._read(text, pieces)
        except self._too_slow:
            return self._unread(f"looking for personal data took more than {self._limit(pieces):g} s")
        by_label = dict.fromkeys(self._analyzer.labels, 0.0)
        for one in found:
            by_label[one.label] = max(by_label[one.label], one.score)
        return Scores(
            by_head={PII: by_label},
            spans=tuple(
                Span(start=one.start, end=one.end, head=PII, label=one.label, score=one.score) for one in found
            ),
            windows=len(pieces),
            detector_id=self.detector_id,
            backend=self._backend,
        )

    def _unread(self, why: str) -> Scores:
        return Scores(
            by_head={},
            windows=0,
            unread=why,
            over_budget=True,
            detector_id=self.detector_id,
            backend=self._backend,
        )

    def _limit(self, pieces: Sequence[_Piece]) -> float:
        return self._seconds * max(len(pieces), _LEAST_PIECES)

    def _read(self, text: str, pieces: Sequence[_Piece]) -> list[Finding]:
        until = time.thread_time() + self._limit(pieces)
        clean = normalise.readable(text)
        runs = _Runs(clean)
        found: list[Finding] = []
        for piece in pieces:
            content = clean[piece.start : piece.end]
            for one in self._both(content, until):
                whole = replace(one, start=one.start + piece.start, end=one.end + piece.start)
                if piece.owns(whole):
                    found.append(runs.widened(whole, piece))
        return merged(found)

    def _both(self, content: str, until: float) -> Iterator[Finding]:
        """What is found in a piece, as it is and as it is meant."""
        yield from self._analyzer.findings(_typed(content), until)
        view = normalise.meant(content)
        if view is not None:
            for one in self._analyzer.findings(_typed(view.text), until):
                start, end = view.span(one.start, one.end)
                yield replace(one, start=start, end=end)


def _typed(text: str) -> str:
    """The same text, character for character, as a keyboard writes it: patterns know no other digits and hyphens."""
    return text if text.isascii() else _HYPHEN.sub("-", _FOREIGN.sub(lambda found: _plain(found.group()), text))


@functools.lru_cache(maxsize=4096)
def _plain(char: str) -> str:
    digit = unicodedata.decimal(char, None)
    if digit is not None:
        return str(digit)
    if "\uff01" <= char <= "\uff5e":  # full-width forms of ASCII
        return chr(ord(char) - 0xFEE0)
    return " " if unicodedata.category(char) == "Zs" else char


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of a text that is read at once.

    Attributes:
        start: Its first character.
        end: One past its last.
        own: Its own part begins here: what starts before belongs to the piece before.
        own_end: … and ends here.
        seen: As far as the piece before reaches.
        is_last: Whether it is the end of the text.
    """

    start: int
    end: int
    own: int
    own_end: int
    seen: int
    is_last: bool

    def owns(self, one: Finding) -> bool:
        """Whether a finding is told by this piece: it starts in its own part, or no piece before saw all of it."""
        return self.own <= one.start < self.own_end or (one.start < self.own and one.end > self.seen)


def _pieces(text: str) -> Iterator[_Piece]:
    """A text in pieces that overlap and are cut at spaces, where there are any."""
    if not text or text.isspace():
        return
    start = own = seen = 0
    while True:
        end = start + PIECE
        if end >= len(text):
            yield _Piece(start, len(text), own, len(text), seen, is_last=True)
            return
        end = _after_space(text, end - OVERLAP // 4, end)
        following = _after_space(text, end - OVERLAP - OVERLAP // 4, end - OVERLAP)
        middle = (following + end) // 2
        yield _Piece(start, end, own, middle, seen, is_last=False)
        start, own, seen = following, middle, end


def _after_space(text: str, low: int, high: int) -> int:
    """The last place in `(low, high]` with a space before it, or `high`."""
    return next((at for at in range(high, low, -1) if text[at - 1].isspace()), high)


class _Runs:
    """The runs of a text between its spaces."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._spaces: list[int] | None = None

    def widened(self, one: Finding, piece: _Piece) -> Finding:
        """A finding that touches where the piece was cut, up to the spaces around it: nobody saw where it ends."""
        cut_before = one.start == piece.start > 0
        cut_after = one.end == piece.end and not piece.is_last
        if not cut_before and not cut_after:
            return one
        if self._spaces is None:
            self._spaces = [-1, *(space.start() for space in _SPACE.finditer(self._text)), len(self._text)]
        start = self._spaces[bisect.bisect_left(self._spaces, one.start) - 1] + 1 if cut_before else one.start
        end = self._spaces[bisect.bisect_left(self._spaces, one.end)] if cut_after else one.end
        return replace(one, start=min(start, one.start), end=max(end, one.end))


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """Findings of which those of one label that overlap are one, with the highest score of them.

    Args:
        findings: The findings, in any order.

    Returns:
        The same in the order of the text.
    """
    last: dict[str, int] = {}
    kept: list[Finding] = []
    for one in sorted(findings, key=lambda one: (one.start, one.end, one.label)):
        at = last.get(one.label)
        if at is not None and one.start < kept[at].end:
            before = kept[at]
            kept[at] = replace(before, end=max(before.end, one.end), score=max(before.score, one.score))
        else:
            last[one.label] = len(kept)
            kept.append(one)
    return kept
