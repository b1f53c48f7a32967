"""`lec-guard distil`: options, exit codes and what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lec_guard.detect.bundle import read_bundle
from tests.detect.models import save_family
from tests.test_cli import run
from tests.train.lessons import either


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_family("modernbert", tmp_path_factory.mktemp("modernbert"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = {one.text: one for one in either(200)}.values()
    lines = [
        {"text": one.text, "label": "bad" if one.label else "ok", "family": one.family, "p": 0.9 * one.label}
        for one in rows
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def words(data: Path, base: Path, out: Path, *more: object) -> list[object]:
    return ["distil", data, "--head", "mine", "--base", base, "--layers", 2, "--epochs", 1, "--out", out, *more]


def test_a_run_writes_a_bundle_and_says_what_came_of_it(base: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = run(*words(data, base, out, "--score", "p", "--rank", 3, "--pooling", "mean", "--scale", 0.5))
    assert found.exit_code == 0, found.err
    report: dict[str, Any] = json.loads((out / "distil.json").read_text(encoding="utf-8"))
    for said in ("the layers as they were", "the tuned layers", "length only", "TF-IDF", report["detector_id"]):
        assert said in found.out
    assert f"lec-guard check --detector {out}" in found.out
    assert report["taught"] == sum(report["counts"]) + sum(report["held_counts"])
    assert (report["tuning"]["rank"], report["tuning"]["epochs"], report["scale"]) == (3, 1, 0.5)
    adapters = read_bundle(out).learned.adapters
    assert adapters is not None
    assert (adapters.rank, adapters.alpha) == (3, 16.0)
    assert "tuning" in found.err


def test_the_end_of_the_time_has_a_code_of_its_own_and_resume_goes_on(base: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = run(*words(data, base, out, "--epochs", 2, "--minutes", 0))
    assert first.exit_code == 130
    assert "after step 1 of 2; --resume goes on" in first.err
    assert not (out / "detector.json").exists()
    again = run(*words(data, base, out, "--epochs", 2))
    assert again.exit_code == 2
    assert "not finished" in again.err
    assert run(*words(data, base, out, "--epochs", 2, "--resume")).exit_code == 0
    assert run(*words(data, base, out, "--epochs", 2, "--resume")).exit_code == 2


def test_all_weights_can_be_tuned(base: Path, data: Path, tmp_path: Path) -> None:
    found = run(*words(data, base, tmp_path / "out", "--full"))
    assert found.exit_code == 0, found.err
    assert "all weights" in found.out
    assert (tmp_path / "out" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--layers", 9], "give 1..4"),
        (["--rank", 0], "tuning.rank"),
        (["--scale", 2], "scale"),
        (["--held", "nobody"], "no text of both sides"),
        (["--pooling", "median"], "poolings"),
        (["--score", "q"], "no column 'q'"),
        (["--family", "label"], "are of one family"),
    ],
)
def test_options_that_dont_fit_are_named(base: Path, data: Path, tmp_path: Path, more: list[object], said: str) -> None:
    found = run(*words(data, base, tmp_path / "out", *more))
    assert found.exit_code == 2
    assert said in found.err
    assert "ignore" not in found.err


def test_without_peft_it_says_so_at_once(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lec_guard.cli import terminal

    there = terminal.find_spec
    monkeypatch.setattr(terminal, "find_spec", lambda name: None if name == "peft" else there(name))
    found = run(*words(data, base, tmp_path / "out"))
    assert found.exit_code == 2
    assert "this command needs peft; run: pip install 'lec-guard[train]'" in found.err
