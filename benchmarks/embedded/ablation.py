"""What each ingredient of the embedded detector is worth: short tunings that differ in one thing, judged on new data.

    python -m benchmarks.embedded.ablation --data DATA --tail TAIL --work FOLDER

Each way tunes the layers on the same small part of the texts but for what it leaves out, fits heads on layer 4, and is
judged twice: on the families that are held out of `train/`, by which choices are made, and on unseen families of
`eval/`. Baselines are fitted on the same texts. A run goes on where it was interrupted. Writes `ablation.json` and
`ABLATION.md` beside this file. The shipped bundle learnt from far more: its own figures stand below.

Two ways take longer than all others together and are made by themselves, each in its folder in FOLDER: `adapt tune`,
then `features`, `fit`, and `evaluate --bundle --out`. Tuned as long again is `--onto` what the shipped layers are, with
`--seed 1` and a rate of 0.0005; rank 64 is the model card's command with that rank and an alpha of 128. The first
bundle has a folder there, too, with its `metrics.json`: `evaluate --bundle` with the packaged policy of its time.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from benchmarks.embedded.adapt import BLOCKS, keep, ranked
from benchmarks.embedded.cached import Cached
from benchmarks.embedded.evaluate import Scored, baseline_scores, overall
from benchmarks.embedded.features import PACKAGE, WINDOW, collect
from benchmarks.embedded.fit import Rows, fit_rows
from benchmarks.embedded.mixture import HELD, INGREDIENTS, Ingredient, examples, fewer, held_in, lessons
from benchmarks.embedded.sets import Example, read_examples, sample
from benchmarks.embedded.tail import HELD as TAIL_HELD
from benchmarks.embedded.tail import drawn, held
from benchmarks.embedded.tasks import TASKS, Task
from benchmarks.markdown import bare_table, interval
from lec_guard.detect.adapters import Adapters, averaged
from lec_guard.detect.bundle import EMBEDDED, packaged_weights, read_bundle
from lec_guard.detect.extractor import Block, Extractor
from lec_guard.detect.layer import LayerDetector
from lec_guard.detect.windows import WindowSpec
from lec_guard.train.config import Windows
from lec_guard.train.distil import DistilConfig, distil
from lec_guard.train.fit import Floats, balanced_weights, family_folds, text_logits
from lec_guard.train.lessons import Lesson

PAGE = Path(__file__).parent / "ABLATION.md"
RESULTS = PAGE.with_name("ablation.json")
MOST, PLANT, DRAW, SHARE = 100, 600, 60, 0.5
"""Public texts of a set and label, planted documents, texts of each kind of the tail; and the share of all texts that
a way learns from."""
FITTED, MEASURED, MOST_HELD = 25, 60, 40
"""Texts of a set and label that heads are fitted to, are measured, and are held out."""
LONGEST = 2_000
"""Characters of a text that is fitted to or measured."""
SCORED = 1_500
"""Texts of each kind of the tail that are scored to find the ones that the layers take for attacks."""
READ = [Block(4, "mean"), Block(4, "max")]
PENALTY, FOLDS = 0.002, 5
TUNING: dict[str, Any] = {
    "tokens": 4096,
    "most_windows": 12,
    "epochs": 1,
    "low_fpr": 0.3,
    "rate": 8e-4,
    "dropout": 0.0,
    "frozen": 1,
}
"""As the shipped layers were tuned."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """One thing that differs.

    Attributes:
        tuned: Whether layers are tuned at all.
        ingredients: What the tuning learns from.
        share: Of the texts.
        tuning: Settings that differ.
        window: How texts are cut.
        scale: What adapters are multiplied by after the tuning that `of` names.
        of: The way whose adapters it takes; None: its own.
        temperature: Of the mean over windows; None: the highest window counts alone.
        soft: Whether labels of public sets are softened by heads that have not seen the family.
        lexical: Whether a regression on character n-grams has half of the say.
        layer: That heads read.
        shipped: Whether layers are those of the shipped bundle, which learnt from far more.
        apart: Whether layers are those of a bundle that lies in the way's folder: its tuning takes longer than all
            others together, and is run by itself.
        mean_of: The ways of whose adapters it takes the mean (a model soup).
        half: Which half of the families with attacks it learns from, 0 or 1, with all of their texts; None: from all
            of them, with `share` of their texts.
        mined: Whether, of the tail, it learns from what the way `BLIND`, which never saw it, takes for attacks; else
            from as many texts by chance.
    """

    tuned: bool = True
    ingredients: Collection[Ingredient] = INGREDIENTS
    share: float = SHARE
    tuning: dict[str, Any] | None = None
    window: WindowSpec = WINDOW
    scale: float = 1.0
    of: str | None = None
    temperature: float | None = 1.0
    soft: bool = False
    lexical: bool = False
    layer: int = 4
    mined: bool = False
    shipped: bool = False
    apart: bool = False
    mean_of: tuple[str, ...] = ()
    half: int | None = None


SHIPPED = "the shipped layers"
LONGER = "the shipped layers, tuned as long again"
WIDER = "as many steps, rank 64"
MEAN = "the mean of these three"
FIRST = "the first bundle, on layers as they are"
"""What all of this began with. No way, because another recipe made it."""
ALL, BLIND = "all of it", "without the benign tail"
FROZEN = "layers as they are"
WAYS: dict[str, Way] = {
    FROZEN: Way(tuned=False),
    ALL: Way(),
    BLIND: Way(ingredients=INGREDIENTS - {"tail"}),
    "without planted instructions": Way(ingredients=INGREDIENTS - {"plants"}),
    "without the low-rate term": Way(tuning={"low_fpr": 0.0}),
    "a quarter of the texts": Way(share=SHARE / 4),
    "a sixteenth of the texts": Way(share=SHARE / 16),
    "half of the attack families": Way(half=0),
    "the other half": Way(half=1),
    "adapters at half": Way(of=ALL, scale=0.5),
    "adapters at three quarters": Way(of=ALL, scale=0.75),
    "bare maximum over windows": Way(of=ALL, temperature=None),
    "with character n-grams": Way(of=ALL, lexical=True),
    "the tail mined, not drawn": Way(mined=True),
    "without harmless twins": Way(ingredients=INGREDIENTS - {"twins"}),
    "without attacks of our own": Way(ingredients=INGREDIENTS - {"attacks"}),
    "without other languages": Way(ingredients=INGREDIENTS - {"languages"}),
    "with soft labels": Way(soft=True),
    "the worst families count more": Way(tuning={"worst_families": 0.5}),
    "adapters of rank 64": Way(tuning={"rank": 64, "alpha": 128.0}),
    "windows of 256 tokens": Way(window=WindowSpec(size=256, stride=127, least=10)),
    SHIPPED: Way(tuned=False, shipped=True),
    LONGER: Way(tuned=False, apart=True),
    WIDER: Way(tuned=False, apart=True),
    MEAN: Way(tuned=False, mean_of=(SHIPPED, LONGER, WIDER)),
    "the shipped layers with character n-grams": Way(tuned=False, shipped=True, of=SHIPPED, lexical=True),
    "layers as they are, layer 2": Way(tuned=False, layer=2),
    "layers as they are, layer 3": Way(tuned=False, layer=3),
    "layers as they are, layer 5": Way(tuned=False, layer=5),
    "layers as they are, layer 6": Way(tuned=False, layer=6),
}


@dataclass(frozen=True)
class Texts:
    """What heads are fitted to, and what they are judged on."""

    learnt: list[Example]
    held: list[Example]
    measured: list[Example]

    @classmethod
    def read(cls, data: Path, tail: Path) -> Texts:
        """The same ones for every way."""
        harmless = read_examples(tail / "tail.jsonl")
        found = examples(data, most=FITTED, plant=PLANT)
        found = _some(found, FITTED) + drawn(harmless, FITTED)
        own = sample(data / "train", MOST_HELD) + held(harmless, MOST_HELD)
        away = HELD | set(TAIL_HELD)
        return cls(
            _short([one for one in found if one.family not in away]),
            _short([one for one in own + found if one.family in away]),
            _short(sample(data / "eval", MEASURED)),
        )


def _short(found: Sequence[Example]) -> list[Example]:
    return [one for one in found if len(one.text) <= LONGEST]


def _some(found: Sequence[Example], most: int) -> list[Example]:
    """Some of each family."""
    families: dict[str, list[Example]] = {}
    for one in found:
        families.setdefault(one.family, []).append(one)
    rng = random.Random(0)  # noqa: S311 - a sample, not a secret
    return [one for own in families.values() for one in rng.sample(own, min(most, len(own)))]


def adapted(way: Way, data: Path, tail: Path, work: Path, name: str) -> Adapters:
    """Tune layers in one way, and keep them as a bundle, with what that cost in `costs.json` beside it."""
    folder = place(work, name)
    bundle, costs = folder / "bundle", folder / "costs.json"
    if not costs.is_file():
        found = examples(data, most=MOST, plant=PLANT, ingredients=way.ingredients)
        harmless = read_examples(tail / "tail.jsonl") if "tail" in way.ingredients else []
        if way.mined:
            adapted(WAYS[BLIND], data, tail, work, BLIND)
        learnt = odd(harmless, place(work, BLIND) / "bundle") if way.mined else drawn(harmless, DRAW)
        own = lessons([*found, *learnt])
        own = fewer(own, way.share) if way.half is None else halved(own, way.half, way.share)
        if way.soft:
            own = softened(own, folder / "soft")
        tuning = {**TUNING, **(way.tuning or {})}
        # Longer windows, as many tokens of a text.
        tuning["most_windows"] = tuning["most_windows"] * WINDOW.size // way.window.size
        config = DistilConfig(blocks=BLOCKS, window=Windows(**_fields(way.window)), **tuning)
        began, held = time.monotonic(), held_in(own, TAIL_HELD)
        tuned = distil(own, packaged_weights(PACKAGE), config, held=held, work=folder / "work", resume=True)
        keep(bundle, tuned, own, config)
        cost = {"minutes": (time.monotonic() - began) / 60, "steps": tuned.steps}
        costs.write_text(json.dumps(cost) + "\n", encoding="utf-8")
    return adapters_of(bundle)


def adapters_of(bundle: Path) -> Adapters:
    """The adapters of a bundle whose layers were tuned."""
    adapters = read_bundle(bundle).learned.adapters
    if adapters is None:
        raise AssertionError("a bundle of tuned layers has adapters")
    return adapters


def tuned_apart(folder: Path) -> tuple[Adapters, dict[str, Any]]:
    """The adapters that `benchmarks.embedded.adapt tune` wrote to a folder, what they cost, and do on all of eval/."""
    tuned, every = _written(folder / "tuned.json", by="adapt tune"), on_all(folder)
    about = {"minutes": tuned["seconds"] / 60, "steps": tuned["steps"], "all": every}
    return adapters_of(folder), about


def on_all(folder: Path) -> dict[str, Any]:
    """Of a bundle's `metrics.json`, what it does on all of eval/: head by head, and under the packaged policy."""
    measured = _written(folder / "metrics.json", by="evaluate")
    every: dict[str, Any] = {task.head: {"overall": measured[task.head]["overall"]} for task in TASKS}
    every["policy"] = {"stages": measured["policy"]["stages"]}
    return every


