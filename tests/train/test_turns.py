"""Heads that are fitted in a turn of a conversation: one head, with and without a context before the text."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lec_guard import LayerDetector, Step
from lec_guard.detect.bundle import read_bundle
from lec_guard.errors import BundleError, UnsupportedValueError
from lec_guard.train.config import TrainConfig
from lec_guard.train.trainer import train
from tests.generate.inside import BAD, PLAIN, SYSTEM, inside, said


@pytest.fixture(scope="module")
def qwen2(tmp_path_factory):
    return inside("qwen2", tmp_path_factory.mktemp("qwen2"))


def data(folder, contexts):
    rows = []
    for seed in range(60):
        harmful = seed % 2 == 1
        row = {
            "text": f"{said(seed)} {said(seed, BAD if harmful else PLAIN, 4)}",
            "label": "harmful" if harmful else "benign",
            "family": f"f{seed % 6}",
        }
        rows.append(row | ({"context": contexts[seed % len(contexts)]} if contexts and seed % 4 < 2 else {}))
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def config(qwen2, path, **more):
    return TrainConfig(
        **{
            "data": (path,), "head": "attack", "model": qwen2.folder / "model", "turn": "user", "layers": (0,),
            "poolings": ("mean",), "sizes": (20,), "seeds": 1, "folds": 3,
            "window": {"size": 32, "stride": 16, "least": 32},
            **more,
        }
    )  # fmt: skip


def test_contexts_stand_before_texts_and_one_head_reads_both(qwen2, tmp_path):
    found = train(config(qwen2, data(tmp_path, [SYSTEM, "no"])), tmp_path / "bundle")
    bundle = read_bundle(tmp_path / "bundle")
    assert bundle.spec.format == 5
    assert bundle.turn is not None
    assert bundle.turn.role == "user"
    np.testing.assert_array_equal(bundle.learned.heads.weight, bundle.learned.pair_heads.weight)
    assert found.tried[0].auc > 0.9
    assert not any("contexts were not read" in note for note in found.notes)
    detector = LayerDetector.load(tmp_path / "bundle")
    for context in (None, SYSTEM):
        harmful, benign = detector.score(
            [Step(stage="input", text=f"{said(9)} {said(9, own, 4)}", context=context) for own in (BAD, PLAIN)]
        )
        assert harmful.by_head["attack"]["harmful"] > benign.by_head["attack"]["harmful"]


def test_a_context_that_the_model_cannot_read_whole_is_told(qwen2, tmp_path):
    with pytest.raises(UnsupportedValueError, match=r"text 0 \(from 0\): the context has more than \d+ tokens"):
        train(config(qwen2, data(tmp_path, ["mill " * 60])), tmp_path / "bundle")


def test_a_model_without_the_layer_asked_is_told(qwen2, tmp_path):
    with pytest.raises(UnsupportedValueError, match="the model has 3 layers, and no layer 4"):
        train(config(qwen2, data(tmp_path, []), layers=(4,)), tmp_path / "bundle")


def test_an_encoder_has_no_turns(tmp_path):
    with pytest.raises(BundleError, match="chat template"):
        train(
            TrainConfig(data=(data(tmp_path, []),), head="attack", turn="user", folds=3, window={"size": 32}),
            tmp_path / "bundle",
        )
