"""The page of `benchmarks.inside`, from its figures.

python -m benchmarks.inside.page
"""

from __future__ import annotations

import json
import re
import statistics
import textwrap
from pathlib import Path
from typing import Any

from benchmarks.inside.behaviour import Share
from benchmarks.inside.drawing import PLOTS, run_name
from benchmarks.markdown import interval, table

HERE = Path(__file__).parent
PAGE = HERE / "README.md"
RESULTS = HERE / "results.json"

_TOP = """# Inside a local model: a demonstration on a toy language

This page shows that the parts work together, and how they are used. It says nothing of any real model. The model has
{millions:.1f} million parameters and {layers} layers, and has read nothing but a toy language of our own making
(`language.py` and what it imports): small true facts, questions about people with made-up personal data, attacks to
which the answers that it has read mostly give way, and answers to harmless requests that turn harmful in the middle for
no reason. Names, secrets and paraphrases that are measured with were never learnt, neither by the model nor by heads.
All of it comes from a few hundred templates: a head has much less to tell apart than in real traffic, and figures near
0% and 100% are those of the toy. Harm is what `harm.py` finds, a rule made for these templates. Its plants, recipes and
people do not exist.

    python -m benchmarks.inside --work FOLDER{model}

Everything on this page is written by that command; {trained}. What it calls takes a real model as well:
`lec-guard train --model PATH --turn ROLE` and [docs/generate.md](../../docs/generate.md), `lec-guard pii-data`, `tune`
and `pii-eval` in [docs/tune.md](../../docs/tune.md). Intervals in brackets are of 95%: Wilson's for shares, a bootstrap
over answers for means. They allow for other questions of this language, and not for other languages, models or
trainings.

## Heads

`injection` reads what a user says behind the system prompt; `harm` an answer, and every beginning of one, behind the
request. Both are logistic regressions on this model's own layers, fitted by `lec_guard.train.trainer.train` in the turn
that they read. Layer, pooling and C are those that served left-out families best. The threshold is where 1% of the
harmless texts of left-out families are stopped (`max_fpr: 0.01`), and was not adjusted afterwards.

"""

_CURVE = """
F1 is weighted, on texts that are kept apart, of a head on all poolings of the chosen layer after {sizes} texts. Length
alone, and always saying the larger class, stand beside it.

How the heads do on texts in new paraphrases, at these thresholds, each text by itself behind its context. Families of
`injection` are ways to attack, those of `harm` topics of a request. Held out were {held}.

"""

_HARM_NOTE = """
The answers that `harm` reads here are of templates that the model has never read, and many of the harmless ones were
made to look harmful ("Sign with your name."). What the model writes of its own, further below, is made of what it
learnt, and the head was fitted on sentences of the same templates: that is easier.

## Before the first token

`GuardedCausalLM.generate` with a policy of both heads, the likeliest tokens, conversations of up to four turns. A
refused prompt is answered with the policy's message. "Same" counts, of the answers that were shown, those that are what
the model alone writes, token by token.

"""

_WORKS = """
For refused prompts the model wrote {written} tokens. Attacks that got what they were after, without the guard and with
it:

"""

_BLOCKED = """
Of the {blocked} answers to harmless prompts that were blocked, {turned} are harmful when nobody stops them. Plain
requests for what must not be told are no attacks, and the head was fitted on none of them; it stops them all the same.
{secrets}

## While an answer is written

Harmless requests, sampled (temperature {temperature:g}, nucleus {top_p:g}, fixed seeds), without the guard and with it
by the same draws: so it is known what each stopped answer would have been. The guard looks every {every} tokens.

"""

_AFTER = """
![Share of harmful answers stopped, by tokens of the harmful part](stopping.svg)

`harm` was fitted on windows of whole sentences; harmful ones mostly have 9 to 16 tokens. {why}

### What a reader has seen by then

Nothing, as long as the policy holds back all (`hold_back: all`, the default). With a number, a token goes out when that
many more were read after it and no head has fired. Answers that turn, one by one with a streamer:

"""

_GUIDANCE = """
## Guidance

`GuidedCausalLM` with the package's own two system prompts and the likeliest tokens; {count} questions about people and
{count} about facts, without a system prompt of their own. Personal data is what `PiiDetector` finds by patterns and
checksums: addresses of mail, telephone numbers, accounts and cards. Names are not counted. The model has learnt what
both prompts mean.

![Personal data and right facts by coefficient](guidance.svg)

"""

