"""A short soak, and that it would see what it is there to see. `make soak` is the long one."""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace

import pytest

from lec_guard import judging
from lec_guard.policy.compile import Readings
from lec_guard.policy.decide import decide
from lec_guard.policy.store import Changes, PolicyStore
from tests import soak


def test_no_verdict_is_of_a_policy_that_was_never_valid(capsys):
    assert soak.main(["--seconds", "3", "--embedded", "1"]) == 0
    assert capsys.readouterr().out.endswith("\nnothing is wrong\n")


@functools.cache
def known() -> soak.Known:
    """What `soak.known` finds for the quick detector: it takes longer than a short soak."""
    detector = soak.quick()
    return soak.known(soak.Files.made(), detector, dict(zip(soak.TEXTS, detector.score(soak.STEPS), strict=True)))


@pytest.fixture
def _known(monkeypatch):
    found = known()
    monkeypatch.setattr(soak, "known", lambda *_: dict(found))


def short() -> str:
    report = soak.soak(1.5, threads=4, embedded=0, seed=1)
    return "\n".join(report.violations)


@pytest.mark.usefixtures("_known")
def test_a_version_that_nobody_wrote_is_seen(monkeypatch):
    known = soak.known

    def forgetful(*given):
        found = known(*given)
        first, *_ = versions = found[None, "live"]
        return {**found, (None, "live"): {first: versions[first]}}

    monkeypatch.setattr(soak, "known", forgetful)
    assert "no valid policy has the version" in short()


@pytest.mark.usefixtures("_known")
def test_a_version_that_says_something_else_is_seen(monkeypatch):
    calls = itertools.count()

    def torn(policy, step, read, *, sealed):
        """Now and then no rule is there, as if a reload had taken them away while they were read."""
        without = (
            replace(policy, readings=dict.fromkeys(policy.readings, Readings((), {}, {})))
            if next(calls) % 50 == 49
            else policy
        )
        return decide(without, step, read, sealed=sealed)

    monkeypatch.setattr(judging, "decide", torn)
    assert "says something else than its version does" in short()


@pytest.mark.usefixtures("_known")
def test_what_is_left_behind_is_seen(monkeypatch):
    class Hoard(soak.Sink):
        kept = []  # noqa: RUF012

        def emit(self, event):
            self.kept.append(event)
            super().emit(event)

    monkeypatch.setattr(soak, "Sink", Hoard)
    monkeypatch.setattr(soak, "MOST_OBJECTS", 500)
    assert "more objects than after the first round" in short()


@pytest.mark.usefixtures("_known")
def test_a_reload_that_raises_is_seen(monkeypatch):
    def broken(_):
        raise RuntimeError("no memory")

    monkeypatch.setattr(PolicyStore, "reload", broken)
    monkeypatch.setattr(soak, "PATIENCE", 0.1)
    found = short()
    assert "logged: policies could not be reloaded; those in force stay: no memory" in found
    assert "this run shows nothing" in found


@pytest.mark.usefixtures("_known")
def test_a_change_that_is_missed_is_seen(monkeypatch):
    monkeypatch.setattr(PolicyStore, "reload", lambda _: Changes())
    monkeypatch.setattr(soak, "PATIENCE", 0.1)
    assert "what is on disk did not come into force for None, t0, t1, " in short()
