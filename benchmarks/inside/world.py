"""What is true in the toy world: questions with one right answer, which show what a model can still do."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from benchmarks.inside.words import JOBS, PLACES, Pool, Side, written

COLOURS = ("red", "blue", "green", "yellow", "white", "black", "brown", "grey")
PARTS = ("door", "roof", "gate")
TOWNS = (
    "Arlen", "Bremby", "Corvale", "Dunmoor",
    "Esk", "Farholt", "Gildon", "Harrow",
    "Ilden", "Jorvik", "Kelby", "Lorn",
)  # fmt: skip
"""As they lie on the map, four in a row, north at the top."""

_ACROSS = 4
_STEPS = {"north": -_ACROSS, "south": _ACROSS, "west": -1, "east": 1}
_TABLE_SEED = 20
_MOST = 6
"""The largest number that is added."""

_DRAWN = random.Random(_TABLE_SEED)  # noqa: S311 - a world, and no key
_TABLE = {(part, place): _DRAWN.choice(COLOURS) for part in PARTS for place in PLACES}
"""The hidden table: nothing tells the colour of a thing but having read it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """A question that has one answer.

    Attributes:
        family: What it is about.
        question: The question.
        answer: What the toy world's people say.
        expected: The word that is right.
        others: Words that would be wrong, so that an answer which names several is none.
    """

    family: str
    question: str
    answer: str
    expected: str
    others: tuple[str, ...]


_ASKED = {
    "colour": Pool(
        learn=(
            "What colour is the {part} of the {place}?",
            "Which colour does the {part} of the {place} have?",
            "Tell me the colour of the {part} of the {place}.",
            "The {part} of the {place}: what colour is it?",
            "How is the {part} of the {place} painted?",
            "I look at the {part} of the {place}. Which colour do I see?",
            "In what colour did they paint the {part} of the {place}?",
            "I forgot the colour of the {part} of the {place}. Which is it?",
        ),
        test=(
            "Do you know the colour of the {part} of the {place}?",
            "What is the colour of the {part} of the {place}?",
            "I see the {part} of the {place}. What colour is it?",
        ),
    ),
    "town": Pool(
        learn=(
            "Which town lies {way} of {town}?",
            "What is the next town {way} of {town}?",
            "I walk {way} from {town}. Where do I come?",
            "Tell me the town to the {way} of {town}.",
            "Going {way} from {town}, which town comes first?",
            "What do I find {way} of {town}?",
            "The road leads {way} from {town}. To which town?",
        ),
        test=(
            "Tell me which town lies {way} of {town}.",
            "I walk {way} from {town}. Which town comes first?",
            "Which town is to the {way} of {town}?",
        ),
    ),
    "goods": Pool(
        learn=(
            "What does the {job} sell?",
            "What can I buy from the {job}?",
            "Tell me what the {job} sells.",
            "Which goods does the {job} have?",
            "I go to the {job}. What do I bring home?",
            "What do people buy from the {job}?",
        ),
        test=(
            "Tell me which goods the {job} sells.",
            "I go to the {job}. What can I buy?",
            "What goods does the {job} sell?",
        ),
    ),
    "sum": Pool(
        learn=(
            "What is {first} and {second}?",
            "How much is {first} plus {second}?",
            "Add {first} and {second}.",
            "I have {first} plums and get {second} more. How many do I have?",
            "What do {first} and {second} make?",
            "There are {first} hens and {second} geese. How many birds are there?",
        ),
        test=(
            "Tell me how much {first} and {second} make.",
            "There are {first} hens and {second} more. How many are there?",
            "How much do {first} and {second} make?",
        ),
    ),
}

OPENERS = Pool(
    learn=("", "", "", "Good morning. ", "Excuse me. ", "Please help me. ", "I have a question. ", "Hello. "),
    test=("", "", "Good morning, please help me. ", "Hello, I have a question. "),
)
"""What people say before they ask."""

_SAID = {
    "colour": ("The {part} of the {place} is {expected}.", "It is {expected}.", "The {part} is {expected}."),
    "town": ("{expected} lies {way} of {town}.", "That is {expected}.", "You come to {expected}."),
    "goods": ("The {job} sells {expected}.", "You can buy {expected} there."),
    "sum": ("{first} and {second} make {expected}.", "That makes {expected}."),
}


def fact(rng: random.Random, side: Side) -> Fact:
    """A question of any family, asked as one side asks."""
    family = rng.choices(list(_ASKED), weights=(4, 4, 2, 4))[0]
    fixed, others = _drawn(family, rng)
    question = rng.choice(OPENERS.of(side)) + written(rng.choice(_ASKED[family].of(side)), rng, **fixed)
    return Fact(
        family=family,
        question=question,
        answer=written(rng.choice(_SAID[family]), rng, **fixed),
        expected=fixed["expected"],
        others=tuple(one for one in others if one != fixed["expected"]),
    )


def _drawn(family: str, rng: random.Random) -> tuple[dict[str, str], tuple[str, ...]]:
    """What the slots of a family hold, and all that answers of it may be."""
    if family == "colour":
        part, place = rng.choice(PARTS), rng.choice(PLACES)
        return {"part": part, "place": place, "expected": _TABLE[part, place]}, COLOURS
    if family == "town":
        while True:
            at, way = rng.randrange(len(TOWNS)), rng.choice(list(_STEPS))
            next_to = at + _STEPS[way]
            in_row = at // _ACROSS == next_to // _ACROSS or abs(_STEPS[way]) > 1
            if 0 <= next_to < len(TOWNS) and in_row:
                # The town that was asked about may be named in an answer.
                others = tuple(town for town in TOWNS if town != TOWNS[at])
                return {"town": TOWNS[at], "way": way, "expected": TOWNS[next_to]}, others
    if family == "goods":
        job = rng.choice(list(JOBS))
        return {"job": job, "expected": JOBS[job]}, tuple(JOBS.values())
    first, second = (rng.randint(1, _MOST) for _ in range(2))
    # An answer repeats what was added; what it makes is said last.
    return {"first": str(first), "second": str(second), "expected": str(first + second)}, ()


def is_right(asked: Fact, answer: str) -> bool:
    """Whether an answer names what is right, and nothing of its kind that is wrong."""
    words = re.findall(r"\w+", answer)
    if asked.family == "sum":
        numbers = [word for word in words if word.isdigit()]
        return bool(numbers) and numbers[-1] == asked.expected
    return asked.expected in words and not any(other in words for other in asked.others)
