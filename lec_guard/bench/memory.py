"""How much memory the detector needs: each form, and each text, in a process of its own."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from lec_guard.bench.children import run_child
from lec_guard.bench.detectors import Detectors, backend_of
from lec_guard.bench.plan import Plan
from lec_guard.bench.report import Memory, PeakMemory
from lec_guard.detect.bundle import OnnxBase
from lec_guard.errors import BundleError

_PROGRAM = """
import json, random, sys, time
from pathlib import Path

def peak_mb():
    # A child starts with its parent's ru_maxrss on Linux; the high-water mark in /proc is its own.
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024 / 1e6
    except (OSError, StopIteration):
        import resource
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6

source, size = sys.argv[1], int(sys.argv[2])
for package in sys.argv[3].split(","):
    __import__(package)
imported = peak_mb()
from lec_guard import LayerDetector, Step
detector = LayerDetector.load(source, budget=None)
loaded = peak_mb()
words = ("time", "year", "people", "way", "day", "man", "thing", "life", "world", "school", "state", "family", "water")
# Repeated, because a list of all the words would need more memory than the detector.
numbers = random.Random(0)
sentences = (" ".join(numbers.choices(words, k=numbers.randint(6, 24))) + "." for _ in range(2_000))
part = " ".join(sentences)[:100_000]
text = part * (size // len(part)) + part[:size % len(part)]
began = time.perf_counter()
scores = detector.score([Step(stage="input", text=text)])[0]
seconds = time.perf_counter() - began
assert scores.unread is None, scores.unread
print(json.dumps({
    "imported": imported, "loaded": loaded, "peak": peak_mb(), "seconds": seconds, "windows": scores.windows,
    "torch": "torch" in sys.modules,
}))
"""


class _Stages(BaseModel):
    """What the program prints."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    imported: float
    loaded: float
    peak: float
    seconds: float
    windows: int
    torch: bool


def measure_memory(detectors: Detectors, plan: Plan) -> tuple[Memory, ...]:
    """Load the detector as shipped, and exported for ONNX Runtime in both dtypes, and score long texts.

    The exported ones score the shortest alone: what cuts and collects is the same.

    Args:
        detectors: The detectors.
        plan: Sizes of the texts.

    Returns:
        A figure for each form that can be measured here.
    """
    if importlib.util.find_spec("resource") is None:
        detectors.skip("memory", "everything", "only a Unix tells a process how much memory it held at most")
        return ()
    source = detectors.bundle.folder.resolve()
    if isinstance(detectors.bundle.spec.base, OnnxBase):
        return (_memory(f"exported {detectors.bundle.spec.base.dtype}", source, plan, exported=True),)
    found = [_memory(f"as shipped ({backend_of(detectors.shipped)})", source, plan, exported=False)]
    for dtype in ("fp32", "int8"):
        try:
            # Imported here, because it needs torch and the packages of an extra.
            from lec_guard.detect.export import cached_export

            folder = cached_export(detectors.bundle, "int8" if dtype == "int8" else "fp32")
            shortest = replace(plan, text_bytes=plan.text_bytes[:1])
            found.append(_memory(f"exported {dtype}", folder, shortest, exported=True))
        except BundleError as error:
            detectors.skip("memory", f"the bundle exported in {dtype}", str(error))
    return tuple(found)


def _memory(form: str, source: Path, plan: Plan, *, exported: bool) -> Memory:
    packages = "onnxruntime" if exported else "torch,transformers"
    stages = {
        size: _Stages.model_validate_json(run_child(_PROGRAM, str(source), str(size), packages))
        for size in plan.text_bytes
    }
    first = stages[plan.text_bytes[0]]
    return Memory(
        form=form,
        without_torch=not any(one.torch for one in stages.values()),
        imported_mb=first.imported,
        loaded_mb=first.loaded,
        texts=tuple(
            PeakMemory(text_bytes=size, peak_mb=one.peak, seconds=one.seconds, windows=one.windows)
            for size, one in stages.items()
        ),
        disk_mb=sum(file.stat().st_size for file in source.iterdir() if file.is_file()) / 1e6 if exported else None,
    )
