"""Adapters into a cut model: which of its modules they can change, and the change itself."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping

import torch

from lec_guard.detect.adapters import Adapters, layer_of
from lec_guard.detect.prune import PrunedModel, layer_stack
from lec_guard.errors import BundleError

_LISTED = 12
"""Modules that a message names."""


def linear_modules(model: PrunedModel) -> dict[str, torch.nn.Module]:
    """The linear modules of the layers that are kept: what adapters can change.

    No table of architectures says what they are called: they are what torch calls linear, and transformers' `Conv1D`,
    which is the same with its matrix transposed.

    Args:
        model: A cut model.

    Returns:
        `layer.module` -> module; none for a model that is cut to its embeddings.
    """
    if model.layers == 0:
        return {}
    return {
        f"{number}.{name}": module
        for number, layer in enumerate(layer_stack(model.module, model.layers), start=1)
        for name, module in layer.named_modules()
        if _is_linear(module)
    }


def digests(modules: Mapping[str, torch.nn.Module], names: Collection[str]) -> dict[int, str]:
    """Hashes over the weights that adapters change, before they do.

    Args:
        modules: As `linear_modules` gave them.
        names: Those to be changed.

    Returns:
        Layer -> sha256 in hex.
    """
    states: dict[int, hashlib._Hash] = {}
    for name in sorted(names):
        weight = modules[name].weight
        assert isinstance(weight, torch.Tensor)  # noqa: S101 - a linear module has one
        state = states.setdefault(layer_of(name), hashlib.sha256())
        state.update(f"{name}|{weight.dtype}|{tuple(weight.shape)}|".encode())
        state.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return {layer: state.hexdigest() for layer, state in sorted(states.items())}


def merge(model: PrunedModel, adapters: Adapters) -> None:
    """Add what adapters change to the weights of a cut model, in float32.

    Args:
        model: The model that they were trained on, on the CPU and as its file has it; it is float32 afterwards.
        adapters: What to change.

    Raises:
        BundleError: If they are for layers or modules that the model does not have, for matrices of another size, or
            for other weights; the model is not changed then.
    """
    modules = linear_modules(model)
    beyond = sorted({layer_of(name) for name in adapters.factors if layer_of(name) > model.layers})
    if beyond:
        raise BundleError(
            f"the adapters change layer {beyond[0]}, but the model is cut after layer {model.layers}: "
            "cut it no lower than they were trained for, or leave those of higher layers out"
        )
    for name, own in adapters.factors.items():
        if name not in modules:
            there = [known for known in modules if layer_of(known) == layer_of(name)]
            listed = ", ".join(there[:_LISTED]) + (", …" if len(there) > _LISTED else "")
            raise BundleError(
                f"the adapters change {name!r}, and the model has no such linear module, only {listed or 'none'}: "
                "give the base weights that they were trained on"
            )
        expected, given = tuple(_matrix(modules[name]).shape), (own.b.shape[0], own.a.shape[1])
        if expected != given:
            raise BundleError(
                f"the adapters change a matrix {given} at {name!r}, but the model's is {expected}: "
                "give the base weights that they were trained on"
            )
    for layer, found in digests(modules, adapters.factors).items():
        if found != adapters.weights[layer]:
            raise BundleError(
                f"the adapters were trained on other weights: those of layer {layer} have sha256 {found[:16]}…, not "
                f"{adapters.weights[layer][:16]}…; give the base weights that they were trained on, or train them again"
            )
    model.module.float()
    with torch.no_grad():
        for name, own in adapters.factors.items():
            a, b = (torch.from_numpy(factor.astype("float32")) for factor in (own.a, own.b))
            matrix = _matrix(modules[name])
            matrix += adapters.scale * (b @ a)
            if not torch.isfinite(matrix).all():
                raise BundleError(f"with the adapters {name!r} is not finite any more: train them again")


def _is_linear(module: torch.nn.Module) -> bool:
    return isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D"


def _matrix(module: torch.nn.Module) -> torch.Tensor:
    """The matrix that a column of inputs is multiplied by, `[outputs, inputs]`: a view."""
    weight = module.weight
    assert isinstance(weight, torch.Tensor)  # noqa: S101 - a linear module has one
    return weight if isinstance(module, torch.nn.Linear) else weight.T
