"""Every snippet of the README runs as it stands."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks.embedded.card import overall
from lec_guard.cli import app
from lec_guard.detect.bundle import EMBEDDED, read_bundle
from lec_guard.policy.schema import PolicyFile
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def _blocks(language: str, page: str = README) -> list[str]:
    fenced = page.split("```")[1::2]
    return [block.partition("\n")[2] for block in fenced if block.partition("\n")[0] == language]


def test_python_snippets_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {}
    for block in _blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Log in, choose Cards, then Replace."
    assert lines[1] == "block injection Please ask me about your account instead."
    assert lines[2] == "Please ask me about your account instead."
    assert re.match(r"allow \{'injection': 0\.\d+\} \d+ ms", lines[3])
    assert lines[4] == "['allow', 'block']"


def test_policy_snippets_are_policies() -> None:
    import yaml

    for block in _blocks("yaml"):
        PolicyFile.model_validate(yaml.safe_load(block))


def test_commands_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policies").symlink_to(ROOT / "policies")
    (tmp_path / "texts.jsonl").write_text('{"id": 1, "text": "What is the capital of France?"}\n')
    commands = [line for block in _blocks("") for line in block.splitlines() if line.startswith("lec-guard")]
    codes = []
    for command in commands:
        words = shlex.split(command.split(" > ")[0])
        codes.append(CliRunner().invoke(app, words[1:]).exit_code)
    assert codes == [3, 0]


def test_a_head_of_ones_own_blocks_as_the_page_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "train.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    commands = [line for block in _blocks("", page) for line in block.splitlines() if line.startswith("lec-guard")]
    found = [CliRunner().invoke(app, shlex.split(command)[1:]) for command in commands]
    assert [one.exit_code for one in found] == [0, 3, 0, 0]
    written = {path.name for path in (tmp_path / "ours").iterdir()}
    assert written == {
        "README.md", "detector.json", "heads.safetensors", "policy.yaml", "report.html", "train.json",
    }  # fmt: skip
    assert {path.name for path in (tmp_path / "measured").iterdir()} == {"evaluation.html", "evaluation.json"}
    measured = json.loads((tmp_path / "measured" / "evaluation.json").read_text(encoding="utf-8"))
    assert measured["methods"][0]["overall"]["auc"]["value"] > 0.9


def test_links_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_tests_that_the_threats_page_names_exist() -> None:
    named = re.findall(r"`(tests/[^`]+)`", (ROOT / "docs" / "threats.md").read_text(encoding="utf-8"))
    assert named
    for test in named:
        assert (ROOT / test).is_file(), test


def test_the_numbers_are_those_that_were_measured() -> None:
    metrics = json.loads((EMBEDDED / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["detector_id"] == read_bundle(EMBEDDED).detector_id
    for page in (README, (EMBEDDED / "README.md").read_text(encoding="utf-8")):
        assert overall(metrics) in page


def test_the_makefile_has_the_targets_that_the_docs_name() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md"):
        for target in re.findall(r"^make (\w+)", page.read_text(encoding="utf-8"), flags=re.MULTILINE):
            assert f"\n{target}:" in makefile