def _written(path: Path, *, by: str) -> dict[str, Any]:
    if not path.is_file():
        raise SystemExit(f"{path}: is not there; write it with `python -m benchmarks.embedded.{by}`")
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return report


def mean_of(names: Sequence[str], work: Path) -> Adapters:
    """The mean of the adapters of ways that are shipped, or tuned apart."""
    return averaged([adapters_of(EMBEDDED if WAYS[name].shipped else place(work, name)) for name in names])


def place(work: Path, name: str) -> Path:
    """The folder of a way."""
    return work / name.replace(" ", "_").replace(",", "")


def halved(own: Sequence[Lesson], half: int, share: float) -> list[Lesson]:
    """All texts of half of the families that have attacks, and of families without any a share.

    With a share of one half, attacks are about as many as with that share of all families: fewer kinds, more of each.

    Args:
        own: The lessons.
        half: Which half.
        share: Of the texts of families without attacks.

    Returns:
        The lessons.
    """
    sided = [(one.family, side) for lesson in own for one, side in zip(lesson.examples, lesson.sides, strict=True)]
    attacked = sorted({family for family, side in sided if side})
    random.Random(0).shuffle(attacked)  # noqa: S311 - repeatable
    kept = set(attacked[half::2])
    harmless = fewer([_of(lesson, lambda family: family not in attacked) for lesson in own], share)
    return [
        replace(part, examples=[*part.examples, *_of(lesson, kept.__contains__).examples])
        for part, lesson in zip(harmless, own, strict=True)
    ]


