"""The embedded injection head beside everything that `lec-guard eval` compares with, on sets nobody fitted on.

    python -m benchmarks.embedded.side_by_side --data DATA --work FOLDER

DATA holds `train/` and `eval/` with one JSON-lines file a set. FOLDER gets the texts as `lec-guard eval` reads them,
its `evaluation.json` and its `evaluation.html`; the page beside this file has the figures that count.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.embedded.sets import read_examples
from benchmarks.embedded.tasks import TASKS
from benchmarks.markdown import interval, table

PAGE = Path(__file__).parent / "README.md"
MOST = 150
"""Texts of a set: it is the number of sets that makes figures hold."""
RESAMPLES = 200

_TOP = """# The injection head, side by side

What `lec-guard eval` says of the embedded detector's head `injection`, on up to {most} prompts of each public set that
nothing was fitted on ({texts:,} texts, {harmful:,} attacks, {sets} sets); the other methods were fitted on up to {most}
prompts of each set that the head was fitted on. Detector `{detector}`.

    python -m benchmarks.embedded.side_by_side --data DATA --work FOLDER

In brackets 95% intervals: over texts of the same sets, then over sets, which says how it holds elsewhere. A cut is
taken so that benign sets, each counting alike, are flagged at the rate; recall is averaged over sets of attacks.
"""

_BUDGET = """
At the thresholds that the head itself keeps for 1% (of families that were left out when it was fitted), benign texts of
these sets are flagged at {fpr}, most often `{worst}`,
and recall is {recall}.
"""


def lines(data: Path, split: str, to: Path) -> Path:
    """Write the prompts of a split as labelled lines.

    Args:
        data: The folder with the splits.
        split: `train` or `eval`.
        to: The folder to write to.

    Returns:
        The file.
    """
    task = next(task for task in TASKS if task.head == "injection")
    path = to / f"{split}.jsonl"
    with path.open("w", encoding="utf-8") as out:
        for source in sorted((data / split).glob("*.jsonl")):
            rows = [row for row in read_examples(source) if row.kind == "prompt" and task.label(row) is not None]
            random.Random(0).shuffle(rows)  # noqa: S311 - repeatable
            for row in rows[:MOST]:
                label = "injection" if task.label(row) else "benign"
                family = row.source if split == "eval" else row.family
                out.write(json.dumps({"text": row.text, "label": label, "family": family}) + "\n")
    return path


def page(evaluation: dict[str, Any], detector: str) -> str:
    """The page.

    Args:
        evaluation: What `lec-guard eval` wrote.
        detector: The id of the detector.

    Returns:
        Markdown.
    """
    rows = []
    for method in evaluation["methods"]:
        if method["reason"]:
            rows.append([method["name"], method["reason"], "", "", ""])
            continue
        own = method["unseen"]
        at = next(one for one in own["at_rates"] if one["rate"] == max(evaluation["rates"]))
        worst = at["worst"]
        rows.append(
            [
                method["name"],
                _figure(own["auc"]),
                _figure(own["auprc"]),
                _figure(at["recall"]),
                f"{worst['name']} {worst['rate']['value']:.0%}" if worst else "none",
            ]
        )
    head = ["method", "AUC", "AUPRC", "recall at 1% FPR", "benign set flagged most there"]
    first = evaluation["methods"][0]
    own, kept = first["unseen"], first["realised"][0]
    top = _TOP.format(most=MOST, texts=own["texts"], harmful=own["harmful"], sets=own["sets"], detector=detector)
    budget = _BUDGET.format(
        fpr=_figure(kept["fpr"], ".1%"), recall=_figure(kept["recall"]), worst=kept["worst"]["name"]
    )
    return top + "\n" + table(head, rows) + budget


def _figure(own: dict[str, Any], form: str = ".2f") -> str:
    if own["value"] is None:
        return str(own["reason"])
    text = interval(own, form=form)
    over = own["over_sets"]
    return text + (f", sets [{over['low']:{form}}, {over['high']:{form}}]" if over and over["low"] is not None else "")


def main() -> None:
    """Measure and write."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--data", type=Path, required=True)
    arguments.add_argument("--work", type=Path, required=True)
    options = arguments.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    measured, fitted = (lines(options.data, split, options.work) for split in ("eval", "train"))
    command = ["eval", str(measured), "--head", "injection", "--fit-data", str(fitted), "--on-conflict", "drop"]
    command += ["--resamples", str(RESAMPLES), "--out", str(options.work)]
    subprocess.run([sys.executable, "-m", "lec_guard.cli", *command], check=True)  # noqa: S603 - our own command
    evaluation = json.loads((options.work / "evaluation.json").read_text(encoding="utf-8"))
    PAGE.write_text(page(evaluation, evaluation["methods"][0]["detector_id"]), encoding="utf-8")


if __name__ == "__main__":
    main()
