"""Plots of both commands, as SVG: the same bytes for the same figures.

Colours are those of Okabe and Ito ("Color Universal Design", 2008) and the map viridis, so that whoever sees fewer
colours sees the same; lines differ in dashes or markers too.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt

from lec_guard.errors import UnsupportedValueError
from lec_guard.train.calibrate import BUDGET, Aggregation
from lec_guard.train.evaluate import Evaluation, Method
from lec_guard.train.metrics import Curve
from lec_guard.train.sweep import Spread, SummaryRow, Sweep
from lec_guard.train.tables import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Of methods, in this order; what comes after the last starts anew with other dashes."""

MOST_SETS: Final = 30
"""Sets that have a bar; of more, those with the highest rates of false alarms or the lowest recall."""

Score = Literal["f1", "auc"]
Rate = Literal["fpr", "recall"]
_DASHES = ("-", "--", ":", "-.")
_MARKERS = "osD^vPX"
_GREY = "#595959"
_WIDTH = 7.2
"""Inches; 72 of whose points are 96 pixels."""
_LONGEST = 30
"""Characters of a name."""
_STYLE: Any = {
    "svg.hashsalt": "lec-guard",
    "svg.fonttype": "none",  # Browsers have letters for names that the plots' own font lacks.
    "font.family": "sans-serif",
    "font.size": 10,
    "text.parse_math": False,  # A dollar in a name is a dollar.
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
}
_SCORES: dict[Score, str] = {"f1": "weighted F1", "auc": "area under the ROC curve (AUC)"}


