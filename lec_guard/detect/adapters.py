"""Low-rank changes to the layers of a cut model, as a bundle keeps them beside the weights that they change.

LoRA (Hu et al. 2021, arXiv 2106.09685): a matrix W becomes W + alpha / rank * B @ A. What changes is a megabyte where
the weights are a hundred, and the base stays the file that everybody has. Nothing here needs torch or peft;
`lec_guard.detect.merge` puts adapters into a model.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from lec_guard.errors import BundleError

Factor = npt.NDArray[np.float16] | npt.NDArray[np.float32]

_NAME = re.compile(r"(?P<layer>[1-9][0-9]{0,3})(\.[A-Za-z0-9_]+)+")
_DTYPES = (np.dtype(np.float16), np.dtype(np.float32))


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """What changes one matrix.

    Attributes:
        a: `[rank, inputs]`.
        b: `[outputs, rank]`.
    """

    a: Factor
    b: Factor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Adapters:
    """Low-rank changes to the linear modules of some layers.

    Attributes:
        rank: Of each change.
        alpha: A change is `alpha / rank * b @ a`.
        factors: `layer.module` -> factors, such as `3.attention.self.query`. Layers count from 1; a module is named as
            within its layer.
        weights: Layer -> sha256 over the weights that are changed there, as `lec_guard.detect.merge.digests` has it:
            adapters that were trained on other weights would do anything.

    Raises:
        BundleError: If the parts don't fit, or a number is not finite.
    """

    rank: int
    alpha: float
    factors: Mapping[str, Factors]
    weights: Mapping[int, str]

    def __post_init__(self) -> None:
        if not self.factors:
            raise BundleError("adapters that change nothing: leave them out")
        if self.rank < 1 or not math.isfinite(self.alpha) or self.alpha <= 0:
            raise BundleError(f"adapters of rank {self.rank} and alpha {self.alpha}: both must be above 0")
        for name, own in self.factors.items():
            if not _NAME.fullmatch(name):
                raise BundleError(f"{name!r} is no adapter's name: write layer and module, as '3.attention.self.query'")
            for letter, factor, axis in (("A", own.a, 0), ("B", own.b, 1)):
                if factor.dtype not in _DTYPES:
                    raise BundleError(f"{name}.{letter} is {factor.dtype}: adapters are float16 or float32")
                if factor.ndim != 2 or factor.shape[axis] != self.rank:
                    raise BundleError(
                        f"{name}.{letter} has shape {factor.shape}, which does not fit rank {self.rank}: "
                        "A is [rank, inputs] and B [outputs, rank]"
                    )
                if not np.isfinite(factor).all():
                    raise BundleError(f"{name}.{letter} holds numbers that are not finite: train the adapters again")
        if set(self.weights) != {layer_of(name) for name in self.factors}:
            raise BundleError("adapters must name the weights of each layer that they change, and of no other")

    @property
    def scale(self) -> float:
        """What `b @ a` is multiplied by."""
        return self.alpha / self.rank

    @property
    def size(self) -> int:
        """Bytes of all factors."""
        return sum(own.a.nbytes + own.b.nbytes for own in self.factors.values())

    def digest(self) -> str:
        """A hash over everything that changes a model: numbers as they are kept, never the result of arithmetic.

        Returns:
            A sha256 in hex.
        """
        state = hashlib.sha256(f"{self.rank}|{float(self.alpha)!r}|".encode())
        for name, tensor in sorted(self.tensors().items()):
            state.update(f"{name}|{tensor.dtype}|{tensor.shape}|".encode())
            state.update(tensor.astype(tensor.dtype.newbyteorder("<"), order="C", copy=False).tobytes())
        state.update(json.dumps({str(layer): own for layer, own in self.weights.items()}, sort_keys=True).encode())
        return state.hexdigest()

    def tensors(self) -> dict[str, Factor]:
        """What `adapters.safetensors` holds.

        Returns:
            `layer.module.A` and `layer.module.B` -> factor.
        """
        found: dict[str, Factor] = {}
        for name, own in self.factors.items():
            found |= {f"{name}.A": own.a, f"{name}.B": own.b}
        return found

    @classmethod
    def of_tensors(
        cls, tensors: Mapping[str, npt.NDArray[Any]], *, rank: int, alpha: float, weights: Mapping[int, str]
    ) -> Self:
        """Put together what `tensors` took apart.

        Args:
            tensors: `layer.module.A` and `layer.module.B` -> factor.
            rank: See the class.
            alpha: Likewise.
            weights: Likewise.

        Returns:
            The adapters.

        Raises:
            BundleError: If a factor is missing, or they don't fit.
        """
        names = dict.fromkeys(name.rpartition(".")[0] for name in sorted(tensors))
        wanted = {f"{name}.{letter}" for name in names for letter in "AB"}
        if wanted != set(tensors):
            odd = sorted(wanted ^ set(tensors))[0]
            raise BundleError(f"adapters come as pairs 'layer.module.A' and 'layer.module.B'; {odd!r} is odd")
        factors = {name: Factors(tensors[f"{name}.A"], tensors[f"{name}.B"]) for name in names}
        return cls(rank=rank, alpha=alpha, factors=factors, weights=dict(weights))

    def up_to(self, layers: int) -> Self | None:
        """Those of the lower layers, for a model that is cut lower.

        Args:
            layers: The highest layer that is kept.

        Returns:
            The adapters; None where none of them is so low.
        """
        factors = {name: own for name, own in self.factors.items() if layer_of(name) <= layers}
        weights = {layer: own for layer, own in self.weights.items() if layer <= layers}
        return replace(self, factors=factors, weights=weights) if factors else None

    def half(self) -> Self:
        """The same in float16, which is half as large.

        Returns:
            The adapters; they merge to other numbers, so that heads have to be fitted after this.

        Raises:
            BundleError: If a number is too large for it.
        """
        with np.errstate(over="ignore"):  # what overflows is no longer finite, and is told so
            factors = {
                name: Factors(own.a.astype(np.float16), own.b.astype(np.float16)) for name, own in self.factors.items()
            }
        return replace(self, factors=factors)


def layer_of(name: str) -> int:
    """The layer of an adapter.

    Args:
        name: `layer.module`.

    Returns:
        The layer, from 1.
    """
    return int(name.partition(".")[0])


def scaled(adapters: Adapters, share: float) -> Adapters:
    """Adapters that go only part of the way from the base weights.

    A model between the base and what it was tuned to often does better on other data than both (Wortsman et al. 2022,
    "Robust fine-tuning of zero-shot models", arXiv 2109.01903). Heads have to be fitted after this.

    Args:
        adapters: The whole way.
        share: How much of it, in (0, 1].

    Returns:
        Adapters whose changes are that share.

    Raises:
        ValueError: If the share is not in (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"a share of {share}: give more than 0 and at most 1")
    return replace(adapters, alpha=adapters.alpha * share)


