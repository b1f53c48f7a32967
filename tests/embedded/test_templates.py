"""Slots of templates."""

from __future__ import annotations

import random

import pytest

from benchmarks.embedded.templates import BANK, expand, read_rows, read_slots
from lec_guard import UnsupportedValueError

SLOTS = {"who": ["{first} Ames"], "first": ["Ann", "Bo"], "loop": ["{loop}."]}


def test_slots_within_slots_are_filled():
    assert expand("Ask {who}!", SLOTS, random.Random(0)) in ("Ask Ann Ames!", "Ask Bo Ames!")


def test_each_slot_is_drawn_anew_and_by_the_generator():
    template = "{first} " * 40
    texts = [expand(template, SLOTS, random.Random(seed)) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert {*texts[0].split()} == {"Ann", "Bo"}


@pytest.mark.parametrize("text", ['{"a": 1}', "{ x }", "{{first}}", "{}", "{1}", "{A}"])
def test_other_braces_stay(text):
    assert expand(text, SLOTS, random.Random(0)) == text


def test_a_slot_right_before_a_brace_is_filled():
    assert expand('{"a": {one}}', {"one": ["1"]}, random.Random(0)) == '{"a": 1}'


def test_kept_slots_stay():
    assert expand("{first}: {payload}", {"first": ["Ann"]}, random.Random(0), keep=("payload",)) == "Ann: {payload}"


def test_unknown_and_endless_slots_are_errors():
    with pytest.raises(UnsupportedValueError, match=r"no fillers for \{nobody\}"):
        expand("{nobody}", SLOTS, random.Random(0))
    with pytest.raises(UnsupportedValueError, match="never end"):
        expand("{loop}", SLOTS, random.Random(0))


@pytest.mark.parametrize("slots", sorted(BANK.glob("*_slots.json")), ids=lambda file: file.stem)
def test_every_filler_of_the_bank_ends(slots):
    fillers = read_slots(slots)
    for name in fillers:
        for filler in fillers[name]:
            assert isinstance(expand(filler, fillers, random.Random(0)), str)


def test_rows_are_read_in_order(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "ä"}\n\n{"text": "b"}\n', encoding="utf-8")
    assert read_rows(file) == [{"text": "ä"}, {"text": "b"}]
