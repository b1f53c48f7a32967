"""What is told of a policy on measured sets, and the committed figures."""

from __future__ import annotations

import pytest

from benchmarks.embedded.evaluate import Policed, categories, policed, realised
from benchmarks.embedded.sets import Example, Kind
from benchmarks.embedded.tasks import CATEGORIES, TASKS
from lec_guard import LayerDetector
from lec_guard.detect.bundle import EMBEDDED
from lec_guard.guard import heads_of
from lec_guard.policy.store import PolicyStore
from lec_guard.step import Scores


def example(source: str, label: str, kind: Kind = "prompt", category: str | None = None) -> Example:
    return Example(source=source, family=source, kind=kind, text="text", label=label, category=category)


def scores(**heads: float) -> Scores:
    labels = {task.head: task.positive for task in TASKS}
    by_head = {name: {labels[name]: heads.get(name, 0.0)} for name in labels}
    by_head["safety"] |= dict.fromkeys(CATEGORIES, 0.0) | {"hate_harassment": 0.5}
    by_head["reading"] = {"unknown_tokens": 0.0}
    by_head["off_policy"] = {"off_policy": 0.0}
    return Scores(detector_id="d", backend="test", by_head=by_head, windows=1)


@pytest.fixture(scope="module")
def detector() -> LayerDetector:
    return LayerDetector.load(EMBEDDED, budget=None)


def test_a_policy_stops_what_any_of_its_rules_stops_where_the_text_passes(detector: LayerDetector) -> None:
    rules = PolicyStore(None, lambda _: heads_of(detector)).get(None).live.thresholds
    texts = [
        (example("prompts", "benign"), scores()),
        (example("prompts", "injection"), scores(injection=1.0)),
        (example("prompts", "injection"), scores(indirect_injection=1.0)),  # no rule reads this head at input
        (example("prompts", "unsafe"), scores(safety=1.0)),
        (example("pages", "injection", "document"), scores(indirect_injection=1.0)),
        (example("pages", "benign", "document"), scores(safety=1.0)),
    ]
    examples, found = [one for one, _ in texts], [one for _, one in texts]
    own = Policed.of(rules, examples, found)
    assert own.by_action["block"].tolist() == [False, True, False, True, True, False]
    assert (own.by_action["flag"] | ~own.by_action["block"]).all()
    report = policed(own, examples, {"pages"})
    assert report["sets"]["prompts"]["injection"] == {"texts": 2, "block": 0.5, "flag": 0.5}
    assert report["stages"]["input"]["harmless"]["block"]["mean"] == 0.0
    assert "injection" not in report["stages"]["tool_output"]  # of a family that was fitted


def test_a_budget_is_measured_on_families_that_were_not_fitted(detector: LayerDetector) -> None:
    rows = [("old", 1.0), ("new", 1.0), ("new", 0.0), ("other", 0.0)]
    examples = [example(name, "benign") for name, _ in rows]
    report = realised(detector, examples, [scores(injection=score) for _, score in rows], {"old"})
    assert report["injection"]["input"]["sets"] == {"new": 0.5, "other": 0.0}
    assert report["injection"]["input"]["mean"] == 0.25


def test_categories_that_two_sets_name_are_counted_apart() -> None:
    examples = [
        example("hatecheck", "unsafe", "statement"),
        example("edos_test", "unsafe", "statement"),
        example("openai_moderation", "unsafe", "statement", "S"),
    ]
    found = categories(examples, [scores() for _ in examples])
    assert found["shared"] == ["hate_harassment"]
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["recall_by_category"] == {"hate_harassment": 1.0, "sexual": 0.0}
    assert found["macro_f1_of_shared"] == pytest.approx(0.8)
    assert found["macro_f1"] == pytest.approx(0.4)
