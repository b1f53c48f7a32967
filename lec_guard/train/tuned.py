"""A model all of whose weights were tuned, as a base of its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save_file

from lec_guard.detect.plain import load_plain


def write_base(base: Path, layers: int, tensors: Mapping[str, torch.Tensor], folder: Path) -> int:
    """Write a folder that is loaded as the base was, with tuned weights and no layer above those that are kept.

    Args:
        base: The folder that the model was loaded from.
        layers: How many layers were kept.
        tensors: The tuned weights, by their names in the cut model: `Distilled.tuned`.
        folder: Where to; gets `config.json`, `tokenizer.json` and `model.safetensors`.

    Returns:
        Bytes of the weights.

    Raises:
        BundleError: If the weights are not those of such a model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "model.safetensors"
    own = {name: tensor.float().contiguous() for name, tensor in tensors.items()}
    if load_plain(base, layers) is not None:
        save_file(own, weights, metadata={"format": "pt"})
    else:
        # Imported here: it needs transformers' modelling code.
        from lec_guard.detect.architectures import save_tuned

        with TemporaryDirectory(dir=folder) as beside:
            save_tuned(base, layers, own, Path(beside))
            (Path(beside) / weights.name).replace(weights)
    config = json.loads((base / "config.json").read_bytes())
    # What was tuned in float32 is kept in it: the layers that are left take less than all did in half of that.
    config |= {key: "float32" for key in ("dtype", "torch_dtype") if config.get(key) is not None}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    shutil.copyfile(base / "tokenizer.json", folder / "tokenizer.json")
    return weights.stat().st_size
