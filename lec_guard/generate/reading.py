"""Texts that a model read or wrote, scored by what its own layers made of them in the same pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
import torch
from torch import Tensor

from lec_guard.detect.heads import Matrix
from lec_guard.detect.windows import Placed, Run
from lec_guard.generate.binding import Bound
from lec_guard.generate.rendering import MessageSpan, Rendered
from lec_guard.step import Scores, Step

HALF_LIFE = 2.0
"""Tokens after which what a token said of an answer counts half."""

_AT_ONCE = 256
"""Windows that are pooled together: it bounds memory."""

_IN_FORCE: ContextVar[Reading | None] = ContextVar("lec_guard_reading", default=None)


class Answer:
    """What a model has written of an answer so far, with the states of its tokens. It belongs to one generation."""

    def __init__(self) -> None:
        self.text = ""
        self.ids: list[int] = []
        self.starts: list[int] = []
        self.stops: list[int] = []
        self._states: dict[int, list[Tensor]] = {}
        self._read = 0

    @property
    def read(self) -> int:
        """How many tokens the model's layers have read; the last one that was written they have not."""
        return self._read

    def write(self, token: int, text: str) -> None:
        """Take a token that the model wrote.

        Args:
            token: Its id.
            text: What it adds to the text; empty where a character is not whole yet.
        """
        self.ids.append(token)
        self.starts.append(len(self.text))
        self.text += text
        self.stops.append(len(self.text))

    def close(self, text: str) -> None:
        """Take what the last tokens add to the text when none follows."""
        self.text += text
        if self.stops:
            self.stops[-1] = len(self.text)

    def add(self, states: Mapping[int, Tensor]) -> None:
        """Take what the layers made of the tokens that were written, `[tokens, width]` of each layer."""
        for layer, own in states.items():
            self._states.setdefault(layer, []).append(own)
        self._read += len(next(iter(states.values())))

    def states(self) -> dict[int, Tensor]:
        """Layer -> `[tokens that were read, width]`."""
        found = {}
        for layer, parts in self._states.items():
            if len(parts) > 1:
                parts[:] = [torch.cat(parts)]
            found[layer] = parts[0]
        return found


class Reading:
    """One conversation in one generation: the texts of its prompt, and the answer as it grows.

    It belongs to that generation; what asks for scores finds it by the context that it runs in.

    Args:
        prompt: The prompt.
    """

    def __init__(self, prompt: Rendered) -> None:
        self.prompt = prompt
        self.answer = Answer()
        self._states: dict[int, Tensor] = {}

    def fill(self, states: Mapping[int, Tensor], row: int = 0) -> None:
        """Take what the layers made of the prompt.

        Args:
            states: Layer -> `[rows, tokens, width]`, padded on the left.
            row: Which row it is.
        """
        count = len(self.prompt.ids)
        self._states = {layer: own[row, -count:] for layer, own in states.items()}

    @contextmanager
    def in_force(self) -> Iterator[Reading]:
        """Have scores of these texts come from here, for all that this context calls.

        Yields:
            The same.
        """
        token = _IN_FORCE.set(self)
        try:
            yield self
        finally:
            _IN_FORCE.reset(token)

    @staticmethod
    def current() -> Reading | None:
        """The reading of the generation that this context is in, if it is in one."""
        return _IN_FORCE.get()

    def forget(self) -> None:
        """Let go of the prompt's states; its texts are read apart from now on."""
        self._states = {}

    def has_answer(self, step: Step) -> bool:
        """Whether a step is the answer, and every token of it was read."""
        own = self.answer
        return bool(step.text) and step.text == own.text and own.read == len(own.ids)

    def scores(self, bound: Bound, step: Step, key: object) -> Scores | None:
        """What a bundle's heads say of a step that is a text of the prompt, or the answer.

        Args:
            bound: The heads.
            step: The step.
            key: Whose it is.

        Returns:
            Its scores; None where the step is no such text, or its context does not stand before it.
        """
        if step.stage in ("output", "tool_input"):
            return self._of_answer(bound, step, key) if self.has_answer(step) else None
        part = self._part(step) if self._states else None
        if part is None:
            return None
        run = bound.windower.run(step.text)
        if run.ids != self.prompt.ids[part.start : part.stop]:
            return None
        placed = list(bound.windower.placed(run))
        after = min(bound.after, min(self._starts_after(part), default=len(self.prompt.ids)) - part.stop)
        states = {layer: own[part.start : part.stop + after] for layer, own in self._states.items()}
        logits = window_logits(bound, states, [(one.first, one.last) for one in placed], after)
        return bound.detector.score_read(step, [one.window for one in placed], logits, key=key)

    def _part(self, step: Step) -> MessageSpan | None:
        """The last text of the prompt that a step is, with its context before it."""
        spans = self.prompt.spans
        for at in reversed(range(len(spans))):
            if spans[at].text == step.text:
                context = step.context
                known = not context or context.isspace() or any(one.text == context for one in spans[:at])
                return spans[at] if known else None
        return None

    def _starts_after(self, part: MessageSpan) -> Iterator[int]:
        return (span.start for span in self.prompt.spans if span.start >= part.stop)

    def _of_answer(self, bound: Bound, step: Step, key: object) -> Scores:
        placed = list(self.placed(bound, step.text))
        logits = window_logits(bound, self.answer.states(), [(one.first, one.last) for one in placed])
        return bound.detector.score_read(step, [one.window for one in placed], logits, key=key)

    def placed(self, bound: Bound, text: str) -> Iterator[Placed]:
        """The windows of the answer's tokens that were read.

        Args:
            bound: Whose windows.
            text: The answer's text.

        Yields:
            Windows in their order.
        """
        return bound.windower.placed(self.run(bound, text))

    def run(self, bound: Bound, text: str) -> Run:
        """The answer's tokens that were read, as windows are cut from them.

        Args:
            bound: Whose windows.
            text: The answer's text.

        Returns:
            The tokens with their places.
        """
        own, count = self.answer, self.answer.read
        return bound.windower.run_of(own.ids[:count], own.starts[:count], own.stops[:count], text)


