"""Forwards a guard's events into LangChain's own system: custom events, handlers for them, and traces."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, assert_never
from uuid import UUID

from langchain_core.callbacks import (
    AsyncCallbackHandler,
    BaseCallbackHandler,
    BaseCallbackManager,
    adispatch_custom_event,
    dispatch_custom_event,
)
from langchain_core.runnables import RunnableConfig

from lec_guard.observe.events import (
    BypassEvent,
    EffectEvent,
    ErrorEvent,
    EscalationResolved,
    Event,
    PolicyReloaded,
    ReloadRefused,
    VerdictEvent,
)
from lec_guard.observe.plain import encodable
from lec_guard.step import ACTIONS, STAGES, Verdict, severest

EVENT_NAMES: Mapping[type[Event], str] = MappingProxyType(
    {
        VerdictEvent: "lec_guard.verdict",
        ErrorEvent: "lec_guard.error",
        BypassEvent: "lec_guard.bypass",
        EffectEvent: "lec_guard.effect",
        EscalationResolved: "lec_guard.escalation_resolved",
        PolicyReloaded: "lec_guard.policy_reloaded",
        ReloadRefused: "lec_guard.reload_refused",
    }
)
"""Kind of event -> name of the LangChain custom event."""

STREAM_EVENT = "lec_guard.stream"
"""Name of the LangChain custom event that says of a stream how long it was held back."""

TRACE_KEY = "lec_guard"
"""Under what a traced run's metadata holds what the guard decided."""

# Only these: a custom event comes from whoever sends it, and must not choose other methods by its stage.
_EVENTS = {name: name.replace("lec_guard.", "on_guard_") for name in (*EVENT_NAMES.values(), STREAM_EVENT)}
_STAGES: dict[str, str] = {stage: f"on_guard_{stage}" for stage in STAGES}
_ACTIONS: dict[str, str] = {action: f"on_guard_{action}" for action in ACTIONS}

_log = logging.getLogger(__name__)


def event_data(event: Event) -> dict[str, Any]:
    """What a custom event holds: plain data, ready for JSON, and no text of any step.

    What a detector said of its failure may quote what it read; only the type of its error is here.

    Args:
        event: What happened.

    Returns:
        Of a verdict `Verdict.to_dict()`. Of anything else what the event holds under the same names, with `verdict` and
        `again` as `Verdict.to_dict()`.
    """
    match event:
        case VerdictEvent():
            return event.verdict.to_dict()
        case ErrorEvent():
            return {"verdict": event.verdict.to_dict(), "cause": event.cause, "kind": event.kind}
        case BypassEvent():
            return {"verdict": event.verdict.to_dict(), "cause": event.cause}
        case EffectEvent():
            return {
                "verdict": event.verdict.to_dict(),
                "result": event.result,
                "rewrites": list(event.rewrites),
                "again": None if event.again is None else event.again.to_dict(),
                "failed": list(event.failed),
                "ms": event.ms,
            }
        case EscalationResolved():
            return {
                "verdict": event.verdict.to_dict(),
                "section": event.section,
                "key": event.key,
                "resolution": event.resolution,
                "follows": event.follows,
                "by": event.by,
                "failure": event.failure,
                "ms": event.ms,
            }
        case PolicyReloaded():
            return {"policy": event.policy, "version": event.version, "before": event.before}
        case ReloadRefused():
            return {"policy": event.policy, "reason": event.reason, "version": event.version}
        case _:
            assert_never(event)


def dispatch(events: Iterable[Event], config: RunnableConfig) -> None:
    """Send events as custom events of a run.

    Args:
        events: What happened, in order.
        config: The config that the run hands to what it calls.

    Raises:
        RuntimeError: If the config is of no run.
        Exception: What a handler with `raise_error` raised.
    """
    if _is_heard(config):
        for event in events:
            dispatch_custom_event(EVENT_NAMES[type(event)], event_data(event), config=config)


async def adispatch(events: Iterable[Event], config: RunnableConfig) -> None:
    """`dispatch`, without blocking the event loop."""
    if _is_heard(config):
        for event in events:
            await adispatch_custom_event(EVENT_NAMES[type(event)], event_data(event), config=config)


