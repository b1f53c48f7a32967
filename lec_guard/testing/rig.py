"""What a probe hands to the application that it looks at: models, tools and a retriever that plant and that watch."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Protocol

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool, StructuredTool
from pydantic import BaseModel, PrivateAttr

from lec_guard.step import Step
from lec_guard.testing.models import Answer, ScriptedChatModel
from lec_guard.testing.paths import GOALS, PathName, Place

QUESTION = "What are the opening hours of the library?"
"""What users ask where nothing is planted."""

DONE = "It is open from nine to five."
"""What models, tools and documents say where nothing is planted."""


class ProbeAnswer(BaseModel):
    """The answer to a question."""

    text: str


class Watched(Protocol):
    """What knows which steps a guard has seen: `KeywordDetector`, `StatedDetector`, `WatchedDetector`."""

    @property
    def seen(self) -> Sequence[Step]:
        """The steps, in order."""
        ...


@dataclass(slots=True, eq=False)
class Run:
    """One run of a target: what is planted in it, and where that came to.

    Attributes:
        path: Where it is planted.
        marker: What it is known by.
        text: What is planted; it holds the marker.
        watched: What knows which steps the guard has seen, if anything does.
        planted: Whether it was given to the target.
        arrived: Where it came to, and whether the guard had seen it by then.
    """

    path: PathName
    marker: str
    text: str
    watched: Watched | None
    planted: bool = False
    arrived: dict[Place, bool] = field(default_factory=dict)
    _heard: str = ""
    _before: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        # Another probe may have planted the same; what was seen then is not seen now.
        self._before = 0 if self.watched is None else len(self.watched.seen)

    def plant(self, path: PathName, otherwise: str = DONE) -> str:
        """What to say at a place where something may be planted.

        Args:
            path: The path that the place is of.
            otherwise: What to say where this run is about another one.

        Returns:
            The text.
        """
        if path != self.path:
            return otherwise
        self.planted = True
        return self.text

    def at(self, place: Place, value: object) -> None:
        """Look at what has come to a place.

        Args:
            place: The place.
            value: What has come there.
        """
        if place not in GOALS[self.path]:
            return
        with self._lock:
            if place in self.arrived:
                return
            leaves: list[str] = []
            _gather(value, leaves, artifacts=place == "caller")
            if place == "caller":
                # A stream may break anything into pieces.
                self._heard += _pieces(value)
                leaves.append(self._heard)
            if any(self.marker in leaf for leaf in leaves):
                self.arrived[place] = self._judged()

    def _judged(self) -> bool:
        seen = () if self.watched is None else self.watched.seen[self._before :]
        return any(self.marker in step.text for step in seen)


class Rig:
    """What an application that is probed is made of. Use what yours has; what it has not is then not reached.

    Attributes:
        path: The path that the application is made for; one is made for each.
        model: The chat model. It calls the tools that it was offered where the path asks for that.
        tools: Tools: `probe_lookup`, `probe_send`, and `probe_attach` with an artifact.
        retriever: Finds one document.
        helper_model: The chat model of a sub-agent.
        helper_tools: The tools of a sub-agent.
        summary_model: The chat model that writes summaries of long conversations.
        schema: The schema of a structured answer.
    """

    def __init__(self, path: PathName) -> None:
        self.path = path
        self.run = Run(path=path, marker="", text="", watched=None)
        self.model: BaseChatModel = ScriptedChatModel(answer=self._answer)
        self.helper_model: BaseChatModel = ScriptedChatModel(answer=self._help)
        self.summary_model: BaseChatModel = ScriptedChatModel(answer=self._summarise)
        self.tools: list[BaseTool] = [
            StructuredTool.from_function(self._lookup, name="probe_lookup", description="Look something up."),
            StructuredTool.from_function(self._send, name="probe_send", description="Send a message."),
            StructuredTool.from_function(
                self._attach,
                name="probe_attach",
                description="Get a report.",
                response_format="content_and_artifact",
            ),
        ]
        self.helper_tools: list[BaseTool] = [
            StructuredTool.from_function(self._read, name="probe_read", description="Read the notes.")
        ]
        self.retriever: BaseRetriever = _Retriever().of(self)
        self.schema: type[BaseModel] = ProbeAnswer

    def as_search(self, retriever: Runnable[str, list[Document]]) -> BaseTool:
        """A retriever as the tool `probe_search`, for agents.

        Args:
            retriever: The rig's retriever, or what guards it.

        Returns:
            The tool.
        """

        def search(query: str) -> str:
            return "\n\n".join(found.page_content for found in retriever.invoke(query))

        async def asearch(query: str) -> str:
            return "\n\n".join(found.page_content for found in await retriever.ainvoke(query))

        return StructuredTool.from_function(search, asearch, name="probe_search", description="Search documents.")

    def as_helper(self, agent: Runnable[Any, Any]) -> BaseTool:
        """A sub-agent as the tool `probe_helper`.

        Args:
            agent: What takes `{"messages": ...}`, made of `helper_model` and `helper_tools`.

        Returns:
            The tool.
        """

        def help_(task: str) -> str:
            return str(agent.invoke({"messages": [("user", task)]})["messages"][-1].text)

        async def ahelp(task: str) -> str:
            return str((await agent.ainvoke({"messages": [("user", task)]}))["messages"][-1].text)

        return StructuredTool.from_function(help_, ahelp, name="probe_helper", description="Ask a helper.")

    # --- models

    def _answer(self, messages: list[BaseMessage]) -> Answer:
        self.run.at("model", messages)
        offered = _offered(self.model)
        done: Answer = ProbeAnswer(text=DONE) if ProbeAnswer.__name__ in offered else DONE
        if messages and isinstance(messages[-1], ToolMessage):
            return done
        match self.path:
            case "tool_argument" if "probe_send" in offered:
                return _calling("probe_send", to="the office", text=self.run.plant("tool_argument"))
            case "tool_result" if "probe_lookup" in offered:
                return _calling("probe_lookup", query="opening hours")
            case "artifact" if "probe_attach" in offered:
                return _calling("probe_attach", name="opening hours")
            case "document" if "probe_search" in offered:
                return _calling("probe_search", query="opening hours")
            case "sub_agent" if "probe_helper" in offered:
                return _calling("probe_helper", task=QUESTION)
            case "structured_output" if ProbeAnswer.__name__ in offered:
                return ProbeAnswer(text=self.run.plant("structured_output"))
            case "streamed_answer" | "final_answer":
                return self.run.plant(self.path)
            case _:
                return done

    def _help(self, messages: list[BaseMessage]) -> Answer:
        self.run.at("helper", messages)
        if messages and isinstance(messages[-1], ToolMessage):
            return f"The notes say: {messages[-1].text}"
        return _calling("probe_read", name="opening hours") if "probe_read" in _offered(self.helper_model) else DONE

    def _summarise(self, messages: list[BaseMessage]) -> Answer:
        self.run.at("summariser", messages)
        return self.run.plant("summary", "They talked about the library.")

    # --- tools

    def _lookup(self, query: str) -> str:  # noqa: ARG002 - it knows one thing
        return self.run.plant("tool_result")

    def _send(self, to: str, text: str) -> str:
        self.run.at("tool", (to, text))
        return "Sent."

    def _attach(self, name: str) -> tuple[str, dict[str, str]]:  # noqa: ARG002 - it knows one thing
        return "Here is the report.", {"report": self.run.plant("artifact")}

    def _read(self, name: str) -> str:  # noqa: ARG002 - it knows one thing
        return self.run.plant("sub_agent")


class _Retriever(BaseRetriever):
    _rig: Rig = PrivateAttr()

    def of(self, rig: Rig) -> _Retriever:
        """The retriever of a rig."""
        self._rig = rig
        return self

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:  # noqa: ARG002
        return [Document(page_content=self._rig.run.plant("document"))]


def _offered(model: BaseChatModel) -> list[str]:
    offered = model.offered if isinstance(model, ScriptedChatModel) else []
    return offered[-1] if offered else []


def _calling(tool: str, **args: str) -> AIMessage:
    return AIMessage(content="", tool_calls=[{"name": tool, "args": args, "id": f"call-{tool}"}])


def _gather(value: object, into: list[str], *, artifacts: bool) -> None:
    """Every text in a value, deep down; what a tool keeps beside its text only where a caller gets it."""
    if isinstance(value, str):
        into.append(value)
    elif isinstance(value, Mapping):
        for key, one in value.items():
            if key != "artifact" or artifacts:
                _gather(key, into, artifacts=artifacts)
                _gather(one, into, artifacts=artifacts)
    elif isinstance(value, list | tuple | set | frozenset):
        for one in value:
            _gather(one, into, artifacts=artifacts)
    elif isinstance(value, BaseModel):
        _gather({name: getattr(value, name, None) for name in type(value).model_fields}, into, artifacts=artifacts)
        _gather(value.model_extra or {}, into, artifacts=artifacts)
    elif is_dataclass(value) and not isinstance(value, type):
        for one in fields(value):
            _gather(getattr(value, one.name, None), into, artifacts=artifacts)
    elif isinstance(value, BaseException):
        into.append(str(value))


def _pieces(value: object) -> str:
    """What chunks of messages in a value say: their texts, and their pieces of calls."""
    if isinstance(value, AIMessageChunk):
        return value.text + "".join(call["args"] or "" for call in value.tool_call_chunks)
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return "".join(_pieces(one) for one in value.values() if not isinstance(one, str))
    if isinstance(value, list | tuple):
        return "".join(_pieces(one) for one in value if not isinstance(one, str))
    return ""
