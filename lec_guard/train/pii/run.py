"""From dialogues to preference pairs: `lec-guard pii-data`.

Of each answer that gives personal data away, generators write one that does not. What every call gave is kept, and
what is of no use is counted by its reason.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from lec_guard.errors import UnsupportedValueError
from lec_guard.train.harmaug.config import LOCAL, WAVE, AugmentConfig, ModelConfig
from lec_guard.train.harmaug.costs import cost_of
from lec_guard.train.harmaug.journal import Journal
from lec_guard.train.harmaug.models import AugmentError, Said, TextModel
from lec_guard.train.harmaug.opening import open_model
from lec_guard.train.harmaug.pace import Pace, together
from lec_guard.train.harmaug.prompts import read, seed_of
from lec_guard.train.harmaug.report import JOURNAL, Asked, write_lines
from lec_guard.train.pii.config import PiiDataConfig
from lec_guard.train.pii.dialogues import read_dialogues, with_system
from lec_guard.train.pii.finding import Finder
from lec_guard.train.pii.samples import Sample, asking, samples_of

PAIRS = "pairs.jsonl"
HELD = "held.jsonl"
REPORT = "pii_data.json"
"""In the folder of a run: what is learnt from, what is measured on, and how it went."""

Progress = Callable[[str, float], None]
"""Called with what is being done, and the share of it that is done."""

_MANY_REFUSALS = 0.5
_FEW = 100
"""Rows below which a model learns little."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Answered(_Part):
    """What became of a generator's answers.

    Attributes:
        kept: Samples that it answered without personal data.
        missing: Samples that it did not, in all tries.
        no_use: Why answers were of no use -> how many.
        kinds: Personal data in answers that were of no use: entity type -> how many.
    """

    kept: int
    missing: int
    no_use: dict[str, int]
    kinds: dict[str, int]


class PiiDataReport(_Part):
    """What came of a run.

    Attributes:
        dialogues: Conversations, each counted once.
        repeated: Lines with one that was there already.
        answers: Messages of assistants.
        without: Those without personal data, from which nothing is learnt.
        unread: Those that could not be read, by reason.
        samples: What was to be answered.
        kinds: What is rejected: entity type -> samples.
        answered: By generator.
        rows: Pairs that were written.
        swapped: Those of them whose answers changed places.
        held: Conversations with personal data that are kept for measuring.
        prompts: What is to be answered in measuring.
        asked: What generators were asked for.
        settings: The run.
        notes: What else is to be known.
    """

    dialogues: int
    repeated: int
    answers: int
    without: int
    unread: dict[str, int]
    samples: int
    kinds: dict[str, int]
    answered: dict[str, Answered]
    rows: int
    swapped: int
    held: int
    prompts: int
    asked: dict[str, Asked]
    settings: dict[str, Any]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PiiSamples:
    """What dialogues give to learn from and to measure on.

    Attributes:
        learnt: Samples to be answered.
        held: Those of conversations that are held out.
        dialogues: Conversations.
        repeated: Lines with one that was there already.
        answers: Messages of assistants.
        without: Those without personal data.
        unread: Those that could not be read, by reason.
    """

    learnt: tuple[Sample, ...]
    held: tuple[Sample, ...]
    dialogues: int
    repeated: int
    answers: int
    without: int
    unread: dict[str, int]

    @classmethod
    def read(cls, config: PiiDataConfig, finder: Finder | None = None) -> PiiSamples:
        """Read the data of a run, and look for personal data.

        Args:
            config: The run.
            finder: What looks for it; None makes it.

        Returns:
            The samples, split by conversation.

        Raises:
            UnsupportedValueError: If data can't be read, a package is missing, or there is nothing to learn from.
        """
        finder = finder or Finder(config.pii)
        found = read_dialogues(config.data)
        samples: list[Sample] = []
        answers = without = 0
        unread: Counter[str] = Counter()
        for dialogue in found.all:
            turns = [at for at, one in enumerate(dialogue.messages) if one["role"] == "assistant"]
            answers += len(turns)
            reads = finder.read([dialogue.messages[turn]["content"] for turn in turns])
            for turn, own in zip(turns, reads, strict=True):
                if own.unread is not None:
                    unread[own.unread] += 1
                elif not own.places:
                    without += 1
                samples += samples_of(dialogue, turn, own.places, prefixes=config.prefixes)
        held = _held(config, {sample.dialogue for sample in samples})
        learnt = tuple(one for one in samples if one.dialogue not in held)
        if not learnt:
            raise UnsupportedValueError(
                f"none of {answers:,} answers of an assistant in {len(found.all):,} conversations has personal data: "
                "there is nothing to learn from"
            )
        return cls(
            learnt=learnt,
            held=tuple(one for one in samples if one.dialogue in held),
            dialogues=len(found.all),
            repeated=found.repeated,
            answers=answers,
            without=without,
            unread=dict(unread.most_common()),
        )


