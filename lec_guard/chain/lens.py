"""A lens: a LangChain value -> the steps that a guard judges, and edits of their texts -> a value of the same type."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from lec_guard.act.edits import apply_edits, merge_edits
from lec_guard.chain.messages import SystemMessages, tell
from lec_guard.chain.rebuild import rebuilt
from lec_guard.chain.segments import Path, Told, UneditableError, placed, put_through
from lec_guard.errors import UnsupportedValueError
from lec_guard.step import Edit, Origin, Stage, Step

__all__ = ["Reading", "UneditableError", "read"]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Reading:
    """The steps of a value, and the way back.

    Attributes:
        steps: The steps, as `steps_of` gives them.
        value: The value; it is never changed.
        stage: What it was read with.
        request: Likewise.
        system_messages: Likewise.
        told: Everything that was read, also what says the same as something else.
    """

    steps: list[Step]
    value: Any
    stage: Stage | None = None
    request: str | None = None
    system_messages: SystemMessages = "trusted"
    told: list[Told] = field(default_factory=list)

    def conversation(self) -> list[Step]:
        """Everything that is said in the value: what is only context, documents (they have no order), other steps."""
        system = [
            Step(stage="input", text=told.joint.join(told.lines), origin=Origin(trust="operator"))
            for told in self.told
            if told.step is None
        ]
        return [*system, *sorted(self.steps, key=lambda step: step.stage != "retrieval")]

    def again(self, value: Any) -> Reading:
        """What became of the value, read as the value was.

        Args:
            value: The value now.

        Returns:
            Its reading.

        Raises:
            UnsupportedValueError: As of `read`.
        """
        return read(value, self.stage, self.request, self.system_messages)

    def edited(self, edits: Mapping[int, Sequence[Edit]]) -> Any:
        """The value with texts of its steps edited.

        A text that stands in the value several times (a tool call, and the provider's form of it) is edited in all of
        them. Where edits of several steps are of one text in the value, equal ones are made once, and those that
        overlap are merged as by `merge_edits`.

        The new value is read again, and there has to be in it, step for step and line for line, what was in the old one
        with these texts edited: the same names, keys and numbers, and no other text. So each step says what
        `apply_edits` makes of it, but for edits of other steps that are of the same text, for line breaks beside lines
        that became empty, and for quotes that are escaped in JSON. The calls of a chunk are parsed from
        its pieces; where a step says something else than these (they are not whole yet), it has to come out of their
        edits as it does of its own.

        What a tool keeps beside its text (an artifact) is not read, and stays, but for copies of a whole text.

        Args:
            edits: By a step's position in `steps`, edits of its text that do not overlap.

        Returns:
            A new value of the same type; a subclass of str becomes a str. The value itself where nothing changes.

        Raises:
            UneditableError: If an edit hits a key, a name or something that is no str, if the value can't be made
                anew, or if it does not read as it should.
        """
        changes: dict[Path, list[Edit]] = {}
        derived: list[Told] = []
        for number, own in edits.items():
            where = f"step {number}"
            if not 0 <= number < len(self.steps):
                raise UneditableError(f"there is no {where}: the value has {len(self.steps)}")
            step = self.steps[number]
            try:
                apply_edits(step.text, own)
            except UnsupportedValueError as error:
                raise UneditableError(f"{where}: {error}") from None
            sources = [told for told in self.told if told.step == step]
            if all(told.derived for told in sources):
                derived += sources
            else:
                sources = [told for told in sources if not told.derived]
            for told in sources:
                for path, edit in placed(told, own, where):
                    changes.setdefault(path, []).append(edit)
        texts = dict(leaf for told in self.told for leaf in told.leaves())
        return self._with({path: apply_edits(texts[path], merge_edits(own)) for path, own in changes.items()}, derived)

    def mapped(self, change: Callable[[str], str]) -> Any:
        """The value with each of its texts put through a function, for example to put back what was redacted.

        Args:
            change: The function. It is given every str in the value that is read and could be edited, those of system
                messages too.

        Returns:
            A new value of the same type; a subclass of str becomes a str. The value itself where nothing changes.

        Raises:
            UneditableError: If the value can't be made anew with the new texts.
        """
        texts = dict(leaf for told in self.told if not told.derived for leaf in told.leaves())
        return self._with({path: put_through(path, text, change) for path, text in texts.items()})

    def _with(self, new: Mapping[Path, str], derived: Sequence[Told] = ()) -> Any:
        """The value with new texts at some paths, if it then reads as it did but for these."""
        texts = dict(leaf for told in self.told if not told.derived for leaf in told.leaves())
        changes = {path: (old, new[path]) for path, old in texts.items() if new.get(path, old) != old}
        if not changes and not derived:
            return self.value
        value = rebuilt(self.value, changes) if changes else self.value
        try:
            after = tell(value, self.stage, self.request, self.system_messages)
        except Exception:  # noqa: BLE001 - whatever somebody's class raises, and never its message
            raise UneditableError("the value can't be read any more with its new text") from None
        expected = [_Lines.of(told, new) for told in self.told if not told.derived]
        got = [_Lines.of(told, {}) for told in after if not told.derived]
        if not _follows([(one, one.emptied) for one in expected], got, _Lines.reads_as):
            raise UneditableError("the value does not read as it should with its new text")
        parsed = [_Lines.of(told, {}) for told in after if told.derived]
        if not all(any(_Lines.of(told, new).reads_as(one) for one in parsed) for told in derived):
            raise UneditableError("a step follows the pieces of a tool call, and these were not edited as it was")
        return value


def read(
    value: object,
    stage: Stage | None = None,
    request: str | None = None,
    system_messages: SystemMessages = "trusted",
) -> Reading:
    """Read a value so that its texts can be edited; see `steps_of`.

    Args:
        value: As for `steps_of`.
        stage: As for `steps_of`.
        request: As for `steps_of`.
        system_messages: As for `steps_of`.

    Returns:
        The steps and the way back.

    Raises:
        UnsupportedValueError: As of `steps_of`.
    """
    told = tell(value, stage, request, system_messages)
    steps = list(dict.fromkeys([one.step for one in told if one.step is not None]))
    return Reading(steps, value, stage, request, system_messages, told)


# --- does it read as it should


@dataclass(frozen=True, slots=True)
class _Lines:
    """What was read, in a form in which that of an old and of a new value can be compared.

    Attributes:
        whose: All of a step but its text, and but its context, which has other steps' texts in it.
        lines: Name and text of each line, and whether it may be missing: an empty one is not read everywhere.
        members: Lines in sets, which have no order.
    """

    whose: object
    lines: list[tuple[tuple[str, str], bool]]
    members: frozenset[tuple[str, str]]

    @classmethod
    def of(cls, told: Told, new: Mapping[Path, str]) -> _Lines:
        """What was read, with new texts at some paths."""
        lines: list[tuple[tuple[str, str], bool]] = []
        members: set[tuple[str, str]] = set()
        for line, source in zip(told.lines, told.sources, strict=True):
            if source is None:
                lines.append(((line, ""), False))
                continue
            skipped, path = source
            said = line[:skipped].removesuffix(": "), new.get(path, line[skipped:])
            if _in_set(path):
                members.add(said)
            else:
                lines.append((said, path in new and not said[1]))
        step = told.step
        whose = None if step is None else (step.stage, step.tool, step.origin, told.joint)
        return cls(whose, lines, frozenset(members))

    @property
    def emptied(self) -> bool:
        """Whether it may be missing for having no text left."""
        return any(missing for _, missing in self.lines) and all(said == ("", "") for said, _ in self.lines)

    def reads_as(self, other: _Lines) -> bool:
        """Whether that is how it reads."""
        return (
            self.whose == other.whose
            and self.members == other.members
            and _follows(self.lines, [said for said, _ in other.lines], tuple.__eq__)
        )


def _follows(expected: Sequence[tuple[_T, bool]], got: Sequence[Any], same: Callable[[_T, Any], bool]) -> bool:
    """Whether there is all that is expected, in order, and nothing else; some of it may be missing."""
    at = 0
    for one, missing in expected:
        if at < len(got) and same(one, got[at]):
            at += 1
        elif not missing:
            return False
    return at == len(got)


def _in_set(path: Path) -> bool:
    while path:
        if path[1] == "member":
            return True
        path = path[0]
    return False
