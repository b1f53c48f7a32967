"""Texts that are there already, word for word or almost."""

from __future__ import annotations

import random

import pytest

from lec_guard.train.harmaug.near import Texts, normalised, shingles

KNOWN = "How could somebody carry the old piano out of the museum without being seen by the guards?"


def texts(near: float = 0.5) -> Texts:
    found = Texts(near)
    found.add(KNOWN, "data")
    return found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (KNOWN.upper().replace("?", "!!"), ("equal", "data")),
        (KNOWN.replace("How", "\uff28\uff4f\uff57").replace(" ", "\u00a0\n"), ("equal", "data")),
        (KNOWN.replace("old", "new"), ("near", "data")),
        ("Tell me: " + KNOWN, ("near", "data")),
        ("How could somebody carry a sofa into the house without help from the neighbours next door?", None),
        ("Piano music for a quiet evening", None),
    ],
)
def test_case_marks_and_spaces_make_no_other_text_and_a_word_not_much_of_one(text, found):
    assert texts().find(text) == found


def test_without_a_share_only_equal_texts_are_found():
    assert texts(1.0).find(KNOWN.replace("old", "new")) is None
    assert texts(1.0).find(KNOWN.lower()) == ("equal", "data")


def test_the_first_of_equal_texts_counts():
    found = texts()
    found.add(KNOWN.lower(), "made")
    assert found.find(KNOWN) == ("equal", "data")


def test_a_twin_may_be_near_to_its_own_text_but_to_no_other_and_never_equal():
    found = texts()
    twin = KNOWN.replace("seen by the guards", "a guard")
    assert found.find(twin) == ("near", "data")
    assert found.find(twin, twin_of=KNOWN) is None
    assert found.find(KNOWN.lower(), twin_of=KNOWN) == ("equal", "data")
    found.add(KNOWN.replace("How", "Where"), "made")
    assert found.find(twin, twin_of=KNOWN) == ("near", "made")


@pytest.mark.parametrize(
    ("one", "other"),
    [("窃取博物馆里的旧钢琴而不被发现的办法", "窃取博物馆里的旧钢琴而不被察觉的办法"), ("steal it", "steal it all")],
)
def test_texts_without_many_words_are_compared_by_characters(one, other):
    found = Texts(0.4)
    found.add(one, "made")
    assert found.find(other) == ("near", "made")
    assert found.find("something else") is None


def test_what_has_no_word_is_compared_as_it_is():
    found = Texts(0.5)
    found.add("?!", "made")
    assert found.find("?!") == ("equal", "made")
    assert found.find("...") is None


@pytest.mark.parametrize("near", [0.3, 0.5, 0.8, 0.9])
def test_it_finds_what_comparing_each_with_each_finds(near):
    numbers = random.Random(4)
    words = [f"word{at}" for at in range(12)]
    shared = [" ".join(numbers.choices(words, k=9)) for _ in range(5)]
    made = [" ".join(numbers.choices(words, k=numbers.randint(4, 9))) for _ in range(300)]
    made += [f"{numbers.choice(shared)} {numbers.choice(words)} {numbers.choice(words)}" for _ in range(100)]
    found, kept = Texts(near), []
    for text in made:
        own = shingles(normalised(text))
        alike = any(len(own & other) >= near * len(own | other) for other in map(shingles, kept))
        assert (found.find(text) is not None) == alike
        if not alike:
            found.add(text, "made")
            kept.append(text)
    assert 20 < len(kept) < 400
