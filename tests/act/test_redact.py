"""Personal data is taken out, and tokens are put back."""

from __future__ import annotations

import re
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lec_guard.act.edits import apply_edits
from lec_guard.act.redact import RedactPii, restore
from lec_guard.errors import UnsupportedValueError
from tests.act.made import KEY, TEXTS, lines_apart, spans_of, subject, where

OPERATORS = ("replace", "mask", "hash", "token")
MAIL = "ann@example.com"


def redactor(operator="replace", entities=None, key=KEY):
    return RedactPii(entities=entities, operator=operator, key=key)


REDACTORS = {operator: redactor(operator) for operator in OPERATORS}


def redacted(text, *spans, operator="replace", **more):
    rewriting = REDACTORS[operator].rewrite(subject(text, *spans, **more))
    assert lines_apart(text, rewriting.edits)
    new = apply_edits(text, rewriting.edits)
    assert restore(new, rewriting.tokens) == text or operator != "token"
    return new


@pytest.mark.parametrize(
    ("operator", "expected"),
    [
        ("replace", r"Write to <EMAIL_ADDRESS>\."),
        ("mask", r"Write to \*{15}\."),
        ("hash", r"Write to <EMAIL_ADDRESS:[0-9a-f]{12}>\."),
        ("token", r"Write to <EMAIL_ADDRESS_[0-9a-f]{12}>\."),
    ],
)
def test_what_stands_instead(operator, expected):
    text = f"Write to {MAIL}."
    assert re.fullmatch(expected, redacted(text, *where(text, MAIL), operator=operator))


@pytest.mark.parametrize("operator", OPERATORS)
def test_without_findings_there_is_nothing_to_do(operator):
    rewriting = REDACTORS[operator].rewrite(subject("hello"))
    assert (rewriting.edits, dict(rewriting.tokens), rewriting.note) == ((), {}, None)
    assert REDACTORS[operator].rewrite(subject("")).edits == ()
    assert REDACTORS[operator].rewrite(subject("hello", (2, 2))).edits == ()


def test_only_the_kinds_that_are_named_are_taken_out():
    text = f"{MAIL} 555-0100"
    spans = [*where(text, MAIL), *where(text, "555-0100", label="PHONE_NUMBER")]
    one = redactor(entities=("PHONE_NUMBER",)).rewrite(subject(text, *spans))
    assert apply_edits(text, one.edits) == f"{MAIL} <PHONE_NUMBER>"
    assert redactor(entities=("PERSON",)).rewrite(subject(text, *spans)).edits == ()
    assert redacted(text, *spans) == "<EMAIL_ADDRESS> <PHONE_NUMBER>"


def test_of_two_that_overlap_the_surer_is_whole():
    assert redacted("abcdefgh", (0, 5, "A", 0.9), (3, 8, "B", 0.5)) == "<A><B>"
    one = REDACTORS["replace"].rewrite(subject("abcdefgh", (0, 5, "A", 0.9), (3, 8, "B", 0.5)))
    two = REDACTORS["replace"].rewrite(subject("abcdefgh", (0, 5, "A", 0.5), (3, 8, "B", 0.9)))
    assert [(edit.start, edit.end) for edit in one.edits] == [(0, 5), (5, 8)]
    assert [(edit.start, edit.end) for edit in two.edits] == [(0, 3), (3, 8)]


def test_one_inside_another_is_part_of_it():
    assert redacted("x abcdefgh y", (2, 10, "A", 0.2), (4, 6, "B", 0.9), (2, 4, "B", 0.9)) == "x <A> y"


def test_one_place_with_two_kinds_has_the_surer_one():
    assert redacted("12345", (0, 5, "A", 0.5), (0, 5, "B", 0.9)) == "<B>"
    assert redacted("12345", (0, 5, "A", 0.9), (0, 5, "B", 0.5)) == "<A>"


def test_neighbours_of_one_kind_stay_two():
    assert redacted("abcdef", (0, 3), (3, 6)) == "<EMAIL_ADDRESS><EMAIL_ADDRESS>"
    assert redacted("abc def", (0, 3), (4, 7)) == "<EMAIL_ADDRESS> <EMAIL_ADDRESS>"
    one, two = redacted("abc abc", (0, 3), (4, 7), operator="token").split(" ")
    assert one == two


