"""Learns the query of a gated pooling, together with the regression that reads what it pools.

Attention with one learned query over the tokens of a window: Ilse et al. 2018, "Attention-based Deep Multiple
Instance Learning" (section 2.4), there without the hidden layer; probes of language models call it an attention
probe. It starts at the mean, where every token counts alike, and at the regression that the means give. As in
`lec_guard.train.fit`, an attacked text's highest window stands for it; which one that is changes as the query does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from sklearn.preprocessing import StandardScaler

from lec_guard.detect.backends.torch import TorchBackend
from lec_guard.detect.extractor import Block, Extractor, batches
from lec_guard.detect.pooling import Pooling, pool
from lec_guard.detect.windows import WindowSpec
from lec_guard.train.fit import Floats, Ints, shares, standing

_BATCH_TOKENS = 8192
"""Tokens of windows whose states are copied at once."""

_STEPS = 40
"""Steps of a round at most; a round ends sooner where the loss no longer falls."""


@dataclass(frozen=True, slots=True)
class TokenStates:
    """The states of the tokens of texts' windows.

    Attributes:
        states: `[tokens, width]`.
        spans: The first token of each window and one past its last, `[windows, 2]`.
        owner: The text of each window, `[windows]`.

    Raises:
        ValueError: If shapes don't fit, or a window has no token or tokens that are not there.
    """

    states: Floats
    spans: Ints
    owner: Ints

    def __post_init__(self) -> None:
        if self.states.ndim != 2 or self.spans.shape != (len(self.owner), 2):
            raise ValueError(
                f"states {self.states.shape}, spans {self.spans.shape} and owner {self.owner.shape} don't fit: "
                "give [tokens, width], [windows, 2] and [windows]"
            )
        starts, ends = self.spans.T
        if (starts < 0).any() or (starts >= ends).any() or (ends > len(self.states)).any():
            raise ValueError(
                f"a window has no token, or tokens beyond the {len(self.states)} there are: "
                "give each its first token and one past its last"
            )

    def of(self, chosen: npt.NDArray[np.bool_], owner: Ints | None = None) -> TokenStates:
        """Some of the windows, over the same states.

        Args:
            chosen: Which, `[windows]`.
            owner: The text of each, where texts are counted anew, `[chosen windows]`.

        Returns:
            Those windows.
        """
        return TokenStates(self.states, self.spans[chosen], self.owner[chosen] if owner is None else owner)

    def pooled(self, kind: Pooling, gate: Floats | None = None) -> Floats:
        """Pool each window as a detector does.

        Args:
            kind: How.
            gate: The query of `gated`, `[width]`.

        Returns:
            `[windows, width]`.
        """
        out = np.empty((len(self.spans), self.states.shape[1]), np.float32)
        query = None if gate is None else torch.from_numpy(gate)
        for rows, at, mask in self._batches():
            out[rows] = pool(torch.from_numpy(self.states[at]), torch.from_numpy(mask), kind, query).numpy()
        return out

    def _batches(self) -> Iterator[tuple[slice, Ints, npt.NDArray[np.bool_]]]:
        """Windows, their tokens, and which of these are no padding, `[batch, tokens]`."""
        longest = int((self.spans[:, 1] - self.spans[:, 0]).max(initial=1))
        size = max(_BATCH_TOKENS // longest, 1)
        for start in range(0, len(self.spans), size):
            rows = slice(start, start + size)
            at = self.spans[rows, :1] + np.arange(longest)
            mask = at < self.spans[rows, 1:]
            yield rows, np.where(mask, at, self.spans[rows, :1]), mask


def collect_states(
    path: Path, texts: Sequence[str], *, layer: int, window: WindowSpec, as_meant: bool = False
) -> TokenStates:
    """Read texts with a cut model and keep every token's state.

    Args:
        path: A folder with a Hugging Face model and its `tokenizer.json`.
        texts: The texts.
        layer: The layer whose states are kept, 0 for the embeddings.
        window: How texts are cut.
        as_meant: Whether to read them as they are meant too.

    Returns:
        The states of the windows' tokens, special ones among them.

    Raises:
        BundleError: As `Extractor.load` does.
        DetectorError: Likewise.
    """
    extractor = Extractor.load(path, blocks=[Block(layer, "mean")], window=window)
    backend = cast("TorchBackend", extractor.backend)
    windows = [list(extractor.windower.windows(text, as_meant=as_meant)) for text in texts]
    ids = [one.ids for own in windows for one in own]
    borders = np.cumsum([0, *map(len, ids)])
    states = np.empty((borders[-1], backend.width), np.float32)
    for rows, batch, mask in batches(ids, backend.pad_id):
        for row, own in zip(rows, backend.states(batch, mask), strict=True):
            states[borders[row] : borders[row + 1]] = own[: len(ids[row])]
    owner = np.repeat(np.arange(len(texts)), [len(own) for own in windows])
    return TokenStates(states, np.stack([borders[:-1], borders[1:]], axis=1), owner)


def fit_gate(tokens: TokenStates, labels: Ints, weights: Floats, *, c: float, rounds: int = 2) -> Floats:
    """Learn the query under which the pooled states tell the labels of texts best.

    Nothing in it is random: the same states give the same query. Beside the states, memory holds one batch of them
    and a few numbers a token.

    Args:
        tokens: The states of the texts' tokens, and the windows to pool.
        labels: 0 or 1 for each text, `[texts]`.
        weights: Weight of each text, `[texts]`; see `lec_guard.train.fit.balanced_weights`.
        c: Inverse strength of the L2 penalty on query and regression, over standardised states.
        rounds: How often the highest windows of attacked texts are picked.

    Returns:
        The query over raw states, `[width]`: a row of `Learned.gates`.

    Raises:
        ValueError: If there are no windows, labels or weights don't fit, or the texts with windows have one label.
    """
    owner = tokens.owner
    if not len(owner):
        raise ValueError("no window to learn a gate from: give texts that hold tokens")
    if labels.shape != weights.shape or len(labels) <= owner.max():
        raise ValueError(
            f"labels {labels.shape} and weights {weights.shape} for texts 0..{owner.max()}: give one of each a text"
        )
    found = np.unique(labels[owner])
    if not np.array_equal(found, [0, 1]):
        raise ValueError(f"a gate tells label 1 from 0, but the texts' labels are {found.tolist()}: give texts of both")
    scaler = StandardScaler()
    for _, at, _ in tokens._batches():
        scaler.partial_fit(tokens.states[np.unique(at)])
    model = _Attention(scaler)
    # Query and regression are a factor of each other's gradient: with both at zero nothing would move.
    model.fit(tokens, labels[owner], shares(owner, weights), c, mean=True)
    for _ in range(rounds):
        keep = standing(model.logits(tokens), owner, labels)
        model.fit(tokens.of(keep), labels[owner[keep]], shares(owner[keep], weights), c)
    # The shift of the states adds the same to every token's score, and so changes no softmax.
    return np.asarray(model.query.detach().numpy() / scaler.scale_, np.float32)


@dataclass(frozen=True, slots=True)
class _Batch:
    """Windows over tokens that occur once: `at` and `mask` are `[windows, longest]`."""

    rows: slice
    tokens: Ints
    at: torch.Tensor
    mask: torch.Tensor


class _Attention:
    """Query and regression over standardised states.

    A regression on a weighted mean is the weighted mean of the regression on tokens, so two numbers a token are all
    that an evaluation needs; no window is pooled.
    """

    def __init__(self, scaler: StandardScaler) -> None:
        self._mean = np.asarray(scaler.mean_, np.float32)
        self._scale = np.asarray(scaler.scale_, np.float32)
        self.query = torch.zeros(len(self._mean), requires_grad=True)
        self._weight = torch.zeros(len(self._mean), requires_grad=True)
        self._bias = torch.zeros(1, requires_grad=True)

    def fit(self, tokens: TokenStates, labels: Ints, weights: Floats, c: float, *, mean: bool = False) -> None:
        """Minimise the penalised log loss of windows whose labels, `[windows]`, are known.

        With `mean`, the query stays as it is.
        """
        parameters = [*([] if mean else [self.query]), self._weight, self._bias]
        optimiser = torch.optim.LBFGS(
            parameters, max_iter=_STEPS, tolerance_grad=1e-5, tolerance_change=1e-7, line_search_fn="strong_wolfe"
        )
        signs = torch.from_numpy(np.where(labels == 1, -1, 1).astype(np.float32))
        # As a mean over texts, so that the tolerances do not depend on their number.
        own = torch.from_numpy(weights / weights.sum())
        strength = 1 / (2 * c * float(weights.sum()))
        every = self._batches(tokens)

        def loss() -> float:
            optimiser.zero_grad()
            penalty = strength * (self.query.square().sum() + self._weight.square().sum())
            penalty.backward()  # type: ignore[no-untyped-call]
            total = penalty.item()
            for batch in every:
                part = own[batch.rows] @ torch.nn.functional.softplus(
                    signs[batch.rows] * self._logits(tokens.states, batch)
                )
                part.backward()  # type: ignore[no-untyped-call]
                total += part.item()
            return total

        optimiser.step(loss)  # type: ignore[no-untyped-call]

    def logits(self, tokens: TokenStates) -> Floats:
        """`[windows]`."""
        with torch.no_grad():
            own = [self._logits(tokens.states, batch).numpy() for batch in self._batches(tokens)]
        return np.concatenate(own)

    def _batches(self, tokens: TokenStates) -> list[_Batch]:
        found = []
        for rows, at, mask in tokens._batches():
            unique, position = np.unique(at, return_inverse=True)
            found.append(_Batch(rows, unique, torch.from_numpy(position.reshape(at.shape)), torch.from_numpy(mask)))
        return found

    def _logits(self, states: Floats, batch: _Batch) -> torch.Tensor:
        hidden = torch.from_numpy((states[batch.tokens] - self._mean) / self._scale)
        scores, values = hidden @ self.query, hidden @ self._weight
        shares = scores[batch.at].masked_fill(~batch.mask, torch.finfo(torch.float32).min).softmax(dim=1)
        return (shares * values[batch.at]).sum(dim=1) + self._bias
