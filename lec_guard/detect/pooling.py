"""Hidden states of a window -> one feature vector."""

from __future__ import annotations

from typing import Literal, get_args

import torch

Pooling = Literal["mean", "max"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)


def pool(hidden: torch.Tensor, mask: torch.Tensor, kinds: tuple[Pooling, ...]) -> torch.Tensor:
    """Pool over the tokens that are not padding, wherever the padding is.

    Args:
        hidden: Hidden states, `[batch, tokens, width]`.
        mask: 1 for a token, 0 for padding, `[batch, tokens]`; every row has at least one token.
        kinds: The poolings, concatenated in this order.

    Returns:
        Features in float32, `[batch, width * len(kinds)]`.
    """
    hidden = hidden.float()
    keep = mask.bool().unsqueeze(-1)
    parts = []
    for kind in kinds:
        match kind:
            case "mean":
                parts.append(hidden.masked_fill(~keep, 0.0).sum(dim=1) / keep.sum(dim=1))
            case "max":
                parts.append(hidden.masked_fill(~keep, float("-inf")).amax(dim=1))
    return torch.cat(parts, dim=-1)
