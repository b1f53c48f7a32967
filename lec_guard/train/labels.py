"""Labels as people write them -> classes and targets: words, numbers, truth values, probabilities."""

from __future__ import annotations

import difflib
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from lec_guard.errors import UnsupportedValueError
from lec_guard.train.fit import Floats

BENIGN_WORDS = (
    "benign", "safe", "0", "false", "no", "harmless", "ok", "negative", "allow", "clean", "ham", "none", "normal",
)  # fmt: skip
"""What the class of harmless texts is mostly called, in any case."""

LABEL = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""What a head can call a label, as `lec_guard.detect.heads.HeadSpec` has it."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_NO_NUMBER = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)
_NEGATION = re.compile(r"(un|non|not|no|in|im|il|ir|ab|dis|anti)[ ._-]?", re.IGNORECASE)

_MOST_LABELS = 200
"""More are no labels, but some other column."""

_LIKE = 0.8
"""Ratio from which one label may be another with a typo."""

_SUM = 0.01
"""How far probabilities may be from a sum of 1."""

Value = str | float | tuple[tuple[str, float], ...]
"""A label as it was read: a word, a number, or probabilities by label."""


def _harmful(name: str) -> str:
    if name.casefold() in BENIGN_WORDS:
        raise ValueError(f"{name!r} is a name of harmless texts; name what the head is to find")
    return name


Positive = Annotated[str, Field(pattern=LABEL), AfterValidator(_harmful)]
"""A name for what numbers are a probability of."""


class LabelRules(BaseModel):
    """What labels mean, where they don't say so.

    Attributes:
        benign: The label of harmless texts; None takes the one that has a known name, such as `benign`, `safe` or `0`.
        positive: What to call the other class where labels are numbers (0, 1, or a probability of it) or truth values.
        allow_labels: Labels that look like typos of others, but are meant.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    benign: str | None = None
    positive: Positive = "harmful"
    allow_labels: tuple[str, ...] = ()


@dataclass(slots=True)
class Seen:
    """How often a label was read, and where first."""

    first: str
    rows: int = 0


@dataclass(slots=True)
class Found:
    """The labels of all rows, also of those that no sample takes."""

    labels: dict[str, Seen] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)

    def add(self, value: Value, source: str) -> None:
        """Note a row's label.

        Args:
            value: As `read_label` gave it.
            source: `path:row`.

        Raises:
            UnsupportedValueError: If there are too many different ones.
        """
        kind = _kind(value)
        self.kinds.setdefault(kind, source)
        if kind == "probability":
            return
        for label in [name for name, _ in value] if isinstance(value, tuple) else [shown(value)]:
            self.labels.setdefault(label, Seen(source)).rows += 1
        if len(self.labels) > _MOST_LABELS:
            raise UnsupportedValueError(
                f"{source}: more than {_MOST_LABELS} different labels: name the column that holds them, "
                "with --label (`columns: {label: …}`)"
            )


def read_label(raw: object) -> Value:
    """Read one label.

    Args:
        raw: As the file has it.

    Returns:
        A word without white space around it, a number, or probabilities.

    Raises:
        ValueError: If it is none of these; says why.
    """
    match raw:
        case None:
            raise ValueError("no label")
        case bool():
            return "true" if raw else "false"
        case int() | float():
            return _number(float(raw))
        case str():
            word = raw.strip()
            if not word:
                raise ValueError("no label")
            if _NO_NUMBER.fullmatch(word) or _NUMBER.fullmatch(word):
                return _number(float(word))
            return word.lower() if word.lower() in ("true", "false") else word
        case Mapping():
            return _probabilities(raw)
        case _:
            raise ValueError(f"a label must be a word, a number or probabilities by label, not {type(raw).__name__}")


def _number(number: float) -> float:
    if not math.isfinite(number):
        raise ValueError(f"the label {number} is no number to learn from")
    if not number.is_integer() and not 0 < number < 1:
        raise ValueError(f"the label {number} is neither a whole number nor a probability in 0..1")
    return abs(number) if number == 0 else number


def _probabilities(raw: Mapping[object, object]) -> Value:
    found: dict[str, float] = {}
    for name, share in raw.items():
        if share is None:
            continue
        word = str(name).strip()
        if not word:
            raise ValueError("a probability without a label")
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise ValueError(f"the probability of {word!r} must be a number in 0..1, not {share!r}")
        if word in found:
            raise ValueError(f"two probabilities of {word!r}")
        found[word] = float(share)
    total = sum(found.values())
    if abs(total - 1) > _SUM:
        raise ValueError(f"probabilities must sum to 1, not {total:.3f}")
    return tuple(sorted(found.items()))


def shown(value: Value) -> str:
    """The label that a value means most, to count and to sample by.

    Args:
        value: As `read_label` gave it.

    Returns:
        A word; a probability counts as 0 or 1.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, tuple):
        return max(value, key=lambda pair: pair[1])[0]
    return str(int(value)) if value.is_integer() else str(int(value >= 0.5))


