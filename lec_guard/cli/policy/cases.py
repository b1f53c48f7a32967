"""`lec-guard policy test`: do policies do what their test cases say?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import rich.table
import typer

from lec_guard.act.effects import Effects
from lec_guard.cli.policy.options import HERE, AsJson, Bundle, Folder, told
from lec_guard.cli.rows import CHUNK
from lec_guard.cli.terminal import action_cell, cell, console, plain
from lec_guard.errors import PolicyError
from lec_guard.guard import Guard
from lec_guard.policy.cases import Result, Suite, read_suites, result
from lec_guard.policy.schema import nearest
from lec_guard.policy.trial import unhurried

UNEXPECTED = 3
"""The exit code where a case did not come out as it says."""


def run_cases(
    folder: Folder = HERE,
    *,
    detector: Bundle = None,
    tenant: Annotated[str | None, typer.Option(help="Run the cases of this policy only.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run the test cases that lie beside policies: cases/NAME.yaml, and cases.yaml in a tenant's folder.

    Each text is judged as its policy would judge it in the application, under the floor; time limits don't count.
    Exit code 0: everything as expected; 3: something not; 2: wrong usage, policy, bundle or case, or no cases.
    """
    with told():
        suites = _chosen(folder, read_suites(folder), tenant)
        results = list(_results(Guard.from_policies(folder, detector=detector, effects=Effects(ask=False)), suites))
    failed = [one for one in results if not one.passed]
    if as_json:
        for one in results:
            typer.echo(json.dumps(_record(one)))
    else:
        console().print(_table(results))
        for one in failed:
            case = one.case
            wanted = f"{case.expect} by rule {case.rule}" if case.rule else case.expect
            got = f"{one.action} by rule {one.rule}" if one.rule else one.action
            typer.echo(plain(f"{one.place}: {case.name}: expected {wanted}, got {got}"), err=True)
        typer.echo(f"{len(results) - len(failed)} of {len(results)} as expected")
    if failed:
        raise typer.Exit(UNEXPECTED)


def _chosen(folder: Path, suites: list[Suite], tenant: str | None) -> list[Suite]:
    if not suites:
        raise PolicyError(f"{folder}: no test cases; write some to {folder / 'cases' / 'default.yaml'}")
    if tenant is None:
        return suites
    chosen = [suite for suite in suites if suite.policy == tenant]
    if not chosen:
        known = list(dict.fromkeys(suite.policy for suite in suites))
        raise PolicyError(f"no test cases of {tenant!r}{nearest(tenant, known)}")
    return chosen


def _results(guard: Guard, suites: list[Suite]) -> Iterator[Result]:
    cases = [(suite, at) for suite in suites for at in range(len(suite.cases))]
    policies = {suite.policy: unhurried(guard.policies.named(suite.policy)) for suite in suites}
    for start in range(0, len(cases), CHUNK):
        some = cases[start : start + CHUNK]
        steps = [suite.cases[at].step() for suite, at in some]
        verdicts = guard.try_out(steps, [policies[suite.policy] for suite, _ in some])
        yield from (result(suite, at, verdict) for (suite, at), verdict in zip(some, verdicts, strict=True))


def _record(one: Result) -> dict[str, object]:
    case = one.case
    return {
        "place": one.place,
        "policy": one.policy,
        "name": case.name,
        "stage": case.stage,
        "judge": case.judge,
        "expect": case.expect,
        "expect_rule": case.rule,
        "action": one.action,
        "rule": one.rule,
        "passed": one.passed,
    }


def _table(results: list[Result]) -> rich.table.Table:
    table = rich.table.Table("", "policy", "case", "stage", "judge", "expected", "by rule", "got", "by rule")
    for one in results:
        case = one.case
        table.add_row(
            cell("ok" if one.passed else "FAILED"),
            cell(one.policy),
            cell(case.name),
            cell(case.stage),
            cell(case.judge),
            action_cell(case.expect),
            cell(case.rule),
            action_cell(one.action),
            cell(one.rule),
        )
    return table
