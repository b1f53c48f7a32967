"""Any encoder or decoder of Hugging Face transformers, cut off after layer k by the library itself.

There is no table of architectures: the layer stack is the model's list of blocks, its length is the config's
`num_hidden_layers`, and a cut model is checked once, when it is loaded, on a short input.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars  # type: ignore[attr-defined] # types do not know them
from transformers import AutoConfig, AutoModel, PretrainedConfig
from transformers.utils import logging as hf_logging

from lec_guard.detect.prune import PrunedModel, layer_stack, owned_stack
from lec_guard.detect.quiet import quiet
from lec_guard.errors import BundleError, DetectorError

_FINAL_NORMS = ("norm", "final_norm", "ln_f", "final_layernorm", "final_layer_norm")
"""What Hugging Face models call the norm after the last layer, on the module that owns the stack."""


def load_any(path: Path, layers: int | None) -> PrunedModel:
    """Load the first layers of a model; see `lec_guard.detect.prune.load_pruned`.

    Args:
        path: A folder with `config.json` and safetensors.
        layers: How many layers to keep, 0..N; None keeps all.

    Returns:
        The cut model.

    Raises:
        BundleError: If the folder holds no model, weights are missing, or `layers` is out of range.
        DetectorError: If the architecture cannot be cut.
    """
    refuse_adapters(path)
    # No progress bars, and no report of the layers that are left out on purpose.
    with loading():
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
            config=shortened(config, full, left),
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
    pruned = as_pruned(module, config, keep, full)
    if keep < full:
        _drop_final_norm(module, left)
        _check_cut(pruned, path)
    return pruned


def refuse_adapters(path: Path) -> None:
    """Refuse a folder with adapters of peft: transformers would load the weights that they name, wherever those are.

    Args:
        path: A folder with a model.

    Raises:
        BundleError: If it has adapters.
    """
    if (path / "adapter_config.json").exists():
        raise BundleError(
            f"{path}: holds adapters of peft (adapter_config.json), and a base has none: merge them into the weights "
            "with peft's merge_and_unload and save those, or remove the file"
        )


def as_pruned(module: torch.nn.Module, config: PretrainedConfig, layers: int, full: int) -> PrunedModel:
    """A module that is cut already, with what its config says of it.

    Args:
        module: The cut module.
        config: That of the whole model.
        layers: How many layers are kept.
        full: How many the whole model has.

    Returns:
        The cut model.
    """
    pad = getattr(config, "pad_token_id", None)
    return PrunedModel(
        module=module,
        layers=layers,
        full_layers=full,
        width=config.hidden_size,
        pad_id=pad if isinstance(pad, int) and pad >= 0 else 0,
        max_positions=getattr(config, "max_position_embeddings", None),
    )


def save_tuned(path: Path, layers: int, tensors: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Write the weights of a cut model as a checkpoint of its architecture, by the names that such have.

    Args:
        path: The folder that the model was loaded from, as `load_any` did.
        layers: How many layers were kept.
        tensors: The weights, by their names in the cut model.
        folder: Where `model.safetensors` goes.

    Raises:
        BundleError: If the weights are not those of such a model.
    """
    with loading():
        config = _load(AutoConfig, path)
        cut = shortened(config, config.num_hidden_layers, layers)
        module = _load(AutoModel, path, config=cut, use_safetensors=True, dtype=torch.float32)
        if getattr(module, "pooler", None) is not None:
            module.pooler = None
        missing, unexpected = module.load_state_dict(dict(tensors), strict=False)
        own = {name for name, _ in module.named_parameters()}
        # The norm after the last layer is cut off where layers are, and stays what it was.
        left = [name for name in missing if name in own and not any(norm in name.split(".") for norm in _FINAL_NORMS)]
        if left or unexpected:
            raise BundleError(f"{path}: these are not the weights of its layers, first at {[*left, *unexpected][0]}")
        module.save_pretrained(folder, max_shard_size="1TB")


def _load(loader: Any, path: Path, **options: Any) -> Any:
    try:
        return loader.from_pretrained(path, local_files_only=True, trust_remote_code=False, **options)
    except Exception as error:  # a damaged file makes it raise almost anything
        raise BundleError(f"{path}: Hugging Face transformers can't load this model: {error}") from error


def shortened(config: PretrainedConfig, full: int, keep: int) -> PretrainedConfig:
    """The config of a cut model: fewer layers, and per-layer lists cut to match.

    Args:
        config: That of the whole model.
        full: How many layers that has.
        keep: How many are kept.

    Returns:
        A config of the same class.

    Raises:
        DetectorError: If the config refuses that.
    """
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


def _drop_final_norm(module: torch.nn.Module, layers: int) -> None:
    owner, _ = owned_stack(module, layers)
    for name in final_norms_of(owner):
        setattr(owner, name, torch.nn.Identity())


def final_norms_of(owner: torch.nn.Module) -> list[str]:
    """The names of what stands after the last layer.

    Args:
        owner: The module that owns the layers.

    Returns:
        Names of its modules.
    """
    return [name for name in _FINAL_NORMS if isinstance(getattr(owner, name, None), torch.nn.Module)]


def _check_cut(pruned: PrunedModel, path: Path) -> None:
    """The output has to be what the last kept layer gave, untouched by anything after it."""
    if pruned.layers == 0:
        return
    stack = layer_stack(pruned.module, pruned.layers)
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


class _Bars:
    """The progress bars of transformers. They are on or off for all threads: off while any of them loads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loading = 0
        self._shown = self._hub_shown = False

    @contextmanager
    def hidden(self) -> Iterator[None]:
        with self._lock:
            if not self._loading:
                self._shown, self._hub_shown = hf_logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
                hf_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
            self._loading += 1
        try:
            yield
        finally:
            with self._lock:
                self._loading -= 1
                if not self._loading and self._shown:
                    hf_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
                    if not self._hub_shown:  # transformers switches the hub's bars with its own
                        disable_progress_bars()


_BARS = _Bars()


@contextmanager
def loading() -> Iterator[None]:
    """Hear and see nothing of transformers while it loads a model, but its errors.

    Yields:
        Nothing.
    """
    with _BARS.hidden(), quiet("transformers"):
        yield