def _kind(value: Value) -> str:
    if isinstance(value, tuple):
        return "probabilities"
    if isinstance(value, str):
        return "truth value" if value in ("true", "false") else "word"
    if value.is_integer():
        return "number"
    return "probability"


@dataclass(frozen=True, slots=True)
class Classes:
    """What a data set's labels mean.

    Attributes:
        labels: The classes, the benign one first.
        columns: Label as it was written -> its place among the classes.
        soft: Whether numbers are probabilities of the second class.
    """

    labels: tuple[str, ...]
    columns: Mapping[str, int]
    soft: bool

    def targets(self, values: Sequence[Value]) -> Floats:
        """Probabilities of each class.

        Args:
            values: Labels as they were read.

        Returns:
            `[values, classes]`; rows sum to 1.
        """
        out = np.zeros((len(values), len(self.labels)), np.float32)
        for row, value in enumerate(values):
            if isinstance(value, float) and self.soft:
                out[row] = 1 - value, value
            elif isinstance(value, tuple):
                total = sum(share for _, share in value)
                for label, share in value:
                    out[row, self.columns[label]] = share / total
            else:
                out[row, self.columns[shown(value)]] = 1
        return out


def classes(found: Found, rules: LabelRules, rows: int) -> Classes:
    """Find out what the labels mean.

    Args:
        found: The labels of all rows.
        rules: What the user says of them.
        rows: How many rows there are.

    Returns:
        The classes.

    Raises:
        UnsupportedValueError: If labels look like typos, can't be a head's, are all the same, or it is not clear which
            one is benign; says which, and how to mend it.
    """
    soft = "probability" in found.kinds
    numbers = not {"word", "probabilities", "truth value"} & found.kinds.keys()
    if soft and not (numbers and found.labels.keys() <= {"0", "1"}):
        kinds = {f"a {kind}": source for kind, source in found.kinds.items() if kind not in ("number", "probability")}
        kinds |= {repr(label): seen.first for label, seen in found.labels.items() if label not in ("0", "1")}
        what, other = next(iter(kinds.items()))
        raise UnsupportedValueError(
            f"{found.kinds['probability']}: a probability, but {other}: {what}: "
            "give numbers in 0..1 everywhere, or labels everywhere"
        )
    if "probabilities" in found.kinds and "number" in found.kinds:
        raise UnsupportedValueError(
            f"{found.kinds['probabilities']}: probabilities by label, but {found.kinds['number']}: a number: "
            "give one or the other"
        )
    if soft:
        if rules.benign not in (None, "0"):
            raise UnsupportedValueError(
                f"labels are probabilities of {rules.positive!r}, and {rules.benign!r} (--benign) is none of them: "
                "leave it out"
            )
        return Classes(("benign", rules.positive), {"0": 0, "1": 1}, soft=True)
    _check_typos(found, rules, rows)
    if len(found.labels) < 2:
        _one_class(*found.labels, rows=rows, rules=rules)
    benign = _benign(found, rules)
    if found.labels.keys() <= {"0", "1"} or found.labels.keys() <= {"true", "false"}:
        columns = {label: int(label != benign) for label in found.labels}
        return Classes(("benign", rules.positive), columns, soft=False)
    _check_names(found)
    labels = (benign, *sorted(found.labels.keys() - {benign}))
    return Classes(labels, {label: at for at, label in enumerate(labels)}, soft=False)


