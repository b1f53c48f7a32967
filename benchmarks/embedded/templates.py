"""Templates with slots: `{name}` stands for one of the fillers of that name, and fillers may hold slots themselves.

Files of templates are JSON lines, those of fillers a JSON object of lists. What a name has no fillers for is an error,
so a slip of the pen does not become data. Braces that are not slots may stand anywhere: `{"a": 1}`, `{ x }`, `{{x}}`.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

from lec_guard import UnsupportedValueError

BANK = Path(__file__).parent / "bank"
SLOT = re.compile(r"(?<!\{)\{([a-z][a-z0-9_]*)\}")
DEPTH = 8
"""Fillers within fillers, at most."""


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def read_slots(file: Path) -> dict[str, list[str]]:
    """The fillers of each name."""
    slots: dict[str, list[str]] = json.loads(file.read_text(encoding="utf-8"))
    return slots


def expand(template: str, slots: Mapping[str, Sequence[str]], rng: random.Random, *, keep: Container[str] = ()) -> str:
    """The template with a filler in each slot, drawn anew each time; slots named in `keep` stay."""
    for _ in range(DEPTH):
        filled = SLOT.sub(lambda found: _filler(found, slots, rng, keep), template)
        if filled == template:
            return filled
        template = filled
    if any(name not in keep for name in SLOT.findall(template)):
        raise UnsupportedValueError(f"fillers of {SLOT.findall(template)} never end: {template[:80]!r}")
    return template


def _filler(found: re.Match[str], slots: Mapping[str, Sequence[str]], rng: random.Random, keep: Container[str]) -> str:
    name = found[1]
    if name in keep:
        return found[0]
    if not slots.get(name):
        raise UnsupportedValueError(f"no fillers for {{{name}}} in {found.string[:80]!r}")
    return rng.choice(slots[name])
