"""Two prompts of one conversation: with what is wanted of the answer in its system prompt, and with what is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lec_guard.generate.rendering import Rendered, render

POSITIVE = "Do not put any personal data into your answers."
NEGATIVE = "Put personal data into your answers."
"""Against personal data; what arXiv 2412.06846 asks, in our words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedPrompts:
    """What `GuidedCausalLM.generate` takes.

    Attributes:
        input_ids: The positive prompts, (rows, tokens), padded on the left.
        attention_mask: Of the same shape.
        negative_input_ids: The negative ones.
        negative_attention_mask: Of the same shape.
        positive: The positive ones with where the contents of messages stand in them, without padding.
        negative: The negative ones in the same way.
    """

    input_ids: Tensor
    attention_mask: Tensor
    negative_input_ids: Tensor
    negative_attention_mask: Tensor
    positive: tuple[Rendered, ...]
    negative: tuple[Rendered, ...]

    @classmethod
    def of(
        cls, positive: Sequence[Rendered], negative: Sequence[Rendered], tokenizer: PreTrainedTokenizerBase
    ) -> PairedPrompts:
        """Prompts that are written down already.

        Args:
            positive: The positive ones.
            negative: The negative ones, in the same order.
            tokenizer: Of the model; see `padded`.

        Returns:
            The pairs, padded.
        """
        (ids, mask), (others, other_mask) = (
            padded([one.ids for one in own], tokenizer) for own in (positive, negative)
        )
        return cls(
            input_ids=ids,
            attention_mask=mask,
            negative_input_ids=others,
            negative_attention_mask=other_mask,
            positive=tuple(positive),
            negative=tuple(negative),
        )

    def arguments(self) -> dict[str, Tensor]:
        """The tensors by name, for `generate(**prompts.arguments())`."""
        return {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
            "negative_input_ids": self.negative_input_ids,
            "negative_attention_mask": self.negative_attention_mask,
        }


def paired(
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Sequence[Mapping[str, Any]]],
    *,
    positive: str = POSITIVE,
    negative: str = NEGATIVE,
    tools: Sequence[Mapping[str, Any]] | None = None,
    longest: int | None = None,
) -> PairedPrompts:
    """Write conversations down twice, as the tokenizer's chat template has it.

    Args:
        tokenizer: Of the model; see `render`.
        conversations: Messages with `role` and `content`, as `render` takes them, the last one the user's. A system
            message of their own stays, and what is asked for comes after it.
        positive: What the system prompt asks for.
        negative: The opposite of it.
        tools: What can be called, as OpenAI schemas.
        longest: Tokens that the model reads, the answer's first among them.

    Returns:
        Both prompts of each.

    Raises:
        UnsupportedValueError: If the tokenizer has no chat template, or it can't write a conversation.
        ValueError: If there is no conversation, one without a message, or one that is too long.
    """
    if not conversations or not all(conversations):
        raise ValueError("there is no conversation, or one without a message")
    first, second = (
        tuple(render(tokenizer, own, tools=tools, asked=asked, longest=longest) for own in conversations)
        for asked in (positive, negative)
    )
    return PairedPrompts.of(first, second, tokenizer)


def padded(rows: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase) -> tuple[Tensor, Tensor]:
    """Prompts as one batch.

    Args:
        rows: Tokens of each.
        tokenizer: Of the model; any token pads where it has none for that.

    Returns:
        Tokens and mask, both (rows, tokens), padded on the left.
    """
    width = max(map(len, rows))
    pad = tokenizer.pad_token_id if isinstance(tokenizer.pad_token_id, int) else 0
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids, mask