def _of(lesson: Lesson, wanted: Callable[[str], bool]) -> Lesson:
    return replace(lesson, examples=[one for one in lesson.examples if wanted(one.family)])


def odd(tail: list[Example], bundle: Path) -> list[Example]:
    """Of each kind of the tail as many texts as are drawn else: those that the layers take for attacks."""
    found = ranked(LayerDetector.load(bundle, budget=None), tail, SCORED)
    chosen = {text for own in found.values() for _, text in own[:DRAW]}
    return list({one.text: one for one in tail if one.text in chosen and one.family not in TAIL_HELD}.values())


def softened(own: Sequence[Lesson], folder: Path) -> list[Lesson]:
    """Lessons whose public texts have, beside labels, what heads on frozen layers say that never saw the family."""
    extractor, made = Extractor.load(packaged_weights(PACKAGE), blocks=READ, window=WINDOW), []
    for lesson in own:
        head = lesson.head.name
        public = [
            Example(
                source=one.family,
                family=one.family,
                kind="prompt",
                text=one.text,
                label="",
                category=None,
                labels={head: one.side},
            )
            for one in lesson.examples
            if not one.family.startswith(("own_", "tail_"))
        ]
        collect(extractor, public, folder / head, blocks=READ)
        cached = Cached.read(folder / head)
        rows = Rows.of(cached, next(task for task in TASKS if task.head == head))
        features = cached.features(READ)[rows.windows]
        logits = np.zeros(len(features), np.float32)
        for away in family_folds(rows.labels, rows.families, FOLDS):
            out = np.isin(rows.owner, away)
            logits[out] = fit_rows(features, rows, ~out, PENALTY).logits(features[out])[:, 0]
        said = 1 / (1 + np.exp(-text_logits(logits, rows.owner, len(rows.texts), 1.0, "attention")))
        soft = {public[at].text: float(p) for at, p in zip(rows.texts, said, strict=True)}
        made.append(replace(lesson, examples=[replace(one, soft=soft.get(one.text)) for one in lesson.examples]))
    return made


