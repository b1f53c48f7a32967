"""GuardRunnable: a guard as a step of a LangChain chain, the same object on both sides of a model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from langchain_core.callbacks import (
    AsyncCallbackManagerForChainRun,
    CallbackManagerForChainRun,
    adispatch_custom_event,
    dispatch_custom_event,
)
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.utils import ConfigurableFieldSpec

from lec_guard.chain.base import BatchRunnable, given
from lec_guard.chain.messages import steps_of
from lec_guard.chain.streaming import steps_of_stream
from lec_guard.detect.detector import Detector
from lec_guard.errors import GuardBlocked, LecGuardError, TenantMismatch
from lec_guard.guard import Guard
from lec_guard.observe.events import EventSink
from lec_guard.observe.sinks import OnSinkError
from lec_guard.step import Outcome, Stage, Step, Verdict, severest

VERDICT_EVENT = "lec_guard.verdict"
"""Name of the LangChain custom event of each step; its data is `Verdict.to_dict()`."""

TenantResolver = Callable[[RunnableConfig], str | None]
"""The operator's own way from a run's config to its tenant."""

_Manager = CallbackManagerForChainRun | AsyncCallbackManagerForChainRun


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be judged for several values in one call of the detector.

    Attributes:
        steps: The steps of all values, one after the other.
        tenants: The tenant of each step.
        counts: How many of the steps belong to each value; 0 for a value that can't be judged.
        errors: Why a value can't be judged, by its position.
    """

    steps: list[Step]
    tenants: list[str | None]
    counts: list[int]
    errors: dict[int, LecGuardError]

    def judged(self, outcomes: Sequence[Outcome]) -> list[list[Verdict] | LecGuardError]:
        """Sort outcomes by value.

        Args:
            outcomes: One a step, in order.

        Returns:
            For each value its verdicts, or why it was not judged.
        """
        results: list[list[Verdict] | LecGuardError] = []
        left = iter(outcomes)
        for at, count in enumerate(self.counts):
            verdicts = [next(left).verdict for _ in range(count)]
            results.append(self.errors.get(at, verdicts))
        return results