def window_logits(
    bound: Bound, states: Mapping[int, Tensor], windows: Sequence[tuple[int, int]], after: int = 0
) -> Matrix:
    """What heads say of windows of tokens whose states are there: pooling, and one matrix product.

    Args:
        bound: The heads.
        states: Layer -> `[tokens, width]`.
        windows: First token of each, and one past the last.
        after: How many tokens at the end of the states belong to no window but are pooled with the last one.

    Returns:
        `[windows, columns]`.
    """
    heads = bound.detector.stack
    found = [np.empty((0, heads.weight.shape[1]), np.float32)]
    ends = [last for _, last in windows]
    if windows and after:
        ends[-1] += after
    for at in range(0, len(windows), _AT_ONCE):
        some = [
            (first, end) for (first, _), end in zip(windows[at : at + _AT_ONCE], ends[at : at + _AT_ONCE], strict=True)
        ]
        longest = max(end - first for first, end in some)
        device = next(iter(states.values())).device
        places = torch.arange(longest, device=device)
        starts = torch.tensor([first for first, _ in some], device=device)
        lengths = torch.tensor([end - first for first, end in some], device=device)
        mask = places < lengths[:, None]
        rows = (starts[:, None] + places).clamp(max=int((starts + lengths).max()) - 1)
        with torch.inference_mode():
            pooled = bound.pooling({layer: states[layer][rows] for layer in bound.layers}, mask.long())
        found.append(heads.logits(np.asarray(pooled.float().cpu().numpy(), np.float32)))
    return np.concatenate(found)


class Probe:
    """What a bundle's heads say of an answer at each of its tokens: the last window's worth of them, smoothed.

    A single token that stands out is a hint, several in a row are a finding: the logits of the windows that end at each
    token are averaged with weights that fall by half every few tokens (Sharma et al. 2026, "Constitutional
    Classifiers++", arXiv 2601.04603, section 4).

    Args:
        bound: The heads.
        half_life: Tokens after which a logit counts half.
    """

    def __init__(self, bound: Bound, half_life: float = HALF_LIFE) -> None:
        self.bound = bound
        self._keep = 0.5 ** (1.0 / half_life)
        self._smooth: Matrix | None = None
        self._known: dict[tuple[int, int], Matrix] = {}
        self._seen = 0

    def scores(self, reading: Reading, step: Step, key: object) -> Scores | None:
        """Read the tokens that are new.

        Args:
            reading: The conversation.
            step: What is known of the answer; its text is what was written so far.
            key: Whose it is.

        Returns:
            Scores of the windows that are complete and of the last tokens; None while there are fewer tokens than a
            window has at least.
        """
        bound, count = self.bound, reading.answer.read
        least = min(bound.windower.spec.least, bound.windower.room)
        room, states = bound.windower.room, reading.answer.states()
        # Below that there is less than heads were fitted on.
        new = [(max(0, end - room), end) for end in range(max(self._seen + 1, least), count + 1)]
        for row in window_logits(bound, states, new):
            self._smooth = row if self._smooth is None else self._keep * self._smooth + (1.0 - self._keep) * row
        self._seen = count
        if self._smooth is None:
            return None
        run = reading.run(bound, step.text)
        placed = list(bound.windower.placed(run))[:-1]
        unknown = [(one.first, one.last) for one in placed if (one.first, one.last) not in self._known]
        self._known.update(zip(unknown, window_logits(bound, states, unknown), strict=True))
        windows = [*(one.window for one in placed), bound.windower.window(run, max(0, count - room), count, False)]
        rows = np.vstack([*(self._known[one.first, one.last] for one in placed), self._smooth])
        return bound.detector.score_read(step, windows, rows, key=key, complete=False)
