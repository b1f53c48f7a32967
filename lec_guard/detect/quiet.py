"""What libraries say while they work for us is not heard; what anybody else says is, at the same time too.

Levels, `logging.disable` and `warnings.catch_warnings` hold for all threads, and of two threads that put them back
one may leave the other's behind. So nothing is put back here: filters are added, stay, and ask who speaks.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_QUIET: ContextVar[bool] = ContextVar("lec_guard_quiet", default=False)


@contextmanager
def quiet(*loggers: str) -> Iterator[None]:
    """Hear no warnings of this thread, and of its log records by way of these loggers only the errors.

    Args:
        *loggers: Who speaks, with all loggers below.

    Yields:
        Nothing.
    """
    for name in loggers:
        for place in _places(logging.getLogger(name)):
            place.addFilter(_heard)
    if warnings.filters[:1] != [_UNHEARD]:
        warnings.filters.insert(0, _UNHEARD)  # type: ignore[attr-defined]
    token = _QUIET.set(True)
    try:
        yield
    finally:
        _QUIET.reset(token)


def _places(logger: logging.Logger) -> Iterator[logging.Filterer]:
    """Where records pass; loggers below, of which some are not made yet, share the handlers."""
    yield logger
    above: logging.Logger | None = logger
    while above:
        yield from above.handlers
        above = above.parent if above.propagate else None


def _heard(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR or not _QUIET.get()


class _WhoSpeaks:
    """Stands where a filter of warnings has a pattern for the message."""

    def match(self, message: str) -> bool:  # noqa: ARG002 - whatever it says
        return _QUIET.get()


_UNHEARD: Any = ("ignore", _WhoSpeaks(), Warning, None, 0)
