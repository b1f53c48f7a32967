"""Renders the model card of the embedded bundle, and the README's table, from the bundle's own numbers.

    python -m benchmarks.embedded.card --data DATA

DATA/README.md lists the sets with their licences.
"""

from __future__ import annotations

import argparse
import json
import textwrap
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.embedded.long_texts import PLACES, SETS, TOKENS
from benchmarks.embedded.pairs import CHOSEN_ON, MEASURED
from benchmarks.embedded.tasks import CATEGORIES, TASKS
from lec_guard.detect.bundle import EMBEDDED, read_bundle
from lec_guard.train.calibrate import LENGTHS

README = Path(__file__).parent.parent.parent / "README.md"
BEGIN, END = "<!-- numbers: python -m benchmarks.embedded.card -->", "<!-- end of numbers -->"

_TEXT = """# The embedded detector

all-MiniLM-L6-v2 (Apache-2.0), cut after layer {layers} of 6; features: {blocks}. A window is a sentence, with as
many of those that follow as make {least} tokens, read by itself; one of more than {size} tokens is read in several, a
new one every {stride}. Heads: {heads}; {kilobytes:.0f} kB together. Detector id `{detector_id}`.

**What it is good for.** A cheap first reading of every step. **What it is not.** A sole control: at thresholds that
stop about 1 in 100 harmless texts it finds the share of attacks that the tables below show, which is small on
families it has not seen. It reads English; other languages mostly pass. {context}

## How it was made

    python -m benchmarks.embedded.features --data DATA --cache CACHE
    python -m benchmarks.embedded.fit --cache CACHE
    python -m benchmarks.embedded.evaluate --data DATA --cache CACHE
    python -m benchmarks.embedded.long_texts --data DATA
    python -m benchmarks.embedded.card --data DATA

Up to 500 texts of each set and label; `injection` learns from the harmless documents besides, since people paste them
into prompts and its rule reads tool output. L2-penalised logistic regression over standardised window features; labels
count alike, a family counts by the root of its size; of an attacked text its highest window stands for it (MI-SVM).
Features, penalty and aggregation by five-fold cross-validation that leaves whole families out (of features within
0.005 of the best mean AUC the cheapest: the lowest layer, then the fewest); calibration (Platt) on
the left-out logits, at a prior of one half. Nothing was chosen on a set that is measured here.

Mean AUC over left-out families (the sweep that chose the features):

{sweep}

On left-out families of the fitting data, with the chosen features:

{left_out}

A learned gate (attention over the tokens of a window, `python -m benchmarks.embedded.gate`, {most} texts of a set and
label, layer {gate_layer}; measured when windows had up to 256 tokens and were judged in parts of 64) against the
poolings above: mean AUC over left-out families, and the gain over mean and max with its standard error. The gains are
of the size of their errors, so no head uses one yet:

{gates}

How a text's windows make its score was chosen on made-up documents of 1 to 8,192 windows (harmless windows of a
left-out family; in attacked ones, the highest window of one attacked text takes the place of one of them); what many
windows give by chance is taken off, so that about 1% of the harmless ones are over the bar at any length. Recall less
false alarms there, averaged over the lengths, for each way that was tried (LME: log-mean-exp at a temperature;
attention: the mean weighted by the softmax of the windows' logits over a temperature; top: the mean of the highest
ones, for comparison; top 1 is the bare maximum). Of LME and attention each head takes the better:

{aggregations}

By the number of windows, for the way that was chosen: recall, and false alarms. A sentence of attack is one window
among many: the more there are, the further it has to stand out.

{aggregation}

## Text and context

{pairs}

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

Long harmless texts, put together from measured sets, as tool output under the packaged policy: blocked (and flagged).
There are few of the longest, because they share nothing. Prompts (`arena_hard`) are instructions by nature, and
answers to delicate questions (`xstest_response`) speak as an assistant of what it may not do: as the output of a tool
both look like what the heads look for. Mail, tables, word problems and logs are what tools give:

{long_texts}

One sentence of attack, our own, in a harmless text:

{hidden}

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


def _lengths(name: str, head: dict[str, Any]) -> list[list[str]]:
    chosen = next(
        one
        for one in head["aggregations"]
        if (one["method"], one["parameter"]) == (head["aggregation"], head["temperature"])
    )
    way = f"{_WAYS[chosen['method']]} {chosen['parameter']:g}"
    return [
        [name, way, "recall", *(f"{chosen['recall_by_windows'][str(n)]:.2f}" for n in LENGTHS)],
        ["", "", "false alarms", *(f"{chosen['false_alarms_by_windows'][str(n)]:.3f}" for n in LENGTHS)],
    ]


_WAYS = {"log_mean_exp": "LME", "attention": "attention", "top_mean": "top"}


def _aggregations(fit: dict[str, Any], names: list[str]) -> str:
    ways = [f"{_WAYS[one['method']]} {one['parameter']:g}" for one in fit[names[0]]["aggregations"]]
    return table(
        ["head", *ways],
        [[name, *(f"{_gain(one):.3f}" for one in fit[name]["aggregations"])] for name in names],
    )


def _gates(gate: dict[str, Any], names: list[str]) -> str:
    poolings = list(gate["heads"][names[0]]["poolings"])
    rows = []
    for pooling in poolings:
        own = [gate["heads"][name]["poolings"][pooling] for name in names]
        cells = [f"{o['mean_auc']:.3f} ({o['gain']:+.3f} ± {o['gain_standard_error']:.3f})" for o in own]
        rows.append([pooling, *cells])
    return table(["pooling", *names], rows)


def _gain(way: dict[str, Any]) -> float:
    recall, alarms = (mean(way[what].values()) for what in ("recall_by_windows", "false_alarms_by_windows"))
    return float(recall - alarms)


def _auc(found: dict[str, float]) -> str:
    return f"{found['auc']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"


def _pairs(fit: dict[str, Any]) -> str:
    report, attacks = fit["off_policy"], fit["off_policy"]["attacks"]
    methods = {"head": "**head**", "text alone": "text alone", "length alone": "length alone"}
    texts = [
        """`off_policy`: does a text belong to its context? Fitted on texts with their own context and with that of
        another row of their set (tasks with their documents, answers with their requests), so that neither the text nor
        its length says anything. AUC, with 95% intervals by bootstrap over documents: on left-out documents of
        `pishield_clean`, and on the benign rows of `spml_pairs` (system prompts of chatbots; nothing of it was fitted
        on), with their own system prompt against that of others. The interaction was chosen on the former.""",
        table(
            ["method", "pishield_clean", "spml_pairs"],
            [[shown, *(_auc(report[where][m]) for where in (CHOSEN_ON, MEASURED))] for m, shown in methods.items()],
        ),
        f"""It is {"shipped" if report["shipped"] else "not shipped"}: it has to beat both baselines on both. Features:
        {", ".join(report["parts"])}. No rule of the packaged policy reads it; without a context it says 0. It is no
        detector of attacks: those of `spml_pairs` talk about the chatbot's subject, and it puts them below benign
        texts (AUC {_auc(attacks["head"])}; length alone has {_auc(attacks["length alone"])} there, so that set can't
        tell a good detector from a ruler).""",
        """The other heads have no form with context: on `pishield_*`, where a document carries an instruction that is
        not its task's, the text alone is as good as any interaction (AUC on left-out documents, among all and among
        texts of like length):""",
        table(
            ["features", "AUC", "among like lengths"],
            [[name, f"{own['auc']:.3f}", f"{own['matched']:.3f}"] for name, own in fit["injected"].items()],
        ),
    ]
    return "\n\n".join(
        textwrap.fill(" ".join(text.split()), 120) if not text.startswith("|") else text for text in texts
    )


def _long_texts(long: dict[str, Any]) -> str:
    found = {(one["set"], one["tokens"]): one for one in long["false_alarms"]}
    rows = []
    for tokens in TOKENS:
        of_length = [found[name, tokens] for name in SETS]
        rows.append([f"{tokens:,}", *(f"{o['block']} (+{o['flag']}) of {o['texts']}" for o in of_length)])
    return table(["tokens, about", *SETS], rows)


def _hidden(long: dict[str, Any]) -> str:
    head = ["tokens, about", "without", "sentences", "blocked alone", "at the start", "in the middle", "at the end"]
    rows = [
        [
            f"{one['tokens']:,}",
            *(str(one[k]) for k in ("without", "sentences", "alone_blocked")),
            *(f"{one[f'blocked_at_{place}']} (+{one[f'flagged_at_{place}']} flagged)" for place in PLACES),
            str(one["same_action_everywhere"]),
        ]
        for one in long["hidden"]
    ]
    return table([*head, "same action at all three"], rows)


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
    long = json.loads((EMBEDDED / "long.json").read_text(encoding="utf-8"))
    if long["detector_id"] != bundle.detector_id:
        raise SystemExit("long.json measures another bundle; run benchmarks.embedded.long_texts first")
    gate = json.loads((EMBEDDED / "gate.json").read_text(encoding="utf-8"))
    names = [task.head for task in TASKS]
    sweep = sorted(fit["sweep"], key=lambda c: (len(c["blocks"]), c["blocks"][0]["layer"], c["blocks"][0]["pooling"]))
    found = metrics["categories"]
    text = _TEXT.format(
        layers=max(block.layer for block in bundle.spec.blocks),
        blocks=_blocks([block.model_dump() for block in bundle.spec.blocks]),
        size=bundle.spec.window.size,
        stride=bundle.spec.window.stride,
        least=bundle.spec.window.least,
        heads=", ".join(f"`{head.name}`" for head in bundle.spec.heads),
        context="Of the system prompt it sees whether the text belongs to it, no more."
        if bundle.spec.pairs
        else "It does not see the system prompt.",
        pairs=_pairs(fit),
        most=gate["settings"]["most"],
        gate_layer=gate["settings"]["layer"],
        gates=_gates(gate, names),
        aggregations=_aggregations(fit, names),
        long_texts=_long_texts(long),
        hidden=_hidden(long),
        kilobytes=(EMBEDDED / "heads.safetensors").stat().st_size / 1000,
        detector_id=bundle.detector_id,
        sweep=table(
            ["features", *names, "mean"],
            [[_blocks(c["blocks"]), *(f"{c['heads'][n]:.3f}" for n in names), f"{c['mean_auc']:.3f}"] for c in sweep],
        ),
        aggregation=table(
            ["head", "way", "", *(f"{n}" for n in LENGTHS)],
            [row for n in names for row in _lengths(n, fit[n])],
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
