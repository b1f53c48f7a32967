"""What the tests need from the system: looked for, installed where that can be done, and told where not."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

NEEDED = ["sh", "id", "env", "mktemp", "tail", "rm", "tee", "chmod", "cat", "touch", "true"]


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with all programs that there are; neither a database nor a browser is among them."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in NEEDED:
        found = next(path for path in (Path("/bin") / name, Path("/usr/bin") / name) if path.exists())
        (folder / name).symlink_to(found)
    # Nothing outside of this folder is to be touched: who is asked whether this is root says no.
    program(folder / "id", "echo 1000")
    return folder


def program(path: Path, code: str) -> None:
    path.unlink(missing_ok=True)
    path.write_text(f"#!/bin/sh\n{code}\n", encoding="utf-8")
    path.chmod(0o755)


def said(programs: Path) -> str:
    done = subprocess.run(
        ["/bin/sh", str(ROOT / "tests" / "system.sh")],
        env={"PATH": str(programs), "LOG": str(programs / "log")},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout


def test_nothing_is_done_where_all_is_there(programs):
    for name in ("postgres", "initdb", "google-chrome"):
        program(programs / name, "")
    program(programs / "apt-get", "touch $LOG")
    assert said(programs) == ""
    assert not (programs / "log").exists()


def test_what_is_missing_is_told_where_it_can_not_be_installed(programs):
    assert "chromium: there is no apt-get here; on Debian: apt-get install" in said(programs)
    program(programs / "apt-get", "touch $LOG")
    assert "only root can install them; on Debian: apt-get install" in said(programs)
    assert not (programs / "log").exists()


def test_what_is_missing_is_installed_by_root_or_who_may_act_as_root(programs):
    # `tee` is the only one that writes outside: not here.
    program(programs / "tee", "cat >/dev/null; exit 1")
    program(programs / "sudo", 'shift; exec "$@"')
    made = f"printf '#!/bin/sh\\n' >{programs}/chromium; chmod 755 {programs}/chromium"
    program(programs / "apt-get", f'echo "$DEBIAN_FRONTEND $*" >>$LOG; case "$*" in *install*) {made};; esac')
    program(programs / "postgres", "")
    program(programs / "initdb", "")
    assert said(programs) == "== installing chromium, which some tests need, with apt-get\n"
    update, install = (programs / "log").read_text(encoding="utf-8").splitlines()
    assert update.startswith("noninteractive")
    assert update.endswith("update")
    assert install.endswith("install --no-install-recommends chromium")
    assert said(programs) == ""


def test_what_could_not_be_installed_is_told(programs):
    program(programs / "tee", "cat >/dev/null; exit 1")
    program(programs / "sudo", 'shift; exec "$@"')
    program(programs / "apt-get", "echo no network; exit 100")
    assert "no network" in said(programs)
    assert "they could not be installed; on Debian: apt-get install" in said(programs)
