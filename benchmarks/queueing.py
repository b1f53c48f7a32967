"""A server as two queues: a line for HTTP, and a model that takes what waits as a batch.

Requests come at random (Poisson). Each takes its turn on the event loop, then waits for the model, which reads up to so
many texts at once; how long both take is measured, nothing is fitted. What the simulation says of latency at a load is
compared with what a server did; where they agree, it may be asked about loads that no machine here can make.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MOST_BATCH = 64
"""Texts that the batcher reads at once."""


@dataclass(frozen=True)
class Service:
    """How long things take, in seconds.

    Attributes:
        http: A request, apart from the model.
        batch: Texts of a batch -> how long the model needs for it.
    """

    http: float
    batch: dict[int, float]

    def of_batch(self, texts: int) -> float:
        """How long a batch takes, between those that were measured on a straight line."""
        sizes = sorted(self.batch)
        return float(np.interp(texts, sizes, [self.batch[size] for size in sizes]))

    @property
    def capacity(self) -> float:
        """Texts a second at most: the slower of both lines."""
        most = max(self.batch)
        return min(1 / self.http, most / self.batch[most])


@dataclass(frozen=True)
class Waited:
    """How long requests took, in seconds."""

    p50: float
    p99: float
    mean_batch: float


def simulate(service: Service, rate: float, *, replicas: int = 1, requests: int = 20_000, seed: int = 0) -> Waited:
    """What becomes of requests.

    Args:
        service: How long things take.
        rate: Requests a second, of all replicas together.
        replicas: Servers, among which requests are spread at random.
        requests: How many.
        seed: Decides when they come.

    Returns:
        How long they took, without the first tenth, in which queues fill.
    """
    rng = random.Random(seed)  # noqa: S311 - repeatable
    at, arrivals = 0.0, list[list[float]]([] for _ in range(replicas))
    for _ in range(requests):
        at += rng.expovariate(rate)
        arrivals[rng.randrange(replicas)].append(at)
    taken: list[tuple[float, float]] = []
    batches: list[int] = []
    for own in arrivals:
        found, sizes = _one(service, own)
        taken += found
        batches += sizes
    taken.sort()
    kept = [one for _, one in taken[len(taken) // 10 :]]
    p50, p99 = np.percentile(kept, [50, 99])
    return Waited(float(p50), float(p99), float(np.mean(batches)))


def _one(service: Service, arrivals: Sequence[float]) -> tuple[list[tuple[float, float]], list[int]]:
    """One server: when each request came and how long it took, and the batches."""
    ready: list[tuple[float, float]] = []
    free = 0.0
    for came in arrivals:
        free = max(free, came) + service.http
        heapq.heappush(ready, (free, came))
    found: list[tuple[float, float]] = []
    sizes: list[int] = []
    model = 0.0
    while ready:
        model = max(model, ready[0][0])
        batch: list[float] = []
        while ready and ready[0][0] <= model and len(batch) < MOST_BATCH:
            batch.append(heapq.heappop(ready)[1])
        model += service.of_batch(len(batch))
        sizes.append(len(batch))
        found += [(came, model - came) for came in batch]
    return found, sizes
