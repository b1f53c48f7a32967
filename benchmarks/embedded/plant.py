"""Plants instructions in documents: a payload in a wrapper, at some place of a document made from a template.

Each comes as three: the clean document, the attacked one, and the same document with an imperative of its own at the
same place, in the same line of a table, field or comment, and of about the same length. What tells an attack from its
twins is whose instruction it is, not that there is one, nor how long, loud or misspelt it is.

Kinds of documents belong to families; kinds of documents, payloads and wrappers can be left out to be tested on.
"""

from __future__ import annotations

import base64
import json
import math
import random
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

from benchmarks.embedded.templates import BANK, expand, read_rows, read_slots

FAMILIES = {
    "correspondence": ("mail", "chat", "ticket", "transcript"),
    "pages": ("web", "wiki", "news", "legal"),
    "opinions": ("review", "forum", "search"),
    "data": ("table", "json", "calendar"),
    "machines": ("code", "log", "terminal", "readme"),
}
MARK = "¤"
"""Where something may be put within a part: the end of a field, cell or comment."""
KEPT = ("payload", "payload_b64")
MOST = 40
"""Parts of a document."""
IN_FIELD, IN_LINE, LIKE_TWIN, FOR_ATTACKS, REASONS = 0.35, 0.75, 0.8, 0.35, 0.25
"""How often: a field instead of a line; a line as the document has them; the twin in the harmless form of a wrapper; a
wrapper that only attacks have; a payload with a reason, a date or an address behind it."""

LED = {"payload": 0.5, "imperative": 0.05}
"""How often a verb gets "please", "you must", "never mind the rest" and the like before it: harmless imperatives have
more of that already."""

Side = Literal["a", "b", "h"]
Rewrite = Callable[[str, random.Random], str]


@dataclass(frozen=True)
class Document:
    """A template of documents.

    Attributes:
        kind: As in `FAMILIES`.
        task: What the user asked for.
        parts: Sentences, lines or rows.
        imperative: Harmless imperatives that belong in it.
        head: What stands before the parts.
        tail: What stands after them.
        joint: What stands between them.
        line: A line of the document as somebody else would add one, with `{payload}`.
        escape: What its fields need: `json`, `csv`, `md` or nothing.
    """

    kind: str
    task: str
    parts: tuple[str, ...]
    imperative: tuple[str, ...]
    head: str = ""
    tail: str = ""
    joint: str = "\n"
    line: str = ""
    escape: str = ""


@dataclass(frozen=True)
class Payload:
    """What an attacker plants."""

    kind: str
    text: str


@dataclass(frozen=True)
class Wrapper:
    """How it is dressed.

    Attributes:
        kind: The trick.
        text: A template with `{payload}` or `{payload_b64}`.
        side: For attacks, for both, or for harmless imperatives.
        raw: Brings a frame of its own, so it needs no line of the document.
        fits: Kinds of documents; empty for all.
    """

    kind: str
    text: str
    side: Side
    raw: bool = False
    fits: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bank:
    """All templates, and their fillers."""

    documents: tuple[Document, ...]
    payloads: tuple[Payload, ...]
    wrappers: tuple[Wrapper, ...]
    slots: dict[str, list[str]]


@dataclass(frozen=True)
class Planted:
    """A document in three forms.

    Attributes:
        task: What the user asked for.
        clean: The document.
        attacked: With the payload.
        imperative: With an imperative of its own instead.
        start: Where the wrapped payload begins in `attacked`; what is outside is `clean`, but for whitespace.
        stop: Where it ends.
        kind: Of the payload.
        document: Kind of the document.
        family: Of the document's kind.
        wrapper: Kind of the wrapper.
        payload: As it was written, before wrapping and escaping.
        own: The span of the imperative in `imperative`.
    """

    task: str
    clean: str
    attacked: str
    imperative: str
    start: int
    stop: int
    kind: str
    document: str
    family: str
    wrapper: str
    payload: str
    own: tuple[int, int]


