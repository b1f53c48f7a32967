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

from benchmarks.embedded.fit import MOST_FAMILIES
from benchmarks.embedded.long_texts import PLACES, SETS
from benchmarks.embedded.pairs import CHOSEN_ON, MEASURED
from benchmarks.embedded.tasks import CATEGORIES, TASKS
from benchmarks.markdown import bare_table, interval
from lec_guard.detect.bundle import EMBEDDED, read_bundle
from lec_guard.train.calibrate import LENGTHS

README = Path(__file__).parent.parent.parent / "README.md"
BEGIN, END = "<!-- numbers: python -m benchmarks.embedded.card -->", "<!-- end of numbers -->"

_TEXT = """# The embedded detector

all-MiniLM-L6-v2 (Apache-2.0), cut after layer {layers} of 6, its layers tuned by low-rank adapters
({megabytes:.1f} MB); features: {blocks}. A window is a sentence, with as many of those that follow as make {least}
tokens, read by itself; one of more than {size} tokens is read in several, a new one every {stride}. Heads: {heads};
{kilobytes:.0f} kB together. Detector id `{detector_id}`.

**What it is good for.** A cheap first reading of every step. **What it is not.** A sole control: at the packaged
policy it stops the share of unseen attacks that the tables below show. {context}

**What it is bad at**, in plain words. Attacks that argue, or spread over many sentences, with no sentence that stands
out. A harmful step that poses as one of a manual's own. Fragments: a trigger phrase alone (`system prompt`) is stopped,
and so is an emphatic but harmless order in a manual. Unsafe answers: it stops few of them. Harmful requests in polite
or technical words. An override and a harmful request in one sentence, which can score lower than either alone.
Self-harm and sexual statements: there is little of them in what it learnt from. Hate without a slur, and harmless
statements about groups, which it stops more often than other harmless talk. Other languages: it learnt attacks in 21 of
them from short texts of our own, and a small English model reads most of them badly.

## How it was made

    python -m benchmarks.embedded.tail --out TAIL
    python -m benchmarks.embedded.adapt tune --data DATA --tail TAIL {tune} --out TUNED
    python -m benchmarks.embedded.features --data DATA --tail TAIL --bundle TUNED --cache CACHE
    python -m benchmarks.embedded.fit --cache CACHE --bundle TUNED
    python -m benchmarks.embedded.thresholds
    python -m benchmarks.embedded.evaluate --data DATA --cache CACHE
    python -m benchmarks.embedded.long_texts --data DATA --small
    python -m benchmarks.embedded.card --data DATA

**Tuned** on public sets, on texts of our own (attacks, harmless twins, other languages, instructions planted in
documents, each beside the same document without it and with an imperative of its own) and on harmless text that any
developer's machine has (manuals, READMEs, docstrings, logs): {tuned}. Loss: cross-entropy, labels and
families balanced, and {low_fpr:g} times a term by which harmful texts stand out from the harmless ones that score
highest (a soft maximum over negatives).

**Held out** of the tuning and of the heads are {held} families: {held_names}. Layers, poolings, penalties, aggregation,
calibration and thresholds come of those alone; of the sets below nothing was chosen. To be open: while this was being
made the sets below were looked at, and two sets of texts of our own (harmless texts on delicate subjects, documents
whose step is their reader's or an attacker's) were written because of what failed on `hatecheck`, `xstest`, `oktest`
and `redteamcua`. None of them copies those sets (checked by shared six-word shingles and by word overlap), but for
these four the tables below are no longer those of sets that nobody had seen. That every family is to keep a rate (not
four in five), and that two heads of a stage share it, was decided after look-alikes of hate were seen to be stopped at
20 to 37%.

What each ingredient is worth, and what more texts and minutes bring:
[ABLATION.md](../../../../benchmarks/embedded/ABLATION.md).

**Heads**: L2-penalised logistic regression over standardised window features; labels count alike, a family counts by
the root of its size; of an attacked text its highest window stands for it (MI-SVM). A threshold is where every
held-out family keeps the rate, of third-party texts {most_families:.0%} of them; and where their mean does.

On the held-out families, for each head's features and penalty (macro AUC; the first of a head is what it has; ranked
by AUC and recall at 5%; before anything is taken off for length):

{sweep}

With the chosen ones, as they are shipped, what many windows give by chance taken off (below). Harmful families that are
held out are few, and for documents there is one:

{left_out}

A learned gate (attention over the tokens of a window, `python -m benchmarks.embedded.gate`, {most} texts of a set and
label, layer {gate_layer}; measured on frozen layers, when windows had up to 256 tokens and were judged in parts of 64)
against mean and max: mean AUC over left-out families, and the gain with its standard error. The gates' gains are less
than twice their errors, so no head uses one:

{gates}

How a text's windows make its score was chosen on made-up documents of 1 to 8,192 windows (harmless windows of a
held-out family; in attacked ones, the highest window of one attacked text takes the place of one of them); what many
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
same rows. One family of indirect attacks is no basis for a claim; it is what there is. TF-IDF is near the head: for
prompts and for unsafe texts the intervals overlap.

{overall}

### At the packaged policy

All rules together, at the stage where a set's texts pass; sets count alike, intervals by bootstrap over sets. Attacks
and unsafe texts are those of families that nothing was fitted on:

{policy}

The thresholds stand for 1% blocked and 5% flagged of the families held out; of the harmless sets here more are, as the
first row says. A threshold that holds on texts of a new kind is known only from texts of that kind: watch a new
policy in shadow mode first, and calibrate it (`lec-guard policy calibrate`).

Each set (*: other texts of its family were fitted on). Shares that are blocked, and flagged or blocked:

{policy_sets}

A budget of {max_fpr:.0%} for a head alone (`max_fpr: {max_fpr}`): what it comes to on harmless sets of unseen families.

{budget}

### Head by head

Each set as it is: AUC with its interval, average precision (which depends on how many attacks a set has), and AUC of
the baselines. A set marked (*) has other texts of its family in the fitting data, and flatters the head. Some sets are
told apart by length alone (`spml_user`): their AUC says little.

{sets}

Benign texts that reach the head's `block` threshold, by the number of windows they were read in:

{by_length}

Long harmless texts, put together from measured sets, as tool output under the packaged policy: blocked (and flagged).
There are few of the longest, because they share nothing. Prompts (`arena_hard`) are instructions by nature, and
answers to delicate questions (`xstest_response`) speak as an assistant of what it may not do: as the output of a tool
both look like what the heads look for. Mail, tables, word problems and logs are what tools give:

{long_texts}

One sentence of attack, our own, in a harmless text. Where the text is blocked without any, the row says nothing:

{hidden}

Category of unsafe texts ({n} texts whose sets name one): {accuracy:.2f} right, where always naming the commonest gives
{majority:.2f}; macro F1 {macro_f1:.2f}, over those that two sets or more name ({shared}) {macro_f1_of_shared:.2f}.
Recall by category: {categories}.

## Labels

`injection` and `indirect_injection`: `injection`. `safety`: `unsafe`, and given unsafe one of {labels}; a category's
score is its share times the score of `unsafe`. The table from the sets' categories to these is
`benchmarks/embedded/tasks.py`.

## Sets it was fitted on

Texts of others are not part of this repository; the heads and adapters are. Licences as found at the sources:

{licences}
"""


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
            if aucs is None:
                continue
            others = [f"{aucs[m]['auc']:.2f}" for m in ("length", "tfidf")]
            counts = f"{entry['positives']} / {entry['negatives']}"
            name = f"{source} (*)" if entry["family_was_fitted"] else source
            rows.append(
                [task.head, name, counts, interval(aucs["head"], "auc"), f"{aucs['head']['auprc']:.2f}", *others]
            )
    return bare_table(["head", "set", "attacks / benign", "AUC", "AP", "length", "TF-IDF"], rows)


