"""Lessons for tiny models."""

from __future__ import annotations

import random
from typing import Any

from lec_guard.detect.heads import HeadSpec
from lec_guard.train.config import Windows
from lec_guard.train.distil import DistilBlock, DistilConfig
from lec_guard.train.lessons import Lesson, LessonExample

BINARY = HeadSpec(name="mine", kind="binary", labels=("bad",))
TOPIC = HeadSpec(name="topic", kind="multiclass", labels=("weather", "rules"), temperature=0.7)
SAFETY = HeadSpec(
    name="safety", kind="two_level", labels=("unsafe", "one", "two"), aggregation="attention", temperature=2.0
)


def example(text: str, label: int | None, family: str, **own: Any) -> LessonExample:
    return LessonExample(text=text, label=label, family=family, **own)


def either(count: int = 320, *, seed: int = 0, families: int = 6) -> list[LessonExample]:
    """Harmful is what has one of two words and not the other: no regression on words tells that."""
    numbers = random.Random(seed)
    found = []
    for at in range(count):
        first, second = numbers.random() < 0.5, numbers.random() < 0.5
        words = [numbers.choice(["the", "weather", "please"]) for _ in range(numbers.randint(3, 7))]
        for has, word in ((first, "ignore"), (second, "rules")):
            if has:
                words.insert(numbers.randrange(len(words)), word)
        family = f"{'bad' if first != second else 'good'} {at % families}"
        found.append(example(" ".join(words), int(first != second), family))
    return found


def lesson(examples: list[LessonExample] | None = None, head: HeadSpec = BINARY) -> Lesson:
    return Lesson(head=head, examples=either() if examples is None else examples)


def config(**own: Any) -> DistilConfig:
    given = {
        "blocks": (DistilBlock(layer=2, pooling="mean"),),
        "window": Windows(size=16, stride=7, least=4),
        "epochs": 2,
        "rank": 4,
        "alpha": 8.0,
        "tokens": 600,
        "rate": 0.01,
    }
    return DistilConfig(**{**given, **own})
