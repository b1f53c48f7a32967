"""Heads of bundles, bound to a model that is in memory: it has to be the one that they were fitted on."""

from __future__ import annotations

import copy
import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lec_guard.detect.architectures import as_pruned, final_norms_of, shortened
from lec_guard.detect.backends.torch import BlockPooling, Dtype, TorchBackend
from lec_guard.detect.bundle import Bundle, PrefixPairs
from lec_guard.detect.extractor import extractor_id, extractor_of
from lec_guard.detect.layer import LayerDetector
from lec_guard.detect.prune import PrunedModel, owned_stack
from lec_guard.detect.turns import Role
from lec_guard.detect.windows import Windower
from lec_guard.errors import BundleError, DetectorError

_PROBES = (
    "The 1st of 23 letters, written in 1984; it's Anna's.",
    "  two  spaces,\n\n\ta tab, CAPITALS and camelCase",
    "caf\u00e9 cafe\u0301 na\u00efve \u00df \ufb01 \u4f60\u597d \u0442\u0435\u043a\u0441\u0442 \U0001f642",
    "x_y-z/w@v.example (and so on): [1, 2] {3}",
)
"""Texts that show how words, digits, spaces, marks and characters of other scripts are taken."""

_DTYPES: dict[torch.dtype, Dtype] = {torch.float32: "fp32", torch.bfloat16: "bf16"}


@dataclass(frozen=True, slots=True)
class Bound:
    """A bundle whose heads read a model's own states.

    Attributes:
        detector: Reads texts that are in no pass, with the layers of the same model.
        windower: Cuts texts.
        pooling: Makes features of the states of windows.
        layers: The layers whose states it reads.
        role: Whose turn its heads were fitted on.
        after: Tokens that stand after a text in that turn, and are pooled with it.
    """

    detector: LayerDetector
    windower: Windower
    pooling: BlockPooling
    layers: frozenset[int]
    role: Role
    after: int

    @classmethod
    def of(cls, bundle: Bundle, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Bound:
        """Bind a bundle to a model.

        Args:
            bundle: The bundle, as `lec-guard train --model PATH --turn ROLE` writes it.
            model: The model in memory. Its layers are shared, not copied.
            tokenizer: The model's.

        Returns:
            The bound heads.

        Raises:
            BundleError: If the heads were fitted on other weights, another tokenizer or not in a turn, or the model has
                not the layer that they read.
            DetectorError: If the model can't be cut.
        """
        spec, turn = bundle.spec, bundle.turn
        if turn is None or not isinstance(spec.pairs, PrefixPairs) or bundle.learned.pair_heads is None:
            raise BundleError(
                f"{bundle.folder}: its heads were fitted on texts by themselves, not as the model reads them while it "
                "answers; fit them with `lec-guard train --model FOLDER --turn user` (or assistant)"
            )
        folder = spec.base.folder(bundle.folder)
        config, content = (_checked(folder / name, spec.files[name]) for name in ("config.json", "tokenizer.json"))
        if not _same_tokenizer(content, tokenizer):
            raise BundleError(f"{bundle.folder}: its heads were fitted with another tokenizer than the model's")
        cut = shared(model, max(block.layer for block in bundle.blocks), str(bundle.folder))
        found = extractor_id(
            cut, config, content, bundle.blocks, bundle.window, bundle.learned.gates, bundle.learned.adapters, turn
        )
        if found != spec.extractor_id:
            raise BundleError(
                f"{bundle.folder}: its heads were fitted on another model than the {type(model).__name__} in memory "
                f"(extractor {spec.extractor_id[:16]}…, not {found[:16]}…): load the weights that they were fitted on, "
                "in the dtype of their file (dtype='auto') and without adapters, or fit heads on these"
            )
        parameter = next(model.parameters())
        dtype = _DTYPES.get(parameter.dtype)
        if dtype is None:
            raise BundleError(f"heads read models in float32 and bfloat16, not in {parameter.dtype}")
        windower = Windower.from_json(content, bundle.window)
        backend = TorchBackend(cut, bundle.blocks, bundle.learned.gates, dtype, parameter.device)
        extractor = extractor_of(windower, backend, found, turn)
        return cls(
            detector=LayerDetector.of_bundle(extractor, bundle),
            windower=windower,
            pooling=BlockPooling(bundle.blocks, bundle.learned.gates).to(parameter.device),
            layers=frozenset(block.layer for block in bundle.blocks),
            role=turn.role,
            after=len(windower.template_ids([turn.after])[0]),
        )


def shared(model: PreTrainedModel, layers: int, name: str) -> PrunedModel:
    """The first layers of a model in memory, as `load_pruned` has them of one on disk, with the same tensors.

    Args:
        model: The model; it stays as it is.
        layers: How many layers.
        name: What errors call what needs them.

    Returns:
        The cut model.

    Raises:
        BundleError: If the model has fewer layers.
        DetectorError: If its layers are not found where they can be cut.
    """
    base: Any = model.base_model
    full = model.config.get_text_config(decoder=True).num_hidden_layers
    if not 0 <= layers <= full:
        raise BundleError(f"{name}: reads layer {layers}, and the model has {full} layers")
    owner, stack = owned_stack(base, full)
    if owner is not base:
        raise DetectorError(f"the layers of a {type(model).__name__} are deeper inside it than they can be cut")
    keep = max(layers, 1)
    own = next(name for name, module in base._modules.items() if module is stack)
    cut: Any = _twin(base)
    setattr(cut, own, torch.nn.ModuleList(list(getattr(cut, own))[:keep]))
    config: Any = base.config
    cut.config = shortened(config, full, keep)
    # Masks are made as the model's config says, and read as the layers' own does.
    cut.config._attn_implementation = config._attn_implementation
    if layers < full:
        for norm in final_norms_of(cut):
            setattr(cut, norm, torch.nn.Identity())
    return as_pruned(cut, config, layers, full)


def _twin(module: torch.nn.Module) -> Any:
    """A module with the same tensors and no hooks: those of one must not hear what passes the other."""
    made: Any = copy.copy(module)
    for name, value in list(made.__dict__.items()):
        if "_hooks" in name:  # also what transformers notes of its own
            made.__dict__[name] = OrderedDict() if isinstance(value, dict) else False
    made.__dict__["_modules"] = {name: None if own is None else _twin(own) for name, own in module._modules.items()}
    return made


def _same_tokenizer(content: bytes, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether texts become the same tokens: of one tokenizer, transformers writes the same in several ways."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return False
    own = Tokenizer.from_str(content.decode())
    return own.get_vocab() == backend.get_vocab() and all(
        own.encode(text, add_special_tokens=False).ids == backend.encode(text, add_special_tokens=False).ids
        for text in _PROBES
    )


def _checked(path: Path, expected: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: can't be read: {error.strerror}; heads were fitted on the model there") from None
    if hashlib.sha256(content).hexdigest() != expected:
        raise BundleError(f"{path}: is not the file that the heads were fitted with")
    return content
