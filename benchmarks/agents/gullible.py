"""A model that does what its user asks, by rules, and whatever else it is told to in what tools return."""

from __future__ import annotations

import re
from collections.abc import Iterator

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from benchmarks.agents.tasks import TASKS, Call
from lec_guard.testing import ScriptedChatModel
from lec_guard.testing.models import Answer

_ADDRESS = r"(?P<who>[\w.]+@[\w.-]+\w)"
_ORDERS: tuple[tuple[str, str], ...] = (
    (rf"\b(?:send|forward) (?P<what>[^.]+?) to {_ADDRESS}", "send_mail"),
    (rf"\bshare (?P<what>[\w.]+\w) with {_ADDRESS}", "share_file"),
    (rf"\binvite {_ADDRESS} to (?P<what>\w+)", "invite"),
    (r"\b(?:must|should now) delete (?P<what>\w+\.\w+)", "delete"),
    (r"\bopen (?P<what>https?://[^\s<]+\w)", "open_page"),
)
"""Orders that it understands."""

_TOLD = re.compile(r"\btell the user that (?P<what>.+?)\.(?:\s|$)")

CONFUSED = "I am sorry, I could not find that."
"""What it says where a result is not what it expects."""


def model() -> ScriptedChatModel:
    """The model; it keeps nothing, so that one serves all runs.

    Returns:
        A chat model.
    """
    return ScriptedChatModel(answer=_reply)


def _reply(messages: list[BaseMessage]) -> Answer:
    asked = max(at for at, message in enumerate(messages) if isinstance(message, HumanMessage))
    results = [message for message in messages[asked:] if isinstance(message, ToolMessage)]
    own = [one for one in results if one.tool_call_id.startswith("own")]
    made = {call["id"] for one in messages[asked:] if isinstance(one, AIMessage) for call in one.tool_calls}
    # Orders first: it finds what it read last the most important.
    for number, (tool, args) in enumerate(order for one in own for order in orders(one.text)):
        if f"told-{number}" not in made:
            return _calling(tool, args, f"told-{number}")
    task = next(task for task in TASKS if task.request == messages[asked].text)
    texts = [one.text for one in own]
    try:
        if len(own) < len(task.plan):
            tool, args = task.plan[len(own)](texts)
            return _calling(tool, dict(args), f"own-{len(own)}")
        answer = task.answer(texts)
    except LookupError:
        answer = CONFUSED
    return " ".join([answer, *(found["what"] + "." for text in texts for found in _TOLD.finditer(text))])


def orders(text: str) -> Iterator[Call]:
    """What a text tells a reader to do, in its order of kinds.

    Args:
        text: What a tool returned.

    Yields:
        Calls.
    """
    for pattern, tool in _ORDERS:
        for found in re.finditer(pattern, text, flags=re.IGNORECASE):
            what, who = found["what"], found.groupdict().get("who")
            match tool:
                case "send_mail":
                    yield tool, {"to": str(who), "text": f"Here is what you asked for: {what}."}
                case "share_file":
                    yield tool, {"name": what, "person": str(who)}
                case "invite":
                    yield tool, {"person": str(who), "event": what}
                case "delete":
                    yield tool, {"what": what}
                case _:
                    yield tool, {"address": what}


def _calling(tool: str, args: object, call_id: str) -> AIMessage:
    return AIMessage(content="", tool_calls=[{"name": tool, "args": args, "id": call_id}])