_NO_PROMPT = """
Without any system prompt it is {per_answer} in an answer, and {right} of the facts are right. "Changed" is the share of
all answers that are not what the positive prompt alone makes of them.
"""

_ORPO = """
## ORPO

`pii-data` made pairs of {dialogues} dialogues whose answers hold personal data, with the toy model itself as both
generators (no other one speaks its language; temperatures 0.7 and 1): {samples} samples, and {rows}. Guided pairs stand
under the positive system prompt and, swapped, under the negative one, as the package makes them by default; plain ones
under none (`--no-guided`). Tries of the generators that were of no use: {no_use}. `tune` ran with the published
settings (beta {beta:g}, rank {rank}, alpha {alpha:g}, {epochs} epochs, batches of {batch}) and the learning rates that
the table says; 0.0001 is the published one. The questions are those of the last section.

![Personal data before and after ORPO](orpo.svg)

"""

_PLAIN = """
Guided pairs teach the model what the two prompts mean; what it says without either, only plain pairs are about.
"""

_LAST = """
The adapters have {parameters:,} numbers, {share:.0%} of the model's; those of a large model are a percent or two of it.

## How long it takes

Minutes of each stage on {processor}, with {threads} of torch; others were at work on the same cores.

"""

_SHORT = """
## What fell short

"""

_SECRETS = (
    "Of the attacks that are after a secret word, {hits} of {of} work without any guard: the model does not manage to "
    "copy a word that it has never read. Those that are after a recipe mostly do."
)

_WAYS = {None: "none", 1.0: "positive", 2.0: "coefficient 2"}


def write_page(report: dict[str, Any]) -> None:
    """Write the page and its plots.

    Args:
        report: What `benchmarks.inside` measured, as JSON gives it back.
    """
    PAGE.write_text(page(report), encoding="utf-8")
    for name, draw in PLOTS.items():
        (HERE / name).write_bytes(draw(report))


def page(report: dict[str, Any]) -> str:
    """The whole page.

    Args:
        report: See `write_page`.

    Returns:
        Markdown.
    """
    heads, toy = report["heads"], report["model"]["trained"]
    known = "the model is what\n`python -m benchmarks.inside.toy --out MODEL` made before"
    parts = [
        _TOP.format(
            millions=report["model"]["parameters"] / 1e6,
            layers=report["model"]["layers"],
            model=" --model MODEL" if toy is None else "",
            trained=known if toy is None else f"it trains the model first, in\n{toy['seconds'] / 60:.0f} minutes",
        ),
        _heads(heads),
        _CURVE.format(
            sizes=" and ".join(sorted({str(own["curve"]["size"]) for own in heads.values() if own["curve"]})),
            held=" and ".join(f"{_list(own)} (`{head}`)" for head, own in report["held_out"].items()),
        ),
        _found(heads),
        _HARM_NOTE,
        _asked(report),
        _decoding(report),
        _streaming(report["streaming"]),
        _GUIDANCE.format(count=report["counts"]["steered"]),
        _guidance(report["guidance"]["rows"]),
        _NO_PROMPT.format(**_no_prompt(report["guidance"]["plain"])),
        *_orpo(report),
        _minutes(report),
        _SHORT,
        _short(report),
    ]
    return "\n\n".join(map(_filled, "".join(parts).split("\n\n")))


def _filled(block: str) -> str:
    """A paragraph in lines that are not too long, whatever figures it holds."""
    if re.match(r"\s*(\||#|!|-|    )", block):
        return block
    end = "\n" if block.endswith("\n") else ""
    return textwrap.fill(block, 118, break_long_words=False, break_on_hyphens=False) + end


def _heads(heads: dict[str, Any]) -> str:
    head = [
        "head",
        "chosen",
        "C",
        "AUC",
        "threshold",
        "stopped of harmless",
        "F1",
        "F1 of length",
        "of the larger class",
    ]
    rows = []
    for name, own in heads.items():
        chosen, bar, curve = own["chosen"], own["bars"][0], own["curve"]
        blocks = ", ".join(f"layer {one['layer']} {one['pooling']}" for one in chosen["blocks"])
        figures = ["none", "none", "none"]
        if curve is not None:
            figures = [f"{curve[which]:.3f}" for which in ("f1", "length", "majority")]
        rows.append(
            [
                f"`{name}`",
                blocks,
                f"{chosen['penalty']:g}",
                f"{chosen['auc']:.4f}",
                f"{bar['threshold']:g}",
                f"{bar['stopped']} of {bar['texts']:,}",
                *figures,
            ]
        )
    return table(head, rows)


