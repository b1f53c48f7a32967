"""A connection to PostgreSQL that does not wait for ever."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any, TypeVar

import psycopg

_T = TypeVar("_T")


class BoundedConnection(psycopg.Connection[Any]):
    """A connection that is given up where the server falls silent: it hangs, or the network lost it.

    Attributes:
        patience_s: Seconds for which one statement may take.
    """

    patience_s = 10.0

    def wait(self, gen: Generator[Any, Any, _T], *args: Any, **kwargs: Any) -> _T:
        """Wait for the server, as all that goes over the connection does.

        Args:
            gen: What is done meanwhile.
            args: psycopg's own.
            kwargs: psycopg's own.

        Returns:
            What came of it.

        Raises:
            psycopg.OperationalError: If it took too long; the connection is closed.
        """
        return super().wait(self._bounded(gen), *args, **kwargs)

    def _bounded(self, gen: Generator[Any, Any, _T]) -> Generator[Any, Any, _T]:
        ends = time.monotonic() + self.patience_s
        try:
            wants = next(gen)
            while True:
                # psycopg comes back several times a second, with nothing where there is nothing.
                ready = yield wants
                if not ready and time.monotonic() > ends:
                    self.close()
                    raise psycopg.OperationalError("the server says nothing")
                wants = gen.send(ready)
        except StopIteration as done:
            result: _T = done.value
            return result
