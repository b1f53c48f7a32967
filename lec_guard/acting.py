"""Verdict -> outcome: rewrites, the second judgement, and whoever is asked.

What a policy's sections say becomes rewriters and escalators here; what those do is their own (`lec_guard.act`).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeVar, assert_never

from lec_guard.act.base import Case, Escalator, Reply, Rewriter, Rewriting, Subject
from lec_guard.act.edits import apply_edits, compose_edits, edits_between, merge_edits
from lec_guard.act.effects import KEY_VARIABLE, Effects
from lec_guard.errors import EscalationPending, LecGuardError, PolicyError, UnsupportedValueError
from lec_guard.flow import Doing, Done, Flow
from lec_guard.observe.events import EffectEvent, EscalationResolved, Event, Resolution, Result
from lec_guard.policy.compile import Compiled
from lec_guard.policy.decide import FLOOR_PREFIX
from lec_guard.policy.guidance import GuidanceRule, raised
from lec_guard.policy.messages import Messages, in_order
from lec_guard.policy.resolve import Policy
from lec_guard.policy.schema import (
    DropSpans,
    Escalation,
    Interrupt,
    Quarantine,
    Queue,
    RedactPii,
    Regenerate,
    RegisteredEscalation,
    RegisteredRewrite,
    Replace,
    Rewrite,
    SecondOpinion,
    Webhook,
    nearest,
)
from lec_guard.policy.store import InForce
from lec_guard.step import Edit, Outcome, Span, Step, Verdict
from lec_guard.taint import retraced

if TYPE_CHECKING:
    from lec_guard.act.queue import ReviewQueue

T = TypeVar("T")

Method = Literal["delimit", "datamark", "encode"]
"""A way to quarantine a text."""

KEPT = 256
"""Rewriters and escalators that are kept ready: connections, and what a circuit breaker knows, are theirs."""

Judge = Callable[[Step, bool], Flow[Verdict]]
"""Judges a text once more: the step, and whether it will pass quarantined."""

Tell = Callable[[Event], None]
"""Takes an event."""

Fingerprint = Callable[[Sequence[Step]], str]
"""Makes of steps a keyed hash (32 hexadecimal digits) by which they are known again."""

Fits = Callable[[Sequence[Edit]], None]
"""Raises an `UnsupportedValueError` where edits of a step's text can't be made in the value that the text is of."""


class Acting:
    """Acts on verdicts. Safe to share between threads, and keeps nothing of a step.

    Args:
        effects: What the operator gave.
    """

    def __init__(self, effects: Effects) -> None:
        self._effects = effects
        self._key = effects.key or secrets.token_bytes(32)
        self._lock = threading.Lock()
        # Under that lock.
        self._rewriters: OrderedDict[object, Rewriter] = OrderedDict()
        self._escalators: OrderedDict[object, Escalator] = OrderedDict()
        self._queues: dict[str, ReviewQueue] = {}

    def fits(self, policy: Policy) -> None:
        """Refuse a policy that asks for what the application has not.

        Args:
            policy: The policy.

        Raises:
            PolicyError: If it does; each mistake is told.
        """
        ask = self._effects.ask
        used = {one.rewrite for rule in policy.rules for one in rule.variants()}
        asked = {one.escalation for rule in policy.rules for one in rule.variants()}
        asked |= {policy.rewrite[name].escalation for name in used if name is not None}
        mistakes: list[str] = []

        def made(key: str, names: Iterable[str | None], make: Callable[[Policy, str], object]) -> None:
            for name in sorted(name for name in names if name is not None):
                try:
                    make(policy, name)
                except LecGuardError as error:
                    mistakes.append(f"{policy.where(f'{key}.{name}')}: {error}")

        outside = (Regenerate, RegisteredRewrite)
        inside = [name for name in used if name and (ask or not isinstance(policy.rewrite[name], outside))]
        made("rewrite", inside, self._rewriter)
        if ask:
            made("escalations", asked, self._escalator)
        if mistakes:
            raise PolicyError("\n".join(mistakes))

    def reruns(self, policies: InForce, step: Step) -> str | None:
        """The section that a step may ask, for which what ran before would run again.

        Args:
            policies: The policies that the step is judged by.
            step: The step.

        Returns:
            The section's name; None where there is none.
        """
        given = [*self._effects.escalators.values(), self._effects.interrupt]
        if not self._effects.ask or not any(one.reruns for one in given if one is not None):
            return None
        for prefix, policy in (("", policies.live), (FLOOR_PREFIX, policies.floor)):
            if policy is None or policy.policy.mode == "shadow":
                continue
            for name in _askable(policy, step):
                if self._escalator(policy.policy, name).reruns:
                    return prefix + name
        return None

    def may_stop(self, policies: InForce, step: Step) -> bool:
        """Whether acting on a step may end in a question that is answered later, by an interrupt or a ticket.

        Args:
            policies: The policies that the step is judged by.
            step: The step.

        Returns:
            Whether it may. What an application registered may raise `EscalationPending`, and counts.
        """
        if not self._effects.ask:
            return False
        later = (Interrupt, Queue, RegisteredEscalation)
        return any(
            isinstance(policy.policy.escalations[name], later)
            for policy in (policies.live, policies.floor)
            if policy is not None and policy.policy.mode != "shadow"
            for name in _askable(policy, step)
        )

    def fingerprints(self, tenant: str | None, policies: InForce) -> Fingerprint:
        """What knows steps again that were judged.

        Args:
            tenant: Whose steps they are.
            policies: The policies that they are judged by.

        Returns:
            A keyed hash over tenant, policies, detectors, and stage, tool, context and text of each step.
        """
        ruled = [one for one in (policies.live, policies.floor) if one is not None]
        whose = [tenant, *([one.policy.name, one.policy.version, one.detector_id] for one in ruled)]
        keyed = hmac.new(self._key, b"judged:" + json.dumps(whose).encode(), hashlib.sha256)

        def of(steps: Sequence[Step]) -> str:
            said = [
                [step.stage, step.context, step.text, step.tool and [step.tool.name, step.tool.description]]
                for step in steps
            ]
            hashed = keyed.copy()
            hashed.update(json.dumps(said).encode())
            return hashed.hexdigest()[:32]

        return of

    def opened(self, step: Step, tenant: str | None, policies: InForce) -> str | None:
        """The text inside a quarantine that this guard, or one with its key, put around it.

        Args:
            step: The step.
            tenant: Whose it is.
            policies: The policies that it is judged by.

        Returns:
            The text; None where the step is not quarantined, or nothing asks for that.
        """
        if not any(_quarantines(policy) for policy in (policies.live, policies.floor)):
            return None
        from lec_guard.act.quarantine import opened

        return opened(step.text, stage=step.stage, tenant=tenant, key=self._key)

    def act(
        self,
        step: Step,
        tenant: str | None,
        policies: InForce,
        verdict: Verdict,
        *,
        inner: str | None,
        judge: Judge,
        tell: Tell,
        fits: Fits | None = None,
    ) -> Flow[Outcome]:
        """Act on a verdict.

        Args:
            step: The step that was judged.
            tenant: Whose policy was applied.
            policies: The policies that it was judged by.
            verdict: The judgement.
            inner: The text inside, where the step is a quarantine; see `opened`.
            judge: Judges what is to pass instead.
            tell: Takes events.
            fits: Refuses edits that can't be made in the value that the text is of; None where the text is the value.

        Returns:
            A flow that gives the outcome.
        """
        match verdict.action:
            case "allow" | "flag":
                # A quarantine that is handed on, as in a history that a caller keeps, has to be explained too.
                return Outcome(verdict=verdict, text=step.text, notes=_notes(inner))
            case "block":
                return Outcome(verdict=verdict, text=None)
            case "rewrite" | "escalate":
                pass
            case _:
                assert_never(verdict.action)
        began = time.perf_counter()
        course = _Course(
            step=step,
            tenant=tenant,
            policies=policies,
            verdict=verdict,
            tell=tell,
            fits=fits,
            was_sealed=inner is not None,
        )
        course.first = course.text = step.text if inner is None else inner
        outcome = yield from self._run(course, judge)
        result: Result = "pending" if outcome.ticket else "blocked" if outcome.text is None else "passed"
        tell(
            EffectEvent(
                verdict=verdict,
                result="rewritten" if result == "passed" and outcome.edits else result,
                rewrites=tuple(course.applied),
                again=course.again,
                failed=tuple(course.failed),
                ms=(time.perf_counter() - began) * 1000,
            )
        )
        return outcome

    def close(self) -> None:
        """Close what has connections."""
        with self._lock:
            made, queues = list(self._escalators.values()), list(self._queues.values())
            self._escalators.clear()
            self._queues.clear()
        for one in made:
            one.close()
        for queue in queues:
            queue.close()

    # --- the flow of one step

    def _run(self, course: _Course, judge: Judge) -> Flow[Outcome]:
        verdict = course.verdict
        then = yield from self._rewrite(course)
        if course.edits and "block" not in then:
            again = yield from judge(retraced(course.step, course.text), course.is_sealed)
            course.again = again
            if again.action == "block":
                return course.blocked(again)
            if again.action == "rewrite" or again.rewrites:
                then += [_next(course.policies, name) for name in again.rewrites]
            course.asking += [name for name in again.escalations if name not in course.asking]
        if "block" in then:
            return course.blocked(verdict)
        course.asking += [name for name in then if name not in course.asking]
        if course.asking and not self._effects.ask:
            return Outcome(verdict=replace(verdict, action="escalate"), text=None)
        for name in course.asking:
            stopped = yield from self._ask(course, name, judge)
            if stopped is not None:
                return stopped
        return self._released(course)

    def _rewrite(self, course: _Course) -> Flow[list[str]]:
        """Apply all rewrites but quarantines; returns what follows for those that could not be."""
        ways = [(name, _rewrite_of(course.policies, name)) for name in course.verdict.rewrites]
        course.sealing = [way for _, way in ways if isinstance(way, Quarantine)]
        whole = [one for one in ways if isinstance(one[1], Replace | Regenerate)]
        parts = [one for one in ways if not isinstance(one[1], Replace | Regenerate | Quarantine)]
        # What changes parts of the text does so at once, for spans are places in it; what writes it anew comes after.
        then: list[str] = []
        for group in [parts, *([one] for one in whole)]:
            if not group:
                continue
            doings = [self._rewriting(course, name) for name, _ in group]
            done: list[Done] = yield list(doings)
            edits: list[Edit] = []
            for (name, _), one in zip(group, done, strict=True):
                failure = _unusable(one, course)
                if failure is not None:
                    course.failed.append(f"{name}: {failure}")
                    then.append(_next(course.policies, name))
                    continue
                rewriting: Rewriting = one.result
                edits += rewriting.edits
                course.applied.append(name)
                course.tokens |= rewriting.tokens
                course.notes += [rewriting.note] if rewriting.note and rewriting.note not in course.notes else []
            course.change(merge_edits(edits))
        return then

    def _rewriting(self, course: _Course, name: str) -> Doing:
        policy, own = _policy_of(course.policies, name)
        spans = () if course.edits or course.was_sealed else _spans(policy, own, course.verdict, course.step)
        subject = Subject(step=replace(course.step, text=course.text), spans=spans, tenant=course.tenant)
        origin = course.step.origin
        least = course.policies.least_guidance(None if origin is None else origin.trust)

        def run() -> Rewriting:
            return self._rewriter(policy.policy, own, course.verdict, least).rewrite(subject)

        async def arun() -> Rewriting:
            return await self._rewriter(policy.policy, own, course.verdict, least).arewrite(subject)

        return Doing(run=run, arun=arun)

    def _ask(self, course: _Course, name: str, judge: Judge) -> Flow[Outcome | None]:
        """Ask somebody; returns an outcome where that is the end of it."""
        policy, own = _policy_of(course.policies, name)
        section, escalator = policy.policy.escalations[own], self._escalator(policy.policy, own)
        case = Case(
            key=self._case_key(course, name, policy.policy),
            step=replace(course.step, text=course.text),
            verdict=course.verdict,
            section=name,
        )
        done: Done
        [done] = yield [
            Doing(
                run=partial(escalator.ask, case),
                arun=partial(escalator.aask, case),
                passes=escalator.passes,
                alone=escalator.reruns,
            )
        ]
        if isinstance(done.error, EscalationPending):
            return Outcome(verdict=replace(course.verdict, action="escalate"), text=None, ticket=done.error.ticket)
        resolved = _resolved(done, section)
        reply = resolved.reply
        if resolved.failure is not None:
            course.failed.append(f"{name}: {resolved.failure}")
        course.tell(
            EscalationResolved(
                verdict=course.verdict,
                section=name,
                key=case.key,
                resolution=resolved.resolution,
                follows=reply.answer,
                by=reply.by,
                failure=resolved.failure,
                ms=done.ms,
            )
        )
        if reply.answer == "block":
            return course.blocked(course.verdict)
        if reply.text is not None and reply.text != course.text:
            # What somebody wrote is judged like what anybody writes; only what needs no further act may pass.
            edits = edits_between(course.text, reply.text)
            if (misfit := course.misfit(edits)) is not None:
                course.failed.append(f"{name}: {misfit}")
                return course.blocked(course.verdict)
            course.change(edits)
            again = yield from judge(retraced(course.step, course.text), course.is_sealed)
            course.again = again
            if again.action not in ("allow", "flag"):
                return course.blocked(again)
        return None

    def _released(self, course: _Course) -> Outcome:
        """The text that may pass, quarantined where that is wanted."""
        if course.was_sealed and not course.edits:
            return Outcome(verdict=course.verdict, text=course.step.text, notes=_notes(course.text))
        edits, text, notes = course.edits, course.text, list(course.notes)
        if course.is_sealed:
            methods: list[Method] = [way.method for way in course.sealing] or ["datamark"]
            method = max(methods, key=_METHODS.index)
            rewriter = self._quarantine(method)
            rewriting = rewriter.rewrite(Subject(step=replace(course.step, text=text), spans=(), tenant=course.tenant))
            edits = compose_edits(course.first, edits, rewriting.edits)
            text = apply_edits(text, rewriting.edits)
            notes += [rewriting.note] if rewriting.note else []
            course.applied += [name for name in course.verdict.rewrites if name not in course.applied]
        if course.was_sealed:
            edits = edits_between(course.step.text, text)
        try:
            course.place(edits)
        except UnsupportedValueError as error:
            course.failed.append(f"quarantine: {type(error).__name__}")
            return course.blocked(course.verdict)
        return Outcome(
            verdict=course.verdict,
            text=text,
            edits=edits,
            notes=tuple(notes),
            tokens={token: value for token, value in course.tokens.items() if token in text},
        )

    def _case_key(self, course: _Course, section: str, policy: Policy) -> str:
        step, verdict = course.step, course.verdict
        tool = None if step.tool is None else [step.tool.name, step.tool.description]
        bound = [course.tenant, step.stage, tool, step.context, course.text, section]
        bound += [verdict.policy, verdict.policy_version, policy.name, policy.version, verdict.detector_id]
        said = json.dumps(bound).encode()
        return hmac.new(self._key, b"case:" + said, hashlib.sha256).hexdigest()[:32]

    # --- what the sections of a policy stand for

    def _rewriter(
        self, policy: Policy, name: str, verdict: Verdict | None = None, least: GuidanceRule | None = None
    ) -> Rewriter:
        """What a section of `rewrite` stands for; `least` is the guidance below which no section gets."""
        way = policy.rewrite[name]
        if isinstance(way, Regenerate) and way.guidance is not None:
            way = way.model_copy(update={"guidance": raised(way.guidance, least)})
        if isinstance(way, Replace):
            from lec_guard.act.replace import Replace as Replacing

            return Replacing("" if verdict is None else _words(policy, name, way, verdict))
        if isinstance(way, RegisteredRewrite):
            return _registered(self._effects.rewriters, way.name, "rewriters")
        return self._ready(self._rewriters, way, partial(self._make_rewriter, way))

    def _make_rewriter(self, way: RedactPii | DropSpans | Quarantine | Regenerate) -> Rewriter:
        # Imported where they are needed: most guards rewrite nothing, and start without Presidio.
        match way:
            case RedactPii():
                from lec_guard.act.redact import RedactPii as Redacting

                return Redacting(entities=way.entities, operator=way.operator, key=self._key)
            case DropSpans():
                from lec_guard.act.drop import DropSpans as Dropping

                return Dropping(mark=way.mark)
            case Quarantine():
                return self._quarantine(way.method)
            case Regenerate():
                from lec_guard.act.model import guided
                from lec_guard.act.regenerate import Regenerate as Regenerating

                model = _registered(self._effects.models, way.model, "models")
                if way.guidance is not None:
                    model = guided(model, way.guidance.coefficient, way.guidance.space)
                return Regenerating(
                    model=model, instruction=way.instruction, timeout_s=way.timeout_ms / 1000, key=self._key
                )

    def _quarantine(self, method: Method) -> Rewriter:
        from lec_guard.act.quarantine import Quarantine as Quarantining

        return Quarantining(method=method, key=self._key)

    def _escalator(self, policy: Policy, name: str) -> Escalator:
        whom = policy.escalations[name]
        if isinstance(whom, RegisteredEscalation):
            return _registered(self._effects.escalators, whom.name, "escalators")
        if isinstance(whom, Interrupt):
            if self._effects.interrupt is None:
                raise PolicyError(
                    "kind: interrupt stops a LangGraph graph: give the guard "
                    "effects=Effects(interrupt=lec_guard_integrations.langgraph.InterruptEscalator()) and let the "
                    "agent's middleware check"
                )
            return self._effects.interrupt
        return self._ready(self._escalators, whom, partial(self._make_escalator, whom))

    def _make_escalator(self, whom: Webhook | SecondOpinion | Queue) -> Escalator:
        match whom:
            case Webhook():
                from lec_guard.act.webhook import Webhook as Hook

                secret = os.environ.get(whom.secret, "")
                if not secret:
                    raise PolicyError(f"the environment has no variable {whom.secret} with the key that signs requests")
                try:
                    return Hook(url=whom.url, secret=secret.encode(), timeout_s=whom.timeout_ms / 1000)
                except UnsupportedValueError as error:
                    raise PolicyError(f"{error} (its secret is in the variable {whom.secret})") from None
            case SecondOpinion():
                from lec_guard.act.opinion import SecondOpinion as Opinion

                model = _registered(self._effects.models, whom.model, "models")
                return Opinion(model=model, question=whom.question, timeout_s=whom.timeout_ms / 1000)
            case Queue():
                from lec_guard.act.queue import QueueEscalator

                if self._effects.key is None:
                    raise PolicyError(
                        "a review queue needs a key that outlives this process, or no decision would be found again: "
                        f"set {KEY_VARIABLE}, or give the guard effects=Effects(key=...)"
                    )
                return QueueEscalator(
                    queue=self._queue(whom.url), wait_s=whom.wait_ms / 1000, expires_s=float(whom.expires_s)
                )

    def _queue(self, url: str | None) -> ReviewQueue:
        """The queue of a database, one for all policies that use it."""
        from lec_guard.act.queue import ReviewQueue, default_url

        where = url or self._effects.queue or default_url()
        with self._lock:
            if where not in self._queues:
                self._queues[where] = ReviewQueue(where)
            return self._queues[where]

    def _ready(self, made: OrderedDict[object, T], section: object, make: Callable[[], T]) -> T:
        """What was made of a section before; sections that say the same are one."""
        with self._lock:
            if section in made:
                made.move_to_end(section)
                return made[section]
        fresh = make()
        with self._lock:
            kept = made.setdefault(section, fresh)
            # One that is evicted may be in use: its connections end when nobody holds it any more.
            while len(made) > KEPT:
                made.popitem(last=False)
        return kept


_METHODS: tuple[Method, ...] = ("delimit", "datamark", "encode")
"""Ways to quarantine, the mildest first."""


@dataclass(slots=True, kw_only=True)
class _Course:
    """One step's way from its verdict to its outcome.

    Attributes:
        step: The step as it was judged.
        tenant: Whose policy was applied.
        policies: The policies.
        verdict: The judgement.
        tell: Takes events.
        fits: Refuses edits that can't be made where the text is from.
        was_sealed: Whether the step came quarantined.
        first: The text that was judged.
        text: The text as it is to pass so far.
        edits: What leads from the first to this.
        sealing: The quarantines that are wanted.
        asking: Who has to allow it.
        applied: The rewrites that were made.
        failed: What could not be done.
        tokens: What may be put back.
        notes: What the system prompt has to say.
        again: The judgement of the text as it is to pass.
    """

    step: Step
    tenant: str | None
    policies: InForce
    verdict: Verdict
    tell: Tell
    fits: Fits | None
    was_sealed: bool
    first: str = ""
    text: str = ""
    edits: tuple[Edit, ...] = ()
    sealing: list[Quarantine] = field(default_factory=list)
    asking: list[str] = field(default_factory=list)
    applied: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    tokens: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    again: Verdict | None = None

    def __post_init__(self) -> None:
        self.asking = list(self.verdict.escalations)

    @property
    def is_sealed(self) -> bool:
        """Whether the text is to pass quarantined."""
        return self.was_sealed or bool(self.sealing)

    def place(self, edits: Sequence[Edit]) -> None:
        """Refuse edits of the text that came which can't be made where it is from."""
        if self.fits is not None and edits:
            self.fits(edits)

    def misfit(self, edits: Sequence[Edit]) -> str | None:
        """Why edits of the text as it is so far can't be made; None where they can."""
        try:
            apply_edits(self.text, edits)
            if not self.was_sealed:  # Else they are placed in the end, when the text is quarantined again.
                self.place(compose_edits(self.first, self.edits, edits))
        except (UnsupportedValueError, TypeError) as error:
            return type(error).__name__
        return None

    def change(self, edits: Sequence[Edit]) -> None:
        """Make edits of the text as it is to pass so far."""
        after = apply_edits(self.text, edits)
        self.edits = compose_edits(self.first, self.edits, edits)
        self.text = after

    def blocked(self, why: Verdict) -> Outcome:
        """The outcome where nothing may pass."""
        verdict = replace(
            self.verdict,
            action="block",
            rule=why.rule,
            message=why.message or self.verdict.message,
            messages=why.messages or self.verdict.messages,
        )
        return Outcome(verdict=verdict, text=None)


