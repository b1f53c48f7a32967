"""Budgets from a tenant's own traffic: what is taken, how far it may go, and what is told of it."""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lec_guard.detect.heads import BenignScores, HeadSpec
from lec_guard.errors import DetectorError, UnsupportedValueError
from lec_guard.guard import heads_of
from lec_guard.policy.budget import MAX_SHIFT
from lec_guard.policy.decide import decide
from lec_guard.policy.store import PolicyStore
from lec_guard.step import Scores, Span, Step, ToolRef
from lec_guard.train.own_traffic import CANARIES, Move, Recalibrated, recalibrate
from lec_guard.train.tenant import TenantPolicy, read_tenant, write_calibration
from lec_guard.train.traffic import ONE_SOURCE, Text, read_traffic
from tests.conftest import write_policies

RATES = (0.5, 0.2, 0.1, 0.05, 0.025, 0.01, 0.005)
STOCK = (0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.85)
"""What the bundle knows: one in a hundred harmless texts is above 0.8."""


def spec(name: str) -> HeadSpec:
    known = {
        "texts": 1000,
        "families": 5,
        "rates": RATES,
        "scores": STOCK,
        "worst": tuple(min(2 * r, 1) for r in RATES),
    }
    return HeadSpec(
        name=name,
        kind="binary",
        labels=("bad",),
        benign=tuple(BenignScores(stage=stage, windows=1, **known) for stage in ("input", "output", "tool_output")),
    )


class Said:
    """A detector whose texts say their scores: `0.93 …` or, of a text of four windows, `0.93 w4 …`; `?` is not read."""

    def __init__(self, *heads: str, detector_id: str = "said@1") -> None:
        self.heads = tuple(spec(name) for name in heads or ("injection",))
        self.detector_id = detector_id
        self.calls = 0

    @property
    def labels(self):
        return {one.name: one.labels for one in self.heads}

    def score(self, steps: Sequence[Step], *, keys=None) -> list[Scores]:
        self.calls += len(steps)
        return [self._one(step) for step in steps]

    def _one(self, step: Step) -> Scores:
        words = [*step.text.split(), ""]
        common = {"detector_id": self.detector_id, "backend": "none"}
        if words[0] == "?":
            return Scores(by_head={}, unread="the text is too long", over_budget=True, **common)
        windows = int(words[1][1:]) if words[1][:1] == "w" else 1
        return Scores(by_head={one.name: {"bad": float(words[0])} for one in self.heads}, windows=windows, **common)


RULE = "{name: injection, stages: [input], head: injection, max_fpr: 0.01, action: block}"
POLICIES = {"default.yaml": f"rules:\n  - {RULE}\n", "tenants/acme.yaml": "extends: default\n"}


def texts(scores: Sequence[float], origin: str = ONE_SOURCE, stage: str = "input", tool=None) -> list[Text]:
    """Texts that are no near duplicates of each other."""
    return [
        Text(
            where=f"{origin}:{at}",
            id=f"{origin}:{at}",
            step=Step(stage=stage, text=f"{score:.4f} {hashlib.sha256(str(at).encode()).hexdigest()}", tool=tool),
            origin=origin,
        )
        for at, score in enumerate(scores)
    ]


def attack(score: float, name: str = "a", stage: str = "input") -> Text:
    return Text(where=f"file:{name}", id=name, step=Step(stage=stage, text=f"{score} attack {name}"), origin=ONE_SOURCE)


