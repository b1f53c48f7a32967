from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError
from sklearn.linear_model import LogisticRegression

from lec_guard.detect.heads import HeadSpec, HeadStack
from lec_guard.errors import BundleError
from tests.detect.models import HEADS, random_heads

BINARY, MULTICLASS, TWO_LEVEL = HEADS
WIDTH = 6


def features(rows: int = 50, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, WIDTH)).astype(np.float32)


def fitted(classes: int) -> LogisticRegression:
    x = features(200, seed=1)
    targets = np.argmax(x[:, :classes] + features(200, seed=2)[:, :classes], axis=1)
    return LogisticRegression().fit(x, targets)


def softmax(x: np.ndarray) -> np.ndarray:
    x = np.exp(x.astype(np.float64) - x.max(axis=1, keepdims=True))
    return x / x.sum(axis=1, keepdims=True)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x.astype(np.float64)))


def one_head(spec: HeadSpec, *, seed: int = 0) -> HeadStack:
    return random_heads(WIDTH, specs=(spec,), seed=seed)


def test_binary_head_is_logistic_regression() -> None:
    model = fitted(2)
    stack = HeadStack([BINARY], model.coef_.T, model.intercept_)
    scores = stack.window_scores(stack.logits(features()))["injection"]
    np.testing.assert_allclose(scores, model.predict_proba(features())[:, 1:], atol=1e-6)


def test_multiclass_head_is_multinomial_regression_with_none_first() -> None:
    model = fitted(3)
    stack = HeadStack([MULTICLASS], model.coef_.T, model.intercept_)
    scores = stack.window_scores(stack.logits(features()))["topic"]
    np.testing.assert_allclose(scores, model.predict_proba(features())[:, 1:], atol=1e-6)


def test_two_level_head_shares_its_first_label_out() -> None:
    stack = one_head(TWO_LEVEL)
    logits = features() @ stack.weight + stack.bias
    first = sigmoid(logits[:, :1])
    scores = stack.window_scores(stack.logits(features()))["safety"]
    np.testing.assert_allclose(scores, np.hstack([first, first * softmax(logits[:, 1:])]), atol=1e-6)
    np.testing.assert_allclose(scores[:, 1:].sum(axis=1), scores[:, 0], atol=1e-6)


def test_stacked_heads_score_as_each_alone() -> None:
    stack = random_heads(WIDTH)
    at = 0
    for spec in HEADS:
        columns = slice(at, at + spec.columns)
        at += spec.columns
        alone = HeadStack([spec], stack.weight[:, columns], stack.bias[columns])
        for together, single in (
            (stack.window_scores(stack.logits(features())), alone.window_scores(alone.logits(features()))),
            (stack.text_scores(stack.logits(features())), alone.text_scores(alone.logits(features()))),
        ):
            np.testing.assert_allclose(together[spec.name], single[spec.name], atol=1e-6)


def test_labels_are_told_in_the_order_of_the_columns() -> None:
    stack = random_heads(WIDTH)
    assert stack.labels == {
        "injection": ("injection",),
        "topic": ("weather", "money"),
        "safety": ("unsafe", "weapons", "fraud"),
    }
    scores = stack.text_scores(stack.logits(features()))
    assert {name: values.shape for name, values in scores.items()} == {"injection": (1,), "topic": (2,), "safety": (3,)}


