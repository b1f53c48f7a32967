"""Traces and metrics for OpenTelemetry."""

from __future__ import annotations

import sys
import time

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from lec_guard import SinkError, VerdictEvent
from lec_guard.observe.otel import OpenTelemetrySink
from tests.observe.made import EVENTS, HOSTILE, effect, failed, judged, resolved


class Collected:
    """A sink with an SDK that keeps everything."""

    def __init__(self, **options: object) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader])
        self.sink = OpenTelemetrySink(self.tracers, self.meters, **options)

    def spans(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def points(self, name: str) -> dict[tuple[str, ...], object]:
        data = self.reader.get_metrics_data()
        return {
            tuple(str(value) for _, value in sorted(point.attributes.items())): point
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        }


@pytest.fixture
def collected():
    found = Collected()
    yield found
    found.tracers.shutdown()
    found.meters.shutdown()


def test_a_step_is_a_span_that_began_as_long_ago_as_it_took(collected):
    before = time.time_ns()
    collected.sink.emit(VerdictEvent(verdict=judged(ms=250.0)))
    after = time.time_ns()
    (span,) = collected.spans()
    assert span.name == "lec_guard.check input"
    assert span.end_time - span.start_time == 250_000_000
    assert before <= span.end_time <= after


def test_a_span_says_what_was_decided(collected):
    collected.sink.emit(VerdictEvent(verdict=judged()))
    (span,) = collected.spans()
    assert dict(span.attributes) == {
        "lec_guard.action": "block",
        "lec_guard.stage": "input",
        "lec_guard.rule": "injection",
        "lec_guard.matched": ("injection-flag", "injection"),
        "lec_guard.tenant": "acme",
        "lec_guard.policy.name": "acme",
        "lec_guard.policy.version": "0123456789abcdef",
        "lec_guard.detector.id": "d",
        "lec_guard.backend": "b",
        "lec_guard.windows": 2,
        "lec_guard.context_read": False,
    }
    assert span.status.status_code is trace.StatusCode.UNSET
    assert span.instrumentation_scope.name == "lec_guard"


def test_each_head_is_a_result_in_the_names_of_the_conventions(collected):
    verdict = judged(scores={"injection": {"a": 0.1, "b": 0.7}, "safety": {"rude": 0.2}, "empty": {}})
    collected.sink.emit(VerdictEvent(verdict=verdict))
    (span,) = collected.spans()
    assert [(event.name, dict(event.attributes)) for event in span.events] == [
        (
            "gen_ai.evaluation.result",
            {
                "gen_ai.evaluation.name": head,
                "gen_ai.evaluation.score.value": score,
                "gen_ai.evaluation.score.label": label,
            },
        )
        for head, label, score in (("injection", "b", 0.7), ("safety", "rude", 0.2))
    ]


def test_acting_on_a_step_is_a_span_with_the_second_judgement(collected):
    again = judged(action="allow", rule=None, scores={"injection": {"injection": 0.2}})
    collected.sink.emit(effect(again=again, failed=()))
    (span,) = collected.spans()
    assert span.name == "lec_guard.effect input"
    assert span.end_time - span.start_time == 2_500_000_000
    assert dict(span.attributes) == {
        "lec_guard.action": "rewrite",
        "lec_guard.stage": "input",
        "lec_guard.rule": "pii",
        "lec_guard.tenant": "acme",
        "lec_guard.policy.name": "acme",
        "lec_guard.policy.version": "0123456789abcdef",
        "lec_guard.effect.result": "rewritten",
        "lec_guard.effect.rewrites": ("redact",),
        "lec_guard.effect.failed": (),
        "lec_guard.effect.again": "allow",
    }
    (event,) = span.events
    assert event.name == "gen_ai.evaluation.result"
    assert event.attributes["gen_ai.evaluation.score.value"] == 0.2
    assert span.status.status_code is trace.StatusCode.UNSET
    assert collected.points("lec_guard.check.duration") == {}


def test_an_answer_is_a_span_and_a_result_that_do_not_say_whose(collected):
    collected.sink.emit(resolved())
    (span,) = collected.spans()
    assert span.name == "lec_guard.escalation floor:reviewer"
    assert span.end_time - span.start_time == 90_000_000_000
    assert dict(span.attributes) == {
        "lec_guard.action": "escalate",
        "lec_guard.stage": "input",
        "lec_guard.rule": "transfer",
        "lec_guard.tenant": "acme",
        "lec_guard.policy.name": "acme",
        "lec_guard.policy.version": "0123456789abcdef",
        "lec_guard.escalation.section": "floor:reviewer",
        "lec_guard.escalation.key": "0123456789abcdef0123456789abcdef",
        "lec_guard.escalation.resolution": "allow",
        "lec_guard.escalation.follows": "allow",
    }
    assert [(event.name, dict(event.attributes)) for event in span.events] == [
        (
            "gen_ai.evaluation.result",
            {"gen_ai.evaluation.name": "floor:reviewer", "gen_ai.evaluation.score.label": "allow"},
        )
    ]
    assert "Ada" not in span.to_json()


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        (effect(failed=("floor:drop: OSError", "redact: ValueError")), "OSError"),
        (resolved(resolution="error", follows="block", failure="ConnectError"), "ConnectError"),
        (resolved(resolution="timeout", follows="allow"), "timeout"),
    ],
)
def test_what_failed_and_what_came_too_late_is_an_error_of_its_span(collected, event, kind):
    collected.sink.emit(event)
    (span,) = collected.spans()
    assert span.status.status_code is trace.StatusCode.ERROR
    assert span.attributes["error.type"] == kind
    assert not any("floor:reviewer" in str(one.attributes) for one in span.events)


