"""The simulation of a server, where queueing theory knows the answer."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.queueing import MOST_BATCH, Service, simulate


def test_without_a_queue_a_request_takes_what_it_takes():
    service = Service(0.001, {1: 0.004, 64: 0.064})
    found = simulate(service, 1.0, requests=2_000)
    assert found.p50 == pytest.approx(0.005)
    assert found.p99 == pytest.approx(0.005, rel=0.1)
    assert found.mean_batch == pytest.approx(1.0, abs=0.02)


def test_waiting_grows_with_load_and_batches_with_it():
    service = Service(0.0001, {1: 0.004, 64: 0.064})
    waits = [simulate(service, rate) for rate in (50, 200, 400, 800)]
    assert [one.p99 for one in waits] == sorted(one.p99 for one in waits)
    assert [one.mean_batch for one in waits] == sorted(one.mean_batch for one in waits)
    assert waits[-1].mean_batch > 3
    assert waits[-1].p99 < 1.0  # one text at a time it would be beyond its capacity


def test_one_at_a_time_it_is_the_queue_that_is_known():
    """M/D/1: the mean wait at a load of r is r / (2 (1 - r)) services; here all of it is the event loop's."""
    service = Service(0.01, {1: 1e-9, 64: 1e-9})
    found = [simulate(service, 70.0, requests=100_000, seed=seed).p50 for seed in range(3)]
    # The median of M/D/1 at 70% is about 1.6 services.
    assert np.mean(found) == pytest.approx(0.0165, rel=0.15)


def test_replicas_share_the_load():
    service = Service(0.001, {1: 0.004, 64: 0.064})
    assert simulate(service, 1_600, replicas=4).p99 == pytest.approx(simulate(service, 400).p99, rel=0.3)


def test_capacity_is_that_of_the_slower_line():
    assert Service(0.001, {1: 0.004, 64: 0.064}).capacity == pytest.approx(1_000)
    assert Service(0.001, {1: 0.004, 64: 0.128}).capacity == pytest.approx(500)
    assert Service(0.001, {1: 0.004, 64: 0.064}).of_batch(MOST_BATCH // 2) == pytest.approx(0.0335, abs=0.001)
