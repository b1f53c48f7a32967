"""How long one text takes, by its length and the backend."""

from __future__ import annotations

from collections.abc import Callable

from lec_guard.bench.detectors import AUTO, Detectors, step
from lec_guard.bench.plan import Plan
from lec_guard.bench.prompts import Prompts
from lec_guard.bench.report import Latency
from lec_guard.bench.rounds import Job, seconds, timing
from lec_guard.detect.layer import LayerDetector


def measure_latency(detectors: Detectors, plan: Plan) -> tuple[Latency, ...]:
    """Score one new text at a time: tokenizer, normalisation, windows, model and heads.

    Args:
        detectors: The detectors; all backends take turns.
        plan: Lengths and rounds.

    Returns:
        A figure for each length and backend.
    """
    prompts = Prompts.of(detectors.bundle)
    contestants = detectors.all()
    if detectors.auto is not None:
        contestants[AUTO] = detectors.auto
    found = []
    for tokens in plan.lengths:
        jobs = {name: score_one(detector, prompts, tokens) for name, detector in contestants.items()}
        taken = seconds(jobs, plan.rounds)
        windows = detectors.shipped.score([step(prompts.text(tokens))])[0].windows
        found += [
            Latency(backend=name, tokens=tokens, windows=windows, time=timing(own)) for name, own in taken.items()
        ]
    return tuple(found)


def score_one(detector: LayerDetector, prompts: Prompts, tokens: int) -> Job:
    """Scoring one new text.

    Args:
        detector: What scores.
        prompts: Where texts come from.
        tokens: How long they are.

    Returns:
        What takes turns with others.
    """

    def job() -> Callable[[], object]:
        steps = [step(prompts.text(tokens))]
        return lambda: detector.score(steps)

    return job
