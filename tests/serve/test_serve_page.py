"""What docs/serve.md shows, on a server of its own process."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lec_guard.detect.calling import KEY_VARIABLE
from tests.conftest import ROOT
from tests.test_docs import _snippets


def test_it_goes_as_the_page_says(tmp_path, monkeypatch, capsys, loaded):
    page = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
    snippets = _snippets(page)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "policies", "policies")
    commands = [line for language, text in snippets if language == "" for line in text.splitlines()]
    assert commands[1] == 'echo "keys:" > api-keys.yaml'
    made = _run(commands[2].removesuffix(" >> api-keys.yaml"))
    Path("api-keys.yaml").write_text(f"keys:\n{made.stdout}".replace("scores: false", "scores: true"))
    monkeypatch.setenv(KEY_VARIABLE, re.search(r"lgk_\S+", made.stderr)[0])
    start = next(line for line in commands if "--api-keys" in line)
    words = _words(start.replace("--port 8731", "--port 0"))
    with (
        Path("server.log").open("w") as log,
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, text=True) as server,
    ):
        try:
            url = re.search(r"http://\S+", server.stdout.readline())[0]
            port = url.rpartition(":")[2]
            curl = next(text for language, text in snippets if language == "" and text.startswith("curl"))
            if shutil.which("curl"):
                told = subprocess.run(
                    ["sh", "-c", curl.replace("8731", port)], capture_output=True, text=True, timeout=60
                )
                assert '"action":"' in told.stdout
            names: dict[str, Any] = {}
            for language, text in snippets:
                if language == "python":
                    exec(compile(text.replace("8731", port), "serve.md", "exec"), names)
            names["remote"].close()
        finally:
            server.terminate()
            server.wait(30)
    assert capsys.readouterr().out.splitlines() == ["Where is my parcel?", "block injection", "False"]
    assert "previous instructions" not in Path("server.log").read_text()
    pq.write_table(pa.table({"prompt": ["How are you?"]}), "logs.parquet")
    scan = next(line for line in commands if line.startswith("lec-guard scan"))
    assert _run(scan).returncode == 0
    assert pq.read_table("verdicts.parquet").num_rows == 1


def _words(command: str) -> list[str]:
    return [sys.executable, "-m", "lec_guard.cli", *shlex.split(command)[1:]]


def _run(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(_words(command), capture_output=True, text=True, timeout=120)
