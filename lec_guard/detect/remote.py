"""A detector on another machine: the model is there, the policies stay with the application."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Hashable, Sequence
from concurrent.futures import Future
from typing import Self

import httpx
from pydantic import ValidationError

from lec_guard.detect.calling import Caller, Patience
from lec_guard.detect.elsewhere import Elsewhere
from lec_guard.detect.wire import DetectorOut, ManyScoresOut, ScoresBody, StepBody
from lec_guard.errors import DetectorError
from lec_guard.step import Scores, Step


class RemoteDetector(Elsewhere):
    """The detector of a `lec-guard serve`, as if it were here. Safe to share between threads.

    Where the server is gone, the policy's `fail` decides, as where any detector fails. A server that changes its
    detector is refused from then on: thresholds of policies are those of the one that they were read with; load anew.

    Args:
        url: Where it is; see `lec_guard.detect.calling.Caller`.
        key: A key that may see exact scores; None for the environment's `LEC_GUARD_API_KEY`.
        patience: How it is called.
        insecure: Whether the key and texts may cross a network in the clear.
        transport: What sends; None for the network.

    Raises:
        DetectorError: If it can't be reached, or says something else than a detector's server does.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        patience: Patience | None = None,
        insecure: bool = False,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._caller = Caller(url, key=key, patience=patience, insecure=insecure, transport=transport)
        try:
            content = self._caller.submit(self._caller.ask("GET", "/v1/detector")).result()
            super().__init__(DetectorOut.model_validate_json(content))
        except ValidationError:
            self._caller.close()
            raise DetectorError(
                f"{url}: this is not how a detector's server answers; is it of another version?"
            ) from None
        except DetectorError:
            self._caller.close()
            raise

    @classmethod
    def load(cls, url: str) -> Self:
        """The detector of a server, with all else as it is by default.

        Args:
            url: Where it is.

        Returns:
            The detector.

        Raises:
            DetectorError: As of the class.
        """
        return cls(url)

    def submit(self, steps: Sequence[Step], *, key: Hashable = None) -> Future[list[Scores]]:
        """Have steps scored, without waiting for it; see `lec_guard.detect.submitting.Submitting`."""
        return self._caller.submit(self._score(list(steps), key))

    def close(self) -> None:
        """Close its connections; may be called again."""
        self._caller.close()

    async def _score(self, steps: list[Step], key: Hashable) -> list[Scores]:
        most = self._is.most_steps
        parts = [steps[at : at + most] for at in range(0, len(steps), most)]
        found = await asyncio.gather(*(self._scored(part, key) for part in parts))
        return [one for part in found for one in part]

    async def _scored(self, steps: list[Step], key: Hashable) -> list[Scores]:
        whose = hashlib.sha256(repr(key).encode("utf-8", "surrogatepass")).hexdigest()
        body = ScoresBody(steps=[StepBody.of(step) for step in steps], keys=[whose] * len(steps))
        content = await self._caller.ask("POST", "/v1/scores", body.model_dump_json(exclude_none=True))
        try:
            found = [one.scores() for one in ManyScoresOut.model_validate_json(content).results]
        except ValidationError:
            raise DetectorError(f"{self._caller.url}: this is not how a detector's server answers") from None
        return self._checked(found, len(steps), self._caller.url)