def test_two_of_one_kind_that_overlap_are_one():
    assert redacted("abcdef", (0, 4), (2, 6)) == "<EMAIL_ADDRESS>"


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("text", ["ann", "😀é\u0301", "\ud800\udc00", "<X_0123456789ab>", "a\u0000b"])
def test_a_text_that_is_nothing_else(operator, text):
    new = redacted(text, (0, len(text)), operator=operator)
    assert text not in new
    assert len(new) == len(text) or operator != "mask"


def test_at_the_very_start_and_end():
    assert redacted("ann and ben", (0, 3, "P"), (8, 11, "P")) == "<P> and <P>"


def test_characters_count_as_python_counts_them():
    text = "😀 ann e\u0301 😀"
    assert redacted(text, (2, 5, "P")) == "😀 <P> e\u0301 😀"
    assert redacted(text, (6, 7, "P"), operator="mask") == "😀 ann *\u0301 😀"


def test_a_line_break_stays_where_it_is():
    text = "call 555\n0100 now"
    span = (5, 13, "PHONE")
    assert redacted(text, span) == "call <PHONE>\n now"
    assert redacted(text, span, operator="mask") == "call ***\n**** now"
    assert re.fullmatch(r"call <PHONE:[0-9a-f]{12}>\n now", redacted(text, span, operator="hash"))
    assert re.fullmatch(
        r"call (<PHONE_[0-9a-f]{12}>)\n(?!\1)<PHONE_[0-9a-f]{12}> now", redacted(text, span, operator="token")
    )


def test_empty_lines_in_a_finding_have_nothing_to_take_out():
    assert redacted("a\n\nb", (1, 4, "P")) == "a\n\n<P>"
    assert redacted("a\r\nb", (0, 4, "P")) == "<P>\n"
    assert REDACTORS["replace"].rewrite(subject("a\n\nb", (1, 3, "P"))).edits == ()


@pytest.mark.parametrize("operator", ["hash", "token"])
def test_equal_values_are_known_again_and_others_are_not(operator):
    def put(value, label="P", tenant="acme", key=KEY):
        one = redactor(operator, key=key).rewrite(subject(value, (0, len(value), label), tenant=tenant))
        return one.edits[0].replacement[-13:]

    assert put("ann") == put("ann")
    others = [put("ben"), put("ann", label="Q"), put("ann", tenant="globex"), put("ann", tenant=None)]
    assert len({put("ann"), put("ann", key=b"x" * 32), *others}) == 6


def test_hashes_and_tokens_do_not_tell_of_each_other():
    assert redacted("ann", (0, 3), operator="hash")[-13:] != redacted("ann", (0, 3), operator="token")[-13:]


def test_a_token_stands_for_its_value():
    rewriting = REDACTORS["token"].rewrite(subject("ann, ben, ann", (0, 3), (5, 8), (10, 13)))
    assert sorted(rewriting.tokens.values()) == ["ann", "ben"]
    assert [rewriting.tokens[edit.replacement] for edit in rewriting.edits] == ["ann", "ben", "ann"]


def test_a_token_that_the_text_holds_keeps_meaning_itself():
    token = redacted(MAIL, (0, len(MAIL)), operator="token")
    text = f"{token} {MAIL} {token}"
    start = len(token) + 1
    rewriting = REDACTORS["token"].rewrite(subject(text, (start, start + len(MAIL))))
    new = apply_edits(text, rewriting.edits)
    assert token not in rewriting.tokens
    assert MAIL not in new
    assert restore(new, rewriting.tokens) == text


def test_a_value_that_looks_like_a_token_comes_back_as_it_was():
    token = redacted("ann", (0, 3), operator="token")
    text = f"ann {token}"
    rewriting = REDACTORS["token"].rewrite(subject(text, (0, 3), (4, len(text))))
    assert sorted(rewriting.tokens.values()) == sorted(["ann", token])
    assert restore(apply_edits(text, rewriting.edits), rewriting.tokens) == text


@pytest.mark.parametrize("operator", OPERATORS)
@given(data=st.data())
def test_nothing_that_was_found_stays_in_its_place(operator, data):
    text = data.draw(TEXTS)
    spans = data.draw(spans_of(text))
    rewriting = REDACTORS[operator].rewrite(subject(text, *spans))
    assert lines_apart(text, rewriting.edits)
    new = apply_edits(text, rewriting.edits)
    gone = {at for edit in rewriting.edits for at in range(edit.start, edit.end)}
    assert gone == {at for one in spans for at in range(one[0], one[1]) if text[at] != "\n"}
    assert new.count("\n") == text.count("\n")
    if operator == "mask":
        assert new == "".join("*" if at in gone else character for at, character in enumerate(text))
    if operator == "token":
        assert restore(new, rewriting.tokens) == text