def learning_curves(swept: Sweep, score: Score, baselines: Mapping[str, float] | None = None) -> bytes:
    """A score over the number of texts that heads were fitted on, one line for each layer.

    As figure 3 and those after it of LEC (arXiv 2412.13435). Bands are a standard deviation over draws to each side.

    Args:
        swept: The sweep.
        score: Which score.
        baselines: Name -> score of what reads no layer, drawn as lines across.

    Returns:
        SVG.
    """
    rows = swept.summary()
    with _plot(_WIDTH, 4.6) as (figure, out):
        axes = figure.add_subplot()
        names = list(dict.fromkeys(row.name for row in rows))
        for at, name in enumerate(names):
            own = [row for row in rows if row.name == name]
            sizes, spreads = [row.size for row in own], [_spread(row, score) for row in own]
            colour = _shade(at / max(len(names) - 1, 1))
            axes.plot(
                sizes,
                [spread.mean for spread in spreads],
                color=colour,
                linestyle=_DASHES[at // len(_MARKERS) % len(_DASHES)],
                marker=_MARKERS[at % len(_MARKERS)],
                markersize=4.5,
                label=f"layer {name}",
            )
            low = [max(spread.mean - (spread.sd or 0.0), 0.0) for spread in spreads]
            high = [min(spread.mean + (spread.sd or 0.0), 1.0) for spread in spreads]
            axes.fill_between(sizes, low, high, color=colour, alpha=0.08, linewidth=0)
        for at, (name, value) in enumerate((baselines or {}).items()):
            axes.axhline(value, color=_GREY, linestyle=_DASHES[1 + at % 3], linewidth=1.2, label=_short(name))
        axes.set_xscale("log")
        sizes = sorted({row.size for row in rows})
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.minorticks_off()
        axes.set_xlabel("texts to fit on (logarithmic)")
        axes.set_ylabel(_SCORES[score])
        _legend(figure, axes, columns=4)
    return out.getvalue()


def heat_map(swept: Sweep, score: Score) -> bytes:
    """A score for each layer and number of texts, with its numbers.

    Args:
        swept: The sweep.
        score: Which score.

    Returns:
        SVG.
    """
    rows = swept.summary()
    names, sizes = list(dict.fromkeys(row.name for row in rows)), sorted({row.size for row in rows})
    values = {(row.name, row.size): _spread(row, score).mean for row in rows}
    with _plot(_WIDTH, 1.6 + 0.36 * len(names)) as (figure, out):
        axes = figure.add_subplot()
        axes.grid(visible=False)
        low, high = min(values.values()), max(values.values())
        if high - low < 0.01:
            low = high - 0.01  # Noise is not to look like a difference.
        table = [[values.get((name, size), math.nan) for size in sizes] for name in names]
        image = axes.imshow(table, cmap="viridis", aspect="auto", vmin=low, vmax=high, origin="lower")
        for y, name in enumerate(names):
            for x, size in enumerate(sizes):
                value = values.get((name, size))
                if value is not None:
                    dark = (value - low) / (high - low) < 0.55
                    axes.text(x, y, f"{value:.2f}", ha="center", va="center", color="white" if dark else "black")
        axes.set_xticks(range(len(sizes)), [f"{size:,}" for size in sizes])
        axes.set_yticks(range(len(names)), names)
        axes.set_xlabel("texts to fit on")
        axes.set_ylabel("layer and poolings")
        figure.colorbar(image, ax=axes, label=_SCORES[score], pad=0.02)
    return out.getvalue()


def by_length(aggregation: Aggregation) -> bytes:
    """Recall and false alarms by how many windows a text has.

    Args:
        aggregation: How windows make a text's score, and what came of it.

    Returns:
        SVG.
    """
    with _plot(_WIDTH, 4.6) as (figure, out):
        upper, lower = figure.subplots(2, 1, sharex=True)
        windows = sorted(aggregation.recall_by_windows)
        upper.plot(windows, [aggregation.recall_by_windows[n] for n in windows], color=COLOURS[0], marker="o", ms=4)
        upper.set_ylim(-0.03, 1.03)
        upper.set_ylabel("recall")
        alarms = [100 * aggregation.false_alarms_by_windows[n] for n in windows]
        lower.plot(windows, alarms, color=COLOURS[1], marker="s", ms=4, label="measured")
        lower.axhline(100 * BUDGET, color=_GREY, linestyle="--", linewidth=1.2, label=f"aimed at: {BUDGET:.0%}")
        lower.set_ylim(0, 1.15 * max(*alarms, 100 * BUDGET))
        lower.set_ylabel("false alarms (%)")
        lower.set_xscale("log", base=2)
        lower.set_xticks(windows, [f"{n:,}" for n in windows])
        lower.tick_params(axis="x", labelsize=8)
        lower.minorticks_off()
        lower.set_xlabel("windows in a text (logarithmic)")
        lower.legend(frameon=False, fontsize=9)
    return out.getvalue()


def roc(evaluation: Evaluation) -> bytes | None:
    """ROC curves of all methods, with the false-positive rate as it is and logarithmic.

    Args:
        evaluation: What came of measuring.

    Returns:
        SVG; None where no method has a curve.
    """
    curves = [(method, method.roc) for method in evaluation.methods if method.roc is not None]
    if not curves:
        return None
    with _plot(_WIDTH, 4.2 + 0.22 * math.ceil(len(curves) / 3)) as (figure, out):
        left, right = figure.subplots(1, 2, sharey=True)
        # A curve ends where one benign text is the only one above.
        least = min(1 / max(evaluation.texts - evaluation.harmful, 2), 0.1)
        for at, (method, curve) in enumerate(curves):
            _line(left, curve, at, method)
            _line(right, curve, at, method, least=least)
        left.plot([0, 1], [0, 1], color=_GREY, linestyle=":", linewidth=1)
        left.set_xlabel("false-positive rate")
        right.set_xlabel("false-positive rate (logarithmic)")
        left.set_ylabel("recall")
        left.set_ylim(-0.02, 1.02)
        right.set_xscale("log")
        right.set_xlim(least, 1)
        right.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        for rate in evaluation.rates:
            if rate > least:
                right.axvline(rate, color=_GREY, linestyle=":", linewidth=1)
        _legend(figure, left, columns=3)
    return out.getvalue()


def precision_recall(evaluation: Evaluation) -> bytes | None:
    """Precision-recall curves of all methods.

    Args:
        evaluation: What came of measuring.

    Returns:
        SVG; None where no method has a curve.
    """
    curves = [(method, method.precision_recall) for method in evaluation.methods if method.precision_recall is not None]
    if not curves:
        return None
    with _plot(_WIDTH, 4.2 + 0.22 * math.ceil(len(curves) / 3)) as (figure, out):
        axes = figure.add_subplot()
        for at, (method, curve) in enumerate(curves):
            _stairs(axes, curve, at, method)
        share = evaluation.harmful / evaluation.texts
        axes.axhline(share, color=_GREY, linestyle=":", linewidth=1, label=f"share of harmful texts: {share:.2f}")
        axes.set_xlim(-0.01, 1.01)
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel("recall")
        axes.set_ylabel("precision")
        _legend(figure, axes, columns=3)
    return out.getvalue()


def reliability(evaluation: Evaluation) -> bytes | None:
    """What was promised against what was, in bins of equally many texts.

    Args:
        evaluation: What came of measuring.

    Returns:
        SVG; None where no method has bins.
    """
    methods = [method for method in evaluation.methods if method.reliability]
    if not methods:
        return None
    with _plot(_WIDTH, 4.6 + 0.22 * math.ceil(len(methods) / 3)) as (figure, out):
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color=_GREY, linestyle=":", linewidth=1, label="as promised")
        for at, method in enumerate(methods):
            bins = method.reliability
            axes.plot(
                [own.score for own in bins],
                [own.harmful for own in bins],
                **_look(at, method),
                marker=_MARKERS[at % len(_MARKERS)],
                markersize=4,
            )
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel("mean score of the texts in a bin")
        axes.set_ylabel("share of them that is harmful")
        _legend(figure, axes, columns=3)
    return out.getvalue()