def averaged(runs: list[Adapters], *, rank: int | None = None) -> Adapters:
    """The mean of what several runs change (Wortsman et al. 2022, "Model soups", arXiv 2203.05482).

    Heads have to be fitted after this.

    Args:
        runs: Adapters of the same modules of the same weights.
        rank: What to cut the mean to, by the largest singular values; None keeps it exact, with the sum of the ranks.

    Returns:
        The mean, in float32.

    Raises:
        BundleError: If there are none, or they are of other weights or modules.
    """
    if not runs:
        raise BundleError("no adapters to average: give one at least")
    first = runs[0]
    for other in runs[1:]:
        if dict(other.weights) != dict(first.weights) or set(other.factors) != set(first.factors):
            raise BundleError("adapters of other weights, layers or modules have no mean: train all with the same ones")
    together = sum(one.rank for one in runs)
    wanted = together if rank is None else min(rank, together)
    factors = {}
    for name in first.factors:
        own = [one.factors[name] for one in runs]
        a = np.concatenate([one.a.astype(np.float32) for one in own])
        b = np.concatenate(
            [one.b.astype(np.float32) * np.float32(run.scale / len(runs)) for run, one in zip(runs, own, strict=True)],
            axis=1,
        )
        factors[name] = Factors(a, b) if wanted == together else _cut(a, b, wanted)
    return Adapters(rank=wanted, alpha=float(wanted), factors=factors, weights=first.weights)


def _cut(a: Factor, b: Factor, rank: int) -> Factors:
    """The nearest product of a lower rank (Eckart and Young 1936)."""
    left, values, right = np.linalg.svd(b.astype(np.float64) @ a.astype(np.float64), full_matrices=False)
    root = np.sqrt(values[:rank])
    near_a, near_b = np.zeros((rank, a.shape[1]), np.float32), np.zeros((b.shape[0], rank), np.float32)
    near_a[: len(root)], near_b[:, : len(root)] = root[:, None] * right[:rank], left[:, :rank] * root
    return Factors(near_a, near_b)
