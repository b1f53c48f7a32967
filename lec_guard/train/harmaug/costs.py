"""What a run will ask for, before it asks for anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lec_guard.train.harmaug import prompts
from lec_guard.train.harmaug.chat import tokens_of
from lec_guard.train.harmaug.config import BUNDLE, AugmentConfig, ModelConfig
from lec_guard.train.harmaug.exemplars import Exemplars
from lec_guard.train.harmaug.models import Prompt
from lec_guard.train.harmaug.teacher import Item, question

Role = Literal["generator", "responder", "teacher"]

_INSTRUCTION, _RESPONSE, _VERDICT = 60, 250, 6
"""Tokens that an answer has, as a rule."""

_WORD = "one "
"""Of a token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one model will be asked for.

    Attributes:
        role: What it is there for.
        model: Its name.
        calls: How often it is called, where each answer is of use and each instruction is harmful.
        tokens_in: Tokens that it reads, about.
        tokens_out: Tokens that it writes, about.
        cost: What that costs, in the currency of the prices; None where there are none.
    """

    role: Role
    model: str
    calls: int
    tokens_in: int
    tokens_out: int
    cost: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a run will ask for.

    Attributes:
        parts: By model.
        most: How many times as many calls it may be, where answers are of no use: no more.
    """

    parts: tuple[Part, ...]
    most: int

    @property
    def cost(self) -> float | None:
        """Of all models that have a price; None where none has."""
        costs = [part.cost for part in self.parts if part.cost is not None]
        return sum(costs) if costs else None


def estimate(config: AugmentConfig, exemplars: Exemplars) -> Estimate:
    """Say what a run will ask for.

    Args:
        config: The run.
        exemplars: What it starts from.

    Returns:
        Calls, tokens and costs by model.
    """
    count, longest = config.count, max(exemplars.topics, key=lambda topic: len(topic.exemplars))
    shown = [one.text for one in longest.draw(config.exemplars, config.seed)]
    typical = _WORD * _INSTRUCTION
    asked = [(count, _INSTRUCTION, prompts.instruction(longest.name, shown, 0))]
    if config.twins:
        asked.append((count, _INSTRUCTION, prompts.twin(typical, (), 0)))
    parts = [_part("generator", config.generator, asked)]
    if config.responses:
        answers = [prompts.response(kind, typical, 0) for kind in prompts.RESPONSES]
        parts.append(_part("responder", config.responding, [(count, _RESPONSE, answer) for answer in answers]))
    # A detector or a classifier is asked once, and costs nothing; of a folder it is not known yet what it holds.
    asks = 1 if config.teacher.model.startswith(BUNDLE) else config.teacher.asks
    judged = [(count * asks * (1 + config.twins), _VERDICT, question(Item(typical, None), config.teacher.question, 0))]
    if config.responses:
        answer = _WORD * _RESPONSE
        judged.append((2 * count * asks, _VERDICT, question(Item(answer, typical), config.teacher.question, 0)))
    parts.append(_part("teacher", config.teacher, judged))
    return Estimate(parts=tuple(parts), most=1 + config.retries)


def cost_of(model: ModelConfig, tokens_in: int, tokens_out: int) -> float | None:
    """What tokens cost.

    Args:
        model: Whose prices count.
        tokens_in: Tokens that it reads.
        tokens_out: Tokens that it writes.

    Returns:
        The cost; None where it has no price.
    """
    if model.price_in is None and model.price_out is None:
        return None
    return (tokens_in * (model.price_in or 0.0) + tokens_out * (model.price_out or 0.0)) / 1e6


def _part(role: Role, model: ModelConfig, asked: list[tuple[int, int, Prompt]]) -> Part:
    tokens_in = sum(calls * tokens_of(prompt.system + prompt.user + prompt.prefix) for calls, _, prompt in asked)
    tokens_out = sum(calls * written for calls, written, _ in asked)
    return Part(
        role=role,
        model=model.model,
        calls=sum(calls for calls, _, _ in asked),
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        cost=cost_of(model, tokens_in, tokens_out),
    )
