"""What guidance costs: a guided step beside a plain one of the same model, in pairs.

    python -m benchmarks.guidance

A model of the shape of Qwen2 0.5B with random weights: what a step costs does not depend on what they are. Writes
`benchmarks/results/guidance.json`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.half_b import half_b
from lec_guard.bench.machine import processor
from lec_guard.generate import Guidance, GuidedCausalLM

RESULT = Path(__file__).parent / "results" / "guidance.json"
PROMPT, WRITTEN, ROUNDS = 128, 24, 5


def seconds(run: Callable[[], object]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def main() -> None:
    """Measure and write."""
    torch.manual_seed(0)
    model = half_b()
    ids, others = (torch.randint(1_000, 100_000, (1, PROMPT)) for _ in range(2))
    mask = torch.ones_like(ids)

    def step(written: int, guidance: Guidance | None) -> float:
        settings: dict[str, Any] = {
            "max_new_tokens": written,
            "min_new_tokens": written,
            "do_sample": False,
            "pad_token_id": 0,
        }
        if guidance is None:
            return seconds(lambda: model.generate(input_ids=ids, attention_mask=mask, **settings))
        guided = GuidedCausalLM(model, guidance)
        return seconds(lambda: guided.generate(ids, mask, negative_input_ids=others, **settings))

    ways = {"plain": None, "stacked": Guidance(), "sequential": Guidance(sequential=True)}
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(ROUNDS + 1):
        for name, guidance in ways.items():
            # The prompt is read in both runs, so that the difference is that of the steps.
            taken = (step(1 + WRITTEN, guidance) - step(1, guidance)) / WRITTEN
            if number:  # the first round warms up
                found[name].append(taken)
    report = {
        "machine": processor(),
        "threads": torch.get_num_threads(),
        "ms_a_token": {name: median(own) * 1000 for name, own in found.items()},
        "of_plain": {
            name: median(one / plain for one, plain in zip(own, found["plain"], strict=True))
            for name, own in found.items()
            if name != "plain"
        },
    }
    RESULT.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
