"""The form of a head that reads a text with its context, kept where left-out families say that it is worth it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lec_guard.detect.pairs import Part, meet
from lec_guard.step import Stage
from lec_guard.train.fit import Floats, Ints
from lec_guard.train.head import FittedHead, fit_head
from lec_guard.train.select import Bags, Quality, out_of_family, quality

PARTS: tuple[tuple[Part, ...], ...] = (
    ("text", "context"),
    ("text", "product"),
    ("text", "difference"),
    ("text", "context", "product", "difference"),
)
"""What is tried: the text is always there, because a head must not forget what it knows of texts alone."""

FEWEST = 30
"""Texts with a context, of each class, without which nothing is fitted to them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """What contexts are worth.

    Attributes:
        texts: Texts that have one.
        parts: What a pair's features are made of.
        quality: How well left-out families did with their contexts.
        alone: How well the same texts did without.
        head: The form with context; None where it did no better.
    """

    texts: int
    parts: tuple[Part, ...]
    quality: Quality
    alone: Quality
    head: FittedHead | None


def fit_paired(
    features: Floats,
    contexts: Floats,
    rows: Ints,
    bags: Bags,
    folds: Sequence[Ints],
    stages: Sequence[Stage],
    *,
    name: str,
    labels: Sequence[str],
    c: float,
) -> Paired | None:
    """Fit the form with context on the texts that have one, and compare it with the form without on the same texts.

    Args:
        features: `[windows, features]`.
        contexts: `[contexts, features]`, the mean over the windows of each.
        rows: The context of each text, or -1, `[texts]`.
        bags: The texts.
        folds: The texts to leave out, fold by fold.
        stages: The stage of each text.
        name: The head's name.
        labels: The classes, the benign one first.
        c: Inverse strength of the L2 penalty.

    Returns:
        What came of it; None where too few texts of some class have a context.
    """
    has = rows >= 0
    counts = np.bincount(bags.classes[has], minlength=bags.targets.shape[1])
    if counts.min() < FEWEST:
        return None
    own, within = bags.only(has), has[bags.owner]
    fold_of = np.zeros(len(rows), np.int64)
    for number, held in enumerate(folds):
        fold_of[held] = number
    kept = [np.flatnonzero(fold_of[has] == number) for number in range(len(folds))]
    kept = [held for held in kept if len(held)]
    if any(len(np.unique(np.delete(own.classes, held))) < bags.targets.shape[1] for held in kept):
        return None  # Without a fold's texts some class would have none.
    text, context = features[within], contexts[rows[has][own.owner]]
    alone = quality(out_of_family(text, own, kept, c=c), own)
    tried = {parts: quality(out_of_family(meet(text, context, parts), own, kept, c=c), own) for parts in PARTS}
    best = min(tried, key=lambda parts: tried[parts].loss)
    head = None
    if tried[best].loss < alone.loss:
        own_stages = [stage for stage, there in zip(stages, has, strict=True) if there]
        head = fit_head(meet(text, context, best), own, kept, own_stages, name=name, labels=labels, c=c)
    return Paired(texts=int(has.sum()), parts=best, quality=tried[best], alone=alone, head=head)
