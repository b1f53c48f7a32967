"""A causal language model from a folder, offline, with the tokenizer and the chat template that conversations need."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lec_guard.detect.causal import load_causal
from lec_guard.errors import UnsupportedValueError
from lec_guard.generate.rendering import longest_of


@dataclass(frozen=True, slots=True)
class Causal:
    """A model that writes.

    Attributes:
        model: The model, in evaluation mode, on the device.
        tokenizer: Its tokenizer, with a chat template and a token to pad with.
        device: `cuda` or `cpu`.
        room: Tokens that it reads, at most; None where it does not say.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    device: str
    room: int | None


def open_causal(folder: Path) -> Causal:
    """Open a model; only safetensors are read, no code comes from the folder, and nothing is downloaded.

    Args:
        folder: A folder with a Hugging Face causal language model and its tokenizer.

    Returns:
        The model, in the type that it is stored in; float16 becomes bfloat16, or float32 where the device has none.

    Raises:
        BundleError: If the folder holds no model or tokenizer that can be read, or weights are missing.
        UnsupportedValueError: If the tokenizer has no chat template, or no token to end or pad with.
    """
    found = load_causal(folder)
    model: Any = found.model
    tokenizer: Any = found.tokenizer
    if not tokenizer.chat_template:
        raise UnsupportedValueError(
            f"{folder}: its tokenizer has no chat template: take the model's instruct version, or put the template "
            "that it was trained with into the folder (chat_template.jinja)"
        )
    if tokenizer.eos_token_id is None:
        raise UnsupportedValueError(f"{folder}: its tokenizer has no token that ends an answer (eos_token)")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if model.dtype == torch.float16:
        model = model.to(torch.bfloat16 if has_bf16() else torch.float32)
    return Causal(model.to(device), tokenizer, device, longest_of(model))


def has_bf16() -> bool:
    """Whether the device computes in bfloat16.

    Returns:
        Whether it does; CPUs take longer for it than for float32, and count as those that don't.
    """
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported()