def one_class(label: str, rows: int, *, benign: bool) -> UnsupportedValueError:
    """What to raise where all rows are of one class.

    Args:
        label: The class.
        rows: How many.
        benign: Whether it is the harmless one.

    Returns:
        An error that says what is missing.
    """
    missing = "rows of what the head is to find" if benign else "benign rows, as your application sees them"
    return UnsupportedValueError(f"all {rows} rows are {label!r}, and a head learns from two classes: add {missing}")


def _one_class(label: str, *, rows: int, rules: LabelRules) -> None:
    raise one_class(label, rows, benign=label == rules.benign or label.casefold() in BENIGN_WORDS)


def _listed(found: Found) -> str:
    return ", ".join(
        f"{label!r} ({seen.rows})" for label, seen in sorted(found.labels.items(), key=lambda item: -item[1].rows)[:20]
    )


def _benign(found: Found, rules: LabelRules) -> str:
    if rules.benign is not None:
        wanted = rules.benign.strip()
        wanted = wanted.lower() if wanted.lower() in ("true", "false") else wanted
        if wanted in found.labels:
            return wanted
        by_case = {label.casefold(): label for label in found.labels}
        close = difflib.get_close_matches(wanted.casefold(), by_case, n=1)
        hint = f"; did you mean {by_case[close[0]]!r}?" if close else ""
        raise UnsupportedValueError(
            f"no row has the label {rules.benign!r}, which is to be the benign one (--benign); "
            f"there are: {_listed(found)}{hint}"
        )
    known = [label for label in found.labels if label.casefold() in BENIGN_WORDS]
    if len(known) != 1:
        which = "several may be" if known else "none is known to be"
        raise UnsupportedValueError(
            f"{which} the label of harmless texts: {_listed(found)}; name it with --benign (`benign:` in the config)"
        )
    return known[0]


def _check_names(found: Found) -> None:
    bad = []
    taken = {label for label in found.labels if re.fullmatch(LABEL, label)}
    for label, seen in found.labels.items():
        if label not in taken:
            plain = unicodedata.normalize("NFKD", label).encode("ascii", "ignore").decode()
            mended = re.sub(r"[^A-Za-z0-9._-]+", "_", plain).strip("._-")[:64] or "label"
            at = 2
            while mended in taken:
                mended, at = f"{mended[:60]}_{at}", at + 1
            taken.add(mended)
            bad.append(f"{seen.first}: {label!r} ({seen.rows} rows); write {mended!r}")
    if bad:
        raise UnsupportedValueError("labels are letters, digits, '.', '_' and '-', 64 at most:\n" + "\n".join(bad[:20]))


def _check_typos(found: Found, rules: LabelRules, rows: int) -> None:
    few = max(2, rows // 100)
    allowed = {label.strip() for label in rules.allow_labels}
    meant = {*allowed, *([rules.benign.strip()] if rules.benign else [])}
    bad = []
    for label, seen in found.labels.items():
        if label in meant:
            continue
        others = [
            other
            for other, own in found.labels.items()
            if (own.rows, other) > (seen.rows, label) and _alike(label, other, rare=seen.rows <= few < own.rows)
        ]
        if others:
            nearest = max(others, key=lambda other: difflib.SequenceMatcher(None, label, other).ratio())
            bad.append(
                f"{seen.first}: {label!r} ({seen.rows} {'row' if seen.rows == 1 else 'rows'}); "
                f"did you mean {nearest!r} ({found.labels[nearest].rows})?"
            )
    if bad:
        raise UnsupportedValueError(
            "labels that look like typos:\n"
            + "\n".join(bad[:20])
            + "\ncorrect them, or allow one that is meant with --allow-label (`allow_labels:` in the config)"
        )


def _alike(label: str, other: str, *, rare: bool) -> bool:
    plain, known = (re.sub(r"[\s._-]+", "", word).casefold() for word in (label, other))
    if plain == known:
        return True
    # `safe` and `unsafe`, or `S1` and `S2`, are like each other and mean two things.
    if not rare or label.casefold() in BENIGN_WORDS or _numberless(label) == _numberless(other):
        return False
    for one, two in ((label, other), (other, label)):
        prefix = one[: len(one) - len(two)]
        if _NEGATION.fullmatch(prefix) and one.casefold().endswith(two.casefold()):
            return False
    return difflib.SequenceMatcher(None, plain, known).ratio() >= _LIKE


def _numberless(label: str) -> str:
    return re.sub(r"\d+", "#", label)
