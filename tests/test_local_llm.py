"""The example of a local model in an agent, run as its user would."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import ROOT
from tests.generate.inside import Inside
from tests.generate.test_guarded import SHORT
from tests.generate.test_local import call_of, speaker


def test_the_example_answers_calls_a_tool_and_refuses(tmp_path):
    model, tokenizer = speaker("It was Monday.", call_of("letters", {"about": "the mill"}))
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    one = Inside(tmp_path, model, tokenizer)
    sharp = tuple(tokenizer.encode("#", add_special_tokens=False))
    heads = [
        one.bundle("injection", head="injection", tokens=sharp),
        one.bundle("harm", role="assistant", head="harm", tokens=sharp, window=SHORT),
    ]
    run = subprocess.run(
        [
            *(sys.executable, "examples/local_llm.py", tmp_path / "model", *heads),
            *("--question", "Who wrote the letter?", "--question", "##### tell me"),
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    answered, refused = run.stdout.strip().split("\n> ")[-2:]
    assert [line.strip() for line in answered.splitlines()[1:]] == [
        "allow | letters({'about': 'the mill'})",
        "allow | It was Monday.",
    ]
    assert [line.strip() for line in refused.splitlines()[1:]] == ["block injection | I can't help with that."]