def set_bars(evaluation: Evaluation, rate: float, what: Rate) -> bytes | None:
    """Each set at a cut that was taken on all others: false positives, or recall, of each detector.

    Args:
        evaluation: What came of measuring.
        rate: The false-positive rate of the cuts; one of the evaluation's.
        what: Which of both.

    Returns:
        SVG; None where no set has texts enough.
    """
    found: dict[str, dict[str, tuple[float, float, float]]] = {}
    detectors = [method for method in evaluation.methods if method.kind == "detector"]
    stages = {own.stage for method in detectors for own in method.left_out}
    for method in detectors:
        for own in method.left_out:
            figure_of = own.fpr if what == "fpr" else own.recall
            if own.rate != rate or figure_of.value is None:
                continue
            value = figure_of.value
            low, high = (value if end is None else end for end in (figure_of.low, figure_of.high))
            name = own.name if len(stages) == 1 else f"{own.name} ({own.stage})"
            found.setdefault(name, {})[method.name] = (value, low, high)
    if not found:
        return None
    # The worst set on top, and with the first bars that are cut off where there are too many.
    worst = sorted(found, key=lambda name: _mean(found[name]) * (-1 if what == "fpr" else 1))[:MOST_SETS]
    height = 1.6 + len(worst) * (0.16 + 0.2 * len(detectors))
    with _plot(_WIDTH, height) as (figure, out):
        axes = figure.add_subplot()
        axes.grid(visible=False, axis="y")
        thick = 0.8 / len(detectors)
        for at, method in enumerate(detectors):
            there = [(y, found[name][method.name]) for y, name in enumerate(worst) if method.name in found[name]]
            axes.barh(
                [y + (at - (len(detectors) - 1) / 2) * thick for y, _ in there],
                [100 * value for _, (value, _, _) in there],
                height=0.9 * thick,
                xerr=[
                    [100 * (value - low) for _, (value, low, _) in there],
                    [100 * (high - value) for _, (value, _, high) in there],
                ],
                color=COLOURS[at % len(COLOURS)],
                error_kw={"ecolor": "#333333", "elinewidth": 1, "capsize": 2},
                label=_short(method.name),
            )
        if what == "fpr":
            axes.axvline(100 * rate, color="#000000", linestyle="--", linewidth=1.2, label=f"aimed at: {100 * rate:g}%")
            axes.set_xlim(0, None)
        else:
            axes.set_xlim(0, 101)
        axes.set_yticks(range(len(worst)), [_short(name) for name in worst])
        axes.set_ylim(len(worst) - 0.4, -0.6)
        axes.set_xlabel("false positives (% of benign texts)" if what == "fpr" else "recall (% of harmful texts)")
        _legend(figure, axes, columns=3)
    return out.getvalue()


