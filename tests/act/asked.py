"""Cases to ask about."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from lec_guard import Step, ToolRef
from lec_guard.act.base import Case, Escalator, Reply
from tests.test_step import verdict

KEY = "00112233445566778899aabbccddeeff"

FORMS = ("sync", "async")


def case(text: str = "hello", *, key: str = KEY, context: str | None = "Be kind.", tool: str | None = "search") -> Case:
    step = Step(stage="input", text=text, context=context, tool=None if tool is None else ToolRef(name=tool))
    return Case(key=key, step=step, verdict=verdict(), section="reviewer")


def asker(form: str) -> Callable[[Escalator, Case], Reply]:
    """How to ask, in either form; of the async one, each time on an event loop of its own."""
    if form == "sync":
        return lambda escalator, asked: escalator.ask(asked)
    return lambda escalator, asked: asyncio.run(escalator.aask(asked))
