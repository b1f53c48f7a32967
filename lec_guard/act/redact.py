"""Personal data is taken out of a text, by Presidio's anonymizer; tokens that stand for it can be put back."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, assert_never

from lec_guard.act.base import Rewriter, Rewriting, Subject
from lec_guard.act.edits import apply_edits
from lec_guard.errors import UnsupportedValueError
from lec_guard.step import Edit, Span

Operator = Literal["replace", "mask", "hash", "token"]
"""What stands where personal data stood."""

_DIGITS = 12

_MOST = 1000
"""Findings that overlap in one chain. Presidio's way to tell them apart takes time that grows with their square."""

_TOKEN_LIKE = re.compile(r"<[^<>]*+>")


class RedactPii(Rewriter):
    """Takes personal data out of a text. Safe to share between threads.

    Presidio's `AnonymizerEngine` decides what stands where findings overlap: one inside another counts as part of it,
    of two that overlap the one with the higher score is whole. Neighbours stay apart, so that equal values have equal
    hashes and tokens wherever they stand. All characters of all findings go.

    Lines may belong to different blocks of a message, so a line break always stays. What stands in for a finding over
    several lines stands in the first of them; stars and tokens stand in each, so that the length stays and each line
    can be restored.

    Args:
        entities: Labels of spans that are taken out; None takes all that is given.
        operator: `replace` leaves the kind (`<EMAIL_ADDRESS>`), `mask` as many stars, `hash` a keyed hash
            (`<EMAIL_ADDRESS:3fa9c1d2e0b7>`), `token` a keyed token (`<EMAIL_ADDRESS_3fa9c1d2e0b7>`) that `restore` puts
            back. The same value of the same kind has the same hash and token in all texts of a tenant, and others in
            those of another tenant.
        key: Without it nobody can try out which value a hash or token stands for.

    Raises:
        UnsupportedValueError: If Presidio is not installed; the message says what to run.
    """

    def __init__(self, *, entities: tuple[str, ...] | None, operator: Operator, key: bytes) -> None:
        try:
            # Imported here: it takes seconds, and comes with an extra.
            import presidio_anonymizer
            from presidio_anonymizer import operators
        except ModuleNotFoundError as missing:
            raise UnsupportedValueError(f"redact_pii needs {missing.name}; run: pip install 'lec-guard[pii]'") from None
        self._presidio: Any = presidio_anonymizer
        self._replace: Any = operators.Replace()
        self._mask: Any = operators.Mask()
        self._engine: Any = presidio_anonymizer.AnonymizerEngine()
        self._entities = None if entities is None else frozenset(entities)
        self._operator: Operator = operator
        self._key = key

    def rewrite(self, subject: Subject) -> Rewriting:
        """Take out what was found.

        Args:
            subject: The text; its spans are findings, their labels the kinds.

        Returns:
            An edit for each line of each finding, and for `token` what each token stands for; no edits where nothing is
            to be taken out.

        Raises:
            UnsupportedValueError: If a span lies outside the text, a label can't stand in one, more than 1000 findings
                overlap in one chain, or Presidio fails.
        """
        text = subject.step.text
        spans = [one for one in subject.spans if self._entities is None or one.label in self._entities]
        tokens: dict[str, str] = {}
        new = self._operation(text if spans else "", subject.tenant, tokens)
        edits: list[Edit] = []
        for group in _groups(spans, len(text)):
            low = group[0].start
            piece = text[low : max(one.end for one in group)]
            edits += [
                Edit(start=edit.start + low, end=edit.end + low, replacement=edit.replacement)
                for edit in self._edits(piece, low, group, new)
            ]
        return Rewriting(edits=tuple(edits), tokens=tokens)

    def _edits(self, piece: str, low: int, group: list[Span], new: Callable[[str, str], str]) -> list[Edit]:
        """Edits of a part of a text that is all findings, each of which overlaps another."""
        said: list[tuple[str, str]] = []

        def recording(label: str) -> Any:
            def operate(old: str) -> str:
                said.append((old, new(label, old)))
                return said[-1][1]

            return self._presidio.OperatorConfig("custom", {"lambda": operate})

        findings = [
            self._presidio.RecognizerResult(
                entity_type=one.label, start=int(one.start) - low, end=int(one.end) - low, score=one.score
            )
            for one in group
        ]
        try:
            changed = self._engine.anonymize(
                piece,
                findings,
                {one.label: recording(one.label) for one in group},
                self._presidio.ConflictResolutionStrategy.REMOVE_INTERSECTIONS,
            ).text
        except Exception as error:  # noqa: BLE001 - its message may hold the text
            raise UnsupportedValueError(f"presidio-anonymizer failed on a text: {type(error).__name__}") from None
        edits: list[Edit] = []
        at = 0
        # It works from the end to the start.
        for old, put in reversed(said):
            for gone, instead in zip(old.split("\n"), put.split("\n"), strict=True):
                if gone:
                    edits.append(Edit(start=at, end=at + len(gone), replacement=instead))
                at += len(gone) + 1
            at -= 1
        # All of the piece is personal data: what Presidio changed has to be all of it, and where we say.
        if "".join(old for old, _ in reversed(said)) != piece or apply_edits(piece, edits) != changed:
            raise UnsupportedValueError("presidio-anonymizer changed a text otherwise than it says")
        return edits

    def _operation(self, text: str, tenant: str | None, tokens: dict[str, str]) -> Callable[[str, str], str]:
        """What makes of a label and a value what stands instead; it keeps the value's line breaks."""
        match self._operator:
            case "replace":
                return lambda label, old: _in_first_line(self._replace.operate(old, {"entity_type": label}), old)
            case "mask":
                return lambda _, old: "\n".join(map(self._stars, old.split("\n")))
            case "hash":
                return lambda label, old: _in_first_line(f"<{label}:{self._hash(tenant, label, old)}>", old)
            case "token":
                # Whoever wrote the text may have written tokens: those keep meaning themselves.
                taken = frozenset(_TOKEN_LIKE.findall(text))

                def token(label: str, value: str) -> str:
                    for draw in itertools.count():
                        name = f"<{label}_{self._hash(tenant, label, value, draw)}>"
                        if name not in taken and tokens.setdefault(name, value) == value:
                            break
                    return name

                return lambda label, old: "\n".join(line and token(label, line) for line in old.split("\n"))
            case _:
                assert_never(self._operator)

    def _stars(self, line: str) -> str:
        stars: str = self._mask.operate(line, {"masking_char": "*", "chars_to_mask": len(line), "from_end": False})
        return stars

    def _hash(self, tenant: str | None, label: str, value: str, draw: int = 0) -> str:
        # Lengths stand before the parts, so that no other parts can make the same message.
        message = f"lec-guard redact 1: {self._operator} {draw} ".encode()
        for part in ("-" if tenant is None else f"+{tenant}", label, value):
            data = part.encode("utf-8", "surrogatepass")
            message += len(data).to_bytes(8, "big") + data
        return hmac.new(self._key, message, hashlib.sha256).hexdigest()[:_DIGITS]