@pytest.mark.parametrize("span", [(0, 6), (-1, 2), (4, 9)])
def test_a_span_outside_the_text_is_refused(span):
    with pytest.raises(UnsupportedValueError, match="outside the text") as caught:
        REDACTORS["replace"].rewrite(subject("xyzzy", span))
    assert "xyzzy" not in str(caught.value)


@pytest.mark.parametrize("label", ["A\nB", "<A", "A>", "\ud800"])
def test_a_label_that_would_break_the_text_is_refused(label):
    with pytest.raises(UnsupportedValueError, match="label"):
        REDACTORS["token"].rewrite(subject("xyzzy", (0, 2, label)))


def test_presidios_failure_says_nothing_of_the_text(monkeypatch):
    one = redactor()
    monkeypatch.setattr(one._replace, "operate", lambda old, params: {}[old])
    with pytest.raises(UnsupportedValueError, match="presidio-anonymizer failed on a text: KeyError") as caught:
        one.rewrite(subject("xyzzy", (0, 5)))
    assert "xyzzy" not in str(caught.value)


def test_what_presidio_does_otherwise_than_it_says_does_not_pass(monkeypatch):
    one = redactor()
    anonymize = one._engine.anonymize

    def forgetful(text, findings, *arguments, **more):
        return anonymize(text, findings[1:], *arguments, **more)

    monkeypatch.setattr(one._engine, "anonymize", forgetful)
    with pytest.raises(UnsupportedValueError, match="otherwise than it says"):
        one.rewrite(subject("xyzzy", (0, 3, "A"), (2, 5, "B")))


def test_a_chain_of_too_many_findings_is_refused():
    text = "x" * 3005
    with pytest.raises(UnsupportedValueError, match="more than 1000"):
        REDACTORS["replace"].rewrite(subject(text, *((at * 3, at * 3 + 4, "AB"[at % 2]) for at in range(1001))))


def test_many_findings_that_stand_apart_are_no_trouble():
    text = "ann " * 3000
    assert redacted(text, *((at * 4, at * 4 + 3, "P") for at in range(3000))) == "<P> " * 3000


def test_without_presidio_the_error_says_what_to_run(monkeypatch):
    monkeypatch.setitem(sys.modules, "presidio_anonymizer", None)
    with pytest.raises(UnsupportedValueError, match=r"presidio_anonymizer; run: pip install 'lec-guard\[pii\]'"):
        redactor()


def test_threads_share_one_object():
    text = f"{MAIL} and {MAIL}"
    one = subject(text, (0, 15), (20, 35))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: REDACTORS["token"].rewrite(one), range(64)))
    assert all(each == found[0] for each in found)
    assert list(found[0].tokens.values()) == [MAIL]


async def test_it_is_the_same_in_async():
    one = subject(MAIL, (0, len(MAIL)))
    assert await REDACTORS["token"].arewrite(one) == REDACTORS["token"].rewrite(one)


class TestRestore:
    def test_the_longest_token_comes_first(self):
        assert restore("<A_1> <A_12>", {"<A_1": "x", "<A_12>": "y"}) == "x> y"
        assert restore("abab", {"ab": "1", "aba": "2", "b": "3"}) == "23"

    def test_what_is_put_back_is_not_read_again(self):
        assert restore("<A><B>", {"<A>": "<B>", "<B>": "<A>"}) == "<B><A>"
        # Nor does it become a token with what stands around it.
        assert restore("<<A>B>", {"<A>": "X", "<XB>": "no"}) == "<XB>"

    @pytest.mark.parametrize("tokens", [{}, {"": "x"}, {"<B>": "x"}, {"[^]": "x", "-": "y"}])
    def test_what_is_no_token_stays(self, tokens):
        assert restore("a <A> \\ ^ ]", tokens) == "a <A> \\ ^ ]"

    def test_tokens_may_hold_anything(self):
        assert restore("a^]b-\\", {"^]": "1", "-": "2", "\\": "3"}) == "a1b23"

    def test_many_tokens_are_no_trouble(self):
        tokens = {f"<P_{at:012x}>": str(at) for at in range(20_000)}
        assert restore(" ".join(tokens), tokens) == " ".join(map(str, range(20_000)))
