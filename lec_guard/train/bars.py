"""Thresholds of a head, stage by stage, and a policy that starts from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict

from lec_guard.policy.schema import PolicyFile
from lec_guard.step import Stage
from lec_guard.train.calibrate import PRIOR
from lec_guard.train.fit import Ints
from lec_guard.train.head import FittedHead


class Bar(BaseModel):
    """The threshold of a stage.

    Attributes:
        stage: The stage.
        threshold: Texts with this score or more are stopped.
        texts: Benign texts of left-out families that were there to measure with.
        stopped: How many of them are.
        needed: How many it takes to know the rate that was asked for (rule of three).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: Stage
    threshold: float
    texts: int
    stopped: int
    needed: int


def stage_bars(fitted: FittedHead, harmful: Ints, stages: Sequence[Stage], max_fpr: float) -> tuple[Bar, ...]:
    """Where each stage's benign texts keep to a rate; where too few are there to know it, no lower than even odds.

    Args:
        fitted: The head, with what it says of texts whose families it had not seen.
        harmful: 0 or 1 for each of these texts.
        stages: The stage of each.
        max_fpr: The share of benign texts that may be stopped.

    Returns:
        One a stage.
    """
    needed = int(np.ceil(3 / max_fpr))
    scores, benign = fitted.scores.max(axis=1), harmful == 0
    bars = []
    for stage in sorted(set(stages)):
        own = scores[benign & (np.asarray(stages) == stage)]
        entries = [entry for entry in fitted.spec.benign if entry.stage == stage]
        # Of each number of windows, the lowest score whose rate keeps to the budget, or comes nearest.
        found = [
            next((score for rate, score in zip(e.rates, e.scores, strict=True) if rate <= max_fpr), e.scores[-1])
            for e in entries
        ]
        floor = 0.0 if found and all(entry.texts >= needed for entry in entries) else PRIOR
        # Upwards, because a text with the threshold's own score is stopped.
        threshold = float(np.ceil(max([floor, *found]) * 1e4 + 1e-3) / 1e4)
        threshold = min(threshold, 1.0)
        bars.append(
            Bar(stage=stage, threshold=threshold, texts=len(own), stopped=int((own >= threshold).sum()), needed=needed)
        )
    return tuple(bars)


def write_policy(path: Path, head: str, bars: Sequence[Bar]) -> None:
    """Write a policy to start from: it blocks at the thresholds, and says what they promise.

    Args:
        path: The file.
        head: What policies call the head.
        bars: The thresholds.
    """
    rules = [
        {
            "name": f"{head}-{bar.stage}",
            "stages": [bar.stage],
            "head": head,
            "threshold": bar.threshold,
            "action": "block",
        }
        for bar in bars
    ]
    body = {"description": f"Blocks what the head {head} finds.", "rules": rules}
    PolicyFile.model_validate(body)
    promises = "".join(f"# {promise(bar)}\n" for bar in bars)
    path.write_text(promises + yaml.safe_dump(body, sort_keys=False), encoding="utf-8")


def promise(bar: Bar) -> str:
    """What is known of a threshold, in a sentence.

    Args:
        bar: The threshold.

    Returns:
        The sentence.
    """
    seen = f"{bar.stage}: {bar.stopped} of {bar.texts:,} benign texts of left-out families reach {bar.threshold:g}"
    return f"{seen}." if bar.texts >= bar.needed else f"{seen}; to know the rate takes {bar.needed:,}."