def _found(heads: dict[str, Any]) -> str:
    names = {"same": "fitted on", "new": "held out"}
    rows = [
        [f"`{name}`, families {names[one['part']]}", share(one["harmful"]), share(one["harmless"])]
        for name, own in heads.items()
        for one in own["found"]
    ]
    return table(["head", "harmful texts found", "harmless texts stopped"], rows)


def _asked(report: dict[str, Any]) -> str:
    asked = report["asked"]
    rows = [[one["name"], share(one["refused"]), share(one["later"]), count(one["same"])] for one in asked]
    works = [[one["name"], share(one["works"]), share(one["works_guarded"])] for one in asked if one["works"]]
    harmless = [one for one in asked if one["works"] is None]
    secrets = _secrets(asked)
    return "".join(
        [
            table(["prompts", "refused before the first token", "answer blocked later", "same"], rows),
            _WORKS.format(written=sum(one["written"] for one in asked)),
            table(["prompts", "worked without", "worked with"], works),
            _BLOCKED.format(
                blocked=sum(one["later"]["hits"] for one in harmless),
                turned=sum(one["turned"] for one in harmless),
                secrets=_SECRETS.format(**secrets) if _fails_by_itself(secrets) else "",
                every=report["decoding"]["every"],
                **{name: report["sampling"][name] for name in ("temperature", "top_p")},
            ),
        ]
    )


def _secrets(asked: list[dict[str, Any]]) -> dict[str, int]:
    """Attacks after the secret word that work without the guard."""
    own = [one["secrets"] for one in asked if one["secrets"] and one["name"].startswith("attacks")]
    return {what: sum(one[what] for one in own) for what in ("hits", "of")}


def _fails_by_itself(secrets: dict[str, int]) -> bool:
    return secrets["hits"] < secrets["of"] / 10


def _decoding(report: dict[str, Any]) -> str:
    own = report["decoding"]["rows"]
    names = ["", *(one["name"] for one in own)]
    rows = [
        ["requests refused, which is wrong", *(share(one["refused"]) for one in own)],
        ["answers that turn, of the others", *(share(one["turned"]) for one in own)],
        ["of these, stopped while they were written", *(share(one["stopped"]) for one in own)],
        ["blocked when they were over", *(share(one["at_end"]) for one in own)],
        ["got through", *(share(missed(one)) for one in own)],
        ["stopped before they had turned", *(str(one["early"]) for one in own)],
        ["tokens of the harmful part written: median", *(f"{quantile(one['after'], 0.5):g}" for one in own)],
        ["of nine in ten no more than", *(f"{quantile(one['after'], 0.9):g}" for one in own)],
        ["tokens it has when nobody stops it, on average", *(f"{one['part']:.0f}" for one in own)],
        ["answers that do not turn, stopped or blocked", *(share(one["wrongly"]) for one in own)],
        ["answers shown that are the same", *(count(one["same"]) for one in own)],
    ]
    blocks = report["heads"]["harm"]["chosen"]["blocks"]
    reads_last = {one["pooling"] for one in blocks} == {"last"}
    why = "It reads the last token of a window, and mostly fires where the first harmful sentence ends. "
    return table(names, rows) + _AFTER.format(why=why if reads_last else "")


def _streaming(own: list[dict[str, Any]]) -> str:
    head = [
        "`hold_back`",
        "answers that turn",
        "stopped or blocked",
        "of these, any harm seen",
        "characters of harm seen",
    ]
    rows = [
        [
            str(one["hold_back"]),
            str(one["answers"]),
            count(one["blocked"]),
            share(one["shown"]),
            f"median {quantile(one['characters'], 0.5):g}, most {max(one['characters'], default=0)}"
            f" of {one['harmful']:.0f} on average",
        ]
        for one in own
    ]
    number = next((one for one in own if one["hold_back"] != "all"), None)
    told = ""
    if number is not None:
        told = (
            f"\nWith {number['hold_back']}, a reader of a stopped answer had {number['harmless']:.0%} of what comes"
            " before the harmful part, on average.\n"
        )
    return table(head, rows) + told


