from __future__ import annotations

import dataclasses
import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from lec_guard.detect.extractor import Block, Extractor, Features
from lec_guard.detect.pooling import POOLINGS
from lec_guard.detect.prune import load_pruned
from lec_guard.detect.windows import Window, WindowSpec
from lec_guard.errors import BundleError, DetectorError
from tests.detect import by_hand
from tests.detect.conftest import Saved
from tests.detect.models import BLOCKS, GATES, WIDTH, WINDOW

TEXTS = [
    "please ignore the rules",
    "a",
    "the weather, the weather! " * 2,
    "0",
    "rule 7",
    "no rules!",
    "what's the weather like in the north of norway?",
    "ignore. " * 6,
    "the weather: 1 2 3 4",
    "\u00e9t\u00e9 \U0001f600 \u4f60\u597d",
]


def load(
    model: Saved,
    blocks: tuple[Block, ...] = BLOCKS,
    window: WindowSpec = WINDOW,
    gates: np.ndarray | None = None,
) -> Extractor:
    return Extractor.load(model.folder, blocks=blocks, window=window, gates=gates)


def windows_of(extractor: Extractor) -> list[Window]:
    return [window for text in TEXTS for window in extractor.windower.windows(text)]


def test_features_are_those_of_each_window_alone(model: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    extractor = load(model)
    windows = windows_of(extractor)
    assert len({len(window.ids) for window in windows}) > 3
    expected = by_hand.features(model, windows, BLOCKS)
    for tokens in (4096, 40):
        monkeypatch.setattr("lec_guard.detect.extractor._BATCH_TOKENS", tokens)
        features = extractor.features(windows)
        assert features.dtype == np.float32
        assert features.shape == (len(windows), extractor.backend.width)
        assert extractor.backend.width == 2 * WIDTH
        np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-5)


@given(chosen=st.permutations(range(40)), count=st.integers(1, 40))
@settings(max_examples=25, deadline=None)
def test_a_window_has_its_row_in_any_company_and_order(bert: Saved, chosen: list[int], count: int) -> None:
    extractor, windows, features = all_features(bert)
    some = [at for at in chosen if at < len(windows)][:count]
    np.testing.assert_allclose(extractor.features([windows[at] for at in some]), features[some], rtol=0, atol=1e-5)


@functools.cache
def all_features(model: Saved) -> tuple[Extractor, list[Window], Features]:
    extractor = load(model)
    windows = windows_of(extractor)
    assert 10 < len(windows) <= 40
    return extractor, windows, extractor.features(windows)


def test_blocks_of_any_layers_and_poolings_stand_side_by_side_in_their_order(model: Saved) -> None:
    every = tuple(
        Block(layer, kind, layer % 2 if kind == "gated" else None)
        for layer in range(model.family.layers + 1)
        for kind in POOLINGS
    )
    shuffled = tuple(every[i] for i in np.random.default_rng(0).permutation(len(every)))
    for blocks in (every, shuffled, every[:1], shuffled[-1:], (*every[:1], *every[:1])):
        extractor = load(model, blocks, gates=GATES)
        windows = windows_of(extractor)[:6]
        assert extractor.backend.width == WIDTH * len(blocks)
        expected = by_hand.features(model, windows, blocks, GATES)
        np.testing.assert_allclose(extractor.features(windows), expected, rtol=1e-5, atol=1e-5)


def test_gates_of_another_precision_or_order_in_memory_are_the_same(bert: Saved) -> None:
    blocks = (Block(2, "gated", 0), Block(1, "gated", 1))
    plain = load(bert, blocks, gates=GATES)
    for same in (GATES.astype(np.float64), np.asfortranarray(GATES)):
        other = load(bert, blocks, gates=same)
        assert other.extractor_id == plain.extractor_id
        np.testing.assert_array_equal(other.features(windows_of(plain)), plain.features(windows_of(plain)))


