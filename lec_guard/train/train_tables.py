"""What came of a training run, in words and tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from lec_guard.train.bars import Bar
from lec_guard.train.sweep import Spread, SummaryRow, Sweep, name_of
from lec_guard.train.tables import NONE, Footnotes, Table, counted, number, percent
from lec_guard.train.trainer import Trained

_PERFECT = 0.999
"""AUC from which left-out families say more of the data than of the head."""
_FEW = 100
"""Texts of a class below which figures hang on which texts they are."""


def facts(result: Trained) -> Table:
    """The run in a few lines.

    Args:
        result: The run.

    Returns:
        A table of two columns.
    """
    chosen, way = result.chosen, result.aggregation
    rows = [
        ("head", result.head),
        ("detector", result.detector_id),
        ("texts", ", ".join(f"{count:,} {label}" for label, count in zip(result.labels, result.counts, strict=True))),
        ("families", f"{result.families:,}, left out in {counted(result.folds, 'part')}"),
        ("reads", f"layer {name_of(chosen.blocks)}, of {result.layers}"),
        ("penalty", f"C = {chosen.penalty:g}"),
        ("AUC of left-out families", number(chosen.auc)),
        ("their log loss", f"{loss(chosen.loss)} nats a text"),
        (
            "windows make a text's score by",
            f"{way.method.replace('_', ' ')}, {_parameter(way.method)} {way.parameter:g}",
        ),
        ("took", f"{sum(result.seconds.values()):,.0f} s"),
    ]
    return Table("The head", ("what", "value"), tuple(rows), words=(0, 1))


def bars(found: Sequence[Bar]) -> Table:
    """Thresholds and what they promise.

    Args:
        found: The thresholds.

    Returns:
        One row a stage.
    """
    notes = Footnotes()
    rows = []
    for bar in found:
        mark = "" if bar.texts else notes.mark("no benign text of this stage was there: the threshold promises nothing")
        least = percent(_least(bar)) if bar.texts else NONE
        rows.append((bar.stage, f"{bar.threshold:.4g}", f"{bar.texts:,}", f"{bar.stopped:,}{mark}", least))
    return Table(
        "Thresholds",
        ("stage", "threshold", "benign texts", "stopped of these", "lowest rate that can be known"),
        tuple(rows),
        note="Counted on left-out families. Of N texts no rate below 3/N can be known (rule of three, at 95%).",
        footnotes=notes.reasons,
    )


def tried(result: Trained) -> Table:
    """What the head could have read.

    Args:
        result: The run.

    Returns:
        One row each, the best first.
    """
    return Table(
        "What it could have read, by log loss of left-out families",
        ("layer and poolings", "C", "log loss (nats a text)", "AUC"),
        tuple((name_of(one.blocks), f"{one.penalty:g}", loss(one.loss), number(one.auc)) for one in result.tried),
        note="The first was chosen by these figures, so its own are slightly too good.",
    )


def curves(swept: Sweep, length: Mapping[int, Spread], majority: float | None) -> tuple[Table, ...]:
    """Learning curves in numbers: weighted F1, AUC, recall at 1% false positives.

    Args:
        swept: The sweep.
        length: Weighted F1 of a text's length alone, by sample size.
        majority: That of always saying the largest class, if it is known.

    Returns:
        One table a score; none for recall where it could not be measured.
    """
    rows = swept.summary()
    parts = swept.parts
    told = (
        f"Tested on {counted(parts.test, 'text')} of {counted(parts.test_families, 'family', 'families')}, none of "
        f"which is drawn from or chooses C; mean and standard deviation over draws of the texts to fit on."
    )
    f1 = _pivot("Weighted F1 by texts to fit on", rows, lambda row: row.f1, told)
    sizes = sorted({row.size for row in rows})
    trivial = [("length alone", *(_spread(length.get(size)) for size in sizes))] if length else []
    if majority is not None:
        trivial.append(("largest class", *(number(majority) for _ in sizes)))
    found = [
        replace(f1, rows=(*f1.rows, *trivial)),
        _pivot("AUC by texts to fit on", rows, lambda row: row.auc, told),
    ]
    if any(row.recall is not None for row in rows):
        found.append(_pivot("Recall at 1% false positives by texts to fit on", rows, lambda row: row.recall, told))
    return tuple(found)


def screened(result: Trained) -> tuple[Table, ...]:
    """Layers as ranked without fitting, and how far that agrees with the learning curves.

    Args:
        result: The run.

    Returns:
        Two tables, or none where there was no screen.
    """
    if result.screen is None:
        return ()
    scores = Table(
        "Layers as scored without fitting",
        ("layer and poolings", "H-score", "LogME"),
        tuple((row.name, f"{row.h_score:.3f}", f"{row.log_me:.3f}") for row in result.screen.rows),
        note=f"On {counted(result.screen.texts, 'text')} that test nothing; the higher, the better.",
    )
    notes = Footnotes()

    def rank(value: float | None) -> str:
        return NONE + notes.mark("fewer than three to rank, or equal figures") if value is None else f"{value:+.2f}"

    names = {"h_score": "H-score", "log_me": "LogME"}
    rows = tuple(
        (names[one.measure], f"{one.size:,}", rank(one.kendall), rank(one.spearman), f"{one.lost:.3f}")
        for one in result.agreement
    )
    agreed = Table(
        "How far that agrees with the learning curves",
        ("score", "texts to fit on", "Kendall's tau", "Spearman's rho", "AUC lost by following it"),
        rows,
        note="1 is the same order of layers, -1 the reverse, 0 none.",
        footnotes=notes.reasons,
    )
    return (scores, agreed) if rows else (scores,)


def lengths(result: Trained) -> Table:
    """What comes of long texts.

    Args:
        result: The run.

    Returns:
        One row a number of windows.
    """
    way = result.aggregation
    return Table(
        "Texts by length",
        ("windows", "recall", "false alarms", "taken off (logits)"),
        tuple(
            (
                f"{n:,}",
                number(way.recall_by_windows[n]),
                percent(way.false_alarms_by_windows[n]),
                f"{way.taken_off[n]:.2f}",
            )
            for n in sorted(way.recall_by_windows)
        ),
        note="On documents made up of harmless windows of left-out families, one of which an attack replaces.",
    )


def contexts(result: Trained) -> Table | None:
    """What contexts are worth.

    Args:
        result: The run.

    Returns:
        A table; None where too few texts have one.
    """
    found = result.context
    if found is None:
        return None
    return Table(
        "What contexts are worth",
        ("texts with a context", "features of a pair", "log loss with it", "without", "kept"),
        (
            (
                f"{found.texts:,}",
                ", ".join(found.parts),
                loss(found.loss),
                loss(found.loss_alone),
                "yes" if found.kept else "no",
            ),
        ),
        note="Of left-out families, in nats a text. The form with context is kept where it does better.",
    )


def seconds(result: Trained) -> Table:
    """What each part took.

    Args:
        result: The run.

    Returns:
        One row a part.
    """
    return Table("What it took", ("part", "s"), tuple((what, f"{took:,.1f}") for what, took in result.seconds.items()))


def limits(result: Trained) -> tuple[str, ...]:
    """What the figures do not say, in plain words.

    Args:
        result: The run.

    Returns:
        One sentence or two each; names are as they were given.
    """
    texts = sum(result.counts)
    found = [
        f"Fitted on {counted(texts, 'text')} of {counted(result.families, 'family', 'families')}. Families left out "
        "are still of this data: texts of another source do worse as a rule.",
    ]
    for bar in result.bars:
        if not bar.texts:
            found.append(f"Stage {bar.stage}: no benign text was there, so nobody knows how often the head stops one.")
        else:
            found.append(
                f"Stage {bar.stage}: {counted(bar.texts, 'benign text was', 'benign texts were')} counted, of which "
                f"{bar.stopped:,} reach the threshold; "
                f"a rate of false positives below 3/{bar.texts:,} = {percent(_least(bar))} cannot be known."
            )
    few = [label for label, count in zip(result.labels, result.counts, strict=True) if count < _FEW]
    if few:
        found.append(f"Fewer than {_FEW} texts of {', '.join(few)}: other texts would give other figures.")
    if result.chosen.auc >= _PERFECT:
        found.append(
            "Left-out families were told apart without a mistake. That says that this data is easy, perhaps by its "
            "length or by where it comes from; it does not say that the head makes none elsewhere."
        )
    found.append(
        f"A score of 0.5 means as likely harmful as not where {result.prior:.0%} of texts are harmful. Where fewer "
        "are, scores are too high to be read as probabilities; thresholds hold as they are."
    )
    found.append(
        "Length, source and topic may give a class away. The command lec-guard eval shows what length alone reaches."
    )
    return tuple(found)


def _pivot(title: str, rows: tuple[SummaryRow, ...], of: Callable[[SummaryRow], Spread | None], note: str) -> Table:
    sizes = sorted({row.size for row in rows})
    cells = {(row.name, row.size): of(row) for row in rows}
    names = dict.fromkeys(row.name for row in rows)
    return Table(
        title,
        ("layer and poolings", *(f"{size:,}" for size in sizes)),
        tuple((name, *(_spread(cells.get((name, size))) for size in sizes)) for name in names),
        note=note,
    )


def _spread(own: Spread | None) -> str:
    if own is None:
        return NONE
    return f"{own.mean:.2f}" if own.sd is None else f"{own.mean:.2f} ± {own.sd:.2f}"


def _least(bar: Bar) -> float:
    return min(3 / max(bar.texts, 1), 1.0)


def loss(nats: float) -> str:
    """A log loss as it is written.

    Args:
        nats: A text.

    Returns:
        Three decimals.
    """
    return "<0.001" if 0 < nats < 0.0005 else f"{nats:.3f}"


def _parameter(method: str) -> str:
    return "windows" if method == "top_mean" else "temperature"
