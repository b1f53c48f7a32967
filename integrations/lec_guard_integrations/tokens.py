"""Tokens in the place of personal data: a model is sent them, and what they stand for comes back behind it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from lec_guard.chain.lens import read
from lec_guard.errors import UnsupportedValueError

_SHORT = 4
"""Values with fewer characters are taken for themselves only where they stand alone: `Al` is no part of `Also`."""


def hiding(tokens: Mapping[str, str]) -> Callable[[str], str]:
    """What puts tokens in the place of the values that they stand for.

    Args:
        tokens: Token -> value.

    Returns:
        A function of a text. Tokens in it stay, and a value that several tokens stand for becomes the first of them.
    """
    by_value: dict[str, str] = {}
    for token, value in tokens.items():
        if value:
            by_value.setdefault(value, token)
    instead = {**by_value, **{token: token for token in tokens}}
    forms = [_form(one) for one in sorted(instead, key=len, reverse=True)]
    if not forms:
        return str
    pattern = re.compile("|".join(forms))
    return lambda text: pattern.sub(lambda found: instead[found[0]], text)


def _form(value: str) -> str:
    return rf"(?<!\w){re.escape(value)}(?!\w)" if len(value) < _SHORT else re.escape(value)


def restored(value: Any, tokens: Mapping[str, str]) -> Any:
    """A value that a model gave, with what tokens in it stand for.

    Args:
        value: The value, or None.
        tokens: Token -> value.

    Returns:
        A value of the same type; the value itself where that can't be put there.
    """
    if value is None:
        return value
    # Imported here: most agents have nothing to put back.
    from lec_guard.act.redact import restore

    try:
        return read(value, "output").mapped(lambda text: restore(text, tokens))
    except UnsupportedValueError:
        return value
