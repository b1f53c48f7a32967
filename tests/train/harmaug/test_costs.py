"""What a run will ask for, before it asks for anything."""

from __future__ import annotations

import pytest

from lec_guard.train.harmaug import Exemplars, Models, augment, estimate
from tests.train.harmaug.made import config, judge, scripted, write_data


def test_an_estimate_is_what_a_run_asks_where_every_answer_is_of_use(tmp_path):
    own = config(write_data(tmp_path))
    report = augment(own, tmp_path / "out", models=Models(generator=scripted(), teacher=scripted(judge)))
    assert not any(made.no_use for made in report.made.values())
    found = {part.role: part for part in estimate(own, Exemplars.read(own)).parts}
    assert {role: part.calls for role, part in found.items()} == {
        role: asked.calls for role, asked in report.asked.items()
    }
    for role, part in found.items():
        assert 0.5 < part.tokens_in / report.asked[role].tokens_in < 3


@pytest.mark.parametrize(
    ("changes", "calls"),
    [
        ({}, (8, 8, 48)),
        ({"twins": False}, (4, 8, 36)),
        ({"responses": False}, (8, 24)),
        ({"teacher": {"model": "bundle:embedded"}}, (8, 8, 16)),
    ],
)
def test_what_is_not_made_is_not_asked_for(tmp_path, changes, calls):
    own = config(write_data(tmp_path), **changes)
    found = estimate(own, Exemplars.read(own))
    assert tuple(part.calls for part in found.parts) == calls
    assert (found.most, found.cost) == (4, None)


def test_prices_are_of_a_million_tokens(tmp_path):
    own = config(write_data(tmp_path), generator={"model": "x", "price_in": 2.0, "price_out": 10.0})
    found = estimate(own, Exemplars.read(own))
    generator, responder, teacher = found.parts
    assert generator.cost == pytest.approx((2 * generator.tokens_in + 10 * generator.tokens_out) / 1e6)
    assert teacher.cost is None
    assert found.cost == pytest.approx(generator.cost + responder.cost)
