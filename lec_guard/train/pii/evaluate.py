"""Personal data in answers, and what guidance costs in right answers: `lec-guard pii-eval`.

arXiv 2412.06846 counts personal data in 50 answers, and finds that guidance costs nothing on MMLU-Pro. Its check of the
latter did not apply the guidance. Here both are measured on what `lec_guard.train.pii.answering` writes, and the report
says how many answers guidance changed.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from lec_guard.errors import UnsupportedValueError
from lec_guard.generate.adapters import AdapterCard, TenantAdapters, weights_hash
from lec_guard.generate.prompts import NEGATIVE, POSITIVE
from lec_guard.train.harmaug.journal import Journal
from lec_guard.train.harmaug.report import JOURNAL
from lec_guard.train.metrics import Figure, rate_figure
from lec_guard.train.pii.answering import Asked, Way, answers, fits
from lec_guard.train.pii.config import PiiEvalConfig
from lec_guard.train.pii.dialogues import messages_of, rows_of
from lec_guard.train.pii.figures import mean_figure
from lec_guard.train.pii.finding import Finder
from lec_guard.train.pii.opening import Causal, open_causal
from lec_guard.train.pii.questions import Question, is_right, read_questions
from lec_guard.train.rows import Mistakes

REPORT = "pii_eval.json"

Weights = Literal["base", "adapters"]

_TENANT = "measured"

Progress = Callable[[str, float], None]
"""Called with what is being done, and the share of it that is done."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Measured(_Part):
    """What one way of writing does.

    Attributes:
        weights: The model alone, or with its adapters.
        coefficient: How far answers are guided; None has neither system prompt.
        answers: Answers that were counted.
        unread: Those that could not be read; they are not counted.
        found: Personal data in all of them.
        kinds: Entity type -> how many.
        per_answer: Personal data in an answer; the interval is over conversations.
        share: Share of answers with any, averaged over conversations.
        changed: Share of all answers, to prompts and questions, that are others than with the same weights and a
            coefficient of 1; None for that one, for those without system prompts, and where 1 was not measured.
        right: Share of questions with a right answer; None without questions.
        against: That, less the share of the first row of the report, over the same questions; None for that row.
    """

    weights: Weights
    coefficient: float | None
    answers: int
    unread: int
    found: int
    kinds: dict[str, int]
    per_answer: Figure
    share: Figure
    changed: float | None
    right: Figure | None
    against: Figure | None


class PiiEvaluation(_Part):
    """All that was measured.

    Attributes:
        base: `weights_hash` of the model.
        adapters: sha256 of the adapters; None without.
        measured: By way of writing; the first is what others are compared with.
        prompts: Prompts that were answered.
        questions: Questions that were.
        too_long: Prompts and questions that the model has no room for.
        positive: What the system prompt asked for.
        negative: The opposite of it.
        settings: The run.
        notes: What else is to be known.
    """

    base: str
    adapters: str | None
    measured: tuple[Measured, ...]
    prompts: int
    questions: int
    too_long: int
    positive: str
    negative: str
    settings: dict[str, Any]
    notes: tuple[str, ...]


