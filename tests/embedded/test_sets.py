"""Labelled examples from JSON lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.embedded.sets import Example, read_examples
from lec_guard import UnsupportedValueError

PROMPT = {"user": "hello", "label": "benign", "kind": "prompt", "family": "chat"}


def write(folder: Path, *lines: object) -> Path:
    file = folder / "small.jsonl"
    file.write_text(
        "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines), encoding="utf-8"
    )
    return file


def test_rows_become_examples_in_order(tmp_path):
    answer = {
        "user": "how?",
        "response": "so",
        "label": "unsafe",
        "kind": "response",
        "family": "qa",
        "category": "cyber",
    }
    file = write(tmp_path, PROMPT, answer, {**PROMPT, "user": "", "category": "", "extra": 1})
    assert read_examples(file) == [
        Example(source="small", family="chat", kind="prompt", text="hello", label="benign", category=None),
        Example(
            source="small", family="qa", kind="response", text="so", context="how?", label="unsafe", category="cyber"
        ),
        Example(source="small", family="chat", kind="prompt", text="", label="benign", category=None),
    ]


def test_a_text_comes_with_what_it_is_judged_against(tmp_path):
    file = write(tmp_path, {**PROMPT, "system": "You are a bank."}, {**PROMPT, "system": ""}, PROMPT)
    assert [example.context for example in read_examples(file)] == ["You are a bank.", None, None]


def test_an_empty_file_has_no_examples(tmp_path):
    assert read_examples(write(tmp_path)) == []


def test_text_that_is_not_ascii_is_read_as_utf8_and_line_separators_in_it_end_no_row(tmp_path):
    texts = ["caf\u00e9 \U0001f600", "a\u2028b\u0085c"]
    file = write(tmp_path, *(json.dumps({**PROMPT, "user": text}, ensure_ascii=False) for text in texts))
    assert [example.text for example in read_examples(file)] == texts


@pytest.mark.parametrize(
    "bad",
    [
        "not json",
        "",
        "[1]",
        "5",
        "null",
        '"word"',
        *({key: value for key, value in PROMPT.items() if key != missing} for missing in PROMPT),
        {**PROMPT, "kind": "response"},
    ],
    ids=str,
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path, bad):
    file = write(tmp_path, PROMPT, PROMPT, bad, PROMPT)
    with pytest.raises(UnsupportedValueError) as caught:
        read_examples(file)
    assert str(caught.value).startswith(f"{file}:3: ")


def test_an_example_cannot_be_changed(tmp_path):
    (example,) = read_examples(write(tmp_path, PROMPT))
    with pytest.raises(AttributeError):
        example.label = "attack"
