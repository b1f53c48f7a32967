"""The cut model in torch, in float32 or bfloat16."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from lec_guard.detect.extractor import Block, Features, Tokens
from lec_guard.detect.pooling import pool
from lec_guard.detect.prune import PrunedModel

Dtype = Literal["fp32", "bf16"]

_DTYPES: dict[Dtype, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}


class TorchBackend:
    """Runs a cut model and pools what its layers give. Safe to share between threads.

    Args:
        model: The cut model; it is converted to the dtype in place.
        blocks: The layers and poolings that make up a feature vector, in order.
        dtype: What the model computes in; pooling is in float32 always.
    """

    def __init__(self, model: PrunedModel, blocks: Sequence[Block], dtype: Dtype = "fp32") -> None:
        self.name = f"torch-{dtype}"
        self.pad_id = model.pad_id
        self.width = model.width * len(blocks)
        model.module.to(_DTYPES[dtype])
        self._model = model
        self._blocks = tuple(blocks)

    def features(self, ids: Tokens, mask: Tokens) -> Features:
        """Features of one padded batch.

        Args:
            ids: Token ids, `[batch, tokens]`.
            mask: 1 for a token, 0 for padding, `[batch, tokens]`.

        Returns:
            `[batch, width]`.
        """
        with torch.inference_mode():
            tokens, kept = torch.from_numpy(ids), torch.from_numpy(mask)
            if all(block.layer == self._model.layers for block in self._blocks):
                states = {self._model.layers: self._model.hidden(tokens, kept)}
            else:
                states = dict(enumerate(self._model.all_hidden(tokens, kept)))
            parts = [pool(states[block.layer], kept, block.pooling) for block in self._blocks]
            return np.asarray(torch.cat(parts, dim=-1).numpy(), dtype=np.float32)