def _fields(window: WindowSpec) -> dict[str, int]:
    return {"size": window.size, "stride": window.stride, "least": window.least}


def judge(way: Way, adapters: Adapters | None, texts: Texts, folder: Path) -> dict[str, Any]:
    """Fit heads on layers and measure them, by head; what layers say that `folder` has already is not asked again."""
    read = [replace(block, layer=way.layer) for block in READ]
    if not (folder / "examples.jsonl").is_file():
        if adapters is not None:
            adapters = replace(adapters, alpha=adapters.alpha * way.scale)
        extractor = Extractor.load(packaged_weights(PACKAGE), blocks=read, window=way.window, adapters=adapters)
        every = [replace(one, context=None) for one in (*texts.learnt, *texts.held, *texts.measured)]
        collect(extractor, every, folder, blocks=read)
    cached = Cached.read(folder)
    features = cached.features(read)
    place = np.repeat([0, 1, 2], [len(texts.learnt), len(texts.held), len(texts.measured)])
    report: dict[str, Any] = {}
    for task in TASKS:
        rows = Rows.of(cached, task)
        where = place[rows.texts]
        learnt = rows.where(where == 0)
        column = fit_rows(features[learnt.windows], learnt, np.ones(len(learnt.windows), np.bool_), PENALTY)
        families = np.unique(learnt.families)
        report[task.head] = {}
        for name, number in (("held", 1), ("measured", 2)):
            own = rows.where((where == number) & ~np.isin(rows.families, families))
            logits = column.logits(features[own.windows])[:, 0]
            # The mean at a temperature of next to nothing is the highest window.
            scores = text_logits(logits, own.owner, len(own.texts), way.temperature or 0.01, "attention")
            if way.lexical:
                scores = np.asarray((scores + _lexical(cached.examples, learnt, own)) / 2, np.float32)
            report[task.head][name] = _figures(own, scores, families, cached.examples, task)
    return report


def _lexical(found: list[Example], learnt: Rows, own: Rows) -> Floats:
    """Log odds by character n-grams."""
    vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True, min_df=2, max_features=2**16)
    model = LogisticRegression(C=10.0, max_iter=300)
    weights = balanced_weights(learnt.labels, learnt.families)
    model.fit(vectors.fit_transform([found[i].text for i in learnt.texts]), learnt.labels, sample_weight=weights)
    return np.asarray(model.decision_function(vectors.transform([found[i].text for i in own.texts])), np.float32)


