"""From preference pairs to adapters: `lec-guard tune`.

ORPO (Hong et al. 2024, arXiv 2403.07691) through trl, with LoRA (Hu et al. 2021, arXiv 2106.09685) through peft, and
the settings of arXiv 2412.06846.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from lec_guard.detect.quiet import quiet
from lec_guard.errors import BundleError, LecGuardError, UnsupportedValueError
from lec_guard.generate.adapters import CARD, WEIGHTS, weights_hash, write_adapters
from lec_guard.train.checkpoint import read_checkpoint
from lec_guard.train.distil_run import Unfinished
from lec_guard.train.pii.config import TuneConfig
from lec_guard.train.pii.opening import Causal, has_bf16, open_causal
from lec_guard.train.pii.orpo import Rows, Watch, trainer_class
from lec_guard.train.pii.pairs import Fitted, Pairs, fit, read_pairs

REPORT = "tune.json"
PEFT_CONFIG = "adapter_config.json"
WORK = "work"
"""Within the folder of the adapters: the run in figures, what peft reads, and what an interrupted run goes on from."""

_LOGS = 50
"""Points of the curves in the report, about."""

Progress = Callable[[str, float], None]
"""Called with what is being done, and the share of it that is done."""


class TuneError(LecGuardError):
    """A run came to nothing: what it learnt are no numbers."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Point(_Part):
    """A run at one step; means since the point before.

    Attributes:
        step: The step.
        loss: Of ORPO: the likelihood of chosen answers, in nats a token, and the odds ratio.
        preferred: Share of pairs whose chosen answer is the likelier one, by token.
        log_odds: Log of the odds of the chosen answer over those of the rejected one.
    """

    step: int
    loss: float
    preferred: float
    log_odds: float


class TuneReport(_Part):
    """What came of a run.

    Attributes:
        base: `weights_hash` of the model.
        sha256: Of the file with the adapters.
        bytes: Of that file.
        parameters: Numbers that were learnt.
        targets: The layers that have adapters, by the end of their names.
        pairs: Pairs that were learnt from.
        dialogues: Conversations that they are of.
        swapped: Those of the pairs whose answers changed places.
        left_out: Why others were left out -> how many.
        shortened: Pairs whose oldest messages were left out.
        cut: Pairs with an answer that was cut.
        max_length: Tokens of a prompt and its answer, as far as the model has room.
        max_prompt: Tokens of a prompt.
        steps: Steps that were done.
        course: How it went.
        device: Where it ran.
        dtype: Of the base's weights; what is learnt is float32.
        mixed: Whether it computed in bfloat16.
        settings: The run.
        packages: Which versions did it.
        seconds: Of this call, the tuning.
        notes: What else is to be known.
    """

    base: str
    sha256: str
    bytes: int
    parameters: int
    targets: tuple[str, ...]
    pairs: int
    dialogues: int
    swapped: int
    left_out: dict[str, int]
    shortened: int
    cut: int
    max_length: int
    max_prompt: int
    steps: int
    course: tuple[Point, ...]
    device: str
    dtype: str
    mixed: bool
    settings: dict[str, Any]
    packages: dict[str, str]
    seconds: float
    notes: tuple[str, ...]


