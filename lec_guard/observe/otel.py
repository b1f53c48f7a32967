"""Traces and metrics for OpenTelemetry."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import TYPE_CHECKING, assert_never

from lec_guard.errors import SinkError
from lec_guard.observe.events import BypassEvent, ErrorEvent, Event, PolicyReloaded, ReloadRefused, VerdictEvent
from lec_guard.observe.labels import Labels
from lec_guard.observe.plain import encodable

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from lec_guard.step import Verdict

_SCOPE = "lec_guard"
_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class OpenTelemetrySink:
    """Hands verdicts to OpenTelemetry as spans, all events as metrics. Needs the extra `otel`, and some SDK to collect.

    A step is a span `lec_guard.check {stage}`, a child of the span that is current where the guard was called. It ends
    when the verdict is told and began the verdict's `ms` before; steps of one call share its time evenly, so their
    spans lie over one another. It has the attributes `lec_guard.action`, `.stage`, `.rule`, `.matched`, `.tenant`,
    `.policy.name`, `.policy.version`, `.detector.id`, `.backend`, `.windows` and `.context_read`. Where a step was not
    judged, `error.type` is the cause and the span's status is an error; a block is none.

    Of the semantic conventions for generative AI, which are in development, those fit that tell of a result of
    judging: each head's highest label is an event `gen_ai.evaluation.result` of the span, with `gen_ai.evaluation.name`
    (the head), `.score.value` and `.score.label`. For guardrails as such they have no names yet.

    What a fail mode let pass is an event `lec_guard.bypass` of the caller's span, what failed one `lec_guard.error`.
    No event and no attribute holds text, or what a detector said of its failure.

    | metric | attributes |
    |---|---|
    | `lec_guard.check.duration` (histogram, s) | action, stage, rule, tenant |
    | `lec_guard.errors` | `error.type`, stage |
    | `lec_guard.bypasses` | `error.type`, stage, tenant |
    | `lec_guard.policy.reloads` | result |

    Args:
        tracer_provider: Where spans go; None for the global one.
        meter_provider: Where metrics go; None for the global one.
        tenants: How many tenants keep their names in metrics, those that come first; or the names of these tenants.
            All others are `other`. Spans name every tenant.
        rules: The same for rules.

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
    ) -> None:
        try:
            from opentelemetry import metrics, trace
        except ModuleNotFoundError:
            raise SinkError("OpenTelemetrySink needs opentelemetry-api; run: pip install 'lec-guard[otel]'") from None
        self._trace = trace
        self._tenants = Labels(tenants)
        self._rules = Labels(rules)
        self._tracer = trace.get_tracer(_SCOPE, tracer_provider=tracer_provider)
        meter = metrics.get_meter(_SCOPE, meter_provider=meter_provider)
        self._seconds = meter.create_histogram(
            "lec_guard.check.duration",
            unit="s",
            description="How long a step took.",
            explicit_bucket_boundaries_advisory=_BUCKETS,
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
                told = {"error.type": event.cause, "lec_guard.stage": event.verdict.stage}
                self._errors.add(1, told)
                self._trace.get_current_span().add_event("lec_guard.error", told)
            case BypassEvent():
                told = {"error.type": event.cause, "lec_guard.stage": event.verdict.stage}
                self._bypasses.add(1, told | {"lec_guard.tenant": self._tenants.of(event.verdict.tenant)})
                self._trace.get_current_span().add_event("lec_guard.bypass", told)
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
        span = self._tracer.start_span(
            f"lec_guard.check {verdict.stage}",
            start_time=end - round(verdict.ms * 1e6),
            attributes={
                "lec_guard.action": verdict.action,
                "lec_guard.stage": verdict.stage,
                "lec_guard.matched": verdict.matched,
                "lec_guard.policy.name": encodable(verdict.policy),
                "lec_guard.policy.version": verdict.policy_version,
                "lec_guard.detector.id": verdict.detector_id,
                "lec_guard.backend": verdict.backend,
                "lec_guard.windows": verdict.windows,
                "lec_guard.context_read": verdict.context_read,
            },
        )
        for name, value in (("rule", verdict.rule), ("tenant", verdict.tenant)):
            if value is not None:
                span.set_attribute(f"lec_guard.{name}", encodable(value))
        if verdict.cause is not None:
            span.set_attribute("error.type", verdict.cause)
            span.set_status(self._trace.StatusCode.ERROR)
        for head, labels in verdict.scores.items():
            if labels:
                label, score = max(labels.items(), key=lambda one: one[1])
                result: dict[str, str | float] = {
                    "gen_ai.evaluation.name": head,
                    "gen_ai.evaluation.score.value": score,
                    "gen_ai.evaluation.score.label": label,
                }
                span.add_event("gen_ai.evaluation.result", result, timestamp=end)
        span.end(end)