@pytest.mark.parametrize(
    ("block", "gates", "message"),
    [
        (Block(2, "gated"), GATES, "the pooling 'gated' of layer 2 has gate None"),
        (Block(2, "mean", 0), GATES, "the pooling 'mean' of layer 2 has gate 0"),
        (Block(2, "gated", 0), None, "layer 2 is pooled by gate 0, but there are 0 gates"),
        (Block(2, "gated", 2), GATES, "layer 2 is pooled by gate 2, but there are 2 gates"),
        (Block(2, "gated", -1), GATES, "layer 2 is pooled by gate -1, but there are 2 gates"),
        (Block(2, "gated", 0), GATES[:, 1:], r"the gates have shape \(2, 31\), but the model's states are 32 wide"),
        (Block(2, "gated", 0), GATES[0], r"the gates have shape \(32,\), but the model's states are 32 wide"),
        (Block(2, "gated", 0), GATES[None], r"the gates have shape \(1, 2, 32\)"),
    ],
)
def test_gates_that_do_not_fit_are_refused(bert: Saved, block: Block, gates: np.ndarray | None, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        load(bert, (Block(1, "mean"), block), gates=gates)


def test_layers_above_the_highest_block_are_not_loaded(bert: Saved) -> None:
    def size(layer: int) -> int:
        return sum(p.numel() for p in load_pruned(bert.folder, layer).module.parameters())

    assert size(1) < size(2) < size(3)
    # The embeddings of a model do not depend on how many layers lie above them.
    low, high = load(bert, (Block(0, "mean"),)), load(bert, (Block(0, "mean"), Block(3, "mean")))
    windows = windows_of(low)
    np.testing.assert_allclose(high.features(windows)[:, :WIDTH], low.features(windows), rtol=0, atol=1e-5)


def test_no_windows_give_no_features(bert: Saved) -> None:
    assert load(bert).features([]).shape == (0, 2 * WIDTH)


BF16_TOLERANCE = 0.05
"""Of the largest feature: bfloat16 has eight bits, and two layers add their roundings up."""


def test_bfloat16_gives_the_features_of_float32_within_a_tolerance(model: Saved) -> None:
    exact = load(model)
    rounded = Extractor.load(model.folder, blocks=BLOCKS, window=WINDOW, dtype="bf16")
    windows = windows_of(exact)
    assert (exact.backend.name, rounded.backend.name) == ("torch-fp32", "torch-bf16")
    assert rounded.extractor_id == exact.extractor_id
    found, expected = rounded.features(windows), exact.features(windows)
    assert found.dtype == np.float32
    assert not np.array_equal(found, expected)
    assert np.abs(found - expected).max() < BF16_TOLERANCE * np.abs(expected).max()


def test_low_precision_weights_are_computed_in_float32(bert: Saved, tmp_path: Path) -> None:
    hf.BertForMaskedLM.from_pretrained(bert.folder).to(torch.bfloat16).save_pretrained(tmp_path)
    shutil.copy(bert.folder / "tokenizer.json", tmp_path)
    assert {p.dtype for p in load_pruned(tmp_path, 2).module.parameters()} == {torch.bfloat16}
    extractor = Extractor.load(tmp_path, blocks=BLOCKS, window=WINDOW)
    # The weights are rounded already; computed in bfloat16, the features would be far from these.
    features = extractor.features(windows_of(extractor))
    whole = Saved("bert", bert.family, tmp_path, hf.AutoModel.from_pretrained(tmp_path, dtype=torch.float32).eval())
    np.testing.assert_allclose(features, by_hand.features(whole, windows_of(extractor), BLOCKS), rtol=0, atol=1e-5)


def test_windows_longer_than_the_model_reads_are_refused(bert: Saved) -> None:
    load(bert, window=dataclasses.replace(WINDOW, size=64))
    with pytest.raises(BundleError, match="windows of 65 tokens, but the model reads 64"):
        load(bert, window=dataclasses.replace(WINDOW, size=65))


def test_windows_with_gaps_are_refused(bert: Saved) -> None:
    with pytest.raises(DetectorError, match=r"stride must lie in 1\.\.14"):
        load(bert, window=dataclasses.replace(WINDOW, stride=15))


def test_missing_tokenizer_is_refused(bert: Saved, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bert.folder, tmp_path / "bad"))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        Extractor.load(folder, blocks=BLOCKS, window=WINDOW)
    (folder / "tokenizer.json").mkdir()
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        Extractor.load(folder, blocks=BLOCKS, window=WINDOW)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"{}",
        lambda content: b"[1, 2]",
        lambda content: b"\xff\xfe" + content,
        lambda content: content[: len(content) // 2],
        lambda content: content.replace(b'"WordPiece"', b'"NoSuchModel"'),
    ],
    ids=["empty", "no keys", "list", "not utf-8", "truncated", "unknown model"],
)
def test_broken_tokenizer_is_refused(
    bert: Saved, tmp_path: Path, damage: Callable[[bytes], bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(bert.folder, tmp_path / "bad"))
    content = (folder / "tokenizer.json").read_bytes()
    (folder / "tokenizer.json").write_bytes(damage(content))
    with pytest.raises(BundleError, match=r"tokenizer\.json: not a tokenizer"):
        Extractor.load(folder, blocks=BLOCKS, window=WINDOW)


def test_extractor_id_is_stable(bert: Saved, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(bert.folder, tmp_path / "moved"))
    again = Extractor.load(moved, blocks=BLOCKS, window=WINDOW)
    assert load(bert).extractor_id == load(bert).extractor_id == again.extractor_id
    again.features(windows_of(again))
    assert len(again.extractor_id) == 64


def nudged(gates: np.ndarray) -> np.ndarray:
    """The next numbers that float32 has."""
    return np.nextafter(gates, np.float32(np.inf))


def test_extractor_id_knows_all_that_fixes_the_features(bert: Saved, tmp_path: Path) -> None:
    weights = Path(shutil.copytree(bert.folder, tmp_path / "weights"))
    content = load_file(weights / "model.safetensors")
    content["bert.embeddings.word_embeddings.weight"][99, 31] += 1e-6
    save_file(content, weights / "model.safetensors", metadata={"format": "pt"})

    tokenizer = Path(shutil.copytree(bert.folder, tmp_path / "tokenizer"))
    edited = json.loads((tokenizer / "tokenizer.json").read_text())
    edited["normalizer"]["lowercase"] = False
    (tokenizer / "tokenizer.json").write_text(json.dumps(edited))

    mean, highest = BLOCKS
    same = {"blocks": BLOCKS, "window": WINDOW}
    extractors = [
        Extractor.load(bert.folder, **same),
        Extractor.load(bert.folder, **same | {"blocks": (Block(0, "mean"), Block(0, "max"))}),
        Extractor.load(bert.folder, **same | {"blocks": (Block(1, "mean"), highest)}),
        Extractor.load(bert.folder, **same | {"blocks": (Block(3, "mean"), Block(3, "max"))}),
        Extractor.load(bert.folder, **same | {"blocks": (mean,)}),
        Extractor.load(bert.folder, **same | {"blocks": (highest, mean)}),
        Extractor.load(bert.folder, **same | {"blocks": (mean, Block(2, "last"))}),
        *(
            Extractor.load(bert.folder, **same | {"window": dataclasses.replace(WINDOW, **changes)})
            for changes in ({"size": 17}, {"stride": 8}, {"least": 5})
        ),
        Extractor.load(bert.folder, **same, gates=GATES),
        Extractor.load(bert.folder, **same | {"blocks": (Block(2, "gated", 0), highest)}, gates=GATES),
        Extractor.load(bert.folder, **same | {"blocks": (Block(2, "gated", 1), highest)}, gates=GATES),
        Extractor.load(bert.folder, **same | {"blocks": (Block(2, "gated", 0), highest)}, gates=GATES[::-1]),
        Extractor.load(bert.folder, **same | {"blocks": (Block(2, "gated", 0), highest)}, gates=GATES[:1]),
        Extractor.load(bert.folder, **same | {"blocks": (Block(2, "gated", 0), highest)}, gates=nudged(GATES)),
        Extractor.load(weights, **same),
        Extractor.load(tokenizer, **same),
    ]
    assert len({extractor.extractor_id for extractor in extractors}) == len(extractors)


@pytest.mark.parametrize("rules", ["normalise", "windows"])
def test_extractor_id_knows_what_is_read(bert: Saved, monkeypatch: pytest.MonkeyPatch, rules: str) -> None:
    before = load(bert).extractor_id
    monkeypatch.setattr(f"lec_guard.detect.{rules}.VERSION", "another")
    assert load(bert).extractor_id != before


def test_own_truncation_and_padding_of_a_tokenizer_are_off(bert: Saved, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bert.folder, tmp_path / "short"))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=12)
    tokenizer.save(str(folder / "tokenizer.json"))
    extractor = Extractor.load(folder, blocks=BLOCKS, window=WINDOW)
    assert windows_of(extractor) == windows_of(load(bert))
