"""A PostgreSQL server that is thrown away."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

PATIENCE_S = 30.0


def binaries() -> Path | None:
    """The folder with the server's programs; the newest where there are several."""
    found = shutil.which("initdb")
    if found and shutil.which("postgres", path=str(Path(found).resolve().parent)):
        return Path(found).resolve().parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda one: float(one.parts[-3]))
    return folders[-1].parent if folders else None


def someone_else() -> dict[str, object]:
    """For subprocess: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    known = {user.pw_name: user for user in pwd.getpwall()}
    user = known.get("postgres") or known["nobody"]
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


@contextmanager
def server(programs: Path) -> Iterator[tuple[str, int]]:
    """A server on 127.0.0.1: the URL of its database for psycopg, and the id of its process."""
    # Not below pytest's own folder, which is closed to others.
    folder = Path(tempfile.mkdtemp(prefix="lg-pg-", dir="/tmp"))
    user = someone_else()
    if user:
        os.chown(folder, user["user"], user["group"])
    process = None
    try:
        _run(
            [programs / "initdb", "-D", folder / "data", "-U", "test", "-A", "trust", "-E", "UTF8", "-N"], folder, user
        )
        for _ in range(5):
            port = _free_port()
            process = _start(programs, folder, port, user)
            url = f"postgresql://test@127.0.0.1:{port}/postgres"
            if _answers(url, process):
                break
        else:
            raise RuntimeError((folder / "log").read_text(encoding="utf-8"))
        yield url, process.pid
    finally:
        if process is not None and process.poll() is None:
            # At once: nothing of it is kept.
            process.send_signal(signal.SIGQUIT)
            process.wait(PATIENCE_S)
        shutil.rmtree(folder, ignore_errors=True)


def _run(command: list[object], folder: Path, user: dict[str, object]) -> None:
    done = subprocess.run(
        [str(part) for part in command], cwd=folder, capture_output=True, text=True, timeout=120, check=False, **user
    )
    if done.returncode:
        raise RuntimeError(f"{done.stdout}\n{done.stderr}")


def _start(programs: Path, folder: Path, port: int, user: dict[str, object]) -> subprocess.Popen[bytes]:
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": port,
        "unix_socket_directories": folder,
        "fsync": "off",
        "full_page_writes": "off",
        "shared_buffers": "16MB",
        "max_connections": "60",
    }
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            [str(programs / "postgres"), "-D", str(folder / "data"), *options],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # Ctrl-C is for pytest, which then stops the server.
            start_new_session=True,
            **user,
        )


def _answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    ends = time.monotonic() + PATIENCE_S
    while process.poll() is None and time.monotonic() < ends:
        try:
            psycopg.connect(url, connect_timeout=5).close()
        except psycopg.OperationalError:
            time.sleep(0.05)
        else:
            return True
    return False


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
