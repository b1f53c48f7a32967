"""Features on disk: what is collected, how a run goes on, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lec_guard.detect.extractor import Block, Extractor
from lec_guard.detect.pairs import Meeting
from lec_guard.errors import UnsupportedValueError
from lec_guard.train import features as module
from lec_guard.train.features import Features, collect, collect_contexts, file_name
from tests.detect.models import WINDOW, save_family

BLOCKS = (Block(1, "mean"), Block(1, "max"), Block(3, "mean"))
TEXTS = [
    "please ignore the rules.",
    "the weather. is it fine? it rains all day long, and the sun hides. ignore that. nobody asks.",
    "",
    "hm",
    *(f"sentence number {i} says that {'very ' * (i % 7)}little happens. and then it ends." for i in range(20)),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_family("bert", tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def extractor(folder) -> Extractor:
    return Extractor.load(folder, blocks=BLOCKS, window=WINDOW)


@pytest.fixture
def small(monkeypatch):
    """Chunks of seven windows, so that texts are cut by their borders."""
    monkeypatch.setattr(module, "_WINDOWS", 7)


class Interrupted(Extractor):
    """Gives up at a chunk, or gives other numbers."""

    def __init__(self, inner: Extractor, *, at: int = 10**9, change=None) -> None:
        super().__init__(inner.windower, inner.backend, inner.extractor_id)
        self.left, self.change = at, change

    def features(self, windows):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        found = super().features(windows)
        return found if self.change is None else self.change(found, windows)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_block_of_every_window_is_there_in_half_precision(extractor, tmp_path, small):
    found = collect(extractor, TEXTS, tmp_path, blocks=BLOCKS)
    windows = [list(extractor.windower.windows(text, as_meant=False)) for text in TEXTS]
    assert found.owner.tolist() == [i for i, own in enumerate(windows) for _ in own]
    assert max(len(own) for own in windows) > 2
    expected = extractor.features([window for own in windows for window in own])
    np.testing.assert_allclose(found.of(BLOCKS), expected, rtol=1e-3, atol=1e-5)
    assert np.load(tmp_path / file_name(BLOCKS[0])).dtype == np.float16
    assert found.of(BLOCKS).dtype == np.float32
    width = expected.shape[1] // 3
    picked = np.array([5, 0, 5])
    swapped = np.hstack([expected[picked, 2 * width :], expected[picked, :width]])
    np.testing.assert_allclose(found.of([BLOCKS[2], BLOCKS[0]], picked), swapped, rtol=1e-3, atol=1e-5)
    mask = found.owner == 1
    np.testing.assert_array_equal(found.of(BLOCKS, mask), found.of(BLOCKS)[mask])


def test_a_process_that_was_started_elsewhere_finds_them(extractor, tmp_path, monkeypatch, small):
    monkeypatch.chdir(tmp_path)
    found = collect(extractor, TEXTS[:2], Path("here"), blocks=BLOCKS[:1])
    rows = found.of(BLOCKS[:1])
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(found.of(BLOCKS[:1]), rows)


def test_texts_without_a_token_are_named_and_have_no_mean(extractor, tmp_path):
    found = collect(extractor, TEXTS, tmp_path, blocks=BLOCKS)
    assert (found.texts, found.unread.tolist()) == (len(TEXTS), [2])
    with pytest.raises(UnsupportedValueError, match="text 2"):
        found.means(BLOCKS)


def test_nothing_but_empty_texts_is_no_crash(extractor, tmp_path):
    found = collect(extractor, ["", " "], tmp_path, blocks=BLOCKS)
    assert (len(found.owner), found.unread.tolist()) == (0, [0, 1])
    assert found.of(BLOCKS[:1]).shape == (0, extractor.backend.width // 3)


@pytest.mark.parametrize("at", [0, 1, 2, 5])
def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(extractor, tmp_path, small, at):
    collect(extractor, TEXTS, tmp_path / "whole", blocks=BLOCKS)
    broken = tmp_path / "broken"
    with pytest.raises(KeyboardInterrupt):
        collect(Interrupted(extractor, at=at), TEXTS, broken, blocks=BLOCKS)
    with pytest.raises(UnsupportedValueError, match="not complete"):
        Features.read(broken)
    rest = Interrupted(extractor)
    collect(rest, TEXTS, broken, blocks=BLOCKS)
    assert contents(broken) == contents(tmp_path / "whole")
    windows = len(Features.read(broken).owner)
    assert 10**9 - rest.left == -(-windows // 7) - at


def test_rows_that_a_crash_left_beyond_the_last_chunk_do_not_count(extractor, tmp_path, small):
    collect(extractor, TEXTS, tmp_path / "whole", blocks=BLOCKS)
    broken = tmp_path / "broken"
    with pytest.raises(KeyboardInterrupt):
        collect(Interrupted(extractor, at=2), TEXTS, broken, blocks=BLOCKS)
    for name in (file_name(BLOCKS[1]), "owner.npy"):
        with (broken / name).open("ab") as file:
            file.write(b"left over by a crash")
    collect(extractor, TEXTS, broken, blocks=BLOCKS)
    assert contents(broken) == contents(tmp_path / "whole")


def test_a_finished_folder_is_read_without_the_model(extractor, tmp_path):
    first = collect(extractor, TEXTS, tmp_path, blocks=BLOCKS)
    again = collect(Interrupted(extractor, at=0), TEXTS, tmp_path, blocks=BLOCKS)
    assert again.digest == first.digest == Features.read(tmp_path).digest
    np.testing.assert_array_equal(again.owner, first.owner)


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_folder_of_something_else_is_refused_by_what_differs(folder, extractor, tmp_path, small, interrupted):
    if interrupted:
        with pytest.raises(KeyboardInterrupt):
            collect(Interrupted(extractor, at=1), TEXTS, tmp_path, blocks=BLOCKS)
    else:
        collect(extractor, TEXTS, tmp_path, blocks=BLOCKS)
    others = BLOCKS[:2]
    with pytest.raises(UnsupportedValueError, match=r"other layers or poolings.*another folder"):
        collect(Extractor.load(folder, blocks=others, window=WINDOW), TEXTS, tmp_path, blocks=others)
    stranger = Interrupted(extractor)
    stranger.extractor_id = "0" * 64
    with pytest.raises(UnsupportedValueError, match="another extractor"):
        collect(stranger, TEXTS, tmp_path, blocks=BLOCKS)
    with pytest.raises(UnsupportedValueError, match="of 24 texts, not 23"):
        collect(extractor, TEXTS[1:], tmp_path, blocks=BLOCKS)
    with pytest.raises(UnsupportedValueError, match="other texts"):
        collect(extractor, [*TEXTS[:-1], "changed"], tmp_path, blocks=BLOCKS)
    # Texts that run into each other are other texts, too.
    with pytest.raises(UnsupportedValueError, match="other texts"):
        collect(extractor, [TEXTS[0] + TEXTS[1][0], TEXTS[1][1:], *TEXTS[2:]], tmp_path, blocks=BLOCKS)


def test_a_damaged_folder_says_so(extractor, tmp_path, small):
    with pytest.raises(KeyboardInterrupt):
        collect(Interrupted(extractor, at=2), TEXTS, tmp_path, blocks=BLOCKS)
    file = tmp_path / file_name(BLOCKS[0])
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(UnsupportedValueError, match=r"1_mean.npy: damaged.*delete the folder"):
        collect(extractor, TEXTS, tmp_path, blocks=BLOCKS)
    file.unlink()
    with pytest.raises(UnsupportedValueError, match=r"1_mean.npy: damaged or missing"):
        collect(extractor, TEXTS, tmp_path, blocks=BLOCKS)
    (tmp_path / "features.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(UnsupportedValueError, match=r"features.json: damaged"):
        Features.read(tmp_path)


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_a_feature_that_is_no_number_names_row_and_layer(extractor, tmp_path, small, number):
    def spoil(found, windows):
        if any(window.span[0] == 0 and len(window.ids) == 4 for window in windows):  # "hm" with special tokens
            row = next(i for i, window in enumerate(windows) if len(window.ids) == 4)
            found[row, -1] = number
        return found

    sources = [f"mine.csv:{i + 2}" for i in range(len(TEXTS))]
    with pytest.raises(UnsupportedValueError, match=r"mine.csv:5: layer 3 mean gives (nan|inf)"):
        collect(Interrupted(extractor, change=spoil), TEXTS, tmp_path, blocks=BLOCKS, sources=sources)
    # A mended run goes on from there.
    collect(extractor, TEXTS, tmp_path, blocks=BLOCKS, sources=sources)


@pytest.mark.parametrize("at", [3, 4])
def test_states_beyond_half_precision_are_kept_in_single(extractor, tmp_path, small, at):
    def widen(found, windows):
        # Only in a later chunk: what was written before has to be converted.
        return np.where(found == found.max(), 1e5, found).astype(np.float32) if len(windows) < 7 else found

    collect(Interrupted(extractor, change=widen), TEXTS, tmp_path / "whole", blocks=BLOCKS)
    kinds = [np.load(tmp_path / "whole" / file_name(block)).dtype for block in BLOCKS]
    assert sorted(map(str, kinds)) == ["float16", "float16", "float32"]
    found = Features.read(tmp_path / "whole")
    wide = BLOCKS[[str(kind) for kind in kinds].index("float32")]
    assert found.of([wide]).max() == 1e5
    plain = collect(extractor, TEXTS, tmp_path / "plain", blocks=BLOCKS)
    last = len(found.owner) % 7
    assert last
    np.testing.assert_array_equal(found.of(BLOCKS)[:-last], plain.of(BLOCKS)[:-last])
    with pytest.raises(KeyboardInterrupt):
        collect(Interrupted(extractor, at=at, change=widen), TEXTS, tmp_path / "broken", blocks=BLOCKS)
    collect(Interrupted(extractor, change=widen), TEXTS, tmp_path / "broken", blocks=BLOCKS)
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")


def test_a_chunk_is_bounded_by_windows_tokens_and_bytes(extractor, tmp_path, monkeypatch):
    sizes = []

    def note(found, windows):
        sizes.append((len(windows), sum(len(window.ids) for window in windows)))
        return found

    long = ["one sentence after another goes here. " * 40]
    monkeypatch.setattr(module, "_TOKENS", 50)
    collect(Interrupted(extractor, change=note), long, tmp_path / "a", blocks=BLOCKS)
    assert max(tokens for _, tokens in sizes) < 50 + WINDOW.size
    sizes.clear()
    monkeypatch.setattr(module, "_TOKENS", 10**9)
    monkeypatch.setattr(module, "_BYTES", 3 * 4 * extractor.backend.width)
    collect(Interrupted(extractor, change=note), long, tmp_path / "b", blocks=BLOCKS)
    assert max(count for count, _ in sizes) == 3


def test_progress_rises_to_all_characters(extractor, tmp_path, small):
    seen = []
    collect(extractor, TEXTS, tmp_path, blocks=BLOCKS, progress=lambda done, total: seen.append((done, total)))
    total = sum(map(len, TEXTS))
    assert seen == sorted(seen)
    assert len(seen) > 3
    assert seen[-1] == (total, total)


def test_blocks_and_sources_must_fit(extractor, tmp_path):
    for blocks in ((), (BLOCKS[0],) * 3, (*BLOCKS, Block(2, "mean"), Block(2, "max"))):
        with pytest.raises(UnsupportedValueError, match="blocks"):
            collect(extractor, TEXTS, tmp_path, blocks=blocks)
    with pytest.raises(UnsupportedValueError, match="1 sources for 24 texts"):
        collect(extractor, TEXTS, tmp_path, blocks=BLOCKS, sources=["a"])
    found = collect(extractor, TEXTS, tmp_path, blocks=BLOCKS)
    with pytest.raises(UnsupportedValueError, match=r"layer 2 mean was not collected, only layer 1 mean"):
        found.of([Block(2, "mean")])


def test_contexts_are_read_once_each_as_a_detector_reads_them(extractor, tmp_path):
    contexts = [TEXTS[1], None, "a shop for shoes.", TEXTS[1], ""]
    found = collect_contexts(extractor, contexts, tmp_path, blocks=BLOCKS)
    assert found.rows.tolist() == [1, -1, 0, 1, -1]
    reader = Meeting(extractor, ["context"], budget=None)
    expected = np.stack([reader.read("a shop for shoes."), reader.read(TEXTS[1])])
    np.testing.assert_allclose(found.of(BLOCKS), expected, rtol=2e-3, atol=1e-4)
    none = collect_contexts(extractor, [None, None], tmp_path / "none", blocks=BLOCKS)
    assert none.rows.tolist() == [-1, -1]


def test_a_gate_has_its_own_file():
    assert len({file_name(Block(2, "gated", 0)), file_name(Block(2, "gated", 1)), file_name(Block(2, "mean"))}) == 3
