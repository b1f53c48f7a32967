"""Numbers for Prometheus."""

from __future__ import annotations

from collections.abc import Collection
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

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# A redaction takes less than a millisecond, a model seconds, and people hours.
_WAITS = (0.001, 0.01, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0)
_KINDS = 50


class PrometheusSink:
    """Counts what happens, for Prometheus to collect. Needs the extra `prometheus`.

    | metric | labels | counts |
    |---|---|---|
    | `lec_guard_checks_total` | stage, tenant | steps that were judged |
    | `lec_guard_actions_total` | action, rule, stage, tenant | what was decided, and by which rule |
    | `lec_guard_check_seconds` | stage | how long a step took: a histogram |
    | `lec_guard_errors_total` | cause, kind, stage | steps that could not be judged as a policy wanted |
    | `lec_guard_bypasses_total` | cause, stage, tenant | steps that a fail mode let pass unjudged |
    | `lec_guard_effects_total` | action, failed, result, stage, tenant | what came of steps that were acted on |
    | `lec_guard_effect_seconds` | stage | how long all of that took: a histogram |
    | `lec_guard_escalations_total` | follows, resolution, section | what came of asking somebody |
    | `lec_guard_escalation_seconds` | resolution, section | how long they took: a histogram |
    | `lec_guard_policy_reloads_total` | result | policies that came into force, or were refused |

    The label of no tenant, of no rule and of no kind of error is empty. `kind` is the type of the detector's error, and
    the first 50 keep their names. `failed` is `yes` where a rewrite or somebody to ask failed, whatever followed. A
    text that is judged once more after a rewrite is part of its effect, and no check of its own.

    Args:
        registry: Where the metrics go; None for the one that the whole process shares.
        tenants: How many tenants keep their names, those that come first; or the names of these tenants. All others are
            `other`, for Prometheus keeps a series for each.
        rules: The same for rules.
        sections: The same for sections of `escalations`.

    Raises:
        SinkError: If the package is missing, or the registry has these metrics already.
    """

    def __init__(
        self,
        registry: CollectorRegistry | None = None,
        *,
        tenants: int | Collection[str] = 100,
        rules: int | Collection[str] = 100,
        sections: int | Collection[str] = 100,
    ) -> None:
        try:
            from prometheus_client import REGISTRY, Counter, Histogram
        except ModuleNotFoundError:
            raise SinkError(
                "PrometheusSink needs prometheus-client; run: pip install 'lec-guard[prometheus]'"
            ) from None
        where = REGISTRY if registry is None else registry
        self._tenants = Labels(tenants)
        self._rules = Labels(rules)
        self._sections = Labels(sections)
        self._kinds = Labels(_KINDS)
        try:
            self._checks = Counter("lec_guard_checks", "Steps that were judged.", ("stage", "tenant"), registry=where)
            self._actions = Counter(
                "lec_guard_actions", "What was decided.", ("action", "rule", "stage", "tenant"), registry=where
            )
            self._seconds = Histogram(
                "lec_guard_check_seconds", "How long a step took.", ("stage",), registry=where, buckets=_BUCKETS
            )
            self._errors = Counter(
                "lec_guard_errors", "Steps not judged as a policy wanted.", ("cause", "kind", "stage"), registry=where
            )
            self._bypasses = Counter(
                "lec_guard_bypasses", "Steps passed unjudged.", ("cause", "stage", "tenant"), registry=where
            )
            self._effects = Counter(
                "lec_guard_effects",
                "What came of steps that were acted on.",
                ("action", "failed", "result", "stage", "tenant"),
                registry=where,
            )
            self._effect_seconds = Histogram(
                "lec_guard_effect_seconds",
                "How long acting on a step took.",
                ("stage",),
                registry=where,
                buckets=_WAITS,
            )
            self._escalations = Counter(
                "lec_guard_escalations",
                "What came of asking somebody.",
                ("follows", "resolution", "section"),
                registry=where,
            )
            self._escalation_seconds = Histogram(
                "lec_guard_escalation_seconds",
                "How long those took who were asked.",
                ("resolution", "section"),
                registry=where,
                buckets=_WAITS,
            )
            self._reloads = Counter("lec_guard_policy_reloads", "Changes of policies.", ("result",), registry=where)
        except ValueError:
            raise SinkError(
                "the registry has metrics of a PrometheusSink already; give all guards of a process the same sink, or "
                "each sink a registry of its own"
            ) from None

    def emit(self, event: Event) -> None:
        """Count an event.

        Args:
            event: What happened.
        """
        match event:
            case VerdictEvent():
                verdict = event.verdict
                tenant = self._tenants.of(verdict.tenant)
                self._checks.labels(verdict.stage, tenant).inc()
                self._actions.labels(verdict.action, self._rules.of(verdict.rule), verdict.stage, tenant).inc()
                self._seconds.labels(verdict.stage).observe(verdict.ms / 1000)
            case ErrorEvent():
                self._errors.labels(event.cause, self._kinds.of(event.kind), event.verdict.stage).inc()
            case BypassEvent():
                tenant = self._tenants.of(event.verdict.tenant)
                self._bypasses.labels(event.cause, event.verdict.stage, tenant).inc()
            case EffectEvent():
                verdict = event.verdict
                tenant = self._tenants.of(verdict.tenant)
                failed = "yes" if event.failed else "no"
                self._effects.labels(verdict.action, failed, event.result, verdict.stage, tenant).inc()
                self._effect_seconds.labels(verdict.stage).observe(event.ms / 1000)
            case EscalationResolved():
                section = self._sections.of(event.section)
                self._escalations.labels(event.follows, event.resolution, section).inc()
                self._escalation_seconds.labels(event.resolution, section).observe(event.ms / 1000)
            case PolicyReloaded():
                self._reloads.labels("renewed").inc()
            case ReloadRefused():
                self._reloads.labels("refused").inc()
            case _:
                assert_never(event)
