"""An agent's messages -> what is to be judged, and outcomes -> what passes, and what the agent's state keeps."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args, get_type_hints
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
from pydantic import TypeAdapter

from lec_guard.acting import Fingerprint
from lec_guard.chain.lens import Reading, UneditableError, read
from lec_guard.chain.messages import SystemMessages, is_system, known_system_messages
from lec_guard.chain.plan import Plan, unread
from lec_guard.errors import EscalationPending, GuardBlocked, UnsupportedValueError
from lec_guard.joining import PARTS, Joined, joined
from lec_guard.step import Origin, Outcome, Stage, Step, ToolRef, Verdict
from lec_guard.taint import TRACED, trace
from lec_guard_integrations.channels import BLOCKED, JUDGED, NOTES, TOKENS, TOOLS
from lec_guard_integrations.readable import Readable, readable_artifact, readable_message

UNREAD, MEDIA = "unread", "unread:media"
"""What verdicts name as their rule where a message can't be read, and where it holds more than text."""

_ALONE = "lec_guard: judged alone"
"""What tells hashes of messages that have yet to be judged joined with others from those of messages that were."""

_VERDICT = TypeAdapter(Verdict)

Place = Literal["before", "answer", "tools", "end"]
"""Where in its loop an agent is: before a call of the model, right after it, in a call of a tool, or at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnBlock:
    """What follows where something is blocked.

    `end`: the policy's message stands in its place and is the agent's answer; the thread is of use for the next turn.
    `recover`: the policy's message stands in its place as a tool's error, and the agent goes on. `raise`:
    `GuardBlocked` goes to the caller; what was blocked stays where it is (where it was judged in a tool's call, the
    policy's message does), and a thread that keeps it raises again.

    Attributes:
        input: Of a user's message.
        output: Of an answer.
        tool_input: Of a call of a tool; `end` answers in the place of the whole message that calls.
        tool_output: Of a tool's result.

    Raises:
        UnsupportedValueError: If there is no such way at a stage.
    """

    input: Literal["end", "raise"] = "end"
    output: Literal["end", "raise"] = "end"
    tool_input: Literal["recover", "end", "raise"] = "recover"
    tool_output: Literal["recover", "end", "raise"] = "recover"

    def __post_init__(self) -> None:
        """Refuse what nothing would follow from."""
        for stage, ways in get_type_hints(type(self)).items():
            if getattr(self, stage) not in get_args(ways):
                raise UnsupportedValueError(f"on_block at {stage}: use {' or '.join(get_args(ways))}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ways:
    """What an operator wants beside the policies.

    Attributes:
        on_block: What follows where something is blocked.
        system_prompt: The agent's system prompt, as context of what users say.
        media: What follows where a message holds images, files or an artifact that nobody can read.
        system_messages: Whose system messages among the others are.
    """

    on_block: OnBlock = field(default_factory=OnBlock)
    system_prompt: str | None = None
    media: Literal["flag", "block"] = "flag"
    system_messages: SystemMessages = "trusted"

    def __post_init__(self) -> None:
        """Refuse what nothing would follow from."""
        if self.media not in ("flag", "block"):
            raise UnsupportedValueError("media: use flag or block")
        known_system_messages(self.system_messages)

    def trusts(self, message: BaseMessage) -> bool:
        """Whether a message is the operator's own: context of others, and not judged.

        Args:
            message: The message.

        Returns:
            Whether it is.
        """
        return isinstance(message, SystemMessage) and self.system_messages == "trusted"


@dataclass(frozen=True, slots=True)
class Apply:
    """Steps that are to be judged and acted on; a flow is sent their outcomes."""

    plan: Plan


@dataclass(frozen=True, slots=True)
class Check:
    """Steps that are to be judged only; a flow is sent their verdicts."""

    steps: list[Step]


@dataclass(frozen=True, slots=True)
class Join:
    """Texts of one origin that are to be judged as one; a flow is sent an outcome for each, or None."""

    joins: list[Joined]


@dataclass(frozen=True, slots=True)
class Tell:
    """Something that can't be read, which is to be told; a flow is sent the verdict.

    Attributes:
        step: What it belongs to.
        rule: What the verdict is to name.
        blocks: Whether it may not pass for that.
    """

    step: Step
    rule: str
    blocks: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Turned:
    """What came of an agent's messages.

    Attributes:
        messages: All of them, as they pass.
        changed: What has to be written into the state for that.
        private: What the middleware's own channels are to hold.
        structured: The structured response as it passes.
        is_ended: Whether the last message is the refusal that the agent ends with.
        has_structure: Whether the structured response is another one.
    """

    messages: list[BaseMessage]
    changed: list[BaseMessage]
    private: dict[str, Any]
    structured: Any
    is_ended: bool
    has_structure: bool

    def update(self) -> dict[str, Any]:
        """All of it as an update of the agent's state, from a node that can end the agent."""
        update = dict(self.private)
        if self.changed:
            update["messages"] = self.changed
        if self.has_structure:
            update["structured_response"] = self.structured
        if self.is_ended:
            update["jump_to"] = "end"
        return update


Asking = Apply | Check | Join | Tell
"""What a flow asks a guard."""

TurnFlow = Generator[Asking, Any, Turned | None]
"""Asks a guard, and gives what came of it; None where nothing is new."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """An agent's messages at one place of its loop.

    A message is known by its id and by a keyed hash over all that its verdicts follow from, so that one that was put in
    the place of another is judged like any that is new, and so are a history that a caller brings along, and everything
    after the policy or the detector changed.

    Attributes:
        state: The state; its private channels are read.
        messages: The messages.
        structured: The structured response, if there is one.
        place: Where the agent is.
        tenant: Whose policy applies.
        locale: The language of what the user is told; None for the policy's own.
        fingerprint: Makes the keyed hashes.
        ways: What the operator wants.
        traces: Whether the policy asks where texts came from.
    """

    state: Mapping[str, Any]
    messages: Sequence[BaseMessage]
    structured: Any
    place: Place
    tenant: str | None
    locale: str | None
    fingerprint: Fingerprint
    ways: Ways
    traces: bool = False

    def items(self) -> list[Item]:
        """What nobody has judged yet: of models only where one has just answered, in a tool's call what it gave."""
        judged: Mapping[str, str] = self.state.get(JUDGED) or {}
        blocked: Mapping[str, Any] = self.state.get(BLOCKED) or {}
        answer = max((at for at, one in enumerate(self.messages) if isinstance(one, AIMessage)), default=-1)
        given = {id(one) for one in self.messages[len(self.state["messages"]) :]} if self.place == "tools" else set()
        items: list[Item] = []
        for at, seen in self._seen(self.messages, lambda one: self._is_for_here(one, given)):
            message, is_answer = seen.message, self.place == "answer" and at == answer
            mark, known = seen.mark(self.fingerprint), judged.get(message.id or "")
            verdict = blocked.get(message.id or "")
            if verdict is None and mark is not None and known == mark:
                continue
            item = Item(at=at, message=message, seen=seen, part=seen.text, is_answer=is_answer)
            if verdict is not None:
                item = replace(item, blocked=_VERDICT.validate_python(verdict))
            elif known is not None and known == seen.mark(self.fingerprint, is_alone=True):
                item = replace(item, is_alone=True)
            items.append(item)
            if is_answer and self.structured is not None:
                reading = read(self.structured, "output", seen.request)
                part = Part(Readable(self.structured, _itself), reading, reading.steps)
                items.append(Item(at=at, message=None, seen=seen, part=part, is_answer=is_answer))
        return items

    def _is_for_here(self, message: BaseMessage, given: set[int]) -> bool:
        match self.place:
            case "answer":
                return isinstance(message, AIMessage)
            case "tools":
                return id(message) in given
            case _:
                return True

    def flow(self, items: Sequence[Item] | None = None) -> TurnFlow:
        """Have judged what nobody has judged yet, and act on it.

        Args:
            items: What `items` gave, where it is known.

        Yields:
            What a guard is asked.

        Returns:
            What passes.

        Raises:
            EscalationPending: If somebody has yet to decide.
            GuardBlocked: If something is blocked, and the operator wants that.
        """
        items = self.items() if items is None else items
        if not items:
            return None
        settled = [_Settled(item=one, outcomes=[], blocked=one.blocked) for one in items if one.is_settled]
        settled += yield from self._judged([one for one in items if not one.is_settled])
        settled.sort(key=lambda one: one.item.at)
        if self.place != "tools":  # Calls of tools that run beside one another do not see each other's results.
            yield from self._join(settled)
        # Beside a result, after what was rewritten in it is so in copies of it, too.
        beside = [inner for one in settled if not one.item.is_settled for inner in one.beside()]
        for one, own in zip(beside, (yield from self._judged([item for _, item in beside])), strict=True):
            one[0].take(own)
        return self._finished(settled)

    def _judged(self, items: Sequence[Item]) -> Generator[Asking, Any, list[_Settled]]:
        """Judge items in one call of the detector, and settle each of them."""
        plan = Plan()
        for item, steps in zip(items, self._traced(items), strict=True):
            plan.add(item.part.reading, steps, self.tenant)
        outcomes: list[Outcome] = (yield Apply(plan)) if plan.steps else []
        for outcome in outcomes:
            if outcome.ticket is not None:
                raise EscalationPending(outcome.verdict, outcome.ticket)
        settled = [self._settled(*one) for one in zip(items, plan.of_values(outcomes), strict=True)]
        # What edits of several steps of one message made together is no outcome of any of them.
        new = [(one, step) for one in settled for step in one.unread()]
        if new:
            verdicts: list[Verdict] = yield Check([step for _, step in new])
            for (one, _), verdict in zip(new, verdicts, strict=True):
                if verdict.action not in ("allow", "flag"):
                    one.block(verdict)
        for one in settled:
            part = one.item.part
            if part.readable.unread is not None or part.reading is None:
                told = Tell(
                    Step(stage=one.item.stage, text=""),
                    UNREAD if part.reading is None else MEDIA,
                    part.reading is None or self.ways.media == "block",
                )
                verdict = yield told
                if verdict.blocked:
                    one.block(verdict)
        return settled

    def _join(self, settled: Sequence[_Settled]) -> Generator[Asking, Any, None]:
        """Judge what is new of users and tools once more, joined with what the same ones said just before it.

        Of several that are new each is, as if they had come one after the other. What is blocked takes part no more,
        and what is joined without it is judged then.
        """
        found: dict[Step, Outcome | None] = {}
        while joins := self._joins(settled):
            new = list({join.step: join for _, join in joins if join.step not in found}.values())
            if new:
                found |= zip([join.step for join in new], (yield Join(new)), strict=True)
            told = [(one, join, outcome) for one, join in joins if (outcome := found[join.step]) is not None]
            for _, _, outcome in told:
                if outcome.ticket is not None:
                    raise EscalationPending(outcome.verdict, outcome.ticket)
            stopped = [(one, join, outcome) for one, join, outcome in told if outcome.text is None]
            if not stopped:
                return
            # The first of each origin: those behind it may have been stopped for what it said.
            origins: dict[tuple[str, ToolRef | None], tuple[_Settled, Outcome]] = {}
            for one, join, outcome in stopped:
                origins.setdefault((join.step.stage, join.step.tool), (one, outcome))
            for one, outcome in origins.values():
                one.block(replace(outcome.verdict, action="block"))

    def _joins(self, settled: Sequence[_Settled]) -> list[tuple[_Settled, Joined]]:
        mine = {one.item.at: one for one in settled if one.item.message is not None}
        origins: dict[str | None, list[int]] = {}
        for at, message in enumerate(self.messages):
            if not isinstance(message, AIMessage) and not self.ways.trusts(message):
                # Users are one, by whatever name and role.
                tool = (message.name or "") if isinstance(message, ToolMessage | FunctionMessage) else None
                origins.setdefault(tool, []).append(at)
        # Twice as many, for some say what others say.
        recent = {
            at
            for own in origins.values()
            for number, newest in enumerate(own)
            if newest in mine
            for at in own[max(number + 1 - 2 * PARTS, 0) : number + 1]
        }
        if not recent:
            return []
        wanted = {id(self.messages[at]) for at in recent}
        steps: dict[tuple[str, ToolRef | None], list[Step]] = {}
        joins: list[tuple[_Settled, Joined]] = []
        for at, seen in self._seen(self.messages, lambda message: id(message) in wanted):
            one = mine.get(at)
            if at not in recent or (one is not None and one.blocked is not None):
                continue
            own: dict[tuple[str, ToolRef | None], list[Step]] = {}
            for step in seen.text.steps if one is None else one.said():
                own.setdefault((step.stage, step.tool), []).append(step)
            for origin, said in own.items():
                before = steps.setdefault(origin, [])
                before += said
                del before[: -4 * PARTS]
                if one is not None:
                    joins += [(one, join) for join in joined(before, {len(before) - 1})]
        return joins

    def _traced(self, items: Sequence[Item]) -> list[list[Step]]:
        """The steps of items, with what in them came from third parties: messages that were judged before count."""
        own = [item.part.steps for item in items]
        if not self.traces or not any(step.stage in TRACED for steps in own for step in steps):
            return own
        theirs: dict[int, list[int]] = {}
        for number, item in enumerate(items):
            theirs.setdefault(id(self.messages[item.at]), []).append(number)
        said: list[Step] = []
        if self.ways.system_prompt:
            said.append(Step(stage="input", text=self.ways.system_prompt, origin=Origin(trust="operator")))
        places: dict[int, int] = {}
        names: dict[str | None, str] = {}
        for message in thread(self.state["messages"], self.messages):
            if self.ways.trusts(message):
                said += read(message).conversation()
                continue
            numbers = theirs.pop(id(message), [])
            if not any(items[number].part is items[number].seen.text for number in numbers):
                said += Seen.of(message, None, None, names, {}).text.steps
            for number in numbers:
                places[number] = len(said)
                said += own[number]
            if isinstance(message, AIMessage):
                names |= {call["id"]: call["name"] for call in message.tool_calls}
        within = [at for number, first in places.items() for at in range(first, first + len(own[number]))]
        found = trace(said, [at for at in within if said[at].stage in TRACED])
        return [found[places[number] : places[number] + len(steps)] for number, steps in enumerate(own)]

    def _seen(
        self, messages: Sequence[BaseMessage], wanted: Callable[[BaseMessage], bool]
    ) -> Iterator[tuple[int, Seen]]:
        """The messages that are wanted as they are read where they stand, but for those of the operator."""
        descriptions: Mapping[str, str] = self.state.get(TOOLS) or {}
        system = [self.ways.system_prompt] if self.ways.system_prompt else []
        request: str | None = None
        names: dict[str | None, str] = {}
        for at, message in enumerate(messages):
            if self.ways.trusts(message):
                system += [step.text for step in read(message).steps]
                continue
            is_wanted, is_users = wanted(message), not isinstance(message, AIMessage | ToolMessage | FunctionMessage)
            if is_wanted or is_users:  # What others are read with.
                seen = Seen.of(message, "\n".join(system) or None, request, names, descriptions)
                if is_wanted:
                    yield at, seen
                if is_users:
                    request = next((one.text for one in reversed(seen.text.steps) if one.stage == "input"), request)
            if isinstance(message, AIMessage):
                names |= {call["id"]: call["name"] for call in message.tool_calls}

    def _settled(self, item: Item, outcomes: Sequence[Outcome]) -> _Settled:
        """What becomes of an item by what came of its steps."""
        one = _Settled(item=item, outcomes=list(outcomes))
        reading = item.part.reading
        if reading is None:
            return one
        answered = {ours.tool_call_id: ours.status == "error" for ours in self._results()}
        calls = item.calls()
        edits = {at: outcome.edits for at, outcome in enumerate(outcomes) if outcome.text is not None and outcome.edits}
        for step, outcome in zip(reading.steps, outcomes, strict=True):
            if outcome.text is not None:
                continue
            verdict = replace(outcome.verdict, action="block")
            own = [call_id or "" for call_id, call in calls if call == step]
            if own and all(answered.get(call_id) for call_id in own):
                continue  # Somebody else has refused it.
            if own and self.ways.on_block.tool_input == "raise":
                raise self._raised(verdict)
            if (
                own
                and self.ways.on_block.tool_input == "recover"
                and all(call_id and call_id not in answered for call_id in own)
            ):
                one.refused |= dict.fromkeys(own, self._said(verdict))
                continue
            # No call that could be answered apart from the others.
            one.block(verdict, is_call=bool(own))
        if edits and one.blocked is None:
            try:
                one.value = reading.edited(edits)
            except UneditableError:
                # Each step's edits could be made, but not those of all together.
                one.block(outcomes[next(iter(edits))].verdict)
        return one

    def _results(self) -> list[ToolMessage]:
        """Results behind the last answer: where it is new, they are those that LangChain itself or others put there."""
        results: list[ToolMessage] = []
        for message in reversed(self.messages):
            if isinstance(message, AIMessage):
                break
            results += [message] if isinstance(message, ToolMessage) else []
        return results

    def _said(self, verdict: Verdict) -> str:
        return verdict.message_in(self.locale) or ""

    def _raised(self, verdict: Verdict) -> GuardBlocked:
        return GuardBlocked(replace(verdict, action="block", message=verdict.message_in(self.locale)))

    def _finished(self, settled: Sequence[_Settled]) -> Turned:
        """All of it together."""
        final: dict[int, BaseMessage] = dict(enumerate(self.messages))
        known: set[int] = set()
        removed: list[BaseMessage] = []
        structured, has_structure = self.structured, False
        for one in settled:
            if one.blocked is not None and not one.is_call and getattr(self.ways.on_block, one.item.stage) == "raise":
                if self.place == "tools":
                    continue  # The tool would run again: it is raised before the model's next call.
                raise self._raised(one.blocked)
        refusal = next((one.blocked for one in settled if one.item.is_answer and one.blocked is not None), None)
        for one in settled:
            at, message = one.item.at, one.item.message
            known.add(at)
            if message is None:
                if refusal is None and one.value is not one.item.value:
                    final |= self._retold(str(structured), str(one.value))
                    structured, has_structure = one.value, True
                if refusal is None:
                    # They tell what was judged.
                    known |= {place for place, told in final.items() if place > at and isinstance(told, ToolMessage)}
                continue
            if one.item.is_answer and refusal is not None:
                final[at] = placeholder(message, self._said(refusal))
            elif one.blocked is not None:
                stands = placeholder(message, self._said(one.blocked), is_history=not one.item.is_answer)
                final[at] = message if one.item.blocked is not None and stands == message else stands
            else:
                final[at] = one.passing()
            if one.item.is_answer and refusal is None:
                for call_id, said in one.refused.items():
                    known.add(len(final))
                    final[len(final)] = _refused_call(call_id, message, said)
        if refusal is not None:
            # An answer without calls has no results.
            gone = {id(result) for result in self._results()}
            removed = [RemoveMessage(id=one.id) for one in final.values() if id(one) in gone and one.id]
            final = {at: one for at, one in final.items() if id(one) not in gone}
            structured, has_structure = None, self.structured is not None
        stopped = self._stopped(settled)
        if stopped is not None:
            place = max(final) + 1
            known.add(place)
            final[place] = AIMessage(content=self._said(stopped), id=str(uuid4()))
        before = dict(enumerate(self.messages))
        messages = list(final.values())
        return Turned(
            messages=messages,
            changed=[*(one for at, one in final.items() if one is not before.get(at)), *removed],
            private=self._private(
                settled,
                messages,
                {id(one) for at, one in final.items() if at in known},
                {id(final[one.item.at]) for one in settled if self.place == "tools" and one.blocked is None},
            ),
            structured=structured,
            is_ended=stopped is not None or refusal is not None,
            has_structure=has_structure,
        )

    def _stopped(self, settled: Sequence[_Settled]) -> Verdict | None:
        """What the agent ends for with an answer of ours, beside an answer of the model's that may not pass."""
        if self.place != "before":
            return None
        ends = ["input", *(["tool_output"] if self.ways.on_block.tool_output == "end" else [])]
        return next((one.blocked for one in settled if one.blocked is not None and one.item.stage in ends), None)

    def _private(
        self, settled: Sequence[_Settled], messages: Sequence[BaseMessage], known: set[int], alone: set[int]
    ) -> dict[str, Any]:
        outcomes = [outcome for one in settled if one.blocked is None for outcome in one.outcomes]
        notes = list(dict.fromkeys(note for outcome in outcomes for note in outcome.notes))
        tokens: dict[str, str] = {}
        for outcome in outcomes:
            tokens |= outcome.tokens
        private: dict[str, Any] = {JUDGED: self.judged(messages, known, alone)}
        if notes:
            private[NOTES] = notes
        if tokens:
            private[TOKENS] = tokens
        if blocked := self._left_over(settled):
            private[BLOCKED] = blocked
        return private

    def _left_over(self, settled: Sequence[_Settled]) -> dict[str, Any]:
        """Blocks that the agent has yet to end for, and those that it has."""
        if self.place != "tools":
            there = {message.id for message in self.state["messages"]}
            gone = [key for key in (self.state.get(BLOCKED) or {}) if key not in there]
            return dict.fromkeys([*gone, *(one.item.seen.message.id or "" for one in settled if one.item.blocked)])
        if self.ways.on_block.tool_output == "recover":
            return {}
        return {one.item.seen.message.id or "": one.blocked.to_dict() for one in settled if one.blocked is not None}

    def judged(
        self, messages: Sequence[BaseMessage], known: set[int], alone: Collection[int] = ()
    ) -> dict[str, str | None]:
        """Hashes of messages that were judged just now; None for messages that there were once.

        Args:
            messages: The messages as they pass.
            known: The identities (`id`) of those among them that were judged just now.
            alone: Those of messages that have yet to be judged joined with others.

        Returns:
            By a message's id its hash.
        """
        there = {message.id for message in (*self.state["messages"], *messages)}
        before: Mapping[str, str] = self.state.get(JUDGED) or {}
        # What other calls of tools write at the same time is none that there was once.
        gone = {} if self.place == "tools" else dict.fromkeys(key for key in before if key not in there)
        marks = {
            seen.message.id: seen.mark(self.fingerprint, is_alone=id(seen.message) in alone)
            for _, seen in self._seen(messages, lambda one: id(one) in known)
        }
        return gone | {key: mark for key, mark in marks.items() if key and mark}

    def _retold(self, old: str, new: str) -> dict[int, BaseMessage]:
        """The messages in which LangChain tells of a structured response, with what became of it."""
        results = {id(result) for result in self._results()}
        return {
            at: message.model_copy(update={"content": message.content.replace(old, new)})
            for at, message in enumerate(self.messages)
            if id(message) in results and isinstance(message.content, str) and old in message.content
        }


@dataclass(frozen=True, slots=True)
class Part:
    """Something that is read as one.

    Attributes:
        readable: What there is to read.
        reading: Its reading; None where it can't be read.
        steps: The steps of the reading, with what else is known of them.
    """

    readable: Readable
    reading: Reading | None
    steps: list[Step]


@dataclass(frozen=True, slots=True)
class Seen:
    """A message as it is read where it stands.

    Attributes:
        message: The message.
        text: What it says.
        system: The operator's words before it.
        request: What it answers.
        tool: The tool whose result it is.
        descriptions: What tools do, by their names.
    """

    message: BaseMessage
    text: Part
    system: str | None
    request: str | None
    tool: str
    descriptions: Mapping[str, str]

    @classmethod
    def of(
        cls,
        message: BaseMessage,
        system: str | None,
        request: str | None,
        names: Mapping[str | None, str],
        descriptions: Mapping[str, str],
    ) -> Seen:
        """Read a message.

        Args:
            message: The message.
            system: The operator's words before it.
            request: What it answers.
            names: The tools that calls before it name, by the calls' ids.
            descriptions: What tools do, by their names.

        Returns:
            The message as it is read.
        """
        whole = Readable(message, _itself)
        tool = ""
        if isinstance(message, ToolMessage):
            tool = message.name or names.get(message.tool_call_id, "")
        seen = cls(message, Part(whole, None, []), system, request, tool, descriptions)
        try:
            text = seen.part(whole, None)
        except UnsupportedValueError:
            readable = readable_message(message)
            return seen if readable is None else replace(seen, text=seen.part(readable, None))
        return replace(seen, text=text)

    def part(self, readable: Readable, stage: Stage | None) -> Part:
        """Read what is readable of the message, or beside it.

        Args:
            readable: What there is to read.
            stage: The stage of texts without a role.

        Returns:
            The part.
        """
        # The operator's own system messages come to nobody here.
        reading = read(readable.value, stage, self.request, "judged" if stage is None else "trusted")
        return Part(readable, reading, [self.placed(step) for step in reading.steps])

    def beside(self, message: BaseMessage | None = None) -> Part | None:
        """What a tool keeps beside its result.

        Args:
            message: The message as it passes; None for the message as it came.

        Returns:
            The part; None where there is nothing.
        """
        artifact = getattr(message or self.message, "artifact", None)
        if artifact is None:
            return None
        return self.part(readable_artifact(artifact), "tool_output")

    def placed(self, step: Step) -> Step:
        """A step with what is known of it here: the operator's words, and what its tool does."""
        if step.stage == "input":
            return replace(step, context=self.system)
        if step.stage not in ("tool_input", "tool_output"):
            return step
        name = (step.tool.name if step.tool is not None else "") or (self.tool if step.stage == "tool_output" else "")
        context = step.context if step.stage == "tool_input" else self.request
        return replace(step, tool=ToolRef(name=name, description=self.descriptions.get(name)), context=context)

    def mark(self, fingerprint: Fingerprint, *, is_alone: bool = False) -> str | None:
        """By what the message is known; None where nobody can read it.

        Args:
            fingerprint: Makes keyed hashes of steps.
            is_alone: Whether it has yet to be judged joined with others; then it is known by another.

        Returns:
            The hash.
        """
        if self.text.reading is None:
            return None
        parts = [part for part in (self.text, self.beside()) if part is not None]
        left_out = [
            Step(stage="tool_output", text=part.readable.unread) for part in parts if part.readable.unread is not None
        ]
        alone = [Step(stage="tool_output", text=_ALONE)] if is_alone else []
        return fingerprint([*alone, *(step for part in parts for step in part.steps), *left_out])


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """Something that is judged as one: a message, what a tool keeps beside it, or a structured response.

    Attributes:
        at: The message's place among all.
        message: The message; None for a structured response.
        seen: The message as it is read.
        part: What of it is judged.
        is_answer: Whether it is what the model has just answered.
        is_alone: Whether it was judged in the call of the tool that gave it, and not yet joined with others.
        blocked: Why it may not pass, where that was found there and has yet to end the agent.
    """

    at: int
    message: BaseMessage | None
    seen: Seen
    part: Part
    is_answer: bool
    is_alone: bool = False
    blocked: Verdict | None = None

    @property
    def is_settled(self) -> bool:
        """Whether nothing of it is to be judged by itself any more."""
        return self.is_alone or self.blocked is not None

    @property
    def value(self) -> Any:
        """What was read."""
        return self.part.readable.value

    @property
    def stage(self) -> Literal["input", "output", "tool_output"]:
        """Whose words they are; without those of a user there is nothing left to answer."""
        if self.message is None or isinstance(self.message, AIMessage):
            return "output"
        return "tool_output" if isinstance(self.message, ToolMessage | FunctionMessage) else "input"

    def steps(self) -> list[Step]:
        """All that is judged of it, and of what a tool keeps beside it."""
        beside = self.seen.beside() if isinstance(self.message, ToolMessage) else None
        return [*self.part.steps, *(beside.steps if beside is not None else ())]

    def calls(self) -> list[tuple[str | None, Step]]:
        """Calls of a new answer that have yet to run: their ids and steps."""
        if not self.is_answer or not isinstance(self.message, AIMessage):
            return []
        return [
            (call["id"], read({**call, "type": "tool_call"}, request=self.seen.request).steps[0])
            for call in self.message.tool_calls
        ]


@dataclass(slots=True, kw_only=True)
class _Settled:
    """What becomes of an item.

    Attributes:
        item: The item.
        outcomes: What came of each of its steps.
        value: What was read, as it passes.
        refused: Id of a call that may not run -> what answers it.
        blocked: Why it may not pass, where it may not.
        is_call: Whether it may not for a call of a tool in it.
        artifact: What a tool keeps beside it, as it passes.
    """

    item: Item
    outcomes: list[Outcome]
    value: Any = None
    refused: dict[str, str] = field(default_factory=dict)
    blocked: Verdict | None = None
    is_call: bool = False
    artifact: Any = None

    def __post_init__(self) -> None:
        if self.value is None:
            self.value = self.item.value

    def block(self, verdict: Verdict, *, is_call: bool = False) -> None:
        """Let it not pass."""
        if self.blocked is None:
            self.blocked, self.is_call = verdict, is_call

    def passing(self) -> BaseMessage:
        """The message as it passes; the same object where nothing has changed."""
        readable = self.item.part.readable
        message: BaseMessage = self.item.seen.message
        if self.value is not readable.value:
            message = readable.rebuild(self.value)
        return message if self.artifact is None else message.model_copy(update={"artifact": self.artifact})

    def beside(self) -> list[tuple[_Settled, Item]]:
        """What has yet to be judged beside it, if it passes."""
        if self.blocked is not None or self.item.message is None:
            return []
        part = self.item.seen.beside(self.passing())
        if part is None:
            return []
        known = {outcome.text for outcome in self.outcomes}
        if part.readable.unread is None and all(not one.text.strip() or one.text in known for one in part.steps):
            return []
        return [(self, replace(self.item, part=part))]

    def take(self, beside: _Settled) -> None:
        """Take what came of what is beside it."""
        if beside.blocked is not None:
            self.block(beside.blocked)
        elif beside.value is not beside.item.value:
            self.artifact = beside.item.part.readable.rebuild(beside.value)
        self.outcomes += beside.outcomes

    def unread(self) -> list[Step]:
        """Steps of what was edited that are not what came of any step."""
        reading = self.item.part.reading
        if self.blocked is not None or reading is None or self.value is self.item.value:
            return []
        return unread(reading, self.outcomes, self.said())

    def said(self) -> list[Step]:
        """Its steps as they pass."""
        reading = self.item.part.reading
        if reading is None or self.value is self.item.value:
            return self.item.part.steps
        return [self.item.seen.placed(step) for step in reading.again(self.value).steps]


def thread(there: Sequence[BaseMessage], messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """All that was said in an agent's thread, in order: what a call of the model leaves out may still be a source.

    Args:
        there: The messages of the agent's state.
        messages: Those of a call of the model, and perhaps its answer.

    Returns:
        The messages, and what of the state is not among them. What others put between them stands before the next
        message that is in the state, and what is behind all of these in the end.
    """
    if messages is there:
        return list(messages)
    given = {id(message) for message in messages}
    own = {id(message): at for at, message in enumerate(there)}
    named = {message.id: at for at, message in enumerate(there) if message.id}
    placed = [((at, 0), message) for at, message in enumerate(there) if id(message) not in given]
    behind, found = len(there), []
    for message in reversed(messages):
        at = own.get(id(message), named.get(message.id or ""))
        if at is not None:
            behind = at
        found.append(((behind, 1 if at is not None else -1), message))
    return [message for _, message in sorted([*placed, *reversed(found)], key=lambda one: one[0])]


def doubles(messages: Sequence[BaseMessage]) -> list[RemoveMessage]:
    """What removes further results of calls that have one, as where a person refuses what a guard has refused.

    Args:
        messages: An agent's messages, right after an answer.

    Returns:
        One for each result too many behind the last answer.
    """
    answer = max((at for at, one in enumerate(messages) if isinstance(one, AIMessage)), default=len(messages))
    answered: set[str] = set()
    removed: list[RemoveMessage] = []
    for message in messages[answer + 1 :]:
        if isinstance(message, ToolMessage):
            if message.tool_call_id in answered and message.id:
                removed.append(RemoveMessage(id=message.id))
            answered.add(message.tool_call_id)
    return removed


def placeholder(message: BaseMessage, text: str, *, is_history: bool = False) -> BaseMessage:
    """What stands in the place of a message that may not pass: of its kind, under its id, and nothing that it said.

    Args:
        message: The message.
        text: What is said instead.
        is_history: Whether other messages may have answered it.

    Returns:
        The message that stands there instead. A tool's result is an error; an AI message has no calls, or in a history,
        where results may follow that name them, calls without arguments. A system message is one of a user, so that
        none of it speaks as the operator.
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
        case ChatMessage() if not is_system(message):
            return ChatMessage(content=text, id=message.id, role=message.role)
        case _:
            return HumanMessage(content=text, id=message.id)


def _refused_call(call_id: str, message: BaseMessage, text: str) -> ToolMessage:
    """What answers a call that may not run."""
    calls = message.tool_calls if isinstance(message, AIMessage) else []
    name = next((call["name"] for call in calls if call["id"] == call_id), None)
    return ToolMessage(content=text, id=str(uuid4()), name=name, tool_call_id=call_id, status="error")


def _itself(value: Any) -> Any:
    return value
