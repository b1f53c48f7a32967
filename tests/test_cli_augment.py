"""`lec-guard augment`: what it asks before, what it writes, and what it says to bad input."""

from __future__ import annotations

import json
import sys

import pytest

from tests.test_cli import run
from tests.train.harmaug.made import Stopped, save_writer, write_data

MODULE = """
from tests.train.harmaug.made import judge, scripted, write
writer, teacher, strict = scripted(write), scripted(judge), scripted(lambda messages: "unsafe 0.9")
"""


@pytest.fixture
def there(tmp_path, monkeypatch):
    """A folder to be in, with data and a module that has two models."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    (tmp_path / "our_models.py").write_text(MODULE, encoding="utf-8")
    write_data(tmp_path)
    yield tmp_path
    sys.modules.pop("our_models", None)


OURS = ("--generator", "python:our_models:writer", "--teacher", "python:our_models:teacher")


def test_models_of_ones_own_make_rows_that_train_reads(there):
    found = run("augment", "data.jsonl", "--out", "made", *OURS, "--count", 4, "--yes", "--price", "generator=1/2.5")
    assert found.exit_code == 0, found.err
    rows = [json.loads(line) for line in (there / "made" / "examples.jsonl").read_text().splitlines()]
    assert len(rows) == 16
    assert {row["family"] for row in rows} == {
        f"augmented/python:our_models:writer/{one}" for one in ("theft", "fraud")
    }
    report = json.loads((there / "made" / "augment.json").read_text())
    assert report["rows"] == 16
    used = report["asked"]["generator"]
    assert used["cost"] == pytest.approx((used["tokens_in"] + 2.5 * used["tokens_out"]) / 1e6)
    assert "lec-guard train made/examples.jsonl --label score" in found.out
    assert "Secretly steal" not in found.out + found.err
    for part in ("making instructions", "labelling refusals"):
        assert part in found.err


def test_local_folders_make_and_label_offline(there):
    import torch
    import transformers as hf

    from tests.detect.models import COMMON, encoder_tokenizer

    save_writer(there / "writer")
    torch.manual_seed(0)
    labels = {0: "safe", 1: "unsafe"}
    teacher = hf.BertForSequenceClassification(
        hf.BertConfig(**COMMON, num_hidden_layers=1, num_labels=2, id2label=labels, label2id={"safe": 0, "unsafe": 1})
    )
    teacher.save_pretrained(there / "teacher")
    encoder_tokenizer().save(str(there / "teacher" / "tokenizer.json"))
    (there / "run.yaml").write_text(
        "data: data.jsonl\ncount: 4\ntwins: false\n"
        "generator: {model: 'hf:writer', max_tokens: 24}\nteacher: {model: 'hf:teacher'}\n"
    )
    found = run("augment", "--config", "run.yaml", "--out", "made", "--yes")
    assert found.exit_code == 0, found.err
    rows = [json.loads(line) for line in (there / "made" / "examples.jsonl").read_text().splitlines()]
    assert rows
    assert all(0 < row["score"] < 1 and row["origin"]["teacher"] == "hf:teacher" for row in rows)


def test_an_estimate_comes_first_and_somebody_has_to_agree(there, monkeypatch):
    words = ("augment", "data.jsonl", "--out", "made", *OURS, "--count", 1000, "--price", "teacher=2/10")
    found = run(*words)
    assert found.exit_code == 2
    assert "give --yes" in found.err
    assert "12,000" in found.out  # Labels: four texts of each instruction, three asks each.
    assert "in all" in found.out
    monkeypatch.setattr("lec_guard.cli.terminal.asked_at_a_terminal", lambda: True)
    assert run(*words, stdin="n\n").exit_code == 0
    assert not (there / "made").exists()


@pytest.mark.parametrize("generator", ["python:our_models:writer", "hf:writer"])
def test_an_interrupted_command_goes_on_and_ends_as_if_it_had_not_been(there, generator):
    save_writer(there / "writer")
    # A tiny model's words are no twins, and only a teacher without taste finds all of them harmful.
    teacher = "teacher" if generator.startswith("python") else "strict"
    words = ("augment", "data.jsonl", "--generator", generator, "--count", 6, "--yes", "--no-twins", "--teacher")
    assert run(*words, f"python:our_models:{teacher}", "--out", "whole").exit_code == 0
    import our_models

    model = getattr(our_models, teacher)
    model.answer = Stopped(model.answer, 7)
    found = run(*words, f"python:our_models:{teacher}", "--out", "broken")
    assert found.exit_code == 130
    assert found.err.endswith("lec-guard: interrupted; the same command goes on from here\n")
    assert not (there / "broken" / "examples.jsonl").exists()
    assert run(*words, f"python:our_models:{teacher}", "--out", "broken").exit_code == 0
    for name in ("examples.jsonl", "set_aside.jsonl", "augment.json"):
        assert (there / "broken" / name).read_bytes() == (there / "whole" / name).read_bytes()


def test_a_generator_that_refuses_ends_with_a_reason(there, monkeypatch):
    monkeypatch.setattr("tests.train.harmaug.made.write", lambda messages: "I cannot help with that.")
    found = run("augment", "data.jsonl", "--out", "made", *OURS, "--yes")
    assert found.exit_code == 1
    assert "made nothing of use in 50 tries" in found.err
    assert "refused: 50" in found.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "generator"),
        (("--generator", "python:our_models:writer"), "teacher"),
        ((*OURS, "--price", "writer=1/2"), "write ROLE=IN/OUT"),
        ((*OURS, "--price", "teacher=1/x"), "teacher.price_out"),
        (("--generator", "openai:gpt-4o-mini", *OURS[2:]), "pip install langchain-openai"),
        (("--generator", "python:our_models:nobody", *OURS[2:]), "is not there"),
        (("--generator", "python:json:dumps", *OURS[2:]), "no chat model"),
        (("--generator", "hf:nowhere", *OURS[2:]), "nowhere: not a causal language model"),
        ((*OURS, "--teacher-head", "safety"), "has no head 'safety'"),
        ((*OURS, "--count", 0), "count"),
        ((*OURS, "--label", "lable"), "did you mean 'label'"),
    ],
)
def test_what_is_wrong_is_named(there, words, said):
    found = run("augment", "data.jsonl", "--out", "made", "--yes", *words)
    assert found.exit_code == 2
    assert said in found.err.replace("\n", " ")


def test_a_missing_package_is_named_with_the_extra_that_has_it(there, monkeypatch):
    monkeypatch.setitem(sys.modules, "langchain.chat_models", None)
    found = run("augment", "data.jsonl", "--out", "made", "--yes", "--generator", "openai:x", *OURS[2:])
    assert found.exit_code == 2
    assert "pip install 'lec-guard[augment]'" in found.err


def test_a_run_can_be_a_file_and_its_mistakes_have_lines(there):
    (there / "run.yaml").write_text(
        "data: data.jsonl\ngenerator: {model: 'python:our_models:writer'}\nteacher:\n  model: x\n  aks: 3\n"
    )
    found = run("augment", "--config", "run.yaml", "--out", "made", "--yes")
    assert found.exit_code == 2
    assert "run.yaml:5" in found.err
    assert "did you mean 'asks'" in found.err
