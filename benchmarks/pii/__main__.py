"""Personal data: what `PiiDetector` finds of it, beside a handful of regular expressions, and how long that takes.

    python -m benchmarks.pii --data DATA [--ner MODEL]

DATA holds `eval/` with one JSON-lines file a set. Writes benchmarks/results/pii.json and the page of it. With names and
places where a spaCy model is installed, or the one that is named; else these are left out.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import re
import statistics
import time
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pii.page import RESULTS, write_page
from lec_guard import Detector, LayerDetector, Scores, Span, Step
from lec_guard.bench.machine import describe
from lec_guard.detect.pii import PII, PiiDetector
from lec_guard.errors import DetectorError
from lec_guard.train.metrics import rate_figure

SET = "presidio_pii"
HARMLESS = ("gsm8k", "notinject", "oktest")
"""Sets whose texts hold no personal data: arithmetic, and questions that sound worse than they are."""

BY_PATTERN = {
    "CREDIT_CARD": "CREDIT_CARD", "DATE_TIME": "DATE_TIME", "DOMAIN_NAME": "URL", "EMAIL_ADDRESS": "EMAIL_ADDRESS",
    "IBAN_CODE": "IBAN_CODE", "IP_ADDRESS": "IP_ADDRESS", "PHONE_NUMBER": "PHONE_NUMBER",
    "US_DRIVER_LICENSE": "US_DRIVER_LICENSE", "US_SSN": "US_SSN",
}  # fmt: skip
"""The set's types -> ours, of those that have a form."""
BY_NAME = {
    "GPE": "LOCATION", "NRP": "NRP", "ORGANIZATION": "ORGANIZATION", "PERSON": "PERSON", "STREET_ADDRESS": "LOCATION",
    "ZIP_CODE": "LOCATION",
}  # fmt: skip
"""Those that a language model looks for."""

OVERLAP = 0.5
"""A finding is right if it shares this much with a true span: their intersection over their union."""

LONG = 50_000
ROUNDS = 5

_SIMPLE = {
    "CREDIT_CARD": r"\b(?:\d[ -]?){12,18}\d\b",
    "DATE_TIME": r"\b\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}\b",
    "EMAIL_ADDRESS": r"\b[\w.+-]+@[\w-]+\.[\w.-]+\b",
    "IBAN_CODE": r"\b[A-Z]{2}\d{2}[A-Z\d]{11,30}\b",
    "IP_ADDRESS": r"\b(?:\d{1,3}\.){3}\d{1,3}\b",
    "PHONE_NUMBER": r"(?<!\w)\+?\(?\d[\d ().-]{5,16}\d\b",
    "URL": r"\b(?:https?://|www\.)\S+",
    "US_DRIVER_LICENSE": r"\b[A-Z]\d{7,14}\b",
    "US_SSN": r"\b\d{3}-\d{2}-\d{4}\b",
}


class Simple:
    """What one would write in an afternoon: a regular expression for each type that has a form."""

    def __init__(self) -> None:
        self._patterns = {label: re.compile(pattern) for label, pattern in _SIMPLE.items()}

    @property
    def labels(self) -> Mapping[str, tuple[str, ...]]:
        return {PII: tuple(self._patterns)}

    def score(self, steps: Sequence[Step], *, keys: Sequence[Hashable] | None = None) -> list[Scores]:  # noqa: ARG002
        return [self._score(step.text) for step in steps]

    def _score(self, text: str) -> Scores:
        spans = tuple(
            Span(start=match.start(), end=match.end(), head=PII, label=label, score=1.0)
            for label, pattern in self._patterns.items()
            for match in pattern.finditer(text)
        )
        found = {span.label for span in spans}
        by_label = {label: float(label in found) for label in self._patterns}
        return Scores(by_head={PII: by_label}, spans=spans, detector_id="simple", backend="python")


@dataclass(frozen=True)
class Row:
    """A text and what is in it."""

    text: str
    spans: tuple[Span, ...]


def read(file: Path) -> list[Row]:
    """The rows of a set, with the types that are measured under our names."""
    names = BY_PATTERN | BY_NAME
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines():
        content = json.loads(line)
        spans = tuple(
            Span(start=one["start"], end=one["end"], head=PII, label=names[one["type"]], score=1.0)
            for one in content.get("spans", ())
            if one["type"] in names
        )
        rows.append(Row(content["user"], spans))
    return rows