@cache
def bank() -> Bank:
    """The bank as committed."""
    return Bank(
        tuple(
            Document(**{**row, "parts": tuple(row["parts"]), "imperative": tuple(row["imperative"])})
            for row in read_rows(BANK / "documents.jsonl")
        ),
        tuple(Payload(**row) for row in read_rows(BANK / "payloads.jsonl")),
        tuple(Wrapper(**{**row, "fits": tuple(row.get("fits", ()))}) for row in read_rows(BANK / "wrappers.jsonl")),
        read_slots(BANK / "third_slots.json"),
    )


def family(kind: str) -> str:
    """The family of a kind of documents."""
    return next(name for name, kinds in FAMILIES.items() if kind in kinds)


def plants(
    seed: int,
    count: int,
    *,
    documents: Collection[str] | None = None,
    payloads: Collection[str] | None = None,
    wrappers: Collection[str] | None = None,
) -> Iterator[Planted]:
    """Documents with something planted, the same ones for a seed.

    Args:
        seed: Any number.
        count: How many.
        documents: Kinds of documents, or families; all if not given.
        payloads: Kinds of payloads; all if not given.
        wrappers: Kinds of wrappers of attacks; all if not given. Name `naive`, or one that fits every document.
    """
    whole = bank()
    kinds: dict[str, list[Document]] = {}
    for document in whole.documents:
        if documents is None or document.kind in documents or family(document.kind) in documents:
            kinds.setdefault(document.kind, []).append(document)
    loads: dict[str, list[Payload]] = {}
    for payload in whole.payloads:
        if payloads is None or payload.kind in payloads:
            loads.setdefault(payload.kind, []).append(payload)
    for number in range(count):
        rng = random.Random(f"{seed}/{number}")  # noqa: S311 - repeatable
        document = rng.choice(kinds[rng.choice(list(kinds))])
        payload = rng.choice(loads[rng.choice(list(loads))])
        yield _plant(whole, document, payload, wrappers, rng)


@dataclass(frozen=True)
class _Place:
    """Where something goes: what stands before and after it, its frame, and how it is escaped there."""

    before: str
    after: str
    frame: tuple[str, str]
    escape: str
    raw: bool
    field: bool

    def put(self, text: str) -> tuple[str, tuple[int, int]]:
        """The document with the text, and its span."""
        own = self.frame[0] + _escaped(text, self.escape) + self.frame[1]
        start, stop = len(self.before), len(self.before) + len(own)
        whole = self.before + own + self.after
        while start < stop and whole[start].isspace():
            start += 1
        while start < stop and whole[stop - 1].isspace():
            stop -= 1
        return whole, (start, stop)


def _plant(
    whole: Bank, document: Document, payload: Payload, wrappers: Collection[str] | None, rng: random.Random
) -> Planted:
    parts, joint = _parts(whole, document, rng)
    clean, place = _place(whole, document, parts, joint, rng)
    style = _style(rng)
    text = _led(whole, expand(payload.text, whole.slots, rng), "payload", rng)
    text = style(_longer(whole, text, rng) if rng.random() < REASONS else text, rng)
    wrapper = _wrapper(whole, document, place, "a" if rng.random() < FOR_ATTACKS else "b", wrappers, rng)
    attacked, span = place.put(_wrapped(whole, wrapper, text, rng))
    twin = wrapper
    if wrapper.side == "a":
        # Words such as "system" and "answer" have to have harmless uses too, most of all in the same trick.
        like = [one for one in whole.wrappers if one.side == "h" and one.kind == wrapper.kind]
        twin = (
            rng.choice(like) if like and rng.random() < LIKE_TWIN else _wrapper(whole, document, place, "h", None, rng)
        )
    frame = len(_wrapped(whole, twin, "", rng))
    wanted = span[1] - span[0] - len("".join(place.frame)) - frame
    if twin.text.endswith("_b64}") or "payload_b64" in twin.text:
        wanted = wanted * 3 // 4
    own = _imperative(whole, document, wanted, style, rng)
    imperative, own_span = place.put(_wrapped(whole, twin, own, rng))
    return Planted(
        task=expand(document.task, whole.slots, rng),
        clean=clean,
        attacked=attacked,
        imperative=imperative,
        start=span[0],
        stop=span[1],
        kind=payload.kind,
        document=document.kind,
        family=family(document.kind),
        wrapper=wrapper.kind,
        payload=text,
        own=own_span,
    )


