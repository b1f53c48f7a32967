"""What the policies make of a step, of what detectors said of it. Nothing here asks or waits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lec_guard.detect.asking import Answer
from lec_guard.errors import OverloadError, PolicyError
from lec_guard.observe.events import BypassEvent, ErrorEvent, Event, VerdictEvent
from lec_guard.policy.compile import Compiled
from lec_guard.policy.decide import Decision, compose, decide
from lec_guard.policy.resolve import DetectorRef
from lec_guard.policy.store import InForce
from lec_guard.policy.tainted import TAINT
from lec_guard.policy.tainted import scores as tainted
from lec_guard.policy.tainted import spans as tainted_spans
from lec_guard.step import Cause, Judgement, Role, Scores, Step, Verdict


def refs(policies: InForce) -> list[DetectorRef | None]:
    """The detectors whose scores count for a step; a candidate reads those of the live policy.

    Args:
        policies: The policies that the step is judged by.

    Returns:
        The detectors, each once; None is the guard's own.
    """
    acting = (policies.live, policies.floor)
    return list(dict.fromkeys(one.policy.detector for one in acting if one is not None))


def wanted(policies: InForce, step: Step) -> Mapping[DetectorRef | None, float | None]:
    """The detectors that have to read a step, and for how long each may be waited for.

    Args:
        policies: The policies that it is judged by.
        step: The step.

    Returns:
        Detector -> seconds, None for no limit. One that is not there need not read it.
    """
    found: dict[DetectorRef | None, float | None] = {}
    for policy in (policies.live, policies.floor):
        if policy is None or _too_long(policy, step):
            continue
        timeout_ms, ref = policy.fail[step.stage].timeout_ms, policy.policy.detector
        if timeout_ms is None:
            found[ref] = None
        elif timeout_ms > 0:
            before = found.get(ref, 0.0)
            found[ref] = None if before is None else max(before, timeout_ms / 1000)
    return found


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
    kind: str | None

    @classmethod
    def of(
        cls, role: Role, policy: Compiled, step: Step, sealed: bool, read: Scores | Cause, error: Exception | None
    ) -> _Opinion:
        try:
            decision = decide(policy, step, read, sealed=sealed)
        except PolicyError as missing:  # The detector has not scored what it said it would.
            read, error = "error", missing
            decision = decide(policy, step, read, sealed=sealed)
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
        reason = None if error is None else str(error)
        kind = None if error is None else type(error.__cause__ or error).__name__
        return cls(judgement, decision, scores, cause, scores.unread if scores is not None else reason, kind)


@dataclass(frozen=True, slots=True)
class Judged:
    """A step with what each policy says of it, and what they say together.

    Attributes:
        step: The step.
        sealed: Whether the text passes quarantined, so that rules that ask for that have what they want.
        live: The tenant's policy, or the default one.
        opinions: What each policy says that was read.
        decision: What those that count decide together.
    """

    step: Step
    sealed: bool
    live: Compiled
    opinions: tuple[_Opinion, ...]
    decision: Decision

    @classmethod
    def of(
        cls, step: Step, policies: InForce, answers: Mapping[DetectorRef | None, Answer | None], *, sealed: bool = False
    ) -> Judged:
        """Let policies decide.

        Args:
            step: The step.
            policies: The policies.
            answers: What came of asking each detector; None for one that was not asked.
            sealed: Whether the text passes quarantined.

        Returns:
            The judged step.
        """
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
            error = answer.error if is_said and answer is not None else None
            opinion = _Opinion.of(role, policy, step, sealed, read, error)
            opinions.append(opinion)
            if opinion.judgement.counts:
                counting[role] = opinion.decision
            if role == "live" and opinion.cause is not None:
                other = opinion.cause
        return cls(step, sealed, policies.live, tuple(opinions), compose(counting.get("live"), counting.get("floor")))

    def verdict(self, tenant: str | None, ms: float) -> Verdict:
        """The judgement as others see it.

        Args:
            tenant: Whose policy was applied; None for the default one.
            ms: The step's share of its call's time, in milliseconds.

        Returns:
            The verdict.
        """
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
        found = [span for one in reads for span in one.spans]
        if self.step.taint is not None:
            by_head[TAINT] = tainted(self.step)
            found += tainted_spans(self.step)
        spans = {span: None for span in found if span.head in decision.heads}
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
            # Of a quarantined text the inner one was read, and what is found there stands elsewhere in the whole.
            spans=() if self.sealed else tuple(spans),
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
        """What is to be told of the step.

        Args:
            verdict: Its verdict.

        Yields:
            The verdict, and what went wrong.
        """
        yield VerdictEvent(verdict=verdict)
        failures = {one.cause: one for one in self.opinions if one.judgement.role != "candidate"}
        for cause, failure in failures.items():
            if cause is not None:
                yield ErrorEvent(verdict=verdict, cause=cause, reason=failure.reason, kind=failure.kind)
        if not verdict.blocked:
            passed = [one.decision.cause for one in self.opinions if one.judgement.counts]
            for cause in dict.fromkeys(passed):
                if cause is not None:
                    yield BypassEvent(verdict=verdict, cause=cause)
