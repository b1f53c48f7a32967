"""How good heads get: layers and poolings against the number of texts to fit on and the penalty.

The protocol of LEC (arXiv 2412.13435, section 4): a penalised regression on each layer's features, fitted on random
samples that grow, several draws of each. What is different here is what they are tested on: families that no sample
holds, so that a figure says something about other sources.

One fit is `lec_guard.train.fit.fit_windows` for two classes, and multinomial regression on windows for more; the
difference is that windows are standardised once a sample, and that a weaker penalty starts where a stronger one ended.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import joblib
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, roc_auc_score
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from lec_guard.detect.bundle import FeatureBlock
from lec_guard.detect.extractor import Block
from lec_guard.errors import UnsupportedValueError
from lec_guard.train.features import Features, Progress
from lec_guard.train.fit import MANY_CLASSES, Columns, Floats, Ints, copied, shares, some_of_each, standing, text_logits

SIZES = (5, 10, 20, 35, 55, 100, 500, 1000, 5000)
"""Those of the paper, and on."""
PENALTIES = (0.001, 0.01, 0.1, 1.0, 10.0)
SEEDS = 5
FPR = 0.01
FEWEST_BENIGN = 100
"""Benign texts below which 1% of them is less than one."""

_VERSION = 1
"""Changes with what a record means or how it comes about."""
_TEST, _CHOICE = 0.25, 0.2
"""Shares of texts that test, and, of the others, that choose C."""
_MOST = (4, 20)
"""Windows of a benign text and of another to fit on, at most: documents would outweigh all else."""
_TOLERANCE = 1e-4
"""At scikit-learn's 1e-3, as in `fit`, a path that starts warm stops before it has moved."""
_PIECE = 16_384
"""Windows that are scored at once."""
_FILE = "sweep.jsonl"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Record(_Part):
    """One fit.

    Attributes:
        blocks: The features that it read.
        size: Texts that it was fitted on.
        seed: Which draw of them.
        c: Inverse strength of the L2 penalty on standardised features.
        f1: On the test texts, over classes, weighted by their share; a text's class is its likeliest.
        auc: On the test texts; of more than two classes, the mean of each against the rest.
        recall: Share of the test texts that are not benign that are found at 1% false positives; None where
            `Sweep.no_recall` says why.
        choice: Log likelihood, in nats a text, on the texts that choose C, which neither fit nor test. Not the AUC:
            of heads that rank alike it would take the one whose probabilities say least.
    """

    blocks: tuple[FeatureBlock, ...]
    size: int
    seed: int
    c: float
    f1: float
    auc: float
    recall: float | None
    choice: float

    @property
    def layer(self) -> int:
        """The highest layer that it needs."""
        return max(block.layer for block in self.blocks)

    @property
    def name(self) -> str:
        """The features, as reports name them: see `name_of`."""
        return name_of(self.blocks)


