"""Renders the model card of the embedded bundle, and the README's table, from the bundle's own numbers.

    python -m benchmarks.embedded.card --data DATA

DATA/README.md lists the sets with their licences.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.embedded.fit import LENGTHS
from benchmarks.embedded.tasks import CATEGORIES, TASKS
from lec_guard.detect.bundle import EMBEDDED, read_bundle

README = Path(__file__).parent.parent.parent / "README.md"
BEGIN, END = "<!-- numbers: python -m benchmarks.embedded.card -->", "<!-- end of numbers -->"

_TEXT = """# The embedded detector

all-MiniLM-L6-v2 (Apache-2.0), cut after layer {layers} of 6; features: {blocks}; windows of {size} tokens every
{stride}. Three heads, {kilobytes:.0f} kB together. Detector id `{detector_id}`.

**What it is good for.** A cheap first reading of every step. **What it is not.** A sole control: at thresholds that
stop about 1 in 100 harmless texts it finds the share of attacks that the tables below show, which is small on
families it has not seen. It reads English; other languages mostly pass. It does not see the system prompt.

## How it was made

    python -m benchmarks.embedded.features --data DATA --cache CACHE
    python -m benchmarks.embedded.fit --cache CACHE
    python -m benchmarks.embedded.evaluate --data DATA --cache CACHE
    python -m benchmarks.embedded.card --data DATA

Up to 500 texts of each set and label. L2-penalised logistic regression over standardised window features; labels
count alike, a family counts by the root of its size; of an attacked text its highest window stands for it (MI-SVM).
Features, penalty and aggregation by five-fold cross-validation that leaves whole families out (of features within
0.005 of the best mean AUC the cheapest: the lowest layer, then the fewest); calibration (Platt) on
the left-out logits, at a prior of one half. Nothing was chosen on a set that is measured here.

Mean AUC over left-out families (the sweep that chose the features):

{sweep}

On left-out families of the fitting data, with the chosen features:

{left_out}

A text's windows are aggregated by log-mean-exp. Its temperature was chosen on made-up documents of 1 to 512 windows
(harmless windows of a left-out family; in attacked ones, the highest window of one attacked text takes the place of
one of them), and what many windows give by chance is taken off. Recall there at about 1% false alarms, for the
temperature that was chosen:

{aggregation}

## Measured on sets that were not fitted on

Attacks against benign texts, both of families that the head was not fitted on, each family counting alike.
Intervals: bootstrap over families (recall) or texts (AUC), 95%. *length* and *TF-IDF* are logistic regressions on the
same rows. One family of indirect attacks is no basis for a claim; it is what there is.

{overall}

Where TF-IDF is ahead, it is ahead: these heads read frozen features.

Each set as it is. `flag` and `block` are the shares of the set that reach the packaged policy's thresholds
(`indirect_injection` at `tool_output`, the others at `input`), first of its attacks, then of its benign texts.
A set marked (*) has other texts of its family in the fitting data, and flatters the head. Some sets are told apart by
length alone (`spml_user`): their AUC says little.

{sets}

Benign texts that reach the `block` threshold, by the number of windows they were read in:

{by_length}

Category of unsafe texts ({n} texts whose sets name one): {accuracy:.2f} right, where always naming the commonest gives
{majority:.2f}. Recall by category: {categories}.

## Labels

`injection` and `indirect_injection`: `injection`. `safety`: `unsafe`, and given unsafe one of {labels}; a category's
score is its share times the score of `unsafe`. The table from the sets' categories to these is
`benchmarks/embedded/tasks.py`.

## Sets it was fitted on

Texts of others are not part of this repository; the heads are. Licences as found at the sources:

