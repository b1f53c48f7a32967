"""A guard inside a local model, guidance and ORPO, shown on a toy language.

    python -m benchmarks.inside --work FOLDER [--model FOLDER]

Trains the toy model where none is given, and takes every other step with the package as it is. What each step found is
kept in the folder, and the same command goes on from there. Writes results.json, the page and its plots, here.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.inside import guarding, tuning
from benchmarks.inside.behaviour import SEED, Writer, load
from benchmarks.inside.data import HELD_OUT, Head, write
from benchmarks.inside.page import RESULTS, write_page
from benchmarks.inside.steering import Steered, Steering, Way
from benchmarks.inside.toy import Settings, has_bfloat16, save, train
from lec_guard.bench.machine import processor
from lec_guard.train.trainer import Trained

HEADS: tuple[Head, ...] = ("injection", "harm")
HOLD_BACKS: tuple[str | int, ...] = ("all", 24)
WAYS = (Way(), Way(coefficient=1.0), Way(coefficient=2.0))
"""In which adapters are measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """A run of ORPO.

    Attributes:
        guided: Whether its pairs stand under the package's two system prompts; else under none.
        rate: The learning rate.
    """

    guided: bool
    rate: float

    @property
    def name(self) -> str:
        """Of its folder and its stage."""
        return f"orpo-{'guided' if self.guided else 'plain'}-{self.rate:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How much of everything.

    Attributes:
        fit: Conversations that examples of a head are taken from.
        texts: Conversations that texts are taken from to measure a head by itself.
        asked: Prompts of a kind before the first token.
        requests: Harmless requests whose answers are drawn.
        streamed: Harmless requests that are answered one by one.
        steered: Questions about people, and about facts.
        dialogues: That pairs are made of.
        epochs: How often pairs are read.
        tuned: Runs of ORPO.
    """

    fit: int = 800
    texts: int = 400
    asked: int = 100
    requests: int = 400
    streamed: int = 80
    steered: int = 200
    dialogues: int = 120
    epochs: int = 3
    tuned: tuple[Tuned, ...] = (
        Tuned(guided=True, rate=tuning.PUBLISHED_RATE),
        Tuned(guided=False, rate=tuning.PUBLISHED_RATE),
        Tuned(guided=False, rate=10 * tuning.PUBLISHED_RATE),
    )


QUICK = Counts(
    fit=800,
    texts=60,
    asked=20,
    requests=60,
    streamed=10,
    steered=40,
    dialogues=20,
    epochs=1,
    tuned=(Tuned(guided=True, rate=1e-3), Tuned(guided=False, rate=1e-3)),
)


class Work:
    """A folder that keeps what every stage found.

    Args:
        folder: The folder.
        of: What the stages depend on.

    Raises:
        ValueError: If it holds another run.
    """

    def __init__(self, folder: Path, of: dict[str, Any]) -> None:
        self.folder = folder
        self.seconds: dict[str, float] = {}
        known, own = folder / "run.json", json.loads(json.dumps(of))
        if known.exists() and json.loads(known.read_text(encoding="utf-8")) != own:
            raise ValueError(f"{folder}: holds a run of another model or of other counts; give a new folder")
        known.write_text(json.dumps(own, indent=2) + "\n", encoding="utf-8")

    def stage(self, name: str, make: Callable[[], Any]) -> Any:
        """A stage's result, as JSON has it: made now, or found.

        Args:
            name: The stage.
            make: Makes it.

        Returns:
            The result.
        """
        path = self.folder / f"{name}.json"
        if not path.exists():
            began = time.perf_counter()
            result = _plain(make())
            kept = {"seconds": time.perf_counter() - began, "result": result}
            path.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
        kept = json.loads(path.read_text(encoding="utf-8"))
        self.seconds[name] = kept["seconds"]
        print(f"{name}: {kept['seconds']:.0f} s", flush=True)
        return kept["result"]


def measured(folder: Path, model: Path | None, counts: Counts) -> dict[str, Any]:
    """Take all steps.

    Args:
        folder: Where to work.
        model: The model; None trains one.
        counts: How much of everything.

    Returns:
        What the page is made of.
    """
    folder.mkdir(parents=True, exist_ok=True)
    toy = _trained(folder, model)
    given = model or folder / "model"
    weights = hashlib.sha256((given / "model.safetensors").read_bytes()).hexdigest()
    work = Work(folder, {"model": weights, "counts": asdict(counts)})
    heads = work.stage("heads", lambda: _heads(folder, given, counts))
    trained = {head: guarding.fit(head, given, folder / "data", folder / head) for head in HEADS}
    writer = load(given)
    every = [_guarded(folder, writer, trained, hold_back) for hold_back in HOLD_BACKS]
    report = {
        "model": {
            "sha256": weights,
            "parameters": sum(own.numel() for own in writer.model.parameters()),
            "layers": writer.model.config.num_hidden_layers,
            "trained": toy,
        },
        "counts": asdict(counts),
        "held_out": {head: list(own) for head, own in HELD_OUT.items()},
        "sampling": guarding.SAMPLED,
        "heads": heads,
        "asked": work.stage(
            "asked", lambda: [asdict(one) for one in guarding.before_the_first_token(every[0], counts.asked, SEED)]
        ),
        "decoding": {
            "every": every[0].inside.detector.every,
            "rows": work.stage("decoding", lambda: guarding.while_decoding(every[0], counts.requests, SEED)),
        },
        "streaming": work.stage(
            "streaming",
            lambda: [
                guarding.streamed(own, hold_back, counts.streamed, SEED)
                for own, hold_back in zip(every, HOLD_BACKS, strict=True)
            ],
        ),
        "guidance": {
            "rows": work.stage("guidance", lambda: Steering(counts.steered, SEED).by_coefficient(writer)),
            "plain": work.stage("plain", lambda: Steering(counts.steered, SEED).measured(writer, WAYS)),
        },
    }
    sides = {own.guided for own in counts.tuned}
    pairs = work.stage("pairs", lambda: [_pairs(folder, given, counts, guided) for guided in sorted(sides)])
    runs = [work.stage(own.name, partial(_run, folder, given, counts, own)) for own in counts.tuned]
    report["orpo"] = {"pairs": pairs, "before": report["guidance"]["plain"], "runs": runs}
    report["seconds"] = work.seconds
    report["machine"] = {"processor": processor(), "torch_threads": torch.get_num_threads()}
    return report


def _trained(folder: Path, model: Path | None) -> dict[str, Any] | None:
    """How the toy model was trained; None where one was given."""
    if model is not None:
        return None
    note = folder / "toy.json"
    if not note.exists():
        settings = Settings(threads=torch.get_num_threads(), bfloat16=has_bfloat16())
        done = train(settings, lambda line: print(line, flush=True))
        save(done.toy, folder / "model")
        own = {"tokens": done.tokens, "seconds": done.seconds, "loss": done.losses[-1]}
        note.write_text(json.dumps(own, indent=2) + "\n", encoding="utf-8")
    found: dict[str, Any] = json.loads(note.read_text(encoding="utf-8"))
    return found


def _heads(folder: Path, model: Path, counts: Counts) -> dict[str, Any]:
    if not (folder / "data").exists():
        write(folder / "data", counts.fit)
    told: dict[str, Any] = {}
    for head in HEADS:
        own = guarding.fit(head, model, folder / "data", folder / head)
        curve = _curve(own)
        told[head] = {
            "turn": guarding.READERS[head].turn,
            "window": guarding.READERS[head].window.model_dump(),
            "counts": dict(zip(own.labels, own.counts, strict=True)),
            "families": own.families,
            "chosen": own.chosen.model_dump(mode="json"),
            "tried": len(own.tried),
            "bars": [bar.model_dump(mode="json") for bar in own.bars],
            **curve,
            "found": guarding.found(head, folder / head, own.bars[0].threshold, counts.texts),
        }
    return told


def _curve(own: Trained) -> dict[str, Any]:
    """The chosen layer at the largest sample of the learning curves, and what reads no layer."""
    if own.curves is None or not own.length:
        return {"curve": None}
    size, layer = max(own.length), max(block.layer for block in own.chosen.blocks)
    row = next(one for one in own.curves.summary() if one.size == size and one.layer == layer)
    return {"curve": {"size": size, "f1": row.f1.mean, "length": own.length[size].mean, "majority": own.majority}}


def _guarded(folder: Path, writer: Writer, trained: dict[Head, Trained], hold_back: str | int) -> guarding.Guarded:
    policy = guarding.write_policy(folder / f"hold-back-{hold_back}.yaml", trained, hold_back)
    return guarding.guarded(writer.model, writer.tokenizer, [folder / head for head in HEADS], policy)


def _pairs(folder: Path, model: Path, counts: Counts, guided: bool) -> dict[str, Any]:
    made = tuning.make(model, _pairs_folder(folder, guided), counts.dialogues, guided=guided)
    return {
        "guided": guided,
        "dialogues": made.dialogues,
        "samples": made.samples,
        "kept": {name: own.kept for name, own in made.answered.items()},
        "no_use": {name: own.no_use for name, own in made.answered.items()},
        "rows": made.rows,
    }


def _pairs_folder(folder: Path, guided: bool) -> Path:
    return folder / f"pairs-{'guided' if guided else 'plain'}"


def _run(folder: Path, model: Path, counts: Counts, run: Tuned) -> dict[str, Any]:
    out = folder / run.name
    own = tuning.tuned(model, _pairs_folder(folder, run.guided), out, run.rate, counts.epochs)
    with tuning.with_adapters(model, out) as writer:
        rows: Sequence[Steered] = Steering(counts.steered, SEED).measured(writer, WAYS)
    return {
        "name": run.name,
        "guided": run.guided,
        "rate": run.rate,
        "steps": own.steps,
        "seconds": own.seconds,
        "parameters": own.parameters,
        "settings": {name: own.settings[name] for name in ("beta", "rank", "alpha", "dropout", "epochs", "batch")},
        "rows": _plain(list(rows)),
    }


def _plain(own: Any) -> Any:
    """Dataclasses as dictionaries, wherever they are."""
    if is_dataclass(own) and not isinstance(own, type):
        return asdict(own)
    if isinstance(own, dict):
        return {name: _plain(one) for name, one in own.items()}
    return [_plain(one) for one in own] if isinstance(own, list | tuple) else own


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="what every stage finds is kept here")
    parser.add_argument("--model", type=Path, help="a model that has learnt the toy language; else one is trained")
    # More threads than idle cores wait for each other, most of the time.
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="little of everything, and no page")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    counts = QUICK if arguments.quick else Counts()
    report = measured(arguments.work, arguments.model, counts)
    if arguments.quick:
        print(json.dumps(report, indent=2))
        return
    RESULTS.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    write_page(report)


if __name__ == "__main__":
    main()
