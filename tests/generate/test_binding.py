"""Heads are bound to the model that they were fitted on, and to no other."""

from __future__ import annotations

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model

from lec_guard import LayerDetector, Step
from lec_guard.detect.bundle import EMBEDDED, read_bundle
from lec_guard.errors import BundleError
from lec_guard.generate.binding import Bound, shared
from lec_guard.generate.detector import InsideDetector
from lec_guard.generate.states import Tap, uncaught
from tests.generate.inside import SYSTEM, inside, said
from tests.generate.tiny import KINDS


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return {kind: inside(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


def again(one, **changed):
    """The same model once more."""
    return type(one.model).from_pretrained(one.folder / "model", local_files_only=True, **changed).eval()


@pytest.mark.parametrize("blocks", [((0, "mean"),), ((1, "max"), (2, "last")), ((3, "mean"),)])
@pytest.mark.parametrize("kind", KINDS)
def test_texts_apart_score_as_a_detector_of_ones_own_has_it(made, kind, blocks):
    one = made[kind]
    bundle = one.bundle("apart", blocks=blocks)
    steps = [Step(stage="input", text=said(seed), context=SYSTEM if seed % 2 else None) for seed in range(4)]
    # What others do with the model in between must not show: their outputs, and ours, are recorded by hooks.
    one.model(torch.tensor([[7, 8, 9]]), output_hidden_states=True, output_attentions=True)
    detector = InsideDetector.load(one.model, one.tokenizer, bundle)
    expected = LayerDetector.load(bundle).score(steps)
    for own, there in zip(detector.score(steps), expected, strict=True):
        assert own.by_head["attack"]["harmful"] == pytest.approx(there.by_head["attack"]["harmful"], abs=1e-5)
        assert own.context_read == there.context_read
        assert [(span.start, span.end) for span in own.spans] == [(span.start, span.end) for span in there.spans]
    states = one.model(torch.tensor([[7, 8, 9]]), output_hidden_states=True).hidden_states
    assert len(states) == 4


def test_the_weights_are_shared(made):
    one = made["llama"]
    cut = shared(one.model, 2, "x")
    own = {tensor.data_ptr() for tensor in one.model.parameters()}
    assert {tensor.data_ptr() for tensor in cut.module.parameters()} < own
    assert len(one.model.model.layers) == 3


def test_heads_of_another_model_are_refused(made):
    bundle = made["llama"].bundle("own")
    with pytest.raises(BundleError, match="were fitted on another model than the Qwen2ForCausalLM in memory"):
        InsideDetector.load(made["qwen2"].model, made["qwen2"].tokenizer, bundle)
    changed = again(made["llama"])
    with torch.no_grad():
        changed.model.embed_tokens.weight[7] += 1e-3
    with pytest.raises(BundleError, match="were fitted on another model"):
        InsideDetector.load(changed, made["llama"].tokenizer, bundle)


def test_another_dtype_is_told(made):
    one = made["llama"]
    with pytest.raises(BundleError, match="in the dtype of their file"):
        InsideDetector.load(again(one, dtype=torch.bfloat16), one.tokenizer, one.bundle("own"))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's
def test_adapters_are_another_model(made):
    one = made["llama"]
    bundle, model = one.bundle("own", blocks=((2, "mean"),)), again(one)
    detector = InsideDetector.load(model, one.tokenizer, bundle)
    tuned = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(BundleError, match="layers were changed since its heads were bound"):
        detector.score([Step(stage="input", text="mill")])
    with pytest.raises(BundleError, match="without adapters"):
        InsideDetector.load(tuned.get_base_model(), one.tokenizer, bundle)


def test_training_is_noticed(made):
    one = made["qwen2"]
    model = again(one)
    detector = InsideDetector.load(model, one.tokenizer, one.bundle("own", blocks=((2, "mean"),)))
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.mul_(1.0)
    with pytest.raises(BundleError, match="layers were changed"):
        detector.score([Step(stage="input", text="mill")])


def test_a_model_without_the_layer_is_told(made):
    one = made["llama"]
    bundle = one.bundle("deep", blocks=((3, "mean"),))
    shallow = again(one)
    shallow.model.layers = shallow.model.layers[:2]
    shallow.config.num_hidden_layers = 2
    with pytest.raises(BundleError, match="reads layer 3, and the model has 2 layers"):
        InsideDetector.load(shallow, one.tokenizer, bundle)
    with pytest.raises(BundleError, match="the model has 3 layers, and no layer 4"):
        Tap(one.model, {4})


def test_another_tokenizer_is_told(made):
    one = made["llama"]
    other = type(one.tokenizer).from_pretrained(one.folder / "model")
    other.add_tokens(["another"])
    with pytest.raises(BundleError, match="another tokenizer"):
        InsideDetector.load(one.model, other, one.bundle("own"))


def test_heads_that_read_texts_by_themselves_are_told(made):
    one = made["llama"]
    with pytest.raises(BundleError, match="lec-guard train --model FOLDER --turn user"):
        Bound.of(read_bundle(EMBEDDED), one.model, one.tokenizer)


def test_the_folder_that_heads_were_fitted_with_is_checked(made):
    one = made["gpt2"]
    bundle = one.bundle("own")
    config = one.folder / "model" / "config.json"
    before = config.read_text()
    config.write_text(json.dumps(json.loads(before) | {"x": 1}))
    try:
        with pytest.raises(BundleError, match="is not the file that the heads were fitted with"):
            InsideDetector.load(one.model, one.tokenizer, bundle)
    finally:
        config.write_text(before)


def test_no_heads_and_doubled_ones_are_told(made):
    one = made["llama"]
    with pytest.raises(BundleError, match="no heads"):
        InsideDetector.load(one.model, one.tokenizer)
    with pytest.raises(BundleError, match="two bundles have a head 'attack'"):
        InsideDetector.load(one.model, one.tokenizer, one.bundle("own"), one.bundle("own"))
    with pytest.raises(ValueError, match="every 0 tokens"):
        InsideDetector.load(one.model, one.tokenizer, one.bundle("own"), every=0)


def test_states_are_caught_for_who_asks_and_for_nobody_else(made):
    one = made["qwen2"]
    tap, ids = Tap(one.model, {0, 2, 3}), torch.tensor([[7, 8, 9], [9, 8, 7]])
    one.model(ids)
    with tap.catching() as caught, torch.no_grad():
        expected = one.model(ids, output_hidden_states=True).hidden_states
        with uncaught():
            one.model(ids)
    one.model(ids)
    found = caught.take(2)
    for layer in (0, 2, 3):
        torch.testing.assert_close(found[layer], expected[layer])
    tap.close()
    with tap.catching() as caught:
        one.model(ids)
    with pytest.raises(ValueError, match="non-empty"):
        caught.take(2)