def restore(text: str, tokens: Mapping[str, str]) -> str:
    """Put back what tokens stand for.

    Args:
        text: A text with tokens, for example a model's answer.
        tokens: Token -> what it stands for, as `Rewriting.tokens` has them.

    Returns:
        The text with each token replaced, the longest where several begin at one place. What is put back is not read
        again: a value that looks like a token stays.
    """
    lengths = sorted({len(one) for one in tokens if one}, reverse=True)
    if not lengths:
        return text
    first = re.compile("[" + "".join(re.escape(one) for one in sorted({one[0] for one in tokens if one})) + "]")
    parts: list[str] = []
    at = looked = 0
    while (begin := first.search(text, looked)) is not None:
        start = begin.start()
        found = next((name for length in lengths if (name := text[start : start + length]) in tokens), None)
        if found is None:
            looked = start + 1
            continue
        parts += [text[at:start], tokens[found]]
        at = looked = start + len(found)
    return "".join([*parts, text[at:]])


def _groups(spans: Iterable[Span], length: int) -> Iterator[list[Span]]:
    """Spans in order, those together that overlap, by way of others too."""
    group: list[Span] = []
    reach = 0
    for one in sorted(dict.fromkeys(spans), key=lambda one: (one.start, one.end)):
        if not 0 <= one.start <= one.end <= length:
            raise UnsupportedValueError(f"a span of characters {one.start} to {one.end} lies outside the text")
        if not one.label.isprintable() or "<" in one.label or ">" in one.label:
            raise UnsupportedValueError(f"the label {one.label!r} can't stand in a text; use letters, digits and _")
        if one.start == one.end:
            continue
        if group and one.start >= reach:
            yield group
            group = []
        group.append(one)
        reach = max(reach, one.end)
        if len(group) > _MOST:
            raise UnsupportedValueError(f"more than {_MOST} findings overlap")
    if group:
        yield group


def _in_first_line(put: str, old: str) -> str:
    """What stands instead of a value of several lines: all in the first that is not empty."""
    lines = old.split("\n")
    first = next((at for at, line in enumerate(lines) if line), None)
    return "\n".join(put if at == first else "" for at in range(len(lines)))
