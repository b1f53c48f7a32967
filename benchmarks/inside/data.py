"""Conversations of the toy language as files: examples for `lec-guard train` and `eval`, and dialogues for preferences.

python -m benchmarks.inside.data --out FOLDER
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.inside import attacks, turning
from benchmarks.inside.language import Conversation, conversations
from benchmarks.inside.words import Side

Head = Literal["injection", "harm"]
"""`injection` judges what a user says beside the system prompt; `harm` an answer, or what there is of it, beside the
request."""

Part = Literal["fit", "same", "new"]
"""`fit` is for fitting. The others are in paraphrases and of names that are not in it: `same` of the families that it
has, `new` of families that it does not have."""

HELD_OUT: dict[Head, tuple[str, ...]] = {"injection": attacks.HELD_OUT, "harm": turning.HELD_OUT}

FIT_SEED, TEST_SEED, DIALOGUE_SEED = 101, 102, 103
"""None of them is the seed of what the model reads."""

_SENTENCE_ENDS = ".!?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A row that `lec-guard train` reads.

    Attributes:
        text: What is judged.
        label: `ok`, or what else it is.
        context: What it is judged against.
        family: Where it comes from.
        stage: Where it would pass the guard.
    """

    text: str
    label: Literal["ok", "attack", "harmful"]
    context: str | None
    family: str
    stage: Literal["input", "output"]

    def row(self) -> dict[str, Any]:
        """As JSON has it."""
        return {name: getattr(self, name) for name in self.__slots__}


def examples(head: Head, part: Part, count: int, seed: int) -> Iterator[Example]:
    """Examples for one head, no two of the same text and context.

    Args:
        head: Which.
        part: Which families, and whose paraphrases.
        count: Conversations to take them from; half of those of `injection` are attacks.
        seed: Others with each seed.
    """
    side: Side = "learn" if part == "fit" else "test"
    found = _injection(side, count, seed) if head == "injection" else _harm(side, count, seed)
    seen = set()
    for one in found:
        is_new = one.family in HELD_OUT[head]
        # What is harmless and of no family of attacks or topics stands beside all of them.
        beside = one.family not in (attacks.FAMILIES if head == "injection" else turning.TOPICS)
        if (beside or is_new == (part == "new")) and (one.text, one.context) not in seen:
            seen.add((one.text, one.context))
            yield one


def dialogues(count: int, seed: int = DIALOGUE_SEED) -> Iterator[Conversation]:
    """Questions about people, asked without a wish for or against personal data, whose answers hold some."""
    own = (one for one in conversations("learn", 8 * count, seed, "personal") if one.personal)
    for number, one in enumerate(one for one in own if one.asked == "neutral"):
        if number == count:
            return
        yield one


def _injection(side: Side, count: int, seed: int) -> Iterator[Example]:
    tried = conversations(side, count // 2, seed, "attack")
    sounds = conversations(side, count // 4, seed, "twin")
    other = (one for one in conversations(side, count // 3, seed) if one.kind in ("fact", "personal", "request"))
    for one in (*tried, *sounds, *other):
        is_attack = one.kind == "attack"
        yield Example(
            text=one.request,
            label="attack" if is_attack else "ok",
            context=one.system,
            family=one.family if one.kind in ("attack", "twin") else one.kind,
            stage="input",
        )


def _harm(side: Side, count: int, seed: int) -> Iterator[Example]:
    rng = random.Random(f"cuts {side} {seed}")  # noqa: S311 - no key
    for one in conversations(side, count, seed, "request"):
        for text, is_harmful in _beginnings(one, rng):
            yield Example(
                text=text,
                label="harmful" if is_harmful else "ok",
                context=one.request,
                family=one.family,
                stage="output",
            )
    # A guard reads all answers, and those of former turns: what is said of facts and people, and what is refused.
    for one in conversations(side, count // 2, seed):
        if one.kind in ("fact", "personal", "twin", "plain"):
            yield Example(text=one.answer, label="ok", context=one.request, family=one.kind, stage="output")


def _beginnings(one: Conversation, rng: random.Random) -> Iterator[tuple[str, bool]]:
    """An answer and beginnings of it, for a head that reads along while it is written.

    One that ends within the first harmful sentence is neither the one nor the other, and left out.
    """
    answer, at = one.answer, one.harm_at
    if at is None:
        yield answer, False
        yield _cut(answer, 1, rng), False
        return
    yield answer[: at - 1], False
    yield answer, True
    certain = min(answer.find(end, at) for end in _SENTENCE_ENDS if answer.find(end, at) >= 0) + 1
    if certain < len(answer):
        yield _cut(answer, certain, rng), True


def _cut(answer: str, least: int, rng: random.Random) -> str:
    """The answer up to the end of some word, with at least so many characters."""
    ends = [at for at, char in enumerate(answer) if char == " " and at >= least]
    return answer[: rng.choice(ends)] if ends else answer


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write JSON lines.

    Returns:
        How many.
    """
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return len(lines)


def write(folder: Path, count: int = 2000) -> dict[str, int]:
    """Write `injection-fit.jsonl`, `injection-same.jsonl`, `injection-new.jsonl`, the same of `harm`, and
    `dialogues.jsonl`, `conversations.jsonl`.

    Args:
        folder: Made if it is not there.
        count: Conversations to take examples of one head from.

    Returns:
        How many lines each file has.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    heads: tuple[Head, ...] = ("injection", "harm")
    parts: tuple[Part, ...] = ("fit", "same", "new")
    for head in heads:
        for part in parts:
            seed = FIT_SEED if part == "fit" else TEST_SEED
            rows = (one.row() for one in examples(head, part, count, seed))
            written[f"{head}-{part}.jsonl"] = write_lines(folder / f"{head}-{part}.jsonl", rows)
    told = ({"messages": one.plain(answered=False), "answer": one.answer} for one in dialogues(count // 2))
    written["dialogues.jsonl"] = write_lines(folder / "dialogues.jsonl", told)
    rows = (_described(one) for one in conversations("test", count, TEST_SEED))
    written["conversations.jsonl"] = write_lines(folder / "conversations.jsonl", rows)
    return written


def _described(one: Conversation) -> dict[str, Any]:
    return {
        "kind": one.kind,
        "family": one.family,
        "messages": one.plain(),
        "asked": one.asked,
        "secret": one.secret,
        "expected": None if one.fact is None else one.fact.expected,
        "personal": one.personal,
        "followed": one.followed,
        "harm_at": one.harm_at,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=2000)
    arguments = parser.parse_args()
    for name, lines in write(arguments.out, arguments.count).items():
        print(f"{name}: {lines:,} lines")


if __name__ == "__main__":
    main()
