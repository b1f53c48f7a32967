"""Our own code around the model: everything in a step but the forward pass and the tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial

from langchain_core.runnables import RunnableLambda

from lec_guard.bench.detectors import Detectors, Split, Watch, split, step, watched, windows
from lec_guard.bench.plan import Plan
from lec_guard.bench.policies import policy_for
from lec_guard.bench.prompts import Prompts
from lec_guard.bench.report import Overhead
from lec_guard.bench.rounds import median_ms, rest, take_turns, timing
from lec_guard.chain.runnable import GuardRunnable
from lec_guard.errors import GuardBlocked
from lec_guard.guard import Guard

_CHECK, _INVOKE, _WINDOWING, _IDLE = "check", "invoke", "windowing", "idle"


def measure_overhead(detectors: Detectors, plan: Plan) -> tuple[Overhead, ...]:
    """Check steps, and take off what the model and the tokenizer need; in LangChain too.

    Args:
        detectors: The detectors; the one as shipped is measured.
        plan: Lengths and rounds.

    Returns:
        A figure for each length.
    """
    prompts = Prompts.of(detectors.bundle)
    detector = detectors.shipped
    with policy_for(detector) as policy:
        guard = Guard.from_policies(policy, detector=detector)
    runnable = GuardRunnable(guard).input

    def invoke(text: str) -> None:
        with suppress(GuardBlocked):
            runnable.invoke(text)

    acts: dict[str, Callable[[str], object]] = {
        _CHECK: lambda text: guard.check(step(text)),
        _INVOKE: invoke,
        _WINDOWING: lambda text: list(windows(detector, text)),
        _IDLE: RunnableLambda(_same).invoke,
    }
    found = []
    for tokens in plan.overhead_lengths:
        with watched(detector) as watch:
            jobs = {name: partial(_once, act, prompts, tokens, watch) for name, act in acts.items()}
            taken = take_turns(jobs, plan.pairs)
        found.append(_overhead(tokens, taken))
    return tuple(found)


def _same(value: object) -> object:
    return value


def _once(act: Callable[[str], object], prompts: Prompts, tokens: int, watch: Watch) -> Split:
    text = prompts.text(tokens)
    rest()
    return split(watch, lambda: act(text))


def _overhead(tokens: int, taken: dict[str, list[Split]]) -> Overhead:
    check, invoke = taken[_CHECK], taken[_INVOKE]
    return Overhead(
        tokens=tokens,
        check=timing([one.total for one in check]),
        forward=timing([one.forward for one in check]),
        tokenizer=timing([one.tokenizer for one in check]),
        own=timing([one.own for one in check]),
        windowing=timing([one.own for one in taken[_WINDOWING]]),
        runnable_ms=median_ms([a.own - b.own for a, b in zip(invoke, check, strict=True)]),
        idle_runnable=timing([one.total for one in taken[_IDLE]]),
    )
