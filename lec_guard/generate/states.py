"""What layers of a model give, caught while it generates: nothing is computed twice."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from lec_guard.detect.prune import owned_stack
from lec_guard.errors import BundleError

_CATCHING: ContextVar[Caught | None] = ContextVar("lec_guard_catching", default=None)


class Caught:
    """The states of one generation that nobody took yet. It belongs to that generation's thread."""

    def __init__(self, tap: Tap) -> None:
        self.tap = tap
        self._states: dict[int, list[Tensor]] = {layer: [] for layer in tap.layers}

    def add(self, layer: int, states: Tensor) -> None:
        """Keep what a layer gave in one pass, `[rows, tokens, width]`."""
        self._states[layer].append(states.detach())

    def take(self, rows: int) -> dict[int, Tensor]:
        """Take all that was kept.

        Args:
            rows: How many rows are meant: where a pass had more, the others are negative prompts and come after them.

        Returns:
            Layer -> `[rows, tokens, width]`, in the dtype of the model.
        """
        found = {}
        for layer, parts in self._states.items():
            found[layer] = torch.cat([part[:rows] for part in parts], dim=1)
            parts.clear()
        return found


class Tap:
    """Catches what layers give, of generations that ask for it and of no other. Safe to share between threads.

    Args:
        model: The model; its layers get hooks, which do nothing while nobody asks.
        layers: After which layers, 0 for the embeddings.

    Attributes:
        layers: The same.

    Raises:
        BundleError: If the model has no such layer.
    """

    def __init__(self, model: PreTrainedModel, layers: Collection[int]) -> None:
        full = model.config.get_text_config(decoder=True).num_hidden_layers
        owner, stack = owned_stack(model, full)
        beyond = [layer for layer in layers if not 0 <= layer <= full]
        if beyond:
            raise BundleError(f"the model has {full} layers, and no layer {beyond[0]}")
        self.layers = tuple(sorted(layers))
        self._read = [model.get_input_embeddings(), *list(stack)[: self.layers[-1]]]
        self._hooks: list[RemovableHandle] = []
        for layer in self.layers:
            if layer == 0:
                self._hooks.append(stack[0].register_forward_pre_hook(self._before, with_kwargs=True))
            elif layer == full:  # `hidden_states[N]` is what the final norm makes of it
                self._hooks.append(owner.register_forward_hook(self._after(layer)))
            else:
                self._hooks.append(stack[layer - 1].register_forward_hook(self._after(layer)))

    def fingerprint(self) -> tuple[tuple[int, int], ...]:
        """Which tensors the model has up to the deepest of these layers, and how often each was written to."""
        found: list[tuple[int, int]] = []
        for module in self._read:
            found += [(id(own), -1 if own.is_inference() else own._version) for own in module.parameters()]
        return tuple(found)

    def close(self) -> None:
        """Take the hooks off the model."""
        for hook in self._hooks:
            hook.remove()

    @contextmanager
    def catching(self, caught: Caught | None = None) -> Iterator[Caught]:
        """Catch what comes in this context (of `contextvars`: this thread, this task, and threads that copy it).

        Args:
            caught: What takes it; None makes one.

        Yields:
            What takes it.
        """
        caught = caught or Caught(self)
        token = _CATCHING.set(caught)
        try:
            yield caught
        finally:
            _CATCHING.reset(token)

    def _own(self) -> Caught | None:
        caught = _CATCHING.get()
        return caught if caught is not None and caught.tap is self else None

    def _before(self, _module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if (caught := self._own()) is not None:
            caught.add(0, args[0] if args else kwargs["hidden_states"])

    def _after(self, layer: int) -> Any:
        def keep(_module: torch.nn.Module, _args: object, output: Any) -> None:
            if (caught := self._own()) is not None:
                caught.add(layer, output if isinstance(output, Tensor) else output[0])

        return keep


@contextmanager
def uncaught() -> Iterator[None]:
    """Run the model's layers for something else than the generation of this context.

    Yields:
        Nothing.
    """
    token = _CATCHING.set(None)
    try:
        yield
    finally:
        _CATCHING.reset(token)
