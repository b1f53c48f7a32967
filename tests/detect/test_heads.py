from __future__ import annotations

import math

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


def alarms(spec: HeadSpec, logits: np.ndarray) -> list[float]:
    return [max(row[1:]) - row[0] if spec.kind == "multiclass" else row[0] for row in logits.astype(np.float64)]


def aggregate(spec: HeadSpec, values: list[float]) -> float:
    """The docstring's formula, in whole numbers as far as Python has them."""
    t, n = spec.temperature, len(values)
    log_mean_exp = t * (math.log(math.fsum(math.exp(value / t) for value in values)) - math.log(n))
    first, second = spec.length_terms
    return log_mean_exp - first * math.log(n) - second * math.log(n) ** 2


@pytest.mark.parametrize("terms", [(0.0, 0.0), (0.3, 0.0), (0.1, 0.05), (-0.2, 0.0)])
@pytest.mark.parametrize("temperature", [0.2, 1.0, 5.0])
@pytest.mark.parametrize("spec", HEADS, ids=lambda spec: spec.kind)
def test_a_texts_alarm_is_the_aggregate_of_its_windows(
    spec: HeadSpec, temperature: float, terms: tuple[float, float]
) -> None:
    spec = spec.model_copy(update={"temperature": temperature, "length_terms": terms})
    stack = one_head(spec)
    for rows in (1, 2, 7, 40):
        logits = stack.logits(features(rows, seed=rows))
        scores = stack.text_scores(logits)[spec.name].astype(np.float64)
        expected = aggregate(spec, alarms(spec, logits))
        if spec.kind == "multiclass":
            # The loudest column over the one of "none of these".
            found = math.log(scores.max()) - math.log(1 - scores.sum())
        else:
            found = math.log(scores[0]) - math.log(1 - scores[0])
        assert found == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize("spec", HEADS, ids=lambda spec: spec.kind)
def test_near_zero_the_loudest_window_speaks_for_the_text(spec: HeadSpec) -> None:
    stack = one_head(spec.model_copy(update={"temperature": 1e-4}))
    logits = stack.logits(features(9))
    loudest = int(np.argmax(alarms(spec, logits)))
    expected = stack.window_scores(logits)[spec.name][loudest]
    np.testing.assert_allclose(stack.text_scores(logits)[spec.name], expected, atol=1e-3)


@pytest.mark.parametrize("spec", HEADS, ids=lambda spec: spec.kind)
def test_a_large_temperature_averages_the_windows(spec: HeadSpec) -> None:
    stack = one_head(spec.model_copy(update={"temperature": 1e5}))
    logits = stack.logits(features(9))
    mean = logits.astype(np.float64).mean(axis=0)
    if spec.kind == "multiclass":
        # The alarm is averaged, not what it is made of.
        mean[1:] += np.mean(alarms(spec, logits)) - (mean[1:].max() - mean[0])
    expected = stack.window_scores(mean[None].astype(np.float32))[spec.name][0]
    np.testing.assert_allclose(stack.text_scores(logits)[spec.name], expected, atol=1e-4)


@pytest.mark.parametrize("temperature", [0.01, 0.5, 3.0])
@pytest.mark.parametrize("spec", HEADS, ids=lambda spec: spec.kind)
def test_the_order_of_the_windows_does_not_matter(spec: HeadSpec, temperature: float) -> None:
    stack = one_head(spec.model_copy(update={"temperature": temperature}))
    logits = stack.logits(features(11))
    np.testing.assert_allclose(
        stack.text_scores(logits[::-1])[spec.name], stack.text_scores(logits)[spec.name], atol=1e-6
    )


@pytest.mark.parametrize("temperature", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("rows", [1, 2, 30])
def test_categories_share_out_the_first_label(rows: int, temperature: float) -> None:
    stack = one_head(TWO_LEVEL.model_copy(update={"temperature": temperature, "length_terms": (0.2, 0.1)}))
    scores = stack.text_scores(stack.logits(features(rows, seed=rows)))["safety"]
    assert scores[1:].sum() == pytest.approx(scores[0], abs=1e-6)


def test_categories_are_those_of_the_windows_that_raise_the_first_label() -> None:
    logits = np.array([[4.0, 9.0, 0.0], [-4.0, 0.0, 9.0], [-4.0, 0.0, 9.0]], dtype=np.float32)
    sharp = one_head(TWO_LEVEL.model_copy(update={"temperature": 0.5}))
    unsafe, weapons, fraud = sharp.text_scores(logits)["safety"]
    assert weapons > 0.99 * unsafe
    assert fraud < 0.01


@pytest.mark.parametrize("rows", [1, 3, 20])
def test_labels_of_a_multiclass_head_and_none_of_them_sum_to_one(rows: int) -> None:
    stack = one_head(MULTICLASS.model_copy(update={"temperature": 0.7}))
    scores = stack.text_scores(stack.logits(features(rows)))["topic"]
    assert (scores > 0).all()
    assert scores.sum() < 1


def test_the_length_terms_lower_longer_texts_alone() -> None:
    terms = (0.4, 0.1)
    plain, lowered = (one_head(BINARY.model_copy(update={"length_terms": t})) for t in ((0.0, 0.0), terms))
    for rows in (1, 2, 10, 1000):
        logits = np.full((rows, 1), 1.5, dtype=np.float32)
        before, after = (stack.text_scores(logits)["injection"][0] for stack in (plain, lowered))
        assert before == pytest.approx(sigmoid(np.array(1.5)), abs=1e-6)
        expected = 1.5 - terms[0] * math.log(rows) - terms[1] * math.log(rows) ** 2
        assert after == pytest.approx(sigmoid(np.array(expected)), abs=1e-6)


@pytest.mark.parametrize("spec", HEADS, ids=lambda spec: spec.kind)
def test_text_of_one_window_scores_as_its_window(spec: HeadSpec) -> None:
    stack = one_head(spec)
    logits = stack.logits(features(1))
    np.testing.assert_allclose(
        stack.text_scores(logits)[spec.name], stack.window_scores(logits)[spec.name][0], rtol=0, atol=1e-6
    )


def test_one_loud_window_among_quiet_ones_is_heard_at_a_low_temperature_only() -> None:
    logits = np.full((10, 1), -6.0, dtype=np.float32)
    logits[4] = 6.0
    loud, averaged = (one_head(BINARY.model_copy(update={"temperature": t})) for t in (0.5, 1000.0))
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
        {"top_windows": 2},
        {"temperature": 0.0},
        {"temperature": -1.0},
        {"temperature": float("inf")},
        {"temperature": float("nan")},
        {"length_terms": (0.1,)},
        {"length_terms": (0.1, 0.1, 0.1)},
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
