"""Matrix products in int8, by ONNX Runtime: what an int8 detector computes, and nothing besides."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np

from lec_guard.bench.shapes import Linear, Shapes

_OPSET, _IR = 17, 8
"""Versions that every ONNX Runtime in use reads."""


def missing_package() -> str | None:
    """Why int8 products can't be measured here; None where they can."""
    for package in ("onnx", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            return f"needs {package}; run: pip install 'lec-guard[onnx]'"
    return None


class IntegerProducts:
    """One graph of independent products: int8 with weights, and float32 in attention, as int8 exports have it.

    Args:
        linears: The products with weights.
        attention: Adds the two products of each layer's attention.
    """

    def __init__(self, linears: Sequence[Linear], attention: Shapes | None = None) -> None:
        from onnxruntime import InferenceSession

        self._widths = sorted({linear.inputs for linear in linears})
        self._attention = attention
        self._buffers: dict[str, Any] = {}
        graph = _graph(linears, attention.layers if attention else 0)
        self._session = InferenceSession(graph, providers=["CPUExecutionProvider"])

    def run(self, *, rows: int, batch: int = 1) -> None:
        """Compute all products once.

        Args:
            rows: Tokens of all windows together.
            batch: Windows.
        """
        feeds = {f"x{width}": self._numbers(f"x{width}", (rows, width), np.uint8) for width in self._widths}
        if self._attention is not None:
            tokens, heads, width = rows // batch, batch * self._attention.heads, self._attention.head_width
            shapes = {
                "queries": (heads, tokens, width),
                "keys": (heads, width, tokens),
                "shares": (heads, tokens, tokens),
                "values": (heads, tokens, width),
            }
            feeds |= {name: self._numbers(name, shape, np.float32) for name, shape in shapes.items()}
        self._session.run(None, feeds)

    def _numbers(self, name: str, shape: tuple[int, ...], dtype: type[np.generic]) -> Any:
        """Part of a buffer that grows to the largest input: making numbers must not count."""
        size = int(np.prod(shape))
        if self._buffers.get(name) is None or self._buffers[name].size < size:
            self._buffers[name] = np.random.default_rng(0).integers(0, 100, size).astype(dtype)
        return self._buffers[name][:size].reshape(shape)


def _graph(linears: Sequence[Linear], layers: int) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    numbers = np.random.default_rng(0)
    nodes: list[Any] = []
    outputs: list[Any] = []
    corner = {name: np.array(at, dtype=np.int64) for name, at in (("from", [0, 0]), ("to", [1, 1]), ("of", [-2, -1]))}
    weights = [numpy_helper.from_array(at, name) for name, at in corner.items()]

    def add(kind: str, left: str, right: str, dtype: int, rank: int) -> None:
        name = f"y{len(outputs)}"
        # Of each product one number is kept, so that its memory serves the next one, as in a model.
        nodes.append(helper.make_node(kind, [left, right], [f"{name}whole"]))
        nodes.append(helper.make_node("Slice", [f"{name}whole", *corner], [name]))
        outputs.append(helper.make_tensor_value_info(name, dtype, [None] * rank))

    for at, linear in enumerate(linears):
        weight = numbers.integers(-100, 100, (linear.inputs, linear.outputs)).astype(np.int8)
        weights.append(numpy_helper.from_array(weight, f"w{at}"))
        add("MatMulInteger", f"x{linear.inputs}", f"w{at}", TensorProto.INT32, 2)
    for _ in range(layers):
        add("MatMul", "queries", "keys", TensorProto.FLOAT, 3)
        add("MatMul", "shares", "values", TensorProto.FLOAT, 3)
    inputs = [
        helper.make_tensor_value_info(f"x{width}", TensorProto.UINT8, [None, width])
        for width in sorted({linear.inputs for linear in linears})
    ]
    if layers:
        names = ("queries", "keys", "shares", "values")
        inputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 3) for name in names]
    graph = helper.make_graph(nodes, "products", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])
    model.ir_version = _IR
    content: bytes = model.SerializeToString()
    return content
