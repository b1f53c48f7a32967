"""What classifier-free guidance makes of two predictions of the next token."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

MOST = 100.0
"""The highest coefficient: far below, one token has all of the probability."""

_LEAST_LOG = -1e4
"""Log probabilities below that are that: a token that neither prompt allows must not become 0/0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guidance:
    """How far answers are steered from a negative system prompt towards the positive one.

    Sanchez et al., "Stay on topic with Classifier-Free Guidance" (arXiv 2306.17806), section 2.2; against personal data
    arXiv 2412.06846.

    Attributes:
        coefficient: 1 is the positive prompt alone and costs nothing; 0 the negative one; above 1 leads away from what
            the negative prompt makes likely.
        space: `log` weighs log probabilities, as the papers do. `probability` weighs probabilities, which stays nearer
            to what the positive prompt says and garbles less at high coefficients.
        sequential: Run both prompts one after the other, for devices that hold one batch only; twice the time in a
            pass, half of its memory.

    Raises:
        ValueError: If the coefficient is below 0, above `MOST` or no number.
    """

    coefficient: float = 2.0
    space: Literal["log", "probability"] = "log"
    sequential: bool = False

    def __post_init__(self) -> None:
        """Refuse coefficients that mean nothing."""
        if not (math.isfinite(self.coefficient) and 0.0 <= self.coefficient <= MOST):
            raise ValueError(
                f"a coefficient of {self.coefficient} steers nowhere; it is a number from 0 to {MOST:g}, "
                "and 1 for no guidance"
            )
        if self.space not in ("log", "probability"):
            raise ValueError(f"there is no space {self.space!r}; it is log or probability")

    def mixed(self, positive: Tensor, negative: Tensor) -> Tensor:
        """What the next token is drawn by.

        Args:
            positive: Logits under the positive prompt, of any shape with the vocabulary last.
            negative: Logits under the negative one, of the same shape.

        Returns:
            Scores of that shape, in float32, whose softmax is the distribution that is meant.
        """
        first = torch.log_softmax(positive.float(), dim=-1).clamp(min=_LEAST_LOG)
        second = torch.log_softmax(negative.float(), dim=-1).clamp(min=_LEAST_LOG)
        if self.space == "log":
            return second + self.coefficient * (first - second)
        # What is below 0 can't be drawn. What is left never sums to less than 1, for all of it sums to 1.
        left = (second.exp() + self.coefficient * (first.exp() - second.exp())).clamp(min=0.0)
        return torch.log(left / left.sum(dim=-1, keepdim=True)).clamp(min=_LEAST_LOG)
