"""Texts to judge: JSON lines with a stage, a context, a tool and a tenant."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel, ConfigDict, ValidationError

from lec_guard.cli.terminal import fail
from lec_guard.step import Stage, Step, ToolRef

CHUNK = 512
"""Rows that are judged together: output appears, and memory is bounded, by the chunk."""


class Row(BaseModel):
    """A line of `--jsonl`.

    Attributes:
        id: What its verdict is called.
        text: The text.
        context: What it is judged against.
        stage: Where it passes.
        tool: The tool that it belongs to.
        tenant: Whose policy applies.
    """

    model_config = ConfigDict(extra="allow")

    id: str | int | None = None
    text: str
    context: str | None = None
    stage: Stage = "input"
    tool: str | ToolRef | None = None
    tenant: str | None = None

    def step(self) -> Step:
        """What a guard is asked."""
        tool = ToolRef(name=self.tool) if isinstance(self.tool, str) else self.tool
        return Step(stage=self.stage, text=self.text, context=self.context, tool=tool)


def read_rows(file: Path, defaults: dict[str, Any]) -> Iterator[Row]:
    """Read a file line by line. It ends with every bad line being told, so give no result before the last row.

    Args:
        file: The file; `-` is the standard input.
        defaults: Field -> what counts where a line lacks it; None for nothing.

    Yields:
        The rows up to the first bad line.

    Raises:
        Exit: If the file can't be read, or lines are bad.
    """
    mistakes: list[str] = []
    ignored: dict[str, int] = {}
    given = {key: value for key, value in defaults.items() if value is not None}
    for number, line in enumerate(_lines(file), start=1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
            if isinstance(content, dict):
                content = given | {key: value for key, value in content.items() if value is not None}
            row = Row.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            mistakes.append(f"{file}:{number}: {'.'.join(map(str, first['loc'])) or 'the line'}: {first['msg']}")
        except (ValueError, RecursionError) as error:
            mistakes.append(f"{file}:{number}: not a JSON object: {error}")
        else:
            for key in row.model_extra or {}:
                ignored.setdefault(key, number)
            if not mistakes:
                yield row
    if mistakes:
        fail("\n".join([*mistakes[:20], f"{len(mistakes)} bad lines; mend them, and run it again"]))
    for key, number in ignored.items():
        typer.echo(f"lec-guard: {file}:{number}: the field {key!r} is not read", err=True)


def _lines(file: Path) -> Iterator[bytes]:
    try:
        if str(file) == "-":
            yield from sys.stdin.buffer
            return
        with file.open("rb") as opened:
            yield from opened
    except OSError as error:
        fail(f"{file}: can't be read: {error.strerror}")
