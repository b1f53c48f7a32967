"""What a model is tuned on: texts that a head is to tell apart, and which families nothing may see."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from lec_guard.detect.heads import HeadSpec
from lec_guard.errors import UnsupportedValueError
from lec_guard.train.fit import Ints, balanced_weights
from lec_guard.train.sweep import families_apart

HELD = 0.25
"""Share of the texts of each class whose families are held out, as nearly as families allow."""

_SURE = 0.5
"""Teachers' probability from which a text that nobody labelled counts as harmful."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LessonExample:
    """A text to learn from.

    Attributes:
        text: The text.
        label: 0 for none of the head's labels, n for the n-th of them; None where nobody labelled it. Of a two-level
            head 1 is harmful of no known category.
        soft: What a teacher says: the probability that it is harmful; None where none was asked.
        family: Where it comes from.
        group: Texts of a group, such as an attack and its harmless twin, are read in one batch; None: it has none.
        weight: What it counts, beside others of its class.
    """

    text: str
    label: int | None
    family: str
    soft: float | None = None
    group: str | None = None
    weight: float = 1.0

    @property
    def side(self) -> int:
        """1 where it is harmful, by its label, or else by its teacher."""
        return int(self.label > 0) if self.label is not None else int((self.soft or 0.0) >= _SURE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What one head learns.

    Attributes:
        head: Name, kind and labels, and how windows make a text: by that it learns, too. Its length offsets and what it
            says of benign texts are not read.
        examples: The texts.
    """

    head: HeadSpec
    examples: Sequence[LessonExample]

    @property
    def sides(self) -> Ints:
        """0 or 1 for each text, `[examples]`."""
        return np.array([example.side for example in self.examples], np.int64)

    @property
    def classes(self) -> Ints:
        """What counts alike: the labels of a multiclass head, the two sides of others, `[examples]`."""
        if self.head.kind != "multiclass":
            return self.sides
        return np.array([one.side if one.label is None else one.label for one in self.examples], np.int64)

    def chances(self) -> npt.NDArray[np.float64]:
        """How often each text is to be learnt from: classes alike, families by the root of their size, `[examples]`.

        Returns:
            They sum to 1.
        """
        families = np.array([example.family for example in self.examples])
        own = balanced_weights(self.classes, families) * np.array([one.weight for one in self.examples], np.float64)
        return np.asarray(own / own.sum(), np.float64)

    def without(self, families: Collection[str]) -> Lesson:
        """The same without some families."""
        return replace(self, examples=[example for example in self.examples if example.family not in families])

    def only(self, families: Collection[str]) -> Lesson:
        """The same with no others than these families."""
        return replace(self, examples=[example for example in self.examples if example.family in families])


def check_lessons(lessons: Sequence[Lesson]) -> None:
    """Refuse what can't be learnt.

    Args:
        lessons: The lessons.

    Raises:
        UnsupportedValueError: If there are none, two are of one head, or an example says nothing or what can't be;
            names head and position, and never the text.
    """
    if not lessons:
        raise UnsupportedValueError("no lessons: give one for each head")
    names = [lesson.head.name for lesson in lessons]
    if len(set(names)) != len(names):
        raise UnsupportedValueError(
            f"two lessons are of one head, among {', '.join(names)}: put their examples together"
        )
    for lesson in lessons:
        for at, example in enumerate(lesson.examples):
            wrong = _wrong(lesson.head, example)
            if wrong:
                raise UnsupportedValueError(f"the lesson {lesson.head.name!r}, example {at}: {wrong}")


def check_seen(lessons: Sequence[Lesson]) -> None:
    """Refuse lessons that have nothing of one side left to learn from.

    Args:
        lessons: What is left after families were held out.

    Raises:
        UnsupportedValueError: If a head has no text of some class.
    """
    for lesson in lessons:
        name, found = lesson.head.name, set(lesson.classes.tolist())
        for side, what in ((0, "harmless"), (1, "harmful")):
            if side not in lesson.sides:
                raise UnsupportedValueError(
                    f"the lesson {name!r} has no {what} text to learn from: give some of families that are not held out"
                )
        if lesson.head.kind == "multiclass":
            for number, label in enumerate(lesson.head.labels, start=1):
                if number not in found:
                    raise UnsupportedValueError(
                        f"the lesson {name!r} has no text of {label!r} to learn from: give some, of families that are "
                        "not held out, or leave the label out"
                    )


def hold_out(lessons: Sequence[Lesson], *, share: float = HELD) -> frozenset[str]:
    """Choose families that nothing is to see: of every class of every lesson about a share of its texts.

    The same families for the same texts, on every run. A family is held out of all lessons.

    Args:
        lessons: The lessons.
        share: How much of each class, as nearly as families allow.

    Returns:
        The names of the families.

    Raises:
        UnsupportedValueError: If some class has texts of one family alone, or classes share too few families.
    """
    classes: list[int] = []
    families: list[str] = []
    labels: dict[tuple[str, int], int] = {}
    for lesson in lessons:
        for own, example in zip(lesson.classes.tolist(), lesson.examples, strict=True):
            classes.append(labels.setdefault((lesson.head.name, own), len(labels)))
            families.append(example.family)
    names, family = np.unique(np.asarray(families, np.str_), return_inverse=True)
    held = families_apart(np.array(classes, np.int64), family.astype(np.int64), share) if len(names) > 1 else None
    if held is None:
        alone = [
            f"{'no label' if not own else lesson.head.labels[own - 1]!r} of {lesson.head.name!r}"
            for lesson in lessons
            for own in np.unique(lesson.classes).tolist()
            if len({e.family for e, c in zip(lesson.examples, lesson.classes.tolist(), strict=True) if c == own}) < 2
        ]
        why = f"all texts with {', '.join(alone)} are of one family" if alone else "classes share too few families"
        raise UnsupportedValueError(
            f"{why}: none can be held out, and nothing could tell how good the model gets. Name more families, or say "
            "which to hold out"
        )
    return frozenset(np.unique(names[family[held]]).tolist())


def digest(lessons: Sequence[Lesson]) -> str:
    """A hash over all that lessons say.

    Args:
        lessons: The lessons.

    Returns:
        A sha256 in hex.
    """
    state = hashlib.sha256()
    for lesson in lessons:
        state.update(lesson.head.model_dump_json().encode())
        for one in lesson.examples:
            state.update(repr((one.text, one.label, one.soft, one.family, one.group, one.weight)).encode())
    return state.hexdigest()


def _wrong(head: HeadSpec, example: LessonExample) -> str | None:
    if not example.text.strip():
        return "the text is empty"
    if example.label is None and example.soft is None:
        return "neither a label nor what a teacher says: give one at least"
    if example.label is not None and not 0 <= example.label <= len(head.labels):
        return f"the label {example.label} is none of 0..{len(head.labels)}: 0 is none of {', '.join(head.labels)}"
    if example.soft is not None and not 0 <= example.soft <= 1:  # not-a-number compares false
        return f"a teacher's {example.soft} is no probability in 0..1"
    if not (math.isfinite(example.weight) and example.weight > 0):
        return f"the weight {example.weight} must be above 0"
    return None if example.family else "it has no family"
