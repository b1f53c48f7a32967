"""ORPO really runs: what is chosen becomes likelier, a run goes on where it was, and nothing is pickled or sent."""

from __future__ import annotations

import json
import pickle
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from lec_guard.detect.quiet import quiet
from lec_guard.errors import BundleError, UnsupportedValueError
from lec_guard.generate.adapters import TenantAdapters, read_adapters, weights_hash
from lec_guard.generate.prompts import NEGATIVE, POSITIVE
from lec_guard.train.distil_run import Unfinished
from lec_guard.train.pii import TuneConfig, TuneError, TuneReport, tune
from lec_guard.train.pii.opening import open_causal
from lec_guard.train.pii.pairs import fit, read_pairs
from tests.train.pii.made import pairs, save_lines, save_model


@pytest.fixture
def data(tmp_path):
    return save_lines(tmp_path / "pairs.jsonl", pairs(3))


def config(model, data, **given):
    return TuneConfig.read(None, {"model": model, "pairs": data, "rate": 0.01, "epochs": 2, **given})


@torch.no_grad()
def log_odds(model, rows) -> torch.Tensor:
    """Of chosen over rejected answers, by the mean likelihood of a token."""

    def mean(row, side):
        ids, labels = (torch.tensor([row[f"{side}_{what}"]]) for what in ("input_ids", "labels"))
        own = model(ids).logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
        return own[labels[:, 1:] != -100].mean()

    def odds(logp):
        return logp - torch.log1p(-logp.exp())

    return torch.stack([odds(mean(row, "chosen")) - odds(mean(row, "rejected")) for row in rows])


def test_what_is_chosen_becomes_likelier_under_both_prompts(tuned, model):
    folder, report = tuned
    causal = open_causal(model)
    found = read_pairs([folder.parent / "pairs.jsonl"]).all
    rows = fit(found, causal.tokenizer, max_prompt=50, max_length=60).rows
    before = log_odds(causal.model, rows)
    adapters = TenantAdapters(causal.model)
    adapters.attach("acme", folder)
    with adapters.using("acme") as own:
        after = log_odds(own, rows)
    assert (after > before).all()
    assert (after > 1).all()
    assert any(pair.swapped for pair in found)
    assert report.course[-1].preferred == 1.0
    assert report.course[-1].loss < report.course[0].loss


def test_the_folder_says_what_the_adapters_belong_to(tuned, model):
    folder, report = tuned
    assert {path.name for path in folder.iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "adapters.json", "tune.json",
    }  # fmt: skip
    card = read_adapters(folder).card
    assert card.base == report.base == weights_hash(open_causal(model).model)
    assert (card.positive, card.negative, card.rank, card.alpha) == (POSITIVE, NEGATIVE, 16, 32.0)
    assert set(card.targets) == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert json.loads((folder / "tune.json").read_text()) == json.loads(report.model_dump_json())
    assert (report.pairs, report.swapped, report.dialogues, report.steps) == (8, 4, 4, 100)
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == model.name


def test_peft_itself_reads_them_to_the_bit(tuned, model):
    from peft import PeftModel

    ids = torch.arange(3, 20)[None]
    with quiet("peft"):
        theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), tuned[0]).eval()
    adapters = TenantAdapters(AutoModelForCausalLM.from_pretrained(model).eval())
    adapters.attach("acme", tuned[0])
    with torch.no_grad(), adapters.using("acme") as own:
        assert torch.equal(own(ids).logits, theirs(ids).logits)


def test_defaults_are_the_published_ones(model, data):
    run = TuneConfig.read(None, {"model": model, "pairs": data})
    causal = open_causal(model)
    # The package has a function of that name.
    made = sys.modules["lec_guard.train.pii.tune"]
    own = made._arguments(run, causal, data.parent / "work", 6)
    assert (own.beta, own.learning_rate, own.num_train_epochs, own.per_device_train_batch_size) == (0.1, 1e-4, 3, 2)
    assert (own.lr_scheduler_type, own.lr_scheduler_kwargs) == ("cosine_with_min_lr", {"min_lr_rate": 0.1})
    assert (own.warmup_steps, own.max_length, run.max_prompt, own.report_to) == (0, 2048, 1900, [])
    with quiet("peft"):
        lora = made._with_adapters(causal, run)
    found = lora.peft_config["default"]
    assert (found.r, found.lora_alpha, found.lora_dropout) == (16, 32.0, 0.01)
    # trl's own way would set it to 0.
    assert {one.p for name, one in lora.named_modules() if name.endswith("lora_dropout.default")} == {0.01}


