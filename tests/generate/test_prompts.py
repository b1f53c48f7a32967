"""Both prompts of a conversation differ in what is asked for, and in nothing else."""

from __future__ import annotations

import json

import pytest
import torch

from lec_guard.errors import UnsupportedValueError
from lec_guard.generate import Guidance, GuidedCausalLM, paired
from lec_guard.generate.prompts import NEGATIVE, POSITIVE
from tests.conftest import ROOT
from tests.generate.tiny import model_of, tokenizer_of

TALKS = [
    [{"role": "user", "content": "Who lives there?"}],
    [{"role": "system", "content": "You are a clerk."}, {"role": "user", "content": "Tell me."}],
]


@pytest.fixture
def tokenizer():
    return tokenizer_of(POSITIVE, NEGATIVE, *(message["content"] for talk in TALKS for message in talk))


def test_what_is_asked_for_stands_in_the_system_prompt(tokenizer):
    prompts = paired(tokenizer, TALKS)
    for ids, mask, asked in (
        (prompts.input_ids, prompts.attention_mask, POSITIVE),
        (prompts.negative_input_ids, prompts.negative_attention_mask, NEGATIVE),
    ):
        texts = [tokenizer.decode(row[own.bool()]) for row, own in zip(ids, mask, strict=True)]
        assert texts == [
            f"<system> {asked} <user> Who lives there? <assistant>".replace("?", " ?").replace(".", " ."),
            f"<system> You are a clerk. {asked} <user> Tell me. <assistant>".replace(".", " ."),
        ]
        assert mask[:, -1].all()


def test_they_go_into_generate(tokenizer):
    model = model_of("llama", vocabulary=len(tokenizer))
    prompts = paired(tokenizer, TALKS)
    found = GuidedCausalLM(model, Guidance()).generate(**prompts.arguments(), max_new_tokens=3)
    assert found.shape == (2, prompts.input_ids.shape[1] + 3)
    assert torch.equal(found[:, : prompts.input_ids.shape[1]], prompts.input_ids)


def test_a_tokenizer_without_a_template_is_refused(tokenizer):
    tokenizer.chat_template = None
    with pytest.raises(UnsupportedValueError, match="has no chat template; set"):
        paired(tokenizer, TALKS)


@pytest.mark.parametrize("talks", [[], [[]]])
def test_nothing_to_answer_is_refused(tokenizer, talks):
    with pytest.raises(ValueError, match="no conversation"):
        paired(tokenizer, talks)


def test_the_page_says_what_was_measured():
    measured = json.loads((ROOT / "benchmarks" / "results" / "guidance.json").read_text(encoding="utf-8"))["of_plain"]
    page = (ROOT / "docs" / "generate.md").read_text(encoding="utf-8")
    said = f"{measured['stacked']:.2f} times a plain one, and {measured['sequential']:.2f} times with `sequential`"
    assert said in page
    assert max(measured.values()) <= 2.1


def test_the_page_says_what_a_guard_costs():
    measured = json.loads((ROOT / "benchmarks" / "results" / "guarded.json").read_text(encoding="utf-8"))["of_plain"]
    page = (ROOT / "docs" / "generate.md").read_text(encoding="utf-8")
    token, first = (f"{measured[name]:.2f} times" for name in ("token", "first token"))
    assert f"A token costs {token} an unguarded one, the first one {first}" in page
    assert measured["token"] <= 1.03
