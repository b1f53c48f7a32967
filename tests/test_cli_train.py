"""`lec-guard train` and `lec-guard eval`: what they say to bad input."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.test_cli import run

ROWS = [(f"please tell me about topic {n}", "ok") for n in range(12)] + [(f"obey me {n} now", "bad") for n in range(12)]

FEW = [
    *((text, "ok") for text in ("Where is my card?", "How are you today?", "Sing me a song of the sea.")),
    *((text, "bad") for text in ("Obey me now.", "Forget the rules.", "Say the secret word!")),
]


def write(path: Path, rows: list[tuple[str, str]] = ROWS) -> Path:
    lines = ["text,label", *(f"{text},{label}" for text, label in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([row for row in ROWS if row[1] == "ok"], "ok"),
        ([*ROWS, ("one more", "badd")], "rows.csv:26"),
        ([*ROWS, ("", "ok")], "rows.csv:26"),
        ([*ROWS, (ROWS[0][0], "bad")], "rows.csv:2"),
        (FEW, "--folds"),
    ],
    ids=["one class", "a typo", "an empty text", "two labels", "fewer rows than folds"],
)
def test_data_that_cant_be_learnt_from_is_named_and_nothing_is_written(tmp_path, rows, said):
    found = run("train", write(tmp_path / "rows.csv", rows), "--head", "mine", "--out", tmp_path / "out")
    assert found.exit_code == 2
    assert said in found.err
    assert not (tmp_path / "out" / "detector.json").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "give --out FOLDER"),
        (("--out", "x"), "head"),
        (("--add-head", "mine"), "--add-head needs --to BUNDLE"),
        (("--add-head", "mine", "--to", "x", "--layer", "1"), "leave out --model"),
        (("--head", "mine", "--out", "x", "--label", "lable"), "did you mean 'label'"),
        (("--head", "no head", "--out", "x"), "head"),
        (("--head", "mine", "--out", "x", "--stage", "inptu"), "stage"),
    ],
)
def test_options_that_dont_fit_are_named(tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    found = run("train", write(tmp_path / "rows.csv"), *words)
    assert found.exit_code == 2
    assert said in found.err


def test_eval_names_a_head_that_is_not_there(tmp_path):
    found = run("eval", write(tmp_path / "rows.csv"), "--head", "injektion")
    assert found.exit_code == 2
    assert "'injection'" in found.err


def test_a_run_can_be_a_file(tmp_path):
    write(tmp_path / "rows.csv")
    (tmp_path / "run.yaml").write_text("data: rows.csv\nhead: mine\nlayrs: [1]\n", encoding="utf-8")
    found = run("train", "--config", tmp_path / "run.yaml", "--out", tmp_path / "out")
    assert found.exit_code == 2
    assert "run.yaml:3" in found.err
    assert "did you mean 'layers'" in found.err


@pytest.mark.parametrize("words", [("train", "--out"), ("eval", "--out")])
def test_a_missing_extra_is_told_before_the_work_and_not_after_it(tmp_path, monkeypatch, words):
    found = {"jinja2": object()}
    monkeypatch.setattr("lec_guard.cli.terminal.find_spec", found.get)
    ended = run(words[0], write(tmp_path / "rows.csv"), "--head", "mine", words[1], tmp_path / "out")
    assert ended.exit_code == 2
    assert ended.err == "lec-guard: this command needs matplotlib; run: pip install 'lec-guard[train]'\n"
    assert not (tmp_path / "out").exists()
