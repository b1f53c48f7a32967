"""Answers to conversations, all of them by way of the guided `generate`.

Whatever is measured, personal data or right answers, is written here. Nothing that a figure is taken from is written
by another way, so that no figure can stand for a guidance that was not applied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lec_guard.detect.quiet import quiet
from lec_guard.errors import UnsupportedValueError
from lec_guard.generate import Guidance, GuidedCausalLM, PairedPrompts
from lec_guard.generate.rendering import Rendered, render
from lec_guard.train.pii.dialogues import Message
from lec_guard.train.pii.opening import Causal
from lec_guard.train.pii.pairs import content_ids


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is to be answered.

    Attributes:
        messages: The conversation, the user's message last.
        prefix: What the answer begins with.
        group: Which of them belong together; the conversation, for what is measured.
    """

    messages: tuple[Message, ...]
    prefix: str = ""
    group: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How answers are written.

    Attributes:
        coefficient: How far they are guided; None leaves out both system prompts.
        space: What is guided.
        positive: What the system prompt asks for.
        negative: The opposite of it.
        max_tokens: Tokens of an answer, at most.
    """

    coefficient: float | None
    space: Any
    positive: str
    negative: str
    max_tokens: int


def fits(causal: Causal, asked: Asked, way: Way) -> bool:
    """Whether there is room for a prompt and its answer.

    Args:
        causal: The model.
        asked: What is to be answered.
        way: How.

    Returns:
        Whether both prompts, with the longest answer, are within what the model reads.
    """
    if causal.room is None:
        return True
    sides = _sides(causal, asked, way)
    return max(len(side.ids) for side in sides) + way.max_tokens <= causal.room


def answers(causal: Causal, model: Any, asked: Sequence[Asked], way: Way) -> list[str]:
    """Answer in one batch, always with the likeliest token.

    Args:
        causal: The tokenizer and the device.
        model: The model, as it is to write: with adapters or without.
        asked: What is to be answered.
        way: How.

    Returns:
        The answers, without what they were to begin with.

    Raises:
        UnsupportedValueError: If a prompt does not fit.
    """
    sides = [_sides(causal, one, way) for one in asked]
    prompts = PairedPrompts.of([own for own, _ in sides], [own for _, own in sides], causal.tokenizer)
    width = prompts.input_ids.shape[1]
    given: dict[str, Any] = {name: own.to(causal.device) for name, own in prompts.arguments().items()}
    given["max_new_tokens"] = way.max_tokens
    guided = GuidedCausalLM(
        model, Guidance(coefficient=1.0 if way.coefficient is None else way.coefficient, space=way.space)
    )
    with quiet("transformers"):
        try:
            written = guided.generate(
                **given,
                # Whatever the folder says of these, it is said here.
                do_sample=False,
                num_beams=1,
                temperature=None,
                top_p=None,
                top_k=None,
                pad_token_id=causal.tokenizer.pad_token_id,
            )
        except ValueError as error:
            raise UnsupportedValueError(f"a prompt can't be answered: {error}") from None
    return [str(causal.tokenizer.decode(row, skip_special_tokens=True)).strip() for row in written[:, width:]]


def _sides(causal: Causal, asked: Asked, way: Way) -> list[Rendered]:
    """Both prompts, with the beginning of the answer."""
    if way.coefficient is None:
        own = render(causal.tokenizer, asked.messages)
        sides = [own, own]
    else:
        sides = [render(causal.tokenizer, asked.messages, asked=side) for side in (way.positive, way.negative)]
    begun = content_ids(causal.tokenizer, asked.prefix)
    return [replace(side, ids=[*side.ids, *begun]) for side in sides]
