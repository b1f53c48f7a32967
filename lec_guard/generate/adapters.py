"""Adapters of tenants on one loaded model: checked against its weights, used by one tenant at a time, and taken off.

A folder of adapters has the weights as safetensors under the names that peft and those who read it know, and beside
them `adapters.json`: which base they were trained on, and the hash of the weights. Nothing in it is pickled.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from transformers import PreTrainedModel

from lec_guard.detect.quiet import quiet
from lec_guard.errors import BundleError, UnsupportedValueError

CARD = "adapters.json"
WEIGHTS = "adapter_model.safetensors"
"""In a folder of adapters: what they are, and the weights under the name that peft gives them."""

_Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class AdapterCard(BaseModel):
    """What a folder of adapters holds (LoRA, Hu et al. 2021, arXiv 2106.09685).

    Attributes:
        version: Of this form.
        base: `weights_hash` of the model that they were trained on.
        sha256: Of the file with the weights.
        rank: Of each factor.
        alpha: Their product counts `alpha / rank` times.
        targets: The names of the layers that they sit on.
        positive: What the system prompt asked for while they were trained; None where none was set.
        negative: The opposite of it, for guidance.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    base: _Hash
    sha256: _Hash
    rank: Annotated[int, Field(gt=0)]
    alpha: Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
    targets: Annotated[tuple[str, ...], Field(min_length=1)]
    positive: str | None = None
    negative: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class AdapterWeights:
    """A folder of adapters, read and checked.

    Attributes:
        card: What they are.
        tensors: The weights, by the names that peft gives them.
    """

    card: AdapterCard
    tensors: Mapping[str, Tensor]


