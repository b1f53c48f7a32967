"""The `lec-guard` command."""

from __future__ import annotations

import typer

from lec_guard.cli.bench import bench
from lec_guard.cli.bundle import export_bundle, pull_bundle
from lec_guard.cli.check import check
from lec_guard.cli.evaluate import evaluate
from lec_guard.cli.train import train

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A guardrail that runs inside your process.",
)
app.command("check")(check)
app.command("train")(train)
app.command("eval")(evaluate)
app.command("bench")(bench)
bundle_app = typer.Typer(no_args_is_help=True, help="Detectors on disk.")
bundle_app.command("pull")(pull_bundle)
bundle_app.command("export")(export_bundle)
app.add_typer(bundle_app, name="bundle")
