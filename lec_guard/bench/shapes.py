"""The matrix products that a cut model is made of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lec_guard.bench.detectors import Pass
from lec_guard.detect.bundle import Bundle, OnnxBase
from lec_guard.errors import BundleError


@dataclass(frozen=True, slots=True)
class Linear:
    """A product of hidden states with a weight.

    Attributes:
        inputs: Numbers of a token that go in.
        outputs: Numbers that come out.
    """

    inputs: int
    outputs: int


@dataclass(frozen=True, slots=True)
class Shapes:
    """The matrix products of all kept layers.

    Attributes:
        linears: Those with a weight, in order.
        layers: How many layers there are; each has two products, of queries with keys and of shares with values.
        heads: Attention heads.
        head_width: Size of a head.
    """

    linears: tuple[Linear, ...]
    layers: int
    heads: int
    head_width: int

    def operations(self, passes: Iterable[Pass]) -> int:
        """Multiplications and additions of forward passes.

        Args:
            passes: Their shapes.

        Returns:
            How many.
        """
        per_token = sum(linear.inputs * linear.outputs for linear in self.linears)
        per_pair = 2 * self.layers * self.heads * self.head_width
        return sum(2 * one.batch * one.tokens * (per_token + per_pair * one.tokens) for one in passes)


def shapes_of(bundle: Bundle) -> Shapes:
    """The matrix products of a bundle's cut model: weights as they are loaded, heads as its config has them.

    Args:
        bundle: A bundle with base weights.

    Returns:
        Their shapes.

    Raises:
        BundleError: If the bundle was exported, or its model has no linear layers or no attention heads.
        DetectorError: If its model can't be cut.
    """
    if isinstance(bundle.spec.base, OnnxBase):
        raise BundleError(
            "an exported bundle does not hold the base model's config; give the one with the base weights"
        )
    import torch
    from transformers import AutoConfig

    from lec_guard.detect.prune import load_pruned

    folder = bundle.base_folder()
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    model = load_pruned(folder, max(block.layer for block in bundle.blocks))
    linears = tuple(
        Linear(module.in_features, module.out_features)
        for module in model.module.modules()
        if isinstance(module, torch.nn.Linear)
    )
    heads = getattr(config, "num_attention_heads", None)
    if not linears or not isinstance(heads, int):
        raise BundleError(f"a {config.model_type!r} model is not made of linear layers and attention heads")
    head_width = getattr(config, "head_dim", None) or model.width // heads
    return Shapes(linears, model.layers, heads, head_width)
