"""Trains a small causal model on the toy language, from nothing, in minutes on two cores.

    python -m benchmarks.inside.toy --out FOLDER

FOLDER is then a model as transformers reads it. With `--threads` and the seed as they are, a run on the same machine
gives the same weights, unless `--minutes` end it before all steps are done.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from benchmarks.inside.language import Conversation, conversations

START, END, PAD = "<|im_start|>", "<|im_end|>", "<|pad|>"

TEMPLATE = """\
{%- set first = messages[0] if messages and messages[0].role == 'system' else none -%}
{%- if tools -%}
{{- '<|im_start|>system\\n' + (first.content + '\\n\\n' if first else '') -}}
{{- 'You may call these tools:\\n<tools>\\n' -}}
{%- for tool in tools %}{{ tool | tojson + '\\n' }}{% endfor -%}
{{- '</tools>\\nTo call one, write <tool_call>{"name": ..., "arguments": ...}</tool_call><|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{%- if not (tools and loop.first and message.role == 'system') -%}
{{- '<|im_start|>' + message.role + '\\n' + (message.content or '') -}}
{%- for call in message.tool_calls or [] -%}
{%- set own = call.function if call.function is defined else call -%}
{%- set given = own.arguments if own.arguments is string else own.arguments | tojson -%}
{{- '<tool_call>{"name": ' + own.name | tojson + ', "arguments": ' + given + '}</tool_call>' -}}
{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif -%}
"""
"""ChatML, with calls of tools as Hermes models write them."""

SEED = 1

Telling = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How large the model is, and how it is trained.

    Attributes:
        vocabulary: Tokens, special ones among them.
        layers: Layers.
        width: Of the hidden states.
        inner: Of the feed-forward layers.
        heads: Attention heads.
        context: Tokens that the model may read.
        conversations: How many it is trained on, each once.
        row: Tokens of a row, in which conversations stand side by side without seeing each other.
        rows: Rows of a batch.
        rate: The highest learning rate.
        warm_up: Share of the run in which it rises.
        decay: Weight decay.
        minutes: After so many the run ends, with the learning rate where it has to be at an end.
        threads: Cores. Two are no faster than one where somebody else is at work on either.
        bfloat16: Multiply in it; twice as fast on processors that can, slower on those that can't.
        seed: Of weights, order and conversations.
    """

    vocabulary: int = 2000
    layers: int = 6
    width: int = 192
    inner: int = 512
    heads: int = 6
    context: int = 512
    conversations: int = 60_000
    row: int = 256
    rows: int = 4
    rate: float = 2e-3
    warm_up: float = 0.03
    decay: float = 0.1
    minutes: float = 20.0
    threads: int = 2
    bfloat16: bool = False
    seed: int = SEED


@dataclass(frozen=True, slots=True, kw_only=True)
class Toy:
    """A model and its tokenizer."""

    model: Qwen2ForCausalLM
    tokenizer: PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What came of a run.

    Attributes:
        toy: The model.
        losses: Of each step, nats a token.
        tokens: That were read.
        seconds: Of the steps.
    """

    toy: Toy
    losses: tuple[float, ...]
    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Packed conversations.

    Attributes:
        ids: Tokens, (rows, tokens).
        positions: Of each token in its own conversation; where they start anew, another conversation begins.
        labels: The tokens again, and -100 where nothing is to be learnt.
    """

    ids: Tensor
    positions: Tensor
    labels: Tensor


def tokenizer_of(texts: Iterable[str], vocabulary: int, context: int) -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer with a chat template.

    Args:
        texts: What it is fitted on.
        vocabulary: Tokens, special ones among them.
        context: Tokens that the model reads.
    """
    # Cut as Qwen2 cuts, digit by digit: by the model's kind transformers makes that tokenizer of the saved files.
    plain = Qwen2Tokenizer().backend_tokenizer
    bpe = Tokenizer(models.BPE())
    bpe.normalizer, bpe.pre_tokenizer = plain.normalizer, plain.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    learnt = json.loads(bpe.to_str())["model"]
    merges: Any = [tuple(merge) for merge in learnt["merges"]]
    tokenizer = Qwen2Tokenizer(
        vocab=learnt["vocab"],
        merges=merges,
        unk_token=PAD,  # every byte is a token: there is none that is unknown
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[START],
        model_max_length=context,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def model_of(settings: Settings, tokenizer: PreTrainedTokenizerBase) -> Qwen2ForCausalLM:
    """A model with random weights."""
    torch.manual_seed(settings.seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=settings.width,
        intermediate_size=settings.inner,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        max_position_embeddings=settings.context,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    # Of what transformers has on processors the fastest for short rows of packed texts.
    config._attn_implementation = "eager"
    return Qwen2ForCausalLM(config)


def train(settings: Settings, told: Telling = print) -> Trained:
    """Train a tokenizer and a model.

    Args:
        settings: How.
        told: Is given a line now and then.
    """
    torch.set_num_threads(settings.threads)
    read = list(conversations("learn", settings.conversations, settings.seed))
    tokenizer = tokenizer_of(_texts(read), settings.vocabulary, settings.context)
    rows = packed(read, tokenizer, settings.row)
    model = model_of(settings, tokenizer)
    size = sum(weights.numel() for weights in model.parameters())
    batches = list(_batches(len(rows.ids), settings))
    told(f"{size / 1e6:.1f}M parameters, {int((rows.labels >= 0).sum()):,} tokens in {len(batches):,} batches")
    optimizer = torch.optim.AdamW(_groups(model, settings.decay), lr=settings.rate, betas=(0.9, 0.95), fused=True)
    losses: list[float] = []
    tokens, began = 0, time.perf_counter()
    model.train()
    for number, batch in enumerate(batches):
        # By steps, so that a run can be repeated; by time only where the machine is too slow for all of them.
        late = (time.perf_counter() - began) / (60 * settings.minutes)
        done = max(number / len(batches), late)
        if late >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = settings.rate * _share(done, settings.warm_up)
        losses.append(_step(model, rows, batch, optimizer, bfloat16=settings.bfloat16))
        tokens += int((rows.labels[batch] >= 0).sum())
        if number % 200 == 0 or number == len(batches) - 1:
            spent = time.perf_counter() - began
            told(f"{done:5.1%}  step {number:5,}  loss {losses[-1]:.3f}  {tokens / spent:,.0f} tokens/s  {spent:.0f} s")
    model.train(mode=False)
    # Qwen2's own defaults sample; a demonstration says how it draws.
    model.generation_config.do_sample = False
    return Trained(
        toy=Toy(model=model, tokenizer=tokenizer),
        losses=tuple(losses),
        tokens=tokens,
        seconds=time.perf_counter() - began,
    )


def save(toy: Toy, folder: Path) -> None:
    """Write a model as transformers reads it: safetensors, and the tokenizer with its template."""
    toy.model.save_pretrained(folder)
    toy.tokenizer.save_pretrained(folder)


def _texts(read: Sequence[Conversation]) -> Iterator[str]:
    # Roles as well, for the template writes them.
    return (text for one in read for message in one.messages for text in (message.role, message.content))


def packed(read: Sequence[Conversation], tokenizer: PreTrainedTokenizerBase, width: int) -> Rows:
    """Whole conversations in rows; those that are longer than a row lose their end."""
    texts: Any = tokenizer.apply_chat_template([one.plain() for one in read], tokenize=False)
    encoded: Any = tokenizer(texts, add_special_tokens=False)["input_ids"]
    rows: list[list[list[int]]] = [[]]
    room = width
    for ids in (own[:width] for own in encoded):
        if len(ids) > room:
            rows.append([])
            room = width
        rows[-1].append(ids)
        room -= len(ids)
    pad: Any = tokenizer.pad_token_id
    shape = len(rows), width
    ids_of, labels = torch.full(shape, int(pad)), torch.full(shape, -100)
    positions = torch.arange(width).repeat(len(rows), 1)
    for row, own in enumerate(rows):
        at = 0
        for ids in own:
            end = at + len(ids)
            ids_of[row, at:end] = torch.tensor(ids)
            positions[row, at:] = torch.arange(width - at)
            # The first token follows on nothing.
            labels[row, at + 1 : end] = torch.tensor(ids[1:])
            at = end
        positions[row, at:] = torch.arange(width - at)
    return Rows(ids=ids_of, positions=positions, labels=labels)


def _batches(rows: int, settings: Settings) -> Iterator[Tensor]:
    order = list(range(rows))
    random.Random(settings.seed).shuffle(order)  # noqa: S311 - no key
    for at in range(0, rows - settings.rows + 1, settings.rows):
        yield torch.tensor(order[at : at + settings.rows])


def _step(
    model: Qwen2ForCausalLM, rows: Rows, batch: Tensor, optimizer: torch.optim.Optimizer, *, bfloat16: bool
) -> float:
    labels = rows.labels[batch][:, 1:].flatten()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
        logits = model(input_ids=rows.ids[batch], position_ids=rows.positions[batch], use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels, ignore_index=-100)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call] # torch has no types there
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return float(loss.detach())


def _groups(model: Qwen2ForCausalLM, decay: float) -> list[dict[str, Any]]:
    """Matrices decay, biases and norms do not."""
    weights = list(model.parameters())
    return [
        {"params": [one for one in weights if one.ndim > 1], "weight_decay": decay},
        {"params": [one for one in weights if one.ndim <= 1], "weight_decay": 0.0},
    ]


def _share(done: float, warm_up: float) -> float:
    """Of the highest learning rate: up in a line, down as a cosine to a twentieth."""
    if done < warm_up:
        return max(done, 1e-3) / warm_up
    return 0.05 + 0.95 * (1 + math.cos(math.pi * (done - warm_up) / (1 - warm_up))) / 2


def has_bfloat16() -> bool:
    """Whether this processor multiplies in bfloat16."""
    return any(torch.cpu.get_capabilities().get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def main() -> None:
    defaults = Settings()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=defaults.minutes)
    parser.add_argument("--conversations", type=int, default=defaults.conversations)
    parser.add_argument("--threads", type=int, default=defaults.threads)
    parser.add_argument("--bfloat16", action=argparse.BooleanOptionalAction, default=has_bfloat16())
    arguments = parser.parse_args()
    settings = Settings(
        minutes=arguments.minutes,
        conversations=arguments.conversations,
        threads=arguments.threads,
        bfloat16=arguments.bfloat16,
    )
    trained = train(settings, lambda line: print(line, flush=True))
    save(trained.toy, arguments.out)
    print(f"{trained.tokens:,} tokens in {trained.seconds:.0f} s, loss {trained.losses[-1]:.3f}: {arguments.out}")


if __name__ == "__main__":
    main()
