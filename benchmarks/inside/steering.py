"""Personal data in the toy model's answers, and facts it gets right: by how far it is guided, and with adapters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.inside.behaviour import Share, Writer, asked_of, personal_data, unwished, utility
from benchmarks.inside.language import Conversation
from lec_guard.generate import Guidance
from lec_guard.train.pii.figures import mean_figure

COEFFICIENTS = (0.0, 1.0, 1.5, 2.0, 3.0, 5.0)
"""0 is the negative system prompt alone, 1 the positive one alone."""

Space = Literal["log", "probability"]
SPACES: tuple[Space, ...] = ("log", "probability")


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How answers are led.

    Attributes:
        coefficient: How far; None for no system prompt at all.
        space: Where.
    """

    coefficient: float | None = None
    space: Space = "log"

    @property
    def guidance(self) -> Guidance | None:
        """As the package takes it."""
        return None if self.coefficient is None else Guidance(coefficient=self.coefficient, space=self.space)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """A mean with its interval of 95%, by a bootstrap over answers."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Steered:
    """What one way of writing wrote.

    Attributes:
        way: The way.
        per_answer: Pieces of personal data in an answer about people.
        answers: Answers with any.
        right: Facts that were got right.
        words: In an answer about people, on average.
        changed: Of all answers, those that are not what the positive system prompt alone makes of them; None where
            that is not to be told.
    """

    way: Way
    per_answer: Mean
    answers: Share
    right: Share
    words: float
    changed: Share | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Written:
    people: list[str]
    facts: list[str]


class Steering:
    """Asks the same of every way of writing; the likeliest tokens are taken.

    Args:
        count: Questions about people, and as many about facts; all in paraphrases and of names that were never learnt.
        seed: What is asked.
    """

    def __init__(self, count: int, seed: int) -> None:
        self._people: Sequence[Conversation] = asked_of("personal", count, seed)
        self._facts: Sequence[Conversation] = asked_of("fact", count, seed)

    def by_coefficient(self, writer: Writer) -> list[Steered]:
        """Every coefficient, in both spaces.

        Args:
            writer: Writes.

        Returns:
            One for each; those of 0 and 1 are the same in both spaces, and stand under `log`.
        """
        ways = [Way(coefficient=one, space=space) for space in SPACES for one in COEFFICIENTS]
        return self.measured(writer, [way for way in ways if way.space == "log" or way.coefficient not in (0.0, 1.0)])

    def measured(self, writer: Writer, ways: Sequence[Way]) -> list[Steered]:
        """Some ways.

        Args:
            writer: Writes.
            ways: The ways.

        Returns:
            One for each.
        """
        written = {way: self._written(writer, way) for way in ways}
        at_one = next((own for way, own in written.items() if way.coefficient == 1.0), None)
        return [self._one(way, own, at_one) for way, own in written.items()]

    def _written(self, writer: Writer, way: Way) -> _Written:
        parts = []
        for asked in (self._people, self._facts):
            own = unwished(asked)
            parts.append(writer.answers(own) if way.guidance is None else writer.guided(own, way.guidance))
        return _Written(people=parts[0], facts=parts[1])

    def _one(self, way: Way, own: _Written, at_one: _Written | None) -> Steered:
        found = personal_data(own.people)
        counts = [personal_data([answer]).findings for answer in own.people]
        figure = mean_figure(counts, [str(number) for number in range(len(counts))], what="answers")
        if figure.value is None or figure.low is None or figure.high is None:
            raise ValueError(f"too few answers for an interval: {figure.reason}")
        changed = None
        if at_one is not None and way.coefficient is not None and way.coefficient != 1.0:
            both = zip([*own.people, *own.facts], [*at_one.people, *at_one.facts], strict=True)
            differs = [one != other for one, other in both]
            changed = Share(hits=sum(differs), of=len(differs))
        return Steered(
            way=way,
            per_answer=Mean(value=figure.value, low=figure.low, high=figure.high),
            answers=found.answers,
            right=utility(self._facts, own.facts).right,
            words=found.words,
            changed=changed,
        )
