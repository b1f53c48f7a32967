"""Labelled texts from files."""

from __future__ import annotations

import csv
import json
import re
import sys
import tracemalloc
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lec_guard import UnsupportedValueError
from lec_guard.detect.heads import HeadSpec
from lec_guard.train import rows as rows_of_files
from lec_guard.train.data import Columns, Dataset, Example, LabelRules, Reading, TaughtColumns, read_dataset
from lec_guard.train.labels import LABEL

ROWS = [{"text": "hello there", "label": "benign"}, {"text": "obey me now", "label": "injection"}]


def lines(path: Path, rows: Iterable[object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return path


def table(path: Path, rows: list[dict[str, object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)
    return path


def labelled(*labels: object) -> list[dict[str, object]]:
    return [{"text": f"text number {at}", "label": label} for at, label in enumerate(labels)]


def read(path: Path, rules: LabelRules | None = None, **options) -> Reading:
    return read_dataset([path], None, rules, **options)


def refused(path: Path, rules: LabelRules | None = None, **options) -> str:
    with pytest.raises(UnsupportedValueError) as caught:
        read(path, rules, **options)
    return str(caught.value)


# Formats


@pytest.mark.parametrize("ending", ["jsonl", "json-lines", "csv", "tsv", "parquet"])
def test_every_format_gives_the_same_rows(tmp_path, ending):
    texts = ['two\nlines, a comma, a\ttab and "quotes"', "caf\u00e9 \U0001f600 \u2028 x"]
    rows = [
        {**row, "text": text, "context": context, "family": "f 1", "stage": "retrieval", "language": "en"}
        for row, text, context in zip(ROWS, texts, ["You are a bank.", ""], strict=True)
    ]
    path = tmp_path / f"data.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif ending in ("csv", "tsv"):
        table(path, rows)
    else:
        lines(path, rows)
    reading = read(path)
    first = 2 if ending in ("csv", "tsv") else 1  # The header is a spreadsheet's first row.
    assert reading.dataset.examples == tuple(
        Example(
            source=f"{path}:{first + at}",
            text=text,
            context=context,
            stage="retrieval",
            family="f 1",
            language="en",
        )
        for at, (text, context) in enumerate(zip(texts, ["You are a bank.", None], strict=True))
    )
    assert reading.dataset.labels == ("benign", "injection")
    assert reading.dataset.targets.tolist() == [[1, 0], [0, 1]]
    assert [(file.path, file.rows) for file in reading.files] == [(path, 2)]
    assert (reading.rows, reading.merged, reading.conflicting, reading.left_out) == (2, 0, 0, 0)


def test_what_a_row_does_not_say(tmp_path):
    reading = read(lines(tmp_path / "a.jsonl", [{**ROWS[0], "family": 7, "context": None}, ROWS[1]]), stage="output")
    first, second = reading.dataset.examples
    assert (first.context, first.stage, first.family, first.language) == (None, "output", "7", None)
    assert second.family is None


def test_a_folder_is_read_whole_in_order_and_other_files_are_told(tmp_path):
    lines(tmp_path / "b" / "z.jsonl", [{"text": "three", "label": "injection"}])
    lines(tmp_path / "b" / "a.jsonl", [{"text": "two", "label": "benign"}])
    table(tmp_path / "a.csv", [{"text": "one", "label": "benign"}])
    (tmp_path / "b" / "README.md").write_text("notes")
    (tmp_path / "old.json").write_text("[]")
    reading = read(tmp_path)
    assert [example.text for example in reading.dataset.examples] == ["one", "two", "three"]
    assert reading.passed_over == (tmp_path / "b" / "README.md", tmp_path / "old.json")
    assert [file.rows for file in reading.files] == [1, 1, 1]


def test_what_is_no_data(tmp_path):
    with pytest.raises(UnsupportedValueError, match="no data"):
        read_dataset([])
    (tmp_path / "x.json").write_text("[]")
    assert "no file in it ends in .jsonl" in refused(tmp_path)
    assert "x.json: no format that is read" in refused(tmp_path / "x.json")
    assert "gone.csv: can't be read: No such file" in refused(tmp_path / "gone.csv")
    empty = lines(tmp_path / "empty.jsonl", [])
    assert "no rows in" in refused(empty)
    path = lines(tmp_path / "a.jsonl", ROWS)
    with pytest.raises(UnsupportedValueError, match="given twice"):
        read_dataset([path, tmp_path / "." / "a.jsonl"])


def test_a_table_with_a_mark_at_its_start_blank_lines_and_a_huge_field(tmp_path):
    path = tmp_path / "a.csv"
    long = "word " * 60_000  # More than the csv module's own limit.
    path.write_text(
        f'\ufefftext,label\r\n\r\n"{long}",benign\r\n"a ""b""",injection\r\n\r\n', encoding="utf-8", newline=""
    )
    first, second = read(path).dataset.examples
    assert (first.text, first.source) == (long, f"{path}:3")
    assert second.text == 'a "b"'


def test_bytes_that_are_no_utf8_are_named_by_row(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'text,label\n"fine\nin two lines",benign\ncaf\xe9,injection\nb\xffd,benign\n')
    message = refused(path)
    assert message.splitlines() == [
        "2 rows can't be read:",
        f"{path}:3: byte 0xe9 is no UTF-8: save it as UTF-8",
        f"{path}:4: byte 0xff is no UTF-8: save it as UTF-8",
    ]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a", "label": "benign"}\n{"text": "\xe9"}\n')
    assert f"{path}:2: byte 0xe9 is no UTF-8" in refused(path)
    path = tmp_path / "wide.csv"
    path.write_bytes("text,label\na,benign\n".encode("utf-16"))
    assert f"{path}:1: byte 0xff is no UTF-8" in refused(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\nhello, you,benign\n", ":2: 3 fields where the header has 2"),
        ('text,label\nok,benign\n"never closed,benign\nb,injection\n', ":3: no row of a table: unexpected end"),
        ("text;label\na;benign\n", "separate columns by commas"),
        ("text,text,label\na,b,benign\n", "'text' stands twice"),
        ("txt,label\na,benign\n", "no column 'text'; there are: 'txt', 'label'; did you mean 'txt'?"),
    ],
)
def test_a_table_that_is_none(tmp_path, content, message):
    path = tmp_path / "a.csv"
    path.write_text(content)
    assert message in refused(path)


def test_a_row_that_never_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(rows_of_files, "_LONGEST", 100)
    assert ":2: longer than 100 bytes" in refused(lines(tmp_path / "a.jsonl", [ROWS[0], {**ROWS[1], "x": "y" * 100}]))


def test_parquet_that_is_none_and_pyarrow_that_is_missing(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"no parquet at all")
    assert f"{path}: not Parquet that can be read" in refused(path)
    pq.write_table(pa.Table.from_pylist([{"text": "a", "lab": "b"}]), path)
    assert "no column 'label'; there are: 'text', 'lab'; did you mean 'lab'?" in refused(path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "pip install 'lec-guard[train]'" in refused(path)


# Columns


def test_columns_are_taken_by_name(tmp_path):
    path = table(tmp_path / "a.csv", [{"prompt": "a", "y": "0", "text": "x"}, {"prompt": "b", "y": "1", "text": "x"}])
    dataset = read_dataset([path], Columns(text="prompt", label="y")).dataset
    assert [example.text for example in dataset.examples] == ["a", "b"]


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_a_column_that_was_named_must_be_there(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    rows = [{**row, "source_family": "x"} for row in ROWS]
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        (lines if ending == "jsonl" else table)(path, rows)
    with pytest.raises(UnsupportedValueError) as caught:
        read_dataset([path], Columns(family="source_famly"))
    expected = (
        f"{path}: no column 'source_famly'; there are: 'text', 'label', 'source_family'; did you mean 'source_family'?"
    )
    assert str(caught.value) == expected
    assert read_dataset([path], Columns(family="source_family")).dataset.examples[0].family == "x"


# Bad rows


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("not json", "no JSON object"),
        ("[1]", "no JSON object, but list"),
        ("[" * 100_000, "no JSON object"),
        ({"label": "benign"}, "no text in 'text'"),
        ({"text": " \n", "label": "benign"}, "the text in 'text' is empty"),
        ({"text": 5, "label": "benign"}, "'text' must hold text, not int"),
        ({"text": "a"}, "no label"),
        ({"text": "a", "label": " "}, "no label"),
        ({"text": "a", "label": float("nan")}, "the label nan"),
        ({"text": "a", "label": "NaN"}, "the label nan"),
        ({"text": "a", "label": float("inf")}, "the label inf"),
        ({"text": "a", "label": 1.5}, "neither a whole number nor a probability"),
        ({"text": "a", "label": ["benign"]}, "not list"),
        ({"text": "a", "label": {"benign": 0.5, "injection": 0.4}}, "must sum to 1, not 0.900"),
        ({"text": "a", "label": {"benign": 1.5, "injection": -0.5}}, "must be a number in 0..1"),
        ({"text": "a", "label": "benign", "stage": "inputt"}, "unknown stage 'inputt'; did you mean 'input'?"),
        ({"text": "a", "label": "benign", "context": 1}, "'context' must hold text, not int"),
        ({"text": "a", "label": "benign", "family": 0.5}, "'family' must hold text, not float"),
    ],
    ids=str,
)
def test_a_bad_row_is_named(tmp_path, bad, message):
    path = lines(tmp_path / "a.jsonl", [*ROWS, "", bad, ROWS[0]])
    first, second = refused(path).splitlines()
    assert first == "1 row can't be read:"
    assert second.startswith(f"{path}:4: ")
    assert message in second


def test_the_first_bad_rows_of_all_files_are_named_at_once_and_all_are_counted(tmp_path):
    lines(tmp_path / "a.jsonl", [ROWS[0], *[{**ROWS[0], "text": ""}] * 15])
    lines(tmp_path / "b.jsonl", [ROWS[1], *[{**ROWS[0], "text": ""}] * 15])
    message = refused(tmp_path).splitlines()
    assert message[0] == "30 rows can't be read:"
    assert len(message) == 22
    assert message[1].startswith(f"{tmp_path / 'a.jsonl'}:2: ")
    assert message[20].startswith(f"{tmp_path / 'b.jsonl'}:6: ")
    assert message[21] == "… and 10 more"


# Labels


@pytest.mark.parametrize(
    ("raw", "labels", "hard"),
    [
        ([0, 1, 1], ("benign", "harmful"), [0, 1, 1]),
        (["0", "1", "1.0"], ("benign", "harmful"), [0, 1, 1]),
        ([True, False], ("benign", "harmful"), [1, 0]),
        (["True", "false", "TRUE"], ("benign", "harmful"), [1, 0, 1]),
        (["safe", "unsafe"], ("safe", "unsafe"), [0, 1]),
        ([" injection ", "Benign"], ("Benign", "injection"), [1, 0]),
        (["no", "yes"], ("no", "yes"), [0, 1]),
        (["spam", "ham", "phish"], ("ham", "phish", "spam"), [2, 0, 1]),
        ([2, 0, 1], ("0", "1", "2"), [2, 0, 1]),
    ],
)
def test_labels_mean_what_their_words_say(tmp_path, raw, labels, hard):
    dataset = read(lines(tmp_path / "a.jsonl", labelled(*raw))).dataset
    assert dataset.labels == labels
    assert dataset.hard.tolist() == hard
    assert dataset.targets.dtype == dataset.harmful.dtype == np.float32
    assert dataset.harmful.tolist() == [float(one > 0) for one in hard]


def test_which_label_is_benign_can_be_said(tmp_path):
    path = lines(tmp_path / "a.jsonl", labelled("chat", "attack"))
    assert read(path, LabelRules(benign="chat")).dataset.labels == ("chat", "attack")
    message = refused(path)
    assert "none is known" in message
    assert "'chat' (1)" in message
    assert "--benign" in message
    assert "did you mean 'chat'?" in refused(path, LabelRules(benign="Chatt"))
    assert "several may be" in refused(lines(path, labelled("safe", "benign", "attack")))
    upside_down = read(lines(path, labelled(1, 0, 1)), LabelRules(benign="1", positive="spam")).dataset
    assert (upside_down.labels, upside_down.hard.tolist()) == (("benign", "spam"), [0, 1, 0])


def test_numbers_between_0_and_1_are_probabilities_of_the_harmful_class(tmp_path):
    path = table(tmp_path / "a.csv", labelled("0.25", "1", "0", ".75"))
    dataset = read(path, LabelRules(positive="injection")).dataset
    assert dataset.labels == ("benign", "injection")
    assert dataset.targets.tolist() == [[0.75, 0.25], [0, 1], [1, 0], [0.25, 0.75]]
    assert dataset.harmful.tolist() == [0.25, 1, 0, 0.75]
    message = refused(table(path, labelled("0.25", "benign", "0")))
    assert f"{path}:2: a probability, but {path}:3: a word" in message
    assert f"{path}:2: a probability, but {path}:3: '2'" in refused(table(path, labelled("0.25", "2", "0")))


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_probabilities_by_label(tmp_path, ending):
    raw = [{"benign": 0.6, "hate": 0.3, "spam": 0.105}, {"benign": 0, "hate": 1, "spam": None}]
    path = tmp_path / f"a.{ending}"
    if ending == "jsonl":
        lines(path, labelled(*raw, "spam"))
    else:
        pq.write_table(pa.Table.from_pylist(labelled(*raw)), path)
    dataset = read(path).dataset
    assert dataset.labels == ("benign", "hate", "spam")
    np.testing.assert_allclose(dataset.targets[0], np.array([0.6, 0.3, 0.105]) / 1.005, rtol=1e-6)
    np.testing.assert_allclose(dataset.targets.sum(axis=1), 1, rtol=1e-6)
    assert dataset.hard.tolist() == [0, 1, 2][: len(dataset.examples)]


def test_a_label_that_no_head_can_have_is_named_with_one_that_it_can(tmp_path):
    path = lines(tmp_path / "a.jsonl", labelled("benign", "prompt injection", "caf\u00e9 (x)", "caf\u00e9 [x]"))
    message = refused(path)
    assert f"{path}:2: 'prompt injection' (1 rows); write 'prompt_injection'" in message
    assert "write 'cafe_x'" in message
    assert "write 'cafe_x_2'" in message


@pytest.mark.parametrize("typo", ["injectoin", "Injection", "injections", "bengin", "in-jection"])
def test_a_typo_is_named_with_the_label_that_was_meant(tmp_path, typo):
    raw = ["benign"] * 30 + ["injection"] * 29
    path = lines(tmp_path / "a.jsonl", labelled(*raw, typo))
    meant = "benign" if typo == "bengin" else "injection"
    message = refused(path)
    assert f"{path}:60: {typo!r} (1 row); did you mean {meant!r} ({raw.count(meant)})?" in message
    assert "--allow-label" in message
    assert typo in read(path, LabelRules(allow_labels=(typo,))).dataset.labels


def test_labels_that_differ_in_case_are_typos_however_many_there_are(tmp_path):
    path = lines(tmp_path / "a.jsonl", labelled(*["benign", "Benign ", "injection"] * 20))
    assert "'Benign' (20 rows); did you mean 'benign' (20)?" in refused(path)


@pytest.mark.parametrize(
    "raw",
    [
        ["safe"] * 60 + ["unsafe"],
        ["unsafe"] * 60 + ["safe"],
        ["benign"] * 30 + ["S1"] * 30 + ["S2"],
        ["benign"] * 30 + ["class_1"] * 30 + ["class_2"],
        ["benign"] * 30 + ["toxic"] * 30 + ["non-toxic"],
        ["benign"] * 3 + ["injections"] * 2 + ["injection"] * 2,
    ],
    ids=lambda raw: raw[-1],
)
def test_labels_that_only_look_like_typos_are_taken(tmp_path, raw):
    assert set(read(lines(tmp_path / "a.jsonl", labelled(*raw))).dataset.labels) == set(raw)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (["benign"] * 3, "all 3 rows are 'benign', and a head learns from two classes: add rows of what"),
        (["injection"] * 3, "all 3 rows are 'injection', and a head learns from two classes: add benign rows"),
        ([0.2, 0.1], "all 2 rows are 'benign'"),
        ([1, 1], "all 2 rows are '1', and a head learns from two classes: add benign rows"),
        ([{"benign": 0.4, "a": 0.6}, {"benign": 0.3, "a": 0.7}], "all 2 rows are 'a'"),
    ],
)
def test_one_class_alone_is_refused(tmp_path, raw, message):
    assert message in refused(lines(tmp_path / "a.jsonl", labelled(*raw)))


def test_a_column_of_texts_is_no_column_of_labels(tmp_path):
    path = lines(tmp_path / "a.jsonl", labelled(*(f"word{at}" for at in range(300))))
    assert "more than 200 different labels: name the column" in refused(path)


@pytest.mark.parametrize("name", ["a", "A.b_c-9", "", "-a", "a b", "\u00e9", "a" * 64, "a" * 65])
def test_labels_are_those_that_heads_take(name):
    try:
        HeadSpec(name="head", kind="binary", labels=(name,))
        fits = True
    except ValueError:
        fits = False
    assert bool(re.fullmatch(LABEL, name)) == fits


def test_a_name_for_the_harmful_class_must_be_one():
    with pytest.raises(ValueError, match="a name of harmless texts"):
        LabelRules(positive="Safe")


# Rows that say the same, or the contrary


def test_a_row_that_stands_there_twice_is_kept_once_and_counted(tmp_path):
    repeats = [{"text": " hello there ", "label": "benign "}, {**ROWS[0], "family": "other"}]
    others = [{**ROWS[0], "context": "a bank"}, {**ROWS[0], "stage": "retrieval"}]
    reading = read(lines(tmp_path / "a.jsonl", [*ROWS, *repeats, *others]))
    assert (reading.rows, reading.merged, len(reading.dataset.examples)) == (6, 2, 4)
    assert reading.dataset.examples[0].text == "hello there"


def test_a_text_with_several_labels_is_listed_or_dropped(tmp_path):
    contrary = {"text": "hello there\n", "label": "injection"}
    other_context = {**contrary, "context": "a bank"}
    rows = [*ROWS, contrary, ROWS[0], {"text": "fine", "label": "benign"}, other_context]
    path = lines(tmp_path / "a.jsonl", rows)
    message = refused(path).splitlines()
    assert message[:2] == ["1 text has several labels:", f"{path}:1: 'benign', but {path}:3: 'injection'"]
    assert "--on-conflict drop" in message[-1]
    reading = read(path, on_conflict="drop")
    assert (reading.rows, reading.conflicting, reading.merged) == (6, 3, 0)
    assert [example.text for example in reading.dataset.examples] == ["obey me now", "fine", "hello there\n"]
    assert reading.dataset.labels == ("benign", "injection")


def test_the_stage_makes_no_other_text_of_it(tmp_path):
    path = lines(tmp_path / "a.jsonl", [*ROWS, {**ROWS[0], "label": "injection", "stage": "retrieval"}])
    assert "several labels" in refused(path)


def test_many_conflicts_are_counted(tmp_path):
    pairs = [{"text": f"text {at}", "label": label} for at in range(25) for label in ("benign", "injection")]
    message = refused(lines(tmp_path / "a.jsonl", pairs)).splitlines()
    assert message[0] == "25 texts have several labels:"
    assert message[-2] == "… and 5 more"
    assert "none is left of 'benign', 'injection'" in refused(tmp_path / "a.jsonl", on_conflict="drop")


# Much data


def test_much_data_needs_a_sample(tmp_path):
    a = lines(tmp_path / "a.jsonl", labelled("benign", "injection"))
    b = tmp_path / "b.parquet"
    pq.write_table(pa.Table.from_pylist([{"text": "x" * 1000 + str(at), "label": "benign"} for at in range(3000)]), b)
    assert b.stat().st_size < 1 << 20
    with pytest.raises(UnsupportedValueError) as caught:
        read_dataset([a, b], most_bytes=1 << 20)
    message = str(caught.value)
    assert f"{b} 2.9 MiB" in message
    assert "more than 1.0 MiB" in message
    assert "--sample N" in message
    assert len(read_dataset([a, b], most_bytes=1 << 20, sample=5).dataset.examples) == 6


def test_a_sample_is_the_same_on_each_run_and_in_any_order_and_accounts_for_every_row(tmp_path):
    rows = labelled(*["benign"] * 300, *["injection"] * 100, *["hate"] * 3)
    rows += rows[:50]
    one = read(lines(tmp_path / "a.jsonl", rows), sample=20)
    two = read(lines(tmp_path / "b.jsonl", rows[::-1]), sample=20)
    texts = [{example.text for example in reading.dataset.examples} for reading in (one, two)]
    assert texts[0] == texts[1]
    assert np.bincount(one.dataset.hard).tolist() == [20, 3, 20]
    assert one.left_out + one.merged + len(one.dataset.examples) == one.rows == 453
    # Not the first ones, and not the last ones.
    numbers = sorted(int(text.split()[-1]) for text in texts[0])
    assert numbers[10] > 50
    assert [example.source for example in one.dataset.examples] == sorted(
        (example.source for example in one.dataset.examples), key=lambda source: int(source.rpartition(":")[2])
    )
    assert len({example.text for example in read(tmp_path / "a.jsonl", sample=1000).dataset.examples}) == 403
    assert "--sample 1 or more" in refused(tmp_path / "a.jsonl", sample=0)


def test_a_sample_takes_the_memory_of_its_rows(tmp_path):
    path = tmp_path / "a.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for at in range(20_000):
            label = "benign" if at % 2 else "injection"
            file.write(json.dumps({"text": f"{at} " + "x" * 1000, "label": label}) + "\n")
    tracemalloc.start()
    try:
        reading = read(path, sample=50)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert reading.left_out == 19_900
    assert peak < 2 << 20 < path.stat().st_size


# Data sets


def test_a_subset_has_the_same_classes(tmp_path):
    dataset = read(lines(tmp_path / "a.jsonl", labelled("benign", "a", "b"))).dataset
    some = dataset.subset(np.array([2, 0]))
    assert some.labels == dataset.labels
    assert some.hard.tolist() == [2, 0]
    assert [example.text for example in some.examples] == ["text number 2", "text number 0"]


def test_targets_must_fit():
    with pytest.raises(ValueError, match="1 examples of 2 classes"):
        Dataset(
            examples=(Example(source="a:1", text="a", context=None, stage="input", family=None, language=None),),
            labels=("benign", "a"),
            targets=np.zeros((2, 2), np.float32),
        )


# What a teacher says


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_a_teachers_score_and_a_group_are_read_where_they_are_asked_for(tmp_path, ending):
    rows = [
        {**ROWS[0], "score": 0.25, "group": "twins 1"},
        {**ROWS[1], "score": 1.0, "group": "twins 1"},
        {"text": "hello you", "label": "benign", "score": None, "group": None},
    ]
    path = tmp_path / f"data.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        (table if ending == "csv" else lines)(path, rows)
    found = read_dataset([path], TaughtColumns()).dataset.examples
    assert [(one.score, one.group) for one in found] == [(0.25, "twins 1"), (1.0, "twins 1"), (None, None)]
    # To all others a column of that name is one of their own.
    assert {(one.score, one.group) for one in read(path).dataset.examples} == {(None, None)}


@pytest.mark.parametrize("score", [1.01, -0.1, "high", True, [0.5], "nan"])
def test_a_score_that_is_no_probability_is_named_by_its_row(tmp_path, score):
    path = lines(tmp_path / "a.jsonl", [ROWS[0], {**ROWS[1], "score": score}])
    with pytest.raises(UnsupportedValueError, match=r"a\.jsonl:2: 'score' must hold a teacher's probability"):
        read_dataset([path], TaughtColumns())
    assert read(path).rows == 2
