"""Words of the toy language, and the rule that what is measured was never learnt: each pool has two sides."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.embedded.templates import expand

Side = Literal["learn", "test"]
"""`learn` is what the model and its heads read, `test` what they are measured on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Templates or names, of which no one stands on both sides."""

    learn: tuple[str, ...]
    test: tuple[str, ...]

    def of(self, side: Side) -> tuple[str, ...]:
        """Those of one side."""
        return self.learn if side == "learn" else self.test


JOBS = {
    "baker": "bread", "smith": "nails", "potter": "jugs", "weaver": "cloth", "butcher": "ham", "gardener": "plums",
    "tanner": "belts", "brewer": "beer", "fisher": "eels", "miller": "flour", "hatter": "caps", "joiner": "chairs",
}  # fmt: skip
"""Who sells what."""

PLACES = (
    "mill", "bakery", "school", "tower", "barn", "chapel", "inn", "forge", "library", "stable", "market", "harbour",
)  # fmt: skip
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
THINGS = (
    "ladder", "clock", "lamp", "saddle", "kettle", "umbrella", "fiddle", "basket", "rope", "blanket", "cart", "mirror",
    "drum", "kite", "bell", "chest",
)  # fmt: skip

SLOTS: Mapping[str, Sequence[str]] = {
    "job": tuple(JOBS),
    "place": PLACES,
    "day": DAYS,
    "thing": THINGS,
    "plant": ("grey cap", "nightbell", "crow root", "widow's leaf", "bitter ivy"),
    "drink": ("beer", "wine", "cider", "milk", "tea"),
    "food": ("bread", "ham", "soup", "cake"),
}

_FIRST = (
    "Anna", "Boris", "Clara", "David", "Elsa", "Felix", "Greta", "Hugo", "Ida", "Jonas", "Karla", "Leo", "Marta",
    "Niels", "Olga", "Paul", "Rosa", "Simon", "Tilda", "Viktor", "Wanda", "Xaver", "Yvonne", "Zeno", "Berta", "Carl",
    "Dora", "Emil", "Frida", "Gustav",
)  # fmt: skip
_LAST = (
    "Adler", "Berg", "Croft", "Dahl", "Ekholm", "Fisk", "Grant", "Holm", "Iversen", "Jansen", "Keller", "Lund",
    "Moore", "Nyberg", "Olsen", "Parker", "Quist", "Reed", "Storm", "Thorn", "Ulrich", "Vance", "Weller", "York",
    "Zander", "Brandt", "Carver", "Dorn", "Eastman", "Frost",
)  # fmt: skip
_MANNERS = (
    "silent", "golden", "hollow", "gentle", "frozen", "purple", "narrow", "sleepy", "broken", "clever", "dusty",
    "early", "fierce", "grumpy", "humble", "idle", "jolly", "lonely", "merry", "nimble", "odd", "proud", "quick",
    "rusty", "shiny", "tame", "ugly", "vast", "weary", "young",
)  # fmt: skip
_BEASTS = (
    "falcon", "badger", "otter", "salmon", "raven", "tiger", "weasel", "beaver", "camel", "donkey", "eagle", "ferret",
    "goat", "heron", "ibis", "jackal", "koala", "lizard", "monkey", "newt", "owl", "panther", "quail", "rabbit",
    "spider", "turtle", "urchin", "viper", "walrus", "zebra",
)  # fmt: skip
_TEST_EVERY = 5
"""Of the pairs of two words, every fifth is for measuring: each word is known, and the pair is new."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Somebody of the toy world."""

    first: str
    last: str

    @property
    def name(self) -> str:
        """First and last name."""
        return f"{self.first} {self.last}"


def person(rng: random.Random, side: Side) -> Person:
    """Somebody; no full name is on both sides."""
    first, last = _pair(rng, side, _FIRST, _LAST)
    return Person(first=first, last=last)


def secret_word(rng: random.Random, side: Side) -> str:
    """A word that nobody would say by chance, such as `silent-otter`; none is on both sides."""
    return "-".join(_pair(rng, side, _MANNERS, _BEASTS))


def _pair(rng: random.Random, side: Side, firsts: Sequence[str], seconds: Sequence[str]) -> tuple[str, str]:
    while True:
        first, second = rng.randrange(len(firsts)), rng.randrange(len(seconds))
        if ((first + second) % _TEST_EVERY == 0) == (side == "test"):
            return firsts[first], seconds[second]


def written(template: str, rng: random.Random, **fixed: str) -> str:
    """A template with its slots filled: with what is given, and else with any word of that name."""
    return expand(template, {**SLOTS, **{name: (value,) for name, value in fixed.items()}}, rng)


def sentence(text: str) -> str:
    """The text with a capital letter in front."""
    return text[:1].upper() + text[1:]
