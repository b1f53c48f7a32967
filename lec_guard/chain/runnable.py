"""GuardRunnable: a guard as a step of a LangChain chain, the same object on both sides of a model."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from langchain_core.callbacks import AsyncCallbackManagerForChainRun, CallbackManagerForChainRun
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.utils import ConfigurableFieldSpec
from langchain_core.tools import BaseTool

from lec_guard.act.effects import Effects
from lec_guard.chain.base import BatchRunnable, given
from lec_guard.chain.callbacks import (
    EVENT_NAMES,
    adispatch,
    adispatch_stream,
    dispatch,
    dispatch_stream,
    trace_verdict,
)
from lec_guard.chain.holding import Holding
from lec_guard.chain.lens import Reading, UneditableError, read
from lec_guard.chain.messages import request_of
from lec_guard.chain.notes import with_notes
from lec_guard.chain.streaming import StreamReading, read_stream
from lec_guard.detect.detector import Detector
from lec_guard.errors import EscalationPending, GuardBlocked, LecGuardError, PolicyError, TenantMismatch
from lec_guard.growing import GrowingStep
from lec_guard.guard import Guard
from lec_guard.joining import Joined, joined
from lec_guard.observe.events import Event, EventSink, VerdictEvent
from lec_guard.observe.sinks import OnSinkError
from lec_guard.step import Edit, Outcome, Stage, Step, Verdict, severest
from lec_guard.taint import TRACED, trace

VERDICT_EVENT = EVENT_NAMES[VerdictEvent]
"""Name of the LangChain custom event of each step; its data is `Verdict.to_dict()`."""

_Part = TypeVar("_Part")

TenantResolver = Callable[[RunnableConfig], str | None]
"""The operator's own way from a run's config to its tenant."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be judged for several values in one call of the detector.

    Attributes:
        steps: The steps of all values, one after the other, with their `taint` where a policy asks for it.
        tenants: The tenant of each step.
        readings: For each value where its steps are from; None for a value that can't be judged.
        errors: Why a value can't be judged, by its position.
    """

    steps: list[Step]
    tenants: list[str | None]
    readings: list[Reading | StreamReading | None]
    errors: dict[int, LecGuardError]

    def fits(self, place: int, edits: Sequence[Edit], *, holding: Holding | None = None) -> None:
        """Refuse edits of a step that can't be made in its value.

        Args:
            place: The step's position in `steps`.
            edits: Edits of its text.
            holding: The stream that the value is, if some of it may have gone on already.

        Raises:
            UneditableError: If they can't.
        """
        for reading in self.readings:
            count = 0 if reading is None else len(reading.steps)
            if reading is not None and place < count:
                edited = reading.edited({place: edits})
                if holding is not None:
                    holding.rest_of(edited)
                return
            place -= count

    def of_values(self, parts: Sequence[_Part]) -> list[list[_Part]]:
        """Sort what there is one of for each step by value.

        Args:
            parts: One a step, in order.

        Returns:
            For each value its own.
        """
        left = iter(parts)
        return [[next(left) for _ in (reading.steps if reading else ())] for reading in self.readings]


@dataclass(frozen=True, slots=True)
class Passed:
    """A value that was judged.

    Attributes:
        verdict: The severest of its verdicts, a block where it may not pass.
        value: What may pass: the value itself, or what rewrites made of it. Of a stream its chunks.
        tokens: What stands in the value -> what it stands for.
    """

    verdict: Verdict
    value: Any
    tokens: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class GuardRunnable(BatchRunnable):
    """Judges what passes and gives it on, unchanged or as a policy has it rewritten, or raises `GuardBlocked`.

    Takes what LangChain passes between steps (see `lec_guard.chain.messages.steps_of`) and returns the same object, or
    where something was rewritten another one of the same type. Immutable, and safe to share between threads, chains and
    tenants. The tenant comes from `config["configurable"]["tenant"]`, from the operator's resolver, or from
    `for_tenant`; where two of them name different ones that is a `TenantMismatch`.

    `batch` is one call of the detector. A chunk of a stream is held back until what the policy's `hold_back` says was
    judged behind it, which is the whole stream where it says nothing; what went on before a block stays with whoever
    has it.
    What can't pass is raised: `GuardBlocked` (where the detector failed or was late too, unless the policy's `fail`
    lets such texts pass), `EscalationPending` (somebody has yet to decide), `UnsupportedValueError`, `TenantMismatch`
    or `PolicyError` (an unknown tenant; an `interrupt`, which only an agent's middleware can place so that nothing runs
    twice). A caller's keywords (a chain gives them to its first step, whatever that is) are not used, and `tenant` or
    `stage` among them is a TypeError.

    Attributes:
        guard: What judges.
        stage: The stage of texts without a role; None judges them as input and as output, and the
            severer verdict counts. Messages, tool calls and documents keep their own stage.
        tenant: The tenant that this view is bound to, if any.
        tenant_key: The key of `configurable` that names the tenant.
        locale_key: The key of `configurable` that names the language of refusals.
        resolver: The operator's own way from a run's config to its tenant, for example from a verified token; None
            where it knows of none.
    """

    guard: Guard
    stage: Stage | None = None
    tenant: str | None = None
    tenant_key: str = "tenant"
    locale_key: str = "locale"
    resolver: TenantResolver | None = None

    @classmethod
    def from_policies(
        cls,
        path: str | Path | None = None,
        *,
        detector: Detector | str | Path | None = None,
        sinks: Iterable[EventSink] = (),
        watch: bool = False,
        on_sink_error: OnSinkError = "warn",
        effects: Effects | None = None,
        tenant_key: str = "tenant",
        locale_key: str = "locale",
        resolver: TenantResolver | None = None,
    ) -> GuardRunnable:
        """Make a guard for chains; see `Guard.from_policies`.

        Args:
            path: A folder with `default.yaml` and perhaps `tenants/*.yaml`; one policy file; or None
                for the packaged default policy.
            detector: A bundle's folder, a detector, or None for the embedded one.
            sinks: Where events go.
            watch: Whether policies are reloaded when their files change.
            on_sink_error: What follows where a sink fails; see `Guard.from_policies`.
            effects: What rewriting and asking needs; see `Guard.from_policies`.
            tenant_key: The key of `configurable` that names the tenant.
            locale_key: The key of `configurable` that names the language of refusals.
            resolver: The operator's own way from a run's config to its tenant.

        Returns:
            A runnable that infers each text's direction.

        Raises:
            PolicyError: If a policy is wrong or reads what the detector does not give.
            BundleError: If the detector can't be loaded.
        """
        guard = Guard.from_policies(
            path, detector=detector, sinks=sinks, watch=watch, on_sink_error=on_sink_error, effects=effects
        )
        return cls(guard, tenant_key=tenant_key, locale_key=locale_key, resolver=resolver)

    @property
    def input(self) -> GuardRunnable:
        """A view that takes texts without a role for input."""
        return self.at("input")

    @property
    def output(self) -> GuardRunnable:
        """A view that takes texts without a role for output."""
        return self.at("output")

    def at(self, stage: Stage) -> GuardRunnable:
        """A view that takes texts without a role to be at a stage.

        Args:
            stage: One of `lec_guard.step.STAGES`.

        Returns:
            The view; this object is not changed.

        Raises:
            UnsupportedValueError: If the stage is unknown.
        """
        Step(stage=stage, text="")
        return replace(self, stage=stage)

    def for_tenant(self, tenant: str) -> GuardRunnable:
        """A view that is bound to a tenant.

        Args:
            tenant: The tenant.

        Returns:
            The view; this object is not changed.

        Raises:
            PolicyError: If the tenant is unknown.
            TenantMismatch: If this view is bound to another tenant.
        """
        if self.tenant is not None and tenant != self.tenant:
            raise TenantMismatch(f"this view is bound to tenant {self.tenant!r}; it can't become one of {tenant!r}")
        self.guard.policy(tenant)
        return replace(self, tenant=tenant)

    def protect(self, chain: Runnable[Any, Any], refusal: object = None) -> Runnable[Any, Any]:
        """Put a guard around a chain that answers with a refusal instead of raising.

        Args:
            chain: What is to be protected: a model, a sequence, an agent.
            refusal: What to answer on a block: a value, or a function of the verdict that gives one.
                None answers with the policy's message, in the type of the chain's answers.

        Returns:
            A runnable that judges the request as input, and the answer as output with the request as
            its context.
        """
        # Imported here, because protect.py builds on this module.
        from lec_guard.chain.protect import ProtectedRunnable

        return ProtectedRunnable(self, chain, refusal)

    def tool(self, tool: BaseTool) -> BaseTool:
        """Put a guard around a tool, for agents, graphs and loops of your own.

        Models can't tell it from the tool: name, description, schema and all else that they are told are the same. What
        they are told is judged now, as `tool_definition`, and again before a call where it changed since, or where the
        call's tenant has a policy that has not judged it yet.

        Before the tool runs, the arguments that a model wrote are judged as `tool_input`, and afterwards its result and
        its artifact as `tool_output`; in a graph the user's task is their context. What is rewritten is edited in
        place. What the tool raises is judged likewise before it is raised, for it may be shown to a model.

        A call is answered with a `ToolMessage` that has the status `error` and the policy's message, where something is
        blocked, and so it is where something can't be read (an image in the result). Where the tool is called with
        plain arguments there is no place for a message, and `GuardBlocked` or `UnsupportedValueError` is raised.
        `EscalationPending`, `TenantMismatch` and `PolicyError` are raised in either case.

        Args:
            tool: The tool. It is not changed.

        Returns:
            The guarded tool.

        Raises:
            GuardBlocked: If a model may not be told of the tool as it is.
            EscalationPending: If somebody has yet to decide that.
            UnsupportedValueError: If its definition can't be read.
        """
        # Imported here, because tools.py builds on this module.
        from lec_guard.chain.tools import guarded

        return guarded(self, tool)

    def retriever(self, retriever: BaseRetriever) -> BaseRetriever:
        """Put a guard around a retriever.

        Each document is judged as `retrieval`, with the query as its context. Those that are blocked are left out,
        which events tell; those that are rewritten are replaced. What can't be read raises `UnsupportedValueError`.

        Args:
            retriever: The retriever. It is not changed.

        Returns:
            The guarded retriever.
        """
        from lec_guard.chain.retrievers import GuardedRetriever

        return GuardedRetriever.of(self, retriever)

    @property
    def documents(self) -> Runnable[Any, Any]:
        """A step that takes a list of documents and gives those that may pass: `retriever | guard.documents`.

        `retriever | guard` raises where one of them is blocked.
        """
        from lec_guard.chain.retrievers import DocumentFilter

        return DocumentFilter(self)

    @property
    def config_specs(self) -> list[ConfigurableFieldSpec]:
        """The keys of tenant and language in `configurable`."""
        return [
            ConfigurableFieldSpec(
                id=self.tenant_key, annotation=str | None, name="Tenant", description="Whose policy applies."
            ),
            ConfigurableFieldSpec(
                id=self.locale_key, annotation=str | None, name="Locale", description="The language of refusals."
            ),
        ]

    def tenant_of(self, config: RunnableConfig) -> str | None:
        """The tenant of a run.

        Args:
            config: The run's config.

        Returns:
            The tenant, or None for none.

        Raises:
            TenantMismatch: If the view, the config and the resolver do not name the same tenant.
        """
        sources = {
            "the guard is bound to": self.tenant,
            "the run's config names": config.get("configurable", {}).get(self.tenant_key),
            "the resolver found": self.resolver(config) if self.resolver is not None else None,
        }
        named = {source: tenant for source, tenant in sources.items() if tenant is not None}
        tenant: str | None = next(iter(named.values()), None)
        if any(other != tenant for other in named.values()):
            raise TenantMismatch("; ".join(f"{source} {other!r}" for source, other in named.items()))
        return tenant

    def plan(
        self, values: Sequence[Any], configs: Sequence[RunnableConfig], answered: Sequence[Any] | None = None
    ) -> Plan:
        """Read values into steps.

        Args:
            values: What passes; a stream that was held whole is given as `Stream`.
            configs: The config of each value's run.
            answered: What each value answers, where that is known: its context, and where words of it may be from.

        Returns:
            The steps, and an error for each value that can't be read.
        """
        return self._planned(values, [self._known(config) for config in configs], answered)

    async def aplan(
        self, values: Sequence[Any], configs: Sequence[RunnableConfig], answered: Sequence[Any] | None = None
    ) -> Plan:
        """`plan`, without blocking the event loop while policies are read."""
        return self._planned(values, [await self._aknown(config) for config in configs], answered)

    def _known(self, config: RunnableConfig) -> str | LecGuardError | None:
        """The tenant of a run, or what is wrong with it."""
        try:
            tenant = self.tenant_of(config)
            self.guard.policy(tenant)
        except LecGuardError as error:
            return error
        return tenant

    async def _aknown(self, config: RunnableConfig) -> str | LecGuardError | None:
        try:
            tenant = self.tenant_of(config)
            await self.guard.apolicy(tenant)
        except LecGuardError as error:
            return error
        return tenant

    def _planned(
        self,
        values: Sequence[Any],
        tenants: Sequence[str | LecGuardError | None],
        answered: Sequence[Any] | None,
    ) -> Plan:
        plan = Plan([], [], [], {})
        for at, (value, tenant) in enumerate(zip(values, tenants, strict=True)):
            reading: Reading | StreamReading | None = None
            try:
                if isinstance(tenant, LecGuardError):
                    raise tenant
                asked = None if answered is None else answered[at]
                request = None if asked is None else request_of(asked)
                if isinstance(value, Stream):
                    reading = read_stream(value.chunks, self.stage, request)
                else:
                    reading = read(value, self.stage, request)
                self._refuse_interrupts(reading.steps, tenant)
                plan.steps.extend(self._traced(reading, tenant, asked))
                plan.tenants.extend([tenant] * len(reading.steps))
            except LecGuardError as error:
                plan.errors[at], reading = error, None
            plan.readings.append(reading)
        return plan

    def _traced(self, reading: Reading | StreamReading, tenant: str | None, answered: Any) -> list[Step]:
        """The steps of a value, with what came from third parties."""
        if not any(step.stage in TRACED for step in reading.steps) or not self.guard.traces(tenant):
            return reading.steps
        before = [] if answered is None else read(answered, "input").conversation()
        return traced(reading, before)

    def _refuse_interrupts(self, steps: Sequence[Step], tenant: str | None) -> None:
        """What ran before this in a chain would run again when the answer comes."""
        for step in steps:
            if (section := self.guard.reruns(step, tenant)) is not None:
                raise PolicyError(
                    f"at stage {step.stage!r} the policy may ask {section!r} by an interrupt, after which all that ran "
                    "before in the same graph node runs again; check in an agent's middleware instead, or ask a queue"
                )

    def judge(
        self, plan: Plan, values: Sequence[Any], configs: Sequence[RunnableConfig], held: Held | None = None
    ) -> list[Passed | LecGuardError]:
        """Judge a plan, act on the verdicts, and tell each run.

        Args:
            plan: What to judge.
            values: What it was made of.
            configs: Each value's config, as its run hands it on.
            held: Where the one value is a stream that was judged while it came, what is known of it.

        Returns:
            For each value what may pass and the severest verdict, or why it was not judged, or may not pass yet.
        """
        events: list[list[Event]] = [[] for _ in plan.steps]
        told = self.guard.apply_many(
            plan.steps,
            plan.tenants,
            tell=lambda at, event: events[at].append(event),
            fits=plan.fits if held is None else partial(plan.fits, holding=held.holding),
            begun=None if held is None else held.begun(plan.steps),
        )
        passed = self._passed(plan, values, told, configs)
        if (unread := _unread(plan, passed, told)).steps:
            _hold(passed, unread, self.guard.check_many(unread.steps, unread.tenants))
        if (joins := _joins(plan, passed, told)).joined:
            found = self.guard.apply_joined(joins.joined, joins.tenants, tell=joins.tell)
            self._stop(passed, joins, found, configs)
        for at, (own, config) in enumerate(
            zip(plan.of_values(list(zip(told, events, strict=True))), configs, strict=True)
        ):
            dispatch([event for _, some in own for event in some] + joins.events_of(at), config)
            trace_verdict([outcome.verdict for outcome, _ in own], config)
        return passed

    async def ajudge(
        self, plan: Plan, values: Sequence[Any], configs: Sequence[RunnableConfig], held: Held | None = None
    ) -> list[Passed | LecGuardError]:
        """`judge`, without blocking the event loop."""
        events: list[list[Event]] = [[] for _ in plan.steps]
        told = await self.guard.aapply_many(
            plan.steps,
            plan.tenants,
            tell=lambda at, event: events[at].append(event),
            fits=plan.fits if held is None else partial(plan.fits, holding=held.holding),
            begun=None if held is None else held.begun(plan.steps),
        )
        passed = self._passed(plan, values, told, configs)
        if (unread := _unread(plan, passed, told)).steps:
            _hold(passed, unread, await self.guard.acheck_many(unread.steps, unread.tenants))
        if (joins := _joins(plan, passed, told)).joined:
            found = await self.guard.aapply_joined(joins.joined, joins.tenants, tell=joins.tell)
            self._stop(passed, joins, found, configs)
        for at, (own, config) in enumerate(
            zip(plan.of_values(list(zip(told, events, strict=True))), configs, strict=True)
        ):
            await adispatch([event for _, some in own for event in some] + joins.events_of(at), config)
            trace_verdict([outcome.verdict for outcome, _ in own], config)
        return passed

    def _passed(
        self, plan: Plan, values: Sequence[Any], told: Sequence[Outcome], configs: Sequence[RunnableConfig]
    ) -> list[Passed | LecGuardError]:
        """What may pass of each value, with the message in the language of its run."""
        passed: list[Passed | LecGuardError] = []
        for at, (value, own) in enumerate(zip(values, plan.of_values(told), strict=True)):
            reading = plan.readings[at]
            if reading is None:
                passed.append(plan.errors[at])
                continue
            found = _acted(value, reading, own)
            if isinstance(found, Passed):
                found = replace(found, verdict=self._in_language(found.verdict, configs[at]))
            passed.append(found)
        return passed

    def _stop(
        self,
        passed: list[Passed | LecGuardError],
        joins: _Joins,
        outcomes: Sequence[Outcome | None],
        configs: Sequence[RunnableConfig],
    ) -> None:
        """Hold back values that may not pass for what their texts say together."""
        for at, outcome in zip(joins.owners, outcomes, strict=True):
            one = passed[at]
            if outcome is None or outcome.text is not None or not isinstance(one, Passed):
                continue
            if outcome.ticket is not None:
                passed[at] = EscalationPending(outcome.verdict, outcome.ticket)
                continue
            verdict = self._in_language(replace(outcome.verdict, action="block"), configs[at])
            passed[at] = Passed(verdict, one.value, {})

    def _in_language(self, verdict: Verdict, config: RunnableConfig) -> Verdict:
        """A verdict with its message in the language of a run."""
        locale = config.get("configurable", {}).get(self.locale_key)
        if isinstance(locale, str) and len(verdict.messages) > 1:
            return replace(verdict, message=verdict.message_in(locale))
        return verdict

    def _batch(
        self,
        values: list[Any],
        run_manager: list[CallbackManagerForChainRun],
        config: list[RunnableConfig],
        **kwargs: Any,
    ) -> list[Any]:
        _refuse_keywords(self.tenant_key, kwargs)
        return _results(self.judge(self.plan(values, config), values, config))

    async def _abatch(
        self,
        values: list[Any],
        run_manager: list[AsyncCallbackManagerForChainRun],
        config: list[RunnableConfig],
        **kwargs: Any,
    ) -> list[Any]:
        _refuse_keywords(self.tenant_key, kwargs)
        return _results(await self.ajudge(await self.aplan(values, config), values, config))

    def _transform(
        self,
        chunks: Iterator[Any],
        run_manager: CallbackManagerForChainRun,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> Iterator[Any]:
        _refuse_keywords(self.tenant_key, kwargs)
        for chunk in self.hold(chunks, config):
            if isinstance(chunk, Stopped):
                raise GuardBlocked(chunk.verdict)
            yield chunk

    async def _atransform(
        self,
        chunks: AsyncIterator[Any],
        run_manager: AsyncCallbackManagerForChainRun,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
        _refuse_keywords(self.tenant_key, kwargs)
        async for chunk in self.ahold(chunks, config):
            if isinstance(chunk, Stopped):
                raise GuardBlocked(chunk.verdict)
            yield chunk

    def hold(
        self, chunks: Iterable[Any], config: RunnableConfig, answered: Any = None, *, whole: bool = False
    ) -> Iterator[Any]:
        """Hold a stream back as far as the policy wants, and judge it while it comes and when it is over.

        Args:
            chunks: The stream. Nothing more is pulled from it where what came so far is a block.
            config: The run's config, as the run hands it on.
            answered: What it answers, if that is known; as for `plan`.
            whole: Whether nothing may go on before it is over.

        Yields:
            The chunks that may go on, or what is left of them rewritten; in the end, where the rest may not, a
            `Stopped`.

        Raises:
            LecGuardError: Why it was not judged, or may not pass yet.
        """
        held = Held(Holding(self.stage, None if answered is None else request_of(answered)), whole)
        events: list[Event] = []
        for chunk in chunks:
            text = held.holding.take(chunk)
            if text is None or held.whole:
                continue
            if held.growing is None:
                held.growing = self.guard.begin(held.holding.steps(), given(self._known(config)))
            progress = self.guard.feed(held.growing, text, lambda _, event: events.append(event))
            if progress.blocked and progress.verdict is not None:
                dispatch(events, config)
                trace_verdict([event.verdict for event in events if isinstance(event, VerdictEvent)], config)
                dispatch_stream(held.holding.told(), config)
                yield Stopped(self._in_language(progress.verdict, config), chunk)
                return
            yield from held.holding.passed(progress.passed)
        if not held.holding.chunks:
            return
        stream = [Stream(held.holding.chunks)]
        [passed] = self.judge(self.plan(stream, [config], [answered]), stream, [config], held)
        left = held.left(passed)
        if held.was_judged_early:
            dispatch_stream(held.holding.told(), config)
        yield from left

    async def ahold(
        self, chunks: AsyncIterable[Any], config: RunnableConfig, answered: Any = None, *, whole: bool = False
    ) -> AsyncIterator[Any]:
        """`hold`, without blocking the event loop."""
        held = Held(Holding(self.stage, None if answered is None else request_of(answered)), whole)
        events: list[Event] = []
        async for chunk in chunks:
            text = held.holding.take(chunk)
            if text is None or held.whole:
                continue
            if held.growing is None:
                tenant = given(await self._aknown(config))
                held.growing = await self.guard.abegin(held.holding.steps(), tenant)
            progress = await self.guard.afeed(held.growing, text, lambda _, event: events.append(event))
            if progress.blocked and progress.verdict is not None:
                await adispatch(events, config)
                trace_verdict([event.verdict for event in events if isinstance(event, VerdictEvent)], config)
                await adispatch_stream(held.holding.told(), config)
                yield Stopped(self._in_language(progress.verdict, config), chunk)
                return
            for passed_chunk in held.holding.passed(progress.passed):
                yield passed_chunk
        if not held.holding.chunks:
            return
        stream = [Stream(held.holding.chunks)]
        [passed] = await self.ajudge(await self.aplan(stream, [config], [answered]), stream, [config], held)
        left = held.left(passed)
        if held.was_judged_early:
            await adispatch_stream(held.holding.told(), config)
        for chunk in left:
            yield chunk


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream that was held whole, for `GuardRunnable.plan`.

    Attributes:
        chunks: All of its chunks.
    """

    chunks: list[Any]


