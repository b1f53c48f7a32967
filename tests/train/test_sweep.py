"""The sweep: what is split, drawn, fitted, tested, remembered and summed up."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score, roc_curve

from lec_guard.detect.extractor import Block
from lec_guard.detect.heads import HeadSpec, HeadStack
from lec_guard.errors import UnsupportedValueError
from lec_guard.train import sweep as module
from lec_guard.train.features import Features, file_name
from lec_guard.train.fit import fit_windows, text_logits
from lec_guard.train.sweep import (
    Record,
    Spread,
    Sweep,
    _likelihood,
    allot,
    each_layer,
    name_of,
    split,
    sweep,
    text_columns,
)

BLOCKS = (Block(1, "mean"), Block(1, "max"), Block(2, "mean"), Block(2, "max"))
WIDTH = 6


def made(folder: Path, classes: np.ndarray, *, most: int = 3, seed: int = 0) -> Features:
    """Features that tell classes the better, the higher the layer; one window of a text shows its class."""
    rng = np.random.default_rng(seed)
    texts = len(classes)
    owner = np.repeat(np.arange(texts), rng.integers(1, most + 1, texts))
    first = np.r_[True, owner[1:] != owner[:-1]]
    centres = np.random.default_rng(9).normal(size=(classes.max() + 1, WIDTH))
    centres[0] = 0
    folder.mkdir(parents=True, exist_ok=True)
    for block in BLOCKS:
        shown = np.where(first[:, None], centres[classes[owner]], 0) * block.layer * 0.8
        rows = (shown + rng.normal(size=(len(owner), WIDTH))) * [1, 100, 0.1, 1, 1, 1] + [0, 50, 0, 0, 3, 0]
        np.save(folder / file_name(block), rows.astype(np.float16))
    return Features(folder=folder, blocks=BLOCKS, owner=owner, texts=texts, digest=f"{seed} {texts}")


def one_hot(classes: np.ndarray) -> np.ndarray:
    return np.eye(classes.max() + 1, dtype=np.float32)[classes]


CLASSES = np.random.default_rng(1).integers(0, 2, 300)
THREE = np.random.default_rng(1).integers(0, 3, 300)
FAMILIES = [f"family {i % 60}" for i in range(300)]
LABELS = ("benign", "attack")
SMALL = {"sizes": (5, 20, 100), "seeds": 2, "penalties": (1.0, 0.01)}


def run(folder: Path, features: Features, classes: np.ndarray = CLASSES, **changes) -> Sweep:
    labels = ("benign", "attack", "other")[: classes.max() + 1]
    asked = {**SMALL, "labels": labels, "targets": one_hot(classes), "families": FAMILIES, **changes}
    targets, families = asked.pop("targets"), asked.pop("families")
    return sweep(features, targets, families, folder=folder, **asked)


@pytest.fixture
def features(tmp_path) -> Features:
    return made(tmp_path / "features", CLASSES)


def test_there_is_a_record_for_each_candidate_size_seed_and_penalty(tmp_path, features):
    found = run(tmp_path, features)
    names = ["1 mean", "1 max", "1 mean+max", "2 mean", "2 max", "2 mean+max"]
    keys = [(r.name, r.size, r.seed, r.c) for r in found.records]
    assert keys == [(n, size, seed, c) for size in (5, 20, 100) for n in names for seed in (0, 1) for c in (0.01, 1.0)]
    assert found.no_recall == "recall at 1% false positives needs 100 benign test texts; there are 41"
    assert all(record.recall is None for record in found.records)
    best = {row.name: row.auc.mean for row in found.summary() if row.size == 100}
    assert best["2 mean"] > best["1 mean"] > 0.6
    assert best["2 mean+max"] > 0.8


def test_sizes_that_cannot_be_drawn_are_named(tmp_path, features):
    found = run(tmp_path, features, sizes=(1, 5, 20, 5000), candidates=[BLOCKS[:1]])
    draw = found.parts.draw
    assert found.left_out == ("1 texts: fewer than the 2 classes", f"5000 texts: there are {draw} to draw from")
    assert {record.size for record in found.records} == {5, 20}
    with pytest.raises(UnsupportedValueError, match="no size can be drawn: 5000 texts"):
        run(tmp_path / "none", features, sizes=(5000,))


def test_an_interrupted_sweep_equals_an_unbroken_one(tmp_path, features):
    asked = {"candidates": [BLOCKS[:1], BLOCKS[2:]]}
    whole = run(tmp_path / "whole", features, **asked)
    file = tmp_path / "whole" / "sweep.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    assert len(lines) == 1 + 2 * 3
    for number, left in enumerate((b"", lines[0][:9], b"".join(lines[:1]), b"".join(lines[:5]) + lines[5][:40])):
        broken = tmp_path / f"broken {number}" / "sweep.jsonl"
        broken.parent.mkdir()
        broken.write_bytes(left)
        assert run(broken.parent, features, **asked) == whole
        assert broken.read_bytes() == file.read_bytes()


def test_what_is_known_is_not_fitted_again(tmp_path, features, monkeypatch):
    fitted, fit = [], module._fit_unit

    def counted(plan, *unit):
        if len(fitted) == 4 and interrupt:
            raise KeyboardInterrupt
        fitted.append(unit)
        return fit(plan, *unit)

    monkeypatch.setattr(module, "_fit_unit", counted)
    interrupt = True
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, features)
    interrupt, seen = False, []
    resumed = run(tmp_path, features, progress=lambda done, total: seen.append((done, total)))
    assert len(fitted) == len(set(fitted)) == 18
    assert seen == [(done * 4, 72) for done in range(4, 19)]
    assert resumed == run(tmp_path / "whole", features) == run(tmp_path, features)


def test_a_folder_of_another_sweep_is_refused(tmp_path, features):
    run(tmp_path, features, candidates=[BLOCKS[:1]])
    flipped = one_hot(CLASSES)
    flipped[[3, 4]] = [[0.4, 0.6], [0.3, 0.7]]
    for changes in (
        {},
        {"candidates": [BLOCKS[1:2]]},
        {"candidates": [BLOCKS[:1]], "seeds": 3},
        {"candidates": [BLOCKS[:1]], "penalties": (1.0,)},
        {"candidates": [BLOCKS[:1]], "sizes": (5, 20)},
        {"candidates": [BLOCKS[:1]], "targets": flipped},
        {"candidates": [BLOCKS[:1]], "families": [*FAMILIES[:-1], "new"]},
    ):
        with pytest.raises(UnsupportedValueError, match=r"holds a sweep over other.*give another folder"):
            run(tmp_path, features, **changes)
    with pytest.raises(UnsupportedValueError, match="holds a sweep over other"):
        run(tmp_path, replace(features, digest="another"), candidates=[BLOCKS[:1]])
    file = tmp_path / "sweep.jsonl"
    lines = file.read_text().splitlines()
    for line, message in ((lines[3], "of something else"), ("{}x", "damaged")):
        file.write_text("\n".join([lines[0], line, *lines[2:]]) + "\n")
        with pytest.raises(UnsupportedValueError, match=rf"sweep.jsonl:2: .*{message}"):
            run(tmp_path, features, candidates=[BLOCKS[:1]])


def test_processes_change_nothing(tmp_path, features):
    asked = {"candidates": [BLOCKS[:1], BLOCKS[2:]], "sizes": (5, 20)}
    assert run(tmp_path / "two", features, jobs=2, **asked) == run(tmp_path / "one", features, **asked)


def plan_of(features: Features, classes: np.ndarray, targets: np.ndarray | None = None, penalties=(0.01, 1.0)):
    targets = one_hot(classes) if targets is None else targets
    labels = ("benign", "attack", "other")[: targets.shape[1]]
    return module._Plan.of(features, targets, FAMILIES, labels, each_layer(BLOCKS), (20, 100), 2, penalties)


@pytest.mark.parametrize("c", [0.01, 1.0])
def test_a_fit_is_that_of_fit_windows(features, c):
    plan = plan_of(features, CLASSES)
    texts = module.draw(plan.parts.draw, plan.classes, 100, 0)
    windows = np.flatnonzero(np.isin(features.owner, texts))
    rows = features.of(BLOCKS[2:3], windows)
    owner = np.searchsorted(texts, features.owner[windows])
    expected = fit_windows(rows, owner, CLASSES[texts], np.ones(len(texts), np.float32), c=c)
    found = module._fit_sample(plan, BLOCKS[2:3], texts)[plan.penalties.index(c)]
    everything = features.of(BLOCKS[2:3])
    pair = found.logits(everything)[:, 0], expected.logits(everything)[:, 0]
    # The scaler is that of all windows here, and of those that stand for their texts there.
    assert np.corrcoef(*pair)[0, 1] > 0.99
    np.testing.assert_allclose(*pair, atol=0.35 * np.std(pair[1]))


def test_a_path_that_starts_warm_ends_where_single_fits_do(features):
    # Alone, a strong penalty has nothing to start from; as the last of a path it starts far away.
    together = plan_of(features, CLASSES, penalties=(0.001, 0.1, 10.0))
    texts = module.draw(together.parts.draw, together.classes, 100, 1)
    path = module._fit_sample(together, BLOCKS[2:], texts)
    rows = features.of(BLOCKS[2:])
    for number, c in enumerate(together.penalties):
        alone = module._fit_sample(plan_of(features, CLASSES, penalties=(c,)), BLOCKS[2:], texts)[0].logits(rows)
        np.testing.assert_allclose(path[number].logits(rows), alone, atol=0.05 * alone.std())


def test_a_soft_text_counts_for_each_class_by_its_probability(tmp_path):
    classes = np.arange(300) % 3
    features = made(tmp_path, classes, most=1)
    soft = np.random.default_rng(3).dirichlet([1, 1, 1], 300).astype(np.float32) * 0.4 + one_hot(classes) * 0.6
    for targets in (soft, soft[:, :2] / soft[:, :2].sum(axis=1, keepdims=True)):
        plan = plan_of(features, classes, targets)
        texts = module.draw(plan.parts.draw, plan.classes, 100, 0)
        found = module._fit_sample(plan, BLOCKS[2:3], texts)[1]
        rows = features.of(BLOCKS[2:3])
        scale = rows[texts].std(axis=0)
        count = targets.shape[1]
        if count == 3:  # With two, one that is attacked is fitted to its highest window, here its only one.
            assert found.weight.shape == (WIDTH, 3)
        model = LogisticRegression(C=1.0, tol=1e-6, max_iter=1000)
        model.fit(
            np.repeat((rows / scale)[texts], count, axis=0),
            np.tile(np.arange(count), len(texts)),
            sample_weight=targets[texts].ravel(),
        )
        expected = model.decision_function(rows / scale).reshape(300, -1)
        got = found.logits(rows)
        np.testing.assert_allclose(got - got.mean(axis=1, keepdims=True) * (count == 3), expected, atol=0.02)


def test_more_classes_are_aggregated_as_a_head_does():
    rng = np.random.default_rng(0)
    owner = np.sort(np.r_[np.arange(9), rng.integers(0, 9, 30)])
    for columns, kind, labels in ((4, "multiclass", ("a", "b", "c")), (1, "binary", ("a",))):
        logits = (rng.normal(size=(39, columns)) * 5).astype(np.float32)
        spec = HeadSpec(name="h", kind=kind, labels=labels)
        stack = HeadStack([spec], np.eye(columns, dtype=np.float32), np.zeros(columns, np.float32))
        expected = np.stack([stack.text_scores(logits[owner == i])["h"] for i in range(9)])
        found = text_columns(logits, owner, 9)
        raised = np.exp(found - found.max(axis=1, keepdims=True))
        np.testing.assert_allclose((raised / raised.sum(axis=1, keepdims=True))[:, 1:], expected, rtol=1e-4)


def test_figures_are_those_of_scikit_learn(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FEWEST_BENIGN", 20)
    monkeypatch.setattr(module, "_PIECE", 7)  # Windows are scored piece by piece.
    for classes in (CLASSES, THREE):
        features = made(tmp_path / str(classes.max()), classes)
        found = run(tmp_path / f"s{classes.max()}", features, classes, candidates=[BLOCKS[2:]], sizes=(100,))
        plan = plan_of(features, classes)
        columns = module._fit_sample(plan, BLOCKS[2:], module.draw(plan.parts.draw, plan.classes, 100, 1))[0]
        test = plan.parts.test
        rows = np.isin(features.owner, test)
        logits = text_columns(
            columns.logits(features.of(BLOCKS[2:], rows)), np.searchsorted(test, features.owner[rows]), len(test)
        ).astype(np.float64)
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        record = next(record for record in found.records if (record.seed, record.c) == (1, 0.01))
        harm = 1 - probabilities[:, 0]
        expected = (
            roc_auc_score(classes[test], harm)
            if classes.max() == 1
            else roc_auc_score(classes[test], probabilities, multi_class="ovr")
        )
        assert record.auc == pytest.approx(expected, abs=1e-3)
        false, true, _ = roc_curve(classes[test] > 0, harm, drop_intermediate=False)
        assert record.recall == pytest.approx(true[false <= 0.01].max(), abs=1e-6)


def test_a_sample_smaller_than_the_classes_is_left_out(tmp_path):
    features = made(tmp_path / "f", THREE)
    found = run(tmp_path, features, THREE, candidates=[BLOCKS[:1]], sizes=(2, 3, 20))
    assert found.left_out == ("2 texts: fewer than the 3 classes",)
    assert {record.size for record in found.records} == {3, 20}
    assert found.labels == ("benign", "attack", "other")


def test_texts_to_test_play_no_part_in_fit_or_choice(tmp_path, features):
    whole = run(tmp_path / "a", features, candidates=[BLOCKS[:1]])
    parts = split(CLASSES, FAMILIES, LABELS)
    spoiled = one_hot(CLASSES)
    spoiled[parts.test[:20]] = spoiled[parts.test[:20]] * 0.2 + 0.4  # Soft, of the same class.
    assert run(tmp_path / "b", features, candidates=[BLOCKS[:1]], targets=spoiled).records == whole.records
    file = features.folder / file_name(BLOCKS[0])
    rows = np.load(file)
    rows[np.isin(features.owner, parts.test)] *= -1
    np.save(file, rows)
    other = run(tmp_path / "c", features, candidates=[BLOCKS[:1]])
    assert [record.choice for record in other.records] == [record.choice for record in whole.records]
    assert [record.auc for record in other.records] != [record.auc for record in whole.records]


@given(st.integers(2, 4), st.integers(2, 12), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_no_family_is_on_both_sides_and_every_class_on_all(classes, families, seed):
    rng = np.random.default_rng(seed)
    own = rng.integers(0, classes, 120)
    family = np.array([f"f{i}" for i in rng.integers(0, families, 120)])
    labels = tuple("abcd"[:classes])
    try:
        parts = split(own, family.tolist(), labels)
    except UnsupportedValueError:
        assert any(len(set(family[own == k])) < 2 for k in range(classes)) or families < 4
        return
    assert sorted(np.concatenate([parts.draw, parts.choice, parts.test])) == list(range(120))
    assert not set(family[parts.test]) & set(family[np.r_[parts.draw, parts.choice]])
    if parts.choice_by_family:
        assert not set(family[parts.choice]) & set(family[parts.draw])
    for part in (parts.draw, parts.choice, parts.test):
        assert set(own[part]) == set(own)


def test_parts_have_the_shares_that_are_promised():
    rng = np.random.default_rng(0)
    own = rng.choice(3, 2000, p=[0.8, 0.15, 0.05])
    parts = split(own, [f"f{i}" for i in rng.integers(0, 300, 2000)], "abc")
    assert parts.choice_by_family
    for k in range(3):
        total = (own == k).sum()
        assert (own[parts.test] == k).sum() / total == pytest.approx(0.25, abs=0.03)
        assert (own[parts.choice] == k).sum() / total == pytest.approx(0.15, abs=0.02)


def test_what_cannot_be_split_says_why():
    own = np.arange(20) % 2
    with pytest.raises(UnsupportedValueError, match="two classes at least; these have a"):
        split(own * 0, ["x"] * 20, "ab")
    families = np.where(own == 1, "only", [f"f{i}" for i in range(20)])
    with pytest.raises(UnsupportedValueError, match=r"all texts of b are of one family.*near-duplicates"):
        split(own, families.tolist(), "ab")
    with pytest.raises(UnsupportedValueError, match="too few texts"):
        split(np.array([0, 0, 0, 1, 1]), list("abcde"), "ab")
    # Two families of each class: one tests, the other is split text by text.
    parts = split(own, [f"{i % 2} {i < 8}" for i in range(20)], "ab")
    assert not parts.choice_by_family


@given(st.lists(st.integers(1, 50), min_size=2, max_size=6), st.data())
def test_a_sample_has_each_class_by_its_share_and_one_at_least(available, data):
    size = data.draw(st.integers(len(available), sum(available)))
    counts = allot(np.array(available), size)
    assert counts.sum() == size
    assert (counts >= 1).all()
    assert (counts <= available).all()
    exact = np.array(available) * size / sum(available)
    assert (counts <= np.maximum(np.ceil(exact), 1)).all()


def test_long_texts_give_only_some_of_their_windows(tmp_path):
    features = made(tmp_path, CLASSES, most=60)
    plan = plan_of(features, CLASSES)
    counts = np.bincount(features.owner[plan.windows], minlength=300)
    all_counts = np.bincount(features.owner, minlength=300)
    drawn = np.isin(np.arange(300), plan.parts.draw)
    expected = np.where(drawn, np.minimum(all_counts, np.where(CLASSES == 0, 4, 20)), 0)
    np.testing.assert_array_equal(counts, expected)


def record(**changes) -> Record:
    own = {"blocks": [{"layer": 1, "pooling": "mean"}], "size": 5, "seed": 0, "c": 1.0, "f1": 0.5, "auc": 0.5}
    return Record.model_validate({**own, "recall": None, "choice": 0.5, **changes})


def test_the_summary_chooses_by_texts_that_do_not_test(tmp_path, features):
    found = run(tmp_path, features, candidates=[BLOCKS[:1]])
    records = (
        record(seed=0, c=0.1, choice=0.9, auc=0.6, recall=0.1),
        record(seed=1, c=0.1, choice=0.7, auc=0.8, recall=0.3),
        record(seed=0, c=1.0, choice=0.7, auc=0.99),
        record(seed=1, c=1.0, choice=0.8, auc=0.99),
        record(size=10, c=1.0, choice=0.8),
        record(size=10, c=0.1, choice=0.8, f1=0.25),
    )
    small, large = found.model_copy(update={"records": records}).summary()
    assert (small.size, small.c, small.layer, small.name) == (5, 0.1, 1, "1 mean")
    assert small.auc.mean == pytest.approx(0.7)
    assert small.auc.sd == pytest.approx(0.2 / np.sqrt(2))
    assert (small.auc.low, small.auc.high) == (0.6, 0.8)
    assert small.recall.mean == pytest.approx(0.2)
    assert large.c == 0.1  # Of equal ones the strongest penalty.
    assert (large.f1, large.recall) == (Spread(mean=0.25, sd=None, low=0.25, high=0.25), None)


def test_a_sweep_survives_json(tmp_path, features):
    found = run(tmp_path, features, candidates=[BLOCKS[:1]])
    assert Sweep.model_validate_json(found.model_dump_json()) == found
    assert json.loads(found.model_dump_json())["parts"]["choice_by_family"] is True


def test_names_of_features():
    assert name_of([Block(4, "mean"), Block(4, "max")]) == "4 mean+max"
    assert name_of([Block(3, "mean"), Block(4, "gated", 1)]) == "3 mean, 4 gated[1]"
    assert each_layer([Block(2, "mean"), Block(1, "mean"), Block(1, "max")]) == (
        (Block(1, "mean"),),
        (Block(1, "max"),),
        (Block(1, "mean"), Block(1, "max")),
        (Block(2, "mean"),),
    )


def test_what_does_not_fit_is_refused(tmp_path, features):
    targets = one_hot(CLASSES)
    wrong = targets.copy()
    wrong[7] = [0.5, 0.9]
    nan = targets.copy()
    nan[7] = np.nan
    for changes, message in (
        ({"targets": targets[:-1]}, r"targets \(299, 2\)"),
        ({"families": FAMILIES[:-1]}, "299 families"),
        ({"labels": ("a", "b", "c")}, "3 labels"),
        ({"targets": wrong}, "sum to 1"),
        ({"targets": nan}, "sum to 1"),
        ({"targets": np.tile(np.float32([1, 0]), (300, 1))}, "no text is of class attack"),
        ({"seeds": 0}, "a seed"),
        ({"penalties": ()}, "a C above 0"),
        ({"penalties": (0.0,)}, "a C above 0"),
        ({"candidates": [()]}, "a candidate with a block"),
        ({"candidates": [[Block(9, "mean")]]}, "layer 9 mean was not collected"),
    ):
        with pytest.raises(UnsupportedValueError, match=message):
            run(tmp_path, features, **changes)
    silent = replace(features, owner=np.where(features.owner == 8, 7, features.owner))
    with pytest.raises(UnsupportedValueError, match=r"1 texts hold no token \(positions 8\)"):
        run(tmp_path, silent)
    assert not (tmp_path / "sweep.jsonl").exists()


def test_binary_texts_are_aggregated_as_in_fit():
    logits, owner = np.float32([[1.0], [2.0], [-3.0]]), np.array([0, 0, 1])
    found = text_columns(logits, owner, 2)
    np.testing.assert_array_equal(found[:, 1], text_logits(logits[:, 0], owner, 2, 1.0))
    np.testing.assert_array_equal(found[:, 0], 0)


def test_c_is_chosen_by_how_likely_it_makes_the_classes():
    random = np.random.default_rng(0)
    truth, logits = random.integers(0, 3, 50), random.normal(size=(50, 3)).astype(np.float32)
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert _likelihood(truth, logits) == pytest.approx(-log_loss(truth, chances), rel=1e-5)
