"""What tuning minimises: labels, teachers, the false alarms that count, and the families that do worst."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from lec_guard.detect.heads import HeadSpec
from lec_guard.train.fit import Floats, Ints

_REMEMBERED = 1024
"""Harmless texts of former batches that a harmful one has to stand out from: a batch has too few to tell of one in a
hundred."""

_MOST = 4.0
"""How much more than in balance a family may count."""

_FADE = 0.9
"""Share of what was known of a family that stays, where it is seen again."""


def text_columns(columns: torch.Tensor, at: torch.Tensor, mask: torch.Tensor, head: HeadSpec) -> torch.Tensor:
    """Columns of texts from those of their windows, as `lec_guard.detect.heads.Aggregate` has them without offsets.

    Args:
        columns: `[windows, columns]`.
        at: The windows of each text, `[texts, most windows]`.
        mask: Which of these are windows, `[texts, most windows]`.
        head: How they are put together.

    Returns:
        `[texts, columns]`.
    """
    own = columns[at]
    alarm = own[..., 0]
    if head.kind == "multiclass":
        alarm = own[..., 1:].amax(dim=-1) - alarm
    lowest = torch.finfo(alarm.dtype).min
    shares = (alarm / head.temperature).masked_fill(~mask, lowest).softmax(dim=1)
    if head.aggregation == "attention":
        total = (shares * alarm).sum(dim=1)
    else:
        sums = (alarm / head.temperature).masked_fill(~mask, lowest).logsumexp(dim=1)
        total = head.temperature * (sums - mask.sum(dim=1).log())
    mean = (shares.unsqueeze(-1) * own).sum(dim=1)
    if head.kind == "multiclass":
        lack = total - (mean[:, 1:].amax(dim=-1) - mean[:, 0])
        return torch.cat([mean[:, :1], mean[:, 1:] + lack.unsqueeze(-1)], dim=1)
    return torch.cat([total.unsqueeze(-1), mean[:, 1:]], dim=1)


def harm(columns: torch.Tensor, head: HeadSpec) -> torch.Tensor:
    """The log odds that texts are harmful, `[texts, columns]` -> `[texts]`."""
    if head.kind == "multiclass":
        return columns[:, 1:].logsumexp(dim=-1) - columns[:, 0]
    return columns[:, 0]


def losses(columns: torch.Tensor, label: torch.Tensor, soft: torch.Tensor, head: HeadSpec) -> torch.Tensor:
    """What each text costs: half the cross entropy of its label and half the divergence from its teacher.

    HarmAug (Lee et al. 2024, arXiv 2410.01524) has it so. Where there is only one of the two, that counts whole. The
    category of a two-level head comes on top.

    Args:
        columns: Of the texts, `[texts, columns]`.
        label: 0 for none, n for the n-th label, -1 where there is none, `[texts]`.
        soft: What a teacher says, not-a-number where none does, `[texts]`.
        head: What the columns mean.

    Returns:
        `[texts]`.
    """
    odds = harm(columns, head)
    if head.kind == "multiclass":
        hard = functional.cross_entropy(columns, label.clamp(min=0), reduction="none")
    else:
        hard = functional.binary_cross_entropy_with_logits(odds, (label > 0).to(odds.dtype), reduction="none")
    known, taught = label >= 0, ~soft.isnan()
    teacher = torch.where(taught, soft, torch.zeros_like(soft))
    entropy = torch.special.entr(teacher) + torch.special.entr(1 - teacher)
    divergence = functional.binary_cross_entropy_with_logits(odds, teacher, reduction="none") - entropy
    count = known.to(odds.dtype) + taught.to(odds.dtype)
    cost: torch.Tensor = (hard * known + divergence * taught) / count
    if head.kind == "two_level":
        named = label >= 2
        category = functional.cross_entropy(columns[:, 1:], (label - 2).clamp(min=0), reduction="none")
        cost = cost + category * named
    return cost


@dataclass(slots=True)
class Recent:
    """Harmless texts of former batches: their log odds and what they count, the last `_REMEMBERED` of them."""

    odds: torch.Tensor
    weights: torch.Tensor

    @classmethod
    def none(cls, device: torch.device) -> Recent:
        """Nothing yet."""
        return cls(torch.zeros(0, device=device), torch.zeros(0, device=device))

    def add(self, odds: torch.Tensor, weights: torch.Tensor) -> None:
        """Remember those of a batch."""
        self.odds = torch.cat([self.odds, odds.detach()])[-_REMEMBERED:]
        self.weights = torch.cat([self.weights, weights])[-_REMEMBERED:]


def low_fpr(
    odds: torch.Tensor, side: torch.Tensor, weights: torch.Tensor, recent: Recent, *, temperature: float
) -> torch.Tensor:
    """How little harmful texts stand out from the harmless ones that score highest.

    One-way partial AUC by a soft maximum over negatives: the estimator SOPA-s of Zhu et al. 2022, "When AUC meets DRO"
    (arXiv 2203.00176), with the logistic surrogate, and with negatives of former batches instead of moving averages.

    Args:
        odds: Of the texts, `[texts]`.
        side: 1 where a text is harmful, `[texts]`.
        weights: What each counts, `[texts]`.
        recent: Harmless texts of former batches; those of this one are added.
        temperature: Of the soft maximum: near 0 the highest harmless text is all that counts, and large, all alike.

    Returns:
        A number; 0 where one side is missing.
    """
    harmless = side == 0
    negatives = torch.cat([odds[harmless], recent.odds])
    counts = torch.cat([weights[harmless], recent.weights])
    recent.add(odds[harmless], weights[harmless])
    if harmless.all() or not len(negatives):
        return odds.sum() * 0.0
    own = functional.softplus(negatives[None] - odds[~harmless][:, None])
    highest = temperature * (own / temperature + (counts / counts.sum()).log()[None]).logsumexp(dim=1)
    share = weights[~harmless]
    return (highest * share).sum() / share.sum()


class WorstFamilies:
    """What families count: those that do worst more, by the exponential of their loss.

    Sagawa et al. 2019, "Distributionally Robust Neural Networks for Group Shifts" (arXiv 1911.08731), with a moving
    average of each family's loss, because a batch has few of them; classes stay in balance.

    Args:
        family: The family of each row, counted from 0, `[rows]`.
        side: 0 or 1, `[rows]`.
        chance: How often each row is learnt from, `[rows]`.
        strength: What the loss is multiplied by; 0 counts all alike.
    """

    def __init__(self, family: Ints, side: Ints, chance: npt.NDArray[np.float64], strength: float) -> None:
        self._key = family * 2 + side
        keys = int(self._key.max(initial=0)) + 1
        self._share = np.bincount(self._key, chance, minlength=keys)
        self._side = np.arange(keys) % 2
        self._strength = strength
        self.known = np.full(keys, np.log(2.0))

    def weights(self, rows: Ints) -> Floats:
        """What rows count beside what they would in balance, `[rows]`."""
        raised = np.exp(self._strength * (self.known - self.known.max()))
        for side in (0, 1):
            own = self._side == side
            total = (self._share[own] * raised[own]).sum()
            raised[own] *= self._share[own].sum() / total if total else 1.0
        return np.asarray(np.minimum(raised, _MOST)[self._key[rows]], np.float32)

    def learn(self, rows: Ints, costs: Floats) -> None:
        """Take what rows cost, `[rows]`."""
        keys = self._key[rows]
        count = np.bincount(keys, minlength=len(self.known))
        seen = count > 0
        mean = np.bincount(keys, costs, minlength=len(self.known))[seen] / count[seen]
        self.known[seen] = _FADE * self.known[seen] + (1 - _FADE) * mean
