"""A guard on another machine: model and policies are there, and verdicts come back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Literal

import httpx
from pydantic import ValidationError

from lec_guard.detect.calling import Caller, Patience, RefusedByServer
from lec_guard.detect.wire import StepBody
from lec_guard.errors import DetectorError, OverloadError
from lec_guard.serve.api.bodies import CheckBody, CheckOut, VerdictOut
from lec_guard.step import Cause, Edit, Outcome, Step, Verdict

Fail = Literal["block", "allow"]

MOST_STEPS = 256
"""Steps of a request, as a server takes them by default."""


class RemoteGuard:
    """The guard of a `lec-guard serve`, through `/v1/check`. Safe to share between threads.

    Its verdicts have no scores and spans unless the key may see them. Where the server is gone, `fail` says what
    follows, for a policy that can't be asked can't say it; such a verdict has the rule `fail:error` or `fail:timeout`,
    and its `cause`.

    Args:
        url: Where it is; see `lec_guard.detect.calling.Caller`.
        key: The key; None for the environment's `LEC_GUARD_API_KEY`.
        fail: What follows where the server can't be asked: `block`, or `allow`.
        most_steps: Steps of a request; more are sent in several.
        patience: How it is called.
        insecure: Whether the key and texts may cross a network in the clear.
        transport: What sends; None for the network.

    Raises:
        DetectorError: If the URL is none, or there is no key.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        fail: Fail = "block",
        most_steps: int = MOST_STEPS,
        patience: Patience | None = None,
        insecure: bool = False,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        if fail not in ("block", "allow"):
            raise DetectorError(f"fail={fail!r}: block or allow")
        self._caller = Caller(url, key=key, patience=patience, insecure=insecure, transport=transport)
        self._fail = fail
        self._most = most_steps

    def check(self, step: Step, tenant: str | None = None) -> Verdict:
        """Judge a step without acting on it.

        Args:
            step: The step.
            tenant: Whose policy applies; None for what the key says.

        Returns:
            The verdict.

        Raises:
            RefusedByServer: If the server refuses: a wrong key, an unknown tenant.
        """
        return self.check_many([step], tenant)[0]

    def check_many(self, steps: Sequence[Step], tenant: str | None = None) -> list[Verdict]:
        """Judge steps; see `check`."""
        return [one.verdict for one in self._submit(steps, tenant, act=False).result()]

    def apply(self, step: Step, tenant: str | None = None) -> Outcome:
        """Judge a step, and have the server act on the verdict: rewrite the text, ask whoever has to allow it."""
        return self.apply_many([step], tenant)[0]

    def apply_many(self, steps: Sequence[Step], tenant: str | None = None) -> list[Outcome]:
        """Judge steps and act on the verdicts; see `apply`."""
        return self._submit(steps, tenant, act=True).result()

    async def acheck(self, step: Step, tenant: str | None = None) -> Verdict:
        """`check`, without blocking the event loop."""
        return (await self.acheck_many([step], tenant))[0]

    async def acheck_many(self, steps: Sequence[Step], tenant: str | None = None) -> list[Verdict]:
        """`check_many`, without blocking the event loop."""
        return [one.verdict for one in await asyncio.wrap_future(self._submit(steps, tenant, act=False))]

    async def aapply(self, step: Step, tenant: str | None = None) -> Outcome:
        """`apply`, without blocking the event loop."""
        return (await self.aapply_many([step], tenant))[0]

    async def aapply_many(self, steps: Sequence[Step], tenant: str | None = None) -> list[Outcome]:
        """`apply_many`, without blocking the event loop."""
        return await asyncio.wrap_future(self._submit(steps, tenant, act=True))

    def close(self) -> None:
        """Close its connections; may be called again."""
        self._caller.close()

    def _submit(self, steps: Sequence[Step], tenant: str | None, *, act: bool) -> Future[list[Outcome]]:
        return self._caller.submit(self._judged(list(steps), tenant, act=act))

    async def _judged(self, steps: list[Step], tenant: str | None, *, act: bool) -> list[Outcome]:
        parts = [steps[at : at + self._most] for at in range(0, len(steps), self._most)]
        found = await asyncio.gather(*(self._part(part, tenant, act=act) for part in parts))
        return [one for part in found for one in part]

    async def _part(self, steps: list[Step], tenant: str | None, *, act: bool) -> list[Outcome]:
        body = CheckBody(steps=[StepBody.of(step) for step in steps], tenant=tenant, act=act)
        began = time.perf_counter()
        try:
            content = await self._caller.ask("POST", "/v1/check", body.model_dump_json(exclude_none=True))
        except RefusedByServer:
            raise
        except OverloadError:
            return self._failed(steps, tenant, "timeout", began)
        except DetectorError:
            return self._failed(steps, tenant, "error", began)
        try:
            results = CheckOut.model_validate_json(content).results
        except ValidationError:
            return self._failed(steps, tenant, "error", began)
        if len(results) != len(steps):
            return self._failed(steps, tenant, "error", began)
        return [_outcome(step, one, act=act) for step, one in zip(steps, results, strict=True)]

    def _failed(self, steps: Sequence[Step], tenant: str | None, cause: Cause, began: float) -> list[Outcome]:
        ms = (time.perf_counter() - began) * 1000 / len(steps)
        message = None if self._fail == "allow" else "This could not be checked. Please try again later."
        found = []
        for step in steps:
            verdict = Verdict(
                action=self._fail,
                rule=f"fail:{cause}",
                matched=(f"fail:{cause}",),
                cause=cause,
                message=message,
                scores={},
                windows=0,
                context_read=False,
                stage=step.stage,
                tenant=tenant,
                policy="",
                policy_version="",
                detector_id=self._caller.url,
                backend="remote",
                ms=ms,
            )
            found.append(Outcome(verdict=verdict, text=step.text if self._fail == "allow" else None))
        return found


def _outcome(step: Step, found: VerdictOut, *, act: bool) -> Outcome:
    verdict = found.verdict()
    if not act:
        return Outcome(verdict=verdict, text=step.text if verdict.action in ("allow", "flag") else None)
    return Outcome(
        verdict=verdict,
        text=found.text,
        edits=tuple(Edit(**edit.model_dump()) for edit in found.edits or ()),
        notes=tuple(found.notes or ()),
        tokens=found.tokens or {},
        ticket=found.ticket,
    )
