"""Tiny random models, tokenizers and bundles, saved as Hugging Face and lec-guard save them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers as hf
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from lec_guard.detect.adapters import Adapters, Factors
from lec_guard.detect.bundle import (
    BundleSpec,
    FeatureBlock,
    Learned,
    MeetingPairs,
    PathBase,
    Windows,
    hash_files,
    read_bundle,
    write_bundle,
)
from lec_guard.detect.extractor import Block, Extractor
from lec_guard.detect.heads import HeadSpec, HeadStack
from lec_guard.detect.merge import digests, linear_modules
from lec_guard.detect.pairs import Part
from lec_guard.detect.prune import load_pruned
from lec_guard.detect.windows import WindowSpec

WIDTH = 32
VOCAB = 100
POSITIONS = 64
WINDOW = WindowSpec(size=16, stride=7, least=4)
BLOCKS = (Block(2, "mean"), Block(2, "max"))
GATES = np.random.default_rng(5).normal(size=(2, WIDTH)).astype(np.float32)

COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "max_position_embeddings": POSITIONS,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
DECODER = {**COMMON, "num_key_value_heads": 2}


@dataclass(frozen=True)
class Family:
    """How to make one architecture, and how its checkpoint names the tensors that a cut drops."""

    layers: int
    build: Callable[[], hf.PreTrainedModel]
    stack: str
    head: tuple[str, ...]

    def dropped(self, name: str, keep: int) -> bool:
        """Whether a tensor of the checkpoint lies above layer `keep` or in the language-model head."""
        if name.startswith(self.stack):
            return int(name.removeprefix(self.stack).split(".")[0]) >= keep
        return name.startswith(self.head)


def _bert() -> hf.PreTrainedModel:
    return hf.BertForMaskedLM(hf.BertConfig(**COMMON, num_hidden_layers=3))


def _deberta() -> hf.PreTrainedModel:
    config = hf.DebertaV2Config(
        **COMMON,
        num_hidden_layers=3,
        type_vocab_size=0,
        relative_attention=True,
        position_buckets=8,
        pos_att_type=["p2c", "c2p"],
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        position_biased_input=False,
    )
    return hf.DebertaV2ForMaskedLM(config)


def _modernbert() -> hf.PreTrainedModel:
    config = hf.ModernBertConfig(
        **COMMON,
        num_hidden_layers=4,
        global_attn_every_n_layers=3,
        local_attention=8,
        cls_token_id=1,
        sep_token_id=2,
        tie_word_embeddings=False,
    )
    return hf.ModernBertForMaskedLM(config)


def _qwen2() -> hf.PreTrainedModel:
    config = hf.Qwen2Config(
        **DECODER,
        num_hidden_layers=4,
        use_sliding_window=True,
        sliding_window=4,
        max_window_layers=2,
        tie_word_embeddings=False,
    )
    return hf.Qwen2ForCausalLM(config)


def _llama() -> hf.PreTrainedModel:
    return hf.LlamaForCausalLM(hf.LlamaConfig(**DECODER, num_hidden_layers=3, tie_word_embeddings=False))


def _gemma() -> hf.PreTrainedModel:
    return hf.GemmaForCausalLM(hf.GemmaConfig(**DECODER, num_hidden_layers=3, head_dim=8))


def gpt2() -> hf.PreTrainedModel:
    """Learned positions."""
    config = hf.GPT2Config(vocab_size=VOCAB, n_embd=WIDTH, n_layer=3, n_head=4, n_positions=POSITIONS)
    return hf.GPT2LMHeadModel(config)


def gemma3(**changes: object) -> hf.PreTrainedModel:
    """Sliding windows in all layers but one."""
    config = hf.Gemma3TextConfig(**DECODER, head_dim=8, num_hidden_layers=7, sliding_window=4, **changes)
    return hf.Gemma3ForCausalLM(config)


def mistral() -> hf.PreTrainedModel:
    """Sliding windows in all layers."""
    return hf.MistralForCausalLM(hf.MistralConfig(**DECODER, num_hidden_layers=3, sliding_window=5))


def qwen3() -> hf.PreTrainedModel:
    """Norms of queries and keys."""
    return hf.Qwen3ForCausalLM(hf.Qwen3Config(**DECODER, num_hidden_layers=3, head_dim=8))


FAMILIES = {
    "bert": Family(3, _bert, "bert.encoder.layer.", ("cls.",)),
    "deberta-v2": Family(3, _deberta, "deberta.encoder.layer.", ("cls.",)),
    "modernbert": Family(4, _modernbert, "model.layers.", ("head.", "decoder.")),
    "qwen2": Family(4, _qwen2, "model.layers.", ("lm_head.",)),
    "llama": Family(3, _llama, "model.layers.", ("lm_head.",)),
    # Gemma's head is its embedding matrix, so its checkpoint has no tensor of a head.
    "gemma": Family(3, _gemma, "model.layers.", ("lm_head.",)),
}


def save(model: hf.PreTrainedModel, folder: Path, *, seed: int = 0) -> Path:
    """Fill a model with large random numbers, so that every norm and bias shows, and save it."""
    numbers = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=numbers) * 0.2 + (parameter.ndim == 1))
    model.save_pretrained(folder)
    return folder


def save_family(name: str, folder: Path) -> Path:
    """Save a random model of a family with a tokenizer that suits it."""
    save(FAMILIES[name].build(), folder)
    tokenizer = encoder_tokenizer() if name in {"bert", "deberta-v2", "modernbert"} else decoder_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def encoder_tokenizer() -> Tokenizer:
    """WordPiece over letters and a few words, with special tokens around a text."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *letters, *(f"##{letter}" for letter in letters)]
    tokens += [*"0123456789.,!?'-", "the", "ignore", "rules", "please", "weather", "##ing", "##s"]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    assert len(vocab) <= VOCAB
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.add_special_tokens(["[PAD]", "[CLS]", "[SEP]", "[UNK]"])
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return tokenizer