def _figures(own: Rows, scores: Floats, families: Any, found: list[Example], task: Task) -> dict[str, float]:
    sources = np.array([found[i].source for i in own.texts])
    entry = overall(Scored(own, sources, {task.head: scores}), families)[task.head]
    return {
        "auc": entry["macro_auc"],
        "recall_at_1": entry["recall_at_0.01"]["macro"],
        "recall_at_5": entry["recall_at_0.05"]["macro"],
    }


def baselines(texts: Texts) -> dict[str, dict[str, Any]]:
    """Length and TF-IDF, fitted on the same texts."""
    report: dict[str, dict[str, Any]] = {"length": {}, "TF-IDF": {}}
    for task in TASKS:
        for name, judged in (("held", texts.held), ("measured", texts.measured)):
            fitted, own = Rows.of_texts(texts.learnt, task), Rows.of_texts(judged, task)
            found = baseline_scores(texts.learnt, judged, task)
            for method, key in (("length", "length"), ("TF-IDF", "tfidf")):
                figures = _figures(own, found[key], np.unique(fitted.families), judged, task)
                report[method].setdefault(task.head, {})[name] = figures
    return report


def page(results: dict[str, Any], shipped: dict[str, Any]) -> str:
    """The page.

    Args:
        results: Way -> head -> `held` and `measured` -> figures, and what it cost.
        shipped: `metrics.json` of the shipped bundle.

    Returns:
        Markdown.
    """
    heads = [task.head for task in TASKS]
    head = ["way", "steps", *(f"held: {name}" for name in heads), *(f"eval: {name}" for name in heads)]
    parts = [_TOP]
    for title, names in TABLES.items():
        parts += [f"## {title}\n\n", bare_table(head, [_row(name, results[name]) for name in names]), "\n\n"]
    whole = {
        FIRST: results[FIRST]["all"],
        "the shipped bundle": shipped,
        "a bundle on its layers, tuned as long again": results[LONGER]["all"],
        "a bundle on layers of as many steps, rank 64": results[WIDER]["all"],
    }
    measured = bare_table(["bundle", *heads], [_whole(name, own) for name, own in whole.items()])
    done = [(stage, kind) for stage, found in shipped["policy"]["stages"].items() for kind in found]
    acts = bare_table(
        ["bundle", *(f"{stage}: {kind}" for stage, kind in done)],
        [
            [name, *(_acted(own["policy"]["stages"][stage][kind]) for stage, kind in done)]
            for name, own in whole.items()
        ],
    )
    parts.append(f"## On all of eval/: before, after, and what was tried then\n\n{measured}\n\n{_ACTS}\n\n{acts}\n\n")
    says = _SAYS.format(
        minutes=", ".join(f"{results[name]['minutes']:.1f}" for name in _GROWING),
        longer=f"{results[LONGER]['minutes']:.0f}",
        wider=f"{results[WIDER]['minutes']:.0f}",
        **{
            key: [one["policy"]["stages"][stage][kind][action]["mean"] for one in whole.values()]
            for key, stage, kind, action in (
                ("blocked", "input", "injection", "block"),
                ("flagged", "input", "injection", "flag"),
                ("harmless", "input", "harmless", "block"),
                ("shown", "input", "harmless", "flag"),
                ("documents", "tool_output", "injection", "block"),
                ("results", "tool_output", "harmless", "block"),
            )
        },
    )
    return "".join(parts) + says


def _whole(name: str, metrics: dict[str, Any]) -> list[str]:
    cells = [name]
    for task in TASKS:
        own = metrics[task.head]["overall"]["head"]
        recalls = [own[f"recall_at_{rate}"] for rate in (0.01, 0.05)]
        cells.append(" / ".join([f"{own['macro_auc']:.2f}", *(interval(one, "macro") for one in recalls)]))
    return cells


def _acted(own: dict[str, Any]) -> str:
    return " / ".join(interval(own[action], "mean", ".1%") for action in ("block", "flag"))


def _row(name: str, own: dict[str, Any]) -> list[str]:
    cells = [name, f"{own['steps']:,}" if "steps" in own else ""]
    for where in ("held", "measured"):
        for task in TASKS:
            one = own["heads"][task.head][where]
            cells.append(f"{one['auc']:.2f} / {one['recall_at_1']:.2f} / {one['recall_at_5']:.2f}")
    return cells


