"""Hidden states of a window -> one feature vector."""

from __future__ import annotations

from typing import Literal, get_args

import torch

Pooling = Literal["mean", "max", "first", "last"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)


def pool(hidden: torch.Tensor, mask: torch.Tensor, kind: Pooling) -> torch.Tensor:
    """Pool over the tokens that are not padding, wherever the padding is.

    Args:
        hidden: Hidden states, `[batch, tokens, width]`.
        mask: 1 for a token, 0 for padding, `[batch, tokens]`; every row has at least one token.
        kind: `mean` and `max` over all tokens; `first` or `last` takes that token's state.

    Returns:
        Features in float32, `[batch, width]`.
    """
    hidden = hidden.float()
    keep = mask.bool().unsqueeze(-1)
    match kind:
        case "mean":
            return hidden.masked_fill(~keep, 0.0).sum(dim=1) / keep.sum(dim=1)
        case "max":
            return hidden.masked_fill(~keep, float("-inf")).amax(dim=1)
        case "first":
            at = mask.argmax(dim=1)
        case "last":
            # The last 1, which is not the number of tokens where the padding is on the left.
            at = mask.shape[1] - 1 - mask.flip(1).argmax(dim=1)
    return hidden[torch.arange(len(hidden)), at]