def _notes(inner: str | None) -> tuple[str, ...]:
    """What the system prompt has to say for a quarantine that stays as it is; nothing where there is none."""
    if inner is None:
        return ()
    from lec_guard.act.quarantine import NOTE

    return (NOTE,)


def _policy_of(policies: InForce, name: str) -> tuple[Compiled, str]:
    """The policy that has a section, and what it calls it."""
    if policies.floor is not None and name.startswith(FLOOR_PREFIX):
        return policies.floor, name.removeprefix(FLOOR_PREFIX)
    return policies.live, name


def _rewrite_of(policies: InForce, name: str) -> Rewrite:
    policy, own = _policy_of(policies, name)
    return policy.policy.rewrite[own]


def _words(policy: Policy, name: str, way: Replace, verdict: Verdict) -> str:
    """What stands instead of a text, in the policy's language; it may hold names of the operator's, like a message."""
    messages = Messages(in_order(Messages.of(way.text).texts, policy.locale, policy.where(f"rewrite.{name}")))
    texts = messages.render(
        rule=verdict.rule or "",
        stage=verdict.stage,
        tenant=verdict.tenant,
        policy=policy.name,
        version=policy.version,
    )
    return next(iter(texts.values()))


def _next(policies: InForce, name: str) -> str:
    """What follows where a rewrite did not help: `block`, or the section that is asked."""
    way = _rewrite_of(policies, name)
    if way.escalation is None:
        return "block"
    return (FLOOR_PREFIX if name.startswith(FLOOR_PREFIX) else "") + way.escalation


