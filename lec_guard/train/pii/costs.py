"""What a run that makes pairs will ask for, before it asks for anything."""

from __future__ import annotations

from collections.abc import Sequence

from lec_guard.train.harmaug.chat import tokens_of
from lec_guard.train.harmaug.costs import Estimate, Part, cost_of
from lec_guard.train.pii.config import PiiDataConfig
from lec_guard.train.pii.samples import Sample, asking


def estimate_pairs(config: PiiDataConfig, samples: Sequence[Sample]) -> Estimate:
    """Say what a run will ask for.

    Args:
        config: The run.
        samples: What is to be answered.

    Returns:
        Calls, tokens and costs by model; answers are taken to be as long as those that they replace.
    """
    asked = [asking(sample, positive=config.positive, nudge=None, seed=0) for sample in samples]
    tokens_in = sum(tokens_of(prompt.system + prompt.user + prompt.prefix) for prompt in asked)
    tokens_out = sum(tokens_of(sample.rejected) for sample in samples)
    parts = tuple(
        Part(
            role="generator",
            model=model.model,
            calls=len(samples),
            tokens_in=tokens_in,
            tokens_out=tokens_out,
            cost=cost_of(model, tokens_in, tokens_out),
        )
        for model in config.generators
    )
    return Estimate(parts=parts, most=1 + config.retries)