def policy(metrics: dict[str, Any]) -> str:
    """What the packaged policy does at each stage; model card and README share it."""
    rows = []
    for stage, sides in metrics["policy"]["stages"].items():
        for side, own in sides.items():
            rows.append(
                [stage, side, str(own["sets"]), *(interval(own[action], "mean", ".1%") for action in ("block", "flag"))]
            )
    return bare_table(["stage", "texts", "sets", "blocked", "flagged or blocked"], rows)


def _policy_sets(metrics: dict[str, Any]) -> str:
    rows = []
    for source, entry in metrics["policy"]["sets"].items():
        name = f"{source} (*)" if entry["family_was_fitted"] else source
        cells = [
            f"{entry[side]['block']:.1%} / {entry[side]['flag']:.1%} of {entry[side]['texts']:,}"
            if side in entry
            else ""
            for side in ("harmless", "injection", "unsafe")
        ]
        rows.append([name, entry["stage"], *cells])
    return bare_table(["set", "stage", "harmless", "injection", "unsafe"], rows)


def _budget(metrics: dict[str, Any]) -> str:
    rows = []
    for task in TASKS:
        for stage, own in metrics["budget"][task.head].items():
            worst = max(own["sets"], key=lambda name: own["sets"][name])
            rows.append(
                [task.head, stage, str(len(own["sets"])), f"{own['mean']:.1%}", f"{worst} {own['sets'][worst]:.1%}"]
            )
    return bare_table(["head", "stage", "sets", "mean", "worst set"], rows)


