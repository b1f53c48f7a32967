"""What sharing calls is worth: many callers at once, with and without a Batcher.

    python -m benchmarks.batcher [--detector BUNDLE] [--backend NAME] [--out FILE]

Four ways to serve the same callers take turns in one process, so that what else the machine does hits all of
them: one caller after another (no threads at all), a plain queue (one thread that serves call by call, first
come first served), every caller on a thread of its own straight into the detector, and the batcher. Each caller
sends its next prompt when it has the answer to the last one. Every prompt is new, so nothing comes from a cache.
"""

from __future__ import annotations

import argparse
import json
import random
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import get_args

import torch

from lec_guard import Batcher, Scores, Step
from lec_guard.bench.detectors import step, watched
from lec_guard.bench.machine import processor
from lec_guard.bench.prompts import Prompts
from lec_guard.detect.bundle import EMBEDDED, read_bundle
from lec_guard.detect.layer import BackendName, LayerDetector

ALONE, QUEUE, THREADS, BATCHER = "one after another", "plain queue", "threads", "batcher"
BATCHES = (1, 2, 4, 8, 16, 32, 64)

Score = Callable[[Sequence[Step]], list[Scores]]


@dataclass
class Way:
    """How one way to serve did.

    Attributes:
        per_second: Prompts a second, the median of the rounds.
        p50_ms: The median caller's wait for a prompt, likewise.
        slowest_ms: The slowest one's, likewise.
    """

    per_second: float
    p50_ms: float
    slowest_ms: float


def _step(prompts: Prompts, tokens: int) -> Step:
    return step(prompts.text(tokens))


def serve(score: Score, calls: Sequence[Sequence[Step]], *, at_once: bool) -> tuple[float, list[float]]:
    """Seconds for all calls, and for each; every caller is a sequence of steps, on a thread of its own or in turn."""
    waits: list[float] = []

    def caller(steps: Sequence[Step]) -> None:
        if at_once:
            start.wait()
        for one in steps:
            began = time.perf_counter()
            score([one])
            waits.append(time.perf_counter() - began)

    start = threading.Barrier(len(calls) + 1)
    threads = [threading.Thread(target=caller, args=[steps]) for steps in calls] if at_once else []
    for thread in threads:
        thread.start()
    if at_once:
        start.wait()
    began = time.perf_counter()
    if not at_once:
        for steps in calls:
            caller(steps)
    for thread in threads:
        thread.join()
    return time.perf_counter() - began, waits


def compare(detector: LayerDetector, prompts: Prompts, args: argparse.Namespace) -> tuple[dict[str, Way], list[float]]:
    """Each way's figures, and in each round how many times the batcher's throughput is that of one after another."""
    seen: dict[str, list[Way]] = {ALONE: [], QUEUE: [], THREADS: [], BATCHER: []}
    with Batcher(detector) as batcher, ThreadPoolExecutor(1) as queue:
        scores: dict[str, Score] = {
            ALONE: detector.score,
            QUEUE: lambda steps: queue.submit(detector.score, steps).result(),
            THREADS: detector.score,
            BATCHER: batcher.score,
        }
        for at in range(args.rounds + 1):
            # Each way goes first in some round.
            order = list(scores)[at % len(scores) :] + list(scores)[: at % len(scores)]
            for way in order:
                calls = [[_step(prompts, args.tokens) for _ in range(args.each)] for _ in range(args.callers)]
                seconds, waits = serve(scores[way], calls, at_once=way != ALONE)
                if at:  # The first round warms up.
                    seen[way].append(Way(len(waits) / seconds, 1000 * median(waits), 1000 * max(waits)))
    ways = {
        way: Way(
            median(one.per_second for one in rounds),
            median(one.p50_ms for one in rounds),
            median(one.slowest_ms for one in rounds),
        )
        for way, rounds in seen.items()
    }
    pairs = zip(seen[BATCHER], seen[ALONE], strict=True)
    return ways, [batched.per_second / alone.per_second for batched, alone in pairs]


