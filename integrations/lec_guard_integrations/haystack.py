"""Haystack: components that judge texts, chat messages and documents in a pipeline."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self
from weakref import WeakValueDictionary

from langchain_core.documents import Document as LangChainDocument
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from lec_guard.chain.lens import Reading, read
from lec_guard.chain.messages import SystemMessages, known_system_messages, request_of
from lec_guard.chain.plan import Passed
from lec_guard.chain.values import ajudge, judge, released
from lec_guard.errors import GuardBlocked, LecGuardError, TenantMismatch, UnsupportedValueError
from lec_guard.guard import Guard
from lec_guard.step import Stage, Step, Verdict

try:
    from haystack import Document, component, default_from_dict, default_to_dict
    from haystack.dataclasses import ChatMessage, ChatRole, ReasoningContent, TextContent, ToolCall, ToolCallResult
except ModuleNotFoundError as missing:
    raise UnsupportedValueError(
        f"guards for Haystack need {missing.name}; run: pip install 'lec-guard[haystack]'"
    ) from None

_guards: WeakValueDictionary[tuple[str | None, str | None], Guard] = WeakValueDictionary()
_lock = threading.Lock()


def _guard(policies: str | None, detector: str | None) -> Guard:
    """The guard of a path: components of one pipeline that name the same share it, for it holds a model's weights."""
    with _lock:
        found = _guards.get((policies, detector))
        if found is None:
            found = _guards[policies, detector] = Guard.from_policies(policies, detector=detector)
        return found


class _Component:
    """What all of these components have.

    Args:
        policies: A folder of policies, one policy file, or None for the packaged default policy.
        detector: A bundle's folder, or None for the embedded one.
        tenant: The tenant of all runs; None where each run names its own.
        guard: A guard of the application's own, instead of `policies` and `detector`. A component that has one can't
            be saved.

    Raises:
        UnsupportedValueError: If both a guard and what to make one of are given.
        PolicyError: If a policy is wrong, or the tenant is unknown.
        BundleError: If the detector can't be loaded.
    """

    def __init__(
        self,
        policies: str | None = None,
        *,
        detector: str | None = None,
        tenant: str | None = None,
        guard: Guard | None = None,
    ) -> None:
        if guard is not None and (policies is not None or detector is not None):
            raise UnsupportedValueError("give a guard, or policies and a detector to make one of, not both")
        self._saved: dict[str, Any] | None = None
        if guard is None:
            self._saved = {"policies": _path(policies), "detector": _path(detector), "tenant": tenant}
            guard = _guard(self._saved["policies"], self._saved["detector"])
        if tenant is not None:
            guard.policy(tenant)
        self.guard = guard
        self.tenant = tenant

    def to_dict(self) -> dict[str, Any]:
        """The component as Haystack saves it.

        Returns:
            Its class and parameters.

        Raises:
            UnsupportedValueError: If it has a guard of its own.
        """
        return default_to_dict(self, **self._parameters())

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """A component as it was saved.

        Args:
            data: What `to_dict` gave.

        Returns:
            The component.
        """
        return default_from_dict(cls, data)

    def _parameters(self) -> dict[str, Any]:
        if self._saved is None:
            raise UnsupportedValueError("a component with a guard of its own can't be saved: give it policies instead")
        return dict(self._saved)

    def _tenant(self, tenant: str | None) -> str | None:
        if None not in (tenant, self.tenant) and tenant != self.tenant:
            raise TenantMismatch(f"the component is bound to {self.tenant!r}; the run names {tenant!r}")
        return self.tenant if tenant is None else tenant