def _interval(recall: dict[str, float]) -> str:
    return interval(recall, "macro") + ("" if "low" in recall else " [too few families]")


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
    return bare_table(["head", "families", "method", "macro AUC", "recall at 1% FPR", "recall at 5% FPR"], rows)


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
    return bare_table(
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
    return bare_table(["pooling", *names], rows)


def _gain(way: dict[str, Any]) -> float:
    recall, alarms = (mean(way[what].values()) for what in ("recall_by_windows", "false_alarms_by_windows"))
    return float(recall - alarms)


def _pairs(fit: dict[str, Any]) -> str:
    report = fit["off_policy"]
    head, length = (interval(report["attacks"][method], "auc") for method in ("head", "length alone"))
    methods = {"head": "**head**", "text alone": "text alone", "length alone": "length alone"}
    texts = [
        """`off_policy`: does a text belong to its context? Fitted on texts with their own context and with that of
        another row of their set (tasks with their documents, answers with their requests), so that neither the text nor
        its length says anything. AUC, with 95% intervals by bootstrap over documents: on left-out documents of
        `pishield_clean`, and on the benign rows of `spml_pairs` (system prompts of chatbots; nothing of it was fitted
        on), with their own system prompt against that of others. The interaction was chosen on the former.""",
        bare_table(
            ["method", "pishield_clean", "spml_pairs"],
            [
                [shown, *(interval(report[where][m], "auc") for where in (CHOSEN_ON, MEASURED))]
                for m, shown in methods.items()
            ],
        ),
        f"""It is {"shipped" if report["shipped"] else "not shipped"}: it has to beat both baselines on both. Features:
        {", ".join(report["parts"])}. No rule of the packaged policy reads it; without a context it says 0. It is no
        detector of attacks: those of `spml_pairs` talk about the chatbot's subject, and it puts them below benign
        texts (AUC {head}; length alone has {length} there, so that set can't tell a good detector from a ruler).""",
        """The other heads have no form with context: on `pishield_*`, where a document carries an instruction that is
        not its task's, the text alone is as good as any interaction (AUC on left-out documents, among all and among
        texts of like length):""",
        bare_table(
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
    for tokens in dict.fromkeys(one["tokens"] for one in long["false_alarms"]):
        of_length = [found[name, tokens] for name in SETS]
        rows.append([f"{tokens:,}", *(f"{o['block']} (+{o['flag']}) of {o['texts']}" for o in of_length)])
    return bare_table(["tokens, about", *SETS], rows)


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
    return bare_table([*head, "same action at all three"], rows)


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
    tuned = fit["tuned"]
    tuning = {name: tuned["config"][name] for name in ("low_fpr", "rate", "dropout", "frozen")}
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
        megabytes=(EMBEDDED / "adapters.safetensors").stat().st_size / 1e6,
        tune=f"{tuned['arguments']} --tuning '{json.dumps(tuning)}'",
        tuned=f"{max(tuned['texts'].values()):,} texts for a head at most, {tuned['steps']:,} steps of "
        f"{tuned['config']['tokens']:,} tokens, {tuned['seconds'] / 60:.0f} minutes on two cores",
        low_fpr=tuned["config"]["low_fpr"],
        held=len(fit["held"]),
        held_names=", ".join(f"`{name}`" for name in fit["held"]),
        most_families=MOST_FAMILIES["tool_output"],
        sweep=bare_table(
            ["head", "features", "penalty C", "macro AUC", "recall at 5%"],
            [
                [n, _blocks(one["blocks"]), f"{one['penalty_c']:g}", f"{one['mean_auc']:.3f}", f"{one['recall']:.3f}"]
                for n in names
                for one in fit["sweep"][n]
            ],
        ),
        policy=policy(metrics),
        policy_sets=_policy_sets(metrics),
        max_fpr=metrics["budget"]["max_fpr"],
        budget=_budget(metrics),
        aggregation=bare_table(
            ["head", "way", "", *(f"{n}" for n in LENGTHS)],
            [row for n in names for row in _lengths(n, fit[n])],
        ),
        by_length=bare_table(
            ["head", "windows", "texts", "share"],
            [
                [n, f"{e['from_windows']} or more", str(e["texts"]), f"{e['share']:.3f}"]
                for n in names
                for e in metrics[n]["benign_by_length"]["block"]
            ],
        ),
        left_out=bare_table(
            ["head", "learnt from", "harmful", "held out", "harmful", "families", "mean AUC", "recall at 1%", "at 5%"],
            [
                [
                    n,
                    str(fit[n]["texts"]),
                    str(fit[n]["positives"]),
                    str(fit[n]["held_texts"]),
                    str(fit[n]["held_positives"]),
                    str(len(fit[n]["left_out_family_auc"])),
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
        macro_f1=found["macro_f1"],
        macro_f1_of_shared=found["macro_f1_of_shared"],
        shared=", ".join(found["shared"]),
        categories=", ".join(f"{k} {v:.2f}" for k, v in found["recall_by_category"].items()),
        labels=", ".join(f"`{c}`" for c in CATEGORIES),
        licences=bare_table(["set", "licence", "public source"], used_sets(options.data)),
    )
    (EMBEDDED / "README.md").write_text(text, encoding="utf-8")
    page = README.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    tables = f"{overall(metrics)}\n\n{policy(metrics)}"
    README.write_text(f"{before}{BEGIN}\n{tables}\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
