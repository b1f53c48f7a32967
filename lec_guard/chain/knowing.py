"""A guard that knows more about what passes than the values say: whose tool it is of, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, cast

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config

from lec_guard.chain.lens import Reading, read
from lec_guard.chain.plan import Passed, Plan, traced
from lec_guard.chain.runnable import GuardRunnable
from lec_guard.chain.streaming import StreamReading
from lec_guard.errors import GuardBlocked, LecGuardError, UnsupportedValueError
from lec_guard.step import Origin, Outcome, Stage, Step, ToolRef
from lec_guard.taint import TRACED


@dataclass(frozen=True, eq=False)
class KnowingGuard(GuardRunnable):
    """A `GuardRunnable` for what comes from a tool or a retriever, goes there, or describes one.

    Attributes:
        whose: The tool that values belong to; None for none.
        request: The user's task, or the query, as the context of steps that have none.
        thread: The messages before what passes, where a graph tells of them: where words of a call may be from.
    """

    whose: ToolRef | None = None
    request: str | None = None
    thread: Sequence[BaseMessage] = ()

    @classmethod
    def of(
        cls,
        guard: GuardRunnable,
        stage: Stage,
        *,
        tool: ToolRef | None = None,
        request: str | None = None,
        thread: Sequence[BaseMessage] = (),
    ) -> KnowingGuard:
        """A view of a guard.

        Args:
            guard: The guard, perhaps bound to a tenant.
            stage: The stage of all that passes; documents and tool calls keep their own.
            tool: The tool that values belong to.
            request: The user's task or the query, where it is known.
            thread: The messages before what passes, where they are known.

        Returns:
            The view; the guard is not changed.
        """
        own = {field.name: getattr(guard, field.name) for field in fields(GuardRunnable)}
        # Among what a tool gives system messages are refused, so nobody's are taken for a user's.
        own |= {"stage": stage, "system_messages": "trusted"}
        return cls(**own, whose=tool, request=request, thread=thread)

    def _steps(self, reading: Reading | StreamReading, tenant: str | None, answered: Any) -> list[Step]:
        if any(told.step is None for told in getattr(reading, "told", ())):
            # Elsewhere system messages are the operator's own words. Here somebody else wrote them.
            raise UnsupportedValueError("the value has a system message in it")
        if not self.thread or answered is not None:
            steps = super()._steps(reading, tenant, answered)
        elif not any(step.stage in TRACED for step in reading.steps) or not self.guard.traces(tenant):
            steps = reading.steps
        else:
            steps = traced(reading, _conversation(self.thread))
        return [self._known_of(step) for step in steps]

    def _known_of(self, step: Step) -> Step:
        """A step with what is known."""
        # What comes from a tool is third-party text, whatever role a message has there.
        stage = step.stage if step.stage in ("tool_input", "retrieval") or self.stage is None else self.stage
        origin = step.origin
        if stage != "tool_input":
            origin = Origin(trust="third_party", ids=() if origin is None else origin.ids)
        return replace(
            step,
            stage=stage,
            tool=self.whose or step.tool,
            context=step.context if step.context is not None else self.request,
            origin=origin,
        )

    def _passed(
        self, plan: Plan, values: Sequence[Any], told: Sequence[Outcome], configs: Sequence[RunnableConfig]
    ) -> list[Passed | LecGuardError]:
        passed = super()._passed(plan, values, told, configs)
        if self.stage != "tool_definition":
            return passed
        # Models are shown the definition as it is: what has to be changed may not pass.
        return [
            replace(one, verdict=replace(one.verdict, action="block"))
            if isinstance(one, Passed) and one.value is not value
            else one
            for one, value in zip(passed, values, strict=True)
        ]


def _conversation(messages: Sequence[BaseMessage]) -> list[Step]:
    """What messages say; of one that can't be read its text."""
    try:
        return read(list(messages)).conversation()
    except UnsupportedValueError:
        said: list[Step] = []
    for message in messages:
        try:
            said += read([message]).conversation()
        except UnsupportedValueError:
            by = {HumanMessage: "input", AIMessage: "output"}.get(type(message), "tool_output")
            said.append(Step(stage=cast("Stage", by), text=str(message.text)))
    return said


class Refused(Exception):
    """Something may not pass.

    Args:
        cause: Why: a block, or a value that can't be read.
    """

    def __init__(self, cause: GuardBlocked | UnsupportedValueError) -> None:
        super().__init__()
        self.cause = cause

    def said(self, what: str) -> str:
        """What a model is told.

        Args:
            what: What may not pass, for example `result`.

        Returns:
            The policy's message, or that it can't be read.
        """
        if isinstance(self.cause, GuardBlocked):
            return self.cause.verdict.message or f"The {what} was stopped by a safety policy."
        return f"The {what} of this tool can't be checked: it holds something that is no text. It was not passed on."


def settled(results: Sequence[Any]) -> list[Any]:
    """What passed, if all of it did.

    Args:
        results: What `batch` gave with `return_exceptions`.

    Returns:
        The values.

    Raises:
        Refused: If one is blocked, or can't be read.
        Exception: The first other error: somebody has yet to decide, or the tenant is wrong.
    """
    stopped: list[GuardBlocked | UnsupportedValueError] = []
    for one in results:
        if isinstance(one, GuardBlocked | UnsupportedValueError):
            stopped.append(one)
        elif isinstance(one, Exception):
            raise one
    if stopped:
        raise Refused(next((one for one in stopped if isinstance(one, GuardBlocked)), stopped[0]))
    return list(results)


def own_run(config: RunnableConfig | None) -> RunnableConfig:
    """The config for runs of a guard beside a run.

    Args:
        config: The config of that run; None for the one that is under way.

    Returns:
        The same without what names one run alone.
    """
    given = ensure_config(config)
    return {key: value for key, value in given.items() if key not in ("run_id", "run_name")}  # type: ignore[return-value] # a config less keys
