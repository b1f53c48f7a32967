"""A step whose text comes bit by bit: judged while it comes, and once more when it is over.

What is held back of it is what a policy's `hold_back` says. The verdict in the end is that of the whole text; before
that, a look at what came can stop it, or let its beginning go.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lec_guard.detect.detector import Detector, Growing, GrowingText
from lec_guard.errors import DetectorError
from lec_guard.policy.allow import AllowList
from lec_guard.policy.compile import Compiled
from lec_guard.policy.resolve import DetectorRef
from lec_guard.policy.schema import DropSpans, Quarantine, RedactPii
from lec_guard.policy.store import InForce
from lec_guard.policy.tainted import TAINT
from lec_guard.step import STAGES, Scores, Stage, Step, Verdict, severest

_NOBODY: Mapping[Stage, AllowList] = {stage: AllowList([]) for stage in STAGES}


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a text that is still coming was judged.

    Attributes:
        passed: How many characters from the start may go on; it never falls.
        verdict: Of what came so far, the severest: where it is a block, the rest need not come. None before the first
            look, and where the text is held back whole.
    """

    passed: int = 0
    verdict: Verdict | None = None

    @property
    def blocked(self) -> bool:
        """Whether what came so far is a block."""
        return self.verdict is not None and self.verdict.blocked


