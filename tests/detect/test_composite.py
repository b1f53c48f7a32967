"""Several detectors are one: all read everything, nothing passes that one of them did not read."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path

import pytest

from lec_guard import Batcher, DetectorError, LayerDetector, Scores, Span, Step
from lec_guard.detect.asking import Asker
from lec_guard.detect.bundle import read_bundle
from lec_guard.detect.composite import CompositeDetector, layer_of
from lec_guard.detect.detector import Heated, Measured, heat_of
from lec_guard.detect.heads import HeadSpec
from lec_guard.detect.pool import DetectorPool
from lec_guard.errors import BundleError
from lec_guard.testing import KeywordDetector
from tests.detect.models import random_heads, save_extra


class Fake:
    """One head; says what it is told to say, and notes what it is asked."""

    def __init__(self, head: str, **says: object) -> None:
        self.labels = {head: ("x",)}
        self.detector_id = f"fake-{head}"
        self.asked: list[tuple[list[str], Sequence[Hashable] | None]] = []
        self.closed = 0
        self._says = {"by_head": {head: {"x": 0.5}}, "detector_id": self.detector_id, "backend": head} | says

    def score(self, steps: Sequence[Step], *, keys: Sequence[Hashable] | None = None) -> list[Scores]:
        self.asked.append(([step.text for step in steps], keys))
        return [Scores(**self._says) for _ in steps]

    def close(self) -> None:
        self.closed += 1


class Failing(Fake):
    def score(self, steps: Sequence[Step], *, keys: Sequence[Hashable] | None = None) -> list[Scores]:
        raise ValueError("no luck")

    def close(self) -> None:
        super().close()
        raise OSError("won't close")


class Short(Fake):
    def score(self, steps: Sequence[Step], *, keys: Sequence[Hashable] | None = None) -> list[Scores]:
        return super().score(steps, keys=keys)[1:]


def steps(*texts: str) -> list[Step]:
    return [Step(stage="input", text=text) for text in texts]


def test_scores_of_all_are_the_scores_of_a_step():
    one, two = (Span(start=at, end=at + 1, head=head, label="x", score=0.5) for at, head in enumerate("ab"))
    a = Fake("a", spans=(one,), windows=0, context_read=True)
    b, c = Fake("b", spans=(two,), windows=7), Fake("c", windows=3)
    composite = CompositeDetector(a, b, c)
    (scores,) = composite.score(steps("text"))
    assert scores == Scores(
        by_head={"a": {"x": 0.5}, "b": {"x": 0.5}, "c": {"x": 0.5}},
        spans=(one, two),
        windows=7,
        context_read=True,
        detector_id="fake-a+fake-b+fake-c",
        backend="a+b+c",
    )
    assert composite.detector_id == scores.detector_id
    assert composite.labels == {"a": ("x",), "b": ("x",), "c": ("x",)}
    assert composite.detectors == (a, b, c)


def test_each_is_asked_once_for_all_steps_and_told_whose_they_are():
    a, b = Fake("a"), Fake("b")
    given = CompositeDetector(a, b).score(steps("one", "two"), keys=["k", "l"])
    assert len(given) == 2
    assert a.asked == b.asked == [(["one", "two"], ["k", "l"])]
    assert CompositeDetector(a, b).score([]) == []


@pytest.mark.parametrize(
    ("first", "second", "unread", "over_budget"),
    [
        ({}, {}, None, False),
        ({"unread": "A"}, {}, "A", False),
        ({}, {"unread": "B", "over_budget": True}, "B", True),
        ({"unread": "A", "over_budget": True}, {"unread": "B", "over_budget": True}, "A", True),
        # A policy may let a text pass that is over a budget, and none that can't be read.
        ({"unread": "A", "over_budget": True}, {"unread": "B"}, "B", False),
    ],
)
def test_what_one_did_not_read_is_unread(first, second, unread, over_budget):
    (scores,) = CompositeDetector(Fake("a", **first), Fake("b", **second)).score(steps("text"))
    assert (scores.unread, scores.over_budget) == (unread, over_budget)


def test_heat_of_all_is_in_the_order_of_the_text(detector: LayerDetector):
    late, early = (Span(start=at, end=at + 4, head="a", label="x", score=0.5) for at in (9, 0))
    (step,) = steps("the rules, the rules. what is the weather?")
    alone = detector.heat(step)
    assert len({span.start for span in alone}) > 1
    finding = Fake("a", spans=(late, early))
    for composite in (
        CompositeDetector(finding, detector),
        CompositeDetector(CompositeDetector(finding), CompositeDetector(detector)),
        CompositeDetector(Batcher(finding), Batcher(detector)),
        Batcher(CompositeDetector(finding, detector)),
    ):
        assert isinstance(composite, Heated)
        found = composite.heat(step)
        assert found == heat_of(composite, step)
        assert [one for one in found if one.head == "a"] == [early, late] == heat_of(finding, step)
        assert [one for one in found if one.head != "a"] == alone
        assert [(one.start, one.end) for one in found] == sorted((one.start, one.end) for one in found)


@pytest.mark.parametrize("wrap", [lambda one: one, Batcher], ids=["itself", "in a batcher"])
def test_there_is_no_heat_where_one_did_not_read(wrap):
    composite = CompositeDetector(Fake("a"), wrap(Fake("b", unread="too long", over_budget=True)))
    with pytest.raises(DetectorError, match="too long"):
        composite.heat(steps("text")[0])
    with pytest.raises(DetectorError, match="gave 0 scores for 1 steps"):
        CompositeDetector(Fake("a"), wrap(Short("b"))).heat(steps("text")[0])


def test_where_one_fails_the_call_fails():
    with pytest.raises(ValueError, match="no luck"):
        CompositeDetector(Fake("a"), Failing("b")).score(steps("text"))
    (answer,) = Asker().ask(CompositeDetector(Fake("a"), Failing("b")), steps("text"), [None])
    assert answer.scores is None
    assert "no luck" in str(answer.error)
    with pytest.raises(DetectorError, match="gave 1 scores for 2 steps"):
        CompositeDetector(Short("a"), Fake("b")).score(steps("one", "two"))


def test_two_heads_of_one_name_are_refused():
    with pytest.raises(DetectorError, match="two detectors have a head 'a', the second of them fake-a"):
        CompositeDetector(Fake("a"), Fake("b"), Fake("a"))
    with pytest.raises(DetectorError, match="has no detectors"):
        CompositeDetector()


def test_all_are_closed_also_where_one_fails_to():
    a, b, keywords = Failing("a"), Fake("b"), KeywordDetector({"k": {"x": ["word"]}})
    with pytest.raises(OSError, match="won't close"):
        CompositeDetector(a, keywords, b).close()
    assert (a.closed, b.closed) == (1, 1)
    CompositeDetector(b, keywords).close()
    assert b.closed == 2


def test_a_detector_without_a_name_has_its_classes():
    class Nameless:
        def __init__(self) -> None:
            self.labels = {"k": ("x",)}

        def score(self, steps, *, keys=None):
            raise NotImplementedError

    composite = CompositeDetector(Fake("a"), Nameless())
    assert composite.detector_id == "fake-a+Nameless"
    assert (composite.window_tokens, composite.heads) == (None, ())


def test_a_batcher_around_it_and_one_inside():
    a, b = Fake("a"), Fake("b")
    alone = CompositeDetector(a, b).score(steps("one", "two"))
    with Batcher(CompositeDetector(a, b)) as around:
        assert around.score(steps("one", "two"), keys=["k", "l"]) == alone
        assert around.detector_id == "fake-a+fake-b"
        assert around.labels == {"a": ("x",), "b": ("x",)}
    assert (a.closed, b.closed) == (1, 1)
    inside = CompositeDetector(Batcher(a), b)
    assert inside.score(steps("one", "two"), keys=["k", "l"]) == alone
    assert inside.detector_id == "fake-a+fake-b"
    inside.close()
    assert (a.closed, b.closed) == (2, 2)
    with pytest.raises(DetectorError, match="closed"):
        inside.score(steps("one"))


def test_what_fitted_heads_know_is_handed_on(detector: LayerDetector):
    composite = CompositeDetector(Fake("a"), detector)
    assert isinstance(composite, Measured)
    assert composite.heads == detector.heads
    assert composite.window_tokens == detector.window_tokens
    (own,), (both,) = detector.score(steps("some text")), composite.score(steps("some text"))
    assert both.by_head == {"a": {"x": 0.5}, **own.by_head}
    assert both.spans == own.spans


@pytest.fixture
def extra(bundle: Path, detector: LayerDetector, tmp_path: Path) -> Path:
    """A bundle with the head `own`, on the extractor of `detector`."""
    heads = random_heads(detector._extractor.backend.width, specs=(HeadSpec(name="own", kind="binary", labels=("x",)),))
    return save_extra(tmp_path / "own", bundle, heads, name="own")


def test_heads_of_a_bundle_stand_beside_those_of_the_detector_inside(detector: LayerDetector, extra: Path):
    pin, a = read_bundle(extra).detector_id, Fake("a")
    alone = detector.with_heads(extra)
    for base in (
        CompositeDetector(a, detector),
        CompositeDetector(a, Batcher(detector)),
        CompositeDetector(a, CompositeDetector(detector)),
    ):
        more = base.with_heads(extra, detector_id=pin)
        assert more.labels == {"a": ("x",), **alone.labels}
        assert more.detectors[0] is a
        assert type(more.detectors[1]) is type(base.detectors[1])
        assert more.score(steps("text"))[0].by_head["own"] == alone.score(steps("text"))[0].by_head["own"]
        assert layer_of(Batcher(more)) is not layer_of(base) is detector
        assert DetectorPool(base).get(extra, pin, beside=True).labels == more.labels
        more.close()


def test_heads_that_no_detector_takes_are_refused(detector: LayerDetector, extra: Path):
    with pytest.raises(
        BundleError, match=r"own: its heads can't stand beside fake-a: only a LayerDetector takes heads"
    ):
        CompositeDetector(Fake("a")).with_heads(extra)
    with pytest.raises(BundleError, match=r"own: can't be added to .*two detectors have a head 'own'"):
        CompositeDetector(detector, Fake("own")).with_heads(extra)
    assert layer_of(Fake("a")) is None


def test_a_tenants_own_detector_has_the_budget_of_the_one_inside(bundle: Path, extra: Path):
    base = CompositeDetector(Fake("a"), LayerDetector.load(bundle, budget=3))
    own = DetectorPool(base).get(extra, read_bundle(extra).detector_id, beside=False)
    assert isinstance(own, LayerDetector)
    assert own.budget == 3
