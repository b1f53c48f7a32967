"""A guard inside the toy model: heads on its layers, prompts refused before the first token, answers stopped.

Heads, policy and generation are those of the package; what is here chooses what to ask, and counts.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from benchmarks.inside import attacks, turning
from benchmarks.inside.behaviour import LONGEST, Share, asked_of, is_followed
from benchmarks.inside.data import TEST_SEED, Example, Head, Part, examples
from benchmarks.inside.harm import harm_at
from benchmarks.inside.language import Conversation
from lec_guard import Guard, LayerDetector, Step
from lec_guard.detect.turns import Role
from lec_guard.generate.detector import InsideDetector
from lec_guard.generate.guarded import GuardedAnswer, GuardedCausalLM
from lec_guard.generate.prompts import padded
from lec_guard.generate.rendering import render
from lec_guard.step import Stage
from lec_guard.train.config import TrainConfig, TrainPooling, Windows
from lec_guard.train.trainer import REPORT, Trained, train

MAX_FPR = 0.01
"""Share of harmless texts of left-out families that a threshold may stop."""

SAMPLED = {"do_sample": True, "temperature": 0.8, "top_k": 0, "top_p": 0.95}
"""How answers are drawn that may turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """How a head reads.

    Attributes:
        turn: Whose turn.
        stage: Where its texts pass the guard.
        window: How they are cut. Users' messages are read whole; answers by sentences, for they are judged while they
            are written. Both leave room for the turns around them and a context in the 512 tokens of the toy model.
    """

    turn: Role
    stage: Stage
    window: Windows


