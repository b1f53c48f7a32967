"""Harmless text that is on any developer's machine: what the tail of a detector's false alarms is looked for in.

    python -m benchmarks.embedded.tail --out TAIL

Manuals in many languages, package documentation, licences, changelogs, docstrings, source code, messages of programs
and logs. None of it is committed; what is found depends on what is installed (`apt-get install manpages-de ...` adds
languages), and `TAIL/sources.json` tells how much of each kind there was.
"""

from __future__ import annotations

import argparse
import ast
import gzip
import json
import os
import random
import re
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.embedded.sets import Example

HELD = ("tail_man_fr", "tail_man_ja", "tail_perl", "tail_changelog", "tail_info")
"""Families that nothing learns from: thresholds are taken from these."""

_MOST_BYTES, _MOST_CHARS = 120_000, 3_000
"""Of a file, and of a text."""

_LANGUAGES = ("de", "fr", "es", "ja", "zh_CN", "ru", "pl", "it", "pt_BR", "nl", "ko", "tr", "cs", "sv", "uk", "hu")
_MAN, _DOC = Path("/usr/share/man"), Path("/usr/share/doc")
_PERL = (Path("/usr/share/perl"), Path("/usr/share/perl5"))
_INFO, _LOG = Path("/usr/share/info"), Path("/var/log")


@dataclass(frozen=True, slots=True)
class _Source:
    """Files of one kind: which, how their text is read, texts of a file and texts of all at most."""

    family: str
    files: Callable[[], Iterable[Path]]
    read: Callable[[str], str]
    per_file: int
    most: int


def _under(*folders: str | Path, ends: tuple[str, ...] = ("",)) -> Iterator[Path]:
    """Files below folders; links are not followed, for some lead back up."""
    for folder in folders:
        for place, _, names in os.walk(folder):
            yield from (Path(place, name) for name in names if name.endswith(ends))


def _packages() -> str:
    return sysconfig.get_path("purelib")


def _sources() -> list[_Source]:
    def man(language: str) -> Callable[[], Iterable[Path]]:
        return lambda: _under(_MAN / language)

    return [
        *(_Source(f"tail_man_{one}", man(one), _plain_of_roff, 4, 1_500) for one in _LANGUAGES),
        _Source("tail_man_en", lambda: _under(*(_MAN / f"man{n}" for n in (1, 5, 7, 8))), _plain_of_roff, 8, 16_000),
        _Source("tail_man_api", lambda: _under(_MAN / "man2", _MAN / "man3"), _plain_of_roff, 3, 4_000),
        _Source("tail_changelog", lambda: _named(_DOC, r"changelog|NEWS"), str, 10, 8_000),
        _Source("tail_licence", lambda: _named(_DOC, "copyright"), str, 8, 6_000),
        _Source("tail_doc", lambda: _named(_DOC, r"README|TODO|FAQ|\.txt|\.md|\.html"), str, 12, 8_000),
        _Source("tail_readme", lambda: _named(_packages(), r"^METADATA$|README|\.md$|\.rst$"), str, 30, 14_000),
        _Source("tail_perl", lambda: _under(*_PERL, ends=(".pod", ".pm")), _plain_of_pod, 10, 6_000),
        _Source("tail_info", lambda: _under(_INFO, ends=(".gz",)), str, 200, 5_000),
        _Source("tail_docstring", lambda: _under(_packages(), ends=(".py",)), _docstrings, 4, 16_000),
        _Source("tail_code", lambda: _under(_packages(), ends=(".py",)), str, 3, 8_000),
        _Source("tail_message", lambda: _under(_packages(), ends=(".py",)), _messages, 6, 10_000),
        _Source("tail_log", lambda: _under(_LOG), _in_blocks, 200, 3_000),
    ]  # fmt: skip


def _named(folder: str | Path, pattern: str) -> Iterator[Path]:
    return (path for path in _under(folder) if re.search(pattern, path.name))


def collect(seed: int = 0) -> list[Example]:
    """Texts of one to a few paragraphs, the same ones on every run on the same machine.

    Args:
        seed: Decides which.

    Returns:
        The texts, as harmless documents; each kind is a family of its own.
    """
    found: dict[str, Example] = {}
    for source in _sources():
        rng = random.Random(f"{seed}/{source.family}")  # noqa: S311 - a sample, not a secret
        files = sorted(source.files())
        rng.shuffle(files)
        texts: list[str] = []
        for path in files:
            own = list(_texts(source.read(_read(path)), rng))
            rng.shuffle(own)
            texts += own[: source.per_file]
            if len(texts) >= source.most:
                break
        for text in texts[: source.most]:
            found.setdefault(text, _example(source.family, text))
    return list(found.values())


