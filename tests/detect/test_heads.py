from __future__ import annotations

import itertools
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.linear_model import LogisticRegression

from lec_guard.detect.heads import LEAST_SCORE, MOST_KEPT, HeadSpec, HeadStack, LengthOffset, Scored
from lec_guard.errors import BundleError
from tests.detect.by_hand import sigmoid, softmax
from tests.detect.models import HEADS, random_heads

BINARY, MULTICLASS, TWO_LEVEL = HEADS


def at(*points: tuple[int, float]) -> tuple[LengthOffset, ...]:
    """What is taken off at so many windows."""
    return tuple(LengthOffset(windows=windows, logit=logit) for windows, logit in points)


OFFSETS = [(), at((1, 0.0), (8, 0.6), (30, 2.0)), at((1, 0.3)), at((2, -0.2), (40, 1.0))]
WIDTH = 6


def features(rows: int = 50, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, WIDTH)).astype(np.float32)


def fitted(classes: int) -> LogisticRegression:
    x = features(200, seed=1)
    targets = np.argmax(x[:, :classes] + features(200, seed=2)[:, :classes], axis=1)
    return LogisticRegression().fit(x, targets)


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


def test_a_head_by_itself_scores_as_among_others() -> None:
    stack = random_heads(WIDTH)
    for spec in HEADS:
        alone = stack.head(spec.name)
        assert alone.specs == (spec,)
        together = stack.window_scores(stack.logits(features()))[spec.name]
        np.testing.assert_allclose(alone.window_scores(alone.logits(features()))[spec.name], together, atol=1e-6)
    with pytest.raises(ValueError, match="other"):
        stack.head("other")


def test_heads_beside_others_score_as_each_alone_and_none_stands_twice() -> None:
    first, second = one_head(BINARY), random_heads(WIDTH, specs=(TWO_LEVEL, MULTICLASS), seed=1)
    both = first.beside(second)
    assert both.specs == (BINARY, TWO_LEVEL, MULTICLASS)
    scores = both.window_scores(both.logits(features()))
    for stack in (first, second):
        for name, alone in stack.window_scores(stack.logits(features())).items():
            np.testing.assert_allclose(scores[name], alone, atol=1e-6)
    again = second.beside(both)
    assert again.specs == (TWO_LEVEL, MULTICLASS, BINARY)
    assert both.beside(again).specs == both.specs


def test_another_head_of_the_same_name_is_refused() -> None:
    stack = random_heads(WIDTH)
    topic = stack.head("topic")
    other = topic.bias.copy()
    other[1] += 1e-3
    for twin in (
        HeadStack([MULTICLASS.model_copy(update={"temperature": 3.0})], topic.weight, topic.bias),
        HeadStack([MULTICLASS], topic.weight * 2, topic.bias),
        HeadStack([MULTICLASS], topic.weight, other),
    ):
        with pytest.raises(BundleError, match="another head 'topic' is there already"):
            stack.beside(twin)
    with pytest.raises(BundleError, match="the heads read 2 features, those beside them 6"):
        stack.beside(random_heads(2, specs=(BINARY,)))


