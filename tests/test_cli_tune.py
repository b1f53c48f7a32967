"""`lec-guard pii-data`, `tune` and `pii-eval`: options, exit codes, what they say, and the page that shows them."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from lec_guard.cli import terminal
from tests.conftest import ROOT
from tests.test_cli import run
from tests.train.pii.made import NAMES, dialogues, generators, read_lines, save_lines, save_model, save_names

PAGE = (ROOT / "docs" / "tune.md").read_text(encoding="utf-8")
MORE = "Who keeps the letters ? Which one is a colour ? letter blue A . B . Answer with the letter of the right choice"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with dialogues, a model, a spaCy model under an installed one's name, and scripted providers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    save_lines(tmp_path / "dialogues.jsonl", dialogues())
    save_model(tmp_path / "model", MORE)
    save_names(tmp_path / "en_core_web_sm")
    first, second = generators()
    known = {"openai:gpt-4o-mini": first, "anthropic:claude-haiku-4-5": second}
    monkeypatch.setattr("lec_guard.train.harmaug.opening.named_chat_model", lambda name, **_: known[name])
    return tmp_path


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


def made(place: Path) -> list[Any]:
    return ["pii-data", place / "dialogues.jsonl", "--ner", "en_core_web_sm", "--out", place / "made", "--yes"]


BOTH = ("--generator", "openai:gpt-4o-mini", "--generator", "anthropic:claude-haiku-4-5")


def test_the_page_goes_as_it_says(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "pii.yaml").write_text(blocks("yaml")[0], encoding="utf-8")
    dialogue, questions = blocks("json")
    assert json.loads(dialogue)["messages"] == dialogues()[7]["messages"]
    (place / "questions.jsonl").write_text(questions, encoding="utf-8")
    # The rate is for a model that knows nothing yet, and its answers are as long as its room.
    more = {"pii-data": [], "tune": ["--rate", 0.01, "--epochs", 8], "pii-eval": ["--max-tokens", 8]}
    printed = ""
    for command in [line for line in blocks("")[0].replace("\\\n", "").splitlines() if line.startswith("lec-guard")]:
        words = shlex.split(command)[1:]
        found = run(*words, *more[words[0]])
        assert found.exit_code == 0, found.err
        printed += found.out
    assert {path.name for path in (place / "made").iterdir()} == {
        "held.jsonl", "journal.jsonl", "pairs.jsonl", "pii_data.json",
    }  # fmt: skip
    assert len(read_lines(place / "made" / "held.jsonl")) == 2
    for said in (
        "24 pairs, 12 of them swapped",
        "chosen answer preferred",
        "no system prompt",
        "2 prompts, 2 questions",
    ):
        assert said in printed
    rows = json.loads((place / "measured" / "pii_eval.json").read_text())["measured"]
    assert [(one["weights"], one["coefficient"]) for one in rows[:3]] == [("base", None), ("base", 1.0), ("base", 2.0)]
    (snippet,) = blocks("python")
    capsys.readouterr()
    exec(compile(snippet, "tune.md", "exec"), {})
    assert not any(name in capsys.readouterr().out for name in NAMES)


def test_what_it_costs_is_shown_and_asked(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [*made(place)[:-1], *BOTH]
    found = run(*words)
    assert found.exit_code == 2
    assert "nothing was asked yet: give --yes" in found.err
    assert "4 times as much at most" in found.out
    monkeypatch.setattr("lec_guard.cli.terminal.asked_at_a_terminal", lambda: True)
    assert run(*words, stdin="n\n").exit_code == 0
    assert not (place / "made" / "pairs.jsonl").exists()
    assert run(*words, stdin="y\n").exit_code == 0
    assert (place / "made" / "pairs.jsonl").exists()


def test_the_end_of_the_time_has_a_code_of_its_own_and_resume_goes_on(place: Path) -> None:
    assert run(*made(place), *BOTH).exit_code == 0
    words = ["tune", place / "made" / "pairs.jsonl", "--model", place / "model", "--out", place / "out", "--epochs", 1]
    first = run(*words, "--minutes", 0)
    assert (first.exit_code, "after step 1 of" in first.err) == (130, True)
    again = run(*words)
    assert (again.exit_code, "not finished" in again.err) == (2, True)
    assert run(*words, "--resume").exit_code == 0
    again = run(*words, "--resume")
    assert (again.exit_code, "holds adapters already" in again.err) == (2, True)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["pii-data", "dialogues.jsonl", "--out", "made", "--yes"], 2, "generators: Field required"),
        (["pii-data", "dialogues.jsonl", "--out", "made", "--ner", "x", "--no-ner"], 2, "not both"),
        (["pii-data", "dialogues.jsonl", "--out", "made", "--ner", "x", *BOTH], 2, "'x' is not installed"),
        (["pii-data", "dialogues.jsonl", "--out", "made", "--no-ner", *BOTH], 2, "there is nothing to learn from"),
        (["pii-data", "none.jsonl", "--out", "made", "--no-ner", *BOTH], 2, "none.jsonl: can't be read"),
        (["tune", "none.jsonl", "--out", "out", "--model", "model"], 2, "none.jsonl: can't be read"),
        (["tune", "dialogues.jsonl", "--out", "out", "--model", "model"], 2, "no column 'prompt'"),
        (["tune", "--out", "out"], 2, "model: Field required"),
        (
            ["pii-eval", "dialogues.jsonl", "--out", "m", "--model", "model", "--no-ner"],
            2,
            "dialogues.jsonl:1: its last",
        ),
        (["pii-eval", "--out", "m", "--model", "model", "--space", "up", "x.jsonl"], 2, "space: Input should be"),
    ],
)
def test_what_does_not_fit_is_named(place: Path, words: list[str], code: int, said: str) -> None:
    found = run(*words)
    assert found.exit_code == code
    assert said in found.err


def test_a_generator_of_no_use_has_a_code_of_its_own(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (chatty,) = generators("Ada Quill did.")
    monkeypatch.setattr("lec_guard.train.harmaug.opening.named_chat_model", lambda *_, **__: chatty)
    found = run(*made(place), *BOTH)
    assert found.exit_code == 1
    assert "openai:gpt-4o-mini gave no answer of use to any sample (has personal data: " in found.err


@pytest.mark.parametrize(("command", "missing"), [("tune", "trl"), ("pii-eval", "peft")])
def test_without_a_package_it_says_so_at_once(
    place: Path, monkeypatch: pytest.MonkeyPatch, command: str, missing: str
) -> None:
    there = terminal.find_spec
    monkeypatch.setattr(terminal, "find_spec", lambda name: None if name == missing else there(name))
    found = run(command, "x.jsonl", "--out", place / "out")
    assert found.exit_code == 2
    assert f"this command needs {missing}; run: pip install 'lec-guard[tune]'" in found.err