class Spread(_Part):
    """A figure over draws of the texts to fit on. It says nothing of other test texts.

    Attributes:
        mean: Their mean.
        sd: Their standard deviation (n - 1); None of a single draw.
        low: The lowest.
        high: The highest.
    """

    mean: float
    sd: float | None
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarise.

        Args:
            values: One a draw, at least one.

        Returns:
            The spread.
        """
        sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
        return cls(mean=float(np.mean(values)), sd=sd, low=min(values), high=max(values))


class SummaryRow(_Part):
    """Features at a size, with the C that did best on texts that neither fit nor test.

    Attributes:
        name: The features, as reports name them.
        blocks: The features.
        layer: The highest layer that they need.
        size: Texts to fit on.
        c: The C with the highest mean `Record.choice` over draws; of equal ones the strongest penalty.
        f1: See `Record`.
        auc: Likewise.
        recall: Likewise.
    """

    name: str
    blocks: tuple[FeatureBlock, ...]
    layer: int
    size: int
    c: float
    f1: Spread
    auc: Spread
    recall: Spread | None


class PartSizes(_Part):
    """What texts were used for.

    Attributes:
        draw: Texts that samples are drawn from.
        choice: Texts that choose C.
        test: Texts that test.
        test_families: How many families these have; none of them is drawn from or chooses.
        choice_by_family: Whether no family that chooses is drawn from either; not so where a class has too few.
    """

    draw: int
    choice: int
    test: int
    test_families: int
    choice_by_family: bool


class Sweep(_Part):
    """What came of it.

    Attributes:
        labels: The classes, the benign one first.
        parts: What texts were used for.
        records: One a fit: by features, size, seed, C.
        left_out: What was asked for and not done, and why.
        no_recall: Why there is no recall; None where there is.
    """

    labels: tuple[str, ...]
    parts: PartSizes
    records: tuple[Record, ...]
    left_out: tuple[str, ...]
    no_recall: str | None

    def summary(self) -> tuple[SummaryRow, ...]:
        """Mean and spread of each figure, by features and size.

        C is chosen by texts that test nothing, so no figure is better for it.

        Returns:
            One row for each features and size, in the order of the records.
        """
        groups: dict[tuple[tuple[FeatureBlock, ...], int], dict[float, list[Record]]] = {}
        for record in self.records:
            groups.setdefault((record.blocks, record.size), {}).setdefault(record.c, []).append(record)
        rows = []
        for (blocks, size), by_c in groups.items():
            c = max(sorted(by_c), key=lambda c: float(np.mean([record.choice for record in by_c[c]])))
            best = by_c[c]
            recalls = [record.recall for record in best if record.recall is not None]
            rows.append(
                SummaryRow(
                    name=name_of(blocks),
                    blocks=blocks,
                    layer=best[0].layer,
                    size=size,
                    c=c,
                    f1=Spread.of([record.f1 for record in best]),
                    auc=Spread.of([record.auc for record in best]),
                    recall=Spread.of(recalls) if recalls else None,
                )
            )
        return tuple(rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A split of texts.

    Attributes:
        draw: Texts to draw samples from.
        choice: Texts that choose C.
        test: Texts that test.
        choice_by_family: Whether `choice` shares no family with `draw`.
    """

    draw: Ints
    choice: Ints
    test: Ints
    choice_by_family: bool


def split(classes: Ints, families: Sequence[str], labels: Sequence[str]) -> Parts:
    """Hold texts apart for testing and for choosing C; always the same ones for the same data.

    A quarter tests: whole families, largest first, each taken while it brings the classes nearer to a quarter of
    theirs. Of the others a fifth chooses C, by family too where every class has families enough, else drawn at random
    from each class.

    Args:
        classes: The class of each text, `[texts]`.
        families: The family of each text.
        labels: The names of the classes.

    Returns:
        The parts; every class is in each.

    Raises:
        UnsupportedValueError: If a class has texts of one family alone, or too few texts.
    """
    if len(np.unique(classes)) < 2:
        only = ", ".join(labels[i] for i in np.unique(classes)) or "none"
        raise UnsupportedValueError(f"a sweep needs texts of two classes at least; these have {only}")
    _, family = np.unique(np.asarray(families, np.str_), return_inverse=True)
    every = np.arange(len(classes))
    test = families_apart(classes, family, _TEST)
    if test is None:
        raise UnsupportedValueError(
            f"{_of_one_family(classes, family, labels)}: no family can be held apart for testing. "
            "Name more families, or give clusters of near-duplicates as families"
        )
    rest = every[~test]
    choice = families_apart(classes[rest], family[rest], _CHOICE)
    by_family = choice is not None
    if choice is None:
        choice = _texts_apart(classes[rest], _CHOICE)
    if choice is None:
        raise UnsupportedValueError(
            "a class has too few texts to draw from, to choose C and to test: give three of each class at least"
        )
    return Parts(draw=rest[~choice], choice=rest[choice], test=every[test], choice_by_family=by_family)


def name_of(blocks: Sequence[Block | FeatureBlock]) -> str:
    """Features, as reports name them.

    Args:
        blocks: Layers and poolings.

    Returns:
        Such as `4 mean+max` or `3 mean, 4 mean`.
    """
    by_layer: dict[int, list[str]] = {}
    for block in blocks:
        gate = "" if block.gate is None else f"[{block.gate}]"
        by_layer.setdefault(block.layer, []).append(block.pooling + gate)
    return ", ".join(f"{layer} {'+'.join(poolings)}" for layer, poolings in by_layer.items())


def each_layer(blocks: Sequence[Block]) -> tuple[tuple[Block, ...], ...]:
    """What is tried by default: each pooling of each layer by itself, then all of the layer's together.

    Args:
        blocks: What was collected.

    Returns:
        The candidates, from the lowest layer.
    """
    found: list[tuple[Block, ...]] = []
    for layer in sorted({block.layer for block in blocks}):
        own = tuple(block for block in blocks if block.layer == layer)
        found += [(block,) for block in own] + ([own] if len(own) > 1 else [])
    return tuple(found)


