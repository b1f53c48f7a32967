"""An agent's messages -> what is to be judged, and outcomes -> how the agent's state changes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)

from lec_guard.chain.lens import Reading, UneditableError, read
from lec_guard.chain.messages import request_of
from lec_guard.chain.runnable import Plan
from lec_guard.errors import EscalationPending
from lec_guard.step import Outcome, Step, Verdict

JUDGED, NOTES, TOKENS = "lec_guard_judged", "lec_guard_notes", "lec_guard_tokens"
"""Channels of an agent's state that are nobody else's: digests of messages that were judged, what the system prompt has
to say, and what tokens in messages stand for."""

_SHORT = 4
"""Values with fewer characters are taken for themselves only where they stand alone: `Al` is no part of `Also`."""


@dataclass(frozen=True, slots=True)
class Apply:
    """Steps that are to be judged and acted on; a flow is sent their outcomes."""

    plan: Plan


@dataclass(frozen=True, slots=True)
class Check:
    """Steps that are to be judged only; a flow is sent their verdicts."""

    steps: list[Step]


TurnFlow = Generator[Apply | Check, list[Any], dict[str, Any] | None]
"""Asks a guard, and gives an update of the agent's state; None where nothing is new."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """An agent's state at one place of its loop.

    Attributes:
        state: The state.
        tenant: Whose policy applies.
        locale: The language of what the user is told; None for the policy's own.
        is_answered: Whether the model has just answered, and nothing has come of that yet.
    """

    state: Mapping[str, Any]
    tenant: str | None
    locale: str | None
    is_answered: bool

    def flow(self) -> TurnFlow:
        """Have judged what nobody has judged yet, and act on it.

        A message is known by its id and by a digest of what it says, so that one that was put in the place of another
        is judged like any that is new, and so is a history that a caller brings along.

        Yields:
            What is to be judged.

        Returns:
            The update of the agent's state.

        Raises:
            UnsupportedValueError: If a message can't be read.
            EscalationPending: If somebody has yet to decide.
        """
        items = self._items()
        if not items:
            return None
        plan = Plan([], [], [item.reading for item in items], {})
        for item in items:
            plan.steps.extend(item.reading.steps)
            plan.tenants.extend([self.tenant] * len(item.reading.steps))
        outcomes: list[Outcome] = yield Apply(plan)
        for outcome in outcomes:
            if outcome.ticket is not None:
                raise EscalationPending(outcome.verdict, outcome.ticket)
        settled = [self._settled(*one) for one in zip(items, plan.of_values(outcomes), strict=True)]
        # What edits of several steps of one message made together is no outcome of any of them.
        unread = [(one, step) for one in settled for step in one.unread()]
        if unread:
            verdicts: list[Verdict] = yield Check([step for _, step in unread])
            for (one, _), verdict in zip(unread, verdicts, strict=True):
                if verdict.action not in ("allow", "flag"):
                    one.block(self._said(verdict))
        return self._update(settled)

    def _items(self) -> list[_Item]:
        """What nobody has judged yet; where the model has just answered, only what models say."""
        messages: list[BaseMessage] = self.state["messages"]
        judged: Mapping[str, str] = self.state.get(JUDGED) or {}
        answer = max((at for at, one in enumerate(messages) if isinstance(one, AIMessage)), default=-1)
        items: list[_Item] = []
        for at, message in enumerate(messages):
            if isinstance(message, SystemMessage) or judged.get(message.id or "") == digest(message, self.tenant):
                continue
            if self.is_answered and not isinstance(message, AIMessage):
                continue
            request = _request(messages[:at])
            system = [one for one in messages[:at] if isinstance(one, SystemMessage)]
            is_answer = self.is_answered and at == answer
            items.append(_Item(message, read([*system, message], request=request), is_answer))
            if is_answer and self.state.get("structured_response") is not None:
                items.append(_Item(None, read(self.state["structured_response"], "output", request), is_answer))
        return items

    def _settled(self, item: _Item, outcomes: Sequence[Outcome]) -> _Settled:
        """What becomes of a message by what came of its steps."""
        one = _Settled(item=item, outcomes=outcomes, value=item.value)
        answered = {ours.tool_call_id for ours in self._results()}
        calls = item.calls()
        edits = {at: outcome.edits for at, outcome in enumerate(outcomes) if outcome.text is not None and outcome.edits}
        for step, outcome in zip(item.reading.steps, outcomes, strict=True):
            if outcome.text is not None:
                continue
            said = self._said(outcome.verdict)
            own = [call_id for call_id, call in calls if call == step]
            if own and all(call_id and call_id not in answered for call_id in own):
                one.refused |= dict.fromkeys((call_id for call_id in own if call_id), said)
            else:
                # No call that could be answered apart from the others.
                one.block(said)
        if edits and one.blocked is None:
            try:
                one.value = item.value_of(item.reading.edited(edits))
            except UneditableError:
                # Each step's edits could be made, but not those of all together.
                one.block(self._said(outcomes[next(iter(edits))].verdict))
        return one

    def _results(self) -> list[ToolMessage]:
        """Results behind the last answer: where it is new, they are those that LangChain itself puts there."""
        results: list[ToolMessage] = []
        for message in reversed(self.state["messages"]):
            if isinstance(message, AIMessage):
                break
            results += [message] if isinstance(message, ToolMessage) else []
        return results

    def _said(self, verdict: Verdict) -> str:
        return verdict.message_in(self.locale) or ""

    def _update(self, settled: Sequence[_Settled]) -> dict[str, Any]:
        """All of it as an update of the agent's state."""
        changed: list[BaseMessage] = []
        known: list[BaseMessage] = []
        update: dict[str, Any] = {}
        passed = [one for one in settled if one.blocked is None]
        refusal = next((one.blocked for one in settled if one.item.is_answer and one.blocked is not None), None)
        for one in settled:
            if one.item.message is None:
                if refusal is None and one.value is not one.item.value:
                    update["structured_response"] = one.value
                    changed += self._retold(str(one.item.value), str(one.value))
                continue
            message = one.value
            if one.item.is_answer and refusal is not None:
                message = placeholder(one.item.message, refusal)
            elif one.blocked is not None:
                message = placeholder(one.item.message, one.blocked, is_history=not one.item.is_answer)
            known.append(message)
            if message is not one.item.message:
                changed.append(message)
            if one.item.is_answer and refusal is None:
                answers = [_refused_call(call_id, one.item.message, said) for call_id, said in one.refused.items()]
                changed += answers
                known += answers
        if refusal is not None:
            # An answer without calls has no results.
            changed += [RemoveMessage(id=message.id) for message in self._results() if message.id]
            update |= {"jump_to": "end", "structured_response": None} if self._has_structure() else {"jump_to": "end"}
        stopped = next((one.blocked for one in settled if one.blocked is not None and one.item.is_users), None)
        if stopped is not None:
            told = AIMessage(content=stopped, id=str(uuid4()))
            changed.append(told)
            known.append(told)
            update["jump_to"] = "end"
        if changed:
            update["messages"] = changed
        outcomes = [outcome for one in passed for outcome in one.outcomes]
        notes = [*(self.state.get(NOTES) or ()), *(note for outcome in outcomes for note in outcome.notes)]
        tokens = dict(self.state.get(TOKENS) or {})
        for outcome in outcomes:
            tokens |= outcome.tokens
        if notes:
            update[NOTES] = list(dict.fromkeys(notes))
        if tokens:
            update[TOKENS] = tokens
        return update | {JUDGED: self.judged(known)}

    def judged(self, known: Sequence[BaseMessage]) -> dict[str, str]:
        """Digests of all messages that were judged, and of no others that there were once.

        Args:
            known: Messages that were judged just now, as they pass.

        Returns:
            By a message's id its digest.
        """
        there = {message.id for message in self.state["messages"]}
        before = {key: value for key, value in (self.state.get(JUDGED) or {}).items() if key in there}
        return before | {message.id: digest(message, self.tenant) for message in known if message.id}

    def _has_structure(self) -> bool:
        return self.state.get("structured_response") is not None

    def _retold(self, old: str, new: str) -> list[BaseMessage]:
        """The messages in which LangChain tells of a structured response, with what became of it."""
        return [
            message.model_copy(update={"content": message.content.replace(old, new)})
            for message in self._results()
            if isinstance(message.content, str) and old in message.content
        ]


