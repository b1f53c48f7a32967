"""Policies as they are tried out."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from lec_guard import Guard, Step
from lec_guard.policy.trial import unhurried
from tests.conftest import write_policies


def test_time_limits_are_gone_and_a_stage_that_is_out_of_service_is_not(policies, keywords):
    said = "fail: {input: {timeout_ms: 5, timeout: flag, max_chars: 9}, output: {timeout_ms: 0}}\n"
    write_policies(
        policies, {"tenants/acme.yaml": said + "extends: default\n", "floor.yaml": said + "extends: default\n"}
    )
    before = Guard.from_policies(policies, detector=keywords).policies.get("acme")
    after = unhurried(before)
    assert before.floor is not None
    assert after.floor is not None
    assert after.candidate is None
    for one, other in ((before.live, after.live), (before.floor, after.floor)):
        assert one.fail["input"].timeout_ms == 5
        assert other.fail["input"] == one.fail["input"].model_copy(update={"timeout_ms": None})
        assert other.fail["output"] == one.fail["output"]
        assert other.readings == one.readings


@pytest.mark.parametrize("policy", ["default", "strict", "globex"])
def test_what_is_tried_out_is_judged_as_in_earnest_and_told_to_nobody(policies, keywords, policy):
    write_policies(policies, {"strict.yaml": "extends: default\n", "floor.yaml": "extends: default\n"})
    told = []
    guard = Guard.from_policies(policies, detector=keywords, sinks=[SimpleNamespace(emit=told.append)])
    steps = [Step(stage="input", text=text) for text in ("attack", "darn", "hello")]
    found = guard.try_out(steps, [guard.policies.named(policy)] * 3)
    assert told == []
    wanted = guard.check_many(steps, "globex" if policy == "globex" else None)
    assert len(told) == 3
    assert [(one.action, one.rule) for one in found] == [(one.action, one.rule) for one in wanted]
    assert {one.policy for one in found} == {policy}