def sweep(
    features: Features,
    targets: Floats,
    families: Sequence[str],
    *,
    labels: Sequence[str],
    folder: Path,
    candidates: Sequence[Sequence[Block]] | None = None,
    sizes: Sequence[int] = SIZES,
    seeds: int = SEEDS,
    penalties: Sequence[float] = PENALTIES,
    jobs: int = 1,
    progress: Progress | None = None,
) -> Sweep:
    """Fit and test every candidate on samples of every size, with every draw and C.

    A sample has each class by its share, but one text of each at least; of a seed, a smaller sample is part of a
    larger one, but for rounding. A soft text counts for each class as its target says, and is tested as the likeliest
    one. A text weighs the same however many windows it has. An interrupted sweep goes on after the last line that was
    written whole, and ends with the same records.

    Args:
        features: Of the texts' windows; every text has one at least.
        targets: The probability of each class, `[texts, classes]`, the benign one first; rows sum to 1.
        families: The family of each text; see `split`.
        labels: The names of the classes.
        folder: Where records are kept, in `sweep.jsonl`.
        candidates: The blocks of each; None for `each_layer`.
        sizes: Texts in a sample; what can't be drawn is left out, and the result says so.
        seeds: Draws of each size.
        penalties: The C to try.
        jobs: Processes. Records do not depend on it.
        progress: Called with fits that are done, and fits in all.

    Returns:
        All records.

    Raises:
        UnsupportedValueError: If shapes don't fit, a text has no window, texts can't be split, no size can be drawn, or
            the folder holds another sweep.
    """
    plan = _Plan.of(
        features,
        targets,
        families,
        labels,
        each_layer(features.blocks) if candidates is None else [tuple(blocks) for blocks in candidates],
        sizes,
        seeds,
        penalties,
    )
    folder.mkdir(parents=True, exist_ok=True)
    memory = _Memory(folder / _FILE, plan)
    fits = seeds * len(plan.penalties)
    found = list(memory.known)
    if progress:
        progress(len(found) * fits, len(plan.units) * fits)
    left = plan.units[len(found) :]
    with memory.path.open("ab") as out, joblib.Parallel(n_jobs=jobs) as parallel:
        # A few at once: what an interruption loses.
        for at in range(0, len(left), jobs):
            for records in parallel(joblib.delayed(_fit_unit)(plan, *unit) for unit in left[at : at + jobs]):
                line = json.dumps([record.model_dump() for record in records])
                out.write(line.encode() + b"\n")
                out.flush()
                found.append(records)
                if progress:
                    progress(len(found) * fits, len(plan.units) * fits)
    return Sweep(
        labels=plan.labels,
        parts=plan.part_sizes,
        records=tuple(record for records in found for record in records),
        left_out=plan.left_out,
        no_recall=plan.no_recall,
    )


