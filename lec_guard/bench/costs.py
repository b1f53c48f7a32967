"""What one more head, the reading of texts as they are meant, and a context cost."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import islice

from lec_guard.bench.detectors import Detectors, Split, Watch, split, step, watched, windows, with_one_more_head
from lec_guard.bench.latency import score_one
from lec_guard.bench.plan import Plan
from lec_guard.bench.prompts import Prompts
from lec_guard.bench.report import ContextCost, Costs, HeadCost, NormalisationCost
from lec_guard.bench.rounds import Job, median_ms, ratio, rest, seconds, take_turns, timing
from lec_guard.detect.layer import LayerDetector


def measure_costs(detectors: Detectors, plan: Plan) -> Costs:
    """Measure all of them on the backend as shipped.

    Args:
        detectors: The detectors.
        plan: Lengths and rounds.

    Returns:
        The costs.
    """
    prompts = Prompts.of(detectors.bundle)
    detector = detectors.shipped
    return Costs(
        head=measure_head(detector, prompts, plan),
        normalisation=measure_normalisation(detector, prompts, plan),
        context=measure_context(detector, prompts, plan),
    )


def measure_head(detector: LayerDetector, prompts: Prompts, plan: Plan) -> HeadCost:
    """Score with the bundle's heads, and with one more on the same features.

    Args:
        detector: The detector.
        prompts: Where texts come from.
        plan: Lengths and rounds.

    Returns:
        What the head costs.
    """
    one_more = with_one_more_head(detector)
    tokens = plan.cost_tokens

    def score(which: LayerDetector, watch: Watch) -> Split:
        steps = [step(prompts.text(tokens))]
        rest()
        return split(watch, lambda: which.score(steps))

    # Both share one extractor, so that watching the one is watching the other.
    with watched(detector) as watch:
        found = take_turns(
            {which: partial(score, which, watch) for which in (detector, one_more)},
            plan.pairs,
        )
    bundle, more = found[detector], found[one_more]
    # The head `reading` is no column of the matrix.
    heads = len(detector.labels) - 1
    return HeadCost(
        tokens=tokens,
        heads=heads,
        bundle=timing([one.total for one in bundle]),
        one_more=timing([one.total for one in more]),
        ratio=ratio([one.total for one in more], [one.total for one in bundle]),
        extra_ms=median_ms([one.own for one in more]) - median_ms([one.own for one in bundle]),
    )


def measure_normalisation(detector: LayerDetector, prompts: Prompts, plan: Plan) -> NormalisationCost:
    """Score plain texts and disguised ones of the same length, and cut plain ones with and without a second look.

    Args:
        detector: The detector.
        prompts: Where texts come from.
        plan: Lengths and rounds.

    Returns:
        What normalisation costs.
    """
    tokens = plan.cost_tokens
    counts = {
        disguised: detector.score([step(prompts.text(tokens, disguised=disguised))])[0].windows
        for disguised in (False, True)
    }

    def disguised_text() -> Callable[[], object]:
        steps = [step(prompts.text(tokens, disguised=True))]
        return lambda: detector.score(steps)

    def cut(*, as_meant: bool) -> Job:
        def job() -> Callable[[], object]:
            text = prompts.text(tokens)
            plain = sum(not window.as_meant for window in windows(detector, text))
            # The windows of the text as it is come first: who takes no more pays for no more.
            return lambda: list(islice(windows(detector, text), None if as_meant else plain))

        return job

    scored = seconds({"plain": score_one(detector, prompts, tokens), "disguised": disguised_text}, plan.rounds)
    windowed = seconds({"as it is": cut(as_meant=False), "as meant too": cut(as_meant=True)}, plan.pairs)
    return NormalisationCost(
        tokens=tokens,
        plain=timing(scored["plain"]),
        plain_windows=counts[False],
        disguised=timing(scored["disguised"]),
        disguised_windows=counts[True],
        ratio=ratio(scored["disguised"], scored["plain"]),
        as_it_is=timing(windowed["as it is"]),
        as_meant_too=timing(windowed["as meant too"]),
    )


def measure_context(detector: LayerDetector, prompts: Prompts, plan: Plan) -> ContextCost:
    """Score texts without a context, with new ones, and with one that was seen before.

    Args:
        detector: The detector.
        prompts: Where texts come from.
        plan: Lengths and rounds.

    Returns:
        What a context costs.
    """
    known = prompts.text(plan.context_tokens)
    read = detector.score([step(prompts.text(plan.cost_tokens), known)])[0].context_read

    def score(context: Callable[[], str | None]) -> Job:
        def job() -> Callable[[], object]:
            steps = [step(prompts.text(plan.cost_tokens), context())]
            return lambda: detector.score(steps)

        return job

    jobs: dict[str, Job] = {
        "without": score(lambda: None),
        "new": score(lambda: prompts.text(plan.context_tokens)),
        "again": score(lambda: known),
    }
    found = seconds(jobs, plan.rounds)
    return ContextCost(
        tokens=plan.cost_tokens,
        context_tokens=plan.context_tokens,
        context_read=read,
        without=timing(found["without"]),
        new=timing(found["new"]),
        again=timing(found["again"]),
        new_ratio=ratio(found["new"], found["without"]),
        again_ratio=ratio(found["again"], found["without"]),
    )
