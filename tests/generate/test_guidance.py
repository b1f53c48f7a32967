"""Guided answers are those of two models that read everything anew for each token."""

from __future__ import annotations

import pytest
import torch
from transformers import TextStreamer

from lec_guard.errors import UnsupportedValueError
from lec_guard.generate import Guidance, GuidedCausalLM
from tests.generate.tiny import EOS, KINDS, PAD, model_of, next_logits, padded

PROMPTS = [[7, 9, 11], [5, 6, 7, 8, 9, 10, 12], [33]]
AVOID = [[40, 41, 42, 43, 7, 9, 11], [50, 9], [44, 45, 46, 47, 48, 49, 50, 51, 33]]
CACHES = ("dynamic", "static", "none")


def guided(model, guidance, prompts=PROMPTS, avoid=AVOID, **settings):
    ids, mask = padded(prompts)
    others, other_mask = padded(avoid)
    return GuidedCausalLM(model, guidance).generate(
        ids,
        mask,
        negative_input_ids=others,
        negative_attention_mask=other_mask,
        **{"max_new_tokens": 8, "return_dict_in_generate": True, **settings},
    ), ids.shape[1]


def expected(model, guidance, row, written):
    return guidance.mixed(next_logits(model, PROMPTS[row] + written), next_logits(model, AVOID[row] + written))


def until_end(tokens):
    return tokens[: tokens.index(EOS) + 1] if EOS in tokens else tokens


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize("space", ["log", "probability"])
@pytest.mark.parametrize("do_sample", [False, True])
def test_each_token_is_drawn_by_what_both_prompts_say(kind, cache, sequential, space, do_sample):
    model, guidance = model_of(kind), Guidance(coefficient=1.7, space=space, sequential=sequential)
    torch.manual_seed(3)
    found, width = guided(model, guidance, cache=cache, do_sample=do_sample, output_logits=True)
    for row, tokens in enumerate(found.sequences[:, width:].tolist()):
        written = until_end(tokens)
        for at, token in enumerate(written):
            said = expected(model, guidance, row, written[:at])
            assert torch.allclose(found.logits[at][row].softmax(-1), said.softmax(-1), atol=1e-5)
            if not do_sample:
                assert token == int(said.argmax())
        assert set(tokens[len(written) :]) <= {PAD}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("sequential", [False, True])
def test_beams_have_the_score_of_what_they_say(kind, cache, sequential):
    """Beams change places after each token: were one half of the cache left behind, scores would be another text's."""
    model, guidance = model_of(kind), Guidance(coefficient=1.5, sequential=sequential)
    found, width = guided(
        model, guidance, cache=cache, num_beams=4, num_return_sequences=3, output_scores=True, length_penalty=0.0
    )
    for number, tokens in enumerate(found.sequences[:, width:].tolist()):
        row, written = number // 3, until_end(tokens)
        total = sum(
            float(torch.log_softmax(expected(model, guidance, row, written[:at]), dim=-1)[token])
            for at, token in enumerate(written)
        )
        assert float(found.sequences_scores[number]) == pytest.approx(total, abs=2e-3)


@pytest.mark.parametrize("settings", [{}, {"do_sample": True}, {"num_beams": 3}], ids=["greedy", "sampled", "beams"])
@pytest.mark.parametrize("cache", CACHES)
def test_a_coefficient_of_1_is_the_model_itself(settings, cache):
    model = model_of("llama")
    ids, mask = padded(PROMPTS)
    torch.manual_seed(5)
    plain = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=8, **settings)
    torch.manual_seed(5)
    found, _ = guided(model, Guidance(coefficient=1.0), cache=cache, **settings)
    assert torch.equal(found.sequences, plain)


def test_a_coefficient_of_0_is_the_model_with_the_negative_prompt():
    model = model_of("qwen2")
    ids, mask = padded(AVOID)
    plain = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=8)[:, ids.shape[1] :]
    found, width = guided(model, Guidance(coefficient=0.0))
    assert torch.equal(found.sequences[:, width:], plain)


def test_a_high_coefficient_takes_what_the_negative_prompt_makes_least_of():
    model = model_of("llama")
    found, width = guided(model, Guidance(coefficient=100.0), output_logits=True)
    first, second = next_logits(model, PROMPTS[0]), next_logits(model, AVOID[0])
    assert int(found.sequences[0, width]) == int((first.log_softmax(-1) - second.log_softmax(-1)).argmax())
    assert all(torch.isfinite(step).all() for step in found.logits)