@dataclass(frozen=True, slots=True)
class _Plan:
    """All that fits and tests depend on. `windows` are those to fit on, of texts to draw from."""

    features: Features
    targets: Floats
    classes: Ints
    labels: tuple[str, ...]
    parts: Parts
    part_sizes: PartSizes
    windows: Ints
    candidates: tuple[tuple[Block, ...], ...]
    sizes: tuple[int, ...]
    seeds: int
    penalties: tuple[float, ...]
    left_out: tuple[str, ...]
    no_recall: str | None
    digest: str

    @classmethod
    def of(
        cls,
        features: Features,
        targets: Floats,
        families: Sequence[str],
        labels: Sequence[str],
        candidates: Sequence[tuple[Block, ...]],
        sizes: Sequence[int],
        seeds: int,
        penalties: Sequence[float],
    ) -> _Plan:
        """Check what is given, split it, and find what can be done."""
        targets = np.asarray(targets, np.float32)
        _check(features, targets, families, labels, candidates, seeds, penalties)
        classes = targets.argmax(axis=1)
        parts = split(classes, families, labels)
        kept, left_out = [], []
        for size in sorted(set(sizes)):
            if size > len(parts.draw):
                left_out.append(f"{size} texts: there are {len(parts.draw)} to draw from")
            elif size < len(np.unique(classes)):
                left_out.append(f"{size} texts: fewer than the {len(np.unique(classes))} classes")
            else:
                kept.append(size)
        if not kept:
            raise UnsupportedValueError(f"no size can be drawn: {'; '.join(left_out) or 'none was given'}")
        benign = int((classes[parts.test] == 0).sum())
        no_recall = f"recall at 1% false positives needs {FEWEST_BENIGN} benign test texts; there are {benign}"
        identity = {
            "version": _VERSION,
            "features": features.digest,
            "targets": hashlib.sha256(np.ascontiguousarray(targets, "<f4").tobytes()).hexdigest(),
            "families": list(families),
            "labels": list(labels),
            "candidates": [[asdict(block) for block in blocks] for blocks in candidates],
            "sizes": kept,
            "seeds": seeds,
            "penalties": sorted(penalties),
        }
        return cls(
            features=features,
            targets=targets,
            classes=classes,
            labels=tuple(labels),
            parts=parts,
            part_sizes=PartSizes(
                draw=len(parts.draw),
                choice=len(parts.choice),
                test=len(parts.test),
                test_families=len({families[i] for i in parts.test}),
                choice_by_family=parts.choice_by_family,
            ),
            windows=_some_windows(features.owner, parts.draw, classes),
            candidates=tuple(candidates),
            sizes=tuple(kept),
            seeds=seeds,
            # From the strongest penalty: there the path starts, and a fit is nearest to nothing.
            penalties=tuple(sorted(penalties)),
            left_out=tuple(left_out),
            no_recall=None if benign >= FEWEST_BENIGN else no_recall,
            digest=hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest(),
        )

    @property
    def units(self) -> list[tuple[int, int]]:
        """Candidate and size of what is fitted, tested and remembered at once."""
        return [(candidate, size) for size in self.sizes for candidate in range(len(self.candidates))]


class _Memory:
    """The file of records: what it belongs to, then a line a unit."""

    def __init__(self, path: Path, plan: _Plan) -> None:
        self.path = path
        self.known: list[list[Record]] = []
        content = path.read_bytes() if path.is_file() else b""
        whole = content[: content.rfind(b"\n") + 1]  # What follows the last line end was interrupted.
        head = json.dumps({"sweep": plan.digest}).encode() + b"\n"
        if not whole:
            path.write_bytes(head)
            return
        first, *lines = whole.splitlines(keepends=True)
        if first != head:
            raise UnsupportedValueError(
                f"{path}: holds a sweep over other features, targets, families, candidates, sizes, seeds or penalties: "
                "give another folder, or delete the file"
            )
        for number, (line, unit) in enumerate(zip(lines, plan.units, strict=False), start=2):
            self.known.append(_read_records(line, f"{path}:{number}", plan, *unit))
        if len(whole) < len(content):
            with path.open("r+b") as file:
                file.truncate(len(whole))


def _read_records(line: bytes, where: str, plan: _Plan, candidate: int, size: int) -> list[Record]:
    try:
        records = [Record.model_validate(one) for one in json.loads(line)]
    except ValueError as error:
        raise UnsupportedValueError(f"{where}: damaged: delete the file to sweep anew") from error
    expected = [
        (_stored(plan.candidates[candidate]), size, seed, c) for seed in range(plan.seeds) for c in plan.penalties
    ]
    if [(record.blocks, record.size, record.seed, record.c) for record in records] != expected:
        raise UnsupportedValueError(f"{where}: records of something else: delete the file to sweep anew")
    return records


def _stored(blocks: tuple[Block, ...]) -> tuple[FeatureBlock, ...]:
    return tuple(FeatureBlock(**asdict(block)) for block in blocks)


def _fit_unit(plan: _Plan, candidate: int, size: int) -> list[Record]:
    """All draws and penalties of a candidate at a size; they are tested together, so that windows are read once."""
    blocks = plan.candidates[candidate]
    # One thread: numbers must not depend on how many there are, and matrices are too small to share.
    with threadpool_limits(1):
        samples = [draw(plan.parts.draw, plan.classes, size, seed) for seed in range(plan.seeds)]
        columns = [one for sample in samples for one in _fit_sample(plan, blocks, sample)]
        tested = _score(plan, blocks, columns, plan.parts.test)
        chosen = _score(plan, blocks, columns, plan.parts.choice)
    keys = [(seed, c) for seed in range(plan.seeds) for c in plan.penalties]
    truth, choice = plan.classes[plan.parts.test], plan.classes[plan.parts.choice]
    return [
        Record(
            blocks=_stored(blocks),
            size=size,
            seed=seed,
            c=c,
            f1=float(f1_score(truth, test.argmax(axis=1), average="weighted", zero_division=0.0)),
            auc=_auc(truth, test),
            recall=None if plan.no_recall else _recall(truth, test),
            choice=_likelihood(choice, other),
        )
        for (seed, c), test, other in zip(keys, tested, chosen, strict=True)
    ]