def alarms(spec: HeadSpec, logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    return logits[:, 1:].max(axis=1) - logits[:, 0] if spec.kind == "multiclass" else logits[:, 0]


def aggregate(spec: HeadSpec, values: np.ndarray) -> float:
    """The docstring's formula, in whole numbers as far as Python has them."""
    t, n, top = spec.temperature, len(values), values.max()
    if spec.aggregation == "attention":
        total = float(softmax(values / t) @ values)
    else:
        total = top + t * (math.log(math.fsum(math.exp((value - top) / t) for value in values)) - math.log(n))
    return total - taken_off(spec, n)


def taken_off(spec: HeadSpec, n: int) -> float:
    """Linear in log n between the points, constant outside."""
    points = [(math.log(point.windows), point.logit) for point in spec.length_offsets]
    if not points:
        return 0.0
    log = math.log(n)
    for (left, low), (right, high) in itertools.pairwise(points):
        if left <= log <= right:
            return low + (high - low) * (log - left) / (right - left)
    return points[0][1] if log < points[0][0] else points[-1][1]


def direct_scores(spec: HeadSpec, logits: np.ndarray) -> np.ndarray:
    """All labels of a text, from all its windows at once."""
    total = aggregate(spec, alarms(spec, logits))
    # How much each window has to say about the other columns.
    mean = softmax(alarms(spec, logits) / spec.temperature) @ logits.astype(np.float64)
    match spec.kind:
        case "binary":
            return sigmoid(np.array([total]))
        case "multiclass":
            mean[1:] += total - (mean[1:].max() - mean[0])
            return softmax(mean)[1:]
        case "two_level":
            first = sigmoid(np.array([total]))
            return np.concatenate([first, first * softmax(mean[1:])])


@pytest.mark.parametrize("offsets", OFFSETS)
@pytest.mark.parametrize("temperature", [0.2, 1.0, 5.0])
@pytest.mark.parametrize("aggregation", ["log_mean_exp", "attention"])
@pytest.mark.parametrize("spec", HEADS, ids=lambda spec: spec.kind)
def test_a_texts_alarm_is_the_aggregate_of_its_windows(
    spec: HeadSpec, aggregation: str, temperature: float, offsets: tuple[LengthOffset, ...]
) -> None:
    spec = spec.model_copy(update={"aggregation": aggregation, "temperature": temperature, "length_offsets": offsets})
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
    stack = one_head(
        TWO_LEVEL.model_copy(update={"temperature": temperature, "length_offsets": at((1, 0.0), (50, 1.2))})
    )
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


def test_what_is_taken_off_for_length_lowers_longer_texts_alone() -> None:
    plain, lowered = (one_head(BINARY.model_copy(update={"length_offsets": o})) for o in ((), at((1, 0.0), (100, 2.0))))
    for rows, expected in ((1, 1.5), (10, 0.5), (100, -0.5), (1000, -0.5)):
        logits = np.full((rows, 1), 1.5, dtype=np.float32)
        before, after = (stack.text_scores(logits)["injection"][0] for stack in (plain, lowered))
        assert before == pytest.approx(sigmoid(np.array(1.5)), abs=1e-6)
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


PARTS = st.lists(
    st.tuples(st.integers(1, 6), st.sampled_from([0.1, 1.0, 30.0, 1e4]), st.integers(0, 2**32 - 1)),
    min_size=1,
    max_size=6,
)
"""Of a text: how many windows, how large their logits, and a seed."""


@given(
    parts=PARTS,
    cuts=st.lists(st.integers(0, 40), max_size=8),
    spec=st.sampled_from(HEADS),
    temperature=st.sampled_from([0.02, 0.3, 1.0, 7.0, 1e4]),
    offsets=st.sampled_from(OFFSETS),
    aggregation=st.sampled_from(["log_mean_exp", "attention"]),
)
@settings(max_examples=300, deadline=None)
def test_windows_that_come_in_parts_score_as_all_at_once(
    parts: list[tuple[int, float, int]],
    cuts: list[int],
    spec: HeadSpec,
    temperature: float,
    offsets: tuple[LengthOffset, ...],
    aggregation: str,
) -> None:
    spec = spec.model_copy(update={"temperature": temperature, "length_offsets": offsets, "aggregation": aggregation})
    logits = np.concatenate(
        [np.random.default_rng(seed).normal(0, size, (rows, spec.columns)) for rows, size, seed in parts]
    ).astype(np.float32)
    text = one_head(spec).aggregate()
    for start, end in itertools.pairwise([0, *sorted(min(cut, len(logits)) for cut in cuts), len(logits)]):
        text.add(logits[start:end], [f"window {at}" for at in range(start, end)])
    assert text.windows == len(logits)
    # The columns are added up in another order, and rounded as far as their size has float32's digits.
    tolerance = 1e-5 + float(np.abs(logits).max()) * 1e-6
    np.testing.assert_allclose(text.scores()[spec.name], direct_scores(spec, logits), rtol=0, atol=tolerance)

    (highest,) = text.highest()
    at = int(alarms(spec, logits).argmax())
    own = one_head(spec).window_scores(logits[at : at + 1])[spec.name][0]
    assert highest == Scored(spec.name, spec.labels[int(own.argmax())], float(own.max()), f"window {at}")
    assert text.high() == {spec.name: direct_high(spec, logits)}


@given(
    logits=st.lists(
        st.floats(allow_nan=False, allow_infinity=False, width=32) | st.floats(-20, 20, width=32),
        min_size=1,
        max_size=20,
    ),
    size=st.integers(1, 5),
    temperature=st.sampled_from([0.1, 1.0, 10.0]),
)
@settings(max_examples=200, deadline=None)
def test_logits_of_any_size_come_in_parts(logits: list[float], size: int, temperature: float) -> None:
    spec = BINARY.model_copy(update={"temperature": temperature})
    text = one_head(spec).aggregate()
    for at in range(0, len(logits), size):
        part = np.array(logits[at : at + size], np.float32)[:, None]
        text.add(part, range(at, at + size))
    expected = direct_scores(spec, np.array(logits, np.float32)[:, None])
    np.testing.assert_allclose(text.scores()[spec.name], expected, rtol=0, atol=1e-5)
    (highest,) = text.highest()
    assert highest.mark == int(np.argmax(logits))


@pytest.mark.parametrize("first", [0, 2])
@pytest.mark.parametrize("broken", HEADS, ids=lambda spec: spec.kind)
def test_what_is_no_number_comes_out_as_none_and_stays_with_its_head(broken: HeadSpec, first: int) -> None:
    stack = random_heads(WIDTH)
    logits = stack.logits(features(5))
    sound = stack.text_scores(logits)
    at = {spec.name: sum(one.columns for one in HEADS[:place]) for place, spec in enumerate(HEADS)}
    logits[first, at[broken.name]] = np.nan
    text = stack.aggregate()
    for start in range(len(logits)):
        text.add(logits[start : start + 1], [start])
    scores = text.scores()
    assert np.isnan(scores.pop(broken.name)).all()
    for name, values in scores.items():
        np.testing.assert_allclose(values, sound[name], rtol=0, atol=1e-6)


def test_a_text_keeps_no_part_of_what_it_was_given() -> None:
    stack = random_heads(WIDTH)
    logits = stack.logits(features(5))
    text = stack.aggregate()
    text.add(logits, range(5))
    scores, highest, high = text.scores(), list(text.highest()), text.high()
    logits[:] = 0
    assert (list(text.highest()), text.high()) == (highest, high)
    for name, values in text.scores().items():
        np.testing.assert_array_equal(values, scores[name])


def test_of_windows_that_are_as_high_the_first_is_the_highest() -> None:
    text = one_head(BINARY).aggregate()
    text.add(np.array([[0.5], [2.0], [2.0]], np.float32), ["a", "b", "c"])
    text.add(np.array([[2.0]], np.float32), ["d"])
    assert [highest.mark for highest in text.highest()] == ["b"]


def direct_high(spec: HeadSpec, logits: np.ndarray) -> list[Scored]:
    """All windows that score, best first; a text of one window has none beside its highest."""
    found = [
        Scored(spec.name, spec.labels[int(own.argmax())], float(own.max()), f"window {at}")
        for at, own in enumerate(one_head(spec).window_scores(logits)[spec.name])
        if own.max() >= LEAST_SCORE and len(logits) > 1
    ]
    return sorted(found, key=lambda one: -one.score)[:MOST_KEPT]


@pytest.mark.parametrize("size", [1, 7, 64, 500])
def test_the_best_windows_are_kept_however_many_come(size: int) -> None:
    logits = np.random.default_rng(3).permutation(np.linspace(-6, 6, 500, dtype=np.float32))[:, None]
    text = one_head(BINARY).aggregate()
    for at in range(0, 500, size):
        text.add(logits[at : at + size], range(at, at + size))
    (high,) = text.high().values()
    assert [one.mark for one in high] == np.argsort(-logits[:, 0]).tolist()[:MOST_KEPT]
    assert {one.head for one in high} == {"injection"}


def test_of_windows_with_equal_marks_the_best_is_kept_and_no_room_is_lost() -> None:
    text = one_head(BINARY).aggregate()
    text.add(np.linspace(1, 2, 200, dtype=np.float32)[:, None], ["long"] * 200)
    text.add(np.linspace(3, 1, 200, dtype=np.float32)[:, None], ["long"] * 200)
    text.add(np.array([[-3.0], [0.0], [-2.0]], np.float32), ["a", "b", "c"])
    assert {one.mark: one.score for one in text.high()["injection"]} == {
        "long": pytest.approx(sigmoid(3.0)),
        "b": 0.5,
        "c": pytest.approx(sigmoid(-2.0)),
    }


def test_a_window_that_does_not_score_is_only_ever_the_highest() -> None:
    text = one_head(BINARY).aggregate()
    text.add(np.array([[-3.1], [-3.0], [-9.0]], np.float32), ["a", "b", "c"])
    assert [one.mark for one in text.highest()] == ["b"]
    assert text.high() == {"injection": []}


def test_each_head_has_a_highest_window_of_its_own() -> None:
    stack = random_heads(WIDTH)
    logits = stack.logits(features(30))
    text = stack.aggregate()
    text.add(logits, range(30))
    expected, at = [], 0
    for spec in HEADS:
        expected.append((spec.name, int(alarms(spec, logits[:, at : at + spec.columns]).argmax())))
        at += spec.columns
    assert [(highest.head, highest.mark) for highest in text.highest()] == expected
    assert len({mark for _, mark in expected}) > 1


def test_texts_of_one_stack_keep_apart() -> None:
    stack = random_heads(WIDTH)
    logits = [stack.logits(features(5, seed=seed)) for seed in (1, 2)]
    texts = [stack.aggregate(), stack.aggregate()]
    for at in range(5):
        for text, own in zip(texts, logits, strict=True):
            text.add(own[at : at + 1], [at])
    for text, own in zip(texts, logits, strict=True):
        for name, values in stack.text_scores(own).items():
            np.testing.assert_allclose(text.scores()[name], values, rtol=0, atol=1e-6)


def test_a_text_takes_no_more_memory_for_its_windows() -> None:
    stack = random_heads(WIDTH)
    logits = stack.logits(features(1000))
    sizes = []
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        text = stack.aggregate()
        for at in range(50):
            text.add(logits, range(1000 * at, 1000 * (at + 1)))
            sizes.append(tracemalloc.get_traced_memory()[0] - before)
    finally:
        tracemalloc.stop()
    assert text.windows == 50_000
    # The list of sizes takes the 4 kB.
    assert sizes[-1] <= sizes[0] + 4_000
    assert all(len(high) == MOST_KEPT for high in text.high().values())
    assert max(sizes) < 60_000, "it holds the windows"


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
        {"length_offsets": [{"windows": 0, "logit": 0.1}]},
        {"length_offsets": [{"windows": 1, "logit": float("nan")}]},
        {"length_offsets": [{"windows": 2, "logit": 0.1}, {"windows": 1, "logit": 0.1}]},
        {"length_offsets": [{"windows": 2, "logit": 0.1}, {"windows": 2, "logit": 0.2}]},
        {"aggregation": "maximum"},
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