@dataclass(frozen=True, slots=True)
class Stopped:
    """The last thing that comes of a stream whose rest may not go on.

    Attributes:
        verdict: Why, with the message in the language of its run.
        last: The last chunk that was pulled.
    """

    verdict: Verdict
    last: Any


@dataclass(slots=True)
class Held:
    """A stream that is held back.

    Attributes:
        holding: Its chunks.
        whole: Whether nothing of it may go on before it is over.
        growing: Its text, as it is judged while it comes.
    """

    holding: Holding
    whole: bool
    growing: GrowingStep | None = None

    @property
    def was_judged_early(self) -> bool:
        """Whether it was looked at before it was over."""
        return self.growing is not None and self.growing.progress.verdict is not None

    def begun(self, steps: Sequence[Step]) -> Mapping[int, GrowingStep]:
        """The steps of the whole stream of which something was read while it came.

        Args:
            steps: Its steps.

        Returns:
            Their places.
        """
        if self.growing is None:
            return {}
        known = {(step.stage, step.context) for step in self.growing.steps}
        return {at: self.growing for at, step in enumerate(steps) if (step.stage, step.context) in known}

    def left(self, passed: Passed | LecGuardError) -> list[Any]:
        """What is to go on when the stream is over.

        Args:
            passed: What came of judging the whole of it.

        Returns:
            The rest of it; a `Stopped` where it may not go on.

        Raises:
            LecGuardError: Where it was not judged, or may not pass yet.
        """
        value: Passed = given(passed)
        if value.verdict.blocked:
            return [Stopped(value.verdict, self.holding.chunks[-1])]
        if value.value is self.holding.chunks:
            return self.holding.rest()
        try:
            return self.holding.rewritten(value.value)
        except UneditableError:
            # Each step's edits could be made in what is left, but not those of all together.
            return [Stopped(replace(value.verdict, action="block"), self.holding.chunks[-1])]


