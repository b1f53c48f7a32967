"""What keeping a context's prefix is worth: a check after a kept prefix, and with the context read anew.

    python -m benchmarks.prefix [--out FILE]

The decoder has the shape of Qwen2-0.5B, cut to half its layers. Its weights are random, since they don't change
what a pass costs, and its vocabulary is small: looking a token up costs the same in any. Both ways take turns in
one process, so that what else the machine does hits both. Every text is new.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import Qwen2Config, Qwen2Model

from lec_guard import Step
from lec_guard.bench.other_models import QWEN2_HALF_B
from lec_guard.detect.backends.torch import TorchBackend
from lec_guard.detect.extractor import Block, Extractor
from lec_guard.detect.heads import HeadSpec, HeadStack
from lec_guard.detect.layer import LayerDetector
from lec_guard.detect.pairs import PairHeads
from lec_guard.detect.prefix import PrefixPairs
from lec_guard.detect.prune import PrunedModel
from lec_guard.detect.turns import Template
from lec_guard.detect.windows import Windower, WindowSpec

VOCAB = 2000
KEPT, ANEW = "prefix kept", "context read anew"


def model(layers: int) -> PrunedModel:
    """The first layers of a Qwen2-0.5B with random weights and a small vocabulary."""
    config = Qwen2Config(**QWEN2_HALF_B.config, vocab_size=VOCAB, num_hidden_layers=layers, use_cache=False)
    torch.manual_seed(0)
    module: torch.nn.Module = Qwen2Model(config)
    module.eval().requires_grad_(requires_grad=False)
    module.norm = torch.nn.Identity()
    return PrunedModel(
        module,
        layers,
        QWEN2_HALF_B.layers,
        config.hidden_size,
        pad_id=0,
        max_positions=config.max_position_embeddings,
    )


def words() -> Tokenizer:
    """One token a word, and those of a chat template."""
    vocab = {"a": 0, **{f"w{at}": at for at in range(1, VOCAB - 2)}}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="a"))  # noqa: S106 - no password
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    return tokenizer


def detector(layers: int, text_tokens: int) -> LayerDetector:
    size = max(256, text_tokens)
    window = WindowSpec(size=size, stride=size // 2, least=10)
    extractor = Extractor(
        Windower(words(), window), TorchBackend(model(layers), [Block(layers, "mean")]), extractor_id="0" * 64
    )
    specs = [HeadSpec(name="grounding", kind="binary", labels=("ungrounded",))]
    heads = HeadStack(specs, np.ones((extractor.backend.width, 1), np.float32), np.zeros(1, np.float32))
    template = Template("<|im_start|> w1 ", "<|im_end|> <|im_start|> w2 ", "<|im_end|> <|im_start|> w3 ")
    pairs = PrefixPairs(extractor, template, budget=None)
    return LayerDetector(extractor, heads, "benchmark", pairs=PairHeads(pairs, heads))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--layers", type=int, default=QWEN2_HALF_B.layers // 2, help=f"that are left of {QWEN2_HALF_B.layers}"
    )
    parser.add_argument("--context", type=int, default=400, help="tokens of the context, without the template")
    parser.add_argument("--tokens", type=int, default=32, help="of each text, likewise")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path, help="where to write the figures as JSON")
    args = parser.parse_args()

    guard = detector(args.layers, args.tokens)
    numbers = random.Random(0)  # noqa: S311 - repeatable

    def some(tokens: int) -> str:
        return " ".join(f"w{numbers.randrange(1, VOCAB - 2)}" for _ in range(tokens))

    context = some(args.context)
    took: dict[str, list[float]] = {KEPT: [], ANEW: []}
    for at in range(args.rounds + 1):
        for way in sorted(took, reverse=bool(at % 2)):
            step = Step(stage="output", text=some(args.tokens), context=context)
            key = KEPT if way == KEPT else at  # A key that is new has nothing kept.
            began = time.perf_counter()
            (scores,) = guard.score([step], keys=[key])
            if at:  # The first round warms up, and reads the context that is kept.
                took[way].append(time.perf_counter() - began)
            assert scores.context_read  # noqa: S101 - else it measures something else
    milliseconds = {way: 1000 * median(own) for way, own in took.items()}
    ratios = [anew / kept for anew, kept in zip(took[ANEW], took[KEPT], strict=True)]
    prefix_bytes = guard._pairs.reader.read(context).nbytes if guard._pairs else 0
    report = {
        "backend": scores.backend,
        "machine": {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()},
        "layers": args.layers,
        "vocabulary": VOCAB,
        "context_tokens": args.context,
        "text_tokens": args.tokens,
        "rounds": args.rounds,
        "median_ms": milliseconds,
        "ratio": {"median": median(ratios), "lowest": min(ratios), "highest": max(ratios)},
        "prefix_bytes": prefix_bytes,
    }

    print(
        f"Qwen2-0.5B's shape, {args.layers} of {QWEN2_HALF_B.layers} layers, random weights, {VOCAB} words; "
        f"{args.context} tokens of context, {args.tokens} of text, on {scores.backend}\n"
    )
    for way, ms in milliseconds.items():
        print(f"{way:20}{ms:8.1f} ms")
    print(f"\n{median(ratios):.1f}x ({min(ratios):.1f} to {max(ratios):.1f}); the prefix takes {prefix_bytes:,} bytes")
    if args.out:
        args.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