def by_batch(detector: LayerDetector, prompts: Prompts, args: argparse.Namespace) -> dict[int, float]:
    """Prompts a second in calls of that many, without threads: what sharing could give at best."""
    rates: dict[int, list[float]] = {size: [] for size in BATCHES}
    for _ in range(args.rounds):
        for size in BATCHES:
            calls = [[_step(prompts, args.tokens) for _ in range(size)] for _ in range(BATCHES[-1] // size)]
            began = time.perf_counter()
            for steps in calls:
                detector.score(steps)
            rates[size].append(BATCHES[-1] / (time.perf_counter() - began))
    return {size: median(own) for size, own in rates.items()}


def lone_caller(detector: LayerDetector, prompts: Prompts, args: argparse.Namespace) -> dict[str, float]:
    """Milliseconds of one caller's prompt, straight and through a batcher."""
    ms: dict[str, list[float]] = {"direct": [], "batcher": []}
    with Batcher(detector) as batcher:
        for _ in range(args.rounds):
            for way, score in (("direct", detector.score), ("batcher", batcher.score)):
                _, waits = serve(score, [[_step(prompts, args.tokens) for _ in range(16)]], at_once=False)
                ms[way].append(1000 * median(waits))
    return {way: median(own) for way, own in ms.items()}


def hand_over() -> float:
    """Microseconds that the batcher adds to a call of a detector that does nothing."""

    class Idle:
        labels: dict[str, tuple[str, ...]] = {}  # noqa: RUF012

        def score(self, steps: Sequence[Step], *, keys: Sequence[Hashable] | None = None) -> list[Scores]:  # noqa: ARG002
            return [Scores(by_head={}, detector_id="idle", backend="none") for _ in steps]

    idle, steps = Idle(), [Step(stage="input", text="a")]
    seconds: dict[bool, list[float]] = {True: [], False: []}
    with Batcher(idle) as batcher:
        for at in range(2000):
            score = batcher.score if at % 2 else idle.score
            began = time.perf_counter()
            score(steps)
            seconds[bool(at % 2)].append(time.perf_counter() - began)
    return 1e6 * (median(seconds[True]) - median(seconds[False]))


def padding(detector: LayerDetector, prompts: Prompts, args: argparse.Namespace) -> dict[str, float]:
    """Share of padding in what the model reads where the callers' prompts have 16 to 256 tokens, most of them few."""
    numbers = random.Random(1)  # noqa: S311 - repeatable
    calls = [
        [_step(prompts, min(256, int(16 * numbers.paretovariate(0.8)))) for _ in range(args.each)]
        for _ in range(args.callers)
    ]
    with watched(detector) as watch, Batcher(detector) as batcher:
        serve(batcher.score, calls, at_once=True)
    tokens = sum(one.batch * one.tokens for one in watch.passes)
    return {
        "padding": (tokens - watch.read) / tokens,
        "passes": len(watch.passes),
        "prompts": args.callers * args.each,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--detector", type=Path, help="a bundle's folder; the embedded one if left out")
    parser.add_argument("--backend", choices=get_args(BackendName), help="the bundle's own if left out")
    parser.add_argument("--callers", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=32, help="in a prompt, with the special ones")
    parser.add_argument("--each", type=int, default=8, help="prompts of a caller in a round")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--out", type=Path, help="where to write the figures as JSON")
    args = parser.parse_args()

    detector = LayerDetector.load(args.detector, backend=args.backend)
    prompts = Prompts.of(read_bundle(args.detector or EMBEDDED))
    backend = detector.score([_step(prompts, args.tokens)])[0].backend
    ways, ratios = compare(detector, prompts, args)
    batches = by_batch(detector, prompts, args)
    lone = lone_caller(detector, prompts, args)
    report = {
        "detector_id": detector.detector_id,
        "backend": backend,
        "machine": {"processor": processor(), "threads": torch.get_num_threads()},
        "callers": args.callers,
        "tokens": args.tokens,
        "prompts_per_caller": args.each,
        "rounds": args.rounds,
        "ways": {way: asdict(own) for way, own in ways.items()},
        "batcher_to_one_after_another": {"median": median(ratios), "lowest": min(ratios), "highest": max(ratios)},
        "per_second_by_batch": batches,
        "lone_caller_ms": lone,
        "hand_over_us": hand_over(),
        "mixed_lengths": padding(detector, prompts, args),
    }

    print(f"{args.callers} callers, {args.tokens} tokens, {detector.detector_id} on {backend}\n")
    print(f"{'':20}{'prompts/s':>12}{'p50 ms':>10}{'slowest ms':>12}")
    for way, own in ways.items():
        print(f"{way:20}{own.per_second:12.0f}{own.p50_ms:10.1f}{own.slowest_ms:12.1f}")
    print(
        f"\nbatcher to one after another: {median(ratios):.2f}x the throughput ({min(ratios):.2f} to {max(ratios):.2f})"
    )
    print("without threads, prompts/s by batch: " + ", ".join(f"{size}: {n:.0f}" for size, n in batches.items()))
    print(f"a lone caller: {lone['direct']:.2f} ms direct, {lone['batcher']:.2f} ms through the batcher; ", end="")
    print(f"the hand-over alone: {report['hand_over_us']:.0f} µs")
    print(
        "mixed lengths: {padding:.1%} padding, {prompts} prompts in {passes} passes".format(**report["mixed_lengths"])
    )
    if args.out:
        args.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
