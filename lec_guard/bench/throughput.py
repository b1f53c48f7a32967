"""How fast texts of mixed lengths go through, beside the bare matrix products of the same forward passes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from lec_guard.bench.detectors import Detectors, Watch, step, watched, windows
from lec_guard.bench.plan import Mixture, Plan
from lec_guard.bench.products import Products, products_of
from lec_guard.bench.prompts import Prompts
from lec_guard.bench.report import Throughput
from lec_guard.bench.rounds import Job, ratio, seconds, timing
from lec_guard.bench.shapes import Shapes, shapes_of
from lec_guard.detect.layer import LayerDetector
from lec_guard.errors import BundleError

_SCORE, _WINDOWING, _PRODUCTS = "score", "windowing", "products"


@dataclass(frozen=True, slots=True)
class _Contestant:
    """A backend with all that is measured about it."""

    name: str
    detector: LayerDetector
    products: Products


def measure_throughput(detectors: Detectors, plan: Plan) -> tuple[Throughput, ...]:
    """Score texts of mixed lengths, cut them into windows, and compute the bare products, all in turn.

    Args:
        detectors: The detectors.
        plan: The mixture and the rounds.

    Returns:
        A figure for each backend that can be measured here.
    """
    try:
        shapes = shapes_of(detectors.bundle)
    except BundleError as error:
        detectors.skip("throughput", "everything", str(error))
        return ()
    contestants = []
    for name, detector in detectors.all().items():
        try:
            contestants.append(_Contestant(name, detector, products_of(name, shapes)))
        except BundleError as error:
            detectors.skip("throughput", f"the backend {name}", str(error))
    prompts = Prompts.of(detectors.bundle)
    calls = list(_calls(plan.mixture))
    seen = {one.name: _Seen() for one in contestants}
    for lengths in calls:
        jobs: dict[tuple[str, str], Job] = {}
        for one in contestants:
            with watched(one.detector) as watch:
                one.detector.score([step(prompts.text(tokens)) for tokens in lengths])
            seen[one.name].add(watch)
            jobs[one.name, _SCORE] = _score(one.detector, prompts, lengths)
            jobs[one.name, _WINDOWING] = _window(one.detector, prompts, lengths)
            jobs[one.name, _PRODUCTS] = _multiply(one.products, watch)
        for (name, what), own in seconds(jobs, plan.sweeps).items():
            seen[name].taken[what].append(own)
    tokens = sum(sum(lengths) for lengths in calls)
    return tuple(_throughput(one.name, seen[one.name], shapes, plan.mixture, tokens) for one in contestants)


class _Seen:
    """What was seen of one backend, call by call."""

    def __init__(self) -> None:
        self.watches: list[Watch] = []
        self.taken: dict[str, list[list[float]]] = {_SCORE: [], _WINDOWING: [], _PRODUCTS: []}

    def add(self, watch: Watch) -> None:
        self.watches.append(watch)

    def seconds(self, what: str) -> list[float]:
        """Seconds for all calls, in each round."""
        return [float(own) for own in np.sum(self.taken[what], axis=0)]


def _calls(mixture: Mixture) -> Iterator[list[int]]:
    """The lengths of the texts of each call; always the same ones."""
    numbers = random.Random(0)  # noqa: S311 - repeatable
    spread = mixture.longest / mixture.shortest
    lengths = [round(mixture.shortest * spread ** numbers.random()) for _ in range(mixture.texts)]
    for at in range(0, len(lengths), mixture.per_call):
        yield lengths[at : at + mixture.per_call]


def _score(detector: LayerDetector, prompts: Prompts, lengths: list[int]) -> Job:
    def job() -> Callable[[], object]:
        steps = [step(prompts.text(tokens)) for tokens in lengths]
        return lambda: detector.score(steps)

    return job


def _window(detector: LayerDetector, prompts: Prompts, lengths: list[int]) -> Job:
    def job() -> Callable[[], object]:
        texts = [prompts.text(tokens) for tokens in lengths]
        return lambda: [list(windows(detector, text)) for text in texts]

    return job


def _multiply(products: Products, watch: Watch) -> Job:
    passes = tuple(watch.passes)

    def job() -> Callable[[], object]:
        return lambda: products.run(passes)

    return job


def _throughput(name: str, seen: _Seen, shapes: Shapes, mixture: Mixture, tokens: int) -> Throughput:
    score, windowing, products = (seen.seconds(what) for what in (_SCORE, _WINDOWING, _PRODUCTS))
    passes = [one for watch in seen.watches for one in watch.passes]
    read = sum(watch.read for watch in seen.watches)
    operations = shapes.operations(passes)
    return Throughput(
        backend=name,
        texts=mixture.texts,
        per_call=mixture.per_call,
        tokens=tokens,
        read_tokens=read,
        padding=1 - read / sum(one.batch * one.tokens for one in passes),
        passes=len(passes),
        score=timing(score),
        windowing=timing(windowing),
        products=timing(products),
        products_gflops=operations / float(np.median(products)) / 1e9,
        tokens_per_s=tokens / float(np.median(score)),
        share=ratio(products, score),
        share_without_windowing=ratio(products, [a - b for a, b in zip(score, windowing, strict=True)]),
    )
