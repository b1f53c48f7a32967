"""One writer a file."""

from __future__ import annotations

import os
from pathlib import Path

from lec_guard.errors import SinkError


class Lock:
    """Held as long as a log is open; the system lets go of it when the process ends, however that ends.

    Args:
        path: The lock's file; it stays.

    Raises:
        SinkError: If somebody holds it, or there are no such locks on this system.
        OSError: If the file can't be made.
    """

    def __init__(self, path: Path) -> None:
        try:
            import fcntl
        except ModuleNotFoundError:
            raise SinkError("an audit log needs the file locks of a POSIX system") from None
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip()
            os.close(self._fd)
            raise SinkError(
                f"{path.with_suffix('')}: another audit log writes to it (process {holder or 'unknown'}); "
                "give each process a file of its own, and make the log in the process that uses it"
            ) from None
        except BaseException:
            os.close(self._fd)
            raise
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode("ascii"), 0)

    def release(self) -> None:
        """Let go of it, also for forks that still have it open."""
        import fcntl

        fcntl.flock(self._fd, fcntl.LOCK_UN)
        os.close(self._fd)

    def forget(self) -> None:
        """In a fork: the parent keeps it, and the fork does not hold it when the parent ends."""
        os.close(self._fd)
