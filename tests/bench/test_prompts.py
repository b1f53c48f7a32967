from __future__ import annotations

from pathlib import Path

import pytest

from lec_guard import DetectorError, LayerDetector
from lec_guard.bench.detectors import step, windows
from lec_guard.bench.prompts import Prompts
from lec_guard.detect.bundle import EMBEDDED, read_bundle


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    return Prompts.of(read_bundle(EMBEDDED))


@pytest.mark.parametrize("disguised", [False, True])
@pytest.mark.parametrize("tokens", [16, 17, 128, 4096])
def test_a_text_has_exactly_as_many_tokens_as_were_asked_for(prompts: Prompts, tokens: int, disguised: bool) -> None:
    assert prompts.count(prompts.text(tokens, disguised=disguised)) == tokens


def test_tokens_are_those_that_the_detector_reads(prompts: Prompts, embedded: LayerDetector) -> None:
    (window,) = windows(embedded, prompts.text(100))
    assert len(window.ids) == 100


def test_no_two_are_alike_and_the_same_seed_gives_the_same() -> None:
    bundle = read_bundle(EMBEDDED)
    first, second = Prompts.of(bundle), Prompts.of(bundle)
    texts = [first.text(16) for _ in range(200)]
    assert len(set(texts)) == 200
    assert texts == [second.text(16) for _ in range(200)]
    assert Prompts.of(bundle, seed=1).text(16) not in texts


def test_only_a_disguised_text_is_read_twice(prompts: Prompts, embedded: LayerDetector) -> None:
    plain, disguised = embedded.score([step(prompts.text(128)), step(prompts.text(128, disguised=True))])
    assert (plain.windows, disguised.windows) == (1, 2)


def test_a_tokenizer_that_splits_words_gives_a_few_tokens_less(tiny: Path) -> None:
    prompts = Prompts.of(read_bundle(tiny))
    for tokens in (16, 100):
        assert tokens - 4 <= prompts.count(prompts.text(tokens)) <= tokens


def test_where_there_are_no_more_new_texts_it_says_so(tiny: Path) -> None:
    prompts = Prompts.of(read_bundle(tiny))
    with pytest.raises(DetectorError, match="no more new texts of 5 tokens"):
        for _ in range(1000):
            prompts.text(5)
