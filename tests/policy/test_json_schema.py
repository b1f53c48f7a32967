"""The JSON Schema that editors read."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest
import yaml

from lec_guard.cli.init import STARTER
from lec_guard.errors import PolicyError
from lec_guard.policy import json_schema as module
from lec_guard.policy.document import parse_document
from lec_guard.policy.folder import BUILTIN
from lec_guard.policy.json_schema import json_schema, schema_text
from lec_guard.policy.schema import parse_policy
from tests.conftest import ROOT

FOLDERS = (ROOT / "policies", Path(str(STARTER)))
FILES = [BUILTIN, *(file for folder in FOLDERS for file in sorted(folder.rglob("*.yaml")))]


def is_cases(file: Path) -> bool:
    return file.parent.name == "cases" or file.stem == "cases"


@pytest.mark.parametrize("kind", ["policy", "cases"])
def test_the_packaged_file_is_what_is_generated(kind):
    file = Path(module.__file__).with_name(f"{kind}.schema.json")
    wanted = schema_text(kind)
    assert file.read_text(encoding="utf-8") == wanted, (
        f"run: python -m lec_guard.cli policy schema {'--cases ' if kind == 'cases' else ''}--out {file}"
    )
    jsonschema.Draft202012Validator.check_schema(json_schema(kind))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_policy_of_this_repository_fits(file):
    kind = "cases" if is_cases(file) else "policy"
    jsonschema.Draft202012Validator(json_schema(kind)).validate(yaml.safe_load(file.read_text(encoding="utf-8")))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_policy_names_its_schema_for_editors(file):
    if file == BUILTIN:
        return
    said = file.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# yaml-language-server: $schema=")
    kind = "cases" if is_cases(file) else "policy"
    assert Path(said).name == f"{kind}.schema.json"
    if file.is_relative_to(ROOT / "policies"):
        assert (file.parent / said).is_file()


RULE = "{name: a, stages: [input], head: injection, threshold: 0.5, action: block}"


@pytest.mark.parametrize(
    "text",
    [
        "mesage: No.",
        f"rules: [{RULE[:-1]}, colour: red}}]",
        "rules: [{name: a, stages: [inptu], head: injection, threshold: 0.5, action: block}]",
        "rules: [{name: a, stages: [], head: injection, threshold: 0.5, action: block}]",
        "rules: [{name: a, stages: [input], head: injection, threshold: 1.5, action: block}]",
        "rules: [{name: a b, stages: [input], head: injection, threshold: 0.5, action: block}]",
        "rules: [{name: a, stages: [input], head: injection, threshold: 0.5, action: stop}]",
        "fail: {input: deny}",
        "fail: {inptu: block}",
        "fail: {input: {timeout_ms: -1}}",
        "hold_back: none",
        "mode: watch",
        "guidance: -1",
        "guidance: {coefficient: 101}",
        "guidance: {origins: {stranger: 2}}",
        "guidance: {space: logs}",
        "rewrite: {a: {kind: regenerate, instruction: x, guidance: {space: log}}}",
        "detector: {bundle: ours, id: ours}",
        "rewrite: {a: {kind: shout}}",
        "escalations: {a: {kind: webhook, url: 'https://a.b'}}",
        "allowed_hosts: ['https://a.b']",
    ],
)
def test_what_the_schema_refuses_the_policy_refuses_too(text):
    assert not jsonschema.Draft202012Validator(json_schema()).is_valid(yaml.safe_load(text))
    with pytest.raises(PolicyError):
        parse_policy(parse_document(Path("p.yaml"), text.encode()))


def test_every_key_says_what_it_is():
    for kind in ("policy", "cases"):
        schema = json_schema(kind)
        for part in (schema, *schema["$defs"].values()):
            assert part["description"]
            for key, value in part["properties"].items():
                assert value["description"].endswith("."), key
                assert "title" not in value
    rule = json_schema()["$defs"]["Rule"]["properties"]
    assert rule["max_fpr"]["description"] == (
        "Instead of a threshold: the share of harmless steps that all rules of a stage together may stop."
    )