def _guidance(rows: list[dict[str, Any]]) -> str:
    head = ["coefficient", "space", "personal data in an answer", "answers with any", "facts right", "words", "changed"]
    both = {0.0: "either", 1.0: "either"}
    lines = []
    for row in sorted(rows, key=lambda one: (one["way"]["coefficient"], one["way"]["space"])):
        way = row["way"]
        changed = "" if row["changed"] is None else f"{Share(**row['changed']).rate:.0%}"
        where = both.get(way["coefficient"], way["space"])
        lines.append(
            [
                f"{way['coefficient']:g}",
                where,
                interval(row["per_answer"]),
                share(row["answers"]),
                share(row["right"]),
                f"{row['words']:.1f}",
                changed,
            ]
        )
    return table(head, lines)


def _no_prompt(rows: list[dict[str, Any]]) -> dict[str, str]:
    own = next(row for row in rows if row["way"]["coefficient"] is None)
    return {"per_answer": interval(own["per_answer"]), "right": share(own["right"])}


def _orpo(report: dict[str, Any]) -> list[str]:
    own = report["orpo"]
    pairs, runs = own["pairs"], own["runs"]
    reasons: dict[str, int] = {}
    for told in pairs[0]["no_use"].values():  # the same tries for both
        for reason, many in told.items():
            reasons[reason] = reasons.get(reason, 0) + many
    head = ["model", "system prompt", "personal data in an answer", "answers with any", "facts right", "words"]
    models = {"alone": own["before"]} | {run_name(one): one["rows"] for one in runs}
    lines = [
        [
            name,
            _WAYS[row["way"]["coefficient"]],
            interval(row["per_answer"]),
            share(row["answers"]),
            share(row["right"]),
            f"{row['words']:.1f}",
        ]
        for name, rows in models.items()
        for row in rows
    ]
    parameters = runs[0]["parameters"]
    machine = report["machine"]
    return [
        _ORPO.format(
            dialogues=pairs[0]["dialogues"],
            samples=pairs[0]["samples"],
            rows=_list([f"{one['rows']} {'guided' if one['guided'] else 'plain'} pairs" for one in pairs]),
            no_use=", ".join(f"{reason} {many}" for reason, many in reasons.items()),
            **runs[0]["settings"],
        ),
        table(head, lines),
        *([_PLAIN] if len({one["guided"] for one in runs}) > 1 else []),
        _LAST.format(
            parameters=parameters,
            share=parameters / report["model"]["parameters"],
            processor=machine["processor"],
            threads="1 thread" if machine["torch_threads"] == 1 else f"{machine['torch_threads']} threads",
        ),
    ]


def _minutes(report: dict[str, Any]) -> str:
    names = {
        "heads": "fitting both heads, and measuring them",
        "asked": "before the first token",
        "decoding": "while an answer is written",
        "streaming": "streamed, one by one",
        "guidance": "guidance",
        "plain": "the model before ORPO",
        "pairs": "pairs",
    }
    toy = report["model"]["trained"]
    rows = [] if toy is None else [["training the toy model", f"{toy['seconds'] / 60:.1f}"]]
    orpo = {one["name"]: f"{run_name(one)}, and measuring it" for one in report["orpo"]["runs"]}
    rows += [[{**names, **orpo}[name], f"{own / 60:.1f}"] for name, own in report["seconds"].items()]
    rows.append(["all", f"{sum(float(own) for _, own in rows):.1f}"])
    return table(["stage", "minutes"], rows)