_GROWING = ("a sixteenth of the texts", "a quarter of the texts", ALL)
TABLES = {
    "Beside baselines, by data: recall against minutes": (
        *("length only", "TF-IDF", FROZEN, *_GROWING, SHIPPED, LONGER, WIDER, MEAN),
    ),
    "By families": (ALL, "half of the attack families", "the other half"),
    "Without one ingredient": (
        ALL,
        *(name for name in WAYS if name.startswith("without ")),
    ),
    "With another one": (
        *(ALL, "the tail mined, not drawn", "with soft labels", "with character n-grams"),
        "the worst families count more",
        *("bare maximum over windows", "windows of 256 tokens"),
        "the shipped layers with character n-grams",
    ),
    "By how much of the adapters": (FROZEN, "adapters at half", "adapters at three quarters", ALL),
    "By the adapters' rank, 16 where none is named": (FROZEN, ALL, "adapters of rank 64", SHIPPED, WIDER),
    "By layer": (
        *(f"{FROZEN}, layer {layer}" for layer in (2, 3)),
        FROZEN,
        *(f"{FROZEN}, layer {layer}" for layer in (5, 6)),
    ),
}
"""Title -> ways."""

_ACTS = """What the packaged policy blocks, and what it flags or blocks, sets counting alike; each bundle at the
thresholds that its own held-out families gave:"""

_SAYS = """## What it says

- **Before and after.** At equal rates the shipped bundle finds more prompts and more unsafe texts than the first
  one. At the packaged policy it stops fewer attacks on prompts, and fewer harmless texts: it blocks
  {blocked[1]:.0%} of unseen attacks (the first one {blocked[0]:.0%}) and flags or blocks {flagged[1]:.0%}
  ({flagged[0]:.0%}); of harmless input it blocks {harmless[1]:.1%} ({harmless[0]:.1%}) and flags or blocks
  {shown[1]:.0%} ({shown[0]:.0%}). The one unseen family of documents is lost: {documents[1]:.0%} of it blocked
  ({documents[0]:.0%}), and of harmless documents {results[1]:.1%} ({results[0]:.1%}).
- **How much the tuning learns from decides, up to a point.** A sixteenth, a quarter and all of the texts took
  {minutes} minutes of a busy core; the shipped layers learnt from twelve times as many steps, in 41 minutes on two.
  The first quarter brings little, what follows brings most. Then it levels off: tuned as long again, on other draws
  of the same families ({longer} minutes with other work beside it), layers fit those families better, and others no
  better. On all of eval/ recall of prompts falls at both rates and that of unsafe texts stays; the one family of
  documents gains. At thresholds by the same rule such a bundle blocks {blocked[2]:.0%} of unseen attacks on prompts,
  the shipped one {blocked[1]:.0%}. On held-out families recall of prompts rises, and AUC falls for two of three
  heads: no reason to ship it. To be open: its figures on eval/ were known when that was decided.
- **Families.** Tunings on half of the families with attacks, with all of their texts, are not told apart, for
  prompts, from the one on half of the texts of all families (heads are fitted to all of them): more families of these
  kinds bring little.
- **Rank.** In the small tuning adapters of rank 64 gain for prompts, on both sides. Tuned as long as the shipped
  ones ({wider} minutes with other work beside it) they gain nothing here, where heads read layer 4. As a whole
  bundle, whose heads choose their layers, they find more prompts of held-out families: AUC 0.98 for 0.93, recall at
  1% 0.66 for 0.48, most of it in one family of two; for documents AUC 0.90 for 0.87; for unsafe texts 0.849 for
  0.855. On all of eval/ AUC is up by 0.005 to 0.016 for each head, and recall of prompts down at both rates. The
  packaged policy, at thresholds by the same rule, would block {blocked[3]:.0%} of unseen attacks on prompts, and
  {harmless[3]:.1%} of harmless input for {harmless[1]:.1%}. Not shipped: the rule for that (more recall at 1% on
  held-out families, and no lower AUC) is broken by one head of three, if only by little (their mean rises), and the
  bundle would be four times as large (2.7 MB). To be open again: its figures on eval/ were known when that was
  decided.
- **The mean of the three long tunings** (a model soup) has the highest recall at 1% of all on held-out prompts and
  unsafe texts, and on eval/ it is not told apart from the shipped layers. It takes 4 MB; no bundle was made of it.
- **What is missed is missed neither for minutes nor for rank**, nor for windows, layers, or more of these data: what
  tunings of this length gain on held-out families, for prompts of eval/ all end at an AUC of 0.79 to 0.83 here, and a
  recall at 1% of about a quarter. To pass that, the same recipe needs what could not be tried for want of weights and
  data: an encoder that is larger, or that was made for something else than to tell what sentences are about, and
  attacks of other kinds than those of the public sets. N-grams (below) bring some points. The recipe takes any base and
  rank (`lec-guard distil --base --rank`). Layers as they are (by layer) are no way there: of the second to the sixth
  none beats the fourth for all three heads; later ones read documents better, and prompts worse.
- **TF-IDF** on the same few texts is as good for prompts as the small tunings, and worse for documents and for unsafe
  texts of held-out families. The shipped layers are better than it, but learnt from far more.
- **Pays, on held-out families:** planted instructions (most, and for prompts too); less surely harmless twins, other
  languages and the benign tail, for prompts by 7 to 10 points of recall at 5%. On eval/ none of it shows for prompts:
  whatever is left out, recall at 5% is 0.33 to 0.36, and 0.35 with all of it.
- **Is not told apart from noise at this size:** the term for low rates; attacks of our own, for prompts; a bare maximum
  over windows (nor on long texts: top 1 in the model card); windows of 256 tokens, which read more tokens in more
  steps, but for unsafe texts on eval/, of which they find half as many.
- **Does not pay:** soft labels; more weight for the worst families; what layers that have not seen the tail take for
  attacks in place of a draw of it; adapters at a part of their weight. None of them is in the shipped bundle.
- **N-grams** of characters beside the layers pay for prompts and for little else, beside the shipped layers as well,
  with heads that are fitted to as few texts as here. They are not shipped: a bundle has no place for them yet.
- **Documents** are one family on either side, and tell little: on the held-out one AUC is lower without any of the
  ingredients but the term for low rates, on the other one it goes up and down with nothing that we know of.
"""