@component
class GuardTexts(_Component):
    """Judges texts that are at one stage.

    Where all may pass, `texts` has them, as they are or as the policy has them rewritten. Where one may not, there is
    no `texts`, so that nothing that is connected to it runs; `refusal` has the policy's message.

    Args:
        policies: A folder of policies, one policy file, or None for the packaged default policy.
        stage: Where the texts pass: `input`, `output`, `tool_output`, ...
        detector: A bundle's folder, or None for the embedded one.
        tenant: The tenant of all runs; None where each run names its own.
        guard: A guard of the application's own, instead of `policies` and `detector`. A component that has one can't
            be saved.
    """

    def __init__(
        self,
        policies: str | None = None,
        *,
        stage: Stage = "input",
        detector: str | None = None,
        tenant: str | None = None,
        guard: Guard | None = None,
    ) -> None:
        # Not by super(): `component` makes another class of this one.
        _Component.__init__(self, policies, detector=detector, tenant=tenant, guard=guard)
        self.stage: Stage = Step(stage=stage, text="").stage

    def _parameters(self) -> dict[str, Any]:
        return {**_Component._parameters(self), "stage": self.stage}

    @component.output_types(texts=list[str], refusal=str)
    def run(self, texts: list[str], tenant: str | None = None) -> dict[str, Any]:
        """Judge texts.

        Args:
            texts: The texts.
            tenant: Whose policy applies.

        Returns:
            `texts` or `refusal`.

        Raises:
            EscalationPending: If somebody has yet to decide.
            TenantMismatch: If the component is bound to another tenant.
            PolicyError: If the tenant is unknown.
        """
        return _texts(judge(self.guard, self._read(texts), self._tenant(tenant)))

    @component.output_types(texts=list[str], refusal=str)
    async def run_async(self, texts: list[str], tenant: str | None = None) -> dict[str, Any]:
        """`run`, without blocking the event loop."""
        return _texts(await ajudge(self.guard, self._read(texts), self._tenant(tenant)))

    def _read(self, texts: list[str]) -> list[Reading]:
        return [read(text, self.stage) for text in texts]


@component
class GuardMessages(_Component):
    """Judges chat messages by their roles, and tool calls.

    Where all may pass, `messages` has them, as they are or as the policy has them rewritten. Where one may not, there
    is no `messages`, so that no generator that is connected to it runs; `refusal` is a list with one message of an
    assistant, the policy's.

    Args:
        policies: A folder of policies, one policy file, or None for the packaged default policy.
        detector: A bundle's folder, or None for the embedded one.
        tenant: The tenant of all runs; None where each run names its own.
        guard: A guard of the application's own, instead of `policies` and `detector`. A component that has one can't
            be saved.
        system_messages: Whose system messages are. `trusted`: the operator's own; they are context, and not judged.
            `judged`: a caller may have sent them, so they are judged like a user's.
    """

    def __init__(
        self,
        policies: str | None = None,
        *,
        detector: str | None = None,
        tenant: str | None = None,
        guard: Guard | None = None,
        system_messages: SystemMessages = "trusted",
    ) -> None:
        # Not by super(): `component` makes another class of this one.
        _Component.__init__(self, policies, detector=detector, tenant=tenant, guard=guard)
        self.system_messages: SystemMessages = known_system_messages(system_messages)

    def _parameters(self) -> dict[str, Any]:
        return {**_Component._parameters(self), "system_messages": self.system_messages}

    @component.output_types(messages=list[ChatMessage], refusal=list[ChatMessage])
    def run(
        self, messages: list[ChatMessage], request: list[ChatMessage] | None = None, tenant: str | None = None
    ) -> dict[str, Any]:
        """Judge messages.

        Args:
            messages: The messages, or a generator's replies.
            request: What replies answer; context, and not judged here.
            tenant: Whose policy applies.

        Returns:
            `messages` or `refusal`.

        Raises:
            UnsupportedValueError: If a message can't be read (an image).
            EscalationPending: If somebody has yet to decide.
            TenantMismatch: If the component is bound to another tenant.
            PolicyError: If the tenant is unknown.
        """
        talk = _Talk.of(messages, request, self.system_messages)
        return talk.judged(judge(self.guard, [talk.reading], self._tenant(tenant), talk.answered)[0])

    @component.output_types(messages=list[ChatMessage], refusal=list[ChatMessage])
    async def run_async(
        self, messages: list[ChatMessage], request: list[ChatMessage] | None = None, tenant: str | None = None
    ) -> dict[str, Any]:
        """`run`, without blocking the event loop."""
        talk = _Talk.of(messages, request, self.system_messages)
        return talk.judged((await ajudge(self.guard, [talk.reading], self._tenant(tenant), talk.answered))[0])


