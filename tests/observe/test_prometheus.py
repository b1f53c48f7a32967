"""Numbers for Prometheus."""

from __future__ import annotations

import sys

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from lec_guard import SinkError, VerdictEvent
from lec_guard.observe.prometheus import PrometheusSink
from tests.observe.made import EVENTS, HOSTILE, effect, failed, judged, resolved


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def values(registry: CollectorRegistry, name: str) -> dict[tuple[str, ...], float]:
    return {
        tuple(value for _, value in sorted(sample.labels.items())): sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == name
    }


def test_every_event_is_counted_where_it_belongs(registry):
    sink = PrometheusSink(registry)
    for event in EVENTS:
        sink.emit(event)
    sink.emit(VerdictEvent(verdict=judged(tenant=None, rule=None, action="allow", stage="output", ms=20.0)))
    assert values(registry, "lec_guard_checks_total") == {("input", "acme"): 1, ("output", ""): 1}
    assert values(registry, "lec_guard_actions_total") == {
        ("block", "injection", "input", "acme"): 1,
        ("allow", "", "output", ""): 1,
    }
    assert values(registry, "lec_guard_errors_total") == {("error", "OSError", "input"): 1}
    assert values(registry, "lec_guard_bypasses_total") == {("timeout", "input", "acme"): 1}
    assert values(registry, "lec_guard_policy_reloads_total") == {("renewed",): 1, ("refused",): 1}
    assert values(registry, "lec_guard_check_seconds_sum") == pytest.approx({("input",): 0.0015, ("output",): 0.02})
    buckets = values(registry, "lec_guard_check_seconds_bucket")
    assert (buckets["0.001", "input"], buckets["0.0025", "input"]) == (0, 1)


def test_what_came_of_steps_is_counted_and_how_long_it_took(registry):
    sink = PrometheusSink(registry)
    for event in (effect(), effect(result="blocked", failed=(), again=None), effect(ms=500.0), resolved()):
        sink.emit(event)
    sink.emit(resolved(resolution="timeout", follows="block", by=None, ms=7_200_000.0))
    assert values(registry, "lec_guard_effects_total") == {
        ("rewrite", "yes", "rewritten", "input", "acme"): 2,
        ("rewrite", "no", "blocked", "input", "acme"): 1,
    }
    assert values(registry, "lec_guard_effect_seconds_sum") == {("input",): 5.5}
    assert values(registry, "lec_guard_escalations_total") == {
        ("allow", "allow", "floor:reviewer"): 1,
        ("block", "timeout", "floor:reviewer"): 1,
    }
    assert values(registry, "lec_guard_escalation_seconds_sum") == {
        ("allow", "floor:reviewer"): 90.0,
        ("timeout", "floor:reviewer"): 7200.0,
    }
    buckets = values(registry, "lec_guard_escalation_seconds_bucket")
    assert (buckets["3600.0", "timeout", "floor:reviewer"], buckets["14400.0", "timeout", "floor:reviewer"]) == (0, 1)


def test_a_second_judgement_is_no_other_check(registry):
    PrometheusSink(registry).emit(effect(again=judged()))
    for name in ("lec_guard_checks_total", "lec_guard_actions_total", "lec_guard_check_seconds_count"):
        assert values(registry, name) == {}


def test_no_flood_of_sections_or_kinds_makes_more_than_so_many_series(registry):
    sink = PrometheusSink(registry, sections=["reviewer"])
    for number in range(200):
        sink.emit(resolved(section=f"s{number}"))
        sink.emit(failed(kind=f"Error{number}"))
    sink.emit(resolved(section="reviewer"))
    assert values(registry, "lec_guard_escalations_total") == {
        ("allow", "allow", "other"): 200,
        ("allow", "allow", "reviewer"): 1,
    }
    kinds = {key[1]: count for key, count in values(registry, "lec_guard_errors_total").items()}
    assert (len(kinds), kinds["Error0"], kinds["other"]) == (51, 1, 150)


def test_no_flood_of_names_makes_more_than_so_many_series(registry):
    sink = PrometheusSink(registry, tenants=3, rules=2)
    for number in range(500):
        sink.emit(VerdictEvent(verdict=judged(tenant=f"t{number}", rule=f"r{number}")))
    checks = values(registry, "lec_guard_checks_total")
    assert checks == {("input", "t0"): 1, ("input", "t1"): 1, ("input", "t2"): 1, ("input", "other"): 497}
    assert {key[1] for key in values(registry, "lec_guard_actions_total")} == {"r0", "r1", "other"}


def test_named_tenants_keep_their_names_in_a_flood(registry):
    sink = PrometheusSink(registry, tenants=["acme"])
    for tenant in ("x", "y", "acme"):
        sink.emit(VerdictEvent(verdict=judged(tenant=tenant)))
    assert values(registry, "lec_guard_checks_total") == {("input", "other"): 2, ("input", "acme"): 1}


def test_a_hostile_name_does_not_keep_the_metrics_from_being_read(registry):
    PrometheusSink(registry).emit(VerdictEvent(verdict=judged(tenant=HOSTILE)))
    page = generate_latest(registry).decode("utf-8")
    lines = [line for line in page.splitlines() if line.startswith("lec_guard_checks_total")]
    assert len(lines) == 1


def test_who_answered_is_no_label(registry):
    PrometheusSink(registry).emit(resolved(by="Ada", key="0123"))
    page = generate_latest(registry).decode("utf-8")
    assert "Ada" not in page
    assert "0123" not in page


def test_two_sinks_on_one_registry_are_an_error_that_says_what_to_do(registry):
    PrometheusSink(registry)
    with pytest.raises(SinkError, match="give all guards of a process the same sink"):
        PrometheusSink(registry)


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(SinkError, match=r"pip install 'lec-guard\[prometheus\]'"):
        PrometheusSink()
