"""What a training run says of itself in tables: what thresholds promise, and what nobody can know."""

from __future__ import annotations

from lec_guard.train import train_tables
from lec_guard.train.sweep import Spread
from lec_guard.train.trainer import Tried
from tests.train.results import WITH_CONTEXT, block, swept, trained


def test_facts_say_what_was_fitted_and_how_well_left_out_families_did():
    facts = dict(train_tables.facts(trained()).rows)
    assert facts["texts"] == "120 benign, 80 injection"
    assert facts["families"] == "17, left out in 5 parts"
    assert facts["reads"] == "layer 1 mean, of 6"
    assert facts["AUC of left-out families"] == "0.80"
    assert facts["their log loss"] == "0.400 nats a text"


def test_thresholds_say_what_they_promise_and_which_promise_nothing():
    table = train_tables.bars(trained().bars)
    assert table.rows[0] == ("input", "0.62", "120", "3", "2.5%")
    assert table.rows[1][:4] == ("retrieval", "0.5", "0", "0¹")
    assert "promises nothing" in table.footnotes[0]


def test_learning_curves_have_a_row_a_layer_and_a_column_a_size():
    f1, auc = train_tables.curves(swept(), {}, None)
    assert f1.columns == ("layer and poolings", "5", "20", "100")
    assert len(auc.rows) == 3
    row = next(own for own in swept().summary() if own.layer == 1 and own.size == 20)
    assert auc.rows[1][2] == f"{row.auc.mean:.2f} ± {row.auc.sd:.2f}"
    assert "50 texts of 7 families" in auc.note


def test_recall_has_a_table_where_it_was_measured():
    own = swept(no_recall=None)
    records = tuple(record.model_copy(update={"recall": 0.25}) for record in own.records)
    *_, recall = train_tables.curves(own.model_copy(update={"records": records}), {}, None)
    assert recall.title.startswith("Recall at 1%")
    assert recall.rows[0][1] == "0.25 ± 0.00"


def test_what_could_have_been_read_is_listed_with_the_best_first():
    table = train_tables.tried(trained())
    assert [row[0] for row in table.rows] == ["1 mean", "2 mean", "0 mean"]
    assert table.rows[0][1:] == ("0.1", "0.400", "0.80")


def test_the_screen_says_how_far_it_agrees_and_why_it_may_not_know():
    scores, agreed = train_tables.screened(trained())
    assert scores.rows[0] == ("0 mean+max", "0.500", "-0.300")
    assert agreed.rows[0] == ("H-score", "5", "+0.33", "+0.50", "0.010")
    assert agreed.rows[1][2:4] == ("\u2013¹", "\u2013¹")
    assert train_tables.screened(trained(screen=None)) == ()


def test_contexts_have_a_table_where_texts_have_them():
    assert train_tables.contexts(trained()) is None
    table = train_tables.contexts(trained(context=WITH_CONTEXT))
    assert table is not None
    assert table.rows == (("40", "text, product", "0.210", "0.340", "yes"),)


def test_limits_say_what_cannot_be_known():
    limits = " ".join(train_tables.limits(trained()))
    assert "200 texts of 17 families" in limits
    assert (
        "120 benign texts were counted, of which 3 reach the threshold; "
        "a rate of false positives below 3/120 = 2.5% cannot be known" in limits
    )
    assert "Stage retrieval: no benign text was there" in limits
    assert "Fewer than 100 texts of injection:" in limits
    assert "without a mistake" not in limits


def test_a_perfect_figure_is_told_to_be_no_good_sign():
    perfect = Tried(blocks=(block(1),), penalty=0.1, loss=0.0001, auc=1.0)
    result = trained(chosen=perfect)
    assert any("without a mistake" in words for words in train_tables.limits(result))
    assert dict(train_tables.facts(result).rows)["their log loss"] == "<0.001 nats a text"


def test_learning_curves_stand_beside_what_reads_no_layer():
    length = {5: Spread(mean=0.55, sd=0.1, low=0.4, high=0.7)}
    f1, auc = train_tables.curves(swept(), length, 0.4)
    assert f1.rows[-2][:2] == ("length alone", "0.55 ± 0.10")
    assert f1.rows[-1][:2] == ("largest class", "0.40")
    assert len(auc.rows) == len(f1.rows) - 2
