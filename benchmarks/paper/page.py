"""The page of `benchmarks.paper.run`, from its figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.markdown import table

HERE = Path(__file__).parent
PAGE = HERE / "README.md"
LINES = {
    "injection": (("GPT-4o", 0.92), ("the paper's best", 0.98)),
    "content": (("GPT-4o", 0.82), ("the paper's best", 0.96)),
}
"""Weighted F1 that the paper gives, by claim."""

_TOP = """# The claims of the LEC paper, with the embedded detector's model

Masterman et al. 2024 (arXiv 2412.13435) fit penalised logistic regression to the state after one layer, and say that
middle layers need fewer examples than the last one, and pass GPT-4o with fewer than 100. Here the same is done with
all-MiniLM-L6-v2 (6 layers, layer 0 being the embeddings) and public sets:

    python -m benchmarks.paper.run --data DATA --work FOLDER

DATA holds the sets by name as JSON lines; their sources stand in the model card of the embedded detector. Figures are
weighted F1: means of five draws (lowest to highest), at the C that texts of neither side chose; tested on texts that
are no near-duplicates of those drawn, but of the same sets. That is what the paper does, and it flatters: a head is not
asked about a source that it never saw. `length` is a regression on a text's length and its square, fitted to draws of
the same sizes. **The margin over it is what a head is worth.**
"""


def write_page(report: dict[str, Any]) -> None:
    """Write the page.

    Args:
        report: What `benchmarks.paper.run` measured, as JSON gives it back.
    """
    PAGE.write_text(page(report), encoding="utf-8")


def page(report: dict[str, Any]) -> str:
    """The whole page.

    Args:
        report: See `write_page`.

    Returns:
        Markdown.
    """
    parts = [_TOP, "## In short\n", _summary(report["tasks"]), _verdict(report["tasks"])]
    for task in report["tasks"]:
        parts += [f"## {_capital(task['name'])}\n", _task(task)]
    own = report["special"]
    parts += [
        "## A model with a classifier of its own\n",
        f"The same model, fine-tuned with a classification head on `{own['set']}` until it knows that set, as special "
        "models are. Its classifier, and heads on its layers, on the test texts of two tasks that it was not made "
        "for:\n",
        _special(own),
    ]
    for task in own["tasks"]:
        parts += [f"### Heads on its layers: {task['name']}\n", _curves(task)]
    return "\n".join(parts).rstrip() + "\n"


def _sizes(task: dict[str, Any]) -> list[str]:
    return sorted(task["length"], key=int)


def _best(task: dict[str, Any], size: str) -> str:
    """The layer with the highest mean at a size."""
    return str(max(task["curves"], key=lambda layer: task["curves"][layer][size]["mean"]))


def _last(task: dict[str, Any]) -> str:
    return str(max(task["curves"], key=int))


def _middle(task: dict[str, Any], size: str) -> str:
    """The best layer between the embeddings and the last."""
    inner: list[str] = [layer for layer in task["curves"] if 0 < int(layer) < int(_last(task))]
    return max(inner, key=lambda layer: task["curves"][layer][size]["mean"])


def _first_above(task: dict[str, Any], layer: str, line: float) -> str:
    for size in _sizes(task):
        if task["curves"][layer][size]["mean"] >= line:
            return size
    return "not reached"


def _any_above(task: dict[str, Any], line: float) -> str:
    for size in _sizes(task):
        best = _best(task, size)
        if task["curves"][best][size]["mean"] >= line:
            return f"{size} (layer {best})"
    return "not reached"


def _summary(found: list[dict[str, Any]]) -> str:
    rows = []
    for task in found:
        last = _sizes(task)[-1]
        best = _best(task, last)
        top, length = task["curves"][best][last]["mean"], task["length"][last]["mean"]
        (_, first), (_, second) = LINES[task["claim"]]
        by_length = next((size for size in _sizes(task) if task["length"][size]["mean"] >= first), "never")
        rows.append(
            [
                task["name"],
                f"{task['texts']:,}",
                str(task["classes"]),
                f"{top:.2f} (layer {best})",
                f"{task['curves'][_last(task)][last]['mean']:.2f}",
                f"{length:.2f}",
                f"{top - length:+.2f}",
                f"{first}: {_any_above(task, first)}",
                f"{second}: {_any_above(task, second)}",
                by_length,
            ]
        )
    head = [
        "task", "texts", "classes", "best layer, all examples", "last layer", "length", "margin", "GPT-4o's line, at",
        "the paper's best, at", "length alone passes GPT-4o's at",
    ]  # fmt: skip
    return table(head, rows)


def _verdict(found: list[dict[str, Any]]) -> str:
    """How often a middle layer beats the last one, up to 100 examples."""
    wins = total = 0
    against = []
    for task in found:
        for size in _sizes(task):
            if int(size) > 100:
                continue
            middle, last = _middle(task, size), _last(task)
            gain = task["curves"][middle][size]["mean"] - task["curves"][last][size]["mean"]
            total += 1
            wins += gain > 0
            if gain <= 0:
                against.append(f"{task['name']} at {size} ({gain:+.3f})")
    but = f" Not so: {'; '.join(against)}." if against else ""
    return (
        f"The best middle layer beats the last one in {wins} of {total} cases of up to 100 examples.{but} The best of "
        "five layers is compared with one, which favours the five; the curves below show each.\n"
    )


def _task(task: dict[str, Any]) -> str:
    text = [
        f"{task['texts']:,} texts of {task['classes']} classes, tested on {task['tested_on']:,}; "
        f"{task['note']}. Always saying the largest class gives {task['majority']:.2f}.\n",
        _curves(task),
    ]
    rows = []
    for name, line in LINES[task["claim"]]:
        rows.append(
            [f"{name} ({line})", *(_first_above(task, layer, line) for layer in sorted(task["curves"], key=int))]
        )
    text.append(table(["examples to pass", *(f"layer {n}" for n in sorted(task["curves"], key=int))], rows))
    if task["left_out"]:
        text.append("Left out: " + "; ".join(task["left_out"]) + ".\n")
    return "\n".join(text)


def _curves(task: dict[str, Any]) -> str:
    sizes = _sizes(task)
    rows = []
    for layer in sorted(task["curves"], key=int):
        own = task["curves"][layer]
        cells = [_spread(own[size], bold=layer == _best(task, size)) for size in sizes]
        rows.append([f"layer {layer}", *cells])
    rows.append(["length", *(_spread(task["length"][size], bold=False) for size in sizes)])
    return table(["examples", *sizes], rows)


def _spread(figure: dict[str, float], *, bold: bool) -> str:
    mean = f"**{figure['mean']:.2f}**" if bold else f"{figure['mean']:.2f}"
    return f"{mean} ({figure['low']:.2f}-{figure['high']:.2f})"


def _special(own: dict[str, Any]) -> str:
    rows = []
    for task, classifier in zip(own["tasks"], own["own_classifier"], strict=True):
        passed = _any_above(task, classifier["f1"])
        best = _best(task, _sizes(task)[-1])
        rows.append(
            [task["name"], f"{classifier['f1']:.2f}", passed, f"{task['curves'][best][_sizes(task)[-1]]['mean']:.2f}"]
        )
    return table(["task", "its own classifier", "a head passes it at", "best head, all examples"], rows)


def _capital(name: str) -> str:
    return name[0].upper() + name[1:]


if __name__ == "__main__":
    write_page(json.loads((HERE / "results.json").read_text(encoding="utf-8")))
