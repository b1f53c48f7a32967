"""From dialogues to pairs: what is kept, what is dropped and why, and the same however a run went."""

from __future__ import annotations

import json

import pytest
from langchain_core.messages import AIMessage

from lec_guard.errors import UnsupportedValueError
from lec_guard.generate.prompts import NEGATIVE, POSITIVE
from lec_guard.train.harmaug import AugmentError
from lec_guard.train.pii import PiiSamples, estimate_pairs, make_pairs
from lec_guard.train.pii.config import NUDGE
from tests.train.harmaug.made import Stopped, save_writer
from tests.train.pii.made import DISCREET, NAMES, SHY, data_config, dialogues, generators, read_lines, save_lines, turns

FILES = ("pairs.jsonl", "held.jsonl", "pii_data.json")


@pytest.fixture
def data(tmp_path):
    return save_lines(tmp_path / "talks.jsonl", dialogues())


def test_each_answer_with_a_name_has_a_pair_of_each_generator_under_both_prompts(data, names, tmp_path):
    report = make_pairs(data_config(data, names), tmp_path / "out", generators=generators())
    rows, held = read_lines(tmp_path / "out" / "pairs.jsonl"), read_lines(tmp_path / "out" / "held.jsonl")
    assert (report.samples, report.held, report.rows, report.swapped) == (6, 2, 24, 12)
    assert len(rows) == 24
    assert {one["dialogue"] for one in rows}.isdisjoint({one["dialogue"] for one in held})
    for row in rows:
        asked = NEGATIVE if row["swapped"] else POSITIVE
        assert row["prompt"][0] == {"role": "system", "content": asked}
        assert row["asked"] == asked
        kept, told = (row["rejected"], row["chosen"]) if row["swapped"] else (row["chosen"], row["rejected"])
        assert kept == {"first": DISCREET, "second": SHY}[row["generator"]]
        assert any(name in told for name in NAMES)
        assert row["kinds"] == ["PERSON"]
    assert all(one["messages"][-1]["role"] == "user" and one["prefix"] == "" for one in held)
    assert json.loads((tmp_path / "out" / "pii_data.json").read_text()) == json.loads(report.model_dump_json())
    assert {(tmp_path / "out" / name).stat().st_mode & 0o077 for name in ("pairs.jsonl", "held.jsonl")} == {0}


def test_without_guidance_pairs_are_as_the_dialogue_has_them(data, names, tmp_path):
    report = make_pairs(data_config(data, names, guided=False), tmp_path / "out", generators=generators())
    rows = read_lines(tmp_path / "out" / "pairs.jsonl")
    assert (report.rows, report.swapped) == (12, 0)
    assert all(len(row["prompt"]) == 1 and row["asked"] is None for row in rows)


def test_an_answer_with_a_name_is_asked_for_anew_with_a_nudge(data, names, tmp_path):
    shown = []

    def writes(messages):
        shown.append(messages[-1].text)
        return DISCREET if messages[-1].text.endswith(NUDGE) else "Ada Quill did."

    report = make_pairs(data_config(data, names, concurrency=1), tmp_path / "out", generators=generators(writes, SHY))
    own = report.answered["first"]
    assert (own.kept, own.missing, own.no_use, own.kinds) == (6, 0, {"has personal data": 6}, {"PERSON": 6})
    assert sum(text.endswith(NUDGE) for text in shown) == 6
    assert report.asked["first"].calls == 12


def test_nothing_is_dropped_in_silence(names, tmp_path):
    rows = [
        *dialogues(4),
        dialogues(1)[0],
        {"id": "plain", "messages": turns("Hi", "Ho")},
        {"id": "long", "messages": turns("Hi", "word " * 300_000)},
    ]
    data = save_lines(tmp_path / "talks.jsonl", rows)
    long, cut = " ".join(map(str, range(1000, 2000))), AIMessage("cut", response_metadata={"finish_reason": "length"})
    no = "I'm sorry, but I can't help with that."
    said = iter([no, "", long, cut, "no no no no no no", *[DISCREET] * 100])
    config = data_config(data, names, held=0, retries=4, generators=[{"model": "first"}], concurrency=1, longest=4000)
    report = make_pairs(config, tmp_path / "out", generators=generators(lambda _: next(said)))
    assert (report.dialogues, report.repeated, report.answers, report.without) == (6, 1, 6, 1)
    assert (sum(report.unread.values()), report.samples) == (1, 4)
    own = report.answered["first"]
    assert own.no_use == {"refused": 1, "empty": 1, "too long": 2, "repeats itself": 1}
    assert own.kept + own.missing == report.samples
    assert report.asked["first"].calls == sum(own.no_use.values()) + own.kept
    assert (report.held, report.prompts) == (0, 0)
    assert any("nothing to measure on" in note for note in report.notes)
    assert any("one generator" in note for note in report.notes)


