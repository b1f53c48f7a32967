"""docs/generate.md goes as it says."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import ROOT
from tests.generate.inside import SYSTEM, inside
from tests.generate.test_guarded import SHORT

PAGE = (ROOT / "docs" / "generate.md").read_text(encoding="utf-8")


def snippets(language):
    return [block.split("```")[0] for block in PAGE.split(f"```{language}\n")[1:]]


def test_the_page_goes_as_it_says(tmp_path, monkeypatch, capsys):
    one = inside("llama", tmp_path)
    monkeypatch.chdir(tmp_path)
    one.bundle("heads/injection", head="injection")
    one.bundle("heads/harm", role="assistant", head="harm", window=SHORT)
    (policy,) = snippets("yaml")
    Path("local.yaml").write_text(policy)
    own: dict[str, object] = {}
    for snippet in snippets("python"):
        exec(compile(snippet.replace("max_new_tokens=64", "max_new_tokens=8"), "generate.md", "exec"), own)
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith(("allow", "block"))
    assert [line.split()[0] for line in said[1:3]] == ["False", "False"]
    assert own["chat"].invoke(SYSTEM).response_metadata["lec_guard"]["policy"] == "local"
