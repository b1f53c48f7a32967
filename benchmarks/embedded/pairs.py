"""Fits the head that reads a text with its context, and measures what a context is worth to the others.

`off_policy` learns whether a text belongs to its context: each text stands there twice, with its own context and with
that of another row of its set. So neither the text nor its length says anything, which no set of attacks that is at
hand can claim: in `spml_pairs` length alone separates attacks from benign texts. Folds keep documents and contexts
together. It is measured on the benign rows of `spml_pairs`, system prompts of chatbots, of which nothing is fitted on.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from benchmarks.embedded.cached import Cached
from benchmarks.embedded.sets import Example
from lec_guard.detect.extractor import Block
from lec_guard.detect.heads import HeadSpec
from lec_guard.detect.pairs import Part, meet
from lec_guard.train.calibrate import platt
from lec_guard.train.fit import Columns, Floats, Ints, fit_binary, shares, text_logits

HEAD = "off_policy"
MEASURED = "spml_pairs"
CHOSEN_ON = "pishield_clean"
PARTS: tuple[tuple[Part, ...], ...] = (
    ("product",),
    ("difference",),
    ("product", "difference"),
    ("text", "context", "product", "difference"),
)
PENALTIES = (0.003, 0.01)
TEMPERATURES = (0.5, 1.0, 2.0)
FOLDS = 5
CONTEXTS = 100
"""A set needs as many, or its contexts say little about which text belongs to which."""
ROTATIONS = 5
RESAMPLES = 500
NEVER = -20.0
"""Logit of the form without context: a text alone is never off policy."""


@dataclass(frozen=True)
class Pairs:
    """Texts with contexts.

    Attributes:
        texts: Positions in the cache.
        contexts: Positions among the contexts.
        labels: 1 where they do not belong together.
        groups: Texts that share a document, or their own context.
        rows: The texts' windows.
        owner: The pair of each of them; as `texts` is, but twice where a text has two contexts.
    """

    texts: Ints
    contexts: Ints
    labels: Ints
    groups: Ints
    rows: Ints
    owner: Ints

    @classmethod
    def of(cls, cached: Cached, texts: Ints, contexts: Ints, labels: Ints) -> Pairs:
        """Find the windows and the groups."""
        order = np.argsort(cached.owner, kind="stable")
        borders = np.searchsorted(cached.owner[order], np.arange(len(cached.examples) + 1))
        rows = [order[borders[i] : borders[i + 1]] for i in texts]
        return cls(
            texts,
            contexts,
            labels,
            _groups(cached, texts),
            np.concatenate(rows),
            np.repeat(np.arange(len(texts)), [len(own) for own in rows]),
        )

    def scores(self, logits: Floats, temperature: float) -> Floats:
        """Windows -> pairs."""
        return text_logits(logits, self.owner, len(self.texts), temperature)


def _groups(cached: Cached, texts: Ints) -> Ints:
    """Number of the group of each text: those that share eight words in a row, or a context, are one."""
    where: dict[object, list[int]] = defaultdict(list)
    for at, text in enumerate(texts):
        words = re.findall(r"\w+", cached.examples[text].text.lower())
        for start in range(max(1, len(words) - 7)):
            where[" ".join(words[start : start + 8])].append(at)
        where[int(cached.contexts[text])].append(at)
    parent = np.arange(len(texts))

    def root(at: int) -> int:
        while parent[at] != at:
            parent[at] = parent[parent[at]]
            at = int(parent[at])
        return at

    for shared in where.values():
        for other in shared[1:]:
            parent[root(other)] = root(shared[0])
    return np.array([root(at) for at in range(len(texts))])


def swapped(cached: Cached, chosen: Callable[[Example], bool]) -> Pairs:
    """Each text with its own context, and then with another one of its set and category."""
    random = np.random.default_rng(0)
    classes: dict[tuple[str, str | None], list[int]] = defaultdict(list)
    for at, example in enumerate(cached.examples):
        if cached.contexts[at] >= 0 and chosen(example):
            # Within a set of tasks: else the wording of the instruction tells, not what it is about.
            classes[example.source, example.category if example.source == CHOSEN_ON else None].append(at)
    texts, others = [], []
    for own in classes.values():
        contexts = cached.contexts[own]
        for at in own:
            strange = contexts[contexts != cached.contexts[at]]
            if len(strange):
                texts.append(at)
                others.append(random.choice(strange))
    twice = np.array(texts + texts)
    labels = np.repeat([0, 1], len(texts))
    return Pairs.of(cached, twice, np.concatenate([cached.contexts[texts], others]).astype(np.int64), labels)


def folds(groups: Ints) -> Ints:
    """The fold of each row: groups stay together."""
    names = np.unique(groups)
    fold = np.random.default_rng(0).integers(0, FOLDS, len(names))
    return np.asarray(fold[np.searchsorted(names, groups)])


def left_out(features: Floats, pairs: Pairs, c: float) -> Floats:
    """Logits of windows from models that have not seen their group."""
    fold, out = folds(pairs.groups)[pairs.owner], np.zeros(len(pairs.owner), np.float32)
    for number in range(FOLDS):
        out[fold == number] = fit(features, pairs, fold != number, c).logits(features[fold == number])[:, 0]
    return out


def fit(features: Floats, pairs: Pairs, rows: Any, c: float) -> Columns:
    """Fit one column on some windows; every pair counts alike."""
    owner = pairs.owner[rows]
    weights = shares(owner, np.ones(len(pairs.texts), np.float32))
    return fit_binary(features[rows], pairs.labels[owner], weights, c=c)


def interval(pairs: Pairs, scores: Floats) -> dict[str, float]:
    """AUC, with a 95% bootstrap interval over groups."""
    random, names = np.random.default_rng(0), np.unique(pairs.groups)
    members = [np.flatnonzero(pairs.groups == name) for name in names]
    draws: list[float] = []
    while len(draws) < RESAMPLES:
        picked = np.concatenate([members[i] for i in random.integers(0, len(names), len(names))])
        if 0 < pairs.labels[picked].sum() < len(picked):
            draws.append(roc_auc_score(pairs.labels[picked], scores[picked]))
    low, high = np.percentile(draws, [2.5, 97.5])
    return {"auc": float(roc_auc_score(pairs.labels, scores)), "low": float(low), "high": float(high)}


def lengths(cached: Cached, pairs: Pairs) -> Floats:
    """Lengths of text and context, and how they compare: `[pairs, 4]`."""
    names = {int(number): cached.examples[at].context for at, number in enumerate(cached.contexts)}
    text = np.log1p([len(cached.examples[at].text) for at in pairs.texts])
    context = np.log1p([len(names[int(number)] or "") for number in pairs.contexts])
    return np.asarray(np.stack([text, context, text * context, np.abs(text - context)], axis=1), np.float32)


@dataclass(frozen=True)
class Fitted:
    """The head, in both forms, and how good it is.

    Attributes:
        parts: What a pair's features are made of.
        spec: What its column means.
        paired: The form with context.
        alone: The form without.
        shipped: Whether it beats length alone and text alone, both here and on `MEASURED`.
        report: The figures.
    """

    parts: tuple[Part, ...]
    spec: HeadSpec
    paired: Columns
    alone: Columns
    shipped: bool
    report: dict[str, Any]


def fit_off_policy(cached: Cached, blocks: Sequence[Block]) -> Fitted:
    """Choose parts, penalty and temperature on `CHOSEN_ON`, fit on all sets with contexts, measure on `MEASURED`."""
    features, contexts = cached.features(blocks), cached.context_features(blocks)
    counts = defaultdict(set)
    for at, example in enumerate(cached.examples):
        counts[example.source].add(int(cached.contexts[at]))
    rich = {source for source, own in counts.items() if len(own) >= CONTEXTS} - {MEASURED}
    pairs = swapped(cached, lambda e: e.source in rich and e.label in ("benign", "safe"))
    chosen_on = np.array([cached.examples[at].source == CHOSEN_ON for at in pairs.texts])

    def met(parts: Sequence[Part], own: Pairs) -> Floats:
        return meet(features[own.rows], contexts[own.contexts[own.owner]], parts)

    tried: list[dict[str, Any]] = []
    logits: dict[tuple[tuple[Part, ...], float], Floats] = {}
    for parts in PARTS:
        for c in PENALTIES:
            logits[parts, c] = left_out(met(parts, pairs), pairs, c)
            for temperature in TEMPERATURES:
                scores = pairs.scores(logits[parts, c], temperature)
                auc = float(roc_auc_score(pairs.labels[chosen_on], scores[chosen_on]))
                tried.append({"parts": parts, "c": c, "temperature": temperature, "auc": auc})
    best = max(tried, key=lambda one: one["auc"])
    parts, c, temperature = best["parts"], best["c"], best["temperature"]
    scores = pairs.scores(logits[parts, c], temperature)
    slope, offset = platt(scores, pairs.labels, np.ones(len(scores), np.float32))
    paired = fit(met(parts, pairs), pairs, slice(None), c).scaled(slope, offset)

    def baselines(own: Pairs, *, fitted: bool) -> dict[str, Floats]:
        text = features[own.rows]
        if fitted:  # by cross-validation, as the head
            fold, by_length = folds(own.groups), np.zeros(len(own.texts), np.float32)
            length = lengths(cached, own)
            for number in range(FOLDS):
                model = LogisticRegression().fit(length[fold != number], own.labels[fold != number])
                by_length[fold == number] = model.decision_function(length[fold == number])
            return {"text alone": own.scores(left_out(text, own, c), temperature), "length alone": by_length}
        model = LogisticRegression().fit(lengths(cached, pairs), pairs.labels)
        alone = fit(features[pairs.rows], pairs, slice(None), c)
        return {
            "text alone": own.scores(alone.logits(text)[:, 0], temperature),
            "length alone": model.decision_function(lengths(cached, own)).astype(np.float32),
        }

    measured = _rotated(cached)
    with_context = paired.logits(met(parts, measured))[:, 0]
    report: dict[str, Any] = {
        "pairs": len(pairs.texts),
        "sets": sorted({cached.examples[at].source for at in pairs.texts}),
        "chosen": best,
        "tried": tried,
        CHOSEN_ON: {
            method: interval(_only(pairs, chosen_on), values[chosen_on])
            for method, values in {"head": scores, **baselines(pairs, fitted=True)}.items()
        },
        MEASURED: {
            method: interval(measured, values)
            for method, values in {
                "head": measured.scores(with_context, temperature * slope),
                **baselines(measured, fitted=False),
            }.items()
        },
        "attacks": _attacks(cached, lambda own: own.scores(paired.logits(met(parts, own))[:, 0], temperature * slope)),
    }
    beaten = [
        report[where]["head"]["low"] > max(report[where][other]["auc"] for other in ("text alone", "length alone"))
        for where in (CHOSEN_ON, MEASURED)
    ]
    spec = HeadSpec(name=HEAD, kind="binary", labels=(HEAD,), temperature=temperature * slope)
    nothing = Columns(np.zeros((features.shape[1], 1), np.float32), np.array([NEVER], np.float32))
    return Fitted(parts, spec, paired, nothing, all(beaten), report)


def _only(pairs: Pairs, chosen: Any) -> Pairs:
    """Some of the pairs, without their windows."""
    none = np.empty(0, np.int64)
    return Pairs(pairs.texts[chosen], pairs.contexts[chosen], pairs.labels[chosen], pairs.groups[chosen], none, none)


def _rotated(cached: Cached) -> Pairs:
    """The benign rows of `MEASURED` with their own context, and with those of some other rows."""
    texts = np.array([i for i, e in enumerate(cached.examples) if e.source == MEASURED and e.label == "benign"])
    others = [np.roll(texts, turn) for turn in range(1, ROTATIONS + 1)]
    contexts = np.concatenate([cached.contexts[own] for own in (texts, *others)])
    repeated = np.tile(texts, ROTATIONS + 1)
    strange = contexts != cached.contexts[repeated]
    keep = strange | (np.arange(len(repeated)) < len(texts))
    return Pairs.of(cached, repeated[keep], contexts[keep], strange[keep].astype(np.int64))


def _attacks(cached: Cached, score: Callable[[Pairs], Floats]) -> dict[str, Any]:
    """Attacks against benign texts of `MEASURED`, each with its own context, beside length alone."""
    texts = np.array([i for i, e in enumerate(cached.examples) if e.source == MEASURED])
    labels = np.array([int(cached.examples[i].label == "injection") for i in texts])
    own = Pairs.of(cached, texts, cached.contexts[texts], labels)
    length = np.array([len(cached.examples[i].text) for i in texts], np.float32)
    return {"head": interval(own, score(own)), "length alone": interval(own, length)}


def injected(cached: Cached, blocks: Sequence[Block]) -> dict[str, Any]:
    """What a context is worth for finding injected instructions in `pishield_*`: AUC, folds by document."""
    chosen = np.array([i for i, e in enumerate(cached.examples) if e.source.startswith("pishield")])
    labels = np.array([int(cached.examples[i].label == "injection") for i in chosen])
    pairs = Pairs.of(cached, chosen, cached.contexts[chosen], labels)
    text, context = cached.features(blocks)[pairs.rows], cached.context_features(blocks)
    length = np.array([len(cached.examples[i].text) for i in chosen], np.float32)
    every: tuple[tuple[Part, ...], ...] = (("text",), ("text", "context"), ("text", "product"), *PARTS)
    report = {
        "length alone": {"auc": float(roc_auc_score(labels, length)), "matched": _matched(labels, length, length)}
    }
    for parts in every:
        features = meet(text, context[pairs.contexts[pairs.owner]], parts)
        scores = pairs.scores(left_out(features, pairs, PENALTIES[0]), 0.5)
        report[" + ".join(parts)] = {
            "auc": float(roc_auc_score(labels, scores)),
            "matched": _matched(labels, scores, length),
        }
    return report


def _matched(labels: Ints, scores: Floats, length: Floats) -> float:
    """AUC among texts of like length: within tenths of the lengths, each weighted by its pairs."""
    tenth = np.digitize(length, np.quantile(length, np.linspace(0.1, 0.9, 9)))
    found, weights = [], []
    for number in range(10):
        own = tenth == number
        pairs = labels[own].sum() * (1 - labels[own]).sum()
        if pairs:
            found.append(roc_auc_score(labels[own], scores[own]))
            weights.append(pairs)
    return float(np.average(found, weights=weights))


def describe(fitted: Fitted) -> dict[str, Any]:
    """The report of the head, as `fit.json` has it."""
    return {
        **fitted.report,
        "shipped": fitted.shipped,
        "spec": fitted.spec.model_dump(mode="json"),
        "parts": fitted.parts,
    }