@pytest.mark.parametrize("top", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("spec", HEADS, ids=lambda spec: spec.kind)
def test_text_score_averages_the_logits_of_the_highest_windows(spec: HeadSpec, top: int) -> None:
    stack = one_head(spec.model_copy(update={"top_windows": top}))
    for rows in (1, 2, 7):
        logits = stack.logits(features(rows, seed=rows))
        alarm = [max(row[1:]) - row[0] if spec.kind == "multiclass" else row[0] for row in logits]
        highest = sorted(range(rows), key=lambda i: -alarm[i])[:top]
        mean = sum(logits[i].astype(np.float64) for i in highest) / len(highest)
        expected = stack.window_scores(mean[None].astype(np.float32))[spec.name][0]
        np.testing.assert_allclose(stack.text_scores(logits)[spec.name], expected, atol=1e-6)


@pytest.mark.parametrize("spec", HEADS, ids=lambda spec: spec.kind)
def test_text_of_one_window_scores_as_its_window(spec: HeadSpec) -> None:
    stack = one_head(spec)
    logits = stack.logits(features(1))
    np.testing.assert_array_equal(stack.text_scores(logits)[spec.name], stack.window_scores(logits)[spec.name][0])


def test_one_loud_window_among_quiet_ones_is_heard_with_top_one_only() -> None:
    logits = np.full((10, 1), -6.0, dtype=np.float32)
    logits[4] = 6.0
    loud, averaged = (one_head(BINARY.model_copy(update={"top_windows": top})) for top in (1, 10))
    assert loud.text_scores(logits)["injection"][0] > 0.99
    assert averaged.text_scores(logits)["injection"][0] < 0.01


@pytest.mark.parametrize("size", [1e3, 1e6, 1e30])
@pytest.mark.parametrize("spec", HEADS, ids=lambda spec: spec.kind)
def test_extreme_logits_stay_probabilities(spec: HeadSpec, size: float) -> None:
    stack = one_head(spec)
    signs = np.array(np.meshgrid(*[[-1.0, 0.0, 1.0]] * spec.columns)).reshape(spec.columns, -1).T
    logits = (signs * size).astype(np.float32)
    for scores in (stack.window_scores(logits)[spec.name], stack.text_scores(logits)[spec.name]):
        assert np.isfinite(scores).all()
        assert ((scores >= 0) & (scores <= 1)).all()


def test_extreme_logits_saturate() -> None:
    stack = one_head(BINARY)
    np.testing.assert_array_equal(
        stack.window_scores(np.array([[-1e4], [0.0], [1e4]], dtype=np.float32))["injection"], [[0.0], [0.5], [1.0]]
    )


@pytest.mark.parametrize(
    ("weight", "bias"),
    [
        ((WIDTH, 1), (2,)),
        ((WIDTH, 2), (1,)),
        ((WIDTH, 2), (2,)),
        ((WIDTH,), (1,)),
        ((WIDTH, 1), (1, 1)),
        ((WIDTH, 1), ()),
        ((1, WIDTH, 1), (1,)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(weight: tuple[int, ...], bias: tuple[int, ...]) -> None:
    with pytest.raises(BundleError, match="the heads need 1 columns"):
        HeadStack([BINARY], np.zeros(weight, dtype=np.float32), np.zeros(bias, dtype=np.float32))


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("where", ["weight", "bias"])
def test_numbers_that_are_not_finite_in_float32_are_refused(where: str, number: float) -> None:
    arrays = {"weight": np.zeros((WIDTH, 1)), "bias": np.zeros(1)}
    arrays[where].flat[-1] = number
    with pytest.raises(BundleError, match="not finite"):
        HeadStack([BINARY], **arrays)


def test_two_heads_of_one_name_are_refused() -> None:
    with pytest.raises(BundleError, match="same name"):
        HeadStack([BINARY, BINARY], np.zeros((WIDTH, 2)), np.zeros(2))


@pytest.mark.parametrize(
    "values",
    [
        {"labels": ()},
        {"labels": ("a", "b")},
        {"kind": "multiclass", "labels": ("a", "a")},
        {"kind": "two_level", "labels": ("a",)},
        {"kind": "two_level", "labels": ("a", "b")},
        {"kind": "regression"},
        {"name": ""},
        {"name": "-a"},
        {"name": "a b"},
        {"name": "a\n"},
        {"name": "a" * 65},
        {"labels": ("a/b",)},
        {"top_windows": 0},
        {"threshold": 0.5},
    ],
)
def test_specs_that_mean_nothing_are_refused(values: dict[str, object]) -> None:
    good = {"name": "head", "kind": "binary", "labels": ("a",)}
    HeadSpec.model_validate(good)
    with pytest.raises(ValidationError):
        HeadSpec.model_validate(good | values)


def test_columns_of_each_kind() -> None:
    assert [spec.columns for spec in HEADS] == [1, 3, 3]


def test_spec_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        BINARY.name = "other"
