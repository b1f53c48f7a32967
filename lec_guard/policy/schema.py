"""What a policy file may say."""

from __future__ import annotations

import difflib
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lec_guard.errors import PolicyError
from lec_guard.policy.document import Document, KeyPath
from lec_guard.step import Action, Stage

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
"""What a policy, a tenant or a rule may be called."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Rule(_Part):
    """Which score at which stage leads to which action.

    Attributes:
        name: Unique in the policy; a rule of the same name replaces the inherited one.
        stages: The stages at which the rule reads.
        head: The head whose scores it reads.
        labels: The labels that count; none given means all that the head can raise.
        threshold: The rule matches from this score on.
        action: What follows. `allow` takes an inherited rule out of force.
        message: What to tell the user on a block; else the policy's own message.
    """

    name: Annotated[str, Field(pattern=NAME)]
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    head: Annotated[str, Field(min_length=1)]
    labels: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    threshold: Annotated[float, Field(strict=True, gt=0.0, le=1.0, allow_inf_nan=False)]
    action: Action
    message: Annotated[str, Field(min_length=1)] | None = None


class PolicyFile(_Part):
    """A policy as its author writes it.

    Attributes:
        description: For readers.
        extends: The policy whose rules and message this one inherits: `builtin` for the packaged
            default, or the name of another file of the folder.
        message: What to tell a user on a block.
        unknown_tenant: In `default.yaml` only: what a tenant without a file gets, `default` or a
            tenant's name. Not given: an unknown tenant is an error.
        rules: The rules, read in order.
    """

    description: str = ""
    extends: Annotated[str, Field(pattern=NAME)] | None = None
    message: Annotated[str, Field(min_length=1)] | None = None
    unknown_tenant: Annotated[str, Field(pattern=NAME)] | None = None
    rules: tuple[Rule, ...] = ()

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [rule.name for rule in self.rules]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two rules are called {name!r}")
        return self


def parse_policy(document: Document) -> PolicyFile:
    """Check a document against the schema.

    Args:
        document: The YAML that was read.

    Returns:
        The policy file.

    Raises:
        PolicyError: One line a mistake: file, line, key, what is wrong, and the word that was likely meant.
    """
    try:
        return PolicyFile.model_validate(document.data if document.data is not None else {})
    except ValidationError as error:
        mistakes = []
        for detail in error.errors(include_url=False):
            path: KeyPath = tuple(detail["loc"])
            where = ".".join(str(part) for part in path) or "the file"
            mistakes.append(
                f"{document.file}:{document.line(path)}: {where}: {detail['msg']}{_hint(path, detail['type'])}"
            )
        raise PolicyError("\n".join(mistakes)) from None


def _hint(path: KeyPath, kind: str) -> str:
    if kind != "extra_forbidden" or not path:
        return ""
    known = Rule.model_fields if path[0] == "rules" else PolicyFile.model_fields
    return nearest(str(path[-1]), list(known))


def nearest(word: str, known: list[str]) -> str:
    """A suggestion to put behind an error message.

    Args:
        word: What was written.
        known: What could have been meant.

    Returns:
        `; did you mean 'x'?`, or the list of what is known.
    """
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"