def tune(
    config: TuneConfig,
    out: Path,
    *,
    resume: bool = False,
    minutes: float | None = None,
    progress: Progress = lambda _what, _share: None,
) -> TuneReport | Unfinished:
    """Tune a local model by ORPO, and write its adapters.

    Args:
        config: What to do.
        out: The folder for the adapters; must hold none yet. What a run goes on from lies there too until it is done:
            one file of safetensors, with the weights, what the optimiser remembers and the random numbers. Nothing is
            pickled.
        resume: Whether to go on with a run that lies there; on a CPU it ends with the same bits.
        minutes: Of tuning, after which it stops; None: never.
        progress: Is told how far it is.

    Returns:
        What came of it, which the folder has too, as `tune.json`, beside the adapters; or how far it came.

    Raises:
        UnsupportedValueError: If pairs can't be learnt from, a package or the chat template is missing, or the folder
            holds another run.
        BundleError: If the model can't be read, or the folder holds adapters.
        TuneError: If what was learnt are no numbers.
    """
    if (out / CARD).exists():
        raise BundleError(f"{out}: holds adapters already; give a new folder, or delete this one")
    with quiet("trl"):
        trainer_of = trainer_class()
    pairs = read_pairs(config.pairs)
    causal = open_causal(config.model)
    longest, prompt = _room(config, causal)
    fitted = fit(pairs.all, causal.tokenizer, max_prompt=prompt, max_length=longest)
    if not fitted.rows:
        why = ", ".join(f"{reason}: {count}" for reason, count in fitted.left_out.items())
        raise UnsupportedValueError(f"none of {len(pairs.all):,} pairs can be learnt from ({why})")
    base = weights_hash(causal.model)
    work, run = out / WORK, _run_of(config, base, pairs, longest, prompt)
    found = read_checkpoint(work, run)
    if found is not None and not resume:
        raise UnsupportedValueError(f"{out}: holds a run that is not finished: give --resume to go on, or a new folder")
    began = time.monotonic()
    with quiet("trl", "transformers", "peft", "accelerate", "torch"):
        trainer = trainer_of(
            model=_with_adapters(causal, config),
            args=_arguments(config, causal, work, len(fitted.rows)),
            train_dataset=Rows(fitted.rows),  # It asks for no more of a data set than this has.
            processing_class=causal.tokenizer,
            callbacks=[Watch(minutes, progress)],
        )
        for name in ("PrinterCallback", "ProgressCallback"):
            for one in [own for own in trainer.callback_handler.callbacks if type(own).__name__ == name]:
                trainer.remove_callback(one)
        # trl's own types are all that is known of the class that is made once trl is there.
        trainer.checkpoints, trainer.run = work, run  # type: ignore[attr-defined]
        progress("tuning", 0.0)
        trainer.train(None if found is None else trainer.resume_from(found))  # type: ignore[attr-defined]
    if trainer.state.global_step < trainer.state.max_steps:
        return Unfinished(int(trainer.state.global_step), int(trainer.state.max_steps))
    report = _write(out, config, trainer, causal, pairs, fitted, base, time.monotonic() - began)
    shutil.rmtree(work, ignore_errors=True)
    return report


def _room(config: TuneConfig, causal: Causal) -> tuple[int, int]:
    """Tokens of a prompt with its answer, and of a prompt; where the model has less room, the same share of it."""
    longest = config.max_length if causal.room is None else min(config.max_length, causal.room)
    return longest, min(config.max_prompt, longest * config.max_prompt // config.max_length)


def _run_of(config: TuneConfig, base: str, pairs: Pairs, longest: int, prompt: int) -> str:
    """A hash over all that a run depends on."""
    settings = config.model_dump(mode="json", exclude={"model", "pairs", "save_every"})
    whole = [settings, base, pairs.digest, longest, prompt, {name: version(name) for name in ("trl", "peft")}]
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


def _with_adapters(causal: Causal, config: TuneConfig) -> Any:
    from peft import LoraConfig, get_peft_model

    # Done here, because trl would take the adapters' own dropout for the model's, and set it to none.
    for module in causal.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    if config.checkpointing:
        causal.model.config.use_cache = False
    torch.manual_seed(config.seed)
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type] # any number will do
        lora_dropout=config.dropout,
        target_modules=config.targets if isinstance(config.targets, str) else list(config.targets),
    )
    try:
        return get_peft_model(causal.model, lora)
    except ValueError as error:
        raise UnsupportedValueError(f"targets: peft can't adapt them: {error}") from None


