"""Values -> the steps that are judged, and outcomes of these -> what passes of the values. Nothing is judged here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from lec_guard.chain.lens import Reading, UneditableError
from lec_guard.chain.notes import with_notes
from lec_guard.chain.streaming import Stream, StreamReading
from lec_guard.errors import EscalationPending, LecGuardError
from lec_guard.joining import Joined, joined
from lec_guard.observe.events import Event
from lec_guard.step import Edit, Outcome, Step, Verdict, severest
from lec_guard.taint import TRACED, trace

_Part = TypeVar("_Part")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be judged for several values in one call of the detector.

    Attributes:
        steps: The steps of all values, one after the other, with their `taint` where a policy asks for it.
        tenants: The tenant of each step.
        readings: For each value where its steps are from; None for a value that can't be judged.
        errors: Why a value can't be judged, by its position.
    """

    steps: list[Step] = field(default_factory=list)
    tenants: list[str | None] = field(default_factory=list)
    readings: list[Reading | StreamReading | None] = field(default_factory=list)
    errors: dict[int, LecGuardError] = field(default_factory=dict)

    def add(self, reading: Reading | StreamReading | None, steps: Sequence[Step], tenant: str | None) -> None:
        """Have one more value judged.

        Args:
            reading: Where its steps are from; None where there are none.
            steps: Those of the reading, with what else is known of them.
            tenant: Whose policy applies.
        """
        self.readings.append(reading)
        self.steps.extend(steps)
        self.tenants.extend([tenant] * len(steps))

    def refuse(self, error: LecGuardError) -> None:
        """Take one more value that can't be judged.

        Args:
            error: Why.
        """
        self.errors[len(self.readings)] = error
        self.add(None, (), None)

    def fits(self, place: int, edits: Sequence[Edit], *, also: Callable[[Any], object] | None = None) -> None:
        """Refuse edits of a step that can't be made in its value.

        Args:
            place: The step's position in `steps`.
            edits: Edits of its text.
            also: Is given the value with these edits, and raises where that has no place.

        Raises:
            UneditableError: If they can't.
        """
        for reading in self.readings:
            count = 0 if reading is None else len(reading.steps)
            if reading is not None and place < count:
                edited = reading.edited({place: edits})
                if also is not None:
                    also(edited)
                return
            place -= count

    def of_values(self, parts: Sequence[_Part]) -> list[list[_Part]]:
        """Sort what there is one of for each step by value.

        Args:
            parts: One a step, in order.

        Returns:
            For each value its own.
        """
        left = iter(parts)
        return [[next(left) for _ in (reading.steps if reading else ())] for reading in self.readings]

    def unread(self, passed: Sequence[Passed | LecGuardError], outcomes: Sequence[Outcome]) -> Unread:
        """What is in rewritten values that nobody judged.

        Args:
            passed: What may pass of each value.
            outcomes: What came of each step.

        Returns:
            The steps.
        """
        found = Unread([], [], [])
        own = self.of_values(list(zip(outcomes, self.tenants, strict=True)))
        for at, (one, its, reading) in enumerate(zip(passed, own, self.readings, strict=True)):
            if not isinstance(one, Passed) or one.verdict.blocked or reading is None:
                continue
            told = [outcome for outcome, _ in its]
            if not any(outcome.edits for outcome in told):
                continue
            for step in unread(reading, told, reading.again(one.value).steps):
                found.steps.append(step)
                found.tenants.append(its[0][1])
                found.owners.append(at)
        return found

    def joins(self, passed: Sequence[Passed | LecGuardError], outcomes: Sequence[Outcome]) -> Joins:
        """The newest texts of values that may pass, joined with those before them; as they pass.

        Args:
            passed: What may pass of each value.
            outcomes: What came of each step.

        Returns:
            The joined texts.
        """
        found = Joins([], [], [], [])
        own = self.of_values(list(zip(self.steps, outcomes, self.tenants, strict=True)))
        for at, (one, its) in enumerate(zip(passed, own, strict=True)):
            if not isinstance(one, Passed) or one.verdict.blocked or len(its) < 2:
                continue
            texts = [replace(step, text=outcome.text or "", taint=None) for step, outcome, _ in its]
            for join in joined(texts, range(len(texts))):
                found.joined.append(join)
                found.tenants.append(its[join.place][2])
                found.owners.append(at)
        return found

    def noted(self, passed: Sequence[Passed | LecGuardError]) -> list[Passed | LecGuardError]:
        """What may pass, with what its system prompts have to say: ours, and nothing that is to be judged.

        Args:
            passed: What may pass of each value.

        Returns:
            The same, with the notes in the values.
        """
        found = list(passed)
        for at, (one, reading) in enumerate(zip(passed, self.readings, strict=True)):
            if not isinstance(one, Passed) or not one.notes or reading is None:
                continue
            if isinstance(reading, StreamReading):
                apart = reading.readings[0].system_messages == "judged"
                value: Any = [with_notes(one.value[0], one.notes, apart=apart)]
            else:
                value = with_notes(one.value, one.notes, apart=reading.system_messages == "judged")
            found[at] = replace(one, value=value, notes=())
        return found


