from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from lec_guard.errors import UnsupportedValueError
from lec_guard.train.lessons import Lesson, check_lessons, check_seen, digest, hold_out
from tests.train.lessons import BINARY, SAFETY, TOPIC, either, example, lesson


def test_classes_count_alike_and_families_by_the_root_of_their_size() -> None:
    examples = [example(f"a {at}", 0, "large") for at in range(16)] + [
        example(f"b {at}", 0, "small") for at in range(4)
    ]
    examples += [example("c", 1, "attacks"), example("d", 1, "attacks", weight=3.0)]
    chances = lesson(examples).chances()
    assert chances.sum() == pytest.approx(1)
    large, small = chances[:16].sum(), chances[16:20].sum()
    assert large / small == pytest.approx(2)
    assert chances[21] / chances[20] == pytest.approx(3)
    plain = lesson(examples[:21]).chances()
    assert plain[:20].sum() == pytest.approx(0.5)


def test_labels_count_alike_where_they_are_classes_and_sides_where_they_are_levels() -> None:
    examples = [example(f"a {at}", at % 3, f"f{at % 3}") for at in range(30)]
    topic, safety = lesson(examples, TOPIC), lesson(examples, SAFETY)
    label = np.arange(30) % 3
    assert [topic.chances()[label == n].sum() for n in range(3)] == pytest.approx([1 / 3] * 3)
    assert safety.chances()[label == 0].sum() == pytest.approx(0.5)


def test_a_text_that_only_a_teacher_knows_is_on_its_side() -> None:
    own = lesson([example("a", None, "f", soft=0.5), example("b", None, "f", soft=0.4), example("c", 0, "f", soft=0.9)])
    assert own.sides.tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"text": " \n"}, "empty"),
        ({"label": None}, "neither a label nor"),
        ({"label": 2}, "the label 2 is none of 0..1"),
        ({"label": -1}, "the label -1"),
        ({"soft": 1.01}, "no probability"),
        ({"soft": -0.1}, "no probability"),
        ({"soft": float("nan")}, "no probability"),
        ({"weight": 0.0}, "weight"),
        ({"weight": float("inf")}, "weight"),
        ({"weight": float("nan")}, "weight"),
        ({"family": ""}, "no family"),
    ],
)
def test_what_says_nothing_is_refused_by_its_place(changes: dict[str, object], word: str) -> None:
    examples = either(8)
    examples[5] = dataclasses.replace(examples[5], **changes)
    with pytest.raises(UnsupportedValueError, match=rf"the lesson 'mine', example 5: .*{word}") as caught:
        check_lessons([lesson(examples)])
    assert "weather" not in str(caught.value)


def test_lessons_of_one_head_and_none_at_all_are_refused() -> None:
    with pytest.raises(UnsupportedValueError, match="no lessons"):
        check_lessons([])
    with pytest.raises(UnsupportedValueError, match="two lessons are of one head"):
        check_lessons([lesson(), lesson()])


def test_lessons_without_a_side_or_class_are_refused() -> None:
    good = [one for one in either(40) if not one.label]
    for examples, word in ((good, "no harmful text"), ([one for one in either(40) if one.label], "no harmless text")):
        with pytest.raises(UnsupportedValueError, match=word):
            check_seen([lesson(examples)])
    with pytest.raises(UnsupportedValueError, match="no text of 'rules'"):
        check_seen([lesson(either(40), TOPIC)])
    check_seen([lesson(either(40), SAFETY)])


def test_about_a_quarter_of_each_class_is_held_out_by_family() -> None:
    lessons = [lesson(either(400)), lesson(either(400, seed=1), SAFETY)]
    held = hold_out(lessons)
    assert held == hold_out(lessons)
    for own in lessons:
        for side in (0, 1):
            of_side = [one for one in own.examples if one.label == side]
            share = np.mean([one.family in held for one in of_side])
            assert 0.15 < share < 0.35
        assert not {one.family for one in own.without(held).examples} & held
        assert {one.family for one in own.only(held).examples} <= held
        assert len(own.without(held).examples) + len(own.only(held).examples) == len(own.examples)


@pytest.mark.parametrize(
    ("examples", "word"),
    [
        ([example(f"a {at}", at % 2, "one") for at in range(20)], "are of one family"),
        ([example(f"a {at}", at % 2, "bad" if at % 2 else f"good {at}") for at in range(20)], "'bad' of 'mine'"),
        ([example(f"a {at}", 1, f"f {at}") for at in range(20)], None),
    ],
    ids=["one", "one of a side", "one side"],
)
def test_one_family_can_not_be_held_out(examples: list[object], word: str | None) -> None:
    if word is None:  # this is for `check_seen` to say
        assert hold_out([Lesson(head=BINARY, examples=examples)])
        return
    with pytest.raises(UnsupportedValueError, match=word):
        hold_out([Lesson(head=BINARY, examples=examples)])


def test_the_hash_knows_all_that_lessons_say() -> None:
    own = either(8)
    changed = [
        [dataclasses.replace(own[0], **changes), *own[1:]]
        for changes in ({"text": "x"}, {"label": None}, {"soft": 0.2}, {"family": "x"}, {"group": "x"}, {"weight": 2.0})
    ]
    assert len({digest([lesson(examples)]) for examples in [own, own[1:], *changed]}) == 8
    assert digest([lesson(own)]) == digest([lesson(list(own))])
