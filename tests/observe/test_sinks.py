"""Several sinks as one: what follows where one fails."""

from __future__ import annotations

import logging

import pytest

from lec_guard import PolicyReloaded, ReloadRefused, SinkError, UnsupportedValueError, VerdictEvent
from lec_guard.observe.sinks import Sinks
from tests.observe.made import EVENTS, judged

STEP = [event for event in EVENTS if not isinstance(event, PolicyReloaded | ReloadRefused)]
POLICY = [event for event in EVENTS if isinstance(event, PolicyReloaded | ReloadRefused)]


class Kept:
    def __init__(self) -> None:
        self.events: list[object] = []
        self.is_closed = False

    def emit(self, event: object) -> None:
        self.events.append(event)

    def close(self) -> None:
        self.is_closed = True


class Broken:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def emit(self, event: object) -> None:
        raise self.error

    def close(self) -> None:
        raise self.error


class Bare:
    def emit(self, event: object) -> None:
        pass


@pytest.mark.parametrize("event", EVENTS)
def test_every_sink_hears_every_event_in_order(event):
    first, second = Kept(), Kept()
    Sinks([first, Broken(OSError("xyzzy")), second]).emit(event)
    assert first.events == second.events == [event]


def test_a_failure_is_told_once_of_each_kind_and_counted(caplog):
    broken = Broken(OSError("xyzzy"))
    sinks = Sinks([broken])
    for event in EVENTS:
        sinks.emit(event)
    broken.error = ValueError("xyzzy")
    sinks.emit(EVENTS[0])
    assert [one.levelno for one in caplog.records] == [logging.ERROR, logging.ERROR]
    assert "Broken" in caplog.text
    assert "OSError" in caplog.text
    assert "test_sinks.py" in caplog.text
    assert sinks.failures == {"Broken: OSError": len(EVENTS), "Broken: ValueError": 1}


def test_what_an_error_says_is_not_logged_unless_it_is_ours(caplog):
    caplog.set_level(logging.DEBUG)
    Sinks([Broken(OSError("xyzzy"))]).emit(EVENTS[0])
    assert "xyzzy" not in caplog.text
    Sinks([Broken(SinkError("the disk is full"))]).emit(EVENTS[0])
    assert "the disk is full" in caplog.text


@pytest.mark.parametrize("event", STEP)
def test_block_lets_no_step_pass_untold(event):
    kept = Kept()
    with pytest.raises(SinkError, match=r"Broken could not take .*: OSError") as caught:
        Sinks([Broken(OSError("xyzzy")), kept], on_error="block").emit(event)
    assert isinstance(caught.value.__cause__, OSError)
    assert "xyzzy" not in str(caught.value)
    assert kept.events == [event]


@pytest.mark.parametrize("event", POLICY)
def test_an_event_of_policies_stops_nothing(event):
    sinks = Sinks([Broken(OSError("x"))], on_error="block")
    sinks.emit(event)
    assert sinks.failures == {"Broken: OSError": 1}


def test_what_ends_the_process_is_no_failure_of_a_sink():
    sinks = Sinks([Broken(KeyboardInterrupt())])
    with pytest.raises(KeyboardInterrupt):
        sinks.emit(VerdictEvent(verdict=judged()))
    assert sinks.failures == {}


def test_all_are_closed_even_after_one_that_fails(caplog):
    kept = Kept()
    Sinks([Bare(), Broken(OSError("x")), kept]).close()
    assert kept.is_closed
    assert "could not be closed" in caplog.text


def test_another_word_is_an_error():
    with pytest.raises(UnsupportedValueError, match="use warn or block"):
        Sinks([], on_error="ignore")
