"""What is measured, and how often."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from lec_guard.bench.other_models import DEBERTA_BASE, DEBERTA_XSMALL, QWEN2_HALF_B, OtherModel

Part = Literal["machine", "latency", "throughput", "costs", "overhead", "cold-start", "memory", "others"]
PARTS: tuple[Part, ...] = get_args(Part)
"""What can be measured, in the order in which it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """Texts of mixed lengths: as many between 16 and 32 tokens as between 256 and 512.

    Attributes:
        texts: How many.
        per_call: How many go to the detector at once.
        shortest: Tokens of the shortest, with the special ones.
        longest: Tokens of the longest.
    """

    texts: int = 200
    per_call: int = 32
    shortest: int = 16
    longest: int = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is measured, and how often.

    Attributes:
        parts: The parts to measure.
        rounds: Rounds of whatever takes turns.
        side: Rows and columns of the square matrices.
        lengths: Tokens of the texts whose latency is measured.
        mixture: The texts whose throughput is measured.
        cost_tokens: Tokens of the texts that cost something.
        context_tokens: Tokens of a context.
        overhead_lengths: Tokens of the texts around which our own code is measured.
        text_bytes: Sizes of the texts that are scored for the memory that they need.
        others: Other models to compare with.
        other_lengths: Lengths of their inputs.
    """

    parts: tuple[Part, ...] = PARTS
    rounds: int = 30
    side: int = 2048
    lengths: tuple[int, ...] = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
    mixture: Mixture = Mixture()
    cost_tokens: int = 128
    context_tokens: int = 400
    overhead_lengths: tuple[int, ...] = (16, 128, 512)
    text_bytes: tuple[int, ...] = (1_000_000,)
    others: tuple[OtherModel, ...] = (DEBERTA_BASE, DEBERTA_XSMALL, QWEN2_HALF_B)
    other_lengths: tuple[int, ...] = (16, 32, 64, 128, 256, 512, 1024)

    @property
    def pairs(self) -> int:
        """Rounds of what differs by so little that it takes many to show."""
        return 10 * self.rounds

    @property
    def sweeps(self) -> int:
        """Rounds of what is long in itself."""
        return -(-self.rounds // 3)

    @property
    def processes(self) -> int:
        """Rounds of new interpreters."""
        return min(self.rounds, 9)


LONG_TEXT = 50_000_000
"""Bytes of the text that `--long` adds; scoring it takes minutes."""

FULL = Plan()
QUICK = Plan(
    rounds=5,
    side=1024,
    lengths=(16, 128, 512),
    mixture=Mixture(texts=64),
    overhead_lengths=(128,),
    text_bytes=(100_000,),
    others=(DEBERTA_BASE, DEBERTA_XSMALL),
    other_lengths=(16, 128),
)


def make_plan(
    *, quick: bool = False, long: bool = False, rounds: int | None = None, parts: tuple[Part, ...] = ()
) -> Plan:
    """The plan of a run.

    Args:
        quick: Few rounds, few lengths, no decoder.
        long: Score a text of 50 MB too.
        rounds: Rounds, if not the plan's own.
        parts: Parts to measure; none for all.

    Returns:
        The plan.
    """
    plan = QUICK if quick else FULL
    return replace(
        plan,
        rounds=plan.rounds if rounds is None else rounds,
        parts=tuple(part for part in PARTS if part in parts) if parts else plan.parts,
        text_bytes=(*plan.text_bytes, LONG_TEXT) if long else plan.text_bytes,
    )
