"""Which layer, pooling and penalty a head reads with: chosen by leaving whole families of data out.

A head that is tested on the sets it was fitted on looks far better than it is: it knows the sets apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.preprocessing import StandardScaler

from lec_guard.detect.extractor import Block
from lec_guard.detect.pooling import Pooling
from lec_guard.train.fit import (
    Columns,
    Floats,
    Ints,
    balanced_weights,
    copied,
    fit_binary,
    fit_categories,
    fit_windows,
    shares,
    some_of_each,
    standing,
    text_logits,
)

MOST = {False: 20, True: 40}
"""Windows of a benign and of a harmful text to fit on, at most: long documents would outweigh all else."""

TRIED_PENALTY = 0.1
"""C while layers and poolings are compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bags:
    """Texts whose classes are known, as bags of windows of which nobody knows (multiple-instance learning).

    Attributes:
        targets: Probability of each class, the benign one first, `[texts, classes]`; rows sum to 1.
        families: The family of each text, `[texts]`.
        owner: The text of each window, `[windows]`.
    """

    targets: Floats
    families: npt.NDArray[np.str_]
    owner: Ints

    @property
    def classes(self) -> Ints:
        """The likeliest class of each text, `[texts]`."""
        return np.asarray(self.targets.argmax(axis=1), np.int64)

    @property
    def harmful(self) -> Ints:
        """1 where that is not the benign one, `[texts]`."""
        return (self.classes > 0).astype(np.int64)

    def only(self, chosen: npt.NDArray[np.bool_]) -> Bags:
        """Some of the texts, with their windows; these keep their order.

        Args:
            chosen: Which texts, `[texts]`.

        Returns:
            Those, counted anew.
        """
        position = np.cumsum(chosen) - 1
        within = chosen[self.owner]
        owner = position[self.owner[within]].astype(np.int64)
        return Bags(targets=self.targets[chosen], families=self.families[chosen], owner=owner)

    def weights(self) -> Floats:
        """Weights under which every class counts alike, and a family by the root of its size: `[texts]`."""
        return balanced_weights(self.classes, self.families)


def fit_bags(features: Floats, bags: Bags, windows: npt.NDArray[np.bool_], *, c: float) -> Columns:
    """Fit a head's columns: one for two classes, else one a class.

    A text of which nobody is sure counts as several, one a class, each with its share of the weight.

    Args:
        features: `[windows, features]`.
        bags: The texts.
        windows: Which windows to fit on, `[windows]`; of a long text only some of these are taken.
        c: Inverse strength of the L2 penalty on standardised features.

    Returns:
        The columns over the raw features.
    """
    most = np.where(bags.harmful[bags.owner] == 1, MOST[True], MOST[False])
    chosen = np.flatnonzero(windows & some_of_each(bags.owner, most))
    texts, classes = np.nonzero(bags.targets)
    at, owner = copied(bags.owner[chosen], texts, len(bags.targets))
    own = features[chosen[at]]
    weights = np.asarray(bags.weights()[texts] * bags.targets[texts, classes], np.float32)
    if bags.targets.shape[1] == 2:
        return fit_windows(own, owner, classes, weights, c=c)
    harmful = (classes > 0).astype(np.int64)
    first = fit_binary(own, harmful[owner], shares(owner, weights), c=c)
    keep = standing(first.logits(own)[:, 0], owner, harmful)
    return fit_categories(own[keep], classes[owner[keep]], shares(owner[keep], weights), c=c)


def out_of_family(features: Floats, bags: Bags, folds: Sequence[Ints], *, c: float) -> Floats:
    """Logits of every window from a model that has not seen its family.

    Args:
        features: `[windows, features]`.
        bags: The texts.
        folds: The texts to leave out, fold by fold; every text is in one.
        c: As for `fit_bags`.

    Returns:
        `[windows, columns]`.
    """
    logits: Floats | None = None
    for held in folds:
        out = np.isin(bags.owner, held)
        found = fit_bags(features, bags, ~out, c=c).logits(features[out])
        if logits is None:
            logits = np.zeros((len(features), found.shape[1]), np.float32)
        logits[out] = found
    if logits is None:
        raise ValueError("there are no folds")
    return logits