def drawn(tail: Sequence[Example], most: int, *, seed: int = 0) -> list[Example]:
    """Up to so many texts of each kind of the tail that is not held out, the same ones on every run with a seed."""
    kinds: dict[str, list[Example]] = {}
    for one in tail:
        if one.family not in HELD:
            kinds.setdefault(one.family, []).append(one)
    rng = random.Random(seed)  # noqa: S311 - a sample, not a secret
    return [one for _, own in sorted(kinds.items()) for one in rng.sample(own, min(most, len(own)))]


def held(examples: Sequence[Example], most: int = 400) -> list[Example]:
    """Texts of the kinds that nothing learns from.

    Args:
        examples: Texts of a machine, in any order.
        most: Of each kind.

    Returns:
        Some of each.
    """
    kinds: dict[str, list[Example]] = {}
    for example in examples:
        if example.family in HELD and len(kinds.setdefault(example.family, [])) < most:
            kinds[example.family].append(example)
    return [example for own in kinds.values() for example in own]


def _example(family: str, text: str) -> Example:
    return Example(source=family, family=family, kind="document", text=text, label="benign", category=None)


def _read(path: Path) -> str:
    """The beginning of a file; nothing where it is no text."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return file.read(_MOST_BYTES).decode("utf-8", "ignore")
    except (OSError, EOFError):
        return ""


def _texts(text: str, rng: random.Random) -> Iterator[str]:
    """Paragraphs, by themselves or with those that follow."""
    blocks = "\n".join(line.strip() for line in text.split("\n")).split("\n\n")
    paragraphs = [block.strip() for block in blocks if 25 <= len(block.strip()) <= 4_000]
    at = 0
    while at < len(paragraphs):
        count = rng.choice((1, 1, 1, 1, 2, 3, 5))
        yield "\n".join(paragraphs[at : at + count])[:_MOST_CHARS]
        at += count


_FONTS = re.compile(r"\\f(?:[BIRP]|\(..|\[[^\]\n]{0,20}\])|\\[&/,|c]")
_GLYPHS = re.compile(r"\\\*?\[[^\]\n]{0,20}\]|\\\(..")
_MACRO = re.compile(r"[.'](SH|SS|Sh|Ss|B|I|BR|IR|RB|RI|BI|IB|Nm|It|Fl|Ar)\s+(.*)")


def _plain_of_roff(text: str) -> str:
    """What a manual page says, roughly: `man` itself would take minutes for all of them."""
    text = _FONTS.sub("", text)
    for code, plain in (("\\-", "-"), ("\\(aq", "'"), ("\\(bu", "*"), ("\\(lq", '"'), ("\\(rq", '"'), ("\\e", "\\")):
        text = text.replace(code, plain)
    lines: list[str] = []
    for line in _GLYPHS.sub("", text).split("\n"):
        macro = _MACRO.match(line)
        if not line.startswith((".", "'")):
            lines.append(line)
        elif macro and macro[1].lower() in ("sh", "ss"):
            lines.append("\n" + macro[2].strip('"'))
        elif macro:
            lines.append(macro[2].replace('"', ""))
        elif line[:3] in (".PP", ".P", ".LP", ".TP", ".IP", ".sp"):
            lines.append("")
    return "\n".join(lines)


def _plain_of_pod(text: str) -> str:
    return re.sub(r"[BICFL]<([^<>\n]{0,200})>", r"\1", text)


def _docstrings(text: str) -> str:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return ""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    own = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds)]
    return "\n\n".join(one for one in own if one)


_SAID = re.compile(
    r'(?:help=|description=|Error\(|warn\(|print\(|\.(?:info|warning|error|debug)\()\s*f?"([^"\n]{25,300})"'
)


def _messages(text: str) -> str:
    """What programs say to people who use them: orders, warnings and hints."""
    return "\n\n".join(_SAID.findall(text))


def _in_blocks(text: str) -> str:
    lines = text.split("\n")
    return "\n\n".join("\n".join(lines[at : at + 1 + at % 9]) for at in range(0, len(lines), 10))


def write(examples: Sequence[Example], folder: Path) -> None:
    """Write texts, and how many of each kind there are."""
    folder.mkdir(parents=True, exist_ok=True)
    counts: dict[str, int] = {}
    with (folder / "tail.jsonl").open("w", encoding="utf-8") as out:
        for one in examples:
            counts[one.family] = counts.get(one.family, 0) + 1
            row = {"user": one.text, "label": one.label, "kind": one.kind, "family": one.family}
            out.write(json.dumps(row) + "\n")
    (folder / "sources.json").write_text(json.dumps(counts, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Collect and write."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()
    found = collect(options.seed)
    write(found, options.out)
    print(f"{len(found):,} texts in {options.out / 'tail.jsonl'}")


if __name__ == "__main__":
    main()
