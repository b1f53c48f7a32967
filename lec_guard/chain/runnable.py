"""GuardRunnable: a guard as a step of a LangChain chain, the same object on both sides of a model."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

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
from lec_guard.chain.holding import Held, Holding, Stopped
from lec_guard.chain.lens import Reading, read
from lec_guard.chain.messages import SystemMessages, known_system_messages, request_of
from lec_guard.chain.plan import Joins, Passed, Plan, acted, traced
from lec_guard.chain.streaming import Stream, StreamReading, read_stream
from lec_guard.detect.detector import Detector
from lec_guard.errors import EscalationPending, GuardBlocked, LecGuardError, PolicyError, TenantMismatch
from lec_guard.guard import Guard
from lec_guard.observe.events import Event, EventSink, VerdictEvent
from lec_guard.observe.sinks import OnSinkError
from lec_guard.step import Outcome, Stage, Step, Verdict
from lec_guard.taint import TRACED

VERDICT_EVENT = EVENT_NAMES[VerdictEvent]
"""Name of the LangChain custom event of each step; its data is `Verdict.to_dict()`."""

TenantResolver = Callable[[RunnableConfig], str | None]
"""The operator's own way from a run's config to its tenant."""


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
        system_messages: Whose system messages are. `trusted`: the operator's own; they are context, and not judged.
            `judged`: a caller may have sent them, so they are judged as a user's messages are, and no text's context.

    Raises:
        UnsupportedValueError: If `system_messages` is neither.
    """

    guard: Guard
    stage: Stage | None = None
    tenant: str | None = None
    tenant_key: str = "tenant"
    locale_key: str = "locale"
    resolver: TenantResolver | None = None
    system_messages: SystemMessages = "trusted"

    def __post_init__(self) -> None:
        """Refuse what would leave system messages unread."""
        known_system_messages(self.system_messages)

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
        system_messages: SystemMessages = "trusted",
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
            system_messages: Whose system messages are: `trusted` or `judged`.

        Returns:
            A runnable that infers each text's direction.

        Raises:
            PolicyError: If a policy is wrong or reads what the detector does not give.
            BundleError: If the detector can't be loaded.
            UnsupportedValueError: If `system_messages` is neither.
        """
        guard = Guard.from_policies(
            path, detector=detector, sinks=sinks, watch=watch, on_sink_error=on_sink_error, effects=effects
        )
        return cls(
            guard, tenant_key=tenant_key, locale_key=locale_key, resolver=resolver, system_messages=system_messages
        )

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
        plan = Plan()
        for at, (value, tenant) in enumerate(zip(values, tenants, strict=True)):
            try:
                if isinstance(tenant, LecGuardError):
                    raise tenant
                asked = None if answered is None else answered[at]
                request = self._request(asked)
                reading: Reading | StreamReading
                if isinstance(value, Stream):
                    reading = read_stream(value.chunks, self.stage, request, self.system_messages)
                else:
                    reading = read(value, self.stage, request, self.system_messages)
                self._refuse_interrupts(reading.steps, tenant)
                plan.add(reading, self._steps(reading, tenant, asked), tenant)
            except LecGuardError as error:
                plan.refuse(error)
        return plan

    def _steps(self, reading: Reading | StreamReading, tenant: str | None, answered: Any) -> list[Step]:
        """The steps of a value, with what came from third parties."""
        if not any(step.stage in TRACED for step in reading.steps) or not self.guard.traces(tenant):
            return reading.steps
        before = [] if answered is None else read(answered, "input", None, self.system_messages).conversation()
        return traced(reading, before)

    def _request(self, answered: Any) -> str | None:
        return None if answered is None else request_of(answered, self.system_messages)

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
            fits=plan.fits if held is None else partial(plan.fits, also=held.holding.rest_of),
            begun=None if held is None else held.begun(plan.steps),
        )
        passed = self._passed(plan, values, told, configs)
        if (unread := plan.unread(passed, told)).steps:
            unread.hold_back(passed, self.guard.check_many(unread.steps, unread.tenants))
        if (joins := plan.joins(passed, told)).joined:
            found = self.guard.apply_joined(joins.joined, joins.tenants, tell=joins.tell)
            self._stop(passed, joins, found, configs)
        for at, (own, config) in enumerate(
            zip(plan.of_values(list(zip(told, events, strict=True))), configs, strict=True)
        ):
            dispatch([event for _, some in own for event in some] + joins.events_of(at), config)
            trace_verdict([outcome.verdict for outcome, _ in own], config)
        return plan.noted(passed)

    async def ajudge(
        self, plan: Plan, values: Sequence[Any], configs: Sequence[RunnableConfig], held: Held | None = None
    ) -> list[Passed | LecGuardError]:
        """`judge`, without blocking the event loop."""
        events: list[list[Event]] = [[] for _ in plan.steps]
        told = await self.guard.aapply_many(
            plan.steps,
            plan.tenants,
            tell=lambda at, event: events[at].append(event),
            fits=plan.fits if held is None else partial(plan.fits, also=held.holding.rest_of),
            begun=None if held is None else held.begun(plan.steps),
        )
        passed = self._passed(plan, values, told, configs)
        if (unread := plan.unread(passed, told)).steps:
            unread.hold_back(passed, await self.guard.acheck_many(unread.steps, unread.tenants))
        if (joins := plan.joins(passed, told)).joined:
            found = await self.guard.aapply_joined(joins.joined, joins.tenants, tell=joins.tell)
            self._stop(passed, joins, found, configs)
        for at, (own, config) in enumerate(
            zip(plan.of_values(list(zip(told, events, strict=True))), configs, strict=True)
        ):
            await adispatch([event for _, some in own for event in some] + joins.events_of(at), config)
            trace_verdict([outcome.verdict for outcome, _ in own], config)
        return plan.noted(passed)

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
            found = acted(value, reading, own)
            if isinstance(found, Passed):
                found = replace(found, verdict=self._in_language(found.verdict, configs[at]))
            passed.append(found)
        return passed

    def _stop(
        self,
        passed: list[Passed | LecGuardError],
        joins: Joins,
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
        held = Held(Holding(self.stage, self._request(answered)), whole)
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
        held = Held(Holding(self.stage, self._request(answered)), whole)
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


def _refuse_keywords(tenant_key: str, keywords: dict[str, Any]) -> None:
    """A tenant or stage in the wrong place would be a check by the wrong policy."""
    for key in (tenant_key, "stage"):
        if key in keywords:
            raise TypeError(
                f"{key!r} is no keyword of this call: a tenant goes into config['configurable']['{tenant_key}'] or "
                "guard.for_tenant(...), a stage into guard.at(...)"
            )


def _results(results: Sequence[Passed | LecGuardError]) -> list[Any]:
    """What `Runnable.batch` wants: a value or an exception each."""
    return [
        one if isinstance(one, LecGuardError) else GuardBlocked(one.verdict) if one.verdict.blocked else one.value
        for one in results
    ]
