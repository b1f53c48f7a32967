"""The labelled texts that a run starts from, by topic, and the words in which its own labels are to be written."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass

from lec_guard.errors import UnsupportedValueError
from lec_guard.train.data import Example, Reading, read_dataset
from lec_guard.train.harmaug.config import AugmentConfig
from lec_guard.train.labels import read_label
from lec_guard.train.rows import Mistakes, read_rows

Written = str | int | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """What instructions are made about.

    Attributes:
        name: What it is called: the category of rows, or their label.
        label: The label of its rows, as the data writes it.
        exemplars: The rows that prompts show.
    """

    name: str
    label: Written
    exemplars: tuple[Example, ...]

    def draw(self, count: int, seed: int) -> tuple[Example, ...]:
        """Some of the exemplars.

        Args:
            count: How many, at most.
            seed: The same seed draws the same ones.

        Returns:
            Different ones, in any order.
        """
        numbers = random.Random(seed)  # noqa: S311 - a draw that can be repeated
        return tuple(numbers.sample(self.exemplars, min(count, len(self.exemplars))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Exemplars:
    """What a run starts from.

    Attributes:
        topics: What instructions are made about, by name.
        benign: The label of harmless texts, as the data writes it.
        texts: All texts of the data, which nothing that is made may resemble.
        digest: A hash over all of it.
        notes: What became of rows, in words.
    """

    topics: tuple[Topic, ...]
    benign: Written
    texts: tuple[str, ...]
    digest: str
    notes: tuple[str, ...]

    @classmethod
    def read(cls, config: AugmentConfig) -> Exemplars:
        """Read the data of a run.

        Args:
            config: The run.

        Returns:
            Harmful messages by topic, and what else is to be known of the data.

        Raises:
            UnsupportedValueError: If files or rows can't be read, or none of them can be an exemplar.
        """
        reading = read_dataset(
            config.data,
            config.columns,
            config.labels,
            stage=config.stage,
            on_conflict=config.on_conflict,
            sample=config.sample,
        )
        data = reading.dataset
        categories, kinds = _raw(reading, config)
        written = _Labels.of(kinds, data.labels, config)
        by_topic: dict[str, tuple[Written, list[Example]]] = {}
        notes, long = list(reading.told()), 0
        for example, at, harm in zip(data.examples, data.hard.tolist(), data.harmful.tolist(), strict=True):
            if harm <= 0.5 or example.stage != "input":
                continue
            if len(example.text) > config.longest:
                long += 1
                continue
            label = data.labels[at or 1]
            name = categories.get(example.source) or label
            by_topic.setdefault(name, (label if written.harmful is None else written.harmful, []))[1].append(example)
        if long:
            notes.append(f"{long:,} harmful texts of more than {config.longest:,} characters are not shown as examples")
        if not by_topic:
            raise UnsupportedValueError("no harmful row of stage 'input' can be shown as an example: add some")
        topics = tuple(
            Topic(name=name, label=label, exemplars=tuple(own)) for name, (label, own) in sorted(by_topic.items())
        )
        whole = [
            [one.text, one.context, *share] for one, share in zip(data.examples, data.targets.tolist(), strict=True)
        ]
        told = [[one.name, str(one.label), [own.source for own in one.exemplars]] for one in topics]
        return cls(
            topics=topics,
            benign=data.labels[0] if written.benign is None else written.benign,
            texts=tuple(example.text for example in data.examples),
            digest=hashlib.sha256(json.dumps([whole, told]).encode()).hexdigest(),
            notes=tuple(notes),
        )


@dataclass(frozen=True, slots=True)
class _Labels:
    """How the data writes its labels where these are numbers or truth values; None where they are words."""

    harmful: Written | None = None
    benign: Written | None = None

    @classmethod
    def of(cls, kinds: set[str], labels: tuple[str, ...], config: AugmentConfig) -> _Labels:
        if labels != ("benign", config.positive) or kinds not in ({"number"}, {"truth"}):
            return cls()
        turned = (config.benign or "").strip().casefold() in ("1", "true")
        return cls(int(not turned), int(turned)) if kinds == {"number"} else cls(not turned, turned)


def _raw(reading: Reading, config: AugmentConfig) -> tuple[Mapping[str, str], set[str]]:
    """The category of each row that has one, by source, and of which kinds labels are."""
    mistakes = Mistakes()
    categories: dict[str, str] = {}
    kinds: set[str] = set()
    for file in reading.files:
        for row in read_rows(file.path, [config.columns.label], [config.category], mistakes):
            raw = row.values.get(config.category)
            if isinstance(raw, str) and raw.strip():
                categories[row.source] = raw.strip()
            value = read_label(row.values[config.columns.label])
            kinds.add("number" if isinstance(value, float) else "truth" if value in ("true", "false") else "word")
    return categories, kinds
