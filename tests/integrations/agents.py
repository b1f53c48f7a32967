"""Agents with a guard, everything about which can be told apart: what the model was sent, what tools were given."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from lec_guard_integrations.langchain import GuardMiddleware

from lec_guard import Effects, Rewriter, Rewriting, Subject
from lec_guard.step import Edit, Scores, Span, Step
from lec_guard.testing import KeywordDetector, ScriptedChatModel
from tests.conftest import write_policies
from tests.test_guard import Recorder

WORDS = {
    "injection": {"injection": ["attack"]},
    "safety": {"unsafe": ["poison"], "rude": ["darn"]},
    "web": {"third": ["click"]},
    "pii": {"EMAIL_ADDRESS": ["@"]},
}
POLICY = """
    locale: en
    message: {en: No., de: Nein.}
    rewrite:
      soften: {kind: registered, name: soften}
      wrap: {kind: quarantine}
    escalations:
      boss: {kind: interrupt}
    rules:
      - name: block
        stages: [input, output, tool_input, tool_output]
        head: injection
        threshold: 0.5
        action: block
      - name: ask
        stages: [input, output, tool_input, tool_output]
        head: safety
        labels: [unsafe]
        threshold: 0.5
        action: escalate
        escalation: boss
      - name: rude
        stages: [input, output, tool_input, tool_output]
        head: safety
        labels: [rude]
        threshold: 0.5
        action: rewrite
        rewrite: soften
      - {name: shady, stages: [tool_output], head: web, threshold: 0.5, action: rewrite, rewrite: wrap}
"""
ASK = """      - name: ask
        stages: [input, output, tool_input, tool_output]
        head: safety
        labels: [unsafe]
        threshold: 0.5
        action: escalate
        escalation: boss
"""
QUIET = POLICY.replace(ASK, "").replace("    escalations:\n      boss: {kind: interrupt}\n", "")
"""Nobody is asked, so that an answer is judged inside the call of the model."""
MAIL_POLICY = (
    POLICY.replace("escalations:", "  hide: {kind: redact_pii, operator: token}\n    escalations:", 1)
    + """
      - {name: mail, stages: [input, tool_output], head: pii, threshold: 0.5, action: rewrite, rewrite: hide}
"""
)
KEY = b"k" * 32
MAIL = re.compile(r"[a-z.]+@[a-z.]+\.[a-z]+")


class Detector(KeywordDetector):
    """Keywords, and the places of mail addresses."""

    def score(self, steps: Sequence[Step], *, keys: Sequence[Hashable] | None = None) -> list[Scores]:
        return [
            replace(
                one,
                spans=tuple(
                    Span(start=found.start(), end=found.end(), head="pii", label="EMAIL_ADDRESS", score=1.0)
                    for found in MAIL.finditer(step.text)
                ),
            )
            for one, step in zip(super().score(steps), steps, strict=True)
        ]


class Soften(Rewriter):
    """Says something else instead of darn."""

    def __init__(self, instead: str) -> None:
        self.instead = instead

    def rewrite(self, subject: Subject) -> Rewriting:
        found = re.finditer("darn", subject.step.text)
        return Rewriting(edits=tuple(Edit(start=one.start(), end=one.end(), replacement=self.instead) for one in found))


def calling(*calls: Mapping[str, Any] | tuple[str, Mapping[str, Any]], text: str = "") -> AIMessage:
    """An answer that calls tools: arguments of `send`, or a tool's name and its arguments."""
    named = [call if isinstance(call, tuple) else ("send", call) for call in calls]
    return AIMessage(
        content=text,
        tool_calls=[{"name": name, "args": dict(args), "id": f"c{at}"} for at, (name, args) in enumerate(named)],
        usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
    )


class World:
    """An agent with two tools and a guard."""

    def __init__(
        self,
        folder: Path,
        script: Mapping[str, str | AIMessage] | None = None,
        *,
        is_async: bool = False,
        files: Mapping[str, str] | None = None,
        saver: Any = True,
        results: Mapping[str, str] | None = None,
        middleware: Sequence[Any] = (),
        system: str | None = None,
        words: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
        instead: str = "dear",
        effects: Mapping[str, Any] | None = None,
        tools: Sequence[Any] = (),
        **changes: Any,
    ) -> None:
        self.is_async = is_async
        self.sent: list[dict[str, str]] = []
        self.looked: list[str] = []
        self.model = ScriptedChatModel(script=dict(script or {}))
        self.detector, self.recorder = Detector({**WORDS, **(words or {})}), Recorder()
        self.guard = GuardMiddleware.from_policies(
            write_policies(folder / "policies", {"default.yaml": POLICY, **(files or {})}),
            detector=self.detector,
            sinks=[self.recorder],
            effects=Effects(key=KEY, rewriters={"soften": Soften(instead)}, **(effects or {})),
            **changes,
        )

        @tool
        def send(to: str, text: str = "") -> str:
            """Send a mail."""
            self.sent.append({"to": to, "text": text})
            return f"Sent to {to}."

        @tool
        def look(what: str) -> str:
            """Look something up."""
            self.looked.append(what)
            return (results or {}).get(what, f"Nothing about {what}.")

        self.tools = [send, look, *tools]
        self.agent = create_agent(
            self.model,
            self.tools,
            system_prompt=system,
            middleware=[self.guard, *middleware],
            checkpointer=InMemorySaver() if saver is True else saver,
        )

    def run(self, given: Any, **configurable: Any) -> dict[str, Any]:
        config: Any = {"configurable": {"thread_id": "1", **configurable}, "recursion_limit": 30}
        if self.is_async:
            return asyncio.run(self.agent.ainvoke(given, config))
        return self.agent.invoke(given, config)

    def say(self, text: str | list[Any], **configurable: Any) -> dict[str, Any]:
        messages = [("user", text)] if isinstance(text, str) else text
        return self.run({"messages": messages}, **configurable)

    def answer(self, asked: Mapping[str, Any], decision: Any, **more: Any) -> dict[str, Any]:
        return self.run(Command(resume={"key": asked["key"], "decision": decision, **more}))

    @property
    def state(self) -> Any:
        return self.agent.get_state({"configurable": {"thread_id": "1"}})

    @property
    def shown(self) -> list[str]:
        """All texts that the model was sent in its last call."""
        return [text_of(message) for message in self.model.calls[-1]]


def text_of(message: BaseMessage) -> str:
    return f"{message.text}{[call['args'] for call in getattr(message, 'tool_calls', [])] or ''}"


def asked(result: Mapping[str, Any]) -> dict[str, Any]:
    """What the one interrupt of a result asks."""
    [interrupt] = result["__interrupt__"]
    return dict(interrupt.value)


def texts(result: Mapping[str, Any]) -> list[str]:
    return [message.text for message in result["messages"]]


def is_whole(messages: Sequence[BaseMessage]) -> bool:
    """Whether each call has one result, right behind it, and each result a call: providers refuse anything else."""
    waiting: list[str | None] = []
    for message in messages:
        if message.type == "tool":
            if message.tool_call_id not in waiting:
                return False
            waiting.remove(message.tool_call_id)
        elif waiting:
            return False
        if isinstance(message, AIMessage):
            waiting = [call["id"] for call in message.tool_calls]
    return not waiting