def draw(pool: Ints, classes: Ints, size: int, seed: int) -> Ints:
    """Draw texts, stratified.

    Args:
        pool: The texts to draw from.
        classes: The class of each text, `[texts]`.
        size: How many to draw.
        seed: Which draw; a smaller one of a seed is part of a larger one, but for rounding.

    Returns:
        `[size]`, in order.
    """
    own = classes[pool]
    random = np.random.default_rng(seed)
    orders = [random.permutation(pool[own == k]) for k in np.unique(own)]
    counts = allot(np.array([len(order) for order in orders]), size)
    return np.sort(np.concatenate([order[:count] for order, count in zip(orders, counts, strict=True)]))


def allot(available: Ints, size: int) -> Ints:
    """How many texts of each class make a sample: its share, rounded by largest remainder, but one at least.

    Args:
        available: Texts of each class, at least one each, `[classes]`.
        size: Texts in the sample, no more than there are and no fewer than classes.

    Returns:
        Texts of each class, `[classes]`.
    """
    exact = available * size / available.sum()
    counts = np.maximum(np.floor(exact).astype(np.int64), 1)
    while counts.sum() < size:
        room = np.where(counts < available, exact - counts, -np.inf)
        counts[room.argmax()] += 1
    while counts.sum() > size:
        # Those that were raised to one may have made too many.
        over = np.where(counts > 1, counts - exact, -np.inf)
        counts[over.argmax()] -= 1
    return np.asarray(counts, np.int64)


def _fit_sample(plan: _Plan, blocks: tuple[Block, ...], texts: Ints) -> list[Columns]:
    """One fit a penalty, on the windows of a sample."""
    windows = plan.windows[np.isin(plan.features.owner[plan.windows], texts)]
    owner = np.searchsorted(texts, plan.features.owner[windows])
    # Standardised where they are, in place: it is the largest thing in memory.
    rows = plan.features.of(blocks, windows)
    targets = plan.targets[texts]
    scaler = StandardScaler(copy=False).fit(rows, sample_weight=shares(owner, np.ones(len(texts), np.float32)))
    rows = scaler.transform(rows)
    binary = targets.shape[1] == 2
    fit = _binary_path if binary else _multi_path
    raw = []
    for column in fit(rows, owner, targets, plan.penalties):
        weight = column.weight / scaler.scale_[:, None]
        raw.append(Columns(np.asarray(weight, np.float32), np.asarray(column.bias - scaler.mean_ @ weight, np.float32)))
    return raw


def _binary_path(rows: Floats, owner: Ints, targets: Floats, penalties: Sequence[float]) -> Iterator[Columns]:
    """As `fit.fit_windows` does, with a soft text as two: one of each label, with its probability as weight."""
    first, second = _Warm(), _Warm()
    text, label = np.nonzero(targets)
    weight = targets[text, label]
    at, copy = copied(owner, text, len(targets))
    every = rows if len(at) == len(rows) else rows[at]
    for c in penalties:
        column = first.fit(every, label[copy], shares(copy, weight), c)
        keep = standing(column.logits(every)[:, 0], copy, label)
        if keep.all():
            yield column
        else:
            yield second.fit(every[keep], label[copy[keep]], shares(copy[keep], weight), c, start=first)


def _multi_path(rows: Floats, owner: Ints, targets: Floats, penalties: Sequence[float]) -> Iterator[Columns]:
    """A window has its text's label, and a soft text each of its labels with its probability as weight."""
    warm = _Warm()
    text, label = np.nonzero(targets)
    at, copy = copied(owner, text, len(targets))
    every = rows if len(at) == len(rows) else rows[at]
    for c in penalties:
        yield warm.fit(every, label[copy], shares(copy, targets[text, label]), c)


