"""Guard: steps -> scores -> decision -> effect. Knows no framework.

The flow of a step is written once, as a generator that yields what it asks detectors for and is sent their answers. The
sync and the async methods only differ in how they wait for those, so the two can't drift apart.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from weakref import WeakMethod, finalize

from lec_guard.act.block import act
from lec_guard.detect.asking import Answer, Asker
from lec_guard.detect.detector import Detector, LayerDetector, Measured
from lec_guard.detect.pool import DetectorPool
from lec_guard.detect.submitting import failed
from lec_guard.errors import OverloadError, PolicyError
from lec_guard.observe.events import (
    BypassEvent,
    ErrorEvent,
    Event,
    EventSink,
    PolicyReloaded,
    ReloadRefused,
    VerdictEvent,
)
from lec_guard.observe.sinks import OnSinkError, Sinks
from lec_guard.policy.compile import Compiled, Heads
from lec_guard.policy.decide import Decision, compose, decide
from lec_guard.policy.resolve import DetectorRef, Policy
from lec_guard.policy.store import InForce, PolicyStore
from lec_guard.policy.watch import Watcher
from lec_guard.step import Cause, Judgement, Outcome, Role, Scores, Step, Verdict

Tenants = str | Sequence[str | None] | None
"""One tenant for all steps, or one a step; None is no tenant."""


@dataclass(slots=True)
class _Asked:
    """What the flow waits for: the answers of a detector.

    Attributes:
        detector: The detector.
        places: Which of the flow's steps it is asked for.
        steps: These steps.
        keys: Whose each of them is.
        limit_s: How long may be waited for all of them; None for no limit.
    """

    detector: Detector
    places: list[int]
    steps: list[Step]
    keys: list[str | None]
    limit_s: float | None

    def add(self, place: int, step: Step, key: str | None, limit_s: float | None) -> None:
        self.places.append(place)
        self.steps.append(step)
        self.keys.append(key)
        self.limit_s = None if limit_s is None or self.limit_s is None else self.limit_s + limit_s


_Flow = Generator[list[_Asked], list[list[Answer]], list[Verdict]]


class Guard:
    """Judges steps by a tenant's policy. One object serves all threads and tenants.

    Args:
        path: Where the policies are; see `from_policies`.
        detector: What scores the steps.
        sinks: Where events go.
        watch: Whether policies are reloaded when their files change.
        own_detectors: Tenants' own detectors that are kept in memory; see `from_policies`.
        on_sink_error: What follows where a sink fails; see `from_policies`.

    Raises:
        PolicyError: If a policy is wrong or reads what the detector does not give.
    """

    def __init__(
        self,
        path: str | Path | None,
        detector: Detector,
        *,
        sinks: Iterable[EventSink] = (),
        watch: bool = False,
        own_detectors: int = 8,
        on_sink_error: OnSinkError = "warn",
    ) -> None:
        if watch and path is None:
            raise PolicyError("watch=True: the packaged policy does not change; give a folder of policies")
        self._detector = detector
        self._sinks = Sinks(sinks, on_sink_error)
        self._pool = DetectorPool(detector, most=own_detectors)
        self._asker = Asker()
        self._policies = PolicyStore(path, self._heads)
        self._watcher = self._watched() if watch else None

    @classmethod
    def from_policies(
        cls,
        path: str | Path | None = None,
        *,
        detector: Detector | str | Path | None = None,
        sinks: Iterable[EventSink] = (),
        watch: bool = False,
        own_detectors: int = 8,
        on_sink_error: OnSinkError = "warn",
    ) -> Guard:
        """Make a guard from policy files and a detector.

        Args:
            path: A folder with `default.yaml` and perhaps `floor.yaml`, others that they extend, and `tenants/`; one
                policy file; or None for the packaged default policy.
            detector: A bundle's folder, a detector, or None for the embedded one.
            sinks: Where events go.
            watch: Whether policies are reloaded when their files change. What is wrong then leaves the version in
                force that was, and is told. Needs the extra `policies`.
            own_detectors: Tenants' own detectors that are kept in memory; of more, the one that was used longest ago is
                loaded again when it is needed. Heads beside the guard's own detector take kilobytes, whole bundles
                their weights.
            on_sink_error: `warn`: a sink that fails is told and changes nothing. `block`: no step passes that a sink
                was not told of; a `SinkError` is raised.

        Returns:
            A guard that is ready to judge.

        Raises:
            PolicyError: If a policy is wrong or reads what the detector does not give.
            BundleError: If the detector can't be loaded.
        """
        loaded = LayerDetector.load(detector) if detector is None or isinstance(detector, str | Path) else detector
        return cls(path, loaded, sinks=sinks, watch=watch, own_detectors=own_detectors, on_sink_error=on_sink_error)

    def policy(self, tenant: str | None) -> Policy:
        """The policy that applies to a tenant.

        Args:
            tenant: The tenant; None for none.

        Returns:
            Its policy, with all that it inherits.

        Raises:
            PolicyError: If the tenant is unknown, or its policy is wrong.
        """
        return self._policies.get(tenant).live.policy

    async def apolicy(self, tenant: str | None) -> Policy:
        """`policy`, without blocking the event loop while files are read."""
        found = self._policies.ready(tenant)
        return await asyncio.to_thread(self.policy, tenant) if found is None else found.live.policy

    @property
    def policies(self) -> PolicyStore:
        """All policies, with their thresholds for this guard's detectors."""
        return self._policies

    def check(self, step: Step, tenant: str | None = None) -> Verdict:
        """Judge a step without acting on it.

        Args:
            step: The step.
            tenant: Whose policy applies; None for the default one.

        Returns:
            The verdict. Where the detector failed, was too late or had too much to read, the policy's `fail` decides.

        Raises:
            PolicyError: If the tenant is unknown, or its policy is wrong.
        """
        return self.check_many([step], tenant)[0]

    def check_many(self, steps: Sequence[Step], tenant: Tenants = None) -> list[Verdict]:
        """Judge steps in one call of each detector; see `check`.

        Args:
            steps: The steps.
            tenant: One tenant for all, or one a step.

        Returns:
            One verdict a step, in order.
        """
        return self._run(self._flow(steps, tenant))

    def try_out(self, steps: Sequence[Step], policies: Sequence[InForce]) -> list[Verdict]:
        """Judge steps by policies that need not be in force, and tell no sink: for tests of policies, and to compare.

        Args:
            steps: The steps.
            policies: One a step, as `policies` gives them.

        Returns:
            One verdict a step, in order.
        """
        return self._run(self._flow(steps, None, policies))

    def apply(self, step: Step, tenant: str | None = None) -> Outcome:
        """Judge a step and act on the verdict.

        Args:
            step: The step.
            tenant: Whose policy applies; None for the default one.

        Returns:
            The verdict and the text that may pass.

        Raises:
            PolicyError: If the tenant is unknown, or its policy is wrong.
        """
        return self.apply_many([step], tenant)[0]

    def apply_many(self, steps: Sequence[Step], tenant: Tenants = None) -> list[Outcome]:
        """Judge steps in one call of each detector and act on the verdicts; see `apply`.

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
        # What was not read yet is read on another thread: a policy takes a moment, and a detector of its own seconds.
        asked = next(flow) if self._is_ready(tenant) else await asyncio.to_thread(next, flow)
        asking = (self._asker.aask(one.detector, one.steps, one.keys, one.limit_s) for one in asked)
        return _finish(flow, list(await asyncio.gather(*asking)))

    async def aapply(self, step: Step, tenant: str | None = None) -> Outcome:
        """`apply`, without blocking the event loop."""
        return (await self.aapply_many([step], tenant))[0]

    async def aapply_many(self, steps: Sequence[Step], tenant: Tenants = None) -> list[Outcome]:
        """`apply_many`, without blocking the event loop."""
        return _act(await self.acheck_many(steps, tenant), steps)

    def reload(self) -> None:
        """Take what changed in the files of the policies; see `PolicyStore.reload`. Sinks are told both ways."""
        changes = self._policies.reload()
        for new in changes.renewed:
            self._sinks.emit(PolicyReloaded(policy=new.name, version=new.version, before=new.before))
        for old in changes.refused:
            self._sinks.emit(ReloadRefused(policy=old.name, reason=old.reason, version=old.version))

    def close(self) -> None:
        """Close the detector and the sinks that have a `close` of their own; the guard is of no use after."""
        if self._watcher is not None:
            self._watcher.close()
        self._asker.close()
        for part in (self._pool, self._detector, self._sinks):
            close = getattr(part, "close", None)
            if close is not None:
                close()

    async def aclose(self) -> None:
        """`close`, without blocking the event loop."""
        await asyncio.to_thread(self.close)

    def _run(self, flow: _Flow) -> list[Verdict]:
        """The sync driver."""
        asked = next(flow)
        return _finish(flow, [self._asker.ask(one.detector, one.steps, one.keys, one.limit_s) for one in asked])

    def _watched(self) -> Watcher:
        # The thread holds the guard weakly: a guard that nobody closes ends like one that somebody does.
        changed, failed = WeakMethod(self.reload), WeakMethod(self._not_watched)

        def tell(reason: str) -> None:
            if (told := failed()) is not None:
                told(reason)

        def reload() -> None:
            if (renew := changed()) is not None:
                renew()

        watcher = Watcher(self._policies.path, reload, tell)
        finalize(self, watcher.stop)
        return watcher

    def _is_ready(self, tenant: Tenants) -> bool:
        """Whether nothing has to be read from disk before a detector can be asked."""
        for name in [tenant] if tenant is None or isinstance(tenant, str) else tenant:
            own = self._policies.ready(name)
            if own is None or not all(map(self._holds, _refs(own))):
                return False
        return True

    def _holds(self, ref: DetectorRef | None) -> bool:
        return ref is None or self._pool.holds(ref.folder, ref.id, beside=ref.beside)

    def _heads(self, ref: DetectorRef | None) -> Heads:
        return heads_of(self._own(ref))

    def _found(self, ref: DetectorRef | None) -> _Asked | Answer:
        try:
            return _Asked(self._own(ref), [], [], [], 0.0)
        except Exception as error:  # noqa: BLE001 - whatever keeps a tenant's detector away, its `fail` decides
            return Answer(scores=None, error=failed(error), ms=0.0)

    def _own(self, ref: DetectorRef | None) -> Detector:
        return self._detector if ref is None else self._pool.get(ref.folder, ref.id, beside=ref.beside)

    def _not_watched(self, reason: str) -> None:
        self._sinks.emit(ReloadRefused(policy=str(self._policies.path), reason=reason, version=None))

    def _flow(self, steps: Sequence[Step], tenant: Tenants, trial: Sequence[InForce] | None = None) -> _Flow:
        """Everything between a step and its verdict, apart from how the answers are got; of a trial nobody is told."""
        tenants = [tenant] * len(steps) if tenant is None or isinstance(tenant, str) else list(tenant)
        if len(tenants) != len(steps):
            raise ValueError(f"{len(tenants)} tenants for {len(steps)} steps")
        # Before a detector runs: an unknown tenant costs nothing. What is in force now is what counts until the end.
        policies = [self._policies.get(name) for name in tenants] if trial is None else trial
        began = time.perf_counter()
        asked: dict[DetectorRef | None, _Asked | Answer] = {}
        wanted = [_wanted(own, step) for step, own in zip(steps, policies, strict=True)]
        for ref in dict.fromkeys(ref for own in wanted for ref in own):
            asked[ref] = self._found(ref)
        for place, (step, name) in enumerate(zip(steps, tenants, strict=True)):
            for ref, limit_s in wanted[place].items():
                if isinstance(one := asked[ref], _Asked):
                    one.add(place, step, name, limit_s)
        given = iter((yield [one for one in asked.values() if isinstance(one, _Asked)]))
        answers: dict[tuple[int, DetectorRef | None], Answer] = {}
        for ref, one in asked.items():
            if isinstance(one, _Asked):
                answers |= {(place, ref): answer for place, answer in zip(one.places, next(given), strict=True)}
            else:
                answers |= {(place, ref): one for place, own in enumerate(wanted) if ref in own}
        judged = [
            _Judged.of(step, own, {ref: answers.get((place, ref)) for ref in _refs(own)})
            for place, (step, own) in enumerate(zip(steps, policies, strict=True))
        ]
        ms = (time.perf_counter() - began) * 1000 / max(len(steps), 1)
        verdicts = [one.verdict(name, ms) for one, name in zip(judged, tenants, strict=True)]
        for judgement, verdict in zip(judged, verdicts, strict=True):
            for event in judgement.events(verdict):
                if trial is None:
                    self._sinks.emit(event)
        return verdicts


def heads_of(detector: Detector) -> Heads:
    """What policies have to know of a detector.

    Args:
        detector: The detector.

    Returns:
        Its heads, and how high harmless texts score where it keeps that.
    """
    specs = detector.heads if isinstance(detector, Measured) else ()
    return Heads(
        detector_id=getattr(detector, "detector_id", None) or type(detector).__name__,
        labels=detector.labels,
        benign={spec.name: spec.benign for spec in specs},
        window=getattr(detector, "window_tokens", None),
    )


def _refs(policies: InForce) -> list[DetectorRef | None]:
    """The detectors whose scores count for a step; a candidate reads those of the live policy."""
    acting = (policies.live, policies.floor)
    return list(dict.fromkeys(one.policy.detector for one in acting if one is not None))


def _wanted(policies: InForce, step: Step) -> Mapping[DetectorRef | None, float | None]:
    """The detectors that have to read a step, and for how long each may be waited for."""
    wanted: dict[DetectorRef | None, float | None] = {}
    for policy in (policies.live, policies.floor):
        if policy is None or _too_long(policy, step):
            continue
        timeout_ms, ref = policy.fail[step.stage].timeout_ms, policy.policy.detector
        if timeout_ms is None:
            wanted[ref] = None
        elif timeout_ms > 0:
            before = wanted.get(ref, 0.0)
            wanted[ref] = None if before is None else max(before, timeout_ms / 1000)
    return wanted


def _too_long(policy: Compiled, step: Step) -> bool:
    most = policy.fail[step.stage].max_chars
    return most is not None and len(step.text) + len(step.context or "") > most


def _read(policy: Compiled, step: Step, answer: Answer | None, other: Cause) -> Scores | Cause:
    """What a policy has of a step: its scores, or why there are none."""
    if _too_long(policy, step):
        return "budget"
    timeout_ms = policy.fail[step.stage].timeout_ms
    if timeout_ms == 0:
        return "timeout"
    if answer is None:
        return other
    if isinstance(answer.error, OverloadError):
        return "timeout"
    if answer.error is not None:
        return "error"
    if answer.scores is None or (timeout_ms is not None and answer.ms > timeout_ms):
        return "timeout"
    return answer.scores


@dataclass(frozen=True, slots=True)
class _Opinion:
    """What one policy says of a step, and on what grounds."""

    judgement: Judgement
    decision: Decision
    scores: Scores | None
    cause: Cause | None
    reason: str | None

    @classmethod
    def of(cls, role: Role, policy: Compiled, step: Step, read: Scores | Cause, reason: str | None) -> _Opinion:
        try:
            decision = decide(policy, step, read)
        except PolicyError as error:  # The detector has not scored what it said it would.
            read, reason = "error", str(error)
            decision = decide(policy, step, read)
        scores = read if isinstance(read, Scores) else None
        cause: Cause | None = read if isinstance(read, str) else "budget" if read.over_budget else None
        judgement = Judgement(
            role=role,
            policy=policy.policy.name,
            version=policy.policy.version,
            mode=policy.policy.mode,
            action=decision.action,
            rule=decision.rule,
            matched=decision.matched,
        )
        told = scores.unread if scores is not None else reason
        return cls(judgement, decision, scores, cause, told)


@dataclass(frozen=True, slots=True)
class _Judged:
    """A step with what each policy says of it, and what they say together."""

    step: Step
    live: Compiled
    opinions: tuple[_Opinion, ...]
    decision: Decision

    @classmethod
    def of(cls, step: Step, policies: InForce, answers: Mapping[DetectorRef | None, Answer | None]) -> _Judged:
        opinions: list[_Opinion] = []
        counting: dict[Role, Decision] = {}
        # Where nobody waited for scores on the live policy's account, a candidate has none for the same reason.
        other: Cause = "timeout"
        roles: tuple[tuple[Role, Compiled | None], ...] = (
            ("live", policies.live),
            ("candidate", policies.candidate),
            ("floor", policies.floor),
        )
        for role, policy in roles:
            if policy is None:
                continue
            answer = answers.get((policies.live if role == "candidate" else policy).policy.detector)
            read = _read(policy, step, answer, other)
            # What the detector said is no reason where the policy would not have heard it.
            is_said = read == "error" or (read == "timeout" and policy.fail[step.stage].timeout_ms != 0)
            reason = str(answer.error) if is_said and answer is not None and answer.error is not None else None
            opinion = _Opinion.of(role, policy, step, read, reason)
            opinions.append(opinion)
            if opinion.judgement.counts:
                counting[role] = opinion.decision
            if role == "live" and opinion.cause is not None:
                other = opinion.cause
        return cls(step, policies.live, tuple(opinions), compose(counting.get("live"), counting.get("floor")))

    def verdict(self, tenant: str | None, ms: float) -> Verdict:
        live, decision = self.live, self.decision
        reads = [one.scores for one in self.opinions if one.scores is not None]
        main = reads[0] if reads else None
        messages = (
            {}
            if decision.message is None
            else decision.message.render(
                rule=decision.rule or "",
                stage=self.step.stage,
                tenant=tenant,
                policy=live.policy.name,
                version=live.policy.version,
            )
        )
        by_head = {head: own for one in reversed(reads) for head, own in one.by_head.items()}
        spans = {span: None for one in reads for span in one.spans if span.head in decision.heads}
        return Verdict(
            action=decision.action,
            rule=decision.rule,
            matched=decision.matched,
            rewrites=decision.rewrites,
            escalations=decision.escalations,
            cause=decision.cause,
            message=next(iter(messages.values()), None),
            messages=messages,
            judgements=tuple(one.judgement for one in self.opinions),
            # A detector may use any Mapping and NumPy's floats; a verdict must pickle and fit into JSON.
            scores={head: {label: float(score) for label, score in own.items()} for head, own in by_head.items()},
            spans=tuple(spans),
            windows=main.windows if main else 0,
            context_read=main.context_read if main else False,
            stage=self.step.stage,
            tenant=tenant,
            policy=live.policy.name,
            policy_version=live.policy.version,
            detector_id=main.detector_id if main else live.detector_id,
            backend=main.backend if main else "none",
            ms=ms,
        )

    def events(self, verdict: Verdict) -> Iterator[Event]:
        """What is to be told of the step."""
        yield VerdictEvent(verdict=verdict)
        failures = {one.cause: one.reason for one in self.opinions if one.judgement.role != "candidate"}
        for cause, reason in failures.items():
            if cause is not None:
                yield ErrorEvent(verdict=verdict, cause=cause, reason=reason)
        if not verdict.blocked:
            passed = [one.decision.cause for one in self.opinions if one.judgement.counts]
            for cause in dict.fromkeys(passed):
                if cause is not None:
                    yield BypassEvent(verdict=verdict, cause=cause)


def _act(verdicts: list[Verdict], steps: Sequence[Step]) -> list[Outcome]:
    return [act(verdict, step.text) for verdict, step in zip(verdicts, steps, strict=True)]


def _finish(flow: _Flow, answers: list[list[Answer]]) -> list[Verdict]:
    try:
        flow.send(answers)
    except StopIteration as done:
        return cast("list[Verdict]", done.value)
    raise AssertionError("the flow of a step asks once")
