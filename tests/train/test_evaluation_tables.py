"""Tables of measured detectors hold every method, and what is not there says why."""

from __future__ import annotations

import pytest

from lec_guard.train import evaluation_tables as tables
from tests.train.results import evaluated
from tests.train.test_evaluate import Data, drawn

METHODS = ["ours", "theirs", "majority", "length only", "context only"]


@pytest.fixture(scope="module")
def evaluation():
    return evaluated()


def overall(method):
    return method.overall


def test_every_method_has_a_row_and_the_one_without_figures_says_why(evaluation):
    table = tables.ranking(evaluation, overall, "t")
    assert [row[0] for row in table.rows] == METHODS
    auc = evaluation.methods[0].overall.auc
    assert table.rows[0][1].startswith(f"{auc.value:.2f} [{auc.low:.2f}, {auc.high:.2f}]\nsets [")
    assert set(table.rows[-1][1:]) == {"\u2013²"}
    assert table.footnotes[1] == evaluation.methods[-1].reason


def test_rates_have_a_row_a_method_and_name_the_worst_set(evaluation):
    table = tables.at_rates(evaluation, overall, "t")
    assert [row[:2] for row in table.rows[:4]] == [
        ("ours", "1%"),
        ("ours", "0.1%"),
        ("theirs", "1%"),
        ("theirs", "0.1%"),
    ]
    worst = evaluation.methods[0].overall.at_rates[0].worst
    assert table.rows[0][4].splitlines()[0] == worst.name
    assert any("3,000 benign texts" in reason for reason in table.footnotes)


def test_a_worst_set_of_which_nothing_is_flagged_is_not_named(evaluation):
    own = tables.at_rates(evaluation, overall, "t")
    assert next(row for row in own.rows if row[0] == "majority")[4] == "none of them"


def test_thresholds_have_figures_or_say_that_there_were_none(evaluation):
    table = tables.at_thresholds(evaluation, overall, "t")
    at = evaluation.methods[0].overall.at_thresholds
    assert table.rows[0][1].startswith(f"{at.f1.value:.2f} [")
    without = tables.at_thresholds(evaluated(thresholds=None), overall, "t")
    assert set(without.rows[0][1:]) == {"\u2013¹"}
    assert without.footnotes[0] == "no thresholds were given"


def test_budgets_say_what_came_of_them(evaluation):
    table = tables.realised(evaluation)
    assert table is not None
    assert [row[:3] for row in table.rows] == [("ours", "input", "5%"), ("ours", "retrieval", "5%")]
    assert "keeps no threshold for stage 'retrieval'" in table.footnotes[0]
    assert tables.realised(evaluated(budgets=None)) is None


def test_parts_are_rows_and_measured_methods_columns(evaluation):
    auc, recall, alarms = tables.by_slice(evaluation, lambda method: method.languages, "language")
    assert auc.columns == ("language", "texts", "harmful", *METHODS[:-1])
    assert [row[0] for row in auc.rows] == ["fr", "unknown"]
    assert "cut at 1% false positives" in recall.title
    assert alarms.rows[0][3].startswith(f"{evaluation.methods[0].languages[0].at_rates[0].fpr.value:.1%}")


def test_sets_without_texts_of_a_class_are_left_out_and_counted(evaluation):
    recall, alarms = tables.by_set(evaluation)
    assert [row[0] for row in recall.rows] == [f"attack{i}" for i in range(4)]
    assert [row[0] for row in alarms.rows] == ["calm1", "calm2", "calm3", "hard"]
    assert recall.note == "Without 4 sets that have too few texts for it."


def test_over_defence_has_the_worst_set_first(evaluation):
    table = tables.over_defence(evaluation)
    assert table is not None
    assert table.rows[0][0] == "hard"


def test_sets_at_cuts_of_others_say_of_how_many_there_is_none(evaluation):
    table = tables.left_out(evaluation)
    assert table is not None
    assert {row[2] for row in table.rows} == {"ours", "theirs"}
    assert {row[3] for row in table.rows} == {"1%"}
    assert "rows without a cut: a rate of 0.001 needs 3,000 benign texts of other sets" in table.note


def test_confusion_unread_and_facts(evaluation):
    first = tables.confusions(evaluation)[0]
    assert first.columns == ("is", "taken for benign", "taken for harmful")
    assert sum(int(cell.replace(",", "")) for row in first.rows for cell in row[1:]) == evaluation.texts
    unread = tables.unread(evaluation)
    assert unread is not None
    assert unread.rows[0][2] == "the text is too long"
    facts = tables.facts(evaluation).rows
    assert ("detector", "theirs (other@2)") in facts
    said = "input 0.5, retrieval 0.6 (from 4 windows on 0.75)"
    assert [row for row in facts if "thresholds" in row[0]] == [
        ("thresholds of the policy with ours", said),
        ("thresholds of the policy with theirs", said),
    ]
    without = dict(tables.facts(evaluated(thresholds=None)).rows)
    assert without["thresholds of the policy"].startswith("none given")


def test_warnings_name_what_makes_figures_too_good():
    own = drawn(1600)
    rows = [i for i, example in enumerate(own.examples) if example.family in ("calm1", "attack1")]
    fitted = Data([own.examples[i] for i in rows], own.targets[rows])
    told = " ".join(tables.warnings(evaluated(own, fit_data=fitted)))
    assert "fitted on texts of attack1, calm1" in told
    assert "letter by letter" in told
    assert "not known" in " ".join(tables.warnings(evaluated()))


def test_a_baseline_that_does_as_well_is_told(evaluation):
    assert not any("no detector does better" in words for words in tables.warnings(evaluation))
    methods = [
        own.model_copy(update={"overall": evaluation.methods[0].overall}) if own.name == "length only" else own
        for own in evaluation.methods
    ]
    told = tables.warnings(evaluation.model_copy(update={"methods": tuple(methods)}))
    assert any("no detector does better than length only" in words for words in told)
