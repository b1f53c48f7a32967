"""Texts that are read in a turn of a conversation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lec_guard import LayerDetector, Step
from lec_guard.detect.extractor import Block, Extractor
from lec_guard.detect.turns import Template, Turn
from lec_guard.detect.windows import WindowSpec
from lec_guard.errors import BundleError
from tests.generate.inside import SYSTEM, Inside, inside, said

WINDOW = WindowSpec(size=32, stride=16, least=32)
BLOCKS = (Block(1, "mean"), Block(2, "last"))


@pytest.fixture(scope="module")
def qwen2(tmp_path_factory: pytest.TempPathFactory) -> Inside:
    return inside("qwen2", tmp_path_factory.mktemp("qwen2"))


def test_turns_are_those_of_the_chat_template(qwen2):
    folder = qwen2.folder / "model"
    assert Turn.from_chat_template(folder, "user") == Turn("user", "<user> ", " <assistant>")
    assert Template.from_chat_template(folder, "user") == Template("<system> ", " <user> ", " <assistant>")
    # What an answer stands behind, an empty message where it is not known.
    assert Template.from_chat_template(folder, "assistant") == Template("<user> ", " <assistant>", "")
    assert Turn.from_chat_template(folder, "assistant") == Turn("assistant", "<user>  <assistant>", "")


def test_a_tokenizer_without_a_template_has_no_turns(qwen2, tmp_path):
    tokenizer = type(qwen2.tokenizer).from_pretrained(qwen2.folder / "model")
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    for role in ("user", "assistant"):
        with pytest.raises(BundleError, match="no chat template"):
            Turn.from_chat_template(tmp_path, role)


@pytest.mark.parametrize("context", [None, SYSTEM])
@pytest.mark.parametrize("role", ["user", "assistant"])
def test_features_are_those_of_the_whole_conversation(qwen2, role, context):
    folder, text = qwen2.folder / "model", said(4)
    turn, template = Turn.from_chat_template(folder, role), Template.from_chat_template(folder, role)
    extractor = Extractor.load(folder, blocks=BLOCKS, window=WINDOW, turn=turn)
    (window,) = extractor.windower.windows(text)
    if context is None:
        found = extractor.features([window])[0]
        whole = turn.before + text + turn.after
    else:
        from lec_guard.detect.prefix import PrefixPairs

        reader = PrefixPairs(extractor, template, budget=None)
        found = reader.features([window], np.empty((1, 64), np.float32), reader.read(context))[0]
        whole = template.before + context + template.between + text + template.after
    ids = qwen2.tokenizer(whole, add_special_tokens=False, return_tensors="pt").input_ids
    with torch.no_grad():
        states = qwen2.model(ids, output_hidden_states=True).hidden_states
    after = len(qwen2.tokenizer(template.after, add_special_tokens=False).input_ids)
    start = ids.shape[1] - after - 6
    expected = torch.cat([states[1][0, start:].mean(dim=0), states[2][0, -1]])
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)


def test_a_turn_is_part_of_what_heads_are_bound_to(qwen2):
    folder = qwen2.folder / "model"
    turns = [None, *(Turn.from_chat_template(folder, role) for role in ("user", "assistant"))]
    ids = {Extractor.load(folder, blocks=BLOCKS, window=WINDOW, turn=turn).extractor_id for turn in turns}
    assert len(ids) == 3


def test_a_turn_that_leaves_no_room_for_a_window_is_told(qwen2):
    turn = Turn.from_chat_template(qwen2.folder / "model", "user")
    with pytest.raises(BundleError, match="turn and window have 66 tokens, and the model reads 64"):
        Extractor.load(
            qwen2.folder / "model", blocks=BLOCKS, window=WindowSpec(size=64, stride=32, least=10), turn=turn
        )


def test_a_detector_reads_both_forms_with_one_head(qwen2):
    bundle = qwen2.bundle("both", blocks=((2, "mean"),))
    alone, together = LayerDetector.load(bundle).score(
        [Step(stage="input", text=said(4)), Step(stage="input", text=said(4), context=SYSTEM)]
    )
    assert (alone.context_read, together.context_read) == (False, True)
    assert alone.by_head["attack"] != together.by_head["attack"]
