"""Tiny models with random weights, and what they say without a cache, a batch or padding."""

from __future__ import annotations

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

VOCABULARY, PAD, BOS, EOS = 61, 0, 1, 2
_SHARED = {"vocab_size": VOCABULARY, "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
_ROTARY = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    # Far from alike, so that a wrong position or cache shows.
    "initializer_range": 0.4,
}


def model_of(kind: str) -> PreTrainedModel:
    """llama and qwen2 have rotary positions, gpt2 learned ones."""
    torch.manual_seed(0)
    if kind == "gpt2":
        config = GPT2Config(n_embd=32, n_layer=3, n_head=4, n_positions=64, initializer_range=0.4, **_SHARED)
        return GPT2LMHeadModel(config).eval()
    if kind == "llama":
        return LlamaForCausalLM(LlamaConfig(**_ROTARY, **_SHARED)).eval()
    return Qwen2ForCausalLM(Qwen2Config(**_ROTARY, **_SHARED)).eval()


KINDS = ("llama", "qwen2", "gpt2")


def padded(prompts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch, padded on the left, and its mask."""
    width = max(map(len, prompts))
    ids = torch.tensor([[PAD] * (width - len(one)) + one for one in prompts])
    mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in prompts])
    return ids, mask


@torch.no_grad()
def next_logits(model: PreTrainedModel, tokens: list[int]) -> torch.Tensor:
    """Of one row, read whole."""
    return model(torch.tensor([tokens]), use_cache=False).logits[0, -1]
