from __future__ import annotations

import itertools
import json
import logging
import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
import transformers as hf
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from safetensors.torch import load_file, save_file
from transformers.utils import logging as hf_logging

from lec_guard.detect import architectures
from lec_guard.detect.prune import load_pruned
from lec_guard.errors import BundleError, DetectorError
from tests.detect.conftest import Saved
from tests.detect.models import COMMON, VOCAB, WIDTH, edit_json, gemma3, gpt2, save

LENGTHS = (23, 1, 7, 40, 12, 2, 31, 18)


def ragged(lengths: tuple[int, ...], side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Random ids and their mask, padded on one side."""
    numbers = torch.Generator().manual_seed(len(lengths))
    longest = max(lengths)
    ids = torch.zeros((len(lengths), longest), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        at = slice(longest - length, longest) if side == "left" else slice(0, length)
        ids[row, at] = torch.randint(3, VOCAB, (length,), generator=numbers)
        mask[row, at] = 1
    return ids, mask


BATCHES = [ragged((17,), "right"), ragged(LENGTHS, "right"), ragged(LENGTHS, "left")]


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


def rewritten(folder: Path, to: Path, **tensors: torch.Tensor | None) -> Path:
    """A copy with some tensors replaced; None removes one."""
    copied(folder, to)
    content = {**load_file(folder / "model.safetensors"), **tensors}
    kept = {name: tensor for name, tensor in content.items() if tensor is not None}
    save_file(kept, to / "model.safetensors", metadata={"format": "pt"})
    return to


def names(folder: Path) -> list[str]:
    return list(load_file(folder / "model.safetensors"))


def test_output_is_hidden_state_k_for_every_k(model: Saved) -> None:
    expected = [(ids, mask, model.states(ids, mask)) for ids, mask in BATCHES]
    for k in range(model.family.layers + 1):
        cut = load_pruned(model.folder, k)
        assert (cut.layers, cut.full_layers, cut.width) == (k, model.family.layers, WIDTH)
        for ids, mask, states in expected:
            kept = mask.bool()
            with torch.inference_mode():
                torch.testing.assert_close(cut.hidden(ids, mask)[kept], states[k][kept], rtol=0, atol=1e-6)
                every = cut.all_hidden(ids, mask)
            assert len(every) == k + 1
            for below, state in enumerate(every):
                torch.testing.assert_close(state[kept], states[below][kept], rtol=0, atol=1e-6)


def test_hidden_states_differ_between_layers(model: Saved) -> None:
    # Otherwise the test above could not tell one layer from another.
    ids, mask = BATCHES[0]
    states = model.states(ids, mask)
    assert all((a - b).abs().max() > 0.01 for a, b in itertools.pairwise(states))


def test_none_keeps_all_layers(bert: Saved) -> None:
    ids, mask = BATCHES[1]
    whole = load_pruned(bert.folder)
    assert whole.layers == whole.full_layers == bert.family.layers
    torch.testing.assert_close(whole.hidden(ids, mask)[mask.bool()], bert.states(ids, mask)[-1][mask.bool()])


def test_cut_module_has_only_the_kept_layers(model: Saved) -> None:
    sizes = [sum(p.numel() for p in load_pruned(model.folder, k).module.parameters()) for k in (1, 2)]
    layer = [name for name in names(model.folder) if name.startswith(f"{model.family.stack}1.")]
    content = load_file(model.folder / "model.safetensors")
    assert sizes[1] - sizes[0] == sum(content[name].numel() for name in layer) > 0


class _Slice:
    def __init__(self, name: str, inner: object, read: set[str]) -> None:
        self._name, self._inner, self._read = name, inner, read

    def __getitem__(self, at: object) -> torch.Tensor:
        self._read.add(self._name)
        return self._inner[at]

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)


class _Recorder:
    """An opened safetensors file that notes which tensors are turned into memory."""

    read: set[str]

    def __init__(self, *args: object, **options: object) -> None:
        self._inner = safetensors.safe_open(*args, **options)

    def __enter__(self) -> _Recorder:
        self._inner.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._inner.__exit__(*error)

    def keys(self) -> list[str]:
        return self._inner.keys()

    def metadata(self) -> dict[str, str]:
        return self._inner.metadata()

    def get_slice(self, name: str) -> _Slice:
        return _Slice(name, self._inner.get_slice(name), self.read)

    def get_tensor(self, name: str) -> torch.Tensor:
        self.read.add(name)
        return self._inner.get_tensor(name)


def test_only_tensors_of_kept_layers_are_read(model: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.modeling_utils.safe_open", _Recorder)
    for k in range(1, model.family.layers + 1):
        _Recorder.read = set()
        load_pruned(model.folder, k)
        assert _Recorder.read == {name for name in names(model.folder) if not model.family.dropped(name, k)}


def test_checkpoint_without_dropped_layers_and_head_is_enough(model: Saved, tmp_path: Path) -> None:
    dropped = {name: None for name in names(model.folder) if model.family.dropped(name, 2)}
    assert any(name.startswith(f"{model.family.stack}2.") for name in dropped)
    assert model.name == "gemma" or any(name.startswith(model.family.head) for name in dropped)
    folder = rewritten(model.folder, tmp_path / "kept", **dropped)
    ids, mask = BATCHES[1]
    torch.testing.assert_close(
        load_pruned(folder, 2).hidden(ids, mask), load_pruned(model.folder, 2).hidden(ids, mask), rtol=0, atol=0
    )
    with pytest.raises(BundleError, match="weights don't fit"):
        load_pruned(folder, 3)


def test_missing_kept_tensor_is_refused(model: Saved, tmp_path: Path) -> None:
    kept = [name for name in names(model.folder) if not model.family.dropped(name, 2)]
    layer = next(name for name in kept if name.startswith(f"{model.family.stack}1."))
    embedding = next(name for name in kept if "embed" in name and name.endswith("weight"))
    for at, name in enumerate((layer, embedding)):
        folder = rewritten(model.folder, tmp_path / str(at), **{name: None})
        with pytest.raises(BundleError, match="weights don't fit"):
            load_pruned(folder, 2)


def test_kept_tensor_of_another_shape_is_refused(bert: Saved, tmp_path: Path) -> None:
    name = "bert.encoder.layer.0.output.dense.weight"
    folder = rewritten(bert.folder, tmp_path / "bad", **{name: torch.zeros(3, 3)})
    with pytest.raises(BundleError, match=str(folder)):
        load_pruned(folder, 1)


def test_sharded_checkpoint_is_read(bert: Saved, tmp_path: Path) -> None:
    folder = tmp_path / "sharded"
    hf.BertForMaskedLM.from_pretrained(bert.folder).save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    ids, mask = BATCHES[1]
    torch.testing.assert_close(
        load_pruned(folder, 2).hidden(ids, mask), load_pruned(bert.folder, 2).hidden(ids, mask), rtol=0, atol=0
    )


def test_weights_keep_the_dtype_of_their_file(bert: Saved, tmp_path: Path) -> None:
    folder = tmp_path / "bf16"
    hf.BertForMaskedLM.from_pretrained(bert.folder).to(torch.bfloat16).save_pretrained(folder)
    ids, mask = BATCHES[0]
    assert load_pruned(folder, 1).hidden(ids, mask).dtype == torch.bfloat16


def test_loading_prints_nothing_and_restores_the_log_level(
    bert: Saved, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = hf_logging.get_verbosity()
    hf_logging.set_verbosity_warning()
    hf_logging.enable_progress_bar()
    said: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = said.append
    hf_logging.add_handler(handler)
    try:
        hf.AutoModel.from_pretrained(bert.folder)
        assert said
        assert capfd.readouterr().err
        said.clear()
        load_pruned(bert.folder, 1)
        assert said == []
        assert capfd.readouterr() == ("", "")
        (tmp_path / "config.json").write_text("{")
        with pytest.raises(BundleError):
            load_pruned(tmp_path, 1)
        assert hf_logging.get_verbosity() == hf_logging.WARNING
        assert hf_logging.is_progress_bar_enabled()
    finally:
        hf_logging.remove_handler(handler)
        hf_logging.set_verbosity(before)
        hf_logging.disable_progress_bar()


@pytest.fixture
def talkative() -> Iterator[list[str]]:
    """What is heard of all loggers, where transformers talks and shows bars."""
    before = hf_logging.get_verbosity()
    hf_logging.set_verbosity_warning()
    hf_logging.enable_progress_bar()
    # Where the variable CI is set, transformers hands its records on to the root, and they would be heard twice.
    library = logging.getLogger("transformers")
    propagated, library.propagate = library.propagate, False
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logging.root.addHandler(handler)
    hf_logging.add_handler(handler)
    yield said
    hf_logging.remove_handler(handler)
    logging.root.removeHandler(handler)
    library.propagate = propagated
    hf_logging.set_verbosity(before)
    hf_logging.disable_progress_bar()


def test_two_threads_that_load_at_once_leave_everything_as_it_was_and_silence_nobody_else(
    bert: Saved, talkative: list[str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, spoken, first_done = threading.Barrier(3), threading.Event(), threading.Event()
    load = architectures._load

    def wait_and_load(loader: Any, *args: Any, **options: Any) -> Any:
        if loader is hf.AutoConfig:
            entered.wait(30)
            assert spoken.wait(30)
        elif threading.current_thread().name == "slower":
            assert first_done.wait(30)
        return load(loader, *args, **options)

    def slower() -> None:
        threading.current_thread().name = "slower"
        load_pruned(bert.folder, 1)

    monkeypatch.setattr(architectures, "_load", wait_and_load)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.submit(load_pruned, bert.folder, 1), pool.submit(slower)
        entered.wait(30)
        for name in ("app", "transformers", "transformers.modeling_utils"):
            logging.getLogger(name).warning("from %s", name)
        spoken.set()
        first.result()
        first_done.set()
        second.result()
    assert talkative == ["from app", "from transformers", "from transformers.modeling_utils"]
    assert "Loading weights" not in capfd.readouterr().err
    assert hf_logging.get_verbosity() == hf_logging.WARNING
    assert hf_logging.is_progress_bar_enabled()
    assert not are_progress_bars_disabled()


def test_bars_of_the_hub_that_were_off_stay_off(bert: Saved, talkative: list[str]) -> None:
    disable_progress_bars()
    try:
        load_pruned(bert.folder, 1)
        assert hf_logging.is_progress_bar_enabled()
        assert are_progress_bars_disabled()
    finally:
        enable_progress_bars()


@pytest.mark.parametrize("k", [-1, 4, 1000])
def test_layers_out_of_range_are_refused(bert: Saved, k: int) -> None:
    with pytest.raises(BundleError, match=f"can't keep {k} layers of a model with 3"):
        load_pruned(bert.folder, k)


def test_folder_without_config_is_refused(bert: Saved, tmp_path: Path) -> None:
    shutil.copy(bert.folder / "model.safetensors", tmp_path)
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(BundleError, match=r"no config\.json"):
            load_pruned(folder, 1)


def test_folder_without_weights_is_refused(bert: Saved, tmp_path: Path) -> None:
    shutil.copy(bert.folder / "config.json", tmp_path)
    with pytest.raises(BundleError, match=str(tmp_path)):
        load_pruned(tmp_path, 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": "3"},
        {"num_attention_heads": 0},
        {"num_attention_heads": 5},
        {"hidden_act": "nope"},
        {"dtype": "nope"},
        {"vocab_size": 50},
        {"pad_token_id": 5000},
        {"model_type": "nope"},
    ],
)
def test_wrong_config_is_refused(bert: Saved, tmp_path: Path, changes: dict[str, object]) -> None:
    folder = copied(bert.folder, tmp_path / "bad")
    edit_json(folder / "config.json", **changes)
    with pytest.raises(BundleError, match=str(folder)):
        load_pruned(folder, 1)


@pytest.mark.parametrize("content", ["", "{", "null", "[]", "{}", "[" * 100_000])
def test_unreadable_config_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(BundleError, match=str(tmp_path)):
        load_pruned(tmp_path, 1)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: b"\x80\x04" + content[2:],
        lambda content: (2**40).to_bytes(8, "little") + content[8:],
        lambda content: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    ],
    ids=["empty", "truncated", "pickle magic", "huge header", "lfs pointer"],
)
def test_damaged_weights_are_refused(bert: Saved, tmp_path: Path, damage: object) -> None:
    folder = copied(bert.folder, tmp_path / "bad")
    (folder / "model.safetensors").write_bytes(damage((folder / "model.safetensors").read_bytes()))
    with pytest.raises(BundleError, match=str(folder)):
        load_pruned(folder, 1)


def test_a_base_that_sends_the_loader_elsewhere_is_refused(bert: Saved, tmp_path: Path) -> None:
    folder = copied(bert.folder, tmp_path / "base")
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tmp_path / "elsewhere")}))
    with pytest.raises(BundleError, match=r"holds adapters of peft .* merge them"):
        load_pruned(folder, 1)


def test_encoder_decoder_is_refused(tmp_path: Path) -> None:
    config = hf.T5Config(vocab_size=VOCAB, d_model=WIDTH, d_kv=8, d_ff=48, num_layers=2, num_heads=4, pad_token_id=0)
    save(hf.T5ForConditionalGeneration(config), tmp_path)
    with pytest.raises(DetectorError, match="t5"):
        load_pruned(tmp_path, 1)


def test_model_without_one_stack_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(DetectorError, match="clip"):
        load_pruned(tmp_path, 1)


def _opt(width: int) -> hf.PreTrainedModel:
    config = hf.OPTConfig(
        vocab_size=VOCAB,
        hidden_size=WIDTH,
        ffn_dim=48,
        num_attention_heads=4,
        num_hidden_layers=3,
        max_position_embeddings=64,
        word_embed_proj_dim=width,
        pad_token_id=0,
    )
    return hf.OPTForCausalLM(config)


def _mpt() -> hf.PreTrainedModel:
    return hf.MptForCausalLM(hf.MptConfig(vocab_size=VOCAB, d_model=WIDTH, n_heads=4, n_layers=3, max_seq_len=64))


@pytest.mark.parametrize("build", [lambda: _opt(16), _mpt], ids=["projection", "unknown norm"])
def test_unknown_change_after_the_last_layer_is_refused(tmp_path: Path, build: object) -> None:
    save(build(), tmp_path)
    for k in (1, 2):
        with pytest.raises(DetectorError, match="changes the hidden state after its last layer"):
            load_pruned(tmp_path, k)


def _albert() -> hf.PreTrainedModel:
    return hf.AlbertModel(hf.AlbertConfig(**COMMON, num_hidden_layers=3, embedding_size=16))


@pytest.mark.parametrize("build", [gpt2, gemma3, lambda: _opt(WIDTH)], ids=["gpt2", "gemma3", "opt without projection"])
def test_other_decoders_are_cut_without_their_final_norm(tmp_path: Path, build: object) -> None:
    save(build(), tmp_path)
    whole = hf.AutoModel.from_pretrained(tmp_path).eval()
    ids, mask = BATCHES[1]
    kept = mask.bool()
    with torch.inference_mode():
        states = whole(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
        for k, state in enumerate(states):
            torch.testing.assert_close(load_pruned(tmp_path, k).hidden(ids, mask)[kept], state[kept], rtol=0, atol=1e-6)


def test_layers_that_share_their_weights_are_refused(tmp_path: Path) -> None:
    save(_albert(), tmp_path)
    with pytest.raises(DetectorError, match="no stack of 2 layers"):
        load_pruned(tmp_path, 2)


@pytest.mark.parametrize("model_type", ["bert", "unheard-of"])
def test_code_in_the_folder_is_never_run(bert: Saved, tmp_path: Path, model_type: str) -> None:
    folder, marker = copied(bert.folder, tmp_path / "evil"), tmp_path / "ran"
    code = f"from pathlib import Path\nPath({str(marker)!r}).touch()\n"
    code += "from transformers import BertConfig as Config, BertModel as Model\n"
    (folder / "evil.py").write_text(code)
    edit_json(
        folder / "config.json",
        model_type=model_type,
        auto_map={"AutoConfig": "evil.Config", "AutoModel": "evil.Model"},
        architectures=["Model"],
    )
    if model_type == "bert":
        ids, mask = BATCHES[0]
        torch.testing.assert_close(load_pruned(folder, 1).hidden(ids, mask), bert.states(ids, mask)[1])
    else:
        with pytest.raises(BundleError):
            load_pruned(folder, 1)
    assert not marker.exists()


class _Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.marker),)


def test_pickled_weights_are_refused_unread(bert: Saved, tmp_path: Path) -> None:
    folder, marker = copied(bert.folder, tmp_path / "pickled"), tmp_path / "ran"
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    for content in (state, {**state, "bomb": _Bomb(marker)}):
        torch.save(content, folder / "pytorch_model.bin")
        with pytest.raises(BundleError, match=str(folder)):
            load_pruned(folder, 1)
    assert not marker.exists()


def test_digest_is_the_same_for_two_loads(bert: Saved) -> None:
    assert load_pruned(bert.folder, 2).digest() == load_pruned(bert.folder, 2).digest()


def test_digest_knows_every_kept_weight_and_no_other(bert: Saved, tmp_path: Path) -> None:
    before = load_pruned(bert.folder, 2).digest()
    content = load_file(bert.folder / "model.safetensors")
    for at, (layer, same) in enumerate(((1, False), (2, True))):
        name = f"bert.encoder.layer.{layer}.attention.self.key.bias"
        changed = content[name].clone()
        changed[-1] = torch.nextafter(changed[-1], torch.tensor(9.0))
        folder = rewritten(bert.folder, tmp_path / str(at), **{name: changed})
        assert (load_pruned(folder, 2).digest() == before) is same


def test_digest_knows_every_tensor(bert: Saved) -> None:
    cut = load_pruned(bert.folder, 1)
    digests = {cut.digest()}
    tensors = cut.module.state_dict().values()
    for tensor in tensors:
        tensor.view(-1)[-1] += 1
        digests.add(cut.digest())
    assert len(digests) == len(tensors) + 1 > 10


def test_digest_differs_between_cuts(bert: Saved) -> None:
    assert len({load_pruned(bert.folder, k).digest() for k in (1, 2, 3)}) == 3
