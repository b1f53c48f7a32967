"""The `lec-guard` command."""

from __future__ import annotations

import typer

from lec_guard.cli.audit import verify
from lec_guard.cli.augment import augment
from lec_guard.cli.bench import bench
from lec_guard.cli.bundle import export_bundle, pull_bundle
from lec_guard.cli.calibrate import calibrate
from lec_guard.cli.check import check
from lec_guard.cli.distil import distil
from lec_guard.cli.evaluate import evaluate
from lec_guard.cli.init import init
from lec_guard.cli.pii_data import pii_data
from lec_guard.cli.pii_eval import pii_eval
from lec_guard.cli.policy.cases import run_cases
from lec_guard.cli.policy.check import check_folder
from lec_guard.cli.policy.diff import compare_policies
from lec_guard.cli.policy.schema import show_schema
from lec_guard.cli.policy.show import show_policy
from lec_guard.cli.probe import probe
from lec_guard.cli.scan import scan_table
from lec_guard.cli.serve import serve
from lec_guard.cli.train import train
from lec_guard.cli.tune import tune

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A guardrail that runs inside your process.",
)
app.command("init")(init)
app.command("check")(check)
app.command("train")(train)
app.command("distil")(distil)
app.command("eval")(evaluate)
app.command("augment")(augment)
app.command("pii-data")(pii_data)
app.command("tune")(tune)
app.command("pii-eval")(pii_eval)
app.command("bench")(bench)
app.command("serve")(serve)
app.command("scan")(scan_table)
app.command("probe")(probe)
policy_app = typer.Typer(no_args_is_help=True, help="Policies, before they meet a user.")
policy_app.command("check")(check_folder)
policy_app.command("show")(show_policy)
policy_app.command("test")(run_cases)
policy_app.command("diff")(compare_policies)
policy_app.command("calibrate")(calibrate)
policy_app.command("schema")(show_schema)
app.add_typer(policy_app, name="policy")
bundle_app = typer.Typer(no_args_is_help=True, help="Detectors on disk.")
bundle_app.command("pull")(pull_bundle)
bundle_app.command("export")(export_bundle)
app.add_typer(bundle_app, name="bundle")
audit_app = typer.Typer(no_args_is_help=True, help="Audit logs.")
audit_app.command("verify")(verify)
app.add_typer(audit_app, name="audit")
