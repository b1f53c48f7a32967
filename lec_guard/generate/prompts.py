"""Two prompts of one conversation: with what is wanted of the answer in its system prompt, and with what is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor
from transformers import BatchEncoding, PreTrainedTokenizerBase

from lec_guard.errors import UnsupportedValueError

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
    """

    input_ids: Tensor
    attention_mask: Tensor
    negative_input_ids: Tensor
    negative_attention_mask: Tensor

    def arguments(self) -> dict[str, Tensor]:
        """The same by name, for `generate(**prompts.arguments())`."""
        return {name: getattr(self, name) for name in self.__slots__}


def paired(
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Sequence[Mapping[str, str]]],
    *,
    positive: str = POSITIVE,
    negative: str = NEGATIVE,
) -> PairedPrompts:
    """Write conversations down twice, as the tokenizer's chat template has it.

    Args:
        tokenizer: Of the model.
        conversations: Messages with `role` and `content`, the last one the user's. A system message of their own stays,
            and what is asked for comes after it.
        positive: What the system prompt asks for.
        negative: The opposite of it.

    Returns:
        Both prompts of each.

    Raises:
        UnsupportedValueError: If the tokenizer has no chat template.
        ValueError: If there is no conversation, or one without a message.
    """
    if not conversations or not all(conversations):
        raise ValueError("there is no conversation, or one without a message")
    if tokenizer.chat_template is None:
        raise UnsupportedValueError(
            f"the tokenizer {tokenizer.name_or_path!r} has no chat template; set tokenizer.chat_template to the one "
            "that its model was trained with"
        )
    first, second = (_encoded(tokenizer, conversations, asked) for asked in (positive, negative))
    return PairedPrompts(
        input_ids=first["input_ids"],
        attention_mask=first["attention_mask"],
        negative_input_ids=second["input_ids"],
        negative_attention_mask=second["attention_mask"],
    )


def _encoded(
    tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Sequence[Mapping[str, str]]], asked: str
) -> BatchEncoding:
    texts: Any = tokenizer.apply_chat_template(
        [_asking(own, asked) for own in conversations], add_generation_prompt=True, tokenize=False
    )
    # The template has written all special tokens already.
    found = tokenizer(texts, add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt")
    return cast("BatchEncoding", found)


def _asking(messages: Sequence[Mapping[str, str]], asked: str) -> list[dict[str, str]]:
    own = [dict(message) for message in messages]
    if own[0].get("role") == "system":
        return [{**own[0], "content": f"{own[0]['content']}\n\n{asked}"}, *own[1:]]
    return [{"role": "system", "content": asked}, *own]
