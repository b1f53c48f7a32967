"""Tiny models with random weights, and what they say without a cache, a batch or padding."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
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


def model_of(kind: str, vocabulary: int = VOCABULARY) -> PreTrainedModel:
    """llama and qwen2 have rotary positions, gpt2 learned ones."""
    torch.manual_seed(0)
    shared = {**_SHARED, "vocab_size": vocabulary}
    if kind == "gpt2":
        config = GPT2Config(n_embd=32, n_layer=3, n_head=4, n_positions=64, initializer_range=0.4, **shared)
        return GPT2LMHeadModel(config).eval()
    if kind == "llama":
        return LlamaForCausalLM(LlamaConfig(**_ROTARY, **shared)).eval()
    return Qwen2ForCausalLM(Qwen2Config(**_ROTARY, **shared)).eval()


def tokenizer_of(*texts: str) -> PreTrainedTokenizerFast:
    """Words and marks of some texts, with a chat template."""
    own = Tokenizer(WordLevel({"<pad>": PAD, "<bos>": BOS, "<eos>": EOS, "<unk>": 3}, unk_token="<unk>"))
    own.pre_tokenizer = Whitespace()
    own.add_special_tokens(["<system>", "<user>", "<assistant>"])
    split = own.pre_tokenizer.pre_tokenize_str
    own.add_tokens(sorted({word for text in texts for word, _ in split(text)}))
    made = PreTrainedTokenizerFast(tokenizer_object=own, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>")
    made.chat_template = (
        "{% for message in messages %}<{{ message.role }}> {{ message.content }} {% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    return made


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
