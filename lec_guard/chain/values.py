"""Values of other frameworks, read as LangChain's, judged in one call of the detector."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.callbacks import CallbackManager
from langchain_core.runnables import RunnableConfig

from lec_guard.chain.lens import Reading
from lec_guard.chain.plan import Passed, Plan, traced
from lec_guard.chain.runnable import GuardRunnable
from lec_guard.errors import GuardBlocked, LecGuardError
from lec_guard.guard import Guard


def judge(
    guard: Guard, readings: Sequence[Reading], tenant: str | None, answered: Reading | None = None
) -> list[Passed | LecGuardError]:
    """Judge what was read, and act on the verdicts.

    Args:
        guard: What judges.
        readings: Values and their steps.
        tenant: Whose policy applies; None for the default one.
        answered: What they answer, where that is known: where words of them may be from.

    Returns:
        For each value what may pass and the severest verdict, or why it may not pass yet.

    Raises:
        PolicyError: If the tenant is unknown, or its policy is wrong.
    """
    plan = _plan(guard, readings, tenant, answered)
    return GuardRunnable(guard).judge(plan, [one.value for one in readings], _configs(readings))


async def ajudge(
    guard: Guard, readings: Sequence[Reading], tenant: str | None, answered: Reading | None = None
) -> list[Passed | LecGuardError]:
    """`judge`, without blocking the event loop."""
    await guard.apolicy(tenant)
    plan = _plan(guard, readings, tenant, answered)
    return await GuardRunnable(guard).ajudge(plan, [one.value for one in readings], _configs(readings))


def released(one: Passed | LecGuardError) -> Passed:
    """What was judged, if it may pass.

    Args:
        one: A result of `judge`.

    Returns:
        The same.

    Raises:
        GuardBlocked: If it may not pass.
        EscalationPending: If somebody has yet to decide.
    """
    if isinstance(one, LecGuardError):
        raise one
    if one.verdict.blocked:
        raise GuardBlocked(one.verdict)
    return one


def _plan(guard: Guard, readings: Sequence[Reading], tenant: str | None, answered: Reading | None) -> Plan:
    plan = Plan()
    traces = guard.traces(tenant)
    before = answered.conversation() if traces and answered is not None else []
    for reading in readings:
        plan.add(reading, traced(reading, before) if traces else reading.steps, tenant)
    return plan


def _configs(readings: Sequence[Reading]) -> list[RunnableConfig]:
    """No run of LangChain's hears of it: sinks do."""
    return [{"callbacks": CallbackManager([])} for _ in readings]
