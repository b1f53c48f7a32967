"""A transformer cut off after layer k.

LEC (Masterman et al. 2024, arXiv 2412.13435) reads an intermediate layer; what lies above it is never
loaded. There is no table of architectures: the layer stack is the model's list of blocks, its length is
the config's `num_hidden_layers`, and a cut model is checked once, when it is loaded, on a short input.
"""

from __future__ import annotations

import hashlib
import inspect
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars  # type: ignore[attr-defined]
from transformers import AutoConfig, AutoModel, PretrainedConfig
from transformers.utils import logging as hf_logging

from lec_guard.detect.past import Prefix
from lec_guard.detect.quiet import quiet
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

    def hidden(self, ids: torch.Tensor, mask: torch.Tensor, prefix: Prefix | None = None) -> torch.Tensor:
        """The hidden state after layer k; equal to the whole model's `hidden_states[k]`.

        Args:
            ids: Token ids, `[batch, tokens]`.
            mask: 1 for a token, 0 for padding, `[batch, tokens]`; after a prefix, padded on the right.
            prefix: What stands before each row, as `prefix` gave it.

        Returns:
            Those of `ids`, not of the prefix: `[batch, tokens, width]`, in the dtype of the weights.
        """
        if self.layers == 0:
            return self.all_hidden(ids, mask, prefix)[0]
        state: torch.Tensor = self._run(ids, mask, prefix).last_hidden_state
        return state

    def all_hidden(
        self, ids: torch.Tensor, mask: torch.Tensor, prefix: Prefix | None = None
    ) -> tuple[torch.Tensor, ...]:
        """The hidden states after 0, 1, … k layers, for a sweep over layers in one pass.

        Args:
            ids: Token ids, `[batch, tokens]`.
            mask: 1 for a token, 0 for padding, `[batch, tokens]`; after a prefix, padded on the right.
            prefix: What stands before each row, as `prefix` gave it.

        Returns:
            k + 1 tensors, those of `ids`, not of the prefix: `[batch, tokens, width]` each.
        """
        states: tuple[torch.Tensor, ...] = self._run(ids, mask, prefix, output_hidden_states=True).hidden_states
        return states[: self.layers + 1]

    def states(
        self, ids: torch.Tensor, mask: torch.Tensor, layers: Collection[int], prefix: Prefix | None = None
    ) -> dict[int, torch.Tensor]:
        """The hidden states after some layers, and no more than one where only the last is asked for.

        Args:
            ids: Token ids, `[batch, tokens]`.
            mask: 1 for a token, 0 for padding, `[batch, tokens]`; after a prefix, padded on the right.
            layers: After which layers, 0..k.
            prefix: What stands before each row, as `prefix` gave it.

        Returns:
            Layer -> `[batch, tokens, width]`, for these layers at least.
        """
        if set(layers) == {self.layers}:
            return {self.layers: self.hidden(ids, mask, prefix)}
        return dict(enumerate(self.all_hidden(ids, mask, prefix)))

    def prefix(self, ids: torch.Tensor) -> Prefix:
        """Read a prefix once, for texts that come after it.

        Args:
            ids: Token ids, `[1, tokens]`, at least one.

        Returns:
            What the kept layers need of it.

        Raises:
            BundleError: If the model keeps nothing of what it has read: it is no decoder.
        """
        try:
            cache = getattr(self._run(ids, torch.ones_like(ids), use_cache=True), "past_key_values", None)
            if cache is None:
                raise self._no_decoder("it keeps no keys and values")
            return Prefix(cache, ids.shape[1])
        except TypeError as error:  # some encoders have no such argument
            raise self._no_decoder(str(error)) from error

    def check_prefix(self) -> None:
        """Read a short input after a prefix and whole: a causal decoder gives the same.

        Raises:
            BundleError: If this model does not.
        """
        device = next(self.module.parameters()).device
        ids = torch.tensor([[1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 8, 9, 0]], device=device)
        mask = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 0]], device=device)
        kept = mask[:, 4:].bool()
        with torch.inference_mode():
            expected = [state[:, 4:][kept].float() for state in self.all_hidden(ids, mask)]
            prefix = self.prefix(ids[:1, :4])
            # Twice, because the first pass must leave the prefix as it was.
            for _ in range(2):
                try:
                    states = self.all_hidden(ids[:, 4:], mask[:, 4:], prefix)
                except Exception as error:  # what a model does with a cache that it can't read is its own
                    raise self._no_decoder(str(error)) from error
                for layer, (state, whole) in enumerate(zip(states, expected, strict=True)):
                    # Half of the digits: roundings add up over the layers, but nothing else may differ.
                    off = float((state[kept].float() - whole).norm() / whole.norm())
                    if not off <= torch.finfo(state.dtype).eps ** 0.5:
                        raise self._no_decoder(f"the states of layer {layer} differ by {off:.0%}")

    def _run(self, ids: torch.Tensor, mask: torch.Tensor, prefix: Prefix | None = None, **options: bool) -> Any:
        past: dict[str, Any] = {}
        if prefix is not None:
            # Models count the positions on from the cache, or from the mask.
            mask = torch.cat([mask.new_ones((len(ids), prefix.tokens)), mask], dim=1)
            past = {"past_key_values": prefix.before(len(ids)), "use_cache": True}
        return self.module(input_ids=ids, attention_mask=mask, return_dict=True, **past, **options)

    def _no_decoder(self, why: str) -> BundleError:
        return BundleError(
            f"a {type(self.module).__name__} is no causal decoder, so it can't read texts after a prefix that it "
            f"has read before: {why}; make pairs of kind 'meeting'"
        )

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
    # No progress bars, and no report of the layers that are left out on purpose.
    with _BARS.hidden(), quiet("transformers"):
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
