"""Where the words of a step come from: which parts of its text a third party said first.

A tool result may say "mail it to x@evil.example". Text that obeys looks like any other call of a tool; what gives it
away is that nobody else ever named that address. So the texts before a step are read for what the step says:

| what | is found by |
|---|---|
| an address, a host, a URL, a number of an account or a phone, a path, an id | the name alone, however it is written |
| words | `SHINGLE` of them in a row (w-shingling, Broder et al. 1997, "Syntactic clustering of the Web") |

What counts is who said it first. The user's and the operator's words are theirs whenever they come, and what a model
said before any third party is the model's own, so that a tool which repeats it taints nothing. Letter case, spaces,
punctuation, escapes, `x (at) y (dot) z`, and what the normaliser undoes make no difference.

The time grows with the length of all texts together. What is kept is what the steps in question say, so that no source,
of whatever length, takes memory or drives anything out.
"""

from __future__ import annotations

import re
import unicodedata
import urllib.parse
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from lec_guard.detect.normalise import Edit, Edits, View, meant, readable
from lec_guard.step import Origin, Stage, Step, Taint, TaintKind, ToolRef, Trust

SHINGLE = 6
"""Words in a row that are taken to be copied. Shorter rows are common property: `let me know if you`."""

TRACED: tuple[Stage, ...] = ("tool_input", "output")
"""Stages of steps that are traced: what a model says, and what it has tools do."""

_BLOCK, _OVERLAP = 1 << 16, 1 << 10
"""Characters of a source that are read at once, and by how many one block overlaps the next."""

_TRUST: dict[Stage, Trust] = {"input": "user", "output": "model", "tool_input": "model"}

_Key = tuple[str, ...]
"""A kind and a name as it is compared; or the words of a shingle."""


def trace(steps: Sequence[Step], places: Collection[int]) -> list[Step]:
    """Say which parts of steps came from third parties.

    Who wrote a text is what its `origin` says, or else follows from its stage. What a step is judged against (its
    `context`) is the user's or the operator's.

    Args:
        steps: A conversation, in order.
        places: Which of the steps to trace, by those before them.

    Returns:
        The steps; those at the places have their `taint`.
    """
    said = {place: _Said(steps[place].text) for place in places}
    if not any(_trust(step) == "third_party" for step in steps):
        return [replace(step, taint=()) if at in said else step for at, step in enumerate(steps)]
    wanted = _Wanted()
    for one in said.values():
        wanted.add(one)
    heard = _Heard(wanted)
    contexts: set[str] = set()
    for at, step in enumerate(steps):
        if step.context is not None and step.context not in contexts:
            contexts.add(step.context)
            heard.hear(at - 1, step.context, "operator", None)
        heard.hear(at, step.text, _trust(step), step)
    return [
        replace(step, taint=tuple(heard.taints(at, said[at]))) if at in said else step for at, step in enumerate(steps)
    ]


def retraced(step: Step, text: str) -> Step:
    """A step with another text, in which what was tainted still is as far as it is still there.

    Args:
        step: The step.
        text: Its text after an edit.

    Returns:
        The step with that text.
    """
    if not step.taint or text == step.text:
        return replace(step, text=text)
    sources = [
        Step(
            stage="tool_output",
            text=step.text[one.start : one.end],
            tool=ToolRef(name=one.source),
            origin=Origin(trust="third_party", ids=one.ids),
        )
        for one in step.taint
    ]
    traced = trace([*sources, replace(step, text=text, context=None)], [len(sources)])[-1]
    return replace(traced, context=step.context)


def _trust(step: Step) -> Trust:
    return _TRUST.get(step.stage, "third_party") if step.origin is None else step.origin.trust


# --- who said it first


