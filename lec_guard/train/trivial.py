"""What learning curves are held against: the largest class, and the length of a text alone."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from lec_guard.train.fit import MANY_CLASSES, Ints
from lec_guard.train.sweep import Parts, Spread, draw


def by_majority(classes: Ints, parts: Parts) -> float:
    """Weighted F1 of always saying the largest class.

    Args:
        classes: The class of each text, `[texts]`.
        parts: How the sweep split them.

    Returns:
        That of the texts that test.
    """
    largest = np.bincount(classes[parts.draw]).argmax()
    return _weighted_f1(classes[parts.test], np.full(len(parts.test), largest))


def by_length(
    texts: Sequence[str], classes: Ints, parts: Parts, sizes: Sequence[int], *, seeds: int
) -> dict[int, Spread]:
    """Weighted F1 of a regression on the logarithm of a text's length, and its square, by sample size.

    Args:
        texts: The texts.
        classes: The class of each, `[texts]`.
        parts: How the sweep split them.
        sizes: Texts in a sample.
        seeds: Draws of each size; each has classes as the sweep's have.

    Returns:
        Size -> that of the texts that test.
    """
    logs = np.log1p([len(text) for text in texts])
    lengths = np.stack([logs, logs**2], axis=1)
    found = {}
    for size in sizes:
        scores = []
        for seed in range(seeds):
            drawn = draw(parts.draw, classes, size, seed)
            model = LogisticRegression(max_iter=1000, class_weight="balanced")
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=MANY_CLASSES)
                model.fit(lengths[drawn], classes[drawn])
            scores.append(_weighted_f1(classes[parts.test], model.predict(lengths[parts.test])))
        found[size] = Spread.of(scores)
    return found


def _weighted_f1(truth: Ints, found: Ints) -> float:
    return float(f1_score(truth, found, average="weighted", zero_division=0))