def evaluate_pii(config: PiiEvalConfig, out: Path, *, progress: Progress = lambda _what, _share: None) -> PiiEvaluation:
    """Measure a model, and its adapters, at several coefficients.

    Answers are kept in the folder (`journal.jsonl`, for its owner alone: they may have personal data), and the same run
    goes on from them.

    Args:
        config: What to do.
        out: The folder for the report; of the same run, or new.
        progress: Is told how far each part is.

    Returns:
        What was measured; the folder has it too, as `pii_eval.json`.

    Raises:
        UnsupportedValueError: If prompts or questions can't be read, nothing of them fits the model, a package or the
            chat template is missing, or the folder is another run's.
        BundleError: If the model or the adapters can't be read, or are not of each other.
    """
    finder = Finder(config.pii)
    prompts = _read_prompts(config.prompts)[: config.sample]
    questions = read_questions(config.questions)[: config.sample]
    causal = open_causal(config.model)
    adapters = TenantAdapters(causal.model) if config.adapters is not None else None
    base = weights_hash(causal.model) if adapters is None else adapters.base
    card = None if adapters is None or config.adapters is None else adapters.attach(_TENANT, config.adapters)
    positive, negative = _asked(config, card)
    ways = [
        Way(
            coefficient=coefficient,
            space=config.space,
            positive=positive,
            negative=negative,
            max_tokens=config.max_tokens,
        )
        for coefficient in ([None] if config.plain else []) + list(config.coefficients)
    ]
    # All ways answer the same.
    fitting = [one for one in prompts if all(fits(causal, one, way) for way in ways)]
    asked = [(one, Asked(messages=one.messages)) for one in questions]
    fitting_questions = [both for both in asked if all(fits(causal, both[1], way) for way in ways)]
    too_long = len(prompts) + len(questions) - len(fitting) - len(fitting_questions)
    if not fitting:
        raise UnsupportedValueError(
            f"the model reads {causal.room} tokens, and no prompt leaves room for an answer of {config.max_tokens}: "
            "give a lower max_tokens"
        )
    settings = {
        "base": base,
        "adapters": None if card is None else card.sha256,
        "positive": positive,
        "negative": negative,
        "space": config.space,
        "max_tokens": config.max_tokens,
    }
    journal = Journal(out / JOURNAL, settings)
    try:
        writer = _Writer(causal, adapters, journal, config.batch, progress)
        written = [
            writer.all(weights, way, fitting, fitting_questions)
            for weights in (("base", "adapters") if adapters is not None else ("base",))
            for way in ways
        ]
    finally:
        journal.close()
    result = PiiEvaluation(
        base=base,
        adapters=settings["adapters"],
        measured=tuple(_measured(written, finder)),
        prompts=len(fitting),
        questions=len(fitting_questions),
        too_long=too_long,
        positive=positive,
        negative=negative,
        settings=config.model_dump(mode="json"),
        notes=(),
    )
    result = result.model_copy(update={"notes": tuple(_notes(result, config))})
    (out / REPORT).write_text(result.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class _Written:
    """What one way of writing wrote."""

    weights: Weights
    way: Way
    asked: list[Asked]
    answers: list[str]
    questions: list[Question]
    replies: list[str]

    @property
    def right(self) -> list[bool]:
        return [is_right(one, text) for one, text in zip(self.questions, self.replies, strict=True)]


class _Writer:
    """Has everything answered, and remembers what was."""

    def __init__(
        self, causal: Causal, adapters: TenantAdapters | None, journal: Journal, batch: int, progress: Progress
    ) -> None:
        self._causal, self._adapters, self._journal = causal, adapters, journal
        self._batch, self._progress = batch, progress

    def all(
        self, weights: Weights, way: Way, prompts: list[Asked], questions: Sequence[tuple[Question, Asked]]
    ) -> _Written:
        asked = [*prompts, *(one for _, one in questions)]
        name = f"{weights}, {'no system prompt' if way.coefficient is None else f'coefficient {way.coefficient:g}'}"
        keys = [f"{weights}/{way.coefficient}/{_key(one)}" for one in asked]
        self._progress(name, 0.0)
        missing = [at for at, key in enumerate(keys) if self._journal.get(key) is None]
        for start in range(0, len(missing), self._batch):
            some = missing[start : start + self._batch]
            with self._model(weights) as model:
                found = answers(self._causal, model, [asked[at] for at in some], way)
            for at, text in zip(some, found, strict=True):
                self._journal.add(keys[at], {"text": text})
            self._progress(name, (start + len(some)) / len(missing))
        self._progress(name, 1.0)
        texts = [str((self._journal.get(key) or {})["text"]) for key in keys]
        return _Written(
            weights=weights,
            way=way,
            asked=prompts,
            answers=texts[: len(prompts)],
            questions=[one for one, _ in questions],
            replies=texts[len(prompts) :],
        )

    def _model(self, weights: Weights) -> AbstractContextManager[Any]:
        if self._adapters is None:
            return nullcontext(self._causal.model)
        return self._adapters.using(_TENANT if weights == "adapters" else None)


def _measured(written: Sequence[_Written], finder: Finder) -> list[Measured]:
    at_one = {one.weights: one for one in written if one.way.coefficient == 1.0}
    return [_one(own, finder, at_one.get(own.weights), written[0]) for own in written]


def _one(own: _Written, finder: Finder, at_one: _Written | None, first: _Written) -> Measured:
    begun = [one.prefix for one in own.asked]
    reads = finder.read([f"{prefix} {text}".strip() for prefix, text in zip(begun, own.answers, strict=True)])
    counts, groups, kinds = list[float](), list[str](), Counter[str]()
    for prefix, asked, read in zip(begun, own.asked, reads, strict=True):
        if read.unread is not None:
            continue
        # What the beginning has is not of the model.
        places = [place for place in read.places if place.end > len(prefix)]
        counts.append(len(places))
        groups.append(asked.group)
        kinds.update(kind for place in places for kind in place.kinds)
    changed = None
    if at_one is not None and own.way.coefficient not in (None, 1.0):
        both = zip([*own.answers, *own.replies], [*at_one.answers, *at_one.replies], strict=True)
        changed = float(np.mean([one != other for one, other in both]))
    names = np.array([str(number) for number in range(len(own.replies))])
    right = rate_figure(np.array(own.right), names, what="questions") if own.questions else None
    gains = [float(one) - float(other) for one, other in zip(own.right, first.right, strict=True)]
    return Measured(
        weights=own.weights,
        coefficient=own.way.coefficient,
        answers=len(counts),
        unread=len(reads) - len(counts),
        found=int(sum(counts)),
        kinds=dict(kinds.most_common()),
        per_answer=mean_figure(counts, groups),
        share=rate_figure(np.array(counts, np.float64) > 0, np.array(groups, np.str_), what="answers"),
        changed=changed,
        right=right,
        against=mean_figure(gains, names.tolist(), what="questions") if own.questions and own is not first else None,
    )


def _notes(result: PiiEvaluation, config: PiiEvalConfig) -> list[str]:
    notes = []
    for one in result.measured:
        if one.changed == 0.0:
            notes.append(
                f"with {one.weights} and a coefficient of {one.coefficient:g} every answer is what it is without "
                "guidance: both system prompts mean the same to the model"
            )
    if not result.questions:
        notes.append("no questions: what guidance and adapters cost in right answers was not measured")
    if result.too_long:
        notes.append(f"{result.too_long:,} prompts or questions leave no room for an answer, and were left out")
    if config.pii.ner is False:
        notes.append("no language model looked for names and places: they are not counted")
    return notes


def _asked(config: PiiEvalConfig, card: AdapterCard | None) -> tuple[str, str]:
    """What system prompts ask for: as it is given, else as adapters know it."""
    positive = config.positive or (card and card.positive) or POSITIVE
    negative = config.negative or (card and card.negative) or NEGATIVE
    return positive, negative


def _read_prompts(paths: Sequence[Path]) -> list[Asked]:
    mistakes, found = Mistakes(), list[Asked]()
    for row in rows_of(paths, ["messages"], ["prefix", "dialogue"], mistakes):
        try:
            messages = tuple(messages_of(row.values["messages"], last="user"))
            prefix = row.values.get("prefix") or ""
            if not isinstance(prefix, str):
                raise ValueError("its 'prefix' is no text")
        except ValueError as error:
            mistakes.add(row.source, str(error))
            continue
        group = row.values.get("dialogue")
        own = _key(Asked(messages=messages))
        found.append(Asked(messages=messages, prefix=prefix, group=own if group is None else str(group)))
    mistakes.stop()
    if not found:
        raise UnsupportedValueError(f"{', '.join(map(str, paths))}: no prompt in it")
    return found


def _key(asked: Asked) -> str:
    whole = json.dumps([list(asked.messages), asked.prefix], sort_keys=True)
    return hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()[:32]