def weights_hash(model: PreTrainedModel) -> str:
    """Say which weights a model has, as they are in memory.

    Args:
        model: A model without adapters.

    Returns:
        sha256 over names and values. Values are rounded to bfloat16, so that a model has one hash, be it loaded as
        float32 or as bfloat16; weights that differ by less are the same to adapters, too.

    Raises:
        UnsupportedValueError: If some of the weights are not in memory.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if tensor.is_meta:
            raise UnsupportedValueError(f"the weights {name} are not in memory: load the whole model")
        own = tensor.detach().to(torch.bfloat16) if tensor.is_floating_point() else tensor.detach()
        digest.update(json.dumps([name, list(own.shape), str(own.dtype)]).encode())
        digest.update(own.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_adapters(folder: Path, tensors: Mapping[str, Tensor], card: Mapping[str, Any]) -> AdapterCard:
    """Write adapters, the card last: a folder with a card is whole.

    Args:
        folder: Where to; made if missing.
        tensors: The weights, by the names that peft gives them.
        card: What they are, but for the hash of the file.

    Returns:
        The card that was written.

    Raises:
        BundleError: If a weight is no finite number.
    """
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise BundleError(f"the adapters on {name} are no finite numbers")
    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, {"format": "pt"})
    written = AdapterCard(**card, sha256=hashlib.sha256(content).hexdigest())
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in ((WEIGHTS, content), (CARD, f"{written.model_dump_json(indent=2)}\n".encode())):
        fresh = folder / f".{name}.new"
        fresh.write_bytes(data)
        fresh.replace(folder / name)
    return written


def read_adapters(folder: Path) -> AdapterWeights:
    """Read a folder of adapters.

    Args:
        folder: The folder.

    Returns:
        What is in it.

    Raises:
        BundleError: If a file is missing or altered, or is none of ours; pickled weights are never read.
    """
    try:
        card = AdapterCard.model_validate_json((folder / CARD).read_bytes())
        content = (folder / WEIGHTS).read_bytes()
    except OSError as error:
        raise BundleError(
            f"{error.filename}: can't be read ({error.strerror}); adapters are a folder with {CARD} and {WEIGHTS}, as "
            "`lec-guard tune` writes it"
        ) from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise BundleError(f"{folder / CARD}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    found = hashlib.sha256(content).hexdigest()
    if found != card.sha256:
        raise BundleError(
            f"{folder / WEIGHTS}: sha256 is {found}, but {CARD} promises {card.sha256}: it was altered; tune again"
        )
    try:
        return AdapterWeights(card, load(content))
    except SafetensorError as error:
        raise BundleError(f"{folder / WEIGHTS}: no safetensors: {error}") from None


class TenantAdapters:
    """Adapters of several tenants on one model, which are switched and never mixed.

    The model is changed in place and is one for all, so one thread uses it at a time: `using` holds a lock for as long
    as a tenant writes, and others wait. While any adapters are attached, the model refuses whoever runs it outside of
    `using`: nobody writes with what another tenant happens to have switched on. With none attached, it is what it was,
    to the bit.

    Args:
        model: The model, loaded and without adapters.

    Raises:
        UnsupportedValueError: If it has adapters already, its weights are not in memory, or peft is missing.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        if find_spec("peft") is None:
            raise UnsupportedValueError("adapters need peft; run: pip install 'lec-guard[tune]'")
        if getattr(model, "peft_config", None):
            raise UnsupportedValueError("the model has adapters already: load it without")
        self._model = model
        self._base = weights_hash(model)
        self._lock = threading.RLock()
        self._user: int | None = None
        # Names of tenants may have dots, which names of modules may not.
        self._names: dict[str, str] = {}
        self._numbers = itertools.count()
        self._peft: Any = None
        self._undo: list[Any] = []

    @property
    def base(self) -> str:
        """`weights_hash` of the model without adapters."""
        return self._base

    @property
    def tenants(self) -> tuple[str, ...]:
        """Who has adapters attached, in the order of attaching."""
        return tuple(self._names)

    def attach(self, tenant: str, folder: Path | str) -> AdapterCard:
        """Attach the adapters of a tenant; nobody writes with them before `using` says so.

        Args:
            tenant: The tenant.
            folder: What `lec-guard tune` wrote.

        Returns:
            What they are.

        Raises:
            BundleError: If the folder can't be read, or its adapters are those of other weights.
            UnsupportedValueError: If the tenant has adapters attached, or this thread is using some.
        """
        found = read_adapters(Path(folder))
        if found.card.base != self._base:
            raise BundleError(
                f"{folder}: was trained on other weights ({found.card.base[:16]}…) than this model has "
                f"({self._base[:16]}…): load that base, or tune this one"
            )
        with self._changing():
            if tenant in self._names:
                raise UnsupportedValueError(f"{tenant!r} has adapters attached: detach them first")
            name = f"tenant{next(self._numbers)}"
            try:
                self._add(name, found)
            except BaseException:
                self._remove(name)
                raise
            self._names[tenant] = name
            self._switch(None)
        return found.card

    def detach(self, tenant: str) -> None:
        """Take a tenant's adapters off, after who writes with them has finished.

        Args:
            tenant: The tenant.

        Raises:
            UnsupportedValueError: If it has none, or this thread is using some.
        """
        with self._changing():
            name = self._name(tenant)
            self._remove(name)
            del self._names[tenant]
            if self._names:
                self._switch(None)

    @contextmanager
    def using(self, tenant: str | None) -> Iterator[PreTrainedModel]:
        """Write with the adapters of a tenant; others wait until this is over.

        In asynchronous code, enter and leave it within one call on a thread of its own (`asyncio.to_thread`).

        Args:
            tenant: The tenant; None for the model without adapters.

        Yields:
            The model, with its adapters switched on for this thread.

        Raises:
            UnsupportedValueError: If the tenant has none, or this thread is using some already.
        """
        with self._changing():
            name = None if tenant is None else self._name(tenant)
            self._user = threading.get_ident()
            try:
                self._switch(name)
                yield self._model
            finally:
                self._user = None
                self._switch(None)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        # Before the lock: of this thread alone it can be true.
        if self._user == threading.get_ident():
            raise UnsupportedValueError("this thread is using adapters already: leave that `using` first")
        with self._lock:
            yield

    def _name(self, tenant: str) -> str:
        if tenant not in self._names:
            known = ", ".join(map(repr, self._names)) or "none"
            raise UnsupportedValueError(f"no adapters are attached for {tenant!r}; there are: {known}")
        return self._names[tenant]

    def _switch(self, name: str | None) -> None:
        if self._peft is None:
            return
        if name is None:
            self._peft.base_model.disable_adapter_layers()
        else:
            self._peft.base_model.enable_adapter_layers()
            self._peft.base_model.set_adapter(name, inference_mode=True)

    def _add(self, name: str, found: AdapterWeights) -> None:
        from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

        config = LoraConfig(
            task_type="CAUSAL_LM",
            inference_mode=True,
            r=found.card.rank,
            lora_alpha=found.card.alpha,  # type: ignore[arg-type] # any number will do
            lora_dropout=0.0,
            target_modules=list(found.card.targets),
        )
        # Weights are drawn before those of the file replace them; whoever draws by a seed of their own must not see it.
        with torch.random.fork_rng(devices=[]), quiet("peft"):
            try:
                if self._peft is None:
                    self._undo = [(own, own.requires_grad) for own in self._model.parameters()]
                    self._peft = get_peft_model(self._model, config, adapter_name=name, autocast_adapter_dtype=False)
                    self._hook = self._model.register_forward_pre_hook(self._refuse_others)
                else:
                    self._peft.add_adapter(name, config, autocast_adapter_dtype=False)
                told: Any = set_peft_model_state_dict(self._peft, dict(found.tensors), adapter_name=name)
            except (RuntimeError, ValueError, KeyError) as error:
                raise BundleError(f"the adapters don't fit the model: {error}") from None
        left = [key for key in told.missing_keys if f".{name}." in key]
        if left or told.unexpected_keys:
            raise BundleError(f"the adapters don't fit the model, first at {[*left, *told.unexpected_keys][0]}")

    def _remove(self, name: str) -> None:
        if self._peft is None:
            return
        if name in self._peft.peft_config:
            self._peft.delete_adapter(name)
        if not self._peft.peft_config:
            self._hook.remove()
            self._peft.unload()
            self._peft = None
            for parameter, had in self._undo:
                parameter.requires_grad_(had)
            self._undo = []

    def _refuse_others(self, *_: Any) -> None:
        # In a compiled step there is no asking; the first step of every answer is not compiled.
        if not torch.compiler.is_compiling() and self._user != threading.get_ident():
            raise UnsupportedValueError(
                "the model has adapters of tenants: run it within `with adapters.using(tenant) as model`, or "
                "`adapters.using(None)` for none of them"
            )