@component
class GuardDocuments(_Component):
    """Judges retrieved documents, content and metadata, before a model is shown them.

    `documents` has those that may pass, as they are or as the policy has them rewritten; `blocked` has the ids and the
    verdicts (no text) of the others.

    Args:
        policies: A folder of policies, one policy file, or None for the packaged default policy.
        detector: A bundle's folder, or None for the embedded one.
        tenant: The tenant of all runs; None where each run names its own.
        guard: A guard of the application's own, instead of `policies` and `detector`. A component that has one can't
            be saved.
    """

    @component.output_types(documents=list[Document], blocked=list[dict[str, Any]])
    def run(self, documents: list[Document], tenant: str | None = None) -> dict[str, Any]:
        """Judge documents.

        Args:
            documents: The documents.
            tenant: Whose policy applies.

        Returns:
            `documents` and `blocked`.

        Raises:
            UnsupportedValueError: If a document has binary data.
            EscalationPending: If somebody has yet to decide.
            TenantMismatch: If the component is bound to another tenant.
            PolicyError: If the tenant is unknown.
        """
        readings = [_document(one) for one in documents]
        return _documents(documents, judge(self.guard, readings, self._tenant(tenant)))

    @component.output_types(documents=list[Document], blocked=list[dict[str, Any]])
    async def run_async(self, documents: list[Document], tenant: str | None = None) -> dict[str, Any]:
        """`run`, without blocking the event loop."""
        readings = [_document(one) for one in documents]
        return _documents(documents, await ajudge(self.guard, readings, self._tenant(tenant)))


# --- texts and documents


def _texts(judged: Sequence[Passed | LecGuardError]) -> dict[str, Any]:
    try:
        return {"texts": [released(one).value for one in judged]}
    except GuardBlocked as blocked:
        return {"refusal": blocked.verdict.message or ""}


def _document(document: Document) -> Reading:
    if document.blob is not None:
        raise UnsupportedValueError("a document has binary data: the guard reads text, and passes nothing unread")
    return read(LangChainDocument(page_content=document.content or "", metadata=dict(document.meta)))


def _documents(documents: Sequence[Document], judged: Sequence[Passed | LecGuardError]) -> dict[str, Any]:
    kept: list[Document] = []
    blocked: list[dict[str, Any]] = []
    for document, one in zip(documents, judged, strict=True):
        if isinstance(one, LecGuardError):
            raise one
        if one.verdict.blocked:
            blocked.append({"id": document.id, "verdict": one.verdict.to_dict()})
        elif (one.value.page_content, one.value.metadata) != (document.content or "", document.meta):
            kept.append(replace(document, content=one.value.page_content, meta=one.value.metadata))
        else:
            kept.append(document)
    return {"documents": kept, "blocked": blocked}


# --- messages


@dataclass(frozen=True, slots=True)
class _Talk:
    """Chat messages, read as LangChain's.

    Attributes:
        messages: The messages.
        owners: For each of LangChain's which of them it is of, and which of its contents, where it is only one.
        reading: Their steps.
        answered: What they answer, where that is known.
    """

    messages: list[ChatMessage]
    owners: list[tuple[int, int | None]]
    reading: Reading
    answered: Reading | None

    @classmethod
    def of(
        cls, messages: list[ChatMessage], request: list[ChatMessage] | None, system_messages: SystemMessages
    ) -> _Talk:
        """Read messages."""
        said: list[BaseMessage] = []
        owners: list[tuple[int, int | None]] = []
        for at, message in enumerate(messages):
            for part, one in _said(message):
                said.append(one)
                owners.append((at, part))
        asked = [one for message in request or [] for _, one in _said(message)]
        answered = read(asked, None, None, system_messages) if asked else None
        reading = read(said, None, request_of(asked, system_messages) if asked else None, system_messages)
        return cls(messages, owners, reading, answered)

    def judged(self, one: Passed | LecGuardError) -> dict[str, Any]:
        """What the component gives."""
        try:
            value = released(one).value
        except GuardBlocked as blocked:
            return {"refusal": [_refusal(blocked.verdict)]}
        messages, old = list(self.messages), self.reading.value
        noted = value[: len(value) - len(old)]  # What the system prompt has to say, where there is none.
        for (at, part), before, after in zip(self.owners, old, value[len(noted) :], strict=True):
            if after is not before:
                messages[at] = _written(messages[at], part, after)
        return {"messages": [*(ChatMessage.from_system(note.text) for note in noted), *messages]}


