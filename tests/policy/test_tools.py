"""Patterns of tools' names."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lec_guard.policy import tools
from lec_guard.policy.tools import TooMany, compiled, ways

NAMES = ["".join(letters) for n in range(8) for letters in itertools.product("ab", repeat=n)]

_GLOBS = st.lists(st.text("ab*?", min_size=1, max_size=4), max_size=5, unique=True).map(tuple)


def fits(glob: str, name: str) -> bool:
    return compiled(glob).match(name) is not None


@pytest.mark.parametrize(
    ("glob", "name", "expected"),
    [
        ("send", "send", True),
        ("send", "send_mail", False),
        ("send", "resend", False),
        ("send", "Send", False),
        ("send_*", "send_", True),
        ("send_*", "send_a\nb", True),
        ("*_mail", "send_mail\n", False),
        ("s?nd", "sand", True),
        ("s?nd", "snd", False),
        ("a[b]", "a[b]", True),
        ("a[b]", "ab", False),
        ("[!a]", "b", False),
        ("a.b", "axb", False),
        ("*", "", True),
    ],
)
def test_a_star_stands_for_any_characters_a_question_mark_for_one_and_all_else_for_itself(glob, name, expected):
    assert fits(glob, name) is expected


def test_no_name_hangs_a_pattern():
    began = time.perf_counter()
    assert not fits("*a" * 90 + "b", "a" * 20_000)
    assert time.perf_counter() - began < 5  # With backtracking: longer than anybody waits.


@settings(max_examples=300, deadline=None)
@given(_GLOBS)
def test_every_name_fits_patterns_in_a_way_that_is_listed(globs):
    listed = ways(globs)
    assert listed[0] == frozenset()
    assert len(set(listed)) == len(listed)
    for name in NAMES:
        assert frozenset(glob for glob in globs if fits(glob, name)) in listed


@settings(max_examples=300, deadline=None)
@given(st.text("ab*?", min_size=1, max_size=3), st.text("ab*?", min_size=1, max_size=3))
def test_of_two_patterns_only_ways_in_which_a_name_fits_are_listed(one, other):
    globs = tuple(dict.fromkeys((one, other)))
    there = {frozenset(glob for glob in globs if fits(glob, name)) for name in [*NAMES, "c", "ccc", "cccccccc"]}
    impossible = set(ways(globs)) - there
    # That `**` is no more than `*` is hard to tell; then a way is listed that no name takes, and costs a little.
    assert all(len(way) < 2 for way in impossible)


def test_patterns_that_exclude_each_other_are_no_way():
    assert set(ways(("db_*", "mail_*"))) == {frozenset(), frozenset({"db_*"}), frozenset({"mail_*"})}
    assert set(ways(("db_*", "*_write", "db_drop"))) == {
        frozenset(),
        frozenset({"db_*"}),
        frozenset({"*_write"}),
        frozenset({"db_*", "*_write"}),
        frozenset({"db_*", "db_drop"}),
    }
    assert set(ways(("*", "x"))) == {frozenset(), frozenset({"*"}), frozenset({"*", "x"})}


def test_many_tools_are_no_trouble_and_patterns_that_all_overlap_are_refused():
    assert len(ways(tuple(f"server_{at}_*" for at in range(200)))) == 201
    with pytest.raises(TooMany, match=rf"the patterns '\*0\*', .* overlap in more than {tools.MOST} ways"):
        ways(tuple(f"*{at}*" for at in range(30)))