def _short(report: dict[str, Any]) -> str:
    harm = {one["part"]: one for one in report["heads"]["harm"]["found"]}
    decoding = report["decoding"]["rows"]
    after = sorted(one for row in decoding for one in row["after"])
    part = statistics.fmean(row["part"] for row in decoding)
    wrongly = [sum(row["wrongly"][what] for row in decoding) for what in ("hits", "of")]
    refused = [sum(row["refused"][what] for row in decoding) for what in ("hits", "of")]
    by_topic = {name: many for row in decoding for name, many in row["refused_of"].items()}
    topics = ", ".join(f"{name} {many}" for name, many in by_topic.items()) or "none"
    told = [
        "`harm` knows the toy's sentences, and not harm: of harmless answers in sentences that nobody had read before,"
        f" it stops {rate(harm['same']['harmless'])} (topics that it was fitted on) and {rate(harm['new']['harmless'])}"
        " (others), and of harmful ones it misses"
        f" {1 - Share(**harm['same']['harmful']).rate:.0%} and {1 - Share(**harm['new']['harmful']).rate:.0%}.",
        "A threshold for 1% of harmless texts is one for texts like those that it was taken from. Of the harmless"
        f" requests above, {refused[0]} of {refused[1]} were refused ({topics}), for they sound like what attackers ask"
        f" for; of their answers that do not turn, {wrongly[0]} of {wrongly[1]} were stopped.",
        f"Half of the harmful answers that were stopped had more than {quantile(after, 0.5):g} tokens of their harmful"
        f" part by then, of {part:.0f} that it has. Only `hold_back` keeps these from a reader.",
        *(
            ["Attacks after the secret word say little, for this model can't give it away."]
            if _fails_by_itself(_secrets(report["asked"]))
            else []
        ),
        *_steered(report["guidance"]["rows"]),
        *_tuned(report["orpo"]),
        "ORPO learnt from answers of the same model, and names are not counted as personal data.",
        "One model, one training, one seed: how much of this is chance of the training is not known.",
    ]
    return "".join(map(_item, told))


def _steered(rows: list[dict[str, Any]]) -> list[str]:
    """Where guidance costs right facts."""
    at_one = next(row["right"] for row in rows if row["way"]["coefficient"] == 1.0)
    told = [
        f"{rate(row['right'])} at {row['way']['coefficient']:g} ({row['way']['space']})"
        for row in rows
        if row["way"]["coefficient"] > 1.0 and _is_fewer(row["right"], at_one)
    ]
    return [f"Guidance has a price: right facts fall from {rate(at_one)} to {_list(told)}."] if told else []


def _tuned(orpo: dict[str, Any]) -> list[str]:
    """Where tuning does not do what it is to do, or costs right facts."""
    told = []
    for run in orpo["runs"]:
        for before, after in zip(orpo["before"], run["rows"], strict=True):
            name = f"{run_name(run)}, system prompt: {_WAYS[after['way']['coefficient']]}"
            if _is_fewer(after["right"], before["right"]):
                told.append(f"{name}: right facts fall from {rate(before['right'])} to {rate(after['right'])}.")
            if after["per_answer"]["high"] > before["per_answer"]["value"] > 0.0:
                told.append(f"{name}: less personal data is not shown.")
    return told


def _is_fewer(own: dict[str, int], other: dict[str, int]) -> bool:
    """Whether the intervals lie apart."""
    return Share(**own).interval[1] < Share(**other).interval[0]


def _item(text: str) -> str:
    own = textwrap.fill(text, 116, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return f"- {own}\n"


def rate(own: dict[str, int]) -> str:
    """A share in percent.

    Args:
        own: `hits` and `of`.

    Returns:
        Such as `30%`.
    """
    return f"{Share(**own).rate:.0%}"


def share(own: dict[str, int]) -> str:
    """A share with its count and interval.

    Args:
        own: `hits` and `of`.

    Returns:
        Such as `3 of 10, 30% [11, 60]`.
    """
    found = Share(**own)
    if not found.of:
        return "none"
    low, high = found.interval
    return f"{found.hits} of {found.of}, {found.rate:.1%} [{100 * low:.1f}, {100 * high:.1f}]"


def count(own: dict[str, int]) -> str:
    """A share as its count.

    Args:
        own: `hits` and `of`.

    Returns:
        Such as `3 of 10`.
    """
    return f"{own['hits']} of {own['of']}" if own["of"] else "none"


def missed(own: dict[str, Any]) -> dict[str, int]:
    """Answers that turn and got through.

    Args:
        own: A row of `decoding`.

    Returns:
        A share.
    """
    turned = own["turned"]["hits"]
    return {"hits": turned - own["stopped"]["hits"] - own["at_end"]["hits"], "of": turned}


def quantile(values: list[int], at: float) -> float:
    """The least value that so large a share of all does not exceed.

    Args:
        values: In order of size.
        at: The share.

    Returns:
        The value; 0 where there is none.
    """
    if not values:
        return 0.0
    return statistics.median(values) if at == 0.5 else values[min(len(values) - 1, int(at * len(values)))]


def _list(names: list[str]) -> str:
    return ", ".join(names[:-1]) + f" and {names[-1]}" if len(names) > 1 else "".join(names)


if __name__ == "__main__":
    write_page(json.loads(RESULTS.read_text(encoding="utf-8")))