def _said(message: ChatMessage) -> list[tuple[int | None, BaseMessage]]:
    """A message as LangChain's; one with results of tools as one for each of them."""
    results = [(at, part) for at, part in enumerate(message._content) if isinstance(part, ToolCallResult)]
    if results:
        if len(results) < len(message._content):
            raise UnsupportedValueError("a message has results of tools, and something else beside them")
        return [(at, _result(part)) for at, part in results]
    blocks: list[str | dict[str, Any]] = [
        {"type": "text", "text": _text(part)} for part in message._content if not isinstance(part, ToolCall)
    ]
    if isinstance(refused := message.meta.get("refusal"), str):
        blocks.append({"type": "text", "text": refused})  # A generator may send it on.
    match message.role:
        case ChatRole.USER:
            return [(None, HumanMessage(content=blocks, name=message.name))]
        case ChatRole.SYSTEM:
            return [(None, SystemMessage(content=blocks, name=message.name))]
        case _:
            calls: list[Any] = [
                {"name": call.tool_name, "args": call.arguments, "id": call.id or f"call_{at}", "type": "tool_call"}
                for at, call in enumerate(message.tool_calls)
            ]
            return [(None, AIMessage(content=blocks, tool_calls=calls, name=message.name))]


def _result(part: ToolCallResult) -> ToolMessage:
    blocks: list[str | dict[str, Any]] = [{"type": "text", "text": _text(one)} for one in _results(part)]
    return ToolMessage(
        content=blocks,
        tool_call_id=part.origin.id or "",
        name=part.origin.tool_name,
        status="error" if part.error else "success",
    )


def _results(part: ToolCallResult) -> list[Any]:
    return [TextContent(text=part.result)] if isinstance(part.result, str) else list(part.result)


def _text(part: object) -> str:
    match part:
        case TextContent():
            return part.text
        case ReasoningContent():
            return part.reasoning_text
        case _:
            raise UnsupportedValueError(
                f"a message has a {type(part).__name__}: the guard reads text, and passes nothing unread"
            )


def _written(message: ChatMessage, part: int | None, said: BaseMessage) -> ChatMessage:
    """A message with what became of it."""
    texts = [block["text"] for block in said.content if isinstance(block, dict)]
    if part is not None:
        contents: list[Any] = list(message._content)
        result = contents[part]
        new = texts[0] if isinstance(result.result, str) else [TextContent(text=text) for text in texts]
        contents[part] = replace(result, result=new)
        return replace(message, _content=contents)
    left, calls = iter(texts), iter(said.tool_calls if isinstance(said, AIMessage) else [])
    contents = []
    for one in message._content:
        match one:
            case ToolCall():
                contents.append(replace(one, arguments=next(calls)["args"]))
            case ReasoningContent():
                contents.append(replace(one, reasoning_text=next(left)))
            case _:
                contents.append(TextContent(text=next(left)))
    meta = message.meta
    if isinstance(meta.get("refusal"), str):
        meta = {**meta, "refusal": next(left)}
    contents += [TextContent(text=text) for text in left]  # A note, behind the operator's own words.
    return replace(message, _content=contents, _meta=meta)


def _refusal(verdict: Verdict) -> ChatMessage:
    told = {"action": verdict.action, "stage": verdict.stage, "rule": verdict.rule}
    return ChatMessage.from_assistant(verdict.message or "", meta={"lec_guard": told})


def _path(given: str | Path | None) -> str | None:
    return None if given is None else str(given)
