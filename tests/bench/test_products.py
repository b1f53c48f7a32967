"""The bare products are those that the model computes, no more and no less."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lec_guard import BundleError
from lec_guard.bench.detectors import Detectors, Pass
from lec_guard.bench.integer import IntegerProducts, missing_package
from lec_guard.bench.products import Int8Products, TorchProducts, products_of
from lec_guard.bench.shapes import Linear, Shapes, shapes_of
from lec_guard.detect.prune import load_pruned

PASSES = (Pass(3, 16), Pass(1, 7), Pass(2, 16))


@pytest.fixture
def shapes(detectors: Detectors) -> Shapes:
    return shapes_of(detectors.bundle)


def test_shapes_are_those_of_the_kept_layers(shapes: Shapes) -> None:
    # Two layers of BERT: query, key, value, output, and the two products of the MLP.
    layer = [Linear(32, 32)] * 4 + [Linear(32, 48), Linear(48, 32)]
    assert shapes == Shapes(tuple(layer * 2), layers=2, heads=4, head_width=8)


def test_their_operations_are_those_of_the_model(detectors: Detectors, shapes: Shapes) -> None:
    model = load_pruned(detectors.bundle.base_folder(), 2)
    # The counter does not know what the fused attention of a processor does.
    model.module.set_attn_implementation("eager")
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode():
        for one in PASSES:
            ids = torch.ones((one.batch, one.tokens), dtype=torch.long)
            model.hidden(ids, torch.ones_like(ids))
    assert shapes.operations(PASSES) == counter.get_total_flops()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_torch_computes_just_these(shapes: Shapes, dtype: str) -> None:
    products = TorchProducts(shapes, dtype)
    counter = FlopCounterMode(display=False)
    with counter:
        products.run(PASSES)
    assert counter.get_total_flops() == shapes.operations(PASSES)


@pytest.mark.parametrize(
    ("backend", "kind"),
    [
        ("torch-fp32", TorchProducts),
        ("torch-bf16", TorchProducts),
        ("onnx-fp32", TorchProducts),
        ("onnx-int8", Int8Products),
    ],
)
def test_each_backend_has_products_that_run(tiny: Path, backend: str, kind: type) -> None:
    products = products_of(backend, shapes_of(Detectors(tiny).bundle))
    assert isinstance(products, kind)
    products.run(PASSES)


def test_int8_products_without_attention_run() -> None:
    IntegerProducts([Linear(8, 4), Linear(4, 8)]).run(rows=5)
    assert missing_package() is None


def test_without_the_extra_int8_says_how_to_install_it(shapes: Shapes, no_onnx: None) -> None:
    with pytest.raises(BundleError, match=r"needs onnx; run: pip install 'lec-guard\[onnx\]'"):
        products_of("onnx-int8", shapes)