def dispatch_stream(held: Mapping[str, Any], config: RunnableConfig) -> None:
    """Send what there is to say of a stream that is over as a custom event of its run.

    Args:
        held: How long it was held back; see `GuardCallbackHandler.on_guard_stream`.
        config: The config that the run hands to what it calls.

    Raises:
        RuntimeError: If the config is of no run.
        Exception: What a handler with `raise_error` raised.
    """
    if _is_heard(config):
        dispatch_custom_event(STREAM_EVENT, dict(held), config=config)


async def adispatch_stream(held: Mapping[str, Any], config: RunnableConfig) -> None:
    """`dispatch_stream`, without blocking the event loop."""
    if _is_heard(config):
        await adispatch_custom_event(STREAM_EVENT, dict(held), config=config)


def trace_verdict(verdicts: Sequence[Verdict], config: RunnableConfig) -> None:
    """Write what was decided into the metadata of the run, where something traces it: LangSmith and other tracers.

    Tracers keep no custom events. In LangSmith the run then has `lec_guard` in its metadata, with `action`, `rule`,
    `cause`, `stage`, `tenant`, `policy`, `policy_version` and `detector_id` of the severest verdict, and `steps`, the
    number of verdicts. Called again for the same run, it counts on and keeps the severest of all. Nothing is done where
    nothing traces, and no failure reaches the caller; it is logged.

    Args:
        verdicts: What was decided in the run; may be empty.
        config: The config that the run hands to what it calls.
    """
    callbacks = config.get("callbacks")
    if not verdicts or not isinstance(callbacks, BaseCallbackManager) or callbacks.parent_run_id is None:
        return
    try:
        # LangChain imports it with the first run anyway, but not before: it brings LangSmith's client.
        from langchain_core.tracers.base import BaseTracer

        for handler in callbacks.handlers:
            run = handler.run_map.get(str(callbacks.parent_run_id)) if isinstance(handler, BaseTracer) else None
            if run is not None:
                metadata = run.metadata
                told = _Told.of(verdicts, metadata.get(TRACE_KEY))
                # A new one: LangChain gives one dict to all handlers of a run.
                run.extra = {**(run.extra or {}), "metadata": {**metadata, TRACE_KEY: told}}
    except Exception as error:  # noqa: BLE001 - a trace is no reason to stop a step
        _log.warning("a verdict could not be written into the trace of its run: %s", type(error).__name__)


class _Told(dict[str, Any]):
    """What we wrote into a run's metadata; not what a caller's metadata says under the same name."""

    @classmethod
    def of(cls, verdicts: Sequence[Verdict], before: object) -> _Told:
        verdict = severest(list(verdicts))
        told = cls(
            action=verdict.action,
            rule=verdict.rule,
            cause=verdict.cause,
            stage=verdict.stage,
            tenant=verdict.tenant,
            policy=verdict.policy,
            policy_version=verdict.policy_version,
            detector_id=verdict.detector_id,
        )
        steps = len(verdicts)
        if isinstance(before, _Told):
            steps += before["steps"]
            if ACTIONS.index(before["action"]) >= ACTIONS.index(verdict.action):
                told = before
        # One lone surrogate would keep a whole batch of runs from being sent.
        plain = {name: encodable(value) if isinstance(value, str) else value for name, value in told.items()}
        return cls(plain, steps=steps)


def _is_heard(config: RunnableConfig) -> bool:
    """Whether anybody hears of a run; else there is no need to make the events' data."""
    callbacks = config.get("callbacks")
    return not isinstance(callbacks, BaseCallbackManager) or bool(callbacks.handlers)


def _method(names: Mapping[str, str], value: object) -> str | None:
    return names.get(value) if isinstance(value, str) else None


