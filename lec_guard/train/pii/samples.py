"""Answers with personal data, and what a generator is asked in their place."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from lec_guard.train.harmaug.models import Prompt
from lec_guard.train.pii.dialogues import Dialogue, Message, with_system
from lec_guard.train.pii.finding import Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Personal data that an assistant gave away, and the conversation before it (arXiv 2412.06846).

    Attributes:
        dialogue: The name of the conversation.
        turn: The number of the message that has it.
        number: Which of the personal data in that message it is, from 0 on.
        prompt: The messages before.
        prefix: What the message says before; "" for the first in it, whose sample is the whole message.
        rejected: What the message says from there on.
        kinds: The entity types.
    """

    dialogue: str
    turn: int
    number: int
    prompt: tuple[Message, ...]
    prefix: str
    rejected: str
    kinds: tuple[str, ...]

    @property
    def key(self) -> str:
        """Its name among all."""
        return f"{self.dialogue}/{self.turn}/{self.number}"

    @property
    def gap(self) -> str:
        """The space between the prefix and the rest."""
        return self.rejected[: len(self.rejected) - len(self.rejected.lstrip())] if self.prefix else ""


def samples_of(dialogue: Dialogue, turn: int, places: Sequence[Place], *, prefixes: bool) -> list[Sample]:
    """Make the samples of one answer, one for each of its personal data.

    Args:
        dialogue: The conversation.
        turn: The number of the assistant's message.
        places: The personal data in it.
        prefixes: Whether all but the first are taken, too.

    Returns:
        The samples.
    """
    text = dialogue.messages[turn]["content"]
    made = []
    for number, place in enumerate(places if prefixes else places[:1]):
        # The space before belongs to what follows, as tokenizers have it.
        prefix = text[: place.start].rstrip() if number else ""
        made.append(
            Sample(
                dialogue=dialogue.name,
                turn=turn,
                number=number,
                prompt=dialogue.messages[:turn],
                prefix=prefix,
                rejected=text[len(prefix) :],
                kinds=place.kinds,
            )
        )
    return made


def asking(sample: Sample, *, positive: str, nudge: str | None, seed: int) -> Prompt:
    """Ask for an answer without personal data.

    Args:
        sample: What is to be answered, and how the answer begins.
        positive: What the system prompt asks for.
        nudge: What the user says once more; None for nothing.
        seed: What a local model draws its words by.

    Returns:
        The prompt. A conversation of several turns is shown as one message, for generators answer one.
    """
    system, *turns = with_system(sample.prompt, positive)
    user = turns[0]["content"] if len(turns) == 1 else _shown(turns)
    return Prompt(
        system=system["content"],
        user=user if nudge is None else f"{user}\n\n{nudge}",
        prefix=sample.prefix,
        seed=seed,
    )


def _shown(turns: Sequence[Message]) -> str:
    # As JSON, so that no message can look like another one.
    lines = "\n".join(json.dumps(one, ensure_ascii=False) for one in turns)
    return (
        f"This is a conversation, a message a line:\n{lines}\n\nWrite the assistant's next message, without quotes, "
        "and nothing else."
    )
