"""The page of `benchmarks.pii`, from its figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.markdown import interval, table

HERE = Path(__file__).parent
PAGE = HERE / "README.md"
RESULTS = HERE.parent / "results" / "pii.json"

_TOP = """# Personal data

What `PiiDetector` finds in `presidio_pii` (microsoft/presidio-research: {texts:,} synthetic sentences with {spans:,}
spans of the types below), beside a handful of regular expressions of our own. {date}, presidio-analyzer {presidio}:

    python -m benchmarks.pii --data DATA

Everything on this page is written by that command; DATA holds `eval/` with a file a set. A finding is right if it
shares half with a span of its type (intersection over union). In brackets 95% intervals (Wilson) over spans or
findings, of sentences of these templates: of other texts they say nothing. Nothing was fitted or chosen on this set.
"""

_OVERLAPS = """
Patterns find the forms that Presidio knows: card numbers of 13 to 17 digits that begin with 1, 3, 4, 5 or 6 and whose
check digit is right, phone numbers that are valid in one of eight countries, dates with a day or a month in numbers.
The regular expressions take any digits that stand in a row.

Two types may be found in one place, and both are told: a card number whose digits could be dialled is a card number and
a phone number, and a rule that reads either sees it. Of the {wrong} wrong findings of the patterns {elsewhere} lie on a
span of another type.
"""

_NER = """
Names and places have no form; a spaCy model finds them (`PiiDetector(ner=True)`). They were not looked for here:
{why}. This measures them too:

    python -m spacy download en_core_web_sm
    python -m benchmarks.pii --data DATA --ner en_core_web_sm

{table}"""

_HARMLESS = """
## Where there is none

Texts of harmless sets in which `PiiDetector()`, as it comes, finds something.

"""

_TIME = """
## How long it takes

Milliseconds a text, each read alone, medians of rounds (lowest to highest) in which all take turns; {processor},
torch on {threads} of {cores} cores. The embedded detector (`{embedded}`) stands beside for scale.{busy}

"""


_BUSY = """
Others were at work on this machine: its times are too long, and only their ratios say something."""


def write_page(report: dict[str, Any]) -> None:
    """Write the page.

    Args:
        report: What `benchmarks.pii` measured, as JSON gives it back.
    """
    PAGE.write_text(page(report), encoding="utf-8")


def page(report: dict[str, Any]) -> str:
    """The whole page.

    Args:
        report: See `write_page`.

    Returns:
        Markdown.
    """
    parts = [_TOP.format(**report), "\n", _found(report["methods"]), _overlaps(report["methods"]["patterns"])]
    if report["missing"] is not None:
        rows = [[label, str(count)] for label, count in sorted(report["names"].items())]
        why = report["missing"].partition(";")[0]
        parts.append(_NER.format(why=why, table=table(["type", "spans in the set"], rows)))
    parts += [_HARMLESS, _alarms(report["harmless"])]
    machine = report["machine"]
    parts.append(
        _TIME.format(
            processor=machine["processor"],
            threads=machine["torch_threads"],
            cores=machine["cores"],
            busy=_BUSY if (machine["load"] or 0.0) > 1 else "",
            embedded=report["detectors"]["embedded detector"],
        )
    )
    head = ["detector", f"a sentence ({report['characters']:.0f} characters)", f"{report['long']:,} characters"]
    rows = [[name, _ms(own), _ms(report["ms_long"][name])] for name, own in report["ms"].items()]
    return "".join([*parts, table(head, rows)])


def _found(methods: dict[str, Any]) -> str:
    labels = sorted({label for own in methods.values() for label in own})
    head = ["type", "spans", *(f"{name}: {what}" for name in methods for what in ("recall", "precision"))]
    rows = []
    for label in labels:
        spans = max(own[label]["recall"]["n"] for own in methods.values() if label in own)
        cells = [
            _figure(own[label][what]) if label in own else ""
            for own in methods.values()
            for what in ("recall", "precision")
        ]
        rows.append([label, str(spans), *cells])
    return table(head, rows)


def _overlaps(patterns: dict[str, Any]) -> str:
    wrong, elsewhere = (sum(own[what] for own in patterns.values()) for what in ("wrong", "wrong_on_another"))
    return _OVERLAPS.format(wrong=wrong, elsewhere=elsewhere)


def _alarms(harmless: dict[str, Any]) -> str:
    rows = [
        [
            name,
            str(own["flagged"]["n"]),
            _figure(own["flagged"], ".1%"),
            ", ".join(f"{label} {count}" for label, count in own["labels"].items()) or "nothing",
        ]
        for name, own in harmless.items()
    ]
    return table(["set", "texts", "flagged", "texts by type"], rows)


def _figure(own: dict[str, Any], form: str = ".2f") -> str:
    return "none" if own["value"] is None else interval(own, form=form)


def _ms(own: dict[str, float]) -> str:
    return f"{own['median']:.3g} ({own['low']:.3g} to {own['high']:.3g})"


if __name__ == "__main__":
    write_page(json.loads(RESULTS.read_text(encoding="utf-8")))
