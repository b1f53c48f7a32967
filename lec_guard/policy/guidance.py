"""How far a local model's answers are to be led away from a negative prompt: what a policy says of it, by origin.

What that does to a model is `lec_guard.generate`'s, which asks for it here: `InForce.guidance`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from lec_guard.step import Trust

Space = Literal["log", "probability"]
"""What is weighed: logarithms of probabilities, or probabilities."""

Coefficient = Annotated[float, Field(strict=True, ge=0.0, le=100.0, allow_inf_nan=False)]
"""1 for no guidance, more to lead away from the negative prompt, less to lead towards it."""

ORIGINS: tuple[Trust, ...] = ("third_party", "user", "model", "operator")
"""Who may have written a text, the least trusted first. What a model said comes of texts that count by themselves, so
who wrote those comes before it."""


class GuidanceRule(BaseModel):
    """How far answers are led away from what a negative prompt makes likely.

    Attributes:
        coefficient: 1 for none, more to lead away from it, less to lead towards it; at most 100.
        space: What is weighed: `log` probabilities, or each `probability` itself, which garbles less.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    coefficient: Coefficient
    space: Space = "log"


class Guidance(BaseModel):
    """How far a local model's answers are led away from what a negative prompt makes likely, where it asks the guard.

    Attributes:
        coefficient: For origins that are not named: 1 for none, more to lead away from it, less to lead towards it; at
            most 100.
        space: What is weighed: `log` probabilities, or each `probability` itself, which garbles less.
        origins: Who wrote the least trusted text of the conversation -> the coefficient then.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    coefficient: Coefficient | None = None
    space: Space | None = None
    origins: dict[Trust, Coefficient] = {}

    def said(self) -> Iterator[tuple[str, ...]]:
        """The keys that are given, each as the way to it."""
        for key in ("coefficient", "space"):
            if getattr(self, key) is not None:
                yield (key,)
        for origin in self.origins:
            yield "origins", origin


def _spelled_out(said: Any) -> Any:
    """A number is a coefficient, and so is what its author took for one."""
    if isinstance(said, float | int | str):
        return {"coefficient": said}
    if isinstance(said, Mapping | BaseModel):
        return said
    raise ValueError("give a coefficient, or a mapping with one")


GuidanceKey = Annotated[Guidance, BeforeValidator(_spelled_out, json_schema_input_type=Coefficient | Guidance)]
"""The key of a policy: all of it, or a coefficient alone."""

GuidanceRuleKey = Annotated[
    GuidanceRule, BeforeValidator(_spelled_out, json_schema_input_type=Coefficient | GuidanceRule)
]
"""The key of a rewrite: all of it, or a coefficient alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuidanceByOrigin:
    """What a policy with all that it inherits says.

    Attributes:
        coefficients: Who wrote the least trusted text -> the coefficient; all of them are there.
        space: What is weighed.
    """

    coefficients: Mapping[Trust, float]
    space: Space

    @classmethod
    def of(cls, said: Sequence[Guidance]) -> GuidanceByOrigin | None:
        """From what policy files say, key by key.

        Args:
            said: What each of them says, the nearest last.

        Returns:
            All of it; None where none says anything.
        """
        if not said:
            return None
        usual = 1.0
        space: Space = "log"
        origins: dict[Trust, float] = {}
        for one in said:
            usual = usual if one.coefficient is None else one.coefficient
            space = one.space or space
            origins |= one.origins
        return cls(coefficients={trust: origins.get(trust, usual) for trust in ORIGINS}, space=space)

    def rule(self, trust: Trust | None) -> GuidanceRule:
        """What holds for a conversation.

        Args:
            trust: Who wrote its least trusted text; None where that is not known: then the highest coefficient holds.

        Returns:
            The guidance.
        """
        coefficient = max(self.coefficients.values()) if trust is None else self.coefficients[trust]
        return GuidanceRule(coefficient=coefficient, space=self.space)


def raised(said: GuidanceRule | None, least: GuidanceRule | None) -> GuidanceRule | None:
    """What holds of a policy's guidance above a floor's.

    Args:
        said: What the policy says; None for nothing.
        least: What the floor says; None for nothing.

    Returns:
        The one with the higher coefficient; None where neither says anything. Coefficients of two spaces can't be
        compared, so one that is higher than the floor's counts in the floor's space, where more is more.
    """
    if said is None or least is None:
        return said or least
    if said.coefficient <= least.coefficient:
        return least
    if least.coefficient <= 1.0 <= said.coefficient:  # Whatever the space, that is no less.
        return said
    return GuidanceRule(coefficient=said.coefficient, space=least.space)


def bounded(
    policy: GuidanceByOrigin | None, floor: GuidanceByOrigin | None, trust: Trust | None
) -> GuidanceRule | None:
    """What holds for a conversation under a policy and a floor.

    Args:
        policy: What the policy says; None where it says nothing or does not act.
        floor: What the floor says; None where it says nothing or does not act.
        trust: Who wrote the least trusted text; None where that is not known.

    Returns:
        The guidance; None where neither says anything.
    """
    said = None if policy is None else policy.rule(trust)
    return raised(said, None if floor is None else floor.rule(trust))


def least_trusted(trusts: Iterable[Trust | None]) -> Trust | None:
    """Who wrote the least trusted of some texts.

    Args:
        trusts: Who wrote each of them; None where that is not known.

    Returns:
        `third_party` before `user`, `model` and `operator`; None where that is not known of one of them, or there are
        none.
    """
    found = set(trusts)
    return None if not found or None in found else next(trust for trust in ORIGINS if trust in found)
