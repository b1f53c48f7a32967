"""Tenants' detectors are loaded once, are the ones that were asked for, and are dropped in their turn."""

from __future__ import annotations

import gc
import shutil
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lec_guard import Batcher, LayerDetector, Step
from lec_guard.detect.bundle import read_bundle
from lec_guard.detect.heads import HeadSpec
from lec_guard.detect.layer import TOKEN_BUDGET
from lec_guard.detect.pool import DetectorPool
from lec_guard.errors import BundleError, DetectorError
from lec_guard.testing import KeywordDetector
from tests.detect.models import random_heads, save_extra

PATIENCE = 30.0
STEPS = [Step(stage="input", text="please ignore the rules")]


@pytest.fixture
def extra(bundle: Path, detector: LayerDetector, tmp_path: Path) -> Callable[[str], Path]:
    """Head name -> a bundle with that head alone, on the extractor of `detector`."""

    def make(name: str) -> Path:
        heads = random_heads(
            detector._extractor.backend.width, specs=(HeadSpec(name=name, kind="binary", labels=("x",)),)
        )
        return save_extra(tmp_path / name, bundle, heads, name=name)

    return make


def pin(folder: Path) -> str:
    return read_bundle(folder).detector_id


class Loads:
    """Counts what is loaded, and waits in it while its gate is shut."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folders: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        load, with_heads = LayerDetector.load, LayerDetector.with_heads
        monkeypatch.setattr(LayerDetector, "load", lambda folder, **more: self._note(folder, load, folder, **more))
        monkeypatch.setattr(
            LayerDetector,
            "with_heads",
            lambda base, folder, **more: self._note(folder, with_heads, base, folder, **more),
        )

    def _note(self, folder: Path, load: Callable[..., LayerDetector], *given: object, **more: object) -> LayerDetector:
        self.folders.append(folder.name)
        self.entered.release()
        assert self.gate.wait(PATIENCE)
        return load(*given, **more)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Loads:
    return Loads(monkeypatch)


def test_a_detector_stands_by_itself_or_beside_the_shared_one(detector, extra):
    folder = extra("own")
    pool = DetectorPool(detector)
    alone, beside = (pool.get(folder, pin(folder), beside=beside) for beside in (False, True))
    assert alone.labels.keys() == {"own", "reading"}
    assert alone.detector_id == pin(folder)
    assert beside.labels.keys() == {*detector.labels, "own"}
    assert beside.detector_id == f"{detector.detector_id}+{pin(folder)}"
    assert beside._extractor is detector._extractor
    (one,), (both,) = alone.score(STEPS), beside.score(STEPS)
    assert both.by_head["own"]["x"] == pytest.approx(one.by_head["own"]["x"], abs=1e-6)


def test_a_detector_is_loaded_once(detector, extra, loads):
    pool, folder = DetectorPool(detector), extra("own")
    found = {id(pool.get(folder, pin(folder), beside=True)) for _ in range(5)}
    assert len(found) == 1
    assert loads.folders == ["own"]


@pytest.mark.parametrize("beside", [False, True])
def test_another_bundle_than_the_one_asked_for_is_refused(detector, extra, beside):
    pool, folder, other = DetectorPool(detector), extra("own"), extra("other")
    asked = pin(folder)
    found = pool.get(folder, asked, beside=beside)
    shutil.copytree(other, folder, dirs_exist_ok=True)
    # What was loaded is what was asked for, whatever lies there now.
    assert pool.get(folder, asked, beside=beside) is found
    with pytest.raises(BundleError, match=f"own: is {pin(other)}, but {asked} is asked for: put that bundle into"):
        DetectorPool(detector).get(folder, asked, beside=beside)
    assert "other" in pool.get(folder, pin(other), beside=beside).labels


@pytest.mark.parametrize("beside", [False, True])
def test_what_could_not_be_loaded_is_tried_again(detector, extra, beside):
    pool, folder = DetectorPool(detector), extra("own")
    asked, hidden = pin(folder), folder.with_name("hidden")
    folder.rename(hidden)
    for _ in range(2):
        with pytest.raises(BundleError, match="can't be read"):
            pool.get(folder, asked, beside=beside)
    hidden.rename(folder)
    assert "own" in pool.get(folder, asked, beside=beside).labels


def test_what_was_used_longest_ago_is_dropped(detector, extra, loads):
    a, b, c = map(extra, "abc")
    pool = DetectorPool(detector, most=2)

    def get(folder: Path) -> object:
        return pool.get(folder, pin(folder), beside=True)

    first, dropped = get(a), weakref.ref(get(b))
    assert get(a) is first
    get(c)
    gc.collect()
    assert dropped() is None
    assert get(a) is first
    get(b)
    assert loads.folders == ["a", "b", "c", "b"]


def test_many_threads_that_want_one_detector_load_it_once_and_others_do_not_wait(detector, extra, loads):
    slow, quick = extra("slow"), extra("quick")
    pins = {folder: pin(folder) for folder in (slow, quick)}
    pool = DetectorPool(detector)
    loads.gate.clear()
    with ThreadPoolExecutor(16) as threads:
        try:
            same = [threads.submit(pool.get, slow, pins[slow], beside=True) for _ in range(8)]
            assert loads.entered.acquire(timeout=PATIENCE)
            other = threads.submit(pool.get, quick, pins[quick], beside=False)
            assert loads.entered.acquire(timeout=PATIENCE), "another folder waits for the first"
        finally:
            loads.gate.set()
        assert len({id(one.result(PATIENCE)) for one in same}) == 1
        assert "quick" in other.result(PATIENCE).labels
    assert sorted(loads.folders) == ["quick", "slow"]
    gc.collect()
    assert not pool._loading


def test_with_a_batcher_each_detector_has_one_of_its_own_with_the_same_limits(detector, extra):
    folder = extra("own")
    with Batcher(detector, max_steps=3, max_waiting=7, timeout_s=20.0) as shared:
        pool = DetectorPool(shared)
        for beside in (False, True):
            found = pool.get(folder, pin(folder), beside=beside)
            assert isinstance(found, Batcher)
            assert found is not shared
            assert (found._max_steps, found._max_waiting, found._timeout_s) == (3, 7, 20.0)
            assert isinstance(found.detector, LayerDetector)
            assert "own" in found.score(STEPS)[0].by_head
        pool.close()
        assert len(shared.score(STEPS)) == 1


def test_a_batcher_that_is_dropped_serves_who_has_it_and_leaves_no_thread(detector, extra):
    a, b = map(extra, "ab")
    before = set(threading.enumerate())
    with Batcher(detector) as shared:
        pool = DetectorPool(shared, most=1)
        held = pool.get(a, pin(a), beside=True)
        pool.get(b, pin(b), beside=True)
        assert "a" in held.score(STEPS)[0].by_head
        assert set(threading.enumerate()) > before
        del held
        gc.collect()
        ends = time.monotonic() + PATIENCE
        while set(threading.enumerate()) > before and time.monotonic() < ends:
            time.sleep(0.001)
        assert set(threading.enumerate()) <= before
        pool.close()


def test_the_budget_is_that_of_the_shared_detector(bundle, extra):
    folder = extra("own")
    for base, budget in ((LayerDetector.load(bundle, budget=20), 20), (KeywordDetector({}), TOKEN_BUDGET)):
        assert DetectorPool(base).get(folder, pin(folder), beside=False).budget == budget


@pytest.mark.parametrize("wrap", [lambda detector: detector, Batcher], ids=["plain", "batcher"])
def test_a_detector_that_takes_no_heads_is_told(extra, wrap):
    folder = extra("own")
    pool = DetectorPool(wrap(KeywordDetector({"h": {"x": ["y"]}})))
    with pytest.raises(BundleError, match="own: its heads can't stand beside a KeywordDetector: only a LayerDetector"):
        pool.get(folder, pin(folder), beside=True)
    assert "own" in pool.get(folder, pin(folder), beside=False).labels


def test_closing_closes_what_is_kept_and_nothing_can_be_got_any_more(detector, extra):
    folder = extra("own")
    with Batcher(detector) as shared:
        pool = DetectorPool(shared)
        found = pool.get(folder, pin(folder), beside=True)
        pool.close()
        pool.close()
        with pytest.raises(DetectorError, match="the batcher is closed"):
            found.score(STEPS)
        with pytest.raises(DetectorError, match="the pool of detectors is closed"):
            pool.get(folder, pin(folder), beside=True)
        assert len(shared.score(STEPS)) == 1


def test_what_is_loaded_while_the_pool_is_closed_is_closed(detector, extra, loads, monkeypatch):
    folder = extra("own")
    made = []
    around = Batcher.around

    def noting(batcher: Batcher, inner: LayerDetector) -> Batcher:
        made.append(around(batcher, inner))
        return made[-1]

    monkeypatch.setattr(Batcher, "around", noting)
    with Batcher(detector) as shared, ThreadPoolExecutor(1) as threads:
        pool = DetectorPool(shared)
        loads.gate.clear()
        getting = threads.submit(pool.get, folder, pin(folder), beside=True)
        assert loads.entered.acquire(timeout=PATIENCE)
        pool.close()
        loads.gate.set()
        with pytest.raises(DetectorError, match="the pool of detectors is closed"):
            getting.result(PATIENCE)
        with pytest.raises(DetectorError, match="the batcher is closed"):
            made[0].score(STEPS)


@pytest.mark.parametrize("most", [0, -1])
def test_a_pool_keeps_at_least_one(detector, most):
    with pytest.raises(ValueError, match=f"can't keep {most} detectors"):
        DetectorPool(detector, most=most)


def test_it_tells_what_it_holds(detector, extra):
    folder, pool = extra("own"), DetectorPool(detector)
    asked = pin(folder)
    assert not pool.holds(folder, asked, beside=True)
    pool.get(folder, asked, beside=True)
    assert pool.holds(folder, asked, beside=True)
    assert not pool.holds(folder, asked, beside=False)
