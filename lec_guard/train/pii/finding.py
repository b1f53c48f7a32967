"""What of a text is personal data, by the rules of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lec_guard.detect.pii import PiiDetector
from lec_guard.errors import DetectorError, UnsupportedValueError
from lec_guard.step import Step
from lec_guard.train.pii.config import PiiRules


@dataclass(frozen=True, slots=True)
class Place:
    """Personal data in a text; findings that overlap are one.

    Attributes:
        start: Its first character.
        end: One past its last.
        kinds: Its entity types: a number may be of several.
    """

    start: int
    end: int
    kinds: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Read:
    """What a text has.

    Attributes:
        places: Personal data, in the order of the text.
        unread: Why the text could not be read; None where it was.
    """

    places: tuple[Place, ...]
    unread: str | None


class Finder:
    """Finds personal data by the rules of a run.

    Args:
        rules: The rules.

    Raises:
        UnsupportedValueError: If Presidio or a spaCy model is not installed, or an entity type is unknown.
    """

    def __init__(self, rules: PiiRules) -> None:
        try:
            self._detector = PiiDetector(
                rules.entities, language=rules.language, ner=rules.ner, threshold=rules.threshold
            )
        except DetectorError as error:
            hint = "; for patterns alone, without names: --no-ner (pii.ner: false)" if rules.ner is not False else ""
            raise UnsupportedValueError(f"{error}{hint}") from None
        self._allowed = frozenset(rules.allowed)

    def read(self, texts: Sequence[str]) -> list[Read]:
        """Look for what the rules don't allow.

        Args:
            texts: The texts.

        Returns:
            What each has.

        Raises:
            DetectorError: If a recognizer fails.
        """
        found = self._detector.score([Step(stage="output", text=text) for text in texts])
        return [
            Read(
                _merged([(span.start, span.end, span.label) for span in one.spans if span.label not in self._allowed]),
                one.unread,
            )
            for one in found
        ]


def _merged(spans: list[tuple[int, int, str]]) -> tuple[Place, ...]:
    places: list[Place] = []
    for start, end, kind in sorted(spans):
        if places and start < places[-1].end:
            last = places.pop()
            places.append(Place(last.start, max(last.end, end), tuple(sorted({*last.kinds, kind}))))
        else:
            places.append(Place(start, end, (kind,)))
    return tuple(places)