class _Warm:
    """Regressions that start where the last one ended."""

    def __init__(self) -> None:
        self._model = LogisticRegression(max_iter=1000, tol=_TOLERANCE, warm_start=True)

    def fit(self, rows: Floats, labels: Ints, weights: Floats, c: float, start: _Warm | None = None) -> Columns:
        model = self._model.set_params(C=c)
        if start is not None:
            # That one is nearer than this one's last, and of the same penalty.
            model.classes_ = start._model.classes_
            model.coef_, model.intercept_ = start._model.coef_.copy(), start._model.intercept_.copy()
        with warnings.catch_warnings():
            # In single precision the line search may end a little before the tolerance: it is as good as it gets.
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.filterwarnings("ignore", message=MANY_CLASSES)
            model.fit(rows, labels, sample_weight=weights)
        return Columns(np.asarray(model.coef_.T, np.float32), np.asarray(model.intercept_, np.float32))


def _score(plan: _Plan, blocks: tuple[Block, ...], columns: Sequence[Columns], texts: Ints) -> list[Floats]:
    """Log odds of classes for texts, of each fit, `[texts, classes]` each, windows aggregated as a head's are."""
    weight = np.hstack([one.weight for one in columns])
    bias = np.concatenate([one.bias for one in columns])
    ends = np.cumsum([len(one.bias) for one in columns])[:-1]
    mine = np.flatnonzero(np.isin(plan.features.owner, texts))
    owner = np.searchsorted(texts, plan.features.owner[mine])
    found: list[list[Floats]] = [[] for _ in columns]
    for start, end in _pieces(owner):
        logits = plan.features.of(blocks, mine[start:end]) @ weight + bias
        own = owner[start:end] - owner[start]
        for number, part in enumerate(np.split(logits, ends, axis=1)):
            found[number].append(text_columns(part, own, int(own[-1]) + 1))
    return [np.concatenate(parts) for parts in found]


def _pieces(owner: Ints) -> Iterator[tuple[int, int]]:
    """Stretches of windows of whole texts, of a bounded number where no text alone has more."""
    start = 0
    while start < len(owner):
        end = min(start + _PIECE, len(owner))
        if end < len(owner):
            border = int(np.searchsorted(owner, owner[end]))
            end = border if border > start else int(np.searchsorted(owner, owner[start], side="right"))
        yield start, end
        start = end


def text_columns(logits: Floats, owner: Ints, texts: int) -> Floats:
    """Aggregate the windows of texts at a temperature of 1, as `lec_guard.detect.heads.Aggregate` does.

    Args:
        logits: `[windows, columns]`: one column for two classes, else one each, the benign one first.
        owner: The text of each window, `[windows]`; each has one at least.
        texts: How many texts there are.

    Returns:
        `[texts, classes]`; their softmax is the texts' probabilities.
    """
    if logits.shape[1] == 1:
        raised = text_logits(logits[:, 0], owner, texts, 1.0)
        return np.stack([np.zeros_like(raised), raised], axis=1)
    alarm = logits[:, 1:].max(axis=1) - logits[:, 0]
    total = text_logits(alarm, owner, texts, 1.0)
    each = np.exp(alarm - total[owner])
    each /= np.bincount(owner, weights=each, minlength=texts)[owner]
    mean = np.stack([np.bincount(owner, weights=each * column, minlength=texts) for column in logits.T], axis=1)
    mean[:, 1:] += (total - (mean[:, 1:].max(axis=1) - mean[:, 0]))[:, None]
    return np.asarray(mean, np.float32)


def _auc(truth: Ints, logits: Floats) -> float:
    if logits.shape[1] == 2:
        return float(roc_auc_score(truth, logits[:, 1] - logits[:, 0]))
    raised = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    probabilities = raised / raised.sum(axis=1, keepdims=True)
    return float(np.mean([roc_auc_score(truth == k, probabilities[:, k]) for k in range(logits.shape[1])]))


def _likelihood(truth: Ints, logits: Floats) -> float:
    """How likely the classes are, by what is said of them: mean of the logarithms, at most 0."""
    own = logits.astype(np.float64)
    top = own.max(axis=1, keepdims=True)
    total = top[:, 0] + np.log(np.exp(own - top).sum(axis=1))
    return float((own[np.arange(len(truth)), truth] - total).mean())


def _recall(truth: Ints, logits: Floats) -> float:
    """Share of harmful texts above a bar that at most 1% of benign ones are above."""
    others = logits[:, 1:].astype(np.float64)
    top = others.max(axis=1)
    alarm = top + np.log(np.exp(others - top[:, None]).sum(axis=1)) - logits[:, 0]
    benign = np.sort(alarm[truth == 0])[::-1]
    return float((alarm[truth != 0] > benign[int(FPR * len(benign))]).mean())


