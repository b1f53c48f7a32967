"""Results of both commands, made up, for what shows them."""

from __future__ import annotations

import itertools

import numpy as np

from lec_guard.detect.bundle import FeatureBlock
from lec_guard.detect.heads import HeadSpec
from lec_guard.train.bars import Bar
from lec_guard.train.baselines import LengthOnly, Majority, context_only
from lec_guard.train.calibrate import Aggregation
from lec_guard.train.evaluate import Budget, Evaluation, evaluate
from lec_guard.train.screen import Agreement, Screen, Screened
from lec_guard.train.sweep import PartSizes, Record, Spread, Sweep
from lec_guard.train.trainer import Trained, Tried, WithContext
from tests.train.test_evaluate import Data, Told, changed, drawn


def block(layer: int, pooling: str = "mean") -> FeatureBlock:
    return FeatureBlock(layer=layer, pooling=pooling)


def swept(layers: int = 3, sizes: tuple[int, ...] = (5, 20, 100), **changes) -> Sweep:
    random = np.random.default_rng(0)
    records = [
        Record(
            blocks=(block(layer), block(layer, "max")),
            size=size,
            seed=seed,
            c=0.1,
            f1=float(random.uniform(0.6, 0.8)),
            auc=float(random.uniform(0.8, 0.9)),
            recall=None,
            choice=0.9,
        )
        for layer, size, seed in itertools.product(range(layers), sizes, range(2))
    ]
    parts = PartSizes(draw=120, choice=30, test=50, test_families=7, choice_by_family=True)
    fields = {
        "labels": ("benign", "injection"),
        "parts": parts,
        "records": tuple(records),
        "left_out": ("500 texts: there are 120 to draw from",),
        "no_recall": "recall at 1% false positives needs 100 benign test texts; there are 25",
    }
    return Sweep(**(fields | changes))


def trained(**changes) -> Trained:
    tried = tuple(
        Tried(blocks=(block(layer),), penalty=0.1, loss=0.3 + 0.1 * layer, auc=0.9 - 0.1 * layer) for layer in (1, 2, 0)
    )
    windows = (1, 2, 4)
    fields = {
        "detector_id": "mine@0123456789abcdef",
        "head": "mine",
        "labels": ("benign", "injection"),
        "counts": (120, 80),
        "families": 17,
        "folds": 5,
        "layers": 6,
        "chosen": tried[0],
        "tried": tried,
        "platt": (1.5, -0.2),
        "aggregation": Aggregation(
            "log_mean_exp",
            0.5,
            dict.fromkeys(windows, 0.1),
            {1: 0.9, 2: 0.8, 4: 0.7},
            {1: 0.01, 2: 0.012, 4: 0.02},
        ),
        "context": None,
        "bars": (
            Bar(stage="input", threshold=0.62, texts=120, stopped=3, needed=300),
            Bar(stage="retrieval", threshold=0.5, texts=0, stopped=0, needed=300),
        ),
        "curves": swept(),
        "length": {5: Spread(mean=0.55, sd=0.1, low=0.4, high=0.7), 100: Spread(mean=0.6, sd=0.1, low=0.5, high=0.7)},
        "majority": 0.4,
        "screen": Screen(
            texts=120,
            rows=tuple(
                Screened(name=f"{layer} mean+max", blocks=(block(layer),), layer=layer, h_score=0.5, log_me=-0.3)
                for layer in range(3)
            ),
        ),
        "agreement": (
            Agreement(measure="h_score", size=5, candidates=3, kendall=0.33, spearman=0.5, lost=0.01),
            Agreement(measure="log_me", size=5, candidates=2, kendall=None, spearman=None, lost=0.02),
        ),
        "seconds": {"reading": 0.1, "fitting": 2.0},
        "notes": ("3 rows repeat another one, and count once",),
    }
    return Trained(**(fields | changes))


WITH_CONTEXT = WithContext(texts=40, parts=("text", "product"), loss=0.21, loss_alone=0.34, kept=True)


class Other(Told):
    """Another detector: the same scores, halved."""

    detector_id = "other@2"

    def _one(self, step):
        found = super()._one(step)
        halves = {head: {label: p / 2 for label, p in own.items()} for head, own in found.by_head.items()}
        return type(found)(
            by_head=halves,
            windows=found.windows,
            unread=found.unread,
            context_read=found.context_read,
            detector_id=self.detector_id,
            backend="none",
        )


def evaluated(own: Data | None = None, names: tuple[str, str] = ("ours", "theirs"), **options) -> Evaluation:
    """Two detectors and three baselines, one of which has nothing to go by; some texts are retrieved or French."""
    own = own or drawn(1600)
    own = changed(own, range(0, len(own.examples), 3), stage="retrieval", language="fr")
    own = changed(own, [1], text="? broken")
    heads = HeadSpec(name="injection", kind="binary", labels=("injection",))
    asked = {
        "head": "injection",
        "thresholds": {name: {"input": {1: 0.5}, "retrieval": {1: 0.6, 4: 0.75}} for name in names},
        "budgets": {names[0]: Budget(max_fpr=0.05, thresholds={"input": {1: 0.6}})},
        "baselines": [Majority(), LengthOnly(), context_only()],
        "resamples": 20,
    }
    return evaluate({names[0]: Told(heads), names[1]: Other(heads)}, own, **(asked | options))