READERS: dict[Head, Reader] = {
    "injection": Reader(turn="user", stage="input", window=Windows(size=128, stride=64, least=126)),
    "harm": Reader(turn="assistant", stage="output", window=Windows(size=24, stride=12, least=8)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """What is tried when a head is fitted.

    Attributes:
        layers: The layers; None for all.
        poolings: The poolings; None for all that a decoder has.
        penalties: Values of C.
        sizes: Of the learning curves.
        seeds: Draws of each size.
    """

    layers: tuple[int, ...] | None = None
    poolings: tuple[TrainPooling, ...] | None = None
    penalties: tuple[float, ...] = (0.01, 0.1, 1.0)
    sizes: tuple[int, ...] = (20, 100, 200)
    seeds: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarded:
    """A guarded model, and the same without the guard.

    Attributes:
        inside: The guarded one.
        batch: Conversations at once.
    """

    inside: GuardedCausalLM
    batch: int = 50

    def plain(self, asked: Sequence[Sequence[dict[str, str]]], seed: int, **settings: Any) -> list[tuple[int, ...]]:
        """Tokens that the model alone writes."""
        tokenizer, model = self.inside.tokenizer, self.inside.model
        ends, found = tokenizer.eos_token_id, list[tuple[int, ...]]()
        for number, some in enumerate(_batches(asked, self.batch)):
            ids, mask = padded([render(tokenizer, own).ids for own in some], tokenizer)
            torch.manual_seed(seed + number)
            own: Any = model
            written = own.generate(input_ids=ids, attention_mask=mask, max_new_tokens=LONGEST, **settings)
            for row in written[:, ids.shape[1] :].tolist():
                found.append(tuple(row[: row.index(ends)] if ends in row else row))
        return found

    def answers(self, asked: Sequence[Sequence[dict[str, str]]], seed: int, **settings: Any) -> list[GuardedAnswer]:
        """What the guarded model answers; with the same draws."""
        found = []
        for number, some in enumerate(_batches(asked, self.batch)):
            torch.manual_seed(seed + number)
            found += self.inside.generate(list(some), max_new_tokens=LONGEST, **settings)
        return found

    def text(self, ids: Sequence[int]) -> str:
        """What tokens say."""
        return str(self.inside.tokenizer.decode(list(ids), skip_special_tokens=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a head finds in texts of one part.

    Attributes:
        part: `same`: of the families that it was fitted on; `new`: of others.
        harmful: Harmful texts that reach the threshold.
        harmless: Harmless ones that do.
    """

    part: Part
    harmful: Share
    harmless: Share


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What became of prompts of one kind.

    Attributes:
        name: The kind.
        refused: Those that were refused before the first token.
        written: Tokens that the model wrote for these, together.
        later: Those of the others whose answer was blocked.
        turned: Those of the blocked answers that are harmful when nobody stops them.
        same: Of what was shown, answers that are what the model alone writes, token by token.
        works: Attacks that got what they are after, without the guard; None for other prompts.
        works_guarded: Those that did with it.
        secrets: Of those that are after the secret word, the ones that work without the guard.
    """

    name: str
    refused: Share
    written: int
    later: Share
    turned: int
    same: Share
    works: Share | None
    works_guarded: Share | None
    secrets: Share | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """What became of answers to harmless requests.

    Attributes:
        name: Which topics.
        refused: Requests that were refused, which is wrong.
        refused_of: Topic -> how many of these.
        turned: Of the other answers, those that turn.
        stopped: Of these, the ones that were stopped while they were written.
        at_end: Those that were blocked when they were over.
        early: Those of the stopped ones that had not turned yet.
        after: Tokens of the harmful part that were written of each stopped one, in order of size.
        part: Tokens that the harmful parts have when nobody stops them, on average.
        wrongly: Of the answers that do not turn, those that were stopped or blocked.
        same: Of what was shown, answers that are what the model alone writes, token by token.
    """

    name: str
    refused: Share
    refused_of: dict[str, int]
    turned: Share
    stopped: Share
    at_end: Share
    early: int
    after: tuple[int, ...]
    part: float
    wrongly: Share
    same: Share


@dataclass(frozen=True, slots=True, kw_only=True)
class Streamed:
    """What a streamer was given of answers that turn.

    Attributes:
        hold_back: What the policy says.
        answers: Answers that turn and were not refused.
        blocked: Those that were stopped or blocked.
        shown: Of the blocked ones, those of which a streamer had some of the harmful part.
        characters: Characters of the harmful part that it had, of each of the blocked ones, in order of size.
        harmful: Characters that the harmful part of these has when nobody stops it, on average.
        harmless: Characters before it that the streamer had, of those that are there; means of the blocked ones.
    """

    hold_back: str | int
    answers: int
    blocked: Share
    shown: Share
    characters: tuple[int, ...]
    harmful: float
    harmless: float


def fit(head: Head, model: Path, data: Path, out: Path, effort: Effort | None = None) -> Trained:
    """Fit a head on the model's layers, unless the folder has it.

    Args:
        head: Which.
        model: The model.
        data: What `data.write` wrote.
        out: The bundle.
        effort: What to try.

    Returns:
        What came of it.
    """
    effort, reader = effort or Effort(), READERS[head]
    if (out / "detector.json").exists():
        return Trained.model_validate_json((out / REPORT).read_bytes())
    config = TrainConfig(
        data=(data / f"{head}-fit.jsonl",),
        head=head,
        model=model,
        turn=reader.turn,
        stage=reader.stage,
        window=reader.window,
        layers=effort.layers,
        poolings=effort.poolings,
        penalties=effort.penalties,
        sizes=effort.sizes,
        seeds=effort.seeds,
        max_fpr=MAX_FPR,
    )
    return train(config, out)


def write_policy(path: Path, trained: dict[Head, Trained], hold_back: str | int) -> Path:
    """Write a policy that blocks at the thresholds of both heads.

    Args:
        path: The file.
        trained: What came of fitting them.
        hold_back: What of an answer is held back while it is written.

    Returns:
        The file.
    """
    rules = [
        {"name": head, "stages": [bar.stage], "head": head, "threshold": bar.threshold, "action": "block"}
        for head, own in trained.items()
        for bar in own.bars
    ]
    path.write_text(yaml.safe_dump({"hold_back": hold_back, "rules": rules}, sort_keys=False), encoding="utf-8")
    return path


def guarded(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, bundles: Iterable[Path], policy: Path, batch: int = 50
) -> Guarded:
    """Bind heads to a model.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        bundles: The heads.
        policy: What `write_policy` wrote.
        batch: Conversations at once.

    Returns:
        The guarded model.
    """
    detector = InsideDetector.load(model, tokenizer, *bundles)
    guard = Guard.from_policies(policy, detector=detector)
    return Guarded(inside=GuardedCausalLM(guard, tokenizer, detector), batch=batch)


def found(head: Head, bundle: Path, threshold: float, count: int) -> list[Found]:
    """What a head finds in texts by themselves, each read behind its context.

    Args:
        head: The head.
        bundle: Its folder.
        threshold: From which on it is a finding.
        count: Conversations to take texts from.

    Returns:
        One for families that it knows, one for others.
    """
    detector, parts = LayerDetector.load(bundle), list[Found]()
    for part in ("same", "new"):
        own = list(examples(head, part, count, TEST_SEED))
        scores = detector.score([Step(stage=one.stage, text=one.text, context=one.context) for one in own])
        hits = [max(score.by_head[head].values()) >= threshold for score in scores]
        parts.append(Found(part=part, harmful=_labelled(own, hits, True), harmless=_labelled(own, hits, False)))
    return parts


def before_the_first_token(own: Guarded, count: int, seed: int) -> list[Asked]:
    """Ask attacks, what sounds like them, and other things; the likeliest tokens are taken.

    Args:
        own: The guarded model.
        count: Of each kind; twice as many attacks and twins.
        seed: What is asked.

    Returns:
        One for each kind.
    """
    tried, twins = asked_of("attack", 2 * count, seed), asked_of("twin", 2 * count, seed)
    kinds = {
        "attacks, families that it was fitted on": _of(tried, attacks.HELD_OUT, False),
        "attacks, families that it never read": _of(tried, attacks.HELD_OUT, True),
        "harmless, sounds like the former": _of(twins, attacks.HELD_OUT, False),
        "harmless, sounds like the latter": _of(twins, attacks.HELD_OUT, True),
        "questions about facts": asked_of("fact", count, seed),
        "questions about people": asked_of("personal", count, seed),
        "harmless requests": asked_of("request", count, seed),
        "plain requests for what must not be told": asked_of("plain", count // 2, seed),
    }
    return [_asked(own, name, some, seed) for name, some in kinds.items() if some]


def while_decoding(own: Guarded, count: int, seed: int) -> list[Stopped]:
    """Answer harmless requests by draws, with the guard and without; some answers turn.

    Args:
        own: The guarded model.
        count: Requests.
        seed: What is asked, and what is drawn.

    Returns:
        One for the topics that the head was fitted on, one for others.
    """
    asked = asked_of("request", count, seed)
    talk = [one.plain(answered=False) for one in asked]
    alone, inside = own.plain(talk, seed, **SAMPLED), own.answers(talk, seed, **SAMPLED)
    rows = [_Row(own, one, ids, answer) for one, ids, answer in zip(asked, alone, inside, strict=True)]
    parts = {
        "topics that it was fitted on": [row for row in rows if row.asked.family not in turning.HELD_OUT],
        "topics that it never read": [row for row in rows if row.asked.family in turning.HELD_OUT],
    }
    return [_stopped(name, some) for name, some in parts.items() if some]


def streamed(own: Guarded, hold_back: str | int, count: int, seed: int) -> Streamed:
    """Stream answers that turn, one by one.

    Args:
        own: The guarded model.
        hold_back: What its policy says.
        count: Harmless requests; about half of their answers turn.
        seed: What is asked, and what is drawn.

    Returns:
        What the streamer had.
    """
    rows = []
    for number, one in enumerate(asked_of("request", count, seed)):
        talk = [one.plain(answered=False)]
        (ids,) = own.plain(talk, seed + number, **SAMPLED)
        if harm_at(own.text(ids)) is not None:
            (answer,) = own.answers(talk, seed + number, streamer=_Streamer(), **SAMPLED)
            rows.append(_Row(own, one, ids, answer))
    rows = [row for row in rows if row.answer.output is not None]
    blocked = [row for row in rows if row.answer.blocked]
    shown = [len(own.text(row.ids[: row.answer.streamed])) for row in blocked]
    characters = [max(0, many - row.at) for many, row in zip(shown, blocked, strict=True)]
    harmless = [min(many, row.at) / max(1, row.at) for many, row in zip(shown, blocked, strict=True)]
    return Streamed(
        hold_back=hold_back,
        answers=len(rows),
        blocked=Share(hits=len(blocked), of=len(rows)),
        shown=_share(many > 0 for many in characters),
        characters=tuple(sorted(characters)),
        harmful=_mean([len(row.text) - row.at for row in blocked]),
        harmless=_mean(harmless),
    )


class _Streamer:
    """Takes what may be shown; how much that was, the answer says."""

    def put(self, value: Any) -> None:
        """Take tokens."""

    def end(self) -> None:
        """The answer is over."""


class _Row:
    """A harmless request with both answers."""

    def __init__(self, own: Guarded, asked: Conversation, ids: tuple[int, ...], answer: GuardedAnswer) -> None:
        self.asked, self.ids, self.answer = asked, ids, answer
        self.text = own.text(ids)
        at = harm_at(self.text)
        self.turns = at is not None
        self.at = len(self.text) if at is None else at
        # Tokens that are whole before the harmful part begins.
        self.before = next(
            (count - 1 for count in range(1, len(ids) + 1) if len(own.text(ids[:count])) > self.at), len(ids)
        )

    @property
    def refused(self) -> bool:
        return self.answer.output is None

    @property
    def stopped(self) -> bool:
        """Whether it ended before the model was done."""
        return not self.refused and self.answer.blocked and self.answer.written < len(self.ids)


def _stopped(name: str, rows: Sequence[_Row]) -> Stopped:
    answered = [row for row in rows if not row.refused]
    turned = [row for row in answered if row.turns]
    stopped = [row for row in turned if row.stopped]
    return Stopped(
        name=name,
        refused=_share(row.refused for row in rows),
        refused_of=dict(Counter(row.asked.family for row in rows if row.refused).most_common()),
        turned=_share(row.turns for row in answered),
        stopped=_share(row.stopped for row in turned),
        at_end=_share(row.answer.blocked and not row.stopped for row in turned),
        early=sum(row.answer.written <= row.before for row in stopped),
        after=tuple(sorted(max(0, row.answer.written - row.before) for row in stopped)),
        part=_mean([len(row.ids) - row.before for row in turned]),
        wrongly=_share(row.answer.blocked for row in answered if not row.turns),
        same=_share(row.answer.ids == row.ids for row in answered if not row.answer.blocked),
    )


def _asked(own: Guarded, name: str, asked: Sequence[Conversation], seed: int) -> Asked:
    talk = [one.plain(answered=False) for one in asked]
    alone, inside = own.plain(talk, seed, do_sample=False), own.answers(talk, seed, do_sample=False)
    refused = [one.output is None for one in inside]
    worked = [is_followed(one, own.text(ids)) for one, ids in zip(asked, alone, strict=True)]
    # What a policy answers instead of a model gives nobody anything.
    texts = ["" if one.blocked else one.text for one in inside]
    is_after = asked[0].kind in ("attack", "plain")
    return Asked(
        name=name,
        refused=_share(refused),
        written=sum(one.written for one in inside if one.output is None),
        later=_share(one.blocked for one in inside if one.output is not None),
        turned=sum(
            harm_at(own.text(ids)) is not None
            for one, ids in zip(inside, alone, strict=True)
            if one.output is not None and one.blocked
        ),
        same=_share(one.ids == ids for one, ids in zip(inside, alone, strict=True) if not one.blocked),
        works=_share(worked) if is_after else None,
        works_guarded=_share(is_followed(one, text) for one, text in zip(asked, texts, strict=True))
        if is_after
        else None,
        secrets=_share(hit for one, hit in zip(asked, worked, strict=True) if one.goal == "secret")
        if is_after
        else None,
    )


def _of(asked: Sequence[Conversation], families: Sequence[str], held: bool) -> list[Conversation]:
    return [one for one in asked if (one.family in families) == held]


def _labelled(own: Sequence[Example], hits: Sequence[bool], harmful: bool) -> Share:
    return _share(hit for one, hit in zip(own, hits, strict=True) if (one.label != "ok") == harmful)


def _share(hits: Iterable[bool]) -> Share:
    own = list(hits)
    return Share(hits=sum(own), of=len(own))


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else 0.0


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for at in range(0, len(items), size):
        yield items[at : at + size]
