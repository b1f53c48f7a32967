"""What learning curves are held against."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score

from lec_guard.train.sweep import Parts
from lec_guard.train.trivial import by_length, by_majority


def parts(texts: int) -> Parts:
    rows = np.arange(texts)
    return Parts(draw=rows[: texts // 2], choice=rows[:0], test=rows[texts // 2 :], choice_by_family=True)


def test_the_majority_is_that_of_the_texts_to_draw_from():
    classes = np.array([0, 0, 0, 1] * 5 + [1] * 20)
    assert by_majority(classes, parts(40)) == pytest.approx(
        f1_score(classes[20:], np.zeros(20), average="weighted", zero_division=0)
    )


def test_length_alone_tells_what_differs_in_length_and_nothing_else():
    random = np.random.default_rng(0)
    classes = random.integers(0, 2, 400)
    long = ["x" * int(40 + 200 * kind + random.integers(0, 40)) for kind in classes]
    same = ["x" * int(random.integers(40, 80)) for _ in classes]
    told = by_length(long, classes, parts(400), [10, 100], seeds=3)
    assert told.keys() == {10, 100}
    assert told[100].mean > 0.95
    assert told[100].low <= told[100].mean <= told[100].high
    assert by_length(same, classes, parts(400), [100], seeds=3)[100].mean < 0.65


def test_few_texts_of_many_classes_are_no_reason_to_warn():
    classes = np.tile(np.arange(30), 8)
    assert by_length(["x" * (n + 1) for n in classes], classes, parts(240), [40], seeds=1)[40].mean >= 0
