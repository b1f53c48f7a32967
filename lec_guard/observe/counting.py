"""What is counted of what happens, whoever collects the numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Any, assert_never

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

_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# A redaction takes less than a millisecond, a model seconds, and people hours.
_WAITS = (0.001, 0.01, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0)
_KINDS = 50


class CountingSink(ABC):
    """Counts what happens; `lec_guard.observe.prometheus.PrometheusSink` has the table of what is counted.

    Args:
        tenants: How many tenants keep their names, those that come first; or the names of these tenants. All others are
            `other`, for whoever collects numbers keeps a series for each.
        rules: The same for rules.
        sections: The same for sections of `escalations`.
    """

    def __init__(
        self,
        *,
        tenants: int | Collection[str] = 100,
        rules: int | Collection[str] = 100,
        sections: int | Collection[str] = 100,
    ) -> None:
        self._tenants = Labels(tenants)
        self._rules = Labels(rules)
        self._sections = Labels(sections)
        self._kinds = Labels(_KINDS)
        self._checks = self._counter("lec_guard_checks", "Steps that were judged.", ("stage", "tenant"))
        self._actions = self._counter("lec_guard_actions", "What was decided.", ("action", "rule", "stage", "tenant"))
        self._seconds = self._histogram("lec_guard_check_seconds", "How long a step took.", ("stage",), _BUCKETS)
        self._errors = self._counter(
            "lec_guard_errors", "Steps not judged as a policy wanted.", ("cause", "kind", "stage")
        )
        self._bypasses = self._counter("lec_guard_bypasses", "Steps passed unjudged.", ("cause", "stage", "tenant"))
        self._effects = self._counter(
            "lec_guard_effects",
            "What came of steps that were acted on.",
            ("action", "failed", "result", "stage", "tenant"),
        )
        self._effect_seconds = self._histogram(
            "lec_guard_effect_seconds", "How long acting on a step took.", ("stage",), _WAITS
        )
        self._escalations = self._counter(
            "lec_guard_escalations", "What came of asking somebody.", ("follows", "resolution", "section")
        )
        self._escalation_seconds = self._histogram(
            "lec_guard_escalation_seconds", "How long those took who were asked.", ("resolution", "section"), _WAITS
        )
        self._reloads = self._counter("lec_guard_policy_reloads", "Changes of policies.", ("result",))

    @abstractmethod
    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Any:
        """A counter, whose `labels(*values)` has `inc()`."""

    @abstractmethod
    def _histogram(self, name: str, text: str, labels: tuple[str, ...], buckets: tuple[float, ...]) -> Any:
        """A histogram, whose `labels(*values)` has `observe(value)`."""

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
