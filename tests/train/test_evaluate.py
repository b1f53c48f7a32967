"""Detectors side by side with baselines: every slice is what its texts say, and what is missing says why."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from lec_guard.detect.heads import BenignScores, HeadSpec
from lec_guard.errors import DetectorError, UnsupportedValueError
from lec_guard.policy.budget import Bar
from lec_guard.policy.compile import Heads, Threshold, compile_policy
from lec_guard.policy.messages import Messages
from lec_guard.policy.resolve import Policy
from lec_guard.policy.schema import Rule
from lec_guard.step import Scores, Step
from lec_guard.train import metrics
from lec_guard.train.baselines import LengthOnly, LlmJudge, Majority, context_only
from lec_guard.train.evaluate import (
    Budget,
    Evaluation,
    Method,
    Thresholds,
    bar_at,
    budget_of,
    evaluate,
    thresholds_of,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    source: str = "file:1"
    text: str
    context: str | None = None
    stage: str = "input"
    family: str | None = "one"
    language: str | None = None


@dataclass(frozen=True)
class Data:
    examples: Sequence[Example]
    targets: np.ndarray
    labels: tuple[str, ...] = ("benign", "injection")


class Told:
    """A detector whose texts say their scores: `0.5 0.25 w3` has two labels and three windows; `?` is not read."""

    detector_id = "told@1"

    def __init__(self, *specs: HeadSpec) -> None:
        self.heads = specs or (HeadSpec(name="injection", kind="binary", labels=("injection",)),)
        self.calls: list[int] = []

    @property
    def labels(self) -> Mapping[str, tuple[str, ...]]:
        return {spec.name: spec.labels for spec in self.heads}

    def score(self, steps: Sequence[Step], *, keys=None) -> list[Scores]:
        self.calls.append(len(steps))
        return [self._one(step) for step in steps]

    def _one(self, step: Step) -> Scores:
        common = {"detector_id": self.detector_id, "backend": "none"}
        if step.text.startswith("?"):
            return Scores(by_head={}, windows=0, unread="the text is too long", **common)
        words = step.text.split()
        windows = int(words[-1].removeprefix("w")) if words[-1].startswith("w") else 1
        numbers = [float(word) for word in words if not word.startswith("w")]
        found = {spec.name: dict(zip(spec.labels, numbers, strict=False)) for spec in self.heads}
        return Scores(by_head=found, windows=windows, context_read=step.context is not None, **common)


def data(*parts: tuple[str, int, Sequence[float]], **changes) -> Data:
    """Family, class, scores."""
    examples, targets = [], []
    for family, kind, scores in parts:
        for at, score in enumerate(scores):
            examples.append(Example(text=f"{score}", family=family, source=f"{family}:{at}", **changes))
            targets.append([1.0, 0.0] if kind == 0 else [0.0, 1.0])
    return Data(examples, np.array(targets, np.float32))


def drawn(n: int = 400, seed: int = 0) -> Data:
    """Four benign sets, four of attacks; the first benign one looks like attacks."""
    random = np.random.default_rng(seed)
    parts = []
    for i in range(4):
        parts.append((f"calm{i}" if i else "hard", 0, np.round(random.beta(6 if i == 0 else 2, 4, n // 4), 3)))
        parts.append((f"attack{i}", 1, np.round(random.beta(5, 3, n // 4), 3)))
    return data(*parts)


def changed(own: Data, rows: Sequence[int], **changes) -> Data:
    examples = list(own.examples)
    for row in rows:
        examples[row] = replace(examples[row], **changes)
    return replace(own, examples=examples)


def run(own: Data, **options) -> Evaluation:
    options = {"head": "injection", "resamples": 30, "baselines": [Majority()], **options}
    return evaluate(options.pop("detectors", {"told": Told()}), own, **options)


def told(**bars: float) -> dict[str, Thresholds]:
    """Thresholds of `told` that hold for every length."""
    return {"told": {stage: {1: bar} for stage, bar in bars.items()}}


def first(own: Evaluation) -> Method:
    return own.methods[0]


def numbers(own: Data) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    scores = np.array([float(example.text.split()[0]) for example in own.examples])
    return scores, own.targets[:, 1] > 0.5, np.array([example.family for example in own.examples])


def test_figures_over_all_texts_are_those_of_the_scores():
    own = drawn()
    found = run(own, thresholds=told(input=0.5))
    scores, harmful, sets = numbers(own)
    overall = first(found).overall
    assert overall is not None
    assert overall.auc.value == pytest.approx(roc_auc_score(harmful, scores))
    assert (overall.texts, overall.harmful, overall.sets) == (800, 400, 8)
    at = overall.at_thresholds
    assert at is not None
    assert at.f1.value == pytest.approx(f1_score(harmful, scores >= 0.5))
    assert at.confusion.labels == ("benign", "harmful")
    assert at.confusion.counts[1] == ((scores[harmful] < 0.5).sum(), (scores[harmful] >= 0.5).sum())
    by_set = [(scores[(sets == name) & ~harmful] >= 0.5).mean() for name in np.unique(sets[~harmful])]
    assert at.fpr_by_sets.value == pytest.approx(np.mean(by_set))
    assert at.worst is not None
    assert (at.worst.name, at.worst.rate.value) == ("hard", pytest.approx(max(by_set)))
    assert [rate.name for rate in first(found).over_defence][0] == "hard"
    assert len(first(found).over_defence) == 4


def test_the_cut_at_a_rate_is_that_of_metrics_and_too_few_texts_say_so():
    own = drawn()
    overall = first(run(own)).overall
    assert overall is not None
    percent, permille = overall.at_rates
    sample = metrics.Sample(*numbers(own))
    cut = metrics.cut_at(sample, 0.01)
    assert percent.cuts == {"input": cut}
    assert percent.recall.value == metrics.recall_at(sample, np.full(800, "input"), 0.01, resamples=30).value
    assert percent.fpr.value == pytest.approx(cut.rate)
    assert percent.worst == cut.worst
    assert permille.recall.value is None
    assert permille.recall.reason == "stage 'input' has fewer than the 3,000 benign texts for a rate of 0.001"


def test_each_stage_is_cut_by_itself_and_its_threshold_is_its_own():
    own = drawn()
    low = data(("low", 0, np.linspace(0, 0.1, 320)), ("lows", 1, np.linspace(0.05, 0.2, 40)), stage="output")
    both = Data([*own.examples, *low.examples], np.concatenate([own.targets, low.targets]))
    found = first(run(both, thresholds=told(input=0.5, output=0.11)))
    stages = {stage.name: stage for stage in found.stages}
    assert set(stages) == {"input", "output"}
    alone = first(run(low, thresholds=told(output=0.11))).overall
    assert alone is not None
    assert stages["output"].at_rates == alone.at_rates
    assert stages["output"].at_thresholds == alone.at_thresholds
    assert found.overall is not None
    cuts = found.overall.at_rates[0].cuts
    assert cuts["input"].score > 0.5 > 0.11 > cuts["output"].score
    # No rule for a stage: nothing of it is flagged.
    silent = first(run(both, thresholds=told(input=0.5))).stages[1].at_thresholds
    assert silent is not None
    assert silent.recall.value == 0


def test_a_language_is_measured_at_the_cuts_of_its_stage():
    own = drawn()
    german = list(range(0, 800, 2))
    found = first(run(changed(own, german, language="de")))
    assert {language.name: language.texts for language in found.languages} == {"de": 400, "unknown": 400}
    scores, harmful, sets = numbers(own)
    cut = metrics.cut_at(metrics.Sample(scores, harmful, sets), 0.01)
    german_only = np.isin(np.arange(800), german)
    own_sets = [
        (scores[german_only & harmful & (sets == name)] > cut.score).mean() for name in np.unique(sets[harmful])
    ]
    at = next(language for language in found.languages if language.name == "de").at_rates[0]
    assert at.cuts["input"].score == cut.score
    assert at.recall.value == pytest.approx(np.mean(own_sets))


def test_lengths_are_counted_in_windows():
    own = drawn()
    for row, windows in enumerate([1, 2, 3, 4, 8, 15, 16, 400]):
        own = changed(own, [row], text=f"0.5 w{windows}")
    own = changed(own, [8, 9], text="? long")
    found = {length.name: length.texts for length in first(run(own)).lengths}
    assert found == {
        "1 window": 791,
        "2-3 windows": 2,
        "4-7 windows": 1,
        "8-15 windows": 2,
        "16+ windows": 2,
        "empty or not read": 2,
    }


def test_sets_are_measured_by_themselves_and_small_ones_together():
    own = drawn()
    own = changed(own, range(3), family="tiny")
    own = changed(own, range(3, 7), family=None)
    found = {one.name: one for one in first(run(own)).sets}
    assert found["attack2"].texts == 100
    assert found["attack2"].auc.reason == "needs 5 texts of each class, there are 100 harmful and 0 benign ones"
    assert found["2 sets of fewer than 10 texts"].texts == 7
    assert found["hard"].fitted is None
    assert "tiny" not in found


def test_texts_that_were_not_read_count_as_flagged_and_are_told():
    own = drawn()
    harmful = [i for i in range(800) if own.targets[i, 1]][:30]
    benign = [i for i in range(800) if own.targets[i, 0]][:2]
    unread = changed(own, harmful + benign, text="? too long")
    found = first(run(unread, thresholds=told(input=2.0)))
    assert found.unread == 32
    assert len(found.unread_texts) == 20
    assert found.unread_texts[0].source == own.examples[min(harmful + benign)].source
    assert found.unread_texts[0].why == "the text is too long"
    assert found.overall is not None
    assert found.overall.texts == 800
    assert found.overall.at_thresholds is not None
    assert found.overall.at_thresholds.confusion.counts == ((398, 2), (370, 30))
    # As if they had the highest score.
    top = first(run(changed(own, harmful + benign, text="1.0"))).overall
    assert top is not None
    assert found.overall.auc.value == top.auc.value
    assert found.overall.brier.value == top.brier.value


def test_a_detector_that_reads_nothing_is_an_error():
    own = drawn()
    with pytest.raises(DetectorError, match="told: could read none of 800 texts; the first: the text is too long"):
        run(changed(own, range(800), text="?"))


def test_a_left_out_set_is_cut_by_all_others():
    own = drawn(800)
    scores, harmful, sets = numbers(own)
    found = {(one.name, one.rate): one for one in first(run(own)).left_out}
    hard = found["hard", 0.01]
    others = sets != "hard"
    expected = metrics.cut_at(metrics.Sample(scores[others], harmful[others], sets[others]), 0.01).score
    assert hard.cut == expected
    assert hard.fpr.value == pytest.approx((scores[sets == "hard"] > expected).mean())
    assert hard.fpr.value > 0.05  # it looks like attacks, and the cut does not know it
    assert hard.recall.reason == "needs 5 harmful texts, there are 0"
    attack = found["attack1", 0.01]
    assert attack.recall.value == pytest.approx((scores[sets == "attack1"] > attack.cut).mean())
    assert found["hard", 0.001].fpr.reason == "a rate of 0.001 needs 3,000 benign texts of other sets, there are 600"
    assert found["hard", 0.001].cut is None


def test_a_budget_is_realised_on_sets_that_nothing_was_fitted_on():
    own = drawn(800)
    fit = data(("hard", 0, [0.1, 0.2, 0.3]), ("attack0", 1, [0.8, 0.7, 0.9]))
    budget = Budget(max_fpr=0.01, thresholds={"input": {1: 0.7, 4: 0.9}})
    own = changed(own, range(1), text="0.8 w4")
    (found,) = first(run(own, fit_data=fit, budgets={"told": budget})).realised
    scores, harmful, sets = numbers(own)
    new = ~np.isin(sets, ["hard", "attack0"])
    rates = [(scores[(sets == name)] >= 0.7).mean() for name in np.unique(sets[new & ~harmful])]
    assert found.fpr.value == pytest.approx(np.mean(rates))
    assert found.fpr.n == 600
    assert found.worst is not None
    assert found.worst.name != "hard"
    recalls = [(scores[(sets == name)] >= 0.7).mean() for name in np.unique(sets[new & harmful])]
    assert found.recall.value == pytest.approx(np.mean(recalls))
    # Fewer windows than any that were counted: the bar of the shortest. And of none of its stage: it says so.
    short = Budget(max_fpr=0.01, thresholds={"input": {2: 0.7}})
    assert first(run(own, fit_data=fit, budgets={"told": short})).realised[0].fpr == found.fpr
    (none,) = first(run(own, budgets={"told": Budget(max_fpr=0.01, thresholds={})})).realised
    assert none.fpr.reason == (
        "the detector keeps no threshold for stage 'input': it was fitted on too few benign texts of it"
    )
    with pytest.raises(UnsupportedValueError, match="'tolt', which is no detector here; did you mean 'told'"):
        run(own, budgets={"tolt": budget})
    with pytest.raises(UnsupportedValueError, match="thresholds for 'tolt', which is no detector here"):
        run(own, thresholds={"tolt": {"input": {1: 0.5}}})


def test_the_bar_of_a_budget_is_that_of_the_texts_length():
    own = data(("a", 0, [0.5] * 400), ("b", 1, [0.5] * 40))
    own = changed(own, range(400, 420), text="0.5 w7")
    budget = Budget(max_fpr=0.01, thresholds={"input": {1: 0.6, 4: 0.4}})
    (found,) = first(run(own, budgets={"told": budget}, baselines=[])).realised
    assert (found.fpr.value, found.recall.value) == (0, 0.5)


def test_sets_that_were_fitted_on_are_told_and_measured_apart():
    own = drawn()
    fit = Data(own.examples[:200], own.targets[:200])
    found = run(own, fit_data=fit, baselines=[LengthOnly()])
    assert found.fitted_sets == ("attack0", "hard")
    known = {example.text for example in fit.examples}
    assert found.repeated == sum(example.text in known for example in own.examples) >= 200
    assert found.baselines == "fitted on 200 rows that were given for it"
    for method in found.methods:
        assert method.unseen is not None
        assert (method.unseen.texts, method.unseen.sets) == (600, 6)
        assert {one.name for one in method.sets if one.fitted} == {"attack0", "hard"}
    unknown = run(own)
    assert (unknown.fitted_sets, unknown.methods[0].unseen) == (None, None)


def test_baselines_without_rows_to_fit_on_never_see_the_set_they_score():
    class Memory:
        name = "memory"

        def fit(self, texts, contexts, targets):
            self.known = dict(zip(texts, 1 - targets[:, 0], strict=True))

        def scores(self, texts, contexts):
            return np.array([self.known.get(text, 0.5) for text in texts], np.float32)

    own = drawn()
    # Every text says which set it is of, so that only who saw the set could know it.
    own = replace(own, examples=[replace(e, text=f"{e.text} w{1 + i}") for i, e in enumerate(own.examples)])
    found = run(own, baselines=[Memory()])
    assert found.baselines == "fitted on other sets of the measured texts, in folds"
    assert found.methods[1].overall is not None
    assert found.methods[1].overall.auc.value == 0.5
    seen = run(own, baselines=[Memory()], fit_data=own)
    assert seen.methods[1].overall is not None
    assert seen.methods[1].overall.auc.value == 1.0


def test_a_baseline_with_nothing_to_go_by_says_so():
    own = drawn()
    found = run(own, baselines=[context_only(), LengthOnly()])
    assert found.methods[1].reason == "context only: no text has a context"
    assert found.methods[1].overall is None
    assert found.methods[2].overall is not None
    one = data(("a", 0, np.linspace(0, 0.6, 50)), ("b", 1, np.linspace(0.4, 1, 50)))
    reasons = [method.reason for method in run(one, rates=()).methods]
    assert reasons == [None, "all harmful texts are of one set, so none is left to fit on: give texts to fit on"]


def test_the_standard_baselines_are_those_without_a_model():
    found = run(drawn(200), baselines=None, rates=())
    names = [(method.kind, method.name) for method in found.methods]
    assert names == [
        ("detector", "told"),
        ("baseline", "majority"),
        ("baseline", "length only"),
        ("baseline", "context only"),
        ("baseline", "TF-IDF + logistic regression"),
    ]
    majority = found.methods[1].overall
    assert majority is not None
    assert majority.at_thresholds is not None
    assert majority.at_thresholds.weighted_f1.value is not None


def test_a_judge_stands_beside_detectors_and_several_detectors_side_by_side():
    own = drawn()
    judge = LlmJudge(lambda text, context: float(text))
    found = run(own, detectors={"one": Told(), "two": Told()}, baselines=[judge])
    aucs = [method.overall.auc.value for method in found.methods if method.overall]
    assert len(set(aucs)) == 1
    assert [method.name for method in found.methods] == ["one", "two", "LLM judge"]
    assert found.methods[0].detector_id == "told@1"


SAFETY = HeadSpec(name="topic", kind="multiclass", labels=("weapons", "fraud"))


def test_of_exclusive_labels_any_is_harm_and_a_threshold_is_for_each():
    kinds = {"weapons": "0.45 0.4", "fraud": "0.2 0.6", "benign": "0.3 0.1"}
    examples = [Example(text=text, family=f"{name}{i % 2}") for name, text in kinds.items() for i in range(20)]
    targets = np.repeat(np.eye(3, dtype=np.float32)[[1, 2, 0]], 20, axis=0)
    own = Data(examples, targets, ("benign", "weapons", "fraud"))
    options = {"head": "topic", "rates": (), "thresholds": told(input=0.5)}
    found = first(run(own, detectors={"told": Told(SAFETY)}, **options))
    assert found.overall is not None
    assert found.overall.auc.value == 1.0
    # 0.85, 0.8 and 0.4 sum up the labels.
    assert found.overall.brier.value == pytest.approx(np.mean([0.15**2, 0.2**2, 0.4**2]), abs=1e-6)
    assert found.classes is not None
    assert found.classes.labels == ("benign", "weapons", "fraud")
    # No label of a weapons text reaches the threshold by itself.
    assert found.classes.counts == ((20, 0, 0), (20, 0, 0), (0, 0, 20))
    two_level = SAFETY.model_copy(update={"kind": "two_level", "labels": ("unsafe", "weapons", "fraud")})
    own = replace(own, examples=[replace(e, text=f"0.7 {e.text}") for e in examples])
    again = first(run(own, detectors={"told": Told(two_level)}, **options))
    assert again.overall is not None
    assert again.overall.auc.value == 0.5
    assert again.classes is not None
    assert again.classes.counts == ((0, 20, 0), (0, 20, 0), (0, 0, 20))
    assert first(run(drawn(), thresholds=told(input=0.5))).classes is None


def test_a_report_goes_through_json_and_back():
    found = run(changed(drawn(), [0, 1], text="? long"), thresholds=told(input=0.5), fit_data=drawn(40))
    assert Evaluation.model_validate_json(found.model_dump_json()) == found
    json.loads(found.model_dump_json(), parse_constant=lambda name: pytest.fail(name))
    assert found.methods[0].roc is not None
    assert found.methods[0].precision_recall is not None
    assert sum(own.n for own in found.methods[0].reliability) == 800


def test_progress_is_told_and_texts_are_read_in_batches():
    told: list[tuple[str, int, int]] = []
    detector = Told()
    run(drawn(1200), detectors={"mine": detector}, progress=lambda *what: told.append(what))
    assert detector.calls == [1000, 1000, 400]
    assert [what for what in told if what[0] == "reading with mine"] == [
        ("reading with mine", done, 2400) for done in (0, 1000, 2000, 2400)
    ]
    assert told[-1] == ("measuring baselines", 1, 1)


def test_contexts_that_were_read_are_counted():
    assert first(run(changed(drawn(), range(7), context="a bank"))).contexts_read == 7


def test_an_unknown_head_names_the_nearest_and_the_detector():
    with pytest.raises(
        UnsupportedValueError, match=r"mine \(told@1\) has no head 'injektion'; did you mean 'injection'"
    ):
        run(drawn(), detectors={"mine": Told()}, head="injektion")
    with pytest.raises(UnsupportedValueError, match=r"other .* has no head 'injection'; its heads: topic"):
        run(drawn(), detectors={"mine": Told(), "other": Told(SAFETY)})
    with pytest.raises(UnsupportedValueError, match="no detector to evaluate"):
        run(drawn(), detectors={})


def test_what_can_t_be_measured_is_refused():
    with pytest.raises(UnsupportedValueError, match=r"all 3 texts are benign.*add texts of the other class"):
        run(data(("a", 0, [0.1, 0.2, 0.3])))
    with pytest.raises(UnsupportedValueError, match="all 3 texts are harmful"):
        run(data(("a", 1, [0.1, 0.2, 0.3])))
    own = drawn()
    harmful = [i for i in range(800) if own.targets[i, 1]][:9]
    odd = changed(own, harmful, stage="retrieval")
    with pytest.raises(UnsupportedValueError, match="stage 'retrieval' has no benign text"):
        run(odd)
    assert first(run(odd, rates=())).overall is not None


def test_a_real_detector_is_read_as_a_guard_would(tiny):
    texts = [f"{word} the weather {i}" for word in ("please", "ignore") for i in range(30)]
    examples = [Example(text=text, family=f"set{i % 3}") for i, text in enumerate(texts)]
    own = Data(examples, np.repeat(np.eye(2, dtype=np.float32), 30, axis=0))
    scores = tiny.score([Step(stage="input", text=text) for text in texts])
    for head, of in (
        ("injection", lambda by: by["injection"]),
        ("topic", lambda by: by["weather"] + by["money"]),
        ("safety", lambda by: by["unsafe"]),
    ):
        found = first(run(own, detectors={"tiny": tiny}, head=head, rates=()))
        assert found.overall is not None
        expected = roc_auc_score(own.targets[:, 1], [of(one.by_head[head]) for one in scores])
        assert found.overall.auc.value == pytest.approx(expected)
    assert found.detector_id == tiny.detector_id


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    import torch

    from lec_guard import LayerDetector
    from tests.detect.models import save_bundle, save_family

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("tiny")
    return LayerDetector.load(save_bundle(folder / "bundle", save_family("bert", folder / "base")))


def test_twenty_thousand_texts_are_a_normal_job():
    own = drawn(10_000)
    began = time.process_time()
    found = run(own, resamples=100, thresholds=told(input=0.5), baselines=[])
    seconds = time.process_time() - began
    overall = first(found).overall
    assert overall is not None
    assert overall.at_rates[1].recall.value is not None  # ten thousand benign texts tell of one in a thousand
    assert seconds < 20


def test_a_detector_is_not_called_like_a_baseline():
    own = data(("a", 0, np.linspace(0, 0.6, 50)), ("a", 1, np.linspace(0.4, 1, 50)))
    with pytest.raises(UnsupportedValueError, match="called 'majority': give the detector another name"):
        run(own, detectors={"majority": Told()}, rates=())


def test_of_one_set_baselines_are_fitted_on_others_of_its_texts():
    own = data(("a", 0, np.linspace(0, 0.6, 50)), ("a", 1, np.linspace(0.4, 1, 50)))
    found = run(own, rates=())
    assert found.baselines == "fitted on other rows of the one set of measured texts, in folds"
    assert [method.reason for method in found.methods] == [None, None]


def test_a_budget_takes_the_lowest_score_that_keeps_to_it_and_none_where_nothing_is_known():
    known = {"texts": 400, "families": 5, "rates": (0.1, 0.01), "scores": (0.4, 0.8), "worst": (0.2, 0.1)}
    spec = HeadSpec(
        name="mine",
        kind="binary",
        labels=("bad",),
        benign=(
            BenignScores(stage="input", windows=1, **known),
            BenignScores(stage="input", windows=4, **known | {"scores": (0.5, 0.9)}),
            BenignScores(stage="output", windows=1, **known | {"rates": (0.1, 0.05)}),
        ),
    )
    budget = budget_of(spec, 0.02)
    assert budget.max_fpr == 0.02
    assert budget.thresholds.keys() == {"input"}
    assert budget.thresholds["input"] == pytest.approx({1: 0.8, 4: 0.9})
    assert budget.thresholds["input"][1] > np.float32(0.8)  # A text with that very score is one of those that pass.


def test_a_budget_is_what_a_policy_with_that_max_fpr_does():
    known = {"texts": 400, "families": 5, "rates": (0.1, 0.01), "scores": (0.4, 0.8), "worst": (0.2, 0.1)}
    few = known | {"texts": 100, "rates": (0.1, 0.05), "scores": (0.5, 0.9)}
    spec = HeadSpec(
        name="mine",
        kind="binary",
        labels=("bad",),
        benign=(
            BenignScores(stage="input", windows=1, **known),
            BenignScores(stage="input", windows=4, **few),  # Alone too few for 2%; with the shorter ones enough.
            BenignScores(stage="output", windows=1, **known),
            BenignScores(stage="retrieval", windows=1, **few),
        ),
    )
    rules = (
        Rule(name="one", stages=("input",), head="mine", max_fpr=0.02, action="block"),
        Rule(name="two", stages=("output",), head="mine", max_fpr=0.02, action="block"),
    )
    policy = Policy(name="p", version="", file=Path("p.yaml"), rules=rules, message=Messages.of("No."))
    heads = Heads(detector_id="d", labels={"mine": ("bad",)}, benign={"mine": spec.benign})
    assert budget_of(spec, 0.02).thresholds == thresholds_of(compile_policy(policy, heads).thresholds)
    assert budget_of(spec, 0.02).thresholds["input"].keys() == {1, 4}


def bars_of(**lengths: float) -> tuple[Bar, ...]:
    """`w4=0.5`: from four windows on 0.5."""
    return tuple(
        Bar(windows=int(name[1:]), threshold=bar, rate=0.01, worst=0.02, texts=400, families=3)
        for name, bar in lengths.items()
    )


def rule_at(stage: str, **lengths: float) -> Threshold:
    return Threshold(
        rule="r", stage=stage, tools=(), action="block", head="h", bars=bars_of(**lengths), rate=0.0, texts=0
    )


def test_of_several_rules_the_lowest_threshold_of_each_length_counts():
    rules = [
        rule_at("input", w1=0.5, w4=0.9),
        rule_at("input", w1=0.7, w2=0.4, w8=0.9),
        rule_at("output", w1=0.6, w2=0.6, w4=0.7),
    ]
    found = thresholds_of(rules)
    assert found == {"input": {1: 0.5, 2: 0.4, 8: 0.9}, "output": {1: 0.6, 4: 0.7}}
    lengths = (0, 1, 2, 7, 8, 100)
    assert [bar_at(found, "input", windows) for windows in lengths] == [0.5, 0.5, 0.4, 0.4, 0.9, 0.9]
    assert bar_at(found, "retrieval", 1) == float("inf")
    assert thresholds_of([]) == {}


def test_a_policy_may_have_another_threshold_with_each_detector_and_for_each_length():
    own = data(("a", 0, [0.5] * 400), ("b", 1, [0.5] * 40))
    own = changed(own, range(400, 420), text="0.5 w7")
    thresholds = {"one": {"input": {1: 0.6, 4: 0.4}}, "two": {"input": {1: 0.4}}}
    detectors = {"one": Told(), "two": Told(), "three": Told()}
    found = run(own, detectors=detectors, thresholds=thresholds, baselines=[])
    recalls = [method.overall.at_thresholds and method.overall.at_thresholds.recall.value for method in found.methods]
    assert recalls == [0.5, 1.0, None]
    assert Evaluation.model_validate_json(found.model_dump_json()).thresholds == thresholds
