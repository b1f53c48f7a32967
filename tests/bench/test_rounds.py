from __future__ import annotations

import pytest

from lec_guard.bench import rounds
from lec_guard.bench.rounds import median_ms, ratio, seconds, take_turns, timing


def test_everything_takes_its_turn_in_each_round_and_another_one_begins() -> None:
    order: list[str] = []
    found = take_turns({name: lambda name=name: order.append(name) or len(order) for name in "abc"}, 3)
    assert "".join(order) == "abc" + "bca" + "cab" + "abc"
    # The first round is dropped.
    assert found == {"a": [6, 8, 10], "b": [4, 9, 11], "c": [5, 7, 12]}


def test_only_what_was_prepared_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def pass_by(duration: float) -> None:
        nonlocal now
        now += duration

    def job(duration: float):
        def prepare():
            pass_by(100.0)
            return lambda: pass_by(duration)

        return prepare

    monkeypatch.setattr(rounds.time, "sleep", lambda _: pass_by(10.0))
    found = seconds({"slow": job(2.0), "fast": job(0.5)}, 2, clock=lambda: now)
    assert found == {"slow": [2.0, 2.0], "fast": [0.5, 0.5]}


def test_a_ratio_is_the_median_of_the_rounds_and_not_a_quotient_of_medians() -> None:
    # In the third round all was ten times as slow.
    found = ratio([2.0, 6.0, 20.0], [1.0, 2.0, 10.0])
    assert (found.p50, found.rounds) == (2.0, 3)
    assert 2.0 <= found.p5 <= found.p50 <= found.p95 <= 3.0
    with pytest.raises(ValueError, match="shorter"):
        ratio([1.0, 1.0], [1.0])


def test_figures_are_milliseconds() -> None:
    found = timing([0.001 * at for at in range(101)])
    assert (found.p50_ms, found.p95_ms, found.rounds) == (pytest.approx(50), pytest.approx(95), 101)
    assert median_ms([-0.002, -0.001, 0.5]) == pytest.approx(-1)
