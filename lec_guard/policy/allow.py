"""Texts for which rules don't count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lec_guard.errors import PolicyError
from lec_guard.policy.resolve import Policy
from lec_guard.policy.schema import Allowed
from lec_guard.step import STAGES, Stage

_MEMORY = 2 << 20
"""Bytes that a pattern may take; one that needs more is refused at load, or falls back to slower search."""

_MOST = 50
"""Patterns of a policy; a text is held against one after another."""

_LONGEST = 10_000
"""Characters of a text that is held against patterns: a longer one is none that somebody foresaw."""


def allow_lists(policy: Policy) -> dict[Stage, AllowList]:
    """The allow lists of a policy.

    Patterns are RE2's: the time of a match grows with the length of the text and with nothing else (Cox 2010,
    "Regular Expression Matching in the Wild"), so no pattern of a tenant's can hang a guard.

    Args:
        policy: The policy.

    Returns:
        Stage -> its list.

    Raises:
        PolicyError: If a pattern is wrong, there are too many, or the package that reads them is not installed.
    """
    count = 0
    entries: list[_Entry] = []
    for said in policy.allow:
        where = policy.where(f"allow.{said.name}")
        count += len(said.regex)
        if count > _MOST:
            raise PolicyError(f"{where}: more than {_MOST} patterns in one policy; join some of them: one|other")
        entries.append(_Entry(said, where))
    return {stage: AllowList([entry for entry in entries if stage in entry.said.stages]) for stage in STAGES}


class AllowList:
    """The entries of a stage, as `allow_lists` makes them. Safe to share between threads."""

    def __init__(self, entries: Sequence[_Entry]) -> None:
        self._entries = entries

    def find(self, text: str) -> Sequence[Allowed]:
        """The entries that a text fits.

        Args:
            text: The text.

        Returns:
            All of them, in order.
        """
        if not self._entries:
            return ()
        return [entry.said for entry in self._entries if entry.fits(text)]


class _Entry:
    def __init__(self, said: Allowed, where: str) -> None:
        self.said = said
        self._exact = frozenset(text.strip() for text in said.exact)
        self._patterns = [_pattern(pattern, where) for pattern in said.regex]

    def fits(self, text: str) -> bool:
        if text.strip() in self._exact:
            return True
        if not self._patterns or len(text) > _LONGEST:
            return False
        try:
            return any(pattern.fullmatch(text) is not None for pattern in self._patterns)
        except UnicodeEncodeError:  # A lone surrogate; RE2 reads UTF-8.
            return False


def _pattern(pattern: str, where: str) -> Any:
    try:
        import re2
    except ModuleNotFoundError:
        raise PolicyError(
            f"{where}: regex needs google-re2; run: pip install 'lec-guard[policies]', or write the texts out (exact)"
        ) from None
    options = re2.Options()
    options.max_mem = _MEMORY
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        why = error.args[0] if error.args else ""
        why = why.decode(errors="replace") if isinstance(why, bytes) else str(why)
        raise PolicyError(f"{where}: regex: {pattern!r} is no pattern of RE2: {why}") from None
