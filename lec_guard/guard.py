"""Guard: steps -> scores -> decision -> effect. Knows no framework.

The flow of a step is written once, as a generator that yields what it asks detectors for and is sent their answers. The
sync and the async methods only differ in how they wait for those, so the two can't drift apart.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from weakref import WeakMethod, finalize

from lec_guard.act.effects import Effects
from lec_guard.acting import Acting, Fingerprint, Judge
from lec_guard.detect.asking import Answer, Asker
from lec_guard.detect.detector import Detector, Measured
from lec_guard.detect.layer import LayerDetector
from lec_guard.detect.pool import DetectorPool
from lec_guard.detect.remote import RemoteDetector
from lec_guard.detect.submitting import failed
from lec_guard.errors import LecGuardError, PolicyError, UnsupportedValueError
from lec_guard.flow import Asked, Flow, adrive, drive, together
from lec_guard.growing import GrowingStep, Progress
from lec_guard.joining import Joined
from lec_guard.judging import Judged, refs, wanted
from lec_guard.observe.events import ErrorEvent, Event, EventSink, PolicyReloaded, ReloadRefused, VerdictEvent
from lec_guard.observe.sinks import OnSinkError, Sinks
from lec_guard.policy.compile import Heads
from lec_guard.policy.guidance import GuidanceRule
from lec_guard.policy.resolve import DetectorRef, Policy
from lec_guard.policy.store import InForce, PolicyStore
from lec_guard.policy.watch import Watcher
from lec_guard.step import Action, Edit, Outcome, Step, Trust, Verdict

Tenants = str | Sequence[str | None] | None
"""One tenant for all steps, or one a step; None is no tenant."""

Tell = Callable[[int, Event], None]
"""Takes the events of a call's steps: the place of the step, and the event."""

PASSING: tuple[Action, ...] = ("allow", "flag")
"""Actions after which a text passes as it is."""

Fits = Callable[[int, Sequence[Edit]], None]
"""Refuses edits of a call's steps: the place of the step, and the edits."""

Begun = Mapping[int, GrowingStep]
"""Which of a call's steps were judged while they came: the place of the step, and what was begun."""


