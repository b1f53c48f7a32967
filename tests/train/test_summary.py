"""What commands print holds the figures that decide, on any terminal, and no name does anything to it."""

from __future__ import annotations

import sys

import pytest
import rich.console

from lec_guard.errors import UnsupportedValueError
from lec_guard.train.summary import evaluation_summary, train_summary
from tests.train.results import evaluated, trained


def printed(what, width: int = 160) -> str:
    console = rich.console.Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(what)
    return captured.get()


def test_a_run_is_told_by_its_head_its_curves_its_thresholds_and_its_limits():
    own = trained()
    found = printed(train_summary(own))
    row = own.curves.summary()[0]
    assert f"{row.f1.mean:.2f} ± {row.f1.sd:.2f}" in found
    for words in ("mine@0123456789abcdef", "layer 1 mean, of 6", "0.62", "promises nothing", "cannot be known"):
        assert words in found
    assert "- 3 rows repeat another one" in found
    assert "Weighted F1" not in printed(train_summary(trained(curves=None)))


def test_an_evaluation_is_told_by_unseen_sets_where_there_are_any():
    own = evaluated()
    found = printed(evaluation_summary(own))
    auc = own.methods[0].overall.auc
    assert f"{auc.value:.2f} [{auc.low:.2f}, {auc.high:.2f}]" in found
    assert "Telling harmful from benign, all texts" in found
    assert "What came of a budget" in found
    assert "length only" in found
    methods = tuple(one.model_copy(update={"unseen": one.overall}) for one in own.methods)
    assert "unseen sets" in printed(evaluation_summary(own.model_copy(update={"methods": methods})))


def test_without_rates_or_thresholds_there_are_no_tables_of_them():
    found = printed(evaluation_summary(evaluated(rates=(), thresholds=None, budgets=None)))
    assert "At rates" not in found
    assert "At thresholds" not in found


def test_names_are_words_and_no_markup():
    found = printed(train_summary(trained(head="[red]x[/red]\x1b[31m", notes=("[bold]n\u202e",))))
    assert "[red]x[/red]\\u001b[31m" in found
    assert "[bold]n\\u202e" in found
    assert not {"\x1b", "\u202e"} & set(found)


def test_a_narrow_terminal_loses_no_number():
    found = printed(train_summary(trained()), width=60)
    assert all(len(line) <= 60 for line in found.splitlines())
    assert "0.62" in found


@pytest.mark.parametrize("show", [lambda: train_summary(trained()), lambda: evaluation_summary(evaluated())])
def test_without_rich_the_error_names_the_command(monkeypatch, show):
    for name in ("rich", "rich.console", "rich.table", "rich.text"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UnsupportedValueError, match=r"tables need rich.*; run: pip install 'lec-guard\[train\]'"):
        show()
