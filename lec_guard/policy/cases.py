"""Test cases that lie beside policies: a text, and what is to follow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from lec_guard.errors import PolicyError
from lec_guard.policy.document import read_document
from lec_guard.policy.folder import CASES, ENDINGS, Listing, list_folder
from lec_guard.policy.schema import nearest, parse
from lec_guard.step import Action, Role, Stage, Step, ToolRef, Verdict


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Tool(_Part):
    """The tool that a text belongs to.

    Attributes:
        name: Its name, as the model sees it.
        description: Its description, as the model sees it.
    """

    name: Annotated[str, Field(min_length=1)]
    description: str | None = None


class Case(_Part):
    """A text, and what is to follow.

    Attributes:
        name: What the case shows.
        text: The text.
        stage: Where it passes.
        context: What it is judged against: for a message the system prompt, for an answer the request.
        tool: The tool that it belongs to: its name, or name and description.
        expect: What is to follow.
        rule: The rule that is to decide, as verdicts name it: `floor:NAME`, `allow:NAME` and `fail:CAUSE` too. Not
            given: any.
        judge: Whose judgement is meant: the `verdict` on the step, or what one policy alone says of it: `live` for
            the policy itself (in shadow mode, too), `floor`, or `candidate`.
    """

    name: Annotated[str, Field(min_length=1, max_length=200)]
    text: str
    stage: Stage
    context: str | None = None
    tool: Annotated[str, Field(min_length=1)] | Tool | None = None
    expect: Action
    rule: Annotated[str, Field(min_length=1)] | None = None
    judge: Literal["verdict"] | Role = "verdict"

    def step(self) -> Step:
        """What a guard is asked."""
        said = Tool(name=self.tool) if isinstance(self.tool, str) else self.tool
        tool = None if said is None else ToolRef(name=said.name, description=said.description)
        return Step(stage=self.stage, text=self.text, context=self.context, tool=tool)


class CasesFile(_Part):
    """Test cases of a policy.

    Attributes:
        cases: The cases.
    """

    cases: Annotated[tuple[Case, ...], Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class Suite:
    """The test cases of a file.

    Attributes:
        policy: The policy that they are for: a tenant's, or a shared one.
        file: Where they stand.
        cases: The cases.
        places: Where each of them stands: `file:line:column`.
    """

    policy: str
    file: Path
    cases: tuple[Case, ...]
    places: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of a test case.

    Attributes:
        policy: The policy that was tested.
        case: The case.
        place: Where it stands: `file:line:column`.
        action: What followed.
        rule: The rule that decided.
    """

    policy: str
    case: Case
    place: str
    action: Action
    rule: str | None

    @property
    def passed(self) -> bool:
        """Whether it is what was expected."""
        return self.action == self.case.expect and self.case.rule in (None, self.rule)


def read_suites(path: Path) -> list[Suite]:
    """Read all test cases of a folder of policies.

    They stand in `cases/NAME.yaml` beside the policies, for a tenant, `default` or another shared one; those of a
    tenant with a folder may stand there, in `cases.yaml`.

    Args:
        path: The folder; or one policy file, of which the cases beside it are read.

    Returns:
        The suites, those of shared policies first.

    Raises:
        PolicyError: If a file is wrong, or is for a policy that does not exist; every mistake is told.
    """
    listing = list_folder(path)
    suites: list[Suite] = []
    mistakes: list[str] = []
    for file, name in _files(listing, listing.default if path.is_file() else None, mistakes):
        try:
            document = read_document(file)
            cases = parse(CasesFile, document).cases
        except PolicyError as error:
            mistakes += str(error).splitlines()
        else:
            places = tuple(document.where(("cases", at)) for at in range(len(cases)))
            suites.append(Suite(name, file, cases, places))
    if mistakes:
        raise PolicyError("\n".join(mistakes))
    return sorted(suites, key=lambda suite: suite.policy in listing.tenants)


def _files(listing: Listing, only: str | None, mistakes: list[str]) -> Iterator[tuple[Path, str]]:
    """The files of cases, and the policies that they are for."""
    folder = listing.root / CASES
    known = [*listing.shared, *listing.tenants]
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if file.name.startswith(".") or only not in (None, file.stem):
            continue
        if file.suffix not in ENDINGS or not file.is_file():
            mistakes.append(f"{file}: not a file of cases; {CASES}/ holds a .yaml file for each policy, no more")
        elif file.stem not in known:
            mistakes.append(f"{file}: cases for a policy that does not exist{nearest(file.stem, known)}")
        else:
            yield file, file.stem
    for name, tenant in listing.tenants.items():
        if tenant.folder != listing.root:
            yield from ((file, name) for ending in ENDINGS if (file := tenant.folder / f"{CASES}{ending}").is_file())


def result(suite: Suite, at: int, verdict: Verdict) -> Result:
    """What came of a test case.

    Args:
        suite: Its suite.
        at: Which of the cases it is.
        verdict: What a guard said of its step.

    Returns:
        The result.

    Raises:
        PolicyError: If it is about a floor or a candidate, and there is none.
    """
    case, place = suite.cases[at], suite.places[at]
    if case.judge == "verdict":
        return Result(policy=suite.policy, case=case, place=place, action=verdict.action, rule=verdict.rule)
    said = next((one for one in verdict.judgements if one.role == case.judge), None)
    if said is None:
        raise PolicyError(f"{place}: judge: the policy {suite.policy!r} has no {case.judge}")
    return Result(policy=suite.policy, case=case, place=place, action=said.action, rule=said.rule)
