"""Several sinks as one, and what follows where one of them fails."""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Iterable, Mapping
from typing import Literal

from lec_guard.errors import SinkError, UnsupportedValueError
from lec_guard.observe.events import Event, EventSink, PolicyReloaded, ReloadRefused

OnSinkError = Literal["warn", "block"]
"""What follows where a sink fails: it is told, or the step does not pass either."""

_log = logging.getLogger(__name__)


class Sinks:
    """Hands every event to every sink; no sink keeps another from hearing it.

    A failure is counted, and logged once for each sink and type of error: a full disk fails at every step. The log
    names the sink, the type and the line of code; not what the error says, for that may quote what the sink was given.

    Args:
        sinks: Where events go, in this order.
        on_error: `warn`: a sink that fails changes nothing else. `block`: an event of a step that a sink failed to take
            is an error, so that no step passes untold; for events of policies it is `warn`, as no step waits for them.

    Raises:
        UnsupportedValueError: If `on_error` is neither.
    """

    def __init__(self, sinks: Iterable[EventSink] = (), on_error: OnSinkError = "warn") -> None:
        if on_error not in ("warn", "block"):
            raise UnsupportedValueError(f"on_sink_error: {on_error!r} is unknown; use warn or block")
        self._sinks = tuple(sinks)
        self._on_error = on_error
        self._lock = threading.Lock()
        self._failures: dict[str, int] = {}

    @property
    def failures(self) -> Mapping[str, int]:
        """How often which sink failed with which type of error: `AuditLog: OSError` -> 3."""
        with self._lock:
            return dict(self._failures)

    def emit(self, event: Event) -> None:
        """Hand an event to all sinks.

        Args:
            event: What happened.

        Raises:
            SinkError: If a sink failed and no step may pass untold; after all sinks were handed the event.
        """
        first: Exception | None = None
        failed = ""
        for sink in self._sinks:
            try:
                sink.emit(event)
            except Exception as error:  # noqa: BLE001 - counted, told, and raised where that is wanted
                self._tell(sink, error, f"could not take {type(event).__name__}")
                if first is None:
                    first, failed = error, type(sink).__name__
        if first is None or self._on_error == "warn" or isinstance(event, PolicyReloaded | ReloadRefused):
            return
        raise SinkError(
            f"the sink {failed} could not take {type(event).__name__}: {type(first).__name__}; "
            "on_sink_error: block lets no step pass untold"
        ) from first

    def close(self) -> None:
        """Close the sinks that have a `close`; one that fails is told, and the others are closed."""
        for sink in self._sinks:
            close = getattr(sink, "close", None)
            if close is None:
                continue
            try:
                close()
            except Exception as error:  # noqa: BLE001 - told
                self._tell(sink, error, "could not be closed")

    def _tell(self, sink: EventSink, error: Exception, what: str) -> None:
        sink_name, error_name = type(sink).__name__, type(error).__name__
        kind = f"{sink_name}: {error_name}"
        with self._lock:
            self._failures[kind] = self._failures.get(kind, 0) + 1
            is_first = self._failures[kind] == 1
        if not is_first:
            return
        frame = traceback.extract_tb(error.__traceback__)[-1]
        # What we raise ourselves quotes nothing.
        said = f": {error}" if isinstance(error, SinkError) else f" at {frame.filename}:{frame.lineno}"
        _log.error("the sink %s %s: %s%s; further ones like this are only counted", sink_name, what, error_name, said)
