"""What the commands of `lec-guard policy` share: their options, and what detectors give."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from lec_guard.cli.terminal import FAILED, fail
from lec_guard.detect.layer import LayerDetector
from lec_guard.detect.pool import DetectorPool
from lec_guard.errors import BundleError, LecGuardError, PolicyError
from lec_guard.guard import heads_of
from lec_guard.policy.store import FindHeads

Folder = Annotated[Path, typer.Argument(metavar="[DIR]", help="Folder with policies, or one policy file.")]
Bundle = Annotated[Path | None, typer.Option("--detector", help="Folder of a bundle; else the embedded one.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]

HERE = Path("policies")
"""The folder, where none is named."""


@contextmanager
def told() -> Iterator[None]:
    """What goes wrong is told, a line each mistake; wrong policies and bundles end with 2, failures with 1."""
    try:
        yield
    except (PolicyError, BundleError) as error:
        fail(str(error))
    except LecGuardError as error:
        fail(str(error), FAILED)


def heads(bundle: Path | None) -> FindHeads:
    """What the detectors give that policies may ask for.

    Args:
        bundle: Folder of the bundle that all share; else the embedded one.

    Returns:
        Finds them; a tenant's own detector is loaded for it.
    """
    return heads_beside(LayerDetector.load(bundle))


def heads_beside(shared: LayerDetector) -> FindHeads:
    """What the detectors give that policies may ask for.

    Args:
        shared: The one that all share.

    Returns:
        Finds them; a tenant's own detector is loaded for it.
    """
    pool = DetectorPool(shared)
    return lambda ref: heads_of(shared if ref is None else pool.get(ref.folder, ref.id, beside=ref.beside))