@dataclass(frozen=True, slots=True)
class _Unread:
    """Steps of rewritten values that are no outcome of any step: what edits of several steps made together."""

    steps: list[Step]
    tenants: list[str | None]
    owners: list[int]


@dataclass(frozen=True, slots=True)
class _Joins:
    """Texts of values that are to be judged joined; of which value each is; and what is to be told of each."""

    joined: list[Joined]
    tenants: list[str | None]
    owners: list[int]
    events: list[tuple[int, Event]]

    def tell(self, place: int, event: Event) -> None:
        """Keep an event."""
        self.events.append((self.owners[place], event))

    def events_of(self, owner: int) -> list[Event]:
        """The events of a value."""
        return [event for at, event in self.events if at == owner]


def _refuse_keywords(tenant_key: str, keywords: dict[str, Any]) -> None:
    """A tenant or stage in the wrong place would be a check by the wrong policy."""
    for key in (tenant_key, "stage"):
        if key in keywords:
            raise TypeError(
                f"{key!r} is no keyword of this call: a tenant goes into config['configurable']['{tenant_key}'] or "
                "guard.for_tenant(...), a stage into guard.at(...)"
            )


def traced(reading: Reading | StreamReading, before: Sequence[Step]) -> list[Step]:
    """The steps of a value, with which parts of them came from third parties.

    Args:
        reading: The value.
        before: All that was said before it.

    Returns:
        Its steps, those that are traced with their `taint`.
    """
    whole = [step for one in _readings(reading) for step in one.conversation()]
    # A stream whose chunks don't add up has steps besides those of its readings.
    whole += [step for step in reading.steps if step not in whole]
    places = [len(before) + at for at, step in enumerate(whole) if step.stage in TRACED]
    found = trace([*before, *whole], places)[len(before) :]
    taints = {step: one.taint for step, one in zip(whole, found, strict=True)}
    return [replace(step, taint=taints[step]) if taints[step] is not None else step for step in reading.steps]