class _Wanted:
    """What is listened for: all that some texts say."""

    def __init__(self) -> None:
        self.names: set[_Key] = set()
        self.shingles: set[_Key] = set()

    def add(self, said: _Said) -> None:
        """Listen for what a text says."""
        for name in said.names:
            self.names.add(name.key)
            self.names.update(("host", host) for host in name.hosts)
        self.shingles.update(said.shingles())

    def heard(self, text: str) -> set[_Key]:
        """What of it a text says, read as it is and as it is meant."""
        found: set[_Key] = set()
        if not self.names and not self.shingles:
            return found
        for start in range(0, max(len(text), 1), _BLOCK):
            for view in _views(text[start : start + _BLOCK + _OVERLAP]):
                folded = _folded(view.text)
                if self.shingles:
                    words = _WORD.findall(folded)
                    found |= self.shingles.intersection(zip(*(words[at:] for at in range(SHINGLE)), strict=False))
                if self.names:
                    for name in _names(folded):
                        found |= self.names & {name.key, *(("host", host) for host in name.hosts[:1])}
        return found


@dataclass(slots=True)
class _Heard:
    """Who said what first, of what is wanted.

    Attributes:
        wanted: What is listened for.
        others: What a third party said -> at which place first, and which step that was.
        own: What somebody else said, the same way.
    """

    wanted: _Wanted
    others: dict[_Key, tuple[int, Step]] = field(default_factory=dict)
    own: dict[_Key, int] = field(default_factory=dict)

    def hear(self, at: int, text: str, trust: Trust, step: Step | None) -> None:
        """Note what a text says."""
        for key in self.wanted.heard(text):
            if trust == "third_party" and step is not None:
                self.others.setdefault(key, (at, step))
            elif trust != "model" or key not in self.others:
                self.own.setdefault(key, at)

    def taints(self, at: int, said: _Said) -> Iterator[Taint]:
        """The parts of a text at a place that only a third party had said before it."""
        for name in said.names:
            source = self._source(at, name.key) or self._source_of_host(at, name)
            if source is not None:
                yield _taint(name.start, name.end, name.kind, source)
        shingles = said.shingles()
        start, end, last = 0, 0, None
        for number, shingle in enumerate(shingles):
            source = self._source(at, shingle)
            if source is None:
                continue
            first, behind = said.words[number].start, said.words[number + SHINGLE - 1].end
            if last is source and first <= end:
                end = behind
                continue
            if last is not None:
                yield _taint(start, end, "words", last)
            start, end, last = first, behind, source
        if last is not None:
            yield _taint(start, end, "words", last)

    def _source(self, at: int, key: _Key) -> Step | None:
        """The step that said something first, if that is what taints it."""
        found = self.others.get(key)
        if found is None or found[0] >= at or self.own.get(key, at) < at:
            return None
        return found[1]

    def _source_of_host(self, at: int, name: _Name) -> Step | None:
        """The same for a host by the nearest host above it that anybody named; who named an address itself owns it."""
        if name.kind == "url" or self.own.get(name.key, at) < at:
            return None
        for host in name.hosts:
            if self.own.get(("host", host), at) < at:
                return None
            if (source := self._source(at, ("host", host))) is not None:
                return source
        return None


def _taint(start: int, end: int, kind: TaintKind, source: Step) -> Taint:
    tool = source.stage if source.tool is None else source.tool.name
    return Taint(
        start=start, end=end, kind=kind, source=tool, ids=source.origin.ids if source.origin is not None else ()
    )


# --- what a text says


@dataclass(frozen=True, slots=True)
class _Name:
    """A name of something in a text; `hosts`: the host in it, and those above that one."""

    start: int
    end: int
    kind: TaintKind
    key: _Key
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Word:
    start: int
    end: int
    folded: str


class _Said:
    """What a text in question says: names in it, and its words."""

    def __init__(self, text: str) -> None:
        self.names: list[_Name] = []
        self.words: list[_Word] = []
        known: set[tuple[int, int, _Key]] = set()
        for number, view in enumerate(_views(text)):
            # Letter by letter, so that places stay.
            folded = "".join(map(_letter, view.text)) if not view.text.isascii() else view.text.lower()
            if number == 0:
                self.words = [_Word(one.start(), one.end(), _folded(one[0])) for one in _WORD.finditer(view.text)]
            for name in _names(folded):
                start, end = view.span(name.start, name.end)
                if (start, end, name.key) not in known:
                    known.add((start, end, name.key))
                    self.names.append(replace(name, start=start, end=end))

    def shingles(self) -> list[_Key]:
        """Words in a row, as many as there are places for them."""
        words = [word.folded for word in self.words]
        return list(zip(*(words[at:] for at in range(SHINGLE)), strict=False))