class GrowingStep:
    """One text that comes bit by bit, as one step or as several at different stages. `Guard.begin` makes it.

    It belongs to one stream, and is not to be shared between threads.

    Args:
        steps: What is known of the steps but their text.
        tenant: Whose policy applies.
        policies: The policies: those that were in force when it began hold until it ends.
        found: Gives a detector; None where there is none.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        tenant: str | None,
        policies: InForce,
        found: Callable[[DetectorRef | None], Detector | None],
    ) -> None:
        self.steps = tuple(steps)
        self.tenant = tenant
        self.policies = policies
        self.ruling = _without_exceptions(policies)
        self.progress = Progress()
        self.spent_ms = 0.0
        self._excused = any(policy.policy.allow for policy in _acting(policies))
        self._limits = [
            (most, len(step.context or ""))
            for policy in _acting(policies)
            for step in steps
            if (most := policy.fail[step.stage].max_chars) is not None
        ]
        self._texts: dict[tuple[DetectorRef | None, str | None], _Guarded] = {}
        self._parts: list[str] = []
        self._length = 0
        self._unchanged = True  # Whether all that passes the guard passes unchanged, so far.
        hold_back = held_back(policies, steps)
        self._goes = hold_back is not None  # Whether anything may go on before it is over.
        self._begin(hold_back, found)

    def _begin(self, hold_back: int | None, found: Callable[[DetectorRef | None], Detector | None]) -> None:
        for ref in dict.fromkeys(policy.policy.detector for policy in _acting(self.policies)):
            detector = found(ref)
            if hold_back is None and not getattr(detector, "reads_as_written", False):
                self._texts = {}
                return
            for step in self.steps:
                if (ref, step.context) in self._texts:
                    continue
                text = (
                    detector.begin(step, key=self.tenant, hold_back=hold_back or 0)
                    if isinstance(detector, Growing)
                    else None
                )
                if text is None:
                    self._texts = {}
                    return
                self._texts[ref, step.context] = _Guarded(text, detector)

    @property
    def is_held_whole(self) -> bool:
        """Whether nothing of it goes on before it is over; it may be looked at, to stop early."""
        return not (self._texts and self._goes)

    def take(self, text: str) -> bool:
        """Take what follows, without judging it.

        Args:
            text: What follows.

        Returns:
            Whether there is something to look at.
        """
        if not self._texts or self.progress.blocked:
            return False
        self._length += len(text)
        if self._limits:
            self._parts.append(text)
        ready = [one.text.add(text) for one in self._texts.values()]  # All of them are to have it.
        return any(ready) or self._too_long

    @property
    def _too_long(self) -> bool:
        return any(self._length + context > most for most, context in self._limits)

    def partial(self) -> list[Step]:
        """The steps as they are to be judged now. They hold no text, but where there is too much of it to be read."""
        text = "".join(self._parts) if self._too_long else ""
        return [replace(step, text=text) for step in self.steps]

    def looking(self, ref: DetectorRef | None, step: Step) -> Detector | None:
        """What says of a detector what it knows so far; None where it is to be asked itself."""
        text = self._texts.get((ref, step.context))
        return None if text is None else text.looking

    def finishing(self, ref: DetectorRef | None, step: Step) -> Detector | None:
        """What says of a detector what it says of a whole text; None where it is to be asked itself."""
        text = self._texts.get((ref, step.context))
        return None if text is None or text.is_broken else text.finishing

    def note(self, verdicts: Sequence[Verdict], *, failed: bool, ms: float) -> Progress:
        """Note what came of a look.

        Args:
            verdicts: What the policies say of what came so far, one a step.
            failed: Whether a policy has no scores to go by.
            ms: How long it took, in milliseconds.

        Returns:
            How far it was judged.
        """
        self.spent_ms += ms
        verdict, passed = severest(list(verdicts)), self.progress.passed
        if verdict.blocked and self._excused:
            # An allow list holds for whole texts: only the end says whether this is one of them.
            self.hold()
            self.progress = Progress(passed=passed)
            return self.progress
        if failed or any(one.is_broken for one in self._texts.values()):
            # It may pass in the end, as `fail` says; nothing does before.
            self.hold()
        elif verdict.action not in ("allow", "flag"):
            # What is to be rewritten must not have gone when the text is over, whatever comes behind it.
            self._unchanged = False
        elif self._unchanged and self._goes:
            passed = max(passed, min(one.text.passed for one in self._texts.values()))
        self.progress = Progress(passed=passed, verdict=verdict)
        return self.progress

    def hold(self) -> None:
        """Let nothing more of it go before it is over."""
        self._texts = {}


def held_back(policies: InForce, steps: Sequence[Step]) -> int | None:
    """How much of a text is held back while it comes.

    Args:
        policies: The policies that it is judged by.
        steps: The steps that it is.

    Returns:
        The most that any policy says, in tokens; None for all. It is all where one says so, or says nothing, and where
        something can follow that can't be done to the end of a text alone: to ask somebody, to write it anew, to put it
        into quarantine. So it is, too, where a rule asks where the text came from, which a whole text is searched for.
    """
    most = 0
    for policy in _acting(policies):
        said = policy.policy.hold_back
        if isinstance(said, str) or any(isinstance(way, Quarantine) for way in policy.policy.rewrite.values()):
            return None
        if any(_needs_all(policy, step) for step in steps):
            return None
        most = max(most, said)
    return most


def _needs_all(policy: Compiled, step: Step) -> bool:
    for reading in policy.readings[step.stage].of(step.tool):
        if reading.action == "escalate" or reading.tainted or reading.head == TAINT:
            return True
        if reading.action == "rewrite" and reading.section is not None:
            way = policy.policy.rewrite[reading.section]
            if not isinstance(way, RedactPii | DropSpans) or way.escalation is not None:
                return True
    return False


def _acting(policies: InForce) -> Iterable[Compiled]:
    return [policy for policy in (policies.live, policies.floor) if policy is not None]


def _without_exceptions(policies: InForce) -> InForce:
    """The policies without what counts for whole texts alone: allow lists, and the candidate, which is only told."""
    live, floor = replace(policies.live, allowed=_NOBODY), policies.floor
    return InForce(live, None if floor is None else replace(floor, allowed=_NOBODY))


class _Guarded:
    """A text of a detector's as two detectors: what it knows so far, and what it says of the whole."""

    def __init__(self, text: GrowingText, detector: Any) -> None:
        self.text = text
        # What was begun and did not end well, or did not end in time, says nothing any more.
        self.is_broken = False
        self.looking = _AsDetector(self, detector, lambda _: text.scores())
        self.finishing = _AsDetector(self, detector, text.finish)


class _AsDetector:
    """Asks a text in the way in which detectors are asked."""

    def __init__(self, owner: _Guarded, detector: Detector, ask: Callable[[Step], Scores]) -> None:
        self.labels = detector.labels
        self._owner = owner
        self._ask = ask

    def score(self, steps: Sequence[Step], *, keys: Sequence[Hashable] | None = None) -> list[Scores]:  # noqa: ARG002
        """One answer for each text."""
        if self._owner.is_broken:
            raise DetectorError("a text that comes bit by bit could not be read, and is not read further")
        self._owner.is_broken = True
        found: dict[str, Scores] = {}
        for step in steps:
            if step.text not in found:
                found[step.text] = self._ask(step)
        self._owner.is_broken = False
        return [found[step.text] for step in steps]