class _PolicyHooks:
    """What happens to policies happens outside of runs: it comes as to a sink, to plain functions."""

    def emit(self, event: Event) -> None:
        """Take an event of a guard's that has this handler among its `sinks`.

        Only those of policies are told; all others come with the runs that they belong to.

        Args:
            event: What happened.
        """
        if isinstance(event, PolicyReloaded):
            self.on_guard_policy_reloaded(event_data(event))
        elif isinstance(event, ReloadRefused):
            self.on_guard_reload_refused(event_data(event))

    def on_guard_policy_reloaded(self, event: dict[str, Any], **kwargs: Any) -> None:
        """A policy came into force while the application ran.

        Args:
            event: `policy`, `version`, `before`.
            **kwargs: `run_id`, `tags` and `metadata`, where it came as a run's custom event.
        """

    def on_guard_reload_refused(self, event: dict[str, Any], **kwargs: Any) -> None:
        """A change of a policy was not taken.

        Args:
            event: `policy`, `reason`, `version`.
            **kwargs: `run_id`, `tags` and `metadata`, where it came as a run's custom event.
        """


class GuardCallbackHandler(_PolicyHooks, BaseCallbackHandler):
    """Hears what guards decide in the runs that it is a callback of. Subclass it, and write the methods you need.

    ```python
    class Alerts(GuardCallbackHandler):
        def on_guard_block(self, verdict, *, run_id, **kwargs):
            page(verdict["tenant"], verdict["rule"], run_id)

    alerts = Alerts()
    guard = GuardRunnable.from_policies("policies/", sinks=[alerts], watch=True)
    chain.invoke("hi", config={"callbacks": [alerts]})
    ```

    Every step of a guard is `on_guard_verdict`, which calls the method of its stage, then that of its action; who
    overrides it and wants these too calls `super().on_guard_verdict`. No method is given text of a step: see
    `event_data`. Every method of a run is given `run_id`, `tags` and `metadata` of the guard's run as keywords.

    Policies change outside of runs. Given to a guard as a sink as well, the handler is told of that: `emit` takes
    events of policies and no others.

    What a method raises is logged by LangChain, with the error's own words, and keeps only the methods after it from
    hearing of that step, unless the class sets `raise_error = True`: then it stops the run. What
    `on_guard_policy_reloaded` and `on_guard_reload_refused` raise in a sink is told as of any sink.
    """

    def on_custom_event(
        self,
        name: str,
        data: Any,
        *,
        run_id: UUID,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Call the method for a guard's event; custom events of others are ignored.

        Args:
            name: The event's name.
            data: What it holds; see `event_data`.
            run_id: The guard's run.
            tags: The run's tags.
            metadata: The run's metadata.
            **kwargs: What LangChain may add.
        """
        method = _EVENTS.get(name)
        if method is not None and isinstance(data, dict):
            getattr(self, method)(data, run_id=run_id, tags=tags, metadata=metadata, **kwargs)

    def on_guard_verdict(self, verdict: dict[str, Any], *, run_id: UUID, **kwargs: Any) -> None:
        """A step was judged: calls `on_guard_<stage>`, then `on_guard_<action>`.

        Args:
            verdict: `Verdict.to_dict()`.
            run_id: The guard's run.
            **kwargs: `tags` and `metadata` of the run.
        """
        for method in (_method(_STAGES, verdict.get("stage")), _method(_ACTIONS, verdict.get("action"))):
            if method is not None:
                getattr(self, method)(verdict, run_id=run_id, **kwargs)

    def on_guard_input(self, verdict: dict[str, Any], *, run_id: UUID, **kwargs: Any) -> None:
        """A text for the model was judged.

        Args:
            verdict: `Verdict.to_dict()`.
            run_id: The guard's run.
            **kwargs: `tags` and `metadata` of the run.
        """

    def on_guard_output(self, verdict: dict[str, Any], *, run_id: UUID, **kwargs: Any) -> None:
        """A text of the model's was judged.

        Args:
            verdict: `Verdict.to_dict()`.
            run_id: The guard's run.
            **kwargs: `tags` and `metadata` of the run.
        """

    def on_guard_tool_input(self, verdict: dict[str, Any], *, run_id: UUID, **kwargs: Any) -> None:
        """A call of a tool was judged.

        Args:
            verdict: `Verdict.to_dict()`.
            run_id: The guard's run.
            **kwargs: `tags` and `metadata` of the run.
        """

    def on_guard_tool_output(self, verdict: dict[str, Any], *, run_id: UUID, **kwargs: Any) -> None:
        """A tool's result was judged.

        Args:
            verdict: `Verdict.to_dict()`.
            run_id: The guard's run.
            **kwargs: `tags` and `metadata` of the run.
        """

    def on_guard_retrieval(self, verdict: dict[str, Any], *, run_id: UUID, **kwargs: Any) -> None:
        """A retrieved text was judged.

        Args:
            verdict: `Verdict.to_dict()`.
            run_id: The guard's run.
            **kwargs: `tags` and `metadata` of the run.
        """

    def on_guard_tool_definition(self, verdict: dict[str, Any], *, run_id: UUID, **kwargs: Any) -> None:
        """What a tool says of itself was judged.

        Args:
            verdict: `Verdict.to_dict()`.
            run_id: The guard's run.
            **kwargs: `tags` and `metadata` of the run.
        """

    def on_guard_allow(self, verdict: dict[str, Any], *, run_id: UUID, **kwargs: Any) -> None:
        """A step passes.

        Args:
            verdict: `Verdict.to_dict()`.
            run_id: The guard's run.
            **kwargs: `tags` and `metadata` of the run.
        """

    def on_guard_flag(self, verdict: dict[str, Any], *, run_id: UUID, **kwargs: Any) -> None:
        """A step passes and is marked.

        Args:
            verdict: `Verdict.to_dict()`.
            run_id: The guard's run.
            **kwargs: `tags` and `metadata` of the run.
        """

    def on_guard_rewrite(self, verdict: dict[str, Any], *, run_id: UUID, **kwargs: Any) -> None:
        """A step is to be rewritten; what came of it is `on_guard_effect`.

        Args:
            verdict: `Verdict.to_dict()`.
            run_id: The guard's run.
            **kwargs: `tags` and `metadata` of the run.
        """

    def on_guard_escalate(self, verdict: dict[str, Any], *, run_id: UUID, **kwargs: Any) -> None:
        """Somebody has to allow a step; what came of it is `on_guard_effect`.

        Args:
            verdict: `Verdict.to_dict()`.
            run_id: The guard's run.
            **kwargs: `tags` and `metadata` of the run.
        """

    def on_guard_block(self, verdict: dict[str, Any], *, run_id: UUID, **kwargs: Any) -> None:
        """A step does not pass.

        Args:
            verdict: `Verdict.to_dict()`.
            run_id: The guard's run.
            **kwargs: `tags` and `metadata` of the run.
        """

    def on_guard_error(self, event: dict[str, Any], *, run_id: UUID, **kwargs: Any) -> None:
        """A step could not be judged as a policy wanted.

        Args:
            event: `verdict`, `cause`, `kind`.
            run_id: The guard's run.
            **kwargs: `tags` and `metadata` of the run.
        """

    def on_guard_bypass(self, event: dict[str, Any], *, run_id: UUID, **kwargs: Any) -> None:
        """A fail mode let a step pass that was not judged.

        Args:
            event: `verdict`, `cause`.
            run_id: The guard's run.
            **kwargs: `tags` and `metadata` of the run.
        """

    def on_guard_effect(self, event: dict[str, Any], *, run_id: UUID, **kwargs: Any) -> None:
        """A step that was to be rewritten or allowed has its outcome.

        Args:
            event: `verdict`, `result`, `rewrites`, `again`, `failed`, `ms`.
            run_id: The guard's run.
            **kwargs: `tags` and `metadata` of the run.
        """

    def on_guard_escalation_resolved(self, event: dict[str, Any], *, run_id: UUID, **kwargs: Any) -> None:
        """Somebody who was asked about a step answered, or did not.

        Args:
            event: `verdict`, `section`, `key`, `resolution`, `follows`, `by`, `failure`, `ms`.
            run_id: The guard's run.
            **kwargs: `tags` and `metadata` of the run.
        """

    def on_guard_stream(self, event: dict[str, Any], *, run_id: UUID, **kwargs: Any) -> None:
        """A stream is over, or was stopped.

        Args:
            event: `ms_to_first`, milliseconds from its first chunk to the first text that went on (None where none
                did); `ms`, to its end; `chunks`; `early`, how many of them went on before its end.
            run_id: The guard's run.
            **kwargs: `tags` and `metadata` of the run.
        """


class AsyncGuardCallbackHandler(_PolicyHooks, AsyncCallbackHandler):
    """`GuardCallbackHandler` whose methods are coroutines, for chains that are run without blocking the event loop.

    All but `emit`, `on_guard_policy_reloaded` and `on_guard_reload_refused`: policies change on threads without an
    event loop, so these are plain functions here too. Who has to get from there to a loop calls its
    `call_soon_threadsafe`.
    """

    async def on_custom_event(
        self,
        name: str,
        data: Any,
        *,
        run_id: UUID,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Call the method for a guard's event; custom events of others are ignored.

        Args:
            name: The event's name.
            data: What it holds; see `event_data`.
            run_id: The guard's run.
            tags: The run's tags.
            metadata: The run's metadata.
            **kwargs: What LangChain may add.
        """
        method = _EVENTS.get(name)
        if method is not None and isinstance(data, dict):
            told = getattr(self, method)(data, run_id=run_id, tags=tags, metadata=metadata, **kwargs)
            if told is not None:  # Those of policies are plain functions.
                await told

    async def on_guard_verdict(self, verdict: dict[str, Any], *, run_id: UUID, **kwargs: Any) -> None:
        """A step was judged: calls `on_guard_<stage>`, then `on_guard_<action>`.

        Args:
            verdict: `Verdict.to_dict()`.
            run_id: The guard's run.
            **kwargs: `tags` and `metadata` of the run.
        """
        for method in (_method(_STAGES, verdict.get("stage")), _method(_ACTIONS, verdict.get("action"))):
            if method is not None:
                await getattr(self, method)(verdict, run_id=run_id, **kwargs)

    async def on_guard_input(self, verdict: dict[str, Any], *, run_id: UUID, **kwargs: Any) -> None:
        """A text for the model was judged."""

    async def on_guard_output(self, verdict: dict[str, Any], *, run_id: UUID, **kwargs: Any) -> None:
        """A text of the model's was judged."""

    async def on_guard_tool_input(self, verdict: dict[str, Any], *, run_id: UUID, **kwargs: Any) -> None:
        """A call of a tool was judged."""

    async def on_guard_tool_output(self, verdict: dict[str, Any], *, run_id: UUID, **kwargs: Any) -> None:
        """A tool's result was judged."""

    async def on_guard_retrieval(self, verdict: dict[str, Any], *, run_id: UUID, **kwargs: Any) -> None:
        """A retrieved text was judged."""

    async def on_guard_tool_definition(self, verdict: dict[str, Any], *, run_id: UUID, **kwargs: Any) -> None:
        """What a tool says of itself was judged."""

    async def on_guard_allow(self, verdict: dict[str, Any], *, run_id: UUID, **kwargs: Any) -> None:
        """A step passes."""

    async def on_guard_flag(self, verdict: dict[str, Any], *, run_id: UUID, **kwargs: Any) -> None:
        """A step passes and is marked."""

    async def on_guard_rewrite(self, verdict: dict[str, Any], *, run_id: UUID, **kwargs: Any) -> None:
        """A step is to be rewritten; what came of it is `on_guard_effect`."""

    async def on_guard_escalate(self, verdict: dict[str, Any], *, run_id: UUID, **kwargs: Any) -> None:
        """Somebody has to allow a step; what came of it is `on_guard_effect`."""

    async def on_guard_block(self, verdict: dict[str, Any], *, run_id: UUID, **kwargs: Any) -> None:
        """A step does not pass."""

    async def on_guard_error(self, event: dict[str, Any], *, run_id: UUID, **kwargs: Any) -> None:
        """A step could not be judged as a policy wanted."""

    async def on_guard_bypass(self, event: dict[str, Any], *, run_id: UUID, **kwargs: Any) -> None:
        """A fail mode let a step pass that was not judged."""

    async def on_guard_effect(self, event: dict[str, Any], *, run_id: UUID, **kwargs: Any) -> None:
        """A step that was to be rewritten or allowed has its outcome."""

    async def on_guard_escalation_resolved(self, event: dict[str, Any], *, run_id: UUID, **kwargs: Any) -> None:
        """Somebody who was asked about a step answered, or did not."""

    async def on_guard_stream(self, event: dict[str, Any], *, run_id: UUID, **kwargs: Any) -> None:
        """A stream is over, or was stopped."""