_WORD = re.compile(r"[぀-ヿ㐀-䶿一-鿿]|[^\W぀-ヿ㐀-䶿一-鿿]+")
"""A word; of scripts without spaces a sign."""

_ESCAPES = re.compile(r"(?:%[0-9A-Fa-f]{2})+")
_SPELLED = re.compile(r"\s{0,3}[\[({<]\s{0,3}(at|@|dot|punkt|\.)\s{0,3}[\])}>]\s{0,3}", re.IGNORECASE)
_SPOKEN = re.compile(
    r"(?<![\w.+-])[\w.+-]{1,64}(\s{1,3}at\s{1,3})[\w-]{1,63}((?:\s{1,3}dot\s{1,3}[\w-]{1,63}){1,6})", re.IGNORECASE
)
_DOT = re.compile(r"\s{1,3}dot\s{1,3}", re.IGNORECASE)
_MARKS = re.compile("[\ue000-\uf8ff]+")
"""What a quarantine puts between words."""


_Undo = Callable[[str], Iterable[Edit]]


def _views(text: str) -> Iterator[View]:
    """A text as it is, and in each other way in which a model may have read it."""
    text = readable(text)
    yield View(text)
    for view in (meant(text), *(_undone(text, undo) for undo in (_escapes, _spelled, _marks))):
        if view is not None:
            yield view


def _undone(text: str, undo: _Undo) -> View | None:
    edits = list(undo(text))
    if not edits:
        return None
    parts, at = [], 0
    for edit in edits:
        parts += [text[at : edit.start], edit.replacement]
        at = edit.end
    return View("".join([*parts, text[at:]]), (Edits(edits),))


def _escapes(text: str) -> Iterable[Edit]:
    if "%" in text:
        for run in _ESCAPES.finditer(text):
            yield Edit(run.start(), run.end(), urllib.parse.unquote(run[0]))


def _spelled(text: str) -> Iterable[Edit]:
    """`x (at) y (dot) z`, or `x at y dot z`."""
    signs = [(one, "@" if one[1].lower() in ("at", "@") else ".") for one in _SPELLED.finditer(text)]
    found = [Edit(one.start(), one.end(), sign) for one, sign in signs]
    if not found:
        for one in _SPOKEN.finditer(text):
            found.append(Edit(*one.span(1), "@"))
            found += [Edit(dot.start(), dot.end(), ".") for dot in _DOT.finditer(text, *one.span(2))]
    return found


def _marks(text: str) -> Iterable[Edit]:
    return () if text.isascii() else (Edit(one.start(), one.end(), "") for one in _MARKS.finditer(text))


