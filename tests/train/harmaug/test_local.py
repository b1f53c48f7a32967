"""A causal language model from a folder: offline, begun answers, and words that depend on a seed alone."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest
import torch
import transformers as hf

from lec_guard.errors import BundleError, UnsupportedValueError
from lec_guard.train.harmaug import AugmentError, Prompt
from lec_guard.train.harmaug.local import LocalText, _Draw
from tests.train.harmaug.made import save_writer

PROMPT = Prompt(system="the old library", user="paint the kettles", prefix="carry baskets", seed=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_writer(tmp_path_factory.mktemp("writer"))


def writer(folder, **given) -> LocalText:
    return LocalText(folder, **{"temperature": 1.0, "max_tokens": 12, "batch": 4, **given})


def prompts(count: int) -> list[Prompt]:
    return [dataclasses.replace(PROMPT, user="paint " * at + "the kettles", seed=at) for at in range(count)]


def test_what_is_written_depends_on_the_seed_and_not_on_the_batch(folder):
    model = writer(folder)
    alone = [model.write([one])[0] for one in prompts(6)]
    assert model.write(prompts(6)) == alone
    assert len({one.text for one in alone}) == 6
    assert all(one.prefixed and one.tokens_out <= 12 for one in alone)


def test_the_beginning_stands_behind_the_generation_prompt_or_behind_the_words(folder, tmp_path):
    model = writer(folder)
    shown = model._tokenizer.decode(model._ids(PROMPT))
    assert shown.endswith("paint the kettles </s> <unk> <unk> carry baskets")
    base = writer(save_writer(tmp_path / "base", template=False))
    assert base._tokenizer.decode(base._ids(PROMPT)) == "the old library paint the kettles carry baskets"


def test_a_template_that_takes_no_system_message_gets_one_message(folder, tmp_path):
    alone = save_writer(tmp_path / "alone")
    model = writer(alone)
    model._tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}"
        "{{ messages[0]['content'] }} </s> "
    )
    assert model._tokenizer.decode(model._ids(PROMPT)).startswith("the old library paint the kettles </s>")
    model._tokenizer.chat_template = "{{ raise_exception('no') }}"
    with pytest.raises(AugmentError, match="takes no user message"):
        model.write([PROMPT])


def test_without_a_temperature_the_likeliest_words_are_written(folder):
    model = writer(folder, temperature=0.0)
    one, other = model.write([PROMPT, dataclasses.replace(PROMPT, seed=9)])
    assert one == other
    ids = torch.tensor([model._ids(PROMPT)])
    with torch.inference_mode():
        likeliest = int(model._model(ids).logits[0, -1].argmax())
    assert one.text.split()[0] == model._tokenizer.decode([likeliest])


def test_tokens_are_drawn_as_likely_as_the_model_says():
    logits = torch.tensor([[2.0, 1.0, 0.0, -9.0]]).repeat(4000, 1)
    draw = _Draw(range(4000), 1.0)
    drawn = draw(torch.zeros(4000, 1), logits).argmax(dim=-1)
    shares = torch.bincount(drawn, minlength=4) / 4000
    assert torch.allclose(shares[:3], torch.tensor([2.0, 1.0, 0.0]).softmax(0), atol=0.03)
    assert shares[3] == 0  # Beyond the nucleus.
    assert draw.first[0] == pytest.approx(dict(enumerate(logits[0].softmax(0).tolist())))


def test_a_package_that_is_missing_is_named(folder, monkeypatch):
    monkeypatch.setattr("lec_guard.train.harmaug.local.find_spec", lambda name: None)
    with pytest.raises(UnsupportedValueError, match=r"jinja2; run: pip install 'lec-guard\[augment\]'"):
        writer(folder)


def test_an_answer_that_does_not_end_is_told(folder):
    model = writer(folder, max_tokens=3)
    found = model.write(prompts(8))
    assert {one.ending for one in found} <= {"length", "stop"}
    assert all(one.tokens_out == 3 for one in found if one.ending == "length")
    model._ends = set(range(len(model._tokenizer)))
    assert {(one.ending, one.tokens_out, one.text) for one in model.write(prompts(2))} == {("stop", 0, "")}


def test_two_words_are_compared_by_how_likely_they_begin(folder):
    model = writer(folder)
    model._tokenizer.chat_template = None
    asked = dataclasses.replace(PROMPT, words=("red", "old"))
    # A random model is sure of nothing.
    assert model.write([asked])[0].share is None
    model._model.lm_head.weight.data.zero_()
    model._model.lm_head.weight.data[model._tokenizer.convert_tokens_to_ids("old")] = 0
    states = model._model.model(torch.tensor([model._ids(asked)])).last_hidden_state[0, -1]
    for word, strength in (("red", 20.0), ("old", 21.0)):
        at = model._tokenizer.convert_tokens_to_ids(word)
        model._model.lm_head.weight.data[at] = strength * states / states.dot(states)
    share = model.write([asked])[0].share
    assert share == pytest.approx(torch.tensor(1.0).sigmoid().item(), abs=1e-3)


def test_a_prompt_that_does_not_fit_is_told(folder):
    with pytest.raises(AugmentError, match="does not fit into a model of 512"):
        writer(folder).write([dataclasses.replace(PROMPT, user="paint " * 600)])


async def test_calls_that_come_together_are_written_together(folder, monkeypatch):
    model = writer(folder)
    sizes = []
    write = model.write
    monkeypatch.setattr(model, "write", lambda some: (sizes.append(len(some)), write(some))[1])
    found = await asyncio.gather(*map(model.say, prompts(6)))
    assert sizes == [4, 2]
    assert found == write(prompts(4)) + write(prompts(6)[4:])


async def test_a_failure_reaches_who_waits_and_the_next_call_is_served(folder):
    model = writer(folder)
    long = dataclasses.replace(PROMPT, user="paint " * 600)
    with pytest.raises(AugmentError):
        await model.say(long)
    assert (await model.say(PROMPT)).prefixed


def test_only_whole_safe_models_are_read(folder, tmp_path):
    with pytest.raises(BundleError, match="not a causal language model that can be read"):
        writer(tmp_path / "nothing")
    pickled = save_writer(tmp_path / "pickled")
    state = hf.LlamaForCausalLM.from_pretrained(pickled).state_dict()
    torch.save(state, pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    with pytest.raises(BundleError, match="can be read"):
        writer(pickled)
    headless = save_writer(tmp_path / "headless")
    hf.LlamaForCausalLM.from_pretrained(headless).model.save_pretrained(headless)
    with pytest.raises(BundleError, match=r"1 weights are missing, lm_head\.weight among them"):
        writer(headless)