def _some_windows(owner: Ints, texts: Ints, classes: Ints) -> Ints:
    """Up to so many windows of each text, the same ones always: `[windows to fit on]`, in order."""
    mine = np.flatnonzero(np.isin(owner, texts))
    own = owner[mine]
    return np.asarray(mine[some_of_each(own, np.where(classes[own] == 0, *_MOST))], np.int64)


def families_apart(classes: Ints, family: Ints, share: float) -> npt.NDArray[np.bool_] | None:
    """Choose families that make up a share of each class, as nearly as they can.

    Args:
        classes: The class of each text, `[texts]`.
        family: The family of each, counted from 0, `[texts]`.
        share: How much of each class.

    Returns:
        Which texts, `[texts]`; None where a class can't be on both sides.
    """
    count = classes.max() + 1
    table = np.zeros((family.max() + 1, count))
    np.add.at(table, (family, classes), 1)
    present = table.sum(axis=0) > 0
    scale = np.where(present, table.sum(axis=0), 1)
    chosen = np.zeros(len(table), np.bool_)
    gap = share * present  # What each class lacks, as a part of it.
    # Of equal size by chance, not by name: names often say what is in a family.
    order = np.lexsort((np.random.default_rng(0).random(len(table)), -table.sum(axis=1)))
    for one in order:
        nearer = gap - table[one] / scale
        if (nearer**2).sum() < (gap**2).sum():
            chosen[one], gap = True, nearer
    for k in np.flatnonzero(present):
        with_class = table[:, k] > 0
        for side in (True, False):
            if not (chosen & with_class if side else ~chosen & with_class).any():
                # The smallest that can go over without taking a class from the other side.
                for one in order[::-1]:
                    left = (chosen != side) & (np.arange(len(table)) != one)
                    if with_class[one] and (table[left].sum(axis=0) > 0)[present].all():
                        chosen[one] = side
                        break
    both = [(table[side].sum(axis=0) > 0)[present].all() for side in (chosen, ~chosen)]
    return chosen[family] if all(both) else None


def _texts_apart(classes: Ints, share: float) -> npt.NDArray[np.bool_] | None:
    """Texts that make up a share of each class; None where a class has one alone."""
    random = np.random.default_rng(0)
    chosen = np.zeros(len(classes), np.bool_)
    for k in np.unique(classes):
        own = np.flatnonzero(classes == k)
        if len(own) < 2:
            return None
        chosen[random.permutation(own)[: max(round(share * len(own)), 1)]] = True
    return chosen


def _of_one_family(classes: Ints, family: Ints, labels: Sequence[str]) -> str:
    alone = [labels[k] for k in np.unique(classes) if len(np.unique(family[classes == k])) < 2]
    return f"all texts of {', '.join(alone)} are of one family" if alone else "classes share too few families"


def _check(
    features: Features,
    targets: Floats,
    families: Sequence[str],
    labels: Sequence[str],
    candidates: Sequence[tuple[Block, ...]],
    seeds: int,
    penalties: Sequence[float],
) -> None:
    if targets.shape != (features.texts, len(labels)) or len(families) != features.texts:
        raise UnsupportedValueError(
            f"targets {targets.shape}, {len(families)} families and {len(labels)} labels don't fit features of "
            f"{features.texts} texts: give [texts, classes], one family a text and one label a class"
        )
    if not np.isfinite(targets).all() or (targets < 0).any() or (abs(targets.sum(axis=1) - 1) > 1e-3).any():
        raise UnsupportedValueError("targets must be probabilities that sum to 1 for each text")
    if len(features.unread):
        some = ", ".join(map(str, features.unread[:5]))
        raise UnsupportedValueError(
            f"{len(features.unread)} texts hold no token (positions {some}{'…' if len(features.unread) > 5 else ''}): "
            "leave them out before features are collected"
        )
    absent = sorted(set(range(len(labels))) - set(targets.argmax(axis=1).tolist()))
    if absent:
        raise UnsupportedValueError(f"no text is of class {', '.join(labels[k] for k in absent)}: leave it out")
    if not candidates or not all(candidates) or seeds < 1 or not penalties or min(penalties) <= 0:
        raise UnsupportedValueError("a sweep needs a candidate with a block, a seed and a C above 0")
    for blocks in candidates:
        features.of(blocks, slice(0, 0))  # Says which block is missing.