@dataclass(frozen=True, slots=True)
class Passed:
    """A value that was judged.

    Attributes:
        verdict: The severest of its verdicts, a block where it may not pass.
        value: What may pass: the value itself, or what rewrites made of it. Of a stream its chunks.
        tokens: What stands in the value -> what it stands for.
        notes: What the system prompt has yet to say of the value.
    """

    verdict: Verdict
    value: Any
    tokens: Mapping[str, str]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Unread:
    """Steps of rewritten values that are no outcome of any step.

    Attributes:
        steps: The steps.
        tenants: The tenant of each.
        owners: Which value each is of.
    """

    steps: list[Step]
    tenants: list[str | None]
    owners: list[int]

    def hold_back(self, passed: list[Passed | LecGuardError], verdicts: Sequence[Verdict]) -> None:
        """Hold back values of which something has to be acted on that nobody judged before.

        Args:
            passed: What may pass of each value; it is changed.
            verdicts: The verdict of each step.
        """
        for at, verdict in zip(self.owners, verdicts, strict=True):
            one = passed[at]
            if isinstance(one, Passed) and verdict.action not in ("allow", "flag"):
                passed[at] = replace(one, verdict=replace(one.verdict, action="block", rule=verdict.rule))


@dataclass(frozen=True, slots=True)
class Joins:
    """Texts of values that are to be judged joined.

    Attributes:
        joined: The joined texts.
        tenants: The tenant of each.
        owners: Which value each is of.
        events: What is to be told, and of which value.
    """

    joined: list[Joined]
    tenants: list[str | None]
    owners: list[int]
    events: list[tuple[int, Event]]

    def tell(self, place: int, event: Event) -> None:
        """Keep an event.

        Args:
            place: Which of the joined texts it tells of.
            event: The event.
        """
        self.events.append((self.owners[place], event))

    def events_of(self, owner: int) -> list[Event]:
        """The events of a value.

        Args:
            owner: Its position.

        Returns:
            Those that were kept, in order.
        """
        return [event for at, event in self.events if at == owner]


def traced(reading: Reading | StreamReading, before: Sequence[Step]) -> list[Step]:
    """The steps of a value, with which parts of them came from third parties.

    Args:
        reading: The value.
        before: All that was said before it.

    Returns:
        Its steps, those that are traced with their `taint`.
    """
    readings = reading.readings if isinstance(reading, StreamReading) else [reading]
    whole = [step for one in readings for step in one.conversation()]
    # A stream whose chunks don't add up has steps besides those of its readings.
    whole += [step for step in reading.steps if step not in whole]
    places = [len(before) + at for at, step in enumerate(whole) if step.stage in TRACED]
    found = trace([*before, *whole], places)[len(before) :]
    taints = {step: one.taint for step, one in zip(whole, found, strict=True)}
    return [replace(step, taint=taints[step]) if taints[step] is not None else step for step in reading.steps]


def unread(reading: Reading | StreamReading, outcomes: Sequence[Outcome], steps: Sequence[Step]) -> list[Step]:
    """Steps of an edited value that are no outcome of any step: what edits of several steps made together.

    Args:
        reading: The value as it was.
        outcomes: What came of each of its steps; one that may not pass stays as it was.
        steps: The steps of the edited value.

    Returns:
        Those that nobody judged.
    """
    known = {
        (step.stage, step.text if outcome.text is None else outcome.text)
        for step, outcome in zip(reading.steps, outcomes, strict=True)
    }
    return [step for step in steps if (step.stage, step.text) not in known]


def acted(value: Any, reading: Reading | StreamReading, outcomes: Sequence[Outcome]) -> Passed | LecGuardError:
    """A value with what came of its steps.

    Args:
        value: The value; of a stream that was held whole a `Stream`.
        reading: Its reading.
        outcomes: What came of each of its steps.

    Returns:
        What may pass of it, or that somebody has yet to decide.
    """
    verdict = severest([outcome.verdict for outcome in outcomes])
    whole = value.chunks if isinstance(value, Stream) else value
    held = [outcome for outcome in outcomes if outcome.text is None]
    if held and not verdict.blocked:
        waiting = next((outcome for outcome in held if outcome.ticket is not None), None)
        if waiting is not None and waiting.ticket is not None:
            return EscalationPending(waiting.verdict, waiting.ticket)
        verdict = replace(held[0].verdict, action="block")
    if held:
        return Passed(verdict, whole, {})
    edits = {at: outcome.edits for at, outcome in enumerate(outcomes) if outcome.edits}
    notes = tuple(dict.fromkeys(note for outcome in outcomes for note in outcome.notes))
    if not edits and not notes:
        return Passed(verdict, whole, {})
    if not edits and isinstance(reading, StreamReading) and len(reading.readings) != 1:
        return Passed(verdict, whole, {})  # There is no place for notes.
    try:
        edited = reading.edited(edits)
    except UneditableError:
        # Each step's edits could be made, but not those of all together.
        return Passed(replace(verdict, action="block"), whole, {})
    tokens = {token: meant for outcome in outcomes for token, meant in outcome.tokens.items()}
    return Passed(verdict, edited, tokens, notes)
