"""What a run that is tuning a model goes on from: one file, written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from lec_guard.errors import UnsupportedValueError

CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of a run between two steps.

    Attributes:
        run: A hash over all that the run depends on.
        tensors: Weights, and what the optimiser and the losses remember.
        about: Steps that were done, and the like; JSON.
    """

    run: str
    tensors: Mapping[str, torch.Tensor]
    about: Mapping[str, Any]

    def write(self, folder: Path) -> None:
        """Put this in the place of the last one, in one step.

        Args:
            folder: Where to; made if missing.
        """
        folder.mkdir(parents=True, exist_ok=True)
        fresh = folder / f".{CHECKPOINT}"
        own = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()}
        with fresh.open("wb") as file:
            file.write(save(own, metadata={"run": self.run, "about": json.dumps(self.about)}))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(folder / CHECKPOINT)


def read_checkpoint(folder: Path, run: str) -> Checkpoint | None:
    """Read what a run left.

    Args:
        folder: Where it lies.
        run: The hash that it must have.

    Returns:
        The state; None where there is none.

    Raises:
        UnsupportedValueError: If the file is damaged, or of another run.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    mend = "delete it to begin anew"
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        found, state = about["run"], json.loads(about["about"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise UnsupportedValueError(f"{path}: not a checkpoint that can be read ({error}): {mend}") from error
    if found != run:
        raise UnsupportedValueError(
            f"{path}: is of another run: other texts, weights, settings or held-out families; give those, or {mend}"
        )
    return Checkpoint(found, tensors, state)