@dataclass(frozen=True, slots=True)
class _Item:
    """Something that is judged as one: a message, or a structured response.

    Attributes:
        message: The message; None for a structured response.
        reading: Its steps; that of a message has the system messages before it.
        is_answer: Whether it is what the model has just answered.
    """

    message: BaseMessage | None
    reading: Reading
    is_answer: bool

    @property
    def value(self) -> Any:
        """The message or the structured response."""
        return self.value_of(self.reading.value)

    @property
    def is_users(self) -> bool:
        """Whether there is nothing left to answer without it."""
        return self.message is not None and not isinstance(self.message, AIMessage | ToolMessage | FunctionMessage)

    def value_of(self, read_value: Any) -> Any:
        """The message or structured response in what was read."""
        return read_value if self.message is None else read_value[-1]

    def calls(self) -> list[tuple[str | None, Step]]:
        """Calls of a new answer that have yet to run: their ids and steps."""
        if not self.is_answer or not isinstance(self.message, AIMessage):
            return []
        return [
            (call["id"], read({**call, "type": "tool_call"}, request=self.reading.request).steps[0])
            for call in self.message.tool_calls
        ]


@dataclass(slots=True, kw_only=True)
class _Settled:
    """What becomes of an item.

    Attributes:
        item: The item.
        outcomes: What came of each of its steps.
        value: The message or structured response as it passes.
        refused: Id of a call that may not run -> what answers it.
        blocked: What stands in its place, where it may not pass.
    """

    item: _Item
    outcomes: Sequence[Outcome]
    value: Any
    refused: dict[str, str] = field(default_factory=dict)
    blocked: str | None = None

    def block(self, said: str) -> None:
        """Let it not pass."""
        self.blocked = said if self.blocked is None else self.blocked

    def unread(self) -> list[Step]:
        """Steps of what was edited that are not what came of any step."""
        if self.blocked is not None or self.value is self.item.value:
            return []
        reading = self.item.reading
        value = self.value if self.item.message is None else [*reading.value[:-1], self.value]
        known = {
            (step.stage, step.text if outcome.text is None else outcome.text)
            for step, outcome in zip(reading.steps, self.outcomes, strict=True)
        }
        steps = read(value, reading.stage, reading.request).steps
        return [step for step in steps if (step.stage, step.text) not in known]