def _quarantines(policy: Compiled | None) -> bool:
    return policy is not None and any(isinstance(way, Quarantine) for way in policy.policy.rewrite.values())


def _askable(policy: Compiled, step: Step) -> Iterator[str]:
    """The sections of `escalations` that a step may come to."""
    for reading in policy.readings[step.stage].of(step.tool):
        if reading.section is None:
            continue
        if reading.action == "escalate":
            yield reading.section
        elif (whom := policy.policy.rewrite[reading.section].escalation) is not None:
            yield whom


def _spans(policy: Compiled, section: str, verdict: Verdict, step: Step) -> tuple[Span, ...]:
    """What the heads found whose rules ask for a rewrite."""
    readings = policy.readings[step.stage].of(step.tool)
    heads = {one.head for one in readings if one.section == section and one.action == "rewrite"}
    return tuple(span for span in verdict.spans if span.head in heads)


def _unusable(done: Done, course: _Course) -> str | None:
    """Why a rewriter's result can't be used; None where it can."""
    if done.error is not None:
        return type(done.error).__name__
    if not isinstance(done.result, Rewriting):
        return "not a Rewriting"
    return course.misfit(done.result.edits) if done.result.edits else "nothing to change"


@dataclass(frozen=True, slots=True)
class _Resolved:
    """What follows of asking somebody."""

    reply: Reply
    resolution: Resolution
    failure: str | None


def _resolved(done: Done, section: Escalation) -> _Resolved:
    if isinstance(done.error, TimeoutError):
        return _Resolved(Reply(answer=section.on_timeout), "timeout", type(done.error).__name__)
    if done.error is not None:
        return _Resolved(Reply(answer=section.on_error), "error", type(done.error).__name__)
    if not isinstance(done.result, Reply):
        return _Resolved(Reply(answer=section.on_error), "error", "not a Reply")
    return _Resolved(done.result, done.result.answer, None)


def _registered(there: Mapping[str, T], name: str, what: str) -> T:
    """What the application registered under a name."""
    if name not in there:
        raise PolicyError(
            f"nothing is registered as {name!r}{nearest(name, list(there)) if there else ''}; "
            f"give the guard effects=Effects({what}={{{name!r}: ...}})"
        )
    return there[name]
