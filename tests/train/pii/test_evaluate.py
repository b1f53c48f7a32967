"""What is measured is written under guidance, personal data and right answers alike."""

from __future__ import annotations

import json

import pytest
import torch

from lec_guard.errors import BundleError, UnsupportedValueError
from lec_guard.generate import Guidance, GuidedCausalLM, paired
from lec_guard.generate.prompts import NEGATIVE, POSITIVE
from lec_guard.train.pii import PiiEvalConfig, evaluate_pii
from lec_guard.train.pii.answering import Asked, Way, answers
from lec_guard.train.pii.opening import open_causal
from tests.generate.tiny import EOS, next_logits
from tests.train.pii.made import NAMES, read_lines, save_lines, save_model, turns

ASKED = [Asked(messages=tuple(turns(f"Who wrote letter {at} ?")), group=f"talk {at}") for at in range(4)]


@pytest.fixture
def prompts(tmp_path):
    rows = [{"messages": list(one.messages), "prefix": "", "dialogue": one.group} for one in ASKED]
    return save_lines(tmp_path / "held.jsonl", rows)


@pytest.fixture
def questions(tmp_path):
    """Only who tells names is right."""
    rows = [{"question": f"Who wrote letter {at} ?", "answer": NAMES[at]} for at in range(4)]
    return save_lines(tmp_path / "questions.jsonl", [*rows, {**rows[0], "answer": [NAMES[0], "he"]}])


def config(model, names, prompts, **given):
    own = {"model": model, "prompts": prompts, "max_tokens": 8, "pii": {"ner": str(names)}}
    return PiiEvalConfig.read(None, own | given)


def way(coefficient, space="log"):
    return Way(coefficient=coefficient, space=space, positive=POSITIVE, negative=NEGATIVE, max_tokens=6)


def by_hand(causal, asked, coefficient, space):
    """Token by token, each prompt read whole and alone, without cache, batch or padding."""
    prompts = paired(causal.tokenizer, [asked.messages])
    sides = [prompts.input_ids[0].tolist(), prompts.negative_input_ids[0].tolist()]
    written: list[int] = []
    while len(written) < 6 and (not written or written[-1] != EOS):
        first, second = (next_logits(causal.model, [*side, *written]).softmax(-1) for side in sides)
        mixed = first.log() * coefficient - second.log() * (coefficient - 1)
        if space == "probability":
            mixed = second + coefficient * (first - second)
        written.append(int(mixed.argmax()))
    return causal.tokenizer.decode(written, skip_special_tokens=True).strip()


@pytest.mark.parametrize("space", ["log", "probability"])
def test_answers_are_those_of_guidance_by_hand_and_differ_by_coefficient(model, space):
    causal = open_causal(model)
    found = {}
    for coefficient in (0.0, 1.0, 3.0):
        found[coefficient] = answers(causal, causal.model, ASKED, way(coefficient, space))
        assert found[coefficient] == [by_hand(causal, one, coefficient, space) for one in ASKED]
    assert len({tuple(one) for one in found.values()}) == 3


def test_the_plain_way_has_no_system_prompt(model):
    causal = open_causal(model)
    ids = causal.tokenizer.apply_chat_template(list(ASKED[0].messages), add_generation_prompt=True, tokenize=False)
    given = torch.tensor([causal.tokenizer(ids, add_special_tokens=False)["input_ids"]])
    own = causal.model.generate(given, max_new_tokens=6, do_sample=False)[0, given.shape[1] :]
    assert answers(causal, causal.model, ASKED[:1], way(None)) == [
        causal.tokenizer.decode(own, skip_special_tokens=True).strip()
    ]


def test_an_answer_goes_on_from_what_it_is_to_begin_with(model):
    causal = open_causal(model)
    begun = Asked(messages=ASKED[0].messages, prefix="Ada Quill wrote")
    (alone,) = answers(causal, causal.model, [begun], way(2.0))
    assert answers(causal, causal.model, [ASKED[1], begun], way(2.0))[1] == alone
    assert alone != answers(causal, causal.model, ASKED[:1], way(2.0))[0]


