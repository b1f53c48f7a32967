"""The bare matrix products of forward passes: what a processor needs for them if nothing else is done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from lec_guard.bench.detectors import Pass
from lec_guard.bench.integer import IntegerProducts, missing_package
from lec_guard.bench.shapes import Shapes
from lec_guard.errors import BundleError

if TYPE_CHECKING:
    import torch


class Products(Protocol):
    """The products of a model, in some dtype."""

    def run(self, passes: Sequence[Pass]) -> None:
        """Compute them for some forward passes, and nothing else."""
        ...


def products_of(backend: str, shapes: Shapes) -> Products:
    """The products that a backend computes, in its dtype.

    Args:
        backend: The backend's name.
        shapes: The products of the model.

    Returns:
        Something that computes them: torch for floats, whoever runs the model; ONNX Runtime for int8.

    Raises:
        BundleError: If a package is missing for int8.
    """
    if backend.endswith("-int8"):
        missing = missing_package()
        if missing is not None:
            raise BundleError(f"the int8 products: {missing}")
        return Int8Products(shapes)
    return TorchProducts(shapes, "bfloat16" if backend.endswith("-bf16") else "float32")


class TorchProducts:
    """Products by torch.mm and torch.bmm, into memory that is there already.

    Args:
        shapes: The products.
        dtype: The name of a torch dtype.
    """

    def __init__(self, shapes: Shapes, dtype: str) -> None:
        import torch

        self._torch = torch
        self._dtype: torch.dtype = getattr(torch, dtype)
        self._shapes = shapes
        # Each layer its own, laid out as in a model: what no cache can hold has to come from memory.
        self._weights = [torch.randn(linear.outputs, linear.inputs).to(self._dtype).t() for linear in shapes.linears]
        self._buffers: dict[str, torch.Tensor] = {}

    def run(self, passes: Sequence[Pass]) -> None:
        """Compute the products of forward passes.

        Args:
            passes: Their shapes.
        """
        with self._torch.inference_mode():
            for one in passes:
                self._run(one)

    def _run(self, one: Pass) -> None:
        rows = one.batch * one.tokens
        for weight in self._weights:
            inputs, outputs = weight.shape
            self._torch.mm(
                self._view(f"in {inputs}", rows, inputs), weight, out=self._view(f"out {outputs}", rows, outputs)
            )
        heads, width = one.batch * self._shapes.heads, self._shapes.head_width
        queries, keys, values, mixed = (
            self._view(name, heads, one.tokens, width) for name in ("queries", "keys", "values", "mixed")
        )
        shares = self._view("shares", heads, one.tokens, one.tokens)
        for _ in range(self._shapes.layers):
            self._torch.bmm(queries, keys.transpose(1, 2), out=shares)
            self._torch.bmm(shares, values, out=mixed)

    def _view(self, name: str, *shape: int) -> torch.Tensor:
        """Part of a buffer that grows to the largest use: asking for memory must not count."""
        size = 1
        for length in shape:
            size *= length
        if name not in self._buffers or self._buffers[name].numel() < size:
            self._buffers[name] = self._torch.randn(size).to(self._dtype)
        return self._buffers[name][:size].view(shape)


class Int8Products:
    """Products by ONNX Runtime: int8 with weights, float32 in attention.

    Args:
        shapes: The products.
    """

    def __init__(self, shapes: Shapes) -> None:
        self._products = IntegerProducts(shapes.linears, shapes)

    def run(self, passes: Sequence[Pass]) -> None:
        """Compute the products of forward passes.

        Args:
            passes: Their shapes.
        """
        for one in passes:
            self._products.run(rows=one.batch * one.tokens, batch=one.batch)