_ENDINGS = (
    "com|org|net|info|biz|app|dev|xyz|online|site|shop|store|top|club|cloud|live|link|page|web|tech|space|world|work"
    "|news|blog|email|mobi|name|pro|icu|vip|zip|mov|edu|gov|mil|int|arpa|example|invalid|test|local|internal|onion"
    "|[a-z]{2}"
)
_FILES = (
    "py|js|ts|md|rs|sh|go|cs|rb|pl|ps|pdf|txt|csv|tsv|json|jsonl|yaml|yml|toml|ini|cfg|conf|env|log|xml|html|htm|css"
    "|doc|docx|xls|xlsx|ppt|pptx|odt|png|jpg|jpeg|gif|svg|mp3|mp4|wav|tar|gz|tgz|bz2|7z|rar|exe|dll|so|bat|cmd|jar"
    "|java|cpp|hpp|sql|db|sqlite|pem|key|crt|pub|bak|ipynb|parquet|lock"
)
_NAME = re.compile(
    r"(?P<url>(?<![\w+.-])[a-z][a-z0-9+.-]{1,15}://(?P<there>(?:[^\s/@<>\"'\\]{1,128}@)?(?P<at>\[[0-9a-f:.]{2,45}\]|[\w.-]{1,253}))"
    r"[^\s<>\"'`|\\^{}]{0,2000})"
    r"|(?P<email>(?<![\w.+%-])[\w.+%-]{1,64}@(?P<domain>(?:[\w-]{1,63}\.){1,8}[\w-]{2,63}))"
    r"|(?P<ip>(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.]))"
    r"|(?P<iban>(?<!\w)[a-z]{2}\d{2}[ -]?[a-z0-9]{4}(?:[ -]?(?=[a-z]{0,3}\d)[a-z0-9]{4}){1,6}"
    r"(?:[ -]?(?=[a-z]{0,2}\d)[a-z0-9]{1,3})?(?!\w))"
    r"|(?P<common>(?<!\w)(?:\d{4}-\d\d-\d\d(?:[t ]\d\d:\d\d[\d:.+z-]{0,24})?|\d\d?[./-]\d\d?[./-]\d{2,4}"
    r"|\d{1,20}\.\d{1,20})(?!\w))"
    r"|(?P<number>(?<![\w.,])\+?\(?\d(?:[ ()./-]{0,2}\d){7,39}(?!\w))"
    rf"|(?P<path>(?<![\w/.~-])(?:(?:~|\.{{1,2}}|[a-z]:)?[/\\](?:[\w.@-]{{1,128}}[/\\]?){{1,32}}"
    rf"|(?:[\w@-][\w.@-]{{0,127}}[/\\]){{0,32}}[\w-][\w.-]{{0,127}}\.(?:{_FILES})(?![\w-])))"
    rf"|(?P<host>(?<![\w@.-])(?:[\w-]{{1,63}}\.){{1,8}}(?:{_ENDINGS})(?![\w-]|\.\w))"
    r"|(?P<id>(?<![\w+/=-])(?=[a-z_-]{0,64}\d)(?=[\d_-]{0,64}[a-z])[\w-]{8,512}(?![\w]))"
)
"""Names, in folded text. Every part is bounded: the time grows with the text alone."""

_NOT_IN_NUMBER = re.compile(r"[^a-z0-9]+")


def _names(folded: str) -> Iterator[_Name]:
    """What a text names."""
    for found in _NAME.finditer(folded):
        kind, (start, end) = found.lastgroup, found.span()
        said = found[0]
        if found["url"] is not None:
            whole = said.rstrip(".,;:!?)]'*_")
            end = start + len(whole)
            host, (first, last) = found["at"], found.span("at")
            rest = whole.partition("://")[2].rstrip("/").removeprefix("www.")
            yield from _host(first, last, host)
            if rest.removeprefix("www.") != host.removeprefix("www."):
                yield _Name(start, end, "url", ("url", rest))
        elif found["email"] is not None:
            yield _Name(start, end, "email", ("email", said), _above(found["domain"]))
        elif found["host"] is not None or found["ip"] is not None:
            yield from _host(start, end, said)
        elif found["iban"] is not None or found["number"] is not None:
            yield _Name(start, end, "number", ("number", _NOT_IN_NUMBER.sub("", said)))
        elif kind in ("path", "id"):
            whole = said.replace("\\", "/").rstrip("/.") if kind == "path" else said.strip("-_")
            if len(whole) > 2:
                yield _Name(start, start + len(said), "path" if kind == "path" else "id", (kind, whole))


def _host(start: int, end: int, said: str) -> Iterator[_Name]:
    hosts = _above(said)
    yield _Name(start, end, "host", ("host", hosts[0]), hosts)


def _above(host: str) -> tuple[str, ...]:
    """A host, and those that it is part of, the nearest first."""
    host = host.strip(".").removeprefix("www.")
    labels = host.split(".")
    if host.startswith("[") or all(label.isdecimal() for label in labels):
        return (host,)
    return (host, *(".".join(labels[at:]) for at in range(1, min(len(labels) - 1, 8))))


def _folded(text: str) -> str:
    return text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()


def _letter(letter: str) -> str:
    folded = _folded(letter)
    return folded if len(folded) == 1 else letter
