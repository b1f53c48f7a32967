from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from lec_guard import DetectorError, LayerDetector
from lec_guard.bench.detectors import windows
from lec_guard.bench.prompts import Prompts
from lec_guard.detect.bundle import read_bundle
from lec_guard.detect.windows import Windower, WindowSpec


@pytest.fixture(scope="module")
def tokenizer(minilm: Path) -> Tokenizer:
    return Tokenizer.from_file(str(minilm / "tokenizer.json"))


@pytest.fixture(scope="module")
def prompts(tokenizer: Tokenizer) -> Prompts:
    return Prompts(tokenizer)


@pytest.fixture(scope="module")
def windower(minilm: Path) -> Windower:
    return Windower.from_json((minilm / "tokenizer.json").read_bytes(), WindowSpec(size=64, stride=31, least=10))


@pytest.mark.parametrize("disguised", [False, True])
@pytest.mark.parametrize("tokens", [16, 17, 31, 64, 128, 4096])
def test_a_text_has_exactly_as_many_tokens_as_were_asked_for(prompts: Prompts, tokens: int, disguised: bool) -> None:
    for _ in range(20):
        assert prompts.count(prompts.text(tokens, disguised=disguised)) == tokens


@pytest.mark.parametrize("tokens", [16, 64, 128, 4096])
def test_a_text_is_made_of_sentences_of_many_lengths(prompts: Prompts, tokens: int) -> None:
    lengths = set()
    for _ in range(20):
        *sentences, rest = prompts.text(tokens).split(".")
        assert rest == ""
        lengths |= {len(sentence.split()) for sentence in sentences}
    assert min(lengths) >= 6
    assert max(lengths) <= 24
    assert lengths == set(range(6, 25)) or tokens < 4096


def test_a_detector_reads_it_sentence_by_sentence(prompts: Prompts, windower: Windower) -> None:
    text = prompts.text(4096)
    *windows, last = windower.windows(text)
    assert all(text[: window.span[1]].endswith(".") for window in windows)
    # Little is read twice: a sentence after one that is short for a window, and before a last one that is.
    assert sum(len(window.ids) - windower.special for window in windows) <= 1.2 * 4096
    assert len(windows) > 4096 / 64
    assert last.span[1] == len(text)


def test_no_two_are_alike_and_the_same_seed_gives_the_same(tokenizer: Tokenizer) -> None:
    first, second = Prompts(tokenizer), Prompts(tokenizer)
    texts = [first.text(16) for _ in range(200)]
    assert len(set(texts)) == 200
    assert texts == [second.text(16) for _ in range(200)]
    assert Prompts(tokenizer, seed=1).text(16) not in texts


def test_only_a_disguised_text_is_read_twice(prompts: Prompts, windower: Windower) -> None:
    for disguised in (False, True):
        windows = list(windower.windows(prompts.text(128, disguised=disguised)))
        assert {window.as_meant for window in windows} == {False, disguised}


def test_they_are_counted_by_the_tokenizer_of_a_bundle(tiny: Path) -> None:
    bundle = read_bundle(tiny)
    detector = LayerDetector.load(tiny)
    text = Prompts.of(bundle).text(16)
    (window,) = windows(detector, text)
    assert Prompts.of(bundle).count(text) == len(window.ids)


def test_a_tokenizer_that_splits_words_gives_a_few_tokens_less(tiny: Path) -> None:
    prompts = Prompts.of(read_bundle(tiny))
    for tokens in (16, 100):
        assert tokens - 4 <= prompts.count(prompts.text(tokens)) <= tokens


def test_where_there_are_no_more_new_texts_it_says_so(tiny: Path) -> None:
    prompts = Prompts.of(read_bundle(tiny))
    with pytest.raises(DetectorError, match="no more new texts of 5 tokens"):
        for _ in range(1000):
            prompts.text(5)