@pytest.mark.parametrize("space", ["log", "probability"])
def test_rows_do_not_touch_each_other(space):
    model, guidance = model_of("gpt2"), Guidance(coefficient=2.0, space=space)
    together, width = guided(model, guidance)
    for row, (prompt, avoid) in enumerate(zip(PROMPTS, AVOID, strict=True)):
        alone, own = guided(model, guidance, [prompt], [avoid])
        assert until_end(alone.sequences[0, own:].tolist()) == until_end(together.sequences[row, width:].tolist())


def test_limits_that_count_the_prompt_count_it_as_it_was_given():
    model = model_of("llama")
    found, width = guided(model, Guidance(coefficient=2.0), max_new_tokens=None, max_length=10, min_length=10)
    assert found.sequences.shape[1] == 10
    assert torch.equal(found.sequences[:, :width], padded(PROMPTS)[0])


def test_what_is_written_streams():
    class Tokens:
        def decode(self, tokens, **_):
            return "".join(chr(64 + token) for token in tokens)

    class Kept(TextStreamer):
        text = ""

        def on_finalized_text(self, text, stream_end=False):
            self.text += text

    streamer = Kept(Tokens(), skip_prompt=True)
    found, width = guided(model_of("llama"), Guidance(), PROMPTS[:1], AVOID[:1], streamer=streamer)
    assert streamer.text == Tokens().decode(found.sequences[0, width:].tolist())


@pytest.mark.parametrize("coefficient", [-0.5, float("nan"), float("inf"), 1e6])
def test_a_coefficient_that_means_nothing_is_refused(coefficient):
    with pytest.raises(ValueError, match="number from 0 to 100"):
        Guidance(coefficient=coefficient)


def test_a_space_that_is_none_is_refused():
    with pytest.raises(ValueError, match="log or probability"):
        Guidance(space="logits")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompts": PROMPTS[:2]}, "3 negative prompts for 2 prompts"),
        ({"prompts": [[]]}, "has no prompt"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        guided(model_of("llama"), Guidance(), **change)


def test_padding_on_the_right_is_refused():
    ids, mask = padded(PROMPTS)
    with pytest.raises(ValueError, match="pad on the left"):
        GuidedCausalLM(model_of("llama"), Guidance()).generate(
            ids.flip(1), mask.flip(1), negative_input_ids=ids, negative_attention_mask=mask
        )
    with pytest.raises(ValueError, match=r"the mask of input_ids is \(3, 6\)"):
        GuidedCausalLM(model_of("llama"), Guidance()).generate(ids, mask[:, 1:], negative_input_ids=ids)


def test_a_prompt_that_leaves_no_room_is_refused():
    with pytest.raises(ValueError, match="prompts of 9 tokens and their answers make 109, and the model reads 64"):
        guided(model_of("llama"), Guidance(), max_new_tokens=100)
    with pytest.raises(ValueError, match="prompts of 60 tokens"):
        guided(model_of("gpt2"), Guidance(), avoid=[[5] * 60] * 3)


@pytest.mark.parametrize("settings", [{}, {"num_beams": 2}], ids=["greedy", "beams"])
@pytest.mark.parametrize("sequential", [False, True])
def test_an_answer_that_ends_at_once_is_empty_and_leaves_the_others_alone(settings, sequential):
    model, guidance = model_of("llama"), Guidance(sequential=sequential)
    plain, width = guided(model, guidance, **settings)
    first = int(plain.sequences[1, width])
    ends, _ = guided(model, guidance, eos_token_id=first, **settings)
    assert ends.sequences[1, width:].tolist()[0] == first
    if not settings:
        assert set(ends.sequences[1, width + 1 :].tolist()) <= {PAD}
        for row in (0, 2):
            own, other = plain.sequences[row, width:].tolist(), ends.sequences[row, width:].tolist()
            until = own.index(first) if first in own else len(own)
            assert own[:until] == other[:until]


@pytest.mark.parametrize("setting", [{"prompt_lookup_num_tokens": 3}, {"guidance_scale": 2.0}])
def test_what_goes_past_two_prompts_is_refused(setting):
    with pytest.raises(UnsupportedValueError, match="does not go with guidance"):
        guided(model_of("llama"), Guidance(), **setting)


def test_probabilities_are_probabilities():
    torch.manual_seed(0)
    first, second = torch.randn(4, 50) * 5, torch.randn(4, 50) * 5
    first[:, 0] = second[:, 1] = first[:, 2] = second[:, 2] = -float("inf")
    for coefficient in (0.0, 0.5, 1.0, 3.0, 100.0):
        for space in ("log", "probability"):
            found = Guidance(coefficient=coefficient, space=space).mixed(first, second)
            assert torch.isfinite(found).all()
            assert torch.allclose(found.softmax(-1).sum(-1), torch.ones(4))
    one = Guidance(coefficient=1.0, space="probability").mixed(first, second)
    assert torch.allclose(one.softmax(-1), first.softmax(-1), atol=1e-6)
