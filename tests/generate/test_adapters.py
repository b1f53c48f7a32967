"""Adapters of tenants are switched, never mixed, and leave the model as it was."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lec_guard.detect.quiet import quiet
from lec_guard.errors import BundleError, UnsupportedValueError
from lec_guard.generate import Guidance, GuidedCausalLM
from lec_guard.generate.adapters import TenantAdapters, read_adapters, weights_hash, write_adapters
from tests.generate.tiny import KINDS, model_of

IDS = torch.randint(3, 60, (2, 8), generator=torch.Generator().manual_seed(0))


def make(folder: Path, kind: str, seed: int, *, base: str | None = None) -> torch.Tensor:
    """Write random adapters; gives what peft itself makes of them."""
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

    model = model_of(kind)
    base = base or weights_hash(model)
    torch.manual_seed(seed)
    with quiet("peft"):
        tuned = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, own in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(own, std=0.3)
    targets = tuple(sorted(tuned.peft_config["default"].target_modules))
    tensors = get_peft_model_state_dict(tuned, save_embedding_layers=False)
    write_adapters(folder, tensors, {"base": base, "rank": 4, "alpha": 8.0, "targets": targets})
    with torch.no_grad():
        return tuned.eval()(IDS).logits


@pytest.fixture
def folders(tmp_path):
    make(tmp_path / "acme", "llama", 1)
    make(tmp_path / "globex", "llama", 2)
    return tmp_path


@torch.no_grad()
def logits(adapters: TenantAdapters, tenant: str | None) -> torch.Tensor:
    with adapters.using(tenant) as model:
        return model(IDS).logits


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_each_tenant_has_its_own_and_the_model_stays_what_it_was(kind, tmp_path):
    expected = {"acme.eu": make(tmp_path / "one", kind, 1), "globex": make(tmp_path / "two", kind, 2)}
    model = model_of(kind)
    modules, before = [type(one) for one in model.modules()], model(IDS).logits
    grads = [one.requires_grad for one in model.parameters()]
    adapters = TenantAdapters(model)
    adapters.attach("acme.eu", tmp_path / "one")
    adapters.attach("globex", tmp_path / "two")
    assert adapters.tenants == ("acme.eu", "globex")
    for _ in range(2):
        for tenant, own in expected.items():
            assert torch.equal(logits(adapters, tenant), own)
        assert torch.equal(logits(adapters, None), before)
    assert not torch.equal(expected["acme.eu"], expected["globex"])
    adapters.detach("acme.eu")
    assert torch.equal(logits(adapters, "globex"), expected["globex"])
    assert torch.equal(logits(adapters, None), before)
    adapters.detach("globex")
    assert adapters.tenants == ()
    assert torch.equal(model(IDS).logits, before)
    assert [type(one) for one in model.modules()] == modules
    assert [one.requires_grad for one in model.parameters()] == grads
    adapters.attach("again", tmp_path / "one")
    assert torch.equal(logits(adapters, "again"), expected["acme.eu"])


def test_threads_of_two_tenants_write_at_once_and_each_by_its_own(folders):
    adapters = TenantAdapters(model_of("llama"))
    for tenant in ("acme", "globex"):
        adapters.attach(tenant, folders / tenant)

    def write(tenant: str | None) -> list[int]:
        with adapters.using(tenant) as model:
            guided = GuidedCausalLM(model, Guidance(coefficient=2.0))
            found = guided.generate(IDS, negative_input_ids=IDS.flip(1), max_new_tokens=12, do_sample=False)
        return found[:, 8:].flatten().tolist()

    alone = {tenant: write(tenant) for tenant in ("acme", "globex", None)}
    assert len({tuple(one) for one in alone.values()}) == 3
    asked = ["acme", "globex", None] * 6
    with ThreadPoolExecutor(6) as pool:
        for tenant, found in zip(asked, pool.map(write, asked), strict=True):
            assert found == alone[tenant]


def test_nobody_writes_with_what_another_tenant_switched_on(folders):
    model = model_of("llama")
    adapters = TenantAdapters(model)
    adapters.attach("acme", folders / "acme")
    with pytest.raises(UnsupportedValueError, match="run it within `with adapters"):
        model(IDS)
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with adapters.using("acme"):
            inside.set()
            leave.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    assert inside.wait(10)
    try:
        with pytest.raises(UnsupportedValueError, match="run it within `with adapters"):
            model.generate(IDS, max_new_tokens=1)
    finally:
        leave.set()
        holder.join()


def test_one_thread_uses_one_at_a_time(folders):
    adapters = TenantAdapters(model_of("llama"))
    adapters.attach("acme", folders / "acme")
    with adapters.using("acme") as model:
        for does in (
            lambda: adapters.using(None).__enter__(),
            lambda: adapters.detach("acme"),
            lambda: adapters.attach("globex", folders / "globex"),
        ):
            with pytest.raises(UnsupportedValueError, match="leave that `using` first"):
                does()
        before = model(IDS).logits
    assert torch.equal(logits(adapters, "acme"), before)
    # An error within leaves nothing switched on, and nothing locked.
    with pytest.raises(RuntimeError, match="oh"), adapters.using("acme"):
        raise RuntimeError("oh")
    with torch.no_grad():
        expected = model_of("llama")(IDS).logits
    assert torch.equal(logits(adapters, None), expected)


def test_unknown_and_repeated_tenants_are_refused(folders):
    adapters = TenantAdapters(model_of("llama"))
    with pytest.raises(UnsupportedValueError, match="no adapters are attached for 'acme'; there are: none"):
        logits(adapters, "acme")
    adapters.attach("acme", folders / "acme")
    with pytest.raises(UnsupportedValueError, match="'acme' has adapters attached: detach them first"):
        adapters.attach("acme", folders / "globex")
    with pytest.raises(UnsupportedValueError, match="for 'globex'; there are: 'acme'"):
        adapters.detach("globex")
    with pytest.raises(UnsupportedValueError, match="has adapters already: load it without"):
        TenantAdapters(adapters._model)


def test_adapters_of_other_weights_are_refused(folders):
    other = model_of("llama")
    with torch.no_grad():
        other.model.layers[1].mlp.up_proj.weight[0, 0] += 0.01
    adapters = TenantAdapters(other)
    with pytest.raises(BundleError, match=r"acme: was trained on other weights \(.*…\) than this model has"):
        adapters.attach("acme", folders / "acme")
    assert adapters.tenants == ()
    assert other(IDS).logits.shape


def test_the_hash_is_of_the_weights_in_whatever_type(tmp_path):
    model = model_of("llama")
    own = weights_hash(model)
    assert weights_hash(model_of("llama").to(torch.bfloat16)) == own
    model.to(torch.bfloat16).to(torch.float32)
    assert weights_hash(model) == own
    assert weights_hash(model_of("qwen2")) != own
    with torch.device("meta"):
        nowhere = model_of("llama")
    with pytest.raises(UnsupportedValueError, match="not in memory: load the whole model"):
        weights_hash(nowhere)


def test_adapters_that_do_not_fit_leave_the_model_alone(folders):
    model = model_of("llama")
    adapters = TenantAdapters(model)
    expected = logits(adapters, None)
    for number, change in enumerate(
        (
            lambda own: {name: one for name, one in own.items() if "q_proj" not in name},
            lambda own: own | {"base_model.model.other.lora_A.weight": torch.zeros(4, 32)},
            lambda own: {name: one[..., :-1].contiguous() for name, one in own.items()},
        )
    ):
        folder = folders / f"bad{number}"
        card = read_adapters(folders / "acme").card.model_dump(exclude={"sha256"})
        write_adapters(folder, change(load_file(folders / "acme" / "adapter_model.safetensors")), card)
        with pytest.raises(BundleError, match="the adapters don't fit the model"):
            adapters.attach("bad", folder)
        assert torch.equal(logits(adapters, None), expected)
        assert torch.equal(model(IDS).logits, expected)
    adapters.attach("acme", folders / "acme")
    with pytest.raises(BundleError, match="don't fit"):
        adapters.attach("bad", folders / "bad0")
    assert adapters.tenants == ("acme",)
    assert torch.equal(logits(adapters, None), expected)


def test_damaged_folders_are_named(folders):
    adapters, folder = TenantAdapters(model_of("llama")), folders / "acme"
    weights, card = folder / "adapter_model.safetensors", folder / "adapters.json"
    kept = weights.read_bytes()
    weights.write_bytes(kept[:-1] + b"x")
    with pytest.raises(BundleError, match=r"but adapters\.json promises .*: it was altered"):
        adapters.attach("acme", folder)
    weights.unlink()
    # Pickled weights beside are not looked at.
    torch.save({}, folder / "adapter_model.bin")
    with pytest.raises(BundleError, match=r"can't be read.*adapters are a folder with"):
        adapters.attach("acme", folder)
    weights.write_bytes(kept)
    about = json.loads(card.read_text())
    card.write_text(json.dumps(about | {"rnak": 3}))
    with pytest.raises(BundleError, match=r"adapters\.json: rnak: "):
        adapters.attach("acme", folder)
    card.write_text("{")
    with pytest.raises(BundleError, match=r"adapters\.json"):
        adapters.attach("acme", folder)
    with pytest.raises(BundleError, match="can't be read"):
        adapters.attach("acme", folders / "nowhere")


def test_numbers_that_are_none_are_not_written(tmp_path):
    with pytest.raises(BundleError, match="the adapters on a are no finite numbers"):
        write_adapters(tmp_path / "out", {"a": torch.tensor([float("nan")])}, {})
    assert not (tmp_path / "out").exists()


def test_attaching_draws_no_numbers_that_others_would_see(folders):
    adapters = TenantAdapters(model_of("llama"))
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    adapters.attach("acme", folders / "acme")
    assert torch.equal(torch.rand(3), expected)


def test_without_peft_it_says_so(monkeypatch):
    from lec_guard.generate import adapters

    monkeypatch.setattr(adapters, "find_spec", lambda _: None)
    with pytest.raises(UnsupportedValueError, match=r"pip install 'lec-guard\[tune\]'"):
        TenantAdapters(model_of("llama"))


def test_other_safetensors_are_no_adapters(folders):
    card = read_adapters(folders / "acme").card
    save_file({"a": torch.zeros(1)}, folders / "acme" / "adapter_model.safetensors")
    with pytest.raises(BundleError, match=card.sha256):
        read_adapters(folders / "acme")
