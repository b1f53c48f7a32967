"""Tunes the kept layers of a model to labels and to what a larger model says of the same texts.

A frozen layer knows what its pre-training needed. Its weights are moved, all of them or by low-rank adapters (Hu et al.
2021, arXiv 2106.09685), so that heads on top tell texts apart: by labels and by a teacher's probabilities (HarmAug, Lee
et al. 2024, arXiv 2410.01524). Training reads what the detector reads: the same windows, the same layers and poolings,
the same way from windows to a text. Its heads are thrown away: those of the bundle are fitted afterwards, as on any
other extractor.

A model that has seen a family says nothing of how it does on families that it has not. Some are therefore held out, of
the tuning as of the fitting, and all that is measured or chosen is measured on those.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from lec_guard.detect import normalise
from lec_guard.detect import windows as window_rules
from lec_guard.detect.adapters import Adapters, Factors, layer_of
from lec_guard.detect.backends.torch import BlockPooling
from lec_guard.detect.extractor import Block, batches
from lec_guard.detect.heads import HeadSpec, HeadStack
from lec_guard.detect.merge import digests, linear_modules
from lec_guard.detect.prune import PrunedModel, layer_stack, load_pruned
from lec_guard.detect.windows import Windower
from lec_guard.errors import BundleError, UnsupportedValueError
from lec_guard.train.checkpoint import Checkpoint, read_checkpoint
from lec_guard.train.config import TrainPooling, Windows
from lec_guard.train.fit import Columns, Floats, Ints, fit_categories, shares
from lec_guard.train.lesson_batches import Batch, Material
from lec_guard.train.lessons import Lesson, check_lessons, check_seen, digest, hold_out
from lec_guard.train.losses import Recent, WorstFamilies, harm, losses, low_fpr, text_columns
from lec_guard.train.select import Bags, fit_bags

Progress = Callable[[str, float], None]
"""Called with what is being done, and the share of it that is done."""

_PROBED = 2000
"""Texts of a lesson that its head starts from."""

_START_PENALTY = 0.001
"""C of that start: so strong that heads alone do not tell all texts apart, or nothing would be left to learn."""

_LOGIT_STEP = 0.05
"""What a step may move a logit by the heads alone, with features that are 1 from their mean."""

_VERSION = 2
"""Changes with what a run does: a checkpoint of another version is of another run."""


class Tuning(BaseModel):
    """How weights are moved.

    Attributes:
        full: Whether all weights are tuned, not adapters.
        rank: Of the adapters.
        alpha: They change a matrix by `alpha / rank * B @ A`.
        frozen: The highest layer that stays as it is, 0 for the embeddings; None: nothing does. Adapters never change
            embeddings.
        epochs: How often as many texts are read as there are.
        tokens: In a step, at most: what memory is needed for.
        most_windows: Of a text in a step, at most; of longer ones others are drawn each time.
        rate: Of learning, at its highest; None takes 5e-4 for adapters, and 3e-5 for all weights.
        decay: Of weights (AdamW).
        warmup: Share of the steps in which the rate rises; after it, it falls to 0.
        clip: Norm of the gradient at most.
        dropout: Of what adapters read, or, where all weights are tuned, of what heads read.
        low_fpr: What it counts, beside the loss of labels and teachers, that harmful texts stand out from the harmless
            ones that score highest; see `lec_guard.train.losses.low_fpr`.
        sharpness: Temperature of the soft maximum in that.
        worst_families: How much more the families count that do worst, by the exponential of so many times their loss.
        autocast: Whether matrix products are in bfloat16.
        seed: Decides all that is drawn.
        save_every: Steps between two checkpoints.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    full: bool = False
    rank: Annotated[int, Field(gt=0, le=1024)] = 16
    alpha: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 32.0
    frozen: Annotated[int, Field(ge=0)] | None = 0
    epochs: Annotated[int, Field(gt=0)] = 3
    tokens: Annotated[int, Field(gt=0)] = 4096
    most_windows: Annotated[int, Field(gt=0)] = 24
    rate: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] | None = None
    decay: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 0.01
    warmup: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.06
    clip: Annotated[float, Field(gt=0.0)] = 1.0
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.05
    low_fpr: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 0.0
    sharpness: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 1.0
    worst_families: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 0.0
    autocast: bool = False
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    save_every: Annotated[int, Field(gt=0)] = 200


