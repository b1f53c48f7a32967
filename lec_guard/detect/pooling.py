"""Hidden states of a window -> one feature vector."""

from __future__ import annotations

from typing import Literal, get_args

import torch

Pooling = Literal["mean", "max", "first", "last", "gated"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)


def pool(hidden: torch.Tensor, mask: torch.Tensor, kind: Pooling, gate: torch.Tensor | None = None) -> torch.Tensor:
    """Pool over the tokens that are not padding, wherever the padding is.

    Args:
        hidden: Hidden states, `[batch, tokens, width]`.
        mask: 1 for a token, 0 for padding, `[batch, tokens]`; every row has at least one token.
        kind: `mean` and `max` over all tokens; `first` takes the first one's state, which some encoders train to
            stand for all, and `last` the last one's, which in a decoder has read all before it; `gated` is the mean
            weighted by the softmax of the tokens' products with the gate (attention with one learned query; Ilse et
            al. 2018, "Attention-based Deep Multiple Instance Learning").
        gate: The learned query of `gated`, `[width]`.

    Returns:
        Features in float32, `[batch, width]`.
    """
    hidden, keep = hidden.float(), mask.bool().unsqueeze(-1)
    lowest = torch.finfo(torch.float32).min
    match kind:
        case "max":
            return hidden.masked_fill(~keep, lowest).amax(dim=1)
        case "first" | "last":
            position = torch.arange(1, hidden.shape[1] + 1, device=hidden.device)
            order = position if kind == "last" else position.flip(0)
            return hidden[torch.arange(hidden.shape[0], device=hidden.device), (mask * order).argmax(dim=1)]
    # Padding may hold anything, and nothing times not-a-number is not nothing.
    hidden = hidden.masked_fill(~keep, 0.0)
    if kind == "mean":
        return hidden.sum(dim=1) / keep.sum(dim=1)
    if gate is None:
        raise ValueError("pooling by a gate needs the gate")
    # No matrix product: an int8 export would round its numbers.
    scores = (hidden * gate.float()).sum(dim=-1, keepdim=True)
    return (hidden * scores.masked_fill(~keep, lowest).softmax(dim=1)).sum(dim=1)
