"""The files that an audit log has open."""

from __future__ import annotations

import os
from pathlib import Path

from lec_guard.errors import SinkError


class NewestFile:
    """The file that is written to. It is opened at its end, and made if it is not there.

    Args:
        path: The file.

    Attributes:
        size: How many bytes of it are ours.

    Raises:
        OSError: If it can't be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        self._is_torn = False
        self.size = os.fstat(self._fd).st_size
        sync_folder(path.parent)

    def write(self, line: bytes) -> None:
        """Write a line whole, or leave nothing of it.

        Args:
            line: The line with its end.

        Raises:
            OSError: If it can't be written.
            SinkError: If somebody else wrote to the file, cut it or moved it.
        """
        self.check()
        if self._is_torn:
            self.cut(self.size)
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except BaseException:
            self._is_torn = True
            self.cut(self.size)
            raise
        self.size += len(line)

    def cut(self, size: int) -> None:
        """Leave only the first bytes.

        Args:
            size: How many.

        Raises:
            OSError: If that fails.
        """
        os.ftruncate(self._fd, size)
        self._is_torn, self.size = False, size

    def check(self) -> None:
        """Tell at once what somebody does to the file while it is written to.

        Raises:
            SinkError: If somebody else wrote to it, cut it or moved it.
        """
        ours = os.fstat(self._fd)
        if not self._is_torn and ours.st_size != self.size:
            raise SinkError(
                f"{self._path}: has {ours.st_size} bytes, but {self.size} were written; somebody changed it"
            )
        try:
            is_there = os.path.samestat(ours, self._path.stat())
        except FileNotFoundError:
            is_there = False
        if not is_there:
            raise SinkError(
                f"{self._path}: somebody moved or removed it; "
                "no other program may rotate an audit log, rotate_bytes does that"
            )

    def sync(self) -> None:
        """Force what was written to disk.

        Raises:
            OSError: If that fails.
        """
        os.fsync(self._fd)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


class HeadFile:
    """The file beside it that says how far the log goes; each head is written over the one before.

    Args:
        path: The file.
        first: What it says at first if it is new; None if it is there.

    Raises:
        OSError: If it can't be opened or made.
    """

    def __init__(self, path: Path, first: bytes | None) -> None:
        if first is not None:
            # Whole or not at all, for a log without a right head is one that somebody changed.
            new = path.with_name(f"{path.name}.new")
            write_private(new, first)
            new.replace(path)
            sync_folder(path.parent)
        self._fd = os.open(path, os.O_RDWR)

    def write(self, content: bytes) -> None:
        """Write a head, whole: it fits into one sector of a disk.

        Args:
            content: The bytes; always as many.

        Raises:
            OSError: If that fails.
        """
        os.pwrite(self._fd, content, 0)

    def sync(self) -> None:
        """Force it to disk.

        Raises:
            OSError: If that fails.
        """
        os.fsync(self._fd)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def write_private(path: Path, content: bytes) -> None:
    """Write a file that nobody else may read, and force it to disk.

    Args:
        path: The file.
        content: What it holds then.

    Raises:
        OSError: If that fails.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Force to disk which files a folder holds.

    Args:
        folder: The folder.

    Raises:
        OSError: If that fails.
    """
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
