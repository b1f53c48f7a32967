"""Plots of the demonstration, as SVG: the same bytes for the same figures."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmarks.inside.behaviour import Share
from lec_guard.train.plots import COLOURS

_STYLE: Any = {
    "svg.hashsalt": "lec-guard",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
}
_SPACES = {"log": "log probabilities", "probability": "probabilities"}
_WAYS = {None: "no system prompt", 1.0: "coefficient 1", 2.0: "coefficient 2"}


def guidance(report: dict[str, Any]) -> bytes:
    """Personal data in an answer, and facts got right, over the coefficient.

    Args:
        report: What the demonstration measured, as JSON gives it back.

    Returns:
        SVG.
    """
    rows = report["guidance"]["rows"]
    with _plot(7.2, 2.9) as (figure, out):
        people, facts = figure.subplots(1, 2)
        for at, (space, name) in enumerate(_SPACES.items()):
            own = sorted(
                (row for row in rows if row["way"]["space"] == space or row["way"]["coefficient"] in (0.0, 1.0)),
                key=lambda row: float(row["way"]["coefficient"]),
            )
            x = [row["way"]["coefficient"] + 0.04 * at for row in own]
            means = [row["per_answer"] for row in own]
            look: Any = {"color": COLOURS[at], "marker": "os"[at], "markersize": 4, "capsize": 2, "label": name}
            people.errorbar(x, [one["value"] for one in means], yerr=_ends(means), **look)
            shares = [_percent(row["right"]) for row in own]
            facts.errorbar(x, [one["value"] for one in shares], yerr=_ends(shares), **look)
        people.set_ylabel("personal data in an answer")
        facts.set_ylabel("facts got right (%)")
        facts.set_ylim(0, 101)
        people.set_ylim(0, None)
        for axes in (people, facts):
            axes.set_xlabel("coefficient")
        figure.legend(*people.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return out.getvalue()


def stopping(report: dict[str, Any]) -> bytes:
    """How many tokens of a harmful part were written before it was stopped.

    Args:
        report: As of `guidance`.

    Returns:
        SVG.
    """
    with _plot(7.2, 2.7) as (figure, out):
        axes = figure.add_subplot()
        for at, row in enumerate(report["decoding"]["rows"]):
            after = sorted(row["after"])
            missed = row["turned"]["hits"] - len(after)
            share = [100 * (number + 1) / max(1, len(after) + missed) for number in range(len(after))]
            axes.step([0, *after], [0, *share], where="post", color=COLOURS[at], label=row["name"])
        axes.set_ylim(0, 101)
        axes.set_xlim(0, None)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("tokens of the harmful part that were written")
        axes.set_ylabel("answers stopped by then (%)")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return out.getvalue()


def orpo(report: dict[str, Any]) -> bytes:
    """Personal data in an answer before and after tuning.

    Args:
        report: As of `guidance`.

    Returns:
        SVG.
    """
    tuned = report["orpo"]
    models = {"the model alone": tuned["before"]} | {run_name(one): one["rows"] for one in tuned["runs"]}
    with _plot(7.2, 2.7) as (figure, out):
        axes = figure.add_subplot()
        for at, (coefficient, name) in enumerate(_WAYS.items()):
            own = [
                row["per_answer"]
                for rows in models.values()
                for row in rows
                if row["way"]["coefficient"] == coefficient
            ]
            axes.bar(
                [place + 0.26 * (at - 1) for place in range(len(own))],
                [one["value"] for one in own],
                width=0.24,
                yerr=_ends(own),
                capsize=2,
                color=COLOURS[at],
                label=name,
            )
        axes.set_xticks(range(len(models)), list(models), fontsize=8)
        axes.set_ylabel("personal data in an answer")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return out.getvalue()


def run_name(run: dict[str, Any]) -> str:
    """What tables and plots call a run of ORPO.

    Args:
        run: The run.

    Returns:
        Such as `ORPO, guided pairs, 0.0001`.
    """
    return f"ORPO, {'guided' if run['guided'] else 'plain'} pairs, {run['rate']:g}"


PLOTS: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "guidance.svg": guidance,
    "stopping.svg": stopping,
    "orpo.svg": orpo,
}
"""Files beside the page."""


def _percent(own: dict[str, int]) -> dict[str, float]:
    share = Share(**own)
    low, high = share.interval
    return {"value": 100 * share.rate, "low": 100 * low, "high": 100 * high}


def _ends(own: list[dict[str, float]]) -> list[list[float]]:
    return [
        [max(0.0, one["value"] - one["low"]) for one in own],
        [max(0.0, one["high"] - one["value"]) for one in own],
    ]


@contextmanager
def _plot(width: float, height: float) -> Iterator[tuple[Figure, io.BytesIO]]:
    out = io.BytesIO()
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure, out
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