class Guard:
    """Judges steps by a tenant's policy. One object serves all threads and tenants.

    Args:
        path: Where the policies are; see `from_policies`.
        detector: What scores the steps.
        sinks: Where events go.
        watch: Whether policies are reloaded when their files change.
        own_detectors: Tenants' own detectors that are kept in memory; see `from_policies`.
        on_sink_error: What follows where a sink fails; see `from_policies`.
        effects: What rewriting and asking needs; see `from_policies`.

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
        effects: Effects | None = None,
    ) -> None:
        if watch and path is None:
            raise PolicyError("watch=True: the packaged policy does not change; give a folder of policies")
        self._detector = detector
        self._sinks = Sinks(sinks, on_sink_error)
        self._pool = DetectorPool(detector, most=own_detectors)
        self._asker = Asker()
        self._acting = Acting(effects or Effects())
        self._policies = PolicyStore(path, self._heads, fits=self._acting.fits)
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
        effects: Effects | None = None,
    ) -> Guard:
        """Make a guard from policy files and a detector.

        Args:
            path: A folder with `default.yaml` and perhaps `floor.yaml`, others that they extend, and `tenants/`; one
                policy file; or None for the packaged default policy.
            detector: A bundle's folder, a detector, the URL of a server's, or None for the embedded one.
            sinks: Where events go.
            watch: Whether policies are reloaded when their files change. What is wrong then leaves the version in
                force that was, and is told. Needs the extra `policies`.
            own_detectors: Tenants' own detectors that are kept in memory; of more, the one that was used longest ago is
                loaded again when it is needed. Heads beside the guard's own detector take kilobytes, whole bundles
                their weights.
            on_sink_error: `warn`: a sink that fails is told and changes nothing. `block`: no step passes that a sink
                was not told of; a `SinkError` is raised.
            effects: What rewriting and asking needs besides the policies: a key, chat models, the application's own
                rewriters and escalators. None for what needs nothing.

        Returns:
            A guard that is ready to judge.

        Raises:
            PolicyError: If a policy is wrong or reads what the detector does not give.
            BundleError: If the detector can't be loaded.
        """
        loaded = detector_of(detector)
        return cls(
            path,
            loaded,
            sinks=sinks,
            watch=watch,
            own_detectors=own_detectors,
            on_sink_error=on_sink_error,
            effects=effects,
        )

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

    def guidance(self, tenant: str | None, trust: Trust | None = None) -> GuidanceRule | None:
        """How far a local model's answer to a tenant is to be led away from its negative prompt.

        Args:
            tenant: The tenant; None for none.
            trust: Who wrote the least trusted text of the conversation, as `lec_guard.policy.guidance.least_trusted`
                finds it; None where that is not known: then the highest coefficient of each policy holds.

        Returns:
            The higher of what policy and floor say; None where neither says anything, or acts.

        Raises:
            PolicyError: If the tenant is unknown, or its policy is wrong.
        """
        return self._policies.get(tenant).guidance(trust)

    async def aguidance(self, tenant: str | None, trust: Trust | None = None) -> GuidanceRule | None:
        """`guidance`, without blocking the event loop while files are read."""
        found = self._policies.ready(tenant)
        return await asyncio.to_thread(self.guidance, tenant, trust) if found is None else found.guidance(trust)

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
        return drive(self._checking(steps, tenant), self._asker)

    def try_out(self, steps: Sequence[Step], policies: Sequence[InForce]) -> list[Verdict]:
        """Judge steps by policies that need not be in force, and tell no sink: for tests of policies, and to compare.

        Args:
            steps: The steps.
            policies: One a step, as `policies` gives them.

        Returns:
            One verdict a step, in order.
        """
        return drive(self._trying(steps, policies), self._asker)

    def apply(self, step: Step, tenant: str | None = None) -> Outcome:
        """Judge a step and act on the verdict: rewrite the text, ask whoever has to allow it, or hold it back.

        A text that was rewritten, or that somebody wrote, is judged once more before it passes.

        Args:
            step: The step.
            tenant: Whose policy applies; None for the default one.

        Returns:
            The verdict and the text that may pass. Where somebody has yet to decide there is no text but a ticket; the
            same step, applied again, passes or is blocked once they have.

        Raises:
            PolicyError: If the tenant is unknown, or its policy is wrong.
        """
        return self.apply_many([step], tenant)[0]

    def apply_many(
        self,
        steps: Sequence[Step],
        tenant: Tenants = None,
        *,
        tell: Tell | None = None,
        fits: Fits | None = None,
        begun: Begun | None = None,
    ) -> list[Outcome]:
        """Judge steps in one call of each detector and act on the verdicts; see `apply`.

        Args:
            steps: The steps.
            tenant: One tenant for all, or one a step.
            tell: Takes the events of these steps, besides the sinks, with the place of the step.
            fits: Raises an `UnsupportedValueError` where edits of the step at a place can't be made in what its text
                is from; then the policy's next action follows. None where the text is all there is.
            begun: Steps that were begun with `begin`, by their places: what was read of them is not read again.

        Returns:
            One outcome a step, in order.
        """
        return drive(self._applying(steps, tenant, tell, fits, begun or {}), self._asker)

    async def acheck(self, step: Step, tenant: str | None = None) -> Verdict:
        """`check`, without blocking the event loop."""
        return (await self.acheck_many([step], tenant))[0]

    async def acheck_many(self, steps: Sequence[Step], tenant: Tenants = None) -> list[Verdict]:
        """`check_many`, without blocking the event loop; a `Batcher` is waited for without a thread, too."""
        return await adrive(self._checking(steps, tenant), self._asker, ready=self._is_ready(tenant))

    async def aapply(self, step: Step, tenant: str | None = None) -> Outcome:
        """`apply`, without blocking the event loop."""
        return (await self.aapply_many([step], tenant))[0]

    async def aapply_many(
        self,
        steps: Sequence[Step],
        tenant: Tenants = None,
        *,
        tell: Tell | None = None,
        fits: Fits | None = None,
        begun: Begun | None = None,
    ) -> list[Outcome]:
        """`apply_many`, without blocking the event loop."""
        flow = self._applying(steps, tenant, tell, fits, begun or {})
        return await adrive(flow, self._asker, ready=self._is_ready(tenant))

    def begin(self, step: Step | Sequence[Step], tenant: str | None = None) -> GrowingStep:
        """Begin a step whose text comes bit by bit: `feed` takes the text, `finish` ends it.

        ```python
        answer = guard.begin(Step(stage="output", text=""))
        for piece in pieces:
            so_far = guard.feed(answer, piece)    # so_far.passed: characters that may go on; so_far.blocked: stop
        outcome = guard.finish(answer, text)[0]   # the verdict of the whole text
        ```

        Args:
            step: What is known of it but its text; or several steps that have the same text.
            tenant: Whose policy applies; None for the default one.

        Returns:
            The step, with nothing in it. Its text is held back whole unless the policy's `hold_back` is a number, all
            that can follow by the policy can be done to the end of a text, and the detectors can read a text while it
            comes (`lec_guard.detect.detector.Growing`).

        Raises:
            PolicyError: If the tenant is unknown, or its policy is wrong.
        """
        steps = [step] if isinstance(step, Step) else step
        return GrowingStep(steps, tenant, self._policies.get(tenant), self._found_or_none)

    async def abegin(self, step: Step | Sequence[Step], tenant: str | None = None) -> GrowingStep:
        """`begin`, without blocking the event loop."""
        if self._is_ready(tenant):
            return self.begin(step, tenant)
        return await asyncio.to_thread(self.begin, step, tenant)

    def feed(self, growing: GrowingStep, text: str, tell: Tell | None = None) -> Progress:
        """Judge what came of a text, where there is enough for that.

        Args:
            growing: What was begun.
            text: What follows.
            tell: Takes the events, besides the sinks, with the place of the step: where what came so far is a block,
                its verdict is the text's last.

        Returns:
            How much of it may go on, and whether it is to stop.
        """
        return drive(self._feeding(growing, tell), self._asker) if growing.take(text) else growing.progress

    async def afeed(self, growing: GrowingStep, text: str, tell: Tell | None = None) -> Progress:
        """`feed`, without blocking the event loop."""
        if not growing.take(text):
            return growing.progress
        return await adrive(self._feeding(growing, tell), self._asker, ready=True)

    def finish(self, growing: GrowingStep, text: str) -> list[Outcome]:
        """Judge a text that is over, and act on the verdict; see `apply`.

        Where edits would be in what went on already the policy's next action follows.

        Args:
            growing: What was begun.
            text: The whole text.

        Returns:
            One outcome for each step that was begun, in order.
        """
        return drive(self._finishing(growing, text), self._asker)

    async def afinish(self, growing: GrowingStep, text: str) -> list[Outcome]:
        """`finish`, without blocking the event loop."""
        return await adrive(self._finishing(growing, text), self._asker, ready=True)

    def apply_joined(
        self, joins: Sequence[Joined], tenant: Tenants = None, *, tell: Tell | None = None
    ) -> list[Outcome | None]:
        """Judge texts of one origin as one, after each of them has passed alone; see `lec_guard.joining.joined`.

        It counts only where each part passes alone, and is no quarantine: else whoever had to has dealt with that part.
        No edit can be made in what stands nowhere in one piece, so instead of a rewrite what its section has as `then`
        follows.

        Args:
            joins: The texts.
            tenant: Whose policy applies; one for all, or one for each.
            tell: Takes the events, with the place among `joins`.

        Returns:
            For each what came of acting on its verdict; None where nothing is to be done.
        """
        return drive(self._joining(joins, tenant, tell), self._asker)

    async def aapply_joined(
        self, joins: Sequence[Joined], tenant: Tenants = None, *, tell: Tell | None = None
    ) -> list[Outcome | None]:
        """`apply_joined`, without blocking the event loop."""
        return await adrive(self._joining(joins, tenant, tell), self._asker, ready=self._is_ready(tenant))

    def reruns(self, step: Step, tenant: str | None = None) -> str | None:
        """Whom a step may ask in a way that stops the run and begins it anew when the answer comes.

        Where nobody sees to it that nothing runs twice, such a policy can't be used.

        Args:
            step: The step.
            tenant: Whose policy applies; None for the default one.

        Returns:
            The section of `escalations`; None where there is none.
        """
        return self._acting.reruns(self._policies.get(tenant), step)

    def traces(self, tenant: str | None = None) -> bool:
        """Whether a policy asks where texts came from, so that steps have to have their `taint`.

        Args:
            tenant: Whose policy applies; None for the default one.

        Returns:
            Whether any rule of the policy, of its candidate or of the floor does; see `lec_guard.taint.trace`.

        Raises:
            PolicyError: If the tenant is unknown, or its policy is wrong.
        """
        found = self._policies.get(tenant)
        return any(one.traces for one in (found.live, found.floor, found.candidate) if one is not None)

    def may_stop(self, step: Step, tenant: str | None = None) -> bool:
        """Whether applying a step may end in a question that is answered later, by an interrupt or a ticket.

        Args:
            step: The step.
            tenant: Whose policy applies; None for the default one.

        Returns:
            Whether it may.
        """
        return self._acting.may_stop(self._policies.get(tenant), step)

    def fingerprints(self, tenant: str | None = None) -> Fingerprint:
        """What knows steps again that this guard, or one with its key, has judged as it would now.

        Another policy, another version of it, another detector or another key gives other hashes. Take it before the
        steps are judged: then a policy that changes meanwhile means that they are judged once more, never once too few.

        Args:
            tenant: Whose policy applies; None for the default one.

        Returns:
            A function of steps: a keyed hash over all that their verdicts follow from. Nobody without the key can make
            one, and it tells nothing of a text.

        Raises:
            PolicyError: If the tenant is unknown, or its policy is wrong.
        """
        return self._acting.fingerprints(tenant, self._policies.get(tenant))

    async def afingerprints(self, tenant: str | None = None) -> Fingerprint:
        """`fingerprints`, without blocking the event loop while files are read."""
        if self._policies.ready(tenant) is None:
            await asyncio.to_thread(self._policies.get, tenant)
        return self.fingerprints(tenant)

    def unread(
        self, step: Step, tenant: str | None = None, *, rule: str, blocks: bool = False, tell: Tell | None = None
    ) -> Verdict:
        """Tell that a part of what a step is from is of a kind that no detector reads.

        Args:
            step: The step; its text is not read.
            tenant: Whose policy applies; None for the default one.
            rule: What the verdict names as its rule, for example `unread:media`.
            blocks: Whether it may not pass for that; else it is flagged.
            tell: Takes the event, besides the sinks.

        Returns:
            The verdict; a block has the policy's message.

        Raises:
            PolicyError: If the tenant is unknown, or its policy is wrong.
        """
        live = self._policies.get(tenant).live
        policy = live.policy
        messages = (
            policy.message.render(
                rule=rule, stage=step.stage, tenant=tenant, policy=policy.name, version=policy.version
            )
            if blocks
            else {}
        )
        verdict = Verdict(
            action="block" if blocks else "flag",
            rule=rule,
            matched=(rule,),
            message=next(iter(messages.values()), None),
            messages=messages,
            scores={},
            windows=0,
            context_read=False,
            stage=step.stage,
            tenant=tenant,
            policy=policy.name,
            policy_version=policy.version,
            detector_id=live.detector_id,
            backend="none",
            ms=0.0,
        )
        self._tell(tell, 0, VerdictEvent(verdict=verdict))
        return verdict

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
        for part in (self._acting, self._pool, self._detector, self._sinks):
            close = getattr(part, "close", None)
            if close is not None:
                close()

    async def aclose(self) -> None:
        """`close`, without blocking the event loop."""
        await asyncio.to_thread(self.close)

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
            if own is None or not all(map(self._holds, refs(own))):
                return False
        return True

    def _holds(self, ref: DetectorRef | None) -> bool:
        return ref is None or self._pool.holds(ref.folder, ref.id, beside=ref.beside)

    def _heads(self, ref: DetectorRef | None) -> Heads:
        return heads_of(self._own(ref))

    def _found(self, ref: DetectorRef | None) -> Asked | Answer:
        try:
            return Asked(self._own(ref), [], [], [], 0.0)
        except Exception as error:  # noqa: BLE001 - whatever keeps a tenant's detector away, its `fail` decides
            return Answer(scores=None, error=failed(error), ms=0.0)

    def _found_or_none(self, ref: DetectorRef | None) -> Detector | None:
        try:
            return self._own(ref)
        except LecGuardError:  # Who asks it in the end is told.
            return None

    def _own(self, ref: DetectorRef | None) -> Detector:
        return self._detector if ref is None else self._pool.get(ref.folder, ref.id, beside=ref.beside)

    def _not_watched(self, reason: str) -> None:
        self._sinks.emit(ReloadRefused(policy=str(self._policies.path), reason=reason, version=None))

    def _tenants(self, steps: Sequence[Step], tenant: Tenants) -> list[str | None]:
        tenants = [tenant] * len(steps) if tenant is None or isinstance(tenant, str) else list(tenant)
        if len(tenants) != len(steps):
            raise ValueError(f"{len(tenants)} tenants for {len(steps)} steps")
        return tenants

    def _checking(self, steps: Sequence[Step], tenant: Tenants) -> Flow[list[Verdict]]:
        tenants = self._tenants(steps, tenant)
        # Before a detector runs: an unknown tenant costs nothing. What is in force now is what counts until the end.
        policies = [self._policies.get(name) for name in tenants]
        judged = yield from self._judging(steps, tenants, policies)
        for one in judged:
            for event in one.events:
                self._sinks.emit(event)
        return [one.verdict for one in judged]

    def _trying(self, steps: Sequence[Step], policies: Sequence[InForce]) -> Flow[list[Verdict]]:
        judged = yield from self._judging(steps, [None] * len(steps), policies)
        return [one.verdict for one in judged]

    def _finishing(self, growing: GrowingStep, text: str) -> Flow[list[Outcome]]:
        steps = [replace(step, text=text) for step in growing.steps]

        def fits(_: int, edits: Sequence[Edit]) -> None:
            if any(edit.start < growing.progress.passed for edit in edits):
                raise UnsupportedValueError("an edit is in a part of the text that went on already")

        return (yield from self._applying(steps, growing.tenant, None, fits, dict.fromkeys(range(len(steps)), growing)))

    def _feeding(self, growing: GrowingStep, tell: Tell | None) -> Flow[Progress]:
        began = time.perf_counter()
        steps, count = growing.partial(), len(growing.steps)
        begun = dict.fromkeys(range(count), growing)
        judged = yield from self._judging(
            steps, [growing.tenant] * count, [growing.ruling] * count, sealed=False, begun=begun, looking=True
        )
        failed = any(isinstance(event, ErrorEvent) for one in judged for event in one.events)
        ms = (time.perf_counter() - began) * 1000
        progress = growing.note([one.verdict for one in judged], failed=failed, ms=ms)
        if progress.blocked:
            for place, one in enumerate(judged):
                for event in one.events:
                    self._tell(tell, place, event)
        return progress

    def _applying(
        self, steps: Sequence[Step], tenant: Tenants, tell: Tell | None, fits: Fits | None, begun: Begun
    ) -> Flow[list[Outcome]]:
        tenants = self._tenants(steps, tenant)
        policies = [
            begun[place].policies if place in begun else self._policies.get(name) for place, name in enumerate(tenants)
        ]
        tells = [partial(self._tell, tell, place) for place in range(len(steps))]
        judged = yield from self._judging(steps, tenants, policies, begun=begun)
        for one, own in zip(judged, tells, strict=True):
            for event in one.events:
                own(event)
        acting = []
        for place, (step, name, ruling, its) in enumerate(zip(steps, tenants, policies, tells, strict=True)):
            placed = None if fits is None else partial(fits, place)
            judge, one = self._judge_again(name, ruling, its), judged[place]
            acting.append(
                self._acting.act(step, name, ruling, one.verdict, inner=one.inner, judge=judge, tell=its, fits=placed)
            )
        return (yield from together(acting))

    def _joining(self, joins: Sequence[Joined], tenant: Tenants, tell: Tell | None) -> Flow[list[Outcome | None]]:
        tenants = self._tenants([one.step for one in joins], tenant)
        policies = [self._policies.get(name) for name in tenants]
        judged = yield from self._judging([one.step for one in joins], tenants, policies, sealed=False)
        found = [at for at, one in enumerate(judged) if one.verdict.action not in PASSING]
        parts = [(at, part) for at in found for part in joins[at].parts]
        alone = yield from self._judging(
            [part for _, part in parts], [tenants[at] for at, _ in parts], [policies[at] for at, _ in parts]
        )
        excused = {
            at
            for (at, _), one in zip(parts, alone, strict=True)
            if one.verdict.action not in PASSING or one.inner is not None
        }
        acting: dict[int, Flow[Outcome]] = {}
        for at, one in enumerate(judged):
            if at in excused:
                continue
            its = partial(self._tell, tell, at)
            for event in one.events:
                its(event)
            if at in found:
                judge = self._judge_again(tenants[at], policies[at], its)
                step, ruling = joins[at].step, policies[at]
                acting[at] = self._acting.act(
                    step, tenants[at], ruling, one.verdict, inner=one.inner, judge=judge, tell=its, fits=_nowhere
                )
        outcomes = dict(zip(acting, (yield from together(list(acting.values()))), strict=True))
        return [outcomes.get(at) for at in range(len(joins))]

    def _tell(self, tell: Tell | None, place: int, event: Event) -> None:
        if tell is not None:
            tell(place, event)
        self._sinks.emit(event)

    def _judge_again(self, tenant: str | None, policies: InForce, tell: Callable[[Event], None]) -> Judge:
        """How a text is judged once more: what failed then is told, and no second verdict."""

        def judge(step: Step, sealed: bool) -> Flow[Verdict]:
            [judged] = yield from self._judging([step], [tenant], [policies], sealed=sealed)
            for event in judged.events:
                if not isinstance(event, VerdictEvent):
                    tell(event)
            return judged.verdict

        return judge

    def _judging(
        self,
        steps: Sequence[Step],
        tenants: Sequence[str | None],
        policies: Sequence[InForce],
        *,
        sealed: bool | None = None,
        begun: Begun | None = None,
        looking: bool = False,
    ) -> Flow[list[_Judgement]]:
        """Everything between steps and their verdicts, apart from how the answers are got.

        `sealed` says whether the texts will pass quarantined; None where texts may be whole quarantines. `looking` says
        whether steps that were begun are judged by what is known of them so far.
        """
        began = time.perf_counter()
        inner: list[str | None] = [None] * len(steps)
        seals = [bool(sealed)] * len(steps)
        if sealed is None:
            inner = [self._acting.opened(*one) for one in zip(steps, tenants, policies, strict=True)]
            seals = [text is not None for text in inner]
            steps = [
                step if text is None else replace(step, text=text) for step, text in zip(steps, inner, strict=True)
            ]
        asked: dict[_Place, Asked | Answer] = {}
        places: dict[tuple[int, DetectorRef | None], _Place] = {}
        reading = [wanted(own, step) for step, own in zip(steps, policies, strict=True)]
        for place, (step, name) in enumerate(zip(steps, tenants, strict=True)):
            growing = (begun or {}).get(place)
            for ref, limit_s in reading[place].items():
                text = None
                if growing is not None:
                    text = growing.looking(ref, step) if looking else growing.finishing(ref, step)
                at = places[place, ref] = (ref, None if text is None else id(text))
                if at not in asked:
                    asked[at] = self._found(ref) if text is None else Asked(text, [], [], [], 0.0)
                if isinstance(one := asked[at], Asked):
                    one.add(place, step, name, limit_s)
        given = iter((yield [one for one in asked.values() if isinstance(one, Asked)]))
        found = {
            at: dict(zip(one.places, next(given), strict=True)) if isinstance(one, Asked) else one
            for at, one in asked.items()
        }
        answers: dict[tuple[int, DetectorRef | None], Answer] = {}
        for (place, ref), at in places.items():
            its = found[at]
            answers[place, ref] = its[place] if isinstance(its, dict) else its
        judged = [
            Judged.of(step, own, {ref: answers.get((place, ref)) for ref in refs(own)}, sealed=seals[place])
            for place, (step, own) in enumerate(zip(steps, policies, strict=True))
        ]
        ms = (time.perf_counter() - began) * 1000 / max(len(steps), 1)
        spent = {} if looking else {place: growing.spent_ms for place, growing in (begun or {}).items()}
        verdicts = [
            one.verdict(name, ms + spent.get(place, 0.0))
            for place, (one, name) in enumerate(zip(judged, tenants, strict=True))
        ]
        return [
            _Judgement(verdict, list(one.events(verdict)), text)
            for one, verdict, text in zip(judged, verdicts, inner, strict=True)
        ]


def _nowhere(edits: Sequence[Edit]) -> None:  # noqa: ARG001 - whatever they are
    raise UnsupportedValueError("a text that was joined of several stands nowhere in one piece")


_Place = tuple[DetectorRef | None, int | None]
"""Whom a step's scores come from: a detector, or one of the texts that it reads while they come."""


@dataclass(frozen=True, slots=True)
class _Judgement:
    """A verdict, what is to be told of it, and the text inside, where what was judged is a quarantine."""

    verdict: Verdict
    events: list[Event]
    inner: str | None


def detector_of(named: Detector | str | Path | None) -> Detector:
    """The detector that somebody means.

    Args:
        named: A detector; a bundle's folder; the URL of a server, whose key is in the environment's
            `LEC_GUARD_API_KEY`; or None for the embedded one.

    Returns:
        The detector.

    Raises:
        BundleError: If a bundle can't be loaded.
        DetectorError: If a server can't be reached, or refuses.
    """
    if isinstance(named, str) and named.startswith(("http://", "https://")):
        return RemoteDetector.load(named)
    return LayerDetector.load(named) if named is None or isinstance(named, str | Path) else named


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
