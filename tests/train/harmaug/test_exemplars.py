"""The labelled texts that a run starts from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lec_guard.errors import UnsupportedValueError
from lec_guard.train.harmaug import Exemplars
from tests.train.harmaug.made import config, write_data


def read(folder: Path, rows: list[dict], **given: object) -> Exemplars:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return Exemplars.read(config(path, **given))


def test_topics_are_categories_or_where_there_are_none_labels(tmp_path):
    found = Exemplars.read(config(write_data(tmp_path)))
    assert [(one.name, one.label, len(one.exemplars)) for one in found.topics] == [
        ("fraud", "forbidden", 3), ("theft", "forbidden", 3),
    ]  # fmt: skip
    found = Exemplars.read(config(write_data(tmp_path, category=False)))
    assert [(one.name, len(one.exemplars)) for one in found.topics] == [("forbidden", 6)]
    assert (found.benign, len(found.texts)) == ("ok", 12)
    rows = [{"text": "a", "label": "ok"}, {"text": "b", "label": "rude"}, {"text": "c", "label": "spam"}]
    assert [(one.name, one.label) for one in read(tmp_path, rows).topics] == [("rude", "rude"), ("spam", "spam")]


@pytest.mark.parametrize(
    ("labels", "given", "written"),
    [
        ((0, 1), {}, (0, 1)),
        ((1, 0), {"benign": "1"}, (1, 0)),
        ((0.1, 0.9), {}, (0, 1)),
        ((False, True), {}, (False, True)),
        ((True, False), {"benign": "true"}, (True, False)),
        (("fine", "bad"), {"benign": "fine"}, ("fine", "bad")),
    ],
)
def test_labels_are_written_as_the_data_writes_them(tmp_path, labels, given, written):
    rows = [{"text": f"{text} {label}", "label": label} for text in "abc" for label in labels]
    found = read(tmp_path, rows, **given)
    (topic,) = found.topics
    assert (found.benign, topic.label) == written
    assert {type(found.benign), type(topic.label)} == {type(written[0])}
    assert {one.text for one in topic.exemplars} == {f"{text} {labels[1]}" for text in "abc"}


def test_only_messages_of_a_length_to_show_are_exemplars(tmp_path):
    rows = [
        {"text": "Hello.", "label": "ok"},
        {"text": "Steal it.", "label": "bad"},
        {"text": "Sure, steal it.", "label": "bad", "stage": "output"},
        {"text": "Steal " * 30, "label": "bad"},
    ]
    found = read(tmp_path, rows, longest=100)
    assert [one.text for one in found.topics[0].exemplars] == ["Steal it."]
    assert found.notes == ("1 harmful texts of more than 100 characters are not shown as examples",)
    assert len(found.texts) == 4
    with pytest.raises(UnsupportedValueError, match="no harmful row of stage 'input'"):
        read(tmp_path, [rows[0], rows[2]])


def test_the_same_seed_draws_the_same_and_a_digest_sees_every_change(tmp_path):
    (topic, _) = Exemplars.read(config(write_data(tmp_path))).topics
    assert topic.draw(2, 5) == topic.draw(2, 5)
    assert len({topic.draw(2, seed) for seed in range(20)}) > 3
    assert len(topic.draw(99, 5)) == 3
    rows = [{"text": "Hello.", "label": "ok"}, {"text": "Steal it.", "label": "bad"}]
    digests = {
        read(tmp_path, rows).digest,
        read(tmp_path, [rows[0], {**rows[1], "text": "Steal it!"}]).digest,
        read(tmp_path, [rows[0], {**rows[1], "category": "theft"}]).digest,
        read(tmp_path, [rows[0], {**rows[1], "context": "Be kind."}]).digest,
    }
    assert len(digests) == 4
    assert read(tmp_path, rows).digest in digests