def found(detector: Detector, rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Precision and recall by type."""
    hits: dict[str, list[bool]] = {}
    right: dict[str, list[bool]] = {}
    elsewhere: Counter[str] = Counter()
    for row, scores in zip(rows, detector.score(_steps(row.text for row in rows)), strict=True):
        for true in row.spans:
            hits.setdefault(true.label, []).append(any(same(true, one) for one in scores.spans))
        for one in scores.spans:
            right.setdefault(one.label, []).append(any(same(true, one) for true in row.spans))
            elsewhere[one.label] += not right[one.label][-1] and any(near(true, one) for true in row.spans)
    return {
        label: {
            "recall": _share(hits.get(label, [])),
            "precision": _share(right.get(label, [])),
            "wrong": right.get(label, []).count(False),
            "wrong_on_another": elsewhere[label],
        }
        for label in detector.labels[PII]
    }


def same(true: Span, one: Span) -> bool:
    """Whether a finding is a true span, or near enough."""
    shared = min(true.end, one.end) - max(true.start, one.start)
    return true.label == one.label and shared >= OVERLAP * (max(true.end, one.end) - min(true.start, one.start))


def near(true: Span, one: Span) -> bool:
    """Whether a finding touches a span of another type."""
    return true.label != one.label and true.start < one.end and one.start < true.end


def _share(flags: Sequence[bool]) -> dict[str, Any]:
    figure = rate_figure(np.array(flags, bool), np.array([SET] * len(flags)), fewest=1, what="of them")
    return {"value": figure.value, "low": figure.low, "high": figure.high, "n": figure.n}


def _steps(texts: Any) -> list[Step]:
    return [Step(stage="input", text=text) for text in texts]


def times(detectors: Mapping[str, Detector], texts: Sequence[str]) -> dict[str, dict[str, float]]:
    """Milliseconds a text, each read alone; the detectors take turns, and the first round does not count."""
    taken: dict[str, list[float]] = {name: [] for name in detectors}
    for _ in range(ROUNDS + 1):
        for name, detector in detectors.items():
            began = time.perf_counter()
            for step in _steps(texts):
                detector.score([step])
            taken[name].append((time.perf_counter() - began) * 1000 / len(texts))
    return {
        name: {"median": statistics.median(own[1:]), "low": min(own[1:]), "high": max(own[1:])}
        for name, own in taken.items()
    }


def measure(data: Path, ner: str | None) -> dict[str, Any]:
    """All figures, as JSON has them."""
    rows = read(data / "eval" / f"{SET}.jsonl")
    by_form = sorted(set(BY_PATTERN.values()))
    usual = PiiDetector()
    methods: dict[str, Detector] = {"regular expressions": Simple(), "patterns": PiiDetector(by_form)}
    missing = None
    try:
        methods["patterns and names"] = PiiDetector(sorted({*by_form, *BY_NAME.values()}), ner=ner or True)
    except DetectorError as error:
        if ner is not None:
            raise
        missing = str(error)
    timed = {**methods, "patterns, as they come": usual, "embedded detector": LayerDetector.load()}
    long = " ".join(row.text for row in rows)[:LONG]
    return {
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "machine": describe().model_dump(mode="json"),
        "presidio": importlib.metadata.version("presidio-analyzer"),
        "texts": len(rows),
        "spans": sum(len(row.spans) for row in rows),
        "names": {label: sum(span.label == label for row in rows for span in row.spans) for label in BY_NAME.values()},
        "missing": missing,
        "detectors": {name: getattr(one, "detector_id", "simple") for name, one in timed.items()},
        "methods": {name: found(one, rows) for name, one in methods.items()},
        "harmless": {
            name: _alarms(usual, [row.text for row in read(data / "eval" / f"{name}.jsonl")]) for name in HARMLESS
        },
        "ms": times(timed, [row.text for row in rows[:200]]),
        "characters": statistics.median(len(row.text) for row in rows[:200]),
        "ms_long": times(timed, [long]),
        "long": len(long),
    }


def _alarms(detector: Detector, texts: Sequence[str]) -> dict[str, Any]:
    scores = detector.score(_steps(texts))
    labels = sorted({span.label for one in scores for span in one.spans})
    return {
        "flagged": _share([bool(one.spans) for one in scores]),
        "labels": {label: sum(one.by_head[PII][label] > 0 for one in scores) for label in labels},
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--ner", help="a spaCy model that is installed, by name or folder")
    options = parser.parse_args()
    report = measure(options.data, options.ner)
    RESULTS.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    write_page(report)


if __name__ == "__main__":
    main()
