"""What the embedded detector's layers are tuned on: public sets, texts of our own, and harmless text of any machine.

Each ingredient can be left out, to see what it is worth. A row teaches the heads that its place lets it teach: an
ordinary request is harmless as input and an attack inside a document, so it stands in one lesson and not in the other.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from benchmarks.embedded.features import sample
from benchmarks.embedded.plant import plants
from benchmarks.embedded.sets import Example
from benchmarks.embedded.tasks import CATEGORIES, TASKS, category
from benchmarks.embedded.templates import BANK, expand, read_rows, read_slots
from lec_guard.detect.heads import HeadSpec
from lec_guard.train.lessons import Lesson, LessonExample

Ingredient = Literal["attacks", "twins", "languages", "plants", "tail"]
INGREDIENTS: frozenset[Ingredient] = frozenset(get_args(Ingredient))

HELD = frozenset(
    (
        *("bfcl", "truthfulqa", "mbpp", "strategyqa", "banking77"),
        *("tau_bench", "vega_json_csv", "enron_emails", "qed_wiki_passages"),
        *("llmtrace_curated", "toolsword", "html_pairs"),
        *("halueval_general", "surge_toxicity", "safetext", "aart", "hatemoji_build"),
    )
)
"""Public families that nothing learns from: what is chosen, and all thresholds, come from these and from
`benchmarks.embedded.tail.HELD`. Harmless ones of every kind, and of each head one or more of attacks."""

HEADS = ("injection", "indirect_injection", "safety")
_AS_TEXT = ("override", "hijack", "agent", "fake_turns", "authority")
"""Attacks of users that are attacks in third-party text as well."""

_EACH = {"attacks": 3, "twins": 3, "languages": 1}
"""Texts that are made of a template with slots."""


@dataclass(frozen=True, slots=True)
class _Row:
    """A text, and what it teaches each head: the label, or None for nothing."""

    text: str
    family: str
    labels: tuple[int | None, int | None, int | None]
    group: str | None = None


def lessons(
    data: Path,
    *,
    most: int = 500,
    plant: int = 2_500,
    tail: Sequence[Example] = (),
    ingredients: Collection[Ingredient] = INGREDIENTS,
    seed: int = 0,
) -> list[Lesson]:
    """The lessons of the heads that share a pass.

    Args:
        data: The folder with `train/`.
        most: Public texts of each set and label, at most.
        plant: Documents that something is planted in.
        tail: Harmless texts of `benchmarks.embedded.tail`: those that scored high, or any.
        ingredients: What is mixed in, beside public sets.
        seed: Decides what is made of templates.

    Returns:
        One lesson for each head of `HEADS`, with the families of `HELD` in it.
    """
    rng = random.Random(seed)  # noqa: S311 - repeatable
    rows = [row for example in sample(data / "train", most) if (row := _public(example)) is not None]
    if "attacks" in ingredients:
        rows += _attacks(rng)
    if "twins" in ingredients:
        rows += _twins(rng)
    if "languages" in ingredients:
        rows += _languages()
    if "plants" in ingredients:
        rows += _plants(seed, plant)
    if "tail" in ingredients:
        rows += [_Row(example.text, example.family, (0, 0, 0)) for example in tail]
    return [Lesson(head=_spec(name), examples=_examples(rows, at)) for at, name in enumerate(HEADS)]


def held_in(own: Sequence[Lesson], tail_held: Collection[str]) -> frozenset[str]:
    """Of the families that are held out those that are there: `distil` refuses names of others."""
    there = {example.family for lesson in own for example in lesson.examples}
    return frozenset(there & (HELD | set(tail_held)))


def _spec(name: str) -> HeadSpec:
    two_level = name == "safety"
    return HeadSpec(
        name=name,
        kind="two_level" if two_level else "binary",
        labels=("unsafe", *CATEGORIES) if two_level else ("injection",),
        aggregation="attention",
        temperature=1.0,
    )


def _examples(rows: Sequence[_Row], head: int) -> list[LessonExample]:
    return [
        LessonExample(text=row.text, label=label, family=row.family, group=row.group)
        for row in rows
        if (label := row.labels[head]) is not None and row.text.strip()
    ]


def _public(example: Example) -> _Row | None:
    labels = [task.label(example) for task in TASKS]
    if not any(label is not None for label in labels):
        return None
    own = category(example)
    unsafe = labels[2] if own is None or labels[2] != 1 else 2 + own
    return _Row(example.text, example.family, (labels[0], labels[1], unsafe))


def _attacks(rng: random.Random) -> Iterator[_Row]:
    slots = read_slots(BANK / "direct_slots.json")
    for row in read_rows(BANK / "direct.jsonl"):
        if row["lang"] == "en":
            third = 1 if row["kind"] in _AS_TEXT else None
            for text in _made(row["text"], slots, rng, "attacks"):
                yield _Row(text, f"own_{row['kind']}", (1, third, None))


def _twins(rng: random.Random) -> Iterator[_Row]:
    slots = read_slots(BANK / "harmless_slots.json")
    for row in read_rows(BANK / "harmless.jsonl"):
        # Who asks about an attack quotes it; sentence by sentence that is the attack itself.
        if row["kind"] == "security_talk" and any(mark in row["text"] for mark in "\"'`“:"):
            continue
        for text in _made(row["text"], slots, rng, "twins"):
            yield _Row(text, f"own_harmless_{row['kind']}", (0, None, 0))
    for number, row in enumerate(read_rows(BANK / "safety_twins.jsonl")):
        group = f"twins {number}"
        unsafe = 2 + CATEGORIES.index(row["category"])
        yield _Row(row["unsafe"], "own_unsafe", (None, None, unsafe), group)
        for text in row["safe"]:
            yield _Row(text, "own_safe", (0, None, 0), group)


def _languages() -> Iterator[_Row]:
    for row in read_rows(BANK / "direct.jsonl"):
        if row["lang"] != "en":
            third = 1 if row["kind"].rpartition("_")[2] in _AS_TEXT else None
            yield _Row(row["text"], f"own_{row['lang']}", (1, third, None))
    for row in read_rows(BANK / "harmless_langs.jsonl"):
        yield _Row(row["text"], f"own_{row['lang']}", (0, None, 0))


def _plants(seed: int, count: int) -> Iterator[_Row]:
    for number, planted in enumerate(itertools.islice(plants(seed, 2 * count), count)):
        if planted.wrapper == "base64":  # only its frame shows which side it is on
            continue
        group = f"plant {number}"
        override = 1 if planted.kind == "override" else None
        yield _Row(planted.clean, f"own_clean_{planted.family}", (0, 0, 0), group)
        yield _Row(planted.attacked, f"own_planted_{planted.kind}", (override, 1, None), group)
        yield _Row(planted.imperative, f"own_imperative_{planted.family}", (0, 0, 0), group)


def _made(
    template: str, slots: dict[str, list[str]], rng: random.Random, ingredient: Literal["attacks", "twins"]
) -> Iterator[str]:
    """Texts of a template, some in small or capital letters, some without a full stop."""
    made = dict.fromkeys(expand(template, slots, rng) for _ in range(_EACH[ingredient]))
    for text in made:
        way = rng.random()
        if way < 0.08:
            yield text.lower()
        elif way < 0.12 and len(text) < 200:
            yield text.upper()
        else:
            yield text.rstrip(".") if way < 0.2 else text


def fewer(own: Sequence[Lesson], share: float, *, keep: Collection[str], seed: int = 0) -> list[Lesson]:
    """A part of the texts, the same ones in all lessons, groups whole: to see what more data is worth.

    Args:
        own: The lessons.
        share: How much of them, in (0, 1].
        keep: Families that stay whole.
        seed: Decides which.

    Returns:
        The lessons.
    """

    def stays(example: LessonExample) -> bool:
        drawn = random.Random(f"{seed}/{example.group or example.text}").random()  # noqa: S311 - repeatable
        return example.family in keep or drawn < share

    if not (0 < share <= 1 and math.isfinite(share)):
        raise ValueError("a share is above 0, and 1 at most")
    return [replace(lesson, examples=[one for one in lesson.examples if stays(one)]) for lesson in own]