def alarms(logits: Floats) -> Floats:
    """How sure columns are that something is there: `[n, columns]` -> `[n]`, as `heads.Aggregate` has it."""
    return logits[:, 0] if logits.shape[1] == 1 else np.asarray(logits[:, 1:].max(axis=1) - logits[:, 0])


@dataclass(frozen=True, slots=True)
class Quality:
    """How well left-out families did.

    Attributes:
        loss: Log loss in nats a text, every class counting alike, after calibration on the same logits.
        auc: Area under the ROC curve; the mean over classes, each against the rest, where there are more than two.
    """

    loss: float
    auc: float


def quality(logits: Floats, bags: Bags) -> Quality:
    """Judge logits of models that had not seen the families of their texts.

    Args:
        logits: `[windows, columns]`.
        bags: The texts.

    Returns:
        How good they are, with the windows of a text put together by the mean of their exponentials.
    """
    texts = len(bags.targets)
    columns = [text_logits(column, bags.owner, texts, 1.0) for column in logits.T]
    read = np.isfinite(columns[0])
    together = np.stack(columns, axis=1)[read]
    classes, weights = bags.classes[read], bags.weights()[read]
    # With a penalty, or whatever tells all texts apart would be as good as what does so by far.
    together = StandardScaler().fit_transform(together)
    model = LogisticRegression(max_iter=1000).fit(together, classes, sample_weight=weights)
    chances = model.predict_proba(together)
    loss = float(log_loss(classes, chances, sample_weight=weights, labels=model.classes_))
    if chances.shape[1] == 2:
        return Quality(loss, float(roc_auc_score(classes, chances[:, 1])))
    return Quality(loss, float(roc_auc_score(classes, chances, multi_class="ovr")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What a head could read, and how well left-out families did with it."""

    blocks: tuple[Block, ...]
    penalty: float
    quality: Quality


def candidates(layers: Sequence[int], poolings: Sequence[Pooling]) -> Iterator[tuple[Block, ...]]:
    """Every layer with each pooling, and with all of them side by side.

    Args:
        layers: The layers, 0 for the embeddings.
        poolings: The poolings.

    Yields:
        Blocks that a head could read.
    """
    for layer in layers:
        for pooling in poolings:
            yield (Block(layer, pooling),)
        if len(poolings) > 1:
            yield tuple(Block(layer, pooling) for pooling in poolings)


def choose(
    read: Callable[[Sequence[Block]], Floats],
    bags: Bags,
    folds: Sequence[Ints],
    *,
    layers: Sequence[int],
    poolings: Sequence[Pooling],
    penalties: Sequence[float],
    progress: Callable[[float], None] = lambda _share: None,
) -> list[Candidate]:
    """Try every layer and pooling under one penalty, and then the best of them under all.

    Args:
        read: Gives the features of blocks, `[windows, features]`.
        bags: The texts.
        folds: As for `out_of_family`.
        layers: The layers to try.
        poolings: The poolings to try.
        penalties: The values of C to try.
        progress: Is told the share that is done.

    Returns:
        All that was tried, the one with the least loss first; of equals, that of the lower layer.
    """
    offered = list(candidates(layers, poolings))
    total = len(offered) + len(penalties)
    tried: list[Candidate] = []

    def attempt(blocks: tuple[Block, ...], features: Floats, c: float) -> None:
        found = quality(out_of_family(features, bags, folds, c=c), bags)
        tried.append(Candidate(blocks=blocks, penalty=c, quality=found))
        progress(len(tried) / total)

    for blocks in offered:
        attempt(blocks, read(blocks), TRIED_PENALTY)
    best = min(tried, key=_order).blocks
    features = read(best)
    for c in penalties:
        if c != TRIED_PENALTY:
            attempt(best, features, c)
    progress(1.0)
    return sorted(tried, key=_order)


def _order(candidate: Candidate) -> tuple[float, int, int]:
    layer = max(block.layer for block in candidate.blocks)
    return round(candidate.quality.loss, 6), layer, len(candidate.blocks)
