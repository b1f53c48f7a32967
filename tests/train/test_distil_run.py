"""From labelled texts to a bundle whose layers were tuned."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lec_guard import Guard, LayerDetector, Step
from lec_guard.detect.bundle import ADAPTERS, read_bundle
from lec_guard.errors import BundleError, UnsupportedValueError
from lec_guard.train import distil_run
from lec_guard.train.config import TrainConfig
from lec_guard.train.distil_run import DistilReport, DistilRun, Unfinished, distil_bundle
from lec_guard.train.trainer import add_head
from tests.detect.models import save_family
from tests.train.lessons import either

ROWS = [
    {"text": one.text, "label": "override" if one.label else "ok", "family": one.family}
    for one in {one.text: one for one in either(640)}.values()
]
TUNING = {"epochs": 6, "rate": 0.01, "rank": 4, "alpha": 8.0, "tokens": 600}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_family("modernbert", tmp_path_factory.mktemp("modernbert"))


def write(path: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def config(data: Path, base: Path, **given: Any) -> DistilRun:
    own = {
        "data": [data],
        "head": "mine",
        "base": str(base),
        "layers": 2,
        "poolings": ["mean"],
        "penalties": [0.1, 1.0],
        "window": {"size": 16, "stride": 7, "least": 4},
        "tuning": {**TUNING, **given.pop("tuning", {})},
    }
    return DistilRun.read(None, own | given)


@pytest.fixture(scope="module")
def made(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[DistilReport, Path]:
    folder = tmp_path_factory.mktemp("run")
    report = distil_bundle(config(write(folder / "rows.jsonl"), base), folder / "out")
    assert isinstance(report, DistilReport)
    return report, folder / "out"


def test_what_is_written_is_a_bundle_and_a_policy_that_work(made: tuple[DistilReport, Path]) -> None:
    report, out = made
    detector = LayerDetector.load(out)
    assert detector.detector_id == report.detector_id
    guard = Guard.from_policies(out / "policy.yaml", detector=detector)
    held = [row for row in ROWS if row["family"] in report.held]
    blocked = [guard.check(Step(stage="input", text=row["text"])).blocked for row in held]
    assert np.mean(np.array(blocked) == [row["label"] == "override" for row in held]) > 0.9
    assert json.loads((out / "distil.json").read_text(encoding="utf-8")) == json.loads(report.model_dump_json())
    assert {path.name for path in out.iterdir()} == {
        "detector.json", "heads.safetensors", ADAPTERS, "policy.yaml", "distil.json",
    }  # fmt: skip
    bundle = read_bundle(out)
    assert bundle.learned.adapters is not None
    assert report.bytes == bundle.learned.adapters.size
    assert {own.a.dtype for own in bundle.learned.adapters.factors.values()} == {np.dtype(np.float16)}


def test_it_does_better_than_the_layers_as_they_were_on_families_that_nothing_has_seen(
    made: tuple[DistilReport, Path],
) -> None:
    report, _ = made
    assert report.before.auc < 0.8
    assert report.after.auc > 0.95
    assert report.after.loss < report.before.loss
    assert set(report.baselines) == {"length only", "TF-IDF + logistic regression"}
    assert all(0.2 < auc < 0.8 for auc in report.baselines.values() if auc is not None)
    assert report.how == "adapters"
    assert report.taught == 0
    assert report.losses[-1] < report.losses[0]


def test_calibration_and_thresholds_come_of_held_out_families_alone(made: tuple[DistilReport, Path]) -> None:
    report, out = made
    held = [row for row in ROWS if row["family"] in report.held]
    benign = [row for row in held if row["label"] == "ok"]
    assert report.held_counts == (len(benign), len(held) - len(benign))
    assert sum(report.counts) == len(ROWS) - len(held)
    (bar,) = report.bars
    assert bar.texts == len(benign)
    (entry,) = read_bundle(out).spec.heads[0].benign
    assert entry.texts == len(benign)
    # And the head says of them what the report counted.
    detector = LayerDetector.load(out)
    scores = [detector.score([Step(stage="input", text=row["text"])])[0].by_head["mine"]["override"] for row in benign]
    assert sum(score >= bar.threshold for score in scores) == bar.stopped


def test_held_out_texts_change_neither_adapters_nor_columns(
    base: Path, made: tuple[DistilReport, Path], tmp_path: Path
) -> None:
    report, out = made
    other = [
        {**row, "text": row["text"] + " 9."} if row["family"] in report.held and row["label"] == "ok" else row
        for row in ROWS
    ]
    run = config(write(tmp_path / "rows.jsonl", other), base, held=list(report.held), penalties=[report.after.penalty])
    distil_bundle(run, tmp_path / "out")
    assert (tmp_path / "out" / ADAPTERS).read_bytes() == (out / ADAPTERS).read_bytes()
    one, two = (read_bundle(folder).learned.heads.weight[:, 0] for folder in (out, tmp_path / "out"))
    # Calibration may turn the column, but not elsewhere.
    assert one @ two / np.linalg.norm(one) / np.linalg.norm(two) == pytest.approx(1, abs=1e-5)


def test_all_weights_make_a_base_of_the_bundles_own(base: Path, tmp_path: Path) -> None:
    run = config(write(tmp_path / "rows.jsonl"), base, tuning={"full": True, "rate": 0.003})
    report = distil_bundle(run, tmp_path / "out")
    assert isinstance(report, DistilReport)
    assert report.how == "all weights"
    assert report.bytes == (tmp_path / "out" / "model.safetensors").stat().st_size
    assert report.after.auc > max(report.before.auc, 0.9)
    # It needs nothing but itself, wherever it lies.
    moved = Path(shutil.move(tmp_path / "out", tmp_path / "moved"))
    before = LayerDetector.load(moved).score([Step(stage="input", text="ignore the weather")])[0].by_head["mine"]
    # Nor does it when another head is added to it.
    rows = write(tmp_path / "more.jsonl", ROWS[:200])
    added = add_head(TrainConfig.read(None, {"data": [rows], "head": "more", "folds": 2, "penalties": [0.1]}), moved)
    assert added.notes == ()
    again = Path(shutil.move(moved, tmp_path / "again"))
    scores = LayerDetector.load(again).score([Step(stage="input", text="ignore the weather")])[0].by_head
    assert scores["mine"]["override"] == pytest.approx(before["override"], abs=1e-6)
    assert set(scores) == {"mine", "more", "reading"}


def test_a_head_that_is_added_to_adapters_keeps_them_and_says_what_they_may_have_seen(
    made: tuple[DistilReport, Path], tmp_path: Path
) -> None:
    out = Path(shutil.copytree(made[1], tmp_path / "out"))
    rows = write(tmp_path / "more.jsonl", ROWS[:200])
    run = TrainConfig.read(None, {"data": [rows], "head": "more", "folds": 2, "penalties": [0.1]})
    added = add_head(run, out)
    assert any("adapters may have been trained on these families" in note for note in added.notes)
    assert (out / ADAPTERS).read_bytes() == (made[1] / ADAPTERS).read_bytes()
    step = Step(stage="input", text="ignore the weather")
    both, one = (LayerDetector.load(folder).score([step])[0].by_head for folder in (out, made[1]))
    assert both["mine"]["override"] == pytest.approx(one["mine"]["override"], abs=1e-6)


def test_when_the_time_is_over_it_goes_on_and_ends_the_same(
    base: Path, made: tuple[DistilReport, Path], tmp_path: Path
) -> None:
    run, out = config(write(tmp_path / "rows.jsonl"), base), tmp_path / "out"
    first = distil_bundle(run, out, minutes=0)
    assert isinstance(first, Unfinished)
    assert (first.steps, first.total) == (1, made[0].steps)
    assert not (out / "detector.json").exists()
    with pytest.raises(UnsupportedValueError, match="not finished"):
        distil_bundle(run, out)
    report = distil_bundle(run, out, resume=True)
    assert isinstance(report, DistilReport)
    assert (out / ADAPTERS).read_bytes() == (made[1] / ADAPTERS).read_bytes()
    assert report.after == made[0].after
    with pytest.raises(BundleError, match="holds a bundle already"):
        distil_bundle(run, out)


def test_part_of_the_way_is_kept(base: Path, made: tuple[DistilReport, Path], tmp_path: Path) -> None:
    report = distil_bundle(config(write(tmp_path / "rows.jsonl"), base, scale=0.5), tmp_path / "out")
    assert isinstance(report, DistilReport)
    half, whole = (read_bundle(folder).learned.adapters for folder in (tmp_path / "out", made[1]))
    assert half is not None
    assert whole is not None
    assert half.alpha == whole.alpha / 2
    np.testing.assert_array_equal(half.tensors()["1.mlp.Wi.A"], whole.tensors()["1.mlp.Wi.A"])


def test_a_teachers_scores_are_learnt_and_counted(base: Path, made: tuple[DistilReport, Path], tmp_path: Path) -> None:
    """By the column, or by labels that are probabilities."""
    scored = [
        {**row, "p": f"{0.9 if row['label'] == 'override' else 0.2}" if at % 4 else ""} for at, row in enumerate(ROWS)
    ]
    soft = [{**row, "label": 0.9 if row["label"] == "override" else 0.2} for row in ROWS]
    for name, rows, taught in (
        ("scored", scored, sum(1 for at in range(len(ROWS)) if at % 4)),
        ("soft", soft, len(ROWS)),
    ):
        run = config(write(tmp_path / f"{name}.jsonl", rows), base, columns={"score": "p"} if name == "scored" else {})
        report = distil_bundle(run, tmp_path / name)
        assert isinstance(report, DistilReport)
        assert report.taught == taught
        assert report.after.auc > 0.9
        assert (tmp_path / name / ADAPTERS).read_bytes() != (made[1] / ADAPTERS).read_bytes()


def test_several_classes_make_a_head_of_several_labels(base: Path, tmp_path: Path) -> None:
    rows = [
        {**row, "label": "ok" if row["label"] == "ok" else "first" if "ignore" in row["text"] else "second"}
        for row in ROWS
    ]
    report = distil_bundle(config(write(tmp_path / "rows.jsonl", rows), base), tmp_path / "out")
    assert isinstance(report, DistilReport)
    assert report.labels == ("ok", "first", "second")
    assert LayerDetector.load(tmp_path / "out").labels["mine"] == ("first", "second")
    assert report.after.auc > report.before.auc


def test_without_a_word_about_them_two_thirds_of_the_layers_are_kept(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def stop(lessons: object, folder: object, own: Any, **_: object) -> None:
        seen.append(own)
        raise UnsupportedValueError("stopped")

    monkeypatch.setattr(distil_run, "distil", stop)
    run = DistilRun.read(None, {"data": [write(tmp_path / "rows.jsonl")], "head": "mine", "base": str(base)})
    with pytest.raises(UnsupportedValueError, match="stopped"):
        distil_bundle(run, tmp_path / "out")
    assert seen[0].layers == 3  # of 4
    assert [block.pooling for block in seen[0].blocks] == ["mean", "max"]
    decoder = save_family("qwen2", tmp_path / "qwen2")
    with pytest.raises(UnsupportedValueError, match="stopped"):
        distil_bundle(run.model_copy(update={"base": str(decoder)}), tmp_path / "out")
    assert [block.pooling for block in seen[1].blocks] == ["mean", "max", "last"]


@pytest.mark.parametrize(
    ("given", "error", "word"),
    [
        ({"layers": 9}, UnsupportedValueError, "the model has 4, and 9 can't be kept: give 1..4"),
        ({"base": "./no/such/folder"}, BundleError, "no such folder, and no name of a package either"),
        ({"base": "no-such-package"}, BundleError, "pip install no-such-package"),
        ({"held": ["good 1"]}, UnsupportedValueError, "no text of both sides"),
        ({"held": ["nobody"]}, UnsupportedValueError, "no text of both sides"),
        ({"held": ["good 1", "bad 1", "nobody"]}, UnsupportedValueError, "no text is of the family 'nobody'"),
    ],
)
def test_a_run_that_can_not_be_is_refused(
    base: Path, tmp_path: Path, given: dict[str, Any], error: type[Exception], word: str
) -> None:
    with pytest.raises(error, match=word):
        run = config(write(tmp_path / "rows.jsonl"), base).model_copy(update=given)
        distil_bundle(run, tmp_path / "out")
    assert not (tmp_path / "out" / "detector.json").exists()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda row: {**row, "label": "ok"}, "ok"),
        (lambda row: {**row, "family": "one"}, "of one family"),
        (lambda row: {**row, "score": 1.5}, "'score' must hold a teacher's probability in 0..1"),
        (lambda row: {**row, "score": "high"}, "'score' must hold"),
        (lambda row: {**row, "score": True}, "'score' must hold"),
    ],
    ids=["one class", "one family", "above 1", "a word", "a truth value"],
)
def test_data_that_can_not_be_learnt_from_is_refused(
    base: Path, tmp_path: Path, change: Callable[[dict[str, Any]], dict[str, Any]], word: str
) -> None:
    data = write(tmp_path / "rows.jsonl", [change(row) for row in ROWS[:60]])
    with pytest.raises(UnsupportedValueError, match=word):
        distil_bundle(config(data, base), tmp_path / "out")


def test_a_file_names_all_of_it_and_typos_are_told(base: Path, tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl")
    shutil.copytree(base, tmp_path / "base")
    file = tmp_path / "run.yaml"
    file.write_text("data: rows.jsonl\nhead: mine\nbase: base\ntuning:\n  epochs: 1\n  rank: 2\n", encoding="utf-8")
    run = DistilRun.read(file, {"tuning": {"rank": 3}, "columns": {"score": "p"}})
    assert run.base == str(tmp_path / "base")
    assert (run.tuning.epochs, run.tuning.rank) == (1, 3)
    assert run.columns.model_fields_set == {"score"}
    file.write_text("data: rows.jsonl\nhead: mine\ntuning:\n  epocs: 1\n", encoding="utf-8")
    with pytest.raises(UnsupportedValueError, match=r"run\.yaml:4:3: tuning\.epocs: .*mean \'epochs\'"):
        DistilRun.read(file)
    file.write_text("data: rows.jsonl\nhead: mine\nfolds: 3\n", encoding="utf-8")
    with pytest.raises(UnsupportedValueError, match=r"run\.yaml:3:1: folds"):
        DistilRun.read(file)
