"""Policies as they are tried out, on a machine that is not the one that serves."""

from __future__ import annotations

from dataclasses import replace

from lec_guard.policy.compile import Compiled
from lec_guard.policy.store import InForce


def unhurried(policies: InForce) -> InForce:
    """The same policies without their time limits, so that what they say does not hang on how busy a machine is.

    A limit of 0 stays: it is no limit, but says that nothing is judged at the stage.

    Args:
        policies: What a step is judged by.

    Returns:
        The same, with scores that never come too late.
    """
    return InForce(
        _unhurried(policies.live), *(one and _unhurried(one) for one in (policies.floor, policies.candidate))
    )


def _unhurried(policy: Compiled) -> Compiled:
    fail = {
        stage: said.model_copy(update={"timeout_ms": None}) if said.timeout_ms else said
        for stage, said in policy.fail.items()
    }
    return replace(policy, fail=fail)