def _arguments(config: TuneConfig, causal: Causal, work: Path, rows: int) -> Any:
    from trl.experimental.orpo import ORPOConfig

    steps = config.epochs * math.ceil(math.ceil(rows / config.batch) / config.accumulate)
    return ORPOConfig(
        output_dir=str(work),
        beta=config.beta,
        max_length=config.max_length,
        disable_dropout=False,
        learning_rate=config.rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": config.final_rate},
        warmup_steps=0,
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch,
        gradient_accumulation_steps=config.accumulate,
        activation_checkpointing=config.checkpointing,  # trl knows it by its old name, which follows this one.
        bf16=has_bf16(),
        use_cpu=causal.device == "cpu",
        seed=config.seed,
        save_strategy="steps",
        save_steps=config.save_every,
        logging_steps=max(1, steps // _LOGS),
        logging_nan_inf_filter=False,
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
        push_to_hub=False,
    )


def _write(
    out: Path,
    config: TuneConfig,
    trainer: Any,
    causal: Causal,
    pairs: Pairs,
    fitted: Fitted,
    base: str,
    seconds: float,
) -> TuneReport:
    from peft import get_peft_model_state_dict

    tuned = trainer.accelerator.unwrap_model(trainer.model)
    lora = tuned.peft_config["default"]
    targets = tuple(sorted(lora.target_modules))
    # "auto" would ask a hub whether the vocabulary grew.
    tensors = get_peft_model_state_dict(tuned, save_embedding_layers=False)
    about = {
        "base": base,
        "rank": config.rank,
        "alpha": config.alpha,
        "targets": targets,
        "positive": pairs.positive,
        "negative": pairs.negative,
    }
    lora.base_model_name_or_path, lora.inference_mode = config.model.resolve().name, True
    out.mkdir(parents=True, exist_ok=True)
    try:
        # Before the card, with which a folder is whole.
        (out / PEFT_CONFIG).write_text(_json_of(lora), encoding="utf-8")
        card = write_adapters(out, tensors, about)
    except BundleError as error:
        (out / PEFT_CONFIG).unlink(missing_ok=True)
        raise TuneError(f"the run came to nothing: {error}; give a lower rate") from None
    report = TuneReport(
        base=base,
        sha256=card.sha256,
        bytes=(out / WEIGHTS).stat().st_size,
        parameters=sum(one.numel() for one in tensors.values()),
        targets=targets,
        pairs=len(fitted.rows),
        dialogues=len({pair.dialogue for pair in fitted.pairs}),
        swapped=sum(pair.swapped for pair in fitted.pairs),
        left_out=dict(fitted.left_out),
        shortened=fitted.shortened,
        cut=fitted.cut,
        max_length=_room(config, causal)[0],
        max_prompt=_room(config, causal)[1],
        steps=int(trainer.state.global_step),
        course=tuple(_course(trainer.state.log_history)),
        device=causal.device,
        dtype=str(causal.model.dtype).removeprefix("torch."),
        mixed=bool(trainer.args.bf16),
        settings=config.model_dump(mode="json"),
        packages={name: version(name) for name in ("trl", "peft", "transformers", "torch")},
        seconds=round(seconds, 2),
        notes=tuple(_notes(config, causal, fitted)),
    )
    (out / REPORT).write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return report


def _json_of(lora: Any) -> str:
    own = {name: sorted(one) if isinstance(one, set) else one for name, one in lora.to_dict().items()}
    return json.dumps(own, indent=2, sort_keys=True) + "\n"


def _course(history: list[dict[str, Any]]) -> list[Point]:
    points = []
    for one in history:
        if "loss" in one:
            own = [float(one[key]) for key in ("loss", "rewards/accuracies", "log_odds_chosen")]
            if not all(map(math.isfinite, own)):
                raise TuneError(
                    f"the run came to nothing: its loss at step {one['step']} is no number; give a lower rate"
                )
            points.append(Point(step=one["step"], loss=own[0], preferred=own[1], log_odds=own[2]))
    return points


def _notes(config: TuneConfig, causal: Causal, fitted: Fitted) -> list[str]:
    notes = []
    if causal.room is not None and causal.room < config.max_length:
        notes.append(f"the model reads {causal.room:,} tokens, less than max_length: {config.max_length:,}")
    for reason, count in fitted.left_out.items():
        notes.append(f"{count:,} pairs were left out: {reason}")
    if fitted.cut:
        notes.append(f"{fitted.cut:,} pairs have an answer that was cut: what is cut off was not learnt")
    return notes