def decoder_tokenizer() -> Tokenizer:
    """One token a character, and no special tokens around a text."""
    characters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,!?'-\n"
    vocab = {"<unk>": 0, **{character: i for i, character in enumerate(characters, start=1)}}
    assert len(vocab) <= VOCAB
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    return tokenizer


HEADS = (
    HeadSpec(name="injection", kind="binary", labels=("injection",), temperature=0.5),
    HeadSpec(name="topic", kind="multiclass", labels=("weather", "money")),
    HeadSpec(name="safety", kind="two_level", labels=("unsafe", "weapons", "fraud"), temperature=2.0),
)

PAIR_HEADS = (HEADS[1], HEADS[0].model_copy(update={"temperature": 0.8}))
"""Those of them that have a form with context, in another order."""
PARTS: tuple[Part, ...] = ("text", "context", "product", "difference")


def random_heads(width: int, *, specs: tuple[HeadSpec, ...] = HEADS, seed: int = 0) -> HeadStack:
    """Heads that say something else for every text."""
    numbers = np.random.default_rng(seed)
    columns = sum(spec.columns for spec in specs)
    weight = numbers.normal(scale=0.3, size=(width, columns)).astype(np.float32)
    return HeadStack(specs, weight, numbers.normal(size=columns).astype(np.float32))


def save_bundle(
    folder: Path,
    base: Path,
    *,
    stored_path: str | None = None,
    blocks: tuple[Block, ...] = BLOCKS,
    window: WindowSpec = WINDOW,
    gates: np.ndarray | None = None,
    pairs: bool = False,
    adapters: Adapters | None = None,
) -> Path:
    """Write a bundle with random heads on a base folder, named by `stored_path` or in full."""
    extractor = Extractor.load(base, blocks=blocks, window=window, gates=gates, adapters=adapters)
    width = extractor.backend.width
    spec = BundleSpec(
        name="tiny",
        base=PathBase(kind="path", path=stored_path or str(base)),
        files=hash_files(base),
        blocks=tuple(FeatureBlock(**dataclasses.asdict(block)) for block in blocks),
        window=Windows(**dataclasses.asdict(window)),
        extractor_id=extractor.extractor_id,
        heads=HEADS,
        pairs=MeetingPairs(kind="meeting", parts=PARTS, heads=PAIR_HEADS) if pairs else None,
        heads_sha256="0" * 64,
    )
    pair_heads = random_heads(width * len(PARTS), specs=PAIR_HEADS, seed=1) if pairs else None
    write_bundle(folder, spec, Learned(random_heads(width), pair_heads, gates, adapters))
    return folder


def save_extra(
    folder: Path,
    bundle: Path,
    heads: HeadStack,
    *,
    pair_heads: HeadStack | None = None,
    parts: tuple[Part, ...] = PARTS,
    name: str = "extra",
) -> Path:
    """Write a bundle with other heads on the extractor of one that is there."""
    there = read_bundle(bundle)
    base = there.spec.base
    if isinstance(base, PathBase):
        base = PathBase(kind="path", path=str((bundle / base.path).resolve()))
    pairs = MeetingPairs(kind="meeting", parts=parts, heads=pair_heads.specs) if pair_heads else None
    spec = there.spec.model_copy(update={"name": name, "base": base, "heads": heads.specs, "pairs": pairs})
    write_bundle(folder, spec, Learned(heads, pair_heads, there.learned.gates, there.learned.adapters))
    return folder


def edit_json(path: Path, **changes: object) -> None:
    """Change top-level keys of a JSON file; a value None removes the key."""
    content = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}), encoding="utf-8")


def adapters_of(base: Path, layers: int, *, rank: int = 2, alpha: float = 4.0, seed: int = 3) -> Adapters:
    """Random adapters of all linear modules of the first layers, large enough to show."""
    model = load_pruned(base, layers)
    modules = linear_modules(model)
    numbers = np.random.default_rng(seed)
    factors = {}
    for name, module in modules.items():
        outputs, inputs = module.weight.shape if isinstance(module, torch.nn.Linear) else module.weight.T.shape
        a, b = numbers.normal(size=(rank, inputs)), numbers.normal(scale=0.1, size=(outputs, rank))
        factors[name] = Factors(a.astype(np.float32), b.astype(np.float32))
    return Adapters(rank=rank, alpha=alpha, factors=factors, weights=digests(modules, factors))