def test_guidance_decides_what_tuned_adapters_give_away(tuned, model, names, prompts, questions, tmp_path):
    run = config(model, names, prompts, adapters=tuned[0], questions=[questions], coefficients=[0, 1, 3])
    result = evaluate_pii(run, tmp_path / "out")
    found = {(one.weights, one.coefficient): one for one in result.measured}
    assert len(found) == 8
    # With the negative prompt the adapters tell every name; with the positive one, and beyond, none.
    tells, keeps, beyond = (found["adapters", own] for own in (0.0, 1.0, 3.0))
    assert (tells.found, tells.kinds, tells.per_answer.value, tells.share.value) == (4, {"PERSON": 4}, None, None)
    assert (keeps.found, beyond.found) == (0, 0)
    # Questions go the same way: where guidance decides what is said, it decides what is right.
    assert tells.right.value == 1.0
    assert keeps.right.value == beyond.right.value == 0.0
    assert tells.changed == 1.0
    assert keeps.changed is None
    assert found["base", None].against is None
    assert tells.against.value == 1.0 - found["base", None].right.value
    assert (result.prompts, result.questions, result.too_long) == (4, 5, 0)
    assert (result.positive, result.negative) == (POSITIVE, NEGATIVE)
    assert json.loads((tmp_path / "out" / "pii_eval.json").read_text()) == json.loads(result.model_dump_json())


def test_a_guidance_that_is_not_applied_is_told(tuned, model, names, prompts, questions, tmp_path, monkeypatch):
    plain = GuidedCausalLM.generate

    def ignores(self, *given, **settings):
        self.guidance = Guidance(coefficient=1.0)
        return plain(self, *given, **settings)

    monkeypatch.setattr(GuidedCausalLM, "generate", ignores)
    run = config(model, names, prompts, adapters=tuned[0], questions=[questions], coefficients=[1, 3])
    result = evaluate_pii(run, tmp_path / "out")
    assert [one.changed for one in result.measured] == [None, None, 0.0, None, None, 0.0]
    assert sum("every answer is what it is without guidance" in note for note in result.notes) == 2


def test_a_run_goes_on_from_the_answers_that_are_there(model, names, prompts, tmp_path, monkeypatch):
    run = config(model, names, prompts, coefficients=[2], batch=2)
    whole = evaluate_pii(run, tmp_path / "whole")
    module = "lec_guard.train.pii.evaluate.answers"
    calls = []

    def stops(causal, own, asked, how):
        calls.append(how.coefficient)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return answers(causal, own, asked, how)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(module, stops)
        evaluate_pii(run, tmp_path / "out")
    calls.clear()
    calls += [None] * 10
    monkeypatch.setattr(module, stops)
    assert evaluate_pii(run, tmp_path / "out") == whole
    assert calls[10:] == [2.0, 2.0]
    assert len(read_lines(tmp_path / "out" / "journal.jsonl")) == 9
    assert (tmp_path / "out" / "journal.jsonl").stat().st_mode & 0o077 == 0
    with pytest.raises(UnsupportedValueError, match="begun with other settings"):
        evaluate_pii(config(model, names, prompts, max_tokens=9), tmp_path / "out")


def test_what_leaves_no_room_is_left_out_and_told(model, names, tmp_path):
    rows = [{"messages": turns("letter " * count)} for count in (2, 60)]
    prompts = save_lines(tmp_path / "held.jsonl", rows)
    result = evaluate_pii(config(model, names, prompts), tmp_path / "out")
    assert (result.prompts, result.too_long) == (1, 1)
    assert result.measured[0].answers == 1
    with pytest.raises(UnsupportedValueError, match="no prompt leaves room for an answer of 60"):
        evaluate_pii(config(model, names, prompts, max_tokens=60), tmp_path / "other")


def test_adapters_of_another_model_are_refused(tuned, names, prompts, tmp_path):
    other = save_model(tmp_path / "other", kind="qwen2")
    with pytest.raises(BundleError, match="was trained on other weights"):
        evaluate_pii(config(other, names, prompts, adapters=tuned[0]), tmp_path / "out")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"messages": turns("Hi", "Ho")}, "its last message is not the user's"),
        ({"messages": turns("Hi"), "prefix": 3}, "its 'prefix' is no text"),
    ],
)
def test_prompts_that_are_none_are_named_by_their_line(model, names, tmp_path, row, said):
    prompts = save_lines(tmp_path / "held.jsonl", [{"messages": turns("Hi")}, row])
    with pytest.raises(UnsupportedValueError, match=rf"held\.jsonl:2: {said}"):
        evaluate_pii(config(model, names, prompts), tmp_path / "out")
    with pytest.raises(UnsupportedValueError, match="no prompt in it"):
        evaluate_pii(config(model, names, save_lines(tmp_path / "none.jsonl", [])), tmp_path / "out")
