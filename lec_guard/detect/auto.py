"""Which backend is fastest on this machine, among those whose scores hold their tolerance."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lec_guard.detect.backends.onnx import OnnxDtype
from lec_guard.detect.bundle import Bundle, PrefixPairs, model_store, read_bundle
from lec_guard.detect.export import TOLERANCE, cached_export, worst_difference
from lec_guard.detect.extractor import Extractor, window_of
from lec_guard.errors import BundleError

if TYPE_CHECKING:
    from lec_guard.detect.layer import BackendName

_ROUNDS = 15
_SENTENCES, _TOKENS = 5, 24
"""Windows that are timed, and their length: a prompt of ordinary length."""


def fastest(bundle: Bundle) -> BackendName:
    """Measure the installed backends once and remember the answer for this machine and these versions.

    Args:
        bundle: A bundle with base weights.

    Returns:
        The backend with the lowest median time for a prompt, of those within their tolerance.

    Raises:
        BundleError: If not even torch in float32 can run it.
    """
    memory = model_store() / "backends" / f"{_key(bundle)}.json"
    try:
        known: BackendName = json.loads(memory.read_text(encoding="utf-8"))["backend"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    else:
        if known in _candidates(bundle):
            return known
    extractors = _extractors(bundle)
    windows = [window_of(min(_TOKENS, bundle.window.size))] * _SENTENCES
    times: dict[BackendName, list[float]] = {name: [] for name in extractors}
    # In turn, so that a slow moment of the machine hits all of them.
    for _ in range(_ROUNDS):
        for name, extractor in extractors.items():
            began = time.perf_counter()
            extractor.features(windows)
            times[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(own) for name, own in times.items()}
    best = min(medians, key=lambda name: medians[name])
    _remember(memory, {"backend": best, "milliseconds": {name: ms * 1000 for name, ms in medians.items()}})
    return best


def _candidates(bundle: Bundle) -> list[BackendName]:
    names: list[BackendName] = ["torch-fp32", "torch-bf16"]
    if isinstance(bundle.spec.pairs, PrefixPairs):  # they run on torch alone
        return names
    if all(importlib.util.find_spec(package) for package in ("onnx", "onnxruntime", "onnxscript")):
        names += ["onnx-fp32", "onnx-int8"]
    return names


def _extractors(bundle: Bundle) -> dict[BackendName, Extractor]:
    """The backends that hold their tolerance; torch in float32 is what they are held against."""
    reference = bundle.extractor()
    found: dict[BackendName, Extractor] = {"torch-fp32": reference}
    half = bundle.extractor("bf16")
    if worst_difference(bundle, half, reference) <= TOLERANCE["torch-bf16"]:
        found["torch-bf16"] = half
    dtypes: tuple[tuple[BackendName, OnnxDtype], ...] = (("onnx-fp32", "fp32"), ("onnx-int8", "int8"))
    for name, dtype in dtypes:
        if name in _candidates(bundle):
            try:
                exported = read_bundle(cached_export(bundle, dtype))
                found[name] = Extractor.load_onnx(
                    exported.base_folder(),
                    exported.onnx(),
                    window=bundle.window,
                    extractor_id=exported.spec.extractor_id,
                )
            except BundleError:  # not exportable, or beyond its tolerance: no candidate
                continue
    return found


def _key(bundle: Bundle) -> str:
    """What the answer holds for: this detector on this machine with these versions."""
    parts = [bundle.detector_id, platform.processor(), platform.machine(), str(os.cpu_count()), torch.__version__]
    parts += [importlib.metadata.version(package) for package in ("onnxruntime",) if importlib.util.find_spec(package)]
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:24]


def _remember(file: Path, answer: dict[str, object]) -> None:
    """Best effort: without it the next process measures again."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file.write_text(json.dumps(answer), encoding="utf-8")
    except OSError:
        return
