"""Reports of both commands as one page of HTML, and the model card.

A page is one file: plots are in it, it runs no script and its own policy lets it fetch nothing. Names of labels, sets,
files and detectors come from users, so all that is shown is escaped.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files

from lec_guard.errors import UnsupportedValueError
from lec_guard.train import evaluation_tables, plots, train_tables
from lec_guard.train.evaluate import Evaluation, Measures, Method
from lec_guard.train.sweep import name_of
from lec_guard.train.tables import Table, counted, number, percent, plain
from lec_guard.train.trainer import Trained

_Of = Callable[[Method], Measures | None]
_MARKDOWN = re.compile(r"[\\`*_\[\]<>#|~&!@$]|(?<=:)//|(?<=[wW]{3})\.")
"""What would be read as more than itself; addresses become links by `//` and `www.`."""


@dataclass(frozen=True, slots=True)
class _Plot:
    """A plot on a page."""

    caption: str
    svg: bytes

    @property
    def base64(self) -> str:
        return base64.b64encode(self.svg).decode()


@dataclass(frozen=True, slots=True)
class _Section:
    """A part of a page."""

    title: str
    words: Sequence[str] = ()
    warnings: Sequence[str] = ()
    plots: Sequence[_Plot] = ()
    tables: Sequence[Table] = ()


def train_report(result: Trained) -> str:
    """A training run as a page.

    Args:
        result: The run.

    Returns:
        HTML, whole in itself.

    Raises:
        UnsupportedValueError: If a package of the extra `train` is missing.
    """
    sections = [
        _Section("The head", tables=[train_tables.facts(result)]),
        _Section("What these figures do not say", warnings=train_tables.limits(result)),
        _Section(
            "Thresholds",
            ["As the policy that was written with the bundle has them."],
            tables=[train_tables.bars(result.bars)],
        ),
    ]
    notes = list(result.notes)
    if result.curves is not None:
        swept = result.curves
        sections.append(
            _Section(
                "Learning curves",
                ["Each layer with all its poolings. A band is a standard deviation over draws to each side."],
                [] if swept.no_recall is None else [swept.no_recall],
                [
                    _Plot(
                        "Weighted F1 over the number of texts to fit on, for each layer.",
                        plots.learning_curves(swept, "f1", _trivial(result)),
                    ),
                    _Plot(
                        "AUC over the number of texts to fit on, for each layer.", plots.learning_curves(swept, "auc")
                    ),
                    _Plot("AUC for each layer and number of texts.", plots.heat_map(swept, "auc")),
                ],
                train_tables.curves(swept, result.length, result.majority),
            )
        )
    sections.append(
        _Section(
            "How the layer was chosen",
            [
                f"Families were dealt to {counted(result.folds, 'part')} and each part was left out in turn. Chosen "
                f"was what told the left-out families' texts best, by log loss: layer {name_of(result.chosen.blocks)}, "
                f"C = {result.chosen.penalty:g}."
            ],
            tables=[train_tables.tried(result)],
        )
    )
    screened = train_tables.screened(result)
    if screened:
        sections.append(_Section("The quick screen", tables=screened))
    sections.append(
        _Section(
            "Long texts",
            plots=[
                _Plot("Recall and false alarms by how many windows a text has.", plots.by_length(result.aggregation))
            ],
            tables=[train_tables.lengths(result)],
        )
    )
    contexts = train_tables.contexts(result)
    if contexts is not None:
        sections.append(_Section("Contexts", tables=[contexts]))
    sections.append(_Section("The run", notes, tables=[train_tables.seconds(result)]))
    return _page(
        f"Training report: {result.head}",
        f"Detector {result.detector_id}, fitted on {counted(sum(result.counts), 'text')}.",
        sections,
    )


def _trivial(result: Trained) -> dict[str, float]:
    """What reads no layer, for the plot of learning curves."""
    lines = {} if result.majority is None else {"largest class": result.majority}
    if result.length:
        most = max(result.length)
        lines[f"length alone, {most:,} texts"] = result.length[most].mean
    return lines


def evaluation_report(result: Evaluation) -> str:
    """Measured detectors as a page.

    Args:
        result: What came of measuring.

    Returns:
        HTML, whole in itself.

    Raises:
        UnsupportedValueError: If a package of the extra `train` is missing.
    """
    detectors = [method.name for method in result.methods if method.kind == "detector"]
    sections = [
        _Section(
            "What was measured", warnings=evaluation_tables.warnings(result), tables=[evaluation_tables.facts(result)]
        ),
        _Section(
            "All texts",
            plots=_plots(
                ("ROC curves of all methods, with 95% bands.", plots.roc(result)),
                ("Precision-recall curves of all methods, with 95% bands.", plots.precision_recall(result)),
            ),
            tables=_overall(result, lambda method: method.overall),
        ),
    ]
    if any(method.unseen is not None for method in result.methods):
        sections.append(
            _Section(
                "Unseen sets",
                ["Sets that nothing was fitted on: the figures to quote."],
                tables=_overall(result, lambda method: method.unseen),
            )
        )
    budget = evaluation_tables.realised(result)
    if budget is not None:
        sections.append(_Section("Budgets", tables=[budget]))
    sections.append(
        _Section(
            "Sets",
            plots=_bars(result),
            tables=_there(
                *evaluation_tables.by_set(result),
                evaluation_tables.over_defence(result),
                evaluation_tables.left_out(result),
            ),
        )
    )
    slices: tuple[tuple[str, str, evaluation_tables.Slice], ...] = (
        ("Stages", "stage", lambda method: method.stages),
        ("Languages", "language", lambda method: method.languages),
        ("Lengths", "length", lambda method: method.lengths),
    )
    for title, what, own in slices:
        words = [f"Windows as {result.lengths} reads them."] if what == "length" else []
        sections.append(_Section(title, words, tables=evaluation_tables.by_slice(result, own, what)))
    sections.append(
        _Section(
            "Scores as probabilities",
            [f"For the share of harmful texts that these have: {percent(result.harmful / result.texts)}."],
            plots=_plots(("What was promised against what was.", plots.reliability(result))),
        )
    )
    confusions = evaluation_tables.confusions(result)
    if confusions:
        sections.append(_Section("What texts were taken for", tables=confusions))
    unread = evaluation_tables.unread(result)
    if unread is not None:
        sections.append(_Section("Texts that could not be read", tables=[unread]))
    return _page(
        f"Evaluation: {result.head}",
        f"{', '.join(detectors)} on {counted(result.texts, 'text')} of {counted(len(result.sets), 'set')}.",
        sections,
    )


def model_card(result: Trained) -> str:
    """What a head is, what it was fitted on and what it must not be used for, in Markdown.

    Args:
        result: The run.

    Returns:
        A README for the bundle's folder.
    """
    head, chosen = markdown(result.head), result.chosen
    lines = [
        f"# {head}",
        "",
        f"A head for lec-guard: a penalised logistic regression that tells {markdown(result.labels[0])} from "
        f"{markdown(', '.join(result.labels[1:]))} texts, on features of layer {name_of(chosen.blocks)} of a "
        f"transformer of {counted(result.layers, 'layer')} (the LEC method, arXiv 2412.13435).",
        "",
        f"Detector {markdown(result.detector_id)}. The folder of this card has all figures of the run, and a policy to "
        "start from.",
        "",
        "## Data",
        "",
        *_rows(("class", "texts"), [(label, f"{n:,}") for label, n in zip(result.labels, result.counts, strict=True)]),
        "",
        f"They make {counted(result.families, 'family', 'families')}: sets that the data names, or texts that read "
        "alike.",
        *(["", *(f"- {markdown(note)}" for note in result.notes)] if result.notes else []),
        "",
        "## How it was chosen",
        "",
        f"Of {counted(len(result.tried), 'way', 'ways')} of reading, the one with the lowest log loss on families that "
        f"were left out, in {counted(result.folds, 'part')}. The penalty is C = {chosen.penalty:g}. "
        f"On left-out families: AUC {number(chosen.auc)}, log loss {train_tables.loss(chosen.loss)} nats a text. "
        "The choice was made by these figures, so they are slightly too good.",
        "",
        f"Scores are calibrated on left-out families (Platt), for a share of harmful texts of {result.prior:.0%}.",
        "",
        "## Thresholds",
        "",
        *_table(train_tables.bars(result.bars)),
        "",
        "## Limits",
        "",
        *(f"- {markdown(words)}" for words in train_tables.limits(result)),
        "",
        "## Not to be used",
        "",
        "- As the only protection of a system that can do harm: it misses attacks, and attackers adapt.",
        "- To judge people, or to decide about them.",
        "- On stages, languages or kinds of text that the data above does not hold, before `lec-guard eval` has "
        "measured it there.",
        "- With another extractor than the bundle names: its columns mean nothing there.",
        "",
    ]
    return "\n".join(lines)


def markdown(words: str) -> str:
    """Words that Markdown shows as they are.

    Args:
        words: Such as a name that a user gave.

    Returns:
        One line, without markup, links or HTML.
    """
    return _MARKDOWN.sub(lambda found: "".join(f"\\{c}" for c in found[0]), plain(words).replace("\n", " "))


def _overall(result: Evaluation, of: _Of) -> list[Table]:
    found = [evaluation_tables.ranking(result, of, "Telling harmful from benign")]
    if result.rates:
        found.append(evaluation_tables.at_rates(result, of, "At rates of false positives"))
    if any((own := of(method)) is not None and own.at_thresholds is not None for method in result.methods):
        found.append(evaluation_tables.at_thresholds(result, of, "At thresholds"))
    return found


def _plots(*drawn: tuple[str, bytes | None]) -> list[_Plot]:
    return [_Plot(caption, svg) for caption, svg in drawn if svg is not None]


def _bars(result: Evaluation) -> list[_Plot]:
    """Of the highest rate alone: of lower ones few sets have texts enough."""
    if not result.rates:
        return []
    rate = max(result.rates)
    where = f"cut at {100 * rate:g}% on all others; the worst on top"
    return _plots(
        (f"False positives of each set, {where}.", plots.set_bars(result, rate, "fpr")),
        (f"Recall of each set, {where}.", plots.set_bars(result, rate, "recall")),
    )


def _there(*tables: Table | None) -> list[Table]:
    return [table for table in tables if table is not None]


def _page(title: str, lead: str, sections: Sequence[_Section]) -> str:
    try:
        import jinja2
    except ModuleNotFoundError as missing:
        raise UnsupportedValueError(f"reports need {missing.name}; run: pip install 'lec-guard[train]'") from None
    template = (files("lec_guard.train") / "templates" / "report.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: plain(value) if type(value) is str else value,
    )
    shown = [section for section in sections if section.words or section.warnings or section.plots or section.tables]
    return environment.from_string(template).render(
        title=title, lead=lead, sections=shown, version=version("lec-guard")
    )


def _table(table: Table) -> list[str]:
    lines = _rows(table.columns, table.rows, words=table.words)
    for words in table.below:
        lines += ["", markdown(words)]
    return lines


def _rows(columns: Sequence[str], rows: Sequence[Sequence[str]], words: Sequence[int] = (0,)) -> list[str]:
    rule = ["---" if at in words else "---:" for at in range(len(columns))]
    shown = [columns, rule, *([markdown(cell) for cell in row] for row in rows)]
    return [f"| {' | '.join(cells)} |" for cells in shown]
