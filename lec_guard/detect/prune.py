"""A transformer cut off after layer k.

LEC (Masterman et al. 2024, arXiv 2412.13435) reads an intermediate layer; what lies above it is never
loaded. There is no table of architectures: the layer stack is the model's list of blocks, its length is
the config's `num_hidden_layers`, and a cut model is checked once, when it is loaded, on a short input.
"""

from __future__ import annotations

import hashlib
import inspect
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, PretrainedConfig
from transformers.utils import logging as hf_logging

from lec_guard.errors import BundleError, DetectorError

_FINAL_NORMS = ("norm", "final_norm", "ln_f", "final_layernorm", "final_layer_norm")
"""What Hugging Face models call the norm after the last layer, on the module that owns the stack."""


@dataclass(frozen=True, slots=True)
class PrunedModel:
    """A transformer whose output is the hidden state after layer k.

    Attributes:
        module: The cut model, in evaluation mode.
        layers: k, the number of layers that are left; 0 stands for the embeddings.
        full_layers: How many the model had.
        width: Size of a hidden state.
        pad_id: Token id to pad with.
        max_positions: The longest input the model takes in tokens, or None if it names no limit.
    """

    module: torch.nn.Module
    layers: int
    full_layers: int
    width: int
    pad_id: int
    max_positions: int | None

    def hidden(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The hidden state after layer k; equal to the whole model's `hidden_states[k]`.

        Args:
            ids: Token ids, `[batch, tokens]`.
            mask: 1 for a token, 0 for padding, `[batch, tokens]`.

        Returns:
            `[batch, tokens, width]`, in the dtype of the weights.
        """
        if self.layers == 0:
            return self.all_hidden(ids, mask)[0]
        state: torch.Tensor = self.module(input_ids=ids, attention_mask=mask, return_dict=True).last_hidden_state
        return state

    def all_hidden(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The hidden states after 0, 1, … k layers, for a sweep over layers in one pass.

        Args:
            ids: Token ids, `[batch, tokens]`.
            mask: 1 for a token, 0 for padding, `[batch, tokens]`.

        Returns:
            k + 1 tensors, `[batch, tokens, width]` each.
        """
        states: tuple[torch.Tensor, ...] = self.module(
            input_ids=ids, attention_mask=mask, return_dict=True, output_hidden_states=True
        ).hidden_states
        return states[: self.layers + 1]

    def digest(self) -> str:
        """A hash over the kept tensors: names, dtypes, shapes and bytes.

        Returns:
            A sha256 in hex.
        """
        state = hashlib.sha256()
        for name, tensor in sorted(self.module.state_dict().items()):
            state.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
            state.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return state.hexdigest()


def load_pruned(path: Path, layers: int | None = None) -> PrunedModel:
    """Load the first layers of a Hugging Face encoder or decoder.

    Only safetensors are read, no code comes from the folder, and the tensors of the dropped layers and
    of a language-model head are never materialised (k = 0 keeps the first layer, unread). Below the last
    layer the final norm is left out, as Hugging Face's `hidden_states[k]` does for k < N; at k = N it
    stays, as `hidden_states[N]` has it.

    Args:
        path: A folder with `config.json` and safetensors.
        layers: How many layers to keep, 0..N; None keeps all.

    Returns:
        The cut model on the CPU, in the dtype of its file.

    Raises:
        BundleError: If the folder holds no model, weights are missing, or `layers` is out of range.
        DetectorError: If the architecture cannot be cut so that its output is the hidden state after
            the last kept layer.
    """
    if not (path / "config.json").is_file():
        raise BundleError(f"{path}: no config.json here; give the folder of a Hugging Face model")
    with _quiet():
        config = _load(AutoConfig, path)
        full = getattr(config, "num_hidden_layers", None)
        if not isinstance(full, int) or getattr(config, "is_encoder_decoder", False):
            raise DetectorError(f"{path}: a {config.model_type!r} model has no single stack of layers to cut")
        keep = full if layers is None else layers
        if not 0 <= keep <= full:
            raise BundleError(f"{path}: can't keep {keep} layers of a model with {full}")
        # Not every architecture runs without a layer: k = 0 leaves one, and the output is what goes into it.
        left = max(keep, 1)
        module, report = _load(
            AutoModel,
            path,
            config=_shortened(config, full, left),
            output_loading_info=True,
            use_safetensors=True,
            dtype="auto",
        )
    # A pooler reads one token after the last layer: no part of a hidden state.
    if getattr(module, "pooler", None) is not None:
        module.pooler = None
    missing = [name for name in report["missing_keys"] if not name.startswith("pooler.")]
    if missing or report["mismatched_keys"]:
        wrong = sorted(missing)[:3] or sorted(map(str, report["mismatched_keys"]))[:3]
        raise BundleError(f"{path}: the weights don't fit the config, first at {', '.join(wrong)}")
    module.eval().requires_grad_(requires_grad=False)
    pad = getattr(config, "pad_token_id", None)
    pruned = PrunedModel(
        module=module,
        layers=keep,
        full_layers=full,
        width=config.hidden_size,
        pad_id=pad if isinstance(pad, int) and pad >= 0 else 0,
        max_positions=getattr(config, "max_position_embeddings", None),
    )
    if keep < full:
        _drop_final_norm(module, left)
        _check_cut(pruned, path)
    return pruned


def _load(loader: Any, path: Path, **options: Any) -> Any:
    try:
        return loader.from_pretrained(path, local_files_only=True, trust_remote_code=False, **options)
    except Exception as error:  # a damaged file makes it raise almost anything
        raise BundleError(f"{path}: Hugging Face transformers can't load this model: {error}") from error


def _shortened(config: PretrainedConfig, full: int, keep: int) -> PretrainedConfig:
    """The config of the cut model: fewer layers, and per-layer lists cut to match."""
    values = config.to_dict()
    for key, value in values.items():
        if isinstance(value, list) and len(value) == full and key.endswith(("layer_types", "_layers", "_per_layer")):
            values[key] = value[:keep]
    values[config.attribute_map.get("num_hidden_layers", "num_hidden_layers")] = keep
    if "use_cache" in values:
        values["use_cache"] = False
    try:
        return type(config).from_dict(values)
    except Exception as error:  # what a config checks about itself is its own
        raise DetectorError(f"the config of a {config.model_type!r} can't be cut to {keep} layers: {error}") from error


def _stack(module: torch.nn.Module, layers: int) -> tuple[torch.nn.Module, torch.nn.ModuleList]:
    """The module that owns the layer stack, and the stack: the largest list of the right length."""
    found = [
        (owner, child)
        for owner in module.modules()
        for child in owner.children()
        if isinstance(child, torch.nn.ModuleList) and len(child) == layers
    ]
    if not found:
        raise DetectorError(f"no stack of {layers} layers in a {type(module).__name__}")
    return max(found, key=lambda pair: sum(p.numel() for p in pair[1].parameters()))


def _drop_final_norm(module: torch.nn.Module, layers: int) -> None:
    owner, _ = _stack(module, layers)
    for name in _FINAL_NORMS:
        if isinstance(getattr(owner, name, None), torch.nn.Module):
            setattr(owner, name, torch.nn.Identity())


def _check_cut(pruned: PrunedModel, path: Path) -> None:
    """The output has to be what the last kept layer gave, untouched by anything after it."""
    if pruned.layers == 0:
        return
    _, stack = _stack(pruned.module, pruned.layers)
    seen: list[torch.Tensor] = []

    def keep(_module: torch.nn.Module, _args: object, output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
        seen.append(output if isinstance(output, torch.Tensor) else output[0])

    hook = stack[-1].register_forward_hook(keep)
    try:
        with torch.inference_mode():
            ids = torch.tensor([[1, 2, 3]])
            state = pruned.hidden(ids, torch.ones_like(ids))
    finally:
        hook.remove()
    if len(seen) != 1 or seen[0].shape != state.shape or not torch.equal(seen[0], state):
        raise DetectorError(
            f"{path}: a {type(pruned.module).__name__} changes the hidden state after its last layer "
            f"({inspect.getsourcefile(type(pruned.module)) or 'no source'}); it can't be cut"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no report of the layers left out on purpose."""
    verbosity, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity(logging.ERROR)
    hf_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if bars:
            hf_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
