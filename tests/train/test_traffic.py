"""Texts of a file: what a line may say, and every wrong one is told with where it stands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lec_guard.errors import UnsupportedValueError
from lec_guard.step import Step, ToolRef
from lec_guard.train.traffic import ONE_SOURCE, read_traffic


def write(folder: Path, *lines: object) -> Path:
    file = folder / "texts.jsonl"
    file.write_text("".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in lines), encoding="utf-8")
    return file


def test_a_line_says_what_a_guard_would_be_asked_and_where_the_text_is_from(tmp_path):
    file = write(
        tmp_path,
        {"text": "Hello.", "stage": None},
        "",
        {
            "id": 7,
            "text": "18 degrees",
            "stage": "tool_output",
            "context": "Weather?",
            "tool": "weather",
            "source": "a",
        },
        {"text": "", "tool": {"name": "t", "description": "d"}, "family": "b", "tenant": None, "label": "benign"},
        {"text": "x", "source": "a", "family": "b", "label": "benign"},
    )
    found = read_traffic(file)
    one, two, three, four = found.texts
    assert (one.where, one.id, one.origin, one.step) == (
        f"{file}:1",
        f"{file}:1",
        ONE_SOURCE,
        Step(stage="input", text="Hello."),
    )
    assert (two.where, two.id, two.origin) == (f"{file}:3", "7", "a")
    assert two.step == Step(stage="tool_output", text="18 degrees", context="Weather?", tool=ToolRef(name="weather"))
    assert (three.origin, three.step.tool) == ("b", ToolRef(name="t", description="d"))
    assert four.origin == "a"
    assert found.ignored == {"label": f"{file}:4"}


def test_every_wrong_line_is_told(tmp_path):
    file = write(
        tmp_path,
        {"text": "fine", "tenant": "acme"},
        {"text": "a", "stage": "inptu"},
        {"text": 5},
        "{",
        {"text": "b", "tenant": "globex"},
        [1],
        {"txt": "c"},
    )
    with pytest.raises(UnsupportedValueError) as caught:
        read_traffic(file, tenant="acme")
    said = str(caught.value).splitlines()
    assert said[0] == "6 rows can't be read:"
    for number, what in (
        (2, "stage: "),
        (3, "text: "),
        (4, "no JSON object"),
        (5, "tenant: is 'globex', not 'acme'"),
        (6, "no JSON object"),
        (7, "text: Field required"),
    ):
        assert any(line.startswith(f"{file}:{number}: {what}") for line in said), (number, said)


def test_tenants_are_asked_for_only_where_one_is_named(tmp_path):
    file = write(tmp_path, {"text": "a", "tenant": "acme"}, {"text": "b", "tenant": "globex"})
    assert len(read_traffic(file).texts) == 2


@pytest.mark.parametrize("lines", [(), ("", "  ")])
def test_a_file_without_texts_is_an_error(tmp_path, lines):
    with pytest.raises(UnsupportedValueError, match=r"texts\.jsonl: no text in it"):
        read_traffic(write(tmp_path, *lines))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UnsupportedValueError, match=r"gone\.jsonl: can't be read"):
        read_traffic(tmp_path / "gone.jsonl")
