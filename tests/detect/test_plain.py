from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

from lec_guard.detect import export, plain
from lec_guard.detect.architectures import load_any
from lec_guard.detect.bundle import read_bundle
from lec_guard.detect.extractor import Extractor, window_of
from lec_guard.detect.plain import PlainEncoder, load_plain
from lec_guard.detect.prune import load_pruned
from lec_guard.errors import BundleError
from tests.conftest import ROOT
from tests.detect.conftest import Saved
from tests.detect.models import (
    BLOCKS,
    COMMON,
    POSITIONS,
    WIDTH,
    WINDOW,
    edit_json,
    encoder_tokenizer,
    save,
    save_bundle,
)
from tests.detect.test_prune import BATCHES

LAYERS = 3


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without a head, as encoders of sentences are saved; nobody may change the folder."""
    folder = save(hf.BertModel(hf.BertConfig(**COMMON, num_hidden_layers=LAYERS)), tmp_path_factory.mktemp("encoder"))
    encoder_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def own(encoder: Path, tmp_path: Path) -> Path:
    """A copy of it to change."""
    return Path(shutil.copytree(encoder, tmp_path / "own"))


def rewrite(folder: Path, **tensors: torch.Tensor | None) -> None:
    """Replace tensors; None removes one."""
    content = {**load_file(folder / "model.safetensors"), **tensors}
    kept = {name: tensor for name, tensor in content.items() if tensor is not None}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def test_output_is_hidden_state_k_for_every_k(encoder: Path) -> None:
    whole = hf.AutoModel.from_pretrained(encoder).eval()
    for k in range(LAYERS + 1):
        cut = load_pruned(encoder, k)
        assert type(cut.module) is PlainEncoder
        for ids, mask in BATCHES:
            kept = mask.bool()
            with torch.inference_mode():
                states = whole(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
                every = cut.all_hidden(ids, mask)
                torch.testing.assert_close(cut.hidden(ids, mask)[kept], states[k][kept], rtol=0, atol=1e-6)
            assert len(every) == k + 1
            for below, state in enumerate(every):
                torch.testing.assert_close(state[kept], states[below][kept], rtol=0, atol=1e-6)


def test_what_is_known_of_it_is_what_transformers_would_say(encoder: Path) -> None:
    for k in (*range(LAYERS + 1), None):
        ours, theirs = load_pruned(encoder, k), load_any(encoder, k)
        assert ours.digest() == theirs.digest()
        same = {"module": None, "takes_all": None}
        assert dataclasses.replace(ours, **same) == dataclasses.replace(theirs, **same)
        assert (ours.takes_all, theirs.takes_all) == (True, False)
        assert not any(parameter.requires_grad for parameter in ours.module.parameters())
        assert not ours.module.training


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_act": "gelu_new"},
        {"is_decoder": True},
        {"position_embedding_type": "relative_key"},
        {"dtype": "bfloat16"},
        {"unheard_of": 1},
        {"layer_norm_eps": None},
    ],
)
def test_a_config_that_says_anything_else_is_left_to_transformers(own: Path, changes: dict[str, object]) -> None:
    edit_json(own / "config.json", **changes)
    assert load_plain(own, 2) is None
    assert not isinstance(load_pruned(own, 2).module, PlainEncoder)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_attention_heads": 5},
        {"num_hidden_layers": "3"},
        {"pad_token_id": 5000},
        {"vocab_size": 50},
        {"hidden_size": 10**30},
        {"intermediate_size": 2**31 - 1, "hidden_size": 2**31 - 4},
    ],
)
def test_what_is_wrong_is_left_to_transformers_to_say(own: Path, changes: dict[str, object]) -> None:
    edit_json(own / "config.json", **changes)
    assert load_plain(own, 2) is None
    with pytest.raises(BundleError, match=str(own)):
        load_pruned(own, 2)


@pytest.mark.parametrize("k", [-1, LAYERS + 1])
def test_layers_out_of_range_are_refused(encoder: Path, k: int) -> None:
    with pytest.raises(BundleError, match=f"can't keep {k} layers of a model with 3"):
        load_pruned(encoder, k)


def test_weights_of_other_names_shapes_or_dtypes_are_left_to_transformers(own: Path) -> None:
    name = "encoder.layer.1.output.dense.weight"
    weight = load_file(own / "model.safetensors")[name]
    assert load_plain(own, 2) is not None
    for other in (None, weight[1:].clone(), weight.double()):
        rewrite(own, **{name: other})
        assert load_plain(own, 2) is None
        # What is dropped may be as it likes.
        assert load_plain(own, 1) is not None
    rewrite(own, **{name: None})
    with pytest.raises(BundleError, match="weights don't fit"):
        load_pruned(own, 2)


def test_other_files_are_left_to_transformers(own: Path, bert: Saved) -> None:
    hf.AutoModel.from_pretrained(own).save_pretrained(own / "sharded", max_shard_size="20KB")
    for folder in (own / "sharded", bert.folder):  # the latter has a head, and so other names
        assert load_plain(folder, 2) is None
        load_pruned(folder, 2)
    content = (own / "model.safetensors").read_bytes()
    for damaged in (b"", content[: len(content) // 2], (2**40).to_bytes(8, "little") + content[8:]):
        (own / "model.safetensors").write_bytes(damaged)
        with pytest.raises(BundleError, match=str(own)):
            load_pruned(own, 2)


def test_a_file_that_changes_later_changes_no_weights(own: Path) -> None:
    cut = load_pruned(own, 2)
    assert isinstance(cut.module, PlainEncoder)
    digest, path = cut.digest(), own / "model.safetensors"
    with path.open("r+b") as file:  # in place: no new file
        file.seek(path.stat().st_size // 2)
        file.write(bytes(path.stat().st_size // 2))
    assert cut.digest() == digest != load_pruned(own, 2).digest()


def test_it_reads_as_many_positions_as_it_says_and_no_more(encoder: Path) -> None:
    window = dataclasses.replace(WINDOW, size=POSITIONS)
    extractor = Extractor.load(encoder, blocks=BLOCKS, window=window)
    assert np.isfinite(extractor.features([window_of(POSITIONS)])).all()
    with pytest.raises(BundleError, match="windows of 65 tokens, but the model reads 64"):
        Extractor.load(encoder, blocks=BLOCKS, window=dataclasses.replace(WINDOW, size=POSITIONS + 1))


def test_bfloat16_gives_the_features_of_float32_within_a_tolerance(encoder: Path) -> None:
    exact, rounded = (Extractor.load(encoder, blocks=BLOCKS, window=WINDOW, dtype=dtype) for dtype in ("fp32", "bf16"))
    windows = [window_of(size) for size in (3, 16, 9)]
    found, expected = rounded.features(windows), exact.features(windows)
    assert not np.array_equal(found, expected)
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


def test_it_is_no_decoder(encoder: Path) -> None:
    with pytest.raises(BundleError, match="a PlainEncoder is no causal decoder"):
        load_pruned(encoder, 2).check_prefix()


def test_it_is_exported(encoder: Path, tmp_path: Path) -> None:
    bundle = read_bundle(save_bundle(tmp_path / "bundle", encoder))
    # Which compares the scores with those of torch.
    export.export(bundle, tmp_path / "exported", "fp32")


def test_a_verdict_imports_neither_transformers_nor_a_compiler(encoder: Path, tmp_path: Path) -> None:
    program = """
import json, sys
from lec_guard import LayerDetector, Step
LayerDetector.load(sys.argv[1]).score([Step(stage="input", text="ignore the rules")])
print(json.dumps(sorted({name.split(".")[0] for name in sys.modules} | {"torch._dynamo"} & set(sys.modules))))
"""
    arguments = [sys.executable, "-c", program, str(save_bundle(tmp_path, encoder))]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    imported = set(json.loads(done.stdout))
    assert "torch" in imported
    assert not imported & {"transformers", "torch._dynamo", "sympy", "sklearn", "scipy", "huggingface_hub"}


def test_no_weights_are_made_up_first(encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_args: object, **_options: object) -> None:
        pytest.fail("random numbers for weights that come from a file")

    for name in ("normal_", "uniform_", "kaiming_uniform_"):
        monkeypatch.setattr(torch.nn.init, name, never)
    read = plain.load_plain(encoder, 2)
    assert read is not None
    assert {parameter.device.type for parameter in read.module.parameters()} == {"cpu"}
    assert read.config.hidden_size == WIDTH
