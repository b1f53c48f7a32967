"""Guard: steps -> scores -> decision -> effect. Knows no framework.

The flow of a step is written once, as a generator that yields the scores it needs and is sent them. The
sync and the async methods only differ in how they wait for those scores, so the two can't drift apart.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lec_guard.act.block import act
from lec_guard.detect.detector import Detector, LayerDetector
from lec_guard.detect.submitting import Submitting, checked, in_order, submitted
from lec_guard.errors import DetectorError, LecGuardError
from lec_guard.observe.events import EventSink, VerdictEvent
from lec_guard.policy.decide import decide
from lec_guard.policy.store import Policy, PolicyStore
from lec_guard.step import Outcome, Scores, Step, Verdict

Tenants = str | Sequence[str | None] | None
"""One tenant for all steps, or one a step; None is no tenant."""


@dataclass(frozen=True, slots=True)
class _ScoreRequest:
    """What the flow waits for: the scores of these steps, each of which belongs to its key, the tenant."""

    steps: Sequence[Step]
    keys: Sequence[str | None]


_Flow = Generator[_ScoreRequest, list[Scores], list[Verdict]]


class Guard:
    """Judges steps by a tenant's policy. One object serves all threads and tenants.

    Args:
        policies: Which policy a tenant gets.
        detector: What scores the steps.
        sinks: Where events go.

    Raises:
        PolicyError: If a policy reads a head or label that the detector does not have.
    """

    def __init__(self, policies: PolicyStore, detector: Detector, *, sinks: Iterable[EventSink] = ()) -> None:
        for policy in policies.policies():
            policy.check_heads(detector.labels)
        self._policies = policies
        self._detector = detector
        self._sinks = tuple(sinks)

    @classmethod
    def from_policies(
        cls,
        path: str | Path | None = None,
        *,
        detector: Detector | str | Path | None = None,
        sinks: Iterable[EventSink] = (),
    ) -> Guard:
        """Make a guard from policy files and a detector.

        Args:
            path: A folder with `default.yaml` and perhaps `tenants/*.yaml`; one policy file; or None
                for the packaged default policy.
            detector: A bundle's folder, a detector, or None for the embedded one.
            sinks: Where events go.

        Returns:
            A guard that is ready to judge.

        Raises:
            PolicyError: If a policy is wrong or reads what the detector does not give.
            BundleError: If the detector can't be loaded.
        """
        policies = PolicyStore.load(path)
        loaded = LayerDetector.load(detector) if detector is None or isinstance(detector, str | Path) else detector
        return cls(policies, loaded, sinks=sinks)

    def policy(self, tenant: str | None) -> Policy:
        """The policy that applies to a tenant.

        Args:
            tenant: The tenant; None for none.

        Returns:
            Its policy, with all that it inherits.

        Raises:
            PolicyError: If the tenant is unknown.
        """
        return self._policies.get(tenant)

    def check(self, step: Step, tenant: str | None = None) -> Verdict:
        """Judge a step without acting on it.

        Args:
            step: The step.
            tenant: Whose policy applies; None for the default one.

        Returns:
            The verdict.

        Raises:
            PolicyError: If the tenant is unknown.
            DetectorError: If the detector failed; the step must not pass then.
        """
        return self.check_many([step], tenant)[0]

    def check_many(self, steps: Sequence[Step], tenant: Tenants = None) -> list[Verdict]:
        """Judge steps in one call of the detector; see `check`.

        Args:
            steps: The steps.
            tenant: One tenant for all, or one a step.

        Returns:
            One verdict a step, in order.
        """
        flow = self._flow(steps, tenant)
        request = next(flow)
        return _finish(flow, self._scores(request))

    def apply(self, step: Step, tenant: str | None = None) -> Outcome:
        """Judge a step and act on the verdict.

        Args:
            step: The step.
            tenant: Whose policy applies; None for the default one.

        Returns:
            The verdict and the text that may pass.

        Raises:
            PolicyError: If the tenant is unknown.
            DetectorError: If the detector failed; the step must not pass then.
        """
        return self.apply_many([step], tenant)[0]

    def apply_many(self, steps: Sequence[Step], tenant: Tenants = None) -> list[Outcome]:
        """Judge steps in one call of the detector and act on the verdicts; see `apply`.

        Args:
            steps: The steps.
            tenant: One tenant for all, or one a step.

        Returns:
            One outcome a step, in order.
        """
        return _act(self.check_many(steps, tenant), steps)

    async def acheck(self, step: Step, tenant: str | None = None) -> Verdict:
        """`check`, without blocking the event loop."""
        return (await self.acheck_many([step], tenant))[0]

    async def acheck_many(self, steps: Sequence[Step], tenant: Tenants = None) -> list[Verdict]:
        """`check_many`, without blocking the event loop; a `Batcher` is waited for without a thread, too."""
        flow = self._flow(steps, tenant)
        request = next(flow)
        return _finish(flow, await self._ascores(request))

    async def aapply(self, step: Step, tenant: str | None = None) -> Outcome:
        """`apply`, without blocking the event loop."""
        return (await self.aapply_many([step], tenant))[0]

    async def aapply_many(self, steps: Sequence[Step], tenant: Tenants = None) -> list[Outcome]:
        """`apply_many`, without blocking the event loop."""
        return _act(await self.acheck_many(steps, tenant), steps)

    def close(self) -> None:
        """Close the detector and the sinks that have a `close` of their own; the guard is of no use after."""
        for part in (self._detector, *self._sinks):
            close = getattr(part, "close", None)
            if close is not None:
                close()

    async def aclose(self) -> None:
        """`close`, without blocking the event loop."""
        await asyncio.to_thread(self.close)

    def _scores(self, request: _ScoreRequest) -> list[Scores]:
        with _told():
            return checked(self._detector.score(request.steps, keys=request.keys), len(request.steps))

    async def _ascores(self, request: _ScoreRequest) -> list[Scores]:
        if not isinstance(self._detector, Submitting):
            return await asyncio.to_thread(self._scores, request)
        with _told(), submitted(self._detector, request.steps, request.keys) as futures:
            await asyncio.gather(*map(asyncio.wrap_future, futures))
            return in_order(futures)

    def _flow(self, steps: Sequence[Step], tenant: Tenants) -> _Flow:
        """Everything between a step and its verdict, apart from how the scores are got."""
        tenants = [tenant] * len(steps) if tenant is None or isinstance(tenant, str) else list(tenant)
        if len(tenants) != len(steps):
            raise ValueError(f"{len(tenants)} tenants for {len(steps)} steps")
        # Before the detector runs: an unknown tenant costs nothing.
        policies = [self._policies.get(name) for name in tenants]
        began = time.perf_counter()
        scores = yield _ScoreRequest(steps, tenants)
        decided = list(zip(steps, tenants, policies, scores, strict=True))
        ms = (time.perf_counter() - began) * 1000 / max(len(steps), 1)
        verdicts = [_verdict(*one, ms) for one in decided]
        for verdict in verdicts:
            for sink in self._sinks:
                sink.emit(VerdictEvent(verdict=verdict))
        return verdicts


@contextmanager
def _told() -> Iterator[None]:
    """Whatever a detector raises becomes an error of this package, which no caller takes for a pass."""
    try:
        yield
    except LecGuardError:
        raise
    except Exception as error:
        raise DetectorError(f"the detector failed: {error!r}") from error


def _verdict(step: Step, tenant: str | None, policy: Policy, scores: Scores, ms: float) -> Verdict:
    decision = decide(policy, step.stage, scores)
    return Verdict(
        action=decision.action,
        rule=decision.rule,
        matched=decision.matched,
        message=decision.message,
        # A detector may use any Mapping and NumPy's floats; a verdict must pickle and fit into JSON.
        scores={head: {label: float(score) for label, score in own.items()} for head, own in scores.by_head.items()},
        spans=tuple(span for span in scores.spans if span.head in decision.heads),
        windows=scores.windows,
        context_read=scores.context_read,
        stage=step.stage,
        tenant=tenant,
        policy=policy.name,
        policy_version=policy.version,
        detector_id=scores.detector_id,
        backend=scores.backend,
        ms=ms,
    )


def _act(verdicts: list[Verdict], steps: Sequence[Step]) -> list[Outcome]:
    return [act(verdict, step.text) for verdict, step in zip(verdicts, steps, strict=True)]


def _finish(flow: _Flow, scores: list[Scores]) -> list[Verdict]:
    try:
        flow.send(scores)
    except StopIteration as done:
        verdicts: list[Verdict] = done.value
        return verdicts
    raise AssertionError("the flow of a step asks for scores once")
