"""trl's ORPO trainer, made to keep to this house: nothing is pickled, and nothing is sent anywhere.

transformers' checkpoints hold pickles (the optimiser, random numbers, settings), and trl tells its makers of every
trainer that is made. Here a checkpoint is one file of safetensors, and nobody is told.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import TrainerCallback

from lec_guard.errors import UnsupportedValueError
from lec_guard.train.checkpoint import Checkpoint

if TYPE_CHECKING:
    from trl.experimental.orpo import ORPOTrainer

_STATE = "trainer_state.json"
"""Where transformers looks for how far a run came."""

_RNG = "random."
_OPTIMISER = "optimiser."
_WEIGHTS = "weights."


class Rows(Dataset[Mapping[str, list[int]]]):
    """Pairs as tokens. The trainer would write them down itself, without regard to what a model is given later.

    Args:
        rows: The pairs.
    """

    def __init__(self, rows: Sequence[Mapping[str, list[int]]]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        """How many there are."""
        return len(self._rows)

    def __getitem__(self, at: int) -> Mapping[str, list[int]]:
        """One of them."""
        return self._rows[at]

    def map(self, *_: Any, **__: Any) -> Rows:
        """Stay what it is.

        Returns:
            The same.
        """
        return self


class Watch(TrainerCallback):
    """Tells how far a run is, and stops it when its time is over.

    Args:
        minutes: Of tuning, after which it stops; None: never.
        progress: Is told the share that is done.
    """

    def __init__(self, minutes: float | None, progress: Callable[[str, float], None]) -> None:
        self._until = None if minutes is None else time.monotonic() + 60 * minutes
        self._progress = progress

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:  # noqa: ARG002 - transformers' signature
        """See transformers."""
        self._progress("tuning", state.global_step / max(state.max_steps, 1))
        if self._until is not None and time.monotonic() >= self._until:
            control.should_save = control.should_training_stop = True
        return control


def trainer_class() -> type[ORPOTrainer]:
    """Make trl's trainer with other checkpoints.

    Returns:
        The class, whose `checkpoints` and `run` are to be set before it trains.

    Raises:
        UnsupportedValueError: If a package is missing; says which.
    """
    try:
        from trl.experimental.orpo import ORPOTrainer
    except ModuleNotFoundError as error:
        raise UnsupportedValueError(f"tuning needs {error.name}; run: pip install 'lec-guard[tune]'") from None

    class Trainer(ORPOTrainer):
        checkpoints: Path
        run: str
        optimizer: Any
        lr_scheduler: Any
        resumed: Checkpoint | None = None

        def _send_telemetry(self) -> None:
            pass

        def resume_from(self, found: Checkpoint) -> str:
            """Go on from a checkpoint; gives what `train` is to be told."""
            self.resumed = found
            # The file beside may be of a later step, where the machine stopped between the two.
            (self.checkpoints / _STATE).write_text(found.about["state"], encoding="utf-8")
            return str(self.checkpoints)

        def _save_checkpoint(self, model: Any, trial: Any) -> None:  # noqa: ARG002 - transformers' signature
            state = self.checkpoints / _STATE
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            self.state.save_to_json(str(state))
            own = self.optimizer.state_dict()
            tensors = {f"{_WEIGHTS}{name}": one for name, one in _trained(self.model)}
            tensors |= {
                f"{_OPTIMISER}{at}.{name}": torch.as_tensor(one)
                for at, parts in own["state"].items()
                for name, one in parts.items()
            }
            tensors |= {f"{_RNG}{name}": one for name, one in _random().items()}
            about = {
                "state": state.read_text(encoding="utf-8"),
                "rates": [group["lr"] for group in own["param_groups"]],
                "schedule": {"last_epoch": self.lr_scheduler.last_epoch, "_step_count": self.lr_scheduler._step_count},
                "step": self.state.global_step,
            }
            Checkpoint(self.run, tensors, about).write(self.checkpoints)

        def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:  # noqa: ARG002
            found = self._found()
            own = dict(_trained(self.model))
            with torch.no_grad():
                for name, one in own.items():
                    one.copy_(found.tensors[f"{_WEIGHTS}{name}"])

        def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
            if checkpoint is None:
                return
            found, own = self._found(), self.optimizer.state_dict()
            parts: dict[int, dict[str, Tensor]] = {}
            for name, one in found.tensors.items():
                if name.startswith(_OPTIMISER):
                    at, _, key = name.removeprefix(_OPTIMISER).partition(".")
                    parts.setdefault(int(at), {})[key] = one
            groups = [
                {**group, "lr": rate} for group, rate in zip(own["param_groups"], found.about["rates"], strict=True)
            ]
            self.optimizer.load_state_dict({"state": parts, "param_groups": groups})
            schedule = {**self.lr_scheduler.state_dict(), **found.about["schedule"], "_last_lr": found.about["rates"]}
            self.lr_scheduler.load_state_dict(schedule)

        def _load_rng_state(self, checkpoint: str | None) -> None:
            if checkpoint is None:
                return
            kept = self._found().tensors
            torch.set_rng_state(kept[f"{_RNG}cpu"])
            if torch.cuda.is_available():
                torch.cuda.set_rng_state(kept[f"{_RNG}cuda"])

        def _found(self) -> Checkpoint:
            assert self.resumed is not None  # noqa: S101 - `train` was told of one
            return self.resumed

    return Trainer


def _trained(model: Any) -> list[tuple[str, Tensor]]:
    return [(name, one) for name, one in model.named_parameters() if one.requires_grad]


def _random() -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})
