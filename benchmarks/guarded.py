"""What a guard inside a model costs: a guarded step beside a plain one of the same model, in pairs.

    python -m benchmarks.guarded

A model of the shape of Qwen2 0.5B with random weights and a head of random weights on its layer 12: what a step costs
does not depend on what they are. Each token is read by the head, every fourth one is judged by a policy. Writes
`benchmarks/results/guarded.json`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor
from transformers import PreTrainedTokenizerFast, StoppingCriteria

from benchmarks.half_b import half_b
from lec_guard import Guard
from lec_guard.bench.machine import processor
from lec_guard.detect.backends.torch import Dtype
from lec_guard.detect.bundle import (
    BundleSpec,
    Learned,
    PathBase,
    PrefixPairs,
    ReadInTurn,
    Windows,
    hash_files,
    write_bundle,
)
from lec_guard.detect.extractor import Block, Extractor
from lec_guard.detect.heads import HeadSpec, HeadStack, Matrix
from lec_guard.detect.turns import Role, Template, Turn
from lec_guard.detect.windows import WindowSpec
from lec_guard.generate.detector import InsideDetector
from lec_guard.generate.guarded import GuardedCausalLM
from lec_guard.generate.rendering import render
from lec_guard.train.trainer import stored

RESULT = Path(__file__).parent / "results" / "guarded.json"
PROMPT, WRITTEN, ROUNDS, LAYER = 120, 24, 11, 12
WINDOW = WindowSpec(size=32, stride=16, least=16)
_HEADS: dict[Role, str] = {"user": "attack", "assistant": "harm"}
POLICY = """\
hold_back: 32
rules:
  - {name: attack, stages: [input], head: attack, threshold: 1.0, action: block}
  - {name: harm, stages: [output], head: harm, threshold: 1.0, action: block}
"""


def main() -> None:
    """Measure and write."""
    torch.manual_seed(0)
    with TemporaryDirectory() as work:
        report = measured(Path(work))
    RESULT.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=2))


def measured(work: Path) -> dict[str, Any]:
    """Make a model and heads in a folder, and have both take turns."""
    model, tokenizer = _model(work / "model")
    bundles = [_bundle(work, role) for role in _HEADS]
    (work / "policy.yaml").write_text(POLICY, encoding="utf-8")
    detector = InsideDetector.load(model, tokenizer, *bundles)
    guarded = GuardedCausalLM(Guard.from_policies(work / "policy.yaml", detector=detector), tokenizer, detector)
    words = " ".join(f"w{number}" for number in np.random.default_rng(0).integers(0, 900, PROMPT))
    talk = [{"role": "user", "content": words}]
    ids = torch.tensor([render(tokenizer, talk).ids])

    def plain(**settings: Any) -> None:
        model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **settings)

    def inside(**settings: Any) -> None:
        (answer,) = guarded.generate([talk], **settings)
        if answer.written != 1 + WRITTEN:
            raise RuntimeError(f"{answer.written} tokens, not {1 + WRITTEN}")

    ways: dict[str, Callable[..., None]] = {"plain": plain, "guarded": inside}
    steps: dict[str, list[float]] = {name: [] for name in ways}
    firsts: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(ROUNDS + 1):
        for name, run in (ways if number % 2 else dict(reversed(ways.items()))).items():
            clock, began = _Clock(), time.perf_counter()
            run(stopping_criteria=[clock], **_settings(1 + WRITTEN))
            if number:  # the first round warms up
                firsts[name].append(clock.times[0] - began)
                steps[name].append((clock.times[-1] - clock.times[0]) / WRITTEN)
    return {
        "machine": processor(),
        "threads": torch.get_num_threads(),
        "every": detector.every,
        "ms_a_token": {name: median(own) * 1000 for name, own in steps.items()},
        "ms_to_the_first": {name: median(own) * 1000 for name, own in firsts.items()},
        "of_plain": {"token": _ratio(steps), "first token": _ratio(firsts)},
    }


class _Clock(StoppingCriteria):
    """When each token was drawn."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:  # noqa: ARG002
        """Look at the clock; nothing stops."""
        self.times.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool)


def _ratio(found: dict[str, list[float]]) -> float:
    return median(one / plain for one, plain in zip(found["guarded"], found["plain"], strict=True))


def _settings(count: int) -> dict[str, Any]:
    return {
        "max_new_tokens": count,
        "do_sample": False,
        "eos_token_id": None,
        "pad_token_id": 0,
        # Random models write special tokens as readily as words.
        "suppress_tokens": list(range(8)),
    }


def _model(folder: Path) -> tuple[Any, PreTrainedTokenizerFast]:
    model = half_b()
    model.save_pretrained(folder)
    special = ["<pad>", "<eos>", "<unk>", "<system>", "<user>", "<assistant>"]
    words = [*special, *(f"w{number}" for number in range(model.config.vocab_size - len(special)))]
    own = Tokenizer(WordLevel({word: at for at, word in enumerate(words)}, unk_token="<unk>"))  # noqa: S106
    own.pre_tokenizer = Whitespace()
    own.add_special_tokens(special)
    made: Any = PreTrainedTokenizerFast
    tokenizer = made(tokenizer_object=own, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")  # noqa: S106
    tokenizer.chat_template = (
        "{% for message in messages %}<{{ message.role }}> {{ message.content }} {% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    tokenizer.save_pretrained(folder)
    return model, tokenizer


def _bundle(work: Path, role: Role) -> Path:
    weight = np.random.default_rng(0).normal(size=(896, 1)).astype(np.float32) * np.float32(0.01)
    return write_head(
        work / role,
        work / "model",
        role,
        _HEADS[role],
        weight,
        blocks=[Block(LAYER, "mean")],
        window=WINDOW,
        dtype="bf16",
    )


def write_head(
    folder: Path,
    model: Path,
    role: Role,
    head: str,
    weight: Matrix,
    *,
    blocks: Sequence[Block],
    window: WindowSpec,
    dtype: Dtype = "fp32",
) -> Path:
    """Write a bundle with a head whose weights are given, bound to a model.

    Args:
        folder: Where to.
        model: The model's folder.
        role: Whose turn it reads.
        head: Its name.
        weight: `[features, 1]`.
        blocks: What it reads.
        window: How texts are cut.
        dtype: What the model computes in.

    Returns:
        The bundle's folder.
    """
    turn, template = Turn.from_chat_template(model, role), Template.from_chat_template(model, role)
    extractor = Extractor.load(model, blocks=blocks, window=window, turn=turn, dtype=dtype)
    spec = HeadSpec(name=head, kind="binary", labels=("harmful",))
    heads = HeadStack([spec], weight, np.zeros(1, np.float32))
    described = BundleSpec(
        format=5,
        name=head,
        base=PathBase(kind="path", path=str(model)),
        files=hash_files(model),
        blocks=stored(blocks),
        window=Windows(**asdict(window)),
        extractor_id=extractor.extractor_id,
        turn=ReadInTurn(**asdict(turn)),
        heads=(spec,),
        pairs=PrefixPairs(kind="prefix", **asdict(template), heads=(spec,)),
        heads_sha256="0" * 64,
    )
    write_bundle(folder, described, Learned(heads, heads))
    return folder


if __name__ == "__main__":
    main()
