"""`lec-guard bundle`: detectors on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lec_guard.cli.terminal import fail
from lec_guard.detect.bundle import EMBEDDED, read_bundle
from lec_guard.detect.pull import pull
from lec_guard.errors import BundleError


def pull_bundle(reference: Annotated[str, typer.Argument(help="org/name@revision, the full commit hash.")]) -> None:
    """Fetch base weights or a bundle from the model hub, once, at a pinned commit.

    Nothing else in lec-guard ever downloads. LEC_GUARD_HOME names the store.
    """
    try:
        typer.echo(pull(reference))
    except BundleError as error:
        fail(str(error))


def export_bundle(
    to: Annotated[Path, typer.Argument(help="Folder to write to; must not exist yet.")],
    *,
    bundle: Annotated[Path | None, typer.Option(help="Folder of a bundle; else the embedded one.")] = None,
    dtype: Annotated[str, typer.Option(help="fp32, or int8 for the matrix products.")] = "fp32",
) -> None:
    """Write a bundle for ONNX Runtime that needs no torch and no base weights where it runs."""
    try:
        # Imported here, because it needs torch and the packages of an extra.
        from lec_guard.detect.export import export

        if to.exists():
            fail(f"{to}: exists already; give a new folder")
        if dtype not in ("fp32", "int8"):
            fail(f"unknown dtype {dtype!r}; use fp32 or int8")
        export(read_bundle(bundle or EMBEDDED), to, "int8" if dtype == "int8" else "fp32")
    except BundleError as error:
        fail(str(error))
    typer.echo(to)
