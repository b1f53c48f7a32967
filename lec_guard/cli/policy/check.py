"""`lec-guard policy check`: is every policy right?"""

from __future__ import annotations

import typer

from lec_guard.cli.policy.options import HERE, Bundle, Folder, heads, told
from lec_guard.cli.terminal import fail
from lec_guard.errors import PolicyError
from lec_guard.policy.cases import Suite, read_suites
from lec_guard.policy.check import check_policies


def check_folder(folder: Folder = HERE, *, detector: Bundle = None) -> None:
    """Read every policy, and tell every mistake with file, line, column and key.

    Every policy is held against the detector: its heads are there, its budgets can be held, its patterns can be read.
    Files of test cases are read too. Exit code 0: all is right; 2: something is wrong.
    """
    with told():
        checked = check_policies(folder, heads(detector))
    mistakes = list(checked.mistakes)
    suites: list[Suite] = []
    try:
        suites = read_suites(folder)
    except PolicyError as error:
        mistakes += str(error).splitlines()
    if mistakes:
        fail("\n".join([*mistakes, f"{len(mistakes)} mistakes"]))
    cases = sum(len(suite.cases) for suite in suites)
    typer.echo(
        f"{folder}: all right: {checked.tenants} tenants, {checked.shared} shared policies, "
        f"{'a floor' if checked.floor else 'no floor'}, {cases} test cases"
    )