def _readings(reading: Reading | StreamReading) -> list[Reading]:
    return reading.readings if isinstance(reading, StreamReading) else [reading]


def _acted(value: Any, reading: Reading | StreamReading, outcomes: Sequence[Outcome]) -> Passed | LecGuardError:
    """A value with what came of its steps."""
    verdict = severest([outcome.verdict for outcome in outcomes])
    whole = value.chunks if isinstance(value, Stream) else value
    held = [outcome for outcome in outcomes if outcome.text is None]
    if held and not verdict.blocked:
        waiting = next((outcome for outcome in held if outcome.ticket is not None), None)
        if waiting is not None and waiting.ticket is not None:
            return EscalationPending(waiting.verdict, waiting.ticket)
        verdict = replace(held[0].verdict, action="block")
    if held:
        return Passed(verdict, whole, {})
    edits = {at: outcome.edits for at, outcome in enumerate(outcomes) if outcome.edits}
    notes = list(dict.fromkeys(note for outcome in outcomes for note in outcome.notes))
    if not edits and not notes:
        return Passed(verdict, whole, {})
    if not edits and isinstance(reading, StreamReading) and len(reading.readings) != 1:
        return Passed(verdict, whole, {})  # There is no place for notes.
    try:
        edited = reading.edited(edits)
    except UneditableError:
        # Each step's edits could be made, but not those of all together.
        return Passed(replace(verdict, action="block"), whole, {})
    tokens = {token: meant for outcome in outcomes for token, meant in outcome.tokens.items()}
    if notes:
        edited = [with_notes(edited[0], notes)] if isinstance(reading, StreamReading) else with_notes(edited, notes)
    return Passed(verdict, edited, tokens)


