"""What a user is told: texts of an operator with a few named places, in as many languages as the operator writes."""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, Field

from lec_guard.errors import PolicyError
from lec_guard.step import Stage

FIELDS = ("rule", "stage", "tenant", "policy", "version")
"""What a message may name in braces. All of it is the operator's own; nothing a user wrote is among it."""

ANY = "default"
"""The locale of a message that is written in one language only."""


def _checked(text: str) -> str:
    """Refuse what could not be filled in, while the author looks on and not when a user waits."""
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError as error:
        raise ValueError(f"{error}; write {{{{ and }}}} for braces") from None
    for _, name, spec, conversion in parts:
        if name is not None and (name not in FIELDS or spec or conversion):
            known = ", ".join(f"{{{name}}}" for name in FIELDS)
            raise ValueError(f"{{{name}}} can't be filled in; known: {known}; write {{{{ and }}}} for braces")
    return text


Template = Annotated[str, Field(min_length=1, max_length=4000), AfterValidator(_checked)]
"""A text with `{rule}`, `{stage}`, `{tenant}`, `{policy}` or `{version}` in it."""

Locale = Annotated[str, Field(pattern=r"^[a-z]{2,3}(-[A-Za-z0-9]{2,8})*$")]
"""A language tag, for example `de` or `pt-BR`."""

Message = Template | Annotated[dict[Locale, Template], Field(min_length=1)]
"""One text, or one a language."""


@dataclass(frozen=True, slots=True)
class Messages:
    """A message in all of its languages.

    Attributes:
        texts: Locale -> template.
    """

    texts: Mapping[str, str]

    @classmethod
    def of(cls, message: str | Mapping[str, str]) -> Messages:
        """From what a policy file says.

        Args:
            message: One text, or one a language.

        Returns:
            The message.
        """
        return cls({ANY: message} if isinstance(message, str) else dict(message))

    def render(self, *, rule: str, stage: Stage, tenant: str | None, policy: str, version: str) -> dict[str, str]:
        """Fill in the names.

        Args:
            rule: The rule that decided.
            stage: The stage of the step.
            tenant: The tenant, if there is one.
            policy: The policy's name.
            version: Its version.

        Returns:
            Locale -> text.
        """
        names = {"rule": rule, "stage": stage, "tenant": tenant or "", "policy": policy, "version": version}
        return {locale: text.format_map(names) for locale, text in self.texts.items()}


def in_order(texts: Mapping[str, str], locale: str | None, where: str) -> dict[str, str]:
    """The texts with the operator's language first.

    Args:
        texts: Locale -> text.
        locale: The operator's language; None leaves them as they are.
        where: Where that is said, for the error.

    Returns:
        The same texts.

    Raises:
        PolicyError: If there is no text in that language.
    """
    if locale is None or locale in texts or ANY in texts:
        return {name: texts[name] for name in sorted(texts, key=lambda name: name != locale)}
    raise PolicyError(f"{where}: no message in {locale!r}; there are: {', '.join(texts)}")
