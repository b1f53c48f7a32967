"""Texts as they pass a guard, from a file: a tenant's harmless traffic, or attacks that must be stopped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from pydantic import BaseModel, ConfigDict, ValidationError

from lec_guard.errors import UnsupportedValueError
from lec_guard.step import Stage, Step, ToolRef
from lec_guard.train.rows import Mistakes, read_rows

ONE_SOURCE = "one source"
"""Where texts are from that do not say so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A text of a file.

    Attributes:
        where: `file:line`.
        id: What its line calls it; else where it stands.
        step: What a guard would be asked.
        origin: Where it is from.
    """

    where: str
    id: str
    step: Step
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """The texts of a file.

    Attributes:
        texts: All of them, in order.
        ignored: Field that nobody reads -> where it stands first.
    """

    texts: tuple[Text, ...]
    ignored: Mapping[str, str]


class _Row(BaseModel):
    model_config = ConfigDict(extra="allow")

    text: str
    id: str | int | None = None
    context: str | None = None
    stage: Stage = "input"
    tool: str | ToolRef | None = None
    tenant: str | None = None
    source: str | int | None = None
    family: str | int | None = None

    def text_at(self, where: str) -> Text:
        tool = ToolRef(name=self.tool) if isinstance(self.tool, str) else self.tool
        origin = self.family if self.source is None else self.source
        return Text(
            where=where,
            id=where if self.id is None else str(self.id),
            step=Step(stage=self.stage, text=self.text, context=self.context, tool=tool),
            origin=ONE_SOURCE if origin is None else str(origin),
        )


def read_traffic(file: Path, *, tenant: str | None = None) -> Traffic:
    """Read texts as `lec-guard check --jsonl` does.

    Args:
        file: JSON lines with `text` and perhaps `id`, `context`, `stage`, `tool`, `tenant`, and with `source` (or
            `family`) saying where a text is from.
        tenant: Whose they are; a line that names another one is wrong. None: nobody asks.

    Returns:
        The texts.

    Raises:
        UnsupportedValueError: If the file can't be read, holds none, or lines are wrong; names them.
    """
    mistakes = Mistakes()
    texts: list[Text] = []
    ignored: dict[str, str] = {}
    for row in read_rows(file, ["text"], [], mistakes):
        given = {key: value for key, value in row.values.items() if value is not None}
        try:
            said = _Row.model_validate(given)
        except ValidationError as error:
            first = error.errors()[0]
            mistakes.add(row.source, f"{'.'.join(map(str, first['loc'])) or 'the line'}: {first['msg']}")
            continue
        if tenant is not None and said.tenant not in (None, tenant):
            mistakes.add(row.source, f"tenant: is {said.tenant!r}, not {tenant!r}: leave out what is of others")
            continue
        for key in said.model_extra or {}:
            ignored.setdefault(key, row.source)
        texts.append(said.text_at(row.source))
    mistakes.stop()
    if not texts:
        raise UnsupportedValueError(f"{file}: no text in it: write a JSON object a line")
    return Traffic(texts=tuple(texts), ignored=MappingProxyType(ignored))
