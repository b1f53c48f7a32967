"""Hidden states of a window -> one feature vector for each of its segments."""

from __future__ import annotations

from typing import Literal, get_args

import torch

Pooling = Literal["mean", "max", "first", "last", "gated"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)


def pool(
    hidden: torch.Tensor,
    mask: torch.Tensor,
    segments: torch.Tensor,
    kind: Pooling,
    gate: torch.Tensor | None = None,
) -> torch.Tensor:
    """Pool the tokens of each segment that are not padding, wherever the padding is.

    Args:
        hidden: Hidden states, `[batch, tokens, width]`.
        mask: 1 for a token, 0 for padding, `[batch, tokens]`; every row has at least one token.
        segments: The tokens of each segment, `[segments, tokens]`, or `[batch, segments, tokens]` where rows differ;
            numbers beyond the row are padding too.
        kind: `mean` and `max` over the tokens of a segment; `last` takes its last token, which in a decoder has
            read all before it; `first` takes the first token of the whole window, which some encoders train
            to stand for it; `gated` is the mean weighted by the softmax of the tokens' products with the gate
            (attention with one learned query; Ilse et al. 2018, "Attention-based Deep Multiple Instance Learning").
        gate: The learned query of `gated`, `[width]`.

    Returns:
        Features in float32, `[batch, segments, width]`; those of a segment without tokens mean nothing.
    """
    hidden = hidden.float()
    tokens = hidden.shape[1]
    if kind == "first":
        own = hidden[torch.arange(hidden.shape[0], device=hidden.device), mask.argmax(dim=1)]
        return own.unsqueeze(1).expand(-1, segments.shape[-2], -1)
    mask = mask.bool()
    if kind == "max":
        masked = hidden.masked_fill(~mask.unsqueeze(-1), torch.finfo(torch.float32).min)
        # What is no token becomes the segment's first one, which changes no maximum.
        at = torch.where(segments < tokens, segments, segments[..., :1]).clamp(max=tokens - 1)
        return _taken(masked, at).amax(dim=2)
    position = torch.arange(tokens, device=hidden.device)
    last = torch.where(segments < tokens, segments, -1).amax(dim=-1, keepdim=True)
    keep = mask.unsqueeze(1) & (position >= segments[..., :1]) & (position <= last)
    if kind == "last":
        token = (keep * (position + 1)).argmax(dim=2, keepdim=True)
        return hidden.gather(1, token.expand(-1, -1, hidden.shape[2]))
    # Padding may hold anything, and nothing times not-a-number is not nothing.
    hidden = hidden.masked_fill(~mask.unsqueeze(-1), 0.0)
    if kind == "mean":
        weights = keep / keep.sum(dim=2, keepdim=True).clamp(min=1)
    elif gate is not None:
        # No matrix product: an int8 export would round its numbers.
        scores = (hidden * gate.float()).sum(dim=-1).unsqueeze(1)
        weights = scores.masked_fill(~keep, torch.finfo(torch.float32).min).softmax(dim=2)
    else:
        raise ValueError("pooling by a gate needs the gate")
    return weights.float() @ hidden


def _taken(values: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """`[batch, tokens, …]` at the same tokens of each row, or at tokens of its own."""
    if at.ndim == 2:
        return values[:, at]
    return values[torch.arange(len(values), device=values.device).view(-1, 1, 1), at]
