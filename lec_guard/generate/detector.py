"""A detector inside the model that answers: no second model, and no second pass over what that reads and writes."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lec_guard.detect.bundle import read_bundle
from lec_guard.detect.composite import together
from lec_guard.detect.detector import GrowingText
from lec_guard.detect.heads import HeadSpec
from lec_guard.errors import BundleError
from lec_guard.generate.binding import Bound
from lec_guard.generate.reading import Probe, Reading
from lec_guard.generate.states import Tap
from lec_guard.step import Scores, Step

EVERY = 4
"""Tokens after which an answer is judged again, while it is written."""


class InsideDetector:
    """Heads on a model's own layers. Safe to share between threads.

    While the model generates (`GuardedCausalLM`, `GuardedChatModel`), texts of its prompt and its answer are scored by
    the states that it has of them anyway, at the cost of a matrix product. All heads read all of these texts, whichever
    turn they were fitted on; while an answer is written, those that were fitted on answers. Anything else (a text that
    a policy had rewritten, a step of another part of the application) is read apart, by the same layers.

    Args:
        model: The model.
        bound: Its heads.
        every: Tokens after which an answer is judged again while it is written: it stops so many tokens after a
            threshold is crossed, at most.

    Raises:
        BundleError: If there are no heads, or two of one name.
        ValueError: If `every` is below 1.
    """

    reads_as_written = True
    """An answer is judged while it is written also where all of it is held back; see `Growing`."""

    def __init__(self, model: PreTrainedModel, bound: Sequence[Bound], *, every: int = EVERY) -> None:
        if not bound:
            raise BundleError("no heads to read with; give a bundle")
        if every < 1:
            raise ValueError(f"an answer can't be judged every {every} tokens")
        names = [name for one in bound for name in one.detector.stack.labels]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise BundleError(f"two bundles have a head {doubled[0]!r}; rules could not tell which they read")
        self.model = model
        self.every = every
        self.bound = tuple(bound)
        self.tap = Tap(model, frozenset().union(*(one.layers for one in bound)))
        self._of_weights = self.tap.fingerprint()

    @classmethod
    def load(
        cls,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *bundles: str | Path,
        every: int = EVERY,
    ) -> InsideDetector:
        """Bind bundles to a model.

        Args:
            model: The model in memory.
            tokenizer: Its tokenizer.
            *bundles: Folders of bundles that `lec-guard train --model PATH --turn ROLE` wrote for it.
            every: As of the class.

        Returns:
            The detector.

        Raises:
            BundleError: If a bundle was fitted on another model, as `Bound.of` says.
        """
        bound = [Bound.of(read_bundle(Path(folder)), model, tokenizer) for folder in bundles]
        return cls(model, bound, every=every)

    @property
    def labels(self) -> Mapping[str, tuple[str, ...]]:
        """Head name -> the labels that it can raise."""
        return {name: labels for one in self.bound for name, labels in one.detector.labels.items()}

    @property
    def heads(self) -> tuple[HeadSpec, ...]:
        """What the fitted heads are."""
        return tuple(spec for one in self.bound for spec in one.detector.heads)

    @property
    def detector_id(self) -> str:
        """Names and content hashes of the bundles."""
        return "+".join(one.detector.detector_id for one in self.bound)

    def score(self, steps: Sequence[Step], *, keys: Sequence[Hashable] | None = None) -> list[Scores]:
        """Score steps; see `Detector.score`.

        Args:
            steps: The steps.
            keys: Whose each is.

        Returns:
            One `Scores` a step, in order.

        Raises:
            BundleError: If the weights were changed since the heads were bound to them.
        """
        self.check()
        owners = [None] * len(steps) if keys is None else list(keys)
        by_bundle = [self._of(bound, steps, owners) for bound in self.bound]
        return [together(parts) for parts in zip(*by_bundle, strict=True)]

    def begin(self, step: Step, *, key: Hashable = None, hold_back: int) -> GrowingText | None:
        """Begin an answer that the model is writing; see `Growing.begin`.

        Args:
            step: What is known of it.
            key: Whose it is.
            hold_back: Tokens that are to follow a character before it passes.

        Returns:
            The text; None where the model is writing no answer in this context, or the step is none.
        """
        reading = Reading.current()
        if reading is None or step.stage != "output":
            return None
        return _Written(self, reading, step, key, hold_back)

    def check(self) -> None:
        """Refuse a model whose weights are no longer those that the heads were bound to.

        Raises:
            BundleError: If a layer was replaced or changed, for example by adapters.
        """
        if self.tap.fingerprint() != self._of_weights:
            raise BundleError(
                "the model's layers were changed since its heads were bound to them (by adapters, or by training); "
                "detach these, or fit heads on the changed model"
            )

    @staticmethod
    def _of(bound: Bound, steps: Sequence[Step], keys: Sequence[Hashable]) -> list[Scores]:
        """What a bundle's heads say of steps; those that are in no pass are read together."""
        reading, found = Reading.current(), dict[int, Scores]()
        for at, (step, key) in enumerate(zip(steps, keys, strict=True)):
            own = None if reading is None else reading.scores(bound, step, key)
            if own is not None:
                found[at] = own
        left = [at for at in range(len(steps)) if at not in found]
        if left:
            apart = bound.detector.score([steps[at] for at in left], keys=[keys[at] for at in left])
            found |= dict(zip(left, apart, strict=True))
        return [found[at] for at in range(len(steps))]


class _Written:
    """An answer that the model is writing; see `lec_guard.detect.detector.GrowingText`."""

    def __init__(self, detector: InsideDetector, reading: Reading, step: Step, key: Hashable, hold_back: int) -> None:
        self.passed = 0
        self._detector = detector
        self._reading = reading
        self._step = step
        self._key = key
        # What was fitted on prompts reads answers when they are over, as everything does.
        own = [bound for bound in detector.bound if bound.role == "assistant"] or detector.bound
        self._probes = [Probe(bound) for bound in own]
        # A character is held back until every window that has it was read.
        self._hold_back = max([hold_back, *(bound.windower.room for bound in own)])
        self._looked = 0

    def add(self, text: str) -> bool:  # noqa: ARG002 - what came is in the reading, with its states
        """Whether so many tokens were read since the last look that it is time for another."""
        return self._reading.answer.read - self._looked >= self._detector.every

    def scores(self) -> Scores:
        """What the heads say of the answer so far."""
        own = self._reading.answer
        self._looked = count = own.read
        step = replace(self._step, text=own.text[: own.stops[count - 1]] if count else "")
        said = {
            probe.bound.detector.detector_id: probe.scores(self._reading, step, self._key) for probe in self._probes
        }
        found = [
            said.get(bound.detector.detector_id) or _nothing(bound, step, self._key) for bound in self._detector.bound
        ]
        if count > self._hold_back:
            self.passed = max(self.passed, own.stops[count - self._hold_back - 1])
        return together(found)

    def finish(self, step: Step) -> Scores:
        """What the heads say of the whole answer."""
        return self._detector.score([step], keys=[self._key])[0]


def _nothing(bound: Bound, step: Step, key: Hashable) -> Scores:
    empty = np.empty((0, bound.detector.stack.weight.shape[1]), np.float32)
    return bound.detector.score_read(replace(step, text=""), [], empty, key=key, complete=False)