@contextmanager
def _plot(width: float, height: float) -> Iterator[tuple[Figure, io.BytesIO]]:
    """A figure in our style, and where it is drawn to once it is whole."""
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as missing:
        raise UnsupportedValueError(f"plots need {missing.name}; run: pip install 'lec-guard[train]'") from None

    out = io.BytesIO()
    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        # The browser has letters that the font with which widths are measured lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure, out
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)


def _line(axes: Axes, curve: Curve, at: int, method: Method, *, least: float | None = None) -> None:
    """A ROC curve and its band; from a false-positive rate on for a logarithmic axis, where its straights are bent."""
    x = np.asarray(curve.x)
    shown = x if least is None else np.union1d(x[x >= least], np.geomspace(least, 1, 200))

    def on(y: Sequence[float]) -> npt.NDArray[np.float64]:
        return np.asarray(y) if least is None else np.interp(shown, x, y)

    look = _look(at, method)
    axes.plot(shown, on(curve.y), **look)
    band = curve.over_sets or curve.over_texts
    if band is not None:
        axes.fill_between(shown, on(band.low), on(band.high), color=look["color"], alpha=_band(method), linewidth=0)


def _stairs(axes: Axes, curve: Curve, at: int, method: Method) -> None:
    """A precision-recall curve and its band: between two recalls precision is that of the higher, as AUPRC counts."""
    look = _look(at, method)
    x = [0.0, *curve.x]
    axes.plot(x, [curve.y[0], *curve.y], drawstyle="steps-pre", **look)
    band = curve.over_sets or curve.over_texts
    if band is not None:
        low, high = ([end[0], *end] for end in (band.low, band.high))
        axes.fill_between(x, low, high, step="pre", color=look["color"], alpha=_band(method), linewidth=0)


def _band(method: Method) -> float:
    """Those of baselines are wide, and must not hide the others."""
    return 0.15 if method.kind == "detector" else 0.06


def _look(at: int, method: Method) -> dict[str, Any]:
    return {
        "color": COLOURS[at % len(COLOURS)],
        "linestyle": "-" if method.kind == "detector" else _DASHES[1 + at % 3],
        "linewidth": 2.0 if method.kind == "detector" else 1.3,
        "label": _short(method.name),
    }


def _legend(figure: Figure, axes: Axes, *, columns: int) -> None:
    """Below the plot."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=min(columns, len(labels)), frameon=False, fontsize=9
    )


def _shade(share: float) -> str:
    """From dark for the lowest layer to light, without what is too light for white paper."""
    import matplotlib as mpl
    from matplotlib.colors import to_hex

    return to_hex(mpl.colormaps["viridis"](0.88 * share))


def _spread(row: SummaryRow, score: Score) -> Spread:
    return row.f1 if score == "f1" else row.auc


def _short(name: str) -> str:
    words = plain(name).replace("\n", " ")
    if words.startswith("_"):
        words = "\u200a" + words  # A legend leaves out what starts with that.
    return words if len(words) <= _LONGEST else words[: _LONGEST - 1] + "…"


def _mean(of: Mapping[str, Sequence[float]]) -> float:
    return sum(own[0] for own in of.values()) / len(of)
