"""The cut model in torch, in float32 or bfloat16, on a GPU where torch sees one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from lec_guard.detect.extractor import Block, Features, Tokens
from lec_guard.detect.pooling import pool
from lec_guard.detect.prune import PrunedModel

if TYPE_CHECKING:
    from lec_guard.detect.past import Prefix

Dtype = Literal["fp32", "bf16"]

_DTYPES: dict[Dtype, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}


class TorchBackend:
    """Runs a cut model and pools what its layers give. Safe to share between threads.

    Args:
        model: The cut model; it is converted to the dtype, and moved, in place.
        blocks: The layers and poolings that make up a feature vector, in order.
        gates: The learned queries of gated poolings, `[gates, width of a state]`; None where there are none.
        dtype: What the model computes in; pooling is in float32 always.
        device: Where; None takes a GPU where torch sees one.
    """

    def __init__(
        self,
        model: PrunedModel,
        blocks: Sequence[Block],
        gates: Features | None = None,
        dtype: Dtype = "fp32",
        device: torch.device | None = None,
    ) -> None:
        self._device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.name = f"torch-{dtype}" if self._device.type == "cpu" else f"torch-{dtype}-{self._device.type}"
        self.pad_id = model.pad_id
        self.width = model.width * len(blocks)
        self.max_positions = model.max_positions
        model.module.to(device=self._device, dtype=_DTYPES[dtype])
        self._model = model
        self._pooled = BlockPooling(blocks, gates).to(self._device)
        self._layers = {block.layer for block in blocks}

    def features(self, ids: Tokens, mask: Tokens, prefix: Prefix | None = None) -> Features:
        """Features of one padded batch; see `lec_guard.detect.extractor.Backend` and `…prefix.PrefixBackend`."""
        with torch.inference_mode():
            tokens, kept = self._tensors(ids, mask)
            states = self._model.states(tokens, kept, self._layers, prefix)
            return np.asarray(self._pooled(states, kept).cpu().numpy(), dtype=np.float32)

    def states(self, ids: Tokens, mask: Tokens) -> Features:
        """The states of every token after the highest layer, before they are pooled.

        Args:
            ids: Token ids, `[batch, tokens]`.
            mask: 1 for a token, 0 for padding, `[batch, tokens]`.

        Returns:
            `[batch, tokens, width of a state]`; those of padding mean nothing.
        """
        with torch.inference_mode():
            return np.asarray(self._model.hidden(*self._tensors(ids, mask)).float().cpu().numpy(), dtype=np.float32)

    def prefix(self, ids: Sequence[int]) -> Prefix:
        """Read a prefix once; see `lec_guard.detect.prefix.PrefixBackend`."""
        with torch.inference_mode():
            return self._model.prefix(torch.tensor([ids], device=self._device))

    def check_prefix(self) -> None:
        """Check that the model is a decoder; see `lec_guard.detect.prefix.PrefixBackend`."""
        self._model.check_prefix()

    def _tensors(self, ids: Tokens, mask: Tokens) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.from_numpy(ids).to(self._device), torch.from_numpy(mask).to(self._device)


class BlockPooling(torch.nn.Module):
    """All blocks of a feature vector, pooled and put side by side.

    Args:
        blocks: Layers and poolings.
        gates: The learned queries, `[gates, width of a state]`.
    """

    def __init__(self, blocks: Sequence[Block], gates: Features | None) -> None:
        super().__init__()
        self._blocks = tuple(blocks)
        self._gates: torch.Tensor
        # A copy, because torch takes neither every layout of an array nor one that can't be written.
        own = np.zeros((0, 0)) if gates is None else gates
        self.register_buffer("_gates", torch.from_numpy(np.array(own, np.float32, order="C")))

    def forward(self, states: dict[int, torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
        """Pool.

        Args:
            states: Layer -> hidden states, `[batch, tokens, width]`.
            mask: 1 for a token, 0 for padding, `[batch, tokens]`.

        Returns:
            `[batch, width of a feature vector]`.
        """
        parts = []
        for block in self._blocks:
            gate = None if block.gate is None else self._gates[block.gate]
            parts.append(pool(states[block.layer], mask, block.pooling, gate))
        return torch.cat(parts, dim=-1)