def make_pairs(
    config: PiiDataConfig,
    out: Path,
    *,
    generators: Sequence[Any] | None = None,
    samples: PiiSamples | None = None,
    progress: Progress = lambda _what, _share: None,
) -> PiiDataReport:
    """Make pairs of an answer with personal data and one without (arXiv 2412.06846).

    What every call gives is kept in the folder, and the same run goes on from it.

    Args:
        config: What to do.
        out: The folder for what is made; of the same run, or new.
        generators: Models that are there already, in the order of the config's, which are then only their names.
        samples: What to answer, where it was read already.
        progress: Is told how far each part is.

    Returns:
        What came of it; the folder has it too, as `pii_data.json`, beside `pairs.jsonl` and `held.jsonl`.

    Raises:
        UnsupportedValueError: If data or settings are of no use, a package is missing, or the folder is another run's.
        BundleError: If a folder holds no model that can be read.
        AugmentError: If a model fails for good, or nearly nothing that it writes is of use.
    """
    return asyncio.run(amake_pairs(config, out, generators=generators, samples=samples, progress=progress))


async def amake_pairs(
    config: PiiDataConfig,
    out: Path,
    *,
    generators: Sequence[Any] | None = None,
    samples: PiiSamples | None = None,
    progress: Progress = lambda _what, _share: None,
) -> PiiDataReport:
    """`make_pairs`, for an event loop that runs already."""
    finder = Finder(config.pii)
    samples = samples or PiiSamples.read(config, finder)
    given = [None] * len(config.generators) if generators is None else list(generators)
    asked_of_it: dict[str, Any] = {"concurrency": config.concurrency}  # And no more.
    batch = AugmentConfig.model_construct(**asked_of_it)
    journal = Journal(out / JOURNAL, _settings(config))
    try:
        made = [
            _Generator(own, open_model(own, batch, model), config, finder, journal)
            for own, model in zip(config.generators, given, strict=True)
        ]
        for one in made:
            await one.answer(samples.learnt, progress)
    finally:
        journal.close()
    rows = [row for sample in samples.learnt for one in made for row in one.rows(sample)]
    prompts = [{"messages": list(one.prompt), "prefix": one.prefix, "dialogue": one.dialogue} for one in samples.held]
    report = _report(config, samples, made, rows)
    write_lines(out / PAIRS, rows)
    write_lines(out / HELD, prompts)
    (out / REPORT).write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return report


class _Generator:
    """A model, and what it answered."""

    def __init__(
        self, own: ModelConfig, model: TextModel, config: PiiDataConfig, finder: Finder, journal: Journal
    ) -> None:
        self._own, self._model, self._config, self._finder, self._journal = own, model, config, finder, journal
        self._pace = Pace(
            concurrency=config.concurrency, per_minute=config.requests_per_minute, timeout_s=config.timeout_s
        )
        self._kept: dict[str, str] = {}
        self._no_use: Counter[str] = Counter()
        self._kinds: Counter[str] = Counter()
        self._calls = self._tokens_in = self._tokens_out = self._missing = 0

    async def answer(self, samples: Sequence[Sample], progress: Progress) -> None:
        """Answer all samples, in waves, so that a model of no use is given up."""
        what, in_a_row, size = f"asking {self._own.name}", 0, min(WAVE, self._config.give_up)
        progress(what, 0.0)
        for start in range(0, len(samples), size):
            wave = samples[start : start + size]
            for sample, text in zip(wave, await together(self._best(one) for one in wave), strict=True):
                if text is not None:
                    self._kept[sample.key] = text
                    in_a_row = 0
                    continue
                self._missing += 1
                in_a_row += 1
                if in_a_row >= self._config.give_up:
                    self._stop(f"{in_a_row} samples in a row")
            progress(what, min(start + size, len(samples)) / len(samples))
        if not self._kept:
            self._stop("any sample")

    def rows(self, sample: Sample) -> list[dict[str, Any]]:
        """The pairs of a sample."""
        chosen = self._kept.get(sample.key)
        if chosen is None:
            return []
        told = {
            "prefix": sample.prefix,
            "dialogue": sample.dialogue,
            "turn": sample.turn,
            "kinds": list(sample.kinds),
            "generator": self._own.name,
        }
        if not self._config.guided:
            pair = {"chosen": chosen, "rejected": sample.rejected}
            return [{"prompt": list(sample.prompt), **pair, "swapped": False, "asked": None, **told}]
        rows = []
        for asked, first, second, swapped in (
            (self._config.positive, chosen, sample.rejected, False),
            (self._config.negative, sample.rejected, chosen, True),
        ):
            prompt = with_system(sample.prompt, asked)
            pair = {"chosen": first, "rejected": second}
            rows.append({"prompt": prompt, **pair, "swapped": swapped, "asked": asked, **told})
        return rows

    @property
    def name(self) -> str:
        return self._own.name

    @property
    def answered(self) -> Answered:
        return Answered(
            kept=len(self._kept),
            missing=self._missing,
            no_use=dict(self._no_use.most_common()),
            kinds=dict(self._kinds.most_common()),
        )

    @property
    def asked(self) -> Asked:
        return Asked(
            model=self._own.model,
            calls=self._calls,
            tokens_in=self._tokens_in,
            tokens_out=self._tokens_out,
            cost=cost_of(self._own, self._tokens_in, self._tokens_out),
        )

    async def _best(self, sample: Sample) -> str | None:
        """An answer without personal data; None where no try gave one. Every other one is asked for twice."""
        for attempt in range(1 + self._config.retries):
            prompt = asking(
                sample,
                positive=self._config.positive,
                nudge=self._config.nudge if attempt % 2 else None,
                seed=seed_of(self._config.seed, self._own.name, sample.key, attempt),
            )
            key = f"{self._own.name}/{attempt}/{seed_of(prompt.system, prompt.user, prompt.prefix, sample.key):016x}"
            known = self._journal.get(key)
            if known is None:
                # mypy does not infer a lambda with a default.
                said = await self._pace.run(lambda prompt=prompt: self._model.say(prompt))  # type: ignore[misc]
                self._journal.add(key, dataclasses.asdict(said))
            else:
                said = Said(**known)
            self._calls, self._tokens_in = self._calls + 1, self._tokens_in + said.tokens_in
            self._tokens_out += said.tokens_out
            text = self._useful(sample, said)
            if text is not None:
                return text
        return None

    def _useful(self, sample: Sample, said: Said) -> str | None:
        text, why = read("refusal" if self._config.keep_refusals else "compliance", said, self._config.longest)
        if why is None and (said.ending == "length" or len(text) > self._config.longest):
            why = "too long"
        if why is not None:
            self._no_use[why] += 1
            return None
        begun = f"{sample.prefix}{sample.gap}"
        (own,) = self._finder.read([f"{begun}{text}"])
        # What the beginning has was there before.
        places = [place for place in own.places if place.end > len(begun)]
        if own.unread is not None or places:
            self._no_use["can't be checked" if own.unread is not None else "has personal data"] += 1
            self._kinds.update(kind for place in places for kind in place.kinds)
            return None
        return f"{sample.gap}{text}"

    def _stop(self, what: str) -> None:
        why = ", ".join(f"{reason}: {count}" for reason, count in self._no_use.most_common())
        raise AugmentError(
            f"{self._own.model} gave no answer of use to {what} ({why}); take another model, or look at what counts as "
            "personal data"
        )


