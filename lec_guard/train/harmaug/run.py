"""From labelled texts to more of them: what is asked, in which order, and what becomes of each answer.

Calls are made in waves. Within one they come back in any order; what came back is looked at in the order of the texts.
So the same answers make the same rows, whether a run was interrupted or not, and however many calls run at once.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lec_guard.train.harmaug import prompts
from lec_guard.train.harmaug.config import BUNDLE, LOCAL, WAVE, AugmentConfig, ModelConfig
from lec_guard.train.harmaug.costs import Role, cost_of
from lec_guard.train.harmaug.exemplars import Exemplars, Topic
from lec_guard.train.harmaug.journal import Journal
from lec_guard.train.harmaug.models import AugmentError, Models, Prompt, Said, TextModel
from lec_guard.train.harmaug.near import Texts
from lec_guard.train.harmaug.opening import open_model, open_teacher
from lec_guard.train.harmaug.pace import Pace, together
from lec_guard.train.harmaug.prompts import RESPONSES, Kind, Reason, key_words, on_topic, seed_of
from lec_guard.train.harmaug.report import (
    ASIDE,
    EXAMPLES,
    JOURNAL,
    REPORT,
    Asked,
    Made,
    Report,
    Text,
    write_lines,
    write_report,
)
from lec_guard.train.harmaug.teacher import Item, Label, Labeller, answer, question

Progress = Callable[[str, float], None]
"""Called with what is being done, and the share of it that is done."""

_ANSWERS = {
    "generator": ("model", "temperature", "max_tokens", "prefill"),
    "responder": ("model", "temperature", "max_tokens", "prefill"),
    "teacher": ("model", "temperature", "max_tokens", "prefill", "question", "head", "benign"),
}
"""Of each model, the settings that answers depend on."""

_REASONS: dict[tuple[str, str], Reason] = {
    ("equal", "exemplar"): "equals an exemplar",
    ("equal", "data"): "is in the data",
    ("equal", "made"): "was made before",
    ("near", "exemplar"): "is like an exemplar",
    ("near", "data"): "is like the data",
    ("near", "made"): "is like one that was made",
}


def augment(
    config: AugmentConfig,
    out: Path,
    *,
    models: Models | None = None,
    exemplars: Exemplars | None = None,
    progress: Progress = lambda _what, _share: None,
) -> Report:
    """Make examples with a chat model, and have each labelled by a teacher.

    What every call gives is kept in the folder, and the same run goes on from it.

    Args:
        config: What to do.
        out: The folder for what is made; of the same run, or new.
        models: Models that are there already; the config's names are then only what rows call them.
        exemplars: What to start from, where it was read already.
        progress: Is told how far each part is.

    Returns:
        What came of it; the folder has it too, as `augment.json`, beside `examples.jsonl` and `set_aside.jsonl`.

    Raises:
        UnsupportedValueError: If data or settings are of no use, a package is missing, or the folder is another run's.
        BundleError: If a folder holds no model that can be read.
        DetectorError: If a detector that teaches fails.
        AugmentError: If a model fails for good, or nearly nothing that it writes is of use.
    """
    return asyncio.run(aaugment(config, out, models=models, exemplars=exemplars, progress=progress))


async def aaugment(
    config: AugmentConfig,
    out: Path,
    *,
    models: Models | None = None,
    exemplars: Exemplars | None = None,
    progress: Progress = lambda _what, _share: None,
) -> Report:
    """`augment`, for an event loop that runs already."""
    exemplars = exemplars or Exemplars.read(config)
    journal = Journal(out / JOURNAL, _settings(config, exemplars))
    try:
        run = _Run(config, exemplars, journal, _Writers.of(config, models or Models()), progress)
        await run.all()
    finally:
        journal.close()
    rows, aside = run.rows()
    report = run.report(rows)
    write_lines(out / EXAMPLES, rows)
    write_lines(out / ASIDE, aside)
    write_report(out / REPORT, report)
    return report


def _settings(config: AugmentConfig, exemplars: Exemplars) -> dict[str, Any]:
    """What answers depend on. Whatever else is changed, answers that are there are still those to be had."""
    told: dict[str, Any] = {"data": exemplars.digest, "exemplars": config.exemplars, "seed": config.seed}
    for role, keys in _ANSWERS.items():
        own = getattr(config, role)
        told |= {f"{role}.{key}": None if own is None else getattr(own, key) for key in keys}
        told[f"{role}'s files"] = [] if own is None else _files(own.model)
    return told


def _files(model: str) -> list[list[Any]]:
    """The files of a local model, by name and size."""
    folder = next((Path(model.removeprefix(kind)) for kind in (LOCAL, BUNDLE) if model.startswith(kind)), None)
    if folder is None or not folder.is_dir():
        return []
    return sorted([path.name, path.stat().st_size] for path in folder.iterdir() if path.is_file())


@dataclass(frozen=True, slots=True)
class _Writer:
    """A model, what it is called, and how it may be called."""

    config: ModelConfig
    model: TextModel
    pace: Pace


@dataclass(frozen=True, slots=True)
class _Writers:
    """The models of a run."""

    generator: _Writer
    responder: _Writer
    teacher: _Writer | Labeller

    @classmethod
    def of(cls, config: AugmentConfig, given: Models) -> _Writers:
        # What has the same name is the same model, and keeps to one rate.
        known: dict[str, _Writer] = {}

        def writer(own: ModelConfig, model: TextModel) -> _Writer:
            pace = known[own.model].pace if own.model in known else _pace(config)
            return known.setdefault(own.model, _Writer(own, model, pace))

        generator = writer(config.generator, open_model(config.generator, config, given.generator))
        responder = generator
        if config.responses and (config.responder is not None or given.responder is not None):
            own = open_model(config.responding, config, given.responder)
            responder = _Writer(config.responding, own, writer(config.responding, own).pace)
        teacher = open_teacher(config, given.teacher)
        if callable(teacher):
            return cls(generator, responder, teacher)
        return cls(generator, responder, _Writer(config.teacher, teacher, writer(config.teacher, teacher).pace))


def _pace(config: AugmentConfig) -> Pace:
    return Pace(concurrency=config.concurrency, per_minute=config.requests_per_minute, timeout_s=config.timeout_s)


@dataclass(frozen=True, slots=True)
class _Job:
    """A text to make.

    Attributes:
        number: Of the instruction that it is, or belongs to.
        topic: What that is about.
        context: The instruction that a response answers.
        ask: Number of the attempt -> what to ask, and where the texts stand that it shows.
        refuse: Why a text of the right form is of no use; None where it is.
    """

    number: int
    topic: Topic
    context: str | None
    ask: Callable[[int], tuple[Prompt, tuple[str, ...]]]
    refuse: Callable[[str], Reason | None]


@dataclass(slots=True)
class _Counts:
    """What became of texts of one kind so far."""

    wanted: int = 0
    calls: int = 0
    no_use: Counter[str] = field(default_factory=Counter)
    set_aside: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class _Use:
    """What was asked of a model."""

    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0


class _Run:
    """One run: its texts, and what was said of them."""

    def __init__(
        self, config: AugmentConfig, exemplars: Exemplars, journal: Journal, writers: _Writers, progress: Progress
    ) -> None:
        self._config, self._exemplars, self._journal = config, exemplars, journal
        self._writers, self._progress = writers, progress
        self._counts: dict[Kind, _Counts] = {}
        self._used: dict[Role, _Use] = {}
        self._labelled: list[tuple[Text, Label | None]] = []
        self._requests = Texts(config.near)
        shown = [one.text for topic in exemplars.topics for one in topic.exemplars]
        for kind, texts in (("exemplar", shown), ("data", exemplars.texts)):
            for text in texts:
                self._requests.add(text, kind)
        self._compliances = Texts(config.near)

    async def all(self) -> None:
        """Make all texts and have them labelled."""
        made = await self._make("instruction", [self._instruction(number) for number in range(self._config.count)])
        labelled = await self._label("instruction", made)
        harmful = [text for text, label in labelled if label is not None and label.score > 0.5]
        if self._config.twins:
            await self._label("twin", await self._make("twin", [self._twin(text) for text in harmful]))
        for kind in RESPONSES if self._config.responses else ():
            await self._label(kind, await self._make(kind, [self._response(kind, text) for text in harmful]))

    def _instruction(self, number: int) -> _Job:
        topics, seed = self._exemplars.topics, self._config.seed
        topic = topics[number % len(topics)]

        def ask(attempt: int) -> tuple[Prompt, tuple[str, ...]]:
            drawn = topic.draw(self._config.exemplars, seed_of(seed, number, attempt))
            own = seed_of(seed, "instruction", number, attempt)
            return prompts.instruction(topic.name, [one.text for one in drawn], own), tuple(
                Path(one.source).name for one in drawn
            )

        return _Job(number, topic, None, ask, lambda text: self._known(self._requests, text))

    def _twin(self, harmful: Text) -> _Job:
        words = key_words(harmful.text)

        def ask(attempt: int) -> tuple[Prompt, tuple[str, ...]]:
            own = seed_of(self._config.seed, "twin", harmful.number, attempt)
            return prompts.twin(harmful.text, words, own), harmful.exemplars

        def refuse(text: str) -> Reason | None:
            return self._known(self._requests, text, twin_of=harmful.text) if on_topic(text, words) else "off topic"

        return _Job(harmful.number, harmful.topic, None, ask, refuse)

    def _response(self, kind: Kind, request: Text) -> _Job:
        def ask(attempt: int) -> tuple[Prompt, tuple[str, ...]]:
            own = seed_of(self._config.seed, kind, request.number, attempt)
            return prompts.response(kind, request.text, own), request.exemplars

        def refuse(text: str) -> Reason | None:
            # The same refusal suits many requests; the same help does not.
            return None if kind == "refusal" else self._known(self._compliances, text)

        return _Job(request.number, request.topic, request.text, ask, refuse)

    def _known(self, texts: Texts, text: str, *, twin_of: str | None = None) -> Reason | None:
        """Why a text can't be taken beside those that are there; else it is there from now on."""
        found = texts.find(text, twin_of=twin_of)
        if found is not None:
            return _REASONS[found]
        texts.add(text, "made")
        return None

    async def _make(self, kind: Kind, jobs: Sequence[_Job]) -> list[Text]:
        """Make texts of one kind; those of no use again, until their retries are used up."""
        what, counts = f"making {kind}s", self._counts.setdefault(kind, _Counts(wanted=len(jobs)))
        role: Role = "responder" if kind in RESPONSES else "generator"
        writer = self._writers.responder if kind in RESPONSES else self._writers.generator
        self._progress(what, 0.0)
        waiting = deque((at, 0) for at in range(len(jobs)))
        made: dict[int, Text] = {}
        in_a_row = 0
        while waiting:
            wave = [waiting.popleft() for _ in range(min(WAVE, len(waiting)))]
            asked = [jobs[at].ask(attempt) for at, attempt in wave]
            keys = [f"{kind}/{jobs[at].number}/{attempt}" for at, attempt in wave]
            answers = await together(
                self._say(role, writer, key, prompt) for key, (prompt, _) in zip(keys, asked, strict=True)
            )
            for (at, attempt), (_, shown), said in zip(wave, asked, answers, strict=True):
                job = jobs[at]
                text, why = prompts.read(kind, said, self._config.longest)
                why = why or job.refuse(text)
                counts.calls += 1
                if why is None:
                    in_a_row = 0
                    made[at] = Text(
                        kind=kind,
                        number=job.number,
                        topic=job.topic,
                        text=text,
                        context=job.context,
                        exemplars=shown,
                        attempt=attempt,
                    )
                    continue
                in_a_row += 1
                counts.no_use[why] += 1
                if in_a_row >= self._config.give_up:
                    raise AugmentError(_useless(writer.config.model, kind, in_a_row, counts.no_use))
                if attempt < self._config.retries:
                    waiting.append((at, attempt + 1))
            self._progress(what, 1 - len(waiting) / max(len(jobs), 1))
        if jobs and not made:
            raise AugmentError(_useless(writer.config.model, kind, in_a_row, counts.no_use))
        self._progress(what, 1.0)
        return [made[at] for at in sorted(made)]

    async def _label(self, kind: Kind, made: Sequence[Text]) -> list[tuple[Text, Label | None]]:
        """Have texts labelled, and set aside what can't be learnt from; gives the others."""
        what, counts = f"labelling {kind}s", self._counts[kind]
        self._progress(what, 0.0)
        kept: list[tuple[Text, Label | None]] = []
        in_a_row = 0
        for start in range(0, len(made), WAVE):
            wave = made[start : start + WAVE]
            for text, label in zip(wave, await self._labels(wave), strict=True):
                why = self._aside(kind, label)
                in_a_row = in_a_row + 1 if label is None else 0
                if in_a_row >= self._config.give_up:
                    raise AugmentError(
                        f"{self._config.teacher.model} gave no label to {in_a_row} texts in a row, in the form that it "
                        "was asked for: take another teacher"
                    )
                if why is None:
                    kept.append((text, label))
                else:
                    counts.set_aside[why] += 1
                self._labelled.append((text, label))
            self._progress(what, min(start + WAVE, len(made)) / len(made))
        self._progress(what, 1.0)
        return kept

    def _aside(self, kind: Kind, label: Label | None) -> str | None:
        if label is None:
            return "the teacher gave no label"
        if label.spread > self._config.teacher.max_spread:
            return "the teacher's answers are too far apart"
        return "the teacher finds it harmful" if kind == "twin" and label.score > 0.5 else None

    async def _labels(self, texts: Sequence[Text]) -> list[Label | None]:
        teacher = self._writers.teacher
        items = [Item(text.text, text.context) for text in texts]
        keys = [
            f"teacher/{text.kind}/{text.number}/{seed_of(item.context, item.text):016x}"
            for text, item in zip(texts, items, strict=True)
        ]
        if isinstance(teacher, _Writer):
            return await together(self._ask(teacher, key, item) for key, item in zip(keys, items, strict=True))
        known = [self._journal.get(key) for key in keys]
        use = self._used.setdefault("teacher", _Use())
        use.calls += len(items)
        if not all(known):
            # All of a wave, because what is read together may differ in its last digits.
            for key, score in zip(keys, await asyncio.to_thread(teacher, items), strict=True):
                self._journal.add(key, {"score": round(float(score), 6)})
            known = [self._journal.get(key) for key in keys]
        return [Label(float(one["score"]), 0.0, 1) for one in known if one is not None]

    async def _ask(self, teacher: _Writer, key: str, item: Item) -> Label | None:
        """Ask a chat model about a text until there are enough answers, or too many of no use."""
        config, scores = self._config.teacher, list[float]()
        for number in range(config.asks + self._config.retries):
            seed = seed_of(self._config.seed, key, number)
            said = await self._say("teacher", teacher, f"{key}/{number}", question(item, config.question, seed))
            if said.share is not None:
                return Label(said.share, 0.0, 1)
            score = answer(said)
            if score is not None:
                scores.append(score)
            if len(scores) == config.asks:
                return Label(sum(scores) / len(scores), max(scores) - min(scores), len(scores))
        return None

    async def _say(self, role: Role, writer: _Writer, key: str, prompt: Prompt) -> Said:
        """What a model says, now or when it was first asked the same."""
        # Another prompt has another answer, whatever it is for.
        key = f"{key}/{seed_of(prompt.system, prompt.user, prompt.prefix):016x}"
        known = self._journal.get(key)
        if known is None:
            said = await writer.pace.run(lambda: writer.model.say(prompt))
            self._journal.add(key, dataclasses.asdict(said))
        else:
            said = Said(**known)
        use = self._used.setdefault(role, _Use())
        use.calls, use.tokens_in = use.calls + 1, use.tokens_in + said.tokens_in
        use.tokens_out += said.tokens_out
        return said

    def rows(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """What may be learnt from, and what was set aside, with the reason."""
        rows, aside = [], []
        names = {"instruction": self._config.generator.name, "twin": self._config.generator.name}
        order: list[Kind] = ["instruction", "twin", *RESPONSES]
        for text, label in sorted(self._labelled, key=lambda one: (one[0].number, order.index(one[0].kind))):
            row = text.row(
                label,
                benign=self._exemplars.benign,
                generator=self._config.generator.name,
                writer=names.get(text.kind, self._config.responding.name),
                teacher=self._config.teacher.name,
            )
            why = self._aside(text.kind, label)
            if why is None:
                rows.append(row)
            else:
                aside.append({**row, "reason": why})
        return rows, aside

    def report(self, rows: Iterable[Mapping[str, Any]]) -> Report:
        """What came of it."""
        rows = list(rows)
        harmful = Counter(row["origin"]["kind"] for row in rows if row["score"] > 0.5)
        all_of = Counter(row["origin"]["kind"] for row in rows)
        made = {
            kind: Made(
                wanted=own.wanted,
                calls=own.calls,
                no_use=dict(own.no_use.most_common()),
                missing=own.wanted - all_of[kind] - own.set_aside.total(),
                harmful=harmful[kind],
                harmless=all_of[kind] - harmful[kind],
                set_aside=dict(own.set_aside.most_common()),
            )
            for kind, own in self._counts.items()
        }
        configs: dict[Role, ModelConfig] = {
            "generator": self._config.generator,
            "responder": self._config.responding,
            "teacher": self._config.teacher,
        }
        asked = {
            role: Asked(
                model=configs[role].model,
                calls=use.calls,
                tokens_in=use.tokens_in,
                tokens_out=use.tokens_out,
                cost=cost_of(configs[role], use.tokens_in, use.tokens_out),
            )
            for role, use in self._used.items()
        }
        return Report(
            rows=len(rows),
            made=made,
            asked=asked,
            families=dict(Counter(row["family"] for row in rows)),
            settings=self._config.model_dump(mode="json"),
            notes=self._exemplars.notes,
        )


def _useless(model: str, kind: str, in_a_row: int, why: Counter[str]) -> str:
    reasons = ", ".join(f"{reason}: {count}" for reason, count in why.most_common())
    return (
        f"{model} made nothing of use in {in_a_row} tries for a text of kind {kind!r} in a row ({reasons}); take "
        "another model, other exemplars or another folder"
    )