_TOP = f"""# What each ingredient is worth

    python -m benchmarks.embedded.ablation --data DATA --tail TAIL --work FOLDER

Short tunings on two cores or fewer: {MOST} public texts of a set and label, {PLANT} planted documents, {DRAW} texts of
each kind of the tail, and {SHARE:.0%} of all that; they differ in one thing each. Heads on layer 4. In each cell macro
AUC, then recall at 1% and at 5% of false alarms, families counting alike; families that nothing learnt from. *held* are
those that are held out of `train/`, by which choices are made; *eval* is for measuring. One run each, {MEASURED} texts
of a set and label, none of more than {LONGEST:,} characters: differences of some hundredths are noise. Few attacks are
left so: for `injection` 101 of two held-out families and 236 of five of eval/, for `indirect_injection` 17 of one and
60 of one, for `safety` 215 of four and 471 of eight.

"""


def main() -> None:
    """Run what has not run yet, and write."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--data", type=Path, required=True)
    arguments.add_argument("--tail", type=Path, required=True)
    arguments.add_argument("--work", type=Path, required=True)
    arguments.add_argument("--only", nargs="*", choices=list(WAYS), default=list(WAYS))
    options = arguments.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    memory = options.work / "results.json"
    known: dict[str, Any] = json.loads(memory.read_text()) if memory.is_file() else {}
    texts = Texts.read(options.data, options.tail)
    if "length only" not in known:
        own = baselines(texts)
        known["length only"], known["TF-IDF"] = ({"heads": own[name]} for name in ("length", "TF-IDF"))
    if FIRST not in known:
        known[FIRST] = {"all": on_all(place(options.work, FIRST))}
    for name in options.only:
        way = WAYS[name]
        if name in known:
            continue
        source, adapters, about = way.of or name, None, {}
        if way.tuned:
            adapters = adapted(WAYS[source], options.data, options.tail, options.work, source)
            if source == name:
                about = json.loads((place(options.work, name) / "costs.json").read_text(encoding="utf-8"))
        elif way.shipped:
            adapters = adapters_of(EMBEDDED)
        elif way.apart:
            adapters, about = tuned_apart(place(options.work, name))
        elif way.mean_of:
            adapters = mean_of(way.mean_of, options.work)
        same = way.window == WAYS[source].window and way.scale == 1
        folder = place(options.work, source if same else name) / "features"
        known[name] = {**about, "heads": judge(way, adapters, texts, folder)}
        print(name, json.dumps(known[name]), flush=True)
        memory.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
    RESULTS.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
    shipped = json.loads((EMBEDDED / "metrics.json").read_text(encoding="utf-8"))
    PAGE.write_text(page(known, shipped), encoding="utf-8")


if __name__ == "__main__":
    main()