def test_a_run_that_was_stopped_ends_with_the_same_bits(model, data, tmp_path, monkeypatch):
    run = config(model, data, dropout=0.2)
    whole = tune(run, tmp_path / "whole")

    def never(*_, **__):
        raise AssertionError("a pickle")

    monkeypatch.setattr(torch, "save", never)
    monkeypatch.setattr(torch, "load", never)
    monkeypatch.setattr(pickle, "dump", never)
    out = tmp_path / "out"
    assert tune(run, out, minutes=0) == Unfinished(1, 6)
    assert {path.name for path in (out / "work").iterdir()} == {"checkpoint.safetensors", "trainer_state.json"}
    assert json.loads((out / "work" / "trainer_state.json").read_text())["global_step"] == 1
    with pytest.raises(UnsupportedValueError, match="not finished: give --resume"):
        tune(run, out)
    with pytest.raises(UnsupportedValueError, match="is of another run"):
        tune(config(model, data, dropout=0.3), out, resume=True)
    (out / "work" / "trainer_state.json").unlink()
    assert tune(run, out, minutes=0, resume=True) == Unfinished(2, 6)
    report = tune(run, out, resume=True)
    assert isinstance(report, TuneReport)
    assert isinstance(whole, TuneReport)
    assert (report.sha256, report.course) == (whole.sha256, whole.course)
    assert not (out / "work").exists()
    with pytest.raises(BundleError, match="holds adapters already"):
        tune(run, out)


def test_a_run_that_was_killed_goes_on_from_its_last_checkpoint(model, data, tmp_path):
    run = config(model, data, save_every=2)

    def progress(_what, share):
        if share > 0.7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(run, tmp_path / "out", progress=progress)
    assert [path.suffix for path in (tmp_path / "out" / "work").iterdir()].count(".safetensors") == 1
    again = tune(run, tmp_path / "out", resume=True)
    assert again.sha256 == tune(run, tmp_path / "whole").sha256


def test_trl_tells_nobody(model, data, tmp_path, monkeypatch):
    from trl.trainer import base_trainer

    told = []
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(base_trainer, "send_telemetry", lambda *one, **__: told.append(one))
    tune(config(model, data, epochs=1), tmp_path / "out")
    assert told == []


def test_other_architectures(data, tmp_path):
    folder = save_model(tmp_path / "gpt2", kind="gpt2")
    report = tune(config(folder, data, epochs=1, checkpointing=False, accumulate=2), tmp_path / "out")
    assert report.steps == 2
    assert {one.rpartition(".")[2] for one in report.targets} == {"c_attn", "c_proj", "c_fc"}


def test_what_was_left_out_is_told(model, tmp_path):
    long = {**pairs(1, guided=False)[0], "prompt": [{"role": "user", "content": "letter " * 80}]}
    data = save_lines(tmp_path / "pairs.jsonl", [*pairs(2, guided=False), long])
    report = tune(config(model, data, epochs=1), tmp_path / "out")
    assert report.left_out == {"the prompt has more than 59 tokens": 1}
    assert report.pairs == 2
    assert "1 pairs were left out: the prompt has more than 59 tokens" in report.notes
    assert "the model reads 64 tokens, less than max_length: 2,048" in report.notes
    with pytest.raises(UnsupportedValueError, match=r"none of 1 pairs can be learnt from \(the prompt has"):
        tune(config(model, save_lines(tmp_path / "long.jsonl", [long])), tmp_path / "other")


def test_a_tokenizer_without_a_chat_template_is_refused(data, tmp_path):
    folder = save_model(tmp_path / "bare", template=False)
    with pytest.raises(UnsupportedValueError, match="its tokenizer has no chat template"):
        tune(config(folder, data), tmp_path / "out")


def test_folders_without_a_model_are_refused(model, data, tmp_path):
    with pytest.raises(BundleError, match=r"it has no config\.json"):
        tune(config(tmp_path, data), tmp_path / "out")
    folder = save_model(tmp_path / "damaged")
    weights = load_file(folder / "model.safetensors")
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(BundleError, match="not a causal language model that can be read"):
        tune(config(folder, data), tmp_path / "out")


def test_targets_that_the_model_lacks_are_named(model, data, tmp_path):
    with pytest.raises(UnsupportedValueError, match="targets: peft can't adapt them"):
        tune(config(model, data, targets=["no_proj"]), tmp_path / "out")


def test_a_run_whose_numbers_are_none_writes_nothing(model, data, tmp_path):
    with pytest.raises(TuneError, match="came to nothing"):
        tune(config(model, data, rate=1e30, epochs=1, dropout=0.0), tmp_path / "out")
    assert not (tmp_path / "out" / "adapters.json").exists()


def test_settings_are_checked(model, data):
    with pytest.raises(UnsupportedValueError, match="max_prompt leaves no room"):
        config(model, data, max_length=100)
    with pytest.raises(UnsupportedValueError, match=r"ranks: .*rank"):
        config(model, data, ranks=3)
