"""Steps in, scores out: what every detector does, and what one may do besides."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from lec_guard.detect.heads import HeadSpec
from lec_guard.detect.submitting import checked
from lec_guard.errors import DetectorError
from lec_guard.step import Scores, Span, Step


class Detector(Protocol):
    """Anything that scores steps. One object is shared by all threads and tenants."""

    @property
    def labels(self) -> Mapping[str, tuple[str, ...]]:
        """Head name -> the labels that it can raise; policies are checked against it at load."""
        ...

    def score(self, steps: Sequence[Step], *, keys: Sequence[Hashable] | None = None) -> list[Scores]:
        """Score steps.

        Args:
            steps: The steps; may be empty.
            keys: Whose each step is, for example its tenant; what a detector keeps between calls it keeps apart by
                key. None: all belong to one.

        Returns:
            One `Scores` a step, in order.
        """
        ...


@runtime_checkable
class Measured(Protocol):
    """What a detector can do that knows how high benign texts score."""

    @property
    def heads(self) -> tuple[HeadSpec, ...]:
        """What its fitted heads are; none where it does not know."""
        ...


@runtime_checkable
class Heated(Protocol):
    """What a detector can do that tells of every part of a text how high it scores."""

    def heat(self, step: Step) -> list[Span]:
        """How high each part of a text scores, for a person who looks at it: no threshold, no limit.

        Args:
            step: The step.

        Returns:
            The parts in the order of the text; they may overlap.

        Raises:
            DetectorError: If part of the step can't be read.
        """
        ...


class GrowingText(Protocol):
    """A text that a detector reads while it comes. Not to be shared between threads."""

    passed: int
    """Characters from the start that only stand in windows that were complete when it was last scored, and that the
    tokens to be held back follow; it never falls."""

    def add(self, text: str) -> bool:
        """Take what follows; cheap.

        Args:
            text: What follows.

        Returns:
            Whether enough came since the last call of `scores` for another one.
        """
        ...

    def scores(self) -> Scores:
        """Score what is known of the text so far.

        Returns:
            The scores of the windows that are complete; none is read twice.
        """
        ...

    def finish(self, step: Step) -> Scores:
        """Score a whole text.

        Args:
            step: A step with the context that the text was begun with. Its text need not be what came: only what was
                not read before is read.

        Returns:
            What `Detector.score` says of the step.
        """
        ...


@runtime_checkable
class Growing(Protocol):
    """What a detector can do that reads a text while it comes.

    One that has an attribute `reads_as_written`, and it is true, is asked to also where all of a text is held back:
    reading it costs nothing there, and where it is a block the rest need not be written.
    """

    def begin(self, step: Step, *, key: Hashable = None, hold_back: int) -> GrowingText | None:
        """Begin a text.

        Args:
            step: Whatever is known of the step but its text.
            key: Whose it is, as in `Detector.score`.
            hold_back: Tokens that are to follow a character before it passes.

        Returns:
            The text, with nothing in it; None where this detector can't do it after all.
        """
        ...


def heat_of(detector: Detector, step: Step) -> list[Span]:
    """How high each part of a text scores; of a detector that does not tell, what it finds.

    Args:
        detector: Any detector.
        step: The step.

    Returns:
        The parts in the order of the text; they may overlap.

    Raises:
        DetectorError: If part of the step can't be read, or the detector gives no scores.
    """
    if isinstance(detector, Heated):
        return detector.heat(step)
    (scores,) = checked(detector.score([step]), 1)
    return found_in(scores)


def found_in(scores: Scores) -> list[Span]:
    """What a detector found.

    Args:
        scores: What it says of a step.

    Returns:
        Its spans in the order of the text.

    Raises:
        DetectorError: If part of the step was not read.
    """
    if scores.unread is not None:
        raise DetectorError(scores.unread)
    return in_text_order(scores.spans)


def in_text_order(spans: Iterable[Span]) -> list[Span]:
    """Sort spans by where they begin, then by where they end; those of one place stay as they are.

    Args:
        spans: The spans.

    Returns:
        The same.
    """
    return sorted(spans, key=lambda span: (span.start, span.end))
