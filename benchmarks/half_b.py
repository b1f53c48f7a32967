"""A causal model in the size of Qwen2-0.5B, with random weights: good for time alone."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from lec_guard.bench.other_models import QWEN2_HALF_B


def half_b() -> Any:
    """Make the model.

    Returns:
        A `Qwen2ForCausalLM` in bfloat16, in evaluation mode; transformers' own types of it do not fit each other.
    """
    config = Qwen2Config(
        **QWEN2_HALF_B.config,
        num_hidden_layers=QWEN2_HALF_B.layers,
        vocab_size=QWEN2_HALF_B.vocabulary,
        tie_word_embeddings=True,
        dtype=torch.bfloat16,
    )
    model: Any = Qwen2ForCausalLM(config).bfloat16()
    return model.eval()