@dataclass(frozen=True, eq=False)
class GuardRunnable(BatchRunnable):
    """Judges what passes and gives it on unchanged, or raises `GuardBlocked`.

    Takes what LangChain passes between steps (see `lec_guard.chain.messages.steps_of`) and returns the
    same object. Immutable, and safe to share between threads, chains and tenants. The tenant comes from
    `config["configurable"]["tenant"]`, from the operator's resolver, or from `for_tenant`; where two of them name
    different ones that is a `TenantMismatch`.

    `batch` is one call of the detector. A chunk of a stream is held back until the whole stream was judged.
    What can't pass is raised: `GuardBlocked` (where the detector failed or was late too, unless the policy's `fail`
    lets such texts pass), `UnsupportedValueError`, `TenantMismatch` or `PolicyError` (an unknown tenant). A caller's
    keywords (a chain gives them to its first step, whatever that is) are not used, and `tenant` or `stage` among them
    is a TypeError.

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
            tenant_key: The key of `configurable` that names the tenant.
            locale_key: The key of `configurable` that names the language of refusals.
            resolver: The operator's own way from a run's config to its tenant.

        Returns:
            A runnable that infers each text's direction.

        Raises:
            PolicyError: If a policy is wrong or reads what the detector does not give.
            BundleError: If the detector can't be loaded.
        """
        guard = Guard.from_policies(path, detector=detector, sinks=sinks, watch=watch, on_sink_error=on_sink_error)
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
        self, values: Sequence[Any], configs: Sequence[RunnableConfig], requests: Sequence[str | None] | None = None
    ) -> Plan:
        """Read values into steps.

        Args:
            values: What passes; a stream that was held whole is given as `Stream`.
            configs: The config of each value's run.
            requests: The request that each value answers, where it is known.

        Returns:
            The steps, and an error for each value that can't be read.
        """
        return self._planned(values, [self._known(config) for config in configs], requests)

    async def aplan(
        self, values: Sequence[Any], configs: Sequence[RunnableConfig], requests: Sequence[str | None] | None = None
    ) -> Plan:
        """`plan`, without blocking the event loop while policies are read."""
        return self._planned(values, [await self._aknown(config) for config in configs], requests)

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
        requests: Sequence[str | None] | None,
    ) -> Plan:
        plan = Plan([], [], [], {})
        for at, (value, tenant) in enumerate(zip(values, tenants, strict=True)):
            try:
                if isinstance(tenant, LecGuardError):
                    raise tenant
                request = requests[at] if requests else None
                if isinstance(value, Stream):
                    steps = steps_of_stream(value.chunks, self.stage, request)
                else:
                    steps = steps_of(value, self.stage, request)
            except LecGuardError as error:
                plan.errors[at] = error
                steps = []
            else:
                plan.tenants.extend([tenant] * len(steps))
            plan.steps.extend(steps)
            plan.counts.append(len(steps))
        return plan

    def judge(
        self, plan: Plan, managers: Sequence[_Manager], configs: Sequence[RunnableConfig]
    ) -> list[Verdict | LecGuardError]:
        """Judge a plan and tell each run of its verdicts.

        Args:
            plan: What to judge.
            managers: Each value's run.
            configs: Each value's config.

        Returns:
            For each value its severest verdict, or why it was not judged.
        """
        judged = plan.judged(self.guard.apply_many(plan.steps, plan.tenants))
        for result, manager, config in zip(judged, managers, configs, strict=True):
            for event in _events(result, manager):
                dispatch_custom_event(VERDICT_EVENT, event, config=config)
        return self._told(judged, configs)

    async def ajudge(
        self, plan: Plan, managers: Sequence[_Manager], configs: Sequence[RunnableConfig]
    ) -> list[Verdict | LecGuardError]:
        """`judge`, without blocking the event loop."""
        judged = plan.judged(await self.guard.aapply_many(plan.steps, plan.tenants))
        for result, manager, config in zip(judged, managers, configs, strict=True):
            for event in _events(result, manager):
                await adispatch_custom_event(VERDICT_EVENT, event, config=config)
        return self._told(judged, configs)

    def _told(
        self, judged: Sequence[list[Verdict] | LecGuardError], configs: Sequence[RunnableConfig]
    ) -> list[Verdict | LecGuardError]:
        """Each value's severest verdict, with the message in the language of its run."""
        told: list[Verdict | LecGuardError] = []
        for result, config in zip(judged, configs, strict=True):
            if isinstance(result, LecGuardError):
                told.append(result)
                continue
            verdict, locale = severest(result), config.get("configurable", {}).get(self.locale_key)
            if isinstance(locale, str) and len(verdict.messages) > 1:
                verdict = replace(verdict, message=verdict.message_in(locale))
            told.append(verdict)
        return told

    def _batch(
        self,
        values: list[Any],
        run_manager: list[CallbackManagerForChainRun],
        config: list[RunnableConfig],
        **kwargs: Any,
    ) -> list[Any]:
        _refuse_keywords(self.tenant_key, kwargs)
        return _results(values, self.judge(self.plan(values, config), run_manager, config))

    async def _abatch(
        self,
        values: list[Any],
        run_manager: list[AsyncCallbackManagerForChainRun],
        config: list[RunnableConfig],
        **kwargs: Any,
    ) -> list[Any]:
        _refuse_keywords(self.tenant_key, kwargs)
        return _results(values, await self.ajudge(await self.aplan(values, config), run_manager, config))

    def _transform(
        self,
        chunks: Iterator[Any],
        run_manager: CallbackManagerForChainRun,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> Iterator[Any]:
        _refuse_keywords(self.tenant_key, kwargs)
        held = list(chunks)
        if held:
            plan = self.plan([Stream(held)], [config])
            given(_results([held], self.judge(plan, [run_manager], [config]))[0])
        yield from held

    async def _atransform(
        self,
        chunks: AsyncIterator[Any],
        run_manager: AsyncCallbackManagerForChainRun,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
        _refuse_keywords(self.tenant_key, kwargs)
        held = [chunk async for chunk in chunks]
        if held:
            plan = await self.aplan([Stream(held)], [config])
            given(_results([held], await self.ajudge(plan, [run_manager], [config]))[0])
        for chunk in held:
            yield chunk


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream that was held whole, for `GuardRunnable.plan`.

    Attributes:
        chunks: All of its chunks.
    """

    chunks: list[Any]


def _refuse_keywords(tenant_key: str, keywords: dict[str, Any]) -> None:
    """A tenant or stage in the wrong place would be a check by the wrong policy."""
    for key in (tenant_key, "stage"):
        if key in keywords:
            raise TypeError(
                f"{key!r} is no keyword of this call: a tenant goes into config['configurable']['{tenant_key}'] or "
                "guard.for_tenant(...), a stage into guard.at(...)"
            )


def _events(result: list[Verdict] | LecGuardError, manager: _Manager) -> list[dict[str, Any]]:
    if isinstance(result, LecGuardError) or not manager.handlers:
        return []
    return [verdict.to_dict() for verdict in result]


def _results(values: list[Any], results: list[Verdict | LecGuardError]) -> list[Any]:
    """What `Runnable.batch` wants: a value or an exception each."""
    return [
        result if isinstance(result, LecGuardError) else GuardBlocked(result) if result.blocked else value
        for value, result in zip(values, results, strict=True)
    ]
