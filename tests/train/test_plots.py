"""Plots show every line with its name, whatever the name, and are the same bytes for the same figures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from lec_guard.errors import UnsupportedValueError
from lec_guard.train import plots
from lec_guard.train.sweep import Sweep
from tests.train.results import evaluated, swept, trained
from tests.train.test_evaluate import data, drawn

SVG = "{http://www.w3.org/2000/svg}"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def evaluation():
    return evaluated()


def words(svg: bytes) -> list[str]:
    return ["".join(text.itertext()).strip() for text in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_learning_curves_have_a_line_for_each_layer_and_those_of_baselines():
    found = words(plots.learning_curves(swept(), "f1", {"majority": 0.4, "length only": 0.55}))
    assert {"layer 0 mean+max", "layer 1 mean+max", "layer 2 mean+max", "majority", "length only"} <= set(found)
    assert {"5", "20", "100", "texts to fit on (logarithmic)", "weighted F1"} <= set(found)
    assert "majority" not in words(plots.learning_curves(swept(), "f1"))
    assert "area under the ROC curve (AUC)" in words(plots.learning_curves(swept(), "auc"))


def test_a_single_draw_has_no_band_and_a_single_layer_no_neighbours():
    one = swept(layers=1)
    single = Sweep(**(dict(one) | {"records": tuple(own for own in one.records if own.seed == 0)}))
    assert "layer 0 mean+max" in words(plots.learning_curves(single, "auc"))
    assert "0 mean+max" in words(plots.heat_map(single, "auc"))


def test_the_heat_map_shows_the_means():
    own = swept()
    found = words(plots.heat_map(own, "auc"))
    assert all(f"{row.auc.mean:.2f}" in found for row in own.summary())
    assert {"0 mean+max", "1 mean+max", "2 mean+max"} <= set(found)


def test_lengths_show_what_was_aimed_at():
    found = words(plots.by_length(trained().aggregation))
    assert {"recall", "false alarms (%)", "aimed at: 1%", "1", "2", "4"} <= set(found)


@pytest.mark.parametrize("draw", [plots.roc, plots.precision_recall, plots.reliability])
def test_curves_name_every_method_that_has_one(draw, evaluation):
    found = words(draw(evaluation))
    assert {"ours", "theirs", "majority", "length only"} <= set(found)
    assert "context only" not in found


def test_a_logarithmic_axis_has_plain_numbers(evaluation):
    found = words(plots.roc(evaluation))
    assert "0.01" in found
    assert not any("math" in word for word in found)


def test_bars_are_of_benign_sets_or_of_harmful_ones_and_the_rate_is_a_line(evaluation):
    alarms, recall = (words(plots.set_bars(evaluation, 0.01, what)) for what in ("fpr", "recall"))
    assert {"hard (input)", "aimed at: 1%", "ours", "theirs"} <= set(alarms)
    assert not any("attack" in word for word in alarms)
    assert any("attack0" in word for word in recall)
    assert not any("hard" in word for word in recall)
    assert plots.set_bars(evaluation, 0.001, "fpr") is None  # There are too few texts for that.


def test_the_worst_set_is_on_top_and_the_best_are_cut_off(monkeypatch):
    own = evaluated(drawn(1600), rates=(0.05,))
    rates = {x.name: x.fpr.value for x in own.methods[0].left_out if x.stage == "input" and x.fpr.value is not None}
    monkeypatch.setattr(plots, "MOST_SETS", 2)
    named = [word for word in words(plots.set_bars(own, 0.05, "fpr")) if "(" in word and "%" not in word]
    assert len(named) == 2
    assert named[0].startswith(max(rates, key=rates.get))


def test_nothing_to_draw_is_none():
    tiny = evaluated(data(("a", 0, [0.1, 0.2]), ("b", 1, [0.8, 0.9])), rates=(), budgets=None)
    assert plots.roc(tiny) is None
    assert plots.precision_recall(tiny) is None
    assert plots.set_bars(tiny, 0.01, "fpr") is None


def test_names_are_shown_as_they_are_whatever_is_in_them():
    names = ("$x^{2$ <b>&", "_under 防御\x00\u202e")
    found = words(plots.roc(evaluated(names=names)))
    assert "$x^{2$ <b>&" in found
    assert "_under 防御\\u0000\\u202e" in found


def test_long_names_are_cut():
    found = words(plots.roc(evaluated(names=("a" * 200, "b"))))
    assert "a" * 29 + "…" in found


def test_the_same_figures_are_the_same_bytes_and_no_style_of_others_counts(evaluation):
    import matplotlib as mpl

    before = plots.learning_curves(swept(), "f1"), plots.set_bars(evaluation, 0.01, "fpr")
    with mpl.rc_context({"font.size": 30, "svg.hashsalt": None, "axes.facecolor": "red"}):
        assert (plots.learning_curves(swept(), "f1"), plots.set_bars(evaluation, 0.01, "fpr")) == before
        assert mpl.rcParams["font.size"] == 30
    assert b"<dc:date>" not in before[0]


def test_plots_leave_pyplot_alone():
    code = (
        "import sys; from tests.train.results import swept; from lec_guard.train.plots import heat_map;"
        "heat_map(swept(), 'f1'); print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_without_matplotlib_the_error_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UnsupportedValueError, match=r"plots need matplotlib; run: pip install 'lec-guard\[train\]'"):
        plots.heat_map(swept(), "f1")