class DistilBlock(BaseModel):
    """A layer and how it is pooled."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    layer: Annotated[int, Field(ge=0)]
    pooling: TrainPooling


class DistilConfig(Tuning):
    """How a model is tuned.

    Attributes:
        blocks: The layers and poolings that heads read; what lies above the highest layer is cut off.
        window: How texts are cut.
    """

    blocks: Annotated[tuple[DistilBlock, ...], Field(min_length=1)]
    window: Windows = Windows()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.layers < 1:
            raise ValueError("nothing can be tuned below layer 1: name a block of a layer")
        if self.frozen is not None and self.frozen >= self.layers:
            raise ValueError(f"layer {self.layers} is the highest, and all up to {self.frozen} stay: nothing is tuned")
        if len(set(self.blocks)) != len(self.blocks):
            raise ValueError("a block stands twice")
        return self

    @property
    def layers(self) -> int:
        """The highest layer that is kept."""
        return max(block.layer for block in self.blocks)

    @property
    def read(self) -> tuple[Block, ...]:
        """The blocks, for an extractor."""
        return tuple(Block(block.layer, block.pooling) for block in self.blocks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Distilled:
    """What came of a run.

    Attributes:
        adapters: What is added to the weights, in float32; None where all weights were tuned.
        tuned: The tuned weights by name, where all were; None with adapters.
        held: The families that nothing has seen.
        heads: The heads that were tuned with them, over raw features: to look at, not to ship.
        steps: Steps that were done.
        total: Steps that there are.
        losses: The mean loss of each twentieth of the steps that were done, in order.
        seconds: What all its parts took, those before an interruption too.
    """

    adapters: Adapters | None
    tuned: dict[str, torch.Tensor] | None
    held: tuple[str, ...]
    heads: HeadStack
    steps: int
    total: int
    losses: tuple[float, ...]
    seconds: float

    @property
    def finished(self) -> bool:
        """Whether all steps were done; else the same call with `resume` goes on."""
        return self.steps == self.total


def distil(
    lessons: Sequence[Lesson],
    base: Path,
    config: DistilConfig,
    *,
    onto: Adapters | None = None,
    held: Collection[str] | None = None,
    work: Path | None = None,
    resume: bool = False,
    minutes: float | None = None,
    progress: Progress = lambda _what, _share: None,
) -> Distilled:
    """Tune the layers that are kept, for all heads in one pass.

    On the CPU a seed decides every bit; a GPU adds up in an order of its own. A run that was interrupted and goes on
    ends with the same bits as one that was not.

    Args:
        lessons: What the heads learn.
        base: A folder with a Hugging Face model and its `tokenizer.json`.
        config: How.
        onto: Adapters of an earlier run, which it starts from with a new rise and fall of the rate; None starts from
            the base as it is. They must have seen none of `held`.
        held: Families that nothing may see; None takes what `lec_guard.train.lessons.hold_out` chooses, and an empty
            collection none at all.
        work: Where checkpoints go; None writes none.
        resume: Whether to go on from the checkpoint there, if there is one.
        minutes: After which it stops, with a checkpoint; None: never.
        progress: Is told how far each part is.

    Returns:
        What came of it.

    Raises:
        UnsupportedValueError: If there is nothing to learn from, the loss is no number any more, or the checkpoint is
            damaged, of another run, or there without `resume`.
        BundleError: If the base can't be read, peft is not installed, or `onto` belongs to other weights, modules or
            another rank.
        DetectorError: If the base can't be cut.
    """
    check_lessons(lessons)
    held = _held(lessons, held)
    seen = [lesson.without(held) for lesson in lessons]
    check_seen(seen)
    run = _Run(seen, base, config, progress)
    if onto is not None:
        run.start_from(onto)
    name = _name_of(run, lessons, config, held, onto)
    there = None if work is None else read_checkpoint(work, name)
    if there is not None and not resume:
        raise UnsupportedValueError(f"{work}: holds a run that is not finished: go on with it (resume), or delete it")
    if there is not None:
        run.restore(there)
    else:
        run.begin()
    began = time.monotonic()
    before = run.seconds
    for _ in run.steps():
        run.seconds = before + time.monotonic() - began
        is_over = minutes is not None and time.monotonic() - began >= 60 * minutes
        if work is not None and (run.done % config.save_every == 0 or is_over or run.done == run.total):
            run.state(name).write(work)
        progress("tuning", run.done / run.total)
        if is_over:
            break
    return run.result(tuple(sorted(held)))


def _held(lessons: Sequence[Lesson], held: Collection[str] | None) -> frozenset[str]:
    if held is None:
        return hold_out(lessons)
    there = {example.family for lesson in lessons for example in lesson.examples}
    unknown = sorted(set(held) - there)
    if unknown:
        raise UnsupportedValueError(f"no text is of the family {unknown[0]!r}, which is to be held out")
    return frozenset(held)


def _name_of(
    run: _Run, lessons: Sequence[Lesson], config: DistilConfig, held: Collection[str], onto: Adapters | None
) -> str:
    parts = {
        "version": _VERSION,
        "normaliser": normalise.VERSION,
        "windows": window_rules.VERSION,
        "base": run.base_digest,
        "lessons": digest(lessons),
        "held": sorted(held),
        "config": config.model_dump(mode="json", exclude={"save_every"}),
        "onto": None if onto is None else onto.digest(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class _Run:
    """A model that is being tuned. `begin` or `restore` it, then take `steps`."""

    def __init__(self, lessons: Sequence[Lesson], base: Path, config: DistilConfig, progress: Progress) -> None:
        self._config, self._progress = config, progress
        self._lessons = lessons
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = load_pruned(base, config.layers)
        if model.max_positions is not None and config.window.size > model.max_positions:
            raise BundleError(
                f"windows of {config.window.size} tokens, but the model reads {model.max_positions} at most"
            )
        try:
            tokenizer = (base / "tokenizer.json").read_bytes()
        except OSError as error:
            raise BundleError(
                f"{base}: no tokenizer.json ({error.strerror}): save the model's fast tokenizer"
            ) from None
        self.base_digest = hashlib.sha256(model.digest().encode() + tokenizer).hexdigest()
        modules = linear_modules(model)
        first = 1 if config.frozen is None else config.frozen + 1
        self._adapted = [] if config.full else [name for name in modules if layer_of(name) >= first]
        self._digests = digests(modules, self._adapted)
        model.module.float()
        windower = Windower.from_json(tokenizer, config.window.spec)
        self._material = Material(
            lessons,
            windower,
            tokens=config.tokens,
            most_windows=config.most_windows,
            seed=config.seed,
            progress=lambda share: progress("cutting texts", share),
        )
        self._model = model
        # Drawn from the seed, whatever was drawn before; and nobody else's numbers change.
        with self._drawing(0):
            self._lora = {} if config.full else _inject(model, self._adapted, modules, config)
        self._pooled = BlockPooling(config.read, None).to(self._device)
        model.module.to(self._device)
        self._weights = _tuned(model, config) if config.full else _factors_of(self._lora)
        self._specs = [lesson.head for lesson in lessons]
        self._mean = self._deviation = torch.zeros(0)
        self._heads: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._optimiser: torch.optim.AdamW
        self._recent = [Recent.none(self._device) for _ in lessons]
        self._families = [
            WorstFamilies(own.family, own.side, own.chance, config.worst_families) for own in self._material.marks
        ]
        self._epochs = [self._material.batches(epoch) for epoch in range(config.epochs)]
        self.total = sum(map(len, self._epochs))
        self.done = 0
        self.seconds = 0.0
        self._costs: list[float] = []

    def start_from(self, adapters: Adapters) -> None:
        """Give the adapters the numbers of others, before `begin` or `restore`."""
        wants = {name: (tuple(a.shape), tuple(b.shape)) for name, (a, b) in self._lora.items()}
        has = {name: (own.a.shape, own.b.shape) for name, own in adapters.factors.items()}
        if wants != has:
            names = [name for name in sorted({*wants, *has}) if wants.get(name) != has.get(name)]
            raise BundleError(
                f"{names[0]!r} is not adapted alike in what the run starts from: take the rank, the layers and "
                "`frozen` that those adapters have, and tune adapters, not all weights"
            )
        if dict(adapters.weights) != dict(self._digests):
            raise BundleError("the adapters that the run starts from belong to other weights than these")
        if adapters.alpha != self._config.alpha:
            raise BundleError(f"the adapters that the run starts from have alpha {adapters.alpha:g}: give that one")
        with torch.no_grad():
            for name, (a, b) in self._lora.items():
                a.copy_(torch.from_numpy(adapters.factors[name].a.astype(np.float32)))
                b.copy_(torch.from_numpy(adapters.factors[name].b.astype(np.float32)))

    def begin(self) -> None:
        """Fit the heads to the model as it is: from there on what is tuned moves the least (Kumar et al. 2022)."""
        every = self._material.marks
        samples = [self._sample(own.chance, number) for number, own in enumerate(every)]
        texts = np.unique(np.concatenate([own.text[rows] for own, rows in zip(every, samples, strict=True)]))
        ids, owner = self._material.every_window(texts)
        features = self._read_all(ids)
        deviation = features.std(axis=0)
        self._mean = torch.from_numpy(features.mean(axis=0)).to(self._device)
        self._deviation = torch.from_numpy(np.where(deviation > 0, deviation, 1).astype(np.float32)).to(self._device)
        heads = []
        for number, rows in enumerate(samples):
            own = self._start(number, rows, texts, owner, features)
            weight, bias = (torch.from_numpy(part).to(self._device) for part in (own.weight, own.bias))
            heads.append((weight * self._deviation[:, None], bias + self._mean @ weight))
        self._set_heads(heads)

    def steps(self) -> Iterator[None]:
        """Do what is left to do, a step at a time."""
        at = 0
        for epoch, own in enumerate(self._epochs):
            for number, units in enumerate(own):
                if at >= self.done:
                    self._step(self._material.batch(units, seed=[epoch, number]))
                    self.done += 1
                    yield
                at += 1

    def state(self, run: str) -> Checkpoint:
        """All that the rest of the run depends on."""
        tensors = {f"weight.{name}": own for name, own in self._weights.items()}
        tensors |= {"mean": self._mean, "deviation": self._deviation}
        for number, (weight, bias) in enumerate(self._heads):
            tensors |= {f"head.{number}.weight": weight, f"head.{number}.bias": bias}
            tensors |= {
                f"recent.{number}.odds": self._recent[number].odds,
                f"recent.{number}.weights": self._recent[number].weights,
                f"families.{number}": torch.from_numpy(self._families[number].known),
            }
        for number, own in self._optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{number}.{key}": value for key, value in own.items()}
        about = {"done": self.done, "seconds": self.seconds, "costs": self._costs}
        # A copy, because the file is written without what tensors share.
        return Checkpoint(run, {name: own.detach().clone() for name, own in tensors.items()}, about)

    def restore(self, there: Checkpoint) -> None:
        """Go on from a checkpoint."""
        own = {name: tensor.to(self._device) for name, tensor in there.tensors.items()}
        with torch.no_grad():
            for name, weight in self._weights.items():
                weight.copy_(own[f"weight.{name}"])
        self._mean, self._deviation = own["mean"], own["deviation"]
        self._set_heads([(own[f"head.{n}.weight"], own[f"head.{n}.bias"]) for n in range(len(self._specs))])
        for number in range(len(self._specs)):
            self._recent[number] = Recent(own[f"recent.{number}.odds"], own[f"recent.{number}.weights"])
            self._families[number].known = there.tensors[f"families.{number}"].numpy()
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in there.tensors.items():
            if name.startswith("optimiser."):
                _, number_of, key = name.split(".")
                state.setdefault(int(number_of), {})[key] = tensor
        self._optimiser.load_state_dict({**self._optimiser.state_dict(), "state": state})
        self.done, self.seconds = int(there.about["done"]), float(there.about["seconds"])
        self._costs = list(there.about["costs"])

    def result(self, held: tuple[str, ...]) -> Distilled:
        """What came of it so far."""
        with torch.no_grad():
            weights = [weight / self._deviation[:, None] for weight, _ in self._heads]
            biases = [bias - self._mean @ raw for (_, bias), raw in zip(self._heads, weights, strict=True)]
            heads = HeadStack(self._specs, torch.cat(weights, dim=1).cpu().numpy(), torch.cat(biases).cpu().numpy())
        adapters = None
        if not self._config.full:
            adapters = Adapters(
                rank=self._config.rank,
                alpha=self._config.alpha,
                factors={name: Factors(*map(_numbers, factors)) for name, factors in self._lora.items()},
                weights=self._digests,
            )
        parts = np.array_split(np.array(self._costs), min(20, len(self._costs))) if self._costs else []
        return Distilled(
            adapters=adapters,
            tuned={name: own.detach().cpu().clone() for name, own in self._model.module.state_dict().items()}
            if self._config.full
            else None,
            held=held,
            heads=heads,
            steps=self.done,
            total=self.total,
            losses=tuple(float(part.mean()) for part in parts),
            seconds=self.seconds,
        )

    def _step(self, batch: Batch) -> None:
        config = self._config
        for group in self._optimiser.param_groups:
            group["lr"] = group["most"] * self._share_of_rate()
        with self._drawing(1 + self.done):
            features = self._features(batch.windows)
            if config.full and config.dropout:
                features = torch.nn.functional.dropout(features, config.dropout)
            cost = self._cost(features, batch)
            if not torch.isfinite(cost):
                raise UnsupportedValueError(
                    f"the loss is not finite at step {self.done + 1} of {self.total}: give a lower rate "
                    f"than {config.rate or _rate_of(config):g}"
                )
            self._optimiser.zero_grad(set_to_none=True)
            cost.backward()  # type: ignore[no-untyped-call]
        tuned = [own for group in self._optimiser.param_groups for own in group["params"]]
        torch.nn.utils.clip_grad_norm_(tuned, config.clip)
        self._optimiser.step()
        self._costs.append(cost.item())

    def _cost(self, features: torch.Tensor, batch: Batch) -> torch.Tensor:
        at, mask = torch.from_numpy(batch.at).to(self._device), torch.from_numpy(batch.mask).to(self._device)
        total = features.new_zeros(())
        for number, (rows, owner, counts) in enumerate(batch.rows):
            if not len(rows):
                continue
            marks, spec, families = self._material.marks[number], self._specs[number], self._families[number]
            weight, bias = self._heads[number]
            texts = text_columns(features @ weight + bias, at, mask, spec)[torch.from_numpy(owner).to(self._device)]
            label = torch.from_numpy(marks.label[rows]).to(self._device)
            cost = losses(texts, label, torch.from_numpy(marks.soft[rows]).to(self._device), spec)
            counts = counts * families.weights(rows)
            families.learn(rows, cost.detach().cpu().double().numpy())
            own = torch.from_numpy(counts).to(self._device)
            total = total + (own * cost).sum()
            if self._config.low_fpr:
                side = torch.from_numpy(marks.side[rows]).to(self._device)
                odds = harm(texts, spec)
                apart = low_fpr(odds, side, own, self._recent[number], temperature=self._config.sharpness)
                total = total + self._config.low_fpr * apart
        return total

    def _features(self, windows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Standardised features of windows, `[windows, features]`; those of like length are read together."""
        order: list[int] = []
        parts = []
        layers = {block.layer for block in self._config.blocks}
        for rows, ids, mask in batches(windows, self._model.pad_id):
            kept = torch.from_numpy(mask).to(self._device)
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self._config.autocast):
                states = self._model.states(torch.from_numpy(ids).to(self._device), kept, layers)
            parts.append(self._pooled({layer: states[layer] for layer in layers}, kept))
            order += rows
        back = torch.from_numpy(np.argsort(np.array(order))).to(self._device)
        features = torch.cat(parts)[back]
        return (features - self._mean) / self._deviation if len(self._mean) else features

    def _read_all(self, windows: Sequence[Sequence[int]]) -> Floats:
        """Raw features, without a gradient."""
        found = []
        with torch.no_grad(), self._still():
            for start in range(0, len(windows), 2048):
                found.append(self._features(windows[start : start + 2048]).cpu().numpy())
                self._progress("starting heads", min((start + 2048) / len(windows), 1.0))
        return np.concatenate(found)

    def _sample(self, chance: np.ndarray[Any, np.dtype[np.float64]], number: int) -> Ints:
        if len(chance) <= _PROBED:
            return np.arange(len(chance))
        random = np.random.default_rng([self._config.seed, number])
        return np.sort(random.choice(len(chance), _PROBED, replace=False, p=chance))

    def _start(self, number: int, rows: Ints, texts: Ints, owner: Ints, features: Floats) -> Columns:
        """The columns of a lesson's head, fitted to a sample of its texts."""
        marks, spec = self._material.marks[number], self._specs[number]
        examples = [self._lessons[number].examples[row] for row in rows.tolist()]
        at = np.searchsorted(texts, marks.text[rows])
        # A text that stands twice in a lesson has its windows twice.
        starts = np.searchsorted(owner, np.arange(len(texts) + 1))
        windows = np.concatenate([np.arange(starts[one], starts[one + 1]) for one in at.tolist()])
        of_row = np.repeat(np.arange(len(rows)), starts[at + 1] - starts[at])
        classes = len(spec.labels) + 1 if spec.kind == "multiclass" else 2
        targets = np.zeros((len(rows), classes), np.float32)
        for row, one in enumerate(examples):
            label = one.side if one.label is None else one.label
            targets[row, label if spec.kind == "multiclass" else min(label, 1)] = 1
        bags = Bags(targets=targets, families=np.array([one.family for one in examples]), owner=of_row)
        own = features[windows]
        missing = np.setdiff1d(np.arange(classes), bags.classes)
        if len(missing):  # so rare that the sample has none: it starts from nothing
            return _nothing(own.shape[1], spec)
        first = fit_bags(own, bags, np.ones(len(own), np.bool_), c=_START_PENALTY)
        if spec.kind != "two_level":
            return first
        labels = np.array([-1 if one.label is None else one.label for one in examples])
        second = _nothing(own.shape[1], spec)
        named = np.flatnonzero(labels[of_row] >= 2)
        if len(np.unique(labels[of_row[named]])) == len(spec.labels) - 1:
            weights = shares(of_row[named], np.ones(len(rows), np.float32))
            found = fit_categories(own[named], labels[of_row[named]] - 2, weights, c=_START_PENALTY)
            return Columns(np.hstack([first.weight, found.weight]), np.concatenate([first.bias, found.bias]))
        return Columns(np.hstack([first.weight, second.weight[:, 1:]]), np.concatenate([first.bias, second.bias[1:]]))

    def _set_heads(self, heads: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
        self._heads = [
            (weight.detach().clone().requires_grad_(), bias.detach().clone().requires_grad_()) for weight, bias in heads
        ]
        rate, decay = _rate_of(self._config), self._config.decay
        weights = list(self._weights.values())
        # A step of Adam moves every weight by the rate, and so a logit by the rate times all of its features. Heads
        # start where they are best: what they read is to move, and not they.
        slow = min(rate, _LOGIT_STEP / len(self._mean))
        groups = [
            (rate, decay, [own for own in weights if own.ndim > 1]),
            (rate, 0.0, [own for own in weights if own.ndim <= 1]),  # as in HarmAug: no decay of norms and biases
            (slow, decay, [weight for weight, _ in self._heads]),
            (slow, 0.0, [bias for _, bias in self._heads]),
        ]
        self._optimiser = torch.optim.AdamW(
            [{"params": own, "weight_decay": decay, "most": most} for most, decay, own in groups if own], lr=rate
        )

    def _share_of_rate(self) -> float:
        """Up, and then down to nothing."""
        rising = self._config.warmup * self.total
        up = (self.done + 1) / rising if rising else 1.0
        return min(up, (self.total - self.done) / max(self.total - rising, 1))

    def _drawing(self, number: int) -> _Drawn:
        return _Drawn(self._device, (self._config.seed << 32) + number)

    def _still(self) -> _Still:
        return _Still(self._model.module)


class _Drawn:
    """Random numbers of a seed, whatever was drawn before; those of others stay as they were."""

    def __init__(self, device: torch.device, seed: int) -> None:
        self._fork = torch.random.fork_rng([0] if device.type == "cuda" else [])
        self._seed = seed

    def __enter__(self) -> None:
        self._fork.__enter__()
        torch.manual_seed(self._seed)

    def __exit__(self, *error: object) -> None:
        self._fork.__exit__(*error)  # type: ignore[arg-type]


class _Still:
    """No dropout for a while."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._dropouts = [own for own in module.modules() if isinstance(own, torch.nn.Dropout) and own.training]

    def __enter__(self) -> None:
        for own in self._dropouts:
            own.eval()

    def __exit__(self, *_: object) -> None:
        for own in self._dropouts:
            own.train()


def _rate_of(config: DistilConfig) -> float:
    return config.rate or (3e-5 if config.full else 5e-4)


def _nothing(features: int, spec: HeadSpec) -> Columns:
    return Columns(np.zeros((features, spec.columns), np.float32), np.zeros(spec.columns, np.float32))


def _numbers(factor: torch.Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    return factor.detach().cpu().float().numpy().copy()


def _inject(
    model: PrunedModel, names: Sequence[str], modules: dict[str, torch.nn.Module], config: DistilConfig
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Put adapters beside modules; their factors by name."""
    try:
        import peft
        from peft.tuners.lora import LoraLayer
    except ModuleNotFoundError:
        raise BundleError("tuning by adapters needs peft; run: pip install 'lec-guard[train]'") from None
    path_of = {id(module): path for path, module in model.module.named_modules()}
    wanted = {path_of[id(modules[name])]: name for name in names}
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]
        lora_dropout=config.dropout,
        target_modules=list(wanted),
        fan_in_fan_out=not any(isinstance(modules[name], torch.nn.Linear) for name in names),
    )
    peft.inject_adapter_in_model(settings, model.module)
    # Dropout of the model's own stays off: the states are to be those that the detector reads.
    model.module.eval()
    found: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for path, layer in model.module.named_modules():
        if isinstance(layer, LoraLayer):
            a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            assert isinstance(a, torch.Tensor)  # noqa: S101 - as those of linear modules are
            assert isinstance(b, torch.Tensor)  # noqa: S101
            found[wanted[path]] = a, b
            layer.lora_dropout.train()
    if set(found) != set(names):
        raise BundleError(f"peft can't adapt {sorted(set(names) - set(found))[0]!r}: tune all weights instead")
    return found


def _factors_of(lora: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for name, (a, b) in lora.items():
        found |= {f"{name}.A": a, f"{name}.B": b}
    return found


def _tuned(model: PrunedModel, config: DistilConfig) -> dict[str, torch.Tensor]:
    """All weights but those that stay as they are."""
    stay: set[int] = set()
    if config.frozen is not None:
        stack = layer_stack(model.module, model.layers)
        inside = {id(own) for own in stack.parameters()}
        stay = {id(own) for own in model.module.parameters() if id(own) not in inside}
        stay |= {id(own) for layer in list(stack)[: config.frozen] for own in layer.parameters()}
    found: dict[str, torch.Tensor] = {}
    found |= {name: own for name, own in model.module.named_parameters() if id(own) not in stay}
    for own in found.values():
        own.requires_grad_()
    return found
