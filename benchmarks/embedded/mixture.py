"""What the embedded detector's layers are tuned on: public sets, texts of our own, and harmless text of any machine.

Each ingredient can be left out, to see what it is worth. A row teaches the heads that its place lets it teach: an
ordinary request is harmless as input and an attack inside a document, so it stands in one lesson and not in the other.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

from benchmarks.embedded.plant import plants
from benchmarks.embedded.sets import Example, Kind, sample
from benchmarks.embedded.tasks import CATEGORIES, TASKS, Task, category
from benchmarks.embedded.templates import BANK, expand, read_rows, read_slots
from lec_guard.detect.heads import HeadSpec
from lec_guard.detect.normalise import meant
from lec_guard.train.lessons import Lesson, LessonExample

Ingredient = Literal["attacks", "twins", "languages", "plants", "tail"]
INGREDIENTS: frozenset[Ingredient] = frozenset(get_args(Ingredient))

HELD = frozenset(
    (
        *("bfcl", "truthfulqa", "mbpp", "strategyqa", "banking77"),
        *("tau_bench", "vega_json_csv", "enron_emails", "qed_wiki_passages"),
        *("llmtrace_curated", "toolsword", "html_pairs"),
        *("halueval_general", "surge_toxicity", "safetext", "aart"),
        *("own_th", "own_fi", "own_harmless_system_like", "own_harmless_long_task"),
        *("own_safe_figurative", "own_safe_safe_target", "own_safe_profession_or_role", "own_safe_targets_not_people"),
    )
)
"""Families that nothing learns from: what is chosen, and all thresholds, come from these and from
`benchmarks.embedded.tail.HELD`. Harmless ones of every kind, of languages that are not learnt either, and of each head
one or more of attacks."""

_AS_TEXT = ("override", "hijack", "agent", "fake_turns", "authority")
"""Attacks of users that are attacks in third-party text as well."""

_EACH = 3
"""Texts that are made of a template with slots."""


def examples(
    data: Path,
    *,
    most: int = 500,
    plant: int = 2_500,
    ingredients: Collection[Ingredient] = INGREDIENTS,
    seed: int = 0,
) -> list[Example]:
    """Public texts and our own.

    Args:
        data: The folder with `train/`.
        most: Public texts of each set and label, at most.
        plant: Documents that something is planted in.
        ingredients: What is mixed in, beside public sets; the tail is not read here.
        seed: Decides which public texts are drawn, and what is made of templates.

    Returns:
        The texts, with families of `HELD` among them.
    """
    rng = random.Random(seed)  # noqa: S311 - repeatable
    found = [_as_meant(one) for one in sample(data / "train", most, seed=seed)]
    if "attacks" in ingredients:
        found += _attacks(rng)
    if "twins" in ingredients:
        found += _twins(rng)
    if "languages" in ingredients:
        found += _languages()
    if "plants" in ingredients:
        found += _plants(seed, plant)
        found += _document_twins()
    return found


def _as_meant(example: Example) -> Example:
    """A text that says with emoji what counts, as the detector reads it."""
    view = meant(example.text) if example.family == "hatemoji_build" else None
    return example if view is None else replace(example, text=view.text)


def lessons(found: Sequence[Example]) -> list[Lesson]:
    """What texts teach the heads that share a pass.

    Args:
        found: The texts.

    Returns:
        One lesson for each of `TASKS`.
    """
    return [Lesson(head=_spec(task), examples=list(_taught(found, task))) for task in TASKS]


def held_in(own: Sequence[Lesson], tail_held: Collection[str]) -> frozenset[str]:
    """Of the families that are held out those that are there: `distil` refuses names of others."""
    there = {example.family for lesson in own for example in lesson.examples}
    return frozenset(there & (HELD | set(tail_held)))


def _spec(task: Task) -> HeadSpec:
    two_level = task.head == "safety"
    return HeadSpec(
        name=task.head,
        kind="two_level" if two_level else "binary",
        labels=(task.positive, *CATEGORIES) if two_level else (task.positive,),
        aggregation="attention",
        temperature=1.0,
    )


def _taught(found: Sequence[Example], task: Task) -> Iterator[LessonExample]:
    for example in found:
        label = task.label(example)
        if label is None or not example.text.strip():
            continue
        if label == 1 and task.head == "safety" and (own := category(example)) is not None:
            label = 2 + own
        yield LessonExample(text=example.text, label=label, family=example.family, group=example.group)


def _own(
    family: str,
    text: str,
    labels: tuple[int | None, int | None, int | None],
    *,
    kind: Kind = "prompt",
    group: str | None = None,
    category: str | None = None,
) -> Example:
    """A text of our own: what it says to `injection`, `indirect_injection` and `safety`."""
    label = "unsafe" if labels[2] == 1 else "injection" if 1 in labels else "benign"
    heads = dict(zip((task.head for task in TASKS), labels, strict=True))
    return Example(
        source=family, family=family, kind=kind, text=text, label=label, category=category, labels=heads, group=group
    )


def _attacks(rng: random.Random) -> Iterator[Example]:
    slots = read_slots(BANK / "direct_slots.json")
    for row in read_rows(BANK / "direct.jsonl"):
        if row["lang"] == "en":
            third = 1 if row["kind"] in _AS_TEXT else None
            for text in _made(row["text"], slots, rng):
                yield _own(f"own_{row['kind']}", text, (1, third, None))


def _twins(rng: random.Random) -> Iterator[Example]:
    slots = read_slots(BANK / "harmless_slots.json")
    for row in read_rows(BANK / "harmless.jsonl"):
        # Who asks about an attack quotes it; sentence by sentence that is the attack itself.
        if row["kind"] == "security_talk" and any(mark in row["text"] for mark in "\"'`\u201c:"):
            continue
        for text in _made(row["text"], slots, rng):
            yield _own(f"own_harmless_{row['kind']}", text, (0, None, 0))
    for row in read_rows(BANK / "harmless_documents.jsonl"):
        yield _own("own_harmless_documents", row["text"], (0, 0, 0), kind="document")
    for row in read_rows(BANK / "safe.jsonl"):
        kind: Kind = "response" if row["kind"] == "answers" else "prompt"
        yield _own(f"own_safe_{row['kind']}", row["text"], (0 if kind == "prompt" else None, None, 0), kind=kind)
    for number, row in enumerate(read_rows(BANK / "safety_twins.jsonl")):
        group = f"twins {number}"
        yield _own("own_unsafe", row["unsafe"], (None, None, 1), group=group, category=row["category"])
        for text in row["safe"]:
            yield _own("own_safe", text, (0, None, 0), group=group)


def _languages() -> Iterator[Example]:
    for row in read_rows(BANK / "direct.jsonl"):
        if row["lang"] != "en":
            third = 1 if row["kind"].rpartition("_")[2] in _AS_TEXT else None
            yield _own(f"own_{row['lang']}", row["text"], (1, third, None))
    for row in read_rows(BANK / "harmless_langs.jsonl"):
        yield _own(f"own_{row['lang']}", row["text"], (0, None, 0))


def _plants(seed: int, count: int) -> Iterator[Example]:
    for number, planted in enumerate(plants(seed, count)):
        if planted.wrapper == "base64":  # only its frame shows which side it is on
            continue
        group = f"plant {number}"
        override = 1 if planted.kind == "override" else None
        texts = (
            (f"own_clean_{planted.family}", planted.clean, (0, 0, 0)),
            (f"own_planted_{planted.kind}", planted.attacked, (override, 1, None)),
            (f"own_imperative_{planted.family}", planted.imperative, (0, 0, 0)),
        )
        for family, text, labels in texts:
            yield _own(family, text, labels, kind="document", group=group)


def _document_twins() -> Iterator[Example]:
    """One text whose step or request is its reader's, and the same one with what takes over the assistant instead."""
    for number, row in enumerate(read_rows(BANK / "document_twins.jsonl")):
        group = f"document twins {number}"
        yield _own("own_step_planted", row["attack"], (None, 1, None), kind="document", group=group)
        yield _own("own_step_clean", row["clean"], (0, 0, 0), kind="document", group=group)


def _made(template: str, slots: dict[str, list[str]], rng: random.Random) -> Iterator[str]:
    """Texts of a template, some in small or capital letters, some without a full stop."""
    for text in dict.fromkeys(expand(template, slots, rng) for _ in range(_EACH)):
        way = rng.random()
        if way < 0.08:
            yield text.lower()
        elif way < 0.12 and len(text) < 200:
            yield text.upper()
        else:
            yield text.rstrip(".") if way < 0.2 else text


def fewer(own: Sequence[Lesson], share: float, *, seed: int = 0) -> list[Lesson]:
    """A part of the texts, the same ones in all lessons, groups whole: to see what more data is worth.

    Args:
        own: The lessons.
        share: How much of them, in (0, 1].
        seed: Decides which.

    Returns:
        The lessons.
    """

    def stays(example: LessonExample) -> bool:
        drawn = random.Random(f"{seed}/{example.group or example.text}").random()  # noqa: S311 - repeatable
        return drawn < share

    if not (0 < share <= 1 and math.isfinite(share)):
        raise ValueError("a share is above 0, and 1 at most")
    return [replace(lesson, examples=[one for one in lesson.examples if stays(one)]) for lesson in own]