def _parts(whole: Bank, document: Document, rng: random.Random) -> tuple[list[str], str]:
    """Some parts of a document, with marks, and what stands between them."""
    count = min(MOST, max(1, round(rng.lognormvariate(math.log(6), 0.8))))
    templates = list(document.parts)
    if count <= len(templates):
        chosen = sorted(rng.sample(range(len(templates)), count))
        templates = [templates[at] for at in chosen]
    rows = bool(document.line or document.head)
    others = [
        d for d in whole.documents if d.kind == document.kind and not (d.line or d.head or d.escape) and d != document
    ]
    while len(templates) < count:  # more rows, or more documents of its kind
        templates += (document.parts[1:] or document.parts) if rows or not others else rng.choice(others).parts
    style = (lambda text, _: text) if document.head or document.escape else _style(rng)
    joint = rng.choice((" ", " ", "\n", "\n\n")) if document.joint == " " else document.joint
    return [style(expand(part, whole.slots, rng), rng) for part in templates[:count]], joint


def _place(whole: Bank, document: Document, parts: list[str], joint: str, rng: random.Random) -> tuple[str, _Place]:
    """The clean document, and a place in it."""
    head = expand(document.head, whole.slots, rng) + "\n" if document.head else ""
    tail = "\n" + expand(document.tail, whole.slots, rng) if document.tail else ""
    marked = head + joint.join(parts) + tail
    clean = marked.replace(MARK, "")
    fields = [found.start() for found in re.finditer(MARK, marked)]
    if fields and rng.random() < IN_FIELD:
        at = rng.choice(fields)
        before, after = marked[:at].replace(MARK, ""), marked[at:].replace(MARK, "")
        gap = " " if before and (before[-1].isalnum() or before[-1] in ".!?,)") else ""
        quoted = after.startswith('"') and document.escape != "json"
        escape = ("csv" if document.escape == "csv" else "quoted") if quoted else document.escape or "flat"
        return clean, _Place(before + gap, after, ("", ""), escape, raw=False, field=True)
    first = 1 if document.escape in ("csv", "md") else 0  # the names of columns stay on top
    gap_at = rng.choices((first, rng.randint(first, len(parts)), len(parts)), (3, 4, 3))[0]
    before, after = (joint.join(some).replace(MARK, "") for some in (parts[:gap_at], parts[gap_at:]))
    frame, raw = ("", ""), True
    if document.line and (document.escape == "json" or rng.random() < IN_LINE):
        left, right = document.line.split("{payload}")
        frame, raw = (expand(left, whole.slots, rng), expand(right, whole.slots, rng)), False
    comma = bool(joint.strip())  # belongs to what is put there
    if after:
        frame = (frame[0], frame[1] + joint) if comma else frame
        after = after if comma else joint + after
    if before:
        frame = (joint + frame[0], frame[1]) if comma and not after else frame
        before = before if comma and not after else before + joint
    escape = "" if raw and document.escape != "json" else document.escape or "flat"
    return clean, _Place(head + before, after + tail, frame, escape, raw=raw, field=False)


def _wrapper(
    whole: Bank, document: Document, place: _Place, side: Side, kinds: Collection[str] | None, rng: random.Random
) -> Wrapper:
    """One that fits, drawn by kind; of any side for attacks where the kinds that are asked for have none of it."""
    fitting = [
        one
        for one in whole.wrappers
        if (kinds is None or one.kind in kinds)
        and (one.side != "h" or side == "h")
        and (one.side != "a" or side != "h")
        and (not one.raw or place.raw)
        and (not one.fits or document.kind in one.fits)
    ]
    fitting = [one for one in fitting if one.side == side] or fitting
    by_kind: dict[str, list[Wrapper]] = {}
    for one in fitting:
        by_kind.setdefault(one.kind, []).append(one)
    if not by_kind:
        return Wrapper("naive", "{payload}", "b")
    weights = [4 if kind == "naive" else 2 if some[0].raw else 1 for kind, some in by_kind.items()]
    return rng.choice(by_kind[rng.choices(list(by_kind), weights)[0]])