{licences}
"""


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def used_sets(data: Path) -> list[list[str]]:
    """Name, licence and source of each fitted set, from the table in DATA/README.md."""
    text = (data / "README.md").read_text(encoding="utf-8")
    half = text[text.index("## train/") : text.index("## eval/")]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in half.splitlines() if line.startswith("| ")
    ]
    kinds = {kind for task in TASKS for kind in task.kinds}
    return [[row[0], row[4], row[5]] for row in rows if row[1] in kinds]


def _sets(metrics: dict[str, Any]) -> str:
    rows = []
    for task in TASKS:
        for source, entry in metrics[task.head]["sets"].items():
            aucs = entry.get("auc")
            ours = f"{aucs['head']['auc']:.2f} [{aucs['head']['low']:.2f}, {aucs['head']['high']:.2f}]" if aucs else ""
            others = [f"{aucs[m]['auc']:.2f}" if aucs else "" for m in ("length", "tfidf")]
            shares = [
                " / ".join(f"{entry[action][k]:.3f}" if k in entry[action] else "-" for k in ("positives", "negatives"))
                for action in ("flag", "block")
            ]
            counts = f"{entry['positives']} / {entry['negatives']}"
            name = f"{source} (*)" if entry["family_was_fitted"] else source
            rows.append([task.head, name, counts, ours, *others, *shares])
    head = ["head", "set", "attacks / benign", "AUC", "length", "TF-IDF", "flag", "block"]
    return table(head, rows)


def _interval(recall: dict[str, float]) -> str:
    if "low" not in recall:
        return f"{recall['macro']:.2f} [too few families]"
    return f"{recall['macro']:.2f} [{recall['low']:.2f}, {recall['high']:.2f}]"


def overall(metrics: dict[str, Any]) -> str:
    """The table that model card and README share."""
    rows = []
    for task in TASKS:
        overall = metrics[task.head]["overall"]
        for method, name in (("head", "**head**"), ("tfidf", "TF-IDF"), ("length", "length")):
            entry = overall[method]
            recalls = [entry["recall_at_0.01"], entry["recall_at_0.05"]]
            cells = [_interval(recall) for recall in recalls]
            rows.append([task.head, str(len(overall["families"])), name, f"{entry['macro_auc']:.2f}", *cells])
    return table(["head", "families", "method", "macro AUC", "recall at 1% FPR", "recall at 5% FPR"], rows)


def _blocks(blocks: list[dict[str, Any]]) -> str:
    return ", ".join(f"{block['pooling']} {block['layer']}" for block in blocks)


def _lengths(head: dict[str, Any]) -> list[str]:
    chosen = next(one for one in head["aggregations"] if one["temperature"] == head["temperature"])
    return [f"{chosen['recall_by_windows'][str(n)]:.2f}" for n in LENGTHS]


def main() -> None:
    """Render and write."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--data", type=Path, required=True)
    options = arguments.parse_args()
    bundle = read_bundle(EMBEDDED)
    fit = json.loads((EMBEDDED / "fit.json").read_text(encoding="utf-8"))
    metrics = json.loads((EMBEDDED / "metrics.json").read_text(encoding="utf-8"))
    if metrics["detector_id"] != bundle.detector_id:
        raise SystemExit("metrics.json measures another bundle; run benchmarks.embedded.evaluate first")
    names = [task.head for task in TASKS]
    sweep = sorted(fit["sweep"], key=lambda c: (len(c["blocks"]), c["blocks"][0]["layer"], c["blocks"][0]["pooling"]))
    found = metrics["categories"]
    text = _TEXT.format(
        layers=max(block.layer for block in bundle.spec.blocks),
        blocks=_blocks([block.model_dump() for block in bundle.spec.blocks]),
        size=bundle.spec.window.size,
        stride=bundle.spec.window.stride,
        kilobytes=(EMBEDDED / "heads.safetensors").stat().st_size / 1000,
        detector_id=bundle.detector_id,
        sweep=table(
            ["features", *names, "mean"],
            [[_blocks(c["blocks"]), *(f"{c['heads'][n]:.3f}" for n in names), f"{c['mean_auc']:.3f}"] for c in sweep],
        ),
        aggregation=table(
            ["head", "temperature", *(f"{n}" for n in LENGTHS)],
            [[n, f"{fit[n]['temperature']}", *_lengths(fit[n])] for n in names],
        ),
        by_length=table(
            ["head", "windows", "texts", "share"],
            [
                [n, f"{e['from_windows']} or more", str(e["texts"]), f"{e['share']:.3f}"]
                for n in names
                for e in metrics[n]["benign_by_length"]["block"]
            ],
        ),
        left_out=table(
            ["head", "texts", "attacks", "mean AUC", "recall at 1% FPR", "at 5%"],
            [
                [
                    n,
                    str(fit[n]["texts"]),
                    str(fit[n]["positives"]),
                    f"{fit[n]['mean_left_out_family_auc']:.3f}",
                    *(f"{fit[n]['macro_recall_out_of_family'][r]:.2f}" for r in ("0.01", "0.05")),
                ]
                for n in names
            ],
        ),
        overall=overall(metrics),
        sets=_sets(metrics),
        n=found["texts"],
        accuracy=found["accuracy"],
        majority=found["majority"],
        categories=", ".join(f"{k} {v:.2f}" for k, v in found["recall_by_category"].items()),
        labels=", ".join(f"`{c}`" for c in CATEGORIES),
        licences=table(["set", "licence", "public source"], used_sets(options.data)),
    )
    (EMBEDDED / "README.md").write_text(text, encoding="utf-8")
    page = README.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    README.write_text(f"{before}{BEGIN}\n{overall(metrics)}\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