def test_a_span_belongs_to_the_one_that_called(collected):
    with collected.tracers.get_tracer("app").start_as_current_span("chat") as parent:
        collected.sink.emit(VerdictEvent(verdict=judged()))
    child = next(span for span in collected.spans() if span.name.startswith("lec_guard"))
    assert child.parent.span_id == parent.get_span_context().span_id


def test_what_was_not_judged_is_an_error_of_the_span_and_a_block_is_none(collected):
    collected.sink.emit(VerdictEvent(verdict=judged(cause="timeout")))
    (span,) = collected.spans()
    assert span.status.status_code is trace.StatusCode.ERROR
    assert span.attributes["error.type"] == "timeout"


def test_failures_and_bypasses_stand_in_the_span_of_the_caller(collected):
    with collected.tracers.get_tracer("app").start_as_current_span("chat"):
        for event in EVENTS:
            collected.sink.emit(event)
    chat = next(span for span in collected.spans() if span.name == "chat")
    assert [(event.name, event.attributes["error.type"]) for event in chat.events] == [
        ("lec_guard.error", "error"),
        ("lec_guard.bypass", "timeout"),
    ]


def test_every_event_is_measured_where_it_belongs(collected):
    for event in EVENTS:
        collected.sink.emit(event)
    (duration,) = collected.points("lec_guard.check.duration").items()
    assert duration[0] == ("block", "injection", "input", "acme")
    assert (duration[1].count, duration[1].sum) == (1, 0.0015)
    assert duration[1].explicit_bounds[0] == 0.0005
    assert {key: point.value for key, point in collected.points("lec_guard.errors").items()} == {
        ("error", "OSError", "input"): 1
    }
    (acted,) = collected.points("lec_guard.effect.duration").items()
    assert acted[0] == ("rewrite", "True", "rewritten", "input", "acme")
    assert (acted[1].count, acted[1].sum) == (1, 2.5)
    (asked,) = collected.points("lec_guard.escalation.duration").items()
    assert asked[0] == ("allow", "allow", "floor:reviewer")
    assert (asked[1].count, asked[1].sum, asked[1].explicit_bounds[-1]) == (1, 90.0, 86400.0)
    assert {key: point.value for key, point in collected.points("lec_guard.bypasses").items()} == {
        ("timeout", "input", "acme"): 1
    }
    assert {key: point.value for key, point in collected.points("lec_guard.policy.reloads").items()} == {
        ("renewed",): 1,
        ("refused",): 1,
    }


def test_no_flood_of_tenants_makes_more_than_so_many_series():
    collected = Collected(tenants=2, rules=1)
    for number in range(50):
        collected.sink.emit(VerdictEvent(verdict=judged(tenant=f"t{number}", rule=f"r{number}")))
    found = {(key[1], key[3]) for key in collected.points("lec_guard.check.duration")}
    assert found == {("r0", "t0"), ("other", "t1"), ("other", "other")}
    assert collected.spans()[-1].attributes["lec_guard.tenant"] == "t49"
    collected.tracers.shutdown()
    collected.meters.shutdown()


def test_no_flood_of_sections_or_kinds_makes_more_than_so_many_series():
    collected = Collected(sections=1)
    for number in range(100):
        collected.sink.emit(resolved(section=f"s{number}"))
        collected.sink.emit(failed(kind=f"Error{number}"))
    assert {key[2] for key in collected.points("lec_guard.escalation.duration")} == {"s0", "other"}
    assert {span.name for span in collected.spans()} == {"lec_guard.escalation s0", "lec_guard.escalation other"}
    assert len(collected.points("lec_guard.errors")) == 51
    collected.tracers.shutdown()
    collected.meters.shutdown()


def test_no_text_leaves(collected):
    with collected.tracers.get_tracer("app").start_as_current_span("chat"):
        collected.sink.emit(failed("could not read 'xyzzy'"))
        collected.sink.emit(VerdictEvent(verdict=judged(message="No, xyzzy.", messages={"en": "No, xyzzy."})))
    assert "xyzzy" not in "".join(span.to_json() for span in collected.spans())
    assert "xyzzy" not in collected.reader.get_metrics_data().to_json()


def test_a_name_that_is_no_utf_8_can_be_sent(collected):
    collected.sink.emit(VerdictEvent(verdict=judged(tenant=HOSTILE, rule=HOSTILE, policy=HOSTILE)))
    (span,) = collected.spans()
    for name in ("lec_guard.tenant", "lec_guard.rule", "lec_guard.policy.name"):
        assert span.attributes[name].encode("utf-8")
    verdict = judged(tenant=HOSTILE)
    collected.sink.emit(effect(verdict=verdict, rewrites=(HOSTILE,), failed=(HOSTILE,)))
    collected.sink.emit(resolved(verdict=verdict, section=HOSTILE, resolution="error", failure=HOSTILE))
    collected.sink.emit(resolved(verdict=verdict, section=HOSTILE))
    for span in collected.spans():
        assert span.name.encode("utf-8")
        for own in (span.attributes, *(one.attributes for one in span.events)):
            for value in own.values():
                for word in value if isinstance(value, tuple) else (value,):
                    assert str(word).encode("utf-8")


def test_without_an_sdk_nothing_happens():
    sink = OpenTelemetrySink()
    for event in EVENTS:
        sink.emit(event)


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(SinkError, match=r"pip install 'lec-guard\[otel\]'"):
        OpenTelemetrySink()
