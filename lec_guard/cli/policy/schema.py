"""`lec-guard policy schema`: the JSON Schema of policy files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lec_guard.cli.terminal import fail
from lec_guard.policy.json_schema import schema_text


def show_schema(
    *,
    out: Annotated[Path | None, typer.Option(help="Write it to this file instead of printing it.")] = None,
    cases: Annotated[bool, typer.Option("--cases", help="Of files with test cases.")] = False,
) -> None:
    """Print the JSON Schema of a policy file, from which editors complete and check.

    Name it in the first line of a policy: `# yaml-language-server: $schema=policy.schema.json`.
    """
    text = schema_text("cases" if cases else "policy")
    if out is None:
        typer.echo(text, nl=False)
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        fail(f"{out}: can't be written: {error.strerror}")
