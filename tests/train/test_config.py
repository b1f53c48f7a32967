"""The file of a training run, and what overrides it."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from lec_guard import UnsupportedValueError
from lec_guard.detect.windows import WindowSpec
from lec_guard.train.config import TrainConfig
from lec_guard.train.data import Columns
from lec_guard.train.labels import LabelRules

WHOLE = """
    data: [more/rows.csv, ../a.jsonl]
    head: tone
    columns: {text: prompt, label: y}
    benign: fine
    positive: rude
    allow_labels: [rudest, 7]
    on_conflict: drop
    sample: 50
    stage: output
    model: models/tiny
    layers: [0, 3]
    poolings: [mean, first]
    sizes: [5, 10]
    seeds: 2
    penalties: [1e-3, 1]
    folds: 3
    window: {size: 32, stride: 15, least: 5}
    max_fpr: 0.001
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


def refused(path: Path | None, given: dict[str, object] | None = None) -> str:
    with pytest.raises(UnsupportedValueError) as caught:
        TrainConfig.read(path, given)
    return str(caught.value)


def test_a_file_says_everything_and_its_paths_start_at_its_folder(tmp_path):
    config = TrainConfig.read(write(tmp_path, WHOLE))
    assert config.data == (tmp_path / "more/rows.csv", tmp_path / "../a.jsonl")
    assert config.model == tmp_path / "models/tiny"
    assert (config.head, config.stage, config.sample, config.on_conflict) == ("tone", "output", 50, "drop")
    assert config.columns == Columns(text="prompt", label="y")
    assert config.columns.model_fields_set == {"text", "label"}
    assert config.labels == LabelRules(benign="fine", positive="rude", allow_labels=("rudest", "7"))
    assert (config.layers, config.poolings, config.sizes, config.seeds) == ((0, 3), ("mean", "first"), (5, 10), 2)
    assert (config.penalties, config.folds, config.max_fpr) == ((0.001, 1.0), 3, 0.001)
    assert config.window.spec == WindowSpec(size=32, stride=15, least=5)
    with pytest.raises(ValueError, match="frozen"):
        config.folds = 2


def test_what_is_not_said(tmp_path):
    config = TrainConfig.read(write(tmp_path, "data: a.csv\nhead: mine\n"))
    assert config.data == (tmp_path / "a.csv",)
    assert (config.model, config.layers, config.poolings, config.sample) == (None, None, None, None)
    assert config.sizes == (5, 10, 20, 35, 55, 100, 500, 1000, 5000)
    assert (config.seeds, len(config.penalties), config.folds, config.max_fpr) == (5, 5, 5, 0.01)
    assert config.window.spec == WindowSpec(size=64, stride=31, least=10)
    assert config.labels == LabelRules()


def test_flags_override_the_file_and_their_paths_start_where_the_command_runs(tmp_path):
    given = {"data": [Path("b.csv")], "seeds": 9, "columns": {"label": "z", "text": None}, "folds": None}
    config = TrainConfig.read(write(tmp_path, WHOLE), given)
    assert config.data == (Path("b.csv"),)
    assert config.model == tmp_path / "models/tiny"
    assert (config.seeds, config.folds) == (9, 3)
    assert config.columns == Columns(text="prompt", label="z")


def test_flags_alone_are_enough():
    config = TrainConfig.read(None, {"data": [Path("b.csv")], "head": "mine"})
    assert (config.data, config.head) == ((Path("b.csv"),), "mine")
    assert refused(None, {"data": [Path("b.csv")]}) == "head: Field required"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("seed: 3", "run.yaml:3:1: seed: Extra inputs are not permitted; did you mean 'seeds'?"),
        ("columns: {txt: a}", "run.yaml:3:11: columns.txt: Extra inputs are not permitted; did you mean 'text'?"),
        ("window:\n  siz: 3", "run.yaml:4:3: window.siz: Extra inputs are not permitted; did you mean 'size'?"),
        ("folds: 1", "run.yaml:3:1: folds: Input should be greater than or equal to 2"),
        ("stage: inputs", "run.yaml:3:1: stage: Input should be 'input'"),
        ("poolings: [gated]", "run.yaml:3:12: poolings.0: Input should be 'mean'"),
        ("sizes: [5, 5]", "run.yaml:3:1: sizes: Value error, a value stands twice"),
        ("penalties: [0]", "run.yaml:3:13: penalties.0: Input should be greater than 0"),
        ("penalties: [.inf]", "run.yaml:3:13: penalties.0: Input should be a finite number"),
        ("max_fpr: 1", "run.yaml:3:1: max_fpr: Input should be less than 1"),
        ("benign: no", "run.yaml:3:1: benign: Value error, put the label in quotes"),
        ("allow_labels: [on]", "run.yaml:3:1: allow_labels: Value error, put the label in quotes"),
        ("positive: safe", "run.yaml:3:1: positive: Value error, 'safe' is a name of harmless texts"),
        ("seeds: 2\nseeds: 3", "run.yaml:4:1: the key 'seeds' stands twice"),
        ("seeds: [", "run.yaml:4:1: not valid YAML"),
        ("seeds: !!python/name:os.system x", "run.yaml:3:8: YAML tags are not allowed"),
    ],
)
def test_a_mistake_is_named_by_file_line_and_key(tmp_path, line, message):
    path = write(tmp_path, "data: a.csv\nhead: mine\n")
    path.write_text(path.read_text() + line + "\n")
    assert refused(path).startswith(str(tmp_path / message))


def test_all_mistakes_are_told_at_once_and_those_of_flags_name_no_file(tmp_path):
    path = write(tmp_path, "data: []\nhead: two words\nseeds: 0\n")
    first, second, third, fourth = refused(path, {"seeds": -1, "fold": 3}).splitlines()
    assert first.startswith(f"{path}:1:1: data: ")
    assert second.startswith(f"{path}:2:1: head: ")
    assert third.startswith("seeds: ")
    assert fourth == "fold: Extra inputs are not permitted; did you mean 'folds'?"


def test_a_file_that_is_none(tmp_path):
    assert "can't be read" in refused(tmp_path / "gone.yaml")
    assert "a run is `key: value` on each line, not list" in refused(write(tmp_path, "- a\n"))
    assert refused(write(tmp_path, "")).startswith(f"{tmp_path / 'run.yaml'}:1:1: data: Field required")


def test_labels_may_be_numbers(tmp_path):
    assert TrainConfig.read(write(tmp_path, "data: a.csv\nhead: mine\nbenign: 1\n")).benign == "1"
