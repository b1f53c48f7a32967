"""A line an event, harmless to a terminal."""

from __future__ import annotations

import io
import re
import sys
import unicodedata
from concurrent.futures import ThreadPoolExecutor

import pytest

from lec_guard import BypassEvent, ErrorEvent, PolicyReloaded, ReloadRefused, Span, VerdictEvent
from lec_guard.observe.console import ConsoleSink
from tests.observe.made import EVENTS, HOSTILE, effect, failed, judged, resolved


def shown(event: object, **options: object) -> str:
    stream = io.StringIO()
    ConsoleSink(stream, **options).emit(event)
    return stream.getvalue()


@pytest.mark.parametrize("event", EVENTS)
def test_every_event_is_one_line_with_the_time(event):
    line = shown(event)
    assert line.count("\n") == 1
    assert re.match(r"\d\d:\d\d:\d\d\.\d\d\d \w", line)


def test_a_verdict_says_what_was_decided_and_why():
    line = shown(VerdictEvent(verdict=judged()))[13:]
    assert line == (
        "block    input        injection tenant=acme policy=acme@0123456789ab injection.injection=0.90@0:4 "
        "shadow:floor=flag candidate=allow 1.5ms\n"
    )


def test_a_bypass_and_an_error_say_their_cause():
    bypass = shown(EVENTS[2])[13:]
    assert bypass == "bypass allow    input        fail:timeout tenant=acme cause=timeout\n"
    assert re.search(r"error block .* cause=error kind=OSError reason_hmac=[0-9a-f]{32}\n", shown(failed()))


def test_what_came_of_a_step_says_what_was_done_what_failed_and_how_long_it_took():
    assert shown(effect())[13:] == (
        "effect rewrite  input        pii tenant=acme result=rewritten again=allow rewrites=redact "
        'failed="floor:drop: TimeoutError" 2500.0ms\n'
    )
    bare = effect(result="blocked", rewrites=(), again=None, failed=())
    assert shown(bare)[13:] == "effect rewrite  input        pii tenant=acme result=blocked 2500.0ms\n"
    several = effect(rewrites=("redact", "a,b"))
    assert ' rewrites=redact,"a,b" ' in shown(several)


def test_an_answer_says_who_gave_it_and_what_follows():
    assert shown(resolved())[13:] == (
        "escalation_resolved escalate input        transfer tenant=acme section=floor:reviewer "
        "key=0123456789abcdef0123456789abcdef resolution=allow follows=allow by=Ada 90000.0ms\n"
    )
    failure = resolved(resolution="error", follows="block", by=None, failure="ConnectError")
    assert " resolution=error follows=block failure=ConnectError 90000.0ms\n" in shown(failure)


def test_reloads_say_what_changed():
    assert shown(PolicyReloaded(policy="acme", version="2", before="1"))[13:] == (
        "policy_reloaded policy=acme version=2 before=1\n"
    )
    assert 'reason="a\\u000ab"' in shown(ReloadRefused(policy="acme", reason="a\nb", version=None))


def test_what_a_detector_said_is_shown_only_where_asked():
    assert "xyzzy" not in shown(failed())
    assert "xyzzy" in shown(failed(), include_text=True)


def hostile() -> list[object]:
    span = Span(start=0, end=1, head=HOSTILE, label=HOSTILE, score=1.0)
    verdict = judged(
        tenant=HOSTILE,
        rule=HOSTILE,
        policy=HOSTILE,
        policy_version=HOSTILE,
        scores={HOSTILE: {HOSTILE: 1.0}},
        spans=(span,),
    )
    return [
        VerdictEvent(verdict=verdict),
        ErrorEvent(verdict=verdict, cause="error", reason=HOSTILE),
        BypassEvent(verdict=verdict, cause="error"),
        ErrorEvent(verdict=verdict, cause="error", reason=None, kind=HOSTILE),
        effect(verdict=verdict, again=verdict, rewrites=(HOSTILE, HOSTILE), failed=(HOSTILE,)),
        resolved(verdict=verdict, section=HOSTILE, key=HOSTILE, by=HOSTILE, failure=HOSTILE),
        PolicyReloaded(policy=HOSTILE, version=HOSTILE, before=HOSTILE),
        ReloadRefused(policy=HOSTILE, reason=HOSTILE, version=HOSTILE),
    ]


@pytest.mark.parametrize("event", hostile())
def test_no_word_from_elsewhere_reaches_the_terminal_as_a_sign(event):
    line = shown(event, include_text=True)
    assert line.count("\n") == 1
    assert {unicodedata.category(one) for one in line[:-1]}.isdisjoint({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def test_markup_is_not_read():
    assert 'tenant="[bold red]x[/]"' in shown(VerdictEvent(verdict=judged(tenant="[bold red]x[/]")))


def test_no_word_passes_for_another_field():
    line = shown(VerdictEvent(verdict=judged(tenant="x policy=default@1 0.0ms", rule="a b")))
    assert ' tenant="x policy=default@1 0.0ms" ' in line
    assert ' "a b" ' in line
    assert ' by="Ada follows=block" ' in shown(resolved(by="Ada follows=block"))
    assert ' by="' + "x" * 299 + "…" in shown(resolved(by="x" * 1000))


def test_a_stream_that_knows_only_ascii_takes_it():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    ConsoleSink(stream).emit(VerdictEvent(verdict=judged(tenant="Müller")))
    assert b'tenant="M\\xfcller"' in raw.getvalue()


def test_it_goes_to_the_standard_error_of_that_time(capsys):
    ConsoleSink().emit(EVENTS[0])
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "block" in captured.err


def test_lines_of_many_threads_do_not_mix(monkeypatch):
    stream = io.StringIO()
    sink = ConsoleSink(stream)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(sink.emit, [EVENTS[0]] * 300))
    finally:
        sys.setswitchinterval(interval)
    assert len({line[13:] for line in stream.getvalue().splitlines()}) == 1
    assert stream.getvalue().count("\n") == 300
