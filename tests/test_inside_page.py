"""The page of the demonstration says what was measured, and what measures it runs."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from benchmarks.inside.__main__ import Work
from benchmarks.inside.behaviour import load
from benchmarks.inside.data import Head, write
from benchmarks.inside.drawing import PLOTS, run_name
from benchmarks.inside.guarding import (
    READERS,
    Effort,
    before_the_first_token,
    fit,
    found,
    guarded,
    streamed,
    while_decoding,
    write_policy,
)
from benchmarks.inside.language import conversations
from benchmarks.inside.page import HERE, PAGE, RESULTS, missed, page, quantile, share
from benchmarks.inside.steering import COEFFICIENTS, Steering, Way
from benchmarks.inside.toy import Settings, Toy, model_of, save, tokenizer_of

TINY = Settings(vocabulary=500, layers=1, width=32, inner=64, heads=2, context=512, threads=1)
EFFORT = Effort(layers=(1,), poolings=("mean",), penalties=(0.1,), sizes=(5_000,), seeds=1)
"""The size is more than there is: learning curves take processes of their own."""
HEADS: tuple[Head, ...] = ("injection", "harm")


@pytest.fixture(scope="module")
def report():
    return json.loads(RESULTS.read_text(encoding="utf-8"))


def test_the_page_is_made_of_the_results(report):
    assert PAGE.read_text(encoding="utf-8") == page(report)
    assert not re.search(r"/(home|root|tmp|work|Users)\b", RESULTS.read_text(encoding="utf-8"))
    assert {one["way"]["coefficient"] for one in report["guidance"]["rows"]} == {*COEFFICIENTS}


def test_plots_are_drawn_the_same_each_time(report):
    shown = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", PAGE.read_text(encoding="utf-8"))
    assert sorted(shown) == sorted(PLOTS)
    for name, draw in PLOTS.items():
        drawn = draw(report)
        assert drawn == draw(report)
        assert len(drawn) < 60_000
        assert b"<dc:date>" not in drawn
        kept = (HERE / name).read_text(encoding="utf-8")
        # Where letters stand may differ by the version of what draws them; what is said does not.
        assert re.findall(r">([^<>\n]+)</text>", kept) == re.findall(r">([^<>\n]+)</text>", drawn.decode())


def test_every_run_of_orpo_is_in_the_plot(report):
    drawn = PLOTS["orpo.svg"](report).decode()
    for run in report["orpo"]["runs"]:
        assert f">{run_name(run)}</text>" in drawn


def test_what_is_said_of_the_guard_adds_up(report):
    for one in report["asked"]:
        assert one["written"] == 0
        assert one["refused"]["hits"] + one["later"]["of"] == one["refused"]["of"]
        assert one["later"]["of"] - one["later"]["hits"] == one["same"]["of"]
        assert one["same"]["hits"] == one["same"]["of"]
    for one in report["decoding"]["rows"]:
        assert len(one["after"]) == one["stopped"]["hits"]
        assert missed(one)["hits"] >= 0
        assert one["same"]["hits"] == one["same"]["of"]
    whole = next(one for one in report["streaming"] if one["hold_back"] == "all")
    assert whole["shown"]["hits"] == max(whole["characters"], default=0) == 0


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A model that has learnt nothing, with heads on it."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("inside")
    texts = (message.content for one in conversations("learn", 300, 1) for message in one.messages)
    tokenizer = tokenizer_of(texts, TINY.vocabulary, TINY.context)
    save(Toy(model=model_of(TINY, tokenizer), tokenizer=tokenizer), folder / "model")
    write(folder / "data", 160)
    trained = {head: fit(head, folder / "model", folder / "data", folder / head, EFFORT) for head in HEADS}
    return folder, trained


def policy_of(tiny, hold_back):
    folder, trained = tiny
    writer = load(folder / "model")
    policy = write_policy(folder / f"{hold_back}.yaml", trained, hold_back)
    return guarded(writer.model, writer.tokenizer, [folder / head for head in HEADS], policy, batch=8)


def test_heads_are_fitted_once_in_the_turn_that_they_read(tiny):
    folder, trained = tiny
    for head, own in trained.items():
        assert own.head == head
        assert [bar.stage for bar in own.bars] == [READERS[head].stage]
        assert fit(head, folder / "model", folder / "nothing", folder / head) == own
        parts = found(head, folder / head, own.bars[0].threshold, 24)
        assert [one.part for one in parts] == ["same", "new"]
        assert all(one.harmful.of and one.harmless.of for one in parts)


def test_prompts_are_refused_before_the_first_token(tiny, monkeypatch):
    monkeypatch.setattr("benchmarks.inside.guarding.LONGEST", 6)
    for one in before_the_first_token(policy_of(tiny, "all"), 4, 1):
        assert one.written == 0
        assert one.refused.hits + one.later.of == one.refused.of
        assert one.same.hits == one.same.of == one.later.of - one.later.hits
        assert (one.works is None) == ("attacks" not in one.name and "must not" not in one.name)


def test_answers_are_watched_while_they_are_written(tiny, monkeypatch):
    monkeypatch.setattr("benchmarks.inside.guarding.LONGEST", 12)
    # What has learnt nothing writes nothing harmful: any word will do.
    monkeypatch.setattr("benchmarks.inside.guarding.harm_at", lambda text: 3 if len(text) > 3 else None)
    rows = while_decoding(policy_of(tiny, "all"), 12, 1)
    assert sum(one.refused.of for one in rows) == 12
    for one in rows:
        assert one.stopped.hits == len(one.after)
        assert one.turned.hits == one.stopped.of
        assert one.same.hits == one.same.of
    assert streamed(policy_of(tiny, "all"), "all", 3, 1).shown.hits == 0
    own = streamed(policy_of(tiny, 24), 24, 3, 1)
    assert own.blocked.of == own.answers


def test_guidance_is_measured_beside_the_positive_prompt(tiny, monkeypatch):
    monkeypatch.setattr("benchmarks.inside.behaviour.LONGEST", 5)
    rows = Steering(24, 1).measured(load(tiny[0] / "model"), [Way(), Way(coefficient=1.0), Way(coefficient=2.0)])
    assert [one.changed is None for one in rows] == [True, True, False]
    assert all(one.answers.of == one.right.of == 24 and one.per_answer.low <= one.per_answer.high for one in rows)


def test_a_run_goes_on(tmp_path: Path):
    made = []
    for _ in range(2):
        work = Work(tmp_path, {"model": "a", "counts": (1, 2)})
        assert work.stage("one", lambda: made.append(1) or [Way(coefficient=1.0)]) == [
            json.loads(json.dumps(asdict(Way(coefficient=1.0))))
        ]
    assert made == [1]
    with pytest.raises(ValueError, match="another model"):
        Work(tmp_path, {"model": "b", "counts": (1, 2)})


def test_figures_are_told_with_their_counts():
    assert share({"hits": 5, "of": 10}) == "5 of 10, 50.0% [23.7, 76.3]"
    assert share({"hits": 0, "of": 0}) == "none"
    assert quantile([], 0.5) == 0.0
    assert quantile([1, 2, 3, 4], 0.5) == 2.5
    assert quantile([*range(1, 11)], 0.9) == 10
