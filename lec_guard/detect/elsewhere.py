"""A detector that stands for one in another process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import Future

from lec_guard.detect.heads import HeadSpec
from lec_guard.detect.submitting import checked, in_order, submitted
from lec_guard.detect.wire import DetectorOut
from lec_guard.errors import DetectorError
from lec_guard.step import Scores, Step


class Elsewhere(ABC):
    """What a detector in another process is, as it said when this was made. Safe to share between threads.

    Args:
        told: What it said.
    """

    def __init__(self, told: DetectorOut) -> None:
        self._is = told

    @property
    def labels(self) -> Mapping[str, tuple[str, ...]]:
        """Head name -> the labels that it can raise."""
        return {head: tuple(own) for head, own in self._is.labels.items()}

    @property
    def heads(self) -> tuple[HeadSpec, ...]:
        """What its fitted heads are, with how high harmless texts score."""
        return tuple(self._is.heads)

    @property
    def detector_id(self) -> str:
        """Name and content hash of the detector."""
        return self._is.detector_id

    @property
    def window_tokens(self) -> int | None:
        """Tokens that it reads at once, at most; None where it does not say."""
        return self._is.window_tokens

    def score(self, steps: Sequence[Step], *, keys: Sequence[Hashable] | None = None) -> list[Scores]:
        """Score steps there, and wait for it.

        Args:
            steps: The steps; may be empty.
            keys: Whose each step is.

        Returns:
            One `Scores` a step, in order.

        Raises:
            OverloadError: If it is too slow or has no room, after all tries.
            DetectorError: If it can't be reached, refuses, or is another one now.
            ValueError: If there is not one key a step.
        """
        with submitted(self, steps, [None] * len(steps) if keys is None else keys) as futures:
            return in_order(futures)

    @abstractmethod
    def submit(self, steps: Sequence[Step], *, key: Hashable = None) -> Future[list[Scores]]:
        """Have steps scored, without waiting for it; see `lec_guard.detect.submitting.Submitting`."""

    def _checked(self, found: object, count: int, where: str) -> list[Scores]:
        """What came back, if it is of the detector that policies were read with: thresholds are those of one."""
        scores = checked(found, count)
        for one in scores:
            if one.detector_id != self.detector_id:
                raise DetectorError(
                    f"{where}: it has the detector {one.detector_id} now, and policies were read with "
                    f"{self.detector_id}: make the guard anew"
                )
        return scores
