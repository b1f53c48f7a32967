"""Numbers for Prometheus."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from lec_guard.errors import SinkError
from lec_guard.observe.counting import CountingSink

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Counter, Histogram


class PrometheusSink(CountingSink):
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
            from prometheus_client import REGISTRY
        except ModuleNotFoundError:
            raise SinkError(
                "PrometheusSink needs prometheus-client; run: pip install 'lec-guard[prometheus]'"
            ) from None
        self._registry = REGISTRY if registry is None else registry
        try:
            super().__init__(tenants=tenants, rules=rules, sections=sections)
        except ValueError:
            raise SinkError(
                "the registry has metrics of a PrometheusSink already; give all guards of a process the same sink, or "
                "each sink a registry of its own"
            ) from None

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        from prometheus_client import Counter

        return Counter(name, text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, labels: tuple[str, ...], buckets: tuple[float, ...]) -> Histogram:
        from prometheus_client import Histogram

        return Histogram(name, text, labels, registry=self._registry, buckets=buckets)
