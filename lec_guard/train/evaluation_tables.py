"""What came of measuring detectors, in tables: every method a row or a column, the baselines in the same tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lec_guard.train.evaluate import AtRate, Evaluation, Measures, Method, Thresholds
from lec_guard.train.metrics import Confusion, Figure, SetRate
from lec_guard.train.tables import NONE, Footnotes, Form, Table, counted, figure, listed, number, percent

Slice = Callable[[Method], Sequence[Measures]]

_TWO = (
    "In brackets 95% intervals: over texts of the same sets and, below, over sets, which says how it holds elsewhere."
)


def facts(evaluation: Evaluation) -> Table:
    """What was measured, in a few lines.

    Args:
        evaluation: What came of measuring.

    Returns:
        A table of two columns.
    """
    detectors = [method for method in evaluation.methods if method.kind == "detector"]
    fitted = evaluation.fitted_sets
    said = "thresholds of the policy"
    thresholds = [(f"{said} with {name}", _shown(own)) for name, own in evaluation.thresholds.items()]
    thresholds = thresholds or [(said, "none given, so there are no figures at thresholds")]
    rows = [
        ("head", evaluation.head),
        *(("detector", f"{own.name} ({own.detector_id})") for own in detectors),
        ("classes", listed(evaluation.labels)),
        ("texts", f"{evaluation.texts:,}, of which {evaluation.harmful:,} harmful"),
        ("sets", f"{len(evaluation.sets):,}: {listed([f'{name} ({n:,})' for name, n in evaluation.sets.items()])}"),
        *thresholds,
        ("baselines", evaluation.baselines),
        ("sets that were fitted on", "not known" if fitted is None else listed(fitted) or "none"),
        ("texts that were fitted on, letter by letter", f"{evaluation.repeated:,}"),
    ]
    return Table("What was measured", ("what", "value"), tuple(rows), words=(0, 1))


def _shown(thresholds: Thresholds) -> str:
    """`input 0.9, retrieval 0.8 (from 4 windows on 0.85)`."""
    words = []
    for stage, own in thresholds.items():
        first, *others = own.items()
        longer = ", ".join(f"from {windows} windows on {bar:.3g}" for windows, bar in others)
        words.append(f"{stage} {first[1]:.3g}{f' ({longer})' if longer else ''}")
    return ", ".join(words)


def ranking(evaluation: Evaluation, of: Callable[[Method], Measures | None], title: str) -> Table:
    """How well each method tells harmful texts from benign ones, and how far its scores are probabilities.

    Args:
        evaluation: What came of measuring.
        of: Which of a method's figures.
        title: What the table is called.

    Returns:
        One row a method.
    """
    notes = Footnotes()
    return Table(
        title,
        ("method", "AUC", "AUC, sets alike", "AUPRC", "Brier score", "calibration error"),
        tuple(
            (method.name, *([_missing(method, notes)] * 5))
            if (own := of(method)) is None
            else (
                method.name,
                *(
                    figure(one, notes, over_sets=True)
                    for one in (own.auc, own.auc_by_sets, own.auprc, own.brier, own.calibration_error)
                ),
            )
            for method in evaluation.methods
        ),
        note=_TWO,
        footnotes=notes.reasons,
    )


def at_rates(evaluation: Evaluation, of: Callable[[Method], Measures | None], title: str) -> Table:
    """What each method finds where each stage is cut at a false-positive rate.

    Args:
        evaluation: What came of measuring.
        of: Which of a method's figures.
        title: What the table is called.

    Returns:
        One row a method and rate.
    """
    notes = Footnotes()
    rows = []
    for method in evaluation.methods:
        own = of(method)
        if own is None:
            rows.append((method.name, NONE, *([_missing(method, notes)] * 3)))
            continue
        for at in own.at_rates:
            rows.append(
                (
                    method.name,
                    _rate(at.rate),
                    figure(at.recall, notes, over_sets=True),
                    figure(at.fpr, notes, percent, over_sets=True),
                    _worst(at.worst, notes),
                )
            )
    return Table(
        title,
        ("method", "rate", "recall", "false positives", "worst set"),
        tuple(rows),
        words=(0, 4),
        note=f"The cut is taken per stage; rates are averaged over benign sets, recall over harmful ones. {_TWO}",
        footnotes=notes.reasons,
    )


def at_thresholds(evaluation: Evaluation, of: Callable[[Method], Measures | None], title: str) -> Table:
    """What each method finds at the policy's thresholds; baselines at even odds.

    Args:
        evaluation: What came of measuring.
        of: Which of a method's figures.
        title: What the table is called.

    Returns:
        One row a method.
    """
    notes = Footnotes()
    rows = []
    for method in evaluation.methods:
        measures = of(method)
        own = None if measures is None else measures.at_thresholds
        if own is None:
            why = _missing(method, notes) if measures is None else NONE + notes.mark("no thresholds were given")
            rows.append((method.name, *([why] * 7)))
            continue
        rows.append(
            (
                method.name,
                *(figure(one, notes) for one in (own.f1, own.weighted_f1, own.precision, own.recall)),
                figure(own.recall_by_sets, notes, over_sets=True),
                figure(own.fpr_by_sets, notes, percent, over_sets=True),
                _worst(own.worst, notes),
            )
        )
    return Table(
        title,
        ("method", "F1", "weighted F1", "precision", "recall", "recall, sets alike", "false positives, sets alike",
         "worst set"),
        tuple(rows),
        words=(0, 7),
        note=f"Detectors at the thresholds of the policy, baselines at even odds. {_TWO}",
        footnotes=notes.reasons,
    )  # fmt: skip


def realised(evaluation: Evaluation) -> Table | None:
    """What came of thresholds that detectors keep for a rate.

    Args:
        evaluation: What came of measuring.

    Returns:
        One row a detector and stage; None where no budget was given.
    """
    notes = Footnotes()
    rows = tuple(
        (
            method.name,
            own.stage,
            _rate(own.max_fpr),
            figure(own.fpr, notes, percent, over_sets=True),
            figure(own.recall, notes, over_sets=True),
            _worst(own.worst, notes),
        )
        for method in evaluation.methods
        for own in method.realised
    )
    if not rows:
        return None
    return Table(
        "What came of a budget of false positives",
        ("detector", "stage", "budget", "false positives", "recall", "worst set"),
        rows,
        words=(0, 1, 5),
        note=f"The detector's own thresholds for the rate, on sets that nothing was fitted on. {_TWO}",
        footnotes=notes.reasons,
    )


def by_slice(evaluation: Evaluation, slices: Slice, what: str, *, sparse: bool = False) -> tuple[Table, ...]:
    """Parts of the texts, such as languages, one a row and every method a column.

    Args:
        evaluation: What came of measuring.
        slices: Which parts of a method's figures.
        what: What a part is, such as `language`.
        sparse: Whether to leave out the parts of which a table has no figure at all, and say how many these are.

    Returns:
        AUC, then recall and false positives at the highest rate that was asked for.
    """
    methods = [method for method in evaluation.methods if method.overall is not None]
    wanted: list[tuple[str, Callable[[Measures], Figure | None], Form]] = [
        (f"AUC by {what}", lambda own: own.auc, number)
    ]
    if evaluation.rates:
        rate = max(evaluation.rates)
        wanted += [
            (f"Recall by {what}, cut at {_rate(rate)} false positives", _of_rate(rate, lambda at: at.recall), number),
            (f"False positives by {what}, at the same cut", _of_rate(rate, lambda at: at.fpr), percent),
        ]
    found = (_slices(methods, slices, what, title, of, form, sparse=sparse) for title, of, form in wanted)
    return tuple(table for table in found if table.rows)


def by_set(evaluation: Evaluation) -> tuple[Table, ...]:
    """Sets, one a row and every method a column: recall of harmful sets, false positives of benign ones.

    Args:
        evaluation: What came of measuring.

    Returns:
        Both at the highest rate that was asked for; AUC where a set has both classes.
    """
    return by_slice(evaluation, lambda method: method.sets, "set", sparse=True)


def over_defence(evaluation: Evaluation) -> Table | None:
    """How many benign texts of each set are flagged at the thresholds.

    Args:
        evaluation: What came of measuring.

    Returns:
        One row a set, the first detector's worst first; None where nothing was flagged by a threshold.
    """
    methods = [method for method in evaluation.methods if method.over_defence]
    if not methods:
        return None
    notes = Footnotes()
    cells = {
        (at, own.name): figure(own.rate, notes, percent)
        for at, method in enumerate(methods)
        for own in method.over_defence
    }
    texts = {own.name: own.rate.n for method in methods for own in method.over_defence}
    return Table(
        "Benign texts that are flagged",
        ("set", "benign texts", *(method.name for method in methods)),
        tuple(
            (name, f"{count:,}", *(cells.get((at, name), NONE) for at in range(len(methods))))
            for name, count in texts.items()
        ),
        note="Detectors at the thresholds of the policy, baselines at even odds; the worst set first.",
        footnotes=notes.reasons,
    )


def left_out(evaluation: Evaluation) -> Table | None:
    """Each set at a cut that was taken on all others, of each detector.

    Args:
        evaluation: What came of measuring.

    Returns:
        One row a detector, set and rate; the note says of how many there is no cut, and why. None where no set has
        texts enough.
    """
    notes, rows = Footnotes(), []
    without: dict[str, int] = {}
    for method in evaluation.methods:
        for own in method.left_out if method.kind == "detector" else ():
            if own.cut is None:
                reason = own.fpr.reason or "not measured"
                without[reason] = without.get(reason, 0) + 1
                continue
            figures = (figure(own.fpr, notes, percent), figure(own.recall, notes))
            rows.append((own.name, own.stage, method.name, _rate(own.rate), f"{own.cut:.4f}", *figures))
    if not rows and not without:
        return None
    told = ["The cut is taken on benign texts of the other sets of the stage, as if this one had never been seen."]
    told += [f"{counted(count, 'row')} without a cut: {reason}." for reason, count in without.items()]
    return Table(
        "Each set at cuts of all others",
        ("set", "stage", "detector", "rate", "cut", "false positives", "recall"),
        tuple(sorted(rows)),
        words=(0, 1, 2),
        note=" ".join(told),
        footnotes=notes.reasons,
    )


def confusions(evaluation: Evaluation) -> tuple[Table, ...]:
    """What texts of each class were taken for, of each detector.

    Args:
        evaluation: What came of measuring.

    Returns:
        One table or two a detector that has thresholds.
    """
    found = []
    for method in evaluation.methods:
        overall = method.overall
        if method.kind != "detector" or overall is None or overall.at_thresholds is None:
            continue
        found.append(_confusion(f"{method.name}: harmful or benign", overall.at_thresholds.confusion))
        if method.classes is not None:
            found.append(_confusion(f"{method.name}: by class", method.classes))
    return tuple(found)


def unread(evaluation: Evaluation) -> Table | None:
    """Texts that could not be read.

    Args:
        evaluation: What came of measuring.

    Returns:
        The first of each detector's; None where all were read.
    """
    rows = tuple((method.name, own.source, own.why) for method in evaluation.methods for own in method.unread_texts)
    if not rows:
        return None
    counts = [f"{method.name} {method.unread:,}" for method in evaluation.methods if method.unread]
    return Table(
        "Texts that could not be read",
        ("detector", "where", "why"),
        rows,
        words=(0, 1, 2),
        note=f"They count as flagged. In all: {', '.join(counts)}.",
    )


def warnings(evaluation: Evaluation) -> tuple[str, ...]:
    """What to know before a figure is quoted.

    Args:
        evaluation: What came of measuring.

    Returns:
        One sentence or two each.
    """
    found = []
    if evaluation.fitted_sets is None:
        found.append("On what the heads were fitted is not known: of these texts they may have seen some.")
    elif set(evaluation.fitted_sets) & set(evaluation.sets):
        seen = sorted(set(evaluation.fitted_sets) & set(evaluation.sets))
        found.append(f"Something was fitted on texts of {listed(seen)}. What holds elsewhere is under unseen sets.")
    if evaluation.repeated:
        found.append(
            f"{counted(evaluation.repeated, 'text stands', 'texts stand')} letter by letter among those that were "
            "fitted on, and make the figures too good."
        )
    if len(evaluation.sets) == 1:
        found.append("All texts are of one set: nothing here says how the figures hold on texts of another source.")
    best = [
        (own.overall.auc.value, own) for own in evaluation.methods if own.overall and own.overall.auc.value is not None
    ]
    detectors = [value for value, own in best if own.kind == "detector"]
    if detectors:
        above = [own.name for value, own in best if own.kind == "baseline" and value >= max(detectors)]
        if above:
            found.append(
                f"By AUC over all texts no detector does better than {listed(above)}: these texts can be told apart "
                "without a model, and say little of one."
            )
    for method in evaluation.methods:
        if method.contexts_read:
            found.append(f"{method.name} read the contexts of {counted(method.contexts_read, 'text')}.")
    return tuple(found)


def _slices(
    methods: Sequence[Method],
    slices: Slice,
    what: str,
    title: str,
    of: Callable[[Measures], Figure | None],
    form: Form,
    *,
    sparse: bool,
) -> Table:
    notes = Footnotes()
    parts = {own.name: own for method in methods for own in slices(method)}
    cells: dict[str, dict[int, Figure]] = {name: {} for name in parts}
    for at, method in enumerate(methods):
        for own in slices(method):
            found = of(own)
            if found is not None:
                cells[own.name][at] = found
    kept = [name for name in parts if not sparse or any(own.value is not None for own in cells[name].values())]
    left = len(parts) - len(kept)
    seen = any(own.fitted is not None for own in parts.values())
    rows = []
    for name in kept:
        own = parts[name]
        known = NONE if own.fitted is None else "yes" if own.fitted else "no"
        figures = (cells[name].get(at) for at in range(len(methods)))
        rows.append(
            (
                name,
                f"{own.texts:,}",
                f"{own.harmful:,}",
                *([known] if seen else []),
                *(NONE if one is None else figure(one, notes, form) for one in figures),
            )
        )
    return Table(
        title,
        (what, "texts", "harmful", *(["fitted on"] if seen else []), *(method.name for method in methods)),
        tuple(rows),
        note=f"Without {counted(left, what)} that {'has' if left == 1 else 'have'} too few texts for it."
        if left
        else "",
        footnotes=notes.reasons,
    )


def _of_rate(rate: float, of: Callable[[AtRate], Figure]) -> Callable[[Measures], Figure | None]:
    return lambda own: next((of(at) for at in own.at_rates if at.rate == rate), None)


def _confusion(title: str, own: Confusion) -> Table:
    return Table(
        title,
        ("is", *(f"taken for {label}" for label in own.labels)),
        tuple((label, *(f"{n:,}" for n in row)) for label, row in zip(own.labels, own.counts, strict=True)),
    )


def _worst(own: SetRate | None, notes: Footnotes) -> str:
    if own is not None and own.rate.value == 0.0:
        return "none of them"
    return NONE if own is None else f"{own.name}\n{figure(own.rate, notes, percent)}"


def _missing(method: Method, notes: Footnotes) -> str:
    return NONE + notes.mark(method.reason or "not measured on these texts")


def _rate(rate: float) -> str:
    return f"{100 * rate:g}%"
