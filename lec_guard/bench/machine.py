"""The machine, and how fast its matrix products are."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from lec_guard.bench.detectors import Detectors
from lec_guard.bench.integer import IntegerProducts, missing_package
from lec_guard.bench.plan import Plan
from lec_guard.bench.report import Machine, Peak
from lec_guard.bench.rounds import Job, seconds
from lec_guard.bench.shapes import Linear

_PACKAGES = (
    "lec-guard", "torch", "transformers", "tokenizers", "numpy", "langchain-core", "onnxruntime", "onnx",
)  # fmt: skip

_BY = {"int8": "ONNX Runtime, MatMulInteger"}


def describe() -> Machine:
    """The machine that this process runs on.

    Returns:
        What matters for the figures.
    """
    import torch

    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return Machine(
        processor=processor(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        torch_threads=torch.get_num_threads(),
        system=f"{platform.system()} {platform.machine()}",
        versions=versions,
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    )


def processor() -> str:
    """The processor's name, as its maker calls it where the system tells.

    Returns:
        The name, or at least the architecture.
    """
    try:
        if platform.system() == "Darwin":
            command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return value.strip()
    except (OSError, subprocess.SubprocessError):
        pass
    return platform.processor() or platform.machine()


def measure_peak(detectors: Detectors, plan: Plan) -> tuple[Peak, ...]:
    """Time one large square matrix product in each dtype.

    Args:
        detectors: Is told what can't be measured here.
        plan: Size and rounds.

    Returns:
        The speeds.
    """
    jobs: dict[str, Job] = {"fp32": _in_torch("float32", plan.side), "bf16": _in_torch("bfloat16", plan.side)}
    missing = missing_package()
    if missing is None:
        jobs["int8"] = _in_int8(plan.side)
    else:
        detectors.skip("machine", "the int8 matrix product", missing)
    return _speeds(seconds(jobs, plan.rounds), plan)


def _speeds(found: Mapping[str, list[float]], plan: Plan) -> tuple[Peak, ...]:
    billions = 2 * plan.side**3 / 1e9
    return tuple(
        Peak(
            dtype=dtype,
            by=_BY.get(dtype, "torch.mm"),
            side=plan.side,
            gflops=billions / float(np.median(own)),
            best_gflops=billions / min(own),
            rounds=len(own),
        )
        for dtype, own in found.items()
    )


def _in_torch(dtype: str, side: int) -> Job:
    import torch

    numbers = torch.Generator().manual_seed(0)
    left, right = (torch.randn(side, side, generator=numbers).to(getattr(torch, dtype)) for _ in range(2))
    out = torch.empty_like(left)

    def job() -> Callable[[], object]:
        return lambda: torch.mm(left, right, out=out)

    return job


def _in_int8(side: int) -> Job:
    products = IntegerProducts([Linear(side, side)])

    def job() -> Callable[[], object]:
        return lambda: products.run(rows=side)

    return job