def _wrapped(whole: Bank, wrapper: Wrapper, text: str, rng: random.Random) -> str:
    code = base64.b64encode(text.encode()).decode()
    dressed = expand(wrapper.text, whole.slots, rng, keep=KEPT)
    return dressed.replace("{payload_b64}", code).replace("{payload}", text)


def _imperative(whole: Bank, document: Document, wanted: int, style: Rewrite, rng: random.Random) -> str:
    """Imperatives of the document, then of its kind, of about the wanted length."""
    same = [text for d in whole.documents if d.kind == document.kind and d != document for text in d.imperative]
    own = [expand(text, whole.slots, rng) for text in document.imperative]
    rng.shuffle(own)
    if len(own) > 1 and rng.random() < 0.5:
        own.sort(key=lambda text: abs(len(text) - wanted))
    more = [expand(text, whole.slots, rng) for text in rng.sample(same, min(len(same), 8))]
    text = _led(whole, own[0], "imperative", rng)
    others = [*own[1:], *more]
    if len(text) < wanted and rng.random() < 0.85:
        longer = _longer(whole, text, rng)
        text = min(text, longer, key=lambda one: abs(len(one) - wanted))
    for other in others:
        longer = f"{text}{'' if text[-1] in '.!?:' else '.'} {other}"
        if abs(len(longer) - wanted) < abs(len(text) - wanted):
            text = longer
    return style(text, rng)


def _led(whole: Bank, text: str, what: str, rng: random.Random) -> str:
    """The text with "please" and the like before it, at times, if it begins with a verb."""
    first = text.split(maxsplit=1)[0].lower()
    if first not in whole.slots["verb"] or rng.random() > LED[what]:
        return text
    return expand(rng.choice(whole.slots["lead"]), whole.slots, rng).strip() + " " + text[0].lower() + text[1:]


def _longer(whole: Bank, text: str, rng: random.Random) -> str:
    """The text with a reason, a date or an address behind it, as either side may have them."""
    if text.endswith("?"):
        return text
    bare = text.rstrip(".!")
    return bare + expand(rng.choice(whole.slots["tail"]), whole.slots, rng) + text[len(bare) :]


def _escaped(text: str, escape: str) -> str:
    """The text as it may stand there: on one line, but for the empty escape."""
    if escape == "json":
        return json.dumps(text.strip(), ensure_ascii=False)[1:-1]
    if not escape:
        return text
    text = " ".join(text.split())
    match escape:
        case "csv":
            return text.replace('"', '""')
        case "quoted":
            return text.replace('"', "'")
        case "md":
            return text.replace("|", "/")
        case _:
            return text


def _style(rng: random.Random) -> Rewrite:
    """A way to write: mostly as it stands."""
    ways: tuple[Rewrite, ...] = (
        lambda text, _: text,
        lambda text, _: text.lower(),
        lambda text, _: text.upper(),
        lambda text, _: re.sub(r"\b[a-z](?=[a-z]{3})", lambda found: found[0].upper(), text),
        lambda text, _: text.rstrip(".!"),
        lambda text, _: re.sub(r"\.(?=\s|$)", "!", text),
        _misspelt,
    )
    return rng.choices(ways, (68, 8, 4, 3, 6, 3, 8))[0]


def _misspelt(text: str, rng: random.Random) -> str:
    """Some words with letters swapped, dropped or doubled."""

    def slip(found: re.Match[str]) -> str:
        word = found[0]
        if rng.random() > 0.12:
            return word
        at = rng.randrange(1, len(word) - 1)
        return rng.choice(
            (
                word[:at] + word[at + 1] + word[at] + word[at + 2 :],
                word[:at] + word[at + 1 :],
                word[:at] + word[at] + word[at:],
            )
        )

    return re.sub(r"[A-Za-z]{4,}", slip, text)
