"""`lec-guard init`: a folder of policies to start from."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated

import typer

from lec_guard.cli.terminal import fail
from lec_guard.policy.json_schema import schema_text

STARTER = files("lec_guard.cli") / "starter"
"""What the folder is filled with."""


def init(folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder; made if it is not there.")]) -> None:
    """Write a folder of policies to start from: a default, a floor, a tenant and test cases, with comments.

    The JSON Schemas are written beside them, so that editors complete and check the files. Nothing is overwritten.
    Exit code 0: written; 2: something is there already, or the folder can't be written.
    """
    content = {
        **_contents(STARTER, Path()),
        Path("policy.schema.json"): schema_text("policy"),
        Path("cases.schema.json"): schema_text("cases"),
    }
    there = [str(folder / name) for name in content if (folder / name).exists()]
    if there:
        fail(f"{', '.join(there)}: there already, and nothing was written; give another folder")
    try:
        for name, text in content.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with (folder / name).open("x", encoding="utf-8") as new:
                new.write(text)
    except OSError as error:
        fail(f"{error.filename}: can't be written: {error.strerror}")
    for name in content:
        typer.echo(folder / name)
    typer.echo(f"next: lec-guard policy check {folder} && lec-guard policy test {folder}")


def _contents(folder: Traversable, at: Path) -> dict[Path, str]:
    found: dict[Path, str] = {}
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            found |= _contents(entry, at / entry.name)
        else:
            found[at / entry.name] = entry.read_text(encoding="utf-8")
    return found