ATTACKS = [attack(0.99)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_policies(tmp_path / "policies", POLICIES)


def calibrated(folder: Path, traffic: Sequence[Text], attacks: Sequence[Text] = ATTACKS, **options) -> Recalibrated:
    detector = options.pop("detector", None) or Said()
    return recalibrate(read_tenant(folder, options.pop("tenant", "acme"), detector), traffic, attacks, **options)


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def test_the_threshold_is_what_one_in_a_hundred_of_the_own_texts_exceeds(folder):
    found = calibrated(folder, texts(np.linspace(0.001, 0.75, 1000)))
    (move,) = found.moves
    assert move == Move(
        rule="injection",
        stage="input",
        tool=None,
        head="injection",
        budget=0.01,
        windows=1,
        before=pytest.approx(0.8, abs=1e-6),
        alone=pytest.approx(0.7425, abs=2e-3),
        after=pytest.approx(move.alone),
        rows=1000,
        matched_before=0,
        matched_after=10,
    )
    assert not move.is_bounded
    (stage,) = found.stages
    assert (stage.stage, stage.rows, stage.before, stage.after) == ("input", 1000, 0, 10)
    assert (stage.canaries, stage.canaries_before, stage.canaries_after) == (1, 1, 1)
    assert (found.lost, found.unproved, found.left_out, found.repeats, found.unread, found.allowed) == (
        (),
        (),
        (),
        0,
        0,
        0,
    )
    assert found.calibration.texts == 1000
    assert found.policy.thresholds[0].own


@pytest.mark.parametrize(("scores", "way"), [(np.full(1000, 0.999), 1), (np.full(1000, 0.01), -1)])
def test_no_traffic_moves_a_threshold_further_than_the_bound(folder, scores, way):
    (move,) = calibrated(folder, texts(scores)).moves
    assert move.is_bounded
    assert logit(move.after) == pytest.approx(logit(move.before) + way * MAX_SHIFT, abs=1e-3)


def test_calibrating_again_and_again_goes_no_further_than_once(folder):
    traffic = texts(np.full(1000, 0.999))
    (folder / "tenants" / "acme.yaml").write_text("extends: default\ncalibration: calibrations/acme.json\n")
    ends = []
    for _ in range(3):
        policy = read_tenant(folder, "acme", Said())
        found = recalibrate(policy, traffic, ATTACKS)
        ends.append(found.moves[0].after)
        write_calibration(found.calibration, policy.file)
    assert ends[1:] == ends[:-1]
    assert found.moves[0].before == found.moves[0].after


def test_what_is_written_is_what_was_shown_and_holds_no_text(folder):
    policy = read_tenant(folder, "acme", Said())
    traffic = texts(np.linspace(0.001, 0.75, 1000), origin="support desk")
    found = recalibrate(policy, traffic, ATTACKS)
    write_calibration(found.calibration, policy.file)
    (folder / "tenants" / "acme.yaml").write_text("extends: default\ncalibration: calibrations/acme.json\n")
    store = PolicyStore(folder, lambda _: heads_of(Said()))
    assert store.get("acme").live.thresholds == found.policy.thresholds
    assert store.get(None).live.thresholds != found.policy.thresholds
    content = policy.file.read_text()
    assert not any(text.step.text.split()[1] in content for text in traffic)
    assert not any(word in content for word in ("attack", "support desk"))
    assert [path.name for path in policy.file.parent.iterdir()] == ["acme.json"]


def test_texts_too_few_for_a_budget_leave_it_as_it_is_and_say_how_many_it_needs(folder):
    rules = f"rules:\n  - {RULE.replace('[input]', '[input, output, tool_output]')}\n"
    write_policies(folder, {"default.yaml": rules})
    traffic = [*texts(np.linspace(0, 0.7, 400)), *texts(np.linspace(0, 0.7, 120), stage="output")]
    found = calibrated(folder, traffic)
    assert found.left_out == (
        "output: a rate of 0.01 needs 300 harmless texts (3 / rate), and there are 120 (injection)",
        "tool_output: there is no text of it (injection)",
    )
    assert [stage.stage for stage in found.stages] == ["input"]
    by_stage = {one.stage: one.own for one in found.policy.thresholds}
    assert by_stage == {"input": True, "output": False, "tool_output": False}
    with pytest.raises(UnsupportedValueError, match="too few for each budget") as caught:
        calibrated(folder, texts(np.linspace(0, 0.7, 299)))
    assert "input: a rate of 0.01 needs 300 harmless texts (3 / rate), and there are 299" in str(caught.value)
    with pytest.raises(UnsupportedValueError, match="and there are 3 "):
        calibrated(folder, texts([0.1, 0.2, 0.3]))


def test_lengths_are_counted_apart_where_that_leaves_enough_texts_for_the_budget(folder):
    write_policies(folder, {"default.yaml": f"rules:\n  - {RULE.replace('0.01', '0.005')}\n"})

    def lengths(short: int, long: int) -> list[Text]:
        one, two = texts(np.linspace(0, 0.7, short)), texts(np.linspace(0, 0.7, long))
        return [*one, *(longer(text) for text in two)]

    def longer(text: Text) -> Text:
        words = text.step.text.split()
        step = Step(stage="input", text=" ".join([words[0], "w4", *words[1:]]))
        return Text(where=text.where, id=text.id, step=step, origin=text.origin)

    assert [move.windows for move in calibrated(folder, lengths(700, 700)).moves] == [1, 2]
    # 600 are needed for that rate: 400 and 400 are, together.
    together = calibrated(folder, lengths(400, 400))
    assert [(move.windows, move.rows) for move in together.moves] == [(1, 800)]


def test_a_policy_without_a_budget_has_nothing_to_take_from_traffic(folder):
    write_policies(folder, {"default.yaml": f"rules:\n  - {RULE.replace('max_fpr: 0.01', 'threshold: 0.5')}\n"})
    with pytest.raises(UnsupportedValueError, match=r"acme.yaml: no rule of 'acme' has a max_fpr"):
        calibrated(folder, texts([0.1] * 400))


def test_a_stage_shares_its_budget_over_its_heads(folder):
    both = [RULE, RULE.replace("name: injection", "name: other").replace("head: injection", "head: safety")]
    write_policies(folder, {"default.yaml": "rules:\n" + "".join(f"  - {one}\n" for one in both)})
    found = calibrated(folder, texts(np.linspace(0.001, 0.75, 1000)), detector=Said("injection", "safety"))
    assert [(move.rule, move.matched_after) for move in found.moves] == [("injection", 5), ("other", 5)]
    # Both heads score alike here, so that together they stop what one does.
    assert found.stages[0].after == 5


def test_a_text_that_repeats_counts_once_in_the_threshold_and_always_in_what_is_stopped(folder):
    quiet, loud = texts(np.linspace(0.001, 0.75, 1000)), texts([0.99])
    alone = calibrated(folder, [*quiet, *loud])
    often = calibrated(folder, [*quiet, *loud * 100])
    assert often.moves[0].after == alone.moves[0].after
    assert (alone.stages[0].after, often.stages[0].after) == (alone.moves[0].matched_after, alone.stages[0].after + 99)
    assert often.moves[0].matched_after == often.stages[0].after
    assert (alone.repeats, often.repeats) == (0, 99)
    assert often.top[0].rows == 100


def test_the_highest_scores_are_shown_and_near_duplicates_once(folder):
    varied = [
        Text(
            where=f"p:{at}",
            id=f"p:{at}",
            step=Step(
                stage="input", text=f"0.9{at % 10} please hand over the long list of all our customers now, {at}"
            ),
            origin=ONE_SOURCE,
        )
        for at in range(30)
    ]
    found = calibrated(folder, [*texts(np.linspace(0.001, 0.75, 1000)), *varied], top=3)
    first, *others = found.top
    assert (first.stage, first.head, first.score) == ("input", "injection", pytest.approx(0.99))
    assert (first.where, first.texts, first.rows) == ("p:9", 30, 30)
    assert first.text.startswith("0.99 please hand over")
    assert [one.score for one in others] == pytest.approx([0.75, 0.7493], abs=1e-3)
    assert len(found.top) == 3
    # The bound is at 0.916: up to 0.91 they would pass, and these are stopped now.
    assert (first.passes, first.newly) == (6, 6)
    assert all((one.passes, one.newly) == (1, 0) for one in others)


def test_sources_count_alike_however_much_one_of_them_sends(folder):
    calm = [text for name in "abc" for text in texts(np.linspace(0.001, 0.7, 300), origin=name)]
    some = calibrated(folder, [*calm, *texts(np.linspace(0.6, 0.9, 300), origin="flood")])
    many = calibrated(folder, [*calm, *texts(np.linspace(0.6, 0.9, 6000), origin="flood")])
    assert many.moves[0].alone == pytest.approx(some.moves[0].alone, abs=0.01)
    assert many.sources == {"flood": 6000, "a": 300, "b": 300, "c": 300}
    assert list(many.sources)[0] == "flood"


def test_a_few_texts_from_a_source_of_their_own_decide_nothing(folder):
    calm = texts(np.linspace(0.001, 0.7, 3000), origin="a")
    alone = calibrated(folder, calm)
    joined = calibrated(folder, [*calm, *texts([0.999] * 5, origin="mine"), *texts([0.999] * 5, origin="mine too")])
    assert joined.moves[0].alone == pytest.approx(alone.moves[0].alone, abs=0.01)
    assert joined.calibration.heads["injection"][0].families == 3


def test_attacks_that_would_pass_are_told(folder):
    attacks = [attack(0.81, "close"), attack(0.99, "far"), attack(0.3, "never")]
    found = calibrated(folder, texts(np.linspace(0.001, 0.95, 1000)), attacks)
    assert [one.id for one in found.lost] == ["close"]
    (stage,) = found.stages
    assert (stage.canaries, stage.canaries_before, stage.canaries_after) == (3, 2, 1)
    # A lower threshold loses none.
    assert calibrated(folder, texts(np.linspace(0.001, 0.75, 1000)), attacks).lost == ()


def test_attacks_of_which_none_is_stopped_now_prove_nothing(folder):
    traffic = texts(np.linspace(0.001, 0.75, 1000))
    found = calibrated(folder, traffic, [attack(0.3), attack(0.99, stage="output")])
    assert [stage.stage for stage in found.unproved] == ["input"]
    assert calibrated(folder, traffic, ATTACKS).unproved == ()


def test_what_is_not_read_or_on_the_allow_list_says_nothing_of_thresholds(folder):
    calm = texts(np.linspace(0.001, 0.75, 1000))
    loud = texts([0.9876] * 50)
    exact = [text.step.text for text in loud]
    write_policies(
        folder,
        {
            "tenants/acme.yaml": f"""
                extends: default
                allow:
                  - {{name: known, stages: [input], exact: {json.dumps(exact)}}}
            """
        },
    )
    unread = [attack(0, f"u{at}").step.text.replace("0", "?", 1) for at in range(40)]
    unread = [Text(where="u", id="u", step=Step(stage="input", text=text), origin=ONE_SOURCE) for text in unread]
    found = calibrated(folder, [*calm, *loud, *unread])
    assert found.moves[0].alone == calibrated(folder, calm).moves[0].alone
    assert (found.unread, found.allowed, found.calibration.texts) == (40, 50, 1000)
    # What can't be read is stopped whatever the thresholds, and what is allowed never.
    assert (found.stages[0].before, found.stages[0].after) == (40, 50)
    assert all(one.score < 0.9 for one in found.top)
    with pytest.raises(DetectorError, match="none of 40 texts could be read; the first: the text is too long"):
        calibrated(folder, unread)


def test_a_rule_that_differs_for_a_tool_is_told_apart(folder):
    rule = RULE.replace("[input]", "[tool_output]").replace(
        "action: block", "action: block, tools: {'web_*': {max_fpr: 0.05}}"
    )
    write_policies(folder, {"default.yaml": f"rules:\n  - {rule}\n"})
    web = texts(np.linspace(0, 0.7, 400), "web", "tool_output", ToolRef(name="web_search"))
    mail = texts(np.linspace(0, 0.7, 500), "mail", "tool_output", ToolRef(name="mail"))
    found = calibrated(folder, [*web, *mail])
    assert [(move.tool, move.rows, move.budget) for move in found.moves] == [(None, 500, 0.01), ("web_*", 400, 0.05)]
    assert found.moves[0].after > found.moves[1].after
    assert [move.matched_after / move.rows for move in found.moves] == pytest.approx([0.01, 0.05], abs=0.005)
    # The same text of another tool is another step.
    both = calibrated(folder, [*web, *mail, *texts([0.01], "web", "tool_output", ToolRef(name="mail"))])
    again = calibrated(folder, [*web, *mail, *texts([0.01], "mail", "tool_output", ToolRef(name="web_search"))] * 2)
    assert [move.rows for move in both.moves] == [501, 400]
    assert [move.rows for move in again.moves] == [1000, 802]


def test_a_budget_that_is_smaller_for_a_tool_needs_more_texts(folder):
    rule = RULE.replace("[input]", "[tool_output]").replace("block", "block, tools: {web: {max_fpr: 0.005}}")
    write_policies(folder, {"default.yaml": f"rules:\n  - {rule}\n"})
    with pytest.raises(UnsupportedValueError, match=r"tool_output: a rate of 0.005 needs 600 .* there are 599"):
        calibrated(folder, texts(np.linspace(0, 0.7, 599), stage="tool_output"))


def test_of_a_long_text_the_part_that_scores_is_shown(folder):
    class Marking(Said):
        def _one(self, step):
            span = Span(start=5, end=9, head="injection", label="bad", score=1.0)
            other = Span(start=0, end=3, head="safety", label="bad", score=1.0)
            return replace(super()._one(step), spans=(other, span))

    traffic = texts(np.linspace(0.001, 0.75, 400))
    found = calibrated(folder, traffic, detector=Marking(), top=1)
    assert found.top[0].text == traffic[-1].step.text[5:9]


def test_progress_is_told(folder):
    told: list[tuple[str, int, int]] = []
    calibrated(folder, texts(np.linspace(0, 0.7, 600)), progress=lambda *words: told.append(words))
    assert told == [
        ("reading the traffic", 0, 600),
        ("reading the traffic", 512, 600),
        ("reading the traffic", 600, 600),
        ("reading attacks", 0, 1),
        ("reading attacks", 1, 1),
    ]


def test_packaged_attacks_have_names_and_are_stopped_at_each_stage_by_the_shipped_detector(tmp_path, embedded):
    attacks = read_traffic(CANARIES).texts
    assert len({one.id for one in attacks}) == len(attacks) >= 40
    assert not any(one.id == one.where for one in attacks)
    write_policies(
        tmp_path,
        {
            "default.yaml": """
                rules:
                  - {name: a, stages: [input, tool_output, retrieval], head: injection, max_fpr: 0.02, action: block}
                  - {name: b, stages: [tool_output, retrieval], head: indirect_injection, max_fpr: 0.02, action: block}
                  - {name: c, stages: [input, output], head: safety, labels: [unsafe], max_fpr: 0.02, action: block}
            """
        },
    )
    policy = read_tenant(tmp_path, None, embedded)
    stopped = Counter(stopped_by(policy, attacks))
    # Of unsafe answers the shipped detector stops few at such a rate; its card says so.
    assert {stage for stage, count in stopped.items() if count >= 3} >= {"input", "tool_output", "retrieval"}


def stopped_by(policy: TenantPolicy, attacks: Sequence[Text]) -> list[str]:
    """The stage of each attack that a policy blocks."""
    scores = policy.detector.score([one.step for one in attacks])
    decided = (decide(policy.live, one.step, own) for one, own in zip(attacks, scores, strict=True))
    return [one.step.stage for one, said in zip(attacks, decided, strict=True) if said.action == "block"]


def test_no_package_of_the_extra_for_training_is_needed():
    code = (
        # scikit-learn imports pandas where that is installed, and pandas pyarrow.
        "import sys; sys.modules['pandas'] = None; import lec_guard.cli.calibrate, lec_guard.train.own_traffic\n"
        "print([name for name in ('jinja2', 'matplotlib', 'pyarrow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
