"""What commands print: the figures that decide, as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lec_guard.errors import UnsupportedValueError
from lec_guard.train import distil_tables, evaluation_tables, train_tables
from lec_guard.train.distil_run import DistilReport
from lec_guard.train.evaluate import Evaluation, Measures, Method
from lec_guard.train.tables import Table, plain
from lec_guard.train.trainer import Trained

if TYPE_CHECKING:
    from rich.console import RenderableType


def train_summary(result: Trained) -> RenderableType:
    """A training run for a terminal.

    Args:
        result: The run.

    Returns:
        What `rich.console.Console.print` takes.

    Raises:
        UnsupportedValueError: If rich is not installed.
    """
    tables = [train_tables.facts(result)]
    if result.curves is not None:
        tables += train_tables.curves(result.curves, result.length, result.majority)
    tables.append(train_tables.bars(result.bars))
    return _shown(tables, [*result.notes, *train_tables.limits(result)])


def distil_summary(result: DistilReport) -> RenderableType:
    """A run that tuned a model, for a terminal.

    Args:
        result: The run.

    Returns:
        What `rich.console.Console.print` takes.

    Raises:
        UnsupportedValueError: If rich is not installed.
    """
    tables = [distil_tables.facts(result), distil_tables.told_apart(result), train_tables.bars(result.bars)]
    return _shown(tables, result.notes)


def evaluation_summary(result: Evaluation) -> RenderableType:
    """Measured detectors for a terminal: on unseen sets where there are any, else on all texts.

    Args:
        result: What came of measuring.

    Returns:
        What `rich.console.Console.print` takes.

    Raises:
        UnsupportedValueError: If rich is not installed.
    """
    unseen = any(method.unseen is not None for method in result.methods)

    def of(method: Method) -> Measures | None:
        return method.unseen if unseen else method.overall

    where = "unseen sets" if unseen else "all texts"
    tables = [
        evaluation_tables.facts(result),
        evaluation_tables.ranking(result, of, f"Telling harmful from benign, {where}"),
    ]
    if result.rates:
        tables.append(evaluation_tables.at_rates(result, of, f"At rates of false positives, {where}"))
    if result.thresholds:
        tables.append(evaluation_tables.at_thresholds(result, of, f"At thresholds, {where}"))
    budget = evaluation_tables.realised(result)
    if budget is not None:
        tables.append(budget)
    return _shown(tables, evaluation_tables.warnings(result))


def _shown(tables: Sequence[Table], notes: Sequence[str]) -> RenderableType:
    try:
        import rich.console
        import rich.table
        import rich.text
    except ModuleNotFoundError as missing:
        raise UnsupportedValueError(f"tables need {missing.name}; run: pip install 'lec-guard[train]'") from None
    parts: list[RenderableType] = []
    for table in tables:
        shown = rich.table.Table(
            title=rich.text.Text(plain(table.title)),
            caption=rich.text.Text(plain("\n".join(table.below))),
            title_justify="left",
            caption_justify="left",
        )
        for at, column in enumerate(table.columns):
            shown.add_column(
                rich.text.Text(plain(column)), justify="left" if at in table.words else "right", overflow="fold"
            )
        for row in table.rows:
            shown.add_row(*(rich.text.Text(plain(cell)) for cell in row))
        parts += [shown, rich.text.Text()]
    parts += [rich.text.Text(f"- {plain(note)}") for note in notes]
    return rich.console.Group(*parts)
