"""What came of a run that tuned a model, in tables."""

from __future__ import annotations

from lec_guard.train.distil_run import DistilReport
from lec_guard.train.sweep import name_of
from lec_guard.train.tables import NONE, Table, counted, number
from lec_guard.train.train_tables import loss

_NAMED = 8
"""Families that are named; `distil.json` has all."""


def facts(result: DistilReport) -> Table:
    """The run in a few lines.

    Args:
        result: The run.

    Returns:
        A table of two columns.
    """
    size = f"{result.bytes / 1e6:,.1f} MB"
    what = f"adapters of rank {result.tuning.rank}, {size}" if result.how == "adapters" else f"all weights, {size}"
    rows = [
        ("head", result.head),
        ("detector", result.detector_id),
        ("learnt from", _texts(result, result.counts)),
        ("scored by a teacher", f"{result.taught:,}"),
        ("families learnt from", f"{result.families:,}"),
        ("held out", f"{_texts(result, result.held_counts)}, of {counted(len(result.held), 'family', 'families')}"),
        ("which", ", ".join(result.held[:_NAMED]) + (", …" if len(result.held) > _NAMED else "")),
        ("reads", f"layer {name_of(result.blocks)}, of {result.layers}"),
        ("tuned", what if result.scale == 1 else f"{what}, {result.scale:g} of the way"),
        ("took", f"{sum(result.seconds.values()):,.0f} s, {counted(result.steps, 'step')}"),
    ]
    return Table("The head", ("what", "value"), tuple(rows), words=(0, 1))


def told_apart(result: DistilReport) -> Table:
    """How well held-out families are told apart, by what.

    Args:
        result: The run.

    Returns:
        One row for each way.
    """
    rows = [
        ("the layers as they were", number(result.before.auc), loss(result.before.loss), f"{result.before.penalty:g}"),
        ("the tuned layers", number(result.after.auc), loss(result.after.loss), f"{result.after.penalty:g}"),
        *((name, NONE if auc is None else number(auc), NONE, NONE) for name, auc in result.baselines.items()),
    ]
    return Table(
        "Held-out families",
        ("by", "AUC", "log loss", "C"),
        tuple(rows),
        note="C, aggregation, calibration and thresholds were chosen on these families too, and on no others.",
    )


def _texts(result: DistilReport, counts: tuple[int, ...]) -> str:
    return ", ".join(f"{count:,} {label}" for label, count in zip(result.labels, counts, strict=True))
