"""Tells when something in a folder changes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lec_guard.errors import PolicyError

_DEBOUNCE_MS = 200
"""Changes within so long are one: an editor writes a file in several steps."""

THREAD = "lec-guard-policies"
"""Name of the thread that watches."""

_log = logging.getLogger(__name__)


class Watcher:
    """Watches a folder on a thread of its own, which keeps no interpreter alive.

    A fork leaves the thread behind: the copy keeps the policies it has until it makes a guard of its own.

    Args:
        path: The folder; or a file, whose folder is watched then, because editors put a new file in its place.
        changed: Called on that thread after something changed, and once at first, for what changed while it began.
            What it raises is logged, and watching goes on.
        failed: Called on that thread with the reason if watching can't go on.

    Raises:
        PolicyError: If the package that watches is not installed, or nothing is there to watch.
    """

    def __init__(self, path: Path, changed: Callable[[], object], failed: Callable[[str], object]) -> None:
        try:
            import watchfiles
        except ModuleNotFoundError:
            raise PolicyError("watch=True needs watchfiles; run: pip install 'lec-guard[policies]'") from None
        folder = path if path.is_dir() else path.parent
        self._changed = changed
        self._failed = failed
        self._stop = threading.Event()
        changes = watchfiles.watch(
            folder,
            watch_filter=None,
            debounce=_DEBOUNCE_MS,
            step=50,
            rust_timeout=500,
            yield_on_timeout=True,
            stop_event=self._stop,
            raise_interrupt=False,
        )
        self._thread = threading.Thread(target=self._run, args=(changes,), name=THREAD, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Have the thread end soon."""
        self._stop.set()

    def close(self) -> None:
        """Stop watching, and wait until that is so; may be called again."""
        self.stop()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=10)

    def _run(self, changes: Iterator[set[Any]]) -> None:
        is_first = True
        try:
            for change in changes:
                if self._stop.is_set():
                    return
                if change or is_first:
                    self._tell()
                is_first = False
            reason = "the watch ended"
        except Exception as error:  # noqa: BLE001 - told
            reason = repr(error)
        if not self._stop.is_set():
            self._failed(f"policies are not watched any more: {reason}")

    def _tell(self) -> None:
        try:
            self._changed()
        except Exception:  # noqa: BLE001 - told, and the next change is seen
            _log.exception("policies could not be reloaded; those in force stay")