def test_what_an_answer_begins_with_is_not_held_against_it(names, tmp_path):
    told = "Ada Quill wrote it with Bo Quill, and nobody else."
    data = save_lines(tmp_path / "talks.jsonl", [{"id": "a", "messages": turns("Who?", told)}])
    prefix = "Ada Quill wrote it with"

    def writes(messages):
        return f"{prefix} a friend." if prefix in messages[-1].text else DISCREET

    config = data_config(data, names, guided=False, generators=[{"model": "first"}])
    make_pairs(config, tmp_path / "out", generators=generators(writes))
    first, second = read_lines(tmp_path / "out" / "pairs.jsonl")
    assert (first["prefix"], first["chosen"], first["rejected"]) == ("", DISCREET, told)
    assert (second["prefix"], second["chosen"]) == (prefix, " a friend.")
    assert second["rejected"] == " Bo Quill, and nobody else."


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("Ada Quill did.", "has personal data: 12"),
        ("I'm sorry, but I can't help with that.", "refused: 12"),
        (AIMessage("x", response_metadata={"finish_reason": "content_filter"}), "refused: 12"),
    ],
)
def test_a_generator_of_no_use_is_given_up(data, names, tmp_path, answer, why):
    config = data_config(data, names, give_up=3)
    with pytest.raises(AugmentError, match=rf"^first gave no answer of use to 3 samples in a row \({why}\)"):
        make_pairs(config, tmp_path / "out", generators=generators(answer, SHY))
    assert not (tmp_path / "out" / "pairs.jsonl").exists()


def test_refusals_may_be_kept(data, names, tmp_path):
    config = data_config(data, names, keep_refusals=True)
    said = "I'm sorry, but I can't share that."
    assert make_pairs(config, tmp_path / "out", generators=generators(said, SHY)).answered["first"].kept == 6


def test_an_interrupted_run_asks_nothing_twice_and_ends_alike(data, names, tmp_path):
    config = data_config(data, names, concurrency=1)
    make_pairs(config, tmp_path / "whole", generators=generators())
    with pytest.raises(KeyboardInterrupt):
        make_pairs(config, tmp_path / "out", generators=generators(Stopped(lambda _: DISCREET, 4), SHY))
    again = generators()
    make_pairs(config, tmp_path / "out", generators=again)
    assert 0 < len(again[0].calls) < 6
    for name in FILES:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    with pytest.raises(UnsupportedValueError, match="begun with other settings"):
        make_pairs(data_config(data, names, seed=1), tmp_path / "out", generators=generators())


def test_a_local_model_may_write(data, tmp_path):
    folder = save_writer(tmp_path / "writer")
    mail = save_lines(tmp_path / "mails.jsonl", [{"messages": turns("the red ladders", "to ada@example.com")}])
    config = data_config(mail, False, generators=[{"model": f"hf:{folder}", "max_tokens": 9}], keep_refusals=True)
    report = make_pairs(config, tmp_path / "out")
    (own,) = report.answered.values()
    assert own.kept == 1
    assert read_lines(tmp_path / "out" / "pairs.jsonl")[0]["generator"] == "hf:writer"


@pytest.mark.parametrize("rows", [[{"messages": turns("Hi", "Ho")}], [{"messages": turns("Ada Quill asks")}]])
def test_dialogues_without_personal_data_teach_nothing(names, tmp_path, rows):
    with pytest.raises(UnsupportedValueError, match="there is nothing to learn from"):
        PiiSamples.read(data_config(save_lines(tmp_path / "talks.jsonl", rows), names))


def test_what_it_costs_is_said_before(data, names):
    prices = [{"model": "a", "price_in": 1e6, "price_out": 0}, {"model": "b"}]
    config = data_config(data, names, generators=prices)
    found = estimate_pairs(config, PiiSamples.read(config).learnt)
    assert [(part.calls, part.cost is None) for part in found.parts] == [(6, False), (6, True)]
    assert found.cost == found.parts[0].tokens_in
    assert found.most == 4
