"""Detectors of tenants: loaded when they are first used, dropped when others are used more."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakValueDictionary

from lec_guard.detect.batcher import Batcher
from lec_guard.detect.composite import CompositeDetector, layer_of
from lec_guard.detect.detector import Detector
from lec_guard.detect.layer import TOKEN_BUDGET, LayerDetector
from lec_guard.errors import BundleError, DetectorError


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Which detector somebody asks for."""

    folder: Path
    detector_id: str
    beside: bool


class DetectorPool:
    """The detectors that tenants have of their own, beside one that all share. Safe to share between threads.

    A detector that is dropped is not closed, because somebody may be asking it just now. Nothing is lost by that: a
    `LayerDetector` holds nothing but memory, and the thread of a `Batcher` ends when nobody has the batcher any more.

    Args:
        base: The detector that all share. Where it is a `Batcher`, so is every detector of this pool, with the same
            limits; where it has a budget, that is theirs too.
        most: Detectors that are kept; of more, the one that was used longest ago is dropped.

    Raises:
        ValueError: If `most` is below 1.
    """

    def __init__(self, base: Detector, *, most: int = 8) -> None:
        if most < 1:
            raise ValueError(f"a pool can't keep {most} detectors: give 1 or more")
        self._batcher = base if isinstance(base, Batcher) else None
        self._base = base.detector if isinstance(base, Batcher) else base
        self._most = most
        # What follows is guarded by the lock; the detector that was used last is at the end.
        self._lock = threading.Lock()
        self._kept: OrderedDict[_Wanted, Detector] = OrderedDict()
        # A folder's lock is there as long as somebody holds it or waits for it.
        self._loading: WeakValueDictionary[Path, threading.Lock] = WeakValueDictionary()
        self._closed = False

    def get(self, folder: Path, detector_id: str, *, beside: bool) -> Detector:
        """Find a detector, or load it; who wants one that is being loaded waits for it.

        Args:
            folder: The folder of a bundle.
            detector_id: Name and content hash that the bundle must have. It is checked on what is loaded, so nobody
                can put another bundle there in between.
            beside: Whether its heads stand beside those of the shared detector, and read with its model; else it is
                loaded by itself.

        Returns:
            The detector.

        Raises:
            BundleError: If the bundle can't be loaded or is another; or it is to stand beside a detector that takes
                no heads, or not these. The next call tries again.
            DetectorError: If the base model can't be cut, or the pool is closed.
        """
        wanted = _Wanted(folder, detector_id, beside)
        with self._lock:
            found = self._find(wanted)
            if found is not None:
                return found
            loading = self._loading.setdefault(folder, threading.Lock())
        with loading:
            with self._lock:  # Who held the folder's lock may have loaded it.
                found = self._find(wanted)
            return self._keep(wanted, self._load(wanted)) if found is None else found

    def holds(self, folder: Path, detector_id: str, *, beside: bool) -> bool:
        """Whether `get` has nothing to load for these arguments."""
        with self._lock:
            return _Wanted(folder, detector_id, beside) in self._kept

    def close(self) -> None:
        """Close the detectors that are kept and have a `close`; the shared one is not of this pool.

        May be called again. No detector can be got any more.
        """
        with self._lock:
            self._closed = True
            kept = list(self._kept.values())
            self._kept.clear()
        for detector in kept:
            _close(detector)

    def _find(self, wanted: _Wanted) -> Detector | None:
        if self._closed:
            raise DetectorError("the pool of detectors is closed")
        found = self._kept.get(wanted)
        if found is not None:
            self._kept.move_to_end(wanted)
        return found

    def _load(self, wanted: _Wanted) -> Detector:
        base, folder = self._base, wanted.folder
        if not wanted.beside:
            layer = layer_of(base)
            budget = TOKEN_BUDGET if layer is None else layer.budget
            detector: Detector = LayerDetector.load(folder, budget=budget, detector_id=wanted.detector_id)
        elif isinstance(base, LayerDetector | CompositeDetector):
            detector = base.with_heads(folder, detector_id=wanted.detector_id)
        else:
            raise BundleError(
                f"{folder}: its heads can't stand beside a {type(base).__name__}: only a LayerDetector takes heads; "
                "load the bundle by itself"
            )
        return detector if self._batcher is None else self._batcher.around(detector)

    def _keep(self, wanted: _Wanted, detector: Detector) -> Detector:
        with self._lock:
            closed = self._closed
            if not closed:
                self._kept[wanted] = detector
                if len(self._kept) > self._most:
                    self._kept.popitem(last=False)
        if closed:  # While this was loaded.
            _close(detector)
            raise DetectorError("the pool of detectors is closed")
        return detector


def _close(detector: Detector) -> None:
    close = getattr(detector, "close", None)
    if close is not None:
        close()