def placeholder(message: BaseMessage, text: str, *, is_history: bool = False) -> BaseMessage:
    """What stands in the place of a message that may not pass: of its kind, under its id, and nothing that it said.

    Args:
        message: The message.
        text: What is said instead.
        is_history: Whether other messages may have answered it.

    Returns:
        The message that stands there instead. A tool's result is an error; an AI message has no calls, or in a history,
        where results may follow that name them, calls without arguments.
    """
    match message:
        case ToolMessage():
            return ToolMessage(
                content=text, id=message.id, name=message.name, tool_call_id=message.tool_call_id, status="error"
            )
        case AIMessage():
            return AIMessage(
                content=text,
                id=message.id,
                tool_calls=[{**call, "args": {}} for call in message.tool_calls] if is_history else [],
                usage_metadata=message.usage_metadata,
                response_metadata=message.response_metadata,
            )
        case FunctionMessage():
            return FunctionMessage(content=text, id=message.id, name=message.name)
        case ChatMessage():
            return ChatMessage(content=text, id=message.id, role=message.role)
        case _:
            return HumanMessage(content=text, id=message.id)


def _refused_call(call_id: str, message: BaseMessage, text: str) -> ToolMessage:
    """What answers a call that may not run."""
    calls = message.tool_calls if isinstance(message, AIMessage) else []
    name = next((call["name"] for call in calls if call["id"] == call_id), None)
    return ToolMessage(content=text, id=str(uuid4()), name=name, tool_call_id=call_id, status="error")


def _request(messages: Sequence[BaseMessage]) -> str | None:
    """The text of the last message that is a user's."""
    for message in reversed(messages):
        if isinstance(message, AIMessage | SystemMessage | ToolMessage | FunctionMessage):
            continue
        if (text := request_of([message])) is not None:
            return text
    return None


def digest(message: BaseMessage, tenant: str | None) -> str:
    """A digest of all that a message says.

    Args:
        message: The message.
        tenant: Whose policy it was judged by; others have policies of their own.

    Returns:
        32 hexadecimal digits.
    """
    said = [tenant, message.type, message.content, message.name, message.additional_kwargs]
    said += [getattr(message, name, None) for name in ("tool_calls", "invalid_tool_calls", "tool_call_id", "role")]
    data = json.dumps(said, sort_keys=True, default=repr)
    return hashlib.sha256(data.encode()).hexdigest()[:32]


def hiding(tokens: Mapping[str, str]) -> Callable[[str], str]:
    """What puts tokens in the place of the values that they stand for.

    Args:
        tokens: Token -> value.

    Returns:
        A function of a text. Tokens in it stay, and a value that several tokens stand for becomes the first of them.
    """
    by_value: dict[str, str] = {}
    for token, value in tokens.items():
        if value:
            by_value.setdefault(value, token)
    instead = {**by_value, **{token: token for token in tokens}}
    forms = [_form(one) for one in sorted(instead, key=len, reverse=True)]
    if not forms:
        return str
    pattern = re.compile("|".join(forms))
    return lambda text: pattern.sub(lambda found: instead[found[0]], text)


def _form(value: str) -> str:
    return rf"(?<!\w){re.escape(value)}(?!\w)" if len(value) < _SHORT else re.escape(value)
