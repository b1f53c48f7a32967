"""A transformer cut off after layer k.

LEC (Masterman et al. 2024, arXiv 2412.13435) reads an intermediate layer; what lies above it is never
loaded. transformers cuts any model; an encoder that needs no more than `lec_guard.detect.plain` is run by that,
because transformers' modelling code takes longer to import than all else of a cold start.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lec_guard.detect.plain import load_plain
from lec_guard.errors import BundleError, DetectorError

if TYPE_CHECKING:
    from lec_guard.detect.past import Prefix


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
        takes_all: Whether it is known to take inputs up to there; else one has to be tried.
    """

    module: torch.nn.Module
    layers: int
    full_layers: int
    width: int
    pad_id: int
    max_positions: int | None
    takes_all: bool = False

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
            # Imported here: it needs transformers, as a decoder does.
            from lec_guard.detect.past import Prefix

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


def layer_stack(module: torch.nn.Module, layers: int) -> torch.nn.ModuleList:
    """The layers of a model: the largest list of the right length.

    Args:
        module: The model.
        layers: How many layers it has, at least one.

    Returns:
        The list.

    Raises:
        DetectorError: If there is none.
    """
    return owned_stack(module, layers)[1]


def owned_stack(module: torch.nn.Module, layers: int) -> tuple[torch.nn.Module, torch.nn.ModuleList]:
    """The same with the module that owns it.

    Args:
        module: The model.
        layers: How many layers it has, at least one.

    Returns:
        The owner and the list.

    Raises:
        DetectorError: If there is none.
    """
    found = [
        (owner, child)
        for owner in module.modules()
        for child in owner.children()
        if isinstance(child, torch.nn.ModuleList) and len(child) == layers
    ]
    if not found:
        raise DetectorError(f"no stack of {layers} layers in a {type(module).__name__}")
    return max(found, key=lambda pair: sum(p.numel() for p in pair[1].parameters()))


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
    plain = load_plain(path, layers)
    if plain is None:
        # Imported here: it needs transformers' modelling code.
        from lec_guard.detect.architectures import load_any

        return load_any(path, layers)
    return PrunedModel(
        module=plain.module,
        layers=plain.layers,
        full_layers=plain.config.num_hidden_layers,
        width=plain.config.hidden_size,
        pad_id=plain.config.pad_token_id or 0,
        max_positions=plain.config.max_position_embeddings,
        takes_all=True,
    )