def _settings(config: PiiDataConfig) -> dict[str, Any]:
    """What answers depend on, but for what is asked, which the key of each call has."""
    told: dict[str, Any] = {"seed": config.seed}
    for own in config.generators:
        about = {"temperature": own.temperature, "max_tokens": own.max_tokens, "prefill": own.prefill}
        folder = Path(own.model.removeprefix(LOCAL))
        is_local = own.model.startswith(LOCAL) and folder.is_dir()
        files = sorted([one.name, one.stat().st_size] for one in folder.iterdir() if one.is_file()) if is_local else []
        told[own.name] = {**about, "files": files}
    return told


def _held(config: PiiDataConfig, dialogues: set[str]) -> set[str]:
    """Conversations that nothing is learnt from: a share of those with personal data, and never all."""
    drawn = sorted(dialogues, key=lambda name: seed_of(config.seed, "held", name))
    count = round(config.held * len(drawn))
    if config.held and not count:
        count = 1
    return set(drawn[: min(count, len(drawn) - 1)]) if drawn else set()


def _report(
    config: PiiDataConfig, samples: PiiSamples, made: Sequence[_Generator], rows: Sequence[dict[str, Any]]
) -> PiiDataReport:
    return PiiDataReport(
        dialogues=samples.dialogues,
        repeated=samples.repeated,
        answers=samples.answers,
        without=samples.without,
        unread=samples.unread,
        samples=len(samples.learnt),
        kinds=dict(Counter(kind for one in samples.learnt for kind in one.kinds).most_common()),
        answered={one.name: one.answered for one in made},
        rows=len(rows),
        swapped=sum(bool(row["swapped"]) for row in rows),
        held=len({one.dialogue for one in samples.held}),
        prompts=len(samples.held),
        asked={one.name: one.asked for one in made},
        settings=config.model_dump(mode="json"),
        notes=tuple(_notes(config, samples, made, rows)),
    )


def _notes(
    config: PiiDataConfig, samples: PiiSamples, made: Sequence[_Generator], rows: Sequence[dict[str, Any]]
) -> list[str]:
    notes = []
    if len(made) == 1:
        notes.append("one generator: two whose words differ make pairs that are less alike (arXiv 2412.06846 has two)")
    if config.pii.ner is False:
        notes.append("no language model looked for names and places: answers that have some may be among the chosen")
    for one in made:
        refused = one.answered.no_use.get("refused", 0)
        if refused > _MANY_REFUSALS * one.asked.calls:
            notes.append(
                f"{one.name} declined {refused:,} of {one.asked.calls:,} times: what it answers are the easy samples"
            )
    if not samples.held:
        notes.append("no conversation is held out: there is nothing to measure on")
    if len(rows) < _FEW:
        notes.append(f"{len(rows):,} pairs are few: arXiv 2412.06846 has several thousand")
    return notes
