"""Traces and metrics for OpenTelemetry."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, assert_never

from lec_guard.errors import SinkError
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
from lec_guard.observe.labels import Labels
from lec_guard.observe.plain import encodable

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, TracerProvider

    from lec_guard.step import Verdict

_Value = str | int | float | bool | Sequence[str]

_SCOPE = "lec_guard"
_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# A redaction takes less than a millisecond, a model seconds, and people hours.
_WAITS = (0.001, 0.01, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0)
_KINDS = 50


class OpenTelemetrySink:
    """Hands what happens to steps to OpenTelemetry as spans, all events as metrics.

    Needs the extra `otel`, and some SDK to collect.

    A step is a span `lec_guard.check {stage}`, a child of the span that is current where the guard was called. It ends
    when the verdict is told and began the verdict's `ms` before; steps of one call share its time evenly, so their
    spans lie over one another. It has the attributes `lec_guard.action`, `.stage`, `.rule`, `.matched`, `.tenant`,
    `.policy.name`, `.policy.version`, `.detector.id`, `.backend`, `.windows` and `.context_read`. Where a step was not
    judged, `error.type` is the cause and the span's status is an error; a block is none.

    Of the semantic conventions for generative AI, which are in development, those fit that tell of a result of
    judging: each head's highest label is an event `gen_ai.evaluation.result` of the span, with `gen_ai.evaluation.name`
    (the head), `.score.value` and `.score.label`. For guardrails as such they have no names yet.

    Acting on a step is a span `lec_guard.effect {stage}`, which began the event's `ms` before it is told, with
    `.action`, `.stage`, `.rule`, `.tenant`, `.policy.name`, `.policy.version`, `.effect.result`, `.effect.rewrites` and
    `.effect.failed`. Of the judgement of the text as it was to pass it has `.effect.again` (the action) and an event
    `gen_ai.evaluation.result` for each head: it is no check of its own. Asking somebody is a span
    `lec_guard.escalation {section}` likewise, with `.escalation.section`, `.key`, `.resolution` and `.follows`; an
    answer is an event `gen_ai.evaluation.result` whose name is the section and whose label is the answer. Who answered
    is in no span: the audit log says so, under the same key. Where something failed, or nobody answered in time,
    `error.type` is the type of the (first) error or `timeout`, and the status is an error.

    What a fail mode let pass is an event `lec_guard.bypass` of the caller's span, what failed one `lec_guard.error`,
    with the type of the detector's error as `lec_guard.error.kind` where there was one. No event and no attribute holds
    text, or what a detector said of its failure.

    | metric | attributes |
    |---|---|
    | `lec_guard.check.duration` (histogram, s) | action, stage, rule, tenant |
    | `lec_guard.effect.duration` (histogram, s) | action, stage, tenant, effect.failed, effect.result |
    | `lec_guard.escalation.duration` (histogram, s) | escalation.section, .resolution, .follows |
    | `lec_guard.errors` | `error.type`, error.kind, stage |
    | `lec_guard.bypasses` | `error.type`, stage, tenant |
    | `lec_guard.policy.reloads` | result |

    Args:
        tracer_provider: Where spans go; None for the global one.
        meter_provider: Where metrics go; None for the global one.
        tenants: How many tenants keep their names in metrics, those that come first; or the names of these tenants.
            All others are `other`. Spans name every tenant.
        rules: The same for rules.
        sections: The same for sections of `escalations`, in names of spans too.

    Raises:
        SinkError: If the package is missing.
    """

    def __init__(
        self,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        *,
        tenants: int | Collection[str] = 100,
        rules: int | Collection[str] = 100,
        sections: int | Collection[str] = 100,
    ) -> None:
        try:
            from opentelemetry import metrics, trace
        except ModuleNotFoundError:
            raise SinkError("OpenTelemetrySink needs opentelemetry-api; run: pip install 'lec-guard[otel]'") from None
        self._trace = trace
        self._tenants = Labels(tenants)
        self._rules = Labels(rules)
        self._sections = Labels(sections)
        self._kinds = Labels(_KINDS)
        self._tracer = trace.get_tracer(_SCOPE, tracer_provider=tracer_provider)
        meter = metrics.get_meter(_SCOPE, meter_provider=meter_provider)
        self._seconds = meter.create_histogram(
            "lec_guard.check.duration",
            unit="s",
            description="How long a step took.",
            explicit_bucket_boundaries_advisory=_BUCKETS,
        )
        self._effect_seconds = meter.create_histogram(
            "lec_guard.effect.duration",
            unit="s",
            description="How long acting on a step took.",
            explicit_bucket_boundaries_advisory=_WAITS,
        )
        self._escalation_seconds = meter.create_histogram(
            "lec_guard.escalation.duration",
            unit="s",
            description="How long those took who were asked.",
            explicit_bucket_boundaries_advisory=_WAITS,
        )
        self._errors = meter.create_counter(
            "lec_guard.errors", unit="{step}", description="Steps not judged as a policy wanted."
        )
        self._bypasses = meter.create_counter(
            "lec_guard.bypasses", unit="{step}", description="Steps that a fail mode let pass unjudged."
        )
        self._reloads = meter.create_counter(
            "lec_guard.policy.reloads", unit="{policy}", description="Policies that came into force, or were refused."
        )

    def emit(self, event: Event) -> None:
        """Hand on an event; on the thread and in the context of whoever called the guard.

        Args:
            event: What happened.
        """
        match event:
            case VerdictEvent():
                self._judged(event.verdict)
            case ErrorEvent():
                told: dict[str, str] = {"error.type": event.cause, "lec_guard.stage": event.verdict.stage}
                if event.kind is not None:
                    told["lec_guard.error.kind"] = self._kinds.of(event.kind)
                self._errors.add(1, told)
                self._trace.get_current_span().add_event("lec_guard.error", told)
            case BypassEvent():
                told = {"error.type": event.cause, "lec_guard.stage": event.verdict.stage}
                self._bypasses.add(1, told | {"lec_guard.tenant": self._tenants.of(event.verdict.tenant)})
                self._trace.get_current_span().add_event("lec_guard.bypass", told)
            case EffectEvent():
                self._acted(event)
            case EscalationResolved():
                self._asked(event)
            case PolicyReloaded():
                self._reloads.add(1, {"lec_guard.result": "renewed"})
            case ReloadRefused():
                self._reloads.add(1, {"lec_guard.result": "refused"})
            case _:
                assert_never(event)

    def _judged(self, verdict: Verdict) -> None:
        end = time.time_ns()
        self._seconds.record(
            verdict.ms / 1000,
            {
                "lec_guard.action": verdict.action,
                "lec_guard.stage": verdict.stage,
                "lec_guard.rule": self._rules.of(verdict.rule),
                "lec_guard.tenant": self._tenants.of(verdict.tenant),
            },
        )
        told: dict[str, _Value] = {
            "lec_guard.matched": verdict.matched,
            "lec_guard.detector.id": verdict.detector_id,
            "lec_guard.backend": verdict.backend,
            "lec_guard.windows": verdict.windows,
            "lec_guard.context_read": verdict.context_read,
        }
        span = self._span(f"lec_guard.check {verdict.stage}", verdict, told, verdict.ms, end)
        if verdict.cause is not None:
            self._fail(span, verdict.cause)
        _evaluated(span, verdict, end)
        span.end(end)

    def _acted(self, event: EffectEvent) -> None:
        end = time.time_ns()
        verdict = event.verdict
        self._effect_seconds.record(
            event.ms / 1000,
            {
                "lec_guard.action": verdict.action,
                "lec_guard.stage": verdict.stage,
                "lec_guard.tenant": self._tenants.of(verdict.tenant),
                "lec_guard.effect.failed": bool(event.failed),
                "lec_guard.effect.result": event.result,
            },
        )
        told: dict[str, _Value] = {
            "lec_guard.effect.result": event.result,
            "lec_guard.effect.rewrites": tuple(map(encodable, event.rewrites)),
            "lec_guard.effect.failed": tuple(map(encodable, event.failed)),
        }
        if event.again is not None:
            told["lec_guard.effect.again"] = event.again.action
        span = self._span(f"lec_guard.effect {verdict.stage}", verdict, told, event.ms, end)
        if event.failed:
            self._fail(span, event.failed[0].rpartition(": ")[2])
        if event.again is not None:
            _evaluated(span, event.again, end)
        span.end(end)

    def _asked(self, event: EscalationResolved) -> None:
        end = time.time_ns()
        section = self._sections.of(event.section)
        come: dict[str, _Value] = {
            "lec_guard.escalation.resolution": event.resolution,
            "lec_guard.escalation.follows": event.follows,
        }
        self._escalation_seconds.record(event.ms / 1000, {**come, "lec_guard.escalation.section": section})
        told: dict[str, _Value] = {
            **come,
            "lec_guard.escalation.section": encodable(event.section),
            "lec_guard.escalation.key": event.key,
        }
        span = self._span(f"lec_guard.escalation {section}", event.verdict, told, event.ms, end)
        if event.resolution == "timeout" or event.resolution == "error":
            self._fail(span, event.failure or event.resolution)
        else:
            answer = {
                "gen_ai.evaluation.name": encodable(event.section),
                "gen_ai.evaluation.score.label": event.resolution,
            }
            span.add_event("gen_ai.evaluation.result", answer, timestamp=end)
        span.end(end)

    def _span(self, name: str, verdict: Verdict, told: Mapping[str, _Value], ms: float, end: int) -> Span:
        """A span that began so many milliseconds before its end, and says whose step it is about."""
        attributes: dict[str, _Value] = {
            "lec_guard.action": verdict.action,
            "lec_guard.stage": verdict.stage,
            "lec_guard.policy.name": encodable(verdict.policy),
            "lec_guard.policy.version": verdict.policy_version,
            **told,
        }
        for key, value in (("rule", verdict.rule), ("tenant", verdict.tenant)):
            if value is not None:
                attributes[f"lec_guard.{key}"] = encodable(value)
        return self._tracer.start_span(name, start_time=end - round(ms * 1e6), attributes=attributes)

    def _fail(self, span: Span, kind: str) -> None:
        span.set_attribute("error.type", encodable(kind))
        span.set_status(self._trace.StatusCode.ERROR)


def _evaluated(span: Span, verdict: Verdict, at: int) -> None:
    """Each head's highest label, in the names of the conventions."""
    for head, labels in verdict.scores.items():
        if labels:
            label, score = max(labels.items(), key=lambda one: one[1])
            result: dict[str, str | float] = {
                "gen_ai.evaluation.name": head,
                "gen_ai.evaluation.score.value": score,
                "gen_ai.evaluation.score.label": label,
            }
            span.add_event("gen_ai.evaluation.result", result, timestamp=at)
