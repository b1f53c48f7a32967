"""Label values never grow without bound."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from lec_guard.observe.labels import Labels


def test_the_first_keep_their_names_and_all_later_ones_are_other():
    labels = Labels(2)
    assert [labels.of(name) for name in ("a", "b", "c", "a", "d", "b")] == ["a", "b", "other", "a", "other", "b"]


def test_none_is_empty_and_takes_no_room():
    labels = Labels(1)
    assert [labels.of(name) for name in (None, "a", None, "b")] == ["", "a", "", "other"]


def test_named_values_keep_their_names_whatever_came_before():
    labels = Labels(["acme"])
    assert [labels.of(name) for name in ("x", "acme")] == ["other", "acme"]


def test_a_value_is_harmless_and_short():
    assert Labels(1).of("\ud800" + "x" * 500) == "\\ud800" + "x" * 99


def test_many_threads_do_not_make_more_room():
    labels = Labels(10)
    with ThreadPoolExecutor(16) as pool:
        found = set(pool.map(labels.of, [str(number % 200) for number in range(5000)]))
    assert len(found) == 11
    assert "other" in found
