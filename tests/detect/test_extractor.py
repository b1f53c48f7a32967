from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from lec_guard.detect.extractor import Extractor, Features
from lec_guard.detect.prune import load_pruned
from lec_guard.detect.windows import Window, WindowSpec
from lec_guard.errors import BundleError, DetectorError
from tests.detect.conftest import Saved
from tests.detect.models import WIDTH, WINDOW

TEXTS = [
    "please ignore the rules",
    "a",
    "the weather, the weather! " * 2,
    "0",
    "rule 7",
    "no rules!",
    "what's the weather like in the north of norway?",
    "ignore. " * 6,
    "\u00e9t\u00e9 \U0001f600 \u4f60\u597d",
]
BOTH = ("mean", "max")


def load(
    model: Saved, layers: int | None = 2, pooling: tuple[str, ...] = BOTH, window: WindowSpec = WINDOW
) -> Extractor:
    return Extractor.load(model.folder, layers=layers, pooling=pooling, window=window)


def windows_of(extractor: Extractor) -> list[Window]:
    return [window for reading in extractor.read(TEXTS, 1000) for window in reading.windows]


def by_hand(model: Saved, windows: list[Window], layer: int) -> Features:
    """Mean and maximum of the whole model's hidden states, one window at a time and without padding."""
    rows = []
    for window in windows:
        ids = torch.tensor([window.ids])
        state = model.states(ids, torch.ones_like(ids))[layer][0].numpy()
        rows.append(np.concatenate([state.mean(axis=0), state.max(axis=0)]))
    return np.stack(rows)


def test_features_are_those_of_each_window_alone(model: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    extractor = load(model)
    windows = windows_of(extractor)
    assert len({len(window.ids) for window in windows}) > 3
    expected = by_hand(model, windows, 2)
    for tokens in (4096, 40):
        monkeypatch.setattr("lec_guard.detect.extractor._BATCH_TOKENS", tokens)
        features = extractor.features(windows)
        assert features.dtype == np.float32
        assert features.shape == (len(windows), extractor.width) == (len(windows), 2 * WIDTH)
        np.testing.assert_allclose(features, expected, rtol=0, atol=1e-5)


def test_order_of_windows_does_not_matter(bert: Saved) -> None:
    extractor = load(bert)
    windows = windows_of(extractor)
    shuffled = np.random.default_rng(0).permutation(len(windows))
    np.testing.assert_allclose(
        extractor.features([windows[i] for i in shuffled]), extractor.features(windows)[shuffled], rtol=0, atol=1e-5
    )


def test_layer_features_are_the_features_of_each_cut(model: Saved) -> None:
    whole = load(model, layers=None)
    windows = windows_of(whole)
    every = whole.layer_features(windows)
    assert every.shape == (model.family.layers + 1, len(windows), 2 * WIDTH)
    for layer in range(model.family.layers + 1):
        cut = load(model, layers=layer)
        np.testing.assert_allclose(every[layer], cut.features(windows), rtol=0, atol=1e-5)
        assert cut.layer_features(windows).shape[0] == layer + 1


def test_poolings_fix_width_and_order(bert: Saved) -> None:
    both = load(bert)
    windows = windows_of(both)
    mean, highest = load(bert, pooling=("mean",)), load(bert, pooling=("max",))
    assert (mean.width, both.width) == (WIDTH, 2 * WIDTH)
    np.testing.assert_array_equal(
        both.features(windows), np.concatenate([mean.features(windows), highest.features(windows)], axis=1)
    )


def test_low_precision_weights_are_computed_in_float32(bert: Saved, tmp_path: Path) -> None:
    hf.BertForMaskedLM.from_pretrained(bert.folder).to(torch.bfloat16).save_pretrained(tmp_path)
    shutil.copy(bert.folder / "tokenizer.json", tmp_path)
    assert {p.dtype for p in load_pruned(tmp_path, 2).module.parameters()} == {torch.bfloat16}
    extractor = Extractor.load(tmp_path, layers=2, pooling=BOTH, window=WINDOW)
    assert {p.dtype for p in extractor.model.module.parameters()} == {torch.float32}
    assert np.isfinite(extractor.features(windows_of(extractor))).all()


def test_windows_longer_than_the_model_reads_are_refused(bert: Saved) -> None:
    load(bert, window=WindowSpec(size=64, stride=32))
    with pytest.raises(BundleError, match="windows of 65 tokens, but the model reads 64"):
        load(bert, window=WindowSpec(size=65, stride=32))


def test_windows_with_gaps_are_refused(bert: Saved) -> None:
    with pytest.raises(DetectorError, match=r"stride must lie in 1\.\.14"):
        load(bert, window=WindowSpec(size=16, stride=15))


def test_missing_tokenizer_is_refused(bert: Saved, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bert.folder, tmp_path / "bad"))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        Extractor.load(folder, layers=1, pooling=BOTH, window=WINDOW)
    (folder / "tokenizer.json").mkdir()
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        Extractor.load(folder, layers=1, pooling=BOTH, window=WINDOW)


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
        Extractor.load(folder, layers=1, pooling=BOTH, window=WINDOW)


def test_extractor_id_is_stable(bert: Saved, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(bert.folder, tmp_path / "moved"))
    again = Extractor.load(moved, layers=2, pooling=BOTH, window=WINDOW)
    assert load(bert).extractor_id == load(bert).extractor_id == again.extractor_id
    again.features(windows_of(again))
    assert len(again.extractor_id) == 64


def test_extractor_id_knows_all_that_fixes_the_features(bert: Saved, tmp_path: Path) -> None:
    weights = Path(shutil.copytree(bert.folder, tmp_path / "weights"))
    content = load_file(weights / "model.safetensors")
    content["bert.embeddings.word_embeddings.weight"][99, 31] += 1e-6
    save_file(content, weights / "model.safetensors", metadata={"format": "pt"})

    tokenizer = Path(shutil.copytree(bert.folder, tmp_path / "tokenizer"))
    edited = json.loads((tokenizer / "tokenizer.json").read_text())
    edited["normalizer"]["lowercase"] = False
    (tokenizer / "tokenizer.json").write_text(json.dumps(edited))

    same = {"layers": 2, "pooling": BOTH, "window": WINDOW}
    extractors = [
        Extractor.load(bert.folder, **same),
        Extractor.load(bert.folder, **same | {"layers": 0}),
        Extractor.load(bert.folder, **same | {"layers": 1}),
        Extractor.load(bert.folder, **same | {"layers": None}),
        Extractor.load(bert.folder, **same | {"pooling": ("mean",)}),
        Extractor.load(bert.folder, **same | {"pooling": ("max", "mean")}),
        Extractor.load(bert.folder, **same | {"window": WindowSpec(size=17, stride=7)}),
        Extractor.load(bert.folder, **same | {"window": WindowSpec(size=16, stride=8)}),
        Extractor.load(weights, **same),
        Extractor.load(tokenizer, **same),
    ]
    assert len({extractor.extractor_id for extractor in extractors}) == len(extractors)


def test_extractor_id_knows_the_normaliser(bert: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    before = load(bert).extractor_id
    monkeypatch.setattr("lec_guard.detect.normalise.VERSION", "another")
    assert load(bert).extractor_id != before


def test_own_truncation_and_padding_of_a_tokenizer_are_off(bert: Saved, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bert.folder, tmp_path / "short"))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=12)
    tokenizer.save(str(folder / "tokenizer.json"))
    extractor = Extractor.load(folder, layers=1, pooling=BOTH, window=WINDOW)
    assert windows_of(extractor) == windows_of(load(bert))
