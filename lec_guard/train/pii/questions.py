"""Questions with known answers, and whether a text has them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lec_guard.train.pii.dialogues import Message, messages_of, rows_of
from lec_guard.train.rows import Mistakes

_LETTERS = "ABCDEFGHIJ"

_HOW = "Answer with the letter of the right choice alone."

_CHOICE = re.compile(r"(?:answer(?: is)?|choice|option)?\s*[:\-]?\s*[(*\"']*([A-J])\b", re.IGNORECASE)
"""A letter that stands first, or behind the words with which models begin."""

_LETTER = re.compile(r"\b([A-J])\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question.

    Attributes:
        messages: The conversation, the user's message last.
        accepted: What the answer may say; of choices, the letter.
        choices: How many there are to choose from; 0 where the answer is free.
    """

    messages: tuple[Message, ...]
    accepted: tuple[str, ...]
    choices: int


def read_questions(paths: Sequence[Path]) -> list[Question]:
    """Read questions.

    Args:
        paths: JSON lines, or folders of them: `question` (a text) or `messages`, `answer` (a text, several, or with
            `choices` the right one or its letter), and `choices` perhaps.

    Returns:
        The questions.

    Raises:
        UnsupportedValueError: If a file or a row can't be read; one line a mistake.
    """
    mistakes, found = Mistakes(), list[Question]()
    for row in rows_of(paths, ["answer"], ["question", "messages", "choices"], mistakes):
        try:
            found.append(_question(row.values))
        except ValueError as error:
            mistakes.add(row.source, str(error))
    mistakes.stop()
    return found


def is_right(question: Question, text: str) -> bool:
    """Whether an answer is right.

    Args:
        question: The question.
        text: What was answered.

    Returns:
        Of choices: whether the letter that it names first is the right one. Else whether it has what is accepted, as
        whole words; case and marks don't count.
    """
    if question.choices:
        found = _CHOICE.match(text.strip()) or _LETTER.search(text)
        return found is not None and found[1].upper() in question.accepted
    words = f" {_plain(text)} "
    return any(f" {_plain(one)} " in words for one in question.accepted)


def _plain(text: str) -> str:
    letters = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.findall(r"\w+(?:[.,]\d+)*", letters))


def _question(values: Any) -> Question:
    asked, raw = values.get("question"), values.get("messages")
    if (asked is None) == (raw is None):
        raise ValueError("give either 'question' or 'messages'")
    messages = messages_of([{"role": "user", "content": asked}] if raw is None else raw, last="user")
    answer = values["answer"]
    raws = answer if isinstance(answer, list) else [answer]
    accepted = [str(one) for one in raws if isinstance(one, str | int | float) and not isinstance(one, bool)]
    if not accepted or len(accepted) < len(raws) or not all(map(_plain, accepted)):
        raise ValueError("its 'answer' is no text, or list of texts")
    choices = values.get("choices")
    if choices is None:
        return Question(messages=tuple(messages), accepted=tuple(accepted), choices=0)
    if not isinstance(choices, list) or not 2 <= len(choices) <= len(_LETTERS):
        raise ValueError(f"its 'choices' are no list of 2 to {len(_LETTERS)}")
    listed = [str(one) for one in choices]
    letters = _LETTERS[: len(listed)]
    right = [letters[listed.index(one)] if one in listed else one.upper() for one in accepted]
    if not set(right) <= set(letters):
        raise ValueError("its 'answer' is none of its 'choices'")
    shown = "\n".join(f"{letter}. {one}" for letter, one in zip(letters, listed, strict=True))
    last = {**messages[-1], "content": f"{messages[-1]['content']}\n\n{shown}\n\n{_HOW}"}
    return Question(messages=(*messages[:-1], last), accepted=tuple(right), choices=len(listed))