def _unread(plan: Plan, passed: Sequence[Passed | LecGuardError], outcomes: Sequence[Outcome]) -> _Unread:
    """What is in rewritten values that nobody judged."""
    unread = _Unread([], [], [])
    for at, (one, own) in enumerate(zip(passed, plan.of_values(outcomes), strict=True)):
        reading = plan.readings[at]
        if not isinstance(one, Passed) or one.verdict.blocked or reading is None or not any(o.edits for o in own):
            continue
        new: Reading | StreamReading
        if isinstance(reading, StreamReading):
            old = reading.readings[0]
            new = read_stream(one.value, old.stage, old.request)
        else:
            new = read(one.value, reading.stage, reading.request)
        known = {(step.stage, outcome.text) for step, outcome in zip(reading.steps, own, strict=True)}
        first = sum(len(before.steps) for before in plan.readings[:at] if before is not None)
        for step in new.steps:
            if (step.stage, step.text) not in known:
                unread.steps.append(step)
                unread.tenants.append(plan.tenants[first])
                unread.owners.append(at)
    return unread


def _joins(plan: Plan, passed: Sequence[Passed | LecGuardError], outcomes: Sequence[Outcome]) -> _Joins:
    """The newest texts of values that may pass, joined with those before them; as they pass."""
    found = _Joins([], [], [], [])
    own = plan.of_values(list(zip(plan.steps, outcomes, plan.tenants, strict=True)))
    for at, (one, its) in enumerate(zip(passed, own, strict=True)):
        if not isinstance(one, Passed) or one.verdict.blocked or len(its) < 2:
            continue
        texts = [replace(step, text=outcome.text or "", taint=None) for step, outcome, _ in its]
        for join in joined(texts, range(len(texts))):
            found.joined.append(join)
            found.tenants.append(its[join.place][2])
            found.owners.append(at)
    return found


def _hold(passed: list[Passed | LecGuardError], unread: _Unread, verdicts: Sequence[Verdict]) -> None:
    """Hold back values of which something has to be acted on that nobody judged before."""
    for at, verdict in zip(unread.owners, verdicts, strict=True):
        one = passed[at]
        if isinstance(one, Passed) and verdict.action not in ("allow", "flag"):
            passed[at] = replace(one, verdict=replace(one.verdict, action="block", rule=verdict.rule))


def _results(results: Sequence[Passed | LecGuardError]) -> list[Any]:
    """What `Runnable.batch` wants: a value or an exception each."""
    return [
        one if isinstance(one, LecGuardError) else GuardBlocked(one.verdict) if one.verdict.blocked else one.value
        for one in results
    ]
